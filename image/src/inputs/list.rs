//! One line of the list of inputs, as the manifest keeps it.

use serde::{Deserialize, Serialize};

use crate::inputs::release::Release;

/// Kind of a Debian package whose files go in.
pub const PACKAGE: &str = "package";
/// Kind of the programs that write bytes of the artefacts: Debian packages, and what is installed on the machine.
pub const TOOL: &str = "tool";

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

impl Input {
    /// The release of a package that is listed with its digest; nothing for anything else.
    #[must_use]
    pub fn release(&self) -> Option<Release> {
        let (source, source_version) = self.source.as_ref()?.split_once(' ')?;
        Some(Release {
            package: self.name.clone(),
            version: self.version.clone(),
            sha256: self.sha256.clone()?,
            source: source.to_owned(),
            source_version: source_version.to_owned(),
            depends: Vec::new(),
        })
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
