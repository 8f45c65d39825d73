//! A version of a Debian package, as the archive's signed index describes it.

use serde::{Deserialize, Serialize};

/// One version of one package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Binary package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the `.deb`.
    pub sha256: String,
    /// Source package.
    pub source: String,
    /// Version of the source package.
    pub source_version: String,
    /// Names of the packages it depends on, first alternatives only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends: Vec<String>,
}

/// Reads a paragraph of a package index. Nothing without version or digest, as for virtual packages.
#[must_use]
pub fn of_paragraph(paragraph: &str) -> Option<Release> {
    let field = |name: &str| {
        paragraph
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
    };
    let package = field("Package")?.to_owned();
    let version = field("Version")?.to_owned();
    let (source, source_version) = match field("Source") {
        None => (package.clone(), version.clone()),
        Some(text) => match text.split_once(" (") {
            Some((name, rest)) => (name.to_owned(), rest.trim_end_matches(')').to_owned()),
            None => (text.to_owned(), version.clone()),
        },
    };
    let depends = field("Depends")
        .unwrap_or_default()
        .split(',')
        .filter_map(|one| one.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect();
    Some(Release {
        sha256: field("SHA256")?.to_owned(),
        package,
        version,
        source,
        source_version,
        depends,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_gives_version_digest_source_and_dependencies() {
        let text = "Package: shim-signed\nSource: shim-signed-src (1.51)\nVersion: 1:1.51+16.1\nDepends: debconf (>= 0.5) | x, mokutil:any\nSHA256: aa\n";
        let shim = of_paragraph(text).unwrap();
        assert_eq!(
            (shim.version.as_str(), shim.sha256.as_str()),
            ("1:1.51+16.1", "aa")
        );
        assert_eq!(
            (shim.source.as_str(), shim.source_version.as_str()),
            ("shim-signed-src", "1.51")
        );
        assert_eq!(shim.depends, ["debconf", "mokutil"]);
        assert_eq!(of_paragraph("Package: virtual-only\nVersion: 2\n"), None);
        assert_eq!(of_paragraph("nonsense"), None);
    }
}
