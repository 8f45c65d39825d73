//! The ConfigStore of 7.x and later, made by the sqlite3 program.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::host::Device;
use crate::tools::{Tool, crate_file};

/// How SQLite left a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreLeft {
    /// Closed, without a write-ahead log: what ESXi saves.
    Closed,
    /// In the middle of a transaction, with its journal.
    WithJournal,
    /// In the mode with a write-ahead log, closed.
    WalClosed,
    /// In the mode with a write-ahead log and open: its last transaction is in the log only.
    WalOpen,
}

/// Makes the database in the folder `scratch`, and gives its files: what their names end with, and
/// their bytes.
pub(super) fn make(
    devices: &[Device],
    left: StoreLeft,
    scratch: &Path,
) -> Result<Vec<(&'static str, Vec<u8>)>> {
    fs::create_dir(scratch)?;
    let mut script = fs::read_to_string(crate_file("fixtures/config_store.sql"))?;
    // In one transaction: each takes several syncs, and there may be thousands of rows.
    script.push_str("BEGIN;\n");
    for device in devices {
        writeln!(script, "{}", row(device))?;
    }
    script.push_str("COMMIT;\n");
    const CHANGE: &str = "UPDATE KVTable SET CreationTime = '2023-05-04 10:11:13';";
    const COPY: &str = ".shell mkdir copy && cp store* copy";
    let (more, ends): (String, &[&str]) = match left {
        StoreLeft::Closed => (String::new(), &[""]),
        // A small cache makes SQLite write pages before the transaction ends.
        StoreLeft::WithJournal => (
            format!("PRAGMA cache_size = 1;\nBEGIN EXCLUSIVE;\n{CHANGE}\n{COPY}\n"),
            &["", "-journal"],
        ),
        StoreLeft::WalClosed => ("PRAGMA journal_mode = WAL;\n".into(), &[""]),
        StoreLeft::WalOpen => (
            format!("PRAGMA journal_mode = WAL;\n{CHANGE}\n{COPY}\n"),
            &["", "-wal"],
        ),
    };
    script.push_str(&more);
    Tool::new("sqlite3")?
        .folder(scratch)
        .args(["-batch", "-bail", "store"])
        .input(script)
        .run()
        .context("making a ConfigStore")?;
    let copy = scratch.join("copy");
    let made = if copy.exists() {
        copy
    } else {
        scratch.to_owned()
    };
    let read = |end: &&'static str| Ok((*end, fs::read(made.join(format!("store{end}")))?));
    ends.iter().map(read).collect()
}

/// One device's row. Member order and white space of the JSON vary between devices, as an edit must
/// keep both.
fn row(device: &Device) -> String {
    let owner = device.store_owner.unwrap_or(device.owner).config_store();
    let address = device.address;
    let bus = device.address.bus;
    let json = if bus == 0 {
        format!(
            r#"{{"dl_bus_address":"{address}","hardware_label":"OWNER_PASSTHRU","owner":"{owner}","sbdf":"{address}"}}"#
        )
    } else {
        format!(
            "{{ \"sbdf\" : \"{address}\",\n  \"owner\" : \"{owner}\",\n  \"max_vfs\" : 0,\n  \"hardware_label\" : \"Slot {bus}\" }}"
        )
    };
    format!(
        "INSERT INTO Config(Component,ConfigGroup,Name,Identifier,ModifiedTime,CreationTime,Version,AutoConfValue,UserValue,Revision) \
         VALUES('esx','hardware','pci_devices','{address}','2023-05-04 10:11:12','2023-01-02 03:04:05','1.0','{{\"sbdf\":\"{address}\"}}','{json}',3);"
    )
}
