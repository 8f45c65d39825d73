//! The newest archive of a disk: which one that is, and which banks it cures.

use super::refusal::BankRefusal;
use super::{Decision, refuse};
use crate::bank::Standing;
use crate::fat::ShortName;
use crate::inventory::{ArchiveFile, Bank, Content, Disk};

/// An archive that can be read, with what it says and the partition of its bank.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newest<'d> {
    pub(super) partition: u32,
    pub(super) archive: &'d ArchiveFile,
    pub(super) content: &'d Content,
}

/// The archive that replaces `name` in every bank of the disk.
pub(super) fn of(disk: &Disk, name: ShortName) -> Decision<Newest<'_>> {
    let mut builds = disk.banks.iter().map(|bank| &bank.boot_cfg.build);
    let first = builds.next();
    if builds.any(|build| Some(build) != first) {
        return Err(refuse(&BankRefusal::BuildsDiffer));
    }
    find(disk, name).ok_or_else(|| refuse(&BankRefusal::NoReadableArchive))
}

/// The archive that ESXi saved last: by its own counter, then by the file's time.
fn find(disk: &Disk, name: ShortName) -> Option<Newest<'_>> {
    let all = disk.banks.iter().flat_map(|bank| {
        let archives = bank.archives.iter();
        archives.map(|archive| (bank.partition, archive))
    });
    all.filter(|(_, archive)| archive.name == name)
        .filter_map(|(partition, archive)| {
            Some(Newest {
                partition,
                archive,
                content: archive.content.as_ref().ok()?,
            })
        })
        .max_by_key(|newest| {
            let saved = newest.content.saved.as_ref();
            (saved.map(|saved| saved.count), newest.archive.modified)
        })
}

/// The place of a bank that the newest archive takes: the one of its configuration, also where that is
/// missing. A bank that its bootstate rules out gets none: ESXi does not start from it.
pub(super) fn place(bank: &Bank) -> Option<ShortName> {
    let names = bank.archives.iter().map(|archive| archive.name);
    let missing = bank.missing.iter().copied().filter(|_| may_start(bank));
    let is_configuration = |name: &ShortName| *name != ShortName::ONETIME;
    names.chain(missing).find(is_configuration)
}

/// Whether the bank is not ruled out by its bootstate, as the spare bank of a fresh installation is.
pub(super) fn may_start(bank: &Bank) -> bool {
    !matches!(bank.standing, Standing::BadState(_))
}

/// Whether the bank's own archive cannot be used, and the newest one can replace it.
pub fn cures(disk: &Disk, bank: &Bank) -> bool {
    let Some(name) = place(bank) else {
        return false;
    };
    let own = bank.archives.iter().find(|archive| archive.name == name);
    // A file that the disk does not let be read is not replaced: the disk is failing. One that is only
    // sealed is of use to its host.
    let is_damaged =
        |own: &ArchiveFile| own.raw.is_some() && own.content.is_err() && !own.lacks_its_key();
    let of_no_use = own.is_none_or(is_damaged);
    let bytes = |newest: Newest<'_>| newest.archive.raw.as_ref().map_or(0, Vec::len);
    let has_room = |newest| {
        let volume = bank.volume.as_ref();
        volume.is_ok_and(|volume| volume.room_for(bytes(newest)).is_ok())
    };
    of_no_use && disk.in_use.is_empty() && of(disk, name).is_ok_and(has_room)
}
