//! The medium on the way: its notes before the first write, the report after the last. Whatever it
//! does, the repair goes on.

use thiserror::Error;

use super::look::Findings;
use super::say;
use crate::fat::FatTime;
use crate::host::Host;
use crate::init::Machine;
use crate::inventory::Inventory;
use crate::medium::MediumError;
use crate::originals::{self, Offer, Original, host_label};
use crate::plan::{Action, Plan};
use crate::report::{Command, Line, Report, Tone};

/// What did not work with the medium, and did not stop the run.
#[derive(Debug, Error)]
pub(crate) enum MediumWarning {
    /// The copies, before the repair.
    #[error("no copy of the originals was kept: {0}")]
    Originals(MediumError),
    /// The note, before the repair.
    #[error("the start of the repair was not recorded: {0}")]
    Note(MediumError),
    /// The commands for a host whose configuration is sealed.
    #[error("the commands to type on this host were not written: {0}")]
    Recipe(MediumError),
    /// The report, after it.
    #[error("the report was not written: {0}")]
    Report(MediumError),
    /// The copies, when they are wanted back.
    #[error("its originals cannot be used: {0}")]
    Unusable(MediumError),
}

/// Notes on the medium what is about to be written, and keeps the originals there.
pub(super) fn note_before_writing(
    machine: &mut Machine,
    seen: &Findings,
    command: Command,
    plan: &Plan,
) {
    let Some(medium) = machine.medium.clone() else {
        return;
    };
    let (host, label) = (Some(&seen.host), host_label(&seen.host.name_plate));
    if command == Command::Revert {
        let originals = originals_of(plan, &seen.inventory, host, FatTime::now());
        if let Err(error) = medium.keep_originals(&label, originals) {
            // One that hangs is not waited for twice.
            let hangs = matches!(error, MediumError::Slow(_));
            warn(machine, &MediumWarning::Originals(error));
            if hangs {
                return;
            }
        }
    }
    let report = Report::new(
        command,
        &seen.inventory,
        host,
        Some(plan),
        None,
        Vec::new(),
        None,
    )
    .begun();
    if let Err(error) = medium.report_begun(&label, report.to_json()) {
        warn(machine, &MediumWarning::Note(error));
    }
}

/// The originals of everything that a plan replaces.
fn originals_of(
    plan: &Plan,
    inventory: &Inventory,
    host: Option<&Host>,
    now: FatTime,
) -> Vec<(Original, Vec<u8>)> {
    let mut originals = Vec::new();
    for planned in &plan.banks {
        let Action::Replace(changes) = &planned.action else {
            continue;
        };
        let disk = &inventory.disks[planned.disk];
        let bank = &disk.banks[planned.bank];
        originals.extend(changes.iter().filter_map(|change| {
            let archive = &bank.archives[change.archive?];
            Original::of((disk, bank, archive), &change.after, host, now)
        }));
    }
    originals
}

/// Writes the report and the transcript.
pub(super) fn deliver(machine: &mut Machine, seen: &Findings, report: &Report) {
    let Some(medium) = machine.medium.clone() else {
        return;
    };
    let label = host_label(&seen.host.name_plate);
    let json = format!("{}\n", report.to_json());
    let log = machine.consoles.transcript();
    if report.has_recipes() {
        let page = format!("{}\n", seen.recipe_pages().join("\n"));
        match medium.put_recipe(&label, page) {
            Ok(path) => say(
                machine,
                &[Line::plain(format!("Recipe   {path} on the medium"))],
            ),
            Err(error) => warn(machine, &MediumWarning::Recipe(error)),
        }
    }
    match medium.report_finished(&label, json, log) {
        Ok(path) => say(
            machine,
            &[Line::plain(format!("Report   {path} on the medium"))],
        ),
        Err(error) => warn(machine, &MediumWarning::Report(error)),
    }
}

/// The copies of originals that the medium has for this host.
pub(super) fn offers(machine: &Machine, seen: &Findings) -> Vec<Offer> {
    let Some(medium) = &machine.medium else {
        return Vec::new();
    };
    let label = host_label(&seen.host.name_plate);
    match medium.originals(&label) {
        Ok(collection) => originals::offers(&seen.inventory, Some(&seen.host), &collection),
        Err(error) => {
            let warned = MediumWarning::Unusable(error);
            say(machine, &[warning(&warned)]);
            originals::unknown(&seen.inventory, &warned.to_string())
        }
    }
}

fn warn(machine: &mut Machine, what: &MediumWarning) {
    say(machine, &[warning(what)]);
    machine.warnings.push(format!("medium: {what}"));
}

fn warning(what: &MediumWarning) -> Line {
    Line::new(Tone::Warning, format!("Medium   ! {what}"))
}
