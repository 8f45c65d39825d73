//! Who owns which cluster: the check before any write.

use super::directory::{self, Entry};
use super::error::{Damage, FatError};
use super::names::is_alias;
use super::table::Link;
use super::volume::Volume;

/// ESXi's banks have one level of directories; a volume with more than this is damaged or hostile.
const MAX_DEPTH: usize = 8;

/// Largest directory there can be, in bytes: 65 536 entries (Microsoft's specification, "FAT
/// Directory Structure").
const MAX_DIRECTORY_BYTES: u64 = 65_536 * 32;

/// The result of walking a volume whose files do not contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Clusters that no file owns and every table calls free, ascending.
    pub free: Vec<u32>,
    /// Clusters that no file owns although a table calls them used, ascending.
    pub lost: Vec<u32>,
    /// Clusters about which the tables disagree, ascending; includes the two reserved entries.
    pub differing: Vec<u32>,
    /// Whether each cluster belongs to a file, or is called bad by a table, by number.
    kept: Vec<bool>,
}

impl Volume<'_> {
    /// Walks the whole directory tree and both tables.
    ///
    /// # Errors
    /// [`FatError::Damaged`] with the first contradiction found, [`FatError::Read`].
    pub fn survey(&self) -> Result<Survey, FatError> {
        Survey::of(self)
    }
}

impl Survey {
    pub(super) fn of(volume: &Volume<'_>) -> Result<Self, FatError> {
        let mut walk = Walk {
            volume,
            owned: vec![false; volume.geometry.clusters as usize + 2],
        };
        walk.directory(&volume.root, 0)?;
        Ok(walk.conclude())
    }

    /// Whether the tables disagree about a cluster that a file owns or one of them calls bad, or
    /// about the reserved entries: nothing an interrupted exchange can have left.
    pub fn first_difference_in_use(&self) -> Option<u32> {
        self.differing
            .iter()
            .copied()
            .find(|cluster| *cluster < 2 || self.kept[*cluster as usize])
    }
}

struct Walk<'v, 'd> {
    volume: &'v Volume<'d>,
    owned: Vec<bool>,
}

impl Walk<'_, '_> {
    fn directory(&mut self, bytes: &[u8], depth: usize) -> Result<(), FatError> {
        if depth > MAX_DEPTH {
            return Err(Damage::TooDeep(MAX_DEPTH).into());
        }
        for (_, entry) in directory::live_entries(bytes) {
            if depth == 0 && is_alias(self.volume, &entry) {
                continue;
            }
            let chain = self.claim(&entry)?;
            if entry.is_directory() && !chain.is_empty() {
                let name = entry.name().to_string();
                let clusters = chain.len();
                let bytes = clusters as u64 * u64::from(self.volume.geometry.cluster_bytes());
                if bytes > MAX_DIRECTORY_BYTES {
                    return Err(Damage::DirectoryTooLarge { name, clusters }.into());
                }
                let content = self.volume.read_clusters(&chain, &name)?;
                self.directory(&content, depth + 1)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, entry: &Entry) -> Result<Vec<u32>, Damage> {
        let chain = self.volume.chain(entry)?;
        for cluster in &chain {
            let owned = &mut self.owned[*cluster as usize];
            if *owned {
                return Err(Damage::CrossLinked {
                    name: entry.name().to_string(),
                    cluster: *cluster,
                });
            }
            *owned = true;
        }
        Ok(chain)
    }

    fn conclude(mut self) -> Survey {
        let tables = &self.volume.tables;
        let (mut free, mut lost, mut differing) = (Vec::new(), Vec::new(), Vec::new());
        for cluster in 0..self.volume.geometry.clusters + 2 {
            let first = tables[0].raw(cluster);
            if tables[1..].iter().any(|table| table.raw(cluster) != first) {
                differing.push(cluster);
            }
            if cluster < 2 || self.owned[cluster as usize] {
                continue;
            }
            let (mut used, mut bad) = (false, false);
            for table in tables {
                match table.get(cluster) {
                    Link::Free => {}
                    Link::Bad => bad = true,
                    Link::Next(_) | Link::End => used = true,
                }
            }
            if used {
                lost.push(cluster);
            } else if !bad {
                free.push(cluster);
            }
            self.owned[cluster as usize] = bad;
        }
        Survey {
            free,
            lost,
            differing,
            kept: self.owned,
        }
    }
}
