//! Judges a disk whose repair was cut off in the middle.
//!
//! Nothing may be lost or half there: each bank has its old archive or its new one to the byte, as
//! mtools reads it and as VMware's loader would, and every other file, sector and partition is as it
//! was. What may be there besides are the traces that the next run settles: the empty `STATE.NEW`,
//! an undo copy, clusters that no file owns.

use std::collections::BTreeMap;
use std::fs::File;

use anyhow::{Context, Result, bail, ensure};

use super::Judge;
use super::volume::Entry;
use crate::power::reader::{Loader, gunzip};
use crate::sparse;

/// The archive of a bank.
const ARCHIVE: &str = "STATE.TGZ";
/// The same, as a directory stores it.
const STORED: &[u8; 11] = b"STATE   TGZ";
/// The original, once the repair has kept it.
const UNDO: &str = "STATE.ORG";
/// Says that a repair is under way.
const MARKER: &str = "STATE.NEW";

/// How far the repair of a bank had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// No byte was written.
    Untouched,
    /// Something was written, the old archive is active.
    Begun,
    /// The new archive is active.
    Done,
}

/// A disk after a cut. Ordered and comparable, so that cuts that left the same can be counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interrupted {
    /// The banks, in their order.
    pub banks: Vec<Progress>,
    /// Sectors that are not as they were before the repair.
    pub changed_sectors: usize,
}

impl Interrupted {
    /// Whether the cut came after the first write and before the last one.
    pub fn is_inside(&self) -> bool {
        self.changed_sectors > 0 && self.banks.iter().any(|bank| *bank != Progress::Done)
    }
}

impl Judge {
    /// The disk is one that a cut may leave behind. `new`: the archives that the repair was to put
    /// in place, by bank.
    ///
    /// # Errors
    /// When anything is lost, half there, or changed that must not change.
    pub fn interrupted(&self, new: &[Vec<u8>]) -> Result<Interrupted> {
        let numbers: Vec<usize> = (0..new.len()).collect();
        self.only_banks_changed(&numbers)?;
        let changed = sparse::differing_units(&self.before, &self.made.image)?;
        let banks = numbers
            .iter()
            .map(|index| {
                self.bank_after_cut(*index, &new[*index], &changed)
                    .with_context(|| format!("bank {index}"))
            })
            .collect::<Result<Vec<_>>>()?;
        let begun = banks.iter().filter(|bank| **bank == Progress::Begun);
        ensure!(
            begun.count() <= 1,
            "several banks are being written at a time: {banks:?}"
        );
        Ok(Interrupted {
            banks,
            changed_sectors: changed.len(),
        })
    }

    fn bank_after_cut(&self, index: usize, new: &[u8], changed: &[u64]) -> Result<Progress> {
        let (before, now) = (self.bank_before(index)?, self.bank(index)?);
        let (was, is) = (before.entries()?, now.entries()?);
        other_files_are_the_same(&was, &is)?;
        let old = before.read(ARCHIVE)?;
        let archive = now.read(ARCHIVE)?;
        ensure!(
            self.loaded(index)? == archive,
            "VMware's loader reads another {ARCHIVE} than mtools"
        );
        gunzip(&archive).context("as VMware's loader decompresses it")?;
        if is.contains_key(UNDO) {
            ensure!(now.read(UNDO)? == old, "{UNDO} is not the original");
        }
        let touched = changed.iter().any(|unit| now.bytes().contains(unit));
        if archive == old {
            return Ok(match touched {
                true => Progress::Begun,
                false => Progress::Untouched,
            });
        }
        ensure!(
            archive == new,
            "{ARCHIVE} is neither the old nor the new one"
        );
        ensure!(
            is.contains_key(UNDO) && !is.contains_key(MARKER),
            "the new {ARCHIVE} is active, but the old one is not kept"
        );
        now.check()?;
        Ok(Progress::Done)
    }

    /// The archive of a bank as VMware's loader reads it.
    fn loaded(&self, index: usize) -> Result<Vec<u8>> {
        let file = File::open(&self.made.image)?;
        let sector = usize::try_from(self.made.layout.sector_bytes)?;
        Loader::open(&file, self.bank(index)?.bytes().start, sector)?
            .load(STORED)?
            .with_context(|| format!("no {ARCHIVE}"))
    }
}

fn other_files_are_the_same(
    was: &BTreeMap<String, Entry>,
    is: &BTreeMap<String, Entry>,
) -> Result<()> {
    for (name, entry) in was.iter().filter(|(name, _)| *name != ARCHIVE) {
        ensure!(is.get(name) == Some(entry), "{name} changed");
    }
    let known = |name: &str| was.contains_key(name) || name == UNDO || name == MARKER;
    match is.keys().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => bail!("there is a file {name} that was not there"),
    }
}
