//! The countdown before the first write, in which a person may still say otherwise.

use super::task::Task;
use crate::init::console::Consoles;
use crate::init::countdown::{CountdownEnd, countdown};
use crate::init::{Machine, Outcome};
use crate::report::Command;
use crate::settings::Finish;

/// How it goes on.
#[derive(Debug)]
pub(super) enum Decision {
    /// This is done.
    CarryOut(Task),
    /// Nothing is done any more.
    Leave(Outcome),
}

/// What is done after all: the task, unless a person stops it. A task that writes nothing is no
/// reason to wait.
pub(super) fn decide(machine: &Machine, task: Task) -> Decision {
    if !task.writes() {
        return Decision::CarryOut(task);
    }
    let doing = match task.command {
        Command::Restore => "Restoring",
        _ => "Repairing",
    };
    let text = |left: u64| format!("{doing} in {left} s. Any key stops.");
    match countdown(&machine.consoles, machine.settings.countdown, text) {
        CountdownEnd::Elapsed => Decision::CarryOut(task),
        CountdownEnd::Stopped(_) => match ask(&machine.consoles) {
            Some(outcome) => Decision::Leave(outcome),
            None => Decision::CarryOut(task),
        },
    }
}

/// What a person wants who stopped the countdown. `None`: to go on.
fn ask(consoles: &Consoles) -> Option<Outcome> {
    consoles.line("Stopped. Nothing was written.");
    consoles.line("Keys     a apply the plan    r restart    p power off");
    loop {
        consoles.forget_keys();
        match consoles.wait_key(None)?.character() {
            Some('a' | 'A') => return None,
            Some('r' | 'R') => return Some(Outcome::Chosen(Finish::Reboot)),
            Some('p' | 'P') => return Some(Outcome::Chosen(Finish::Poweroff)),
            _ => {}
        }
    }
}
