//! What takes long to make is made once and kept in the cache: the kernel as the image needs it (`vmlinuz`, the driver
//! table and the packed modules), once per kernel package; and the packed agent, once per agent.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::dictionary;
use crate::inputs::drivers::{self, DriverTable, ModuleTree};
use crate::inputs::kernel::{self, Source};
use crate::inputs::network;
use crate::parts::initramfs;
use crate::parts::store::Store;
use crate::progress::Progress;

/// What shapes the packed parts beside the kernel package and the agent themselves: this very code, and the libraries that
/// compress.
const PACKING: &[&str] = &[
    include_str!("../../../Cargo.lock"),
    include_str!("../inputs/dictionary.rs"),
    include_str!("../inputs/drivers.rs"),
    include_str!("initramfs.rs"),
    include_str!("../inputs/kernel.rs"),
    include_str!("prepared.rs"),
    include_str!("store.rs"),
    include_str!("../inputs/modinfo.rs"),
    include_str!("../inputs/network.rs"),
];

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
            .prefix(UNPACKING)
            .tempdir_in(cache)
            .map_err(Error::io("create a directory in", cache))?;
        let store = Store::open(&cache.join("modules"))?;
        let made = make(source, &store, temp.path(), mtime, progress)?;
        store.tidy()?;
        remove_all(cache, "kernel-")?;
        fs::rename(&made, &dir).map_err(Error::io("create", &dir))?;
    }
    load(&dir)
}

/// The initramfs part with the agent, packed or from the cache. The cache keeps one.
pub fn agent_part(agent: &[u8], cache: &Path, mtime: u32, progress: &Progress) -> Result<Vec<u8>> {
    let key = format!("{}\n{mtime}\n{}", hash::sha256(agent), PACKING.concat());
    let path = cache.join(format!("{AGENT}{}", &hash::sha256(key.as_bytes())[..16]));
    if let Some(known) = fs::read(&path)
        .ok()
        .filter(|known| initramfs::is_agent_part(known, agent, mtime))
    {
        return Ok(known);
    }
    progress.step("packing the agent");
    let part = initramfs::agent_part(agent, mtime)?;
    remove_all(cache, AGENT)?;
    fs::write(&path, &part).map_err(Error::io("write", &path))?;
    Ok(part)
}

/// Start of the name of the packed agent. One that is cut short is packed again.
const AGENT: &str = "agent-";

/// Start of the names of folders in which packages are unpacked.
const UNPACKING: &str = "unpack-";

/// Removes what builds left behind that were killed. The cache is locked.
pub fn tidy(cache: &Path) -> Result<()> {
    remove_all(cache, UNPACKING)
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

fn make(
    source: &Source,
    store: &Store,
    temp: &Path,
    mtime: u32,
    progress: &Progress,
) -> Result<PathBuf> {
    let (modules, vmlinuz, config) = kernel::unpack(source, temp, progress)?;
    match config {
        Some(config) => initramfs::check_kernel_config(&config)?,
        None => progress.step("no configuration of the kernel found; it must have BLK_DEV_INITRD, RD_ZSTD and DEVTMPFS"),
    }
    progress.step("reading the aliases and dependencies of all kernel modules");
    let tree = ModuleTree::scan(&modules)?;
    let base = tree.select(drivers::BASE)?;
    let network = network::select(&tree, &base.drivers)?;
    progress.step("making a compression dictionary for the drivers");
    let dictionary = dictionary::train(&base.files)?;
    let total = base.files.len() + network.files.len();
    let bar = progress.bar(&format!("compressing {total} drivers"), total);
    let tick = || bar.tick();
    let drivers = initramfs::drivers_part(&base, &dictionary, store, mtime, &tick)?;
    let table = to_json(&tree.table(base.drivers))?;
    let mut network_drivers = initramfs::drivers_part(&network, &dictionary, store, mtime, &tick)?;
    bar.finish();
    let network_table = to_json(&tree.further_table(network.drivers))?;
    let mut network_part = initramfs::network_table_part(&network_table, mtime)?;
    network_part.append(&mut network_drivers);
    let vmlinuz = kernel::read(&vmlinuz, progress)?;
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

/// Removes the files and folders whose names begin so.
fn remove_all(cache: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(cache).map_err(Error::io("list", cache))? {
        let entry = entry.map_err(Error::io("list", cache))?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let path = entry.path();
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}
