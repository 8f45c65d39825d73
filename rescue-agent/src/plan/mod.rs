//! Planning: (inventory, policy, machine) → plan. Pure: no disk is touched, so a plan can be
//! shown, refused, or thrown away at no cost.
//!
//! A plan is complete before the first write: it holds the new bytes of every archive, built and
//! opened again in memory, with the hashes of before and after.

mod judge;
mod needs;

use thiserror::Error;

pub use judge::{Judged, Verdict};

use crate::archive::{Edit, StateArchive};
use crate::config::pci::PciAddress;
use crate::fat::ShortName;
use crate::hash::sha256_hex;
use crate::host::Host;
use crate::inventory::{
    ArchiveFile, Bank, Content, ContentError, Disk, Inventory, Place, UndoCopy,
};
use crate::originals::Offer;
use crate::policy::{BankChoice, Policy, Selection, Source};

/// What is to be done, bank by bank.
#[derive(Debug)]
pub struct Plan {
    /// One for every bank of the inventory, in its order.
    pub banks: Vec<BankPlan>,
    /// Every device that is passed through somewhere, with the verdict on it.
    pub devices: Vec<Judged>,
}

impl Plan {
    /// Whether carrying it out writes anything.
    pub fn writes(&self) -> bool {
        self.banks.iter().any(|bank| {
            bank.settle || matches!(bank.action, Action::Replace(_) | Action::Restore(_))
        })
    }
}

/// What is to be done to one bank.
#[derive(Debug)]
pub struct BankPlan {
    /// Index of its disk in the inventory.
    pub disk: usize,
    /// Index of the bank on its disk.
    pub bank: usize,
    /// Whether traces of an interrupted repair have to be settled first.
    pub settle: bool,
    /// The rest.
    pub action: Action,
}

/// The work on a bank.
#[derive(Debug)]
pub enum Action {
    /// None, and why none is needed.
    Nothing {
        /// In words.
        why: String,
    },
    /// None, although some would be needed.
    Refuse {
        /// In words.
        why: String,
        /// What the administrator can do.
        remedy: String,
    },
    /// New archives.
    Replace(Vec<FileChange>),
    /// The originals, from the undo copies.
    Restore(Vec<FileRestore>),
}

/// An archive to be replaced.
#[derive(Debug)]
pub struct FileChange {
    /// Index of the archive in its bank.
    pub archive: usize,
    /// Its name.
    pub name: ShortName,
    /// The new bytes.
    pub new: Vec<u8>,
    /// SHA-256 of the bytes in place, hex.
    pub before: String,
    /// SHA-256 of the new bytes, hex.
    pub after: String,
    /// What changes in it.
    pub devices: Vec<DeviceChange>,
}

/// An archive whose original comes back.
#[derive(Debug)]
pub struct FileRestore {
    /// Index of the archive in its bank.
    pub archive: usize,
    /// Its name.
    pub name: ShortName,
    /// Where the original comes from.
    pub from: RestoreFrom,
    /// SHA-256 of the bytes in place, hex.
    pub before: String,
    /// SHA-256 of the original, hex.
    pub after: String,
}

/// Where an original comes back from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreFrom {
    /// The undo copy in the bank.
    UndoCopy,
    /// A copy that was kept elsewhere.
    Copy {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Where it is, in words.
        place: String,
    },
}

/// A device whose owner changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceChange {
    /// Its address as it is spelled in the configuration.
    pub text: String,
    /// Its address.
    pub address: Option<PciAddress>,
    /// The file that names it.
    pub file: &'static str,
}

/// Why there is no plan. Nothing is written then.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// `auto` looks at the machine, and a disk image has none.
    #[error(
        "a disk image has no machine around it, so `auto` cannot tell which devices ESXi needs; name them with \
         --devices, or give the machine with --pci FILE (made on the host by `rescue-agent inspect --save-host \
         FILE`). Passed through: {passed_through}"
    )]
    AutoNeedsMachine {
        /// What could be named.
        passed_through: String,
    },
    /// `class:` looks at the machine where the configuration does not tell classes.
    #[error(
        "--devices {selector} needs the machine, for this configuration does not tell the class of every device; \
         name devices by address, or give the machine with --pci FILE (made on the host by `rescue-agent inspect \
         --save-host FILE`). Passed through: {passed_through}"
    )]
    ClassNeedsMachine {
        /// The selector.
        selector: String,
        /// What could be named.
        passed_through: String,
    },
    /// A selector that names nothing.
    #[error(
        "--devices {selector} names no device of this configuration or machine. Passed through: {passed_through}"
    )]
    NothingSelected {
        /// The selector.
        selector: String,
        /// What could be named.
        passed_through: String,
    },
}

/// Plans a repair.
///
/// # Errors
/// [`PlanError`] when the wish itself cannot be understood in this situation.
pub fn revert(
    inventory: &Inventory,
    policy: &Policy,
    host: Option<&Host>,
) -> Result<Plan, PlanError> {
    let judge = judge::Judge::new(inventory, &policy.devices, host)?;
    let plan_bank = |disk: &Disk, bank: &Bank| match policy.source {
        Source::Own => revert_bank(bank, &judge),
        Source::Newest => revert_from_newest(disk, bank, &judge),
    };
    Ok(Plan {
        banks: each_bank(inventory, &policy.banks, |disk, bank| {
            plan_bank(disk, bank).unwrap_or_else(|action| action)
        }),
        devices: judge.devices(inventory),
    })
}

/// Lists what is passed through, with a verdict on each where the machine is known, and plans
/// nothing: for a disk image by itself.
pub fn listing(inventory: &Inventory, host: Option<&Host>) -> Plan {
    let selection = Selection::default();
    let judge = judge::Judge::unchecked(inventory, &selection, host);
    Plan {
        banks: Vec::new(),
        devices: judge.devices(inventory),
    }
}

/// The devices that are passed through, for a message: addresses, with IDs where they are known.
pub fn passed_through(inventory: &Inventory) -> String {
    judge::passed_through(inventory)
}

/// Plans a return to the originals: to the undo copies in the banks, and where one is missing, to
/// the copy that was kept elsewhere, if `offers` has one.
pub fn restore(inventory: &Inventory, banks: &BankChoice, offers: &[Offer]) -> Plan {
    let banks = each_bank(inventory, banks, |disk, bank| {
        let offered = |archive: &ArchiveFile| {
            let mut offers = offers.iter();
            offers.find(|offer| offer.is_for(disk, bank, archive.name))
        };
        restore_bank(bank, &offered).unwrap_or_else(|action| action)
    });
    Plan {
        banks,
        devices: Vec::new(),
    }
}

fn each_bank(
    inventory: &Inventory,
    choice: &BankChoice,
    action: impl Fn(&Disk, &Bank) -> Action,
) -> Vec<BankPlan> {
    let mut plans = Vec::new();
    for (disk_index, disk) in inventory.disks.iter().enumerate() {
        for (index, bank) in disk.banks.iter().enumerate() {
            let chosen = match choice {
                BankChoice::All => true,
                BankChoice::Active => disk.boots_next == Some(index),
                BankChoice::Partitions(numbers) => numbers.contains(&bank.partition),
            };
            let action = match chosen {
                true => action(disk, bank),
                false => nothing("not among the chosen banks"),
            };
            let unsettled = bank.volume.as_ref().is_ok_and(|volume| volume.unsettled);
            let settle = chosen && unsettled && !matches!(action, Action::Refuse { .. });
            plans.push(BankPlan {
                disk: disk_index,
                bank: index,
                settle,
                action,
            });
        }
    }
    plans
}

/// The action, or the reason why it is another one: both are actions.
type Decision<T> = Result<T, Action>;

fn revert_bank(bank: &Bank, judge: &judge::Judge<'_>) -> Decision<Action> {
    if bank.archives.is_empty() {
        return Err(no_archive());
    }
    let mut changes = Vec::new();
    for (index, archive) in bank.archives.iter().enumerate() {
        let content = readable(archive)?;
        let (edit, devices) = edit(content, judge);
        if devices.is_empty() {
            continue;
        }
        let raw = archive.raw.as_deref().unwrap_or_default();
        changes.push(change(index, archive, raw, &edit, devices)?);
    }
    finish(bank, judge, changes)
}

/// The newest archive of the disk, edited, for every bank that has one.
fn revert_from_newest(disk: &Disk, bank: &Bank, judge: &judge::Judge<'_>) -> Decision<Action> {
    let Some(archive) = bank.archives.first() else {
        return Err(no_archive());
    };
    let builds_differ = disk
        .banks
        .iter()
        .any(|other| other.boot_cfg.build != bank.boot_cfg.build);
    if builds_differ {
        return Err(refuse(
            "the banks hold different builds of ESXi, and an archive of one need not fit the other",
            "use --source own, which edits each bank's own archive",
        ));
    }
    let Some((newest, content)) = newest(disk, archive.name) else {
        return Err(refuse(
            "no bank of this disk has a readable archive",
            "restore a backup of the host's configuration",
        ));
    };
    let raw = newest.raw.as_deref().unwrap_or_default();
    let (edit, devices) = edit(content, judge);
    let own = archive.raw.as_deref();
    if devices.is_empty() && own == Some(raw) {
        return finish(bank, judge, Vec::new());
    }
    let change = change(0, archive, raw, &edit, devices)?;
    finish(bank, judge, vec![change])
}

/// The archive that ESXi saved last: by its own counter, then by the file's time.
fn newest(disk: &Disk, name: ShortName) -> Option<(&ArchiveFile, &Content)> {
    disk.banks
        .iter()
        .flat_map(|bank| &bank.archives)
        .filter(|archive| archive.name == name)
        .filter_map(|archive| Some((archive, archive.content.as_ref().ok()?)))
        .max_by_key(|(archive, content)| {
            (
                content.saved.as_ref().map(|saved| saved.count),
                archive.modified,
            )
        })
}

fn change(
    index: usize,
    archive: &ArchiveFile,
    source: &[u8],
    edit: &Edit,
    devices: Vec<DeviceChange>,
) -> Decision<FileChange> {
    let Some(in_place) = archive.raw.as_deref() else {
        return Err(unreadable(archive));
    };
    let new = StateArchive::open(source)
        .and_then(|opened| opened.edited(edit))
        .map_err(|error| refuse(format!("{}: {error}", archive.name), error.remedy()))?;
    Ok(FileChange {
        archive: index,
        name: archive.name,
        before: sha256_hex(in_place),
        after: sha256_hex(&new),
        new,
        devices,
    })
}

/// Every edit that the verdicts ask of an archive.
fn edit(content: &Content, judge: &judge::Judge<'_>) -> (Edit, Vec<DeviceChange>) {
    let (mut edit, mut devices) = (Edit::default(), Vec::new());
    for entry in content.devices.iter().filter(|entry| entry.passed_through) {
        if judge.judge(entry).0 != Verdict::GiveBack {
            continue;
        }
        match &entry.place {
            Place::EsxConf(ranges) => edit.esx_conf.extend_from_slice(ranges),
            Place::ConfigStore(identifier) => edit.store.push(identifier.clone()),
        }
        devices.push(DeviceChange {
            text: entry.text.clone(),
            address: entry.address,
            file: entry.place.file(),
        });
    }
    (edit, devices)
}

/// Checks that the bank can take the changes.
fn finish(bank: &Bank, judge: &judge::Judge<'_>, changes: Vec<FileChange>) -> Decision<Action> {
    if changes.is_empty() {
        return Err(nothing(judge.why_nothing(bank)));
    }
    let volume = bank.volume.as_ref().map_err(|error| {
        refuse(
            error.to_string(),
            "let ESXi or fsck.fat repair this volume first, then run the rescue again",
        )
    })?;
    // One archive after the other is exchanged, and each keeps its original: all need room.
    let bytes = changes.iter().map(|change| change.new.len()).sum();
    volume.room_for(bytes).map_err(|error| {
        refuse(error.to_string(), "free some space in this bank (old files of a repair by hand?) and run the rescue again")
    })?;
    for change in &changes {
        if let Some(Err(why)) = bank.archives[change.archive]
            .undo
            .as_ref()
            .map(|undo| &undo.content)
        {
            return Err(refuse(
                format!(
                    "a file named like our undo copy of {} is no archive: {why}",
                    change.name
                ),
                "rename or remove that file and run the rescue again",
            ));
        }
    }
    Ok(Action::Replace(changes))
}

fn restore_bank<'o>(
    bank: &Bank,
    offered: &dyn Fn(&ArchiveFile) -> Option<&'o Offer>,
) -> Decision<Action> {
    let mut restores = Vec::new();
    for (index, archive) in bank.archives.iter().enumerate() {
        let (from, after) = match (&archive.undo, offered(archive)) {
            (Some(undo), _) => (RestoreFrom::UndoCopy, undo_hash(archive, undo)?),
            (None, Some(offer)) => from_copy(offer)?,
            (None, None) => continue,
        };
        let raw = archive.raw.as_deref().ok_or_else(|| unreadable(archive))?;
        restores.push(FileRestore {
            archive: index,
            name: archive.name,
            before: sha256_hex(raw),
            from,
            after,
        });
    }
    if restores.is_empty() {
        return Err(nothing(
            "it holds no undo copy: no repair has changed it, or it was restored already",
        ));
    }
    let volume = bank.volume.as_ref().map_err(|error| {
        refuse(
            error.to_string(),
            "let ESXi or fsck.fat repair this volume first, then restore again",
        )
    })?;
    let brought: usize = restores.iter().map(|restore| restore.from.bytes()).sum();
    if brought > 0 {
        volume.room_for(brought).map_err(|error| {
            refuse(
                error.to_string(),
                "free some space in this bank and restore again",
            )
        })?;
    }
    Ok(Action::Restore(restores))
}

fn undo_hash(archive: &ArchiveFile, undo: &UndoCopy) -> Decision<String> {
    let content = undo.content.as_ref().map_err(|why| {
        refuse(
            format!("the undo copy of {} is no archive: {why}", archive.name),
            "restore a backup of the host's configuration instead",
        )
    })?;
    Ok(content.sha256.clone())
}

fn from_copy(offer: &Offer) -> Decision<(RestoreFrom, String)> {
    match &offer.copy {
        Ok(copy) => {
            let (bytes, place) = (copy.bytes.clone(), copy.place.clone());
            let after = sha256_hex(&bytes);
            Ok((RestoreFrom::Copy { bytes, place }, after))
        }
        Err(objection) => Err(refuse(objection.why.as_str(), objection.remedy)),
    }
}

impl RestoreFrom {
    /// Bytes that have to be brought into the bank.
    fn bytes(&self) -> usize {
        match self {
            Self::UndoCopy => 0,
            Self::Copy { bytes, .. } => bytes.len(),
        }
    }
}

fn readable(archive: &ArchiveFile) -> Decision<&Content> {
    archive.content.as_ref().map_err(|error| match error {
        ContentError::File(_) => unreadable(archive),
        ContentError::Archive(error) => {
            refuse(format!("{}: {error}", archive.name), error.remedy())
        }
    })
}

fn unreadable(archive: &ArchiveFile) -> Action {
    let why = match &archive.content {
        Err(error) => format!("{} cannot be read: {error}", archive.name),
        Ok(_) => format!("{} cannot be read", archive.name),
    };
    refuse(
        why,
        "the volume or disk is damaged; use the other bank (Shift+R at ESXi's loader) or a backup",
    )
}

fn no_archive() -> Action {
    nothing("it holds no state archive, as the spare bank of a fresh installation")
}

fn nothing(why: impl Into<String>) -> Action {
    Action::Nothing { why: why.into() }
}

fn refuse(why: impl Into<String>, remedy: impl Into<String>) -> Action {
    Action::Refuse {
        why: why.into(),
        remedy: remedy.into(),
    }
}
