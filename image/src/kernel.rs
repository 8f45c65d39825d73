//! The kernel as the image needs it: `vmlinuz`, the driver table and the packed modules, made once per kernel package
//! and kept in the cache, since packing the modules is the slowest step of a build.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dictionary;
use crate::drivers::{self, DriverTable, ModuleTree};
use crate::error::{Error, Result};
use crate::hash;
use crate::initramfs;
use crate::network;
use crate::packages::{Deb, Release};
use crate::progress::Progress;

/// What shapes the packed modules beside the kernel package itself: this very code, and the libraries that compress.
const PACKING: &[&str] = &[
    include_str!("../../Cargo.lock"),
    include_str!("dictionary.rs"),
    include_str!("drivers.rs"),
    include_str!("initramfs.rs"),
    include_str!("kernel.rs"),
    include_str!("modinfo.rs"),
    include_str!("network.rs"),
];

/// Which kernel to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The newest of Debian, of a certain suite if one is named.
    Debian(Option<String>),
    /// A `linux-image-*` package file.
    Package(PathBuf),
    /// An installed kernel.
    Installed {
        /// Its `/lib/modules/<version>`.
        modules: PathBuf,
        /// Its `vmlinuz`, if that does not lie beside the modules or in `/boot`.
        vmlinuz: Option<PathBuf>,
    },
}

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
                    "no kernel for these modules at {}; say --vmlinuz FILE",
                    tried.join(", ")
                ),
            )
        })
}

fn abi_of(modules: &Path) -> String {
    let name = modules.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A prepared kernel.
#[derive(Debug)]
pub struct Kernel {
    /// ABI name, as `uname -r` says it.
    pub abi: String,
    /// The signed kernel.
    pub vmlinuz: Vec<u8>,
    /// The driver table, JSON.
    pub driver_table: Vec<u8>,
    /// The initramfs part with the modules.
    pub drivers_part: Vec<u8>,
    /// How many modules it has.
    pub module_count: usize,
    /// What the modules of both parts are compressed with.
    pub dictionary: Vec<u8>,
    /// The initramfs part with the network drivers and their table.
    pub network_part: Vec<u8>,
    /// How many modules that has.
    pub network_module_count: usize,
}

/// Prepares a kernel, or takes the prepared one from the cache.
pub fn prepare(source: &Source, cache: &Path, mtime: u32, progress: &Progress) -> Result<Kernel> {
    let key = format!("{}\n{mtime}\n{}", source.digest(), PACKING.concat());
    let dir = cache.join(format!("kernel-{}", &hash::sha256(key.as_bytes())[..16]));
    if !dir.exists() {
        let temp = tempfile::Builder::new()
            .prefix("unpack-")
            .tempdir_in(cache)
            .map_err(Error::io("create a directory in", cache))?;
        let made = make(source, temp.path(), mtime, progress)?;
        remove_old(cache)?;
        fs::rename(&made, &dir).map_err(Error::io("create", &dir))?;
    }
    load(&dir)
}

fn load(dir: &Path) -> Result<Kernel> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map_err(Error::io("read", &path))
    };
    let table = |name: &str| -> Result<(Vec<u8>, DriverTable)> {
        let bytes = read(name)?;
        let table = serde_json::from_slice(&bytes).map_err(|error| {
            Error::input(
                &dir.join(name),
                format!("{error}; delete this directory and build again"),
            )
        })?;
        Ok((bytes, table))
    };
    let (driver_table, base) = table(TABLE)?;
    let (_, network) = table(NETWORK_TABLE)?;
    Ok(Kernel {
        abi: base.kernel,
        vmlinuz: read(VMLINUZ)?,
        drivers_part: read(DRIVERS)?,
        driver_table,
        module_count: base.modules.len(),
        dictionary: read(DICTIONARY)?,
        network_part: read(NETWORK_DRIVERS)?,
        network_module_count: network.modules.len(),
    })
}

/// Names of the prepared files.
const VMLINUZ: &str = "vmlinuz";
const TABLE: &str = "drivers.json";
const DRIVERS: &str = "drivers.cpio";
const DICTIONARY: &str = "dictionary";
const NETWORK_TABLE: &str = "drivers-net.json";
const NETWORK_DRIVERS: &str = "drivers-net.cpio";

/// The modules, the kernel and its configuration, if there is one, as files.
fn unpack(
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

fn make(source: &Source, temp: &Path, mtime: u32, progress: &Progress) -> Result<PathBuf> {
    let (modules, vmlinuz, config) = unpack(source, temp, progress)?;
    match config {
        Some(config) => initramfs::check_kernel_config(&config)?,
        None => progress.step("no configuration of the kernel found; it must have BLK_DEV_INITRD, RD_ZSTD and DEVTMPFS"),
    }
    progress.step("reading what each kernel module serves and needs");
    let tree = ModuleTree::scan(&modules)?;
    let base = tree.select(drivers::BASE)?;
    let network = network::select(&tree, &base.drivers)?;
    progress.step("learning what the drivers have in common");
    let dictionary = dictionary::train(&base.files)?;
    let total = base.files.len() + network.files.len();
    let bar = progress.bar(&format!("compressing {total} drivers"), total);
    let tick = || bar.tick();
    let drivers = initramfs::drivers_part(&base, &dictionary, mtime, &tick)?;
    let table = to_json(&tree.table(base.drivers))?;
    let mut network_drivers = initramfs::drivers_part(&network, &dictionary, mtime, &tick)?;
    bar.finish();
    let network_table = to_json(&tree.further_table(network.drivers))?;
    let mut network_part = initramfs::network_table_part(&network_table, mtime)?;
    network_part.append(&mut network_drivers);
    let vmlinuz = fs::read(&vmlinuz).map_err(Error::io("read", &vmlinuz))?;
    let made = temp.join("kernel");
    fs::create_dir(&made).map_err(Error::io("create", &made))?;
    for (name, bytes) in [
        (VMLINUZ, &vmlinuz),
        (TABLE, &table),
        (DRIVERS, &drivers),
        (DICTIONARY, &dictionary),
        (NETWORK_TABLE, &network_table),
        (NETWORK_DRIVERS, &network_part),
    ] {
        let path = made.join(name);
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    }
    Ok(made)
}

fn to_json(table: &DriverTable) -> Result<Vec<u8>> {
    serde_json::to_vec(table)
        .map_err(|error| Error::input(Path::new("the driver table"), error.to_string()))
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
        "no lib/modules in this package; it is no Debian kernel image",
    ))
}

fn remove_old(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache).map_err(Error::io("list", cache))? {
        let entry = entry.map_err(Error::io("list", cache))?;
        if entry.file_name().to_string_lossy().starts_with("kernel-") {
            fs::remove_dir_all(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::tests::tree;

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
