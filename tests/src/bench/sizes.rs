//! What the image is made of.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::table::{Promise, Row};
use crate::artefacts;
use crate::tools::Tool;

const MIB: f64 = (1 << 20) as f64;
/// The most that the ISO may take.
const ISO_MIB: f64 = 28.0;
/// How each entry of an uncompressed cpio archive begins.
const CPIO_MAGIC: &[u8] = b"070701";

/// Sizes of the ISO and its parts.
///
/// # Errors
/// When the image has not been built, or xorriso fails.
pub fn rows() -> Result<Vec<Row>> {
    let manifest: Value = serde_json::from_slice(&fs::read(artefacts::dist("manifest.json")?)?)?;
    let mut rows = Vec::new();
    for artefact in manifest["artefacts"].as_array().into_iter().flatten() {
        let path = artefact["path"]
            .as_str()
            .context("an artefact has a path")?;
        let size = artefact["size"]
            .as_f64()
            .context("an artefact has a size")?;
        let row = Row::told("sizes", path, size / MIB, "MiB");
        rows.push(match path {
            "esxi-rescue.iso" => row.promised(Promise::AtMost(ISO_MIB)),
            _ => row,
        });
    }
    let folder = tempfile::tempdir()?;
    let parts = [
        ("vmlinuz", "kernel"),
        ("initrd.img", "initramfs"),
        ("initrd-net.img", "initramfs, network drivers"),
    ];
    for (file, name) in parts {
        let Some(bytes) = extracted(&format!("/boot/{file}"), folder.path())? else {
            continue;
        };
        let row = |name: &str, bytes: usize| {
            Row::told(
                "sizes",
                format!("in the ISO: {name}"),
                bytes as f64 / MIB,
                "MiB",
            )
        };
        rows.push(row(name, bytes.len()));
        let mut windows = bytes.windows(CPIO_MAGIC.len());
        if let Some(base) = windows
            .position(|bytes| bytes == CPIO_MAGIC)
            .filter(|at| *at > 0)
        {
            rows.push(row("initramfs, agent and its tables", base));
            rows.push(row("initramfs, drivers", bytes.len() - base));
        }
    }
    let agent = fs::metadata(artefacts::agent()?)?.len();
    rows.push(Row::told(
        "sizes",
        "agent, unpacked",
        agent as f64 / MIB,
        "MiB",
    ));
    Ok(rows)
}

/// A file of the ISO; `None` where it has none of that name.
pub(super) fn extracted(path: &str, folder: &Path) -> Result<Option<Vec<u8>>> {
    let to = folder.join("extracted");
    let output = Tool::new("xorriso")?
        .args(["-osirrox", "on", "-indev"])
        .arg(artefacts::dist("esxi-rescue.iso")?)
        .args(["-extract", path])
        .arg(&to)
        .output()?;
    if !output.status.success() || !to.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&to)?;
    fs::remove_file(&to)?;
    Ok(Some(bytes))
}
