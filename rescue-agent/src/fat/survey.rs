//! Who owns which cluster: the check before any write.
//!
//! What is wrong is noted where it is, and the walk goes on: whether it matters is for the exchange to
//! say, which needs its own files sound and does not have to care for the others'.

use super::directory::{self, Entry};
use super::error::{Damage, FatError};
use super::names::{self, ARCHIVES};
use super::table::Link;
use super::volume::Volume;

/// ESXi's banks have one level of directories; a volume with more than this is damaged or hostile.
const MAX_DEPTH: usize = 8;

/// Largest directory there can be, in bytes: 65 536 entries (Microsoft's specification, "FAT
/// Directory Structure").
const MAX_DIRECTORY_BYTES: u64 = 65_536 * 32;

/// The result of walking a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Clusters that no file owns and every table calls free, ascending.
    pub free: Vec<u32>,
    /// Clusters that no file owns although a table calls them used, ascending.
    pub lost: Vec<u32>,
    /// Clusters about which the tables disagree, ascending; includes the two reserved entries.
    pub differing: Vec<u32>,
    /// What is wrong with a file or directory.
    pub(super) faults: Vec<Fault>,
}

/// Something wrong with a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The slot of the root directory it is in, or under.
    pub(super) slot: usize,
    /// What is wrong.
    pub(super) damage: Damage,
}

impl Volume<'_> {
    /// Walks the whole directory tree and all tables.
    ///
    /// # Errors
    /// [`FatError::Read`].
    pub fn survey(&self) -> Result<Survey, FatError> {
        Survey::of(self)
    }
}

impl Survey {
    fn of(volume: &Volume<'_>) -> Result<Self, FatError> {
        let clusters = volume.geometry.clusters as usize + 2;
        let mut walk = Walk {
            volume,
            owners: vec![None; clusters],
            faults: Vec::new(),
        };
        walk.root()?;
        Ok(walk.conclude())
    }

    /// What is wrong with the file in that slot of the root directory.
    pub(super) fn fault_in(&self, slot: usize) -> Option<&Damage> {
        let fault = self.faults.iter().find(|fault| fault.slot == slot);
        fault.map(|fault| &fault.damage)
    }
}

struct Walk<'v, 'd> {
    volume: &'v Volume<'d>,
    /// The root slot of each cluster's owner.
    owners: Vec<Option<usize>>,
    faults: Vec<Fault>,
}

impl Walk<'_, '_> {
    /// Copies of ours come last: where one of them shares a cluster with another file, as after a cut
    /// in the middle of a commit and a later write by ESXi, it is the copy that is wrong.
    fn root(&mut self) -> Result<(), FatError> {
        let volume = self.volume;
        let entries: Vec<(usize, Entry)> = directory::live_entries(&volume.root)
            .filter(|(_, entry)| !volume.is_alias(entry))
            .collect();
        let is_copy = |entry: &Entry| ARCHIVES.iter().any(|name| names::is_copy(entry, *name));
        for copies in [false, true] {
            for (slot, entry) in entries.iter().filter(|(_, one)| is_copy(one) == copies) {
                self.entry(*slot, entry, 0)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, slot: usize, entry: &Entry, depth: usize) -> Result<(), FatError> {
        let chain = self.claim(slot, entry);
        let (Some(chain), true) = (chain, entry.is_directory()) else {
            return Ok(());
        };
        let name = entry.name().to_string();
        let clusters = chain.len();
        let bytes = clusters as u64 * u64::from(self.volume.geometry.cluster_bytes());
        if bytes > MAX_DIRECTORY_BYTES {
            self.fault(slot, Damage::DirectoryTooLarge { name, clusters });
            return Ok(());
        }
        if depth >= MAX_DEPTH {
            self.fault(slot, Damage::TooDeep(MAX_DEPTH));
            return Ok(());
        }
        let content = self.volume.read_clusters(&chain, &name)?;
        for (_, entry) in directory::live_entries(&content) {
            self.entry(slot, &entry, depth + 1)?;
        }
        Ok(())
    }

    /// The clusters of a file, if they are its own, and its alone.
    fn claim(&mut self, slot: usize, entry: &Entry) -> Option<Vec<u32>> {
        let (chain, broken) = self.volume.walk(entry);
        let is_copy = ARCHIVES.iter().any(|name| names::is_copy(entry, *name));
        let mut sound = true;
        for cluster in &chain {
            let cluster = *cluster;
            if let Some(other) = self.owners[cluster as usize] {
                let name = entry.name().to_string();
                let damage = Damage::CrossLinked { name, cluster };
                if !is_copy && other != slot {
                    self.fault(other, damage.clone());
                }
                self.fault(slot, damage);
                sound = false;
                break;
            }
            self.owners[cluster as usize] = Some(slot);
        }
        if let Some(damage) = broken {
            self.fault(slot, damage);
            sound = false;
        }
        sound.then_some(chain)
    }

    fn fault(&mut self, slot: usize, damage: Damage) {
        self.faults.push(Fault { slot, damage });
    }

    fn conclude(self) -> Survey {
        // Equal tables say the same of every cluster: one is asked then.
        let tables = match &self.volume.tables[..] {
            [first, others @ ..] if others.iter().all(|other| other.is_same(first)) => {
                std::slice::from_ref(first)
            }
            tables => tables,
        };
        let (mut free, mut lost, mut differing) = (Vec::new(), Vec::new(), Vec::new());
        for cluster in 0..self.volume.geometry.clusters + 2 {
            let first = tables[0].raw(cluster);
            if tables[1..].iter().any(|table| table.raw(cluster) != first) {
                differing.push(cluster);
            }
            if cluster < 2 || self.owners[cluster as usize].is_some() {
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
            match (used, bad) {
                (false, false) => free.push(cluster),
                (true, false) => lost.push(cluster),
                (_, true) => {}
            }
        }
        Survey {
            free,
            lost,
            differing,
            faults: self.faults,
        }
    }
}
