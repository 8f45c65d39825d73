//! The folder of reports: `hosts/SERIAL/TIME-HASH.json` as they came, and `reports.jsonl`, one line for
//! each.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::document::Document;

/// The file with a line for each report.
const LINES: &str = "reports.jsonl";
/// The folder with a folder for each host.
const HOSTS: &str = "hosts";

/// The folder of reports.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    lines: File,
    /// The SHA-256 of every report that has a line.
    listed: HashSet<String>,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its file, relative to the folder.
    pub file: String,
    /// Whether it is new: a host that heard no answer sends the same report again.
    pub new: bool,
}

impl Store {
    /// Opens the folder, and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(folder: &Path) -> Result<Store> {
        let what = || format!("preparing the folder {}", folder.display());
        fs::create_dir_all(folder.join(HOSTS)).with_context(what)?;
        let path = folder.join(LINES);
        let lines = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&path);
        let mut lines = lines.with_context(|| format!("opening {}", path.display()))?;
        end_cut_line(&mut lines).with_context(|| format!("mending {}", path.display()))?;
        let listed = listed(&mut lines).with_context(|| format!("reading {}", path.display()))?;
        Ok(Store {
            folder: folder.to_owned(),
            lines,
            listed,
        })
    }

    /// Keeps a report that came `from` somewhere at `when`.
    ///
    /// # Errors
    /// When it could not be written; what is there is whole in any case.
    pub fn keep(
        &mut self,
        document: &Document,
        bytes: &[u8],
        from: &str,
        when: SystemTime,
    ) -> io::Result<Kept> {
        let hash: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let folder = self.folder.join(HOSTS).join(&document.folder);
        fs::create_dir_all(&folder)?;
        let end = format!("-{}.json", &hash[..16]);
        let there = ends_with(&folder, &end)?;
        let received = humantime::format_rfc3339_seconds(when).to_string();
        let name = match &there {
            Some(name) if self.listed.contains(&hash) => {
                return Ok(Kept {
                    file: format!("{HOSTS}/{}/{name}", document.folder),
                    new: false,
                });
            }
            // A power cut came before its line.
            Some(name) => name.clone(),
            None => {
                let stamp: String = received.chars().filter(|c| !"-:Z".contains(*c)).collect();
                format!("{}{end}", stamp.replace('T', "-"))
            }
        };
        let file = format!("{HOSTS}/{}/{name}", document.folder);
        if there.is_none() {
            write_whole(&folder, &name, bytes)?;
        }
        let line = json!({
            "received": received, "from": from, "host": document.serial, "result": document.result,
            "file": file, "sha256": hash, "report": document.value,
        });
        append(&mut self.lines, format!("{line}\n").as_bytes()).inspect_err(|_| {
            // The host is told that its report was not kept. One that stays is listed when it comes again.
            let _ = fs::remove_file(folder.join(&name));
        })?;
        self.listed.insert(hash);
        Ok(Kept { file, new: true })
    }
}

/// A whole line, or none: what a full disk cuts off would be glued to the next one.
fn append(lines: &mut File, line: &[u8]) -> io::Result<()> {
    end_cut_line(lines)?;
    let before = lines.metadata()?.len();
    // One write, so that lines of one program at least are never mixed.
    let written = lines.write_all(line).and_then(|()| lines.sync_data());
    written.inspect_err(|_| {
        // Where even that fails, the next line begins with ending it.
        let _ = lines.set_len(before);
    })
}

/// A line that a power cut left unfinished must not swallow the next one.
fn end_cut_line(lines: &mut File) -> io::Result<()> {
    if lines.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    lines.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    lines.read_exact(&mut last)?;
    if last == *b"\n" {
        Ok(())
    } else {
        lines.write_all(b"\n")
    }
}

/// The digests in the lines that are there; a line that was cut has none.
fn listed(lines: &mut File) -> io::Result<HashSet<String>> {
    #[derive(Deserialize)]
    struct Line {
        sha256: String,
    }
    lines.seek(SeekFrom::Start(0))?;
    let mut listed = HashSet::new();
    for line in BufReader::new(lines).split(b'\n') {
        if let Ok(line) = serde_json::from_slice::<Line>(&line?) {
            listed.insert(line.sha256);
        }
    }
    Ok(listed)
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

/// The file is there as a whole, or not at all.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(name))
        .map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REPORT: &[u8] = br#"{"schema":"esxi-rescue/1","result":"clean","summary":"x","banks_changed":0,"devices_changed":0,"host":null,"disks":[]}"#;

    fn keep(store: &mut Store) -> io::Result<Kept> {
        let document = Document::parse(REPORT).unwrap();
        store.keep(&document, REPORT, "10.0.0.9:1", SystemTime::UNIX_EPOCH)
    }

    fn lines(folder: &Path) -> Vec<String> {
        let lines = fs::read_to_string(folder.join(LINES)).unwrap();
        lines.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_a_full_disk_turned_away_is_kept_and_listed_when_it_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let full = File::options().read(true).write(true).open("/dev/full");
        let disk = std::mem::replace(&mut store.lines, full.unwrap());
        assert!(keep(&mut store).is_err());
        let kept = fs::read_dir(folder.path().join("hosts/unknown")).unwrap();
        assert_eq!(kept.count(), 0);
        store.lines = disk;
        assert!(keep(&mut store).unwrap().new);
        assert_eq!(lines(folder.path()).len(), 1);
    }

    #[test]
    fn a_line_that_could_not_be_taken_back_swallows_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        fs::write(folder.path().join(LINES), "{\"cut\":").unwrap();
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
        let first = keep(&mut Store::open(folder.path()).unwrap()).unwrap();
        assert!(!keep(&mut Store::open(folder.path()).unwrap()).unwrap().new);
        fs::write(folder.path().join(LINES), "").unwrap();
        let again = keep(&mut Store::open(folder.path()).unwrap()).unwrap();
        assert_eq!(again, first);
        assert_eq!(lines(folder.path()).len(), 1);
    }

    #[test]
    fn reports_are_kept_once_and_listed_on_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LINES), "{\"cut\":").unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let bytes = br#"{"schema":"esxi-rescue/1","result":"clean","summary":"x","banks_changed":0,"devices_changed":0,"host":null,"disks":[]}"#;
        let document = Document::parse(bytes).unwrap();
        let when = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let kept = store.keep(&document, bytes, "10.0.0.9:1", when).unwrap();
        assert!(
            kept.new && kept.file.starts_with("hosts/unknown/20231114-221320-"),
            "{kept:?}"
        );
        assert_eq!(fs::read(folder.path().join(&kept.file)).unwrap(), bytes);
        let again = store
            .keep(&document, bytes, "10.0.0.9:2", SystemTime::now())
            .unwrap();
        assert_eq!(again, Kept { new: false, ..kept });
        let lines = fs::read_to_string(folder.path().join(LINES)).unwrap();
        assert_eq!(lines.lines().count(), 2);
        assert!(
            lines
                .lines()
                .nth(1)
                .unwrap()
                .starts_with("{\"received\":\"2023-11-14T22:13:20Z\"")
        );
    }
}
