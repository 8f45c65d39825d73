//! Which of the disks that were found are one disk, and which hold the same as another one.
//!
//! One disk by several paths (boot from SAN, a dual-ported drive) is several disks to Linux, if nothing
//! unites them, and the second write by another path contradicts the first one. So disks are one
//! disk here if they report the same identity ([`DiskNode::has_identity_of`]) **and** show the same
//! content. Either alone proves nothing: cheap sticks share serial numbers, and a mirror shares content.
//!
//! The same installation on disks that are not one disk is on members of a mirror, or on an original
//! and its copies. Identified by the GUIDs of the banks' partitions and the UUIDs in VMware's marks,
//! which every copy of a disk has as well.
//!
//! Pure: nothing is read here. Not for: what follows from it, which is [`crate::plan`]'s.

use crate::disk::partition::{Guid, PartitionTable};
use crate::fat::ShortName;
use crate::host::{DiskNode, Host};
use crate::inventory::{Bank, Disk, Inventory, SameInstallation};

/// Unites the paths to one disk, and notes which disks hold the same installation.
pub fn relate(inventory: &mut Inventory, host: &Host) {
    unite(&mut inventory.disks, host);
    inventory.same_installations = same_installations(&inventory.disks, host);
}

/// Leaves of each disk the entry of its first path, which names the others.
fn unite(disks: &mut Vec<Disk>, host: &Host) {
    let mut one_each: Vec<Disk> = Vec::new();
    for disk in disks.drain(..) {
        let same = |known: &&mut Disk| is_one_disk(known, &disk, host);
        match one_each.iter_mut().find(same) {
            Some(known) => {
                known.other_paths.push(disk.path);
                known.in_use.extend(disk.in_use);
            }
            None => one_each.push(disk),
        }
    }
    *disks = one_each;
}

fn is_one_disk(one: &Disk, other: &Disk, host: &Host) -> bool {
    let [Some(node), Some(other_node)] = [one, other].map(|disk| host.disk(&disk.path)) else {
        return false;
    };
    // Sticks and cards have one path, and many of them the same serial number.
    !host.is_removable(node)
        && !host.is_removable(other_node)
        && node.has_identity_of(other_node)
        && has_content_of(one, other, in_place)
}

/// Whether two disks show the same: the same table, and the same banks with the same files. `files`
/// is what counts of those.
fn has_content_of(one: &Disk, other: &Disk, files: Files) -> bool {
    let (Ok(table), Ok(other_table)) = (&one.table, &other.table) else {
        return false;
    };
    one.size == other.size
        && is_identified(table)
        && table == other_table
        && one.unreadable == other.unreadable
        && one.suspects == other.suspects
        && one.banks.len() == other.banks.len()
        && one.banks.iter().zip(&other.banks).all(|(one, other)| {
            one.partition == other.partition
                && one.marker == other.marker
                && one.boot_cfg == other.boot_cfg
                && files(one) == files(other)
        })
}

/// Whether a table has anything by which it differs from the table of any other disk.
fn is_identified(table: &PartitionTable) -> bool {
    let guids = table.partitions.iter().filter_map(|one| one.guid);
    table.disk_signature.is_some_and(|signature| signature != 0)
        || guids.into_iter().any(|guid| !guid.is_nil())
}

/// Files of a bank by name and hash.
type Files = fn(&Bank) -> Vec<(ShortName, Option<&str>)>;

/// Every archive and every copy of one.
fn in_place(bank: &Bank) -> Vec<(ShortName, Option<&str>)> {
    let mut files = Vec::new();
    for archive in &bank.archives {
        files.push((archive.name, archive.sha256.as_deref()));
        for copy in archive.undo.iter().chain(&archive.set_aside) {
            let content = copy.content.as_ref().ok();
            files.push((copy.entry.name(), content.map(|one| one.sha256.as_str())));
        }
    }
    files
}

/// Every archive as it was before a repair: of a mirror one member may be repaired and the other one
/// not yet, if power failed in between.
fn before_repair(bank: &Bank) -> Vec<(ShortName, Option<&str>)> {
    let files = bank.archives.iter().map(|archive| {
        let undo = archive.undo.as_ref().filter(|undo| undo.belongs);
        let original = undo.and_then(|undo| undo.content.as_ref().ok());
        let hash = original.map(|original| &original.sha256);
        (
            archive.name,
            hash.or(archive.sha256.as_ref()).map(String::as_str),
        )
    });
    files.collect()
}

fn same_installations(disks: &[Disk], host: &Host) -> Vec<SameInstallation> {
    let mut groups: Vec<(Installation, Vec<usize>)> = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let Some(installation) = Installation::on(disk) else {
            continue;
        };
        match groups.iter_mut().find(|(known, _)| *known == installation) {
            Some((_, members)) => members.push(index),
            None => groups.push((installation, vec![index])),
        }
    }
    groups
        .into_iter()
        .filter(|(_, members)| members.len() > 1)
        .map(|(_, members)| SameInstallation {
            originals: originals(&members, disks, host),
            disks: members,
        })
        .collect()
}

/// What identifies an installation of ESXi and all its copies.
#[derive(Debug, PartialEq, Eq)]
struct Installation {
    disk_signature: Option<u32>,
    /// Number, GUID and UUID in VMware's mark of each bank.
    banks: Vec<(u32, Option<Guid>, [u8; 16])>,
}

impl Installation {
    fn on(disk: &Disk) -> Option<Self> {
        let table = disk.table.as_ref().ok()?;
        let guid = |number: u32| {
            let mut partitions = table.partitions.iter();
            partitions.find(|one| one.number == number)?.guid
        };
        let banks = disk.banks.iter();
        let banks = banks.map(|bank| (bank.partition, guid(bank.partition), bank.marker.uuid));
        (!disk.banks.is_empty() && is_identified(table)).then(|| Self {
            disk_signature: table.disk_signature,
            banks: banks.collect(),
        })
    }
}

/// The disks that ESXi starts from, of those that hold one installation: the only one that is built
/// in, or the members of a mirror; none where that is not known.
fn originals(members: &[usize], disks: &[Disk], host: &Host) -> Vec<usize> {
    let node = |index: &usize| host.disk(&disks[*index].path);
    let is_built_in = |index: &&usize| node(index).is_some_and(|node| !host.is_removable(node));
    let built_in: Vec<usize> = members.iter().filter(is_built_in).copied().collect();
    let Some((first, others)) = built_in.split_first() else {
        return Vec::new();
    };
    let nodes = |other: &usize| Some((node(first)?, node(other)?));
    let mirrors_first = |other: &usize| {
        let on_same_kind = |(first, other): (&DiskNode, &DiskNode)| {
            let kinds = host.kinds_of_controllers(first);
            !kinds.is_empty() && kinds == host.kinds_of_controllers(other)
        };
        nodes(other).is_some_and(on_same_kind)
            && has_content_of(&disks[*first], &disks[*other], before_repair)
    };
    let copies = members.iter().filter(|index| !built_in.contains(index));
    let is_newer = |copy: &usize| saves(&disks[*copy]) > saves(&disks[*first]);
    match others.iter().all(mirrors_first) && !copies.into_iter().any(is_newer) {
        true => built_in,
        false => Vec::new(),
    }
}

/// How often the newest configuration on a disk had been saved. ESXi saves to the disk that it starts
/// from: what has been saved more often than another disk is no copy of that one.
fn saves(disk: &Disk) -> Option<u64> {
    let archives = disk.banks.iter().flat_map(|bank| &bank.archives);
    let contents = archives.filter_map(|archive| archive.content.as_ref().ok());
    let saved = contents.filter_map(|content| content.saved.as_ref());
    saved.map(|saved| saved.count).max()
}
