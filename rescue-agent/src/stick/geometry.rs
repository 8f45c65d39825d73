//! The shape of a FAT16 or FAT32 volume, and what the entries of its tables mean.

use std::ops::Range;

use super::error::GeometryError;
use crate::bytes::{u16_at, u32_at};

/// Bytes of a directory entry.
pub(super) const ENTRY_BYTES: usize = 32;
/// First cluster counts that are no longer FAT12 and no longer FAT16.
const FAT16_FROM_CLUSTERS: u32 = 4085;
const FAT32_FROM_CLUSTERS: u32 = 65_525;

/// Width of a table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fat16,
    Fat32,
}

/// What a table says of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Free,
    Next(u32),
    End,
    /// Bad, or a number that means nothing.
    None,
}

impl Kind {
    pub(super) fn entry_bytes(self) -> usize {
        match self {
            Self::Fat16 => 2,
            Self::Fat32 => 4,
        }
    }

    /// The value of an entry; the four upper bits of FAT32 mean nothing.
    pub(super) fn value(self, entry: &[u8]) -> u32 {
        match (self, entry) {
            (Self::Fat16, [a, b, ..]) => u32::from(u16::from_le_bytes([*a, *b])),
            (Self::Fat32, [a, b, c, d, ..]) => u32::from_le_bytes([*a, *b, *c, *d]) & 0x0fff_ffff,
            _ => 0,
        }
    }

    pub(super) fn is_free(self, entry: &[u8]) -> bool {
        self.value(entry) == 0
    }

    pub(super) fn link(self, entry: &[u8], clusters: u32) -> Link {
        let value = self.value(entry);
        let end = match self {
            Self::Fat16 => 0xfff8,
            Self::Fat32 => 0x0fff_fff8,
        };
        match value {
            0 => Link::Free,
            next if (2..clusters + 2).contains(&next) => Link::Next(next),
            last if last >= end => Link::End,
            _ => Link::None,
        }
    }

    /// A piece of a table with what `now` claims of the free clusters, and nothing else of it.
    pub(super) fn claimed(self, before: &[u8], now: &[u8]) -> Vec<u8> {
        self.merged(before, now, |before, _| self.is_free(before))
    }

    /// A piece of a table with everything in `now` but what it releases.
    pub(super) fn linked(self, before: &[u8], now: &[u8]) -> Vec<u8> {
        self.merged(before, now, |_, now| !self.is_free(now))
    }

    fn merged(
        self,
        before: &[u8],
        now: &[u8],
        takes_now: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Vec<u8> {
        let entries = before
            .chunks(self.entry_bytes())
            .zip(now.chunks(self.entry_bytes()));
        let kept = entries.map(|(before, now)| match takes_now(before, now) {
            true => now,
            false => before,
        });
        kept.flatten().copied().collect()
    }
}

/// Where the root directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    /// At a place of its own (FAT16).
    Fixed(Range<u64>),
    /// In a chain like any other (FAT32).
    Chain(u32),
}

/// The shape of a volume; places are bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) kind: Kind,
    pub(super) sector_bytes: u64,
    pub(super) cluster_bytes: u64,
    tables_at: u64,
    table_bytes: u64,
    pub(super) tables: u64,
    pub(super) root: Root,
    data_at: u64,
    pub(super) clusters: u32,
}

impl Geometry {
    /// Reads the parameter block in the first sector of a volume.
    ///
    /// # Errors
    /// [`GeometryError`].
    pub(super) fn parse(sector: &[u8; 512], partition_bytes: u64) -> Result<Self, GeometryError> {
        if sector[510..] != [0x55, 0xaa] {
            return Err(GeometryError::NoSignature);
        }
        let word = |at| u64::from(u16_at(sector, at));
        let sector_bytes = word(11);
        let cluster_sectors = u64::from(sector[13]);
        if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) || !cluster_sectors.is_power_of_two() {
            return Err(GeometryError::Units {
                sector_bytes,
                cluster_sectors,
            });
        }
        let (reserved, tables) = (word(14), u64::from(sector[16]));
        if reserved == 0 || !matches!(tables, 1 | 2) {
            return Err(GeometryError::Areas { reserved, tables });
        }
        let wide = word(22) == 0;
        let table_sectors = match word(22) {
            0 => u64::from(u32_at(sector, 36)),
            narrow => narrow,
        };
        let total = match word(19) {
            0 => u64::from(u32_at(sector, 32)),
            small => small,
        };
        if total * sector_bytes > partition_bytes {
            return Err(GeometryError::TooLong { total });
        }
        let root_bytes = word(17) * ENTRY_BYTES as u64;
        if !root_bytes.is_multiple_of(sector_bytes) || (root_bytes == 0) != wide {
            return Err(GeometryError::RootSize { bytes: root_bytes });
        }
        let tables_at = reserved * sector_bytes;
        let table_bytes = table_sectors * sector_bytes;
        let root_at = tables_at + tables * table_bytes;
        let data_at = root_at + root_bytes;
        let cluster_bytes = cluster_sectors * sector_bytes;
        let data_bytes = (total * sector_bytes).saturating_sub(data_at);
        let clusters = u32::try_from(data_bytes / cluster_bytes)
            .ok()
            .filter(|clusters| *clusters < 0x0fff_fff5)
            .ok_or(GeometryError::TooManyClusters)?;
        let kind = match (clusters >= FAT32_FROM_CLUSTERS, wide) {
            (true, true) => Kind::Fat32,
            (false, false) if clusters >= FAT16_FROM_CLUSTERS => Kind::Fat16,
            _ => return Err(GeometryError::OtherKind { clusters }),
        };
        let root = match kind {
            Kind::Fat16 => Root::Fixed(root_at..data_at),
            Kind::Fat32 => Root::Chain(fat32_root(sector, clusters)?),
        };
        let needed = (u64::from(clusters) + 2) * kind.entry_bytes() as u64;
        if needed > table_bytes {
            return Err(GeometryError::TableSize {
                table_bytes,
                clusters,
            });
        }
        Ok(Self {
            kind,
            sector_bytes,
            cluster_bytes,
            tables_at,
            table_bytes,
            tables,
            root,
            data_at,
            clusters,
        })
    }

    /// Where the entry of a cluster is in a table.
    pub(super) fn entry_at(&self, table: u64, cluster: u32) -> u64 {
        let entry = u64::from(cluster) * self.kind.entry_bytes() as u64;
        self.tables_at + table * self.table_bytes + entry
    }

    /// Number of the table that a place is in, if it is in one.
    pub(super) fn table_at(&self, at: u64) -> Option<u64> {
        let tables = self.tables_at..self.tables_end();
        tables
            .contains(&at)
            .then(|| (at - self.tables_at) / self.table_bytes)
    }

    pub(super) fn tables_end(&self) -> u64 {
        self.tables_at + self.tables * self.table_bytes
    }

    /// The cluster at a place, if it is in one.
    pub(super) fn cluster_at(&self, at: u64) -> Option<u32> {
        let number = at.checked_sub(self.data_at)? / self.cluster_bytes + 2;
        u32::try_from(number)
            .ok()
            .filter(|number| self.is_cluster(*number))
    }

    pub(super) fn is_cluster(&self, number: u32) -> bool {
        (2..self.clusters + 2).contains(&number)
    }

    pub(super) fn cluster_place(&self, cluster: u32) -> u64 {
        self.data_at + u64::from(cluster.saturating_sub(2)) * self.cluster_bytes
    }
}

fn fat32_root(sector: &[u8; 512], clusters: u32) -> Result<u32, GeometryError> {
    /// "Only one table is in use", in the extended flags.
    const NOT_MIRRORED: u16 = 0x80;
    if u16_at(sector, 40) & NOT_MIRRORED != 0 || u16_at(sector, 42) != 0 {
        return Err(GeometryError::Variety);
    }
    let root = u32_at(sector, 44);
    (2..clusters + 2)
        .contains(&root)
        .then_some(root)
        .ok_or(GeometryError::RootCluster { cluster: root })
}
