//! Reading sysfs: `bus/pci/devices`, `block`, `class/dmi/id`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::names;
use super::{DiskNode, Host, PciClass, PciFunction, SystemInfo};
use crate::config::pci::{PciAddress, VendorDevice};

/// sysfs counts a disk's size in these, whatever its own sector size.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// Block devices that are never disks of the machine.
const NOT_DISKS: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "fd"];

pub(super) fn read(root: &Path) -> Host {
    let sys = root.join("sys");
    let mut pci = functions(root);
    names::add(root, &mut pci);
    Host {
        name_plate: name_plate(&sys.join("class/dmi/id")),
        pci,
        disks: disks(root, &sys.join("block")),
        elsewhere: false,
    }
}

fn name_plate(dmi: &Path) -> SystemInfo {
    SystemInfo {
        vendor: text(&dmi.join("sys_vendor")),
        model: text(&dmi.join("product_name")),
        serial: text(&dmi.join("product_serial")),
        uuid: text(&dmi.join("product_uuid")),
        board_serial: text(&dmi.join("board_serial")),
    }
}

pub(super) fn functions(root: &Path) -> BTreeMap<PciAddress, PciFunction> {
    entries(&root.join("sys/bus/pci/devices"))
        .into_iter()
        .filter_map(|path| {
            let address: PciAddress = file_name(&path).parse().ok()?;
            let id = VendorDevice::from_parts(
                &text(&path.join("vendor"))?,
                &text(&path.join("device"))?,
            )?;
            let class = text(&path.join("class"))?;
            let class = u32::from_str_radix(class.trim_start_matches("0x"), 16).ok()?;
            let mut above = fs::canonicalize(&path)
                .map(|place| addresses(&place))
                .unwrap_or_default();
            above.pop();
            let function = PciFunction {
                address,
                id,
                class: PciClass(class),
                above,
                driver: driver(&path),
                name: None,
            };
            Some((address, function))
        })
        .collect()
}

fn disks(root: &Path, folder: &Path) -> Vec<DiskNode> {
    entries(folder)
        .into_iter()
        .filter(|path| {
            !NOT_DISKS
                .iter()
                .any(|kind| file_name(path).starts_with(kind))
        })
        .filter(|path| !is_optical(path) && !is_boot_area(path) && !is_hidden(path))
        .filter_map(|path| disk(root, &path))
        .filter(|disk| disk.size > 0)
        .collect()
}

fn disk(root: &Path, path: &Path) -> Option<DiskNode> {
    let sectors: u64 = text(&path.join("size"))?.parse().ok()?;
    // sysfs writes `!` where a device's name has a slash (cciss!c0d0).
    let name = file_name(path).replace('!', "/");
    Some(DiskNode {
        node: root.join("dev").join(name),
        model: text(&path.join("device/model")).or_else(|| text(&path.join("device/name"))),
        serial: text(&path.join("device/serial")).or_else(|| vital_product_serial(path)),
        world_wide_ids: world_wide_ids(path),
        size: sectors * SYSFS_SECTOR_BYTES,
        removable: text(&path.join("removable")).is_some_and(|flag| flag == "1"),
        pci_paths: pci_paths(path),
        image: None,
    })
}

/// SCSI and ATA disks report their serial number in the vital product data page 0x80: four bytes of
/// header, then text.
fn vital_product_serial(disk: &Path) -> Option<String> {
    let page = fs::read(disk.join("device/vpd_pg80")).ok()?;
    let serial = String::from_utf8_lossy(page.get(4..)?).trim().to_owned();
    (!serial.is_empty()).then_some(serial)
}

/// The names that are unique in the world: `wwid` of a SCSI or ATA disk is the best of its designators
/// (vital product data page 0x83), NVMe namespaces have up to four.
fn world_wide_ids(disk: &Path) -> Vec<String> {
    let names = ["device/wwid", "wwid", "nguid", "uuid", "eui"];
    let ids = names.iter().filter_map(|name| {
        let id = text(&disk.join(name))?;
        // `naa.`, `eui.`, `uuid.` and `t10.` say of which kind it is.
        let value = id.split_once('.').map_or(id.as_str(), |(_, value)| value);
        let kind = name.rsplit('/').next()?;
        super::is_name(value).then(|| format!("{kind} {}", words(&id)))
    });
    ids.collect()
}

/// Text whose words stand one blank apart: some designators are filled up with blanks.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// With native multipath each path to an NVMe namespace is a disk that nothing can open, beside the
/// one that unites them.
fn is_hidden(disk: &Path) -> bool {
    text(&disk.join("hidden")).is_some_and(|flag| flag == "1")
}

fn is_optical(disk: &Path) -> bool {
    file_name(disk).starts_with("sr")
}

/// eMMC boot and replay-protected areas are disks of their own to Linux (`mmcblk0boot0`).
fn is_boot_area(disk: &Path) -> bool {
    let name = file_name(disk);
    name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"))
}

/// The PCI addresses along a disk's device path, one list for each path to it.
fn pci_paths(disk: &Path) -> Vec<Vec<PciAddress>> {
    let Ok(device) = fs::canonicalize(disk) else {
        return Vec::new();
    };
    let direct = addresses(&device);
    if !direct.is_empty() {
        return vec![direct];
    }
    // With native multipath an NVMe disk hangs on a virtual subsystem, whose folder links to the
    // controllers that reach it.
    let subsystem = device.parent().map(entries).unwrap_or_default();
    subsystem
        .iter()
        .filter(|path| file_name(path).starts_with("nvme") && path.is_symlink())
        .filter_map(|path| fs::canonicalize(path).ok())
        .map(|controller| addresses(&controller))
        .filter(|path| !path.is_empty())
        .collect()
}

fn addresses(device: &Path) -> Vec<PciAddress> {
    device
        .components()
        .filter_map(|part| {
            let text = part.as_os_str().to_str()?;
            let address: PciAddress = text.parse().ok()?;
            // Only the kernel's own spelling: names of other buses may look like an address.
            (address.to_string() == text).then_some(address)
        })
        .collect()
}

/// What a function asks for drivers by; empty where there is no such function.
pub(crate) fn modalias(root: &Path, address: PciAddress) -> String {
    let devices = root.join("sys/bus/pci/devices");
    text(&devices.join(address.to_string()).join("modalias")).unwrap_or_default()
}

/// The driver that is bound to a device, if any.
pub(crate) fn driver(device: &Path) -> Option<String> {
    let target = fs::read_link(device.join("driver")).ok()?;
    Some(file_name(&target))
}

/// A folder's entries by name, none where there is no such folder.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    paths
}

/// The last part of a path, as text.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A file's text without white space at its ends; `None` where it is missing or empty.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
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
    fn pci_functions_are_read_and_nonsense_is_passed_over() {
        let machine = Machine::new();
        machine.pci("0000:00:1f.2", ("0x8086", "0x2922"), "0x010601", "pci:x");
        machine.bind("pci0000:00/0000:00:1f.2", "ahci");
        machine.pci("0000:00:14.0", ("0x8086", "0xa36d"), "0x0c0330", "pci:y");
        machine.pci("0000:00:02.0", ("0x1234", "0x1111"), "0x030000", "pci:z");
        machine.pci("0000:00:03.0", ("0x12345", "0x1111"), "0x030000", "pci:z");
        machine.pci("0000:00:04.0", ("8086", ""), "", "");
        let found: Vec<(String, Option<String>, bool)> = functions(machine.root())
            .into_values()
            .map(|function| {
                let leads = function.class.drives_storage();
                (function.address.to_string(), function.driver, leads)
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
    fn a_disk_has_its_world_wide_names_and_a_path_that_nothing_can_open_is_none() {
        let root = tempfile::tempdir().unwrap();
        let attributes: [(&str, &[(&str, &str)]); 4] = [
            ("sda", &[("device/wwid", "t10.ATA     DISK        QM1 ")]),
            ("sdb", &[("device/wwid", "naa.0000000000000000")]),
            (
                "nvme0n1",
                &[
                    ("wwid", "uuid.8e8b"),
                    ("uuid", "8e8b"),
                    ("nguid", "00000000-0000"),
                ],
            ),
            ("nvme0c0n1", &[("hidden", "1"), ("wwid", "uuid.8e8b")]),
        ];
        for (name, attributes) in attributes {
            let folder = root.path().join("sys/block").join(name);
            fs::create_dir_all(folder.join("device")).unwrap();
            fs::write(folder.join("size"), "16").unwrap();
            for (file, text) in attributes {
                fs::write(folder.join(file), text).unwrap();
            }
        }
        let disks = read(root.path()).disks;
        let found: Vec<(String, String)> = disks
            .iter()
            .map(|disk| (disk.name(), disk.world_wide_ids.join(", ")))
            .collect();
        let expected = [
            ("nvme0n1", "wwid uuid.8e8b, uuid 8e8b"),
            ("sda", "wwid t10.ATA DISK QM1"),
            ("sdb", ""),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn the_serial_numbers_of_chassis_and_board_are_two_things() {
        let root = tempfile::tempdir().unwrap();
        let dmi = root.path().join("sys/class/dmi/id");
        fs::create_dir_all(&dmi).unwrap();
        fs::write(dmi.join("product_serial"), "To be filled by O.E.M.\n").unwrap();
        fs::write(dmi.join("board_serial"), "BRD-77\n").unwrap();
        let plate = read(root.path()).name_plate;
        assert_eq!(plate.serial.as_deref(), Some("To be filled by O.E.M."));
        assert_eq!(plate.board_serial.as_deref(), Some("BRD-77"));
        fs::remove_file(dmi.join("board_serial")).unwrap();
        assert_eq!(read(root.path()).name_plate.board_serial, None);
    }
}
