//! Where partitions are on a disk image, as sfdisk and sgdisk read its table.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::esxi::layout::Role;
use crate::tools::Tool;

/// Bytes of the sectors that sfdisk counts in: it takes every image for a disk of these.
const SECTOR: u64 = 512;

/// A partition by sfdisk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its type: a GUID in capitals, or an MBR type in hex.
    pub kind: String,
    /// The first sector.
    pub first: u64,
    /// Number of sectors.
    pub sectors: u64,
}

impl Partition {
    /// Where it begins, in bytes.
    pub fn start(&self) -> u64 {
        self.first * SECTOR
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors * SECTOR
    }

    /// Its volume as mtools are told of it.
    pub fn volume(&self, image: &Path) -> String {
        format!("{}@@{}", image.display(), self.start())
    }
}

/// What sfdisk says of an image: its `partitiontable`.
///
/// # Errors
/// When sfdisk does not read it.
pub fn table(image: &Path) -> Result<Value> {
    let said = Tool::new("sfdisk")?.arg("--json").arg(image).run()?;
    let mut said: Value = serde_json::from_slice(&said)?;
    Ok(said["partitiontable"].take())
}

/// All partitions of an image, in the table's order.
///
/// # Errors
/// When sfdisk does not read it, or says of a partition neither where nor of what type it is.
pub fn partitions(image: &Path) -> Result<Vec<Partition>> {
    let table = table(image)?;
    let list = table["partitions"].as_array().context("no partitions")?;
    list.iter()
        .map(|one| {
            let number = |key: &str| one[key].as_u64().with_context(|| format!("{one}: {key}"));
            Ok(Partition {
                kind: one["type"].as_str().unwrap_or_default().to_owned(),
                first: number("start")?,
                sectors: number("size")?,
            })
        })
        .collect()
}

/// The first EFI system partition of an image.
///
/// # Errors
/// When it has none.
pub fn system_partition(image: &Path) -> Result<Partition> {
    partitions(image)?
        .into_iter()
        .find(|one| one.kind == Role::Esp.guid())
        .with_context(|| format!("{} has no EFI system partition", image.display()))
}

/// The unique GUID of a partition, by its number, as sgdisk spells it.
///
/// # Errors
/// When sgdisk does not name it.
pub fn partition_guid(image: &Path, number: u64) -> Result<String> {
    let said = Tool::new("sgdisk")?
        .arg(format!("--info={number}"))
        .arg(image)
        .run_text()?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("Partition unique GUID: "));
    let guid = line.with_context(|| format!("sgdisk names no GUID of partition {number}:\n{said}"));
    Ok(guid?.trim().to_owned())
}
