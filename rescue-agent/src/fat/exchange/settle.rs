//! Settling what an interrupted exchange left. Each step leaves a state of the same kinds, so that
//! settling may be interrupted as well.

use super::check::{Checked, Traces, Window, free_names, sound_file};
use super::outcome::{ActiveArchive, ExchangeError, Refusal, Stage, failed};
use super::writer::{Work, WriteError, Written};
use crate::disk::BlockDevice;
use crate::fat::directory::{self, Entry, FatTime, ShortName};
use crate::fat::names::{self, ARCHIVES, Mark, markers_of};
use crate::fat::volume::{Freshness, Region, Volume};

/// What a settlement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Clusters that were marked as used by nobody and are free now.
    pub freed_clusters: usize,
}

/// Settles what an interrupted exchange left, if anything. The archive's content does not change.
///
/// # Errors
/// [`ExchangeError::Refused`] on a damaged volume, [`ExchangeError::Failed`] when the device fails.
pub fn settle(device: &dyn BlockDevice, region: Region) -> Result<Option<Settled>, ExchangeError> {
    let mut work = Work::open(device, region)?;
    let traces = Traces::of(&work.volume);
    if !traces.are_there() {
        return Ok(None);
    }
    Checked::of(&work.volume, &with_traces(&work.volume))?;
    let before = ActiveArchive::Unchanged;
    remove_aliases(&mut work, &traces).map_err(failed(Stage::Release, before))?;
    remove_damaged_copies(&mut work).map_err(failed(Stage::Release, before))?;
    settle_superseded(&mut work).map_err(failed(Stage::Release, before))?;
    let freed_clusters =
        free_and_remove_markers(&mut work).map_err(failed(Stage::Cleanup, before))?;
    let after = Volume::open_with(device, region, Freshness::Medium)
        .map_err(|error| failed(Stage::Verify, before)(error))?;
    match Checked::of(&after, &with_traces(&after)) {
        Ok(checked) if checked.traces.are_there() => {
            Err(failed(Stage::Verify, before)("the traces are still there"))
        }
        Ok(_) => Ok(Some(Settled { freed_clusters })),
        Err(error) => Err(failed(Stage::Verify, before)(error)),
    }
}

/// Archives that an exchange has been at work on.
fn with_traces(volume: &Volume<'_>) -> Vec<ShortName> {
    let ours = |archive: &ShortName| {
        let mut entries = volume.root_entries();
        entries.any(|one| names::is_copy(&one, *archive) || names::is_marker(&one, *archive))
    };
    ARCHIVES.into_iter().filter(ours).collect()
}

fn remove_aliases(work: &mut Work<'_>, traces: &Traces) -> Written {
    match traces.aliases.is_empty() {
        true => Ok(()),
        false => work.delete(&traces.aliases),
    }
}

/// Where an exchange was cut in the middle of its commit, and ESXi has saved its configuration before
/// this run, ESXi has freed the chain that both entries named. What the undo copy still names is not
/// an original any more: its entry goes, no cluster is touched.
fn remove_damaged_copies(work: &mut Work<'_>) -> Written {
    let volume = &work.volume;
    if Traces::of(volume).markers.is_empty() {
        return Ok(());
    }
    let survey = volume.survey()?;
    let damaged: Vec<usize> = directory::live_entries(&volume.root)
        .filter(|(slot, entry)| {
            let is_copy = ARCHIVES.iter().any(|name| names::is_copy(entry, *name));
            is_copy && entry.mark() == Some(Mark::Kept) && survey.fault_in(*slot).is_some()
        })
        .map(|(slot, _)| slot)
        .collect();
    work.delete(&damaged)
}

/// Forward where the new undo copy is there, else back.
fn settle_superseded(work: &mut Work<'_>) -> Written {
    let traces = Traces::of(&work.volume);
    for (slot, archive) in traces.superseded {
        match work.kept_copies(archive).is_empty() {
            true => {
                let kept = work.entry(slot).marked(Some(Mark::Kept));
                work.write_slots(&[(slot, kept)])?;
            }
            false => remove_copy(work, slot, archive)?,
        }
    }
    Ok(())
}

/// Frees a copy and takes its entry away. Its slot is a marker meanwhile. Of a damaged one no cluster
/// is touched: another file may own it.
pub(super) fn remove_copy(work: &mut Work<'_>, slot: usize, archive: ShortName) -> Written {
    let survey = work.volume.survey()?;
    let Ok(chain) = sound_file(&work.volume, &survey, slot) else {
        return work.delete(&[slot]);
    };
    let marker = marker(&work.volume, archive, &chain)?;
    work.write_slots(&[(slot, marker)])?;
    work.release(&chain)?;
    work.delete(&[slot])
}

/// A marker that says which clusters are being taken or freed.
pub(super) fn marker(
    volume: &Volume<'_>,
    archive: ShortName,
    clusters: &[u32],
) -> Result<Entry, Refusal> {
    let name = free_names(volume, archive, markers_of(archive))?[0];
    Ok(marker_named(name, clusters))
}

pub(super) fn marker_named(name: ShortName, clusters: &[u32]) -> Entry {
    Entry::empty_file(name, FatTime::from_unix(0))
        .marked(Some(Mark::Kept))
        .with_code(Window::around(clusters).code())
}

fn free_and_remove_markers(work: &mut Work<'_>) -> Result<usize, WriteError> {
    let traces = Traces::of(&work.volume);
    let survey = work.volume.survey()?;
    let lost = traces.in_flux(&survey);
    if !lost.is_empty() {
        work.release(&lost)?;
    }
    let markers: Vec<usize> = traces.markers.iter().map(|(slot, _)| *slot).collect();
    work.delete(&markers)?;
    Ok(lost.len())
}

impl Work<'_> {
    /// Slots of the copies of an archive that keep an original.
    pub(super) fn kept_copies(&self, archive: ShortName) -> Vec<usize> {
        directory::live_entries(&self.volume.root)
            .filter(|(_, entry)| names::is_copy(entry, archive))
            .filter(|(_, entry)| entry.mark() == Some(Mark::Kept))
            .filter(|(_, entry)| !self.volume.is_alias(entry))
            .map(|(slot, _)| slot)
            .collect()
    }
}
