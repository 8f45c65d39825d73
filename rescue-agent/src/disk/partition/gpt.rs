//! GPT: the primary, and the backup if the primary is damaged.
//!
//! Of the `gpt` crate only the header and entry readers are used. Its `GptConfig::open` falls
//! back to the backup if the primary *header* is damaged, but not if the primary's *entries* are,
//! looks for the backup at the end of the device only, and panics on an entry size other than
//! 128.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, HeaderError};

use super::{
    Guid, Health, Partition, PartitionError, PartitionKind, PartitionTable, TableKind,
    TableWarning, flag_problems,
};
use crate::counted::counted;
use crate::disk::device::{BlockDevice, ByteOffset, SectorSize};

/// The only entry size in use, and the only one the `gpt` crate reads.
const GPT_ENTRY_BYTES: u32 = 128;
/// More entries than any tool writes (128, sometimes 256); bounds memory and time.
const GPT_ENTRIES_MAX: u32 = 1024;
/// The primary GPT header lies in the second sector.
const GPT_PRIMARY_LBA: u64 = 1;
/// Bytes that a GPT takes at the start of a disk at least: MBR, header, and 128 entries.
const GPT_BYTES_MIN: u64 = 34 * 512;
/// Bytes read from the device at a time while walking a GPT.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// One whole copy of a GPT.
struct GptCopy {
    block: LogicalBlockSize,
    header: Header,
    entries: BTreeMap<u32, gpt::partition::Partition>,
}

/// Why a copy of a GPT cannot be used.
enum CopyError {
    /// No signature where it should be: perhaps there never was one.
    Absent,
    /// The device ends before the sector where it should be.
    BeyondDevice { lba: u64 },
    /// A GPT, but not a whole one.
    Damaged(String),
    /// A GPT of a kind that is not read here, which need not keep ESXi's loader from reading it.
    Unsupported(String),
}

impl CopyError {
    fn reason(&self) -> String {
        match self {
            Self::Absent => "no GPT header there".to_owned(),
            Self::BeyondDevice { lba } => format!("its sector {lba} is outside the device"),
            Self::Damaged(reason) | Self::Unsupported(reason) => reason.clone(),
        }
    }
}

/// Reads a GPT through its primary or, on a disk with a protective MBR, through its backup.
/// `None` if nothing says that the disk has a GPT. Without a protective entry the backup alone is
/// not believed: it may be left over from an earlier use of the disk.
pub(super) fn read(
    device: &dyn BlockDevice,
    protective: bool,
    first_protective: bool,
) -> Result<Option<PartitionTable>, PartitionError> {
    let mut warnings = Vec::new();
    if !first_protective {
        warnings.push(TableWarning::NotProtected);
    }
    let primary_error = match first_whole(device, |_| Some(GPT_PRIMARY_LBA)) {
        Ok(copy) => {
            let backup = read_copy(device, copy.header.backup_lba, copy.block);
            let other = OtherCopy::Backup(backup);
            return Ok(Some(gpt_table(device, copy, other, warnings)));
        }
        Err(CopyError::Absent | CopyError::BeyondDevice { .. }) if !protective => return Ok(None),
        Err(error) => error,
    };
    let last_lba = |block: LogicalBlockSize| (device.size() / block.as_u64()).checked_sub(1);
    match first_whole(device, last_lba) {
        Ok(copy) if protective => {
            let other = OtherCopy::UnreadPrimary(primary_error);
            Ok(Some(gpt_table(device, copy, other, warnings)))
        }
        Ok(_) => Err(PartitionError::GptUnusable {
            primary: primary_error.reason(),
            backup: "intact, but there is no protective MBR to confirm it".to_owned(),
        }),
        Err(_) if device.size() < GPT_BYTES_MIN => Err(PartitionError::CutShort {
            device: device.size(),
        }),
        Err(error) => Err(PartitionError::GptUnusable {
            primary: primary_error.reason(),
            backup: error.reason(),
        }),
    }
}

/// The first whole copy at `lba`, trying the device's own sector size first and then the other.
/// If there is none, the most telling reason.
fn first_whole(
    device: &dyn BlockDevice,
    lba: impl Fn(LogicalBlockSize) -> Option<u64>,
) -> Result<GptCopy, CopyError> {
    let mut error = CopyError::Absent;
    for block in candidate_blocks(device.sector_size()) {
        match lba(block).map(|lba| read_copy(device, lba, block)) {
            Some(Ok(copy)) => return Ok(copy),
            Some(Err(other @ (CopyError::Damaged(_) | CopyError::Unsupported(_))))
                if matches!(error, CopyError::Absent) =>
            {
                error = other;
            }
            Some(Err(_)) | None => {}
        }
    }
    Err(error)
}

fn candidate_blocks(own: SectorSize) -> [LogicalBlockSize; 2] {
    if own == SectorSize::S4096 {
        [LogicalBlockSize::Lb4096, LogicalBlockSize::Lb512]
    } else {
        [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096]
    }
}

fn read_copy(
    device: &dyn BlockDevice,
    lba: u64,
    block: LogicalBlockSize,
) -> Result<GptCopy, CopyError> {
    let header = read_header(device, lba, block)?;
    check_header(device, &header, lba, block)?;
    let mut view = BufReader::with_capacity(READ_AHEAD_BYTES, DeviceView::new(device, 0));
    let entries = gpt::partition::file_read_partitions(&mut view, &header, block)
        .map_err(|error| CopyError::Damaged(format!("its entries: {error}")))?;
    Ok(GptCopy {
        block,
        header,
        entries,
    })
}

/// Reads the header at `lba` and checks its checksum. The crate looks for a header one block
/// after the start of what it is given, so it is given the device from `lba - 1` on.
fn read_header(
    device: &dyn BlockDevice,
    lba: u64,
    block: LogicalBlockSize,
) -> Result<Header, CopyError> {
    let base = lba
        .checked_sub(1)
        .and_then(|before| before.checked_mul(block.as_u64()))
        .filter(|base| {
            base.checked_add(2 * block.as_u64())
                .is_some_and(|end| end <= device.size())
        })
        .ok_or(CopyError::BeyondDevice { lba })?;
    let mut view = DeviceView::new(device, base);
    gpt::header::read_header_from_arbitrary_device(&mut view, block).map_err(|error| match error {
        HeaderError::InvalidGptSignature => CopyError::Absent,
        HeaderError::InvalidCRC32Checksum => {
            CopyError::Damaged("its header does not match its checksum".to_owned())
        }
        other => CopyError::Damaged(format!("its header cannot be read: {other}")),
    })
}

/// What the crate takes for granted, and what ESXi's loader checks (`bootlib/gpt.c`).
fn check_header(
    device: &dyn BlockDevice,
    header: &Header,
    lba: u64,
    block: LogicalBlockSize,
) -> Result<(), CopyError> {
    if header.current_lba != lba {
        return Err(CopyError::Damaged(format!(
            "its header is in sector {lba} but says it is in sector {}",
            header.current_lba
        )));
    }
    if header.part_size != GPT_ENTRY_BYTES {
        let why = format!(
            "its entries are of {}, {GPT_ENTRY_BYTES} expected",
            counted(header.part_size, "byte", "bytes")
        );
        return Err(match header.part_size > GPT_ENTRY_BYTES {
            true => CopyError::Unsupported(why),
            false => CopyError::Damaged(why),
        });
    }
    if header.num_parts > GPT_ENTRIES_MAX {
        return Err(CopyError::Unsupported(format!(
            "it has {} entries, more than the {GPT_ENTRIES_MAX} supported",
            header.num_parts
        )));
    }
    entry_range(header, block)
        .filter(|range| range.end <= device.size())
        .map(|_| ())
        .ok_or_else(|| CopyError::Damaged("its entries lie outside the device".to_owned()))
}

/// The bytes of the entry array.
fn entry_range(header: &Header, block: LogicalBlockSize) -> Option<Range<u64>> {
    let start = header.part_start.checked_mul(block.as_u64())?;
    let length = u64::from(header.num_parts) * u64::from(header.part_size);
    Some(start..start.checked_add(length)?)
}

/// The copy that is not used.
enum OtherCopy {
    Backup(Result<GptCopy, CopyError>),
    UnreadPrimary(CopyError),
}

fn gpt_table(
    device: &dyn BlockDevice,
    copy: GptCopy,
    other: OtherCopy,
    mut warnings: Vec<TableWarning>,
) -> PartitionTable {
    let mut taken: Vec<_> = copy_ranges(&copy).collect();
    taken.push(0..2 * copy.block.as_u64());
    let kind = match other {
        OtherCopy::Backup(Ok(backup)) => {
            taken.extend(copy_ranges(&backup));
            gpt_kind(Health::Good, Health::Good)
        }
        OtherCopy::Backup(Err(error)) => {
            warnings.push(match error {
                CopyError::BeyondDevice { lba } => TableWarning::CutShort {
                    promised: lba.saturating_add(1).saturating_mul(copy.block.as_u64()),
                    device: device.size(),
                },
                _ => TableWarning::BackupDamaged {
                    reason: error.reason(),
                },
            });
            let reason = error.reason();
            gpt_kind(Health::Good, Health::Damaged(reason))
        }
        OtherCopy::UnreadPrimary(error) => {
            let reason = error.reason();
            let why = reason.clone();
            warnings.push(match error {
                CopyError::Unsupported(_) => TableWarning::PrimaryUnsupported { reason: why },
                _ => TableWarning::PrimaryDamaged { reason: why },
            });
            gpt_kind(Health::Damaged(reason), Health::Good)
        }
    };
    let sector_size = match copy.block {
        LogicalBlockSize::Lb512 => SectorSize::S512,
        LogicalBlockSize::Lb4096 => SectorSize::S4096,
    };
    if sector_size != device.sector_size() {
        warnings.push(TableWarning::SectorSize {
            table: sector_size.bytes(),
            device: device.sector_size().bytes(),
        });
    }
    let mut partitions: Vec<_> = copy
        .entries
        .iter()
        .filter(|(_, entry)| entry.is_used())
        .map(|(number, entry)| gpt_partition(*number, entry, copy.block))
        .collect();
    flag_problems(device.size(), &taken, &mut partitions);
    PartitionTable {
        kind,
        sector_size,
        disk_signature: None,
        partitions,
        warnings,
    }
}

pub(super) fn gpt_kind(primary: Health, backup: Health) -> TableKind {
    TableKind::Gpt { primary, backup }
}

/// The bytes that the header and the entries of `copy` take.
fn copy_ranges(copy: &GptCopy) -> impl Iterator<Item = Range<u64>> {
    let block = copy.block.as_u64();
    let header = copy.header.current_lba.saturating_mul(block);
    [
        Some(header..header.saturating_add(block)),
        entry_range(&copy.header, copy.block),
    ]
    .into_iter()
    .flatten()
}

fn gpt_partition(
    number: u32,
    entry: &gpt::partition::Partition,
    block: LogicalBlockSize,
) -> Partition {
    let kind = PartitionKind::from_gpt(Guid(entry.part_type_guid.guid.as_u128()));
    Partition {
        number,
        // A start beyond 2^64 bytes is beyond every device too; `flag_problems` says so.
        start: ByteOffset(entry.first_lba.saturating_mul(block.as_u64())),
        length: match entry.sectors_len() {
            Ok(sectors) => sectors.saturating_mul(block.as_u64()),
            Err(_) => 0,
        },
        kind,
        guid: Some(Guid(entry.part_guid.as_u128())),
        name: readable_name(&entry.name),
        problem: None,
    }
}

/// ESXi leaves names as zeroes or as 72 bytes of 0xFF: neither is a name. What is printed on a
/// console keeps no control characters.
fn readable_name(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_control() && !matches!(*c, '\u{FFFF}' | char::REPLACEMENT_CHARACTER))
        .collect::<String>()
        .trim()
        .to_owned()
}

/// The device from `base` on, as the crates want it: readable and seekable, never writable.
struct DeviceView<'a> {
    device: &'a dyn BlockDevice,
    base: u64,
    position: u64,
}

impl<'a> DeviceView<'a> {
    fn new(device: &'a dyn BlockDevice, base: u64) -> Self {
        Self {
            device,
            base,
            position: 0,
        }
    }

    fn length(&self) -> u64 {
        self.device.size().saturating_sub(self.base)
    }
}

impl Read for DeviceView<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.length().saturating_sub(self.position);
        let count = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        if count == 0 {
            return Ok(0);
        }
        let at = ByteOffset(self.base + self.position);
        self.device.read_at(at, &mut buf[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for DeviceView<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek outside the device")
        })?;
        Ok(self.position)
    }
}
