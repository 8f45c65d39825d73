//! What ESXi needs of the machine: the PCI functions on the path of every disk that holds one of
//! its boot banks or datastores, and those for which that cannot be determined.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::pci::PciAddress;
use crate::disk::partition::PartitionKind;
use crate::host::{DiskNode, Host, PciClass, PciFunction};
use crate::inventory::{Disk, Inventory, NoTable};

/// Intel's chipsets have their USB controllers on the root bus of segment 0, and can switch their
/// ports from one to another.
const INTEL: u16 = 0x8086;

/// How a function stands to a disk, the closest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Relation {
    Drives,
    OnPath { bridge: bool },
    SharesSlot,
}

/// Functions and what they are needed for.
#[derive(Debug, Default)]
pub(super) struct Needs {
    needed: BTreeMap<PciAddress, Vec<(Relation, String)>>,
    /// Functions that lead to what nobody looked at, and why nobody did.
    unseen: BTreeMap<PciAddress, String>,
    /// The boot disk behind a USB controller of the chipset, if any is.
    chipset_usb: Option<String>,
    /// What ESXi keeps on disks that lie on no PCI path that Linux knows.
    unplaced: Vec<String>,
    /// The functions that lead to storage of some kind: any of them may lead to those disks.
    to_storage: BTreeSet<PciAddress>,
    /// The functions that lead to a network, over which a host may reach its disks.
    to_network: BTreeSet<PciAddress>,
}

/// Why a function that seems not to be needed may be needed after all.
#[derive(Debug)]
pub(super) struct Doubt {
    /// In words.
    pub(super) why: String,
    /// Whether it may be the very one that ESXi's disk hangs on, of which no controller is known.
    pub(super) may_be: bool,
}

impl Needs {
    pub(super) fn of(inventory: &Inventory, host: &Host) -> Self {
        let mut needs = Self::default();
        for disk in &inventory.disks {
            if let (Some(node), Some(holds)) = (host.disk(&disk.path), holds(disk, host)) {
                needs.add(node, host, &holds);
            }
        }
        needs.to_storage = leading_to(host, PciClass::drives_storage);
        needs.to_network = leading_to(host, PciClass::is_network);
        for node in &host.disks {
            if let Some(why) = why_unseen(node, inventory, host) {
                needs.unseen.extend(
                    host.on_path_of(node)
                        .into_iter()
                        .map(|at| (at, why.clone())),
                );
            }
        }
        for function in host.pci.values().filter(|function| is_closed(function)) {
            let why = format!(
                "leads to {}, a {} without a working driver, so the disks behind it are not visible",
                function.address, function.class
            );
            needs
                .unseen
                .extend(function.above.iter().map(|at| (*at, why.clone())));
        }
        needs
    }

    fn add(&mut self, node: &DiskNode, host: &Host, holds: &str) {
        if node.pci_paths.is_empty() {
            self.unplaced.push(holds.to_owned());
        }
        let controllers: BTreeSet<PciAddress> = node.controllers().collect();
        let on_path: BTreeSet<PciAddress> = node.pci_paths.iter().flatten().copied().collect();
        for address in host.on_path_of(node) {
            let relation = if controllers.contains(&address) {
                Relation::Drives
            } else if on_path.contains(&address) {
                let function = host.function(address);
                Relation::OnPath {
                    bridge: function.is_some_and(|function| function.class.is_bridge()),
                }
            } else {
                Relation::SharesSlot
            };
            let all = self.needed.entry(address).or_default();
            all.push((relation, holds.to_owned()));
        }
        let mut functions = controllers.iter().filter_map(|at| host.function(*at));
        if functions.any(is_chipset_usb) {
            self.chipset_usb = Some(holds.to_owned());
        }
    }

    /// What ESXi needs a function for, in words; the closest relation counts.
    pub(super) fn purpose(&self, address: PciAddress) -> Option<String> {
        let all = self.needed.get(&address)?;
        let closest = all.iter().map(|(relation, _)| *relation).min()?;
        let disks: Vec<&str> = all
            .iter()
            .filter(|(relation, _)| *relation == closest)
            .map(|(_, holds)| holds.as_str())
            .collect();
        let disks = disks.join(" and ");
        Some(match closest {
            Relation::Drives => format!("drives {disks}"),
            Relation::OnPath { bridge: true } => format!("bridge to {disks}"),
            Relation::OnPath { bridge: false } => format!("on the path to {disks}"),
            Relation::SharesSlot => format!("shares a slot with the controller of {disks}"),
        })
    }

    /// Why a function that seems not to be needed may be needed after all.
    pub(super) fn doubt(&self, function: &PciFunction) -> Option<Doubt> {
        let doubt = |why: String, may_be: bool| Some(Doubt { why, may_be });
        let (at, class) = (function.address, function.class);
        let leads_to_storage = self.to_storage.contains(&at);
        if let Some(holds) = self.unplaced.first()
            && (leads_to_storage || self.to_network.contains(&at))
        {
            let why = format!(
                "{class}; Linux does not show which controller drives {holds}, so it may be this one"
            );
            return doubt(why, leads_to_storage);
        }
        if let Some(why) = self.unseen.get(&at) {
            return doubt(why.clone(), false);
        }
        if is_closed(function) {
            let why = format!(
                "{class}; it has no working driver, so the disks behind it are not visible"
            );
            return doubt(why, false);
        }
        let holds = self.chipset_usb.as_ref()?;
        let why = format!(
            "{class} of the chipset, which may share its ports with the one that drives {holds}"
        );
        is_chipset_usb(function).then_some(Doubt { why, may_be: false })
    }
}

/// The functions of a kind, and those above them.
fn leading_to(host: &Host, kind: impl Fn(PciClass) -> bool) -> BTreeSet<PciAddress> {
    let functions = host.pci.values().filter(|function| kind(function.class));
    functions
        .flat_map(|function| function.above.iter().copied().chain([function.address]))
        .collect()
}

/// Whether it may drive disks that Linux does not show.
fn is_closed(function: &PciFunction) -> bool {
    function.class.drives_storage() && !function.is_driven()
}

fn is_chipset_usb(function: &PciFunction) -> bool {
    let at = function.address;
    (at.segment, at.bus) == (0, 0) && function.id.vendor == INTEL && function.class.is_usb()
}

/// What of ESXi a disk holds, in words; `None`: nothing.
fn holds(disk: &Disk, host: &Host) -> Option<String> {
    let name = host.disk(&disk.path)?.name();
    if !disk.banks.is_empty() {
        return Some(format!("the boot disk {name}"));
    }
    Some(match disk.main_data()? {
        PartitionKind::Vsan => format!("the vSAN disk {name}"),
        PartitionKind::VmwareCoreDump => format!("the core dump partition on {name}"),
        PartitionKind::VmwareReserved => format!("the VMware reserved partition on {name}"),
        _ => format!("the datastore on {name}"),
    })
}

/// Why it is not known what a disk of the machine holds.
fn why_unseen(node: &DiskNode, inventory: &Inventory, host: &Host) -> Option<String> {
    let looked_at = inventory
        .disks
        .iter()
        .find(|disk| host.disk(&disk.path) == Some(node));
    match looked_at {
        None => Some(format!("leads to {}, which was not examined", node.name())),
        // A disk that cannot be opened has no size.
        Some(disk) if disk.size == 0 => {
            Some(format!("leads to {}, which cannot be read", node.name()))
        }
        Some(Disk {
            table: Err(NoTable::Unreadable(_)),
            ..
        }) => Some(format!(
            "leads to {}, whose partition table cannot be read",
            node.name()
        )),
        Some(disk) if !disk.suspects.is_empty() => Some(format!(
            "leads to {}, of which a partition that may be a boot bank is not taken for one",
            node.name()
        )),
        Some(disk) if !disk.unreadable.is_empty() => Some(format!(
            "leads to {}, of which a partition that may be a boot bank cannot be read",
            node.name()
        )),
        Some(_) => None,
    }
}
