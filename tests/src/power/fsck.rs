//! The outside judge: `fsck.fat` from dosfstools, read-only, on a volume written to a file.

use std::path::Path;

use anyhow::Result;

use super::medium::Medium;
use crate::scratch;
use crate::tools::Tool;

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
    let output = Tool::new("fsck.fat")?
        .args(["-V", "-n"])
        .arg(path)
        .output()?;
    Ok(Verdict {
        clean: output.status.success(),
        text: output.text() + &output.errors(),
    })
}
