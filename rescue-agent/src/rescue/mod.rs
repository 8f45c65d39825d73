//! The rescue as it runs on the image, from the first look at the disks to the end of the machine.
//!
//! The way, one module per step: [`look`] (what is there; [`find_medium`], and its
//! settings) → [`task`] (what is to be done) →
//! [`decide`] (a person may still say otherwise,
//! in the [`menu`]) → [`carry_out`] (repair, prove, show the result, prepare the [`way_back`]) →
//! [`deliver`] (the report, where it is wanted) → [`leave`] (how the machine goes on).
//!
//! What is done with the disks is the same code as behind the command line; what is around it
//! (drivers, consoles, the end of the machine) is [`crate::init`]'s.

mod carry_out;
mod decide;
mod deliver;
mod find_medium;
mod import;
mod leave;
mod look;
mod medium;
mod menu;
mod task;
mod way_back;

use thiserror::Error;

use crate::init::{self, Machine, Outcome};
use crate::plan::PlanError;
use crate::report::{self, Line, Mood, ResultWord, Sentence, Tone, framed};
#[cfg(test)]
pub(crate) use deliver::passed_over;
pub(crate) use find_medium::MediumStop;
pub(crate) use import::ImportStop;
use leave::Next;
use look::Findings;
#[cfg(test)]
pub(crate) use medium::MediumWarning;
use task::{Decision, Task};

/// The work of the image.
#[derive(Debug, Default)]
pub struct ImageRescue;

impl init::Rescue for ImageRescue {
    fn run(&mut self, machine: &mut Machine) -> Outcome {
        rescue(machine).unwrap_or_else(|stop| stop.tell(machine))
    }
}

/// The whole way. Each step is one line; a reason to stop leaves before any write.
fn rescue(machine: &mut Machine) -> Result<Outcome, Stop> {
    let mut seen = Findings::look(machine)?;
    // From here on `machine.settings` is final: the medium has been found, where there is one.
    seen.show(machine);
    let task = Task::from_settings(machine, &seen)?;
    say(machine, &task.lines(&seen));
    let mut decision = decide::decide(machine, &seen, task);
    loop {
        let task = match decision {
            Decision::CarryOut(task) => task,
            Decision::LookWith(key) => {
                seen = Findings::with_key(machine, key);
                seen.show(machine);
                let task = Task::what_is_left(machine, &seen);
                say(machine, &task.lines(&seen));
                decision = menu::open(machine, &seen, task);
                continue;
            }
            Decision::LocalDisk => return Ok(leave::to_local_disk(machine, &seen)),
            Decision::Leave(how) => return Ok(Outcome::Chosen(how)),
        };
        let report = carry_out::carry_out(machine, &seen, &task);
        deliver::deliver(machine, &seen, &report);
        if let Next::Leave(outcome) = leave::leave(machine, &report) {
            return Ok(outcome);
        }
        seen = seen.once_more(machine);
        let left = Task::what_is_left(machine, &seen);
        decision = menu::open(machine, &seen, left);
    }
}

/// Why nothing is done at all, although nothing has failed: somebody has to look.
#[derive(Debug, Error)]
pub(crate) enum Stop {
    /// The settings make no sense on this machine.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The archive that is to go into the banks is not to be had.
    #[error(transparent)]
    Import(#[from] ImportStop),
    /// It is not clear what the settings are.
    #[error(transparent)]
    Medium(#[from] MediumStop),
}

impl Stop {
    /// Nothing has been written when this is said.
    fn tell(&self, machine: &mut Machine) -> Outcome {
        let result = match self {
            Self::Plan(_) | Self::Import(_) => Sentence::InvalidRequest,
            Self::Medium(stop) => stop.sentence(),
        };
        let banner = Tone::Banner(Mood::Warning);
        let topic = match self {
            Self::Plan(_) => "Setting ",
            Self::Import(_) => "Source  ",
            Self::Medium(_) => "Medium  ",
        };
        let text = self.to_string();
        let mut lines: Vec<Line> = text
            .lines()
            .map(|line| Line::new(Tone::Bad, format!("{topic} {line}")))
            .collect();
        lines.push(Line::new(banner, format!("Result   {result}")));
        say(machine, &framed(lines));
        let last_line = report::last_line(ResultWord::Refused, 0, 0);
        machine.consoles.serial_line(&last_line);
        Outcome::NeedsAttention
    }
}

/// Says lines, folded to the width of the smallest screen.
fn say(machine: &Machine, lines: &[Line]) {
    for line in lines.iter().flat_map(|line| line.folded(report::HEAD)) {
        machine.consoles.show(&line);
    }
}
