//! What the kernel says about the hardware, as far as drivers and waiting need it: read from a
//! folder that looks like `/sys`.
//!
//! Out of scope: which PCI functions lead to which disk.
//!
//! Fields: Linux `Documentation/ABI/testing/sysfs-bus-pci` and `sysfs-bus-usb`; class codes: PCI
//! Code and ID Assignment Specification and USB Defined Class Codes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::host::PciClass;

/// The USB class of storage interfaces, as sysfs writes it.
const USB_STORAGE: &str = "08";

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PciFunction {
    /// Its address, e.g. `0000:00:1f.2`.
    pub address: String,
    /// The vendor's number.
    pub vendor: u16,
    /// The device's number.
    pub device: u16,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// The driver that runs it, if any.
    pub driver: Option<String>,
    /// What it asks for drivers by.
    #[serde(skip)]
    pub modalias: String,
}

impl PciFunction {
    /// Whether disks, or what disks hang on, are behind it: controllers of storage, USB, SD cards
    /// and Fibre Channel.
    #[must_use]
    pub fn leads_to_disks(&self) -> bool {
        PciClass(self.class).drives_storage()
    }

    /// Whether it is a USB host controller.
    #[must_use]
    pub fn is_usb_host(&self) -> bool {
        PciClass(self.class).is_usb_host()
    }
}

/// The entries of a folder, sorted; none if it does not exist.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// An attribute without the line end; none if it does not exist (devices come and go).
fn attribute(device: &Path, name: &str) -> Option<String> {
    let bytes = fs::read(device.join(name)).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn hexadecimal(device: &Path, name: &str) -> Option<u32> {
    let text = attribute(device, name)?;
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The `modalias` of every device on every bus, each once. By bus rather than by walking all of
/// `/sys/devices`, because only buses match devices with drivers, and it reads far fewer folders.
#[must_use]
pub fn modaliases(root: &Path) -> BTreeSet<String> {
    entries(&root.join("sys/bus"))
        .iter()
        .flat_map(|bus| entries(&bus.join("devices")))
        .filter_map(|device| attribute(&device, "modalias"))
        .filter(|modalias| !modalias.is_empty())
        .collect()
}

/// Every PCI function of the machine.
#[must_use]
pub fn pci_functions(root: &Path) -> Vec<PciFunction> {
    let devices = entries(&root.join("sys/bus/pci/devices"));
    devices
        .iter()
        .filter_map(|device| pci_function(device))
        .collect()
}

fn pci_function(device: &Path) -> Option<PciFunction> {
    Some(PciFunction {
        address: name_of(device),
        vendor: u16::try_from(hexadecimal(device, "vendor")?).ok()?,
        device: u16::try_from(hexadecimal(device, "device")?).ok()?,
        class: hexadecimal(device, "class")?,
        driver: driver(device),
        modalias: attribute(device, "modalias").unwrap_or_default(),
    })
}

fn driver(device: &Path) -> Option<String> {
    let target = fs::read_link(device.join("driver")).ok()?;
    Some(name_of(&target))
}

/// The names of all disks (also CDs), e.g. `sda`; not what the kernel makes up itself, such as
/// loop devices.
#[must_use]
pub fn disks(root: &Path) -> BTreeSet<String> {
    let blocks = entries(&root.join("sys/block"));
    let real = blocks.iter().filter(|block| block.join("device").exists());
    real.map(|block| name_of(block)).collect()
}

/// USB storage interfaces that have a driver but no disk yet, e.g. `1-1:1.0`.
#[must_use]
pub fn usb_storage_without_disk(root: &Path) -> Vec<String> {
    let interfaces: Vec<PathBuf> = entries(&root.join("sys/bus/usb/devices"))
        .into_iter()
        .filter(|device| attribute(device, "bInterfaceClass").as_deref() == Some(USB_STORAGE))
        .filter(|device| driver(device).is_some())
        .collect();
    if interfaces.is_empty() {
        return Vec::new();
    }
    let disks: Vec<PathBuf> = entries(&root.join("sys/block"))
        .iter()
        .filter_map(|block| block.canonicalize().ok())
        .collect();
    let bare = interfaces
        .iter()
        .filter(|interface| match interface.canonicalize() {
            Ok(path) => !disks.iter().any(|disk| disk.starts_with(&path)),
            Err(_) => false,
        });
    bare.map(|interface| name_of(interface)).collect()
}

/// Whether the machine has a bus whose driver finds out by and by what is there: USB, memory
/// cards, SAS, Fibre Channel.
#[must_use]
pub fn has_slow_bus(root: &Path) -> bool {
    [
        "bus/usb/devices",
        "class/mmc_host",
        "class/sas_host",
        "class/fc_host",
    ]
    .iter()
    .any(|folder| !entries(&root.join("sys").join(folder)).is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder that looks like a machine.
    pub struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        pub fn new() -> Machine {
            Machine {
                folder: tempfile::tempdir().unwrap(),
            }
        }

        pub fn root(&self) -> &Path {
            self.folder.path()
        }

        /// A device at `sys/devices/PATH` on a bus, with attributes.
        pub fn device(&self, bus: &str, path: &str, attributes: &[(&str, &str)]) {
            let device = self.root().join("sys/devices").join(path);
            fs::create_dir_all(&device).unwrap();
            for (name, value) in attributes {
                fs::write(device.join(name), format!("{value}\n")).unwrap();
            }
            let list = self.root().join("sys/bus").join(bus).join("devices");
            fs::create_dir_all(&list).unwrap();
            symlink(&device, list.join(device.file_name().unwrap())).unwrap();
        }

        pub fn bind(&self, path: &str, driver: &str) {
            let device = self.root().join("sys/devices").join(path);
            symlink(
                format!("../../bus/x/drivers/{driver}"),
                device.join("driver"),
            )
            .unwrap();
        }

        pub fn block(&self, path: &str, name: &str) {
            let device = self.root().join("sys/devices").join(path);
            let block = device.join("block").join(name);
            fs::create_dir_all(&block).unwrap();
            symlink(&device, block.join("device")).unwrap();
            let list = self.root().join("sys/block");
            fs::create_dir_all(&list).unwrap();
            symlink(&block, list.join(name)).unwrap();
        }

        pub fn pci(&self, address: &str, ids: (&str, &str), class: &str, modalias: &str) {
            let attributes = [
                ("vendor", ids.0),
                ("device", ids.1),
                ("class", class),
                ("modalias", modalias),
            ];
            self.device("pci", &format!("pci0000:00/{address}"), &attributes);
        }
    }

    #[test]
    fn modaliases_are_taken_from_every_bus_once() {
        let machine = Machine::new();
        machine.pci(
            "0000:00:1f.2",
            ("0x8086", "0x2922"),
            "0x010601",
            "pci:v00008086",
        );
        machine.device(
            "virtio",
            "virtio0",
            &[("modalias", "virtio:d00000002v00001AF4")],
        );
        machine.device("scsi", "0:0:0:0", &[("modalias", "scsi:t-0x00")]);
        machine.device("scsi", "1:0:0:0", &[("modalias", "scsi:t-0x00")]);
        machine.device("scsi", "host0", &[]);
        machine.device("cpu", "cpu0", &[("modalias", "")]);
        let found: Vec<String> = modaliases(machine.root()).into_iter().collect();
        assert_eq!(
            found,
            ["pci:v00008086", "scsi:t-0x00", "virtio:d00000002v00001AF4"]
        );
        assert!(modaliases(&machine.root().join("nothing")).is_empty());
    }

    #[test]
    fn pci_functions_are_read_and_nonsense_is_passed_over() {
        let machine = Machine::new();
        machine.pci("0000:00:1f.2", ("0x8086", "0x2922"), "0x010601", "pci:x");
        machine.bind("pci0000:00/0000:00:1f.2", "ahci");
        machine.pci("0000:00:14.0", ("0x8086", "0xa36d"), "0x0c0330", "pci:y");
        machine.pci("0000:00:02.0", ("0x1234", "0x1111"), "0x030000", "pci:z");
        machine.pci("0000:00:03.0", ("0x12345", "0x1111"), "0x030000", "pci:z");
        machine.pci("0000:00:04.0", ("8086", ""), "", "");
        let found: Vec<(String, Option<String>, bool)> = pci_functions(machine.root())
            .into_iter()
            .map(|function| {
                let leads = function.leads_to_disks();
                (function.address, function.driver, leads)
            })
            .collect();
        let ahci = Some("ahci".to_owned());
        assert_eq!(
            found,
            [
                ("0000:00:02.0".to_owned(), None, false),
                ("0000:00:14.0".to_owned(), None, true),
                ("0000:00:1f.2".to_owned(), ahci, true),
            ]
        );
    }

    #[test]
    fn a_usb_stick_is_waited_for_until_its_disk_is_there() {
        let machine = Machine::new();
        let stick = "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0";
        machine.device("usb", stick, &[("bInterfaceClass", "08")]);
        machine.device("usb", "usb1/1-2/1-2:1.0", &[("bInterfaceClass", "03")]);
        assert!(
            usb_storage_without_disk(machine.root()).is_empty(),
            "no driver, no disk"
        );
        machine.bind(stick, "usb-storage");
        machine.block(
            "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
            "sda",
        );
        assert_eq!(usb_storage_without_disk(machine.root()), ["1-1:1.0"]);
        machine.block(&format!("{stick}/host6/target6:0:0/6:0:0:0"), "sdb");
        assert!(usb_storage_without_disk(machine.root()).is_empty());
        assert_eq!(
            disks(machine.root()),
            ["sda", "sdb"].map(str::to_owned).into()
        );
        assert!(has_slow_bus(machine.root()));
    }

    #[test]
    fn disks_that_the_kernel_makes_up_are_none() {
        let machine = Machine::new();
        fs::create_dir_all(machine.root().join("sys/block/loop0")).unwrap();
        assert!(disks(machine.root()).is_empty());
        assert!(!has_slow_bus(machine.root()));
    }
}
