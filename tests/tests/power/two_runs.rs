//! Two to four runs at once on one image, each write held up for a moment: one works, the others are
//! told so, and whatever the order, the bank is whole.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rescue_agent::disk::lock::{LockError, Locks};
use rescue_agent::disk::{Access, BlockDevice, ByteOffset, Disks, FileDevice, SectorSize};
use rescue_tests::artefacts;
use rescue_tests::esxi::host::Owner;
use rescue_tests::power::census::Census;
use rescue_tests::power::maker::Bank;
use rescue_tests::power::reader::{Loader, gunzip};
use rescue_tests::power::rng::{self, Rng};
use rescue_tests::power::whole::{self, Asked};
use rescue_tests::scratch;
use rescue_tests::tools::find;

/// What the runs are asked to give back. What they make differs in length.
const SELECTIONS: [&str; 3] = ["0000:00:1f.2", "0000:01:00.0", "all"];

/// An image file whose writes and flushes are held up.
#[derive(Debug)]
struct Delayed {
    inner: FileDevice,
    chance: Mutex<Rng>,
}

impl Delayed {
    fn wait(&self) {
        let microseconds = match self.chance.lock().unwrap().below(8) {
            0 => 400,
            1 => 100,
            _ => 0,
        };
        match microseconds {
            0 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(microseconds)),
        }
    }
}

impl BlockDevice for Delayed {
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        self.wait();
        self.inner.write_at(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.wait();
        self.inner.flush()
    }
}

/// Opens images as [`Delayed`] devices.
struct DelayedDisks {
    seed: u64,
    opened: AtomicUsize,
}

impl DelayedDisks {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn BlockDevice>> {
        let number = self.opened.fetch_add(1, Ordering::SeqCst) as u64;
        Ok(Box::new(Delayed {
            inner: FileDevice::open(path, access)?,
            chance: Mutex::new(Rng::new(self.seed, number)),
        }))
    }
}

impl Disks for DelayedDisks {
    fn read(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        self.open(path, Access::Read)
    }

    fn write(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        self.open(path, Access::Write)
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    To(u8),
    Locked,
}

struct Stage {
    bank: Bank,
    original: Vec<u8>,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        let original = whole::archive(47, Owner::Passthru)?;
        Ok(Self {
            bank: whole::disk(&original)?,
            original,
            folder: scratch::folder()?,
        })
    }

    fn image(&self, number: usize) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("{number}.img"));
        self.bank.medium.export(0, self.bank.medium.size(), &path)?;
        Ok(path)
    }

    /// The bank is whole, however many runs there were: a sound archive that is the original or made
    /// of it, the original kept, no cluster lost.
    fn judge(&self, image: &Path) -> Result<()> {
        let file = File::open(image)?;
        let start = self.bank.region.start.0;
        let loader = Loader::open(&file, start, self.bank.sector)?;
        let archive = loader.load(b"STATE   TGZ")?.context("STATE.TGZ is gone")?;
        gunzip(&archive)?;
        let census = Census::of(&file, start, self.bank.sector)?;
        ensure!(census.problems.is_empty(), "{:?}", census.problems);
        let copies = whole::copies(&file, &self.bank)?;
        ensure!(
            archive == self.original || copies == [self.original.clone()],
            "the original is lost"
        );
        Ok(())
    }
}

/// Runs at once on one image; what each came to.
fn at_once(image: &Path, runs: usize, with_locks: bool, rng: &mut Rng) -> Result<Vec<Came>> {
    let start = std::sync::Barrier::new(runs);
    let jobs: Vec<(u64, &str)> = (0..runs)
        .map(|_| (rng.bits(), SELECTIONS[rng.below(SELECTIONS.len())]))
        .collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .iter()
            .map(|(seed, devices)| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    one_run(image, *seed, devices, with_locks)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a run panicked"))?)
            .collect()
    })
}

/// A run as the command line does it: the locks first, kept to the end.
fn one_run(image: &Path, seed: u64, devices: &str, with_locks: bool) -> Result<Came> {
    // Who holds a lock is looked for among all processes; none of these runs is one. That look takes
    // longer than the run, and is tried with real processes below.
    let no_processes = image.parent().context("a folder")?;
    let locks = match with_locks {
        true => match Locks::take(no_processes, &[image.to_owned()]) {
            Ok(locks) => Some(locks),
            Err(LockError::Held { .. }) => return Ok(Came::Locked),
            Err(error) => return Err(error.into()),
        },
        false => None,
    };
    let disks = DelayedDisks {
        seed,
        opened: AtomicUsize::new(0),
    };
    let status = whole::run(&disks, image, Asked::Revert(devices))?;
    drop(locks);
    Ok(Came::To(status))
}

#[test]
fn runs_at_once_leave_no_bad_state() {
    const TRIALS: usize = 10_000;
    let (stage, seed) = (Stage::new().unwrap(), rng::seed_from_env());
    let (next, worked, locked) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let trial = |number: usize| -> Result<()> {
        let mut rng = Rng::new(seed, 50_000 + number as u64);
        let image = stage.image(number)?;
        let runs = 2 + rng.below(3);
        let came = at_once(&image, runs, true, &mut rng)?;
        let done = came.iter().filter(|came| **came == Came::To(0)).count();
        let refused = came.iter().filter(|came| **came == Came::Locked).count();
        ensure!(done > 0 && done + refused == runs, "{came:?}");
        worked.fetch_add(done, Ordering::SeqCst);
        locked.fetch_add(refused, Ordering::SeqCst);
        stage.judge(&image)?;
        fs::remove_file(&image)?;
        Ok(())
    };
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= TRIALS {
                        return;
                    }
                    if let Err(error) = trial(number) {
                        *failure.lock().unwrap() = Some(format!("trial {number}: {error:#}"));
                    }
                }
            });
        }
    });
    let (worked, locked) = (worked.into_inner(), locked.into_inner());
    println!("{TRIALS} trials: {worked} runs worked, {locked} were refused, none bad");
    if let Some(failure) = failure.into_inner().unwrap() {
        panic!("seed {seed:#x}, {failure}");
    }
    assert!(locked > TRIALS / 10, "the runs were not at once: {locked}");
}

/// Without the locks the same trials find bad states: they can fail.
#[test]
fn without_the_locks_the_trials_find_bad_states() {
    let (stage, seed) = (Stage::new().unwrap(), rng::seed_from_env());
    for number in 0..5_000 {
        let mut rng = Rng::new(seed, 90_000 + number as u64);
        let image = stage.image(number).unwrap();
        let runs = 2 + rng.below(3);
        let came = at_once(&image, runs, false, &mut rng).unwrap();
        let bad = stage.judge(&image).is_err() || came.contains(&Came::To(5));
        fs::remove_file(&image).unwrap();
        if bad {
            println!("found in trial {number}");
            return;
        }
    }
    panic!("no bad state in 5000 trials without locks");
}

/// The real program, several times at once, with strace holding up each of its writes.
#[test]
fn processes_at_once_leave_no_bad_state() {
    let stage = Stage::new().unwrap();
    let (agent, strace) = (artefacts::agent().unwrap(), find("strace").unwrap());
    let (mut done, mut refused, mut named) = (0, 0, 0);
    for number in 0..40 {
        let image = stage.image(number).unwrap();
        let children: Vec<_> = (0..2 + number % 3)
            .map(|run| {
                let delay = [500, 3000, 9000][(number + run) % 3];
                Command::new(&strace)
                    .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"])
                    .args(["-e", &format!("inject=pwrite64:delay_enter={delay}")])
                    .arg(&agent)
                    .args([
                        "revert",
                        "--yes",
                        "--devices",
                        SELECTIONS[(number + run) % 3],
                    ])
                    .arg(&image)
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => done += 1,
                Some(4) => {
                    assert!(said.contains("is in use by"), "{said}");
                    // One that has just ended cannot be named any more.
                    let holder = said.contains("by process") && said.contains("revert --yes");
                    named += usize::from(holder);
                    refused += 1;
                }
                other => panic!("{other:?}: {said}"),
            }
        }
        stage
            .judge(&image)
            .unwrap_or_else(|error| panic!("trial {number}: {error:#}"));
    }
    println!("{done} processes worked, {refused} were refused, {named} with a name, none bad");
    assert!(done >= 40 && named > 0, "{done} {refused} {named}");
}
