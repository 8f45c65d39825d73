//! Planning for an archive that was given from outside: whether it belongs to a disk, as far as can be told,
//! and what goes into each bank.
//!
//! One that can be read is edited like a bank's own; one that only its host opens is taken as it is.

use super::doubt::Doubt;
use super::judge::Judge;
use super::refusal::BankRefusal;
use super::{
    Action, Decision, DeviceChange, FileChange, Target, change_to, edit, finish, is_unsealed,
    missing_in, newest, no_archive, nothing, refuse,
};
use crate::archive::{Seal, StateArchive};
use crate::import::Given;
use crate::inventory::{ArchiveFile, Bank, Content, Disk};

/// A given archive, and whether a person confirms that it is from this host.
#[derive(Debug, Clone, Copy)]
pub struct Import<'g> {
    /// The archive.
    pub given: &'g Given,
    /// It is taken even where it cannot be shown that it belongs to the host.
    pub trusted: bool,
}

impl Import<'_> {
    /// What is done with one bank.
    pub(super) fn bank(self, disk: &Disk, bank: &Bank, judge: &Judge<'_>) -> Decision<Action> {
        let given = self.given;
        let Some(name) = newest::place(bank) else {
            return Err(no_archive(disk, bank));
        };
        let build = |bank: &Bank| bank.boot_cfg.build.clone().unwrap_or_default();
        let next = disk.boots_next.map(|next| build(&disk.banks[next]));
        if next.is_some_and(|next| next != build(bank)) {
            return Err(nothing(format!(
                "it holds another build of ESXi ({}) than the bank that boots next",
                build(bank)
            )));
        }
        if name != given.name {
            return Err(refuse(&BankRefusal::OtherKind {
                name: name.to_string(),
                given: given.name.to_string(),
            }));
        }
        let doubt = self.doubt(disk, &build(bank));
        if let Some(doubt) = doubt.filter(|_| !self.trusted) {
            return Err(refuse(&BankRefusal::Doubtful(doubt)));
        }
        let mut own = bank.archives.iter().enumerate();
        let own = own.find(|(_, archive)| archive.name == name);
        let target = Target::of(name, own)?;
        let change = match &given.content {
            Ok(content) => {
                let (edit, devices) = edit(content, judge);
                if own.is_some_and(|(_, own)| is_there_repaired(own, given, content, &devices)) {
                    return Err(nothing(format!(
                        "{} is in it already, repaired",
                        given.place
                    )));
                }
                if devices.is_empty() && !content.uncompressed {
                    as_it_is(target, given, Some(content))
                } else {
                    change_to(target, (&given.bytes, content), judge, &edit, devices)?
                }
            }
            Err(_) => as_it_is(target, given, None),
        };
        if change.before == change.after {
            return Err(nothing(format!("{} is in it already", given.place)));
        }
        finish(bank, judge, vec![change])
    }

    /// Why it is not certain that the archive may go into this bank.
    fn doubt(self, disk: &Disk, build: &str) -> Option<Doubt> {
        let given = self.given;
        let place = || given.place.clone();
        let sealed = |seal: Option<&Seal>| seal.is_some_and(Seal::is_closed);
        let mut on_disk = disk.banks.iter().flat_map(|bank| &bank.archives);
        let doubt = match &given.content {
            Err(seal) => other_key(given, seal, disk),
            Ok(content) if on_disk.any(|archive| is_unsealed(content, archive)) => {
                Some(Doubt::NotSealed { place: place() })
            }
            Ok(content) if sealed(content.seal.as_ref()) => {
                let seal = content.seal.as_ref();
                let doubt = seal.and_then(|seal| other_key(given, seal, disk));
                doubt.and(other_host(given, content, disk))
            }
            Ok(content) => other_host(given, content, disk),
        };
        let fits = given.manifest.as_ref().map(|manifest| manifest.fits(build));
        doubt.or_else(|| match fits {
            Some(Some(false)) => Some(Doubt::OtherBuild {
                place: place(),
                build: build.to_owned(),
            }),
            Some(None) => Some(Doubt::NoManifest { place: place() }),
            Some(Some(true)) | None => None,
        })
    }
}

/// Whether the keys of the disk's archives speak against a sealed one.
fn other_key(given: &Given, seal: &Seal, disk: &Disk) -> Option<Doubt> {
    let place = given.place.clone();
    let archives = disk.banks.iter().flat_map(|bank| &bank.archives);
    let seals = archives.filter_map(|archive| archive.seal());
    let keys: Vec<&String> = seals.filter_map(|seal| seal.key_id.as_ref()).collect();
    match (&seal.key_id, keys.first()) {
        (Some(key), Some(_)) if keys.contains(&key) => None,
        (Some(key), Some(here)) => Some(Doubt::OtherKey {
            place,
            given: key.clone(),
            here: (*here).clone(),
        }),
        _ => Some(Doubt::Unknown { place }),
    }
}

/// Whether what a readable archive says of its host speaks against it: the system's UUID, else the bank
/// that it was saved in, else the host's name.
fn other_host(given: &Given, content: &Content, disk: &Disk) -> Option<Doubt> {
    let place = || given.place.clone();
    let archives = disk.banks.iter().flat_map(|bank| &bank.archives);
    let here: Vec<&Content> = archives
        .filter_map(|one| one.content.as_ref().ok())
        .collect();
    let differs = |what, given: &str, here: &[String]| {
        let same = here.iter().any(|here| here.eq_ignore_ascii_case(given));
        let first = here.first().filter(|_| !same)?;
        Some(Doubt::OtherHost {
            place: place(),
            what,
            given: given.to_owned(),
            here: first.clone(),
        })
    };
    let markers = disk.banks.iter().map(|bank| bank.marker.hex32());
    let all = |pick: fn(&Content) -> Option<&String>| {
        here.iter()
            .filter_map(|one| pick(one).cloned())
            .collect::<Vec<_>>()
    };
    let evidence = [
        (
            "system UUID",
            content.identity.system_uuid.as_ref(),
            all(|one| one.identity.system_uuid.as_ref()),
        ),
        ("boot bank", content.store_bank.as_ref(), markers.collect()),
        (
            "name",
            content.identity.host_name.as_ref(),
            all(|one| one.identity.host_name.as_ref()),
        ),
    ];
    let mut known = evidence.iter().filter(|(_, _, here)| !here.is_empty());
    match known.find_map(|(what, given, here)| Some((*what, (*given)?, here))) {
        Some((what, given, here)) => differs(what, given, here),
        None => Some(Doubt::Unknown { place: place() }),
    }
}

/// Whether the archive in a bank is what a repair makes of the given one. Its bytes do not say so: the
/// ConfigStore notes when it was changed.
fn is_there_repaired(
    own: &ArchiveFile,
    given: &Given,
    content: &Content,
    devices: &[DeviceChange],
) -> bool {
    let (Some(raw), Ok(in_place)) = (&own.raw, &own.content) else {
        return false;
    };
    let key = content.recovery_key.as_ref();
    let opened = |raw: &[u8]| StateArchive::open_with(raw, key).ok();
    let (Some(now), Some(original)) = (opened(raw), opened(&given.bytes)) else {
        return false;
    };
    now.is_made_from(&original) && missing_in(devices, in_place).is_empty()
}

fn as_it_is(target: Target, given: &Given, content: Option<&Content>) -> FileChange {
    FileChange {
        archive: target.archive,
        name: target.name,
        replaced: target.replaced,
        before: target.before,
        made_from: given.sha256.clone(),
        new: given.bytes.clone(),
        after: given.sha256.clone(),
        devices: Vec::new(),
        content: content.cloned(),
        taken_from: None,
    }
}
