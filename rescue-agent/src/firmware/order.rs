//! Which of several disks with boot banks the firmware starts first, by its own boot order.
//!
//! The order holds entries; an entry is a disk's if its device path names the disk's EFI system
//! partition. What has no such entry is not known to the order: firmware may have it as a whole disk.
//! Nothing is claimed then.

use std::path::Path;

use super::load_option::LoadOption;
use super::variables::{BootNumber, Variables};
use super::{Home, UEFI, homes_of};
use crate::inventory::Inventory;

/// Notes the boot entry of each disk with boot banks, and which disk comes first.
pub fn note(root: &Path, inventory: &mut Inventory) {
    if !root.join(UEFI).is_dir() {
        return;
    }
    let variables = Variables::below(root);
    let (Ok(order), Ok(entries)) = (variables.boot_order(), variables.entries()) else {
        return;
    };
    let next = variables.boot_next().ok().flatten();
    let order: Vec<BootNumber> = next.into_iter().chain(order).collect();
    let mut ranks = Vec::new();
    for (index, disk) in inventory.disks.iter_mut().enumerate() {
        let homes = match disk.banks.is_empty() {
            true => Vec::new(),
            false => homes_of(disk),
        };
        if let Some((rank, number, entry)) = entry_of(&homes, &order, &entries) {
            disk.boot_entry = Some(format!("{number} \"{}\"", entry.description));
            ranks.push((rank, index));
        }
    }
    inventory.starts_first = first(ranks);
}

/// The disk with the first place in the order. Copies of a disk have the same partition GUID, so that
/// one entry is the entry of all of them, and none of them is known to be the first.
fn first(mut ranks: Vec<(usize, usize)>) -> Option<usize> {
    ranks.sort_unstable();
    match ranks.as_slice() {
        [(first, _), (second, _), ..] if first == second => None,
        [(_, disk), ..] => Some(*disk),
        [] => None,
    }
}

/// The first entry of the order that leads to one of `homes`, and its place there.
pub(super) fn entry_of<'e>(
    homes: &[Home],
    order: &[BootNumber],
    entries: &'e [(BootNumber, LoadOption)],
) -> Option<(usize, BootNumber, &'e LoadOption)> {
    let leads_here = |entry: &LoadOption| {
        let id = entry.path.drive.and_then(|drive| drive.id);
        id.is_some_and(|id| homes.iter().any(|home| home.id == id))
    };
    order.iter().enumerate().find_map(|(rank, number)| {
        let (_, entry) = entries.iter().find(|(known, _)| known == number)?;
        let is_it = entry.is_active() && entry.is_for_booting() && leads_here(entry);
        is_it.then_some((rank, *number, entry))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_disk_of_the_order_is_known_only_if_its_entry_is_its_own() {
        assert_eq!(first(vec![(4, 0), (1, 2)]), Some(2));
        assert_eq!(first(vec![(1, 0), (1, 2), (3, 1)]), None);
        assert_eq!(first(vec![(0, 1), (3, 0), (3, 2)]), Some(1));
        assert_eq!(first(Vec::new()), None);
    }
}
