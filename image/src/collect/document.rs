//! A report as it came in: whether it is one, and what of it is shown and filed by.
//!
//! The fields are described in docs/report.md. Fields that are not read here may be anything.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::identity::Names;

/// Largest report that is taken, in bytes. One of a host with many disks has some ten thousand.
pub const MAX_REPORT: usize = 4 * 1024 * 1024;
/// The only schema that is taken.
const SCHEMA: &str = "esxi-rescue/1";
/// The results a report may have.
const RESULTS: [&str; 8] = [
    "reverted",
    "restored",
    "clean",
    "inspected",
    "planned",
    "refused",
    "failed",
    "none-found",
];

/// Why something is no report.
#[derive(Debug, Error)]
pub enum NotReport {
    /// It is not JSON.
    #[error("not JSON: {0}")]
    Json(serde_json::Error),
    /// It is not a report of a version that is known.
    #[error("the schema is {found}, not \"{SCHEMA}\"")]
    Schema {
        /// What it says.
        found: String,
    },
    /// A field is missing or has the wrong type.
    #[error("not a report: {0}")]
    Field(serde_json::Error),
    /// The result is none.
    #[error("{0:?} is not a valid result of a report")]
    Result(String),
}

/// A report that was checked.
#[derive(Debug, Clone)]
pub struct Document {
    /// The whole report.
    pub value: Value,
    /// What is shown and filed by.
    pub summary: Summary,
}

/// What of a report is shown and filed by. Texts are as the host sent them.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The names that the host gives itself.
    pub names: Names,
    /// What the host is called.
    pub serial: String,
    /// The name of the host's folder.
    pub folder: String,
    /// Maker and model of the host.
    pub model: String,
    /// What ESXi it has.
    pub build: String,
    /// How it ended, one of a few known words.
    pub result: String,
    /// How it ended, in a sentence.
    pub note: String,
    /// Banks that were changed.
    pub banks: u64,
    /// Devices that were given back.
    pub devices: u64,
    /// The path of the URL that it was sent to.
    pub path: String,
}

/// The fields of a report that are read.
#[derive(Debug, Deserialize)]
pub struct Fields {
    result: String,
    summary: String,
    banks_changed: u64,
    devices_changed: u64,
    host: Option<Host>,
    disks: Vec<Disk>,
}

#[derive(Debug, Default, Deserialize)]
struct Host {
    vendor: Option<String>,
    model: Option<String>,
    #[serde(flatten)]
    names: Names,
}

#[derive(Debug, Deserialize)]
struct Disk {
    #[serde(default)]
    banks: Vec<Bank>,
}

#[derive(Debug, Deserialize)]
struct Bank {
    build: Option<String>,
    boots_next: Option<bool>,
}

impl Document {
    /// Checks what came in, sent to `path`.
    ///
    /// # Errors
    /// When it is not a report.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Document, NotReport> {
        let value: Value = serde_json::from_slice(bytes).map_err(NotReport::Json)?;
        match value.get("schema") {
            Some(Value::String(schema)) if schema == SCHEMA => {}
            Some(other) => {
                return Err(NotReport::Schema {
                    found: shortened(&other.to_string()),
                });
            }
            None => {
                return Err(NotReport::Schema {
                    found: "missing".to_owned(),
                });
            }
        }
        let fields = Fields::deserialize(&value).map_err(NotReport::Field)?;
        if !RESULTS.contains(&fields.result.as_str()) || fields.summary.is_empty() {
            return Err(NotReport::Result(shortened(&fields.result)));
        }
        Ok(Document {
            summary: Summary::of(fields, path),
            value,
        })
    }
}

impl Summary {
    /// What is shown of a report that was sent to `path`.
    pub fn of(fields: Fields, path: &str) -> Summary {
        let build = build(&fields.disks);
        let host = fields.host.unwrap_or_default();
        let model = [host.vendor, host.model]
            .into_iter()
            .flatten()
            .collect::<Vec<String>>()
            .join(" ");
        Summary {
            serial: host.names.label(path),
            folder: host.names.folder(path),
            names: host.names,
            model,
            build,
            result: fields.result,
            note: fields.summary,
            banks: fields.banks_changed,
            devices: fields.devices_changed,
            path: path.to_owned(),
        }
    }
}

/// Whether a host with this result is as it should be.
pub fn is_well(result: &str) -> bool {
    matches!(result, "reverted" | "restored" | "clean")
}

/// The build of the bank that boots next, or of any.
fn build(disks: &[Disk]) -> String {
    let banks = || disks.iter().flat_map(|disk| &disk.banks);
    let next = banks().find(|bank| bank.boots_next == Some(true));
    next.or_else(|| banks().next())
        .and_then(|bank| bank.build.clone())
        .unwrap_or_default()
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut value = serde_json::json!({
            "schema": "esxi-rescue/1", "version": "0.1.0", "result": "reverted", "summary": "Done.",
            "banks_changed": 2, "devices_changed": 1,
            "host": {"vendor": "Dell Inc.", "model": "PowerEdge R740", "serial": "7XK2P03",
                "uuid": "4c4c4544-0058-4b10-8032-b7c04f503033"},
            "disks": [{"banks": [{"build": "ESXi 6.5", "boots_next": false}, {"build": "ESXi 6.7", "boots_next": true}]}, {}],
        });
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    fn summary(bytes: &[u8]) -> Summary {
        Document::parse(bytes, "/").unwrap().summary
    }

    #[test]
    fn what_a_report_says_is_found() {
        let told = summary(&report(|_| {}));
        assert_eq!(
            (
                told.model.as_str(),
                told.serial.as_str(),
                told.build.as_str(),
                told.folder.as_str()
            ),
            ("Dell Inc. PowerEdge R740", "7XK2P03", "ESXi 6.7", "7XK2P03")
        );
        let of_an_image = summary(&report(|value| value["host"] = Value::Null));
        assert_eq!(of_an_image.folder, "unknown");
        let without_serial = summary(&report(|value| value["host"]["serial"] = " ".into()));
        assert_eq!(
            without_serial.folder,
            "uuid-4c4c4544-0058-4b10-8032-b7c04f503033"
        );
    }

    #[test]
    fn what_is_no_report_is_said() {
        let nested = "[".repeat(100_000);
        let cases: [(Vec<u8>, &str); 8] = [
            (b"hello".to_vec(), "not JSON"),
            (nested.into_bytes(), "not JSON"),
            (b"[]".to_vec(), "schema is missing"),
            (
                report(|value| value["schema"] = "esxi-rescue/2".into()),
                "schema is \"esxi-rescue/2\"",
            ),
            (report(|value| value["schema"] = 1.into()), "schema is 1"),
            (
                report(|value| value["result"] = "great".into()),
                "\"great\" is not a valid result",
            ),
            (
                report(|value| value["disks"] = "none".into()),
                "not a report",
            ),
            (
                report(|value| value["banks_changed"] = (-1).into()),
                "not a report",
            ),
        ];
        for (bytes, expected) in cases {
            let error = Document::parse(&bytes, "/").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
