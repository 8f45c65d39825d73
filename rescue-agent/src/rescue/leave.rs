//! How the machine goes on once the work is done and reported.

use std::time::Duration;

use crate::init::countdown::{CountdownEnd, countdown};
use crate::init::{Machine, Outcome};
use crate::report::{Report, ResultWord};
use crate::settings::{Finish, Key, Origin};

/// Gives a person time to read, says the last line, and how it goes on. The way back into ESXi
/// belongs before the reading time: then also a person who switches the machine off has it.
pub(super) fn leave(machine: &mut Machine, report: &Report) -> Outcome {
    let outcome = outcome(machine, report);
    machine.consoles.serial_line(&report.last_line());
    outcome
}

fn outcome(machine: &Machine, report: &Report) -> Outcome {
    let finish_was_chosen = *machine.settings.origin(Key::Finish) != Origin::BuiltIn;
    match report.result {
        ResultWord::Reverted | ResultWord::Restored | ResultWord::Clean => {}
        // Somebody has asked to see this, or has to see it.
        ResultWord::Inspected | ResultWord::Planned if finish_was_chosen => {}
        _ => return Outcome::NeedsAttention,
    }
    let (doing, other) = match machine.settings.finish {
        Finish::Reboot => ("Restarting", "stays here"),
        Finish::Poweroff => ("Switching off", "stays here"),
        Finish::Stay => return Outcome::Done,
    };
    let text = |left: u64| format!("{doing} in {left} s. Any key {other}.");
    match countdown(&machine.consoles, reading_time(machine), text) {
        CountdownEnd::Elapsed => Outcome::Done,
        CountdownEnd::Stopped(_) => Outcome::NeedsAttention,
    }
}

/// As long as the countdown before the repair: who needs none there needs none here.
fn reading_time(machine: &Machine) -> Duration {
    machine.settings.countdown
}
