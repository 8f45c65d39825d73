//! Which packages a build takes, in which version: the newest of a suite, those of the last build, or those of a manifest.

use std::collections::BTreeSet;
use std::path::Path;

use rescue_agent::files;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::inputs::apt::{Apt, Offer};
use crate::inputs::list::{self, Input};
use crate::inputs::release::Release;

/// The package that always depends on Debian's newest kernel.
const KERNEL_META: &str = "linux-image-amd64";
const KERNEL: &str = "linux-image-";
pub const SHIM: &str = "shim-signed";
pub const SHIM_HELPERS: &str = "shim-helpers-amd64-signed";
pub const GRUB_EFI: &str = "grub-efi-amd64-signed";
pub const GRUB_BIOS: &str = "grub-pc-bin";
/// Names of PCI devices, for the console and the report.
pub const PCI_IDS: &str = "pci.ids";
/// A shell that needs no library.
pub const BUSYBOX: &str = "busybox-static";
const ALWAYS: [&str; 5] = [SHIM, SHIM_HELPERS, GRUB_EFI, GRUB_BIOS, PCI_IDS];
/// The packages of the programs that write bytes of the artefacts.
const TOOLS: [&str; 2] = ["grub-common", "xorriso"];
/// Starts of the names of packages that hold the libraries of these. What else they depend on is not needed here.
const LIBRARIES: [&str; 2] = ["lib", "zlib"];

/// Longest manifest that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// What a build needs beside what it always needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Debian's kernel.
    pub kernel: bool,
    /// A shell.
    pub shell: bool,
}

/// Packages, each in one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageSet {
    /// Those whose files go in.
    pub shipped: Vec<Release>,
    /// Those of the programs that write bytes of the artefacts, with the libraries of these.
    pub tools: Vec<Release>,
}

impl PackageSet {
    /// The newest version of everything.
    pub fn newest(apt: &Apt, wanted: Wanted) -> Result<Self> {
        let offer = apt.offer()?;
        let mut shipped = Vec::new();
        if wanted.kernel {
            shipped.push(match apt.offer_of_backports()? {
                Some(offer) => newest_kernel(&offer)?,
                None => newest_kernel(&offer)?,
            });
        }
        for name in ALWAYS.iter().chain(wanted.shell.then_some(&BUSYBOX)) {
            shipped.push(release_of(&offer, name)?);
        }
        Ok(Self {
            shipped,
            tools: with_libraries(&offer, &TOOLS)?,
        })
    }

    /// The packages that a manifest lists, and the suite that they are of.
    pub fn of_manifest(path: &Path) -> Result<(String, Self)> {
        #[derive(Deserialize)]
        struct Manifest {
            suite: String,
            inputs: Vec<Input>,
        }
        let bytes = files::read_whole(path, MAX_MANIFEST_BYTES).map_err(Error::io("read", path))?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
            Error::input(
                path,
                format!("not a manifest.json of a build from a Debian suite: {error}"),
            )
        })?;
        let of_kind = |kind| {
            let inputs = manifest
                .inputs
                .iter()
                .filter(move |input| input.kind == kind);
            inputs.filter_map(Input::release).collect()
        };
        let set = Self {
            shipped: of_kind(list::PACKAGE),
            tools: of_kind(list::TOOL),
        };
        Ok((manifest.suite, set))
    }

    /// Of a set that is given, what is wanted; the name of the first package that it does not have otherwise.
    pub fn only(&self, wanted: Wanted) -> std::result::Result<Self, &'static str> {
        let mut shipped = Vec::new();
        if wanted.kernel {
            shipped.push(self.kernel().ok_or(KERNEL_META)?.clone());
        }
        for name in ALWAYS.iter().chain(wanted.shell.then_some(&BUSYBOX)) {
            let found = self.shipped.iter().find(|release| release.package == *name);
            shipped.push(found.ok_or(*name)?.clone());
        }
        for name in TOOLS {
            let mut tools = self.tools.iter();
            tools.find(|release| release.package == name).ok_or(name)?;
        }
        Ok(Self {
            shipped,
            tools: self.tools.clone(),
        })
    }

    /// The kernel, if it is one of the packages.
    #[must_use]
    pub fn kernel(&self) -> Option<&Release> {
        self.shipped.iter().find(|release| is_kernel(release))
    }

    /// All packages.
    pub fn all(&self) -> impl Iterator<Item = &Release> {
        self.shipped.iter().chain(&self.tools)
    }
}

/// Whether a package is a kernel.
#[must_use]
pub fn is_kernel(release: &Release) -> bool {
    release.package.starts_with(KERNEL)
}

fn newest_kernel(offer: &Offer) -> Result<Release> {
    let meta = release_of(offer, KERNEL_META)?;
    let name = meta.depends.iter().find(|name| name.starts_with(KERNEL));
    let name = name.ok_or_else(|| Error::Package {
        package: KERNEL_META.to_owned(),
        problem: "it does not depend on a kernel".to_owned(),
    })?;
    release_of(offer, name)
}

fn release_of(offer: &Offer, package: &str) -> Result<Release> {
    offer.release(package).ok_or_else(|| Error::Package {
        package: package.to_owned(),
        problem: "this suite does not have it".to_owned(),
    })
}

/// The packages and all libraries that they depend on, directly or through other libraries, sorted by name.
fn with_libraries(offer: &Offer, packages: &[&str]) -> Result<Vec<Release>> {
    let mut todo: Vec<String> = packages.iter().map(|name| (*name).to_owned()).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(name) = todo.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let release = release_of(offer, &name)?;
        let is_library = |name: &&String| LIBRARIES.iter().any(|start| name.starts_with(start));
        todo.extend(release.depends.iter().filter(is_library).cloned());
        found.push(release);
    }
    found.sort_by(|one, other| one.package.cmp(&other.package));
    Ok(found)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;
    use crate::inputs::licences;

    /// A package of this name.
    pub(crate) fn release(package: &str) -> Release {
        Release {
            package: package.to_owned(),
            version: "1:2".to_owned(),
            sha256: "aa".to_owned(),
            source: "source".to_owned(),
            source_version: "2".to_owned(),
            depends: Vec::new(),
        }
    }

    /// A set with everything but a shell.
    pub(crate) fn package_set() -> PackageSet {
        let shipped = ["linux-image-6.12.1-amd64"].into_iter().chain(ALWAYS);
        PackageSet {
            shipped: shipped.map(release).collect(),
            tools: ["grub-common", "libc6", "xorriso"].map(release).to_vec(),
        }
    }

    #[test]
    fn libraries_are_followed_and_other_dependencies_are_not() {
        let text = "Package: xorriso\nVersion: 1\nSHA256: a\nDepends: libburn4, debconf\n\nPackage: libburn4\nVersion: 1\nSHA256: b\n\
            Depends: zlib1g, libburn4\n\nPackage: zlib1g\nVersion: 1\nSHA256: c\n\n";
        let offer = Offer::of(text.as_bytes().to_vec());
        let found = with_libraries(&offer, &["xorriso"]).unwrap();
        let names: Vec<&str> = found
            .iter()
            .map(|release| release.package.as_str())
            .collect();
        assert_eq!(names, ["libburn4", "xorriso", "zlib1g"]);
    }

    #[test]
    fn a_manifest_gives_back_what_a_build_took() {
        let set = package_set();
        let mut inputs: Vec<Input> = set.shipped.iter().map(licences::package).collect();
        inputs.extend(set.tools.iter().map(licences::tool));
        inputs.push(Input::other("tool", "libc6-dev", "of this machine", None));
        let file = tempfile::NamedTempFile::new().unwrap();
        let manifest = serde_json::json!({ "suite": "trixie", "inputs": inputs });
        fs::write(file.path(), manifest.to_string()).unwrap();
        assert_eq!(
            PackageSet::of_manifest(file.path()).unwrap(),
            ("trixie".to_owned(), set)
        );
        fs::write(file.path(), "{}").unwrap();
        assert!(PackageSet::of_manifest(file.path()).is_err());
    }

    #[test]
    fn what_a_set_does_not_have_is_named() {
        let wanted = |kernel, shell| Wanted { kernel, shell };
        let mut given = package_set();
        assert_eq!(given.only(wanted(true, false)).unwrap(), given);
        assert_eq!(given.only(wanted(true, true)), Err(BUSYBOX));
        assert_eq!(
            given.only(wanted(false, false)).unwrap().shipped.len(),
            ALWAYS.len()
        );
        given.tools.remove(0);
        assert_eq!(given.only(wanted(true, false)), Err("grub-common"));
        given.shipped.remove(0);
        assert_eq!(given.only(wanted(true, false)), Err(KERNEL_META));
    }
}
