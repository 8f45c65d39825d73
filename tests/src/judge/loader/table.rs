//! Partitions as the loader finds them (`bootlib/volume.c`, `gpt.c`, `mbr.c`).
//!
//! A GPT counts only where the first entry of the MBR is the protective one, and only the primary:
//! the header in sector 1 with its checksum, then the entries with theirs. A GPT whose entries are
//! wrong leaves the MBR's own partitions. An MBR needs no 55AA; each extended boot record does.

use anyhow::{Context, Result, bail, ensure};

use super::Disk;

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    pub number: u32,
    /// Its first sector.
    pub first: u64,
    /// Whether the loader looks for FAT in one of its type.
    pub may_be_fat: bool,
}

/// Basic data and EFI system partition, as GPT stores their GUIDs.
const FAT_GUIDS: [[u8; 16]; 2] = [
    [
        0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99,
        0xc7,
    ],
    [
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9,
        0x3b,
    ],
];

/// MBR types in which the loader looks for FAT (`safeboot/vmfat.c`): FAT12, small FAT16, FAT16,
/// FAT32, FAT32 and FAT16 with LBA, EFI.
const FAT_TYPES: [u8; 7] = [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e, 0xef];

const EXTENDED_TYPES: [u8; 3] = [0x05, 0x0f, 0x85];
const PROTECTIVE_TYPE: u8 = 0xee;

/// The most bytes of entries that firmware has memory for.
const MOST_ENTRY_BYTES: u64 = 256 << 20;

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// An entry of an MBR or of an extended boot record.
#[derive(Debug, Clone, Copy)]
struct Entry {
    flags: u8,
    kind: u8,
    first: u32,
    sectors: u32,
}

impl Entry {
    /// Entry 1 to 4.
    fn of(record: &[u8], number: usize) -> Self {
        let entry = &record[0x1be + (number - 1) * 16..][..16];
        Self {
            flags: entry[0],
            kind: entry[4],
            first: le32(entry, 8),
            sectors: le32(entry, 12),
        }
    }

    fn is_protective(self) -> bool {
        self.kind == PROTECTIVE_TYPE && self.first == 1 && self.flags == 0
    }

    fn is_extended(self) -> bool {
        EXTENDED_TYPES.contains(&self.kind)
    }

    fn partition(self, number: u32, first: u32) -> Partition {
        Partition {
            number,
            first: u64::from(first),
            may_be_fat: FAT_TYPES.contains(&self.kind),
        }
    }
}

/// The highest number that a partition may have; 0: there are none.
pub(super) fn highest(disk: Disk<'_>) -> u32 {
    let Ok(mbr) = disk.read(0, 1) else {
        return 0;
    };
    if Entry::of(&mbr, 1).is_protective() {
        return Header::read(disk).map_or(0, |header| header.entries);
    }
    let mut highest = 4;
    // What ends the chain, its end or a damaged record, does not matter here.
    let _ = logical(disk, &mbr, |_, _, _| {
        highest += 1;
        None::<()>
    });
    highest
}

/// A partition by its number.
pub(super) fn partition(disk: Disk<'_>, number: u32) -> Result<Partition> {
    let mbr = disk.read(0, 1)?;
    if Entry::of(&mbr, 1).is_protective() {
        match in_gpt(disk, number)? {
            Some(partition) => return Ok(partition),
            None => return in_mbr(disk, &mbr, number),
        }
    }
    in_mbr(disk, &mbr, number)
}

/// The fields of a GPT header that count.
struct Header {
    entries_at: u64,
    entries: u32,
    entry_bytes: u32,
    checksum: u32,
}

impl Header {
    /// `None`: it is none, or its checksum is wrong.
    fn read(disk: Disk<'_>) -> Option<Self> {
        let mut header = disk.read(1, 1).ok()?;
        if !header.starts_with(b"EFI PART") || le64(&header, 24) != 1 {
            return None;
        }
        let checksum = le32(&header, 16);
        header[16..20].fill(0);
        let length = usize::try_from(le32(&header, 12)).ok()?;
        let correct = header.get(..length).map(crc32) == Some(checksum);
        correct.then(|| Self {
            entries_at: le64(&header, 72),
            entries: le32(&header, 80),
            entry_bytes: le32(&header, 84),
            checksum: le32(&header, 88),
        })
    }
}

/// `None`: no GPT counts, or it has no such number.
fn in_gpt(disk: Disk<'_>, number: u32) -> Result<Option<Partition>> {
    let Some(header) = Header::read(disk) else {
        return Ok(None);
    };
    if number > header.entries {
        return Ok(None);
    }
    // In 32 bits, as the loader multiplies.
    let bytes = header.entries.wrapping_mul(header.entry_bytes);
    let sectors = u64::from(bytes).div_ceil(disk.sector_bytes() as u64);
    ensure!(
        u64::from(bytes) <= MOST_ENTRY_BYTES,
        "no memory for {bytes} bytes of entries"
    );
    let table = disk.read(header.entries_at, sectors)?;
    if crc32(&table[..bytes as usize]) != header.checksum {
        return Ok(None);
    }
    let at = (number - 1) as usize * header.entry_bytes as usize;
    let entry = table
        .get(at..at + 48)
        .context("an entry beyond its table")?;
    Ok(Some(Partition {
        number,
        first: le64(entry, 32),
        may_be_fat: FAT_GUIDS.iter().any(|guid| entry[..16] == *guid),
    }))
}

fn in_mbr(disk: Disk<'_>, mbr: &[u8], number: u32) -> Result<Partition> {
    if let Ok(primary @ 1..=4) = usize::try_from(number) {
        let entry = Entry::of(mbr, primary);
        return Ok(entry.partition(number, entry.first));
    }
    let mut next = 5;
    let found = logical(disk, mbr, |entry, record, extended| {
        next += 1;
        (next - 1 == number).then(|| placed(entry, number, record, extended))
    })?;
    found.context("no such logical partition")?
}

/// A logical partition must lie in the extended one; all in 32 bits.
fn placed(entry: Entry, number: u32, record: u32, extended: Entry) -> Result<Partition> {
    let first = entry.first.wrapping_add(record);
    let (end, limit) = (
        first.wrapping_add(entry.sectors),
        extended.first.wrapping_add(extended.sectors),
    );
    let inside = first >= extended.first && first < limit && end > extended.first && end <= limit;
    ensure!(inside, "it lies outside of the extended partition");
    Ok(entry.partition(number, first))
}

/// Calls `each(entry, sector of its record, extended partition)` for the logical partitions, until
/// it gives something.
fn logical<T>(
    disk: Disk<'_>,
    mbr: &[u8],
    mut each: impl FnMut(Entry, u32, Entry) -> Option<T>,
) -> Result<Option<T>> {
    let primaries = (1..=4).map(|number| Entry::of(mbr, number));
    let Some(extended) = primaries.into_iter().find(|entry| entry.is_extended()) else {
        return Ok(None);
    };
    let mut offset = 0_u32;
    // The loader follows a chain that closes on itself for ever; a machine that hangs starts nothing.
    for _ in 0..4096 {
        let at = offset.wrapping_add(extended.first);
        let record = disk.read(u64::from(at), 1)?;
        ensure!(
            record[0x1fe..0x200] == [0x55, 0xaa],
            "no extended boot record"
        );
        let entry = Entry::of(&record, 1);
        ensure!(!entry.is_extended(), "an extended partition in another");
        if let Some(found) = each(entry, at, extended) {
            return Ok(Some(found));
        }
        // The next record's place is counted from the extended partition.
        offset = Entry::of(&record, 2).first;
        if offset == 0 {
            return Ok(None);
        }
    }
    bail!("the chain of extended boot records has no end")
}
