//! `dist/manifest.json`: every input and every artefact with version and SHA-256; `dist/SHA256SUMS` for `sha256sum -c`.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hash;
use crate::licences;
use crate::packages::Release;

/// Name and version of the manifest's format.
pub const SCHEMA: &str = "esxi-rescue-manifest/1";
/// The manifest's file name.
pub const FILE: &str = "manifest.json";
const SUMS: &str = "SHA256SUMS";

/// One thing the image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What it is, for instance `package`, `agent`, `builder`, `tool`, `settings`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file; absent for tools installed on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Source package and its version, `name version`, for Debian packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its licence as an SPDX expression, for what is shipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Where its source is, for what is shipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
}

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

impl Input {
    /// A Debian package.
    #[must_use]
    pub fn package(release: &Release) -> Self {
        Self {
            kind: "package".to_owned(),
            name: release.package.clone(),
            version: release.version.clone(),
            sha256: Some(release.sha256.clone()),
            source: Some(format!("{} {}", release.source, release.source_version)),
            licence: licences::of_package(&release.package).map(str::to_owned),
            source_url: Some(licences::source_of_package(
                &release.source,
                &release.source_version,
            )),
        }
    }

    /// Something that is part of what is shipped, with its licence and the place of its source.
    #[must_use]
    pub fn licensed(kind: &str, name: &str, version: &str, licence: &str, source: &str) -> Self {
        Self {
            licence: Some(licence.to_owned()),
            source_url: Some(source.to_owned()),
            ..Self::other(kind, name, version, None)
        }
    }

    /// A file, or the installed program if there is no digest.
    #[must_use]
    pub fn other(kind: &str, name: &str, version: &str, sha256: Option<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
            sha256,
            source: None,
            licence: None,
            source_url: None,
        }
    }
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
        serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()
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
