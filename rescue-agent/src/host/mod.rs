//! This machine: its PCI functions, its disks and the path between them, what the system says of itself.
//!
//! Everything comes from sysfs, whose place is a parameter, so that a folder can stand for a
//! machine; and all of it can be saved to a file and read back, so that a repair can be planned
//! elsewhere.
//!
//! Not for: loading drivers or waiting for disks, which is [`crate::init`]'s.
//!
//! Source: the Linux kernel's `Documentation/ABI/testing/sysfs-*` and
//! `Documentation/admin-guide/sysfs-rules.rst`.

mod class;
mod names;
mod snapshot;
pub(crate) mod sysfs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use class::{PciClass, class_words};
pub use snapshot::{AssignError, SnapshotError};

use crate::config::pci::{PciAddress, VendorDevice};

/// A PCI function that is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// Where it sits.
    pub address: PciAddress,
    /// What it is.
    pub id: VendorDevice,
    /// What it is for.
    pub class: PciClass,
    /// The functions above it, from the root of the machine down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<PciAddress>,
    /// The kernel driver bound to it, if any.
    pub driver: Option<String>,
    /// Maker and model in words, where a `pci.ids` file was there to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl PciFunction {
    /// Every PCI function of the machine below `root`, without names, in order of their addresses.
    pub(crate) fn all(root: &Path) -> Vec<Self> {
        sysfs::functions(root).into_values().collect()
    }

    /// Whether Linux can show what is behind it: not without a driver, and not while it is handed
    /// to a virtual machine here.
    pub fn is_driven(&self) -> bool {
        !matches!(self.driver.as_deref(), None | Some("vfio-pci" | "pci-stub"))
    }
}

impl fmt::Display for PciFunction {
    /// Class, IDs and, if known, the name: `NVMe controller 144d:a80a (Samsung …)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.class, self.id)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// A disk of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskNode {
    /// Its device node, such as `/dev/sda`.
    pub node: PathBuf,
    /// Model, as the disk reports it.
    pub model: Option<String>,
    /// Serial number, as the disk reports it.
    pub serial: Option<String>,
    /// Its names that no other disk in the world has (WWN, NGUID, UUID), as it reports them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub world_wide_ids: Vec<String>,
    /// Size in bytes.
    pub size: u64,
    /// Whether its medium can be taken out while it runs.
    pub removable: bool,
    /// The PCI functions between the root of the machine and the disk: bridges first, the
    /// controller last. More than one controller where a disk is reached over several paths.
    pub pci_paths: Vec<Vec<PciAddress>>,
    /// The image or disk that stands for it here, where the machine itself is elsewhere.
    #[serde(skip)]
    pub image: Option<PathBuf>,
}

impl DiskNode {
    /// Its short name, such as `sda`.
    pub fn name(&self) -> String {
        self.node
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Whether it reports of itself what another one reports: then both may be paths to one disk. Where
    /// neither has a world-wide name, model and serial number count.
    pub fn has_identity_of(&self, other: &Self) -> bool {
        let contradicts = |one: &Option<String>, other: &Option<String>| {
            one.as_ref()
                .zip(other.as_ref())
                .is_some_and(|(a, b)| a != b)
        };
        if self.size != other.size || contradicts(&self.serial, &other.serial) {
            return false;
        }
        match self.world_wide_ids.is_empty() && other.world_wide_ids.is_empty() {
            false => self.world_wide_ids == other.world_wide_ids,
            true => {
                let known = self.serial.as_deref().is_some_and(is_name) && self.model.is_some();
                known && (&self.serial, &self.model) == (&other.serial, &other.model)
            }
        }
    }

    /// The functions that drive it, the last of each path.
    pub fn controllers(&self) -> impl Iterator<Item = PciAddress> + '_ {
        self.pci_paths
            .iter()
            .filter_map(|path| path.last().copied())
    }
}

/// What the firmware says of the machine (DMI).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemInfo {
    /// Maker of the system.
    pub vendor: Option<String>,
    /// Product name.
    pub model: Option<String>,
    /// Serial number of the chassis.
    pub serial: Option<String>,
    /// The system's UUID.
    pub uuid: Option<String>,
    /// Serial number of the board, where the chassis may have none of its own.
    #[serde(default)]
    pub board_serial: Option<String>,
}

impl fmt::Display for SystemInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [&self.vendor, &self.model].into_iter().flatten();
        let name = known.map(String::as_str).collect::<Vec<_>>().join(" ");
        f.write_str(if name.is_empty() {
            "unknown machine"
        } else {
            &name
        })?;
        match &self.serial {
            Some(serial) => write!(f, ", serial {serial}"),
            None => Ok(()),
        }
    }
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What it says it is.
    pub name_plate: SystemInfo,
    /// Its PCI functions, by address.
    #[serde(with = "functions_as_list")]
    pub pci: BTreeMap<PciAddress, PciFunction>,
    /// Its disks, in the order of their names.
    pub disks: Vec<DiskNode>,
    /// Whether it is another machine than the one this program runs on: then device nodes of the
    /// same name are other disks, and only images stand for its own.
    #[serde(skip)]
    pub elsewhere: bool,
}

impl Host {
    /// Reads the machine below `root` (`/` for this one).
    ///
    /// What sysfs does not tell is left out: a machine without PCI is a machine with no functions.
    pub fn read(root: &Path) -> Self {
        sysfs::read(root)
    }

    /// The disk whose device node is `path`, or, of a machine elsewhere, that the image `path`
    /// stands for.
    pub fn disk(&self, path: &Path) -> Option<&DiskNode> {
        self.disks.iter().find(|disk| match self.elsewhere {
            true => disk.image.as_deref() == Some(path),
            false => disk.node == path,
        })
    }

    /// The function at an address.
    pub fn function(&self, address: PciAddress) -> Option<&PciFunction> {
        self.pci.get(&address)
    }

    /// Whether a disk can be taken out while the machine runs: a stick, a card, anything on USB.
    pub fn is_removable(&self, disk: &DiskNode) -> bool {
        let mut controllers = disk.controllers().filter_map(|at| self.function(at));
        disk.removable || controllers.any(|one| one.class.is_usb() || one.class.is("sdhost"))
    }

    /// The classes of a disk's controllers, without their programming interfaces.
    pub fn kinds_of_controllers(&self, disk: &DiskNode) -> BTreeSet<u32> {
        let functions = disk.controllers().filter_map(|at| self.function(at));
        functions.map(|function| function.class.0 >> 8).collect()
    }

    /// Everything a disk's controller shares its fate with: the controller, its sibling functions
    /// in the same slot, and every bridge above. ESXi gives functions that reset together one
    /// owner, and marked the bridge instead of the card in older versions.
    pub fn on_path_of(&self, disk: &DiskNode) -> BTreeSet<PciAddress> {
        let mut path: BTreeSet<PciAddress> = disk.pci_paths.iter().flatten().copied().collect();
        for controller in disk.controllers() {
            path.extend(
                self.pci
                    .keys()
                    .filter(|address| same_slot(**address, controller)),
            );
        }
        path
    }
}

/// Whether a name can name anything: one of zeros, or of any other character alone, is none.
fn is_name(text: &str) -> bool {
    let mut characters = text.chars().filter(char::is_ascii_alphanumeric);
    let first = characters.next();
    characters.any(|other| Some(other) != first)
}

fn same_slot(a: PciAddress, b: PciAddress) -> bool {
    (a.segment, a.bus, a.slot) == (b.segment, b.bus, b.slot)
}

mod functions_as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{PciAddress, PciFunction};

    type Functions = BTreeMap<PciAddress, PciFunction>;

    pub fn serialize<S: Serializer>(functions: &Functions, to: S) -> Result<S::Ok, S::Error> {
        functions.values().collect::<Vec<_>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Functions, D::Error> {
        let functions = Vec::<PciFunction>::deserialize(from)?;
        Ok(functions
            .into_iter()
            .map(|function| (function.address, function))
            .collect())
    }
}
