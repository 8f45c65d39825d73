//! How the machine goes on once the work is done and reported.

use std::time::Duration;

use super::look::Findings;
use super::way_back;
use crate::firmware::By;
use crate::init::countdown::{CountdownEnd, countdown};
use crate::init::keys::any_key;
use crate::init::{Machine, Outcome, finish};
use crate::report::{Report, ResultWord};
use crate::settings::{Finish, Key, Origin};

/// How it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The machine ends so.
    Leave(Outcome),
    /// A person is there and stays.
    Menu,
}

/// Gives a person time to read, says the last line, and how it goes on.
pub(super) fn leave(machine: &mut Machine, report: &Report) -> Next {
    let ending = ending(machine, report);
    machine.consoles.serial_line(&report.last_line());
    match ending {
        Ending::ByItself => Next::Leave(Outcome::Done),
        Ending::Stopped => Next::Menu,
        Ending::Waits => {
            wait_for_a_person(machine);
            Next::Menu
        }
    }
}

/// Starts the local disk, because a person asked for it.
pub(super) fn to_local_disk(machine: &mut Machine, seen: &Findings) -> Outcome {
    if way_back::by_hand(machine, seen).by == By::Nothing {
        // What starts next may be this image: time to read that, and to pull the medium.
        wait_for_a_key(machine, "Press any key to restart.");
    }
    Outcome::Chosen(Finish::Reboot)
}

/// How the reading time ends.
enum Ending {
    ByItself,
    Stopped,
    Waits,
}

fn ending(machine: &Machine, report: &Report) -> Ending {
    let finish_was_chosen = *machine.settings.origin(Key::Finish) != Origin::BuiltIn;
    match report.result {
        ResultWord::Reverted | ResultWord::Restored | ResultWord::Clean => {}
        // Somebody has asked to see this, or has to see it.
        ResultWord::Inspected | ResultWord::Planned if finish_was_chosen => {}
        _ => return Ending::Waits,
    }
    let doing = match machine.settings.finish {
        Finish::Reboot => "Restarting",
        Finish::Poweroff => "Switching off",
        Finish::Stay => return Ending::Waits,
    };
    let text = |left: u64| format!("{doing} in {left} s. Any key: stay, and open the menu.");
    match countdown(&machine.consoles, reading_time(machine), text) {
        CountdownEnd::Elapsed => Ending::ByItself,
        CountdownEnd::Stopped(_) => Ending::Stopped,
    }
}

/// As long as the countdown before the repair: who needs none there needs none here.
fn reading_time(machine: &Machine) -> Duration {
    machine.settings.countdown
}

fn wait_for_a_person(machine: &Machine) {
    wait_for_a_key(machine, "Press any key for the menu.");
}

/// Nothing is written while it waits, so Ctrl-Alt-Del restarts at once.
fn wait_for_a_key(machine: &Machine, invitation: &str) {
    finish::allow_ctrl_alt_del(true);
    // Before the line is shown: who answers it at once must be heard.
    machine.consoles.forget_keys();
    machine.consoles.line(invitation);
    // Without a time limit it comes back with a key only.
    let _ = any_key(&machine.consoles, None);
    finish::allow_ctrl_alt_del(false);
}
