//! What VMware's boot loader would do with a disk at the next start, and which devices would be
//! passed through then.
//!
//! Written from the rules of VMware's open loader (github.com/vmware/esx-boot), with no code of the
//! agent and no parser shared with it. It reads what the loader reads, and is as forgiving and as
//! strict: nobody asks here whether a volume is sound. What is inside an archive is opened by
//! outside tools (gzip, GNU tar, dissect.hypervisor, sqlite3), once for each different content.
//!
//! Not looked at, because the disks of the tests have noise in their place: the program that is the
//! kernel, and the signatures of modules.

mod archive;
mod boot_cfg;
mod esx_conf;
mod fat;
mod gzip;
mod table;

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use crate::esxi::host::Address;
use crate::power::medium::{Medium, Source};
pub use archive::Archives;
use boot_cfg::{BankConfig, BootConfig};
use fat::{Found, Volume};
use table::Partition;

/// The most banks that the loader looks at (`safeboot/bootbank.c`).
const MOST_BANKS: usize = 3;

/// What begins the second sector of a volume that VMware made (`safeboot/vmfat.c`).
const MARKER: &[u8; 16] = b"VMWARE FAT16    ";

/// The file that makes a volume a bank.
const BOOT_CFG: &str = "/boot.cfg";

/// A disk as the loader has it: sectors.
#[derive(Debug, Clone, Copy)]
struct Disk<'m> {
    medium: &'m Medium,
}

impl Disk<'_> {
    fn sector_bytes(self) -> usize {
        self.medium.sector_bytes()
    }

    /// Reads whole sectors. Nothing keeps a reader inside its partition, only the disk's end.
    fn read(self, sector: u64, count: u64) -> Result<Vec<u8>> {
        let bytes = self.sector_bytes() as u64;
        let sectors = self.medium.size() / bytes;
        let inside = sector.checked_add(count).is_some_and(|end| end <= sectors);
        ensure!(inside, "{count} sectors at {sector} are not on the disk");
        self.medium
            .bytes(sector * bytes, usize::try_from(count * bytes)?)
    }
}

/// The result of the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStart {
    /// No bank may be started.
    NoBank,
    /// A bank is chosen, and its start ends with an error of the loader.
    Ends {
        /// Its partition.
        partition: u32,
        /// Why.
        why: String,
    },
    /// A bank is started.
    Boots(Started),
}

/// A bank that is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its partition.
    pub partition: u32,
    /// The archives that its boot.cfg loads, by their names there.
    pub archives: Vec<String>,
    /// The devices that one of them says are passed through.
    pub passed_through: BTreeSet<Address>,
    /// Archives that the loader takes and the outside tools do not open, with the reason: what ESXi
    /// makes of them is not known.
    pub unknown: Vec<String>,
}

impl NextStart {
    /// Whether a bank is started in which this device is passed through.
    pub fn passes_through(&self, device: Address) -> bool {
        matches!(self, Self::Boots(started) if started.passed_through.contains(&device))
    }
}

impl fmt::Display for NextStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBank => f.write_str("no bank is eligible"),
            Self::Ends { partition, why } => write!(f, "partition {partition} ends: {why}"),
            Self::Boots(started) => {
                let devices = started.passed_through.iter().map(ToString::to_string);
                let devices: Vec<String> = devices.collect();
                let Started {
                    partition,
                    archives,
                    unknown,
                    ..
                } = started;
                write!(
                    f,
                    "partition {partition} boots with {archives:?}, passed through {devices:?}"
                )?;
                match unknown.is_empty() {
                    true => Ok(()),
                    false => write!(f, ", not opened: {unknown:?}"),
                }
            }
        }
    }
}

/// A bank that the loader has found.
struct Bank<'m> {
    partition: Partition,
    volume: Volume<'m>,
    config: BankConfig,
}

/// What the loader does with this disk at the next start.
///
/// # Errors
/// When the outside tools cannot be run.
pub fn next_start(medium: &Medium, archives: &Archives) -> Result<NextStart> {
    let disk = Disk { medium };
    let Some(bank) = elected(banks(disk)) else {
        return Ok(NextStart::NoBank);
    };
    let partition = bank.partition.number;
    match modules(&bank) {
        Err(why) => Ok(NextStart::Ends {
            partition,
            why: format!("{why:#}"),
        }),
        Ok(loaded) => Ok(NextStart::Boots(started(partition, loaded, archives)?)),
    }
}

/// The banks of a disk, in the order of their partitions.
fn banks(disk: Disk<'_>) -> Vec<Bank<'_>> {
    let mut banks = Vec::new();
    for number in 1..=table::highest(disk) {
        // Whatever is wrong with a partition, the loader goes on to the next one.
        banks.extend(scan(disk, number));
        if banks.len() == MOST_BANKS {
            break;
        }
    }
    banks
}

fn scan(disk: Disk<'_>, number: u32) -> Result<Bank<'_>> {
    let partition = table::partition(disk, number)?;
    ensure!(partition.may_be_fat, "its type is none of FAT");
    let second = partition
        .first
        .checked_add(1)
        .context("beyond every disk")?;
    let marker = disk.read(second, 1)?;
    ensure!(marker.starts_with(MARKER), "no marker");
    let volume = Volume::open(disk, partition.first)?;
    let text = load(&volume, BOOT_CFG)?.context("no boot.cfg")?;
    let config = BankConfig::parse(&text)?;
    ensure!(
        config.state_can_be_set(&text),
        "its state cannot be written back"
    );
    Ok(Bank {
        partition,
        volume,
        config,
    })
}

/// The eligible bank with the highest generation; of equals the first.
fn elected(banks: Vec<Bank<'_>>) -> Option<Bank<'_>> {
    let mut best: Option<Bank<'_>> = None;
    for bank in banks.into_iter().filter(|bank| bank.config.is_eligible()) {
        let higher = |best: &Bank<'_>| bank.config.updated > best.config.updated;
        if best.as_ref().is_none_or(higher) {
            best = Some(bank);
        }
    }
    best
}

fn load(volume: &Volume<'_>, path: &str) -> Result<Option<Vec<u8>>> {
    let name = fat::short_name(path);
    match volume.find(&name)? {
        Found::Nothing => Ok(None),
        Found::File { cluster, size } => volume.load(cluster, size).map(Some),
    }
}

/// Everything that the bank's boot.cfg loads: path, and content after the loader's unpacking.
fn modules(bank: &Bank<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    let text = load(&bank.volume, BOOT_CFG)?.context("no boot.cfg")?;
    let config = BootConfig::parse(&text)?;
    let mut loaded = Vec::new();
    for path in config.paths() {
        let content = load(&bank.volume, &path).with_context(|| path.clone())?;
        let Some(content) = content else {
            bail!("{path} is missing");
        };
        let content = gzip::extract(content).with_context(|| path.clone())?;
        loaded.push((path, content));
    }
    Ok(loaded)
}

fn started(
    partition: u32,
    modules: Vec<(String, Vec<u8>)>,
    archives: &Archives,
) -> Result<Started> {
    let mut started = Started {
        partition,
        archives: Vec::new(),
        passed_through: BTreeSet::new(),
        unknown: Vec::new(),
    };
    for (path, content) in modules {
        let Some(kind) = archive::kind(&path) else {
            continue;
        };
        match archives.passed_through(kind, &content)? {
            Ok(devices) => started.passed_through.extend(devices),
            Err(why) => started.unknown.push(format!("{path}: {why}")),
        }
        started.archives.push(path);
    }
    Ok(started)
}
