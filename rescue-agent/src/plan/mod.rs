//! Planning: (inventory, policy, machine) → plan. Pure: no disk is touched, so a plan can be
//! shown, refused, or thrown away at no cost.
//!
//! A plan is complete before the first write: it holds the new bytes of every archive, built and
//! opened again in memory, with the hashes of before and after.

mod comes_back;
mod doubt;
mod import;
mod judge;
mod needs;
mod newest;
mod next_start;
mod recipe;
pub(crate) mod refusal;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use next_start::Needed;

use thiserror::Error;

use self::refusal::{BankRefusal, NO_OTHER_BANK};

pub use comes_back::ComesBack;
pub use doubt::Doubt;
pub use import::Import;
pub use judge::{DeviceIdentity, Judged, Kind, Need, Request, Verdict};
pub use next_start::{Cause, NextStart, StillPassed};
pub use recipe::{Recipe, Step, recipes};

use crate::archive::{ArchiveError, BackupCounter, Edit, Seal, StateArchive};
use crate::bytes::sha256_hex;
use crate::config::pci::PciAddress;
use crate::fat::exchange::{Assessment, Earlier, Replaced};
use crate::fat::{FatTime, ShortName};
use crate::host::Host;
use crate::inventory::{
    ArchiveFile, Bank, Content, ContentError, Disk, Inventory, Place, UndoCopy,
};
use crate::originals::Offer;
use crate::parallel;
use crate::policy::{BankChoice, Policy, Selection, Source};

/// What is to be done, bank by bank.
#[derive(Debug)]
pub struct Plan {
    /// One for every bank of the inventory, in its order.
    pub banks: Vec<BankPlan>,
    /// Every device that is passed through somewhere, with the verdict on it.
    pub devices: Vec<Judged>,
    /// For each disk with an archive that only its own host opens: how that host helps itself.
    pub recipes: Vec<Recipe>,
    /// Lines of boot scripts that pass devices through again at each start of ESXi.
    pub comes_back: Vec<ComesBack>,
    /// The archive that was given for all banks.
    pub import: Option<Box<Imported>>,
    /// Which devices were asked for; none where nothing was, and the machine is not known.
    pub asked: Option<Selection>,
    /// What ESXi needs, for the question the result of the next start.
    needed: Needed,
}

/// What is said of an archive that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Where it comes from, in words.
    pub place: String,
    /// Its SHA-256, hex.
    pub sha256: String,
    /// How it is encrypted.
    pub seal: Option<Seal>,
    /// Whether it is taken as it is, because only its host opens it.
    pub as_it_is: bool,
    /// Whether a person vouched for it.
    pub trusted: bool,
}

impl Imported {
    fn of(import: Import<'_>) -> Self {
        let given = import.given;
        Self {
            place: given.place.clone(),
            sha256: given.sha256.clone(),
            seal: given.seal().cloned(),
            as_it_is: given.content.is_err(),
            trusted: import.trusted,
        }
    }
}

impl Plan {
    /// Whether carrying it out writes anything.
    pub fn writes(&self) -> bool {
        self.banks.iter().any(|bank| {
            bank.settle || matches!(bank.action, Action::Replace(_) | Action::Restore(_))
        })
    }
}

impl Plan {
    /// Whether its new archives are such that only ESXi on their host can read them.
    pub fn takes_as_it_is(&self) -> bool {
        self.import.as_ref().is_some_and(|import| import.as_it_is)
    }

    /// Whether the plan puts a given archive that nobody here can read into a bank, or an earlier run has
    /// put it there: `now` has its undo copy.
    pub fn put_as_it_is(&self, now: &Inventory) -> bool {
        let mut archives = now.banks().flat_map(|(_, bank)| &bank.archives);
        let is_kept = |one: &ArchiveFile| one.undo.as_ref().is_some_and(|undo| undo.belongs);
        self.takes_as_it_is() && (self.banks_replaced() > 0 || archives.any(is_kept))
    }

    /// How many banks get a new archive.
    pub fn banks_replaced(&self) -> usize {
        let replaced = |bank: &&BankPlan| matches!(bank.action, Action::Replace(_));
        self.banks.iter().filter(replaced).count()
    }

    /// Whether carrying it out lets an original replace something newer.
    pub fn sets_aside(&self) -> bool {
        let restores = self.banks.iter().flat_map(|bank| match &bank.action {
            Action::Restore(restores) => restores.as_slice(),
            _ => &[],
        });
        restores.map(|restore| &restore.from).any(|from| {
            matches!(
                from,
                RestoreFrom::UndoCopy {
                    sets_aside: true,
                    ..
                }
            )
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
#[derive(Debug, Clone)]
pub struct FileChange {
    /// Index of the archive in its bank; `None` where the bank has none and gets one.
    pub archive: Option<usize>,
    /// Its name.
    pub name: ShortName,
    /// The new bytes.
    pub new: Vec<u8>,
    /// What happens to what is in place.
    pub replaced: Replaced,
    /// SHA-256 of the bytes in place, hex; of nothing where there are none.
    pub before: String,
    /// SHA-256 of the bytes that the new ones are made from, hex.
    pub made_from: String,
    /// SHA-256 of the new bytes, hex.
    pub after: String,
    /// What changes in it.
    pub devices: Vec<DeviceChange>,
    /// What the new archive says; `None`: only ESXi on its host can read it.
    pub content: Option<Content>,
    /// The partition of the bank whose archive it is made from, where that is another one.
    pub taken_from: Option<u32>,
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
    UndoCopy {
        /// Its name.
        name: ShortName,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether what is in place is set aside rather than freed: a person insists on the original
        /// although what is in place is not what the repair made of it.
        sets_aside: bool,
    },
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
    pub text: Arc<str>,
    /// Its address.
    pub address: Option<PciAddress>,
    /// The file that names it.
    pub file: &'static str,
}

impl DeviceChange {
    /// What it is known by.
    pub fn identity(&self) -> DeviceIdentity {
        DeviceIdentity::of(self.address, &self.text)
    }
}

/// Those of `changes` that an archive lacks: it passes the device through as if nothing had been
/// changed.
pub fn missing_in<'c>(changes: &'c [DeviceChange], content: &Content) -> Vec<&'c DeviceChange> {
    let passed_through: HashSet<(&str, &str)> = content
        .devices
        .iter()
        .filter(|entry| entry.passed_through)
        .map(|entry| (&*entry.text, entry.place.file()))
        .collect();
    let lacks = |change: &&DeviceChange| {
        let entry = (&*change.text, change.file);
        passed_through.contains(&entry)
    };
    changes.iter().filter(lacks).collect()
}

/// Why there is no plan. Nothing is written then.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// `auto` looks at the machine, and a disk image has none.
    #[error(
        "a disk image does not show its machine, so `auto` cannot determine which devices ESXi needs; choose them with --devices, or give the machine with --pci FILE (made on the host by `rescue-agent inspect --save-host \
         FILE`). Passed through: {passed_through}"
    )]
    AutoNeedsMachine {
        /// What could be named.
        passed_through: String,
    },
    /// `class:` looks at the machine where the configuration does not tell classes.
    #[error(
        "--devices {selector} needs the machine, because this configuration does not contain the class of every device; choose devices by address, or give the machine with --pci FILE (made on the host by `rescue-agent inspect \
         --save-host FILE`). Passed through: {passed_through}"
    )]
    ClassNeedsMachine {
        /// The selector.
        selector: String,
        /// What could be named.
        passed_through: String,
    },
    /// A choice of banks that names nothing.
    #[error(
        "--banks {banks} names no boot bank, or one that is not there. Boot banks are on partitions {there}"
    )]
    NoSuchBank {
        /// The choice.
        banks: String,
        /// What could be named.
        there: String,
    },
    /// A selector that names nothing.
    #[error(
        "--devices {selector} matches no device of this configuration or machine. Passed through: {passed_through}"
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
/// [`PlanError`] when the request itself cannot be understood in this situation.
pub fn revert(
    inventory: &Inventory,
    policy: &Policy,
    host: Option<&Host>,
) -> Result<Plan, PlanError> {
    check_banks(inventory, &policy.banks)?;
    let judge = judge::Judge::new(inventory, &policy.devices, host, None)?;
    let plan_bank = |disk: &Disk, bank: &Bank| match policy.source {
        Source::Own => revert_bank(disk, bank, &judge),
        Source::Newest => revert_from_newest(disk, bank, &judge),
    };
    let mut banks = each_bank(inventory, &policy.banks, |disk, bank| {
        let action = plan_bank(disk, bank).unwrap_or_else(|action| action);
        with_true_remedy(disk, bank, action)
    });
    keep_equal(&mut banks, inventory);
    Ok(Plan {
        banks,
        devices: judge.devices(inventory),
        recipes: recipes(inventory, host),
        comes_back: ComesBack::of(inventory, &judge),
        import: None,
        asked: Some(policy.devices.clone()),
        needed: Needed::of(inventory, &judge),
    })
}

/// Plans to put an archive that was given into the chosen banks: edited, where it can be read, and as it is
/// where only its host opens it.
///
/// # Errors
/// [`PlanError`] when the request itself cannot be understood in this situation.
pub fn import(
    inventory: &Inventory,
    policy: &Policy,
    host: Option<&Host>,
    import: Import<'_>,
) -> Result<Plan, PlanError> {
    check_banks(inventory, &policy.banks)?;
    let given = import.given.content.as_ref().ok();
    let judge = judge::Judge::new(inventory, &policy.devices, host, given)?;
    let mut banks = each_bank(inventory, &policy.banks, |disk, bank| {
        let action = import.bank(disk, bank, &judge);
        action.unwrap_or_else(|action| action)
    });
    keep_equal(&mut banks, inventory);
    Ok(Plan {
        banks,
        devices: judge.devices(inventory),
        recipes: recipes(inventory, host),
        comes_back: ComesBack::of(inventory, &judge),
        import: Some(Box::new(Imported::of(import))),
        asked: Some(policy.devices.clone()),
        needed: Needed::of(inventory, &judge),
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
        recipes: recipes(inventory, host),
        comes_back: ComesBack::of(inventory, &judge),
        import: None,
        asked: host.is_some().then(Selection::default),
        needed: Needed::of(inventory, &judge),
    }
}

/// The devices that are passed through, for a message: addresses, with IDs where they are known.
pub fn passed_through(inventory: &Inventory, host: Option<&Host>) -> String {
    judge::passed_through(inventory, host, None)
}

/// Plans a return to the originals: to the undo copies in the banks, and where one is missing, to
/// the copy that was kept elsewhere, if `offers` has one.
///
/// `discard_newer`: also where what is in place is not what the repair made of the original.
pub fn restore(
    inventory: &Inventory,
    banks: &BankChoice,
    offers: &[Offer],
    discard_newer: bool,
    host: Option<&Host>,
) -> Plan {
    let selection = Selection::default();
    let judge = judge::Judge::unchecked(inventory, &selection, host);
    let banks = each_bank(inventory, banks, |disk, bank| {
        let offered = |archive: &ArchiveFile| {
            let mut offers = offers.iter();
            offers.find(|offer| offer.is_for(disk, bank, archive.name))
        };
        restore_bank(disk, bank, &offered, discard_newer).unwrap_or_else(|action| action)
    });
    Plan {
        banks,
        devices: Vec::new(),
        // What ESXi saved last and sealed is what a restore takes away.
        recipes: Vec::new(),
        comes_back: ComesBack::of(inventory, &judge),
        import: None,
        asked: host.is_some().then(Selection::default),
        needed: Needed::of(inventory, &judge),
    }
}

/// A choice of banks that names nothing is a mistake, not a request for nothing.
///
/// # Errors
/// [`PlanError::NoSuchBank`].
pub fn check_banks(inventory: &Inventory, choice: &BankChoice) -> Result<(), PlanError> {
    let numbers: BTreeSet<u32> = inventory.banks().map(|(_, bank)| bank.partition).collect();
    let names_nothing = match choice {
        _ if numbers.is_empty() => false,
        BankChoice::All => false,
        BankChoice::Active => inventory.disks.iter().all(|disk| disk.boots_next.is_none()),
        BankChoice::Partitions(chosen) => chosen.iter().any(|number| !numbers.contains(number)),
    };
    let there: Vec<String> = numbers.iter().map(u32::to_string).collect();
    match names_nothing {
        false => Ok(()),
        true => Err(PlanError::NoSuchBank {
            banks: choice.to_string(),
            there: there.join(", "),
        }),
    }
}

/// Gives disks that hold the same installation the same bytes where they had the same: members of a
/// mirror have to stay equal, and the ConfigStore notes the second in which it was changed.
fn keep_equal(banks: &mut [BankPlan], inventory: &Inventory) {
    for same in &inventory.same_installations {
        let partition = |bank: &BankPlan| inventory.disks[bank.disk].banks[bank.bank].partition;
        let mut first: Vec<(u32, FileChange)> = Vec::new();
        let of_these = banks
            .iter_mut()
            .filter(|bank| same.disks.contains(&bank.disk));
        for bank in of_these {
            let number = partition(bank);
            let Action::Replace(changes) = &mut bank.action else {
                continue;
            };
            for change in changes {
                let is_it = |(other, known): &&(u32, FileChange)| {
                    let is_alike = (known.name, known.archive) == (change.name, change.archive)
                        && (&known.before, &known.made_from) == (&change.before, &change.made_from);
                    *other == number && is_alike && known.devices == change.devices
                };
                match first.iter().find(is_it) {
                    Some((_, known)) => {
                        change.new.clone_from(&known.new);
                        change.after.clone_from(&known.after);
                        change.content = known.content.clone();
                    }
                    None => first.push((number, change.clone())),
                }
            }
        }
    }
}

fn each_bank(
    inventory: &Inventory,
    choice: &BankChoice,
    action: impl Fn(&Disk, &Bank) -> Action + Sync,
) -> Vec<BankPlan> {
    let mut all = Vec::new();
    for (disk_index, disk) in inventory.disks.iter().enumerate() {
        all.extend((0..disk.banks.len()).map(|index| (disk_index, index)));
    }
    let at_once = match inventory.banks().map(|(_, bank)| bytes_to_plan(bank)).sum() {
        0..=PLANNED_AT_ONCE_BYTES_MAX => parallel::computing(),
        _ => 1,
    };
    let actions = parallel::map(all.clone(), at_once, |(disk, index)| {
        let disk = &inventory.disks[disk];
        match is_chosen(choice, disk, index) {
            true => free_of_users(disk, action(disk, &disk.banks[index])),
            false => nothing("not among the chosen banks"),
        }
    });
    all.into_iter()
        .zip(actions)
        .map(|((disk_index, index), action)| {
            let disk = &inventory.disks[disk_index];
            let action = action.unwrap_or_else(|| refuse(&BankRefusal::Unexpected));
            let volume = disk.banks[index].volume.as_ref();
            let unsettled = volume.is_ok_and(|volume| volume.unsettled);
            let refused = matches!(action, Action::Refuse { .. });
            BankPlan {
                disk: disk_index,
                bank: index,
                settle: unsettled
                    && !refused
                    && disk.in_use.is_empty()
                    && is_chosen(choice, disk, index),
                action,
            }
        })
        .collect()
}

/// A disk of which this machine uses a part must not be written: the driver of a mounted volume writes
/// what it knows of it, whatever is there by then.
fn free_of_users(disk: &Disk, action: Action) -> Action {
    match (action, disk.use_in_words()) {
        (Action::Replace(_) | Action::Restore(_), Some(used)) => {
            refuse(&BankRefusal::InUse { used })
        }
        (action, _) => action,
    }
}

/// Up to this sum of [`bytes_to_plan`] banks are planned side by side.
const PLANNED_AT_ONCE_BYTES_MAX: usize = 16 << 20;
/// What an entry of a device takes in memory while its bank is planned, in bytes, roughly.
const ENTRY_BYTES: usize = 1 << 10;

/// What the planning of a bank takes in memory, roughly: a few times this.
fn bytes_to_plan(bank: &Bank) -> usize {
    let of_archive = |archive: &ArchiveFile| {
        let entries = archive.content.as_ref().map_or(0, |one| one.devices.len());
        archive.raw.as_ref().map_or(0, Vec::len) + entries * ENTRY_BYTES
    };
    bank.archives.iter().map(of_archive).sum()
}

fn is_chosen(choice: &BankChoice, disk: &Disk, index: usize) -> bool {
    match choice {
        BankChoice::All => true,
        BankChoice::Active => disk.boots_next == Some(index),
        BankChoice::Partitions(numbers) => numbers.contains(&disk.banks[index].partition),
    }
}

/// What cures a bank whose own archive cannot be used, if another bank of the same build has a sound one.
const TAKE_NEWEST: &str = "take the newest configuration of this disk, repaired: n in the menu of the image, or `rescue-agent revert --source newest`";

/// A remedy that can be followed: other banks are named only where one of them is of use.
fn with_true_remedy(disk: &Disk, bank: &Bank, action: Action) -> Action {
    let Action::Refuse { why, remedy } = action else {
        return action;
    };
    let others = disk
        .banks
        .iter()
        .filter(|other| other.partition != bank.partition);
    let other_is_read = others
        .flat_map(|other| &other.archives)
        .any(|archive| archive.content.is_ok());
    let own_is_read =
        !bank.archives.is_empty() && bank.archives.iter().all(|archive| archive.content.is_ok());
    let names_other = remedy.contains("other bank") || remedy.contains("Shift+R");
    let remedy = match names_other {
        _ if own_is_read => remedy,
        _ if newest::cures(disk, bank) => TAKE_NEWEST.into(),
        true if !other_is_read => NO_OTHER_BANK.into(),
        _ => remedy,
    };
    Action::Refuse { why, remedy }
}

/// Whether a bank's own archive cannot be used, and the newest one of its disk can replace it.
pub fn newest_cures(inventory: &Inventory) -> bool {
    let mut banks = inventory.banks();
    banks.any(|(disk, bank)| newest::cures(disk, bank))
}

/// The action, or the reason why it is another one: both are actions.
type Decision<T> = Result<T, Action>;

fn revert_bank(disk: &Disk, bank: &Bank, judge: &judge::Judge<'_>) -> Decision<Action> {
    if bank.archives.is_empty() {
        return Err(no_archive(disk, bank));
    }
    let mut changes = Vec::new();
    for (index, archive) in bank.archives.iter().enumerate() {
        let content = readable(archive)?;
        let (edit, devices) = edit(content, judge);
        if devices.is_empty() {
            continue;
        }
        let target = Target::of(archive.name, Some((index, archive)))?;
        changes.push(change(target, (archive, content), judge, &edit, devices)?);
    }
    finish(bank, judge, changes)
}

/// The newest archive of the disk, edited, for every bank that has a place for one.
fn revert_from_newest(disk: &Disk, bank: &Bank, judge: &judge::Judge<'_>) -> Decision<Action> {
    let Some(name) = newest::place(bank) else {
        return Err(no_archive(disk, bank));
    };
    let newest = newest::of(disk, name)?;
    let mut own = bank.archives.iter().enumerate();
    let own = own.find(|(_, archive)| archive.name == name);
    if let Some((_, sealed)) = own.filter(|(_, archive)| is_unsealed(newest.content, archive)) {
        return Err(refuse(&BankRefusal::PlainOverSealed {
            name: sealed.name.to_string(),
        }));
    }
    let (edit, devices) = edit(newest.content, judge);
    if devices.is_empty() && own.is_some_and(|(_, archive)| archive.raw == newest.archive.raw) {
        return finish(bank, judge, Vec::new());
    }
    let target = Target::of(name, own)?;
    let source = (newest.archive, newest.content);
    let mut change = change(target, source, judge, &edit, devices)?;
    change.taken_from = Some(newest.partition).filter(|from| *from != bank.partition);
    finish(bank, judge, vec![change])
}

/// Whether an archive that its host's TPM does not seal would replace one that it does. No
/// report says that ESXi starts with it.
fn is_unsealed(new: &Content, in_place: &ArchiveFile) -> bool {
    let is_closed = |seal: Option<&Seal>| seal.is_some_and(Seal::is_closed);
    is_closed(in_place.seal()) && !is_closed(new.seal.as_ref())
}

/// Where a new archive goes.
struct Target {
    archive: Option<usize>,
    name: ShortName,
    replaced: Replaced,
    before: String,
}

impl Target {
    fn of(name: ShortName, archive: Option<(usize, &ArchiveFile)>) -> Decision<Self> {
        let Some((index, archive)) = archive else {
            return Ok(Self {
                archive: None,
                name,
                replaced: Replaced::Kept(Earlier::SetAside),
                before: sha256_hex(&[]),
            });
        };
        let before = archive.sha256.clone().ok_or_else(|| unreadable(archive))?;
        let replaced = match &archive.undo {
            Some(undo) if undo.belongs => Replaced::Original(undo.entry.name()),
            _ if archive.content.is_ok() => Replaced::Kept(Earlier::Freed),
            _ => Replaced::Kept(Earlier::SetAside),
        };
        Ok(Self {
            archive: Some(index),
            name,
            replaced,
            before,
        })
    }
}

/// The new archive for a place: what `edit` makes of another, or the same, that says `content`.
fn change(
    target: Target,
    (source, content): (&ArchiveFile, &Content),
    judge: &judge::Judge<'_>,
    edit: &Edit,
    devices: Vec<DeviceChange>,
) -> Decision<FileChange> {
    let raw = source.raw.as_deref().ok_or_else(|| unreadable(source))?;
    change_to(target, (raw, content), judge, edit, devices)
}

/// The same from the bytes of an archive.
fn change_to(
    target: Target,
    (raw, content): (&[u8], &Content),
    judge: &judge::Judge<'_>,
    edit: &Edit,
    devices: Vec<DeviceChange>,
) -> Decision<FileChange> {
    let Target {
        archive,
        name,
        replaced,
        before,
    } = target;
    let made_from = sha256_hex(raw);
    let (new, content) = judge
        .large
        .or_made(
            &made_from,
            name,
            |(_, content): &Made| content,
            || edited(raw, content, name, edit),
        )
        .map_err(|error| refuse(&BankRefusal::archive(name, &error)))?;
    if let Some(device) = missing_in(&devices, &content).first() {
        return Err(refuse(&BankRefusal::StillPassesThrough {
            name: name.to_string(),
            device: device.text.to_string(),
        }));
    }
    Ok(FileChange {
        archive,
        name,
        replaced,
        before,
        made_from,
        after: sha256_hex(&new),
        new,
        devices,
        content: Some(content),
        taken_from: None,
    })
}

/// The bytes of a new archive, and what they say.
type Made = (Vec<u8>, Content);

/// The new bytes of an archive, proven, and what they say.
fn edited(
    raw: &[u8],
    content: &Content,
    name: ShortName,
    edit: &Edit,
) -> Result<(Vec<u8>, Content), ArchiveError> {
    let mut opened = match content.kept.take() {
        Some(opened) => opened,
        None => StateArchive::open_with(raw, content.recovery_key.as_ref())?,
    };
    opened.edit(edit)?;
    let content = Content::of(&opened, name)?.opened_by(content.recovery_key.as_ref());
    Ok((opened.pack()?, content))
}

/// Every edit that the verdicts ask of an archive.
fn edit(content: &Content, judge: &judge::Judge<'_>) -> (Edit, Vec<DeviceChange>) {
    let mut edit = Edit::default();
    let mut devices = Vec::with_capacity(content.passed_through().count());
    for entry in content.passed_through() {
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
    let volume = sound_volume(bank)?;
    // One archive after the other is exchanged, and each keeps its original: all need room.
    let bytes = changes.iter().map(|change| change.new.len()).sum();
    volume
        .room_for(bytes)
        .map_err(|error| refuse(&BankRefusal::room(&error)))?;
    Ok(Action::Replace(changes))
}

fn restore_bank<'o>(
    disk: &Disk,
    bank: &Bank,
    offered: &dyn Fn(&ArchiveFile) -> Option<&'o Offer>,
    discard_newer: bool,
) -> Decision<Action> {
    let mut restores = Vec::new();
    for (index, archive) in bank.archives.iter().enumerate() {
        let set_aside = archive.set_aside.first().filter(|_| discard_newer);
        let (from, after) = match (&archive.undo, offered(archive), set_aside) {
            (Some(undo), _, _) => from_undo(archive, undo, discard_newer)?,
            (None, Some(offer), _) => from_copy(offer)?,
            (None, None, Some(undo)) => from_undo(archive, undo, true)?,
            (None, None, None) => continue,
        };
        let before = archive.sha256.clone().ok_or_else(|| unreadable(archive))?;
        restores.push(FileRestore {
            archive: index,
            name: archive.name,
            before,
            from,
            after,
        });
    }
    if restores.is_empty() {
        // What is kept beside an archive that is gone is tied to nothing, so that nobody knows what it is.
        let lacks_one = !bank.missing.is_empty() && newest::may_start(bank);
        return Err(match lacks_one {
            true => with_true_remedy(disk, bank, no_archive(disk, bank)),
            false => nothing(why_nothing_to_restore(bank)),
        });
    }
    let volume = sound_volume(bank)?;
    let brought: usize = restores.iter().map(|restore| restore.from.bytes()).sum();
    if brought > 0 {
        volume
            .room_for(brought)
            .map_err(|error| refuse(&BankRefusal::room(&error)))?;
    }
    Ok(Action::Restore(restores))
}

fn why_nothing_to_restore(bank: &Bank) -> String {
    let made_anew = bank.archives.iter().find(|archive| archive.made_anew);
    let aside = bank.archives.iter().flat_map(|archive| &archive.set_aside);
    match (made_anew, aside.map(|copy| copy.entry.name()).next()) {
        (Some(archive), _) => format!(
            "there was no {} before the repair, or an empty one: it was made from the other bank's",
            archive.name
        ),
        (None, Some(copy)) => format!(
            "it holds no undo copy. {copy} was kept by an earlier restore; `restore --discard-newer` puts it back"
        ),
        (None, None) => {
            "it holds no undo copy: no repair has changed it, or it was restored already".into()
        }
    }
}

/// The copy goes back by itself only in place of what the repair made of it.
fn from_undo(
    archive: &ArchiveFile,
    undo: &UndoCopy,
    discard_newer: bool,
) -> Decision<(RestoreFrom, String)> {
    let broken = |why: String| {
        refuse(&BankRefusal::BrokenUndo {
            name: archive.name.to_string(),
            why,
        })
    };
    let content = undo.content.as_ref();
    let content = content.map_err(|error| broken(error.to_string()))?;
    if let Some(why) = &content.problem {
        return Err(broken(why.clone()));
    }
    if !undo.belongs && !discard_newer {
        return Err(refuse(&BankRefusal::SavedSince {
            name: archive.name.to_string(),
            in_place: saved_when(
                archive.modified,
                archive
                    .content
                    .as_ref()
                    .ok()
                    .and_then(|one| one.saved.as_ref()),
            ),
            copy: undo.entry.name().to_string(),
            original: saved_when(undo.entry.modified(), content.saved.as_ref()),
        }));
    }
    let from = RestoreFrom::UndoCopy {
        name: undo.entry.name(),
        bytes: content.raw.clone(),
        sets_aside: !undo.belongs,
    };
    Ok((from, content.sha256.clone()))
}

/// The time of a file, and how often ESXi had saved its configuration by then.
fn saved_when(modified: FatTime, saved: Option<&BackupCounter>) -> String {
    match saved {
        Some(saved) => format!("{modified} (save no. {})", saved.count),
        None => modified.to_string(),
    }
}

fn from_copy(offer: &Offer) -> Decision<(RestoreFrom, String)> {
    let copy = offer.copy.as_ref();
    let copy = copy.map_err(|objection| refuse(&BankRefusal::copy(objection)))?;
    let (bytes, place) = (copy.bytes.clone(), copy.place.clone());
    Ok((RestoreFrom::Copy { bytes, place }, copy.sha256.clone()))
}

impl RestoreFrom {
    /// Bytes that have to be brought into the bank.
    fn bytes(&self) -> usize {
        match self {
            Self::UndoCopy { .. } => 0,
            Self::Copy { bytes, .. } => bytes.len(),
        }
    }
}

fn sound_volume(bank: &Bank) -> Decision<&Assessment> {
    let volume = bank.volume.as_ref();
    volume.map_err(|error| refuse(&BankRefusal::volume(error)))
}

fn readable(archive: &ArchiveFile) -> Decision<&Content> {
    archive.content.as_ref().map_err(|error| match error {
        ContentError::File(_) => unreadable(archive),
        ContentError::Archive(error) => refuse(&BankRefusal::archive(archive.name, error)),
    })
}

fn unreadable(archive: &ArchiveFile) -> Action {
    let why = match &archive.content {
        Err(ContentError::File(error)) => Some(error),
        Err(ContentError::Archive(_)) | Ok(_) => None,
    };
    refuse(&BankRefusal::unreadable(archive.name, why))
}

/// Why a bank without an archive is left so.
fn no_archive(disk: &Disk, bank: &Bank) -> Action {
    let boots_next = disk.boots_next.map(|next| disk.banks[next].partition) == Some(bank.partition);
    match bank.missing.first() {
        Some(_) if !newest::may_start(bank) => nothing(
            "it holds no state archive and needs none: its bootstate excludes it, as in the spare bank of a fresh installation",
        ),
        Some(name) if boots_next => refuse(&BankRefusal::MissingArchive {
            name: name.to_string(),
        }),
        Some(name) if newest::cures(disk, bank) => nothing(format!(
            "{name} is missing, without which ESXi does not start from this bank. To have it made: {TAKE_NEWEST}"
        )),
        Some(name) => nothing(format!(
            "{name} is missing, without which ESXi does not start from this bank"
        )),
        None => nothing("it holds no state archive, and its boot.cfg loads none"),
    }
}

fn nothing(why: impl Into<String>) -> Action {
    Action::Nothing { why: why.into() }
}

fn refuse(refusal: &BankRefusal) -> Action {
    Action::Refuse {
        why: refusal.to_string(),
        remedy: refusal.remedy().to_owned(),
    }
}
