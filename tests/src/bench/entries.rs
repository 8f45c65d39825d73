//! Archives with very many entries, and small archives that unpack to much: what planning costs, in time and in memory.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Effort;
use super::process::{self, Cost};
use super::spread::Spread;
use super::table::{Promise, Row};
use crate::artefacts;
use crate::esxi::archive::{Dialect, gzip, tar};
use crate::esxi::fat::Volume;
use crate::esxi::host;
use crate::esxi::{EsxiDisk, Made};
use crate::tools::Tool;

/// Devices of esx.conf: every address of a segment.
const DEVICES: usize = 65_536;
/// Rows of the ConfigStore.
const ROWS: usize = 16_000;
/// What planning may take, in seconds.
const SECONDS: f64 = 2.0;
/// What the small archives may cost, in MiB.
const MEMORY_MIB: f64 = 128.0;
/// Size of an archive that counts as small, in bytes.
const SMALL_BYTES: u64 = 1 << 20;
/// What the small archive unpacks to, in bytes.
const UNPACKED_BYTES: usize = 400 << 20;

/// Times and memory of planning.
///
/// # Errors
/// When a tool is missing, or the agent fails.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let folder = super::workplace()?;
    let folder = folder.path();
    let conf =
        EsxiDisk::v67().every_bank(|bank| bank.archive.devices = host::every_device(DEVICES));
    let store = EsxiDisk::v80().every_bank(|bank| bank.archive.devices = host::every_device(ROWS));
    let mut rows = Vec::new();
    for (what, disk) in [
        (format!("{DEVICES} devices in esx.conf, planned"), conf),
        (format!("{ROWS} rows in the ConfigStore, planned"), store),
    ] {
        let made = disk.make(folder, "many")?;
        let size = archive_bytes(&made)?;
        let mut costs = Vec::new();
        for _ in 0..effort.rounds(1.0) {
            costs.push(cost(
                &made.image,
                &["revert", "--dry-run", "--json", "--devices=all"],
            )?);
        }
        let note = format!("archive of {} KiB, in two banks", size / 1024);
        let seconds = Spread::of(costs.iter().map(|cost| cost.seconds));
        let row = Row::told("entries", what, seconds, "s");
        rows.push(row.promised(Promise::AtMost(SECONDS)).note(note));
        let memory = Spread::of(costs.iter().map(|cost| mib(cost.memory_bytes)));
        let row = Row::told("entries", "  memory", memory, "MiB");
        rows.push(match size < SMALL_BYTES {
            true => row.promised(Promise::AtMost(MEMORY_MIB)),
            false => row,
        });
    }
    rows.push(bomb(folder, effort)?);
    Ok(rows)
}

/// An archive that unpacks to four hundred times its size.
fn bomb(folder: &Path, effort: Effort) -> Result<Row> {
    let place = folder.join("bomb");
    fs::create_dir(&place)?;
    let name = "local.tgz";
    fs::write(place.join(name), gzip(vec![0; UNPACKED_BYTES])?)?;
    let bytes = gzip(tar(&place, &[name.to_owned()], Dialect::OldGnu, 0)?)?;
    let size = bytes.len();
    let archive = folder.join("bomb.tgz");
    fs::write(&archive, &bytes)?;
    let made = EsxiDisk::v67().make(folder, "unpacks")?;
    let volume = volume(&made)?;
    volume.remove("STATE.TGZ")?;
    volume.put(&archive, "STATE.TGZ")?;
    let mut memory = Vec::new();
    for _ in 0..effort.rounds(1.0) {
        memory.push(mib(cost(&made.image, &["inspect", "--json"])?.memory_bytes));
    }
    let row = Row::told(
        "entries",
        "a small archive that unpacks to 400 MiB, read: memory",
        Spread::of(memory),
        "MiB",
    );
    Ok(row
        .promised(Promise::AtMost(MEMORY_MIB))
        .note(format!("archive of {} KiB", size / 1024)))
}

fn cost(image: &Path, words: &[&str]) -> Result<Cost> {
    let words = words.iter().map(OsString::from);
    let arguments: Vec<OsString> = words.chain([image.as_os_str().to_owned()]).collect();
    process::cost(&artefacts::agent()?, &arguments)
}

/// The volume of the first bank.
fn volume(made: &Made) -> Result<Volume<'_>> {
    let banks = made.layout.banks();
    let bank = banks.first().context("no bank")?;
    Ok(Volume::at(&made.image, made.layout.bytes(bank).start))
}

/// Size of the archive in the first bank, by mtools.
fn archive_bytes(made: &Made) -> Result<u64> {
    let image = volume(made)?.image_argument();
    let bytes = Tool::new("mtype")?
        .args(["-i", &image, "::STATE.TGZ"])
        .run()?;
    Ok(u64::try_from(bytes.len())?)
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
