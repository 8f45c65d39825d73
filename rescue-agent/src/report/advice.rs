//! How a run ended in one sentence, and what to do next. The same words for a person and in JSON.

use std::collections::HashSet;

use thiserror::Error;

use super::ResultWord;
use crate::counted::counted;
use crate::firmware::SecureBoot;
use crate::inventory::Inventory;
use crate::plan::{Cause, ComesBack, Judged, Need, NextStart, Plan, Recipe, StillPassed, Verdict};
use crate::policy::Selection;

/// The sentence that a run ends with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Sentence {
    #[error("{} found. Nothing was written.", counted(*banks, "boot bank was", "boot banks were"))]
    Inspected { banks: usize },
    #[error("This was a dry run. Nothing was written.")]
    Planned,
    #[error(
        "{} given back to ESXi in {}, written and verified.",
        counted(*devices, "device was", "devices were"),
        counted(*banks, "bank", "banks")
    )]
    Reverted { devices: usize, banks: usize },
    #[error(
        "The originals are back in {}, written and verified.",
        counted(*banks, "bank", "banks")
    )]
    Restored { banks: usize },
    #[error(
        "{place} was copied unchanged into {}, and verified. Only ESXi on this host can read it.",
        counted(*banks, "bank", "banks")
    )]
    Imported { place: String, banks: usize },
    #[error("Nothing to do: nothing is passed through, or there is nothing to restore.")]
    NothingThere,
    #[error("Nothing to do: no device that ESXi needs is passed through.")]
    NothingNeeded,
    #[error(
        "Nothing to do: this host was repaired before, and no device that ESXi needs is passed through."
    )]
    RepairedBefore,
    #[error(
        "Nothing was written: no passed-through device is known to be needed by ESXi, but at least one is unsure."
    )]
    NothingCertain,
    #[error("{start}. {}", written(*banks))]
    BadStart { start: BadStart, banks: usize },
    #[error("A partition that may be a boot bank could not be read as one, so the result is not certain. {}", written(*banks))]
    Suspicious { banks: usize },
    #[error("Refused. Nothing was written.")]
    Refused,
    #[error(
        "{} repaired, at least one other was refused and not written.",
        counted(*banks, "bank was", "banks were")
    )]
    PartlyRefused { banks: usize },
    #[error("Writing or verifying failed; see above for which archive is active now.")]
    Failed,
    #[error("No ESXi installation was found. Nothing was written.")]
    NoneFound,
    #[error("A setting does not fit this machine. Nothing was written.")]
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
    #[error(
        "REFUSED  {name} could not be read the way ESXi's loader reads it ({why}), so it is not known what the loader starts from it. Its archive is active as described above, or was not written"
    )]
    Loader { name: String, why: String },
    #[error(
        "REFUSED  {name} may be a boot bank but was not accepted as one ({why}); it was not written"
    )]
    Suspect { name: String, why: String },
    #[error(
        "REFUSED  {name} is a boot bank for ESXi's loader, but was not accepted as one ({why}); it was not written"
    )]
    BootableSuspect { name: String, why: String },
}

/// What a line of a boot script does at each start of ESXi.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BootScript {
    #[error("{at} passes {device} through again at each start of ESXi, which needs it: it {why}")]
    Needed {
        at: String,
        device: String,
        why: String,
    },
    #[error(
        "{at} passes {device} through again at each start of ESXi, which does not need it: {why}"
    )]
    NotNeeded {
        at: String,
        device: String,
        why: String,
    },
    #[error(
        "{at} passes {device} through again at each start of ESXi. Whether ESXi needs it is not known: {why}"
    )]
    Unknown {
        at: String,
        device: String,
        why: String,
    },
    #[error(
        "{at} passes a device through again at each start of ESXi. Which one is not written in the line itself"
    )]
    Unnamed { at: String },
}

impl BootScript {
    pub(super) fn of(line: &ComesBack) -> Self {
        let at = format!("{}, line {},", line.mark.file, line.mark.line);
        let Some((device, need)) = line.mark.device.zip(line.need.as_ref()) else {
            return Self::Unnamed { at };
        };
        let device = device.to_string();
        match need {
            Need::Needed { what_for } => Self::Needed {
                at,
                device,
                why: what_for.clone(),
            },
            Need::NotNeeded { what } => Self::NotNeeded {
                at,
                device,
                why: what.clone(),
            },
            Need::Absent => Self::NotNeeded {
                at,
                device,
                why: "there is no device at this address now".into(),
            },
            Need::Unknown { why, .. } => Self::Unknown {
                at,
                device,
                why: why.clone(),
            },
        }
    }
}

/// Why the next start does not end with an ESXi that has its disks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BadStart {
    #[error(
        "At the next start ESXi will not have what it needs: the request leaves {device} passed through, which {why}"
    )]
    LeftByRequest { device: String, why: String },
    #[error(
        "At the next start ESXi may not have what it needs: {device} stays passed through, and {why}"
    )]
    Unsure { device: String, why: String },
    #[error(
        "The next start is not repaired: {bank} boots next and still passes {device} through, which {why}"
    )]
    NotRepaired {
        bank: String,
        device: String,
        why: String,
    },
    #[error("The next start fails: {bank} boots next, and {why}")]
    Ends { bank: String, why: String },
    #[error(
        "The result of the next start is not known: {bank} boots next, and its {name} cannot be read ({why})"
    )]
    Unread {
        bank: String,
        name: String,
        why: String,
    },
    #[error(
        "The result of the next start is not known: {bank} boots next, which was not accepted as a boot bank"
    )]
    Suspect { bank: String },
    #[error("It is not certain which bank boots next: {bank}, or {others}, which cannot be read")]
    Uncertain { bank: String, others: String },
    #[error("ESXi does not start from {disk}: none of its banks may boot")]
    NoBank { disk: String },
}

impl BadStart {
    /// The first reason against a start; `None` where there is none.
    pub(super) fn of(start: &NextStart, inventory: &Inventory) -> Option<Self> {
        let disk = &inventory.disks[start.disk];
        let Some(partition) = start.partition else {
            let disk = disk.path.display().to_string();
            return Some(Self::NoBank { disk });
        };
        let bank = disk.partition_name(partition);
        if !start.is_known_bank {
            return Some(Self::Suspect { bank });
        }
        if let Some(still) = start.passed_through.first() {
            let more = match start.passed_through.len() {
                1 => String::new(),
                several => format!(" and {} more", several - 1),
            };
            let device = format!("{}{more}", still.device);
            let why = still.why_needed.clone();
            return Some(match still.cause {
                Cause::LeftByRequest => Self::LeftByRequest { device, why },
                Cause::Unsure => Self::Unsure { device, why },
                Cause::NotRepaired => Self::NotRepaired { bank, device, why },
            });
        }
        if let Some(why) = start.ends.clone() {
            return Some(Self::Ends { bank, why });
        }
        if let Some((name, why)) = start.unread.first().cloned() {
            return Some(Self::Unread { bank, name, why });
        }
        let itself = disk
            .loader_unread
            .iter()
            .find(|(number, _)| *number == partition);
        if let Some((_, why)) = itself {
            let (name, why) = ("content".to_owned(), why.clone());
            return Some(Self::Unread { bank, name, why });
        }
        let others: Vec<String> = start.unless.iter().map(u32::to_string).collect();
        let others = match others.len() {
            0 => return None,
            1 => format!("partition {}", others[0]),
            _ => format!("one of the partitions {}", others.join(", ")),
        };
        Some(Self::Uncertain { bank, others })
    }
}

/// The first start that does not end well. A disk from which nothing boots does not matter as long as
/// ESXi starts from another one. With `unread_is_meant`, an archive that only ESXi on its host can read is no
/// reason: it was given, and put there.
pub(super) fn bad_start<'s>(
    starts: &'s [NextStart],
    inventory: &Inventory,
    unread_is_meant: bool,
) -> Option<(&'s NextStart, BadStart)> {
    let one_is_good = starts.iter().any(NextStart::is_good);
    let matters = |start: &&NextStart| start.partition.is_some() || !one_is_good;
    starts.iter().filter(matters).find_map(|start| {
        let why = BadStart::of(start, inventory)?;
        let is_meant = unread_is_meant && matches!(why, BadStart::Unread { .. });
        (!is_meant).then_some((start, why))
    })
}

/// What was written, for a sentence that begins with something else.
fn written(banks: usize) -> String {
    match banks {
        0 => "Nothing was written.".into(),
        banks => format!(
            "{} repaired; what was refused was not written.",
            counted(banks, "bank was", "banks were")
        ),
    }
}

/// How it ended. `changed`: banks and different devices that were changed.
pub(super) fn summary(
    result: ResultWord,
    inventory: &Inventory,
    plan: Option<&Plan>,
    changed: (usize, usize),
    bad_start: Option<BadStart>,
) -> Sentence {
    let (banks, devices) = changed;
    if let (ResultWord::Refused, Some(start)) = (result, bad_start) {
        return Sentence::BadStart { start, banks };
    }
    if result == ResultWord::Refused && inventory.suspects().next().is_some() {
        return Sentence::Suspicious { banks };
    }
    match result {
        ResultWord::Inspected => Sentence::Inspected {
            banks: inventory.banks().count(),
        },
        ResultWord::Planned => Sentence::Planned,
        ResultWord::Reverted => Sentence::Reverted { devices, banks },
        ResultWord::Restored => match plan.and_then(|plan| plan.import.as_ref()) {
            Some(import) => Sentence::Imported {
                place: import.place.clone(),
                banks,
            },
            None => Sentence::Restored { banks },
        },
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
        undo.is_some_and(|undo| undo.belongs)
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
pub(super) fn next_steps(
    result: ResultWord,
    plan: Option<&Plan>,
    bad_start: Option<&NextStart>,
) -> Vec<String> {
    let mut steps = steps_after(result, plan, bad_start);
    let first = match result {
        // The first step is to boot ESXi, and this is the next one.
        ResultWord::Reverted | ResultWord::Restored => 1,
        ResultWord::Failed | ResultWord::NoneFound | ResultWord::Started => return steps,
        _ => 0,
    };
    if let Some(step) = plan.and_then(after_boot_scripts) {
        steps.insert(first.min(steps.len()), step);
    }
    steps
}

/// What makes disks of what was named, where no bank was found.
pub(super) fn for_no_disks(inventory: &Inventory) -> Vec<String> {
    if inventory.banks().next().is_some() {
        return Vec::new();
    }
    let no_disks = inventory.no_disks();
    let steps = no_disks.map(|(disk, what)| {
        let remedy = what.remedy(&disk.path, disk.size);
        let command = remedy.command.map(|command| format!(": {command}"));
        let (path, advice) = (disk.path.display(), remedy.advice);
        format!("{path}: {what}. {advice}{}", command.unwrap_or_default())
    });
    steps.collect()
}

/// What to do about boot scripts, in ESXi itself.
fn after_boot_scripts(plan: &Plan) -> Option<String> {
    let lines: Vec<&ComesBack> = plan
        .comes_back
        .iter()
        .filter(|line| line.matters())
        .collect();
    let mut files: Vec<&str> = lines.iter().map(|line| line.mark.file.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    let named = |line: &&ComesBack| line.mark.device.map(|device| device.to_string());
    let mut devices: Vec<String> = lines.iter().filter_map(named).collect();
    devices.sort_unstable();
    devices.dedup();
    if devices.is_empty() {
        devices.push("ADDRESS".into());
    }
    let commands: Vec<String> = devices
        .iter()
        .map(|device| format!("`esxcli hardware pci pcipassthru set -d {device} -e false -a`"))
        .collect();
    (!files.is_empty()).then(|| {
        format!(
            "A boot script passes a device through again at each start of ESXi; with UEFI Secure Boot, ESXi skips local.sh. Right after ESXi is up, and before it is restarted, log in as root (SSH or ESXi Shell): put a # before that line of {}, then run {} and `/sbin/auto-backup.sh`.",
            files.join(" and "),
            commands.join(", ")
        )
    })
}

/// What to do after a run that did not come to its end.
const AGAIN: &str = "Start the host from this image again, or run the command again: it cleans up the interrupted repair.";

fn steps_after(
    result: ResultWord,
    plan: Option<&Plan>,
    bad_start: Option<&NextStart>,
) -> Vec<String> {
    let unsure = plan.is_some_and(|plan| {
        let mut verdicts = plan.devices.iter().map(|device| device.verdict);
        verdicts.any(|verdict| verdict == Verdict::Unsure)
    });
    let recipes = plan.iter().flat_map(|plan| &plan.recipes);
    let recipes = recipes.flat_map(Recipe::in_sentences);
    let steps: &[&str] = match result {
        ResultWord::Reverted => &[
            "Boot ESXi. Do not move cards before it has booted once.",
            "A VM that used these devices needs its pciPassthru entries removed.",
            "Undo: Restore the originals (boot menu), or rescue-agent restore.",
        ],
        ResultWord::Restored if plan.is_some_and(Plan::takes_as_it_is) => &[
            "Boot ESXi. If it still does not see its disks, the archive contains the passthrough setting: make a new one as in docs/sealed.md.",
            "Undo: Restore the originals (boot menu), or rescue-agent restore.",
        ],
        ResultWord::Restored => &["The host is as it was before the repair."],
        ResultWord::Clean | ResultWord::Planned | ResultWord::Inspected => {
            return how_to_choose(result, plan)
                .into_iter()
                .chain(recipes)
                .collect();
        }
        ResultWord::Started => &[AGAIN],
        ResultWord::Failed => &[
            AGAIN,
            "If it fails again, the disk itself is failing: copy it first.",
        ],
        ResultWord::NoneFound => {
            &["Check that the disk is connected and its controller has a driver."]
        }
        ResultWord::Refused => {
            let mut steps = bad_start
                .map(|start| cures(start, plan))
                .unwrap_or_default();
            steps.extend(recipes);
            if steps.is_empty() && bad_start.is_some() {
                steps.push(UNATTENDED.into());
            }
            return steps;
        }
    };
    let steps = steps.iter().map(|step| (*step).to_owned());
    match result == ResultWord::Reverted && unsure {
        true => steps.chain(how_to_choose(result, plan)).collect(),
        false => steps.collect(),
    }
}

/// What can be done about a next start that is not repaired.
fn cures(start: &NextStart, plan: Option<&Plan>) -> Vec<String> {
    let mut steps = Vec::new();
    let devices = |wanted: &dyn Fn(&StillPassed) -> bool| {
        let devices = start.passed_through.iter().filter(|still| wanted(still));
        let devices = devices.map(|still| still.choose_by.clone());
        devices.take(CHOICES_NAMED).collect::<Vec<_>>().join(",")
    };
    let causes = |cause| {
        start
            .passed_through
            .iter()
            .any(|still| still.cause == cause)
    };
    if causes(Cause::LeftByRequest) {
        let asks_for_auto = plan
            .and_then(|plan| plan.asked.as_ref())
            .is_some_and(Selection::uses_auto);
        let left = devices(&|_| true);
        let more = if asks_for_auto {
            left
        } else {
            format!("auto,{left}")
        };
        steps.push(format!(
            "Run it again without that exception, or choose what is still passed through: {}.",
            choosing(&adding(plan, &more))
        ));
    } else if causes(Cause::Unsure) {
        let unsure = devices(&|still| still.cause == Cause::Unsure);
        steps.push(format!(
            "If ESXi needs it, choose it by address: {}.",
            choosing(&adding(plan, &unsure))
        ));
    }
    if start.newest_helps {
        steps.push(
            "To give this bank the newest configuration of its disk, repaired: n in the menu of the image, or `rescue-agent revert --source newest`."
                .into(),
        );
    }
    if let (Some(next), Some(other)) = (start.partition, start.other) {
        steps.push(format!(
            "To start the other bank: press Shift+R at ESXi's loader and confirm. It boots partition {other}, where nothing that ESXi needs is passed through, and permanently stops using partition {next}."
        ));
    }
    steps
}

/// What is left to say of a next start that nothing here can improve.
const UNATTENDED: &str = "Do not let the host restart unattended: it starts as it did before. `rescue-agent inspect` shows each bank; docs/troubleshooting.md says what can be done.";

/// What has to be done in the firmware before a host starts whose configuration is sealed by its TPM.
pub(super) fn before_esxi_starts(secure_boot: SecureBoot) -> Option<String> {
    let why = match secure_boot {
        SecureBoot::On => return None,
        SecureBoot::Off => "this start ran without Secure Boot, although the firmware has it",
        SecureBoot::Unknown => "the firmware does not say whether this start ran with Secure Boot",
    };
    Some(format!(
        "Before ESXi starts: {why}. If it was switched off for this start, switch it on again: a host whose configuration is sealed by its TPM stops with a security violation otherwise."
    ))
}

/// Devices up to which all that are left are named in one word.
const CHOICES_NAMED: usize = 16;

/// How to give back what the plan leaves alone, and what is there.
fn how_to_choose(result: ResultWord, plan: Option<&Plan>) -> Option<String> {
    let mut seen = HashSet::new();
    let left: Vec<String> = plan?
        .devices
        .iter()
        .filter(|device| matches!(device.verdict, Verdict::Leave | Verdict::Unsure))
        .filter_map(|device| device.choose_by)
        .filter(|address| seen.insert(*address))
        .map(|address| address.to_string())
        .collect();
    let example = left.first()?;
    let all = match left.len() {
        1 => String::new(),
        2..=CHOICES_NAMED => format!(" (or several, by commas: {})", left.join(",")),
        _ => " (or several, by commas)".into(),
    };
    let devices = adding(plan, example);
    let how = match result {
        // The menu of a run that only inspects has no choice of devices.
        ResultWord::Inspected => format!(
            "revert --devices={devices} on the command line; on the image, start it again without mode=inspect, and press c in its menu"
        ),
        _ => choosing(&devices),
    };
    Some(format!(
        "To give back one of the other devices as well, choose it by address{all}: {how}. `all` means everything."
    ))
}

/// A value of `devices` that adds these to what was asked for. The last word that names a device counts.
fn adding(plan: Option<&Plan>, more: &str) -> String {
    match plan.and_then(|plan| plan.asked.as_ref()) {
        Some(asked) => format!("{asked},{more}"),
        None => more.to_owned(),
    }
}

/// The ways to set `devices`.
fn choosing(devices: &str) -> String {
    format!(
        "--devices={devices} on the command line; on the image, c in its menu, or in the boot menu e, and rescue.devices={devices} at the end of the line that begins with linux"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_that_was_verified_needs_no_word_about_secure_boot() {
        assert_eq!(before_esxi_starts(SecureBoot::On), None);
        for doubtful in [SecureBoot::Off, SecureBoot::Unknown] {
            let said = before_esxi_starts(doubtful).unwrap();
            assert!(said.contains("switch it on again"), "{said}");
        }
    }
}
