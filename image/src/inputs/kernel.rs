//! Where the kernel comes from: a package, or directories of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::drivers;
use crate::inputs::packages::{Deb, Release};
use crate::progress::Progress;

/// A kernel, not prepared yet.
#[derive(Debug)]
pub enum Source {
    /// Out of a package.
    Package(Deb),
    /// Out of directories of this machine.
    Installed {
        /// Its `/lib/modules/<version>`.
        modules: PathBuf,
        /// Its `vmlinuz`.
        vmlinuz: PathBuf,
        /// Digest of both.
        digest: String,
    },
}

impl Source {
    /// An installed kernel, found and measured.
    pub fn installed(modules: &Path, vmlinuz: Option<&Path>) -> Result<Self> {
        let modules = fs::canonicalize(modules).map_err(Error::io("read", modules))?;
        let vmlinuz = match vmlinuz {
            Some(path) => path.to_owned(),
            None => vmlinuz_of(&modules)?,
        };
        let mut digests = hash::sha256_file(&vmlinuz)?;
        for path in drivers::files_below(&modules)? {
            let name = path.strip_prefix(&modules).unwrap_or(&path).display();
            digests.push_str(&format!("\n{name} {}", hash::sha256_file(&path)?));
        }
        Ok(Source::Installed {
            digest: hash::sha256(digests.as_bytes()),
            modules,
            vmlinuz,
        })
    }

    /// Digest of all of it.
    #[must_use]
    pub fn digest(&self) -> &str {
        match self {
            Source::Package(deb) => &deb.release.sha256,
            Source::Installed { digest, .. } => digest,
        }
    }
}

/// Where distributions keep the kernel of these modules.
fn vmlinuz_of(modules: &Path) -> Result<PathBuf> {
    let abi = abi_of(modules);
    let near = modules.ancestors().nth(3).unwrap_or(Path::new("/"));
    let places = [
        modules.join("vmlinuz"),
        near.join("boot").join(format!("vmlinuz-{abi}")),
        Path::new("/boot").join(format!("vmlinuz-{abi}")),
    ];
    places
        .iter()
        .find(|path| path.exists())
        .cloned()
        .ok_or_else(|| {
            let tried: Vec<String> = places
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Error::input(
                modules,
                format!(
                    "no kernel for these modules at {}; use --vmlinuz FILE",
                    tried.join(", ")
                ),
            )
        })
}

fn abi_of(modules: &Path) -> String {
    let name = modules.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The modules, the kernel and its configuration, if there is one, as files.
pub fn unpack(
    source: &Source,
    temp: &Path,
    progress: &Progress,
) -> Result<(PathBuf, PathBuf, Option<PathBuf>)> {
    let (modules, vmlinuz) = match source {
        Source::Package(deb) => {
            let Release {
                package, version, ..
            } = &deb.release;
            progress.step(&format!("unpacking {package} {version}"));
            let unpacked = temp.join("package");
            deb.unpack(&unpacked)?;
            let modules = modules_dir(&unpacked, deb)?;
            let vmlinuz = unpacked
                .join("boot")
                .join(format!("vmlinuz-{}", abi_of(&modules)));
            (modules, vmlinuz)
        }
        Source::Installed {
            modules, vmlinuz, ..
        } => (modules.clone(), vmlinuz.clone()),
    };
    let config = vmlinuz.with_file_name(format!("config-{}", abi_of(&modules)));
    let config = [config, modules.join("config")]
        .into_iter()
        .find(|path| path.exists());
    Ok((modules, vmlinuz, config))
}

/// The only directory of `lib/modules`; from Debian 13 on it is below `usr`.
fn modules_dir(unpacked: &Path, deb: &Deb) -> Result<PathBuf> {
    for place in ["lib/modules", "usr/lib/modules"] {
        let parent = unpacked.join(place);
        let first = fs::read_dir(&parent)
            .ok()
            .and_then(|mut entries| entries.next());
        if let Some(entry) = first {
            return entry
                .map(|entry| entry.path())
                .map_err(Error::io("list", &parent));
        }
    }
    Err(Error::input(
        &deb.path,
        "no lib/modules in this package; it is not a Debian kernel image",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::drivers::tests::tree;

    #[test]
    fn an_installed_kernel_is_found_beside_its_modules_or_asked_for() {
        let (_temp, dir) = tree(&[("drivers/ata/ahci.ko", "name=ahci")]);
        let error = Source::installed(&dir, None).unwrap_err().to_string();
        assert!(error.contains("--vmlinuz"), "{error}");
        fs::write(dir.join("vmlinuz"), b"kernel").unwrap();
        let found = Source::installed(&dir, None).unwrap();
        fs::write(dir.join("vmlinuz"), b"kernel 2").unwrap();
        let changed = Source::installed(&dir, None).unwrap();
        assert_ne!(found.digest(), changed.digest());
        let named = dir.join("vmlinuz");
        let named = Source::installed(&dir, Some(&named)).unwrap();
        assert_eq!(named.digest(), changed.digest());
    }
}
