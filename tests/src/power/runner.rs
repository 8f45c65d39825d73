//! One bank, one task, every power cut: what the real code leaves and what it recovers to.

use std::fmt;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rescue_agent::disk::BlockDevice;
use rescue_agent::fat::exchange::{
    self, Earlier, ExchangeError, Replaced, Replacement, Restoration,
};
use rescue_agent::fat::{FatTime, Region, ShortName, Volume};

use super::census::Census;
use super::cuts::{Cut, Cuts, EXHAUSTIVE_WRITES, Effort};
use super::device::{Epoch, Recorder};
use super::fence::Fence;
use super::fsck::fsck;
use super::maker::Bank;
use super::medium::Medium;
use super::reader::{Loader, gunzip};
use super::record::Record;
use super::rng::Rng;

const STATE: &[u8; 11] = b"STATE   TGZ";
/// The build that the boot.cfg of [`super::maker`] names.
const BUILD: &str = "6.7.0-8169922";
const BOOT_CFG: &[u8; 11] = b"BOOT    CFG";
/// 2026-01-01, a moment like any other.
const NOW: u64 = 1_767_225_600;
/// Bad states that are described; the others are only counted.
const DESCRIBED: usize = 20;

/// What the agent is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Put this archive in place. What is there is kept, or, where the undo copy is the original it
    /// was made of, freed.
    Replace(Vec<u8>),
    /// Put this archive in place after a second accident: what is there is the new original, and the
    /// undo copy is that of the first one.
    Again(Vec<u8>, Earlier),
    /// Put this archive where there is none.
    Create(Vec<u8>),
    /// Put the original back.
    Restore,
    /// Let the archive and an older original change places.
    Swap,
    /// Put this original back, which was kept outside the bank.
    PutBack(Vec<u8>),
}

/// A bank and a task, with what may be found on the disk at any moment.
#[derive(Debug)]
pub struct Case {
    name: String,
    base: Medium,
    region: Region,
    sector: usize,
    task: Task,
    /// `STATE.TGZ` before; empty where there is none.
    before: Vec<u8>,
    /// `STATE.TGZ` in the end.
    after: Vec<u8>,
    /// `STATE.ORG` before.
    undo: Option<Vec<u8>>,
    /// What has to be found at every moment, as the archive or as a copy of it.
    precious: Vec<Vec<u8>>,
    /// The copies in the end.
    copies: Vec<Vec<u8>>,
    boot_cfg: Vec<u8>,
    census: Census,
    fence: Fence,
    record: Record,
}

impl Case {
    /// The task on the bank as it is.
    ///
    /// # Errors
    /// When the bank is no sound volume, an archive is none, or there is nothing to restore.
    pub fn new(name: impl Into<String>, bank: &Bank, task: Task) -> Result<Self> {
        let name = name.into();
        let base = bank.medium.flattened();
        let sector = bank.sector;
        let census = Census::of(&base, bank.region.start.0, sector)?;
        ensure!(
            census.problems.is_empty() || bank.worn,
            "{name}: {:?}",
            census.problems
        );
        let (before, undo) = (bank.archive.clone(), bank.undo.clone());
        let kept = || undo.clone().context("nothing to restore");
        let (after, precious, copies) = match &task {
            Task::Replace(new) => {
                let original = undo.clone().unwrap_or_else(|| before.clone());
                (new.clone(), vec![original.clone()], vec![original])
            }
            Task::Again(new, Earlier::Freed) => {
                (new.clone(), vec![before.clone()], vec![before.clone()])
            }
            Task::Again(new, Earlier::SetAside) => {
                let both = vec![before.clone(), kept()?];
                (new.clone(), both.clone(), both)
            }
            Task::Create(new) => (new.clone(), Vec::new(), Vec::new()),
            Task::Restore => (kept()?, vec![kept()?], Vec::new()),
            Task::Swap => (kept()?, vec![before.clone(), kept()?], vec![before.clone()]),
            Task::PutBack(kept) => (kept.clone(), Vec::new(), Vec::new()),
        };
        for archive in [&before, &after].into_iter().chain(&undo) {
            ensure!(
                gunzip(archive).is_ok() || archive.is_empty() && matches!(task, Task::Create(_)),
                "{name}: not an archive"
            );
        }
        Ok(Self {
            region: bank.region,
            sector,
            task,
            before,
            after,
            undo,
            precious,
            copies,
            boot_cfg: bank.boot_cfg.clone(),
            fence: Fence::around(&base, &census)?,
            census,
            base,
            name,
            record: Record::from_env(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The disk before the task.
    pub fn base(&self) -> &Medium {
        &self.base
    }

    /// Where the volume lies.
    pub fn region(&self) -> Region {
        self.region
    }

    /// What the agent does to a bank that nothing interrupted.
    ///
    /// # Errors
    /// Those of the exchange.
    pub fn run(&self, device: &dyn BlockDevice) -> Result<(), ExchangeError> {
        self.run_on(device, &self.before, FatTime::from_unix(NOW))
    }

    /// Carries the task out on a bank that has this archive.
    fn run_on(
        &self,
        device: &dyn BlockDevice,
        now: &[u8],
        at: FatTime,
    ) -> Result<(), ExchangeError> {
        let replace = |old: Option<&[u8]>, new: &[u8], replaced| {
            let replacement = Replacement {
                archive: ShortName::STATE,
                old,
                new,
                replaced,
                build: BUILD,
            };
            exchange::replace(device, self.region, &replacement, at).map(|_| ())
        };
        let restoration = Restoration {
            archive: ShortName::STATE,
            in_place: now,
            copy: undo_name(),
            original: self.undo.as_deref().unwrap_or_default(),
        };
        match &self.task {
            Task::Replace(new) => {
                let replaced = match &self.undo {
                    Some(_) => Replaced::Original(undo_name()),
                    None => Replaced::Kept(Earlier::Freed),
                };
                replace(Some(now), new, replaced)
            }
            Task::Again(new, earlier) => replace(Some(now), new, Replaced::Kept(*earlier)),
            Task::Create(new) => replace(None, new, Replaced::Kept(Earlier::SetAside)),
            Task::PutBack(kept) => replace(Some(now), kept, Replaced::Freed),
            Task::Restore => exchange::restore(device, self.region, &restoration),
            Task::Swap => exchange::swap(device, self.region, &restoration).map(|_| ()),
        }
    }

    /// What the agent does to a bank in any state: settle, look, go on to the end.
    ///
    /// # Errors
    /// Those of the exchange, and of reading the archive.
    pub fn recover(&self, device: &dyn BlockDevice) -> Result<()> {
        exchange::settle(device, self.region)?;
        let volume = Volume::open(device, self.region)?;
        let now = match volume.find(ShortName::STATE) {
            Some(entry) => volume.read(&entry)?,
            None => Vec::new(),
        };
        if now != self.after {
            self.run_on(device, &now, FatTime::from_unix(NOW + 60))?;
        }
        Ok(())
    }

    /// Records the task.
    ///
    /// # Errors
    /// When it fails although nothing interrupts it.
    pub fn record(&self) -> Result<Vec<Epoch>> {
        let recorder = Recorder::new(self.base.clone());
        self.run(&recorder)?;
        let recording = recorder.into_recording();
        self.record.add(&recording);
        ensure!(
            recording.open.is_empty(),
            "the last writes were not flushed"
        );
        Ok(recording.closed)
    }

    /// Records the task on a disk that ignores one flush; `None` when it has no such flush.
    ///
    /// # Errors
    /// When the task fails.
    pub fn record_ignoring_flush(&self, index: usize) -> Result<Option<Vec<Epoch>>> {
        let recorder = Recorder::ignoring_flush(self.base.clone(), index);
        self.run(&recorder)?;
        let recording = recorder.into_recording();
        Ok((index < recording.flushes).then(|| recording.epochs()))
    }

    /// Judges `STATE.TGZ` alone, as the loader finds it; returns its content, empty where there is
    /// rightly none.
    ///
    /// # Errors
    /// When it is missing, unreadable, or neither the old nor the new one.
    pub fn judge_archive(&self, medium: &Medium) -> Result<Vec<u8>> {
        let found = Loader::open(medium, self.region.start.0, self.sector)?
            .load(STATE)
            .context("STATE.TGZ")?;
        let archive = match found {
            Some(archive) => archive,
            None if self.before.is_empty() => return Ok(Vec::new()),
            None => bail!("STATE.TGZ is gone"),
        };
        ensure!(
            archive == self.before || archive == self.after,
            "STATE.TGZ is neither the old nor the new one"
        );
        Ok(archive)
    }

    /// The copies of the archive, by the names there are for them.
    fn copies(&self, loader: &Loader<'_, Medium>) -> Result<Vec<Vec<u8>>> {
        let names = (b'0'..=b'9').map(|digit| {
            let mut name = *b"STATE   ORG";
            name[10] = if digit == b'0' { b'G' } else { digit };
            name
        });
        names
            .filter_map(|name| {
                let loaded = loader.load(&name).transpose()?;
                Some(loaded.with_context(|| name.escape_ascii().to_string()))
            })
            .collect()
    }

    /// Judges a state right after a cut: the archive, the originals, boot.cfg; returns `STATE.TGZ`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge_cut(&self, medium: &Medium) -> Result<Vec<u8>> {
        let archive = self.judge_archive(medium)?;
        let loader = Loader::open(medium, self.region.start.0, self.sector)?;
        let copies = self.copies(&loader)?;
        for copy in &copies {
            ensure!(
                *copy == self.before || Some(copy) == self.undo.as_ref(),
                "a copy is neither the archive from before nor its original"
            );
        }
        for precious in &self.precious {
            ensure!(
                archive == *precious || copies.contains(precious),
                "an original is lost"
            );
        }
        // Until the new undo copy is there, the old one is the way back.
        if matches!(self.task, Task::Again(..)) && archive == self.before {
            ensure!(
                self.undo.as_ref().is_some_and(|undo| copies.contains(undo)),
                "the first original is lost before the second is kept"
            );
        }
        let boot_cfg = loader.load(BOOT_CFG).context("BOOT.CFG")?;
        ensure!(
            boot_cfg.as_deref() == Some(&self.boot_cfg[..]),
            "BOOT.CFG has changed"
        );
        Ok(archive)
    }

    /// Judges the end: the task is done, and the volume is as clean as it was.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge_end(&self, medium: &Medium) -> Result<()> {
        let archive = self.judge_cut(medium)?;
        ensure!(archive == self.after, "the task is not done");
        let loader = Loader::open(medium, self.region.start.0, self.sector)?;
        for digit in b'0'..=b'9' {
            let mut marker = *b"STATE   NEW";
            marker[10] = if digit == b'0' { b'W' } else { digit };
            ensure!(loader.slot(&marker).is_none(), "a marker is left over");
        }
        let (mut found, mut wanted) = (self.copies(&loader)?, self.copies.clone());
        found.sort();
        wanted.sort();
        ensure!(
            found == wanted,
            "{} copies are there, and not the {} that should be",
            found.len(),
            wanted.len()
        );
        let census = Census::of(medium, self.region.start.0, self.sector)?;
        ensure!(
            census.problems == self.census.problems,
            "{:?}",
            census.problems
        );
        Ok(())
    }

    fn judge_fsck(&self, medium: &Medium) -> Result<()> {
        let verdict = fsck(medium, self.region.start.0, self.census.layout.length())?;
        let was_clean = self.census.problems.is_empty();
        ensure!(verdict.clean == was_clean, "fsck.fat: {}", verdict.text);
        Ok(())
    }

    /// Recovers from a state and judges the end; returns the recovery's own writes.
    fn judge_recovery(&self, medium: &Medium) -> Result<(Vec<Epoch>, Medium)> {
        let recorder = Recorder::new(medium.clone());
        self.recover(&recorder)
            .map_err(|error| anyhow!("recovery: {error:#}"))?;
        let recording = recorder.into_recording();
        self.record.add(&recording);
        ensure!(
            recording.open.is_empty(),
            "writes of the recovery were not flushed"
        );
        self.fence.check(&recording.closed)?;
        self.judge_end(&recording.medium)
            .context("after the recovery")?;
        Ok((recording.closed, recording.medium))
    }

    /// Tries every state of the task's power cuts, and of its recoveries' power cuts.
    ///
    /// # Errors
    /// When the task fails without any cut; bad states are in the [`Tally`].
    pub fn explore(&self, effort: &Effort, rng: &mut Rng) -> Result<Tally> {
        self.explore_and_show(effort, rng, &mut |_| ())
    }

    /// As [`Case::explore`], and shows each state that one cut leaves, by its number in this case.
    ///
    /// # Errors
    /// As [`Case::explore`].
    pub fn explore_and_show(
        &self,
        effort: &Effort,
        rng: &mut Rng,
        show: &mut dyn FnMut(&Judged<'_>),
    ) -> Result<Tally> {
        let epochs = self.record().with_context(|| self.name.clone())?;
        let mut tally = Tally::default();
        tally.note(self, "the recording", self.fence.check(&epochs));
        let cuts = Cuts::new(&self.base, &epochs, &self.census.layout);
        let mut chance = rng.clone();
        let every = match is_short(&epochs) {
            true => effort.second_cut_every_short,
            false => effort.second_cut_every,
        };
        let mut number = 0;
        cuts.all(effort, rng, |cut, medium| {
            let verdict = self.explore_state(effort, &mut chance, &mut tally, every, &medium);
            tally.states += 1;
            show(&Judged {
                number,
                cut,
                medium: &medium,
                verdict: &verdict,
            });
            tally.note(self, format_args!("state {number}, {cut}"), verdict);
            number += 1;
            Ok(())
        })?;
        self.record.note(&self.name)?;
        Ok(tally)
    }

    fn explore_state(
        &self,
        effort: &Effort,
        rng: &mut Rng,
        tally: &mut Tally,
        every: usize,
        medium: &Medium,
    ) -> Result<()> {
        self.judge_cut(medium)?;
        let (recovery, end) = self.judge_recovery(medium)?;
        if tally.fscks == 0 || rng.one_in(effort.fsck_every) {
            tally.fscks += 1;
            self.judge_fsck(&end)?;
        }
        if recovery.is_empty() || !rng.one_in(every) {
            return Ok(());
        }
        let cuts = Cuts::new(medium, &recovery, &self.census.layout);
        let mut choice = rng.clone();
        rng.bits();
        let judge = |cut: Cut, medium: Medium| {
            tally.states += 1;
            tally.second_cuts += 1;
            self.judge_cut(&medium)
                .and_then(|_| self.judge_recovery(&medium))
                .with_context(|| format!("second cut {cut}"))
                .map(|_| ())
        };
        match is_short(&recovery) {
            true => cuts.all(effort, &mut choice, judge),
            false => cuts.some(effort.second_cut_states, &mut choice, judge),
        }
    }

    /// Applies a judge to every cut of a recording that may not be the agent's own: how a worse
    /// method is shown to be worse.
    ///
    /// # Errors
    /// When a medium cannot be read.
    pub fn judge_recording(
        &self,
        epochs: &[Epoch],
        effort: &Effort,
        rng: &mut Rng,
        judge: impl Fn(&Medium) -> Result<()>,
    ) -> Result<Tally> {
        let mut tally = Tally::default();
        let cuts = Cuts::new(&self.base, epochs, &self.census.layout);
        cuts.all(effort, rng, |cut, medium| {
            tally.states += 1;
            tally.note(self, cut, judge(&medium));
            Ok(())
        })?;
        Ok(tally)
    }

    /// Judges a state and what the next run makes of it.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn judge_state(&self, medium: &Medium) -> Result<()> {
        self.judge_cut(medium)?;
        self.judge_recovery(medium).map(|_| ())
    }

    /// The content of `STATE.TGZ` in the end.
    pub fn after(&self) -> &[u8] {
        &self.after
    }

    /// The content of `STATE.TGZ` before.
    pub fn before(&self) -> &[u8] {
        &self.before
    }

    /// Cuts the task at one random moment, recovers, and hands the bank on for the next task.
    ///
    /// # Errors
    /// What is wrong with one of the states.
    pub fn cut_once(&self, rng: &mut Rng) -> Result<Bank> {
        let epochs = self.record()?;
        let cuts = Cuts::new(&self.base, &epochs, &self.census.layout);
        let mut choice = rng.clone();
        rng.bits();
        let mut end = None;
        cuts.some(1, &mut choice, |_, medium| {
            self.judge_cut(&medium)?;
            end = Some(self.judge_recovery(&medium)?.1);
            Ok(())
        })?;
        let Some(medium) = end else {
            bail!("{}: nothing was written", self.name);
        };
        self.record.note(&self.name)?;
        let undo = self.copies.first().cloned();
        Ok(Bank {
            worn: !self.census.problems.is_empty(),
            medium,
            region: self.region,
            sector: self.sector,
            archive: self.after.clone(),
            undo,
            boot_cfg: self.boot_cfg.clone(),
        })
    }
}

/// Whether a recording is so short that everything that follows from it can be tried.
fn is_short(epochs: &[Epoch]) -> bool {
    epochs.iter().map(Vec::len).sum::<usize>() <= EXHAUSTIVE_WRITES
}

fn undo_name() -> ShortName {
    ShortName::STATE.with_extension(*b"ORG")
}

/// A state that a cut left, and what is wrong with it or with what follows from it.
#[derive(Debug)]
pub struct Judged<'s> {
    /// Its number among the states of its case.
    pub number: usize,
    /// How it came to be.
    pub cut: Cut,
    /// The disk.
    pub medium: &'s Medium,
    /// What is wrong.
    pub verdict: &'s Result<()>,
}

/// What was tried, and what was bad.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// States judged.
    pub states: usize,
    /// Of these, states after a second cut.
    pub second_cuts: usize,
    /// Recovered volumes given to `fsck.fat`.
    pub fscks: usize,
    /// Bad states.
    pub bad: usize,
    /// The first bad states, described.
    pub descriptions: Vec<String>,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.states += other.states;
        self.second_cuts += other.second_cuts;
        self.fscks += other.fscks;
        self.bad += other.bad;
        self.descriptions.extend(other.descriptions);
        self.descriptions.truncate(DESCRIBED);
    }

    fn note(&mut self, case: &Case, what: impl fmt::Display, verdict: Result<()>) {
        if let Err(error) = verdict {
            self.bad += 1;
            if self.descriptions.len() < DESCRIBED {
                let name = case.name();
                self.descriptions.push(format!("{name}: {what}: {error:#}"));
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states tried, {} bad ({} of them after a second cut; {} volumes given to fsck.fat)",
            self.states, self.bad, self.second_cuts, self.fscks
        )
    }
}
