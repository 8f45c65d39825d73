//! One allocation table in memory: entries in, entries out, and which sectors they touched.

use std::collections::BTreeSet;

use super::geometry::{FatKind, Geometry};

/// What an entry says about its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// The cluster belongs to nobody.
    Free,
    /// The chain goes on at this number (not yet checked to be a data cluster).
    Next(u32),
    /// The chain ends here.
    End,
    /// The medium is bad here; never allocated.
    Bad,
}

/// A table's bytes, with the offsets changed since it was read.
#[derive(Debug, Clone)]
pub(super) struct Table {
    kind: FatKind,
    bytes: Vec<u8>,
    changed: BTreeSet<usize>,
}

impl Table {
    pub(super) fn new(geometry: &Geometry, bytes: Vec<u8>) -> Self {
        Self {
            kind: geometry.kind,
            bytes,
            changed: BTreeSet::new(),
        }
    }

    /// The raw entry of `cluster`.
    pub(super) fn raw(&self, cluster: u32) -> u32 {
        let at = self.offset(cluster);
        let pair = u32::from(self.bytes[at]) | u32::from(self.bytes[at + 1]) << 8;
        match self.kind {
            FatKind::Fat16 => pair,
            FatKind::Fat12 if cluster.is_multiple_of(2) => pair & 0xfff,
            FatKind::Fat12 => pair >> 4,
        }
    }

    /// Whether both have the same entries, and the same bytes behind the last one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }

    pub(super) fn get(&self, cluster: u32) -> Link {
        // FAT12's 0xff7 and FAT16's 0xfff7 mean "bad", anything above "end of chain".
        let bad = match self.kind {
            FatKind::Fat12 => 0xff7,
            FatKind::Fat16 => 0xfff7,
        };
        match self.raw(cluster) {
            0 => Link::Free,
            raw if raw == bad => Link::Bad,
            raw if raw > bad => Link::End,
            raw => Link::Next(raw),
        }
    }

    pub(super) fn set(&mut self, cluster: u32, link: Link) {
        let (bad, end) = match self.kind {
            FatKind::Fat12 => (0xff7, 0xfff),
            FatKind::Fat16 => (0xfff7, 0xffff),
        };
        let raw: u32 = match link {
            Link::Free => 0,
            Link::Next(next) => next,
            Link::End => end,
            Link::Bad => bad,
        };
        if self.raw(cluster) == raw {
            return;
        }
        let at = self.offset(cluster);
        let [low, high, ..] = raw.to_le_bytes();
        let (first, second) = match self.kind {
            FatKind::Fat16 => (low, high),
            FatKind::Fat12 if cluster.is_multiple_of(2) => {
                (low, self.bytes[at + 1] & 0xf0 | high & 0x0f)
            }
            FatKind::Fat12 => (self.bytes[at] & 0x0f | low << 4, high << 4 | low >> 4),
        };
        for (at, byte) in [(at, first), (at + 1, second)] {
            if self.bytes[at] != byte {
                self.bytes[at] = byte;
                self.changed.insert(at);
            }
        }
    }

    /// The changed parts, each a whole number of `atom` bytes: offset in the table, and content.
    pub(super) fn changed_runs(&self, atom: usize) -> Vec<(usize, &[u8])> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for at in &self.changed {
            let start = at / atom * atom;
            match runs.last_mut() {
                Some((_, end)) if *end > start => {}
                Some((_, end)) if *end == start => *end = start + atom,
                _ => runs.push((start, start + atom)),
            }
        }
        runs.into_iter()
            .map(|(start, end)| (start, &self.bytes[start..end]))
            .collect()
    }

    /// Forgets what was changed: it has been written.
    pub(super) fn settle(&mut self) {
        self.changed.clear();
    }

    fn offset(&self, cluster: u32) -> usize {
        match self.kind {
            FatKind::Fat12 => cluster as usize * 3 / 2,
            FatKind::Fat16 => cluster as usize * 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(kind: FatKind) -> Table {
        Table {
            kind,
            bytes: vec![0; 1024],
            changed: BTreeSet::new(),
        }
    }

    #[test]
    fn neighbours_of_a_changed_entry_keep_their_values() {
        for kind in [FatKind::Fat12, FatKind::Fat16] {
            let mut table = table(kind);
            for cluster in 2..40 {
                table.set(cluster, Link::Next(cluster + 0x111));
            }
            table.set(7, Link::End);
            table.set(8, Link::Free);
            for cluster in (2..40).filter(|cluster| ![7, 8].contains(cluster)) {
                assert_eq!(table.get(cluster), Link::Next(cluster + 0x111), "{kind:?}");
            }
            assert_eq!((table.get(7), table.get(8)), (Link::End, Link::Free));
        }
    }

    #[test]
    fn every_mark_above_bad_ends_a_chain() {
        let mut table = table(FatKind::Fat16);
        table.bytes[4..10].copy_from_slice(&[0xf7, 0xff, 0xf8, 0xff, 0xff, 0xff]);
        assert_eq!(
            [2, 3, 4].map(|cluster| table.get(cluster)),
            [Link::Bad, Link::End, Link::End]
        );
    }

    #[test]
    fn an_entry_across_two_sectors_changes_both() {
        let mut table = table(FatKind::Fat12);
        // Entry 341 of a FAT12 starts at byte 511.
        table.set(341, Link::End);
        let runs = table.changed_runs(512);
        assert_eq!(runs.len(), 1, "neighbouring sectors are one run");
        assert_eq!((runs[0].0, runs[0].1.len()), (0, 1024));
    }

    #[test]
    fn setting_the_same_value_changes_nothing() {
        let mut table = table(FatKind::Fat16);
        table.set(5, Link::Free);
        assert!(table.changed_runs(512).is_empty());
    }
}
