//! A read, a write or a flush that fails, at every index of a whole run: looking, planning,
//! repairing two banks, proving it, reporting.
//!
//! Whatever fails, the exit status is 4 or 5 and the words name the disk, the bank and what is in
//! force in it; what they say is true of the medium; and the next run, on a disk that works, reaches
//! the end. Two things a run survives or cannot know, and says so: of a GPT there are two copies,
//! and a disk whose first sector cannot be read has no banks that could be named.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rescue_agent::disk::{BlockDevice, ByteOffset, SectorSize};
use rescue_agent::fat::FatTime;
use rescue_agent::fat::exchange::ActiveArchive;
use rescue_agent::inventory::Inventory;
use rescue_agent::plan::{self, Plan};
use rescue_agent::policy::Policy;
use rescue_agent::repair::{Event, Outcome, Receipt};
use rescue_agent::report::{self, Command, Report};
use rescue_agent::{discover, verify};
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::power::device::{Fault, Faulty, Landed, Operation, Recorder, Recording, Shared};
use rescue_tests::power::fsck::fsck;
use rescue_tests::power::medium::{Image, Medium};
use rescue_tests::power::reader::{Loader, gunzip};
use rescue_tests::scratch;

const NODE: &str = "/dev/under_test";
/// The partitions of the banks of a 6.7 disk.
const BANKS: [u32; 2] = [5, 6];
/// What the injected errors say.
const INJECTED: &str = "injected";

/// Everything a run hands over and says.
struct Run {
    inventory: Inventory,
    plan: Plan,
    receipt: Receipt,
    report: Report,
    text: String,
}

/// The whole run, as behind `revert --devices 0000:00:1f.2 --yes`.
fn run<D: BlockDevice + 'static>(device: &Arc<D>) -> Run {
    let opened =
        |_: &Path| -> io::Result<Box<dyn BlockDevice>> { Ok(Box::new(Shared(Arc::clone(device)))) };
    let inventory = discover::discover(&[PathBuf::from(NODE)], &opened);
    let policy = Policy {
        devices: "0000:00:1f.2".parse().unwrap(),
        ..Policy::default()
    };
    let plan = plan::revert(&inventory, &policy, None).unwrap();
    let mut text = report::findings(&inventory, None, report::Detail::Full);
    text.extend(report::intentions(&inventory, &plan, report::Detail::Full));
    let now = FatTime::from_unix(1_767_225_600);
    let mut hear = |event: &Event| text.push(report::Line::plain(event.to_string()));
    let (receipt, proof) = verify::repair_and_verify(&plan, &inventory, &opened, now, &mut hear);
    let report = Report::new(
        Command::Revert,
        &inventory,
        None,
        Some(&plan),
        Some(&receipt),
        proof.broken,
        proof.after.as_ref(),
    );
    text.extend(report::result(
        &report,
        &inventory,
        Some(&plan),
        Some(&receipt),
    ));
    let text: Vec<String> = text.iter().map(ToString::to_string).collect();
    Run {
        inventory,
        plan,
        receipt,
        report,
        text: unfolded(&text.join("\n")),
    }
}

/// Each paragraph in one line: what follows a first line is indented by the width of its label.
fn unfolded(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        match (lines.last_mut(), line.strip_prefix("         ")) {
            (Some(paragraph), Some(more)) => {
                paragraph.push(' ');
                paragraph.push_str(more.trim_start());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// An archive: index of its bank, its name as it is stored, its name.
type File = (usize, &'static [u8; 11], &'static str);

/// The archives of the disk. The order in a bank is that of the repair.
const FILES: [File; 3] = [
    (0, b"STATE   TGZ", "STATE.TGZ"),
    (0, b"ONETIME TGZ", "ONETIME.TGZ"),
    (1, b"STATE   TGZ", "STATE.TGZ"),
];

/// Their undo copies.
const UNDO: [&[u8; 11]; 3] = [b"STATE   ORG", b"ONETIME ORG", b"STATE   ORG"];

/// A disk, and what its archives are before and after.
struct Scene {
    base: Medium,
    starts: [u64; 2],
    lengths: [u64; 2],
    old: [Vec<u8>; 3],
    new: [Vec<u8>; 3],
    /// Reads, writes and flushes of a run on a disk that works.
    counts: [usize; 3],
}

impl Scene {
    fn new() -> Result<Self> {
        let folder = scratch::folder()?;
        let disk = EsxiDisk::v67().bank(0, |bank| {
            bank.add_onetime();
        });
        let made = disk.make(folder.path(), "disk")?;
        let mut image = Image::zeroed(std::fs::metadata(&made.image)?.len(), 512);
        image.write_file(0, &made.image)?;
        let banks: Vec<_> = made
            .layout
            .banks()
            .iter()
            .map(|bank| made.layout.bytes(bank))
            .collect();
        let mut scene = Self {
            base: Medium::new(image),
            starts: [banks[0].start, banks[1].start],
            lengths: banks
                .iter()
                .map(|bank| bank.end - bank.start)
                .collect::<Vec<_>>()
                .try_into()
                .unwrap(),
            old: Default::default(),
            new: Default::default(),
            counts: [0; 3],
        };
        scene.old = scene.archives(&scene.base)?;
        let never = Fault {
            operation: Operation::Read,
            index: usize::MAX,
            lasting: false,
            landed: Landed::Nothing,
        };
        let device = Arc::new(Faulty::new(scene.base.clone(), never));
        let done = run(&device);
        ensure!(done.report.result.exit_status() == 0, "{}", done.text);
        scene.new = scene.archives(&device.recording().medium)?;
        scene.counts = [Operation::Read, Operation::Write, Operation::Flush]
            .map(|operation| device.count(operation));
        Ok(scene)
    }

    /// The archives, as VMware's loader reads them.
    fn archives(&self, medium: &Medium) -> Result<[Vec<u8>; 3]> {
        let archive = |(bank, stored, name): File| -> Result<Vec<u8>> {
            let archive = Loader::open(medium, self.starts[bank], 512)?
                .load(stored)?
                .with_context(|| format!("no {name}"))?;
            gunzip(&archive)?;
            Ok(archive)
        };
        Ok([archive(FILES[0])?, archive(FILES[1])?, archive(FILES[2])?])
    }

    /// What a run says of each bank is true of what the disk may hold.
    fn claims_hold(&self, run: &Run, media: &[Medium]) -> Result<()> {
        for medium in media {
            let archives = self.archives(medium)?;
            for (index, (bank, _, name)) in FILES.into_iter().enumerate() {
                let is_old = archives[index] == self.old[index];
                let is_new = archives[index] == self.new[index];
                let outcome = run.outcome(BANKS[bank]);
                let holds = match claim(outcome, name) {
                    ActiveArchive::New => is_new,
                    ActiveArchive::OldOrNew => is_old || is_new,
                    ActiveArchive::Old | ActiveArchive::Unchanged => is_old,
                    ActiveArchive::None | ActiveArchive::NoneOrNew => false,
                };
                ensure!(
                    holds,
                    "bank {bank}, {name}: old {is_old}, new {is_new}, but said: {outcome:?}"
                );
            }
        }
        Ok(())
    }

    /// A run on a disk that works again, from whatever the other one left.
    fn reaches_the_end(&self, left: &Medium, with_fsck: bool) -> Result<()> {
        let device = Arc::new(Recorder::new(left.clone()));
        let run = run(&device);
        ensure!(
            run.report.result.exit_status() == 0,
            "the next run:\n{}",
            run.text
        );
        let medium = device.recording().medium;
        ensure!(
            self.archives(&medium)? == self.new,
            "the next run does not repair"
        );
        for (index, (bank, _, name)) in FILES.into_iter().enumerate() {
            let undo = Loader::open(&medium, self.starts[bank], 512)?.load(UNDO[index])?;
            ensure!(
                undo.as_ref() == Some(&self.old[index]),
                "the original of {name} is lost"
            );
        }
        for bank in 0..BANKS.len() {
            if with_fsck {
                let verdict = fsck(&medium, self.starts[bank], self.lengths[bank])?;
                ensure!(verdict.clean, "{}", verdict.text);
            }
        }
        Ok(())
    }
}

/// What a run says is active of an archive.
fn claim(outcome: Option<&Outcome>, name: &str) -> ActiveArchive {
    match outcome {
        Some(Outcome::Replaced) => ActiveArchive::New,
        Some(Outcome::Failed {
            in_force,
            exchanged,
            ..
        }) => {
            let done = exchanged.iter().any(|done| done == name);
            // The first archive that was not exchanged is the one that failed.
            let first = name == "STATE.TGZ" || !exchanged.is_empty();
            match (done, first) {
                (true, _) => ActiveArchive::New,
                (false, true) => *in_force,
                (false, false) => ActiveArchive::Unchanged,
            }
        }
        _ => ActiveArchive::Old,
    }
}

impl Run {
    fn outcome(&self, partition: u32) -> Option<&Outcome> {
        let banks = self.plan.banks.iter().zip(&self.receipt.banks);
        banks
            .filter(|(plan, _)| {
                self.inventory.disks[plan.disk].banks[plan.bank].partition == partition
            })
            .map(|(_, receipt)| &receipt.outcome)
            .next()
    }

    /// It tells of the error, the disk, the bank, and what is active.
    fn tells(&self) -> Result<()> {
        let status = self.report.result.exit_status();
        let line = |line: &&str| {
            let names = line.contains(NODE)
                && (line.contains("partition ") || line.contains(" bank ") || line.contains("GPT"));
            names && line.contains(INJECTED)
        };
        let telling: Vec<&str> = self.text.lines().filter(line).collect();
        ensure!(
            !telling.is_empty(),
            "no line names the error, the disk and the bank"
        );
        let in_force = [
            "active",
            "Nothing was written",
            "was not written",
            "not written",
            "its archive is as it was",
            "was correct when read back",
            "nothing was written to it",
        ];
        ensure!(
            in_force.iter().any(|words| self.text.contains(words)),
            "status {status}, but no word of what is active"
        );
        Ok(())
    }
}

/// What may be on the medium after the last write: what was flushed, and of the rest nothing or all.
fn left_behind(base: &Medium, recording: &Recording) -> Vec<Medium> {
    let mut durable = base.clone();
    for write in recording.closed.iter().flatten() {
        durable.put(write.sector, write.data.clone());
    }
    match recording.open.is_empty() {
        true => vec![durable],
        false => vec![durable, recording.medium.clone()],
    }
}

#[derive(Debug, Default)]
struct Tally {
    by_status: [usize; 6],
    survived: Vec<String>,
}

fn inject(scene: &Scene, fault: Fault, tally: &mut Tally) -> Result<bool> {
    let device = Arc::new(Faulty::new(scene.base.clone(), fault));
    let run = run(&device);
    if !device.has_struck() {
        return Ok(false);
    }
    let status = run.report.result.exit_status();
    let said = || format!("status {status}:\n{}", run.text);
    tally.by_status[usize::from(status)] += 1;
    let media = left_behind(&scene.base, &device.recording());
    scene.claims_hold(&run, &media).with_context(said)?;
    match status {
        4 | 5 => run.tells().with_context(said)?,
        // The backup GPT stood in for the primary one, or the reverse.
        0 => {
            let warned = run
                .text
                .lines()
                .any(|line| line.contains("GPT") && line.contains(INJECTED));
            ensure!(warned, "an error was passed over in silence: {}", said());
            tally.survived.push(format!("{fault:?}"));
        }
        _ => anyhow::bail!(said()),
    }
    for medium in &media {
        let with_fsck = fault.operation != Operation::Read;
        scene
            .reaches_the_end(medium, with_fsck)
            .with_context(said)?;
    }
    Ok(true)
}

/// Every fault worth injecting into an operation.
fn kinds(operation: Operation) -> Vec<(bool, Landed)> {
    let landings: &[Landed] = match operation {
        Operation::Write => &[Landed::Nothing, Landed::Half, Landed::All],
        Operation::Read | Operation::Flush => &[Landed::Nothing],
    };
    let both = |landed: &Landed| [(false, *landed), (true, *landed)];
    landings.iter().flat_map(both).collect()
}

#[test]
fn every_fault_of_a_whole_run_is_told_and_the_next_run_reaches_the_end() {
    let scene = Scene::new().unwrap();
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let operations = [Operation::Read, Operation::Write, Operation::Flush];
    for (operation, count) in operations.into_iter().zip(scene.counts) {
        for index in 0..count {
            for (lasting, landed) in kinds(operation) {
                let fault = Fault {
                    operation,
                    index,
                    lasting,
                    landed,
                };
                match inject(&scene, fault, &mut tally) {
                    Ok(struck) => assert!(struck, "{fault:?} did not happen"),
                    Err(error) => failures.push(format!("{fault:?}: {error:#}")),
                }
            }
        }
    }
    println!(
        "{:?} reads, writes and flushes; by exit status {:?}",
        scene.counts, tally.by_status
    );
    println!("survived: {:#?}", tally.survived);
    for failure in &failures {
        println!("----\n{failure}");
    }
    assert!(failures.is_empty(), "{} faults went wrong", failures.len());
    assert!(
        tally.by_status[4] > 50 && tally.by_status[5] > 100,
        "{tally:?}"
    );
    // The first sector and both copies of the GPT, no more.
    assert!(tally.survived.len() < 20, "{tally:?}");
}

/// The other bank is repaired all the same, and the run does not end as if all were well.
#[test]
fn a_bank_that_cannot_be_read_does_not_vanish() {
    let scene = Scene::new().unwrap();
    for (bank, partition) in BANKS.into_iter().enumerate() {
        for at in [0, 512] {
            let device = Arc::new(BadSector {
                inner: Recorder::new(scene.base.clone()),
                at: scene.starts[bank] + at,
            });
            let run = run(&device);
            assert_eq!(run.report.result.exit_status(), 4, "{}", run.text);
            let refused = format!("REFUSED  {NODE} partition {partition} cannot be read");
            assert!(run.text.contains(&refused), "{}", run.text);
            assert!(run.outcome(partition).is_none());
            assert_eq!(run.outcome(BANKS[1 - bank]), Some(&Outcome::Replaced));
            let archives = scene
                .archives(&device.inner.recording().medium)
                .unwrap_or_else(|error| panic!("{error:#}"));
            for (index, file) in FILES.into_iter().enumerate() {
                let expected = match file.0 == bank {
                    true => &scene.old[index],
                    false => &scene.new[index],
                };
                assert!(archives[index] == *expected, "{file:?}");
            }
        }
    }
}

/// A disk with one sector that cannot be read.
#[derive(Debug)]
struct BadSector {
    inner: Recorder,
    at: u64,
}

impl BlockDevice for BadSector {
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.0 + buf.len() as u64;
        match offset.0 <= self.at && self.at < end {
            true => Err(io::Error::other("Input/output error (injected)")),
            false => self.inner.read_at(offset, buf),
        }
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
}
