//! Which kernel modules an image carries, and the table by which PID 1 loads them.
//!
//! The selection is by directory of the kernel's source tree, on purpose complete: a rescue image fails most often
//! for want of one driver, and all storage drivers together are 7 MB compressed. The closure adds whatever those
//! modules need. Not here: loading, which the agent does from [`DriverTable`] alone, without kmod.
//! Source of the facts: the modules' own `.modinfo`; `modules.builtin` of the package.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rescue_agent::driver_table::SCHEMA;
pub use rescue_agent::driver_table::{Class, DriverTable, Module as Driver};
use rescue_agent::{files, parallel};

use crate::error::{Error, Result};
use crate::inputs::modinfo::{self, ModInfo};

/// No kernel module comes near this size when decompressed; it bounds memory against a damaged file.
const MAX_MODULE_BYTES: u64 = 256 << 20;
/// A list of modules is a hundredth of this.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// One wanted part of the kernel tree: every module whose path (below `kernel/`, without extension) starts so.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    prefix: &'static str,
    class: Class,
}

/// Modules whose path starts so are for this.
pub(crate) const fn wanted(prefix: &'static str, class: Class) -> Wanted {
    Wanted { prefix, class }
}

/// The base set: whatever can hold an ESXi boot disk or the rescue medium, and whatever a keyboard needs.
///
/// `hid-generic` serves every keyboard but those that Linux drivers/hid/hid-quirks.c reserves for a driver of their
/// own; these are listed one by one, since most of the directory is game pads and sensors.
pub const BASE: &[Wanted] = &[
    wanted("drivers/scsi/", Class::Storage),
    wanted("drivers/ata/", Class::Storage),
    wanted("drivers/nvme/", Class::Storage),
    wanted("drivers/message/", Class::Storage),
    wanted("drivers/mmc/", Class::Storage),
    wanted("drivers/misc/cardreader/", Class::Storage),
    wanted("drivers/pci/controller/", Class::Storage),
    wanted("drivers/block/virtio_blk", Class::Storage),
    wanted("drivers/block/mtip32xx/", Class::Storage),
    wanted("drivers/block/loop", Class::Storage),
    wanted("drivers/cdrom/", Class::Storage),
    wanted("drivers/virtio/virtio_pci", Class::Core),
    wanted("drivers/virtio/virtio_input", Class::Hid),
    wanted("drivers/usb/storage/", Class::Storage),
    wanted("drivers/usb/host/", Class::Usb),
    wanted("drivers/usb/core/", Class::Usb),
    wanted("drivers/usb/common/", Class::Usb),
    wanted("drivers/hid/usbhid/usbhid", Class::Hid),
    wanted("drivers/hid/hid-generic", Class::Hid),
    wanted("drivers/hid/hid-a4tech", Class::Hid),
    wanted("drivers/hid/hid-apple", Class::Hid),
    wanted("drivers/hid/hid-belkin", Class::Hid),
    wanted("drivers/hid/hid-cherry", Class::Hid),
    wanted("drivers/hid/hid-chicony", Class::Hid),
    wanted("drivers/hid/hid-corsair", Class::Hid),
    wanted("drivers/hid/hid-cypress", Class::Hid),
    wanted("drivers/hid/hid-ezkey", Class::Hid),
    wanted("drivers/hid/hid-gyration", Class::Hid),
    wanted("drivers/hid/hid-holtek-kbd", Class::Hid),
    wanted("drivers/hid/hid-ite", Class::Hid),
    wanted("drivers/hid/hid-kensington", Class::Hid),
    wanted("drivers/hid/hid-keytouch", Class::Hid),
    wanted("drivers/hid/hid-kye", Class::Hid),
    wanted("drivers/hid/hid-lenovo", Class::Hid),
    wanted("drivers/hid/hid-logitech", Class::Hid),
    wanted("drivers/hid/hid-microsoft", Class::Hid),
    wanted("drivers/hid/hid-monterey", Class::Hid),
    wanted("drivers/hid/hid-ortek", Class::Hid),
    wanted("drivers/hid/hid-petalynx", Class::Hid),
    wanted("drivers/hid/hid-primax", Class::Hid),
    wanted("drivers/hid/hid-roccat-common", Class::Hid),
    wanted("drivers/hid/hid-samsung", Class::Hid),
    wanted("drivers/hid/hid-semitek", Class::Hid),
    wanted("drivers/hid/hid-sunplus", Class::Hid),
    wanted("drivers/hid/hid-topseed", Class::Hid),
    wanted("drivers/hid/hid-zydacron", Class::Hid),
    wanted("fs/fat/", Class::Fs),
    wanted("fs/isofs/", Class::Fs),
    wanted("fs/efivarfs/", Class::Fs),
    wanted("fs/nls/nls_cp437", Class::Fs),
    wanted("fs/nls/nls_ascii", Class::Fs),
    wanted("fs/nls/nls_iso8859-1", Class::Fs),
    wanted("fs/nls/nls_utf8", Class::Fs),
];

/// Modules under the wanted places that drive no storage of this machine, by the same rule.
pub const LEFT_OUT: &[&str] = &[
    // Offer this machine's disks to others.
    "drivers/nvme/target/",
    "drivers/scsi/qla2xxx/tcm_qla2xxx",
    // Disks over the network, which this image does not connect. The first depends on all of InfiniBand.
    "drivers/nvme/host/nvme-rdma",
    "drivers/nvme/host/nvme-tcp",
    // A disk that exists in memory only.
    "drivers/scsi/scsi_debug",
];

/// A module of the kernel package.
#[derive(Debug)]
struct Module {
    /// Path below `kernel/` without its extensions, for instance `drivers/ata/ahci`.
    place: String,
    path: PathBuf,
    info: ModInfo,
}

/// All modules of an unpacked kernel package, with what they declare.
#[derive(Debug)]
pub struct ModuleTree {
    abi: String,
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
}

/// The modules chosen for one initramfs part: the table's rows, and where each file comes from.
#[derive(Debug)]
pub struct Selection {
    /// Rows of the table, sorted by name.
    pub drivers: Vec<Driver>,
    /// Source file of each row, in the same order.
    pub files: Vec<PathBuf>,
}

impl ModuleTree {
    /// Reads `…/lib/modules/<abi>`; `dir` is that directory.
    pub fn scan(dir: &Path) -> Result<Self> {
        let abi = dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let root = dir.join("kernel");
        let modules = on_all(&module_files(&root)?, |path| {
            read_module(&root, path.clone())
        })?;
        let modules: BTreeMap<String, Module> = modules
            .into_iter()
            .map(|module| (module.info.name.clone(), module))
            .collect();
        if modules.is_empty() {
            return Err(Error::input(
                dir,
                "no kernel modules below kernel/; is this …/lib/modules/<version>?",
            ));
        }
        let builtin_list = read_text(&dir.join("modules.builtin"))?;
        let builtin = builtin_list.lines().filter_map(builtin_name).collect();
        Ok(Self {
            abi,
            modules,
            builtin,
        })
    }

    /// Every module under the wanted places and whatever they need.
    pub fn select(&self, wanted: &[Wanted]) -> Result<Selection> {
        let mut by_alias: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, module) in &self.modules {
            for alias in &module.info.aliases {
                by_alias.entry(alias).or_default().push(name);
            }
        }
        let mut queue: VecDeque<&str> = self
            .modules
            .values()
            .filter(|module| class_of(&module.place, wanted).is_some())
            .map(|module| module.info.name.as_str())
            .collect();
        let mut chosen: BTreeMap<&str, Driver> = BTreeMap::new();
        while let Some(name) = queue.pop_front() {
            if chosen.contains_key(name) {
                continue;
            }
            let module = &self.modules[name];
            let depends = self.hard_dependencies(module)?;
            let pre = self.soft_dependencies(module, &by_alias);
            queue.extend(depends.iter().chain(&pre));
            chosen.insert(name, driver_row(module, wanted, &depends, &pre));
        }
        let files = chosen
            .keys()
            .map(|name| self.modules[*name].path.clone())
            .collect();
        Ok(Selection {
            drivers: chosen.into_values().collect(),
            files,
        })
    }

    /// The table for modules that add to those of another table.
    #[must_use]
    pub fn further_table(&self, drivers: Vec<Driver>) -> DriverTable {
        DriverTable {
            schema: SCHEMA.to_owned(),
            kernel: self.abi.clone(),
            modules: drivers,
            builtin: Vec::new(),
        }
    }

    /// The table for the chosen modules.
    #[must_use]
    pub fn table(&self, drivers: Vec<Driver>) -> DriverTable {
        DriverTable {
            schema: SCHEMA.to_owned(),
            kernel: self.abi.clone(),
            modules: drivers,
            builtin: self.builtin.iter().cloned().collect(),
        }
    }

    fn hard_dependencies<'t>(&'t self, module: &'t Module) -> Result<Vec<&'t str>> {
        let mut names = Vec::new();
        for name in &module.info.depends {
            if self.modules.contains_key(name) {
                names.push(name.as_str());
            } else if !self.builtin.contains(name) {
                return Err(Error::Module {
                    path: module.path.clone(),
                    problem: format!(
                        "needs the module {name}, which the kernel package does not contain"
                    ),
                });
            }
        }
        Ok(names)
    }

    /// Soft dependencies may name a module or an alias (`crypto-crc32c`), and may name what does not exist.
    fn soft_dependencies<'t>(
        &'t self,
        module: &'t Module,
        by_alias: &BTreeMap<&'t str, Vec<&'t str>>,
    ) -> Vec<&'t str> {
        let mut names = BTreeSet::new();
        for wanted in &module.info.soft_pre {
            let name = modinfo::normalise(wanted);
            match self.modules.get_key_value(&name) {
                Some((name, _)) => _ = names.insert(name.as_str()),
                None => names.extend(by_alias.get(wanted.as_str()).into_iter().flatten()),
            }
        }
        names.remove(module.info.name.as_str());
        names.into_iter().collect()
    }
}

fn driver_row(module: &Module, wanted: &[Wanted], depends: &[&str], pre: &[&str]) -> Driver {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Driver {
        name: module.info.name.clone(),
        file: format!("{}.ko.zst", module.info.name),
        depends: owned(depends),
        pre: owned(pre),
        aliases: module.info.aliases.clone(),
        class: class_of(&module.place, wanted).unwrap_or(Class::Core),
        firmware: module.info.firmware.clone(),
    }
}

fn class_of(place: &str, wanted: &[Wanted]) -> Option<Class> {
    if LEFT_OUT.iter().any(|prefix| place.starts_with(prefix)) {
        return None;
    }
    wanted
        .iter()
        .find(|one| place.starts_with(one.prefix))
        .map(|one| one.class)
}

/// The module's name from a line of `modules.builtin`, such as `kernel/drivers/usb/core/usb-common.ko`.
fn builtin_name(line: &str) -> Option<String> {
    let file = line.trim().rsplit('/').next()?;
    Some(modinfo::normalise(file.strip_suffix(".ko")?))
}

fn module_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files_below(root)?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        module_stem(&name.to_string_lossy()).is_some()
    });
    Ok(files)
}

/// Every file below a directory, sorted; links are not followed.
pub fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let entry = entry.map_err(Error::io("list", &dir))?;
            let kind = entry
                .file_type()
                .map_err(Error::io("inspect", &entry.path()))?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `ahci` for `ahci.ko`, `ahci.ko.xz` and `ahci.ko.zst`; nothing for other files.
fn module_stem(file: &str) -> Option<&str> {
    [".ko", ".ko.xz", ".ko.zst"]
        .iter()
        .find_map(|extension| file.strip_suffix(extension))
}

fn read_module(root: &Path, path: PathBuf) -> Result<Module> {
    let bytes = read_module_bytes(&path)?;
    let mut info = modinfo::parse_module(&bytes).map_err(|error| Error::Module {
        path: path.clone(),
        problem: error.to_string(),
    })?;
    let below = path
        .strip_prefix(root)
        .unwrap_or(&path)
        .to_string_lossy()
        .into_owned();
    let place = module_stem(&below).unwrap_or(&below).to_owned();
    if info.name.is_empty() {
        info.name = modinfo::normalise(place.rsplit('/').next().unwrap_or(&place));
    }
    Ok(Module { place, path, info })
}

/// Does the same with every module, on all processors. The results are in the order of the files.
pub fn on_all<R: Send>(
    files: &[PathBuf],
    work: impl Fn(&PathBuf) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let results = parallel::map(files.iter().collect(), parallel::computing(), work);
    let panicked = |path: &Path| Error::Module {
        path: path.to_owned(),
        problem: "this program failed on it; please report this".to_owned(),
    };
    files
        .iter()
        .zip(results)
        .map(|(path, result)| result.unwrap_or_else(|| Err(panicked(path))))
        .collect()
}

/// The module as the kernel wants it: decompressed, every byte kept, so that its signature stays valid.
pub fn read_module_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = files::open_file(path).map_err(Error::io("read", path))?;
    let reader: Box<dyn Read> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file).map_err(Error::io("decompress", path))?),
        _ => Box::new(file),
    };
    let mut bytes = Vec::new();
    let count = reader
        .take(MAX_MODULE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("decompress", path))?;
    if count as u64 > MAX_MODULE_BYTES {
        return Err(Error::input(
            path,
            format!("more than {MAX_MODULE_BYTES} bytes, which no kernel module has"),
        ));
    }
    Ok(bytes)
}

fn read_text(path: &Path) -> Result<String> {
    files::read_whole(path, MAX_TEXT_BYTES)
        .and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
        .map_err(Error::io("read", path))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inputs::modinfo::tests::elf_with;

    const TEST_WANTED: &[Wanted] = &[
        wanted("drivers/ata/", Class::Storage),
        wanted("drivers/hid/hid", Class::Hid),
    ];

    /// A tree of made-up modules: place and records, separated by `|`.
    pub(crate) fn tree(modules: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("6.1.0-99-amd64");
        fs::create_dir_all(dir.join("kernel")).unwrap();
        for (place, info) in modules {
            let path = dir.join("kernel").join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let elf = elf_with(".modinfo", info.replace('|', "\0").as_bytes());
            let bytes = match path.extension().unwrap().to_str().unwrap() {
                "zst" => zstd::encode_all(elf.as_slice(), 1).unwrap(),
                "xz" => {
                    let mut out = Vec::new();
                    liblzma::read::XzEncoder::new(elf.as_slice(), 1)
                        .read_to_end(&mut out)
                        .unwrap();
                    out
                }
                _ => elf,
            };
            fs::write(path, bytes).unwrap();
        }
        fs::write(
            dir.join("modules.builtin"),
            "kernel/lib/crc-core.ko\nkernel/drivers/input/serio/i8042.ko\n",
        )
        .unwrap();
        (temp, dir)
    }

    fn names(selection: &Selection) -> Vec<&str> {
        selection
            .drivers
            .iter()
            .map(|driver| driver.name.as_str())
            .collect()
    }

    #[test]
    fn the_closure_follows_hard_and_soft_dependencies_and_no_more() {
        let (_temp, dir) = tree(&[
            (
                "drivers/ata/ahci.ko",
                "name=ahci|depends=libahci,crc-core|alias=pci:v*",
            ),
            ("drivers/ata/libahci.ko.xz", "name=libahci|depends=libata"),
            (
                "drivers/ata/libata.ko.zst",
                "name=libata|depends=|softdep=pre: crypto-crc32c nothing-here",
            ),
            (
                "crypto/crc32c_generic.ko",
                "name=crc32c_generic|alias=crypto-crc32c",
            ),
            ("arch/x86/crypto/crc32c-intel.ko", "alias=crypto-crc32c"),
            ("drivers/gpu/big.ko", "name=big"),
            ("drivers/hid/wacom.ko", "name=wacom"),
        ]);
        let tree = ModuleTree::scan(&dir).unwrap();
        let selection = tree.select(TEST_WANTED).unwrap();
        assert_eq!(
            names(&selection),
            [
                "ahci",
                "crc32c_generic",
                "crc32c_intel",
                "libahci",
                "libata"
            ]
        );
        let libata = &selection.drivers[4];
        assert_eq!(libata.pre, ["crc32c_generic", "crc32c_intel"]);
        assert_eq!(libata.class, Class::Storage);
        assert_eq!(
            selection.drivers[0].depends,
            ["libahci"],
            "crc-core is built in"
        );
        assert_eq!(selection.drivers[1].class, Class::Core);
        assert!(selection.files[2].ends_with("arch/x86/crypto/crc32c-intel.ko"));
    }

    #[test]
    fn the_table_carries_the_builtin_modules() {
        let (_temp, dir) = tree(&[("drivers/ata/ahci.ko", "name=ahci")]);
        let tree = ModuleTree::scan(&dir).unwrap();
        let table = tree.table(tree.select(TEST_WANTED).unwrap().drivers);
        assert_eq!(table.kernel, "6.1.0-99-amd64");
        assert_eq!(table.builtin, ["crc_core", "i8042"]);
        let json: serde_json::Value = serde_json::to_value(&table).unwrap();
        assert_eq!(json["modules"][0]["class"], "storage");
        assert_eq!(json["schema"], "esxi-rescue-drivers/1");
    }

    #[test]
    fn a_dependency_that_the_package_lacks_is_an_error_that_names_both() {
        let (_temp, dir) = tree(&[("drivers/ata/ahci.ko", "name=ahci|depends=gone")]);
        let error = ModuleTree::scan(&dir)
            .unwrap()
            .select(TEST_WANTED)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ahci.ko") && error.contains("gone"),
            "{error}"
        );
    }

    #[test]
    fn dependency_circles_end() {
        let (_temp, dir) = tree(&[
            ("drivers/ata/a.ko", "name=a|depends=b|softdep=pre: a"),
            ("drivers/x/b.ko", "name=b|depends=a"),
        ]);
        let selection = ModuleTree::scan(&dir).unwrap().select(TEST_WANTED).unwrap();
        assert_eq!(names(&selection), ["a", "b"]);
        assert!(selection.drivers[0].pre.is_empty());
    }

    #[test]
    fn a_damaged_module_is_named() {
        let (_temp, dir) = tree(&[("drivers/ata/a.ko", "name=a")]);
        fs::write(dir.join("kernel/drivers/ata/bad.ko.xz"), b"not xz").unwrap();
        let error = ModuleTree::scan(&dir).unwrap_err().to_string();
        assert!(error.contains("bad.ko.xz"), "{error}");
    }

    #[test]
    fn a_directory_without_modules_is_refused() {
        let (_temp, dir) = tree(&[]);
        assert!(
            ModuleTree::scan(&dir)
                .unwrap_err()
                .to_string()
                .contains("no kernel modules")
        );
    }
}
