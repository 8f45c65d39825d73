//! The partitions that the loader looks into.
//!
//! Where the first entry of the MBR is the protective one, the primary GPT counts and no other: the
//! header in sector 1 with its checksum, and the entries with theirs, of whatever size the header says
//! (`bootlib/gpt.c`). Where that is not whole, and where there is no GPT, the MBR's own entries count.
//! Logical partitions are as the other reader of tables has them, which follows `bootlib/mbr.c`.

use crate::bytes::u32_at;
use crate::disk::PartitionTable;
use crate::disk::partition::{Guid, Health, PartitionKind, TableKind};
use libdeflater::crc32;

use super::{Refused, Sectors, not};

/// A partition of a type that the loader looks into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) number: u32,
    pub(super) first: u64,
}

const SIGNATURE: &[u8] = b"EFI PART";
/// Bytes of the fields of a header.
const HEADER_BYTES: usize = 92;
/// The entries of every real table take 16 KiB; this bounds memory.
const ENTRIES_BYTES_MAX: u64 = 4 << 20;
const ENTRY_BYTES_MIN: usize = 128;
/// Where the MBR's four entries stand, and how long each is.
const MBR_ENTRIES: std::ops::Range<usize> = 0x1be..0x1fe;
const MBR_ENTRY_BYTES: usize = 16;
const MBR_PROTECTIVE: u8 = 0xee;

/// What the loader looks into.
#[derive(Debug)]
pub(super) struct Listing {
    /// By their numbers.
    pub(super) partitions: Vec<Partition>,
    /// Why the loader finds none of them as the disk is; then they are those that it would find once the
    /// table is repaired.
    pub(super) not_found: Option<String>,
}

/// The partitions that the loader looks into.
pub(super) fn partitions(disk: Sectors<'_>, known: &PartitionTable) -> Result<Listing, Refused> {
    let mut not_found = None;
    let mut found = match known.kind {
        TableKind::Gpt { ref primary, .. } => match behind_protective_mbr(disk) {
            Err(unread @ Refused::Unread { .. }) if *primary == Health::Good => {
                return Err(unread);
            }
            // Where the primary is damaged, a warning says so already.
            found => found.unwrap_or_default(),
        },
        TableKind::Mbr => Vec::new(),
    };
    if found.is_empty() {
        found = listed(disk, known);
        not_found = why_not_found(known);
    }
    found.sort_by_key(|partition| partition.number);
    Ok(Listing {
        partitions: found,
        not_found,
    })
}

/// Why the loader lists no partition of a disk whose GPT the other reader has read.
fn why_not_found(known: &PartitionTable) -> Option<String> {
    match &known.kind {
        TableKind::Mbr => None,
        TableKind::Gpt {
            primary: Health::Damaged(_),
            ..
        } => Some(
            "ESXi's loader does not find it: it reads the primary GPT only, which is damaged"
                .into(),
        ),
        TableKind::Gpt { .. } => {
            Some("ESXi's loader does not find it: it does not accept this GPT".into())
        }
    }
}

/// Those that the other reader lists.
pub(super) fn listed(disk: Sectors<'_>, known: &PartitionTable) -> Vec<Partition> {
    let sector = u64::from(disk.bytes);
    let candidates = known.partitions.iter();
    candidates
        .filter(|one| one.kind.may_hold_bank())
        .map(|one| Partition {
            number: one.number,
            first: one.start.0 / sector,
        })
        .collect()
}

fn behind_protective_mbr(disk: Sectors<'_>) -> Result<Vec<Partition>, Refused> {
    let sector = disk.read(0, 1, "the MBR")?;
    let entries: Vec<&[u8]> = sector[MBR_ENTRIES].chunks_exact(MBR_ENTRY_BYTES).collect();
    let first = entries[0];
    if (first[0], first[4], u32_at(first, 8)) == (0, MBR_PROTECTIVE, 1) {
        match in_gpt(disk) {
            Ok(partitions) => return Ok(partitions),
            Err(unread @ Refused::Unread { .. }) => return Err(unread),
            Err(why) => log::debug!("the loader does not accept the primary GPT: {why}"),
        }
    }
    let own = (1..).zip(entries);
    Ok(own
        .filter(|(_, entry)| PartitionKind::from_mbr(entry[4]).may_hold_bank())
        .map(|(number, entry)| Partition {
            number,
            first: u64::from(u32_at(entry, 8)),
        })
        .collect())
}

fn in_gpt(disk: Sectors<'_>) -> Result<Vec<Partition>, Refused> {
    let header = disk.read(1, 1, "the GPT's header")?;
    if !header.starts_with(SIGNATURE) {
        return Err(not("no signature"));
    }
    if (u32_at(&header, 24), u32_at(&header, 28)) != (1, 0) {
        return Err(not("a header that says it is for another sector"));
    }
    let header_bytes = u32_at(&header, 12) as usize;
    let Some(summed) = header.get(..header_bytes.max(HEADER_BYTES)) else {
        return Err(not(format!("a header of {header_bytes} bytes")));
    };
    let mut summed = summed[..header_bytes.min(summed.len())].to_vec();
    let recorded = u32_at(&header, 16);
    if let Some(field) = summed.get_mut(16..20) {
        field.fill(0);
    }
    if crc32(&summed) != recorded {
        return Err(not("the header's checksum is wrong"));
    }
    let (count, entry_bytes) = (u32_at(&header, 80), u32_at(&header, 84) as usize);
    let bytes = u64::from(count) * entry_bytes as u64;
    if entry_bytes < ENTRY_BYTES_MIN || bytes > ENTRIES_BYTES_MAX {
        return Err(not(format!("{count} entries of {entry_bytes} bytes")));
    }
    let sectors = bytes.div_ceil(u64::from(disk.bytes));
    let entries = disk.read(u64_at(&header, 72), sectors, "the GPT's entries")?;
    let entries = &entries[..usize::try_from(bytes).unwrap_or_default()];
    if crc32(entries) != u32_at(&header, 88) {
        return Err(not("the entries' checksum is wrong"));
    }
    let numbered = (1..).zip(entries.chunks_exact(entry_bytes));
    Ok(numbered
        .filter(|(_, entry)| kind(entry).is_some_and(|kind| kind.may_hold_bank()))
        .map(|(number, entry)| Partition {
            number,
            first: u64_at(entry, 32),
        })
        .collect())
}

fn kind(entry: &[u8]) -> Option<PartitionKind> {
    let guid = Guid::from_efi_bytes(*entry.first_chunk()?);
    Some(PartitionKind::from_gpt(guid))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
