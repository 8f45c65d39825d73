//! The result of the next start: which bank ESXi's loader boots, and which devices that ESXi needs are
//! passed through there.
//!
//! Success is claimed by this and by nothing else: by what the loader reads ([`crate::loader`]), for
//! every device that ESXi needs, whatever was selected.

use std::collections::{HashMap, HashSet};

use super::judge::{Judge, Kind, Verdict};
use super::{Action, DeviceIdentity, FileChange, Plan, newest};
use crate::config::pci::PciAddress;
use crate::fat::ShortName;
use crate::inventory::{Bank, Content, DeviceEntry, Disk, Inventory, Loaded, NextBoot};

/// What ESXi needs, by how an archive spells it.
#[derive(Debug, Default)]
pub(super) struct Needed(HashMap<(DeviceIdentity, &'static str), NeededDevice>);

#[derive(Debug, Clone)]
struct NeededDevice {
    why: Box<str>,
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
            .flat_map(|content| content.devices.iter());
        let passed_through = entries.filter(|entry| entry.passed_through);
        let needed = passed_through.filter_map(|entry| {
            let device = NeededDevice {
                why: judge.why_needed(entry)?.into(),
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
    /// Whether that bank is one that was accepted as a bank.
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
        let next = disk.boots_next;
        let changes = |bank: Option<usize>| match bank {
            Some(bank) if predicted => self.changes(index, bank),
            _ => &[],
        };
        // Where the loader finds no bank, it has none to offer either.
        let is_listed = match &disk.next_boot {
            NextBoot::Bank { ends, .. } => ends.iter().all(|(name, _)| name.is_some()),
            _ => true,
        };
        let mut start = NextStart {
            disk: index,
            partition: disk.next_boot.partition(),
            is_known_bank: next.is_some(),
            ends: None,
            passed_through: Vec::new(),
            unread: Vec::new(),
            unless: disk
                .unreadable
                .iter()
                .chain(&disk.loader_unread)
                .map(|(number, _)| *number)
                .collect(),
            other: disk
                .boots_after_rollback
                .filter(|_| is_listed)
                .filter(|other| {
                    self.gives_what_is_needed(&disk.banks[*other], changes(Some(*other)))
                })
                .map(|other| disk.banks[other].partition),
            newest_helps: is_listed
                && next.is_some_and(|next| newest::cures(disk, &disk.banks[next])),
        };
        let NextBoot::Bank { archives, ends, .. } = &disk.next_boot else {
            return start;
        };
        let changes = changes(next);
        let is_made = |name: ShortName| changes.iter().any(|change| change.name == name);
        let mut ends = ends.iter().filter(|(name, _)| !name.is_some_and(is_made));
        start.ends = ends.next().map(|(_, why)| why.clone());
        for change in changes {
            match &change.content {
                Some(content) => start.look_at(content, &self.needed),
                None => start.unread.push((
                    change.name.to_string(),
                    "only ESXi on its host can read it".into(),
                )),
            }
        }
        for loaded in archives {
            let (name, content) = match loaded {
                Loaded::Other(name, content) => (
                    *name,
                    content.as_ref().as_ref().map_err(ToString::to_string),
                ),
                Loaded::OfBank(own) => {
                    let archive = &disk.banks[next.unwrap_or_default()].archives[*own];
                    if is_made(archive.name) {
                        continue;
                    }
                    (
                        archive.name,
                        archive.content.as_ref().map_err(ToString::to_string),
                    )
                }
            };
            match content {
                Ok(content) => start.look_at(content, &self.needed),
                Err(why) => start.unread.push((name.to_string(), why)),
            }
        }
        start
    }

    /// The archives that the plan writes into a bank.
    fn changes(&self, disk: usize, bank: usize) -> &[FileChange] {
        let mut banks = self.banks.iter();
        match banks
            .find(|plan| (plan.disk, plan.bank) == (disk, bank))
            .map(|plan| &plan.action)
        {
            Some(Action::Replace(changes)) => changes,
            _ => &[],
        }
    }

    /// Whether ESXi has in a bank what it needs, once these changes are made.
    fn gives_what_is_needed(&self, bank: &Bank, changes: &[FileChange]) -> bool {
        let is_made = |name: ShortName| changes.iter().any(|change| change.name == name);
        let made = changes.iter().map(|change| change.content.as_ref());
        let kept = bank
            .archives
            .iter()
            .filter(|archive| !is_made(archive.name));
        let mut all = made
            .chain(kept.map(|archive| archive.content.as_ref().ok()))
            .peekable();
        let gives = |content: Option<&Content>| {
            content.is_some_and(|content| {
                let mut devices = content.devices.iter();
                !devices.any(|entry| self.needed.find(entry).is_some())
            })
        };
        let is_whole = bank.missing.iter().all(|name| is_made(*name));
        is_whole && all.peek().is_some() && all.all(gives)
    }
}

impl NextStart {
    fn look_at(&mut self, content: &Content, needed: &Needed) {
        let known = self.passed_through.iter();
        let mut seen: HashSet<String> = known.map(|still| still.device.clone()).collect();
        for entry in content.devices.iter() {
            let Some(device) = needed.find(entry) else {
                continue;
            };
            let address = device.choose_by.or(entry.address);
            let still = StillPassed {
                device: DeviceIdentity::of(entry.address, &entry.text).to_string(),
                choose_by: DeviceIdentity::of(address, &entry.text).to_string(),
                why_needed: device.why.to_string(),
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
