//! `dist/manifest.json`: every input and every artefact with version and SHA-256; `dist/SHA256SUMS` for `sha256sum -c`.

use std::fs;
use std::path::Path;

use rescue_agent::files;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::list::Input;

/// Name and version of the manifest's format.
pub const SCHEMA: &str = "esxi-rescue-manifest/1";
/// The manifest's file name.
pub const FILE: &str = "manifest.json";
/// Longest manifest that is read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;
const SUMS: &str = "SHA256SUMS";

/// One file that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// Path below the output directory.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: String,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of this project.
    pub version: String,
    /// Identity of the image, as its loader knows it.
    pub identity: String,
    /// ABI name of the kernel.
    pub kernel: String,
    /// Debian's suite that the packages are from.
    #[serde(default)]
    pub suite: String,
    /// Number of kernel modules carried.
    pub modules: usize,
    /// Time of everything in the image, seconds since 1970.
    pub source_date_epoch: u64,
    /// Kernel arguments built in beside the menu's own.
    pub arguments: Vec<String>,
    /// Digest over all inputs and options; the same digest means there is nothing to build.
    pub inputs_digest: String,
    /// Everything the artefacts were made from.
    pub inputs: Vec<Input>,
    /// Everything that was made.
    pub artefacts: Vec<Artefact>,
}

impl Artefact {
    /// Measures a finished file of the output directory.
    pub fn measure(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let size = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        Ok(Self {
            path: name.to_owned(),
            size,
            sha256: hash::sha256_file(&path)?,
        })
    }
}

impl Manifest {
    /// The manifest in `dir`, if there is one that can be read. A damaged one only means that everything is built again.
    #[must_use]
    pub fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&files::read_whole(&dir.join(FILE), MAX_BYTES).ok()?).ok()
    }

    /// Whether the artefacts in `dir` are there, whole and unaltered.
    #[must_use]
    pub fn holds(&self, dir: &Path) -> bool {
        self.schema == SCHEMA
            && dir.join(SUMS).exists()
            && self.artefacts.iter().all(|artefact| {
                Artefact::measure(dir, &artefact.path).is_ok_and(|found| found == *artefact)
            })
    }

    /// Writes manifest and checksums.
    pub fn store(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::input(&path, error.to_string()))?;
        text.push(b'\n');
        fs::write(&path, &text).map_err(Error::io("write", &path))?;
        let mut sums: String = self
            .artefacts
            .iter()
            .map(|artefact| format!("{}  {}\n", artefact.sha256, artefact.path))
            .collect();
        sums.push_str(&format!("{}  {FILE}\n", hash::sha256(&text)));
        let path = dir.join(SUMS);
        fs::write(&path, sums).map_err(Error::io("write", &path))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One of these artefacts.
    pub(crate) fn manifest(artefacts: Vec<Artefact>) -> Manifest {
        Manifest {
            schema: SCHEMA.to_owned(),
            version: "0".to_owned(),
            identity: "id".to_owned(),
            kernel: "6.1".to_owned(),
            suite: "trixie".to_owned(),
            modules: 1,
            source_date_epoch: 0,
            arguments: Vec::new(),
            inputs_digest: "d".to_owned(),
            inputs: vec![Input::other(
                "agent",
                "rescue-agent",
                "0",
                Some("aa".to_owned()),
            )],
            artefacts,
        }
    }

    #[test]
    fn it_comes_back_and_notices_an_altered_or_missing_artefact() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        fs::write(dir.join("a.iso"), b"iso").unwrap();
        let before = manifest(vec![Artefact::measure(dir, "a.iso").unwrap()]);
        before.store(dir).unwrap();
        let after = Manifest::load(dir).unwrap();
        assert_eq!(after, before);
        assert!(after.holds(dir));
        fs::write(dir.join("a.iso"), b"isO").unwrap();
        assert!(!after.holds(dir));
        fs::remove_file(dir.join("a.iso")).unwrap();
        assert!(!after.holds(dir));
    }

    #[test]
    fn the_checksums_are_what_sha256sum_checks() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a.iso"), b"iso").unwrap();
        manifest(vec![Artefact::measure(temp.path(), "a.iso").unwrap()])
            .store(temp.path())
            .unwrap();
        let status = std::process::Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", SUMS])
            .current_dir(temp.path())
            .status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn a_damaged_manifest_counts_as_none() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(FILE), b"{").unwrap();
        assert!(Manifest::load(temp.path()).is_none());
    }
}
