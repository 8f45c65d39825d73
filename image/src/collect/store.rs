//! The folder of reports: `hosts/SERIAL/TIME-HASH.json` as they came, and `reports.jsonl`, one line for
//! each. It is bounded: where a limit is passed, the oldest reports go.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::document::Document;
use super::lines::{self, Line};

/// The folder with a folder for each host.
pub const HOSTS: &str = "hosts";
/// Held by the program that writes to the folder.
const LOCK: &str = ".lock";
/// What files begin with that are not finished.
const UNFINISHED: &str = ".unfinished-";
/// Reports and what is beside them are for their owner only.
const MODE: u32 = 0o600;
/// The same for folders.
const FOLDER_MODE: u32 = 0o700;
/// Lines of reports that have gone are taken out together, once there are so many of them.
const GONE_AT_ONCE: usize = 64;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Reports of one host.
    pub per_host: usize,
    /// Reports in all.
    pub total: usize,
    /// Bytes of reports in all.
    pub bytes: u64,
}

/// A report that is kept.
#[derive(Debug)]
struct Entry {
    file: String,
    sha256: String,
    bytes: u64,
}

impl Entry {
    /// The host's folder.
    fn folder(&self) -> &str {
        self.file.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// The folder of reports.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    limits: Limits,
    lines: File,
    /// Given up with this value.
    lock: File,
    /// The reports that have a line, oldest first.
    entries: VecDeque<Entry>,
    /// The files of the reports by their SHA-256.
    listed: HashMap<String, String>,
    /// How many reports each host has, by its folder.
    of_host: HashMap<String, usize>,
    /// Bytes of all reports.
    bytes: u64,
    /// Lines whose reports have gone.
    gone: usize,
}

/// The result of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its file, relative to the folder.
    pub file: String,
    /// Whether it is new: a host that heard no answer sends the same report again.
    pub new: bool,
}

/// Where a report came from, and when.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The address of the sender.
    pub from: String,
    /// The time.
    pub when: SystemTime,
}

impl Arrival {
    /// The time, RFC 3339.
    pub fn received(&self) -> String {
        humantime::format_rfc3339_seconds(self.when).to_string()
    }
}

impl Store {
    /// Opens the folder, and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be written, or another program keeps reports there.
    pub fn open(folder: &Path, limits: Limits) -> Result<Store> {
        let what = || format!("preparing the folder {}", folder.display());
        let mut maker = DirBuilder::new();
        let maker = maker.recursive(true).mode(FOLDER_MODE);
        maker.create(folder.join(HOSTS)).with_context(what)?;
        let lock = locked(folder)?;
        remove_unfinished(folder).with_context(what)?;
        let mut lines = open_lines(folder)?;
        let path = folder.join(lines::FILE);
        lines::end_cut_line(&mut lines).with_context(|| format!("repairing {}", path.display()))?;
        let mut store = Store {
            folder: folder.to_owned(),
            limits,
            lines,
            lock,
            entries: VecDeque::new(),
            listed: HashMap::new(),
            of_host: HashMap::new(),
            bytes: 0,
            gone: 0,
        };
        store
            .read_lines()
            .with_context(|| format!("reading {}", path.display()))?;
        store.make_room();
        if store.gone > 0 {
            store
                .take_out_gone()
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(store)
    }

    /// Takes over what is listed; the lines of files that are not there any more count as gone.
    fn read_lines(&mut self) -> io::Result<()> {
        self.lines.seek(SeekFrom::Start(0))?;
        for line in BufReader::new(self.lines.try_clone()?).split(b'\n') {
            let Some(line) = Line::parse(&line?) else {
                continue;
            };
            let there = is_inside(&line.file)
                .then(|| fs::metadata(self.folder.join(&line.file)).ok())
                .flatten();
            match there {
                Some(there) if !self.listed.contains_key(&line.sha256) => {
                    self.list(line.file, line.sha256, there.len());
                }
                _ => self.gone += 1,
            }
        }
        Ok(())
    }

    fn list(&mut self, file: String, sha256: String, bytes: u64) {
        let entry = Entry {
            file: file.clone(),
            sha256: sha256.clone(),
            bytes,
        };
        *self.of_host.entry(entry.folder().to_owned()).or_default() += 1;
        self.bytes += bytes;
        self.listed.insert(sha256, file);
        self.entries.push_back(entry);
    }

    /// Keeps a report.
    ///
    /// # Errors
    /// When it could not be written; what is there is whole in any case.
    pub fn keep(
        &mut self,
        document: &Document,
        bytes: &[u8],
        arrival: &Arrival,
    ) -> io::Result<Kept> {
        let hash: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if let Some(file) = self.listed.get(&hash) {
            return Ok(Kept {
                file: file.clone(),
                new: false,
            });
        }
        let host = format!("{HOSTS}/{}", document.summary.folder);
        let folder = self.folder.join(&host);
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&folder)?;
        let received = arrival.received();
        let end = format!("-{}.json", &hash[..16]);
        // One without a line: a power cut came before it.
        let there = ends_with(&folder, &end)?;
        let name = there.clone().unwrap_or_else(|| {
            let stamp: String = received.chars().filter(|c| !"-:Z".contains(*c)).collect();
            format!("{}{end}", stamp.replace('T', "-"))
        });
        let file = format!("{host}/{name}");
        if there.is_none() {
            write_whole(&self.folder, &folder.join(&name), bytes).inspect_err(|_| {
                // Only if nothing else is in it.
                let _ = fs::remove_dir(&folder);
            })?;
        }
        let line = json!({
            "received": received,
            "from": arrival.from,
            "path": document.summary.path,
            "host": document.summary.serial,
            "result": document.summary.result,
            "file": file,
            "sha256": hash,
            "report": document.value,
        });
        lines::append(&mut self.lines, format!("{line}\n").as_bytes()).inspect_err(|_| {
            // The host is told that its report was not kept. One that stays is listed when it comes again.
            let _ = fs::remove_file(folder.join(&name));
            let _ = fs::remove_dir(&folder);
        })?;
        self.list(file.clone(), hash, bytes.len() as u64);
        self.make_room();
        if self.gone >= GONE_AT_ONCE.max(self.entries.len() / 2) {
            // What is left over is tried again with the next report.
            let _ = self.take_out_gone();
        }
        Ok(Kept { file, new: true })
    }

    /// Removes the oldest reports until the limits hold.
    fn make_room(&mut self) {
        let crowded: HashSet<String> = self
            .of_host
            .iter()
            .filter(|(_, count)| **count > self.limits.per_host)
            .map(|(host, _)| host.clone())
            .collect();
        for host in crowded {
            while self.of_host.get(&host).copied().unwrap_or(0) > self.limits.per_host {
                let oldest = self.entries.iter().position(|e| e.folder() == host);
                let Some(entry) = oldest.and_then(|index| self.entries.remove(index)) else {
                    break;
                };
                self.remove(&entry);
            }
        }
        while self.entries.len() > self.limits.total.max(1)
            || (self.bytes > self.limits.bytes && self.entries.len() > 1)
        {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.remove(&entry);
        }
    }

    fn remove(&mut self, entry: &Entry) {
        // Where that fails the file stays without a line, as after a power cut.
        let _ = fs::remove_file(self.folder.join(&entry.file));
        // Only if it is empty now.
        let _ = fs::remove_dir(self.folder.join(entry.folder()));
        self.listed.remove(&entry.sha256);
        self.bytes -= entry.bytes;
        self.gone += 1;
        if let Some(count) = self.of_host.get_mut(entry.folder()) {
            *count -= 1;
            if *count == 0 {
                self.of_host.remove(entry.folder());
            }
        }
    }

    /// Puts a file in place of `reports.jsonl` that has only the lines of reports that are there.
    fn take_out_gone(&mut self) -> io::Result<()> {
        let mut there: HashSet<&str> = self.entries.iter().map(|e| e.file.as_str()).collect();
        self.lines.seek(SeekFrom::Start(0))?;
        let mut new = unfinished(&self.folder)?;
        let mut out = io::BufWriter::new(new.as_file_mut());
        for line in BufReader::new(self.lines.try_clone()?).split(b'\n') {
            let mut line = line?;
            // Each file once: one that went and came again may have two lines.
            if Line::parse(&line).is_some_and(|line| there.remove(line.file.as_str())) {
                line.push(b'\n');
                out.write_all(&line)?;
            }
        }
        out.flush()?;
        drop(out);
        put_in_place(new, &self.folder.join(lines::FILE))?;
        self.lines = open_lines(&self.folder).map_err(io::Error::other)?;
        self.gone = 0;
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Not left to the closing of the file: a program that is just being started has a copy of it.
        let _ = self.lock.unlock();
    }
}

/// Takes the folder for this program alone: two that write would take each other's reports for gone.
fn locked(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(MODE)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another collect keeps reports in {}: end it, or give another folder with --store",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

fn open_lines(folder: &Path) -> Result<File> {
    let path = folder.join(lines::FILE);
    let lines = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(MODE)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    // It may be from a time when it was readable by all. A device file has modes of its own.
    if lines.metadata().is_ok_and(|there| there.is_file()) {
        lines
            .set_permissions(Permissions::from_mode(MODE))
            .with_context(|| format!("making {} readable by its owner only", path.display()))?;
    }
    Ok(lines)
}

/// Whether a file of a line is below the folder's `hosts`.
fn is_inside(file: &str) -> bool {
    file.strip_prefix(HOSTS)
        .is_some_and(|rest| rest.starts_with('/'))
        && !file.split('/').any(|part| part == "..")
}

fn ends_with(folder: &Path, end: &str) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(end) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn unfinished(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder)
}

/// What a program that was killed left.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The file is there as a whole, or not at all.
pub fn write_whole(store: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = unfinished(store)?;
    file.write_all(bytes)?;
    put_in_place(file, path)
}

fn put_in_place(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REPORT: &[u8] = br#"{"schema":"esxi-rescue/1","result":"clean","summary":"x","banks_changed":0,"devices_changed":0,"host":null,"disks":[]}"#;
    const MANY: Limits = Limits {
        per_host: 100,
        total: 1000,
        bytes: 1 << 30,
    };

    fn open(folder: &Path) -> Store {
        Store::open(folder, MANY).unwrap()
    }

    fn arrival() -> Arrival {
        Arrival {
            from: "10.0.0.9:1".to_owned(),
            when: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        }
    }

    fn keep(store: &mut Store) -> io::Result<Kept> {
        let document = Document::parse(REPORT, "/").unwrap();
        store.keep(&document, REPORT, &arrival())
    }

    fn keep_of(store: &mut Store, serial: &str, text: &str) -> Kept {
        let report = json!({"schema": "esxi-rescue/1", "result": "clean", "summary": text, "banks_changed": 0,
            "devices_changed": 0, "host": {"serial": serial}, "disks": []})
        .to_string();
        let document = Document::parse(report.as_bytes(), "/").unwrap();
        store
            .keep(&document, report.as_bytes(), &arrival())
            .unwrap()
    }

    fn lines(folder: &Path) -> Vec<String> {
        let lines = fs::read_to_string(folder.join(lines::FILE)).unwrap();
        lines.lines().map(str::to_owned).collect()
    }

    fn files(folder: &Path) -> usize {
        let hosts = fs::read_dir(folder.join(HOSTS)).unwrap();
        hosts
            .map(|host| fs::read_dir(host.unwrap().path()).unwrap().count())
            .sum()
    }

    #[test]
    fn what_a_full_disk_turned_away_is_kept_and_listed_when_it_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        let full = File::options().read(true).write(true).open("/dev/full");
        let disk = std::mem::replace(&mut store.lines, full.unwrap());
        assert!(keep(&mut store).is_err());
        assert_eq!(files(folder.path()), 0);
        store.lines = disk;
        assert!(keep(&mut store).unwrap().new);
        assert_eq!(lines(folder.path()).len(), 1);
    }

    #[test]
    fn a_line_that_could_not_be_taken_back_swallows_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        fs::write(folder.path().join(lines::FILE), "{\"cut\":").unwrap();
        assert!(keep(&mut store).unwrap().new);
        let lines = lines(folder.path());
        assert!(
            lines.len() == 2 && lines[1].starts_with("{\"received\""),
            "{lines:?}"
        );
    }

    #[test]
    fn a_report_that_lost_its_line_gets_one_when_it_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = keep(&mut open(folder.path())).unwrap();
        assert!(!keep(&mut open(folder.path())).unwrap().new);
        fs::write(folder.path().join(lines::FILE), "").unwrap();
        let again = keep(&mut open(folder.path())).unwrap();
        assert_eq!(again, first);
        assert_eq!(lines(folder.path()).len(), 1);
    }

    #[test]
    fn reports_are_kept_once_and_listed_on_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(lines::FILE), "{\"cut\":").unwrap();
        let mut store = open(folder.path());
        let kept = keep(&mut store).unwrap();
        assert!(
            kept.new && kept.file.starts_with("hosts/unknown/20231114-221320-"),
            "{kept:?}"
        );
        assert_eq!(fs::read(folder.path().join(&kept.file)).unwrap(), REPORT);
        let again = keep(&mut store).unwrap();
        assert_eq!(again, Kept { new: false, ..kept });
        let lines = lines(folder.path());
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("{\"received\":\"2023-11-14T22:13:20Z\""));
    }

    #[test]
    fn the_oldest_reports_of_a_host_go_first_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            per_host: 3,
            ..MANY
        };
        let mut store = Store::open(folder.path(), limits).unwrap();
        let other = keep_of(&mut store, "OTHER", "1");
        let kept: Vec<Kept> = (0..200)
            .map(|number| keep_of(&mut store, "A", &number.to_string()))
            .collect();
        let there = |kept: &Kept| folder.path().join(&kept.file).exists();
        assert!(there(&other));
        assert_eq!(kept.iter().filter(|kept| there(kept)).count(), 3);
        assert!(kept[197..].iter().all(there));
        assert!(lines(folder.path()).len() <= 4 + GONE_AT_ONCE);
        drop(store);
        let mut store = Store::open(folder.path(), limits).unwrap();
        let listed = lines(folder.path());
        assert_eq!(listed.len(), 4, "{listed:?}");
        assert!(listed[0].contains("OTHER") && listed[3].contains("\"summary\":\"199\""));
        assert!(!keep_of(&mut store, "A", "199").new);
        assert!(keep_of(&mut store, "A", "0").new, "it had gone");
    }

    #[test]
    fn the_whole_is_bounded_in_number_and_in_bytes() {
        for limits in [
            Limits { total: 5, ..MANY },
            Limits {
                bytes: 5 * 160,
                ..MANY
            },
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut store = Store::open(folder.path(), limits).unwrap();
            for number in 100..400 {
                let kept = keep_of(&mut store, &number.to_string(), "x");
                assert!(folder.path().join(kept.file).exists());
            }
            let files = files(folder.path());
            assert!((4..=6).contains(&files), "{files}");
            assert_eq!(store.entries.len(), files);
            assert!(lines(folder.path()).len() <= files + GONE_AT_ONCE);
        }
    }

    #[test]
    fn a_report_that_went_and_came_again_has_one_line_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            per_host: 1,
            ..MANY
        };
        let mut store = Store::open(folder.path(), limits).unwrap();
        for text in ["a", "b", "a", "b", "a"] {
            keep_of(&mut store, "A", text);
        }
        drop(store);
        Store::open(folder.path(), limits).unwrap();
        assert_eq!(lines(folder.path()).len(), 1);
    }

    #[test]
    fn all_that_is_written_is_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let lines = folder.path().join(lines::FILE);
        fs::write(&lines, "").unwrap();
        fs::set_permissions(&lines, Permissions::from_mode(0o644)).unwrap();
        let kept = keep(&mut open(folder.path())).unwrap();
        for path in [lines, folder.path().join(kept.file)] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, MODE, "{}", path.display());
        }
        let mode = fs::metadata(folder.path().join(HOSTS))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, FOLDER_MODE);
    }

    #[test]
    fn two_programs_do_not_keep_reports_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let second = Store::open(folder.path(), MANY).unwrap_err().to_string();
        assert!(second.contains("another collect"), "{second}");
        drop(store);
        open(folder.path());
    }

    #[test]
    fn a_line_cannot_lead_out_of_the_folder() {
        assert!(is_inside("hosts/A/x.json"));
        for file in ["/etc/passwd", "hosts/../../x", "hostsx/a", "other"] {
            assert!(!is_inside(file), "{file}");
        }
    }

    #[test]
    fn what_a_killed_program_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(format!("{UNFINISHED}abc"));
        fs::write(&left, "half").unwrap();
        open(folder.path());
        assert!(!left.exists());
    }
}
