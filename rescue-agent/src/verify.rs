//! The proof: a fresh look at the disks must show the promise of the plan kept.

use std::path::PathBuf;

use thiserror::Error;

use crate::discover::{self, Known};
use crate::disk::Disks;
use crate::fat::exchange::Replaced;
use crate::fat::{FatTime, ShortName};
use crate::inventory::{ArchiveFile, Bank, Disk, Inventory, UndoCopy};
use crate::plan::{self, Action, BankPlan, FileChange, Plan, RestoreFrom};
use crate::repair::{self, Event, Outcome, Receipt, bank_name};

/// A promise that was not kept.
#[derive(Debug, Error)]
pub(crate) enum Broken<'n> {
    /// A partition beside the banks.
    #[error("{name} cannot be read any more ({why}); nothing was written to it")]
    NowUnreadable { name: String, why: String },
    /// The whole table.
    #[error("{path}: its partition table cannot be read any more: {why}")]
    TableGone { path: String, why: String },
    /// The table says something else.
    #[error("{path}: its partition table lists other partitions than before")]
    OtherPartitions { path: String },
    /// The table has a fault that it did not have.
    #[error("{path}: {warning}; nothing was written to it")]
    TableWorse { path: String, warning: String },
    /// A bank, its volume, an archive or its original.
    #[error("{name}: {what}; {in_force}")]
    NotAsPlanned {
        name: &'n str,
        what: String,
        in_force: &'static str,
    },
    /// What was treated as two paths to one disk.
    #[error(
        "{other} does not show what was written through {path}, although both have the same identity and had the same content: they are two disks, and {other} is as it was"
    )]
    TwoDisks { path: String, other: String },
    /// The very thing that was asked for.
    #[error("{name}: {device} is still passed through")]
    StillPassedThrough { name: &'n str, device: &'n str },
}

/// What a fresh look showed.
#[derive(Debug, Default)]
pub struct Proof {
    /// The promises that were not kept, in words; none is the good answer.
    pub broken: Vec<String>,
    /// What there is now; `None` where nothing was written, and nobody looked again.
    pub after: Option<Inventory>,
}

/// What hears how the work goes on.
pub trait Watcher {
    /// Something is about to be done, or is done.
    fn event(&mut self, event: &Event);

    /// The repair has come to its end, whichever it is.
    fn repaired(&mut self) {}

    /// What was written has been compared with the plan.
    fn verified(&mut self) {}
}

/// A function that is interested in the events only.
impl<F: FnMut(&Event)> Watcher for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

/// Carries a plan out, and proves it where it writes anything. Returns the result of the plan, and
/// what a fresh look showed.
pub fn repair_and_verify(
    plan: &Plan,
    before: &Inventory,
    disks: &dyn Disks,
    now: FatTime,
    watcher: &mut dyn Watcher,
) -> (Receipt, Proof) {
    let receipt = repair::carry_out(plan, before, disks, now, &mut |event| watcher.event(event));
    watcher.repaired();
    if !plan.writes() {
        return (receipt, Proof::default());
    }
    let proof = verify(plan, &receipt, before, disks);
    watcher.verified();
    (receipt, proof)
}

/// Looks again at every disk that was looked at for the plan, and compares.
///
/// A bank whose repair failed is not judged here: its outcome says what is active.
fn verify(plan: &Plan, receipt: &Receipt, before: &Inventory, disks: &dyn Disks) -> Proof {
    let paths: Vec<PathBuf> = before.disks.iter().map(|disk| disk.path.clone()).collect();
    let after = discover::discover_again(&paths, disks, &known(plan, before));
    let banks = plan
        .banks
        .iter()
        .zip(&receipt.banks)
        .filter(|(_, receipt)| !matches!(receipt.outcome, Outcome::Failed { .. }))
        .flat_map(|(bank, receipt)| broken_promises(bank, &receipt.outcome, before, &after));
    let looked_at = before.disks.iter().zip(&after.disks).enumerate();
    let around_banks = looked_at
        .filter(|(index, _)| plan.banks.iter().any(|bank| bank.disk == *index))
        .flat_map(|(_, (before, after))| {
            other_table(before, after)
                .into_iter()
                .chain(newly_unreadable(before, after))
        });
    let two_disks = two_disks(receipt, plan, &after, before, disks);
    Proof {
        broken: around_banks.chain(banks).chain(two_disks).collect(),
        after: Some(after),
    }
}

/// What was written by one path to a disk has to show by the others, as far as they can be read.
fn two_disks(
    receipt: &Receipt,
    plan: &Plan,
    after: &Inventory,
    before: &Inventory,
    disks: &dyn Disks,
) -> Vec<String> {
    let planned = || plan.banks.iter().zip(&receipt.banks);
    let is_written = |index: usize| {
        planned().any(|(bank, receipt)| {
            let done = matches!(receipt.outcome, Outcome::Replaced | Outcome::Restored);
            bank.disk == index && done
        })
    };
    let written = before.disks.iter().enumerate();
    let written = written.filter(|(index, _)| is_written(*index));
    let mut broken = Vec::new();
    for (index, disk) in written {
        let seen = discover::discover_again(&disk.other_paths, disks, &known(plan, before));
        let is_other = |other: &&Disk| !shows_archives_of(other, &after.disks[index]);
        broken.extend(seen.disks.iter().filter(is_other).map(|other| {
            let [path, other] = [disk, other].map(|disk| disk.path.display().to_string());
            Broken::TwoDisks { path, other }.to_string()
        }));
    }
    broken
}

/// Whether each archive that was written to the one disk is there on the other, as far as it can be read.
fn shows_archives_of(one: &Disk, other: &Disk) -> bool {
    let is_missing = |bank: &Bank| {
        let written = other
            .banks
            .iter()
            .find(|same| same.partition == bank.partition);
        let mut written = written.iter().flat_map(|same| &same.archives);
        written.any(|archive| bank.archives.iter().all(|own| own.name != archive.name))
    };
    if one.banks.iter().any(is_missing) {
        return false;
    }
    let archives = one.banks.iter().flat_map(|bank| {
        let archives = bank.archives.iter();
        archives.map(move |archive| (bank.partition, archive))
    });
    archives.into_iter().all(|(partition, archive)| {
        let bank = other.banks.iter().find(|bank| bank.partition == partition);
        let archives = bank.map_or(&[][..], |bank| bank.archives.as_slice());
        let same = archives.iter().find(|same| same.name == archive.name);
        let hashes = archive
            .sha256
            .as_ref()
            .zip(same.and_then(|same| same.sha256.as_ref()));
        hashes.is_none_or(|(one, other)| one == other)
    })
}

/// What archives say whose bytes may be found: those from before, and those of the plan. Each was
/// opened down to its last layer, so that finding the same bytes again on the disk, by their hash,
/// proves as much as opening them again would.
fn known(plan: &Plan, before: &Inventory) -> Known {
    let archives = before.banks().flat_map(|(_, bank)| &bank.archives);
    let found = archives.filter_map(|archive| {
        Some((
            archive.sha256.clone()?,
            archive.content.as_ref().ok()?.clone(),
        ))
    });
    let changes = plan.banks.iter().flat_map(|bank| match &bank.action {
        Action::Replace(changes) => changes.as_slice(),
        _ => &[],
    });
    let planned =
        changes.filter_map(|change| Some((change.after.clone(), change.content.clone()?)));
    found.chain(planned).collect()
}

/// Partitions beside the banks that could be read before and cannot be now.
fn newly_unreadable(before: &Disk, after: &Disk) -> Vec<String> {
    let known = |number: u32| {
        let unreadable = before.unreadable.iter().any(|(other, _)| *other == number);
        unreadable || before.banks.iter().any(|bank| bank.partition == number)
    };
    after
        .unreadable
        .iter()
        .filter(|(number, _)| !known(*number))
        .map(|(number, why)| {
            let name = before.partition_name(*number);
            let why = why.clone();
            Broken::NowUnreadable { name, why }.to_string()
        })
        .collect()
}

/// A partition table is never written: it has to list what it listed, and to be no worse. (Better it
/// may be: what could not be read for a moment can be read now.)
fn other_table(before: &Disk, after: &Disk) -> Option<String> {
    let path = before.path.display().to_string();
    let (was, is) = match (&before.table, &after.table) {
        (Ok(was), Ok(is)) => (was, is),
        (Err(_), _) => return None,
        (Ok(_), Err(why)) => {
            let why = why.to_string();
            return Some(Broken::TableGone { path, why }.to_string());
        }
    };
    if was.partitions != is.partitions {
        return Some(Broken::OtherPartitions { path }.to_string());
    }
    let new = is
        .warnings
        .iter()
        .find(|warning| !was.warnings.contains(warning))?;
    let warning = new.to_string();
    Some(Broken::TableWorse { path, warning }.to_string())
}

fn broken_promises(
    plan: &BankPlan,
    outcome: &Outcome,
    before: &Inventory,
    after: &Inventory,
) -> Vec<String> {
    let disk = &before.disks[plan.disk];
    let was = &disk.banks[plan.bank];
    let name = bank_name(disk, was);
    let now = after.disks.get(plan.disk).and_then(|disk| {
        disk.banks
            .iter()
            .find(|bank| bank.partition == was.partition)
    });
    let Some(now) = now else {
        let why = why_not_found(was, after.disks.get(plan.disk));
        let what = format!("the bank is not found any more ({why})");
        return vec![not_as_planned(&name, what, outcome)];
    };
    let mut broken = Vec::new();
    for (file, expected) in expected_hashes(plan, outcome, was) {
        let found = now.archives.iter().find(|candidate| candidate.name == file);
        if let Some(what) = wrong_content(found, &expected) {
            broken.push(not_as_planned(&name, format!("{file} {what}"), outcome));
        }
    }
    if matches!(outcome, Outcome::Replaced | Outcome::Restored)
        && let Some(what) = unsound(now)
    {
        broken.push(not_as_planned(&name, what, outcome));
    }
    if matches!(outcome, Outcome::Replaced | Outcome::Restored) {
        broken.extend(
            lost_originals(plan, was, now).map(|what| not_as_planned(&name, what, outcome)),
        );
    }
    if *outcome == Outcome::Replaced {
        broken.extend(still_passed_through(plan, now).into_iter().map(|device| {
            Broken::StillPassedThrough {
                name: &name,
                device,
            }
            .to_string()
        }));
    }
    broken
}

fn not_as_planned(name: &str, what: String, outcome: &Outcome) -> String {
    let in_force = active_archive(outcome);
    Broken::NotAsPlanned {
        name,
        what,
        in_force,
    }
    .to_string()
}

/// What is known to be active in a bank whose fresh look shows something else.
fn active_archive(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Replaced => "the new archive was written and was correct when read back",
        Outcome::Restored => "the original was restored and was correct when read back",
        _ => "nothing was written to it, its old archive is active",
    }
}

fn why_not_found(was: &Bank, disk: Option<&Disk>) -> String {
    let Some(disk) = disk else {
        return "its disk is gone".into();
    };
    let reasons = disk.unreadable.iter().chain(&disk.not_banks);
    let reason = reasons
        .filter(|(partition, _)| *partition == was.partition)
        .map(|(_, why)| why.clone())
        .next();
    reason.unwrap_or_else(|| disk.summary())
}

fn wrong_content(found: Option<&ArchiveFile>, expected: &str) -> Option<String> {
    let Some(archive) = found else {
        return Some("is gone".into());
    };
    match (&archive.sha256, &archive.content) {
        (Some(hash), _) if hash == expected => None,
        (Some(hash), _) => Some(format!("should have the SHA-256 {expected} and has {hash}")),
        (None, Err(why)) => Some(format!("cannot be read: {why}")),
        (None, Ok(_)) => Some("cannot be read".into()),
    }
}

/// What is wrong with the volume of a bank that was written.
fn unsound(bank: &Bank) -> Option<String> {
    match &bank.volume {
        Ok(volume) if volume.unsettled => {
            Some("it still has the marker of an unfinished repair".into())
        }
        Ok(_) => None,
        Err(why) => Some(format!("its volume is damaged: {why}")),
    }
}

/// Every replaced archive has its original beside it, to the byte, and one that was set aside is kept.
fn lost_originals<'p>(
    plan: &'p BankPlan,
    was: &'p Bank,
    now: &'p Bank,
) -> impl Iterator<Item = String> + 'p {
    let (changes, restores) = match &plan.action {
        Action::Replace(changes) => (changes.as_slice(), [].as_slice()),
        Action::Restore(restores) => ([].as_slice(), restores.as_slice()),
        _ => ([].as_slice(), [].as_slice()),
    };
    let find = |name| {
        now.archives
            .iter()
            .find(move |archive| archive.name == name)
    };
    let originals = changes.iter().filter_map(move |change| {
        let archive = &was.archives[change.archive?];
        if archive.size == 0 {
            return None;
        }
        let kept = match (&archive.undo, change.replaced) {
            (Some(undo), Replaced::Original(_)) => undo.content.as_ref().ok()?.sha256.clone(),
            _ => change.before.clone(),
        };
        let undo = find(change.name).and_then(|archive| archive.undo.as_ref());
        lost_copy(change.name, undo, &kept)
    });
    let aside = restores.iter().filter_map(move |restore| {
        let RestoreFrom::UndoCopy { sets_aside, .. } = &restore.from else {
            return None;
        };
        let copies = find(restore.name)
            .into_iter()
            .flat_map(|archive| &archive.set_aside);
        let has = |copy: &UndoCopy| {
            let content = copy.content.as_ref();
            content.is_ok_and(|content| content.sha256 == restore.before)
        };
        let lost = *sets_aside && !copies.into_iter().any(has);
        lost.then(|| format!("the newer {} was not kept", restore.name))
    });
    originals.chain(aside)
}

fn lost_copy(archive: ShortName, undo: Option<&UndoCopy>, kept: &str) -> Option<String> {
    let Some(undo) = undo else {
        return Some(format!("the original of {archive} was not kept"));
    };
    match &undo.content {
        Ok(found) if found.sha256 == kept && undo.belongs => None,
        Ok(_) => Some(format!("the kept original of {archive} is another one")),
        Err(why) => Some(format!(
            "the kept original of {archive} cannot be read: {why}"
        )),
    }
}

/// The hash every archive of a bank should have now.
fn expected_hashes(plan: &BankPlan, outcome: &Outcome, was: &Bank) -> Vec<(ShortName, String)> {
    let mut expected: Vec<(ShortName, String)> = was
        .archives
        .iter()
        .filter_map(|archive| Some((archive.name, archive.sha256.clone()?)))
        .collect();
    let planned: Vec<(ShortName, String)> = match (&plan.action, outcome) {
        (Action::Replace(changes), Outcome::Replaced) => changes
            .iter()
            .map(|change| (change.name, change.after.clone()))
            .collect(),
        (Action::Restore(restores), Outcome::Restored) => restores
            .iter()
            .map(|restore| (restore.name, restore.after.clone()))
            .collect(),
        _ => Vec::new(),
    };
    expected.retain(|(name, _)| planned.iter().all(|(other, _)| other != name));
    expected.extend(planned);
    expected
}

/// Devices that the plan gave back and that the bank still passes through.
fn still_passed_through<'p>(plan: &'p BankPlan, now: &Bank) -> Vec<&'p str> {
    let changes = match &plan.action {
        Action::Replace(changes) => changes.as_slice(),
        _ => &[],
    };
    let lacking = |change: &'p FileChange| {
        let archives = now.archives.iter();
        archives
            .filter(|archive| archive.name == change.name)
            .filter_map(|archive| archive.content.as_ref().ok())
            .flat_map(|content| plan::missing_in(&change.devices, content))
    };
    let devices = changes.iter().flat_map(lacking);
    devices.map(|device| &*device.text).collect()
}
