//! Replacing a file so that no power cut can hurt: the exchange.
//!
//! FAT has no journal, and the only thing a disk writes as a whole is one logical sector. But a
//! directory entry holds *first cluster* and *size* in the same 32 bytes, so one sector write
//! switches a file from its old content to its new one. Everything else is arranged around that
//! write:
//!
//! | epoch | what is written | what a cut in it leaves |
//! |---|---|---|
//! | intent | an empty file, the *marker* (`STATE.NEW`) | the old content, at most the marker |
//! | data | new content into free clusters, read back | the old content, the marker |
//! | tables | the new chain into every table | the old content, the marker, lost clusters |
//! | commit | the archive's entry names the new chain; the marker becomes the *undo copy* (`STATE.ORG`), naming the old chain | old or new content, whole |
//!
//! Between epochs stands a flush. Where the two entries lie in different sectors the commit takes
//! two writes, the undo copy first; for a moment both entries name the old chain, which no reader
//! minds.
//!
//! An undo copy that exists already is the original of the first repair and is never replaced. A
//! later repair therefore frees the chain it replaces instead, and removes the marker last.
//!
//! Restoring is the same exchange backwards: the archive's entry takes back everything the undo
//! copy kept, whose slot becomes the marker until the repaired chain is freed.
//!
//! An original that was kept elsewhere than in the bank (on the rescue medium) is put back by the same
//! exchange, in the variety that keeps nothing: what it replaces is freed, as by a later repair.
//!
//! What a cut run left is recognised by the marker, or by archive and undo copy naming one chain.
//! Only then are lost clusters freed and unequal tables made equal, and only where no file owns
//! the cluster; otherwise a volume with unequal tables is damaged and refused.

use std::fmt;

use thiserror::Error;

use super::directory::{self, Entry, FatTime, ShortName};
use super::error::{Damage, FatError};
use super::geometry::ENTRY_BYTES;
use super::survey::Survey;
use super::table::Link;
use super::volume::{Freshness, Region, Volume, runs};
use crate::disk::{BlockDevice, ByteOffset};

/// The archives that may be exchanged.
pub const ARCHIVES: [ShortName; 3] = [ShortName::STATE, ShortName::LOCAL, ShortName::ONETIME];

/// The directory entries of one exchange.
///
/// The names must escape ESXi's own housekeeping: it deletes `state.tgz.*` and `local.tgz.*`, and
/// unpacks every other `*.tgz` and `*.gz` it finds in a bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// What is replaced.
    pub archive: ShortName,
    /// What keeps the original.
    pub undo: ShortName,
    /// What says that an exchange is under way.
    pub marker: ShortName,
}

impl Names {
    /// The names that belong to an archive: `STATE.TGZ`, `STATE.ORG`, `STATE.NEW`.
    pub fn of(archive: ShortName) -> Self {
        Self {
            archive,
            undo: archive.with_extension(*b"ORG"),
            marker: archive.with_extension(*b"NEW"),
        }
    }
}

/// Which content the archive has after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InForce {
    /// The one from before.
    Old,
    /// The one that was to be put in place.
    New,
    /// One of the two, whole; the disk has not confirmed which.
    OldOrNew,
    /// Whichever was in force before: nothing was to change.
    Unchanged,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "the old archive is in force, whole",
            Self::New => "the new archive is in force, whole",
            Self::Unchanged => "the archive that was in force still is, whole",
            Self::OldOrNew => {
                "either the old or the new archive is in force, whole; the disk has not confirmed which"
            }
        })
    }
}

/// A step of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Writing the marker.
    Intent,
    /// Writing the new content.
    Data,
    /// Writing the new chain.
    Tables,
    /// Switching the directory entry.
    Commit,
    /// Freeing what nobody names any more.
    Release,
    /// Removing the marker.
    Cleanup,
    /// Reading back.
    Verify,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intent => "noting the intent",
            Self::Data => "writing the new archive",
            Self::Tables => "writing its cluster chain",
            Self::Commit => "switching the directory entry",
            Self::Release => "freeing unused clusters",
            Self::Cleanup => "removing the intent note",
            Self::Verify => "reading the result back",
        })
    }
}

/// Why an exchange was not begun. Nothing was written.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The volume cannot be read or is damaged.
    #[error(transparent)]
    Volume(#[from] FatError),
    /// Too few free clusters.
    #[error(
        "not enough space: the new archive needs {needed} clusters of {cluster_bytes} bytes, {free} are free"
    )]
    NoSpace {
        /// Clusters needed.
        needed: u64,
        /// Clusters free.
        free: u64,
        /// Bytes per cluster.
        cluster_bytes: u32,
    },
    /// No slot left in the root directory for the undo copy.
    #[error("the root directory is full: no room for the undo copy's entry")]
    NoSlot,
    /// There is nothing to exchange, or nothing that an undo copy could keep.
    #[error("{0} is empty, or was to become empty")]
    Empty(ShortName),
    /// The archive is not what the plan was made for.
    #[error("{0} has changed since the plan was made")]
    Changed(ShortName),
    /// Nothing to restore from.
    #[error("there is no undo copy {0}")]
    NoUndo(ShortName),
    /// A file of somebody else has a name this program needs.
    #[error("a file {0} that this program did not make is in the way")]
    NameTaken(ShortName),
    /// An interrupted exchange has to be settled first.
    #[error("an interrupted repair has left traces that are not settled yet")]
    Unsettled,
}

/// How an exchange ended when it did not succeed.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// Not begun; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Begun, and failed.
    #[error("{stage} failed: {reason}; {in_force}")]
    Failed {
        /// Where.
        stage: Stage,
        /// Which content is in force now.
        in_force: InForce,
        /// What went wrong.
        reason: String,
    },
}

/// What an exchange did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchanged {
    /// Whether this exchange made the undo copy (otherwise an earlier original was kept).
    pub made_undo: bool,
}

/// What a settlement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Clusters that were marked as used by nobody and are free now.
    pub freed_clusters: usize,
}

/// What there is to know about a volume before an exchange, without writing.
#[derive(Debug, Clone)]
pub struct Assessment {
    /// An interrupted exchange left traces; [`settle`] removes them.
    pub unsettled: bool,
    /// Free clusters, those included that settling frees.
    pub free_clusters: u64,
    /// Bytes per cluster.
    pub cluster_bytes: u32,
    /// Whether the root directory has room for one more entry.
    pub has_free_slot: bool,
    /// Clusters that nobody owns and that this program did not leave; they are not touched.
    pub foreign_lost_clusters: usize,
}

impl Assessment {
    fn of(volume: &Volume<'_>, survey: &Survey, unsettled: bool) -> Self {
        let lost = survey.lost.len();
        Self {
            unsettled,
            free_clusters: (survey.free.len() + if unsettled { lost } else { 0 }) as u64,
            cluster_bytes: volume.geometry.cluster_bytes(),
            has_free_slot: unsettled || !directory::free_slots(&volume.root).is_empty(),
            foreign_lost_clusters: if unsettled { 0 } else { lost },
        }
    }

    /// Whether an archive of `bytes` can be exchanged in.
    ///
    /// # Errors
    /// [`Refusal::NoSpace`], [`Refusal::NoSlot`].
    pub fn room_for(&self, bytes: usize) -> Result<(), Refusal> {
        let needed = (bytes as u64).div_ceil(u64::from(self.cluster_bytes));
        if needed > self.free_clusters {
            return Err(Refusal::NoSpace {
                needed,
                free: self.free_clusters,
                cluster_bytes: self.cluster_bytes,
            });
        }
        if !self.has_free_slot {
            return Err(Refusal::NoSlot);
        }
        Ok(())
    }
}

/// The copy of the original that a repair of `archive` kept. None while an interrupted exchange
/// lets both names stand for one content.
pub fn undo_copy(volume: &Volume<'_>, archive: ShortName) -> Option<Entry> {
    volume
        .find(Names::of(archive).undo)
        .filter(|undo| !is_alias(volume, undo))
}

/// Judges a volume without writing: is it sound, is something left over, how much room is there.
///
/// # Errors
/// [`Refusal::Volume`] for every kind of damage, [`Refusal::NameTaken`].
pub fn assess(volume: &Volume<'_>) -> Result<Assessment, Refusal> {
    let (survey, unsettled) = sound(volume)?;
    Ok(Assessment::of(volume, &survey, unsettled))
}

/// Settles what an interrupted exchange left, if anything. The archive's content does not change.
///
/// # Errors
/// [`ExchangeError::Refused`] on a damaged volume, [`ExchangeError::Failed`] when the device fails.
pub fn settle(device: &dyn BlockDevice, region: Region) -> Result<Option<Settled>, ExchangeError> {
    let mut work = Work::open(device, region)?;
    let (survey, unsettled) = sound(&work.volume)?;
    if !unsettled {
        return Ok(None);
    }
    let before = InForce::Unchanged;
    for names in ARCHIVES.map(Names::of) {
        if let Some(slot) = work.alias_slot(names) {
            let marker = match work.slot_of(names.marker) {
                None => Entry::empty_file(names.marker, FatTime::from_unix(0)),
                Some(_) => work.entry(slot).deleted(),
            };
            work.write_slots(&[(slot, marker)])
                .map_err(failed(Stage::Release, before))?;
        }
    }
    work.release(&survey.lost)
        .map_err(failed(Stage::Release, before))?;
    for names in ARCHIVES.map(Names::of) {
        work.remove_marker(names)
            .map_err(failed(Stage::Cleanup, before))?;
    }
    let after = Volume::open_with(device, region, Freshness::Medium)
        .map_err(|error| failed(Stage::Verify, before)(error))?;
    match sound(&after) {
        Ok((_, false)) => Ok(Some(Settled {
            freed_clusters: survey.lost.len(),
        })),
        Ok((_, true)) => Err(failed(Stage::Verify, before)("the traces are still there")),
        Err(error) => Err(failed(Stage::Verify, before)(error)),
    }
}

/// Replaces the content of `archive`, which must be `old`, by `new`, and proves it.
///
/// # Errors
/// [`ExchangeError::Refused`] when nothing was written, [`ExchangeError::Failed`] with the content
/// that is in force when the device failed or the result did not read back.
pub fn replace(
    device: &dyn BlockDevice,
    region: Region,
    archive: ShortName,
    old: &[u8],
    new: &[u8],
    at: FatTime,
) -> Result<Exchanged, ExchangeError> {
    exchange(device, region, archive, (old, new), at, Replaced::Kept)
}

/// Replaces the content of `archive`, which must be `repaired`, by an original that was kept
/// elsewhere, and proves it. As after [`restore`], the bank has no undo copy then.
///
/// # Errors
/// As [`replace`].
pub fn put_back(
    device: &dyn BlockDevice,
    region: Region,
    archive: ShortName,
    repaired: &[u8],
    original: &[u8],
    at: FatTime,
) -> Result<(), ExchangeError> {
    let contents = (repaired, original);
    exchange(device, region, archive, contents, at, Replaced::Freed).map(|_| ())
}

/// What becomes of the content that is replaced, where there is no undo copy yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaced {
    /// It becomes the undo copy.
    Kept,
    /// Nobody needs it any more.
    Freed,
}

fn exchange(
    device: &dyn BlockDevice,
    region: Region,
    archive: ShortName,
    (old, new): (&[u8], &[u8]),
    at: FatTime,
    replaced: Replaced,
) -> Result<Exchanged, ExchangeError> {
    let names = Names::of(archive);
    let mut work = Work::open(device, region)?;
    if old.is_empty() || new.is_empty() {
        return Err(Refusal::Empty(archive).into());
    }
    let ready = Ready::check(&work.volume, names, new.len())?;
    if work.volume.read(&ready.entry).map_err(Refusal::from)? != old {
        return Err(Refusal::Changed(archive).into());
    }

    let marker = Entry::empty_file(names.marker, at);
    work.write_slots(&[(ready.marker_slot, marker)])
        .map_err(failed(Stage::Intent, InForce::Old))?;
    work.write_data(&ready.clusters, new)
        .map_err(failed(Stage::Data, InForce::Old))?;
    work.write_chain(&ready.clusters)
        .map_err(failed(Stage::Tables, InForce::Old))?;

    // Both numbers were checked: FAT16 has no clusters above u16, files no sizes above u32.
    let first = u16::try_from(ready.clusters[0]).unwrap_or(0);
    let size = u32::try_from(new.len()).unwrap_or(0);
    let committed = (ready.slot, ready.entry.naming(first, size).stamped(at));
    let undo = (ready.marker_slot, ready.entry.renamed(names.undo));
    let frees = ready.has_undo || replaced == Replaced::Freed;
    let commit: &[&[(usize, Entry)]] = match (frees, work.same_atom(ready.slot, ready.marker_slot))
    {
        (true, _) => &[&[committed]],
        (false, true) => &[&[committed, undo]],
        (false, false) => &[&[undo], &[committed]],
    };
    for write in commit {
        work.write_slots(write).map_err(|error| {
            let in_force = match write.iter().any(|(slot, _)| *slot == ready.slot) {
                true => work.in_force_after_failed_switch(ready.entry),
                false => InForce::Old,
            };
            failed(Stage::Commit, in_force)(error)
        })?;
    }
    if frees {
        work.release(&ready.old_chain)
            .map_err(failed(Stage::Release, InForce::New))?;
        work.remove_marker(names)
            .map_err(failed(Stage::Cleanup, InForce::New))?;
    }
    verify(device, region, archive, new).map_err(failed(Stage::Verify, InForce::New))?;
    Ok(Exchanged { made_undo: !frees })
}

/// Gives `archive` back the content, times and attributes its undo copy kept, removes the undo
/// copy, and proves it.
///
/// # Errors
/// As [`replace`]; [`Refusal::NoUndo`] when there is nothing to restore from.
pub fn restore(
    device: &dyn BlockDevice,
    region: Region,
    archive: ShortName,
    at: FatTime,
) -> Result<(), ExchangeError> {
    let names = Names::of(archive);
    let mut work = Work::open(device, region)?;
    let (_, unsettled) = sound(&work.volume)?;
    if unsettled {
        return Err(Refusal::Unsettled.into());
    }
    let undo_slot = work
        .slot_of(names.undo)
        .ok_or(Refusal::NoUndo(names.undo))?;
    let slot = work.slot_of(archive).ok_or_else(|| missing(archive))?;
    let (entry, undo) = (work.entry(slot), work.entry(undo_slot));
    let original = work.volume.read(&undo).map_err(Refusal::from)?;
    let repaired_chain = work
        .volume
        .chain(&entry)
        .map_err(|damage| Refusal::Volume(damage.into()))?;

    let restored = (slot, undo.renamed(archive));
    let marker = (undo_slot, Entry::empty_file(names.marker, at));
    let commit: &[&[(usize, Entry)]] = if work.same_atom(slot, undo_slot) {
        &[&[restored, marker]]
    } else {
        &[&[restored], &[marker]]
    };
    for write in commit {
        work.write_slots(write).map_err(|error| {
            let in_force = match write.iter().any(|(written, _)| *written == slot) {
                true => work.in_force_after_failed_switch(entry),
                false => InForce::New,
            };
            failed(Stage::Commit, in_force)(error)
        })?;
    }
    work.release(&repaired_chain)
        .map_err(failed(Stage::Release, InForce::New))?;
    work.remove_marker(names)
        .map_err(failed(Stage::Cleanup, InForce::New))?;
    verify(device, region, archive, &original).map_err(failed(Stage::Verify, InForce::New))
}

/// Whether `entry` is an undo copy that names the same chain as its archive: what the middle of a
/// two-sector commit looks like.
pub(super) fn is_alias(volume: &Volume<'_>, entry: &Entry) -> bool {
    ARCHIVES.map(Names::of).iter().any(|names| {
        entry.name() == names.undo
            && entry.first_cluster() != 0
            && volume.find(names.archive).is_some_and(|archive| {
                archive.first_cluster() == entry.first_cluster() && archive.size() == entry.size()
            })
    })
}

fn is_marker(entry: &Entry) -> bool {
    entry.size() == 0
        && entry.first_cluster() == 0
        && !entry.is_directory()
        && ARCHIVES
            .map(Names::of)
            .iter()
            .any(|names| entry.name() == names.marker)
}

/// The check before everything: a survey of a volume on which an exchange would be safe, and
/// whether an interrupted one left traces.
fn sound(volume: &Volume<'_>) -> Result<(Survey, bool), Refusal> {
    if volume.geometry.marked_dirty || volume.tables_marked_dirty() {
        return Err(FatError::from(Damage::MarkedDirty).into());
    }
    let entries: Vec<Entry> = volume.root_entries().collect();
    for names in ARCHIVES.map(Names::of) {
        for name in [names.archive, names.undo, names.marker] {
            match entries.iter().filter(|entry| entry.name() == name).count() {
                0 | 1 => {}
                _ => return Err(FatError::from(Damage::DuplicateName(name.to_string())).into()),
            }
        }
        let foreign = |entry: &&Entry| {
            entry.name() == names.archive && entry.is_directory()
                || entry.name() == names.marker && !is_marker(entry)
                || entry.name() == names.undo && (entry.is_directory() || entry.size() == 0)
        };
        if let Some(entry) = entries.iter().find(foreign) {
            return Err(Refusal::NameTaken(entry.name()));
        }
    }
    let unsettled = entries
        .iter()
        .any(|entry| is_marker(entry) || is_alias(volume, entry));
    let survey = volume.survey()?;
    let unexplained = match unsettled {
        true => survey.first_difference_in_use(),
        false => survey.differing.first().copied(),
    };
    match unexplained {
        None => Ok((survey, unsettled)),
        Some(cluster) => {
            let count = survey.differing.len();
            Err(FatError::from(Damage::TablesDiffer { count, cluster }).into())
        }
    }
}

fn missing(archive: ShortName) -> Refusal {
    FatError::NotFound(archive.to_string()).into()
}

fn failed<E: fmt::Display>(stage: Stage, in_force: InForce) -> impl Fn(E) -> ExchangeError {
    move |reason| ExchangeError::Failed {
        stage,
        in_force,
        reason: reason.to_string(),
    }
}

/// Everything an exchange needs, found before its first write.
struct Ready {
    slot: usize,
    entry: Entry,
    marker_slot: usize,
    has_undo: bool,
    old_chain: Vec<u32>,
    clusters: Vec<u32>,
}

impl Ready {
    fn check(volume: &Volume<'_>, names: Names, new_len: usize) -> Result<Self, Refusal> {
        let (survey, unsettled) = sound(volume)?;
        if unsettled {
            return Err(Refusal::Unsettled);
        }
        Assessment::of(volume, &survey, unsettled).room_for(new_len)?;
        let (slot, entry) = directory::live_entries(&volume.root)
            .find(|(_, entry)| entry.name() == names.archive && !entry.is_directory())
            .ok_or_else(|| missing(names.archive))?;
        // This run frees what it replaces: the undo copy is the only way back from it.
        let undo = volume.find(names.undo);
        if let Some(undo) = &undo {
            volume.read(undo)?;
        }
        let slots = directory::free_slots(&volume.root);
        let marker_slot = slots
            .iter()
            .copied()
            .find(|free| volume.same_atom(slot, *free))
            .or_else(|| slots.first().copied())
            .ok_or(Refusal::NoSlot)?;
        let needed =
            usize::try_from(volume.geometry.clusters_for(new_len as u64)).unwrap_or(usize::MAX);
        Ok(Self {
            slot,
            entry,
            marker_slot,
            has_undo: undo.is_some(),
            old_chain: volume.chain(&entry).map_err(FatError::from)?,
            clusters: choose(&survey.free, needed),
        })
    }
}

/// Picks `needed` of the free clusters: the first run of neighbours that is long enough, or else
/// the first ones there are.
fn choose(free: &[u32], needed: usize) -> Vec<u32> {
    runs(free)
        .find(|run| run.len() >= needed)
        .unwrap_or(free)
        .iter()
        .copied()
        .take(needed)
        .collect()
}

/// Reads the volume back from the medium as a loader would, and as `fsck` would.
fn verify(
    device: &dyn BlockDevice,
    region: Region,
    archive: ShortName,
    expected: &[u8],
) -> Result<(), String> {
    let volume = Volume::open_with(device, region, Freshness::Medium).map_err(|e| e.to_string())?;
    let (_, unsettled) = sound(&volume).map_err(|e| e.to_string())?;
    if unsettled {
        return Err("the volume still shows an exchange under way".into());
    }
    let entry = volume
        .find(archive)
        .ok_or_else(|| format!("{archive} is gone"))?;
    match volume.read(&entry).map_err(|e| e.to_string())? == expected {
        true => Ok(()),
        false => Err(format!("{archive} does not read back as it was written")),
    }
}

/// A volume being written: the only code that writes to an ESXi disk.
struct Work<'d> {
    volume: Volume<'d>,
}

type Written = Result<(), String>;

impl<'d> Work<'d> {
    fn open(device: &'d dyn BlockDevice, region: Region) -> Result<Self, Refusal> {
        Ok(Self {
            volume: Volume::open_with(device, region, Freshness::Medium)?,
        })
    }

    fn slot_of(&self, name: ShortName) -> Option<usize> {
        directory::live_entries(&self.volume.root)
            .find(|(_, entry)| entry.name() == name)
            .map(|(slot, _)| slot)
    }

    fn alias_slot(&self, names: Names) -> Option<usize> {
        self.slot_of(names.undo)
            .filter(|slot| is_alias(&self.volume, &self.entry(*slot)))
    }

    fn entry(&self, slot: usize) -> Entry {
        let mut raw = [0; ENTRY_BYTES];
        raw.copy_from_slice(&self.volume.root[slot * ENTRY_BYTES..(slot + 1) * ENTRY_BYTES]);
        Entry::new(raw)
    }

    fn same_atom(&self, a: usize, b: usize) -> bool {
        self.volume.same_atom(a, b)
    }

    /// Writes directory slots that lie in one sector, as one write.
    fn write_slots(&mut self, slots: &[(usize, Entry)]) -> Written {
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
    fn write_data(&self, clusters: &[u32], content: &[u8]) -> Written {
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
            false => Err("the disk gave back other bytes than were written".into()),
        }
    }

    fn write_chain(&mut self, clusters: &[u32]) -> Written {
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

    fn release(&mut self, clusters: &[u32]) -> Written {
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
        self.volume
            .tables
            .iter_mut()
            .for_each(super::table::Table::settle);
        Ok(())
    }

    fn remove_marker(&mut self, names: Names) -> Written {
        match self.slot_of(names.marker) {
            Some(slot) => self.write_slots(&[(slot, self.entry(slot).deleted())]),
            None => Ok(()),
        }
    }

    /// What can be promised after the write that switches the archive's entry, or its flush,
    /// failed. A disk that still gives back the old entry has taken nothing. One that gives back
    /// the new entry may have it in a cache only, which the next power cut loses.
    fn in_force_after_failed_switch(&self, old: Entry) -> InForce {
        Volume::open_with(self.volume.device, self.volume.region, Freshness::Medium)
            .ok()
            .and_then(|volume| volume.find(old.name()))
            .filter(|found| *found == old)
            .map_or(InForce::OldOrNew, |_| InForce::Old)
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
                    "the disk gave back other bytes at {offset} than were written"
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
