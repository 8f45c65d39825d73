//! Looking at many disks: one that boots ESXi among datastores, as in a host with many LUNs.
//!
//! Twice: as images, by the command line, which counts the work; and as disks that take a while to
//! answer, which counts the waiting. The waiting must not grow with
//! the disks; the work does, by little.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rescue_agent::discover;
use rescue_agent::disk::{BlockDevice, ByteOffset, Disks, SectorSize, SystemDisks};

use super::Effort;
use super::process;
use super::spread::Spread;
use super::table::{Promise, Row};
use crate::artefacts;
use crate::esxi::EsxiDisk;
use crate::sparse;
use crate::tools::Tool;

/// How many disks.
const COUNTS: [usize; 4] = [1, 16, 128, 256];
/// What a rotating disk, or a LUN behind a busy fabric, takes for one read.
const LATENCY: Duration = Duration::from_millis(5);
/// What a read of a dead disk takes.
const DEAD: Duration = Duration::from_secs(30);
/// What looking at all may take beside it, in seconds: as long as the agent waits for a partition table, and a little.
const DEAD_SECONDS: f64 = 47.0;
/// What many disks may take of the time of one where each of them has to be waited for.
const WAITING: f64 = 2.0;
/// How many more disks may take as much work as all of the first one, with the start of the process.
const WORK_OF_ONE: f64 = 10.0;

/// Times of discovery.
///
/// # Errors
/// When a tool is missing, or the agent fails.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let folder = super::workplace()?;
    let disks = disks(folder.path())?;
    let mut rows = Vec::new();
    let in_work = |count: usize| 1.0 + count as f64 / WORK_OF_ONE;
    let in_waiting = |_: usize| WAITING;
    for (name, look, most) in [
        (
            "images",
            by_command as fn(&[PathBuf]) -> Result<f64>,
            &in_work as &dyn Fn(usize) -> f64,
        ),
        ("disks that answer after 5 ms", by_library, &in_waiting),
    ] {
        let mut times = COUNTS.map(|_| Vec::new());
        for _ in 0..effort.rounds(0.0) {
            for (count, times) in COUNTS.iter().zip(&mut times) {
                times.push(look(&disks[..*count])?);
            }
        }
        for (count, many) in COUNTS.into_iter().zip(&times) {
            let ratio = Spread::of_ratios(many, &times[0]);
            let note = format!(
                "{:.1} ms",
                Spread::of(many.iter().map(|time| time * 1e3)).median
            );
            let row = Row::told("discovery", format!("{count} {name}"), ratio, "x");
            rows.push(row.promised(Promise::AtMost(most(count))).note(note));
        }
    }
    rows.push(with_a_dead_one(&disks, effort)?);
    Ok(rows)
}

/// All of them, of which one answers each read after half a minute, as a dead disk does. What it takes is a deadline of
/// the agent, and no work: all runs wait at the same time.
fn with_a_dead_one(disks: &[PathBuf], effort: Effort) -> Result<Row> {
    let dead = disks.last().context("there are disks")?;
    let open = |path: &Path| -> io::Result<Box<dyn BlockDevice>> {
        let pause = if path == dead { DEAD } else { LATENCY };
        Ok(Box::new(Late(SystemDisks.read(path)?, pause)))
    };
    let what = format!("{} disks, one of them dead", disks.len());
    let times: Vec<f64> = thread::scope(|scope| {
        let runs: Vec<_> = (0..effort.rounds(DEAD_SECONDS))
            .map(|_| scope.spawn(|| looked(disks, &open)))
            .collect();
        runs.into_iter()
            .map(|run| run.join().map_err(|_| anyhow!("a run panicked"))?)
            .collect::<Result<_>>()
    })?;
    let row = Row::told("discovery", what, Spread::of(times), "s");
    Ok(row.promised(Promise::AtMost(DEAD_SECONDS)))
}

/// The boot disk, and datastores behind it.
fn disks(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut disks = vec![EsxiDisk::v67().make(folder, "boot")?.image];
    let first = folder.join("datastore0.img");
    File::create(&first)?.set_len(1 << 40)?;
    Tool::new("sfdisk")?
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(&first)
        .input("label: gpt\nstart=2048, type=AA31E02A-400F-11DB-9590-000C2911D1B8\n")
        .run()?;
    for number in 0..COUNTS.iter().max().unwrap_or(&0) - 1 {
        let disk = folder.join(format!("datastore{number}.img"));
        if number > 0 {
            sparse::copy(&first, &disk)?;
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn by_command(disks: &[PathBuf]) -> Result<f64> {
    let words = ["inspect", "--json"].map(OsString::from).into_iter();
    let arguments: Vec<OsString> = words.chain(disks.iter().map(OsString::from)).collect();
    Ok(process::cost(&artefacts::agent()?, &arguments)?.seconds)
}

fn by_library(disks: &[PathBuf]) -> Result<f64> {
    looked(disks, &late)
}

fn looked(paths: &[PathBuf], disks: &dyn Disks) -> Result<f64> {
    let start = Instant::now();
    let inventory = discover::discover(paths, disks);
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        inventory.banks().count() == 2,
        "the boot disk was not found"
    );
    Ok(seconds)
}

fn late(path: &Path) -> io::Result<Box<dyn BlockDevice>> {
    Ok(Box::new(Late(SystemDisks.read(path)?, LATENCY)))
}

/// A disk that takes its time to answer.
#[derive(Debug)]
struct Late(Box<dyn BlockDevice>, Duration);

impl BlockDevice for Late {
    fn sector_size(&self) -> SectorSize {
        self.0.sector_size()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        thread::sleep(self.1);
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}
