//! The kernel as the image needs it: `vmlinuz`, the driver table and the packed modules, made once per kernel package
//! and kept in the cache, since packing the modules is the slowest step of a build.

use std::fs;
use std::path::{Path, PathBuf};

use crate::drivers::{self, DriverTable, ModuleTree};
use crate::error::{Error, Result};
use crate::hash;
use crate::initramfs;
use crate::packages::Deb;
use crate::progress::Progress;

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
}

/// Prepares the kernel of a `linux-image-*` package, or takes the prepared one from the cache. `builder` is the digest of
/// this program: another builder may choose or pack differently.
pub fn prepare(
    deb: &Deb,
    cache: &Path,
    builder: &str,
    mtime: u32,
    progress: &Progress,
) -> Result<Kernel> {
    let key = hash::sha256(format!("{}\n{builder}\n{mtime}", deb.release.sha256).as_bytes());
    let dir = cache.join(format!("kernel-{}", &key[..16]));
    if !dir.exists() {
        let temp = tempfile::Builder::new()
            .prefix("unpack-")
            .tempdir_in(cache)
            .map_err(Error::io("create a directory in", cache))?;
        let made = make(deb, temp.path(), mtime, progress)?;
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
    let driver_table = read("drivers.json")?;
    let table: DriverTable = serde_json::from_slice(&driver_table).map_err(|error| {
        Error::input(
            &dir.join("drivers.json"),
            format!("{error}; delete this directory and build again"),
        )
    })?;
    Ok(Kernel {
        abi: table.kernel,
        vmlinuz: read("vmlinuz")?,
        drivers_part: read("drivers.cpio")?,
        driver_table,
        module_count: table.modules.len(),
    })
}

fn make(deb: &Deb, temp: &Path, mtime: u32, progress: &Progress) -> Result<PathBuf> {
    progress.step(&format!(
        "unpacking {} {}",
        deb.release.package, deb.release.version
    ));
    let unpacked = temp.join("package");
    deb.unpack(&unpacked)?;
    let modules = modules_dir(&unpacked, deb)?;
    progress.step("reading what each kernel module serves and needs");
    let tree = ModuleTree::scan(&modules)?;
    initramfs::check_kernel_config(&unpacked.join("boot").join(format!("config-{}", tree.abi())))?;
    let mut selection = tree.select(drivers::BASE)?;
    let bar = progress.bar(
        &format!("compressing {} drivers", selection.files.len()),
        selection.files.len(),
    );
    let part = initramfs::drivers_part(&selection, mtime, &|| bar.tick())?;
    bar.finish();
    let table = tree.table(std::mem::take(&mut selection.drivers));
    let made = temp.join("kernel");
    fs::create_dir(&made).map_err(Error::io("create", &made))?;
    let json =
        serde_json::to_vec(&table).map_err(|error| Error::input(&made, error.to_string()))?;
    let vmlinuz = unpacked
        .join("boot")
        .join(format!("vmlinuz-{}", tree.abi()));
    let vmlinuz = fs::read(&vmlinuz).map_err(Error::io("read", &vmlinuz))?;
    for (name, bytes) in [
        ("vmlinuz", &vmlinuz),
        ("drivers.json", &json),
        ("drivers.cpio", &part),
    ] {
        let path = made.join(name);
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    }
    Ok(made)
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
