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
//! | commit | the archive's entry names the new chain; the marker becomes the *undo copy* (`STATE.ORG`), naming the old chain | old or new content, intact |
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

mod outcome;
mod writer;

pub use self::outcome::{ActiveArchive, ExchangeError, Exchanged, Refusal, Settled, Stage};
use self::outcome::{failed, missing};
use self::writer::Work;
use super::directory::{self, Entry, FatTime, ShortName};
use super::error::{Damage, FatError};
use super::names::{ARCHIVES, Names, is_alias, is_marker};
use super::survey::Survey;
use super::volume::{Freshness, Region, Volume, runs};
use crate::disk::BlockDevice;

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
    let before = ActiveArchive::Unchanged;
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
/// that is active when the device failed or the result did not read back.
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
        .map_err(failed(Stage::Intent, ActiveArchive::Old))?;
    work.write_data(&ready.place.clusters, new)
        .map_err(failed(Stage::Data, ActiveArchive::Old))?;
    work.write_chain(&ready.place.clusters)
        .map_err(failed(Stage::Tables, ActiveArchive::Old))?;

    let Place { first, size, .. } = ready.place;
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
                false => ActiveArchive::Old,
            };
            failed(Stage::Commit, in_force)(error)
        })?;
    }
    if frees {
        work.release(&ready.old_chain)
            .map_err(failed(Stage::Release, ActiveArchive::New))?;
        work.remove_marker(names)
            .map_err(failed(Stage::Cleanup, ActiveArchive::New))?;
    }
    verify(device, region, archive, new).map_err(failed(Stage::Verify, ActiveArchive::New))?;
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
                false => ActiveArchive::New,
            };
            failed(Stage::Commit, in_force)(error)
        })?;
    }
    work.release(&repaired_chain)
        .map_err(failed(Stage::Release, ActiveArchive::New))?;
    work.remove_marker(names)
        .map_err(failed(Stage::Cleanup, ActiveArchive::New))?;
    verify(device, region, archive, &original).map_err(failed(Stage::Verify, ActiveArchive::New))
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

/// Everything an exchange needs, found before its first write.
struct Ready {
    slot: usize,
    entry: Entry,
    marker_slot: usize,
    has_undo: bool,
    old_chain: Vec<u32>,
    place: Place,
}

/// Where the new content goes, and the two numbers by which the archive's directory entry will name
/// it: known before the first write, so that the commit has nothing left to work out.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    clusters: Vec<u32>,
    first: u16,
    size: u32,
}

impl Place {
    /// For `bytes` of `archive` in these clusters, just as many as they need.
    fn in_clusters(archive: ShortName, bytes: usize, clusters: Vec<u32>) -> Result<Self, Refusal> {
        let size = u32::try_from(bytes).map_err(|_| FatError::TooLarge {
            name: archive.to_string(),
            size: bytes as u64,
            limit: u64::from(u32::MAX),
        })?;
        let first = *clusters.first().ok_or(Refusal::Empty(archive))?;
        let first = u16::try_from(first).map_err(|_| {
            FatError::NotFat(format!("cluster {first} has a number of more than 16 bits"))
        })?;
        Ok(Self {
            clusters,
            first,
            size,
        })
    }
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
            place: Place::in_clusters(names.archive, new_len, choose(&survey.free, needed))?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_directory_entry_cannot_say_is_refused_before_anything_is_written() {
        let place = |bytes, clusters: &[u32]| {
            Place::in_clusters(ShortName::STATE, bytes, clusters.to_vec())
        };
        let last = place(u32::MAX as usize, &[0xffff, 2]).unwrap();
        assert_eq!((last.first, last.size), (u16::MAX, u32::MAX));
        let too_far = place(1, &[0x1_0000]).unwrap_err().to_string();
        assert!(too_far.contains("cluster 65536"), "{too_far}");
        let too_long = place(u32::MAX as usize + 1, &[2]).unwrap_err().to_string();
        assert!(too_long.contains("4294967296 bytes"), "{too_long}");
        assert!(matches!(place(1, &[]), Err(Refusal::Empty(_))));
    }
}
