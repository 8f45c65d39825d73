//! The built image repairs a disk in a machine that is killed, again and again, at another moment
//! of the repair; the next boot repairs the disk to its end.
//!
//! A whole boot takes long in software emulation, the repair only some tenths of a second. So two
//! machines are booted once and saved: one whose plan is made and whose next key starts the repair,
//! and one that has not read a byte from its disk yet. Every kill starts from the first one with
//! the disk as it was made; every boot after a kill goes on from the second one, with the disk
//! that the kill left. Nothing in that machine can depend on the disk, because it has never read
//! it: QEMU counts. Some boots after a kill are whole ones all the same.
//!
//! The disk takes few writes in a second, so that the kills fall between single writes. A killed
//! machine loses nothing that the disk has taken; what a cut does to the disk's own cache is
//! simulated elsewhere, exhaustively.
//!
//! `RESCUE_SEED` chooses other moments; `RESCUE_DEEP=1` more of them, with whole boots only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::archive::{Member, noise};
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::judge::interrupted::{Interrupted, Progress};
use rescue_tests::machine::{Bus, Disk, Ending, Firmware, Machine, Medium, Running, tail};
use rescue_tests::power::rng::{Rng, seed_from_env};
use rescue_tests::sparse;

/// QEMU's cache modes, each with kills of its own.
const CACHES: [&str; 2] = ["writeback", "none"];
/// Kills in each cache mode.
const KILLS: usize = 6;
/// The same with `RESCUE_DEEP`.
const DEEP_KILLS: usize = 60;
/// Every how manieth boot after a kill is a whole one, and after every how manieth kill the next boot
/// is killed as well.
const WHOLE_BOOT: usize = KILLS;
const SECOND_KILL: usize = 4;
/// The repair of two banks takes 20 writes or a few more.
const WRITES_PER_SECOND: u32 = 8;
/// The longest time after the first write in which it is killed: those writes take 2.5 seconds.
const LONGEST_WINDOW: Duration = Duration::from_secs(4);
/// Incompressible bytes of an archive, so that its content does not go to the disk at once.
const ARCHIVE_BYTES: usize = 600_000;
/// The console before the first write.
const FIRST_WRITE: &str = "Write    ";
/// The console after the last one.
const REPORT: &str = "BEGIN ESXI-RESCUE REPORT";

/// What is shared by all kills.
struct Stage {
    folder: tempfile::TempDir,
    made: Made,
    /// Waits for a key to begin the repair.
    ready: PathBuf,
    /// Has not read its disk yet.
    booting: PathBuf,
    /// The archives that the repair puts in place.
    new: Vec<Vec<u8>>,
    /// How long a repair takes from its first line to its report.
    window: Duration,
}

/// A disk that is killed, with what judges it.
struct Victim<'s> {
    stage: &'s Stage,
    cache: &'static str,
    image: PathBuf,
    judge: Judge,
}

/// The moments at which a machine was killed, and what was left.
type Kills = Vec<(Duration, Interrupted)>;

fn is_deep() -> bool {
    std::env::var("RESCUE_DEEP").as_deref() == Ok("1")
}

fn machine(iso: &Path, image: &Path, cache: &'static str, limit: Option<u32>) -> Machine {
    Machine::new(Firmware::Bios)
        .memory_mib(512)
        .medium(Medium::Cd(iso.to_owned()))
        .add_disk(Disk {
            cache,
            writes_per_second: limit,
            ..Disk::new(Bus::Ahci, image)
        })
}

/// The disk of the reported case with archives of some size.
fn disk() -> EsxiDisk {
    let mut number = 0;
    EsxiDisk::v67().every_bank(|bank| {
        number += 1;
        let bytes = noise(&format!("bank {number}"), ARCHIVE_BYTES);
        let member = Member::file("var/lib/much", 0o644, bytes);
        bank.archive.members.push(member);
    })
}

impl Stage {
    fn set_up() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = disk().make(folder.path(), "disk")?;
        for (name, countdown) in [("waits", "600"), ("repairs", "0")] {
            let setting = format!("countdown={countdown}");
            artefacts::customized("esxi-rescue.iso", &[&setting], &iso(folder.path(), name))?;
        }
        let mut stage = Self {
            ready: folder.path().join("ready"),
            booting: folder.path().join("booting"),
            folder,
            made,
            new: Vec::new(),
            window: Duration::ZERO,
        };
        thread::scope(|scope| {
            let booting = scope.spawn(|| stage.save_booting());
            stage.save_ready()?;
            joined(booting)
        })?;
        stage.watch_a_repair()?;
        Ok(stage)
    }

    fn iso(&self, name: &str) -> PathBuf {
        iso(self.folder.path(), name)
    }

    /// A machine that only waits for a key. Its disk is a copy.
    fn save_ready(&self) -> Result<()> {
        let image = self.folder.path().join("ready.img");
        sparse::copy(&self.made.image, &image)?;
        let mut running = machine(&self.iso("waits"), &image, CACHES[0], None).start()?;
        running.wait_for("open the menu.")?;
        running.press("spc")?;
        running.wait_for("Enter for: apply the plan")?;
        running.save(&self.ready, None)?;
        let changed = sparse::differing_units(&self.made.image, &image)?;
        ensure!(changed.is_empty(), "it has written before the key");
        Ok(())
    }

    /// A machine as late as possible before it reads its disk: while it waits for the disk's
    /// driver, or, where that is too quick to be seen, as the kernel is started.
    fn save_booting(&self) -> Result<()> {
        let image = self.folder.path().join("booting.img");
        sparse::copy(&self.made.image, &image)?;
        let save = |text: &str| -> Result<()> {
            let mut running = machine(&self.iso("repairs"), &image, CACHES[0], None).start()?;
            running.wait_for(text)?;
            running.save(&self.booting, Some(0))
        };
        save("Waiting up to").or_else(|_| {
            sparse::copy(&self.made.image, &image)?;
            save("Booting `")
        })
    }

    /// A repair that nobody disturbs: what it leaves, and how long it takes.
    fn watch_a_repair(&mut self) -> Result<()> {
        let victim = Victim::new(self, CACHES[0])?;
        let mut running = victim.begin_repair()?;
        let begun = Instant::now();
        running.wait_for(REPORT)?;
        let window = begun.elapsed();
        running.cut_power()?;
        victim.judge.repaired(&[0, 1], &[SATA])?;
        let read = |bank| victim.judge.bank(bank)?.read("STATE.TGZ");
        self.new = (0..2).map(read).collect::<Result<_>>()?;
        // Where the machine was slow just now, kills over all of that time would come after the repairs.
        self.window = window.min(LONGEST_WINDOW);
        Ok(())
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread came to a bad end"))?
}

fn iso(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.iso"))
}

impl<'s> Victim<'s> {
    fn new(stage: &'s Stage, cache: &'static str) -> Result<Self> {
        let image = stage.folder.path().join(format!("{cache}.img"));
        sparse::copy(&stage.made.image, &image)?;
        let made = Made {
            image: image.clone(),
            ..stage.made.clone()
        };
        Ok(Self {
            stage,
            cache,
            judge: Judge::new(&made, stage.folder.path())?,
            image,
        })
    }

    /// A machine that has just begun to repair the disk.
    fn begin_repair(&self) -> Result<Running> {
        let iso = self.stage.iso("waits");
        let machine = machine(&iso, &self.image, self.cache, Some(WRITES_PER_SECOND));
        let mut running = machine.resume(&self.stage.ready)?;
        running.press("a")?;
        running.wait_for(FIRST_WRITE)?;
        Ok(running)
    }

    /// Kills a machine at a moment of its repair.
    fn kill(&self, moment: Duration) -> Result<Interrupted> {
        sparse::copy(&self.stage.made.image, &self.image)?;
        let running = self.begin_repair()?;
        thread::sleep(moment);
        running.cut_power()?;
        self.judge.interrupted(&self.stage.new)
    }

    /// Kills the machine that would have repaired what a kill left; `None`: it had nothing to write.
    fn kill_again(&self, moment: Duration) -> Result<Option<Interrupted>> {
        let iso = self.stage.iso("repairs");
        let machine = machine(&iso, &self.image, self.cache, Some(WRITES_PER_SECOND));
        let mut running = machine.resume(&self.stage.booting)?;
        while !running.serial()?.contains(FIRST_WRITE) {
            if running.has_ended()? {
                return Ok(None);
            }
            running.check_deadline(FIRST_WRITE)?;
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(moment);
        running.cut_power()?;
        self.judge.interrupted(&self.stage.new).map(Some)
    }

    /// The next boot reaches the end.
    fn recover(&self, whole_boot: bool) -> Result<()> {
        let machine = machine(&self.stage.iso("repairs"), &self.image, self.cache, None);
        let finished = match whole_boot {
            true => machine.run()?,
            false => machine.resume(&self.stage.booting)?.finish()?,
        };
        let (result, end) = (finished.result()?, tail(&finished.serial));
        ensure!(
            finished.ending == Ending::Rebooted && ["reverted", "clean"].contains(&result.as_str()),
            "the boot after the kill ended as {result}, {:?}:\n{end}",
            finished.ending
        );
        self.judge.repaired(&[0, 1], &[SATA]).context(end)
    }
}

/// All kills in one cache mode, spread evenly over the repair, each at a chance moment of its part.
fn kill_and_recover(stage: &Stage, cache: &'static str, mut rng: Rng) -> Result<Kills> {
    let victim = Victim::new(stage, cache)?;
    let count = if is_deep() { DEEP_KILLS } else { KILLS };
    let part = stage.window / u32::try_from(count)?;
    let mut kills = Kills::new();
    for number in 0..count {
        let within = part.mul_f64(rng.below(1000) as f64 / 1000.0);
        let moment = part * u32::try_from(number)? + within;
        let again = stage.window.mul_f64(rng.below(1000) as f64 / 1000.0);
        let context = || format!("cache {cache}, killed {moment:?} after the repair began");
        kills.push((moment, victim.kill(moment).with_context(context)?));
        if number % SECOND_KILL == 0 {
            let twice = || format!("{}, and its next boot after {again:?}", context());
            let left = victim.kill_again(again).with_context(twice)?;
            kills.extend(left.map(|left| (again, left)));
        }
        let whole_boot = is_deep() || number % WHOLE_BOOT == WHOLE_BOOT - 1;
        victim.recover(whole_boot).with_context(context)?;
    }
    Ok(kills)
}

#[test]
fn a_machine_killed_at_any_moment_leaves_whole_banks_and_the_next_boot_repairs_them() -> Result<()>
{
    let seed = seed_from_env();
    println!("RESCUE_SEED={seed:#x}");
    let stage = Stage::set_up()?;
    let all = thread::scope(|scope| {
        let stage = &stage;
        let modes = (0..).zip(CACHES);
        let threads: Vec<_> = modes
            .map(|(stream, cache)| {
                let rng = Rng::new(seed, stream);
                scope.spawn(move || kill_and_recover(stage, cache, rng))
            })
            .collect();
        threads.into_iter().map(joined).collect::<Result<Vec<_>>>()
    })?;
    for (cache, kills) in CACHES.into_iter().zip(&all) {
        for (moment, left) in kills {
            println!("{cache:>9} {:5} ms {left:?}", moment.as_millis());
        }
    }
    let left: Vec<&Interrupted> = all.iter().flatten().map(|(_, left)| left).collect();
    let states: BTreeSet<_> = left.iter().collect();
    let inside = left.iter().filter(|left| left.is_inside()).count();
    let begun = |left: &&&Interrupted| left.banks.contains(&Progress::Begun);
    println!(
        "{} kills, {inside} of them between the first and the last write, {} with a bank half \
         written; {} different disks; a repair takes {:?}",
        left.len(),
        left.iter().filter(begun).count(),
        states.len(),
        stage.window
    );
    // Of the kills a third at least hit the repair, and not all of them the same state of it.
    let [kills, hits, different] = match is_deep() {
        true => [120, 40, 8],
        false => [12, 4, 3],
    };
    ensure!(left.len() >= kills, "only {} kills", left.len());
    ensure!(inside >= hits, "the kills do not hit the repair");
    ensure!(
        states.len() >= different,
        "the kills hit the same moments only"
    );
    Ok(())
}
