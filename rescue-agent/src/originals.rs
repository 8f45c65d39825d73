//! Copies of original archives that are kept outside the banks, on the rescue medium: what they are
//! copies of, and whether one may go back.
//!
//! Each host has a folder, with the archives and an index of them. The index says of each copy which
//! archive of which bank, disk and host it is, and which archives repairs have made of it. It may go
//! back only in place of one of those: an archive that ESXi has saved since is newer than it.
//!
//! Values and rules only, except [`Collection::in_folder`]. Not for: the undo copy in the bank, which
//! comes first and is [`crate::fat::exchange`]'s.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::archive::StateArchive;
use crate::bytes::sha256_hex;
use crate::disk::partition::Partition;
use crate::fat::{FatTime, ShortName};
use crate::files::read_below;
use crate::host::{Host, SystemInfo};
use crate::inventory::{ArchiveFile, Bank, Disk, Inventory};

/// The folder of all copies, on the medium.
pub const FOLDER: &str = "originals";
/// The index in a host's folder.
pub const INDEX: &str = "index.json";
/// The version of its fields.
const SCHEMA: &str = "esxi-rescue-originals/1";
/// Longest index that is read, in bytes.
pub const MAX_INDEX_BYTES: u64 = 1 << 20;
/// Longest copy that is read, in bytes; state archives are far smaller.
pub const MAX_COPY_BYTES: u64 = 256 << 20;
/// Most copies of one host.
const MAX_COPIES: usize = 256;
/// Most folders of hosts that are looked into.
const MAX_HOSTS: usize = 4096;
/// Longest name of a host's folder and reports.
const MAX_LABEL: usize = 48;

/// What makers leave in place of a serial number.
const NO_SERIALS: [&str; 12] = [
    "to be filled by o.e.m.",
    "default string",
    "system serial number",
    "chassis serial number",
    "serial number",
    "not specified",
    "not available",
    "unknown",
    "invalid",
    "none",
    "n/a",
    "0123456789",
];

/// What a host is called in names of files: its serial number, else its UUID, else `unknown`.
pub fn host_label(plate: &SystemInfo) -> String {
    let mut labels = host_labels(plate).into_iter();
    labels.next().unwrap_or_else(|| "unknown".into())
}

/// What a host may be called in names of files: its serial number and its UUID, where it has them.
pub fn host_labels(plate: &SystemInfo) -> Vec<String> {
    let words = [serial(plate), plate.uuid.clone()];
    let labels = words.iter().flatten().map(|word| file_word(word));
    labels.filter(|label| !label.is_empty()).collect()
}

fn serial(plate: &SystemInfo) -> Option<String> {
    let serial = plate.serial.as_deref()?.trim();
    let says_something = serial
        .chars()
        .any(|c| c.is_ascii_alphanumeric() && c != '0');
    let is_one = !NO_SERIALS.contains(&serial.to_ascii_lowercase().as_str());
    (says_something && is_one).then(|| serial.to_owned())
}

/// A word that any file system takes as a name.
fn file_word(text: &str) -> String {
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => c,
        _ => '-',
    };
    let word: String = text.trim().chars().map(plain).take(MAX_LABEL).collect();
    word.trim_matches(['.', '-']).to_owned()
}

/// A copy of an original archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Name of the copy in the host's folder.
    pub file: String,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// Its length.
    pub size_bytes: u64,
    /// When it was taken, UTC.
    pub taken: String,
    /// Serial number of the host.
    pub host_serial: Option<String>,
    /// UUID of the host.
    pub host_uuid: Option<String>,
    /// The disk's device node when it was taken; it may have another one today.
    pub disk_path: String,
    /// The disk's serial number.
    pub disk_serial: Option<String>,
    /// Number of the bank's partition.
    pub partition: u32,
    /// Its GUID, on a disk with a GPT.
    pub partition_guid: Option<String>,
    /// The UUID that VMware gave the bank's volume.
    pub volume_uuid: String,
    /// The archive's name in the bank.
    pub archive: String,
    /// SHA-256 of each archive that a repair made of it.
    pub repaired_sha256: Vec<String>,
}

impl Original {
    /// What an archive was before the first repair, with its bytes. `repaired` is the SHA-256 of
    /// the archive that takes its place.
    pub fn of(
        (disk, bank, archive): (&Disk, &Bank, &ArchiveFile),
        repaired: &str,
        host: Option<&Host>,
        now: FatTime,
    ) -> Option<(Self, Vec<u8>)> {
        let bytes = match &archive.undo {
            Some(undo) if undo.belongs => undo.content.as_ref().ok()?.raw.clone(),
            _ => archive.raw.clone()?,
        };
        let sha256 = sha256_hex(&bytes);
        let plate = host.map(|host| &host.name_plate);
        let node = host.and_then(|host| host.disk(&disk.path));
        let disk_name = disk.path.file_name().unwrap_or_default();
        let original = Self {
            file: format!(
                "{}-bank{}-{}-{}",
                file_word(&disk_name.to_string_lossy()),
                bank.partition,
                archive.name,
                &sha256[..16]
            ),
            size_bytes: bytes.len() as u64,
            sha256,
            taken: format!("{now}Z"),
            host_serial: plate.and_then(serial),
            host_uuid: plate.and_then(|plate| plate.uuid.clone()),
            disk_path: disk.path.display().to_string(),
            disk_serial: node.and_then(|node| node.serial.clone()),
            partition: bank.partition,
            partition_guid: guid(disk, bank),
            volume_uuid: bank.marker.to_string(),
            archive: archive.name.to_string(),
            repaired_sha256: vec![repaired.to_owned()],
        };
        Some((original, bytes))
    }

    /// Whether it is a copy of this archive. A host, serial or GUID that is not known on one side
    /// (a disk image has no host) is no difference where the other side does not know it either, or
    /// where nothing of the machine is known at all.
    fn is_of(&self, disk: &Disk, bank: &Bank, archive: ShortName, host: Option<&Host>) -> bool {
        let same_host = host.is_none_or(|host| {
            let plate = &host.name_plate;
            self.host_serial == serial(plate) && self.host_uuid == plate.uuid
        });
        let serial = host
            .and_then(|host| host.disk(&disk.path))
            .and_then(|node| node.serial.as_ref());
        let known = self.disk_serial.as_ref().zip(serial);
        same_host
            && known.is_none_or(|(recorded, found)| recorded == found)
            && self.partition == bank.partition
            && self.partition_guid == guid(disk, bank)
            && self.volume_uuid == bank.marker.to_string()
            && self.archive == archive.to_string()
    }
}

fn guid(disk: &Disk, bank: &Bank) -> Option<String> {
    let partitions = disk.table.iter().flat_map(|table| &table.partitions);
    let is_it = |partition: &&Partition| partition.number == bank.partition;
    Some(partitions.clone().find(is_it)?.guid?.to_string())
}

/// The copies of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    schema: String,
    /// The copies, the oldest first.
    pub originals: Vec<Original>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema: SCHEMA.into(),
            originals: Vec::new(),
        }
    }
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn parse(json: &[u8]) -> Result<Self, IndexError> {
        let index: Self = serde_json::from_slice(json)?;
        if index.schema != SCHEMA {
            return Err(IndexError::Schema(index.schema));
        }
        Ok(index)
    }

    /// The index as it is written.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain values of owned strings and numbers: there is nothing that could fail.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Adds a copy, or, where the very same is named already, what a repair makes of it. Says whether
    /// it is new.
    ///
    /// # Errors
    /// [`IndexError::Full`].
    pub fn add(&mut self, new: &Original) -> Result<bool, IndexError> {
        let same = |old: &&mut Original| {
            let key = |one: &Original| {
                (
                    one.file.clone(),
                    one.sha256.clone(),
                    one.volume_uuid.clone(),
                )
            };
            key(old) == key(new)
        };
        if let Some(old) = self.originals.iter_mut().find(same) {
            for hash in &new.repaired_sha256 {
                if !old.repaired_sha256.contains(hash) {
                    old.repaired_sha256.push(hash.clone());
                }
            }
            return Ok(false);
        }
        if self.originals.len() >= MAX_COPIES {
            return Err(IndexError::Full);
        }
        self.originals.push(new.clone());
        Ok(true)
    }
}

/// Why an index of copies cannot be used.
#[derive(Debug, Error)]
pub enum IndexError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(io::Error),
    /// It is not JSON, or lacks a field.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("its schema is {0:?}, not {SCHEMA}")]
    Schema(String),
    /// No further copy can be added.
    #[error("there are {MAX_COPIES} copies of this host already")]
    Full,
}

/// Why a folder gives no copies.
#[derive(Debug, Error)]
pub enum FolderError {
    /// The folder itself cannot be read.
    #[error("{} cannot be read: {source}", folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is another folder.
    #[error(
        "{} holds no {INDEX}, nor does a folder in it: name the folder {FOLDER} of a rescue medium",
        folder.display()
    )]
    NoIndex {
        /// The folder.
        folder: PathBuf,
    },
    /// The index in it cannot be used.
    #[error("{}: {source}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        source: IndexError,
    },
}

/// How the bytes of a copy are had, by its path below the folder of all copies.
pub type Fetch<'f> = Box<dyn Fn(&str) -> Result<Vec<u8>, String> + 'f>;

/// Copies, wherever they are.
pub struct Collection<'f> {
    /// Each with the folder it is in, empty where that is the folder of all.
    pub originals: Vec<(String, Original)>,
    /// How their bytes are had.
    pub fetch: Fetch<'f>,
    /// Where they are, in words.
    pub place: String,
}

impl std::fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Collection").field(&self.originals).finish()
    }
}

impl Collection<'static> {
    /// The copies in a folder: that of one host, or that of all (`originals` on the medium).
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn in_folder(folder: &Path) -> Result<Self, FolderError> {
        let entries = fs::read_dir(folder).map_err(|source| FolderError::Unreadable {
            folder: folder.to_owned(),
            source,
        })?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().join(INDEX).is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .take(MAX_HOSTS)
            .collect();
        names.sort();
        if folder.join(INDEX).is_file() {
            names.push(String::new());
        }
        if names.is_empty() {
            return Err(FolderError::NoIndex {
                folder: folder.to_owned(),
            });
        }
        let mut originals = Vec::new();
        for name in names {
            let below = Path::new(&name).join(INDEX);
            let path = folder.join(&below);
            let index = read_below(folder, &below, MAX_INDEX_BYTES)
                .map_err(IndexError::Read)
                .and_then(|json| Index::parse(&json))
                .map_err(|source| FolderError::Index { path, source })?;
            originals.extend(index.originals.into_iter().map(|one| (name.clone(), one)));
        }
        let root = folder.to_owned();
        Ok(Self {
            originals,
            fetch: Box::new(move |path| {
                read_below(&root, Path::new(path), MAX_COPY_BYTES)
                    .map_err(|error| error.to_string())
            }),
            place: folder.display().to_string(),
        })
    }
}

/// What a collection has to say about an archive that has no undo copy in its bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    disk: PathBuf,
    partition: u32,
    archive: ShortName,
    /// The copy, or why it must not go back.
    pub copy: Result<KeptCopy, Objection>,
}

/// What there is to say where the copies cannot be looked into: of each archive without an undo copy,
/// that there may be one.
pub fn unknown(inventory: &Inventory, why: &str) -> Vec<Offer> {
    let without = inventory.banks().flat_map(|(disk, bank)| {
        let archives = bank.archives.iter().filter(|one| one.undo.is_none());
        archives.map(move |archive| Offer {
            disk: disk.path.clone(),
            partition: bank.partition,
            archive: archive.name,
            copy: Err(Objection::Unknown {
                archive: archive.name.to_string(),
                why: why.to_owned(),
            }),
        })
    });
    without.collect()
}

/// A copy that may go back; its hash is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCopy {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their SHA-256, hex.
    pub sha256: String,
    /// Where it is, in words.
    pub place: String,
}

/// Why a copy must not go back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Objection {
    /// The archive in place is newer.
    #[error(
        "there is a copy of the original {archive} in {place}, but the archive in the bank was not made from it by a repair: ESXi has saved its configuration since"
    )]
    SavedSince {
        /// Its name in the bank.
        archive: String,
        /// Where the copy is.
        place: String,
    },
    /// Where the copies are cannot be looked into.
    #[error(
        "it holds no undo copy, and whether there is a copy of the original {archive} is not known: {why}"
    )]
    Unknown {
        /// Its name in the bank.
        archive: String,
        /// In words.
        why: String,
    },
    /// The index names something else than a file beside it.
    #[error("the index in {place} names {file:?} as a file")]
    Name {
        /// What it names.
        file: String,
        /// Where it is.
        place: String,
    },
    /// The copy cannot be read.
    #[error("the original {file} in {place} cannot be read: {why}")]
    Unreadable {
        /// Its name.
        file: String,
        /// Where it is.
        place: String,
        /// In words.
        why: String,
    },
    /// The copy is what the index says, and that is no archive: ESXi would not start with it.
    #[error("the original {file} in {place} is no state archive: {why}")]
    NoArchive {
        /// Its name.
        file: String,
        /// Where it is.
        place: String,
        /// In words.
        why: String,
    },
    /// The copy is not what it was.
    #[error("the original {file} in {place} is damaged: its SHA-256 is not the recorded one")]
    Damaged {
        /// Its name.
        file: String,
        /// Where it is.
        place: String,
    },
}

impl Objection {
    /// What the administrator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::SavedSince { .. } => {
                "the newer configuration would be lost; to restore it anyway, copy the file into the bank by hand"
            }
            Self::Unknown { .. } => {
                "check the medium with chkdsk, First Aid or fsck.fat, and start again; or restore the original with \
                 `rescue-agent restore --originals FOLDER`"
            }
            Self::Name { .. }
            | Self::Unreadable { .. }
            | Self::NoArchive { .. }
            | Self::Damaged { .. } => {
                "use another copy of it, or a backup of the host's configuration"
            }
        }
    }
}

impl Offer {
    /// Whether it is about this archive.
    pub fn is_for(&self, disk: &Disk, bank: &Bank, archive: ShortName) -> bool {
        (&self.disk, self.partition, self.archive) == (&disk.path, bank.partition, archive)
    }
}

/// What a collection has for the archives that have no undo copy.
pub fn offers(
    inventory: &Inventory,
    host: Option<&Host>,
    collection: &Collection<'_>,
) -> Vec<Offer> {
    let mut offers = Vec::new();
    for (disk, bank) in inventory.banks() {
        for archive in bank
            .archives
            .iter()
            .filter(|archive| archive.undo.is_none())
        {
            let Some(in_place) = &archive.sha256 else {
                continue;
            };
            let copies = collection.originals.iter();
            let copies: Vec<&(String, Original)> = copies
                .filter(|(_, copy)| copy.is_of(disk, bank, archive.name, host))
                .collect();
            let Some(copy) = choose(&copies, in_place, archive.name, collection) else {
                continue;
            };
            offers.push(Offer {
                disk: disk.path.clone(),
                partition: bank.partition,
                archive: archive.name,
                copy,
            });
        }
    }
    offers
}

/// The copy whose repair is in place. `None` where there is no copy, or where the archive in place
/// is an original itself.
fn choose(
    copies: &[&(String, Original)],
    in_place: &str,
    archive: ShortName,
    collection: &Collection<'_>,
) -> Option<Result<KeptCopy, Objection>> {
    if copies.is_empty() || copies.iter().any(|(_, copy)| copy.sha256 == in_place) {
        return None;
    }
    let made_of = |copy: &Original| copy.repaired_sha256.iter().any(|hash| hash == in_place);
    let found = copies.iter().rev().find(|(_, copy)| made_of(copy));
    let Some((folder, copy)) = found else {
        return Some(Err(Objection::SavedSince {
            archive: archive.to_string(),
            place: collection.place.clone(),
        }));
    };
    let path = match folder.is_empty() {
        true => copy.file.clone(),
        false => format!("{folder}/{}", copy.file),
    };
    Some(fetched(copy, &path, collection))
}

fn fetched(
    original: &Original,
    path: &str,
    collection: &Collection<'_>,
) -> Result<KeptCopy, Objection> {
    let (file, place) = (original.file.clone(), collection.place.clone());
    if file.contains(['/', '\\']) || file.starts_with('.') {
        return Err(Objection::Name { file, place });
    }
    let bytes = match (collection.fetch)(path) {
        Ok(bytes) => bytes,
        Err(why) => return Err(Objection::Unreadable { file, place, why }),
    };
    let sha256 = sha256_hex(&bytes);
    if sha256 != original.sha256 {
        return Err(Objection::Damaged { file, place });
    }
    if let Some(why) = is_no_archive(&bytes) {
        return Err(Objection::NoArchive { file, place, why });
    }
    Ok(KeptCopy {
        bytes,
        sha256,
        place: format!("{file} in {place}"),
    })
}

/// Why bytes are no state archive, if they are none. One whose key only ESXi has is one.
fn is_no_archive(bytes: &[u8]) -> Option<String> {
    match StateArchive::open(bytes) {
        Ok(_) => None,
        Err(error) if error.seal().is_some() => None,
        Err(error) => Some(error.to_string()),
    }
}
