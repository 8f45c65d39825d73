//! Marks that come back: boot scripts in the archives that pass a device through again at each start of
//! ESXi. They are said and never changed, for a script is a person's own text.

use super::judge::{Judge, Need};
use crate::config::boot_script::BootMark;
use crate::config::pci::Reading;
use crate::inventory::{Bank, DeviceEntry, Disk, Inventory, Place};

/// A line of a boot script, and what it does to ESXi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComesBack {
    /// Index of the disk in the inventory.
    pub disk: usize,
    /// Numbers of the partitions of the banks that hold it.
    pub partitions: Vec<u32>,
    /// The line.
    pub mark: BootMark,
    /// Whether ESXi needs the device; `None` where the line does not name one itself.
    pub need: Option<Need>,
}

impl ComesBack {
    /// Whether ESXi may miss the device, as far as is known.
    pub fn matters(&self) -> bool {
        !matches!(self.need, Some(Need::NotNeeded { .. } | Need::Absent))
    }

    /// Every such line of every archive, each once for each disk; what ESXi needs first.
    pub(super) fn of(inventory: &Inventory, judge: &Judge<'_>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (index, disk) in inventory.disks.iter().enumerate() {
            for (bank, mark) in marks(disk) {
                let same = |known: &&mut Self| known.disk == index && known.mark == *mark;
                match all.iter_mut().find(same) {
                    Some(known) if known.partitions.contains(&bank.partition) => {}
                    Some(known) => known.partitions.push(bank.partition),
                    None => all.push(Self {
                        disk: index,
                        partitions: vec![bank.partition],
                        mark: mark.clone(),
                        need: need(mark, judge),
                    }),
                }
            }
        }
        all.sort_by_key(|one| match one.need {
            Some(Need::Needed { .. }) => 0,
            Some(Need::Unknown { .. }) | None => 1,
            Some(Need::NotNeeded { .. } | Need::Absent) => 2,
        });
        all
    }
}

fn marks(disk: &Disk) -> impl Iterator<Item = (&Bank, &BootMark)> {
    disk.banks.iter().flat_map(|bank| {
        let archives = bank.archives.iter();
        let contents = archives.filter_map(|archive| archive.content.as_ref().ok());
        let marks = contents.flat_map(|content| &content.boot_marks);
        marks.map(move |mark| (bank, mark))
    })
}

/// The line is judged like an entry of the ConfigStore, which spells addresses the same.
fn need(mark: &BootMark, judge: &Judge<'_>) -> Option<Need> {
    let address = mark.device?;
    let entry = DeviceEntry {
        place: Place::ConfigStore(address.to_string()),
        text: address.to_string().into(),
        address: Some(address),
        reading: Reading::Hex,
        alternative: None,
        passed_through: true,
        id: None,
        class: None,
        vmkname: None,
    };
    let chosen = judge.why_needed(&entry);
    Some(match chosen {
        Some(what_for) => Need::Needed { what_for },
        None => judge.need(&entry),
    })
}
