//! What the next start comes to: which bank ESXi's loader boots, and which devices that ESXi needs are
//! passed through there.
//!
//! Success is claimed by this and by nothing else: by what the loader reads ([`crate::loader`]), for
//! every device that ESXi needs, whatever was selected.

use std::collections::{HashMap, HashSet};

use super::judge::{Judge, Kind, Verdict};
use super::{Action, DeviceIdentity, Plan};
use crate::config::pci::PciAddress;
use crate::inventory::{
    ArchiveFile, Bank, Content, DeviceEntry, Disk, Inventory, Loaded, NextBoot,
};

/// What ESXi needs, by how an archive spells it.
#[derive(Debug, Default)]
pub(super) struct Needed(HashMap<(DeviceIdentity, &'static str), NeededDevice>);

#[derive(Debug, Clone)]
struct NeededDevice {
    why: String,
    verdict: Verdict,
    choose_by: Option<PciAddress>,
    kind: Kind,
}

impl Needed {
    /// Every device of any archive that ESXi needs.
    pub(super) fn of(inventory: &Inventory, judge: &Judge<'_>) -> Self {
        let archives = inventory.banks().flat_map(|(_, bank)| &bank.archives);
        let own = archives.filter_map(|archive| archive.content.as_ref().ok());
        let others = inventory
            .disks
            .iter()
            .flat_map(|disk| match &disk.next_boot {
                NextBoot::Bank { archives, .. } => archives.as_slice(),
                NextBoot::NoBank => &[],
            });
        let others = others.filter_map(|loaded| match loaded {
            Loaded::Other(_, content) => content.as_ref().as_ref().ok(),
            Loaded::OfBank(_) => None,
        });
        let entries = own
            .chain(others)
            .chain(judge.given())
            .flat_map(|content| &content.devices);
        let passed_through = entries.filter(|entry| entry.passed_through);
        let needed = passed_through.filter_map(|entry| {
            let device = NeededDevice {
                why: judge.why_needed(entry)?,
                verdict: judge.judge(entry).0,
                choose_by: judge.choose_by(entry),
                kind: judge.kind(entry),
            };
            Some((key(entry), device))
        });
        Self(needed.collect())
    }

    fn find(&self, entry: &DeviceEntry) -> Option<&NeededDevice> {
        self.0.get(&key(entry)).filter(|_| entry.passed_through)
    }
}

fn key(entry: &DeviceEntry) -> (DeviceIdentity, &'static str) {
    let identity = DeviceIdentity::of(entry.address, &entry.text);
    (identity, entry.place.file())
}

/// What the next start from a disk comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextStart {
    /// Index of the disk in the inventory.
    pub disk: usize,
    /// Number of the partition of the bank that boots; `None`: the loader finds none.
    pub partition: Option<u32>,
    /// Whether that bank is one that was taken for a bank.
    pub is_known_bank: bool,
    /// Why its start ends with an error of the loader.
    pub ends: Option<String>,
    /// Devices that ESXi needs and that are passed through there, controllers of disks first.
    pub passed_through: Vec<StillPassed>,
    /// Archives that it loads and that could not be read, by name, and why.
    pub unread: Vec<(String, String)>,
    /// Partitions that could not be read, any of which may boot instead.
    pub unless: Vec<u32>,
    /// Number of the partition of the bank that Shift+R at the loader starts, if that one gives ESXi
    /// every device that it needs.
    pub other: Option<u32>,
    /// Whether `--source newest` can give the bank a sound archive of another bank.
    pub newest_helps: bool,
}

/// A device that ESXi needs and that the bank that boots next passes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StillPassed {
    /// Its address.
    pub device: String,
    /// What ESXi needs it for.
    pub why_needed: String,
    /// Why it stays so.
    pub cause: Cause,
    /// The address by which it can be chosen.
    pub choose_by: String,
    /// What kind of device it is.
    pub kind: Kind,
}

/// Why a device that ESXi needs stays passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The request leaves it.
    LeftByRequest,
    /// Which device the archive means cannot be determined.
    Unsure,
    /// The bank was not repaired.
    NotRepaired,
}

impl NextStart {
    /// Whether ESXi starts, and has every device that it needs.
    pub fn is_good(&self) -> bool {
        self.partition.is_some()
            && self.is_known_bank
            && self.ends.is_none()
            && self.passed_through.is_empty()
            && self.unread.is_empty()
            && self.unless.is_empty()
    }
}

impl Plan {
    /// What the next start from each disk with banks comes to. `inventory` is what there is now: found
    /// afresh after a run. With `predicted`, it is what there will be once the plan is carried out.
    pub fn next_starts(&self, inventory: &Inventory, predicted: bool) -> Vec<NextStart> {
        let disks = inventory.disks.iter().enumerate();
        let bootable = disks
            .filter(|(_, disk)| !disk.banks.is_empty() || disk.next_boot.partition().is_some());
        bootable
            .map(|(index, disk)| self.next_start(index, disk, predicted))
            .collect()
    }

    fn next_start(&self, index: usize, disk: &Disk, predicted: bool) -> NextStart {
        let mut start = NextStart {
            disk: index,
            partition: disk.next_boot.partition(),
            is_known_bank: disk.boots_next.is_some(),
            ends: None,
            passed_through: Vec::new(),
            unread: Vec::new(),
            unless: disk
                .unreadable
                .iter()
                .chain(&disk.loader_unread)
                .map(|(number, _)| *number)
                .collect(),
            other: self.sound_other(disk),
            newest_helps: disk.boots_next.is_some_and(|next| newest_helps(disk, next)),
        };
        let NextBoot::Bank { archives, ends, .. } = &disk.next_boot else {
            return start;
        };
        start.ends.clone_from(ends);
        for loaded in archives {
            match self.content(index, disk, loaded, predicted) {
                Ok(content) => start.look_at(content, &self.needed),
                Err(unread) => start.unread.push(unread),
            }
        }
        start
    }

    /// The bank that Shift+R starts, if ESXi has there what it needs.
    fn sound_other(&self, disk: &Disk) -> Option<u32> {
        let bank = &disk.banks[disk.boots_after_rollback?];
        let sound = |archive: &ArchiveFile| {
            let content = archive.content.as_ref();
            content.is_ok_and(|content| {
                let mut devices = content.devices.iter();
                !devices.any(|entry| self.needed.find(entry).is_some())
            })
        };
        let is_sound = !bank.archives.is_empty() && bank.archives.iter().all(sound);
        is_sound.then_some(bank.partition)
    }

    /// What an archive says that the loader hands to ESXi.
    fn content<'c>(
        &'c self,
        index: usize,
        disk: &'c Disk,
        loaded: &'c Loaded,
        predicted: bool,
    ) -> Result<&'c Content, (String, String)> {
        let (own, next) = match loaded {
            Loaded::Other(name, content) => {
                return content
                    .as_ref()
                    .as_ref()
                    .map_err(|why| (name.to_string(), why.clone()));
            }
            Loaded::OfBank(own) => (*own, disk.boots_next.unwrap_or_default()),
        };
        let planned = self
            .banks
            .iter()
            .find(|bank| predicted && (bank.disk, bank.bank) == (index, next));
        if let Some(Action::Replace(changes)) = planned.map(|bank| &bank.action)
            && let Some(change) = changes.iter().find(|change| change.archive == Some(own))
        {
            let sealed = || {
                let why = "only ESXi on its host can read it";
                (change.name.to_string(), why.to_owned())
            };
            return change.content.as_ref().ok_or_else(sealed);
        }
        let archive = &disk.banks[next].archives[own];
        let content = archive.content.as_ref();
        content.map_err(|why| (archive.name.to_string(), why.to_string()))
    }
}

/// Whether a bank whose own archive is of no use can take that of another bank of the disk: the same
/// build of ESXi, and an archive that can be read.
pub(super) fn newest_helps(disk: &Disk, bank: usize) -> bool {
    let build = &disk.banks[bank].boot_cfg.build;
    let same_build = disk
        .banks
        .iter()
        .all(|other| other.boot_cfg.build == *build);
    let is_read = |bank: &Bank| {
        let first = bank.archives.first();
        first.is_some_and(|archive| archive.content.is_ok())
    };
    let bank = &disk.banks[bank];
    // A file that the disk does not let be read is not replaced: the disk is failing.
    let first = bank.archives.first();
    let is_damaged = first.is_some_and(|archive| {
        archive.raw.is_some() && archive.content.is_err() && !archive.lacks_its_key()
    });
    same_build && is_damaged && disk.banks.iter().any(is_read)
}

impl NextStart {
    fn look_at(&mut self, content: &Content, needed: &Needed) {
        let known = self.passed_through.iter();
        let mut seen: HashSet<String> = known.map(|still| still.device.clone()).collect();
        for entry in &content.devices {
            let Some(device) = needed.find(entry) else {
                continue;
            };
            let address = device.choose_by.or(entry.address);
            let still = StillPassed {
                device: DeviceIdentity::of(entry.address, &entry.text).to_string(),
                choose_by: DeviceIdentity::of(address, &entry.text).to_string(),
                why_needed: device.why.clone(),
                cause: match device.verdict {
                    Verdict::GiveBack => Cause::NotRepaired,
                    Verdict::Leave => Cause::LeftByRequest,
                    Verdict::Stale | Verdict::Unsure => Cause::Unsure,
                },
                kind: device.kind,
            };
            if seen.insert(still.device.clone()) {
                self.passed_through.push(still);
            }
        }
        self.passed_through.sort_by_key(|still| still.kind);
    }
}
