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

mod gpt;
mod mbr;

use std::fmt;
use std::io;
use std::ops::Range;

use thiserror::Error;

use self::mbr::{BOOT_RECORD_BYTES, BootRecord, NoRecord, TYPE_PROTECTIVE};
use super::device::{BlockDevice, ByteOffset, SectorSize};

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

/// Whether a copy of a GPT is intact.
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
    /// vSAN: its header, or the data of its objects.
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

/// What is wrong with a table that could still be read.
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
    /// The backup GPT was used, because the primary is of a kind that only the loader reads.
    #[error(
        "the primary GPT is not supported here ({reason}) and was read through its backup; ESXi's own loader reads the primary"
    )]
    PrimaryUnsupported {
        /// What is not supported.
        reason: String,
    },
    /// Only the primary GPT is intact.
    #[error("the backup GPT is damaged ({reason}); the primary is intact and was used")]
    BackupDamaged {
        /// What is wrong with the backup.
        reason: String,
    },
    /// The table is that of a larger disk.
    #[error(
        "the table is that of a disk of {promised} bytes, and there are {device}: the image is cut short, or the disk was copied to a smaller one. Copy all of it again, for example with `dd if=/dev/sdX of=disk.img bs=1M`"
    )]
    CutShort {
        /// The size by the table.
        promised: u64,
        /// The size of the device.
        device: u64,
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
         it was copied from a disk with another sector size; ESXi will not boot from this device as it is"
    )]
    SectorSize {
        /// Bytes per sector of the table.
        table: u32,
        /// Bytes per sector of the device.
        device: u32,
    },
    /// The records of the logical partitions end in the middle.
    #[error(
        "the chain of logical partitions is broken at partition {number} ({reason}); it and the partitions after it are not found"
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
    /// A GPT, but neither copy is intact.
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
    /// The device ends inside its table.
    #[error(
        "it ends after {device} bytes, inside its partition table: it is cut short. Copy the whole disk again"
    )]
    CutShort {
        /// The size of the device.
        device: u64,
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
/// [`Partition::problem`]; a table that is intact apart from that is not an error.
pub fn read(device: &dyn BlockDevice) -> Result<PartitionTable, PartitionError> {
    let record = read_boot_record(device)?;
    let record = BootRecord::parse(&record);
    let types = record.as_ref().map_or([0; 4], BootRecord::types);
    let protective = types.contains(&TYPE_PROTECTIVE);
    match record {
        Ok(record) if !protective && types != [0; 4] => Ok(mbr::read(device, &record)),
        record => {
            let reason = match record {
                Ok(_) => "sector 0 is a boot record without partitions, and there is no GPT",
                Err(NoRecord::NoTable) => {
                    "sector 0 ends like a boot record but holds no table, and there is no GPT"
                }
                Err(NoRecord::Unmarked) => "sector 0 is not a boot record, and there is no GPT",
            };
            let first_protective = types[0] == TYPE_PROTECTIVE;
            gpt::read(device, protective, first_protective)?
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

    /// Whether such a partition holds a datastore: data of VMs in VMFS, or ESX-OSData.
    pub fn holds_datastore(&self) -> bool {
        matches!(self, Self::Vmfs | Self::OsData)
    }

    /// Whether its type is VMware's own and ESXi keeps data in it, of VMs or of its own.
    pub fn holds_esxi_data(&self) -> bool {
        self.holds_datastore()
            || matches!(
                self,
                Self::Vsan | Self::VmwareCoreDump | Self::VmwareReserved
            )
    }

    pub(crate) fn from_gpt(guid: Guid) -> Self {
        match guid.0 {
            0xC12A7328_F81F_11D2_BA4B_00A0C93EC93B => Self::EfiSystem,
            0xEBD0A0A2_B9E5_4433_87C0_68B6B72699C7 => Self::BasicData,
            0x9D275380_40AD_11DB_BF97_000C2911D1B8 => Self::VmwareCoreDump,
            0xAA31E02A_400F_11DB_9590_000C2911D1B8 => Self::Vmfs,
            0x4EB2EA39_7855_4790_A79E_FAE495E21F8D => Self::OsData,
            0x9198EFFC_31C0_11DB_8F78_000C2911D1B8 => Self::VmwareReserved,
            0x381CFCCC_7288_11E0_92EE_000C2911D0B2 | 0x77719A0C_A4A0_11E3_A47E_000C29745A24 => {
                Self::Vsan
            }
            _ => Self::Other(guid.to_string()),
        }
    }

    pub(crate) fn from_mbr(sys: u8) -> Self {
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

#[cfg(test)]
mod tests;
