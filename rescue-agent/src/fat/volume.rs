//! A volume opened for reading: tables, root directory, files.

use std::collections::HashSet;

use super::directory::{self, Entry, ShortName};
use super::error::{Damage, FatError};
use super::geometry::{ENTRY_BYTES, FatKind, Geometry};
use super::names::{self, ARCHIVES};
use super::table::{Link, Table};
use crate::disk::{BlockDevice, ByteOffset};

/// Largest file this program loads. Real state archives are below 1 MiB; ten times the largest
/// seen in the field is still far below this.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// Where a volume lies on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Its first byte.
    pub start: ByteOffset,
    /// Its length in bytes.
    pub length: u64,
}

/// Where bytes are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// A cache may answer.
    Cached,
    /// The medium itself must answer.
    Medium,
}

/// A FAT volume, its tables and root directory as they were when it was opened.
#[derive(Debug)]
pub struct Volume<'d> {
    pub(super) device: &'d dyn BlockDevice,
    pub(super) region: Region,
    pub(super) geometry: Geometry,
    pub(super) tables: Vec<Table>,
    pub(super) root: Vec<u8>,
    freshness: Freshness,
}

impl<'d> Volume<'d> {
    /// Opens the volume in `region` of `device`; reads its first sector, tables and root
    /// directory.
    ///
    /// # Errors
    /// [`FatError::NotFat`] when the first sector does not describe one, [`FatError::Read`] when
    /// the device fails.
    pub fn open(device: &'d dyn BlockDevice, region: Region) -> Result<Self, FatError> {
        Self::open_with(device, region, Freshness::Cached)
    }

    pub(super) fn open_with(
        device: &'d dyn BlockDevice,
        region: Region,
        freshness: Freshness,
    ) -> Result<Self, FatError> {
        let reader = Reader {
            device,
            region,
            freshness,
        };
        let head = reader.read(0, 4096.min(region.length), "the volume's first sector")?;
        let geometry = Geometry::parse(&head, region.length)?;
        if geometry.sector_bytes < device.sector_size().bytes() {
            return Err(FatError::NotFat(format!(
                "its sectors of {} bytes are smaller than the disk's of {} bytes",
                geometry.sector_bytes,
                device.sector_size().bytes()
            )));
        }
        let table_bytes = geometry.table_bytes() as u64;
        let tables = (0..geometry.tables)
            .map(|copy| {
                let what = format!("allocation table {}", copy + 1);
                let bytes = reader.read(geometry.table_offset(copy), table_bytes, &what)?;
                Ok(Table::new(&geometry, bytes))
            })
            .collect::<Result<Vec<_>, FatError>>()?;
        let root = reader.read(
            geometry.root_offset(),
            geometry.root_bytes() as u64,
            "the root directory",
        )?;
        Ok(Self {
            device,
            region,
            geometry,
            tables,
            root,
            freshness,
        })
    }

    /// The volume's shape.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The live entries of the root directory, in their order.
    pub fn root_entries(&self) -> impl Iterator<Item = Entry> + '_ {
        directory::live_entries(&self.root).map(|(_, entry)| entry)
    }

    /// The first file of that name in the root directory: the one a loader opens.
    pub fn find(&self, name: ShortName) -> Option<Entry> {
        self.root_entries()
            .find(|entry| entry.name() == name && !entry.is_directory())
    }

    /// The first entry of that name, where it is no file: what a loader takes, which does not look at
    /// attributes. And what it is.
    pub fn in_the_way(&self, name: ShortName) -> Option<(Entry, &'static str)> {
        let first = directory::first_of_name(&self.root, name)?;
        Some((first, first.is_no_file()?))
    }

    /// Whether anything in the root directory has that name: what a loader finds, which does not look
    /// at attributes.
    pub fn has_name(&self, name: ShortName) -> bool {
        directory::has_raw_name(&self.root, name)
    }

    /// What stands in a slot of the root directory.
    pub(super) fn entry_in(&self, slot: usize) -> Entry {
        let mut raw = [0; ENTRY_BYTES];
        raw.copy_from_slice(&self.root[slot * ENTRY_BYTES..(slot + 1) * ENTRY_BYTES]);
        Entry::new(raw)
    }

    /// Whether an entry is one of our copies and names the chain of its archive: what the middle of an
    /// exchange in two sectors looks like. It holds nothing that the archive does not.
    pub(super) fn is_alias(&self, entry: &Entry) -> bool {
        let archive = ARCHIVES.iter().find(|name| names::is_copy(entry, **name));
        entry.first_cluster() != 0
            && archive
                .and_then(|name| self.find(*name))
                .is_some_and(|archive| {
                    archive.first_cluster() == entry.first_cluster()
                        && archive.size() == entry.size()
                })
    }

    /// Reads a file of the root directory through the first table, as a loader does: as many clusters
    /// as its size takes, whatever its chain does behind them (esx-boot `libfat/fatchain.c`).
    ///
    /// # Errors
    /// [`FatError::TooLarge`] above [`MAX_FILE_BYTES`], [`FatError::Damaged`] when its chain is
    /// shorter than its size, [`FatError::Read`] when the device fails.
    pub fn read(&self, entry: &Entry) -> Result<Vec<u8>, FatError> {
        let name = entry.name().to_string();
        let size = u64::from(entry.size());
        if size > MAX_FILE_BYTES {
            return Err(FatError::TooLarge {
                name,
                size,
                limit: MAX_FILE_BYTES,
            });
        }
        let needed = usize::try_from(self.geometry.clusters_for(size)).unwrap_or(usize::MAX);
        let (chain, broken) = self.walk_up_to(entry, needed);
        if chain.len() < needed {
            return Err(broken
                .unwrap_or(Damage::WrongLength {
                    name,
                    size: entry.size(),
                    clusters: chain.len(),
                })
                .into());
        }
        let mut content = self.read_clusters(&chain, &name)?;
        content.truncate(entry.size() as usize);
        Ok(content)
    }

    /// The clusters of an entry, in order, by the first table.
    pub(super) fn chain(&self, entry: &Entry) -> Result<Vec<u32>, Damage> {
        match self.walk(entry) {
            (clusters, None) => Ok(clusters),
            (_, Some(damage)) => Err(damage),
        }
    }

    /// Every cluster that an entry leads to, each once, and what is wrong with the chain.
    pub(super) fn walk(&self, entry: &Entry) -> (Vec<u32>, Option<Damage>) {
        self.walk_up_to(entry, usize::MAX)
    }

    fn walk_up_to(&self, entry: &Entry, most: usize) -> (Vec<u32>, Option<Damage>) {
        let name = || entry.name().to_string();
        let (mut clusters, mut at, mut next) = (Vec::new(), 0, entry.first_cluster());
        if next == 0 {
            return (clusters, None);
        }
        while clusters.len() < most {
            if !self.geometry.is_data_cluster(next) {
                let damage = Damage::BrokenChain {
                    name: name(),
                    cluster: at,
                    next,
                };
                return (clusters, Some(damage));
            }
            if clusters.len() >= self.geometry.clusters as usize {
                let mut seen = HashSet::new();
                clusters.retain(|cluster| seen.insert(*cluster));
                let cluster = next;
                let name = name();
                return (clusters, Some(Damage::Loop { name, cluster }));
            }
            at = next;
            clusters.push(at);
            if clusters.len() == most {
                break;
            }
            match self.tables[0].get(at) {
                Link::End => break,
                Link::Next(number) => next = number,
                Link::Free | Link::Bad => {
                    let damage = Damage::BrokenChain {
                        name: name(),
                        cluster: at,
                        next: self.tables[0].raw(at),
                    };
                    return (clusters, Some(damage));
                }
            }
        }
        (clusters, None)
    }

    /// The content of whole clusters, neighbours read together.
    pub(super) fn read_clusters(&self, clusters: &[u32], name: &str) -> Result<Vec<u8>, FatError> {
        let cluster_bytes = self.geometry.cluster_bytes() as usize;
        let mut content = vec![0; clusters.len() * cluster_bytes];
        let reader = self.reader();
        let mut filled = 0;
        for run in runs(clusters) {
            let bytes = run.len() * cluster_bytes;
            let at = self.geometry.cluster_offset(run[0]);
            reader.read_into(at, &mut content[filled..filled + bytes], name)?;
            filled += bytes;
        }
        Ok(content)
    }

    /// Bytes that the device writes as a whole.
    pub(super) fn atom(&self) -> usize {
        self.device.sector_size().bytes() as usize
    }

    /// Whether two slots of the root directory are written as a whole.
    pub(super) fn same_atom(&self, a: usize, b: usize) -> bool {
        a * ENTRY_BYTES / self.atom() == b * ENTRY_BYTES / self.atom()
    }

    /// Whether the second reserved entry of the first table says "not cleanly unmounted" or
    /// "disk errors" (its two highest bits, cleared; FAT16 only).
    pub(super) fn tables_marked_dirty(&self) -> bool {
        const CLEAN: u32 = 0xc000;
        const LOOKS_LIKE_A_MARK: u32 = 0x3ff8;
        let mark = self.tables[0].raw(1);
        self.geometry.kind == FatKind::Fat16
            && mark & LOOKS_LIKE_A_MARK == LOOKS_LIKE_A_MARK
            && mark & CLEAN != CLEAN
    }

    fn reader(&self) -> Reader<'d> {
        Reader {
            device: self.device,
            region: self.region,
            freshness: self.freshness,
        }
    }
}

/// Splits cluster numbers into runs of neighbours.
pub(super) fn runs(clusters: &[u32]) -> impl Iterator<Item = &[u32]> {
    clusters.chunk_by(|a, b| a + 1 == *b)
}

struct Reader<'d> {
    device: &'d dyn BlockDevice,
    region: Region,
    freshness: Freshness,
}

impl Reader<'_> {
    fn read(&self, at: u64, length: u64, what: &str) -> Result<Vec<u8>, FatError> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.read_into(at, &mut bytes, what)?;
        Ok(bytes)
    }

    fn read_into(&self, at: u64, buffer: &mut [u8], what: &str) -> Result<(), FatError> {
        let offset = ByteOffset(self.region.start.0 + at);
        match self.freshness {
            Freshness::Cached => self.device.read_at(offset, buffer),
            Freshness::Medium => self.device.read_medium(offset, buffer),
        }
        .map_err(|source| FatError::Read {
            what: format!("{what} at {offset}"),
            source,
        })
    }
}
