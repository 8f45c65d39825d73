//! The repair of a bank, from discovery to verification, by the agent's command line.
//!
//! Against it, in the same run and by turns: the repair by hand with GNU tar, gzip, sed and mtools (for
//! an encrypted archive also sqlite3 and a Python script, as there is no other way), and the bare cost
//! of unpacking and packing the same layers once by the agent's own libraries, in memory, with nothing
//! around it: not even a process.

use std::ffi::OsString;
use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use flate2::bufread::GzDecoder;
use libdeflater::{CompressionLvl, Compressor};
use rescue_agent::archive::gzip;

use super::process::{self, Cost};
use super::spread::Spread;
use super::table::{Promise, Row};
use super::{Effort, data, script};
use crate::artefacts;
use crate::esxi::{EsxiDisk, Made};
use crate::sparse;
use crate::tools::Tool;

const MIB: usize = 1 << 20;

/// Unpacked sizes of `local.tgz`, and what they are called.
const SIZES: [(usize, &str); 4] = [
    (MIB / 10, "0.1 MiB"),
    (MIB, "1 MiB"),
    (16 * MIB, "16 MiB"),
    (64 * MIB, "64 MiB"),
];

/// The size whose ratio to the repair by hand is promised.
const AGAINST_HAND: usize = 16 * MIB;
/// How much faster the agent is to be then.
const FASTER_THAN_HAND: f64 = 4.0;
/// Smaller ones are done before two processes have started: what the bare cost is then, says nothing.
const AGAINST_BARE: usize = 16 * MIB;
/// What the agent needs by itself, in MiB.
const MEMORY_AT_REST: f64 = 16.0;
/// The level of the bare cost: the usual one, at which the agent compresses what real hosts have.
const LEVEL: i32 = 6;
/// No archive unpacks further.
const UNPACKED_MAX: usize = 256 * MIB;

/// How the agent is called.
const REVERT: [&str; 5] = ["revert", "--devices", "0000:00:1f.2", "--yes", "--json"];

/// Whether the archive is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As ESXi 6.7 has it.
    Plain,
    /// As ESXi 7.0 Update 3 has it.
    Sealed,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sealed => "encrypted",
        }
    }

    /// Makes a disk with one archive that unpacks to about `bytes`; the other bank was never used.
    ///
    /// # Errors
    /// When an outside tool is missing or fails.
    pub fn disk(self, bytes: usize, folder: &Path) -> Result<Made> {
        let disk = match self {
            Self::Plain => EsxiDisk::v67(),
            Self::Sealed => EsxiDisk::v703(),
        };
        // What every archive of the fixtures holds besides.
        let more = bytes.saturating_sub(64 << 10);
        disk.bank(0, |bank| bank.archive.members.extend(data::members(more)))
            .bank(1, |bank| {
                bank.never_booted(3);
            })
            .make(folder, self.word())
    }
}

/// Everything about repairs: times, sizes of the results, memory.
///
/// # Errors
/// When a tool is missing, or a repair fails.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Plain, Kind::Sealed] {
        for (bytes, name) in SIZES {
            eprintln!("bench: repair, {} {name}", kind.word());
            let folder = super::workplace()?;
            let case = Case::make(kind, bytes, name, folder.path())?;
            rows.extend(case.rows(effort)?);
        }
    }
    Ok(rows)
}

struct Case<'c> {
    kind: Kind,
    bytes: usize,
    name: &'static str,
    folder: &'c Path,
    made: Made,
    layers: Layers,
}

/// The layers of an archive, outside in.
struct Layers {
    state: Vec<u8>,
    local: Vec<u8>,
    etc: Vec<u8>,
}

/// What each way to repair took: times in seconds, and the agent's memory in MiB.
#[derive(Default)]
struct Times {
    agent: Vec<f64>,
    hand: Vec<f64>,
    bare: Vec<f64>,
    memory: Vec<f64>,
}

impl<'c> Case<'c> {
    fn make(kind: Kind, bytes: usize, name: &'static str, folder: &'c Path) -> Result<Self> {
        let made = kind.disk(bytes, folder)?;
        let layers = layers(kind, &made.image, &bank(&made)?, folder)?;
        Ok(Self {
            kind,
            bytes,
            name,
            folder,
            made,
            layers,
        })
    }

    fn rows(&self, effort: Effort) -> Result<Vec<Row>> {
        let mut times = Times::default();
        let seconds = self.bytes as f64 / (20.0 * MIB as f64);
        for _ in 0..effort.rounds(seconds) {
            let cost = self.by_agent()?;
            times.memory.push(cost.memory_bytes as f64 / MIB as f64);
            times.agent.push(cost.seconds);
            times.hand.push(self.by_hand()?.seconds);
            times.bare.push(self.bare()?.as_secs_f64());
        }
        let Times {
            agent,
            hand,
            bare,
            memory,
        } = times;
        let milliseconds = |times: &[f64]| Spread::of(times.iter().map(|time| time * 1e3));
        let row = |what: &str, spread, unit| {
            let what = format!("{} {}: {what}", self.kind.word(), self.name);
            Row::told("repair", what, spread, unit)
        };
        let mut against_hand = row("by hand / agent", Spread::of_ratios(&hand, &agent), "x")
            .note(format!("by hand {:.1} ms", milliseconds(&hand).median));
        if self.bytes == AGAINST_HAND {
            against_hand = against_hand.promised(Promise::AtLeast(FASTER_THAN_HAND));
        }
        let mut against_bare = row(
            "agent / bare unpack + pack",
            Spread::of_ratios(&agent, &bare),
            "x",
        )
        .note(format!("bare {:.1} ms", milliseconds(&bare).median));
        if self.bytes >= AGAINST_BARE {
            against_bare = against_bare.promised(Promise::AtMost(1.3));
        }
        let limit = Spread::of_ratios(&hand, &bare);
        let unpacked = self.layers.etc.len() as f64 / MIB as f64;
        Ok(vec![
            row("agent", milliseconds(&agent), "ms"),
            against_hand,
            row("by hand / bare unpack + pack (the limit)", limit, "x"),
            against_bare,
            self.packed_size()?,
            row("most memory", Spread::of(memory), "MiB")
                .promised(Promise::AtMost(3.0 * unpacked + MEMORY_AT_REST))
                .note(format!("unpacked {unpacked:.1} MiB")),
        ])
    }

    fn by_agent(&self) -> Result<Cost> {
        let mut arguments: Vec<OsString> = REVERT.iter().map(OsString::from).collect();
        arguments.push(self.copy()?.into());
        process::cost(&artefacts::agent()?, &arguments)
    }

    fn by_hand(&self) -> Result<Cost> {
        let image = self.copy()?;
        let work = tempfile::tempdir_in(self.folder)?;
        let mut arguments: Vec<OsString> = vec![
            mtools_name(&image, &bank(&self.made)?).into(),
            work.path().into(),
        ];
        let program = match self.kind {
            Kind::Plain => script("by_hand.sh"),
            Kind::Sealed => {
                arguments.push(script("envelope.py").into());
                script("by_hand_sealed.sh")
            }
        };
        let cost = process::cost(&program, &arguments)?;
        let before = fs::metadata(work.path().join("state.tgz"))?.len();
        let after = fs::metadata(work.path().join("new.tgz"))?.len();
        ensure!(before > 0 && after > 0, "the repair by hand did nothing");
        Ok(cost)
    }

    /// Unpacks and packs each layer once, in memory, in one thread. The outer layer is noise, which the
    /// agent stores: its own way, for less than what the library would take.
    fn bare(&self) -> Result<Duration> {
        let start = Instant::now();
        let outer = gzip::inflate(&self.layers.state, UNPACKED_MAX)?;
        let mut etc = Vec::with_capacity(self.layers.etc.len() + 1);
        GzDecoder::new(self.layers.local.as_slice()).read_to_end(&mut etc)?;
        let level = CompressionLvl::new(LEVEL).map_err(|error| anyhow!("{error:?}"))?;
        let mut compressor = Compressor::new(level);
        let mut packed = vec![0; compressor.gzip_compress_bound(etc.len())];
        compressor.gzip_compress(&etc, &mut packed)?;
        black_box(packed);
        black_box(gzip::deflate(&outer)?);
        let elapsed = start.elapsed();
        ensure!(etc == self.layers.etc, "the layers do not fit each other");
        Ok(elapsed)
    }

    /// What the agent packs against `gzip -6` on the same bytes.
    fn packed_size(&self) -> Result<Row> {
        let image = self.copy()?;
        Tool::at(artefacts::agent()?)
            .args(REVERT)
            .arg(&image)
            .run()?;
        let ours = layers(self.kind, &image, &bank(&self.made)?, self.folder)?;
        let lengths = (ours.etc.len(), self.layers.etc.len());
        ensure!(
            ours.etc != self.layers.etc && lengths.0 == lengths.1,
            "this was no repair of an owner: {lengths:?}"
        );
        let gzip = Tool::new("gzip")?
            .args(["-6", "-n", "-c"])
            .input(ours.etc)
            .run()?;
        let ratio = ours.local.len() as f64 / gzip.len() as f64;
        let what = format!("{} {}: local.tgz / gzip -6", self.kind.word(), self.name);
        let note = format!("{} against {} bytes", ours.local.len(), gzip.len());
        Ok(Row::told("repair", what, ratio, "x")
            .promised(Promise::AtMost(1.0))
            .note(note))
    }

    fn copy(&self) -> Result<PathBuf> {
        let image = self.folder.join("copy.img");
        if image.exists() {
            fs::remove_file(&image)?;
        }
        sparse::copy(&self.made.image, &image)?;
        Ok(image)
    }
}

/// Where the first bank starts, in bytes.
fn bank(made: &Made) -> Result<u64> {
    let banks = made.layout.banks();
    let bank = banks.first().context("the disk has no bank")?;
    Ok(made.layout.bytes(bank).start)
}

fn mtools_name(image: &Path, bank: &u64) -> String {
    format!("{}@@{bank}", image.display())
}

/// Takes the archive of a bank apart, with outside tools.
fn layers(kind: Kind, image: &Path, bank: &u64, folder: &Path) -> Result<Layers> {
    let work = tempfile::tempdir_in(folder)?;
    let path = |name: &str| work.path().join(name);
    Tool::new("mcopy")?
        .args(["-i", &mtools_name(image, bank), "::/STATE.TGZ"])
        .arg(path("state.tgz"))
        .run()?;
    Tool::new("tar")?
        .args(["-xzf", "state.tgz"])
        .folder(work.path())
        .run()?;
    if kind == Kind::Sealed {
        Tool::new("python3")?
            .arg(script("envelope.py"))
            .args(["open", "encryption.info", "local.tgz.ve", "local.tgz"])
            .folder(work.path())
            .run()?;
    }
    let local = fs::read(path("local.tgz"))?;
    Ok(Layers {
        state: fs::read(path("state.tgz"))?,
        etc: Tool::new("gunzip")?.arg("-c").input(local.clone()).run()?,
        local,
    })
}
