//! The wired network cards of this machine, as `/sys` shows them.
//!
//! Files: Linux `Documentation/ABI/testing/sysfs-class-net`.

use std::fs;
use std::path::Path;

use crate::settings::addressing::MacAddress;

/// `type` of an Ethernet interface (`ARPHRD_ETHER` in `linux/if_arp.h`).
const ETHERNET: &str = "1";

/// A wired network interface with hardware behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name, e.g. `eth0`.
    pub name: String,
    /// The address of the card.
    pub mac: MacAddress,
    /// Whether something answers at the other end of the cable. An interface that is switched off
    /// has none.
    pub carrier: bool,
}

/// The wired interfaces of the machine whose `/` is `root`, in order of their names.
#[must_use]
pub fn links(root: &Path) -> Vec<Link> {
    let folder = root.join("sys/class/net");
    let Ok(entries) = fs::read_dir(&folder) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut links: Vec<Link> = names.filter_map(|name| link(&folder, name)).collect();
    links.sort_by_key(|link| (link.name.len(), link.name.clone()));
    links
}

fn link(folder: &Path, name: String) -> Option<Link> {
    let folder = folder.join(&name);
    let attribute = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.trim().to_owned()
    };
    let wireless = ["wireless", "phy80211"]
        .iter()
        .any(|file| folder.join(file).exists());
    let hardware = folder.join("device").exists();
    if attribute("type") != ETHERNET || wireless || !hardware {
        return None;
    }
    Some(Link {
        mac: MacAddress::parse(&attribute("address"))?,
        carrier: attribute("carrier") == "1",
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(root: &Path, name: &str, files: &[(&str, &str)]) {
        let folder = root.join("sys/class/net").join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, content) in files {
            if content.is_empty() {
                fs::create_dir(folder.join(file)).unwrap();
            } else {
                fs::write(folder.join(file), format!("{content}\n")).unwrap();
            }
        }
    }

    #[test]
    fn only_wired_cards_count() {
        let root = tempfile::tempdir().unwrap();
        assert!(links(root.path()).is_empty());
        let mac = ("address", "52:54:00:12:34:56");
        let wired = [("type", "1"), mac, ("device", "")];
        interface(root.path(), "eth10", &wired);
        interface(
            root.path(),
            "eth9",
            &[wired[0], wired[1], wired[2], ("carrier", "1")],
        );
        interface(
            root.path(),
            "eth1",
            &[wired[0], wired[1], wired[2], ("carrier", "0")],
        );
        interface(
            root.path(),
            "lo",
            &[("type", "772"), ("address", "00:00:00:00:00:00")],
        );
        interface(root.path(), "dummy0", &[("type", "1"), mac]);
        interface(
            root.path(),
            "wlan0",
            &[wired[0], mac, wired[2], ("phy80211", "")],
        );
        interface(
            root.path(),
            "ib0",
            &[("type", "32"), ("address", "80:00:00:48"), ("device", "")],
        );
        let found: Vec<(String, bool)> = links(root.path())
            .into_iter()
            .map(|link| (link.name, link.carrier))
            .collect();
        let expected = [("eth1", false), ("eth9", true), ("eth10", false)];
        assert_eq!(
            found,
            expected.map(|(name, carrier)| (name.to_owned(), carrier))
        );
    }
}
