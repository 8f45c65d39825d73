//! The network drivers: all of wired cards, in an initramfs part of their own, so that a repair that sends no report
//! pays nothing for them.
//!
//! Not here: the base set ([`crate::inputs::drivers::BASE`]), on which these build.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::inputs::drivers::{Class, Driver, ModuleTree, Selection, Wanted, wanted};

/// Wired network cards, what they share, and the chips between card and cable.
pub const NETWORK: &[Wanted] = &[
    wanted("drivers/net/ethernet/", Class::Net),
    wanted("drivers/net/virtio_net", Class::Net),
    wanted("drivers/net/vmxnet3/", Class::Net),
    wanted("drivers/net/hyperv/", Class::Net),
    wanted("drivers/net/xen-netfront", Class::Net),
    wanted("drivers/net/fjes/", Class::Net),
    wanted("drivers/net/usb/aqc111", Class::Net),
    wanted("drivers/net/usb/asix", Class::Net),
    wanted("drivers/net/usb/ax88179_178a", Class::Net),
    wanted("drivers/net/usb/catc", Class::Net),
    wanted("drivers/net/usb/cdc_eem", Class::Net),
    wanted("drivers/net/usb/cdc_ether", Class::Net),
    wanted("drivers/net/usb/cdc_ncm", Class::Net),
    wanted("drivers/net/usb/cdc_subset", Class::Net),
    wanted("drivers/net/usb/ch9200", Class::Net),
    wanted("drivers/net/usb/dm9601", Class::Net),
    wanted("drivers/net/usb/kaweth", Class::Net),
    wanted("drivers/net/usb/lan78xx", Class::Net),
    wanted("drivers/net/usb/mcs7830", Class::Net),
    wanted("drivers/net/usb/pegasus", Class::Net),
    wanted("drivers/net/usb/r8152", Class::Net),
    wanted("drivers/net/usb/r8153_ecm", Class::Net),
    wanted("drivers/net/usb/rndis_host", Class::Net),
    wanted("drivers/net/usb/rtl8150", Class::Net),
    wanted("drivers/net/usb/smsc75xx", Class::Net),
    wanted("drivers/net/usb/smsc95xx", Class::Net),
    wanted("drivers/net/usb/sr9700", Class::Net),
    wanted("drivers/net/usb/sr9800", Class::Net),
    wanted("drivers/net/mii", Class::Core),
    wanted(PHY_DRIVERS, Class::Core),
];

const PHY_DRIVERS: &str = "drivers/net/phy/";
/// The module that every card with a separate PHY chip needs.
const PHY_CORE: &str = "libphy";
/// Start of the aliases of drivers of PHY chips.
const PHY_ALIAS: &str = "mdio:";

/// The network drivers and all they need that the base set does not have.
pub fn select(tree: &ModuleTree, base: &[Driver]) -> Result<Selection> {
    let chosen = tree.select(NETWORK)?;
    let in_base: BTreeSet<&str> = base.iter().map(|driver| driver.name.as_str()).collect();
    let (mut drivers, files): (Vec<_>, Vec<_>) = chosen
        .drivers
        .into_iter()
        .zip(chosen.files)
        .filter(|(driver, _)| !in_base.contains(driver.name.as_str()))
        .unzip();
    load_phys_first(&mut drivers);
    Ok(Selection { drivers, files })
}

/// The kernel asks `modprobe` for the driver of a PHY chip when it meets one (Linux drivers/net/phy/phy_device.c,
/// `phy_request_driver_module`), and there is none here. So whatever may meet a chip of unknown make gets all of these
/// drivers first; a card that names its own (r8169) gets that.
fn load_phys_first(drivers: &mut [Driver]) {
    let is_phy = |driver: &Driver| {
        driver
            .aliases
            .iter()
            .any(|alias| alias.starts_with(PHY_ALIAS))
    };
    let phys: Vec<String> = drivers
        .iter()
        .filter(|driver| is_phy(driver))
        .map(|driver| driver.name.clone())
        .collect();
    let depends: BTreeMap<String, Vec<String>> = drivers
        .iter()
        .map(|driver| (driver.name.clone(), driver.depends.clone()))
        .collect();
    for driver in drivers.iter_mut() {
        let names_one = driver.pre.iter().any(|name| phys.contains(name));
        if driver.class == Class::Net && !names_one && needs(&depends, &driver.name, PHY_CORE) {
            driver.pre.extend(phys.iter().cloned());
        }
    }
}

/// Whether a module needs another, directly or through others.
fn needs(depends: &BTreeMap<String, Vec<String>>, name: &str, wanted: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut todo = vec![name];
    while let Some(name) = todo.pop() {
        if name == wanted {
            return true;
        }
        if seen.insert(name) {
            todo.extend(depends.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::drivers::tests::tree;

    #[test]
    fn what_the_base_set_has_is_not_carried_twice() {
        let (_temp, dir) = tree(&[
            ("drivers/net/ethernet/x/nic.ko", "name=nic|depends=crc,mii"),
            ("drivers/net/mii.ko", "name=mii"),
            ("lib/crc.ko", "name=crc"),
            ("drivers/net/wireless/w.ko", "name=w"),
            ("drivers/ata/ahci.ko", "name=ahci|depends=crc"),
        ]);
        let tree = ModuleTree::scan(&dir).unwrap();
        let base = tree.select(crate::inputs::drivers::BASE).unwrap();
        let chosen = select(&tree, &base.drivers).unwrap();
        let names: Vec<&str> = chosen
            .drivers
            .iter()
            .map(|driver| driver.name.as_str())
            .collect();
        assert_eq!(names, ["mii", "nic"]);
        assert!(chosen.files[1].ends_with("nic.ko"));
        assert_eq!(chosen.drivers[1].class, Class::Net);
    }

    #[test]
    fn cards_with_a_chip_of_unknown_make_get_the_drivers_of_all_chips_first() {
        let (_temp, dir) = tree(&[
            ("drivers/net/ethernet/a.ko", "name=a|depends=helper"),
            (
                "drivers/net/ethernet/b.ko",
                "name=b|depends=libphy|softdep=pre: realtek",
            ),
            ("drivers/net/ethernet/c.ko", "name=c"),
            ("drivers/net/helper.ko", "name=helper|depends=libphy"),
            ("drivers/net/phy/libphy.ko", "name=libphy"),
            (
                "drivers/net/phy/marvell.ko",
                "name=marvell|depends=libphy|alias=mdio:0000",
            ),
            (
                "drivers/net/phy/realtek.ko",
                "name=realtek|depends=libphy|alias=mdio:1111",
            ),
        ]);
        let chosen = select(&ModuleTree::scan(&dir).unwrap(), &[]).unwrap();
        let pre = |name: &str| {
            let driver = chosen
                .drivers
                .iter()
                .find(|driver| driver.name == name)
                .unwrap();
            driver.pre.clone()
        };
        assert_eq!(pre("a"), ["marvell", "realtek"]);
        assert_eq!(pre("b"), ["realtek"]);
        assert!(pre("c").is_empty() && pre("marvell").is_empty());
    }
}
