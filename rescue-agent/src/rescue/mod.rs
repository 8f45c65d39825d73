//! The rescue as it runs on the image, from the first look at the disks to the end of the machine.
//!
//! The way, one module per station: [`look`] (what is there) → [`task`] (what is to be done) →
//! [`decide`] (a person may still say otherwise) → [`carry_out`] (repair, prove, show the result) →
//! [`deliver`] (the report, where it is wanted) → [`leave`] (how the machine goes on).
//!
//! What is done with the disks is the same code as behind the command line; what is around it
//! (drivers, consoles, the end of the machine) is [`crate::init`]'s.

mod carry_out;
mod decide;
mod deliver;
mod leave;
mod look;
mod task;
mod way_back;

use thiserror::Error;

use crate::init::{self, Machine, Outcome};
use crate::plan::PlanError;
use crate::report::{self, ResultWord};
use decide::Decision;
use look::Seen;
use task::Task;

/// The work of the image.
#[derive(Debug, Default)]
pub struct ImageRescue;

impl init::Rescue for ImageRescue {
    fn run(&mut self, machine: &mut Machine) -> Outcome {
        rescue(machine).unwrap_or_else(|stop| stop.tell(machine))
    }
}

/// The whole way. Each station is one line; a reason to stop leaves before any write.
fn rescue(machine: &mut Machine) -> Result<Outcome, Stop> {
    let seen = Seen::look(machine);
    // From here on `machine.settings` is final: a layer from the medium belongs before this line.
    seen.show(machine);
    let task = Task::from_settings(machine, &seen)?;
    task.show(machine, &seen);
    let task = match decide::decide(machine, task) {
        Decision::CarryOut(task) => task,
        Decision::Leave(outcome) => return Ok(outcome),
    };
    let report = carry_out::carry_out(machine, &seen, &task);
    deliver::deliver(machine, &report);
    Ok(leave::leave(machine, &report))
}

/// Why nothing is done at all, although nothing has failed: somebody has to look.
#[derive(Debug, Error)]
enum Stop {
    /// The settings make no sense on this machine.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl Stop {
    /// Nothing has been written when this is said.
    fn tell(&self, machine: &mut Machine) -> Outcome {
        let result = match self {
            Self::Plan(_) => "the setting `devices` was not understood. Nothing was written.",
        };
        say(
            machine,
            &[
                report::escape(&format!("Setting  {self}")),
                format!("Result   {result}"),
            ],
        );
        let last_line = report::last_line(ResultWord::Refused, 0, 0);
        machine.consoles.serial_line(&last_line);
        Outcome::NeedsAttention
    }
}

fn say(machine: &Machine, lines: &[String]) {
    for line in lines {
        machine.consoles.line(line);
    }
}
