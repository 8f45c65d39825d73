//! Under which licence each shipped thing stands and where its source is, so that images can be passed on lawfully.
//!
//! Sources: `debian/copyright` of each package; the crates' own manifests, listed when this program is built (`build.rs`).

use crate::inputs::list::{self, Input};
use crate::inputs::release::Release;

/// SPDX expressions of the Debian packages that an image may hold. The kernel packages are matched by their beginning.
const PACKAGES: &[(&str, &str)] = &[
    ("linux-image-", "GPL-2.0-only WITH Linux-syscall-note"),
    ("shim-signed", "BSD-2-Clause AND BSD-3-Clause AND OpenSSL"),
    (
        "shim-helpers-amd64-signed",
        "BSD-2-Clause AND BSD-3-Clause AND OpenSSL",
    ),
    ("grub-efi-amd64-signed", "GPL-3.0-or-later"),
    ("grub-pc-bin", "GPL-3.0-or-later"),
    ("pci.ids", "GPL-2.0-or-later OR BSD-3-Clause"),
    ("busybox-static", "GPL-2.0-only"),
    ("libc6-dev", "LGPL-2.1-or-later"),
];

/// What crates bring along that is not Rust, by the crate.
const BUNDLED: &[(&str, &str, &str)] = &[
    ("libsqlite3-sys", "SQLite", "blessing"),
    ("zstd-sys", "Zstandard", "BSD-3-Clause"),
];

/// The crates of the agent: lines of name, version, licence.
const CRATES: &str = include_str!(concat!(env!("OUT_DIR"), "/crates.txt"));

/// The licence of a Debian package; nothing for one that no image of ours should hold.
#[must_use]
pub fn of_package(name: &str) -> Option<&'static str> {
    PACKAGES
        .iter()
        .find(|(known, _)| name == *known || known.ends_with('-') && name.starts_with(known))
        .map(|(_, licence)| *licence)
}

/// Where Debian keeps every version of every source package permanently.
#[must_use]
pub fn source_of_package(source: &str, version: &str) -> String {
    format!("https://snapshot.debian.org/package/{source}/{version}/")
}

/// A Debian package whose files are in the image.
#[must_use]
pub fn package(release: &Release) -> Input {
    of_kind(list::PACKAGE, release)
}

/// A Debian package of a program that writes bytes of the artefacts, and is not in them.
#[must_use]
pub fn tool(release: &Release) -> Input {
    of_kind(list::TOOL, release)
}

fn of_kind(kind: &str, release: &Release) -> Input {
    Input {
        kind: kind.to_owned(),
        name: release.package.clone(),
        version: release.version.clone(),
        sha256: Some(release.sha256.clone()),
        source: Some(format!("{} {}", release.source, release.source_version)),
        licence: of_package(&release.package).map(str::to_owned),
        source_url: Some(source_of_package(&release.source, &release.source_version)),
    }
}

/// The crates that the agent is made of, and what they bring along.
#[must_use]
pub fn crates() -> Vec<Input> {
    let mut found = Vec::new();
    for line in CRATES.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(name), Some(version), Some(licence)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let source = format!("https://crates.io/crates/{name}/{version}");
        found.push(Input::licensed("crate", name, version, licence, &source));
        for (_, bundled, licence) in BUNDLED.iter().filter(|(within, ..)| *within == name) {
            found.push(Input::licensed(
                "bundled", bundled, version, licence, &source,
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_a_licence_by_name_or_beginning() {
        assert_eq!(
            of_package("linux-image-6.1.0-56-amd64"),
            Some("GPL-2.0-only WITH Linux-syscall-note")
        );
        assert_eq!(of_package("grub-pc-bin"), Some("GPL-3.0-or-later"));
        assert_eq!(of_package("grub-pc-bin-x"), None);
    }

    #[test]
    fn every_crate_has_a_licence_and_none_is_unknown() {
        let crates = crates();
        assert!(crates.len() > 40, "{}", crates.len());
        for one in &crates {
            let licence = one.licence.as_deref().unwrap_or_default();
            assert!(!licence.is_empty() && !licence.contains('/'), "{one:?}");
        }
        for name in ["SQLite", "Zstandard", "gpt"] {
            assert!(crates.iter().any(|one| one.name == name), "{name}");
        }
    }
}
