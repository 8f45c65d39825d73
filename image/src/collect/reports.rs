//! `rescue-image reports`: what the folder of reports says about hosts, or about one host that a BMC names
//! by its own names for it. It reads the folder only, also while `collect` writes there.
//!
//! A BMC and the host's own firmware may call the host differently: the UUID in another byte order, the
//! serial number as the SKU, placeholders in place of either. Reports are matched by any of the names, and
//! names that lead to different hosts are refused: nobody is told of the repair of another host.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::fetches::Fetches;
use super::hosts::{Row, harmless};
use super::identity::{Uuid, serial};
use super::lines::{self, Line};

/// How often the folder is looked at while a report is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// What to look for.
#[derive(Debug, Clone)]
pub struct Query {
    /// The folder of reports.
    pub store: PathBuf,
    /// The names of one host; none: every host.
    pub matching: Option<Matching>,
    /// Reports from then on only.
    pub since: Option<SystemTime>,
    /// How long to wait for one.
    pub wait: Duration,
    /// Print JSON.
    pub json: bool,
}

/// The names by which a BMC knows a host. Placeholders are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matching {
    uuids: Vec<String>,
    serials: Vec<String>,
    paths: Vec<String>,
}

impl FromStr for Matching {
    type Err = String;

    /// `uuid=…,serial=…,sku=…,path=…`: each may be missing, be empty, or stand there several times.
    fn from_str(text: &str) -> Result<Matching, String> {
        let mut matching = Matching::default();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
            let list = match key.trim() {
                "uuid" => &mut matching.uuids,
                "serial" | "sku" => &mut matching.serials,
                "path" => &mut matching.paths,
                other => {
                    return Err(format!("{other:?} is none of uuid, serial, sku and path"));
                }
            };
            if !value.trim().is_empty() {
                list.push(value.trim().to_owned());
            }
        }
        Ok(matching)
    }
}

impl Matching {
    /// Whether none of the names means anything.
    fn is_empty(&self) -> bool {
        self.paths.is_empty()
            && !self.uuids.iter().any(|uuid| Uuid::parse(uuid).is_some())
            && !self.serials.iter().any(|text| serial(text).is_some())
    }

    fn fits(&self, row: &Row) -> bool {
        let serials = [row.names.serial(), row.names.board_serial()];
        let by_serial = self
            .serials
            .iter()
            .filter_map(|text| serial(text))
            .any(|text| serials.contains(&Some(text)));
        let by_uuid = row.names.uuid().is_some_and(|theirs| {
            let ours = self.uuids.iter().filter_map(|uuid| Uuid::parse(uuid));
            ours.into_iter().any(|ours| ours.is(&theirs))
        });
        by_serial || by_uuid || self.paths.contains(&row.path)
    }
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Something was found and printed.
    Some,
    /// There is no such report.
    Nothing,
    /// The names belong to several hosts.
    Ambiguous,
}

impl Found {
    /// The program's exit status.
    pub fn status(self) -> u8 {
        match self {
            Found::Some => 0,
            Found::Nothing => 3,
            Found::Ambiguous => 4,
        }
    }
}

/// Searches, waits if it is to, and prints what was found to `out`.
///
/// # Errors
/// When the folder cannot be read, or no name of those given means anything.
pub fn run(query: &Query, out: &mut impl io::Write) -> Result<Found> {
    ensure!(
        query.store.is_dir(),
        "there is no folder {}: it is the one that 'rescue-image collect --store' was given",
        query.store.display()
    );
    if let Some(matching) = &query.matching {
        ensure!(
            !matching.is_empty(),
            "--match names no host: its UUID and serial numbers are empty, or placeholders of the manufacturer. \
             Give the host an image of its own whose 'report' has a path, and match by path=/THAT-PATH"
        );
    }
    let mut reader = Reader::new(&query.store);
    let end = Instant::now() + query.wait;
    loop {
        reader.read_on()?;
        let rows = reader.found(query);
        let left = end.saturating_duration_since(Instant::now());
        if rows.is_empty() && !left.is_zero() {
            thread::sleep(LOOK.min(left));
            continue;
        }
        return print(query, &rows, out);
    }
}

fn print(query: &Query, rows: &[Row], out: &mut impl io::Write) -> Result<Found> {
    let found = match rows {
        [] => Found::Nothing,
        [_, _, ..] if query.matching.is_some() => Found::Ambiguous,
        _ => Found::Some,
    };
    if query.json {
        let fetches: Vec<Value> = Fetches::load(&query.store)
            .list()
            .map(|fetch| json!(fetch))
            .collect();
        let hosts: Vec<Value> = rows.iter().map(host_json).collect();
        let all = json!({"schema": "esxi-rescue-reports/1", "ambiguous": found == Found::Ambiguous, "hosts": hosts,
            "fetches": fetches});
        writeln!(out, "{all}")?;
        return Ok(found);
    }
    for line in table(rows) {
        writeln!(out, "{line}")?;
    }
    if found == Found::Ambiguous {
        writeln!(
            out,
            "These names belong to {} hosts: match by the one that is the host's own",
            rows.len()
        )?;
    }
    Ok(found)
}

fn host_json(row: &Row) -> Value {
    json!({
        "host": row.serial, "serial": row.names.serial, "uuid": row.names.uuid, "board_serial": row.names.board_serial,
        "model": row.model, "build": row.build, "result": row.result, "well": row.is_well(), "banks": row.banks,
        "devices": row.devices, "when": row.when, "note": row.note, "from": row.from, "path": row.path, "file": row.file,
    })
}

fn table(rows: &[Row]) -> Vec<String> {
    let heads = ["HOST", "RESULT", "BANKS", "DEVICES", "WHEN", "NOTE"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        [
            row.serial.clone(),
            row.result.clone(),
            row.banks.to_string(),
            row.devices.to_string(),
            row.when.clone(),
            row.note.clone(),
        ]
    });
    let all: Vec<[String; 6]> = [heads].into_iter().chain(cells).collect();
    let width = |column: usize| {
        let lengths = all.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    all.iter()
        .map(|row| {
            let padded: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            harmless(padded.join("  ").trim_end())
        })
        .collect()
}

/// Reads `reports.jsonl`, and later what was added to it.
struct Reader {
    path: PathBuf,
    /// The file that was read: `collect` puts a new one in its place when reports have gone.
    file: Option<u64>,
    read: u64,
    rows: Vec<Row>,
}

impl Reader {
    fn new(store: &Path) -> Reader {
        Reader {
            path: store.join(lines::FILE),
            file: None,
            read: 0,
            rows: Vec::new(),
        }
    }

    fn read_on(&mut self) -> Result<()> {
        self.try_read_on()
            .with_context(|| format!("reading {}", self.path.display()))
    }

    fn try_read_on(&mut self) -> io::Result<()> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let there = file.metadata()?;
        if self.file != Some(there.ino()) || there.len() < self.read {
            self.file = Some(there.ino());
            self.read = 0;
            self.rows.clear();
        }
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(self.read))?;
        let mut line = Vec::new();
        // A line without its end is being written.
        while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            self.read += line.len() as u64;
            if let Some(line) = Line::parse(&line) {
                let (file, from) = (line.file.clone(), line.from.clone());
                let when = line.received.clone();
                self.rows
                    .push(Row::new(&line.summary(), &file, &from, &when));
            }
            line.clear();
        }
        Ok(())
    }

    /// What is known of each host that is looked for, by its reports in the time that is looked for.
    fn found(&self, query: &Query) -> Vec<Row> {
        let mut hosts: Vec<Row> = Vec::new();
        for row in &self.rows {
            let fits = query.matching.as_ref().is_none_or(|m| m.fits(row));
            if !fits || !is_since(row, query.since) {
                continue;
            }
            let same = |known: &Row| {
                known.names.same_host(&row.names)
                    || (known.folder == row.folder && known.names == row.names)
            };
            match hosts.iter().position(same) {
                Some(index) => {
                    let before = hosts.remove(index);
                    hosts.push(before.followed_by(row.clone()));
                }
                None => hosts.push(row.clone()),
            }
        }
        hosts
    }
}

/// To the second: that is how exactly the time of a report is kept.
fn is_since(row: &Row, since: Option<SystemTime>) -> bool {
    let Some(since) = since else {
        return true;
    };
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .map(|d| d.as_secs())
    };
    let received = humantime::parse_rfc3339(&row.when).ok();
    received.is_some_and(|received| seconds(received).ok() >= seconds(since).ok())
}

/// A time: RFC 3339, or seconds since 1970.
///
/// # Errors
/// When it is neither.
pub fn parse_time(text: &str) -> Result<SystemTime, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .ok_or_else(|| format!("{text} seconds are too many"));
    }
    humantime::parse_rfc3339_weak(text).map_err(|error| {
        format!("{error}; expected a time such as 2026-01-31T14:00:00Z, or seconds since 1970")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
    const TURNED: &str = "33221100-5544-7766-8899-aabbccddeeff";

    fn line(when: &str, path: &str, host: &Value, result: &str) -> String {
        let report = json!({"schema": "esxi-rescue/1", "result": result, "summary": "Done.", "banks_changed": 2,
            "devices_changed": 1, "host": host, "disks": []});
        json!({"received": when, "from": "10.0.0.1:2", "path": path, "host": "x", "result": result,
            "file": "hosts/x/y.json", "sha256": "0", "report": report})
        .to_string()
    }

    fn search(lines: &[String], matching: &str, since: Option<&str>) -> (Found, Value) {
        let folder = tempfile::tempdir().unwrap();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(folder.path().join(lines::FILE), text + "{\"cut\":").unwrap();
        let query = Query {
            store: folder.path().to_owned(),
            matching: (!matching.is_empty()).then(|| matching.parse().unwrap()),
            since: since.map(|since| parse_time(since).unwrap()),
            wait: Duration::ZERO,
            json: true,
        };
        let mut out = Vec::new();
        let found = run(&query, &mut out).unwrap();
        (found, serde_json::from_slice(&out).unwrap())
    }

    fn two_hosts() -> [String; 3] {
        [
            line(
                "2026-01-01T00:00:00Z",
                "/",
                &json!({"serial": "A", "uuid": UUID}),
                "reverted",
            ),
            line(
                "2026-01-01T00:00:05Z",
                "/rack/7",
                &json!({"serial": "Default string", "board_serial": "B7"}),
                "refused",
            ),
            line(
                "2026-01-02T00:00:00Z",
                "/",
                &json!({"serial": "A", "uuid": UUID}),
                "clean",
            ),
        ]
    }

    #[test]
    fn a_host_is_found_by_every_name_that_its_bmc_may_have_for_it() {
        for (matching, result) in [
            ("serial=A", "reverted"),
            ("sku=A,serial=To be filled by O.E.M.", "reverted"),
            (&format!("uuid={UUID}"), "reverted"),
            (
                &format!("uuid={},serial=", TURNED.to_uppercase()),
                "reverted",
            ),
            ("serial=B7", "refused"),
            (
                "path=/rack/7,uuid=00000000-0000-0000-0000-000000000000",
                "refused",
            ),
        ] {
            let (found, told) = search(&two_hosts(), matching, None);
            assert_eq!(found, Found::Some, "{matching}");
            assert_eq!(told["hosts"][0]["result"], result, "{matching}");
        }
        for matching in ["serial=a", "serial=Default string,sku=C", "path=/rack"] {
            let (found, _) = search(&two_hosts(), matching, None);
            assert_eq!(found, Found::Nothing, "{matching}");
        }
    }

    #[test]
    fn names_of_two_hosts_are_refused() {
        let (found, told) = search(&two_hosts(), &format!("serial=B7,uuid={UUID}"), None);
        assert_eq!(
            (found, &told["ambiguous"]),
            (Found::Ambiguous, &json!(true))
        );
        let twins = [
            line(
                "2026-01-01T00:00:00Z",
                "/",
                &json!({"serial": "A", "uuid": UUID}),
                "reverted",
            ),
            line(
                "2026-01-01T00:00:00Z",
                "/",
                &json!({"serial": "A", "uuid": UUID.replace('8', "7")}),
                "failed",
            ),
        ];
        assert_eq!(search(&twins, "serial=A", None).0, Found::Ambiguous);
    }

    #[test]
    fn only_reports_from_then_on_count() {
        let (found, told) = search(&two_hosts(), "serial=A", Some("2026-01-01T12:00:00Z"));
        assert_eq!(
            (found, &told["hosts"][0]["result"]),
            (Found::Some, &json!("clean"))
        );
        let (found, _) = search(&two_hosts(), "serial=B7", Some("2026-01-01T00:00:06Z"));
        assert_eq!(found, Found::Nothing);
        let (found, _) = search(&two_hosts(), "serial=B7", Some("2026-01-01T00:00:05.9Z"));
        assert_eq!(found, Found::Some);
    }

    #[test]
    fn every_host_has_one_line() {
        let (found, told) = search(&two_hosts(), "", None);
        assert_eq!(found, Found::Some);
        assert_eq!(told["hosts"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_search_by_placeholders_alone_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let query = Query {
            store: folder.path().to_owned(),
            matching: Some("serial=None,uuid=,sku=0000".parse().unwrap()),
            since: None,
            wait: Duration::ZERO,
            json: true,
        };
        let told = run(&query, &mut Vec::new()).unwrap_err().to_string();
        assert!(told.contains("names no host"), "{told}");
        assert!("color=red".parse::<Matching>().is_err());
        assert!("serial".parse::<Matching>().is_err());
        assert!(parse_time("yesterday").is_err());
    }
}
