//! A report as it came in: whether it is one, and what of it is shown and filed by.
//!
//! The fields are described in docs/report.md. Fields that are not read here may be anything.

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

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
/// Longest file name that is made of a host's serial number.
const MAX_NAME: usize = 64;

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
    #[error("{0:?} is no result that a report can have")]
    Result(String),
}

/// A report that was checked.
#[derive(Debug, Clone)]
pub struct Document {
    /// The whole report.
    pub value: Value,
    /// How it ended, one of a few known words.
    pub result: String,
    /// Maker and model of the host.
    pub model: String,
    /// The host's serial number, or UUID.
    pub serial: String,
    /// What ESXi it has.
    pub build: String,
    /// Banks that were changed.
    pub banks: u64,
    /// Devices that were given back.
    pub devices: u64,
    /// The name of the host's folder.
    pub folder: String,
}

#[derive(Deserialize)]
struct Fields {
    result: String,
    summary: String,
    banks_changed: u64,
    devices_changed: u64,
    host: Option<Host>,
    disks: Vec<Disk>,
}

#[derive(Default, Deserialize)]
struct Host {
    vendor: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    uuid: Option<String>,
}

#[derive(Deserialize)]
struct Disk {
    #[serde(default)]
    banks: Vec<Bank>,
}

#[derive(Deserialize)]
struct Bank {
    build: Option<String>,
    boots_next: Option<bool>,
}

impl Document {
    /// Checks what came in.
    ///
    /// # Errors
    /// When it is not a report.
    pub fn parse(bytes: &[u8]) -> Result<Document, NotReport> {
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
        let build = build(&fields.disks);
        let host = fields.host.unwrap_or_default();
        let model = [host.vendor, host.model]
            .into_iter()
            .flatten()
            .collect::<Vec<String>>()
            .join(" ");
        let named = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let serial = named(host.serial)
            .or(named(host.uuid))
            .unwrap_or_else(|| "unknown".to_owned());
        Ok(Document {
            folder: file_name(&serial),
            result: fields.result,
            banks: fields.banks_changed,
            devices: fields.devices_changed,
            model,
            serial,
            build,
            value,
        })
    }
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

/// A serial number as the name of a folder. Two that differ in what a name cannot have get different
/// names all the same.
fn file_name(serial: &str) -> String {
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = serial.chars().map(harmless).take(MAX_NAME).collect();
    // A leading dot would hide it, or lead out of the folder.
    let name = name.trim_start_matches('.');
    if name == serial {
        return name.to_owned();
    }
    let hash: String = Sha256::digest(serial)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{name}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut value = serde_json::json!({
            "schema": "esxi-rescue/1", "version": "0.1.0", "result": "reverted", "summary": "Done.",
            "banks_changed": 2, "devices_changed": 1,
            "host": {"vendor": "Dell Inc.", "model": "PowerEdge R740", "serial": "7XK2P03", "uuid": "4c4c4544"},
            "disks": [{"banks": [{"build": "ESXi 6.5", "boots_next": false}, {"build": "ESXi 6.7", "boots_next": true}]}, {}],
        });
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn what_a_report_says_is_found() {
        let document = Document::parse(&report(|_| {})).unwrap();
        assert_eq!(
            (
                document.model.as_str(),
                document.serial.as_str(),
                document.build.as_str(),
                document.folder.as_str()
            ),
            ("Dell Inc. PowerEdge R740", "7XK2P03", "ESXi 6.7", "7XK2P03")
        );
        let of_an_image = Document::parse(&report(|value| value["host"] = Value::Null)).unwrap();
        assert_eq!(of_an_image.folder, "unknown");
        let without_serial =
            Document::parse(&report(|value| value["host"]["serial"] = " ".into())).unwrap();
        assert_eq!(without_serial.folder, "4c4c4544");
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
                "\"great\" is no result",
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
            let error = Document::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn serial_numbers_become_harmless_names() {
        assert_eq!(file_name("7XK2P03"), "7XK2P03");
        assert!(file_name("VMware-42 1f").starts_with("VMware-42_1f-"));
        for serial in [
            "..",
            "../../etc/passwd",
            "/",
            ".hidden",
            "a\0b",
            "é",
            &"x".repeat(300),
            "C:\\x",
        ] {
            let name = file_name(serial);
            assert!(
                !name.starts_with('.') && !name.contains(['/', '\\', '\0']),
                "{name}"
            );
            assert!((1..=MAX_NAME + 9).contains(&name.len()), "{name}");
            assert_ne!(name, serial);
        }
        assert_ne!(file_name("a b"), file_name("a/b"));
    }
}
