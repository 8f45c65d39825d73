//! The ConfigStore of 7.x and later, made by the sqlite3 program.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::host::Device;
use crate::tools::{Tool, crate_file};

/// Makes the database and gives its bytes; `path` is where it is made.
pub(super) fn make(devices: &[Device], path: &Path) -> Result<Vec<u8>> {
    let mut script = fs::read_to_string(crate_file("fixtures/config_store.sql"))?;
    for device in devices {
        writeln!(script, "{}", row(device))?;
    }
    Tool::new("sqlite3")?
        .args(["-batch", "-bail"])
        .arg(path)
        .input(script)
        .run()
        .context("making a ConfigStore")?;
    Ok(fs::read(path)?)
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
