//! How a run ended in one sentence, and what to do next. The same words for a person and in JSON.

use thiserror::Error;

use super::ResultWord;
use crate::inventory::Inventory;
use crate::plan::{Judged, Plan, Verdict};

/// The sentence that a run ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Sentence {
    #[error("{banks} boot {} found. Nothing was written.", plural(*banks, "bank was", "banks were"))]
    Inspected { banks: usize },
    #[error("This was a dry run. Nothing was written.")]
    Planned,
    #[error(
        "{devices} {} given back to ESXi in {banks} {}, written and verified.",
        plural(*devices, "device was", "devices were"),
        plural(*banks, "bank", "banks")
    )]
    Reverted { devices: usize, banks: usize },
    #[error(
        "The originals are back in {banks} {}, written and verified.",
        plural(*banks, "bank", "banks")
    )]
    Restored { banks: usize },
    #[error("Nothing to do: nothing is passed through, or there is nothing to restore.")]
    NothingThere,
    #[error("Nothing to do: no device that ESXi needs is passed through.")]
    NothingNeeded,
    #[error(
        "Nothing to do: this host was repaired before, and no device that ESXi needs is passed through."
    )]
    RepairedBefore,
    #[error(
        "Nothing was written: no passed-through device is certainly needed by ESXi, but not all are certain."
    )]
    NothingCertain,
    #[error("Refused. Nothing was written.")]
    Refused,
    #[error(
        "{banks} {} repaired, at least one other was refused and not written.",
        plural(*banks, "bank was", "banks were")
    )]
    PartlyRefused { banks: usize },
    #[error("Writing or verifying failed; see above for which archive is active now.")]
    Failed,
    #[error("No ESXi installation was found. Nothing was written.")]
    NoneFound,
    #[error("The setting `devices` does not fit this machine. Nothing was written.")]
    InvalidRequest,
    #[error("The settings are wrong. Nothing was written.")]
    BadSettings,
    #[error("The settings on the medium are not known. Nothing was written.")]
    UnknownSettings,
    #[error(
        "Writing began, and its end was not recorded: the run was interrupted, or the medium was removed."
    )]
    Started,
}

/// What could not be looked into, although boot banks may lie there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Unread {
    #[error("REFUSED  {path} cannot be read ({why}). It may hold boot banks; it was not written")]
    Disk { path: String, why: String },
    #[error("REFUSED  {name} cannot be read ({why}). It may be a boot bank; it was not written")]
    Partition { name: String, why: String },
}

fn plural(number: usize, one: &'static str, several: &'static str) -> &'static str {
    match number {
        1 => one,
        _ => several,
    }
}

/// How it ended. `changed`: banks and different devices that were changed.
pub(super) fn summary(
    result: ResultWord,
    inventory: &Inventory,
    plan: Option<&Plan>,
    changed: (usize, usize),
) -> Sentence {
    let (banks, devices) = changed;
    match result {
        ResultWord::Inspected => Sentence::Inspected {
            banks: inventory.banks().count(),
        },
        ResultWord::Planned => Sentence::Planned,
        ResultWord::Reverted => Sentence::Reverted { devices, banks },
        ResultWord::Restored => Sentence::Restored { banks },
        ResultWord::Clean => clean(inventory, plan),
        ResultWord::Refused if banks == 0 => Sentence::Refused,
        ResultWord::Refused => Sentence::PartlyRefused { banks },
        ResultWord::Failed => Sentence::Failed,
        ResultWord::NoneFound => Sentence::NoneFound,
        ResultWord::Started => Sentence::Started,
    }
}

fn clean(inventory: &Inventory, plan: Option<&Plan>) -> Sentence {
    let mut archives = inventory.banks().flat_map(|(_, bank)| &bank.archives);
    let repaired = archives.any(|archive| {
        let undo = archive.undo.as_ref();
        undo.is_some_and(|undo| undo.content.is_ok())
    });
    let devices = plan.map_or(&[][..], |plan| plan.devices.as_slice());
    let unsure = |device: &Judged| device.verdict == Verdict::Unsure;
    match devices {
        devices if devices.iter().any(unsure) => Sentence::NothingCertain,
        _ if repaired => Sentence::RepairedBefore,
        [] => Sentence::NothingThere,
        _ => Sentence::NothingNeeded,
    }
}

/// What the administrator can do now, one sentence each.
pub(super) fn next_steps(result: ResultWord, plan: Option<&Plan>) -> Vec<String> {
    let unsure = plan.is_some_and(|plan| {
        let mut verdicts = plan.devices.iter().map(|device| device.verdict);
        verdicts.any(|verdict| verdict == Verdict::Unsure)
    });
    let steps: &[&str] = match result {
        ResultWord::Reverted => &[
            "Boot ESXi. Do not move cards before it has booted once.",
            "A VM that owned it starts only without its pciPassthru entries.",
            "Undo: Restore the originals (boot menu), or rescue-agent restore.",
        ],
        ResultWord::Restored => &["The host is as it was before the repair."],
        ResultWord::Clean | ResultWord::Planned | ResultWord::Inspected => {
            return how_to_choose(plan).into_iter().collect();
        }
        ResultWord::Started => &["Run the rescue again: it cleans up what was interrupted."],
        ResultWord::Failed => &[
            "Run the rescue again: it cleans up what was interrupted.",
            "If it fails again, the disk itself is failing: image it first.",
        ],
        ResultWord::NoneFound => {
            &["Check that the disk is connected and its controller has a driver."]
        }
        ResultWord::Refused => &[],
    };
    let steps = steps.iter().map(|step| (*step).to_owned());
    match result == ResultWord::Reverted && unsure {
        true => steps.chain(how_to_choose(plan)).collect(),
        false => steps.collect(),
    }
}

/// Devices up to which all that are left are named in one word.
const CHOICES_NAMED: usize = 16;

/// How to give back what the plan leaves alone.
fn how_to_choose(plan: Option<&Plan>) -> Option<String> {
    let left: Vec<String> = plan?
        .devices
        .iter()
        .filter(|device| matches!(device.verdict, Verdict::Leave | Verdict::Unsure))
        .filter_map(|device| device.address)
        .map(|address| address.to_string())
        .collect();
    let example = left.first()?;
    let all = match left.len() {
        1 => String::new(),
        2..=CHOICES_NAMED => format!(" (or several, by commas: {})", left.join(",")),
        _ => " (or several, by commas)".into(),
    };
    Some(format!(
        "To give back what is left, choose it by address{all}: --devices={example} on the command line, rescue.devices={example} in the boot menu; `all` means everything."
    ))
}
