//! Looking: disks in, inventory out. Reads partition tables, the directories of FAT volumes with
//! VMware's mark, boot.cfg and the archives, and nothing else; writes nothing.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::{Configuration, StateArchive};
use crate::bank::{self, BootCfg, Candidate, VmfatMarker};
use crate::disk::partition::{self, Partition, PartitionError, PartitionTable};
use crate::disk::{BlockDevice, ByteOffset};
use crate::fat::{Entry, FatError, Region, ShortName, Volume, exchange};
use crate::hash::sha256_hex;
use crate::inventory::{
    ArchiveFile, Bank, Content, ContentError, Disk, Inventory, UndoContent, UndoCopy, devices_of,
};

/// How disks are opened for reading; a parameter so that tests can put devices of their own in.
pub type Open<'o> = &'o (dyn Fn(&Path) -> io::Result<Box<dyn BlockDevice>> + Sync);

/// Disks looked at side by side. Enough to hide the latency of a slow one behind the others.
const PARALLEL_DISKS: usize = 8;

/// Looks at every disk of `paths`, several at once; the result keeps their order.
pub fn discover(paths: &[PathBuf], open: Open<'_>) -> Inventory {
    let mut disks = Vec::with_capacity(paths.len());
    for group in paths.chunks(PARALLEL_DISKS) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = group
                .iter()
                .map(|path| (path, scope.spawn(move || look_at(path, open))))
                .collect();
            disks.extend(threads.into_iter().map(|(path, thread)| {
                thread
                    .join()
                    .unwrap_or_else(|_| unreadable(path, 0, "looking at it failed unexpectedly"))
            }));
        });
    }
    Inventory { disks }
}

fn look_at(path: &Path, open: Open<'_>) -> Disk {
    let device = match open(path) {
        Ok(device) => device,
        Err(error) => return unreadable(path, 0, &format!("cannot be opened: {error}")),
    };
    match partition::read(device.as_ref()) {
        Ok(table) => partitioned(path, device.as_ref(), table),
        Err(error) => Disk {
            table_unreadable: !matches!(error, PartitionError::NoTable { .. }),
            ..unreadable(path, device.size(), &error.to_string())
        },
    }
}

fn unreadable(path: &Path, size: u64, why: &str) -> Disk {
    Disk {
        path: path.to_owned(),
        size,
        table_unreadable: false,
        table: Err(why.to_owned()),
        banks: Vec::new(),
        not_banks: Vec::new(),
        unreadable: Vec::new(),
        boots_next: None,
        boots_after_rollback: None,
    }
}

fn partitioned(path: &Path, device: &dyn BlockDevice, table: PartitionTable) -> Disk {
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
    let banks = found
        .into_iter()
        .zip(election.verdicts)
        .map(|(found, standing)| found.into_bank(standing))
        .collect();
    Disk {
        path: path.to_owned(),
        size: device.size(),
        table_unreadable: false,
        table: Ok(table),
        banks,
        not_banks,
        unreadable,
        boots_next: election.next,
        boots_after_rollback: election.after_shift_r,
    }
}

/// A bank before the loader's rule has been applied.
struct Found<'p> {
    partition: &'p Partition,
    region: Region,
    marker: VmfatMarker,
    boot_cfg: BootCfg,
    archives: Vec<ArchiveFile>,
    volume: Result<exchange::Assessment, exchange::Refusal>,
}

impl Found<'_> {
    fn into_bank(self, standing: bank::Standing) -> Bank {
        Bank {
            partition: self.partition.number,
            kind: self.partition.kind.clone(),
            region: self.region,
            marker: self.marker,
            boot_cfg: self.boot_cfg,
            standing,
            archives: self.archives,
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
    let archives = archives(&volume, &boot_cfg);
    let volume = exchange::assess(&volume);
    Ok(Some(Found {
        partition,
        region,
        marker,
        boot_cfg,
        archives,
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

/// The archives of a bank: `STATE.TGZ`; without it `LOCAL.TGZ` (4.x embedded); and `ONETIME.TGZ`
/// where boot.cfg has the loader load it.
fn archives(volume: &Volume<'_>, boot_cfg: &BootCfg) -> Vec<ArchiveFile> {
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
        .map(|entry| archive(volume, &entry))
        .collect()
}

fn archive(volume: &Volume<'_>, entry: &Entry) -> ArchiveFile {
    let (raw, content) = match volume.read(entry) {
        Ok(raw) => {
            let content = open_content(&raw, entry.name()).map_err(ContentError::Archive);
            (Some(raw), content)
        }
        Err(error) => (None, Err(ContentError::File(error))),
    };
    ArchiveFile {
        name: entry.name(),
        size: entry.size(),
        modified: entry.modified(),
        raw,
        content,
        undo: exchange::undo_copy(volume, entry.name()).map(|entry| undo(volume, entry)),
    }
}

fn open_content(raw: &[u8], name: ShortName) -> Result<Content, crate::archive::ArchiveError> {
    let archive = StateArchive::open(raw)?;
    let configuration = match archive.configuration() {
        // What a scripted installation lays on top need not name any device.
        Err(crate::archive::ArchiveError::NoConfiguration) if name == ShortName::ONETIME => {
            Configuration::default()
        }
        other => other?,
    };
    Ok(Content {
        sealed: archive.is_sealed(),
        hand_made: archive.is_hand_made(),
        devices: devices_of(&configuration),
        saved: configuration.saved,
        store_bank: configuration.store_bank,
    })
}

fn undo(volume: &Volume<'_>, entry: Entry) -> UndoCopy {
    let content = volume
        .read(&entry)
        .map_err(|error| error.to_string())
        .and_then(|raw| match StateArchive::open(&raw) {
            Ok(archive) => Ok(UndoContent {
                sha256: sha256_hex(&raw),
                saved: archive
                    .configuration()
                    .ok()
                    .and_then(|configuration| configuration.saved),
                raw,
            }),
            Err(error) => Err(error.to_string()),
        });
    UndoCopy { entry, content }
}
