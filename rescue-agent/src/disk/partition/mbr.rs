//! The classic boot record, and the logical partitions of its extended partition.
//!
//! Layout of a boot record (esx-boot `include/mbr.h`; the same in every system): the signature of the
//! disk at byte 440, four entries of 16 bytes from byte 446, 0x55 0xAA at byte 510. Only entries of
//! a record with that mark, and with a flag that is 0x00 or 0x80 in every entry, are a table: the
//! first sector of a FAT volume ends with the mark as well, and has code where a table has flags.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use thiserror::Error;

use super::{
    Partition, PartitionKind, PartitionProblem, PartitionTable, TableKind, TableWarning,
    flag_problems, range_of,
};
use crate::bytes::u32_at;
use crate::disk::device::{BlockDevice, ByteOffset};

/// The part of sector 0, or of an extended boot record, that holds the table.
pub(super) const BOOT_RECORD_BYTES: usize = 512;
/// Type of the entry that says "this disk has a GPT".
pub(super) const TYPE_PROTECTIVE: u8 = 0xEE;
/// Where the disk's signature lies.
const SIGNATURE_AT: usize = 440;
/// Where the four entries begin, and how long each is.
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
/// Where the mark of a boot record lies, and what it is.
const MARK_AT: usize = 510;
const MARK: [u8; 2] = [0x55, 0xAA];
/// The flags an entry may have: not to boot from, and to boot from.
const FLAGS: [u8; 2] = [0x00, 0x80];
/// More logical partitions than any system supports; bounds the walk along their records.
pub(super) const MBR_LOGICALS_MAX: u32 = 128;
/// The number of the first logical partition.
const MBR_FIRST_LOGICAL: u32 = 5;

/// A boot record: sector 0, or an extended boot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootRecord {
    disk_signature: u32,
    entries: [Entry; 4],
}

/// An entry of a boot record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    flag: u8,
    sys: u8,
    start: u32,
    sectors: u32,
}

/// Why a sector is not a boot record with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum NoRecord {
    /// Without its mark.
    #[error("invalid MBR signature")]
    Unmarked,
    /// With code, or anything else, where the entries should be.
    #[error("partition has invalid boot flag")]
    NoTable,
}

impl BootRecord {
    /// Reads sector 0.
    pub(super) fn parse(sector: &[u8; BOOT_RECORD_BYTES]) -> Result<Self, NoRecord> {
        Self::with_entries(sector, 4)
    }

    /// Reads an extended boot record, of which only the first two entries are in use.
    fn parse_extended(sector: &[u8; BOOT_RECORD_BYTES]) -> Result<Self, NoRecord> {
        Self::with_entries(sector, 2)
    }

    fn with_entries(sector: &[u8; BOOT_RECORD_BYTES], used: usize) -> Result<Self, NoRecord> {
        if sector[MARK_AT..] != MARK {
            return Err(NoRecord::Unmarked);
        }
        let mut entries = [Entry::default(); 4];
        for (entry, number) in entries.iter_mut().zip(0..used) {
            *entry = Entry::parse(sector, ENTRIES_AT + number * ENTRY_BYTES);
        }
        if entries.iter().any(|entry| !FLAGS.contains(&entry.flag)) {
            return Err(NoRecord::NoTable);
        }
        Ok(Self {
            disk_signature: u32_at(sector, SIGNATURE_AT),
            entries,
        })
    }

    /// The types of the four entries; 0 is that of an unused one.
    pub(super) fn types(&self) -> [u8; 4] {
        self.entries.map(|entry| entry.sys)
    }
}

impl Entry {
    fn parse(sector: &[u8; BOOT_RECORD_BYTES], at: usize) -> Self {
        Self {
            flag: sector[at],
            sys: sector[at + 4],
            start: u32_at(sector, at + 8),
            sectors: u32_at(sector, at + 12),
        }
    }

    fn is_used(&self) -> bool {
        self.sys != 0
    }

    /// Whether it is a container of further partitions, hidden ones included.
    fn is_extended(&self) -> bool {
        matches!(self.sys, 0x05 | 0x0F | 0x85 | 0xC5 | 0xD5)
    }
}

pub(super) fn read(device: &dyn BlockDevice, record: &BootRecord) -> PartitionTable {
    let sector = u64::from(device.sector_size().bytes());
    let mut partitions: Vec<_> = (1..)
        .zip(&record.entries)
        .filter(|(_, entry)| entry.is_used())
        .map(|(number, entry)| mbr_partition(number, entry, 0, sector))
        .collect();
    let mut taken = Vec::new();
    taken.push(0..sector);
    let mut warnings = Vec::new();
    // Only the first counts, as for ESXi's loader and for Linux.
    let extended = partitions
        .iter()
        .find(|partition| partition.kind == PartitionKind::Extended)
        .cloned();
    if let Some(extended) = extended {
        let chain = walk_logicals(device, &extended);
        taken.extend(chain.records);
        partitions.extend(chain.partitions);
        warnings.extend(chain.broken);
    }
    let ends = partitions.iter().map(|one| range_of(one).end);
    if let Some(promised) = ends.max().filter(|end| *end > device.size()) {
        let device = device.size();
        warnings.push(TableWarning::CutShort { promised, device });
    }
    flag_problems(device.size(), &taken, &mut partitions);
    PartitionTable {
        kind: TableKind::Mbr,
        sector_size: device.sector_size(),
        disk_signature: Some(record.disk_signature),
        partitions,
        warnings,
    }
}

/// `base` is the sector that the entry's start counts from.
fn mbr_partition(number: u32, entry: &Entry, base: u64, sector: u64) -> Partition {
    // 34-bit sector numbers times 4096 fit into 64 bits.
    Partition {
        number,
        start: ByteOffset((base + u64::from(entry.start)) * sector),
        length: u64::from(entry.sectors) * sector,
        kind: PartitionKind::from_mbr(entry.sys),
        guid: None,
        name: String::new(),
        problem: None,
    }
}

/// The logical partitions, as far as their records could be followed.
#[derive(Default)]
struct LogicalChain {
    partitions: Vec<Partition>,
    /// The sectors of the extended boot records, in bytes.
    records: Vec<Range<u64>>,
    broken: Option<TableWarning>,
}

/// Follows the extended boot records. Every record counts a number, even if its entry is unused
/// (esx-boot `bootlib/mbr.c`).
fn walk_logicals(device: &dyn BlockDevice, extended: &Partition) -> LogicalChain {
    let mut chain = LogicalChain::default();
    let mut seen = BTreeSet::new();
    let mut relative = 0;
    for number in MBR_FIRST_LOGICAL.. {
        let step = if number - MBR_FIRST_LOGICAL >= MBR_LOGICALS_MAX {
            Err(NoLogical::TooMany)
        } else if seen.insert(relative) {
            read_logical(device, extended, number, relative)
        } else {
            Err(NoLogical::Loop)
        };
        match step {
            Ok(logical) => {
                chain.records.push(logical.record);
                chain.partitions.extend(logical.partition);
                relative = logical.next;
            }
            Err(why) => {
                let reason = why.to_string();
                chain.broken = Some(TableWarning::BrokenChain { number, reason });
                break;
            }
        }
        if relative == 0 {
            break;
        }
    }
    chain
}

/// One extended boot record.
struct LogicalRecord {
    record: Range<u64>,
    partition: Option<Partition>,
    /// Where the next record lies, in sectors from the start of the extended partition; 0: none.
    next: u32,
}

/// Why the chain of extended boot records could not be followed to its end.
#[derive(Debug, Error)]
enum NoLogical {
    /// There are more than any system supports.
    #[error("more than {} logical partitions", MBR_LOGICALS_MAX)]
    TooMany,
    /// It leads back into itself.
    #[error("its record was met before: the chain is a loop")]
    Loop,
    /// It leads to where no record can be.
    #[error("its record lies outside the extended partition or the device")]
    Outside,
    /// The device failed.
    #[error("its record at byte {at} cannot be read: {source}")]
    Unreadable {
        /// Where it lies.
        at: u64,
        /// The device's answer.
        source: io::Error,
    },
    /// It leads to something else.
    #[error("its record at byte {at}: {source}")]
    NoRecord {
        /// Where it lies.
        at: u64,
        /// Why that is no record.
        source: NoRecord,
    },
    /// A record has an extended partition where the logical one should be.
    #[error("its record at byte {at} nests an extended partition")]
    Nested {
        /// Where it lies.
        at: u64,
    },
}

fn read_logical(
    device: &dyn BlockDevice,
    extended: &Partition,
    number: u32,
    relative: u32,
) -> Result<LogicalRecord, NoLogical> {
    let sector = u64::from(device.sector_size().bytes());
    let within = u64::from(relative) * sector;
    let at = extended.start.0 + within;
    let end = at + sector;
    if within + sector > extended.length || end > device.size() {
        return Err(NoLogical::Outside);
    }
    let mut bytes = [0; BOOT_RECORD_BYTES];
    device
        .read_at(ByteOffset(at), &mut bytes)
        .map_err(|source| NoLogical::Unreadable { at, source })?;
    let record =
        BootRecord::parse_extended(&bytes).map_err(|source| NoLogical::NoRecord { at, source })?;
    let [entry, next, ..] = &record.entries;
    if entry.is_extended() {
        return Err(NoLogical::Nested { at });
    }
    let partition = entry.is_used().then(|| {
        let mut partition = mbr_partition(number, entry, at / sector, sector);
        let extended_end = extended.start.0 + extended.length;
        if partition.start.0 + partition.length > extended_end {
            partition.problem = Some(PartitionProblem::OutsideExtended);
        }
        partition
    });
    Ok(LogicalRecord {
        record: at..end,
        partition,
        next: next.start,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record of these entries: (flag, type, start, sectors).
    fn record(entries: &[(u8, u8, u32, u32)], signature: u32, mark: [u8; 2]) -> [u8; 512] {
        let mut sector = [0x90; 512];
        sector[440..444].copy_from_slice(&signature.to_le_bytes());
        for (index, (flag, sys, start, sectors)) in entries.iter().enumerate() {
            let at = 446 + 16 * index;
            (sector[at], sector[at + 4]) = (*flag, *sys);
            sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector[510..].copy_from_slice(&mark);
        sector
    }

    fn entries(record: &BootRecord) -> Vec<(u8, u8, u32, u32)> {
        let fields = |entry: &Entry| (entry.flag, entry.sys, entry.start, entry.sectors);
        record.entries.iter().map(fields).collect()
    }

    #[test]
    fn the_first_sector_of_a_fat_volume_is_no_table() {
        let code = [
            (0x00, 6, 63, 100),
            (0x33, 0xC0, 1, 1),
            (0, 0, 0, 0),
            (0, 0, 0, 0),
        ];
        let found = BootRecord::parse(&record(&code, 0, MARK));
        assert_eq!(found, Err(NoRecord::NoTable));
        // Its mark is looked at first.
        let found = BootRecord::parse(&record(&code, 0, [0xAA, 0x55]));
        assert_eq!(found, Err(NoRecord::Unmarked));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            written in prop::collection::vec(
                (prop::sample::select(&FLAGS[..]), any::<u8>(), any::<u32>(), any::<u32>()), 4),
            signature in any::<u32>(),
            flag in any::<u8>(),
            place in 0..4usize,
        ) {
            let found = BootRecord::parse(&record(&written, signature, MARK)).unwrap();
            prop_assert_eq!(entries(&found), written.clone());
            prop_assert_eq!(found.disk_signature, signature);
            // A wrong flag refuses the record, but not where an extended record has no entries.
            let mut spoilt = written.clone();
            spoilt[place].0 = flag;
            let sector = record(&spoilt, signature, MARK);
            prop_assert_eq!(BootRecord::parse(&sector).is_ok(), FLAGS.contains(&flag));
            let accepted = place > 1 || FLAGS.contains(&flag);
            prop_assert_eq!(BootRecord::parse_extended(&sector).is_ok(), accepted);
            if let Ok(extended) = BootRecord::parse_extended(&sector) {
                prop_assert_eq!(&entries(&extended)[..2], &spoilt[..2]);
                prop_assert_eq!(&entries(&extended)[2..], &[(0, 0, 0, 0); 2]);
            }
        }
    }
}
