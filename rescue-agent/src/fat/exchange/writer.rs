//! Sectors, chains and slots of a volume, written: each step of an exchange as one method.

use super::outcome::{ActiveArchive, Refusal};
use crate::disk::{BlockDevice, ByteOffset};
use crate::fat::directory::{self, Entry, ShortName};
use crate::fat::geometry::ENTRY_BYTES;
use crate::fat::names::{Names, is_alias};
use crate::fat::table::{Link, Table};
use crate::fat::volume::{Freshness, Region, Volume, runs};

/// A volume being written: the only code that writes to an ESXi disk.
pub(super) struct Work<'d> {
    pub(super) volume: Volume<'d>,
}

pub(super) type Written = Result<(), String>;

impl<'d> Work<'d> {
    pub(super) fn open(device: &'d dyn BlockDevice, region: Region) -> Result<Self, Refusal> {
        Ok(Self {
            volume: Volume::open_with(device, region, Freshness::Medium)?,
        })
    }

    pub(super) fn slot_of(&self, name: ShortName) -> Option<usize> {
        directory::live_entries(&self.volume.root)
            .find(|(_, entry)| entry.name() == name)
            .map(|(slot, _)| slot)
    }

    pub(super) fn alias_slot(&self, names: Names) -> Option<usize> {
        self.slot_of(names.undo)
            .filter(|slot| is_alias(&self.volume, &self.entry(*slot)))
    }

    pub(super) fn entry(&self, slot: usize) -> Entry {
        let mut raw = [0; ENTRY_BYTES];
        raw.copy_from_slice(&self.volume.root[slot * ENTRY_BYTES..(slot + 1) * ENTRY_BYTES]);
        Entry::new(raw)
    }

    pub(super) fn same_atom(&self, a: usize, b: usize) -> bool {
        self.volume.same_atom(a, b)
    }

    /// Writes directory slots that lie in one sector, as one write.
    pub(super) fn write_slots(&mut self, slots: &[(usize, Entry)]) -> Written {
        let Some((first, _)) = slots.first() else {
            return Ok(());
        };
        let mut root = self.volume.root.clone();
        for (slot, entry) in slots {
            root[slot * ENTRY_BYTES..(slot + 1) * ENTRY_BYTES].copy_from_slice(entry.bytes());
        }
        let atom = self.volume.atom();
        let start = first * ENTRY_BYTES / atom * atom;
        let at = self.volume.geometry.root_offset() + start as u64;
        self.write_epoch(&[(at, &root[start..start + atom])])?;
        self.volume.root = root;
        Ok(())
    }

    /// Writes content into clusters, whole sectors only, flushes, and reads it back.
    pub(super) fn write_data(&self, clusters: &[u32], content: &[u8]) -> Written {
        let geometry = &self.volume.geometry;
        let cluster_bytes = geometry.cluster_bytes() as usize;
        let atom = self.volume.atom();
        let mut rest = content;
        for run in runs(clusters) {
            let (part, behind) = rest.split_at(rest.len().min(run.len() * cluster_bytes));
            let (whole, tail) = part.split_at(part.len() / atom * atom);
            let at = geometry.cluster_offset(run[0]);
            if !whole.is_empty() {
                self.write(at, whole)?;
            }
            if !tail.is_empty() {
                let mut last = vec![0; atom];
                last[..tail.len()].copy_from_slice(tail);
                self.write(at + whole.len() as u64, &last)?;
            }
            rest = behind;
        }
        self.flush()?;
        self.read_back(clusters, content)
    }

    fn read_back(&self, clusters: &[u32], content: &[u8]) -> Written {
        let written = self
            .volume
            .read_clusters(clusters, "the new archive")
            .map_err(|error| error.to_string())?;
        match written.get(..content.len()) == Some(content) {
            true => Ok(()),
            false => Err("the disk returned other bytes than were written".into()),
        }
    }

    pub(super) fn write_chain(&mut self, clusters: &[u32]) -> Written {
        for table in &mut self.volume.tables {
            for pair in clusters.windows(2) {
                table.set(pair[0], Link::Next(pair[1]));
            }
            if let Some(last) = clusters.last() {
                table.set(*last, Link::End);
            }
        }
        self.write_tables()
    }

    pub(super) fn release(&mut self, clusters: &[u32]) -> Written {
        for table in &mut self.volume.tables {
            for cluster in clusters {
                table.set(*cluster, Link::Free);
            }
        }
        self.write_tables()
    }

    fn write_tables(&mut self) -> Written {
        let atom = self.volume.atom();
        let mut epoch = Vec::new();
        for (copy, table) in (0..).zip(&self.volume.tables) {
            let start = self.volume.geometry.table_offset(copy);
            let runs = table.changed_runs(atom).into_iter();
            epoch.extend(runs.map(|(at, bytes)| (start + at as u64, bytes)));
        }
        self.write_epoch(&epoch)?;
        self.volume.tables.iter_mut().for_each(Table::settle);
        Ok(())
    }

    pub(super) fn remove_marker(&mut self, names: Names) -> Written {
        match self.slot_of(names.marker) {
            Some(slot) => self.write_slots(&[(slot, self.entry(slot).deleted())]),
            None => Ok(()),
        }
    }

    /// What can be promised after the write that switches the archive's entry, or its flush,
    /// failed. A disk that still gives back the old entry has taken nothing. One that gives back
    /// the new entry may have it in a cache only, which the next power cut loses.
    pub(super) fn in_force_after_failed_switch(&self, old: Entry) -> ActiveArchive {
        Volume::open_with(self.volume.device, self.volume.region, Freshness::Medium)
            .ok()
            .and_then(|volume| volume.find(old.name()))
            .filter(|found| *found == old)
            .map_or(ActiveArchive::OldOrNew, |_| ActiveArchive::Old)
    }

    /// Writes whole sectors, flushes, and compares what the medium gives back: the next epoch
    /// rests on this one.
    fn write_epoch(&self, writes: &[(u64, &[u8])]) -> Written {
        for (at, bytes) in writes {
            self.write(*at, bytes)?;
        }
        self.flush()?;
        for (at, bytes) in writes {
            let offset = ByteOffset(self.volume.region.start.0 + at);
            let mut found = vec![0; bytes.len()];
            self.volume
                .device
                .read_medium(offset, &mut found)
                .map_err(|error| {
                    format!("reading back {} bytes at {offset}: {error}", bytes.len())
                })?;
            if found != *bytes {
                return Err(format!(
                    "the disk returned other bytes at {offset} than were written"
                ));
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Written {
        let offset = ByteOffset(self.volume.region.start.0 + at);
        log::debug!("writing {} bytes at {offset}", bytes.len());
        self.volume
            .device
            .write_at(offset, bytes)
            .map_err(|error| format!("writing {} bytes at {offset}: {error}", bytes.len()))
    }

    fn flush(&self) -> Written {
        log::debug!("flushing the disk's cache");
        self.volume
            .device
            .flush()
            .map_err(|error| format!("flushing the disk's cache: {error}"))
    }
}
