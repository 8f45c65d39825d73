//! Partition tables: where the partitions of a disk lie and what they are for.
//!
//! Scope: GPT (primary, and the backup if the primary is damaged) and MBR with one extended
//! partition, as ESXi 3.5 to 9 writes them, on sectors of 512 and 4096 bytes. Reads only; this
//! product never writes a partition table. Not for: what is inside a partition.
//!
//! Sources: UEFI specification 2.10 chapter 5 (GPT); esx-boot `bootlib/gpt.c`, `bootlib/mbr.c`,
//! `bootlib/volume.c` (what ESXi's own loader accepts, and how it counts logical partitions),
//! `safeboot/vmfat.c` (the partition types that may hold a boot bank). Two habits of real ESXi
//! disks are accepted without remark: a protective MBR whose sector count is not the size of the
//! disk minus one, and GPT names that are empty or 72 bytes of 0xFF.
//!
//! Of the `gpt` crate only the header and entry readers are used. Its `GptConfig::open` falls
//! back to the backup if the primary *header* is damaged, but not if the primary's *entries* are,
//! looks for the backup at the end of the device only, and panics on an entry size other than
//! 128. Of `mbrman` only the boot record is used: its walk along the extended boot records has no
//! bound and can overflow, so the walk is done here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, HeaderError};
use mbrman::{MBRHeader, MBRPartitionEntry};
use thiserror::Error;

use super::device::{BlockDevice, ByteOffset, SectorSize};

/// The part of sector 0, or of an extended boot record, that holds the table.
const BOOT_RECORD_BYTES: usize = 512;
/// Entries 3 and 4 of a boot record: unused in an extended boot record, so not looked at there.
const UNUSED_EBR_ENTRIES: Range<usize> = 446 + 2 * 16..446 + 4 * 16;
/// The only entry size in use, and the only one the `gpt` crate reads.
const GPT_ENTRY_BYTES: u32 = 128;
/// More entries than any tool writes (128, sometimes 256); bounds memory and time.
const GPT_ENTRIES_MAX: u32 = 1024;
/// The primary GPT header lies in the second sector.
const GPT_PRIMARY_LBA: u64 = 1;
/// More logical partitions than any system supports; bounds the walk along their records.
const MBR_LOGICALS_MAX: u32 = 128;
/// The number of the first logical partition.
const MBR_FIRST_LOGICAL: u32 = 5;
/// Type of the MBR entry that says "this disk has a GPT".
const MBR_TYPE_PROTECTIVE: u8 = 0xEE;
/// Bytes read from the device at a time while walking a GPT.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// The partition table of a device. Made by [`read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    /// Which kind of table it is, and its health.
    pub kind: TableKind,
    /// The sector the table counts in. It differs from the device's own if a disk of 4096-byte
    /// sectors was copied into an image file or onto another disk.
    pub sector_size: SectorSize,
    /// The signature of an MBR disk, by which firmware and systems know it.
    pub disk_signature: Option<u32>,
    /// Used partitions, by number.
    pub partitions: Vec<Partition>,
    /// What is wrong with the table without making it unreadable.
    pub warnings: Vec<TableWarning>,
}

/// Which kind of table a device has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableKind {
    /// A GUID partition table.
    Gpt {
        /// The copy in the second sector, the only one ESXi's loader reads.
        primary: Health,
        /// The copy at the end.
        backup: Health,
    },
    /// A classic boot record, with or without logical partitions.
    Mbr,
}

/// Whether a copy of a GPT is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Header and entries match their checksums.
    Good,
    /// Missing or unusable, and why.
    Damaged(String),
}

/// A used entry of a partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The number ESXi and Linux give it, from 1; logical partitions from 5.
    pub number: u32,
    /// Where it starts on the device.
    pub start: ByteOffset,
    /// Its size in bytes.
    pub length: u64,
    /// What it is for, by its type.
    pub kind: PartitionKind,
    /// The unique GUID of a GPT partition.
    pub guid: Option<Guid>,
    /// The name of a GPT partition; empty if it has none. Control characters are left out.
    pub name: String,
    /// Set if the entry contradicts the device or the rest of the table. Such a partition must
    /// not be opened.
    pub problem: Option<PartitionProblem>,
}

/// What a partition is for, as its type says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionKind {
    /// EFI system partition.
    EfiSystem,
    /// GPT basic data: boot banks, locker, scratch.
    BasicData,
    /// VMware core dump.
    VmwareCoreDump,
    /// VMFS datastore.
    Vmfs,
    /// ESX-OSData (VMFS-L), ESXi 7 on.
    OsData,
    /// VMware reserved.
    VmwareReserved,
    /// vSAN.
    Vsan,
    /// One of the FAT types of an MBR.
    Fat(u8),
    /// The container of the logical partitions of an MBR.
    Extended,
    /// Anything else: a type GUID, or `MBR type 0xNN`.
    Other(String),
}

/// A GUID, printed the way partition tools print it (`C12A7328-F81F-11D2-BA4B-00A0C93EC93B`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(u128);

/// Why a partition must not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PartitionProblem {
    /// No sectors, or the end before the start.
    #[error("it has no sectors")]
    Empty,
    /// Part of it lies beyond the device.
    #[error(
        "it ends at byte {end}, but the device has {device} bytes; the disk or image is truncated"
    )]
    OutsideDevice {
        /// First byte after the partition.
        end: u64,
        /// Size of the device.
        device: u64,
    },
    /// A logical partition that leaves its extended partition. ESXi's loader refuses it too.
    #[error("it leaves its extended partition")]
    OutsideExtended,
    /// It covers a sector of the partition table.
    #[error("it covers part of the partition table")]
    OverlapsTable,
    /// It shares sectors with another partition.
    #[error("it overlaps partition {other}")]
    Overlaps {
        /// Number of the other partition.
        other: u32,
    },
}

/// What is wrong with a table that could be read all the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TableWarning {
    /// The backup GPT was used.
    #[error(
        "the primary GPT is damaged ({reason}) and was read through its backup; ESXi's own loader \
         reads the primary only and will not boot this disk until the table is repaired \
         (for example `sgdisk --load-backup`, or `partedUtil fixGpt` on a running host)"
    )]
    PrimaryDamaged {
        /// What is wrong with the primary.
        reason: String,
    },
    /// Only the primary GPT is whole.
    #[error("the backup GPT is damaged ({reason}); the primary is whole and was used")]
    BackupDamaged {
        /// What is wrong with the backup.
        reason: String,
    },
    /// ESXi's loader will not look for the GPT.
    #[error(
        "the first MBR entry is not the protective one (type 0xEE); ESXi's own loader will not \
         find the GPT and will not boot this disk"
    )]
    NotProtected,
    /// A 4Kn disk behind 512-byte sectors, or the reverse.
    #[error(
        "the table counts sectors of {table} bytes, but the device has sectors of {device} bytes: \
         a copy of a disk with other sectors; ESXi will not boot from this device as it is"
    )]
    SectorSize {
        /// Bytes per sector of the table.
        table: u32,
        /// Bytes per sector of the device.
        device: u32,
    },
    /// The records of the logical partitions end in the middle.
    #[error(
        "the chain of logical partitions is broken at partition {number} ({reason}); it and those \
         after it are not seen"
    )]
    BrokenChain {
        /// Number of the first logical partition that could not be read.
        number: u32,
        /// What is wrong with its record.
        reason: String,
    },
}

/// Why a device has no readable partition table.
#[derive(Debug, Error)]
pub enum PartitionError {
    /// Nothing there.
    #[error(
        "no partition table: {reason}. This is not an ESXi disk (a blank disk, or a file system \
         without partitions)"
    )]
    NoTable {
        /// What sector 0 holds instead.
        reason: &'static str,
    },
    /// A GPT, but neither copy is whole.
    #[error(
        "both copies of the GPT are unusable (primary: {primary}; backup: {backup}). Repair the \
         table with a partition tool first; nothing was changed"
    )]
    GptUnusable {
        /// What is wrong with the primary.
        primary: String,
        /// What is wrong with the backup.
        backup: String,
    },
    /// The device cannot be read.
    #[error("cannot read the partition table at {at}: {source}")]
    Io {
        /// Where the read failed.
        at: ByteOffset,
        /// What the device said.
        source: io::Error,
    },
}

/// Reads the partition table of `device`.
///
/// A partition that contradicts the device or its neighbours is listed with a
/// [`Partition::problem`]; a table that is whole apart from that is not an error.
pub fn read(device: &dyn BlockDevice) -> Result<PartitionTable, PartitionError> {
    let record = read_boot_record(device)?;
    let header = MBRHeader::read_from(&mut Cursor::new(record.as_slice()));
    let types = match &header {
        Ok(header) => header.iter().map(|(_, entry)| entry.sys).collect(),
        Err(_) => Vec::new(),
    };
    let protective = types.contains(&MBR_TYPE_PROTECTIVE);
    match header {
        Ok(header) if !protective && types.iter().any(|sys| *sys != 0) => {
            Ok(read_mbr(device, &header))
        }
        header => {
            let reason = match header {
                Ok(_) => "sector 0 is a boot record without partitions, and there is no GPT",
                Err(mbrman::Error::InvalidBootFlag) => {
                    "sector 0 ends like a boot record but holds no table, and there is no GPT"
                }
                Err(_) => "sector 0 is not a boot record, and there is no GPT",
            };
            let first_protective = types.first() == Some(&MBR_TYPE_PROTECTIVE);
            read_gpt(device, protective, first_protective)?
                .ok_or(PartitionError::NoTable { reason })
        }
    }
}

impl PartitionKind {
    /// Whether a boot bank may lie in such a partition: the types ESXi's loader looks into
    /// (esx-boot `safeboot/vmfat.c`).
    pub fn may_hold_bank(&self) -> bool {
        matches!(self, Self::EfiSystem | Self::BasicData | Self::Fat(_))
    }

    /// Whether such a partition holds data of VMs or of ESXi itself: VMFS, or ESX-OSData.
    pub fn holds_datastore(&self) -> bool {
        matches!(self, Self::Vmfs | Self::OsData)
    }

    fn from_gpt(guid: Guid) -> Self {
        match guid.0 {
            0xC12A7328_F81F_11D2_BA4B_00A0C93EC93B => Self::EfiSystem,
            0xEBD0A0A2_B9E5_4433_87C0_68B6B72699C7 => Self::BasicData,
            0x9D275380_40AD_11DB_BF97_000C2911D1B8 => Self::VmwareCoreDump,
            0xAA31E02A_400F_11DB_9590_000C2911D1B8 => Self::Vmfs,
            0x4EB2EA39_7855_4790_A79E_FAE495E21F8D => Self::OsData,
            0x9198EFFC_31C0_11DB_8F78_000C2911D1B8 => Self::VmwareReserved,
            0x381CFCCC_7288_11E0_92EE_000C2911D0B2 => Self::Vsan,
            _ => Self::Other(guid.to_string()),
        }
    }

    fn from_mbr(sys: u8) -> Self {
        match sys {
            0x01 | 0x04 | 0x06 | 0x0B | 0x0C | 0x0E => Self::Fat(sys),
            0x05 | 0x0F | 0x85 => Self::Extended,
            0xEF => Self::EfiSystem,
            0xFB => Self::Vmfs,
            0xFC => Self::VmwareCoreDump,
            _ => Self::Other(format!("MBR type 0x{sys:02X}")),
        }
    }
}

impl fmt::Display for PartitionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EfiSystem => f.write_str("EFI system"),
            Self::BasicData => f.write_str("basic data"),
            Self::VmwareCoreDump => f.write_str("VMware core dump"),
            Self::Vmfs => f.write_str("VMFS datastore"),
            Self::OsData => f.write_str("ESX-OSData"),
            Self::VmwareReserved => f.write_str("VMware reserved"),
            Self::Vsan => f.write_str("vSAN"),
            Self::Fat(sys) => write!(f, "FAT (MBR type 0x{sys:02X})"),
            Self::Extended => f.write_str("extended"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl Guid {
    /// From the 16 bytes by which UEFI stores it: the first three fields little-endian.
    pub const fn from_efi_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(swapped(bytes)))
    }

    /// The 16 bytes by which UEFI stores it.
    pub const fn to_efi_bytes(self) -> [u8; 16] {
        swapped(self.0.to_be_bytes())
    }

    /// Whether it is all zeros, which names nothing.
    pub const fn is_nil(self) -> bool {
        self.0 == 0
    }
}

/// The first three fields of a GUID (4, 2 and 2 bytes) in the other byte order.
const fn swapped(bytes: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032X}", self.0);
        let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn read_boot_record(device: &dyn BlockDevice) -> Result<[u8; BOOT_RECORD_BYTES], PartitionError> {
    let mut record = [0; BOOT_RECORD_BYTES];
    if device.size() < record.len() as u64 {
        return Err(PartitionError::NoTable {
            reason: "the device is smaller than one sector",
        });
    }
    let at = ByteOffset(0);
    device
        .read_at(at, &mut record)
        .map_err(|source| PartitionError::Io { at, source })?;
    Ok(record)
}

// ---- GPT ---------------------------------------------------------------------------------------

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
}

impl CopyError {
    fn reason(self) -> String {
        match self {
            Self::Absent => "no GPT header there".to_owned(),
            Self::BeyondDevice { lba } => format!("its sector {lba} is outside the device"),
            Self::Damaged(reason) => reason,
        }
    }
}

/// Reads a GPT through its primary or, on a disk with a protective MBR, through its backup.
/// `None` if nothing says that the disk has a GPT. Without a protective entry the backup alone is
/// not believed: it may be left over from an earlier life of the disk.
fn read_gpt(
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
        Err(error) => error.reason(),
    };
    let last_lba = |block: LogicalBlockSize| (device.size() / block.as_u64()).checked_sub(1);
    match first_whole(device, last_lba) {
        Ok(copy) if protective => {
            let other = OtherCopy::DamagedPrimary(primary_error);
            Ok(Some(gpt_table(device, copy, other, warnings)))
        }
        Ok(_) => Err(PartitionError::GptUnusable {
            primary: primary_error,
            backup: "whole, but there is no protective MBR to confirm it".to_owned(),
        }),
        Err(error) => Err(PartitionError::GptUnusable {
            primary: primary_error,
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
            Some(Err(other @ CopyError::Damaged(_))) if matches!(error, CopyError::Absent) => {
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
    check_header(device, &header, lba, block).map_err(CopyError::Damaged)?;
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
) -> Result<(), String> {
    if header.current_lba != lba {
        return Err(format!(
            "its header is in sector {lba} but says it is in sector {}",
            header.current_lba
        ));
    }
    if header.part_size != GPT_ENTRY_BYTES {
        return Err(format!(
            "its entries are of {} bytes, {GPT_ENTRY_BYTES} expected",
            header.part_size
        ));
    }
    if header.num_parts > GPT_ENTRIES_MAX {
        return Err(format!(
            "it has {} entries, more than the {GPT_ENTRIES_MAX} supported",
            header.num_parts
        ));
    }
    entry_range(header, block)
        .filter(|range| range.end <= device.size())
        .map(|_| ())
        .ok_or_else(|| "its entries lie outside the device".to_owned())
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
    DamagedPrimary(String),
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
            let reason = error.reason();
            warnings.push(TableWarning::BackupDamaged {
                reason: reason.clone(),
            });
            gpt_kind(Health::Good, Health::Damaged(reason))
        }
        OtherCopy::DamagedPrimary(reason) => {
            warnings.push(TableWarning::PrimaryDamaged {
                reason: reason.clone(),
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

fn gpt_kind(primary: Health, backup: Health) -> TableKind {
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

// ---- MBR ---------------------------------------------------------------------------------------

fn read_mbr(device: &dyn BlockDevice, header: &MBRHeader) -> PartitionTable {
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

// ---- both --------------------------------------------------------------------------------------

/// Sets [`Partition::problem`] where an entry contradicts the device, the table's own sectors
/// (`taken`, in bytes) or another entry.
fn flag_problems(device: u64, taken: &[Range<u64>], partitions: &mut [Partition]) {
    let ranges: Vec<_> = partitions.iter().map(range_of).collect();
    for index in 0..partitions.len() {
        let range = &ranges[index];
        let is_container = partitions[index].kind == PartitionKind::Extended;
        let problem = if partitions[index].length == 0 {
            Some(PartitionProblem::Empty)
        } else if range.end > device {
            let end = range.end;
            Some(PartitionProblem::OutsideDevice { end, device })
        } else if is_container {
            // Its records and its partitions lie inside it, rightly so.
            None
        } else if taken.iter().any(|other| intersect(range, other)) {
            Some(PartitionProblem::OverlapsTable)
        } else {
            overlapped(index, &ranges, partitions).map(|other| PartitionProblem::Overlaps { other })
        };
        let partition = &mut partitions[index];
        partition.problem = partition.problem.take().or(problem);
    }
}

fn range_of(partition: &Partition) -> Range<u64> {
    let start = partition.start.0;
    start..start.saturating_add(partition.length)
}

fn intersect(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

/// The number of the first other partition that shares bytes with the one at `index`.
fn overlapped(index: usize, ranges: &[Range<u64>], partitions: &[Partition]) -> Option<u32> {
    let others = partitions.iter().zip(ranges).enumerate();
    others
        .filter(|(other, _)| *other != index)
        .filter(|(_, (partition, _))| partition.kind != PartitionKind::Extended)
        .find(|(_, (_, range))| intersect(&ranges[index], range))
        .map(|(_, (partition, _))| partition.number)
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};
    use std::sync::OnceLock;

    use proptest::prelude::*;
    use tempfile::NamedTempFile;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// A device over a file or over bytes, read-only.
    #[derive(Debug)]
    struct Image<T> {
        store: T,
        size: u64,
        sector: SectorSize,
    }

    trait Store: fmt::Debug + Send + Sync {
        fn fill(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;
    }

    impl Store for File {
        fn fill(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
            self.read_exact_at(buf, at)
        }
    }

    impl Store for Vec<u8> {
        fn fill(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
            let start = usize::try_from(at).unwrap();
            let range = self.get(start..start + buf.len());
            let range = range.ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(range);
            Ok(())
        }
    }

    impl<T: Store> BlockDevice for Image<T> {
        fn sector_size(&self) -> SectorSize {
            self.sector
        }
        fn size(&self) -> u64 {
            self.size
        }
        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
            self.store.fill(offset.0, buf)
        }
        fn write_at(&self, _: ByteOffset, _: &[u8]) -> io::Result<()> {
            panic!("reading a partition table must not write")
        }
        fn flush(&self) -> io::Result<()> {
            panic!("reading a partition table must not flush")
        }
    }

    fn file_image(file: &NamedTempFile) -> Image<File> {
        let store = file.reopen().unwrap();
        let size = store.metadata().unwrap().len();
        let sector = SectorSize::S512;
        Image {
            store,
            size,
            sector,
        }
    }

    fn memory(store: Vec<u8>) -> Image<Vec<u8>> {
        let size = store.len() as u64;
        let sector = SectorSize::S512;
        Image {
            store,
            size,
            sector,
        }
    }

    fn blank(bytes: u64) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    fn run(command: &mut Command, input: &str) {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} must be installed: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// (number, first, last, type GUID, name)
    type Entry = (u32, u64, u64, &'static str, &'static str);

    const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
    const BASIC: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";
    const CORE: &str = "9D275380-40AD-11DB-BF97-000C2911D1B8";
    const VMFS: &str = "AA31E02A-400F-11DB-9590-000C2911D1B8";
    const OSDATA: &str = "4EB2EA39-7855-4790-A79E-FAE495E21F8D";
    const RESERVED: &str = "9198EFFC-31C0-11DB-8F78-000C2911D1B8";
    const VSAN: &str = "381CFCCC-7288-11E0-92EE-000C2911D0B2";
    const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

    fn sgdisk(bytes: u64, entries: &[Entry]) -> NamedTempFile {
        let file = blank(bytes);
        let mut command = Command::new("sgdisk");
        command.args(["--clear", "--set-alignment=1"]);
        for (number, first, last, kind, name) in entries {
            command.arg(format!("--new={number}:{first}:{last}"));
            command.arg(format!("--typecode={number}:{kind}"));
            command.arg(format!("--change-name={number}:{name}"));
        }
        run(command.arg(file.path()), "");
        file
    }

    fn sfdisk(bytes: u64, script: &str) -> NamedTempFile {
        let file = blank(bytes);
        run(
            Command::new("sfdisk")
                .args(["--no-reread", "--quiet"])
                .arg(file.path()),
            script,
        );
        file
    }

    const SMALL: [Entry; 3] = [
        (1, 64, 163, ESP, "BOOT"),
        (5, 200, 1199, BASIC, "BOOTBANK1"),
        (6, 1200, 2199, BASIC, "BOOTBANK2"),
    ];

    /// Made once: sgdisk draws new GUIDs each time.
    fn small_gpt() -> Vec<u8> {
        static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
        let make = || std::fs::read(sgdisk(2 * MIB, &SMALL).path()).unwrap();
        TABLE.get_or_init(make).clone()
    }

    fn get(table: &PartitionTable, number: u32) -> &Partition {
        let found = table.partitions.iter().find(|p| p.number == number);
        found.unwrap_or_else(|| panic!("partition {number} missing in {table:#?}"))
    }

    fn good() -> TableKind {
        gpt_kind(Health::Good, Health::Good)
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
                (crc >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(crc & 1))
            })
        })
    }

    /// Makes the checksums of a 512-byte-sector GPT whose header is at `header` right again.
    fn seal(image: &mut [u8], header: usize) {
        let word = |at: usize, image: &[u8]| {
            u32::from_le_bytes(image[header + at..header + at + 4].try_into().unwrap())
        };
        let start = word(72, image) as usize * 512;
        let length = (word(80, image) as usize).min(image.len()) * word(84, image) as usize;
        if let Some(entries) = image.get(start..start + length) {
            let sum = crc32(entries).to_le_bytes();
            image[header + 88..header + 92].copy_from_slice(&sum);
        }
        image[header + 16..header + 20].fill(0);
        let sum = crc32(&image[header..header + 92]).to_le_bytes();
        image[header + 16..header + 20].copy_from_slice(&sum);
    }

    #[test]
    fn reads_an_esxi_7_disk() {
        let entries = [
            (1, 64, 204_863, ESP, "BOOT"),
            (5, 208_896, 8_595_455, BASIC, "BOOTBANK1"),
            (6, 8_597_504, 16_984_063, BASIC, "BOOTBANK2"),
            (7, 16_986_112, 30_000_000, OSDATA, "OSDATA"),
            (8, 30_001_152, 60_000_000, VMFS, "datastore1"),
        ];
        let disk = sgdisk(32 * GIB, &entries);
        let table = read(&file_image(&disk)).unwrap();
        assert_eq!(table.kind, good());
        assert_eq!(table.sector_size, SectorSize::S512);
        assert_eq!(table.warnings, []);
        assert_eq!(table.partitions.len(), entries.len());
        for (number, first, last, _, name) in entries {
            let found = get(&table, number);
            assert_eq!(found.start, ByteOffset(first * 512));
            assert_eq!(found.length, (last - first + 1) * 512);
            assert_eq!(found.name, name);
            assert_eq!(found.problem, None);
            assert!(found.guid.is_some());
        }
        let banks: Vec<_> = table
            .partitions
            .iter()
            .filter(|p| p.kind.may_hold_bank())
            .map(|p| p.number)
            .collect();
        assert_eq!(banks, [1, 5, 6]);
        let stores: Vec<_> = table
            .partitions
            .iter()
            .filter(|p| p.kind.holds_datastore())
            .map(|p| p.number)
            .collect();
        assert_eq!(stores, [7, 8]);
    }

    #[test]
    fn reads_an_esxi_6_disk_with_its_types_and_guids() {
        let entries = [
            (1, 64, 8191, ESP, ""),
            (5, 8224, 520_191, BASIC, ""),
            (6, 520_224, 1_032_191, BASIC, ""),
            (7, 1_032_224, 1_257_471, CORE, ""),
            (8, 1_257_504, 1_843_199, BASIC, ""),
            (9, 1_843_200, 7_086_079, RESERVED, ""),
            (2, 7_086_080, 15_472_639, VSAN, ""),
            (3, 15_472_640, 16_000_000, VMFS, ""),
            (4, 16_000_001, 16_000_100, LINUX, ""),
        ];
        let disk = sgdisk(8 * GIB, &entries);
        run(
            Command::new("sgdisk")
                .arg("--partition-guid=5:6E4EBE5D-0123-4567-89AB-CDEF01234567")
                .arg(disk.path()),
            "",
        );
        let table = read(&file_image(&disk)).unwrap();
        let kinds = [
            (1, PartitionKind::EfiSystem),
            (2, PartitionKind::Vsan),
            (3, PartitionKind::Vmfs),
            (4, PartitionKind::Other(LINUX.to_owned())),
            (5, PartitionKind::BasicData),
            (6, PartitionKind::BasicData),
            (7, PartitionKind::VmwareCoreDump),
            (8, PartitionKind::BasicData),
            (9, PartitionKind::VmwareReserved),
        ];
        for (number, kind) in kinds {
            assert_eq!(get(&table, number).kind, kind);
        }
        let guid = get(&table, 5).guid.unwrap().to_string();
        assert_eq!(guid, "6E4EBE5D-0123-4567-89AB-CDEF01234567");
    }

    #[test]
    fn reads_an_mbr_disk_with_logical_partitions() {
        let disk = sfdisk(
            GIB,
            "label: dos\n\
             x4 : start=32, size=8160, type=4, bootable\n\
             x1 : start=8192, size=1835008, type=5\n\
             x5 : start=8224, size=511968, type=6\n\
             x6 : start=520224, size=511968, type=6\n\
             x7 : start=1032224, size=225248, type=fc\n\
             x8 : start=1257504, size=585696, type=6\n\
             x3 : start=1843200, size=200000, type=fb\n",
        );
        let table = read(&file_image(&disk)).unwrap();
        assert_eq!(table.kind, TableKind::Mbr);
        assert_eq!(table.warnings, []);
        let expected = [
            (4, 32, 8160, PartitionKind::Fat(4)),
            (1, 8192, 1_835_008, PartitionKind::Extended),
            (5, 8224, 511_968, PartitionKind::Fat(6)),
            (6, 520_224, 511_968, PartitionKind::Fat(6)),
            (7, 1_032_224, 225_248, PartitionKind::VmwareCoreDump),
            (8, 1_257_504, 585_696, PartitionKind::Fat(6)),
            (3, 1_843_200, 200_000, PartitionKind::Vmfs),
        ];
        assert_eq!(table.partitions.len(), expected.len());
        for (number, start, sectors, kind) in expected {
            let found = get(&table, number);
            assert_eq!(found.start, ByteOffset(start * 512), "{number}");
            assert_eq!(found.length, sectors * 512, "{number}");
            assert_eq!(found.kind, kind);
            assert_eq!(found.problem, None, "{number}");
        }
    }

    #[test]
    fn accepts_what_real_esxi_disks_hold() {
        let mut image = small_gpt();
        // The sector count of the protective entry, and the name of partition 5.
        image[446 + 12..446 + 16].copy_from_slice(&77u32.to_le_bytes());
        let name = 1024 + 4 * 128 + 56;
        image[name..name + 72].fill(0xFF);
        seal(&mut image, 512);
        let table = read(&memory(image)).unwrap();
        assert_eq!(table.kind, good());
        assert_eq!(table.warnings, []);
        assert_eq!(get(&table, 5).name, "");
        assert_eq!(get(&table, 6).name, "BOOTBANK2");
    }

    #[test]
    fn reads_a_damaged_primary_through_the_backup_and_says_that_esxi_will_not_boot() {
        let spoils: [(&str, usize, &str); 3] = [
            ("signature", 512, "no GPT header"),
            ("header", 512 + 40, "checksum"),
            ("entries", 1024 + 200, "CRC"),
        ];
        let whole = read(&memory(small_gpt())).unwrap();
        for (what, at, said) in spoils {
            let mut image = small_gpt();
            image[at] ^= 0x55;
            let table = read(&memory(image)).unwrap();
            assert_eq!(table.partitions, whole.partitions, "{what}");
            let TableKind::Gpt { primary, backup } = &table.kind else {
                panic!("{what}: {table:?}")
            };
            assert!(matches!(primary, Health::Damaged(reason) if reason.contains(said)));
            assert_eq!(*backup, Health::Good);
            let [warning] = table.warnings.as_slice() else {
                panic!("{what}: {:?}", table.warnings)
            };
            assert!(warning.to_string().contains("will not boot this disk"));
        }
    }

    #[test]
    fn a_damaged_backup_is_a_warning() {
        let mut image = small_gpt();
        let last = image.len() - 512;
        image[last..].fill(0);
        let table = read(&memory(image)).unwrap();
        assert!(matches!(
            table.warnings.as_slice(),
            [TableWarning::BackupDamaged { .. }]
        ));
        assert_eq!(table.partitions.len(), 3);
    }

    #[test]
    fn finds_the_backup_of_an_image_copied_to_a_larger_disk() {
        let mut image = small_gpt();
        image.resize(image.len() + 100_000, 0);
        let table = read(&memory(image)).unwrap();
        assert_eq!(table.kind, good());
    }

    #[test]
    fn refuses_when_both_copies_are_damaged() {
        let mut image = small_gpt();
        let last = image.len() - 512;
        image[512] = 0;
        image[last + 20] ^= 1;
        let error = read(&memory(image)).unwrap_err();
        assert!(matches!(error, PartitionError::GptUnusable { .. }));
        assert!(error.to_string().contains("Repair the table"), "{error}");
    }

    /// The same table on sectors of 4096 bytes: sector numbers, and so the checksums, stay.
    fn stretch(image: &[u8]) -> Vec<u8> {
        let sectors = image.len() / 512;
        let mut wide = vec![0; sectors * 4096];
        let array = 128 * 128;
        for (sector, length) in [
            (0, 512),
            (1, 512),
            (2, array),
            (sectors - 33, array),
            (sectors - 1, 512),
        ] {
            wide[sector * 4096..sector * 4096 + length]
                .copy_from_slice(&image[sector * 512..sector * 512 + length]);
        }
        wide
    }

    #[test]
    fn reads_a_4kn_disk() {
        let mut disk = memory(stretch(&small_gpt()));
        disk.sector = SectorSize::S4096;
        let table = read(&disk).unwrap();
        assert_eq!(table.kind, good());
        assert_eq!(table.sector_size, SectorSize::S4096);
        assert_eq!(table.warnings, []);
        assert_eq!(get(&table, 5).start, ByteOffset(200 * 4096));
        assert_eq!(get(&table, 5).length, 1000 * 4096);
    }

    #[test]
    fn detects_a_table_of_other_sectors_than_the_devices() {
        let wide = memory(stretch(&small_gpt()));
        let mut narrow = memory(small_gpt());
        narrow.sector = SectorSize::S4096;
        for (disk, sector) in [(wide, SectorSize::S4096), (narrow, SectorSize::S512)] {
            let table = read(&disk).unwrap();
            assert_eq!(table.sector_size, sector);
            let start = 200 * u64::from(sector.bytes());
            assert_eq!(get(&table, 5).start, ByteOffset(start));
            assert!(matches!(
                table.warnings.as_slice(),
                [TableWarning::SectorSize { .. }]
            ));
        }
    }

    #[test]
    fn a_device_without_a_table_says_so() {
        let fat = blank(4 * MIB);
        run(Command::new("mkfs.fat").arg(fat.path()), "");
        let no_partitions = sfdisk(4 * MIB, "label: dos\n");
        let images = [
            vec![],
            vec![0; 100],
            vec![0; 512],
            vec![0; 100_000],
            vec![0xFF; 100_000],
            std::fs::read(fat.path()).unwrap(),
            std::fs::read(no_partitions.path()).unwrap(),
        ];
        for image in images {
            let error = read(&memory(image)).unwrap_err();
            assert!(matches!(error, PartitionError::NoTable { .. }), "{error}");
        }
    }

    #[test]
    fn an_mbr_wins_over_the_gpt_left_behind_by_an_earlier_life() {
        let mut image = small_gpt();
        let mbr = sfdisk(2 * MIB, "label: dos\nstart=64, size=2000, type=6\n");
        image[..512].copy_from_slice(&std::fs::read(mbr.path()).unwrap()[..512]);
        let table = read(&memory(image)).unwrap();
        assert_eq!(table.kind, TableKind::Mbr);
        assert_eq!(table.partitions.len(), 1);
    }

    #[test]
    fn a_gpt_without_protective_mbr_is_read_with_a_warning_but_its_backup_alone_is_not_believed() {
        let mut image = small_gpt();
        image[..512].fill(0);
        let table = read(&memory(image.clone())).unwrap();
        assert_eq!(table.warnings, [TableWarning::NotProtected]);
        assert_eq!(table.partitions.len(), 3);
        image[512..1024].fill(0);
        let error = read(&memory(image)).unwrap_err();
        assert!(matches!(error, PartitionError::NoTable { .. }));
    }

    #[test]
    fn flags_entries_that_contradict_the_device_the_table_or_each_other() {
        let outside = PartitionProblem::OutsideDevice {
            end: 5000 * 512,
            device: 2 * MIB,
        };
        let far = PartitionProblem::OutsideDevice {
            end: u64::MAX,
            device: 2 * MIB,
        };
        let cases = [
            (200, 4999, Some(outside)),
            (200, u64::MAX - 1, Some(far.clone())),
            (u64::MAX - 1, u64::MAX - 1, Some(far)),
            (200, 198, Some(PartitionProblem::Empty)),
            (200, u64::MAX, Some(PartitionProblem::Empty)),
            (1, 190, Some(PartitionProblem::OverlapsTable)),
            (33, 63, Some(PartitionProblem::OverlapsTable)),
            (2200, 4095, Some(PartitionProblem::OverlapsTable)),
            (100, 190, Some(PartitionProblem::Overlaps { other: 1 })),
            (200, 1200, Some(PartitionProblem::Overlaps { other: 6 })),
            (200, 1199, None),
        ];
        for (first, last, problem) in cases {
            let mut image = small_gpt();
            let entry = 1024 + 4 * 128;
            image[entry + 32..entry + 40].copy_from_slice(&u64::to_le_bytes(first));
            image[entry + 40..entry + 48].copy_from_slice(&u64::to_le_bytes(last));
            seal(&mut image, 512);
            let table = read(&memory(image)).unwrap();
            // `u64::MAX` as the end: the number of sectors overflows unless the start is 1 on.
            if (first, last) == (200, u64::MAX) {
                assert!(get(&table, 5).problem.is_some());
            } else {
                assert_eq!(get(&table, 5).problem, problem, "{first}..={last}");
            }
        }
    }

    #[test]
    fn refuses_headers_that_ask_for_too_much() {
        let cases: [(usize, &[u8], &str); 6] = [
            (24, &9u64.to_le_bytes(), "says it is in sector 9"),
            (72, &u64::MAX.to_le_bytes(), "outside the device"),
            (72, &4090u64.to_le_bytes(), "outside the device"),
            (80, &u32::MAX.to_le_bytes(), "entries, more than"),
            (84, &0u32.to_le_bytes(), "entries are of 0 bytes"),
            (84, &129u32.to_le_bytes(), "entries are of 129 bytes"),
        ];
        for (at, value, said) in cases {
            let mut image = small_gpt();
            image[512 + at..512 + at + value.len()].copy_from_slice(value);
            image[512 + 16..512 + 20].fill(0);
            let sum = crc32(&image[512..512 + 92]).to_le_bytes();
            image[512 + 16..512 + 20].copy_from_slice(&sum);
            let table = read(&memory(image)).unwrap();
            let TableKind::Gpt { primary, .. } = &table.kind else {
                panic!("{table:?}")
            };
            assert!(
                matches!(primary, Health::Damaged(reason) if reason.contains(said)),
                "{said}: {primary:?}"
            );
        }
    }

    /// An entry of a boot record: (type, start, sectors).
    type Slot = (u8, u32, u32);

    fn boot_record(entries: &[Slot]) -> [u8; 512] {
        let mut record = [0; 512];
        for (index, (sys, start, sectors)) in entries.iter().enumerate() {
            let at = 446 + 16 * index;
            record[at + 4] = *sys;
            record[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            record[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        record[510..].copy_from_slice(&[0x55, 0xAA]);
        record
    }

    /// A disk of 4000 sectors with an extended partition at 100..3100 and the given records in
    /// it: (sector within the extended partition, entries).
    fn extended_disk(records: &[(usize, &[Slot])]) -> Image<Vec<u8>> {
        let mut image = vec![0; 4000 * 512];
        image[..512].copy_from_slice(&boot_record(&[(5, 100, 3000)]));
        for (sector, entries) in records {
            let at = (100 + sector) * 512;
            image[at..at + 512].copy_from_slice(&boot_record(entries));
        }
        memory(image)
    }

    #[test]
    fn follows_logical_partitions_even_out_of_order_and_counts_unused_records() {
        let disk = extended_disk(&[
            (0, &[(6, 10, 20), (5, 1000, 50)]),
            (1000, &[(0, 0, 0), (5, 500, 50)]),
            (500, &[(6, 10, 20), (0, 0, 0)]),
        ]);
        let table = read(&disk).unwrap();
        assert_eq!(table.warnings, []);
        let found: Vec<_> = table
            .partitions
            .iter()
            .map(|p| (p.number, p.start.0 / 512, p.problem.clone()))
            .collect();
        assert_eq!(
            found,
            [(1, 100, None), (5, 110, None), (7, 610, None)],
            "{table:#?}"
        );
    }

    #[test]
    fn hostile_chains_of_logical_partitions_end() {
        let first: (usize, &[Slot]) = (0, &[(6, 10, 20), (5, 1000, 50)]);
        let cases: [(Image<Vec<u8>>, u32, &str); 6] = [
            (extended_disk(&[]), 5, "record"),
            (
                extended_disk(&[first, (1000, &[(6, 1, 2), (5, 1000, 1)])]),
                7,
                "loop",
            ),
            (extended_disk(&[first]), 6, "record"),
            (
                extended_disk(&[(0, &[(6, 10, 20), (5, u32::MAX, 50)])]),
                6,
                "outside the extended",
            ),
            (
                extended_disk(&[(0, &[(6, 10, 20), (5, 3000, 50)])]),
                6,
                "outside the extended",
            ),
            (
                extended_disk(&[(0, &[(5, 10, 20), (5, 1000, 50)])]),
                5,
                "nests",
            ),
        ];
        for (disk, broken_at, said) in cases {
            let table = read(&disk).unwrap();
            let [TableWarning::BrokenChain { number, reason }] = table.warnings.as_slice() else {
                panic!("{said}: {:?}", table.warnings)
            };
            assert_eq!(*number, broken_at, "{said}");
            assert!(reason.contains(said), "{said}: {reason}");
        }
        let links: Vec<[Slot; 2]> = (1..1000)
            .map(|next| [(6, 1, 1), (5, 3 * next, 3)])
            .collect();
        let long: Vec<_> = links
            .iter()
            .enumerate()
            .map(|(index, entries)| (3 * index, entries.as_slice()))
            .collect();
        let table = read(&extended_disk(&long)).unwrap();
        assert_eq!(table.partitions.len(), 1 + MBR_LOGICALS_MAX as usize);
        assert_eq!(table.warnings.len(), 1);
    }

    #[test]
    fn flags_logical_partitions_that_leave_their_container_or_cover_its_records() {
        let disk = extended_disk(&[
            (0, &[(6, 10, 20), (5, 1000, 50)]),
            (1000, &[(6, 10, u32::MAX), (5, 500, 50)]),
            (500, &[(6, 0, 20), (0, 0, 0)]),
        ]);
        let table = read(&disk).unwrap();
        let problem = |number| get(&table, number).problem.clone();
        assert_eq!(problem(5), None);
        assert_eq!(problem(6), Some(PartitionProblem::OutsideExtended));
        assert_eq!(problem(7), Some(PartitionProblem::OverlapsTable));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn mutated_tables_never_panic(
            changes in prop::collection::vec((0..2 * 1024 + 16_384usize, any::<u8>()), 1..24),
            fix in any::<bool>(),
        ) {
            let mut image = small_gpt();
            for (at, value) in changes {
                image[at] = value;
            }
            if fix {
                seal(&mut image, 512);
            }
            if let Ok(table) = read(&memory(image)) {
                for partition in table.partitions.iter().filter(|p| p.problem.is_none()) {
                    prop_assert!(partition.start.0 + partition.length <= 2 * MIB);
                }
            }
        }

        #[test]
        fn random_boot_records_never_panic(
            entries in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 4),
            chain in prop::collection::vec(
                (0..3000usize, any::<u8>(), 0..4000u32, 0..4000u32, 0..4000u32), 0..8),
        ) {
            let mut disk = extended_disk(&[]);
            for (sector, sys, start, sectors, next) in chain {
                let record = boot_record(&[(sys, start, sectors), (5, next, 1)]);
                disk.store[(100 + sector) * 512..(101 + sector) * 512].copy_from_slice(&record);
            }
            let _ = read(&disk);
            disk.store[..512].copy_from_slice(&boot_record(&entries));
            let _ = read(&disk);
        }
    }
}
