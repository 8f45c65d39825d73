//! The outside judge: `fsck.fat` from dosfstools, read-only, on a volume written to a file.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::medium::Medium;
use crate::scratch;

/// What `fsck.fat -V -n` said.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Nothing found.
    pub clean: bool,
    /// Its words.
    pub text: String,
}

/// Runs `fsck.fat -V -n`, which ESXi runs before an upgrade, on the `length` bytes at byte `start` of the
/// disk.
///
/// # Errors
/// When the file cannot be written or the program cannot be started.
pub fn fsck(medium: &Medium, start: u64, length: u64) -> Result<Verdict> {
    let folder = scratch::folder()?;
    let path = folder.path().join("volume.img");
    medium.export(start, length, &path)?;
    fsck_file(&path)
}

fn fsck_file(path: &Path) -> Result<Verdict> {
    let output = Command::new("fsck.fat")
        .args(["-V", "-n"])
        .arg(path)
        .env("PATH", super::maker::tool_path())
        .output()
        .context("starting fsck.fat (package dosfstools)")?;
    Ok(Verdict {
        clean: output.status.success(),
        text: String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr),
    })
}
