//! What ESXi needs of the machine: the PCI functions on the path of every disk that holds one of
//! its boot banks or datastores, and those for which that cannot be determined.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::pci::PciAddress;
use crate::disk::partition::PartitionKind;
use crate::host::{DiskNode, Host, PciClass, PciFunction};
use crate::inventory::{Disk, Inventory, NoTable, SameInstallation};

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
    /// Functions that lead to a copy of a boot disk.
    copies: BTreeMap<PciAddress, Doubt>,
    /// What ESXi keeps on disks that lie on no PCI path that Linux knows.
    unplaced: Vec<String>,
    /// The functions that lead to storage of some kind: any of them may lead to those disks.
    to_storage: BTreeSet<PciAddress>,
    /// The functions that lead to a network, over which a host may reach its disks.
    to_network: BTreeSet<PciAddress>,
}

/// Why a function that seems not to be needed may be needed after all.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    /// In words.
    pub(super) why: String,
    /// Whether it may be the only one that leads to the disk that ESXi starts from.
    pub(super) may_be: bool,
}

impl Needs {
    pub(super) fn of(inventory: &Inventory, host: &Host) -> Self {
        let mut needs = Self::default();
        for (index, disk) in inventory.disks.iter().enumerate() {
            let Some(holds) = holds(disk, host) else {
                continue;
            };
            match inventory.same_installation(index) {
                Some(same) if !same.originals.contains(&index) => {
                    needs.add_copy((index, &holds), same, inventory, host);
                }
                _ => needs.add(disk, host, &holds, |_| true),
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

    /// Notes that ESXi needs those functions of a disk for which `which` holds.
    fn add(&mut self, disk: &Disk, host: &Host, holds: &str, which: impl Fn(PciAddress) -> bool) {
        let nodes = || nodes(disk, host);
        if nodes().all(|node| node.pci_paths.is_empty()) {
            self.unplaced.push(holds.to_owned());
        }
        let controllers: BTreeSet<PciAddress> = nodes().flat_map(DiskNode::controllers).collect();
        let on_path = nodes().flat_map(|node| node.pci_paths.iter().flatten());
        let on_path: BTreeSet<PciAddress> = on_path.copied().collect();
        for address in functions(disk, host).into_iter().filter(|at| which(*at)) {
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

    /// Notes what leads to a disk that is a copy, or may be one. What leads to each of the disks with the
    /// same installation is needed, whichever of them ESXi starts from.
    fn add_copy(
        &mut self,
        (index, holds): (usize, &str),
        same: &SameInstallation,
        inventory: &Inventory,
        host: &Host,
    ) {
        let disk = &inventory.disks[index];
        let leads_to = |other: &usize| functions(&inventory.disks[*other], host);
        let all: Vec<BTreeSet<PciAddress>> = same.disks.iter().map(leads_to).collect();
        let shared = |at: PciAddress| all.iter().all(|functions| functions.contains(&at));
        self.add(disk, host, holds, shared);
        let doubt = Doubt::of_copy(index, same, inventory, host);
        let only_here = functions(disk, host).into_iter().filter(|at| !shared(*at));
        self.copies.extend(only_here.map(|at| (at, doubt.clone())));
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
        if let Some(doubt) = self.copies.get(&at) {
            return Some(doubt.clone());
        }
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

impl Doubt {
    /// About what leads to a disk that is a copy, or one of which that is not known.
    fn of_copy(index: usize, same: &SameInstallation, inventory: &Inventory, host: &Host) -> Self {
        let name_of = |disk: usize| name(&inventory.disks[disk], host);
        let others = |disks: &[usize]| {
            let others = disks.iter().filter(|disk| **disk != index);
            let names: Vec<String> = others.map(|disk| name_of(*disk)).collect();
            names.join(" and ")
        };
        let name = name_of(index);
        match same.originals.as_slice() {
            [] => Self {
                why: format!(
                    "leads to {name}, which holds the same installation as {}; it is not known from which of them ESXi starts",
                    others(&same.disks)
                ),
                may_be: true,
            },
            originals => Self {
                why: format!(
                    "leads to {name}, a copy of the boot disk {} on a removable disk; ESXi needs it only if it starts from that copy",
                    others(originals)
                ),
                may_be: false,
            },
        }
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

/// The machine's entries of a disk, one for each path.
fn nodes<'h>(disk: &'h Disk, host: &'h Host) -> impl Iterator<Item = &'h DiskNode> {
    disk.paths().filter_map(|path| host.disk(path))
}

/// Every function on any path to a disk, and what shares its fate.
fn functions(disk: &Disk, host: &Host) -> BTreeSet<PciAddress> {
    nodes(disk, host)
        .flat_map(|node| host.on_path_of(node))
        .collect()
}

/// What a disk is called in a reason: `sda`, or `sda (also sdb)` where several paths lead to it.
fn name(disk: &Disk, host: &Host) -> String {
    let mut names = nodes(disk, host).map(DiskNode::name);
    let first = names.next().unwrap_or_default();
    match names.collect::<Vec<_>>().join(", ") {
        others if others.is_empty() => first,
        others => format!("{first} (also {others})"),
    }
}

/// What of ESXi a disk holds, in words; `None`: nothing.
fn holds(disk: &Disk, host: &Host) -> Option<String> {
    host.disk(&disk.path)?;
    let name = name(disk, host);
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
        .find(|disk| nodes(disk, host).any(|one| one == node));
    let may_be_path = |disk: &&Disk| {
        holds(disk, host).is_some()
            && nodes(disk, host).any(|one| one != node && one.has_identity_of(node))
    };
    let same = inventory.disks.iter().find(may_be_path);
    let perhaps = same.map_or_else(String::new, |disk| {
        format!(
            "; by its identity it may be another path to {}",
            name(disk, host)
        )
    });
    match looked_at {
        None => Some(format!(
            "leads to {}, which was not examined{perhaps}",
            node.name()
        )),
        // A disk that cannot be opened has no size.
        Some(disk) if disk.size == 0 => Some(format!(
            "leads to {}, which cannot be read{perhaps}",
            node.name()
        )),
        Some(Disk {
            table: Err(NoTable::Unreadable(_)),
            ..
        }) => Some(format!(
            "leads to {}, whose partition table cannot be read{perhaps}",
            node.name()
        )),
        Some(disk) if !disk.suspects.is_empty() => Some(format!(
            "leads to {}, where a partition that may be a boot bank is not accepted as one",
            node.name()
        )),
        Some(disk) if !disk.unreadable.is_empty() => Some(format!(
            "leads to {}, where a partition that may be a boot bank cannot be read",
            node.name()
        )),
        Some(_) => None,
    }
}
