//! What is on the disks: disks → partitions → banks → archives → devices. Values only; made by
//! [`crate::discover`], read by everyone else.

mod no_disk;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::archive::keystore::Mode;
use crate::archive::{
    ArchiveError, BackupCounter, Configuration, Identity, RecoveryKey, Seal, StateArchive,
};
use crate::bank::{BootCfg, Standing, VmfatMarker};
use crate::config::boot_script::BootMark;
use crate::config::configstore::{StoreDevice, StoreOwner};
use crate::config::esx_conf::{ByteRange, DeviceLines, Owner};
use crate::config::pci::{EsxAddress, PciAddress, Reading, VendorDevice};
use crate::counted::counted;
use crate::disk::partition::{PartitionKind, PartitionTable};
use crate::disk::usage::InUse;
use crate::fat::exchange::{Assessment, Refusal};
use crate::fat::{Entry, FatError, FatTime, Region, ShortName};
use crate::host::PciClass;

pub use no_disk::{NoDisk, Packing};

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Inventory {
    /// The disks, in the order in which they were named or found.
    pub disks: Vec<Disk>,
    /// Disks that hold the same installation of ESXi.
    pub same_installations: Vec<SameInstallation>,
    /// Index of the disk with boot banks that is first in the firmware's boot order, where that is
    /// known.
    pub starts_first: Option<usize>,
}

/// Disks of which each holds the same installation of ESXi. Made by [`crate::copies`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SameInstallation {
    /// Indices of these disks, two or more.
    pub disks: Vec<usize>,
    /// Those of them that ESXi starts from: one disk of which the others are copies, or the members of
    /// a mirror. None: it is not known which one it is.
    pub originals: Vec<usize>,
}

impl Inventory {
    /// All banks, each with its disk.
    pub fn banks(&self) -> impl Iterator<Item = (&Disk, &Bank)> {
        self.disks
            .iter()
            .flat_map(|disk| disk.banks.iter().map(move |bank| (disk, bank)))
    }

    /// Whether several disks have boot banks, and it is not this one that the firmware starts first: then
    /// what boots next is what boots next *from this disk*.
    pub fn is_one_of_several(&self, disk: usize) -> bool {
        let with_banks = self.disks.iter().filter(|disk| !disk.banks.is_empty());
        with_banks.count() > 1 && self.starts_first != Some(disk)
    }

    /// The other disks that hold the same installation as a disk, if any do.
    pub fn same_installation(&self, disk: usize) -> Option<&SameInstallation> {
        let mut all = self.same_installations.iter();
        all.find(|same| same.disks.contains(&disk))
    }

    /// Disks whose partition table is there, or may be, and cannot be read, and why; none as soon
    /// as a boot bank was found elsewhere, for then they need not matter.
    pub fn unreadable_disks(&self) -> impl Iterator<Item = (&Path, String)> {
        let none_found = self.banks().next().is_none();
        let closed = self.disks.iter().filter(move |_| none_found);
        closed.filter_map(|disk| match &disk.table {
            Ok(_) | Err(NoTable::Absent(_)) => None,
            Err(why) => Some((disk.path.as_path(), why.to_string())),
        })
    }

    /// What was named and is no disk, each with its entry.
    pub fn no_disks(&self) -> impl Iterator<Item = (&Disk, &NoDisk)> {
        self.disks.iter().filter_map(|disk| match &disk.table {
            Err(NoTable::NoDisk(what)) => Some((disk, what)),
            _ => None,
        })
    }

    /// Partitions that may be banks and are not accepted as banks, each with its disk.
    pub fn suspects(&self) -> impl Iterator<Item = (&Disk, &Suspect)> {
        self.disks
            .iter()
            .flat_map(|disk| disk.suspects.iter().map(move |suspect| (disk, suspect)))
    }

    /// Partitions that could not be read as the loader would, by name, and why.
    pub fn loader_unread(&self) -> impl Iterator<Item = (String, &str)> {
        self.disks.iter().flat_map(|disk| {
            let unread = disk.loader_unread.iter();
            unread.map(|(number, why)| (disk.partition_name(*number), why.as_str()))
        })
    }

    /// Whether an archive of any bank is sealed by a TPM, opened or not.
    pub fn is_sealed_by_tpm(&self) -> bool {
        let archives = self.banks().flat_map(|(_, bank)| &bank.archives);
        let mut seals = archives.filter_map(ArchiveFile::seal);
        seals.any(|seal| seal.mode == Mode::Tpm)
    }

    /// Partitions that may be banks and cannot be read, by name, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (String, &str)> {
        self.disks.iter().flat_map(|disk| {
            disk.unreadable
                .iter()
                .map(|(number, why)| (disk.partition_name(*number), why.as_str()))
        })
    }
}

/// A disk or disk image.
#[derive(Debug)]
pub struct Disk {
    /// Its device node or file. All that is read and written goes this way.
    pub path: PathBuf,
    /// Other paths to the same disk: each its device node or file, too.
    pub other_paths: Vec<PathBuf>,
    /// Size in bytes, 0 where it could not be opened.
    pub size: u64,
    /// Its partitions, or why there are none to be read.
    pub table: Result<PartitionTable, NoTable>,
    /// Its boot banks by partition number.
    pub banks: Vec<Bank>,
    /// Partitions with VMware's mark that are no bank, and why.
    pub not_banks: Vec<(u32, String)>,
    /// Partitions that may be banks and cannot be read, and why.
    pub unreadable: Vec<(u32, String)>,
    /// Partitions that look like banks, or that the loader takes for banks, and are not taken here.
    pub suspects: Vec<Suspect>,
    /// Partitions that were read here, and could not be read as the loader would, and why.
    pub loader_unread: Vec<(u32, String)>,
    /// What the loader does at the next start from this disk.
    pub next_boot: NextBoot,
    /// The bank that boots next: an index into `banks`.
    pub boots_next: Option<usize>,
    /// The bank that boots if Shift+R is pressed at the loader: an index into `banks`.
    pub boots_after_rollback: Option<usize>,
    /// The first entry of the firmware's boot order that leads to it, such as `Boot0004 "VMware ESXi"`.
    pub boot_entry: Option<String>,
    /// What this machine uses of it. It must not be written then.
    pub in_use: Vec<InUse>,
}

/// A partition that may be a boot bank but is not accepted as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Its number.
    pub partition: u32,
    /// What was found, and why it is not taken.
    pub why: String,
    /// Whether ESXi's loader accepts it as a bank that it may boot.
    pub may_boot: bool,
}

/// What ESXi's loader does with a disk, by its own reading of it ([`crate::loader`]).
#[derive(Debug)]
pub enum NextBoot {
    /// It finds no bank that it may boot.
    NoBank,
    /// It boots a bank.
    Bank {
        /// Number of its partition.
        partition: u32,
        /// The archives that it hands to ESXi.
        archives: Vec<Loaded>,
        /// Why the start ends with an error of the loader, each with the file that it is about.
        ends: Vec<(Option<ShortName>, String)>,
    },
}

impl NextBoot {
    /// The partition of the bank that boots.
    pub fn partition(&self) -> Option<u32> {
        match self {
            Self::NoBank => None,
            Self::Bank { partition, .. } => Some(*partition),
        }
    }
}

/// An archive that the loader hands to ESXi.
#[derive(Debug)]
pub enum Loaded {
    /// The archive of that index in the bank.
    OfBank(usize),
    /// Bytes that are none of the bank's archives, of that name.
    Other(ShortName, Box<Result<Content, ArchiveError>>),
}

/// Why a disk shows no partitions, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoTable {
    /// The disk cannot be opened, or was not looked at to the end.
    Closed(String),
    /// There is none.
    Absent(String),
    /// It is no disk, but something that a disk can be made of, or found by.
    NoDisk(NoDisk),
    /// There may still be one: the disk failed, or both copies of its GPT are damaged.
    Unreadable(String),
}

impl fmt::Display for NoTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(why) | Self::Absent(why) | Self::Unreadable(why) => f.write_str(why),
            Self::NoDisk(what) => what.fmt(f),
        }
    }
}

impl Disk {
    /// Every path to it.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let others = self.other_paths.iter().map(PathBuf::as_path);
        std::iter::once(self.path.as_path()).chain(others)
    }

    /// Partitions that hold datastores, identified by their type alone.
    pub fn datastores(&self) -> impl Iterator<Item = u32> + '_ {
        self.table
            .iter()
            .flat_map(|table| &table.partitions)
            .filter(|partition| partition.kind.holds_datastore())
            .map(|partition| partition.number)
    }

    /// What this machine uses of it, in words: which part, and by what.
    pub fn use_in_words(&self) -> Option<String> {
        let used = self.in_use.first()?;
        let partitions = self.table.iter().flat_map(|table| &table.partitions);
        let part = partitions
            .filter(|partition| partition.start == used.start)
            .map(|partition| self.partition_name(partition.number))
            .next();
        let part = part.unwrap_or_else(|| self.path.display().to_string());
        Some(format!("{part} is {}", used.by))
    }

    /// What a partition of this disk is called in messages.
    pub fn partition_name(&self, number: u32) -> String {
        format!("{} partition {number}", self.path.display())
    }

    /// Partitions in which ESXi keeps data, by number and kind, identified by their type alone.
    pub fn esxi_data(&self) -> impl Iterator<Item = (u32, &PartitionKind)> {
        self.table
            .iter()
            .flat_map(|table| &table.partitions)
            .filter(|partition| partition.kind.holds_esxi_data())
            .map(|partition| (partition.number, &partition.kind))
    }

    /// The data of ESXi's that matters most: where it has several kinds, that of VMs counts.
    pub fn main_data(&self) -> Option<&PartitionKind> {
        let rank = |kind: &&PartitionKind| match kind {
            PartitionKind::Vmfs | PartitionKind::OsData => 0,
            PartitionKind::Vsan => 1,
            _ => 2,
        };
        self.esxi_data().map(|(_, kind)| kind).min_by_key(rank)
    }

    /// Whether ESXi keeps anything on it.
    pub fn belongs_to_esxi(&self) -> bool {
        !self.banks.is_empty() || !self.suspects.is_empty() || self.main_data().is_some()
    }

    /// In a few words, what it is and, if it is no ESXi disk, why not.
    pub fn summary(&self) -> String {
        match &self.table {
            Err(why) => why.to_string(),
            Ok(_) if !self.banks.is_empty() => {
                format!(
                    "ESXi boot disk, {}",
                    counted(self.banks.len(), "bank", "banks")
                )
            }
            Ok(_) if !self.suspects.is_empty() => {
                "a partition that may be a boot bank is not accepted as one".into()
            }
            Ok(_) if !self.unreadable.is_empty() => {
                "cannot be read where boot banks may lie".into()
            }
            Ok(table) => {
                if let Some(data) = self.main_data() {
                    return format!("{}, no boot banks", disk_with(data));
                }
                let candidates = table
                    .partitions
                    .iter()
                    .filter(|p| p.kind.may_hold_bank())
                    .count();
                let why: Vec<String> = self
                    .not_banks
                    .iter()
                    .map(|(partition, why)| format!("partition {partition}: {why}"))
                    .collect();
                match (candidates, why.is_empty()) {
                    (0, _) => "not an ESXi disk: no FAT partitions".into(),
                    (n, true) => format!(
                        "not an ESXi disk: {} without VMware's mark",
                        counted(n, "FAT partition", "FAT partitions")
                    ),
                    (_, false) => format!("no boot bank: {}", why.join("; ")),
                }
            }
        }
    }
}

/// What a disk with such data of ESXi's is.
fn disk_with(data: &PartitionKind) -> &'static str {
    match data {
        PartitionKind::Vsan => "ESXi vSAN disk",
        PartitionKind::VmwareCoreDump => "ESXi core dump disk",
        PartitionKind::VmwareReserved => "VMware reserved partition",
        _ => "ESXi datastore",
    }
}

/// A boot bank.
#[derive(Debug)]
pub struct Bank {
    /// Number of its partition.
    pub partition: u32,
    /// Where its volume lies on the disk.
    pub region: Region,
    /// VMware's mark and the volume's UUID.
    pub marker: VmfatMarker,
    /// What the loader reads.
    pub boot_cfg: BootCfg,
    /// What the loader's rule makes of it.
    pub standing: Standing,
    /// Its archives: `STATE.TGZ`, or `LOCAL.TGZ` of 4.x embedded; `ONETIME.TGZ` where boot.cfg
    /// names it. Empty in the spare bank of a fresh installation.
    pub archives: Vec<ArchiveFile>,
    /// Archives that boot.cfg has the loader load and that are not there.
    pub missing: Vec<ShortName>,
    /// Whether its volume may be written, and how much room it has.
    pub volume: Result<Assessment, Refusal>,
}

/// An archive in a bank.
#[derive(Debug)]
pub struct ArchiveFile {
    /// Its name.
    pub name: ShortName,
    /// Size in bytes.
    pub size: u32,
    /// When it was last written.
    pub modified: FatTime,
    /// Its bytes; `None` where the file cannot be read.
    pub raw: Option<Vec<u8>>,
    /// SHA-256 of these bytes, hex.
    pub sha256: Option<String>,
    /// What it says, or why it cannot be read.
    pub content: Result<Content, ContentError>,
    /// The copy that a repair kept.
    pub undo: Option<UndoCopy>,
    /// Newer archives that a person let an original replace, the latest first.
    pub set_aside: Vec<UndoCopy>,
    /// Whether a repair put it where there was none.
    pub made_anew: bool,
}

impl ArchiveFile {
    /// How it is encrypted, whether or not it could be opened.
    pub fn seal(&self) -> Option<&Seal> {
        match &self.content {
            Ok(content) => content.seal.as_ref(),
            Err(ContentError::Archive(error)) => error.seal(),
            Err(ContentError::File(_)) => None,
        }
    }

    /// Whether it is sound as far as is known, and nothing more than its key is missing.
    pub fn lacks_its_key(&self) -> bool {
        let error = self.content.as_ref().err();
        matches!(error, Some(ContentError::Archive(error)) if error.seal().is_some())
    }
}

/// Why an archive cannot be read.
#[derive(Debug)]
pub enum ContentError {
    /// Its file cannot be read.
    File(FatError),
    /// Its bytes make no sense.
    Archive(ArchiveError),
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Archive(error) => error.fmt(f),
        }
    }
}

/// From this number of devices on, many times what real hosts have, what an archive says is shared by all
/// files of the same bytes.
const MANY_DEVICES: usize = 1024;

/// What was made of archives with very many devices, by their SHA-256 and name: the banks of a host hold
/// mostly the same, and this takes memory once.
#[derive(Debug)]
pub(crate) struct Large<T>(Mutex<HashMap<(String, ShortName), T>>);

impl<T> Default for Large<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Large<T> {
    /// What is known of an archive, or else what `make` makes; `content` finds in it what the archive says.
    pub(crate) fn or_made<E>(
        &self,
        sha256: &str,
        name: ShortName,
        content: impl Fn(&T) -> &Content,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (sha256.to_owned(), name);
        let there = known().get(&key).cloned();
        if let Some(made) = there {
            return Ok(made);
        }
        let made = make()?;
        if content(&made).devices.len() > MANY_DEVICES {
            known().insert(key, made.clone());
        }
        Ok(made)
    }
}

/// An archive that could be opened.
#[derive(Debug, Clone)]
pub struct Content {
    /// How it is encrypted; `None`: not at all.
    pub seal: Option<Seal>,
    /// The key by which it was opened, where that is not in the archive itself.
    pub recovery_key: Option<RecoveryKey>,
    /// Whether a layer is uncompressed.
    pub uncompressed: bool,
    /// When ESXi saved it.
    pub saved: Option<BackupCounter>,
    /// The volume UUID of the bank its ConfigStore was saved in, 32 hex digits.
    pub store_bank: Option<String>,
    /// What it says of the host it is of.
    pub identity: Identity,
    /// Its devices. Shared by what is looked at twice: they can be many.
    pub devices: Arc<Vec<DeviceEntry>>,
    /// Lines of its boot scripts that pass devices through again at each start.
    pub boot_marks: Vec<BootMark>,
    /// The archive itself, for the one plan that is made from it.
    pub kept: Kept,
}

impl Content {
    /// What an archive of that name says.
    ///
    /// # Errors
    /// Those of [`StateArchive::configuration`].
    pub fn of(archive: &StateArchive, name: ShortName) -> Result<Self, ArchiveError> {
        let configuration = match archive.configuration() {
            // What a scripted installation lays on top need not name any device.
            Err(ArchiveError::NoConfiguration) if name == ShortName::ONETIME => Configuration {
                boot_marks: archive.boot_marks(),
                ..Configuration::default()
            },
            other => other?,
        };
        Ok(Self {
            seal: archive.seal().cloned(),
            recovery_key: None,
            uncompressed: archive.is_uncompressed(),
            devices: Arc::new(devices_of(
                configuration.esx_conf.unwrap_or_default(),
                configuration.store.unwrap_or_default(),
            )),
            boot_marks: configuration.boot_marks,
            identity: configuration.identity,
            saved: configuration.saved,
            store_bank: configuration.store_bank,
            kept: Kept::default(),
        })
    }

    /// The devices that are passed through.
    pub fn passed_through(&self) -> impl Iterator<Item = &DeviceEntry> {
        self.devices.iter().filter(|entry| entry.passed_through)
    }

    /// Notes the recovery key by which it was opened, if it needed one.
    #[must_use]
    pub fn opened_by(mut self, given: Option<&RecoveryKey>) -> Self {
        let is_closed = self.seal.as_ref().is_some_and(Seal::is_closed);
        self.recovery_key = given.filter(|_| is_closed).cloned();
        self
    }
}

/// An opened archive that is kept until somebody takes it; whoever comes later opens it again. It
/// holds secrets, which nothing here shows, and a copy of it holds nothing.
#[derive(Default)]
pub struct Kept(Mutex<Option<StateArchive>>);

impl Kept {
    /// Keeps an archive.
    pub fn new(archive: StateArchive) -> Self {
        Self(Mutex::new(Some(archive)))
    }

    /// Hands it out, once.
    pub fn take(&self) -> Option<StateArchive> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

/// The copy of the original that a repair kept.
#[derive(Debug)]
pub struct UndoCopy {
    /// Its directory entry.
    pub entry: Entry,
    /// Whether the archive in place is what a repair made of it, under the build of ESXi that is in
    /// the bank now. If not, ESXi has saved its configuration since, or was upgraded.
    pub belongs: bool,
    /// Its content, or why it cannot be read.
    pub content: Result<UndoContent, FatError>,
}

/// What is known of an undo copy that can be read.
#[derive(Debug)]
pub struct UndoContent {
    /// Its bytes.
    pub raw: Vec<u8>,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// When ESXi saved it.
    pub saved: Option<BackupCounter>,
    /// Why it is no archive that ESXi could load, if it is none.
    pub problem: Option<String>,
}

/// Where in an archive a device's owner stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In esx.conf, at these values `passthru`.
    EsxConf(Vec<ByteRange>),
    /// In the ConfigStore, in the row of this identifier.
    ConfigStore(String),
}

impl Place {
    /// The file that holds it.
    pub fn file(&self) -> &'static str {
        match self {
            Self::EsxConf(_) => "esx.conf",
            Self::ConfigStore(_) => "ConfigStore",
        }
    }
}

/// A device of an archive that names an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Where it stands.
    pub place: Place,
    /// Its address as it is spelled there.
    pub text: Arc<str>,
    /// Its address, where the text is one.
    pub address: Option<PciAddress>,
    /// The number base in which the address was read.
    pub reading: Reading,
    /// What the address would be in the other number base, where it is valid in both.
    pub alternative: Option<PciAddress>,
    /// Whether it is passed through.
    pub passed_through: bool,
    /// What it was when ESXi recorded it.
    pub id: Option<VendorDevice>,
    /// What it was for when ESXi recorded it.
    pub class: Option<PciClass>,
    /// ESXi's name for it, such as `vmhba0`.
    pub vmkname: Option<String>,
}

/// The devices of a configuration.
fn devices_of(esx_conf: Vec<DeviceLines>, store: Vec<StoreDevice>) -> Vec<DeviceEntry> {
    let mut devices = Vec::with_capacity(esx_conf.len() + store.len());
    let from_conf = esx_conf.into_iter().filter_map(|entry| {
        let ranges: Vec<ByteRange> = entry.passthru_ranges().collect();
        let passed_through = *entry.owner()? == Owner::Passthru;
        let address = EsxAddress::parse(&entry.address_text);
        Some(DeviceEntry {
            address: address.as_ref().map(|read| read.address),
            reading: address.as_ref().map_or(Reading::Hex, |read| read.reading),
            alternative: address.and_then(|read| read.alternative),
            passed_through,
            id: entry
                .vendor
                .zip(entry.device)
                .map(|(vendor, device)| VendorDevice { vendor, device }),
            class: entry.class.as_deref().and_then(PciClass::from_recorded),
            text: entry.address_text.into(),
            vmkname: entry.vmkname,
            place: Place::EsxConf(ranges),
        })
    });
    let from_store = store.into_iter().map(|device| DeviceEntry {
        address: device.identifier.parse().ok(),
        reading: Reading::Hex,
        alternative: None,
        passed_through: device.owner() == StoreOwner::Passthru,
        id: None,
        class: None,
        vmkname: None,
        text: device.identifier.as_str().into(),
        place: Place::ConfigStore(device.identifier),
    });
    devices.extend(from_conf.chain(from_store));
    devices
}
