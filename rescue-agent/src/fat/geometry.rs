//! The BIOS parameter block: where a volume keeps what.

use super::error::FatError;
use crate::bytes::{u16_at, u32_at};
use crate::counted::counted;

/// Which width a table entry has. It follows from the number of clusters alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FatKind {
    /// 12-bit entries: fewer than 4085 clusters.
    Fat12,
    /// 16-bit entries: fewer than 65 525 clusters.
    Fat16,
}

impl FatKind {
    /// Bytes that the entries of a table for so many clusters take.
    fn entry_bytes(self, clusters: u32) -> u32 {
        match self {
            Self::Fat12 => ((clusters + 2) * 3).div_ceil(2),
            Self::Fat16 => (clusters + 2) * 2,
        }
    }
}

/// First cluster count that is no longer FAT12 (Microsoft's specification, "FAT Type
/// Determination").
const FAT16_FROM_CLUSTERS: u32 = 4085;
/// First cluster count that is no longer FAT16.
const FAT32_FROM_CLUSTERS: u32 = 65_525;
/// Bytes of a directory entry.
pub(super) const ENTRY_BYTES: usize = 32;
/// Offset of the flags byte whose lowest bit says "not cleanly unmounted" (FAT12 and FAT16).
const STATE_BYTE: usize = 0x25;

/// The shape of a volume. Sectors here are the volume's own, [`Geometry::sector_bytes`] long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Entry width.
    pub kind: FatKind,
    /// Bytes per sector: 512 to 4096.
    pub sector_bytes: u32,
    /// Sectors per cluster, a power of two.
    pub cluster_sectors: u32,
    /// Sectors before the first table.
    pub reserved_sectors: u32,
    /// Number of allocation tables: one or two.
    pub tables: u32,
    /// Sectors of each table.
    pub table_sectors: u32,
    /// Slots of the root directory.
    pub root_entries: u32,
    /// Number of data clusters; they are numbered from 2.
    pub clusters: u32,
    /// Size of the whole volume in sectors.
    pub total_sectors: u32,
    /// The flag "not cleanly unmounted" in the first sector.
    pub marked_dirty: bool,
    /// Whether the first sector ends with the signature 55 aa. VMware's loader does not look at it.
    pub signed: bool,
    /// Whether all of it lies inside its partition.
    pub fits: bool,
}

impl Geometry {
    /// Reads the parameter block at the start of `sector` (at least 512 bytes) of a volume that
    /// lies in a partition of `partition_bytes`.
    ///
    /// # Errors
    /// [`FatError::NotFat`] with the field that is impossible.
    pub fn parse(sector: &[u8], partition_bytes: u64) -> Result<Self, FatError> {
        let not_fat = |why: String| Err(FatError::NotFat(why));
        if sector.len() < 512 {
            return not_fat(format!(
                "its first sector is only {} bytes long",
                sector.len()
            ));
        }
        let word = |at| u32::from(u16_at(sector, at));
        let sector_bytes = word(11);
        if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
            return not_fat(format!("{sector_bytes} bytes per sector"));
        }
        let cluster_sectors = u32::from(sector[13]);
        if !cluster_sectors.is_power_of_two() {
            return not_fat(format!("{cluster_sectors} sectors per cluster"));
        }
        let reserved_sectors = word(14);
        let tables = u32::from(sector[16]);
        let root_entries = word(17);
        let table_sectors = word(22);
        if reserved_sectors == 0 || !matches!(tables, 1 | 2) {
            return not_fat(format!(
                "{} and {}",
                counted(reserved_sectors, "reserved sector", "reserved sectors"),
                counted(tables, "allocation table", "allocation tables")
            ));
        }
        if table_sectors == 0 || root_entries == 0 {
            return not_fat("it has no fixed root directory (FAT32?)".into());
        }
        if !(root_entries * 32).is_multiple_of(sector_bytes) {
            return not_fat(format!(
                "a root directory of {root_entries} entries ends inside a sector"
            ));
        }
        let total_sectors = match word(19) {
            0 => u32_at(sector, 32),
            small => small,
        };
        let overhead = reserved_sectors + tables * table_sectors + root_entries * 32 / sector_bytes;
        let Some(data_sectors) = total_sectors.checked_sub(overhead) else {
            return not_fat(format!(
                "its {total_sectors} sectors do not hold its own tables ({overhead} sectors)"
            ));
        };
        let clusters = data_sectors / cluster_sectors;
        let kind = match clusters {
            0 => return not_fat("it has no clusters".into()),
            n if n < FAT16_FROM_CLUSTERS => FatKind::Fat12,
            n if n < FAT32_FROM_CLUSTERS => FatKind::Fat16,
            n => return not_fat(format!("{n} clusters make it a FAT32 volume")),
        };
        if kind.entry_bytes(clusters) > table_sectors * sector_bytes {
            return not_fat(format!(
                "its allocation table of {table_sectors} sectors is too small for {clusters} clusters"
            ));
        }
        Ok(Self {
            kind,
            sector_bytes,
            cluster_sectors,
            reserved_sectors,
            tables,
            table_sectors,
            root_entries,
            clusters,
            total_sectors,
            marked_dirty: sector[STATE_BYTE] & 1 != 0,
            signed: sector[510..512] == [0x55, 0xaa],
            fits: u64::from(total_sectors) * u64::from(sector_bytes) <= partition_bytes,
        })
    }

    /// Bytes per cluster.
    pub fn cluster_bytes(&self) -> u32 {
        self.cluster_sectors * self.sector_bytes
    }

    /// Byte offset of table number `copy` (0 or 1) from the start of the volume.
    pub(super) fn table_offset(&self, copy: u32) -> u64 {
        u64::from(self.reserved_sectors + copy * self.table_sectors) * u64::from(self.sector_bytes)
    }

    /// Bytes of one table that hold entries, rounded up to whole sectors. What a parameter block
    /// reserves beyond them (up to 256 MiB) is never used and never read.
    pub(super) fn table_bytes(&self) -> usize {
        self.kind
            .entry_bytes(self.clusters)
            .next_multiple_of(self.sector_bytes) as usize
    }

    /// Byte offset of the root directory from the start of the volume.
    pub(super) fn root_offset(&self) -> u64 {
        self.table_offset(self.tables)
    }

    /// Bytes of the root directory.
    pub(super) fn root_bytes(&self) -> usize {
        self.root_entries as usize * ENTRY_BYTES
    }

    /// Byte offset of a cluster (2 ≤ `cluster` < clusters + 2) from the start of the volume.
    pub(super) fn cluster_offset(&self, cluster: u32) -> u64 {
        self.root_offset()
            + self.root_bytes() as u64
            + u64::from(cluster - 2) * u64::from(self.cluster_bytes())
    }

    /// Whether `cluster` is the number of a data cluster.
    pub(super) fn is_data_cluster(&self, cluster: u32) -> bool {
        (2..self.clusters + 2).contains(&cluster)
    }

    /// How many clusters `bytes` take.
    pub fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.cluster_bytes()))
    }
}
