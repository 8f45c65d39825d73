//! Writing to a bank's volume: whole sectors, a flush behind each step, and everything read back.

use std::io;

use thiserror::Error;

use super::outcome::{ActiveArchive, Refusal};
use crate::disk::{BlockDevice, ByteOffset};
use crate::fat::directory::{Entry, ShortName};
use crate::fat::error::FatError;
use crate::fat::geometry::ENTRY_BYTES;
use crate::fat::table::{Link, Table};
use crate::fat::volume::{Freshness, Region, Volume, runs};

/// A volume being written: the only code that writes to an ESXi disk.
pub(super) struct Work<'d> {
    pub(super) volume: Volume<'d>,
}

pub(super) type Written = Result<(), WriteError>;

/// Why something was not written, or is not known to be.
#[derive(Debug, Error)]
pub(super) enum WriteError {
    /// The volume cannot be read, or is damaged where it was to be written.
    #[error(transparent)]
    Volume(#[from] FatError),
    /// No marker can be made for what was to be written.
    #[error(transparent)]
    Marker(#[from] Refusal),
    /// The device did not take it.
    #[error("writing {bytes} bytes at {at}: {source}")]
    Write {
        /// How much.
        bytes: usize,
        /// Where.
        at: ByteOffset,
        /// The device's answer.
        source: io::Error,
    },
    /// The device did not confirm what it took.
    #[error("flushing the disk's cache: {0}")]
    Flush(#[source] io::Error),
    /// The device took it and cannot give it back.
    #[error("reading back {bytes} bytes at {at}: {source}")]
    ReadBack {
        /// How much.
        bytes: usize,
        /// Where.
        at: ByteOffset,
        /// The device's answer.
        source: io::Error,
    },
    /// The medium holds something else.
    #[error("the disk returned other bytes at {at} than were written")]
    OtherBytes {
        /// Where.
        at: ByteOffset,
    },
    /// The medium holds something else in the clusters of the new archive.
    #[error("the disk returned other bytes than were written")]
    OtherContent,
}

impl<'d> Work<'d> {
    /// Opens the volume as it is on the medium.
    pub(super) fn open(device: &'d dyn BlockDevice, region: Region) -> Result<Self, Refusal> {
        Ok(Self {
            volume: Volume::open_with(device, region, Freshness::Medium)?,
        })
    }

    /// What stands in a slot of the root directory.
    pub(super) fn entry(&self, slot: usize) -> Entry {
        self.volume.entry_in(slot)
    }

    pub(super) fn same_atom(&self, a: usize, b: usize) -> bool {
        self.volume.same_atom(a, b)
    }

    /// Writes directory slots in this order: neighbours in the list that lie in one sector as one
    /// write, with a flush behind each.
    pub(super) fn write_slots(&mut self, slots: &[(usize, Entry)]) -> Written {
        let atom = self.volume.atom();
        let sector = |slot: usize| slot * ENTRY_BYTES / atom;
        for group in slots.chunk_by(|(a, _), (b, _)| sector(*a) == sector(*b)) {
            let mut root = self.volume.root.clone();
            for (slot, entry) in group {
                root[slot * ENTRY_BYTES..(slot + 1) * ENTRY_BYTES].copy_from_slice(entry.bytes());
            }
            let start = sector(group[0].0) * atom;
            let at = self.volume.geometry.root_offset() + start as u64;
            self.write_epoch(&[(at, &root[start..start + atom])])?;
            self.volume.root = root;
        }
        Ok(())
    }

    /// Takes directory entries away.
    pub(super) fn delete(&mut self, slots: &[usize]) -> Written {
        let deleted = slots
            .iter()
            .map(|slot| (*slot, self.entry(*slot).deleted()));
        let deleted: Vec<_> = deleted.collect();
        self.write_slots(&deleted)
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
        let written = self.volume.read_clusters(clusters, "the new archive")?;
        match written.get(..content.len()) == Some(content) {
            true => Ok(()),
            false => Err(WriteError::OtherContent),
        }
    }

    /// Writes a chain into every table.
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

    /// Frees clusters in every table.
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

    /// What can be promised after the write that switches the archive's entry, or its flush, failed.
    /// A disk that still gives back the old entry has taken nothing. One that gives back the new
    /// entry may have it in a cache only, which the next power cut loses.
    pub(super) fn active_after_failed_switch(
        &self,
        archive: ShortName,
        old: Option<Entry>,
    ) -> ActiveArchive {
        let now = Volume::open_with(self.volume.device, self.volume.region, Freshness::Medium);
        match (now.map(|volume| volume.find(archive)), old) {
            (Ok(found), Some(old)) if found == Some(old) => ActiveArchive::Old,
            (Ok(None), None) => ActiveArchive::None,
            (_, Some(_)) => ActiveArchive::OldOrNew,
            (_, None) => ActiveArchive::NoneOrNew,
        }
    }

    /// Writes whole sectors, flushes, and compares what the medium gives back: the next epoch
    /// rests on this one.
    fn write_epoch(&self, writes: &[(u64, &[u8])]) -> Written {
        for (at, bytes) in writes {
            self.write(*at, bytes)?;
        }
        self.flush()?;
        for (at, bytes) in writes {
            let at = ByteOffset(self.volume.region.start.0 + at);
            let mut found = vec![0; bytes.len()];
            self.volume
                .device
                .read_medium(at, &mut found)
                .map_err(|source| WriteError::ReadBack {
                    bytes: bytes.len(),
                    at,
                    source,
                })?;
            if found != *bytes {
                return Err(WriteError::OtherBytes { at });
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Written {
        let at = ByteOffset(self.volume.region.start.0 + at);
        log::debug!("writing {} bytes at {at}", bytes.len());
        self.volume
            .device
            .write_at(at, bytes)
            .map_err(|source| WriteError::Write {
                bytes: bytes.len(),
                at,
                source,
            })
    }

    fn flush(&self) -> Written {
        log::debug!("flushing the disk's cache");
        self.volume.device.flush().map_err(WriteError::Flush)
    }
}
