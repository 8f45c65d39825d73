//! Carrying a task out: repair, prove, and show the result.

use serde_json::json;

use super::look::Findings;
use super::medium;
use super::say;
use super::task::Task;
use super::way_back;
use crate::disk::SystemDisks;
use crate::fat::FatTime;
use crate::firmware::{SecureBoot, WayBack};
use crate::init::console::Consoles;
use crate::init::{Machine, PhaseTimes};
use crate::repair::{Event, Receipt};
use crate::report::{self, Command, Line, Report, Tone, framed};
use crate::settings::Key;
use crate::verify::{self, Proof, Watcher};

/// Does it, and shows how it ended.
pub(super) fn carry_out(machine: &mut Machine, seen: &Findings, task: &Task) -> Report {
    if task.writes() {
        before_first_write(machine, seen, task);
    }
    let (receipt, proof) = match task.command {
        Command::Revert | Command::Restore => {
            let (receipt, proof) = write_and_verify(machine, seen, task);
            (Some(receipt), proof)
        }
        Command::Inspect | Command::DryRun => (None, Proof::default()),
    };
    let (broken, after) = (proof.broken, proof.after);
    let explanation = match task.command {
        Command::Inspect => seen.explanation(&task.plan),
        _ => Vec::new(),
    };
    let (plan, host) = (Some(&task.plan), Some(&seen.host));
    let receipt = receipt.as_ref();
    let (inventory, after) = (&seen.inventory, after.as_ref());
    let report = Report::new(task.command, inventory, host, plan, receipt, broken, after)
        .with_explanation(explanation)
        .with_secure_boot(SecureBoot::of(&machine.root));
    let result = report::result(&report, &seen.inventory, plan, receipt);
    say(machine, &framed(result));
    let way_back = way_back::after(machine, seen, report.result);
    report.with_image(about_image(machine, way_back.as_ref()))
}

/// The last step at which every ESXi disk is as it was found: what must be safe before the
/// repair is made safe here.
fn before_first_write(machine: &mut Machine, seen: &Findings, task: &Task) {
    medium::note_before_writing(machine, seen, task.command, &task.plan);
    machine.times.mark("decision");
}

fn write_and_verify(machine: &mut Machine, seen: &Findings, task: &Task) -> (Receipt, Proof) {
    let mut watch = Watch {
        consoles: &machine.consoles,
        times: &mut machine.times,
    };
    let (plan, inventory) = (&task.plan, &seen.inventory);
    verify::repair_and_verify(plan, inventory, &SystemDisks, FatTime::now(), &mut watch)
}

/// Shows each event, and notes when each part of the work ends.
struct Watch<'m> {
    consoles: &'m Consoles,
    times: &'m mut PhaseTimes,
}

impl Watcher for Watch<'_> {
    /// What is under way stands in one line that what is done replaces.
    fn event(&mut self, event: &Event) {
        let text = format!("Write    {event}");
        match event {
            Event::Intent { .. } => {
                let line = Line::plain(text).cut();
                self.consoles.note(&line.text);
                self.consoles.status(&line.text);
            }
            Event::Settled { .. } | Event::Done { .. } => {
                self.consoles.show(&Line::new(Tone::Good, text));
            }
        }
    }

    fn repaired(&mut self) {
        self.times.mark("repair");
    }

    fn verified(&mut self) {
        self.times.mark("verification");
    }
}

fn about_image(machine: &Machine, way_back: Option<&WayBack>) -> serde_json::Value {
    json!({
        "drivers_loaded": machine.devices.drivers_loaded(),
        "driver_failures": machine.devices.driver_failures(),
        "undriven_controllers": machine.devices.without_driver(),
        "waits": machine.devices.waits(),
        "phase_ends": machine.times,
        "warnings": machine.warnings,
        "way_back": way_back,
        "settings": Key::ALL.iter().map(|key| (key.name(), machine.settings.shown_value(*key))).collect::<std::collections::BTreeMap<_, _>>(),
    })
}
