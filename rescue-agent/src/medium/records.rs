//! What is written to the medium about a run: reports, and copies of the original archives.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::MediumError;
use super::{Medium, Place, TIMEOUT};
use crate::disk::Disks;
use crate::fat::FatTime;
use crate::originals::{
    Collection, FOLDER, INDEX, Index, MAX_COPY_BYTES, MAX_INDEX_BYTES, Original,
};
use crate::stick::{StickError, StickFile};

/// The folder of what to type on hosts whose configuration is sealed.
const RECIPES: &str = "recipes";
/// The folder of the reports.
const REPORTS: &str = "reports";
/// How long the repair waits for the medium before its first write: it does not depend on it.
const TIMEOUT_BEFORE_REPAIR: Duration = Duration::from_secs(10);
/// Most runs of one host in one second, on a machine whose clock stands still.
const MAX_SAME_NAMES: u32 = 10_000;

/// The name of the report that was begun and is not finished; no folder, no extension.
pub(super) type Begun = Arc<Mutex<Option<String>>>;

impl Medium {
    /// Notes that a run of the host called `host` begins to write, before it does, so that a power
    /// cut leaves a trace. Returns where.
    ///
    /// # Errors
    /// [`MediumError`]: a warning, after a time that is bounded.
    pub fn report_begun(&self, host: &str, json: String) -> Result<String, MediumError> {
        self.report(host, json, None, TIMEOUT_BEFORE_REPAIR)
    }

    /// Writes how the run ended, in place of what was noted when it began, and the transcript of
    /// the consoles, if there is room for it. Returns where.
    ///
    /// # Errors
    /// [`MediumError`]: a warning.
    pub fn report_finished(
        &self,
        host: &str,
        json: String,
        log: String,
    ) -> Result<String, MediumError> {
        self.report(host, json, Some(log), TIMEOUT)
    }

    fn report(
        &self,
        host: &str,
        json: String,
        log: Option<String>,
        timeout: Duration,
    ) -> Result<String, MediumError> {
        let (place, disks, begun) = (
            self.place.clone(),
            Arc::clone(&self.disks),
            Arc::clone(&self.begun),
        );
        let host = host.to_owned();
        self.worker.run(timeout, move || {
            let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
            let name = match begun.take() {
                Some(name) => name,
                None => new_name(&place, disks.as_ref(), &host)?,
            };
            let path = format!("{REPORTS}/{name}.json");
            let ends = log.is_some();
            let mut files = vec![file(&path, json.into_bytes())];
            files.extend(log.map(|log| file(&format!("{REPORTS}/{name}.log"), log.into_bytes())));
            let mut put = place.put(disks.as_ref(), &files);
            if ends && matches!(put, Err(MediumError::Stick(StickError::Full { .. }))) {
                // How the run ended must not fail to be noted for want of room for the log.
                files.truncate(1);
                put = place.put(disks.as_ref(), &files);
            }
            put?;
            if !ends {
                *begun = Some(name);
            }
            Ok(path)
        })
    }

    /// Writes what to type on the host called `host`, whose configuration is sealed. Returns where.
    ///
    /// # Errors
    /// [`MediumError`]: a warning.
    pub fn put_recipe(&self, host: &str, page: String) -> Result<String, MediumError> {
        let path = format!("{RECIPES}/{host}.txt");
        self.put(vec![file(&path, page.into_bytes())], TIMEOUT)?;
        Ok(path)
    }

    /// Keeps copies of originals in the folder of the host called `host`, before a repair replaces
    /// them. Returns how many were written: those that are new, and those that the index names and
    /// that are not there.
    ///
    /// # Errors
    /// [`MediumError`]: a warning, after a time that is bounded.
    pub fn keep_originals(
        &self,
        host: &str,
        originals: Vec<(Original, Vec<u8>)>,
    ) -> Result<usize, MediumError> {
        let (place, disks) = (self.place.clone(), Arc::clone(&self.disks));
        let folder = format!("{FOLDER}/{host}");
        self.worker.run(TIMEOUT_BEFORE_REPAIR, move || {
            let path = format!("{folder}/{INDEX}");
            let mut index = index(&place, disks.as_ref(), &path)?.unwrap_or_default();
            let mut files = Vec::new();
            for (original, bytes) in originals {
                let is_new = index.add(&original).map_err(|why| MediumError::File {
                    file: path.clone(),
                    why: why.to_string(),
                })?;
                let copy = format!("{folder}/{}", original.file);
                if is_new || !place.has(disks.as_ref(), &copy, bytes.len() as u64)? {
                    files.push(file(&copy, bytes));
                }
            }
            let written = files.len();
            // The last, so that it never names what is not there.
            files.push(file(&path, index.to_json()));
            place.put(disks.as_ref(), &files)?;
            Ok(written)
        })
    }

    /// The copies of originals of the host called `host`.
    ///
    /// # Errors
    /// [`MediumError`].
    pub fn originals(&self, host: &str) -> Result<Collection<'_>, MediumError> {
        let (place, disks) = (self.place.clone(), Arc::clone(&self.disks));
        let folder = format!("{FOLDER}/{host}");
        let path = format!("{folder}/{INDEX}");
        let index = self
            .worker
            .run(TIMEOUT_BEFORE_REPAIR, move || {
                index(&place, disks.as_ref(), &path)
            })?
            .unwrap_or_default();
        let originals = index.originals.into_iter();
        Ok(Collection {
            originals: originals.map(|one| (host.to_owned(), one)).collect(),
            fetch: Box::new(move |path| {
                let path = format!("{FOLDER}/{path}");
                match self.read(&path, MAX_COPY_BYTES) {
                    Ok(Some(bytes)) => Ok(bytes),
                    Ok(None) => Err("it is not there".into()),
                    Err(error) => Err(error.to_string()),
                }
            }),
            place: format!("{folder} on the medium"),
        })
    }
}

fn file(path: &str, content: Vec<u8>) -> StickFile {
    StickFile {
        path: path.to_owned(),
        content,
    }
}

fn index(place: &Place, disks: &dyn Disks, path: &str) -> Result<Option<Index>, MediumError> {
    let Some(json) = place.read(disks, path, MAX_INDEX_BYTES)? else {
        return Ok(None);
    };
    let index = Index::parse(&json).map_err(|why| MediumError::File {
        file: path.to_owned(),
        why: why.to_string(),
    })?;
    Ok(Some(index))
}

/// A name that no report has: host and time, and a number where the clock stands still.
fn new_name(place: &Place, disks: &dyn Disks, host: &str) -> Result<String, MediumError> {
    let taken = place.list(disks, REPORTS)?;
    let name = format!("{host}-{}", stamp(FatTime::now()));
    let numbered = (2..MAX_SAME_NAMES).map(|number| format!("{name}-{number}"));
    let is_free = |name: &String| {
        let file = format!("{name}.json");
        !taken.iter().any(|taken| taken.eq_ignore_ascii_case(&file))
    };
    std::iter::once(name.clone())
        .chain(numbered)
        .find(is_free)
        .ok_or_else(|| MediumError::File {
            file: format!("{REPORTS}/{name}.json"),
            why: "there are too many of this name".into(),
        })
}

fn stamp(time: FatTime) -> String {
    let [year, month, day, hour, minute, second] = time.fields();
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}
