//! Names of PCI devices for the image: Debian's `pci.ids` without what the agent never shows.
//!
//! The file does not say of which class a device is, so what storage, USB, display and network
//! need cannot be distinguished from the rest; subsystems, comments and device classes make half of it, and
//! go. Source of the format: the comments at the head of the file itself (pci-ids.ucw.cz).

/// Where the package `pci.ids` has it.
pub const FILE: &str = "usr/share/misc/pci.ids";

/// Vendors and devices only.
pub fn slim(pci_ids: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pci_ids);
    let lines = text
        .lines()
        .take_while(|line| !line.starts_with("C "))
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("\t\t"));
    let mut slim = String::new();
    for line in lines {
        slim.push_str(line);
        slim.push('\n');
    }
    slim.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_and_devices_stay() {
        let text = "# list\n\n10de  NVIDIA\n\t2786  AD104\n\t\t1043 88e2  a board\n8086  Intel\nC 01  Storage\n\t06  SATA\n";
        assert_eq!(
            String::from_utf8(slim(text.as_bytes())).unwrap(),
            "10de  NVIDIA\n\t2786  AD104\n8086  Intel\n"
        );
        assert!(slim(b"").is_empty());
    }
}
