//! Names of PCI devices, from a file `pci.ids`. Names are for people: nothing depends on them, and
//! where there is no file there are none.
//!
//! Source of the format: the comments at the head of `pci.ids` itself (the PCI ID Repository,
//! pci-ids.ucw.cz): `vvvv  Vendor`, then a tab and `dddd  Device`, then two tabs and subsystems.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::PciFunction;
use crate::config::pci::{PciAddress, VendorDevice};
use crate::files::read_up_to;

/// Where the file may be, below the root: the rescue image's own, Debian's, Fedora's.
const FILES: [&str; 3] = [
    "lib/rescue/pci.ids",
    "usr/share/misc/pci.ids",
    "usr/share/hwdata/pci.ids",
];

/// The real file has 1.4 MB; more than this is something else.
const MAX_BYTES: u64 = 8 << 20;

/// Names the functions that the first file found knows.
pub(super) fn add(root: &Path, functions: &mut BTreeMap<PciAddress, PciFunction>) {
    let Some(text) = FILES.iter().find_map(|file| read(&root.join(file))) else {
        return;
    };
    let wanted = functions.values().map(|function| function.id).collect();
    let names = names(&text, &wanted);
    for function in functions.values_mut() {
        function.name = names.get(&function.id).cloned();
    }
}

/// Some vendors' names are Latin-1 in old files: what is no UTF-8 is replaced.
fn read(path: &Path) -> Option<String> {
    let bytes = read_up_to(path, MAX_BYTES).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Vendor and device names of the wanted IDs; the vendor's alone where the device is not listed.
fn names(text: &str, wanted: &BTreeSet<VendorDevice>) -> BTreeMap<VendorDevice, String> {
    let mut names = BTreeMap::new();
    let mut vendor: Option<(u16, &str)> = None;
    for line in text.lines() {
        // Device classes come last, and look like vendors behind a letter.
        if line.starts_with("C ") {
            break;
        }
        match line.strip_prefix('\t') {
            None => {
                vendor = id_and_name(line);
                if let Some((number, name)) = vendor {
                    let of_vendor = wanted.iter().filter(|id| id.vendor == number);
                    names.extend(of_vendor.map(|id| (*id, name.to_owned())));
                }
            }
            Some(device) => {
                let (Some((number, maker)), Some((device, name))) = (vendor, id_and_name(device))
                else {
                    continue;
                };
                let id = VendorDevice {
                    vendor: number,
                    device,
                };
                if wanted.contains(&id) {
                    names.insert(id, format!("{maker} {name}"));
                }
            }
        }
    }
    names
}

/// `1b36  Red Hat, Inc.`; `None` for comments, subsystems and empty lines.
fn id_and_name(line: &str) -> Option<(u16, &str)> {
    let (digits, name) = line.split_at_checked(4)?;
    let name = name.strip_prefix("  ")?.trim();
    Some((u16::from_str_radix(digits, 16).ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#\n# comment\n\n10de  NVIDIA Corporation\n\t2786  AD104 [GeForce RTX 4070]\n\t\t1043 88e2  a board\n\
        144d  Samsung Electronics Co Ltd\n\ta80a  NVMe SSD Controller PM9A1/PM9A3/980PRO\nC 01  Mass storage controller\n\t00  SCSI\n";

    fn id(text: &str) -> VendorDevice {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_devices_and_of_vendors_alone() {
        let wanted = ["10de:2786", "10de:ffff", "144d:a80a", "1af4:1000"].map(id);
        let names = names(TEXT, &BTreeSet::from(wanted));
        assert_eq!(names.len(), 3);
        assert_eq!(
            names[&id("10de:2786")],
            "NVIDIA Corporation AD104 [GeForce RTX 4070]"
        );
        assert_eq!(names[&id("10de:ffff")], "NVIDIA Corporation");
        assert!(names[&id("144d:a80a")].contains("PM9A1"));
    }

    #[test]
    fn other_text_names_nothing() {
        let wanted = BTreeSet::from([id("10de:2786")]);
        for text in [
            "",
            "\t2786  stray device\n",
            "10de\n",
            "10d\u{e9}  x\n",
            "10de x\n",
        ] {
            assert!(names(text, &wanted).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_machine_without_a_file_has_no_names() {
        let root = tempfile::tempdir().unwrap();
        let mut functions = BTreeMap::new();
        add(root.path(), &mut functions);
        assert!(functions.is_empty());
    }
}
