//! From a recording to the states a disk can be in when the power fails during it.
//!
//! A disk keeps the order of flushes and nothing else: between two flushes any subset of the
//! sectors written may have reached the medium. A sector of data or of a table may also be torn,
//! its first bytes new and the others old. A sector of the root directory is taken as one: disks
//! write a logical sector as a whole, and the whole exchange rests on that one sector alone.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;

use super::census::Layout;
use super::device::{Epoch, SectorWrite};
use super::medium::Medium;
use super::rng::Rng;

/// Epochs of at most this many sector writes are tried in every subset.
pub const EXHAUSTIVE_WRITES: usize = 12;

/// How many states are tried where not all can be.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Random subsets of each epoch with more than [`EXHAUSTIVE_WRITES`] writes.
    pub subsets: usize,
    /// Writes torn in each epoch; all of them if it has no more.
    pub torn_writes: usize,
    /// Places at which each is torn.
    pub tears: usize,
    /// Every how-manieth state's recovery is cut as well, after an exchange of more than
    /// [`EXHAUSTIVE_WRITES`] writes.
    pub second_cut_every: usize,
    /// The same after a shorter exchange.
    pub second_cut_every_short: usize,
    /// States tried of each recovery of more than [`EXHAUSTIVE_WRITES`] writes; of a shorter one,
    /// all are.
    pub second_cut_states: usize,
    /// Every how-manieth recovered volume is also given to `fsck.fat`.
    pub fsck_every: usize,
}

impl Effort {
    /// For every run of the tests: one or two minutes of two cores.
    pub const NORMAL: Self = Self {
        subsets: 300,
        torn_writes: 24,
        tears: 3,
        second_cut_every: 24,
        second_cut_every_short: 4,
        second_cut_states: 12,
        fsck_every: 1500,
    };
    /// For the rare deep run: many times as many.
    pub const DEEP: Self = Self {
        subsets: 2000,
        torn_writes: 64,
        tears: 6,
        second_cut_every: 8,
        second_cut_every_short: 1,
        second_cut_states: 24,
        fsck_every: 1500,
    };

    /// [`Effort::DEEP`] when the environment variable `RESCUE_DEEP` is `1`.
    pub fn from_env() -> Self {
        match std::env::var("RESCUE_DEEP").as_deref() {
            Ok("1") => Self::DEEP,
            _ => Self::NORMAL,
        }
    }
}

/// Which state it is, for a report that can be reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// These writes of an epoch, as bits, and every epoch before it.
    Subset {
        /// The epoch.
        epoch: usize,
        /// Bit n: write n is there.
        writes: u64,
    },
    /// The first writes of an epoch.
    Prefix {
        /// The epoch.
        epoch: usize,
        /// How many.
        writes: usize,
    },
    /// A random subset.
    Sample {
        /// The epoch.
        epoch: usize,
        /// Its number.
        number: usize,
    },
    /// A torn sector.
    Torn {
        /// The epoch.
        epoch: usize,
        /// The write.
        write: usize,
        /// How many of its bytes are new.
        bytes: usize,
        /// Whether the other writes of the epoch are a random subset rather than those before it.
        shuffled: bool,
    },
    /// Everything was written.
    Finished,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Everything a recording can leave, state by state.
#[derive(Debug)]
pub struct Cuts<'a> {
    base: &'a Medium,
    epochs: &'a [Epoch],
    layout: &'a Layout,
}

impl<'a> Cuts<'a> {
    /// The states between `base` and the end of `epochs`.
    pub fn new(base: &'a Medium, epochs: &'a [Epoch], layout: &'a Layout) -> Self {
        Self {
            base,
            epochs,
            layout,
        }
    }

    /// Calls `each` with every state.
    ///
    /// # Errors
    /// The first of `each`.
    pub fn all(
        &self,
        effort: &Effort,
        rng: &mut Rng,
        mut each: impl FnMut(Cut, Medium) -> Result<()>,
    ) -> Result<()> {
        let mut before = self.base.clone();
        for (number, epoch) in self.epochs.iter().enumerate() {
            if epoch.len() <= EXHAUSTIVE_WRITES {
                // The full subset is the empty one of the next epoch.
                for writes in 0..(1_u64 << epoch.len()) - 1 {
                    let cut = Cut::Subset {
                        epoch: number,
                        writes,
                    };
                    each(cut, with(&before, epoch, |index| writes >> index & 1 == 1))?;
                }
            } else {
                self.sampled(number, &before, effort, rng, &mut each)?;
            }
            self.torn(number, &before, effort, rng, &mut each)?;
            before = with(&before, epoch, |_| true);
        }
        each(Cut::Finished, before)
    }

    /// A few states, chosen at random among all of them.
    ///
    /// # Errors
    /// The first of `each`.
    pub fn some(
        &self,
        count: usize,
        rng: &mut Rng,
        mut each: impl FnMut(Cut, Medium) -> Result<()>,
    ) -> Result<()> {
        if self.epochs.is_empty() {
            return Ok(());
        }
        for number in 0..count {
            let epoch = rng.below(self.epochs.len());
            let mut before = self.base.clone();
            for earlier in &self.epochs[..epoch] {
                before = with(&before, earlier, |_| true);
            }
            let writes = &self.epochs[epoch];
            match rng.below(3) {
                0 => {
                    let count = rng.below(writes.len() + 1);
                    let cut = Cut::Prefix {
                        epoch,
                        writes: count,
                    };
                    each(cut, with(&before, writes, |index| index < count))?;
                }
                1 => each(Cut::Sample { epoch, number }, sample(&before, writes, rng))?,
                _ => {
                    let write = rng.below(writes.len());
                    if !self.tears(&writes[write]) {
                        let cut = Cut::Sample { epoch, number };
                        each(cut, sample(&before, writes, rng))?;
                        continue;
                    }
                    self.tear(&before, (epoch, write), 1, rng, &mut each)?;
                }
            }
        }
        Ok(())
    }

    fn sampled(
        &self,
        epoch: usize,
        before: &Medium,
        effort: &Effort,
        rng: &mut Rng,
        each: &mut impl FnMut(Cut, Medium) -> Result<()>,
    ) -> Result<()> {
        let writes = &self.epochs[epoch];
        for count in 0..writes.len() {
            let cut = Cut::Prefix {
                epoch,
                writes: count,
            };
            each(cut, with(before, writes, |index| index < count))?;
        }
        for number in 0..effort.subsets {
            each(Cut::Sample { epoch, number }, sample(before, writes, rng))?;
        }
        Ok(())
    }

    /// Whether half of a write can be there.
    fn tears(&self, write: &SectorWrite) -> bool {
        let root = self.layout.byte(self.layout.root_at)..self.layout.byte(self.layout.data_at);
        !root.contains(&(write.sector * write.data.len() as u64))
    }

    fn torn(
        &self,
        epoch: usize,
        before: &Medium,
        effort: &Effort,
        rng: &mut Rng,
        each: &mut impl FnMut(Cut, Medium) -> Result<()>,
    ) -> Result<()> {
        let writes = &self.epochs[epoch];
        let mut candidates: Vec<usize> = (0..writes.len())
            .filter(|index| self.tears(&writes[*index]))
            .collect();
        while candidates.len() > effort.torn_writes {
            candidates.swap_remove(rng.below(candidates.len()));
        }
        for write in candidates {
            self.tear(before, (epoch, write), effort.tears, rng, each)?;
        }
        Ok(())
    }

    fn tear(
        &self,
        before: &Medium,
        (epoch, write): (usize, usize),
        tears: usize,
        rng: &mut Rng,
        each: &mut impl FnMut(Cut, Medium) -> Result<()>,
    ) -> Result<()> {
        let writes = &self.epochs[epoch];
        let SectorWrite { sector, data } = &writes[write];
        let in_order = with(before, writes, |index| index < write);
        let old = in_order.sector(*sector)?;
        for (number, bytes) in tear_points(&old, data, tears, rng).into_iter().enumerate() {
            let shuffled = number % 2 == 1;
            let mut medium = match shuffled {
                true => sample(before, writes, rng),
                false => in_order.clone(),
            };
            let torn = [&data[..bytes], &old[bytes..]].concat();
            medium.put(*sector, Arc::from(torn));
            let cut = Cut::Torn {
                epoch,
                write,
                bytes,
                shuffled,
            };
            each(cut, medium)?;
        }
        Ok(())
    }
}

/// Numbers of bytes after which a write stops: around the first change, before the last one, and
/// anywhere between.
fn tear_points(old: &[u8], new: &[u8], count: usize, rng: &mut Rng) -> Vec<usize> {
    let differs = |index: &usize| old[*index] != new[*index];
    let (Some(first), Some(last)) = (
        (0..new.len()).find(differs),
        (0..new.len()).rev().find(differs),
    ) else {
        return Vec::new();
    };
    let mut points = vec![first + 1, last, first + (last - first) / 2];
    while points.len() < count {
        points.push(first + 1 + rng.below(last - first));
    }
    points.retain(|point| (first + 1..=last).contains(point));
    points.sort_unstable();
    points.dedup();
    while points.len() > count {
        points.swap_remove(rng.below(points.len()));
    }
    points
}

fn with(before: &Medium, epoch: &[SectorWrite], there: impl Fn(usize) -> bool) -> Medium {
    let mut medium = before.clone();
    for (index, write) in epoch.iter().enumerate() {
        if there(index) {
            medium.put(write.sector, Arc::clone(&write.data));
        }
    }
    medium
}

/// A random subset: sparse, even or dense.
fn sample(before: &Medium, epoch: &[SectorWrite], rng: &mut Rng) -> Medium {
    let eighths = [1, 4, 7][rng.below(3)];
    let chosen: Vec<bool> = epoch.iter().map(|_| rng.below(8) < eighths).collect();
    with(before, epoch, |index| chosen[index])
}
