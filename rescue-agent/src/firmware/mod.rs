//! The firmware: which disk it starts first ([`order`]), and the way back.
//!
//! The way back: after the work the machine is to start ESXi, and not this medium once more.
//!
//! On UEFI the next start, and only that, is directed to the boot entry of the ESXi disk
//! (`BootNext`). The entry is known by the partition in its device path, which must be the EFI
//! system partition of a disk that holds boot banks; names are free text and prove nothing. Where
//! that cannot be done, and on BIOS, the medium itself remembers that this host is done, and its boot
//! menu hands over to the local disk once; a CD or a boot from the network cannot remember anything.
//!
//! Nothing here touches an ESXi disk, and whatever fails changes no result: the worst that can happen
//! is that the medium starts again, finds nothing to do and restarts.
//!
//! Sources: UEFI specification 2.10, section 3.1 (boot manager) and 3.3 (boot variables).

pub mod device_path;
pub mod load_option;
pub mod order;
pub mod variables;

use std::fmt;
use std::path::Path;

use serde::Serialize;
use thiserror::Error;

use crate::disk::partition::{Partition, PartitionKind, PartitionTable};
use crate::inventory::{Disk, Inventory};
use crate::settings::BootNext;
use device_path::{DevicePath, HardDrive, PartitionId};
use load_option::LoadOption;
use variables::{BootNumber, VariableError, Variables};

/// The folder that exists where the firmware is UEFI, relative to `/`.
pub const UEFI: &str = "sys/firmware/efi";
/// The folder of its variables, relative to `/`: the mount point of efivarfs.
pub const VARIABLES: &str = "sys/firmware/efi/efivars";

/// The boot program of an entry made here: where firmware looks by itself on every disk, and where
/// ESXi's installer puts its loader (UEFI specification 2.10, section 3.5.1.1).
const LOADER: &str = "\\EFI\\BOOT\\BOOTX64.EFI";
/// The name of an entry made here.
const DESCRIPTION: &str = "VMware ESXi (esxi-rescue)";
/// The last number of a primary partition of an MBR disk. Firmware looks into no others.
const LAST_PRIMARY: u32 = 4;

/// What the firmware says of this start and Secure Boot (UEFI specification 2.10, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBoot {
    /// What was started was verified.
    On,
    /// It was not, although the firmware can.
    Off,
    /// The machine was not started by UEFI, or the firmware does not say.
    Unknown,
}

impl SecureBoot {
    /// What the firmware of the machine below `root` says.
    pub fn of(root: &Path) -> Self {
        match Variables::below(root).secure_boot() {
            Ok(Some(true)) => Self::On,
            Ok(Some(false)) => Self::Off,
            Ok(None) | Err(_) => Self::Unknown,
        }
    }
}

/// By what the next start gets to ESXi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// By the firmware's `BootNext`.
    BootNext,
    /// By the boot menu of the medium, which remembers this host.
    Medium,
    /// By nothing of ours: the firmware does what it does.
    Nothing,
}

/// How the next start gets to ESXi, as the report says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WayBack {
    /// By what.
    pub by: By,
    /// The boot entry, such as `Boot0004`.
    pub entry: Option<String>,
    /// The entry's name in the firmware's menu.
    pub description: Option<String>,
    /// Whether the entry was made by this run.
    pub created: bool,
    /// The same in a sentence.
    pub text: String,
}

/// What is done about the next start, or why nothing is, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Way {
    /// The firmware takes the disk's entry.
    #[error("the next start is ESXi from {home}, by {entry} \"{description}\".")]
    BootNext {
        /// The disk's EFI system partition.
        home: String,
        /// The entry.
        entry: String,
        /// Its name in the firmware's menu.
        description: String,
    },
    /// The same, and there was no entry before.
    #[error("the next start is ESXi from {home}, by {entry}, an entry made now.")]
    MadeEntry {
        /// The disk's EFI system partition.
        home: String,
        /// The entry.
        entry: String,
    },
    /// The medium remembers the host.
    #[error("if started again, this medium starts the local disk, once.")]
    Medium,
    /// The same, because the firmware could not be told.
    #[error("{why}; if started again, this medium starts the local disk, once.")]
    MediumInstead {
        /// Why the firmware could not be told.
        why: String,
    },
    /// On BIOS nothing remembers.
    #[error(
        "{why}. Remove the medium, or the BIOS may start it again; it then finds nothing to do."
    )]
    PullIt {
        /// Why the medium does not.
        why: String,
    },
    /// The firmware's order brings the medium once more.
    #[error(
        "{why}. The firmware's boot order begins with what was started now, {first}: remove the medium, or it starts again."
    )]
    MediumFirst {
        /// Why the firmware could not be told.
        why: String,
        /// The first entry of the order.
        first: String,
    },
    /// The firmware's order begins with something else.
    #[error("{why}. The firmware uses its own boot order, which begins with {first}.")]
    OwnOrder {
        /// Why the firmware could not be told.
        why: String,
        /// The first entry of the order.
        first: String,
    },
    /// The firmware reports no order.
    #[error("{why}. The firmware decides what starts next: remove the medium if it starts again.")]
    Unknown {
        /// Why the firmware could not be told.
        why: String,
    },
    /// A setting said so.
    #[error("left to the firmware (bootnext=off).")]
    Off,
}

impl From<Way> for WayBack {
    fn from(way: Way) -> Self {
        let text = way.to_string();
        let by = match way {
            Way::BootNext { .. } | Way::MadeEntry { .. } => By::BootNext,
            Way::Medium | Way::MediumInstead { .. } => By::Medium,
            _ => By::Nothing,
        };
        let created = matches!(way, Way::MadeEntry { .. });
        let (entry, description) = match way {
            Way::BootNext {
                entry, description, ..
            } => (Some(entry), Some(description)),
            Way::MadeEntry { entry, .. } => (Some(entry), Some(DESCRIPTION.to_owned())),
            _ => (None, None),
        };
        Self {
            by,
            entry,
            description,
            created,
            text,
        }
    }
}

/// The EFI system partition of a disk that holds boot banks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    name: String,
    id: PartitionId,
    drive: HardDrive,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The boot entry that was decided on.
#[derive(Debug)]
struct Chosen {
    number: BootNumber,
    description: String,
    home: Home,
    created: bool,
}

impl From<Chosen> for Way {
    fn from(chosen: Chosen) -> Self {
        let (home, entry) = (chosen.home.to_string(), chosen.number.to_string());
        match chosen.created {
            true => Self::MadeEntry { home, entry },
            false => Self::BootNext {
                home,
                entry,
                description: chosen.description,
            },
        }
    }
}

/// Sees to it that the next start of the machine below `root` is ESXi, and says what was done.
///
/// `remember` has the medium remember that this host is done, or says why it cannot. It is asked
/// where the firmware's next start cannot be set, so that never both are waiting: what is left over would
/// surprise somebody later.
pub fn lead_back<E: fmt::Display>(
    root: &Path,
    setting: BootNext,
    inventory: &Inventory,
    remember: &mut dyn FnMut() -> Result<(), E>,
) -> WayBack {
    way(root, setting, inventory, remember).into()
}

fn way<E: fmt::Display>(
    root: &Path,
    setting: BootNext,
    inventory: &Inventory,
    remember: &mut dyn FnMut() -> Result<(), E>,
) -> Way {
    if setting == BootNext::Off {
        return Way::Off;
    }
    if !root.join(UEFI).is_dir() {
        return match remember() {
            Ok(()) => Way::Medium,
            Err(why) => Way::PullIt {
                why: why.to_string(),
            },
        };
    }
    let variables = Variables::below(root);
    let why = match set_boot_next(&variables, setting, &homes(inventory)) {
        Ok(chosen) => return chosen.into(),
        Err(why) => why.to_string(),
    };
    match remember() {
        Ok(()) => Way::MediumInstead { why },
        Err(_) => own_order(&variables, why),
    }
}

/// Why `BootNext` was not set.
#[derive(Debug, Error)]
enum NotSet {
    #[error(transparent)]
    Variable(#[from] VariableError),
    #[error("the ESXi disk has no EFI system partition")]
    NoPartition,
    #[error("no boot entry of the firmware leads to {0}")]
    NoEntry(String),
}

fn set_boot_next(
    variables: &Variables,
    setting: BootNext,
    homes: &[Home],
) -> Result<Chosen, NotSet> {
    let first = homes.first().ok_or(NotSet::NoPartition)?;
    let entries = variables.entries()?;
    let chosen = match choose(&entries, &variables.boot_order()?, homes) {
        Some(chosen) => chosen,
        None if setting == BootNext::Create => create(variables, first)?,
        None => {
            let all: Vec<&str> = homes.iter().map(|home| home.name.as_str()).collect();
            return Err(NotSet::NoEntry(all.join(" or ")));
        }
    };
    variables.set_boot_next(chosen.number)?;
    Ok(chosen)
}

/// The entry that leads to one of `homes`: rather one that the firmware tries by itself, and of
/// several the one that it tries first.
fn choose(
    entries: &[(BootNumber, LoadOption)],
    order: &[BootNumber],
    homes: &[Home],
) -> Option<Chosen> {
    let rank = |number: BootNumber| order.iter().position(|one| *one == number);
    entries
        .iter()
        .filter(|(_, entry)| entry.is_for_booting())
        .filter_map(|(number, entry)| {
            let id = entry.path.drive?.id?;
            let home = homes.iter().find(|home| home.id == id)?;
            let preference = (!entry.is_active(), rank(*number).unwrap_or(usize::MAX));
            let chosen = Chosen {
                number: *number,
                description: entry.description.clone(),
                home: home.clone(),
                created: false,
            };
            Some((preference, chosen))
        })
        .min_by_key(|(preference, chosen)| (*preference, chosen.number))
        .map(|(_, chosen)| chosen)
}

fn create(variables: &Variables, home: &Home) -> Result<Chosen, VariableError> {
    let path = DevicePath::to_file(&home.drive, LOADER);
    let number = variables.add_entry(&LoadOption::active(DESCRIPTION, &path))?;
    Ok(Chosen {
        number,
        description: DESCRIPTION.to_owned(),
        home: home.clone(),
        created: true,
    })
}

fn homes(inventory: &Inventory) -> Vec<Home> {
    let with_banks = inventory.disks.iter().filter(|disk| !disk.banks.is_empty());
    with_banks.flat_map(homes_of).collect()
}

fn homes_of(disk: &Disk) -> Vec<Home> {
    let Ok(table) = &disk.table else {
        return Vec::new();
    };
    let system = table.partitions.iter().filter(|one| is_system(one));
    let home = |partition: &Partition| {
        let id = identity(table, partition)?;
        let sector = u64::from(table.sector_size.bytes());
        Some(Home {
            name: disk.partition_name(partition.number),
            id,
            drive: HardDrive {
                id: Some(id),
                number: partition.number,
                start_lba: partition.start.0 / sector,
                sectors: partition.length / sector,
            },
        })
    };
    system.filter_map(home).collect()
}

/// On an MBR disk ESXi's system partition is a plain FAT one.
fn is_system(partition: &Partition) -> bool {
    let of_its_type = match partition.kind {
        PartitionKind::EfiSystem => true,
        PartitionKind::Fat(_) => partition.number <= LAST_PRIMARY,
        _ => false,
    };
    of_its_type && partition.problem.is_none()
}

/// `None` where the table has nothing that identifies the partition.
fn identity(table: &PartitionTable, partition: &Partition) -> Option<PartitionId> {
    if let Some(guid) = partition.guid {
        return (!guid.is_nil()).then_some(PartitionId::Gpt(guid));
    }
    let signature = table.disk_signature.filter(|signature| *signature != 0)?;
    let number = partition.number;
    Some(PartitionId::Mbr { signature, number })
}

/// What the firmware does by itself, as far as it can be told.
fn own_order(variables: &Variables, why: String) -> Way {
    let current = variables.boot_current().ok().flatten();
    let first = variables
        .boot_order()
        .ok()
        .and_then(|order| order.first().copied());
    let entries = variables.entries().unwrap_or_default();
    let name = |number: BootNumber| {
        let entry = entries.iter().find(|(one, _)| *one == number);
        entry.map_or_else(
            || number.to_string(),
            |(_, entry)| format!("{number} \"{}\"", entry.description),
        )
    };
    match first {
        Some(number) if current == Some(number) => Way::MediumFirst {
            why,
            first: name(number),
        },
        Some(number) => Way::OwnOrder {
            why,
            first: name(number),
        },
        None => Way::Unknown { why },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::variables::tests::machine;
    use super::*;
    use crate::disk::partition::{Guid, TableKind};
    use crate::disk::{ByteOffset, SectorSize};
    use crate::inventory::NextBoot;

    const ESP: [u8; 16] = [0x11; 16];
    const OTHER: [u8; 16] = [0x22; 16];

    fn home() -> Home {
        let id = PartitionId::Gpt(Guid::from_efi_bytes(ESP));
        let drive = HardDrive {
            id: Some(id),
            number: 1,
            start_lba: 64,
            sectors: 8128,
        };
        Home {
            name: "/dev/sda partition 1".into(),
            id,
            drive,
        }
    }

    #[test]
    fn whether_a_start_was_verified_is_what_the_firmware_says() {
        let said = |content: &[(&str, &[u8])]| SecureBoot::of(machine(content).path());
        assert_eq!(said(&[("SecureBoot", &[1])]), SecureBoot::On);
        assert_eq!(said(&[("SecureBoot", &[0])]), SecureBoot::Off);
        assert_eq!(said(&[]), SecureBoot::Unknown);
        assert_eq!(SecureBoot::of(Path::new("/nowhere")), SecureBoot::Unknown);
    }

    fn entry(description: &str, guid: [u8; 16], attributes: u32) -> Vec<u8> {
        let drive = HardDrive {
            id: Some(PartitionId::Gpt(Guid::from_efi_bytes(guid))),
            ..home().drive
        };
        let path = DevicePath::to_file(&drive, "\\EFI\\VMware\\safeboot64.efi");
        let mut bytes = LoadOption::active(description, &path);
        bytes[..4].copy_from_slice(&attributes.to_le_bytes());
        bytes
    }

    /// A whole disk, as firmware names it by itself: no partition in its path.
    fn whole_disk() -> Vec<u8> {
        LoadOption::active("VMware ESXi", &[2, 1, 4, 0, 0x7f, 0xff, 4, 0])
    }

    fn chosen(variables: &[(&str, &[u8])]) -> Option<String> {
        let root = machine(variables);
        let variables = Variables::below(root.path());
        let entries = variables.entries().unwrap();
        let order = variables.boot_order().unwrap();
        choose(&entries, &order, &[home()]).map(|chosen| chosen.number.to_string())
    }

    #[test]
    fn the_entry_is_known_by_its_partition_and_never_by_its_name() {
        let decoys = [
            ("BootOrder", [1, 0, 2, 0, 3, 0].as_slice()),
            ("Boot0001", &entry("VMware ESXi", OTHER, 1)),
            ("Boot0002", &whole_disk()),
        ];
        assert_eq!(chosen(&decoys), None);
        let mut all = decoys.to_vec();
        let real = entry("unnamed", ESP, 1);
        all.push(("Boot0003", &real));
        assert_eq!(chosen(&all).as_deref(), Some("Boot0003"));
    }

    #[test]
    fn of_several_entries_the_first_of_the_order_is_taken() {
        let one = entry("a", ESP, 1);
        let passive = entry("b", ESP, 0);
        let tool = entry("c", ESP, 0x101);
        for (order, entries, expected) in [
            (
                [3_u8, 0, 1, 0],
                [("Boot0001", &one), ("Boot0003", &one)],
                "Boot0003",
            ),
            (
                [1, 0, 3, 0],
                [("Boot0001", &one), ("Boot0003", &one)],
                "Boot0001",
            ),
            // One that is in no order comes last, but counts.
            (
                [3, 0, 7, 0],
                [("Boot0001", &one), ("Boot0003", &one)],
                "Boot0003",
            ),
            (
                [8, 0, 9, 0],
                [("Boot0004", &one), ("Boot0003", &one)],
                "Boot0003",
            ),
            // Switched off by somebody, or no boot entry at all.
            (
                [1, 0, 3, 0],
                [("Boot0001", &passive), ("Boot0003", &one)],
                "Boot0003",
            ),
            (
                [1, 0, 3, 0],
                [("Boot0001", &tool), ("Boot0003", &passive)],
                "Boot0003",
            ),
        ] {
            let mut variables = vec![("BootOrder", order.as_slice())];
            variables.extend(entries.map(|(name, bytes)| (name, bytes.as_slice())));
            assert_eq!(chosen(&variables).as_deref(), Some(expected), "{order:?}");
        }
    }

    #[test]
    fn the_order_leads_to_a_disk_by_entries_that_are_switched_on_and_name_its_partition() {
        let (ours, passive) = (entry("ours", ESP, 1), entry("passive", ESP, 0));
        let root = machine(&[
            ("Boot0001", &entry("other", OTHER, 1)),
            ("Boot0002", &whole_disk()),
            ("Boot0003", &passive),
            ("Boot0004", &ours),
            ("Boot0005", &ours),
        ]);
        let entries = Variables::below(root.path()).entries().unwrap();
        for (order, expected) in [
            (&[1, 2, 3, 5, 4][..], Some((3, 5))),
            (&[9, 4], Some((1, 4))),
            (&[1, 2, 3], None),
            (&[], None),
        ] {
            let order: Vec<BootNumber> = order.iter().copied().map(BootNumber).collect();
            let found = order::entry_of(&[home()], &order, &entries);
            let found = found.map(|(rank, number, _)| (rank, number.0));
            assert_eq!(found, expected, "{order:?}");
        }
    }

    #[test]
    fn an_entry_is_set_for_the_next_start_or_made_if_asked() {
        let there = entry("VMware ESXi", ESP, 1);
        let root = machine(&[("BootOrder", &[5, 0, 4, 0]), ("Boot0004", &there)]);
        let variables = Variables::below(root.path());
        for setting in [BootNext::Auto, BootNext::Create] {
            let chosen = set_boot_next(&variables, setting, &[home()]).unwrap();
            assert!(!chosen.created);
            assert_eq!(variables.boot_next().unwrap(), Some(BootNumber(4)));
        }

        let root = machine(&[("BootOrder", &[5, 0]), ("Boot0005", &whole_disk())]);
        let variables = Variables::below(root.path());
        let error = set_boot_next(&variables, BootNext::Auto, &[home()]).unwrap_err();
        assert!(
            error.to_string().ends_with("leads to /dev/sda partition 1"),
            "{error}"
        );
        assert_eq!(variables.boot_next().unwrap(), None);
        let made = set_boot_next(&variables, BootNext::Create, &[home()]).unwrap();
        assert!(made.created);
        assert_eq!(variables.boot_next().unwrap(), Some(made.number));
        assert_eq!(
            variables.boot_order().unwrap(),
            [BootNumber(5), made.number]
        );
        // The next run finds it, and makes no other.
        let again = set_boot_next(&variables, BootNext::Create, &[home()]).unwrap();
        assert_eq!((again.number, again.created), (made.number, false));
        let way = WayBack::from(Way::from(made));
        assert_eq!(way.entry.as_deref(), Some("Boot0000"));
        assert!(way.text.contains("made now"), "{}", way.text);
    }

    fn table(kind: TableKind, disk_signature: Option<u32>, partitions: Vec<Partition>) -> Disk {
        Disk {
            path: "/dev/sda".into(),
            other_paths: Vec::new(),
            size: 0,
            table: Ok(PartitionTable {
                kind,
                sector_size: SectorSize::S512,
                disk_signature,
                partitions,
                warnings: Vec::new(),
            }),
            banks: Vec::new(),
            not_banks: Vec::new(),
            unreadable: Vec::new(),
            suspects: Vec::new(),
            loader_unread: Vec::new(),
            next_boot: NextBoot::NoBank,
            boots_next: None,
            boots_after_rollback: None,
            boot_entry: None,
            in_use: Vec::new(),
        }
    }

    fn partition(number: u32, kind: PartitionKind, guid: Option<[u8; 16]>) -> Partition {
        Partition {
            number,
            start: ByteOffset(32 * 512),
            length: 8160 * 512,
            kind,
            guid: guid.map(Guid::from_efi_bytes),
            name: String::new(),
            problem: None,
        }
    }

    #[test]
    fn the_system_partition_is_told_by_its_type_and_needs_an_identity() {
        let mbr = |signature| {
            let fat = PartitionKind::Fat;
            let partitions = vec![partition(4, fat(4), None), partition(5, fat(6), None)];
            homes_of(&table(TableKind::Mbr, signature, partitions))
        };
        let homes = mbr(Some(0x5e5c_1ba2));
        assert_eq!(homes.len(), 1);
        let drive = homes[0].drive;
        assert_eq!(
            (drive.number, drive.start_lba, drive.sectors),
            (4, 32, 8160)
        );
        assert!(mbr(Some(0)).is_empty() && mbr(None).is_empty());

        for (guid, count) in [(ESP, 1), ([0; 16], 0)] {
            let partitions = vec![
                partition(1, PartitionKind::EfiSystem, Some(guid)),
                partition(5, PartitionKind::BasicData, Some(OTHER)),
            ];
            let gpt = TableKind::Mbr;
            assert_eq!(homes_of(&table(gpt, None, partitions)).len(), count);
        }
    }

    fn lead(root: &Path, setting: BootNext, answer: Result<(), &str>) -> (WayBack, u32) {
        let asked = Cell::new(0);
        let mut remember = || {
            asked.set(asked.get() + 1);
            answer
        };
        let way = lead_back(root, setting, &Inventory::default(), &mut remember);
        (way, asked.get())
    }

    #[test]
    fn on_bios_the_medium_remembers_or_says_why_not() {
        let root = tempfile::tempdir().unwrap();
        let (way, asked) = lead(root.path(), BootNext::Auto, Ok(()));
        assert_eq!((way.by, asked), (By::Medium, 1));
        let cannot = Err("a CD cannot remember");
        let (way, _) = lead(root.path(), BootNext::Create, cannot);
        assert_eq!(way.by, By::Nothing);
        assert!(
            way.text.starts_with("a CD cannot remember. Remove"),
            "{}",
            way.text
        );
        let (way, asked) = lead(root.path(), BootNext::Off, Ok(()));
        assert_eq!((way.by, asked), (By::Nothing, 0));
    }

    #[test]
    fn where_the_firmware_cannot_be_told_the_medium_remembers_or_the_order_is_named() {
        let medium = LoadOption::active("UEFI DVD", &[0x7f, 0xff, 4, 0]);
        let root = machine(&[
            ("BootOrder", &[1, 0, 2, 0]),
            ("BootCurrent", &[1, 0]),
            ("Boot0001", &medium),
        ]);
        let (way, _) = lead(root.path(), BootNext::Auto, Ok(()));
        assert_eq!(way.by, By::Medium);
        let (way, _) = lead(root.path(), BootNext::Auto, Err("no"));
        assert_eq!(way.by, By::Nothing);
        let words = "begins with what was started now, Boot0001 \"UEFI DVD\": remove";
        assert!(way.text.contains(words), "{}", way.text);

        let root = machine(&[("BootOrder", &[2, 0]), ("BootCurrent", &[1, 0])]);
        let (way, _) = lead(root.path(), BootNext::Auto, Err("no"));
        assert!(way.text.ends_with("begins with Boot0002."), "{}", way.text);
    }
}
