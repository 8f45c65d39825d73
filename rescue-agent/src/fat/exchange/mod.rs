//! Replacing a file so that no power cut can hurt: the exchange.
//!
//! FAT has no journal, and the only thing a disk writes as a whole is one logical sector. But a
//! directory entry holds *first cluster* and *size* in the same 32 bytes, so one sector write
//! switches a file from its old content to its new one. Everything else is arranged around that
//! write:
//!
//! | epoch | what is written | what a cut in it leaves |
//! |---|---|---|
//! | intent | an empty file, the *marker* (`STATE.NEW`), which says which clusters are taken | the old content, at most the marker |
//! | data | new content into free clusters, read back | the old content, the marker |
//! | tables | the new chain into every table | the old content, the marker, lost clusters |
//! | commit | the archive's entry names the new chain; the marker becomes the *undo copy* (`STATE.ORG`), naming the old chain | old or new content, intact |
//!
//! Between epochs stands a flush. Where the archive's sector has no free slot the undo copy gets its
//! own entry in another sector, written just before the commit; for a moment both entries name the
//! old chain, which no reader minds. The marker is removed last.
//!
//! Which of these files are this program's own is identified by a mark ([`super::names`]), and which undo
//! copy belongs to the archive in place by a digest ([`Link`]) that the commit writes with it. While
//! they belong together the original stays, and a later repair frees the chain that it replaces. Once
//! they do not, because ESXi has saved its configuration or was upgraded, the archive in place is the
//! new original: the copy of the earlier repair is marked as superseded first, then the exchange is
//! that of a first repair, and then the superseded copy is freed.
//!
//! Restoring is the same exchange backwards: the archive's entry takes back everything the undo
//! copy kept, whose slot becomes the marker until the repaired chain is freed. Where a person wants
//! the original back although ESXi has saved a newer configuration, the two change places instead.
//!
//! Where there is no archive, the commit turns the marker into the archive's entry: the old state of
//! that exchange is absence.
//!
//! What a cut run left is recognised by the marker, by archive and undo copy naming one chain, or by
//! a superseded copy. Clusters that belong to nobody are freed, and tables made equal there, only where
//! a marker says that an exchange was at work.

mod check;
mod link;
mod outcome;
mod settle;
mod writer;

pub use check::{Assessment, assess};
pub use link::Link;
pub use outcome::{ActiveArchive, ExchangeError, Refusal, Stage};
pub use settle::{Settled, settle};

use thiserror::Error;

use self::check::{Checked, free_names, slot_of, sound_file};
use self::outcome::failed;
use self::settle::{marker_named, remove_copy};
use self::writer::Work;
use super::directory::{self, Entry, FatTime, ShortName};
use super::error::FatError;
use super::names::{self, Mark, copies_of, markers_of};
use super::survey::Survey;
use super::volume::{Freshness, Region, Volume, runs};
use crate::disk::BlockDevice;

/// What is to take an archive's place.
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'r> {
    /// The archive.
    pub archive: ShortName,
    /// Its content now; `None` where there must be none. Of an empty one nothing is kept.
    pub old: Option<&'r [u8]>,
    /// Its content afterwards.
    pub new: &'r [u8],
    /// What happens to the content that is replaced.
    pub replaced: Replaced,
    /// The build of ESXi in this bank.
    pub build: &'r str,
}

/// What happens to the content that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It becomes the undo copy.
    Kept(Earlier),
    /// It is freed, for it was made from the original in this undo copy, which stays.
    Original(ShortName),
    /// It is freed: an original that was kept elsewhere comes back.
    Freed,
}

/// What happens to the undo copy of an earlier repair when another one replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// It is freed: the archive in place is what ESXi has made of it since.
    Freed,
    /// It stays, set aside: the archive in place is none that could stand for it.
    SetAside,
}

/// What an exchange did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchanged {
    /// The undo copy that it made, if it made one.
    pub made_undo: Option<ShortName>,
}

/// The copies that repairs of `archive` may have kept, by their names; [`Entry::mark`] says which are
/// certain to be ours. An entry that names the archive's own chain is none.
pub fn copies(volume: &Volume<'_>, archive: ShortName) -> Vec<Entry> {
    volume
        .root_entries()
        .filter(|entry| names::has_name_of_copy(entry, archive) && entry.size() > 0)
        .filter(|entry| !volume.is_alias(entry))
        .collect()
}

/// The link that the entry of an archive in place holds, if a repair put it there.
pub fn link_in(archive: &Entry) -> Option<Link> {
    archive.coded().map(Link)
}

/// Replaces the content of an archive, and proves it.
///
/// # Errors
/// [`ExchangeError::Refused`] when nothing was written, [`ExchangeError::Failed`] with the content
/// that is active when the device failed or the result did not read back.
pub fn replace(
    device: &dyn BlockDevice,
    region: Region,
    replacement: &Replacement<'_>,
    at: FatTime,
) -> Result<Exchanged, ExchangeError> {
    let mut work = Work::open(device, region)?;
    let ready = Ready::check(&work.volume, replacement, at)?;
    let before = match replacement.old {
        Some(_) => ActiveArchive::Old,
        None => ActiveArchive::None,
    };
    work.write_slots(&ready.earlier)
        .map_err(failed(Stage::Intent, before))?;
    work.write_slots(&ready.markers)
        .map_err(failed(Stage::Intent, before))?;
    work.write_data(&ready.clusters, replacement.new)
        .map_err(failed(Stage::Data, before))?;
    work.write_chain(&ready.clusters)
        .map_err(failed(Stage::Tables, before))?;
    for write in &ready.commit {
        work.write_slots(write).map_err(|error| {
            let in_force = match write.iter().any(|(slot, _)| *slot == ready.slot) {
                true => work.active_after_failed_switch(replacement.archive, ready.entry),
                false => before,
            };
            failed(Stage::Commit, in_force)(error)
        })?;
    }
    work.release(&ready.freed)
        .map_err(failed(Stage::Release, ActiveArchive::New))?;
    work.delete(&ready.leftover_markers())
        .map_err(failed(Stage::Cleanup, ActiveArchive::New))?;
    for (slot, entry) in &ready.earlier {
        if entry.mark() == Some(Mark::Superseded) {
            remove_copy(&mut work, *slot, replacement.archive)
                .map_err(failed(Stage::Release, ActiveArchive::New))?;
        }
    }
    let proof = Proof {
        archive: replacement.archive,
        expected: replacement.new,
        residue: &ready.residue,
    };
    proof
        .check(device, region)
        .map_err(failed(Stage::Verify, ActiveArchive::New))?;
    Ok(Exchanged {
        made_undo: ready.made_undo,
    })
}

/// What is to come back.
#[derive(Debug, Clone, Copy)]
pub struct Restoration<'r> {
    /// The archive.
    pub archive: ShortName,
    /// Its content now.
    pub in_place: &'r [u8],
    /// The copy that takes its place.
    pub copy: ShortName,
    /// The content of that copy.
    pub original: &'r [u8],
}

impl Restoration<'_> {
    /// The slots of the archive and of the copy, once both are what they should be.
    fn check(&self, volume: &Volume<'_>) -> Result<(Checked, usize, usize), Refusal> {
        let checked = Checked::settled(volume, self.archive)?;
        let copy = slot_of(volume, self.copy).ok_or(Refusal::NoUndo(self.copy))?;
        let slot = slot_of(volume, self.archive).ok_or_else(|| missing(self.archive))?;
        sound_file(volume, &checked.survey, copy)?;
        for (slot, name, expected) in [
            (slot, self.archive, self.in_place),
            (copy, self.copy, self.original),
        ] {
            if volume.read(&volume.entry_in(slot))? != expected {
                return Err(Refusal::Changed(name));
            }
        }
        Ok((checked, slot, copy))
    }

    fn proof<'p>(&'p self, residue: &'p Residue) -> Proof<'p> {
        Proof {
            archive: self.archive,
            expected: self.original,
            residue,
        }
    }
}

/// Gives an archive back the content, times and attributes its undo copy kept, removes the undo copy,
/// frees what was in place, and proves it.
///
/// # Errors
/// As [`replace`]; [`Refusal::NoUndo`] when there is nothing to restore from.
pub fn restore(
    device: &dyn BlockDevice,
    region: Region,
    restoration: &Restoration<'_>,
) -> Result<(), ExchangeError> {
    let mut work = Work::open(device, region)?;
    let (checked, slot, copy) = restoration.check(&work.volume)?;
    let residue = Residue::of(&checked.survey);
    let (entry, original) = (work.entry(slot), work.entry(copy));
    let freed = sound_file(&work.volume, &checked.survey, slot)?;
    let marker = settle::marker(&work.volume, restoration.archive, &freed)?;
    let restored = (slot, original.renamed(restoration.archive).marked(None));
    let (marker_slot, commit) = match work.same_atom(slot, copy) {
        true => (copy, vec![vec![restored, (copy, marker)]]),
        false => {
            let free = directory::free_slots(&work.volume.root);
            let marker_slot = *free.first().ok_or(Refusal::NoSlot)?;
            work.write_slots(&[(marker_slot, marker)])
                .map_err(failed(Stage::Intent, ActiveArchive::Old))?;
            (
                marker_slot,
                vec![vec![restored], vec![(copy, original.deleted())]],
            )
        }
    };
    switch(&mut work, &commit, (slot, restoration.archive, entry))?;
    work.release(&freed)
        .map_err(failed(Stage::Release, ActiveArchive::New))?;
    work.delete(&[marker_slot])
        .map_err(failed(Stage::Cleanup, ActiveArchive::New))?;
    let proof = restoration.proof(&residue);
    proof
        .check(device, region)
        .map_err(failed(Stage::Verify, ActiveArchive::New))
}

/// Lets an archive and a copy change places, and proves it: what was in place is set aside, and never
/// replaced. Returns the name under which it is kept.
///
/// # Errors
/// As [`restore`].
pub fn swap(
    device: &dyn BlockDevice,
    region: Region,
    restoration: &Restoration<'_>,
) -> Result<ShortName, ExchangeError> {
    let mut work = Work::open(device, region)?;
    let (checked, slot, copy) = restoration.check(&work.volume)?;
    let residue = Residue::of(&checked.survey);
    let archive = restoration.archive;
    let (entry, original) = (work.entry(slot), work.entry(copy));
    let restored = (slot, original.renamed(archive).marked(None));
    let aside = |name| entry.renamed(name).marked(Some(Mark::SetAside));
    let (kept_as, commit) = match work.same_atom(slot, copy) {
        true => {
            let name = original.name();
            (name, vec![vec![restored, (copy, aside(name))]])
        }
        false => {
            let name = free_names(&work.volume, archive, copies_of(archive))?[0];
            let free = directory::free_slots(&work.volume.root);
            let beside = free.iter().find(|free| work.same_atom(slot, **free));
            let kept = match beside {
                Some(beside) => vec![vec![(*beside, aside(name)), restored]],
                None => {
                    let elsewhere = *free.first().ok_or(Refusal::NoSlot)?;
                    vec![vec![(elsewhere, aside(name))], vec![restored]]
                }
            };
            (
                name,
                [kept, vec![vec![(copy, original.deleted())]]].concat(),
            )
        }
    };
    switch(&mut work, &commit, (slot, archive, entry))?;
    let proof = restoration.proof(&residue);
    proof
        .check(device, region)
        .map_err(failed(Stage::Verify, ActiveArchive::New))?;
    Ok(kept_as)
}

/// Writes the sectors of a commit, of which one switches the entry in `slot`.
fn switch(
    work: &mut Work<'_>,
    commit: &[Vec<(usize, Entry)>],
    (slot, archive, old): (usize, ShortName, Entry),
) -> Result<(), ExchangeError> {
    let mut switched = false;
    for write in commit {
        let switches = write.iter().any(|(written, _)| *written == slot);
        work.write_slots(write).map_err(|error| {
            let in_force = match (switches, switched) {
                (true, _) => work.active_after_failed_switch(archive, Some(old)),
                (false, true) => ActiveArchive::New,
                (false, false) => ActiveArchive::Old,
            };
            failed(Stage::Commit, in_force)(error)
        })?;
        switched |= switches;
    }
    Ok(())
}

fn missing(archive: ShortName) -> Refusal {
    FatError::NotFound(archive.to_string()).into()
}

/// Everything a replacement needs, found before its first write.
struct Ready {
    /// The slot that the commit switches, and what stands in it.
    slot: usize,
    entry: Option<Entry>,
    /// Copies of earlier accidents, as they are marked before the exchange.
    earlier: Vec<(usize, Entry)>,
    markers: Vec<(usize, Entry)>,
    clusters: Vec<u32>,
    /// Slots to be written as one each, in this order.
    commit: Vec<Vec<(usize, Entry)>>,
    /// What the commit leaves without a name.
    freed: Vec<u32>,
    made_undo: Option<ShortName>,
    residue: Residue,
}

impl Ready {
    fn check(
        volume: &Volume<'_>,
        replacement: &Replacement<'_>,
        at: FatTime,
    ) -> Result<Self, Refusal> {
        let Replacement {
            archive, old, new, ..
        } = *replacement;
        let empty = old.is_some_and(<[u8]>::is_empty);
        if new.is_empty() || empty && replacement.replaced == Replaced::Freed {
            return Err(Refusal::Empty(archive));
        }
        let checked = Checked::settled(volume, archive)?;
        let place = Place::of(volume, archive, old)?;
        let clusters = chosen(volume, &checked.survey, new.len())?;
        let slots = Slots::of(volume, &place, replacement)?;
        let freed = match (&place, replacement.replaced) {
            (_, Replaced::Kept(_)) | (Place::Nowhere, _) => Vec::new(),
            (Place::Slot(slot, _), _) => sound_file(volume, &checked.survey, *slot)?,
        };
        let new_entry = new_entry(volume, &place, replacement, &clusters, at)?;
        let taken = match freed.is_empty() {
            true => vec![clusters.clone()],
            false if slots.markers.len() > 1 => vec![clusters.clone(), freed.clone()],
            false => vec![[&clusters[..], &freed].concat()],
        };
        let names = free_names(volume, archive, markers_of(archive))?;
        let markers: Vec<(usize, Entry)> = slots
            .markers
            .iter()
            .zip(names)
            .zip(&taken)
            .map(|((slot, name), clusters)| (*slot, marker_named(name, clusters)))
            .collect();
        let slot = slots.target;
        let commit = match (&place, slots.undo) {
            (Place::Slot(_, entry), Some((undo, name))) => {
                let kept = (undo, entry.renamed(name).marked(Some(Mark::Kept)));
                match volume.same_atom(slot, undo) {
                    true => vec![vec![(slot, new_entry), kept]],
                    false => vec![vec![kept], vec![(slot, new_entry)]],
                }
            }
            _ => vec![vec![(slot, new_entry)]],
        };
        Ok(Self {
            slot,
            entry: place.entry(),
            earlier: earlier(volume, &checked.survey, replacement),
            markers,
            clusters,
            commit,
            freed,
            made_undo: slots.undo.map(|(_, name)| name),
            residue: Residue::of(&checked.survey),
        })
    }

    /// Markers that the commit did not turn into something else.
    fn leftover_markers(&self) -> Vec<usize> {
        let committed = |slot: &usize| self.commit.iter().flatten().any(|(one, _)| one == slot);
        let slots = self.markers.iter().map(|(slot, _)| *slot);
        slots.filter(|slot| !committed(slot)).collect()
    }
}

/// Where the archive is now.
enum Place {
    Slot(usize, Entry),
    Nowhere,
}

impl Place {
    /// Fails unless its content is the expected one.
    fn of(volume: &Volume<'_>, archive: ShortName, old: Option<&[u8]>) -> Result<Self, Refusal> {
        match (slot_of(volume, archive), old) {
            (Some(slot), Some(old)) => {
                let entry = volume.entry_in(slot);
                match volume.read(&entry)? == old {
                    true => Ok(Self::Slot(slot, entry)),
                    false => Err(Refusal::Changed(archive)),
                }
            }
            (None, Some(_)) => Err(missing(archive)),
            (None, None) if !directory::has_raw_name(&volume.root, archive) => Ok(Self::Nowhere),
            (_, None) => Err(Refusal::Changed(archive)),
        }
    }

    fn entry(&self) -> Option<Entry> {
        match self {
            Self::Slot(_, entry) => Some(*entry),
            Self::Nowhere => None,
        }
    }
}

/// The slots of the root directory that a replacement uses.
struct Slots {
    target: usize,
    undo: Option<(usize, ShortName)>,
    markers: Vec<usize>,
}

impl Slots {
    fn of(
        volume: &Volume<'_>,
        place: &Place,
        replacement: &Replacement<'_>,
    ) -> Result<Self, Refusal> {
        let free = directory::free_slots(&volume.root);
        let first = *free.first().ok_or(Refusal::NoSlot)?;
        let archive = replacement.archive;
        let target = match place {
            // The marker becomes the archive.
            Place::Nowhere => {
                return Ok(Self {
                    target: first,
                    undo: None,
                    markers: vec![first],
                });
            }
            Place::Slot(slot, _) => *slot,
        };
        let nothing_to_keep = replacement.old.is_some_and(<[u8]>::is_empty);
        if nothing_to_keep || !matches!(replacement.replaced, Replaced::Kept(_)) {
            let markers = free.into_iter().take(2).collect();
            return Ok(Self {
                target,
                undo: None,
                markers,
            });
        }
        let name = free_names(volume, archive, copies_of(archive))?[0];
        let beside = free
            .iter()
            .copied()
            .find(|free| volume.same_atom(target, *free));
        let (undo, marker) = match (beside, free.get(1)) {
            // The marker becomes the undo copy.
            (Some(beside), _) => (beside, beside),
            (None, Some(second)) => (*second, first),
            (None, None) => return Err(Refusal::NoSlot),
        };
        Ok(Self {
            target,
            undo: Some((undo, name)),
            markers: vec![marker],
        })
    }
}

/// The entry that the commit gives the archive.
fn new_entry(
    volume: &Volume<'_>,
    place: &Place,
    replacement: &Replacement<'_>,
    clusters: &[u32],
    at: FatTime,
) -> Result<Entry, Refusal> {
    let too_large = || FatError::TooLarge {
        name: replacement.archive.to_string(),
        size: replacement.new.len() as u64,
        limit: u64::from(u32::MAX),
    };
    let size = u32::try_from(replacement.new.len()).map_err(|_| too_large())?;
    let first = clusters
        .first()
        .and_then(|first| u16::try_from(*first).ok());
    let first = first.ok_or_else(too_large)?;
    let entry = match place {
        Place::Slot(_, entry) => *entry,
        Place::Nowhere => Entry::empty_file(replacement.archive, at),
    };
    let entry = entry.naming(first, size).stamped(at);
    let link = |original| Link::of(replacement.build, original, replacement.new);
    let kept = replacement.old.filter(|old| !old.is_empty());
    Ok(match replacement.replaced {
        Replaced::Kept(_) => entry.with_code(link(kept).0),
        Replaced::Original(copy) => {
            let copy = volume.find(copy).ok_or(Refusal::NoUndo(copy))?;
            entry.with_code(link(Some(&volume.read(&copy)?)).0)
        }
        Replaced::Freed => entry.created(at),
    })
}

/// The copies of earlier accidents, as they are to be marked before an exchange that makes a new one.
/// A damaged one is never freed: another file may own its clusters.
fn earlier(
    volume: &Volume<'_>,
    survey: &Survey,
    replacement: &Replacement<'_>,
) -> Vec<(usize, Entry)> {
    let Replaced::Kept(fate) = replacement.replaced else {
        return Vec::new();
    };
    directory::live_entries(&volume.root)
        .filter(|(_, entry)| names::is_copy(entry, replacement.archive))
        .filter(|(_, entry)| entry.mark() == Some(Mark::Kept))
        .map(|(slot, entry)| {
            let sound = sound_file(volume, survey, slot).is_ok();
            let mark = match fate {
                Earlier::Freed if sound => Mark::Superseded,
                Earlier::Freed | Earlier::SetAside => Mark::SetAside,
            };
            (slot, entry.marked(Some(mark)))
        })
        .collect()
}

/// Clusters for so many bytes: the first run of free neighbours that is long enough, or else the first
/// ones there are.
fn chosen(volume: &Volume<'_>, survey: &Survey, bytes: usize) -> Result<Vec<u32>, Refusal> {
    let (free, wanted) = (&survey.free, volume.geometry.clusters_for(bytes as u64));
    let needed = usize::try_from(wanted).unwrap_or(usize::MAX);
    if needed > free.len() {
        return Err(Refusal::NoSpace {
            needed: wanted,
            free: free.len() as u64,
            cluster_bytes: volume.geometry.cluster_bytes(),
        });
    }
    let run = runs(free).find(|run| run.len() >= needed).unwrap_or(free);
    Ok(run.iter().copied().take(needed).collect())
}

/// What was wrong with the tables before an exchange, and has to be the same behind it.
#[derive(Debug, PartialEq, Eq)]
struct Residue {
    lost: Vec<u32>,
    differing: Vec<u32>,
}

impl Residue {
    fn of(survey: &Survey) -> Self {
        Self {
            lost: survey.lost.clone(),
            differing: survey.differing.clone(),
        }
    }
}

/// Why an exchange is not proved.
#[derive(Debug, Error)]
enum Unproved {
    /// The volume, or the archive on it, cannot be read.
    #[error(transparent)]
    Volume(#[from] FatError),
    /// The volume is damaged, or the exchange has left traces.
    #[error(transparent)]
    Unsound(#[from] Refusal),
    /// Something else than the archive changed as well.
    #[error("the allocation tables are not as they were beside the archive")]
    TablesChanged,
    /// The archive is not there.
    #[error("{0} is gone")]
    Gone(ShortName),
    /// The archive has another content.
    #[error("{0} does not read back as it was written")]
    OtherContent(ShortName),
}

/// What the medium has to show in the end.
struct Proof<'p> {
    archive: ShortName,
    expected: &'p [u8],
    residue: &'p Residue,
}

impl Proof<'_> {
    /// Reads the volume back from the medium as a loader would, and walks it as `fsck` would.
    fn check(&self, device: &dyn BlockDevice, region: Region) -> Result<(), Unproved> {
        let volume = Volume::open_with(device, region, Freshness::Medium)?;
        let archive = self.archive;
        let checked = Checked::settled(&volume, archive)?;
        if Residue::of(&checked.survey) != *self.residue {
            return Err(Unproved::TablesChanged);
        }
        let entry = volume.find(archive).ok_or(Unproved::Gone(archive))?;
        match volume.read(&entry)? == self.expected {
            true => Ok(()),
            false => Err(Unproved::OtherContent(archive)),
        }
    }
}
