//! The classic boot record, and the logical partitions of its extended partition.
//!
//! Of `mbrman` only the boot record is used: its walk along the extended boot records has no
//! bound and can overflow, so the walk is done here.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::ops::Range;

use mbrman::{MBRHeader, MBRPartitionEntry};

use super::{
    BOOT_RECORD_BYTES, Partition, PartitionKind, PartitionProblem, PartitionTable, TableKind,
    TableWarning, flag_problems,
};
use crate::disk::device::{BlockDevice, ByteOffset};

/// Entries 3 and 4 of a boot record: unused in an extended boot record, so not looked at there.
const UNUSED_EBR_ENTRIES: Range<usize> = 446 + 2 * 16..446 + 4 * 16;
/// More logical partitions than any system supports; bounds the walk along their records.
pub(super) const MBR_LOGICALS_MAX: u32 = 128;
/// The number of the first logical partition.
const MBR_FIRST_LOGICAL: u32 = 5;

pub(super) fn read(device: &dyn BlockDevice, header: &MBRHeader) -> PartitionTable {
    let sector = u64::from(device.sector_size().bytes());
    let mut partitions: Vec<_> = (1..)
        .zip(header.iter())
        .filter(|(_, (_, entry))| entry.is_used())
        .map(|(number, (_, entry))| mbr_partition(number, entry, 0, sector))
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
    flag_problems(device.size(), &taken, &mut partitions);
    PartitionTable {
        kind: TableKind::Mbr,
        sector_size: device.sector_size(),
        disk_signature: Some(u32::from_le_bytes(header.disk_signature)),
        partitions,
        warnings,
    }
}

/// `base` is the sector that the entry's start counts from.
fn mbr_partition(number: u32, entry: &MBRPartitionEntry, base: u64, sector: u64) -> Partition {
    // 34-bit sector numbers times 4096 fit into 64 bits.
    Partition {
        number,
        start: ByteOffset((base + u64::from(entry.starting_lba)) * sector),
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
            Err(format!("more than {MBR_LOGICALS_MAX} logical partitions"))
        } else if seen.insert(relative) {
            read_logical(device, extended, number, relative)
        } else {
            Err("its record was met before: the chain is a loop".to_owned())
        };
        match step {
            Ok(logical) => {
                chain.records.push(logical.record);
                chain.partitions.extend(logical.partition);
                relative = logical.next;
            }
            Err(reason) => {
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

fn read_logical(
    device: &dyn BlockDevice,
    extended: &Partition,
    number: u32,
    relative: u32,
) -> Result<LogicalRecord, String> {
    let sector = u64::from(device.sector_size().bytes());
    let within = u64::from(relative) * sector;
    let at = extended.start.0 + within;
    let end = at + sector;
    if within + sector > extended.length || end > device.size() {
        return Err("its record lies outside the extended partition or the device".to_owned());
    }
    let mut record = [0; BOOT_RECORD_BYTES];
    device
        .read_at(ByteOffset(at), &mut record)
        .map_err(|error| format!("its record at byte {at} cannot be read: {error}"))?;
    record[UNUSED_EBR_ENTRIES].fill(0);
    let header = MBRHeader::read_from(&mut Cursor::new(record.as_slice()))
        .map_err(|error| format!("its record at byte {at}: {error}"))?;
    let entry = &header.partition_1;
    if entry.is_extended() {
        return Err(format!(
            "its record at byte {at} nests an extended partition"
        ));
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
        next: header.partition_2.starting_lba,
    })
}
