//! What ESXi's boot loader will do with a disk: which banks it finds, which one it boots, and which
//! archives it hands to ESXi. Read with the loader's own rules, and no others.
//!
//! The other readers of this program ask whether a disk is sound, because it is going to be written.
//! The loader does not ask: it boots from volumes that are damaged, marked, cut short or larger than
//! their partition, and it takes the first directory entry of a name, whatever that is. What it takes is
//! what ESXi runs with. So success is claimed by what is read here, and a partition that the loader
//! takes and the other readers do not is a suspect.
//!
//! Not in scope: the kernel and the signatures of its modules. Sources: esx-boot `safeboot/bootbank.c`,
//! `safeboot/vmfat.c`, `bootlib/gpt.c`, `bootlib/mbr.c`, `bootlib/file.c`, `mboot/load.c`, `libfat/`.

mod fat;
mod table;

use std::io;

use thiserror::Error;

use crate::bank::{BootCfg, VmfatMarker};
use crate::disk::{BlockDevice, ByteOffset, PartitionTable};
use crate::fat::ShortName;
use fat::Volume;

/// What the loader finds on a disk.
#[derive(Debug, Clone, Default)]
pub struct LoaderView {
    /// The partitions that it takes for banks, by their numbers. It boots one of them, by its rule.
    pub banks: Vec<LoaderBank>,
    /// Partitions of a type that it looks into, and that cannot be read as far as it would read them.
    pub unread: Vec<(u32, String)>,
    /// Why the loader finds none of the banks as the disk is.
    pub not_found: Option<String>,
}

/// A bank as the loader has it.
#[derive(Debug, Clone)]
pub struct LoaderBank {
    /// Number of its partition.
    pub partition: u32,
    /// Its boot.cfg.
    pub boot_cfg: BootCfg,
    /// The bytes of that.
    pub boot_cfg_bytes: Vec<u8>,
    /// The archives that boot.cfg has it load, in that order.
    pub archives: Vec<LoadedArchive>,
    /// Files at which its start ends with an error of the loader, in the order of loading, and why.
    pub ends: Vec<(ShortName, String)>,
}

/// An archive that the loader hands to ESXi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedArchive {
    /// The name by which the loader finds it.
    pub name: ShortName,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl LoaderView {
    /// A bank by the number of its partition.
    pub fn bank(&self, partition: u32) -> Option<&LoaderBank> {
        self.banks.iter().find(|bank| bank.partition == partition)
    }
}

/// Why the loader does not take something.
#[derive(Debug, Error)]
enum Refused {
    /// It is not what it should be.
    #[error("{0}")]
    Is(String),
    /// The disk does not let it be read, or has no such bytes: an image may be cut short.
    #[error("reading {what} at {at}: {source}")]
    Unread {
        what: &'static str,
        at: ByteOffset,
        source: io::Error,
    },
}

fn not(why: impl Into<String>) -> Refused {
    Refused::Is(why.into())
}

/// A disk in the sectors that its table counts.
#[derive(Debug, Clone, Copy)]
struct Sectors<'d> {
    device: &'d dyn BlockDevice,
    bytes: u32,
}

impl Sectors<'_> {
    fn read(&self, sector: u64, count: u64, what: &'static str) -> Result<Vec<u8>, Refused> {
        let bytes = u64::from(self.bytes);
        let at = ByteOffset(sector.saturating_mul(bytes));
        let length = count.saturating_mul(bytes);
        if at.0.saturating_add(length) > self.device.size() {
            let source = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the disk or image ends before",
            );
            return Err(Refused::Unread { what, at, source });
        }
        let mut content = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let read = self.device.read_at(at, &mut content);
        read.map_err(|source| Refused::Unread { what, at, source })?;
        Ok(content)
    }
}

/// Looks at a disk as the loader does. `known` are the partitions that were found by the table's
/// other reader: what the loader has besides the GPT's own list.
pub fn look(device: &dyn BlockDevice, known: &PartitionTable) -> LoaderView {
    let sectors = Sectors {
        device,
        bytes: known.sector_size.bytes(),
    };
    let mut view = LoaderView::default();
    let partitions = match table::partitions(sectors, known) {
        Ok(listing) => {
            view.not_found = listing.not_found;
            listing.partitions
        }
        Err(why) => {
            let all = table::listed(sectors, known);
            let why = why.to_string();
            view.unread
                .extend(all.iter().map(|one| (one.number, why.clone())));
            all
        }
    };
    for partition in partitions {
        match bank(sectors, partition.first) {
            Ok(bank) => view.banks.push(LoaderBank {
                partition: partition.number,
                ..bank
            }),
            Err(why @ Refused::Unread { .. }) => {
                view.unread.push((partition.number, why.to_string()));
            }
            Err(Refused::Is(why)) => log::debug!("partition {}: {why}", partition.number),
        }
    }
    view
}

/// The bank that begins at a sector.
fn bank(disk: Sectors<'_>, first: u64) -> Result<LoaderBank, Refused> {
    let second = disk.read(first.saturating_add(1), 1, "the second sector")?;
    VmfatMarker::parse(&second).ok_or_else(|| not("it does not have VMware's mark"))?;
    let volume = Volume::open(disk, first)?;
    let bytes = volume
        .load(ShortName::BOOT_CFG)?
        .ok_or_else(|| not("it has no boot.cfg"))?;
    let boot_cfg = BootCfg::parse(&bytes).map_err(|error| not(error.to_string()))?;
    let mut bank = LoaderBank {
        partition: 0,
        boot_cfg,
        boot_cfg_bytes: bytes,
        archives: Vec::new(),
        ends: Vec::new(),
    };
    load_modules(&volume, &mut bank)?;
    Ok(bank)
}

/// What the start of a bank loads. The first file that is missing ends it; the others are still
/// looked for, because a repair may bring the first.
fn load_modules(volume: &Volume<'_>, bank: &mut LoaderBank) -> Result<(), Refused> {
    let load = match &bank.boot_cfg.load {
        Ok(load) => load,
        Err(error) => {
            bank.ends.push((ShortName::BOOT_CFG, error.to_string()));
            return Ok(());
        }
    };
    if load.kernel.is_none() {
        bank.ends
            .push((ShortName::BOOT_CFG, "its boot.cfg names no kernel".into()));
    } else if load.skip {
        let why = "its boot.cfg says skip=1, which ends the start".into();
        bank.ends.push((ShortName::BOOT_CFG, why));
    }
    for file in load.kernel.iter().chain(&load.modules) {
        let file = &with_prefix(load.prefix.as_deref(), file);
        let name = name_of(file);
        let loaded = match is_archive(name) {
            true => volume.load(name).map(|bytes| {
                bank.archives
                    .extend(bytes.clone().map(|bytes| LoadedArchive { name, bytes }));
                bytes.is_some()
            }),
            false => volume.has(name),
        };
        let why = match loaded {
            Ok(true) => continue,
            Ok(false) => format!("{file}, which its boot.cfg loads, is missing"),
            Err(Refused::Is(why)) => format!("{file}: {why}"),
            Err(unread) => return Err(unread),
        };
        bank.ends.push((name, why));
    }
    Ok(())
}

/// The path of a file that boot.cfg names: `prefix=` goes before what has neither a leading slash nor a scheme
/// (`mboot/config.c`).
fn with_prefix(prefix: Option<&str>, file: &str) -> String {
    let is_absolute = file.starts_with('/') || file.contains("://");
    match prefix.filter(|prefix| !prefix.is_empty() && !is_absolute) {
        Some(prefix) => format!("{prefix}/{file}"),
        None => file.to_owned(),
    }
}

fn is_archive(name: ShortName) -> bool {
    [ShortName::STATE, ShortName::LOCAL, ShortName::ONETIME].contains(&name)
}

/// The name by which the loader looks for a file: leading slashes gone, no blanks, eight characters in
/// front of the first dot and three behind it, in capitals (`libfat/fatname.c`).
pub fn name_of(path: &str) -> ShortName {
    let path = path.trim_start_matches('/');
    let (base, extension) = path.split_once('.').unwrap_or((path, ""));
    let mut raw = [b' '; 11];
    for (part, place) in [(base, 0..8), (extension, 8..11)] {
        let letters = part.bytes().filter(|byte| *byte != b' ');
        for (to, letter) in raw[place].iter_mut().zip(letters) {
            *to = letter.to_ascii_uppercase();
        }
    }
    ShortName::from_raw(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_as_the_loader_makes_them() {
        for (path, name) in [
            ("state.tgz", b"STATE   TGZ"),
            ("/State.TGZ", b"STATE   TGZ"),
            ("//onetime.tgz", b"ONETIME TGZ"),
            ("averylongname.tar.gz", b"AVERYLONTAR"),
            ("kernel", b"KERNEL     "),
        ] {
            assert_eq!(name_of(path).raw(), name, "{path}");
        }
    }
}
