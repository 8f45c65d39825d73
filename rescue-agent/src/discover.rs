//! Looking: disks in, inventory out. Reads partition tables, the directories of FAT volumes with
//! VMware's mark, boot.cfg and the archives, and nothing else; writes nothing.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::archive::StateArchive;
use crate::bank::{self, BootCfg, Candidate, VmfatMarker};
use crate::bytes::sha256_hex;
use crate::disk::partition::{self, Partition, PartitionError, PartitionTable};
use crate::disk::{BlockDevice, ByteOffset, Disks};
use crate::fat::{Entry, FatError, Region, ShortName, Volume, exchange};
use crate::inventory::{
    ArchiveFile, Bank, Content, ContentError, Disk, Inventory, Kept, NoTable, UndoContent, UndoCopy,
};
use crate::parallel;

/// Disks looked at side by side. They are waited for rather than computed with: enough that the
/// slowest one, and not their sum, is what takes time.
const PARALLEL_DISKS: usize = 64;

/// Bytes of opened archives that are kept for the planning. What real hosts have is a hundredth of
/// it; beyond, an archive is opened once more rather than more memory taken.
const KEPT_BYTES_MAX: usize = 96 << 20;

/// Bytes of archives up to which those of a disk are opened side by side, since each takes several
/// times its size of memory meanwhile.
const OPENED_AT_ONCE_BYTES_MAX: usize = 16 << 20;

/// What archives say whose bytes are known, by the SHA-256 of these bytes in hex.
pub type Known = HashMap<String, Content>;

/// Looks at every disk of `paths`, many at once; the result keeps their order.
pub fn discover(paths: &[PathBuf], disks: &dyn Disks) -> Inventory {
    discover_again(paths, disks, &Known::new())
}

/// Like [`discover`]: every disk is read as if never seen, but an archive whose bytes turn out to be
/// known is not opened once more.
pub fn discover_again(paths: &[PathBuf], disks: &dyn Disks, known: &Known) -> Inventory {
    let look = Look {
        disks,
        known,
        kept_bytes: AtomicUsize::new(0),
    };
    let looked_at = parallel::map(paths.iter().collect(), PARALLEL_DISKS, |path| look.at(path));
    let failed = |path: &PathBuf| {
        let why = "looking at it failed unexpectedly".to_owned();
        without_table(path, 0, NoTable::Closed(why))
    };
    Inventory {
        disks: looked_at
            .into_iter()
            .zip(paths)
            .map(|(disk, path)| disk.unwrap_or_else(|| failed(path)))
            .collect(),
    }
}

/// A look at disks, and what it has already seen and keeps.
struct Look<'l> {
    disks: &'l dyn Disks,
    known: &'l Known,
    kept_bytes: AtomicUsize,
}

impl Look<'_> {
    fn at(&self, path: &Path) -> Disk {
        let device = match self.disks.read(path) {
            Ok(device) => device,
            Err(error) => {
                let why = format!("cannot be opened: {error}");
                return without_table(path, 0, NoTable::Closed(why));
            }
        };
        match partition::read(device.as_ref()) {
            Ok(table) => self.partitioned(path, device.as_ref(), table),
            Err(error) => {
                let why = match error {
                    PartitionError::NoTable { .. } => NoTable::Absent(error.to_string()),
                    _ => NoTable::Unreadable(error.to_string()),
                };
                without_table(path, device.size(), why)
            }
        }
    }

    fn partitioned(&self, path: &Path, device: &dyn BlockDevice, table: PartitionTable) -> Disk {
        let (mut found, mut not_banks, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for partition in table
            .partitions
            .iter()
            .filter(|partition| partition.kind.may_hold_bank())
        {
            log::debug!(
                "{}: looking for a boot bank in partition {} ({}, {} bytes at {})",
                path.display(),
                partition.number,
                partition.kind,
                partition.length,
                partition.start
            );
            match bank_in(device, partition) {
                Ok(Some(bank)) => found.push(bank),
                Ok(None) => {}
                Err(NoBank::Is(why)) => not_banks.push((partition.number, why)),
                Err(NoBank::Unknown(why)) => unreadable.push((partition.number, why)),
            }
        }
        let candidates: Vec<Candidate<'_>> = found
            .iter()
            .map(|bank| Candidate {
                partition: bank.partition.number,
                cfg: Some(&bank.boot_cfg),
            })
            .collect();
        let election = bank::elect(&candidates);
        let archives = self.open_all(&mut found);
        let banks = found
            .into_iter()
            .zip(archives)
            .zip(election.verdicts)
            .map(|((found, archives), standing)| found.into_bank(archives, standing))
            .collect();
        Disk {
            path: path.to_owned(),
            size: device.size(),
            table: Ok(table),
            banks,
            not_banks,
            unreadable,
            boots_next: election.next,
            boots_after_rollback: election.after_shift_r,
        }
    }

    /// Opens the archives of all banks. The disk is not asked any more: reading it is done in one
    /// order always, computing is what several processors are for.
    fn open_all(&self, found: &mut [Found<'_>]) -> Vec<Vec<ArchiveFile>> {
        let counts: Vec<usize> = found.iter().map(|bank| bank.files.len()).collect();
        let files: Vec<Files> = found
            .iter_mut()
            .flat_map(|bank| std::mem::take(&mut bank.files))
            .collect();
        let at_once = match files.iter().map(Files::bytes).sum::<usize>() {
            0..=OPENED_AT_ONCE_BYTES_MAX => parallel::computing(),
            _ => 1,
        };
        let mut opened = parallel::map(files, at_once, |files| self.open_files(files))
            .into_iter()
            .map(|opened| opened.unwrap_or_else(|| resume_unwind(Box::new("opening an archive"))));
        counts
            .into_iter()
            .map(|count| opened.by_ref().take(count).collect())
            .collect()
    }

    fn open_files(&self, files: Files) -> ArchiveFile {
        let (raw, sha256, content) = match files.archive {
            Ok(raw) => {
                let sha256 = sha256_hex(&raw);
                let content = match self.known.get(&sha256) {
                    Some(content) => Ok(content.clone()),
                    None => self.open_archive(&raw, files.entry.name()),
                };
                (
                    Some(raw),
                    Some(sha256),
                    content.map_err(ContentError::Archive),
                )
            }
            Err(error) => (None, None, Err(ContentError::File(error))),
        };
        ArchiveFile {
            name: files.entry.name(),
            size: files.entry.size(),
            modified: files.entry.modified(),
            raw,
            sha256,
            content,
            undo: files.undo.map(|(entry, raw)| UndoCopy {
                entry,
                content: raw
                    .map_err(|error| error.to_string())
                    .and_then(|raw| self.open_undo(&raw)),
            }),
        }
    }

    fn open_archive(
        &self,
        raw: &[u8],
        name: ShortName,
    ) -> Result<Content, crate::archive::ArchiveError> {
        let archive = StateArchive::open(raw)?;
        let content = Content::of(&archive, name)?;
        let bytes = archive.memory_bytes();
        let kept = self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        if kept.saturating_add(bytes) <= KEPT_BYTES_MAX {
            return Ok(Content {
                kept: Kept::new(archive),
                ..content
            });
        }
        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Ok(content)
    }

    fn open_undo(&self, raw: &[u8]) -> Result<UndoContent, String> {
        let sha256 = sha256_hex(raw);
        if !self.known.contains_key(&sha256) {
            StateArchive::open(raw).map_err(|error| error.to_string())?;
        }
        let raw = raw.to_vec();
        Ok(UndoContent { raw, sha256 })
    }
}

fn without_table(path: &Path, size: u64, why: NoTable) -> Disk {
    Disk {
        path: path.to_owned(),
        size,
        table: Err(why),
        banks: Vec::new(),
        not_banks: Vec::new(),
        unreadable: Vec::new(),
        boots_next: None,
        boots_after_rollback: None,
    }
}

/// A bank before the loader's rule has been applied.
struct Found<'p> {
    partition: &'p Partition,
    region: Region,
    marker: VmfatMarker,
    boot_cfg: BootCfg,
    files: Vec<Files>,
    volume: Result<exchange::Assessment, exchange::Refusal>,
}

impl Found<'_> {
    fn into_bank(self, archives: Vec<ArchiveFile>, standing: bank::Standing) -> Bank {
        Bank {
            partition: self.partition.number,
            region: self.region,
            marker: self.marker,
            boot_cfg: self.boot_cfg,
            standing,
            archives,
            volume: self.volume,
        }
    }
}

/// Why a partition that may hold a bank is not taken for one.
enum NoBank {
    /// It is none.
    Is(String),
    /// It may be one: the disk does not let it be read.
    Unknown(String),
}

impl NoBank {
    fn because(error: &FatError, what: &str) -> Self {
        let why = format!("{what}{error}");
        match error {
            FatError::Read { .. } => Self::Unknown(why),
            _ => Self::Is(why),
        }
    }
}

/// The bank of a partition: VMware's mark, a boot.cfg that parses, and a `build` in it. `None`
/// without the mark; a reason where the mark is there and the rest is not.
fn bank_in<'p>(
    device: &dyn BlockDevice,
    partition: &'p Partition,
) -> Result<Option<Found<'p>>, NoBank> {
    if let Some(problem) = &partition.problem {
        return Err(NoBank::Is(problem.to_string()));
    }
    let region = Region {
        start: partition.start,
        length: partition.length,
    };
    let volume = match Volume::open(device, region) {
        Ok(volume) => volume,
        Err(FatError::NotFat(_)) => return Ok(None),
        Err(error) => return Err(NoBank::because(&error, "")),
    };
    let Some(marker) = marker(device, &volume, region)? else {
        return Ok(None);
    };
    let Some(entry) = volume.find(ShortName::BOOT_CFG) else {
        let why = "VMware's mark but no boot.cfg (ESP, locker or scratch)";
        return Err(NoBank::Is(why.into()));
    };
    let text = volume
        .read(&entry)
        .map_err(|error| NoBank::because(&error, "boot.cfg: "))?;
    let boot_cfg =
        BootCfg::parse(&text).map_err(|error| NoBank::Is(format!("boot.cfg: {error}")))?;
    if !boot_cfg.has_build() {
        let why = "its boot.cfg names no build (installation medium?)";
        return Err(NoBank::Is(why.into()));
    }
    let files = files(&volume, &boot_cfg);
    let volume = exchange::assess(&volume);
    Ok(Some(Found {
        partition,
        region,
        marker,
        boot_cfg,
        files,
        volume,
    }))
}

/// Reads the second sector of a volume, where VMware leaves its mark.
fn marker(
    device: &dyn BlockDevice,
    volume: &Volume<'_>,
    region: Region,
) -> Result<Option<VmfatMarker>, NoBank> {
    let sector_bytes = volume.geometry().sector_bytes;
    let mut sector = vec![0; sector_bytes as usize];
    let offset = ByteOffset(region.start.0 + u64::from(sector_bytes));
    device.read_at(offset, &mut sector).map_err(|error| {
        NoBank::Unknown(format!("reading its second sector at {offset}: {error}"))
    })?;
    Ok(VmfatMarker::parse(&sector))
}

/// An archive of a bank and its undo copy, as they were read.
struct Files {
    entry: Entry,
    archive: Result<Vec<u8>, FatError>,
    undo: Option<(Entry, Result<Vec<u8>, FatError>)>,
}

/// The archives of a bank: `STATE.TGZ`; without it `LOCAL.TGZ` (4.x embedded); and `ONETIME.TGZ`
/// where boot.cfg has the loader load it.
fn files(volume: &Volume<'_>, boot_cfg: &BootCfg) -> Vec<Files> {
    let state = volume
        .find(ShortName::STATE)
        .or_else(|| volume.find(ShortName::LOCAL));
    let loads_onetime = boot_cfg
        .modules()
        .iter()
        .any(|module| module.eq_ignore_ascii_case("onetime.tgz"));
    let onetime = volume.find(ShortName::ONETIME).filter(|_| loads_onetime);
    state
        .into_iter()
        .chain(onetime)
        .map(|entry| Files {
            archive: volume.read(&entry),
            undo: exchange::undo_copy(volume, entry.name()).map(|undo| {
                let raw = volume.read(&undo);
                (undo, raw)
            }),
            entry,
        })
        .collect()
}

impl Files {
    fn bytes(&self) -> usize {
        let undo = self.undo.as_ref().map(|(_, raw)| raw);
        [Some(&self.archive), undo]
            .into_iter()
            .flatten()
            .filter_map(|raw| raw.as_ref().ok())
            .map(Vec::len)
            .sum()
    }
}
