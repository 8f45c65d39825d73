//! What has to hold of a volume before an exchange, and what an interrupted one left on it.
//!
//! Needed are the exchange's own needs and no more: archives whose chains are closed, theirs alone and
//! the same in every table; clusters that every table calls free; slots in the root directory. Whatever
//! else is wrong with the volume is said and stays as it is.

use super::outcome::Refusal;
use crate::fat::directory::{self, Entry, ShortName};
use crate::fat::error::{Damage, FatError, Note};
use crate::fat::names::{self, ARCHIVES, Mark, copies_of, markers_of};
use crate::fat::survey::Survey;
use crate::fat::volume::Volume;

/// What there is to know about a volume before an exchange, without writing.
#[derive(Debug, Clone)]
pub struct Assessment {
    /// An interrupted exchange left traces; [`super::settle()`] removes them.
    pub unsettled: bool,
    /// Free clusters, those included that settling frees.
    pub free_clusters: u64,
    /// Bytes per cluster.
    pub cluster_bytes: u32,
    /// Whether the root directory has room for the entries of an exchange.
    pub has_free_slots: bool,
    /// What is unusual about the volume and stays as it is.
    pub notes: Vec<Note>,
}

impl Assessment {
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
        if !self.has_free_slots {
            return Err(Refusal::NoSlot);
        }
        Ok(())
    }
}

/// Judges a volume without writing: may the archives of these names be exchanged, is something left
/// over, how much room is there, what is unusual.
///
/// # Errors
/// [`Refusal::Volume`] where an exchange would not be safe, [`Refusal::NameTaken`].
pub fn assess(volume: &Volume<'_>, archives: &[ShortName]) -> Result<Assessment, Refusal> {
    let checked = Checked::of(volume, archives)?;
    let settles = checked.traces.in_flux(&checked.survey).len();
    let has_free_slots = archives.iter().all(|archive| {
        let free = directory::free_slots(&volume.root);
        let beside = slot_of(volume, *archive)
            .is_some_and(|slot| free.iter().any(|free| volume.same_atom(slot, *free)));
        beside || free.len() >= 2
    });
    Ok(Assessment {
        unsettled: checked.traces.are_there(),
        free_clusters: (checked.survey.free.len() + settles) as u64,
        cluster_bytes: volume.geometry.cluster_bytes(),
        has_free_slots: has_free_slots || checked.traces.are_there(),
        notes: checked.notes(volume, archives),
    })
}

/// A volume on which an exchange of some archives is safe.
pub(super) struct Checked {
    pub(super) survey: Survey,
    pub(super) traces: Traces,
}

impl Checked {
    pub(super) fn of(volume: &Volume<'_>, archives: &[ShortName]) -> Result<Self, Refusal> {
        let geometry = &volume.geometry;
        if !geometry.fits {
            let damage = Damage::TooLong {
                sectors: geometry.total_sectors,
                sector_bytes: geometry.sector_bytes,
            };
            return Err(FatError::from(damage).into());
        }
        let survey = volume.survey()?;
        for archive in archives {
            if let Some(slot) = only_slot_of(volume, *archive)? {
                sound_file(volume, &survey, slot)?;
            }
        }
        let traces = Traces::of(volume);
        Ok(Self { survey, traces })
    }

    /// As [`Checked::of`], but only where no interrupted exchange left anything.
    pub(super) fn settled(volume: &Volume<'_>, archive: ShortName) -> Result<Self, Refusal> {
        let checked = Self::of(volume, &[archive])?;
        match checked.traces.are_there() {
            true => Err(Refusal::Unsettled),
            false => Ok(checked),
        }
    }

    fn notes(&self, volume: &Volume<'_>, archives: &[ShortName]) -> Vec<Note> {
        let geometry = &volume.geometry;
        let (survey, traces) = (&self.survey, &self.traces);
        let dirty = geometry.marked_dirty || volume.tables_marked_dirty();
        let is_ours = |slot: usize| {
            let entry = volume.entry_in(slot);
            ARCHIVES.iter().any(|name| names::is_copy(&entry, *name))
        };
        let faults = || {
            survey
                .faults
                .iter()
                .filter(|fault| slot_of_any(volume, archives) != Some(fault.slot))
        };
        let others: Vec<_> = faults().filter(|fault| !is_ours(fault.slot)).collect();
        let copies = faults().filter(|fault| is_ours(fault.slot));
        let flux = traces.in_flux(survey);
        let of_others = |clusters: &[u32]| {
            let left = clusters.iter().filter(|cluster| !flux.contains(cluster));
            left.count()
        };
        let (lost, differing) = (of_others(&survey.lost), of_others(&survey.differing));
        let foreign = archives
            .iter()
            .flat_map(|archive| foreign_names(volume, *archive));
        [
            dirty.then_some(Note::MarkedDirty),
            (lost > 0).then_some(Note::Lost { clusters: lost }),
            (differing > 0).then_some(Note::TablesDiffer { entries: differing }),
            others.first().map(|first| Note::OtherFile {
                first: first.damage.clone(),
                more: others.len() - 1,
            }),
            (!geometry.signed).then_some(Note::Unsigned),
        ]
        .into_iter()
        .flatten()
        .chain(copies.map(|fault| Note::Copy(fault.damage.clone())))
        .chain(foreign.map(|name| Note::ForeignName(name.to_string())))
        .collect()
    }
}

/// Fails unless the file in a slot of the root directory is one that may be exchanged.
pub(super) fn sound_file(
    volume: &Volume<'_>,
    survey: &Survey,
    slot: usize,
) -> Result<Vec<u32>, Refusal> {
    if let Some(damage) = survey.fault_in(slot) {
        return Err(FatError::from(damage.clone()).into());
    }
    let entry = volume.entry_in(slot);
    let chain = volume.chain(&entry).map_err(FatError::from)?;
    let differs = |cluster: &&u32| survey.differing.binary_search(cluster).is_ok();
    match chain.iter().find(differs) {
        None => Ok(chain),
        Some(cluster) => {
            let (name, cluster) = (entry.name().to_string(), *cluster);
            Err(FatError::from(Damage::TablesDiffer { name, cluster }).into())
        }
    }
}

/// The slot of the file that a loader opens under that name.
pub(super) fn slot_of(volume: &Volume<'_>, name: ShortName) -> Option<usize> {
    directory::live_entries(&volume.root)
        .find(|(_, entry)| entry.name() == name && !entry.is_directory())
        .map(|(slot, _)| slot)
}

fn slot_of_any(volume: &Volume<'_>, names: &[ShortName]) -> Option<usize> {
    names.iter().find_map(|name| slot_of(volume, *name))
}

fn only_slot_of(volume: &Volume<'_>, name: ShortName) -> Result<Option<usize>, Refusal> {
    let mut slots = directory::live_entries(&volume.root).filter(|(_, one)| one.name() == name);
    match (slots.next(), slots.next()) {
        (Some((_, entry)), None) if entry.is_directory() => Err(Refusal::NameTaken(name)),
        (found, None) => Ok(found.map(|(slot, _)| slot)),
        (_, Some(_)) => Err(FatError::from(Damage::DuplicateName(name.to_string())).into()),
    }
}

/// Files that have one of our names and no mark.
fn foreign_names(volume: &Volume<'_>, archive: ShortName) -> impl Iterator<Item = ShortName> {
    let ours = [copies_of(archive), markers_of(archive)].concat();
    volume
        .root_entries()
        .filter(move |entry| entry.mark().is_none() && ours.contains(&entry.name()))
        .map(|entry| entry.name())
}

/// Names of `names` that no entry of the root directory has, of whatever kind.
pub(super) fn free_names(
    volume: &Volume<'_>,
    archive: ShortName,
    names: [ShortName; 10],
) -> Result<Vec<ShortName>, Refusal> {
    let free: Vec<ShortName> = names
        .into_iter()
        .filter(|name| !directory::has_raw_name(&volume.root, *name))
        .collect();
    match free.is_empty() {
        true => Err(Refusal::NoName(archive)),
        false => Ok(free),
    }
}

/// Clusters from a first one to a last one: what a marker says that an exchange takes or frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    first: u16,
    last: u16,
}

impl Window {
    /// Around these clusters. FAT12 and FAT16 have none above 16 bits.
    pub(super) fn around(clusters: &[u32]) -> Self {
        let bound = |cluster: Option<&u32>| {
            let cluster = cluster.copied().unwrap_or(0);
            u16::try_from(cluster).unwrap_or(u16::MAX)
        };
        Self {
            first: bound(clusters.iter().min()),
            last: bound(clusters.iter().max()),
        }
    }

    pub(super) fn code(self) -> u32 {
        u32::from(self.first) << 16 | u32::from(self.last)
    }

    fn of(entry: &Entry) -> Option<Self> {
        let [a, b, c, d] = entry.coded()?.to_le_bytes();
        Some(Self {
            first: u16::from_le_bytes([c, d]),
            last: u16::from_le_bytes([a, b]),
        })
    }

    fn contains(self, cluster: u32) -> bool {
        (u32::from(self.first)..=u32::from(self.last)).contains(&cluster)
    }
}

/// What an interrupted exchange left.
#[derive(Debug, Clone, Default)]
pub(super) struct Traces {
    /// Slots of markers, and the clusters that each says are being taken or freed.
    pub(super) markers: Vec<(usize, Option<Window>)>,
    /// Slots of copies that name the chain of their archive.
    pub(super) aliases: Vec<usize>,
    /// Slots of copies whose place another one takes, and their archives.
    pub(super) superseded: Vec<(usize, ShortName)>,
    /// Slots of directories.
    directories: Vec<usize>,
}

impl Traces {
    pub(super) fn of(volume: &Volume<'_>) -> Self {
        let mut traces = Self::default();
        for (slot, entry) in directory::live_entries(&volume.root) {
            if entry.is_directory() {
                traces.directories.push(slot);
            }
            for archive in ARCHIVES {
                if names::is_marker(&entry, archive) {
                    traces.markers.push((slot, Window::of(&entry)));
                }
                if !names::is_copy(&entry, archive) {
                    continue;
                }
                if volume.is_alias(&entry) {
                    traces.aliases.push(slot);
                } else if entry.mark() == Some(Mark::Superseded) {
                    traces.superseded.push((slot, archive));
                }
            }
        }
        traces
    }

    pub(super) fn are_there(&self) -> bool {
        !(self.markers.is_empty() && self.aliases.is_empty() && self.superseded.is_empty())
    }

    /// Clusters that belong to nobody and lie where a marker says that an exchange was at work. None where a
    /// directory is damaged: what lies in it only looks as if it were nobody's.
    pub(super) fn in_flux(&self, survey: &Survey) -> Vec<u32> {
        let mut faults = survey.faults.iter();
        if faults.any(|fault| self.directories.contains(&fault.slot)) {
            return Vec::new();
        }
        let windows: Vec<Window> = self.markers.iter().filter_map(|(_, one)| *one).collect();
        let is_in = |cluster: &u32| windows.iter().any(|window| window.contains(*cluster));
        survey.lost.iter().copied().filter(is_in).collect()
    }
}
