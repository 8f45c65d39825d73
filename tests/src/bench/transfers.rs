//! What a repair reads from and writes to its disk, counted below the agent's library, on disks of
//! growing size.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use rescue_agent::disk::{BlockDevice, ByteOffset, Disks, SectorSize, SystemDisks};
use rescue_agent::fat::FatTime;
use rescue_agent::plan::{self, Action, Plan};
use rescue_agent::policy::Policy;
use rescue_agent::repair::Event;
use rescue_agent::{discover, verify};

use super::data;
use super::table::{Promise, Row};
use crate::esxi::layout::{Layout, Role};
use crate::esxi::{EsxiDisk, Made};

const KIB: f64 = 1024.0;
const GIB_SECTORS: u64 = 1 << 21;
/// Sizes of the disks, in GiB.
const DISKS: [u64; 3] = [1, 16, 128];
/// Where the datastore begins: the first MiB after the other partitions.
const DATASTORE_AT: u64 = 1_843_200;
/// Unpacked size of the archive in each bank.
const UNPACKED_BYTES: usize = 1 << 20;
/// Sectors that a bank's repair may write besides the archive: marker, tables, commit.
const SECTORS_BESIDES: f64 = 16.0;
/// What a look at a larger disk may read more than one at the smallest.
const READS_GROWTH: f64 = 1.02;

/// What was done to a device.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
    flushes: AtomicU64,
}

/// A device that counts.
#[derive(Debug)]
struct Counting {
    device: Box<dyn BlockDevice>,
    counts: Arc<Counts>,
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

impl BlockDevice for Counting {
    fn sector_size(&self) -> SectorSize {
        self.device.sector_size()
    }

    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        add(&self.counts.read, buf.len());
        self.device.read_at(offset, buf)
    }

    fn read_medium(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        add(&self.counts.read, buf.len());
        self.device.read_medium(offset, buf)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        add(&self.counts.written, data.len());
        self.device.write_at(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        add(&self.counts.flushes, 1);
        self.device.flush()
    }
}

/// What one repair of both banks took.
struct Transfers {
    looked: f64,
    read: f64,
    written: f64,
    besides: f64,
    flushes: f64,
}

/// Bytes and flushes of a repair.
///
/// # Errors
/// When a tool is missing, or a repair fails.
pub fn rows() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut smallest: Option<Transfers> = None;
    for gib in DISKS {
        eprintln!("bench: transfers, a disk of {gib} GiB");
        let folder = super::workplace()?;
        let transfers = repaired(&disk(gib, folder.path())?)?;
        let told = |what: &str, value, unit| {
            Row::told(
                "transfers",
                format!("{gib} GiB, two banks: {what}"),
                value,
                unit,
            )
        };
        let base = smallest.as_ref().unwrap_or(&transfers);
        let growth = (transfers.read / base.read).max(transfers.looked / base.looked);
        rows.push(told("read to look", transfers.looked / KIB, "KiB"));
        rows.push(told("read in all", transfers.read / KIB, "KiB"));
        let growth = told("reads against the smallest disk", growth, "x");
        rows.push(growth.promised(Promise::AtMost(READS_GROWTH)));
        rows.push(told("written", transfers.written / KIB, "KiB"));
        rows.push(
            told(
                "most sectors besides an archive, per bank",
                transfers.besides,
                "",
            )
            .promised(Promise::AtMost(SECTORS_BESIDES)),
        );
        rows.push(told("flushes per bank", transfers.flushes / 2.0, ""));
        smallest.get_or_insert(transfers);
    }
    Ok(rows)
}

/// A 6.7 disk of that size: the same volumes on each, and a datastore behind them.
fn disk(gib: u64, folder: &Path) -> Result<Made> {
    let mut layout = Layout::gpt_5_and_6();
    layout.sectors = gib * GIB_SECTORS;
    layout
        .partitions
        .retain(|p| !matches!(p.role, Role::Scratch) && p.number != 9);
    for partition in &mut layout.partitions {
        if partition.role == Role::Vmfs {
            partition.first = DATASTORE_AT;
            partition.last = layout.sectors - 64;
        }
    }
    let more = data::members(UNPACKED_BYTES);
    EsxiDisk::v67()
        .layout(layout)
        .every_bank(|bank| bank.archive.members.extend(more.clone()))
        .make(folder, "disk")
}

/// The system's disks, each with the same counts.
struct CountingDisks(Arc<Counts>);

impl CountingDisks {
    fn counting(&self, device: Box<dyn BlockDevice>) -> Box<dyn BlockDevice> {
        let counts = Arc::clone(&self.0);
        Box::new(Counting { device, counts })
    }
}

impl Disks for CountingDisks {
    fn read(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        SystemDisks.read(path).map(|device| self.counting(device))
    }

    fn write(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        SystemDisks.write(path).map(|device| self.counting(device))
    }
}

fn repaired(made: &Made) -> Result<Transfers> {
    let counts = Arc::new(Counts::default());
    let disks = CountingDisks(Arc::clone(&counts));
    let inventory = discover::discover(std::slice::from_ref(&made.image), &disks);
    let looked = counts.read.load(Ordering::Relaxed);
    let policy = Policy {
        devices: "0000:00:1f.2".parse()?,
        ..Policy::default()
    };
    let plan = plan::revert(&inventory, &policy, None)?;
    let time = FatTime::from_unix(1_767_225_600);
    let mut unheard = |_: &Event| ();
    let (_, proof) = verify::repair_and_verify(&plan, &inventory, &disks, time, &mut unheard);
    ensure!(proof.broken.is_empty(), "{:?}", proof.broken);
    let (written, archives) = (
        counts.written.load(Ordering::Relaxed),
        archives(&plan, made),
    );
    ensure!(archives.len() == 2, "both banks were to be repaired");
    let besides = written as f64 - archives.iter().sum::<u64>() as f64;
    Ok(Transfers {
        looked: looked as f64,
        read: counts.read.load(Ordering::Relaxed) as f64,
        written: written as f64,
        besides: (besides / made.layout.sector_bytes as f64 / archives.len() as f64).max(0.0),
        flushes: counts.flushes.load(Ordering::Relaxed) as f64,
    })
}

/// Sizes of the new archives, rounded to clusters.
fn archives(plan: &Plan, made: &Made) -> Vec<u64> {
    let cluster = made.layout.banks().iter().find_map(|bank| bank.fat);
    let sectors = cluster.map_or(1, |fat| fat.sectors_per_cluster);
    let cluster = sectors * made.layout.sector_bytes;
    let changes = plan.banks.iter().flat_map(|bank| match &bank.action {
        Action::Replace(changes) => changes.as_slice(),
        _ => &[],
    });
    changes
        .map(|change| (change.new.len() as u64).next_multiple_of(cluster))
        .collect()
}
