//! The countdown before the first write, in which a person may still say otherwise.

use super::look::Findings;
use super::menu;
use super::task::{Decision, Task};
use crate::init::Machine;
use crate::init::countdown::{CountdownEnd, countdown};
use crate::report::Command;

/// What is done after all: the task, unless a person stops it. A task that writes nothing is no
/// reason to wait.
pub(super) fn decide(machine: &Machine, seen: &Findings, task: Task) -> Decision {
    if !task.writes() {
        return Decision::CarryOut(task);
    }
    machine.consoles.line("");
    let doing = match task.command {
        Command::Restore => "Restoring",
        _ => "Repairing",
    };
    let text = |left: u64| format!("{doing} in {left} s. Any key: stop, and open the menu.");
    match countdown(&machine.consoles, machine.settings.countdown, text) {
        CountdownEnd::Elapsed => Decision::CarryOut(task),
        CountdownEnd::Stopped(_) => {
            machine.consoles.line("Stopped. Nothing was written.");
            menu::open(machine, seen, task)
        }
    }
}
