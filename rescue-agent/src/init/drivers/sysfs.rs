//! What the kernel says about the hardware, as far as drivers and waiting need it: read from a
//! folder that looks like `/sys`.
//!
//! Out of scope: the PCI functions, and which of them lead to which disk, which is [`crate::host`]'s.
//!
//! Fields: Linux `Documentation/ABI/testing/sysfs-bus-usb`; class codes: USB Defined Class Codes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::host::sysfs::{driver, entries, file_name, text};

/// The USB class of storage interfaces, as sysfs writes it.
const USB_STORAGE: &str = "08";

/// The `modalias` of every device on every bus, each once. By bus rather than by walking all of
/// `/sys/devices`, because only buses match devices with drivers, and it reads far fewer folders.
#[must_use]
pub fn modaliases(root: &Path) -> BTreeSet<String> {
    entries(&root.join("sys/bus"))
        .iter()
        .flat_map(|bus| entries(&bus.join("devices")))
        .filter_map(|device| text(&device.join("modalias")))
        .collect()
}

/// The names of all disks (also CDs), e.g. `sda`; not what the kernel makes up itself, such as
/// loop devices.
#[must_use]
pub fn disks(root: &Path) -> BTreeSet<String> {
    let blocks = entries(&root.join("sys/block"));
    let real = blocks.iter().filter(|block| block.join("device").exists());
    real.map(|block| file_name(block)).collect()
}

/// USB storage interfaces that have a driver but no disk yet, e.g. `1-1:1.0`.
#[must_use]
pub fn usb_storage_without_disk(root: &Path) -> Vec<String> {
    let interfaces: Vec<PathBuf> = entries(&root.join("sys/bus/usb/devices"))
        .into_iter()
        .filter(|device| text(&device.join("bInterfaceClass")).as_deref() == Some(USB_STORAGE))
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
    bare.map(|interface| file_name(interface)).collect()
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
mod tests {
    use std::fs;

    use super::*;
    use crate::host::sysfs::tests::Machine;

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
