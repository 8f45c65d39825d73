//! The ConfigStore, read and compared by the sqlite3 program.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::tools::Tool;

/// Tables that no repair has business in.
const OTHER_TABLES: &str = "KVTable DesiredUserConfig DefaultConfig UpgradeStatus";

/// Columns that the database's own triggers move when a row is edited.
const TRIGGERED: [&str; 2] = ["ModifiedTime", "Revision"];

/// Owners by the address of each device.
pub(super) fn owners(store: &Path) -> Result<BTreeMap<String, String>> {
    let query = "SELECT Identifier, json_extract(UserValue, '$.owner') FROM Config \
                 WHERE Component='esx' AND ConfigGroup='hardware' AND Name='pci_devices'";
    let text = sqlite(store, &["-separator", "="], query)?;
    let pair = |line: &str| {
        line.split_once('=')
            .map(|(one, two)| (one.to_owned(), two.to_owned()))
    };
    text.lines()
        .map(|line| pair(line).with_context(|| format!("not a row: {line}")))
        .collect()
}

/// The journal mode that a database keeps in its header.
pub(super) fn journal_mode(store: &Path) -> Result<String> {
    Ok(sqlite(store, &[], "PRAGMA journal_mode")?.trim().to_owned())
}

/// Both databases are the same but for the owners in the rows of these addresses, and what the
/// triggers do to those rows.
pub(super) fn compare(before: &Path, after: &Path, edited: &[&str]) -> Result<()> {
    ensure!(
        sqlite(after, &[], "PRAGMA integrity_check")?.trim() == "ok",
        "the ConfigStore is damaged"
    );
    for question in [
        "PRAGMA page_size",
        "PRAGMA user_version",
        "PRAGMA encoding",
        "PRAGMA journal_mode",
        ".schema",
    ] {
        let (was, is) = (
            sqlite(before, &[], question)?,
            sqlite(after, &[], question)?,
        );
        ensure!(
            was == is,
            "{question} of the ConfigStore was {was}, is {is}"
        );
    }
    let dump = format!(".dump {OTHER_TABLES}");
    ensure!(
        sqlite(before, &[], &dump)? == sqlite(after, &[], &dump)?,
        "another table of the ConfigStore changed"
    );
    let (was, is) = (rows(before)?, rows(after)?);
    ensure!(
        was.len() == is.len(),
        "the ConfigStore had {} rows, has {}",
        was.len(),
        is.len()
    );
    for (mut was, mut is) in was.into_iter().zip(is) {
        if is_edited(&was, edited) {
            for column in TRIGGERED {
                was.remove(column);
                is.remove(column);
            }
            expect_edit(&mut was)?;
        }
        ensure!(
            was == is,
            "a row of the ConfigStore is {is:?}, expected {was:?}"
        );
    }
    Ok(())
}

fn is_edited(row: &Map<String, Value>, edited: &[&str]) -> bool {
    let text = |column: &str| row.get(column).and_then(Value::as_str).unwrap_or_default();
    text("ConfigGroup") == "hardware"
        && text("Name") == "pci_devices"
        && edited.contains(&text("Identifier"))
}

/// Changes a row as a repair should: only the owner, the JSON text otherwise as it is.
fn expect_edit(row: &mut Map<String, Value>) -> Result<()> {
    let value = row.get_mut("UserValue").context("a row has a UserValue")?;
    let text = value.as_str().context("the UserValue is text")?;
    let edited = text
        .replace(r#""owner":"OWNER_PASSTHRU""#, r#""owner":"OWNER_VMKERNEL""#)
        .replace(
            r#""owner" : "OWNER_PASSTHRU""#,
            r#""owner" : "OWNER_VMKERNEL""#,
        );
    ensure!(
        edited != text,
        "the row held no owner that is passed through: {text}"
    );
    *value = Value::String(edited);
    Ok(())
}

fn rows(store: &Path) -> Result<Vec<Map<String, Value>>> {
    let query = "SELECT rowid AS place, * FROM Config ORDER BY rowid";
    Ok(serde_json::from_str(&sqlite(store, &["-json"], query)?)?)
}

fn sqlite(store: &Path, options: &[&str], query: &str) -> Result<String> {
    // Read only, so that looking leaves nothing behind.
    Tool::new("sqlite3")?
        .args(["-batch", "-bail", "-readonly"])
        .args(options)
        .arg(store)
        .arg(query)
        .run_text()
}
