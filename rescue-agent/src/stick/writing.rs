//! Putting files on the volume: all of a call, or nothing.
//!
//! The crate `fatfs` changes a [`Window`], that is, memory. What it made is walked over like any
//! volume, and only then brought to the device.

use std::io::{self, Seek, Write};

use fatfs::{Date, DateTime, Dir, FileSystem, FsOptions, Time, TimeProvider};

use super::error::{ReadError, StickError};
use super::geometry::{ENTRY_BYTES, Geometry};
use super::volume::{self, DELETED, Survey, Volume};
use super::window::Window;
use crate::disk::BlockDevice;
use crate::fat::{FatTime, Region};

/// A file to be put on the volume, in place of one of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickFile {
    /// Where: names parted by `/`, from the root; folders are made.
    pub path: String,
    /// What.
    pub content: Vec<u8>,
}

/// Most files that wait in one folder to replace others.
const MAX_TEMPORARY: u32 = 1000;
/// Clusters that the folders of one file may grow by.
const FOLDER_CLUSTERS: u64 = 4;

/// Puts `files` on the volume at `region`.
///
/// # Errors
/// [`StickError`]; unless it is [`StickError::Write`], nothing was written.
pub(super) fn put(
    device: &dyn BlockDevice,
    region: Region,
    files: &[StickFile],
) -> Result<(), StickError> {
    let mut window = Window::new(device, region).map_err(StickError::reading("its partition"))?;
    let geometry = Geometry::read(&window).map_err(ReadError::NotFat)?;
    let survey = volume::survey(&window, &geometry).map_err(ReadError::Damaged)?;
    has_room(&geometry, &survey, files)?;
    settle_tables(&mut window, &geometry, &survey)
        .and_then(|()| change(&mut window, &geometry, files))
        .map_err(|error| StickError::Prepare(error.to_string()))?;
    volume::survey(&window, &geometry).map_err(|why| StickError::Prepare(why.to_string()))?;
    window.commit(&geometry).map_err(StickError::Write)
}

fn has_room(geometry: &Geometry, survey: &Survey, files: &[StickFile]) -> Result<(), StickError> {
    let clusters = |file: &StickFile| {
        (file.content.len() as u64).div_ceil(geometry.cluster_bytes) + FOLDER_CLUSTERS
    };
    let needed: u64 = files.iter().map(clusters).sum();
    let free = u64::from(survey.free);
    match needed <= free {
        true => Ok(()),
        false => Err(StickError::Full {
            needed: needed * geometry.cluster_bytes,
            free: free * geometry.cluster_bytes,
        }),
    }
}

/// Where a cut-off write let the tables disagree, the first counts: it is written first.
fn settle_tables(window: &mut Window<'_>, geometry: &Geometry, survey: &Survey) -> io::Result<()> {
    for cluster in &survey.differing {
        let mut entry = vec![0; geometry.kind.entry_bytes()];
        window.read_exact_at(geometry.entry_at(0, *cluster), &mut entry)?;
        window.write_all_at(geometry.entry_at(1, *cluster), &entry)?;
    }
    Ok(())
}

fn change(window: &mut Window<'_>, geometry: &Geometry, files: &[StickFile]) -> io::Result<()> {
    let (mut made, mut replacing) = (Vec::new(), Vec::new());
    with_root(window, |root| {
        let mut files = files.iter();
        files.try_for_each(|file| put_file(root, file, &mut made, &mut replacing))
    })?;
    for folder in &made {
        tidy(window, geometry, folder)?;
    }
    for (temporary, name) in &replacing {
        exchange(window, geometry, temporary, name)?;
    }
    // The old contents go last of all: they must not lend their clusters to what is new.
    with_root(window, |root| {
        let mut old = replacing.iter();
        old.try_for_each(|(temporary, _)| root.remove(temporary))
    })
}

fn with_root(
    window: &mut Window<'_>,
    work: impl FnOnce(&Dir<'_, &mut Window<'_>>) -> io::Result<()>,
) -> io::Result<()> {
    window.rewind()?;
    let options = FsOptions::new().time_provider(&CLOCK);
    let volume = FileSystem::new(&mut *window, options)?;
    work(&volume.root_dir())?;
    volume.unmount()
}

/// Writes a file; one that replaces another gets a name for the time being, which is
/// added to `replacing` with the other's.
fn put_file(
    root: &Dir<'_, &mut Window<'_>>,
    file: &StickFile,
    made: &mut Vec<String>,
    replacing: &mut Vec<(String, String)>,
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
    if is_free(&folder, name)? {
        return folder.create_file(name)?.write_all(&file.content);
    }
    let temporary = unused_name(&folder)?;
    folder.create_file(&temporary)?.write_all(&file.content)?;
    let temporary = format!("{path}/{temporary}");
    let temporary = temporary.trim_start_matches('/').to_owned();
    replacing.push((temporary, file.path.clone()));
    Ok(())
}

fn is_free(folder: &Dir<'_, &mut Window<'_>>, name: &str) -> io::Result<bool> {
    match folder.open_file(name) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn unused_name(folder: &Dir<'_, &mut Window<'_>>) -> io::Result<String> {
    for number in 0..MAX_TEMPORARY {
        let name = format!("RESCUE{number}.TMP");
        if is_free(folder, &name)? {
            return Ok(name);
        }
    }
    Err(io::Error::other("there are too many temporary files"))
}

/// Lets two files change their contents: what their slots say of clusters, size and time of
/// writing. So a file is replaced in the one sector that has its slot, wherever the other one is.
fn exchange(
    window: &mut Window<'_>,
    geometry: &Geometry,
    one: &str,
    other: &str,
) -> io::Result<()> {
    /// Where in a slot they begin; they go to its end.
    const CONTENT: usize = 18;
    let place = |path: &str| {
        let place = Volume::new(window, geometry).slot_place(path);
        let place = place.map_err(|error| io::Error::other(error.to_string()))?;
        place.ok_or_else(|| io::Error::other(format!("{path} is not found")))
    };
    let places = [place(one)? + CONTENT as u64, place(other)? + CONTENT as u64];
    let mut contents = [[0; ENTRY_BYTES - CONTENT]; 2];
    for (place, content) in places.iter().zip(&mut contents) {
        window.read_exact_at(*place, content)?;
    }
    for (place, content) in places.iter().zip(contents.iter().rev()) {
        window.write_all_at(*place, content)?;
    }
    Ok(())
}

/// The crate gives `.` and `..` long names, where the format wants them bare in the first two slots
/// of a folder. Long name, `.`, long name, `..` is what it left there; the two slots that are too
/// many are left as those of deleted files. (Nothing is moved up: the folder may have grown, and a
/// free slot at the end of its first cluster would end it there.)
fn tidy(window: &mut Window<'_>, geometry: &Geometry, folder: &str) -> io::Result<()> {
    let place = Volume::new(window, geometry).folder_place(folder);
    let Some(place) = place.map_err(|error| io::Error::other(error.to_string()))? else {
        return Err(io::Error::other(format!(
            "the new folder {folder} is not found"
        )));
    };
    let mut slots = [[0; ENTRY_BYTES]; 4];
    window.read_exact_at(place, slots.as_flattened_mut())?;
    let [long, dot, longer, mut dots] = slots;
    if !dot.starts_with(b".          ") || !dots.starts_with(b"..         ") {
        return Err(io::Error::other(format!(
            "the new folder {folder} has an invalid beginning"
        )));
    }
    if !folder.contains('/') {
        // The root counts as cluster 0 here, wherever it is.
        dots[20..22].fill(0);
        dots[26..28].fill(0);
    }
    let mut tidied = [dot, dots, long, longer];
    for slot in &mut tidied[2..] {
        slot[0] = DELETED;
    }
    window.write_all_at(place, tidied.as_flattened())
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
