//! The verdict on every device that is passed through, and its reason in words.

use std::collections::BTreeMap;

use super::PlanError;
use crate::config::pci::{PciAddress, VendorDevice};
use crate::host::{Host, PciFunction};
use crate::inventory::{Bank, DeviceEntry, Inventory};
use crate::policy::{Selection, Term};

/// What happens to a device that is passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// ESXi gets it back.
    GiveBack,
    /// It stays as it is.
    Leave,
    /// It stays as it is: no device sits at its address now.
    Stale,
    /// It stays as it is: its address can be read in two ways that matter.
    Unsure,
}

/// A device that is passed through in at least one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Its address as it is spelled in the configuration.
    pub text: String,
    /// Its address, where the text is one.
    pub address: Option<PciAddress>,
    /// The files that name it.
    pub files: Vec<&'static str>,
    /// ESXi's name for it.
    pub vmkname: Option<String>,
    /// What sits at the address now.
    pub present: Option<PciFunction>,
    /// What it was when ESXi recorded it, where that differs from what sits there now.
    pub was: Option<VendorDevice>,
    /// What happens to it.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
}

/// The machine and the wish, ready to judge entries.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    selection: &'a Selection,
    host: Option<&'a Host>,
    /// What ESXi needs, and what for.
    needed: BTreeMap<PciAddress, String>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        inventory: &Inventory,
        selection: &'a Selection,
        host: Option<&'a Host>,
    ) -> Result<Self, PlanError> {
        let needed = host.map(|host| needed(inventory, host)).unwrap_or_default();
        let judge = Self {
            selection,
            host,
            needed,
        };
        let any = entries(inventory).any(|entry| entry.passed_through);
        if any && host.is_none() && selection.uses_auto() {
            return Err(PlanError::AutoNeedsMachine {
                passed_through: passed_through(inventory),
            });
        }
        for (_, term) in selection.terms().iter().filter(|(adds, _)| *adds && any) {
            if !judge.names_something(term, inventory) {
                return Err(PlanError::NothingSelected {
                    selector: term.to_string(),
                    passed_through: passed_through(inventory),
                });
            }
        }
        Ok(judge)
    }

    /// The verdict on an entry that is passed through.
    pub(super) fn judge(&self, entry: &DeviceEntry) -> (Verdict, String) {
        let mut current = self.unasked(entry);
        for (adds, term) in self.selection.terms() {
            match (adds, term) {
                (true, Term::Auto) => {
                    if let Some(purpose) = self.purpose(entry) {
                        current = (Verdict::GiveBack, purpose.to_owned());
                    }
                }
                (true, term) if self.matches(term, entry) => {
                    current = (Verdict::GiveBack, format!("chosen by {term}"));
                }
                (false, Term::Auto) if self.purpose(entry).is_some() => {
                    current = (Verdict::Leave, "excepted by -auto".into());
                }
                (false, term) if self.matches(term, entry) => {
                    current = (Verdict::Leave, format!("excepted by -{term}"));
                }
                _ => {}
            }
        }
        current
    }

    /// All devices that are passed through somewhere, each once.
    pub(super) fn devices(&self, inventory: &Inventory) -> Vec<Judged> {
        let mut devices: Vec<Judged> = Vec::new();
        for entry in entries(inventory).filter(|entry| entry.passed_through) {
            let same = |known: &&mut Judged| match entry.address {
                Some(address) => known.address == Some(address),
                None => known.text == entry.text,
            };
            let file = entry.place.file();
            match devices.iter_mut().find(same) {
                Some(known) if !known.files.contains(&file) => known.files.push(file),
                Some(_) => {}
                None => devices.push(self.judged(entry)),
            }
        }
        devices
    }

    /// Why a bank with nothing to change has nothing to change.
    pub(super) fn why_nothing(&self, bank: &Bank) -> String {
        let entries = bank
            .archives
            .iter()
            .filter_map(|archive| archive.content.as_ref().ok())
            .flat_map(|content| &content.devices);
        match entries.filter(|entry| entry.passed_through).count() {
            0 => "nothing is passed through".into(),
            1 => "the one device that is passed through stays so".into(),
            n => format!("the {n} devices that are passed through stay so"),
        }
    }

    fn judged(&self, entry: &DeviceEntry) -> Judged {
        let (verdict, reason) = self.judge(entry);
        let present = self.present(entry).cloned();
        let was = entry
            .id
            .filter(|id| present.as_ref().is_some_and(|function| function.id != *id));
        Judged {
            text: entry.text.clone(),
            address: entry.address,
            files: vec![entry.place.file()],
            vmkname: entry.vmkname.clone(),
            present,
            was,
            verdict,
            reason,
        }
    }

    /// The verdict on an entry that no selector names.
    fn unasked(&self, entry: &DeviceEntry) -> (Verdict, String) {
        let Some(host) = self.host else {
            return (Verdict::Leave, "not chosen".into());
        };
        let Some(address) = entry.address else {
            return (
                Verdict::Unsure,
                "its address is spelled in no known way".into(),
            );
        };
        if let Some(function) = host.function(address) {
            return (
                Verdict::Leave,
                format!("{}; no ESXi disk or datastore behind it", function.class),
            );
        }
        match entry
            .alternative
            .filter(|alternative| host.function(*alternative).is_some())
        {
            Some(other) => (
                Verdict::Unsure,
                format!(
                    "nothing sits at {address}, but read as hex it would be {other}, which exists"
                ),
            ),
            None => (Verdict::Stale, "no device sits at this address now".into()),
        }
    }

    /// What ESXi needs an entry's device for.
    fn purpose(&self, entry: &DeviceEntry) -> Option<&str> {
        self.needed.get(&entry.address?).map(String::as_str)
    }

    fn present(&self, entry: &DeviceEntry) -> Option<&PciFunction> {
        self.host?.function(entry.address?)
    }

    fn matches(&self, term: &Term, entry: &DeviceEntry) -> bool {
        let present = self.present(entry);
        match term {
            Term::Auto => self.purpose(entry).is_some(),
            Term::All => true,
            Term::Address(address) => entry.address == Some(*address),
            // What sits there now counts; the configuration's own word only without a machine.
            Term::Id(id) => match (present, self.host) {
                (Some(function), _) => function.id == *id,
                (None, _) => entry.id == Some(*id),
            },
            Term::Class(word) => present.is_some_and(|function| function.class.is(word)),
        }
    }

    /// Whether a term names any entry, passed through or not, or any present function.
    fn names_something(&self, term: &Term, inventory: &Inventory) -> bool {
        let by_host = |wanted: &dyn Fn(&PciFunction) -> bool| {
            self.host.is_some_and(|host| host.pci.values().any(wanted))
        };
        let present = match term {
            Term::Auto | Term::All | Term::Class(_) => true,
            Term::Address(address) => by_host(&|function| function.address == *address),
            Term::Id(id) => by_host(&|function| function.id == *id),
        };
        present || entries(inventory).any(|entry| self.matches(term, entry))
    }
}

/// Everything on the PCI path of a disk with an ESXi boot bank or datastore.
fn needed(inventory: &Inventory, host: &Host) -> BTreeMap<PciAddress, String> {
    let mut needed = BTreeMap::new();
    for disk in &inventory.disks {
        let Some(node) = host.disk(&disk.path) else {
            continue;
        };
        let name = disk
            .path
            .file_name()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        let holds = match (disk.banks.is_empty(), disk.datastores().next()) {
            (false, _) => format!("the boot disk {name}"),
            (true, Some(_)) => format!("the datastore on {name}"),
            (true, None) => continue,
        };
        let controllers: Vec<PciAddress> = node
            .pci_paths
            .iter()
            .filter_map(|path| path.last())
            .copied()
            .collect();
        for address in host.on_path_of(node) {
            let bridge = node
                .pci_paths
                .iter()
                .flatten()
                .any(|on_path| *on_path == address);
            let reason = match (controllers.contains(&address), bridge) {
                (true, _) => format!("drives {holds}"),
                (false, true) => format!("bridge to {holds}"),
                (false, false) => format!("shares a slot with the controller of {holds}"),
            };
            needed.entry(address).or_insert(reason);
        }
    }
    needed
}

fn entries(inventory: &Inventory) -> impl Iterator<Item = &DeviceEntry> {
    inventory
        .banks()
        .flat_map(|(_, bank)| &bank.archives)
        .filter_map(|archive| archive.content.as_ref().ok())
        .flat_map(|content| &content.devices)
}

/// The devices that are passed through, for a message.
fn passed_through(inventory: &Inventory) -> String {
    let mut seen: Vec<String> = Vec::new();
    for entry in entries(inventory).filter(|entry| entry.passed_through) {
        let mut text = entry
            .address
            .map_or_else(|| entry.text.clone(), |address| address.to_string());
        if let Some(id) = entry.id {
            text = format!("{text} ({id})");
        }
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen.join(", ")
}
