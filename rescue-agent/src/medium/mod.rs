//! The medium that the image was started from, where it is one that can be written: a USB stick
//! with the `.img` on it.
//!
//! It brings settings (`rescue.toml`) and takes reports, copies of the original archives, and what
//! GRUB has to know for the next start. It is identified by a file that names the image,
//! `/.disk/esxi-rescue-IDENTITY`; nothing is ever mounted.
//!
//! Whatever happens to it, the repair of an ESXi disk goes on: work on it is done in a thread with
//! a deadline, and a failure is a warning. A disk that holds anything of ESXi's is never the medium.
//!
//! Not for: ESXi disks, which only [`crate::repair`] writes.

mod error;
pub mod handover;
mod import;
mod records;
mod worker;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use error::MediumError;
pub use import::folders as import_folders;

use crate::discover;
use crate::disk::{BlockDevice, Disks};
use crate::fat::Region;
use crate::inventory::{Disk, Inventory};
use crate::settings::MAX_FILE_BYTES;
use crate::stick::{ReadError, Stick, StickError, StickFile};
use records::Begun;
use worker::Worker;

/// The file in the initramfs that holds the image's identity, relative to `/`.
const IDENTITY_FILE: &str = "etc/rescue-identity";
/// Its longest identity, in bytes.
const MAX_IDENTITY_BYTES: usize = 64;
/// What precedes the identity in the name of the file that marks a medium.
const MARK: &str = ".disk/esxi-rescue-";
/// The settings on it.
pub const SETTINGS: &str = "rescue.toml";
/// The word of the kernel command line by which GRUB's menu on the stick says where it was read
/// from. It is none of the settings.
const STARTED_FROM_STICK: &str = "rescue_from=usb";
/// How long a file may take to be written, while nothing waits for it but the end of the run.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Which image this is: a word that its builder made up, and that the medium's mark repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// Takes a word of letters, digits, `-`, `_` and `.`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let usable =
            !text.is_empty() && text.len() <= MAX_IDENTITY_BYTES && text.chars().all(plain);
        usable.then(|| Self(text.to_owned()))
    }

    /// The identity of the image whose `/` is `root`; `None` where it has none.
    pub fn of_image(root: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(root.join(IDENTITY_FILE)).ok()?)
    }

    fn mark(&self) -> String {
        format!("{MARK}{}", self.0)
    }
}

/// Whether the kernel command line says that the image was started from a stick.
pub fn started_from_stick(command_line: &str) -> bool {
    let mut words = command_line.split_ascii_whitespace();
    words.any(|word| word == STARTED_FROM_STICK)
}

/// The medium. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Medium {
    place: Place,
    disks: Arc<dyn Disks>,
    worker: Worker,
    begun: Begun,
}

/// Where the medium is, and how it is known again.
#[derive(Debug, Clone)]
struct Place {
    disk: PathBuf,
    partition: u32,
    region: Region,
    identity: Identity,
}

/// Looks for the medium of this image among the disks.
///
/// # Errors
/// [`MediumError::Ambiguous`] if there are several.
pub fn find(
    inventory: &Inventory,
    identity: &Identity,
    disks: Arc<dyn Disks>,
) -> Result<Option<Medium>, MediumError> {
    let candidates = inventory.disks.iter().filter(|disk| may_be_medium(disk));
    let mut places: Vec<Place> = candidates
        .flat_map(|disk| places_on(disk, identity, disks.as_ref()))
        .collect();
    if places.len() > 1 {
        return Err(MediumError::Ambiguous(
            places.iter().map(Place::name).collect(),
        ));
    }
    Ok(places.pop().map(|place| Medium {
        place,
        disks,
        worker: Worker::start(),
        begun: Begun::default(),
    }))
}

/// A disk with anything of ESXi's on it, or with anything that could not be told, is not.
fn may_be_medium(disk: &Disk) -> bool {
    let untouched_by_esxi = disk.not_banks.is_empty() && disk.unreadable.is_empty();
    disk.table.is_ok() && !disk.belongs_to_esxi() && untouched_by_esxi
}

fn places_on(disk: &Disk, identity: &Identity, disks: &dyn Disks) -> Vec<Place> {
    let Ok(device) = disks.read(&disk.path) else {
        return Vec::new();
    };
    let partitions = disk.table.iter().flat_map(|table| &table.partitions);
    partitions
        .filter(|partition| partition.kind.may_hold_bank() && partition.problem.is_none())
        .map(|partition| Place {
            disk: disk.path.clone(),
            partition: partition.number,
            region: Region {
                start: partition.start,
                length: partition.length,
            },
            identity: identity.clone(),
        })
        .filter(|place| place.is_marked(device.as_ref()))
        .collect()
}

impl Place {
    fn name(&self) -> String {
        format!("{} partition {}", self.disk.display(), self.partition)
    }

    /// Whether the mark is there. What cannot be read is no medium.
    fn is_marked(&self, device: &dyn BlockDevice) -> bool {
        let mark = Stick::new(device, self.region).length(&self.identity.mark());
        matches!(mark, Ok(Some(_)))
    }

    /// Fails unless the disk is still the one that was found: a stick may have been exchanged, and
    /// then its name may belong to any other disk.
    fn still_there(&self, disks: &dyn Disks) -> Result<(), MediumError> {
        let paths = [self.disk.clone()];
        let inventory = discover::discover(&paths, disks);
        let disk = inventory.disks.first().filter(|disk| may_be_medium(disk));
        let found = disk.is_some_and(|disk| {
            let places = places_on(disk, &self.identity, disks);
            places
                .iter()
                .any(|place| (place.partition, place.region) == (self.partition, self.region))
        });
        found.then_some(()).ok_or(MediumError::Gone)
    }

    fn read(
        &self,
        disks: &dyn Disks,
        file: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, MediumError> {
        self.with_stick(disks, file, |stick| stick.read(file, limit))
    }

    /// Whether there is a file of this length.
    fn has(&self, disks: &dyn Disks, file: &str, length: u64) -> Result<bool, MediumError> {
        let found = self.with_stick(disks, file, |stick| stick.length(file))?;
        Ok(found.is_some_and(|found| u64::from(found) == length))
    }

    fn list(&self, disks: &dyn Disks, folder: &str) -> Result<Vec<String>, MediumError> {
        self.with_stick(disks, folder, |stick| stick.list(folder))
    }

    fn put(&self, disks: &dyn Disks, files: &[StickFile]) -> Result<(), MediumError> {
        self.still_there(disks)?;
        let device = disks.write(&self.disk).map_err(StickError::Write)?;
        Ok(Stick::new(device.as_ref(), self.region).put(files)?)
    }

    /// Reads from the stick; an error names `file`.
    fn with_stick<T>(
        &self,
        disks: &dyn Disks,
        file: &str,
        work: impl FnOnce(&Stick<'_>) -> Result<T, ReadError>,
    ) -> Result<T, MediumError> {
        let device = disks.read(&self.disk).map_err(ReadError::Device);
        let done = device.and_then(|device| work(&Stick::new(device.as_ref(), self.region)));
        done.map_err(|why| MediumError::File {
            file: file.to_owned(),
            why: why.to_string(),
        })
    }
}

impl Medium {
    /// What it is called in messages.
    pub fn name(&self) -> String {
        self.place.name()
    }

    /// Its `rescue.toml`; `None` if it has none.
    ///
    /// # Errors
    /// [`MediumError::File`], [`MediumError::Slow`].
    pub fn settings(&self) -> Result<Option<Vec<u8>>, MediumError> {
        // One byte beyond the limit would be enough for the parser to see that it is too long, but
        // a file is read whole or not at all.
        self.read(SETTINGS, 2 * MAX_FILE_BYTES as u64)
    }

    /// The content of a file on it, if that is not longer than `limit`; `None` if there is no such
    /// file.
    ///
    /// # Errors
    /// As [`Medium::settings`].
    pub fn read(&self, file: &str, limit: u64) -> Result<Option<Vec<u8>>, MediumError> {
        let (place, disks, file) = (self.place.clone(), Arc::clone(&self.disks), file.to_owned());
        self.worker
            .run(TIMEOUT, move || place.read(disks.as_ref(), &file, limit))
    }

    /// The names in a folder of it; none if there is no such folder.
    ///
    /// # Errors
    /// As [`Medium::settings`].
    pub fn list(&self, folder: &str) -> Result<Vec<String>, MediumError> {
        let (place, disks, folder) = (
            self.place.clone(),
            Arc::clone(&self.disks),
            folder.to_owned(),
        );
        self.worker
            .run(TIMEOUT, move || place.list(disks.as_ref(), &folder))
    }

    /// Puts files on it, each in place of one of the same name: all of them or none. After
    /// `timeout` nobody waits any more, although it may still happen.
    ///
    /// # Errors
    /// [`MediumError`]; a warning to whoever runs a repair.
    pub fn put(&self, files: Vec<StickFile>, timeout: Duration) -> Result<(), MediumError> {
        let (place, disks) = (self.place.clone(), Arc::clone(&self.disks));
        self.worker
            .run(timeout, move || place.put(disks.as_ref(), &files))
    }

    /// Sets for GRUB on it whether the next start of the host with this system UUID goes to its local
    /// disk. Nothing happens where that is no UUID.
    ///
    /// # Errors
    /// As [`Medium::put`].
    pub fn write_handover(&self, uuid: &str, on: bool) -> Result<(), MediumError> {
        let Some(path) = handover::path(uuid) else {
            return Ok(());
        };
        let content = handover::block(on);
        self.put(vec![StickFile { path, content }], TIMEOUT)
    }
}
