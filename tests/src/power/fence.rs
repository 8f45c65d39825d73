//! What the exchange may never write, sector by sector and bit by bit.
//!
//! Every state of the simulation is a mixture of the sectors (or parts of sectors) before a write
//! and after it. A bit that no single write changes is therefore unchanged in every state: the
//! rest of the disk, the boot sector and VMware's marker behind it, every other file's entry,
//! chain and content, every slot that is neither free nor ours.

use std::collections::HashMap;

use anyhow::{Result, bail};

use super::census::{Census, Layout};
use super::device::Epoch;
use super::medium::{Medium, Source};

/// Raw 8.3 names, as [`Census`] spells them, of the files an exchange of `STATE.TGZ` may change.
pub const OURS: [&str; 2] = ["STATE   TGZ", "STATE   ORG"];
const MARKERS: [&str; 2] = ["STATE   NEW", "STATE   NE1"];
const SLOT: usize = 32;

/// Bits that must keep their value.
#[derive(Debug, Clone)]
struct Guarded {
    value: Vec<u8>,
    mask: Vec<u8>,
}

/// The protected bits of a volume and of the disk around it.
#[derive(Debug, Clone)]
pub struct Fence {
    layout: Layout,
    /// Sectors of tables and root directory, by number from the start of the volume.
    guarded: HashMap<u64, Guarded>,
    /// Whether each cluster belongs to another file.
    foreign: Vec<bool>,
}

impl Fence {
    /// The fence around everything that is on the disk now, except the files in [`OURS`]. What nobody
    /// owns and a table calls used is inside.
    ///
    /// # Errors
    /// When the medium cannot be read.
    pub fn around(medium: &Medium, census: &Census) -> Result<Self> {
        Self::of(medium, census, &OURS, &census.lost())
    }

    /// The same, where a marker and clusters that belong to no file may be the agent's own, from a run
    /// that was cut.
    ///
    /// # Errors
    /// As [`Fence::around`].
    pub fn around_files(medium: &Medium, census: &Census) -> Result<Self> {
        Self::of(medium, census, &[&OURS[..], &MARKERS].concat(), &[])
    }

    fn of(medium: &Medium, census: &Census, ours: &[&str], lost: &[u32]) -> Result<Self> {
        let layout = census.layout.clone();
        let mut foreign: Vec<bool> = census
            .owner
            .iter()
            .map(|owner| owner.is_some_and(|index| !ours.contains(&&*census.files[index].path)))
            .collect();
        for cluster in lost {
            foreign[*cluster as usize] = true;
        }
        let mut fence = Self {
            layout: layout.clone(),
            guarded: HashMap::new(),
            foreign,
        };
        for sector in layout.tables_at..layout.data_at {
            let value = medium.bytes(layout.byte(sector), layout.sector)?;
            let mask = vec![0; layout.sector];
            fence.guarded.insert(sector, Guarded { value, mask });
        }
        fence.guard_tables();
        fence.guard_slots(medium, census, ours)?;
        Ok(fence)
    }

    fn guard(&mut self, first_sector: u64, offset: usize, mask: u8) {
        let sector = first_sector + (offset / self.layout.sector) as u64;
        if let Some(guarded) = self.guarded.get_mut(&sector) {
            guarded.mask[offset % self.layout.sector] |= mask;
        }
    }

    fn guard_tables(&mut self) {
        for copy in 0..self.layout.copies as u64 {
            let first = self.layout.tables_at + copy * self.layout.table_sectors;
            for cluster in 0..self.layout.clusters + 2 {
                if cluster < 2 || self.foreign[cluster as usize] {
                    for (offset, mask) in self.layout.entry_bits(cluster) {
                        self.guard(first, offset, mask);
                    }
                }
            }
        }
    }

    fn guard_slots(&mut self, medium: &Medium, census: &Census, ours: &[&str]) -> Result<()> {
        let root = medium.bytes(
            self.layout.byte(self.layout.root_at),
            self.layout.slots * SLOT,
        )?;
        let ours: Vec<usize> = census
            .files
            .iter()
            .filter(|file| ours.contains(&&*file.path))
            .filter_map(|file| file.root_slot)
            .collect();
        for (index, slot) in root.chunks_exact(SLOT).enumerate() {
            if matches!(slot[0], 0 | 0xe5) || ours.contains(&index) {
                continue;
            }
            for offset in index * SLOT..(index + 1) * SLOT {
                self.guard(self.layout.root_at, offset, 0xff);
            }
        }
        Ok(())
    }

    /// Judges everything that was written.
    ///
    /// # Errors
    /// The first write across the fence.
    pub fn check(&self, epochs: &[Epoch]) -> Result<()> {
        for write in epochs.iter().flatten() {
            // The disk's sectors may be smaller than the volume's.
            let at = write.sector * write.data.len() as u64;
            let (sector, skip) = match at.checked_sub(self.layout.start) {
                Some(at) if at < self.layout.length() => (
                    at / self.layout.sector as u64,
                    usize::try_from(at)? % self.layout.sector,
                ),
                _ => bail!("sector {} outside the volume was written", write.sector),
            };
            if sector >= self.layout.data_at {
                let cluster = 2 + (sector - self.layout.data_at) / self.layout.cluster_sectors;
                if self.foreign.get(usize::try_from(cluster)?) != Some(&false) {
                    bail!("cluster {cluster} of another file was written");
                }
                continue;
            }
            let Some(guarded) = self.guarded.get(&sector) else {
                bail!("sector {sector} of the volume was written");
            };
            let guarded = guarded.value.iter().zip(&guarded.mask).skip(skip);
            let bits = guarded.zip(&write.data[..]);
            for (offset, ((value, mask), new)) in bits.enumerate() {
                if (value ^ new) & mask != 0 {
                    bail!("byte {offset} of sector {sector} was changed");
                }
            }
        }
        Ok(())
    }
}
