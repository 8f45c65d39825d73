//! Putting files on the medium: all of a call, or nothing.
//!
//! The crate `fatfs` changes a [`Window`], that is, memory. What it made is walked over like any
//! volume, and only then brought to the medium.

use std::io::{self, Seek, Write};

use fatfs::{Date, DateTime, Dir, FileSystem, FsOptions, Time, TimeProvider};

use super::error::MediumError;
use super::fat::{self, Geometry, Survey, Volume};
use super::window::Window;
use crate::disk::BlockDevice;
use crate::fat::{FatTime, Region};

/// A file to be put on the medium, in place of one of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediumFile {
    /// Where: names parted by `/`, from the root; folders are made.
    pub path: String,
    /// What.
    pub content: Vec<u8>,
}

/// What a file is called until it takes the place of another one.
const TEMPORARY: &str = "RESCUE.TMP";
/// Clusters that the folders of one file may grow by.
const FOLDER_CLUSTERS: u64 = 4;

/// Puts `files` on the volume at `region`.
///
/// # Errors
/// [`MediumError`]; unless it is [`MediumError::Write`], nothing was written.
pub(super) fn put(
    device: &dyn BlockDevice,
    region: Region,
    files: &[MediumFile],
) -> Result<(), MediumError> {
    let unsound = |why: String| MediumError::Unsound { why };
    let mut window = Window::new(device, region).map_err(MediumError::reading("its partition"))?;
    let geometry = Geometry::read(&window).map_err(unsound)?;
    let survey = fat::survey(&window, &geometry).map_err(unsound)?;
    has_room(&geometry, &survey, files)?;
    settle_tables(&mut window, &geometry, &survey)
        .and_then(|()| change(&mut window, &geometry, files))
        .map_err(|error| MediumError::Prepare(error.to_string()))?;
    fat::survey(&window, &geometry).map_err(MediumError::Prepare)?;
    window.commit(&geometry).map_err(MediumError::Write)
}

fn has_room(geometry: &Geometry, survey: &Survey, files: &[MediumFile]) -> Result<(), MediumError> {
    let clusters = |file: &MediumFile| {
        (file.content.len() as u64).div_ceil(geometry.cluster_bytes) + FOLDER_CLUSTERS
    };
    let needed: u64 = files.iter().map(clusters).sum();
    let free = u64::from(survey.free);
    match needed <= free {
        true => Ok(()),
        false => Err(MediumError::Full {
            needed: needed * geometry.cluster_bytes,
            free: free * geometry.cluster_bytes,
        }),
    }
}

/// Where a cut-off write let the tables disagree about clusters that nobody owns, the first counts.
fn settle_tables(window: &mut Window<'_>, geometry: &Geometry, survey: &Survey) -> io::Result<()> {
    for cluster in &survey.differing {
        let mut entry = vec![0; geometry.kind.entry_bytes()];
        window.read_exact_at(geometry.entry_at(0, *cluster), &mut entry)?;
        window.write_all_at(geometry.entry_at(1, *cluster), &entry)?;
    }
    Ok(())
}

fn change(window: &mut Window<'_>, geometry: &Geometry, files: &[MediumFile]) -> io::Result<()> {
    let mut made = Vec::new();
    window.rewind()?;
    {
        let options = FsOptions::new().time_provider(&CLOCK);
        let volume = FileSystem::new(&mut *window, options)?;
        for file in files {
            put_file(&volume.root_dir(), file, &mut made)?;
        }
        volume.unmount()?;
    }
    made.iter()
        .try_for_each(|folder| tidy(window, geometry, folder))
}

fn put_file(
    root: &Dir<'_, &mut Window<'_>>,
    file: &MediumFile,
    made: &mut Vec<String>,
) -> io::Result<()> {
    let (folders, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let mut folder = root.clone();
    let mut path = String::new();
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        path = format!("{path}/{part}").trim_start_matches('/').to_owned();
        folder = match folder.open_dir(part) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                made.push(path.clone());
                folder.create_dir(part)?
            }
            Err(error) => return Err(error),
        };
    }
    // The old content stays whole until the new one is named: it must not lend its clusters. And the
    // new entry takes the slots of the old one, so that they change together.
    removed(&folder, TEMPORARY)?;
    folder.create_file(TEMPORARY)?.write_all(&file.content)?;
    removed(&folder, name)?;
    folder.rename(TEMPORARY, &folder, name)
}

fn removed(folder: &Dir<'_, &mut Window<'_>>, name: &str) -> io::Result<()> {
    match folder.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The crate gives `.` and `..` long names, where the format wants them bare in the first two slots
/// of a folder. Long name, `.`, long name, `..` is what it left there.
fn tidy(window: &mut Window<'_>, geometry: &Geometry, folder: &str) -> io::Result<()> {
    const SLOT: usize = 32;
    let place = Volume::new(window, geometry).folder_place(folder);
    let Some(place) = place.map_err(|error| io::Error::other(error.to_string()))? else {
        return Err(io::Error::other(format!(
            "the new folder {folder} is not found"
        )));
    };
    let mut slots = [0; 4 * SLOT];
    window.read_exact_at(place, &mut slots)?;
    let (dot, dots) = (&slots[SLOT..2 * SLOT], &slots[3 * SLOT..]);
    if !dot.starts_with(b".          ") || !dots.starts_with(b"..         ") {
        return Err(io::Error::other(format!(
            "the new folder {folder} begins strangely"
        )));
    }
    let mut tidied = [dot, dots].concat();
    if !folder.contains('/') {
        // The root counts as cluster 0 here, wherever it is.
        tidied[SLOT + 20..SLOT + 22].fill(0);
        tidied[SLOT + 26..SLOT + 28].fill(0);
    }
    let rest = geometry.cluster_bytes - 2 * SLOT as u64;
    let mut after = vec![0; usize::try_from(rest).map_err(io::Error::other)? - 2 * SLOT];
    window.read_exact_at(place + 4 * SLOT as u64, &mut after)?;
    tidied.extend(after);
    tidied.resize(tidied.len() + 2 * SLOT, 0);
    window.write_all_at(place, &tidied)
}

/// The machine's clock, which is taken to show UTC.
#[derive(Debug)]
struct Clock;

static CLOCK: Clock = Clock;

impl TimeProvider for Clock {
    fn get_current_date(&self) -> Date {
        self.get_current_date_time().date
    }

    fn get_current_date_time(&self) -> DateTime {
        let [year, month, day, hour, min, sec] = FatTime::now().fields();
        DateTime {
            date: Date { year, month, day },
            time: Time {
                hour,
                min,
                sec,
                millis: 0,
            },
        }
    }
}
