//! Looking at many disks: one that boots ESXi among datastores, as in a host with many LUNs.
//!
//! Twice: as images, by the command line, which counts the work; and as disks that take a while to
//! answer, which counts the waiting.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rescue_agent::discover;
use rescue_agent::disk::{BlockDevice, ByteOffset, Disks, SectorSize, SystemDisks};

use super::process;
use super::table::{Promise, Row};
use super::{Effort, median};
use crate::artefacts;
use crate::esxi::EsxiDisk;
use crate::sparse;
use crate::tools::Tool;

/// How many disks.
const COUNTS: [usize; 3] = [1, 16, 128];
/// What a rotating disk, or a LUN behind a busy fabric, takes for one read.
const LATENCY: Duration = Duration::from_millis(5);
/// What the most disks may take of the time of one.
const GROWTH: f64 = 4.0;

/// Times of discovery.
///
/// # Errors
/// When a tool is missing, or the agent fails.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let folder = super::workplace()?;
    let disks = disks(folder.path())?;
    let mut rows = Vec::new();
    for (name, look) in [
        ("images", by_command as fn(&[PathBuf]) -> Result<f64>),
        ("disks that answer after 5 ms", by_library),
    ] {
        let mut times = COUNTS.map(|_| Vec::new());
        for _ in 0..effort.rounds(0.0) {
            for (count, times) in COUNTS.iter().zip(&mut times) {
                times.push(look(&disks[..*count])?);
            }
        }
        let mut one = f64::NAN;
        for (count, times) in COUNTS.into_iter().zip(times) {
            let time = median(times);
            if count == 1 {
                one = time;
            }
            let what = format!("{count} {name}");
            let ratio = Row::told("discovery", what, time / one, "x");
            let note = format!("{:.1} ms", time * 1e3);
            rows.push(ratio.promised(Promise::AtMost(GROWTH)).note(note));
        }
    }
    Ok(rows)
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
    let start = Instant::now();
    let inventory = discover::discover(disks, &late);
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        inventory.banks().count() == 2,
        "the boot disk was not found"
    );
    Ok(seconds)
}

fn late(path: &Path) -> io::Result<Box<dyn BlockDevice>> {
    Ok(Box::new(Late(SystemDisks.read(path)?)))
}

/// A disk that takes its time to answer.
#[derive(Debug)]
struct Late(Box<dyn BlockDevice>);

impl BlockDevice for Late {
    fn sector_size(&self) -> SectorSize {
        self.0.sector_size()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        thread::sleep(LATENCY);
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}
