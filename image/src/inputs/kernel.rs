//! Where the kernel comes from: a package, or directories of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use rescue_agent::files;

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::drivers;
use crate::inputs::packages::Deb;
use crate::inputs::release::Release;
use crate::progress::Progress;

/// Where packages have the modules; from Debian 13 on below `usr`.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];
/// What is needed of a package.
const PARTS: [&str; 3] = ["boot", MODULES[0], MODULES[1]];

/// No kernel comes near this size, in bytes.
const MAX_KERNEL_BYTES: u64 = 256 << 20;
/// Where a bzImage has its mark (Linux Documentation/arch/x86/boot.rst), and the mark.
const MARK_AT: usize = 0x202;
const MARK: &[u8] = b"HdrS";

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
            deb.unpack(&PARTS, &unpacked)?;
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

/// A kernel's file, if it is one that GRUB and firmware can start on a PC.
pub fn read(path: &Path, progress: &Progress) -> Result<Vec<u8>> {
    let bytes = files::read_whole(path, MAX_KERNEL_BYTES).map_err(Error::io("read", path))?;
    if bytes.get(MARK_AT..MARK_AT + MARK.len()) != Some(MARK) {
        return Err(Error::input(
            path,
            "not a kernel for a PC (a bzImage, as in /boot/vmlinuz-*)",
        ));
    }
    if !is_signed(&bytes) {
        progress.step("the kernel is not signed: Secure Boot will refuse it");
    }
    Ok(bytes)
}

/// Whether the program for UEFI that a bzImage also is carries a signature: the fifth of its data directories (Microsoft PE
/// Format, optional header of PE32+).
fn is_signed(bytes: &[u8]) -> bool {
    let number =
        |at: usize| -> Option<u32> { Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)) };
    let size_of_table = || -> Option<u32> {
        let header = usize::try_from(number(0x3c)?).ok()?;
        let is_pe = bytes.get(header..)?.starts_with(b"PE\0\0");
        let table = header.checked_add(24 + 112 + 4 * 8 + 4)?;
        is_pe.then(|| number(table))?
    };
    size_of_table().is_some_and(|size| size > 0)
}

/// The only directory of `lib/modules`.
fn modules_dir(unpacked: &Path, deb: &Deb) -> Result<PathBuf> {
    for place in MODULES {
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
    use crate::inputs::packages;

    #[test]
    fn only_a_kernel_for_a_pc_is_taken_and_a_signature_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |bytes: &[u8]| {
            fs::write(file.path(), bytes).unwrap();
            read(file.path(), &Progress::new(true))
        };
        let text = "a text, and long enough ".repeat(100);
        assert!(
            read(text.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("bzImage")
        );
        assert!(read(b"short").is_err());
        let mut kernel = vec![0_u8; 4096];
        kernel[MARK_AT..MARK_AT + MARK.len()].copy_from_slice(MARK);
        assert_eq!(read(&kernel).unwrap(), kernel);
        assert!(!is_signed(&kernel));
        kernel[0x3c] = 0x80;
        kernel[0x80..0x84].copy_from_slice(b"PE\0\0");
        assert!(!is_signed(&kernel));
        // The size of the table of certificates, as objdump shows it for Debian's kernel.
        kernel[0x80 + 24 + 112 + 36] = 1;
        assert!(is_signed(&kernel));
        kernel[0x3c..0x40].fill(0xff);
        assert!(!is_signed(&kernel));
    }

    #[test]
    fn a_link_in_a_kernel_package_brings_no_file_of_this_machine_in() {
        let temp = tempfile::tempdir().unwrap();
        let deb = packages::tests::package(temp.path(), |root| {
            let modules = root.join("usr/lib/modules/6.12.0-x");
            fs::create_dir_all(&modules).unwrap();
            fs::create_dir_all(root.join("boot")).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", root.join("boot/vmlinuz-6.12.0-x"))
                .unwrap();
        });
        let (_, vmlinuz, _) =
            unpack(&Source::Package(deb), temp.path(), &Progress::new(true)).unwrap();
        assert!(!vmlinuz.exists());
    }

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
