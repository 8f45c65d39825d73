//! Power-on to reboot: the image, which repairs a disk, against the floor.
//!
//! The floor is the same ISO (firmware path, GRUB, kernel, kernel arguments), in which the initramfs
//! is replaced by one that holds a single program, [`floor_init`](../../floor_init/index.html), and
//! the menu by the three lines that start it. What it takes is what this firmware, this loader and
//! this kernel cost on this machine; what is above it, is ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::Effort;
use super::sizes::extracted;
use super::spread::{FEWEST_RUNS, Spread};
use super::table::{Promise, Row};
use crate::artefacts;
use crate::esxi::EsxiDisk;
use crate::machine::{Bus, Ending, Finished, Firmware, Machine, Medium, Running, tail};
use crate::sparse;
use crate::tools::Tool;

const MIB: f64 = (1 << 20) as f64;
/// What a boot of the image may take of the floor's time.
const OVER_FLOOR: f64 = 1.15;
/// What it may read of what the floor reads, its kernel and its loader.
const READ_OVER_FLOOR: f64 = 1.8;
/// The slowest boot has this long.
const DEADLINE: Duration = Duration::from_secs(400);
/// What the guest prints after everything but the end is done.
const REPORT: &str = "-----BEGIN ESXI-RESCUE REPORT-----";
/// Phases of the image's report by what they are for people; each ends with the phase of its name.
const PHASES: [(&str, &[&str]); 6] = [
    ("kernel", &["kernel"]),
    (
        "mounts, consoles, settings",
        &["mounts", "consoles", "settings"],
    ),
    ("drivers", &["drivers"]),
    ("waiting for disks", &["disks"]),
    ("discovery", &["discovery"]),
    ("repair", &["repair"]),
];

/// What the wait for disks consists of on this machine: the scan of the SATA ports by the kernel's own
/// driver, which the floor does not load, and the time without news that follows.
const WAITS: [(&str, &str); 2] = [
    ("waiting for disks: drivers that scan", "drivers"),
    ("waiting for disks: no news", "quiet"),
];

/// A way to start.
struct Route {
    name: &'static str,
    firmware: Firmware,
    /// What the medium gives, in bytes per second; `None`: as much as is asked for.
    speed: Option<u32>,
}

const ROUTES: [Route; 4] = [
    Route {
        name: "BIOS CD",
        firmware: Firmware::Bios,
        speed: None,
    },
    Route {
        name: "UEFI CD",
        firmware: Firmware::Uefi,
        speed: None,
    },
    Route {
        name: "BIOS CD, 2 MB/s",
        firmware: Firmware::Bios,
        speed: Some(2_000_000),
    },
    Route {
        name: "BIOS CD, 500 kB/s",
        firmware: Firmware::Bios,
        speed: Some(500_000),
    },
];

/// Boots by turns, and says where the time goes.
///
/// # Errors
/// When the image or the floor's program is missing, or a boot does not end as it should.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    rows_of(|route| route.speed.is_none(), effort)
}

/// The same through slow media.
///
/// # Errors
/// As [`rows`].
pub fn slow_rows(effort: Effort) -> Result<Vec<Row>> {
    rows_of(|route| route.speed.is_some(), effort)
}

fn rows_of(wanted: fn(&Route) -> bool, effort: Effort) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let rescue = folder.path().join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0"], &rescue)?;
    let media = Media {
        floor: floor(&rescue, folder.path())?,
        rescue,
        disk: EsxiDisk::v67().make(folder.path(), "disk")?.image,
        folder: folder.path(),
    };
    let mut rows = Vec::new();
    for route in ROUTES.iter().filter(|route| wanted(route)) {
        rows.extend(route.rows(&media, effort)?);
    }
    Ok(rows)
}

/// What is booted.
struct Media<'m> {
    rescue: PathBuf,
    floor: PathBuf,
    disk: PathBuf,
    folder: &'m Path,
}

impl Route {
    fn rows(&self, media: &Media<'_>, effort: Effort) -> Result<Vec<Row>> {
        let rounds = match effort {
            Effort::Full => FEWEST_RUNS,
            Effort::Quick => 1,
        };
        let (mut floors, mut boots) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            eprintln!("bench: boot, {}, round {round} of {rounds}", self.name);
            let (floor, boot) = self.round(media)?;
            eprintln!(
                "bench: {:.1} s and {:.1} MiB against {:.1} s and {:.1} MiB",
                boot.times.whole, boot.times.read_mib, floor.whole, floor.read_mib
            );
            floors.push(floor);
            boots.push(boot);
        }
        Ok(self.told(&floors, &boots))
    }

    /// One boot of each. A slow medium leaves the processor idle, so that both run side by side then.
    fn round(&self, media: &Media<'_>) -> Result<(Times, Boot)> {
        let copy = |name: &str| -> Result<PathBuf> {
            let copy = media.folder.join(name);
            sparse::copy(&media.disk, &copy)?;
            Ok(copy)
        };
        let (of_floor, of_boot) = (copy("floor-disk.img")?, copy("disk-copy.img")?);
        let floor = || self.boot_floor(&media.floor, &of_floor);
        let boot = || self.boot(&media.rescue, &of_boot);
        let both = match self.speed {
            None => (floor()?, boot()?),
            Some(_) => thread::scope(|scope| -> Result<_> {
                let floor = scope.spawn(floor);
                let boot = boot()?;
                let floor = floor.join().map_err(|_| anyhow!("the floor panicked"))?;
                Ok((floor?, boot))
            })?,
        };
        fs::remove_file(of_floor)?;
        fs::remove_file(of_boot)?;
        Ok(both)
    }

    fn machine(&self, iso: &Path, disk: &Path) -> Machine {
        let medium = match self.speed {
            None => Medium::Cd(iso.to_owned()),
            Some(speed) => Medium::SlowCd(iso.to_owned(), speed),
        };
        Machine::new(self.firmware)
            .medium(medium)
            .disk(Bus::Ahci, disk)
            .deadline(DEADLINE)
            .counted()
    }

    fn boot_floor(&self, iso: &Path, disk: &Path) -> Result<Times> {
        let (finished, times) = end(self.machine(iso, disk).start()?)?;
        let end = tail(&finished.serial);
        ensure!(
            finished.ending == Ending::Rebooted,
            "the floor did not reboot:\n{end}"
        );
        Ok(times)
    }

    fn boot(&self, iso: &Path, disk: &Path) -> Result<Boot> {
        let mut running = self.machine(iso, disk).start()?;
        running.wait_for(REPORT)?;
        let reported = running.elapsed();
        let (finished, times) = end(running)?;
        let result = finished.result()?;
        ensure!(result == "reverted", "the image ended with {result}");
        Boot::of(&finished.report()?, reported, times)
    }

    fn told(&self, floors: &[Times], boots: &[Boot]) -> Vec<Row> {
        let told = |what: &str, spread: Spread, unit| {
            let part = if self.speed.is_none() {
                "boot"
            } else {
                "slow-media"
            };
            Row::told(part, format!("{}: {what}", self.name), spread, unit)
        };
        let ratio = |of: fn(&Times) -> f64| {
            let boots: Vec<f64> = boots.iter().map(|boot| of(&boot.times)).collect();
            let floors: Vec<f64> = floors.iter().map(of).collect();
            let note = (
                Spread::of(boots.iter().copied()).median,
                Spread::of(floors.iter().copied()).median,
            );
            (Spread::of_ratios(&boots, &floors), note)
        };
        let (time, (boot, floor)) = ratio(|times| times.whole);
        let mut time = told("power-on to reboot / floor", time, "x").note(format!(
            "{:.0} ms against {:.0} ms",
            boot * 1e3,
            floor * 1e3
        ));
        // On a slow medium the bytes decide.
        if self.speed.is_none() {
            time = time.promised(Promise::AtMost(OVER_FLOOR));
        }
        let (read, (boot, floor)) = ratio(|times| times.read_mib);
        let read = told("read from the medium / floor", read, "x")
            .promised(Promise::AtMost(READ_OVER_FLOOR))
            .note(format!("{boot:.1} MiB against {floor:.1} MiB"));
        let mut rows = vec![time, read];
        if self.speed.is_some() {
            return rows;
        }
        let names = boots.first().into_iter().flat_map(|boot| &boot.parts);
        for (index, (name, _)) in names.enumerate() {
            let values = boots
                .iter()
                .filter_map(|boot| Some(boot.parts.get(index)?.1 * 1e3));
            rows.push(told(&format!("of it {name}"), Spread::of(values), "ms"));
        }
        rows
    }
}

/// What a boot took.
struct Times {
    /// From power-on to the reboot, in seconds.
    whole: f64,
    /// Read from the medium by firmware, loader and system.
    read_mib: f64,
}

fn end(running: Running) -> Result<(Finished, Times)> {
    let (finished, bytes) = running.finish_counted()?;
    let times = Times {
        whole: finished.elapsed.as_secs_f64(),
        read_mib: bytes as f64 / MIB,
    };
    Ok((finished, times))
}

/// The ISO of the floor, made from the image's.
fn floor(rescue: &Path, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("floor");
    fs::create_dir_all(tree.join("dev"))?;
    fs::copy(floor_init()?, tree.join("init"))?;
    let initramfs = Tool::new("cpio")?
        .args(["-o", "-H", "newc", "--quiet", "-R", "0:0"])
        .folder(&tree)
        .input("dev\ninit\n")
        .run()?;
    let packed = folder.join("floor.img");
    fs::write(&packed, crate::esxi::archive::gzip(initramfs)?)?;
    let menu = folder.join("floor.cfg");
    fs::write(&menu, floor_menu(folder)?)?;
    let iso = folder.join("floor.iso");
    Tool::new("xorriso")?
        .arg("-indev")
        .arg(rescue)
        .arg("-outdev")
        .arg(&iso)
        .args(["-boot_image", "any", "replay", "-update"])
        .arg(&packed)
        .args(["/boot/initrd.img", "-update"])
        .arg(&menu)
        .arg("/boot/grub/grub.cfg")
        .run()
        .context("making the floor's ISO")?;
    Ok(iso)
}

fn floor_init() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let init = here.with_file_name("floor_init");
    ensure!(
        init.exists(),
        "{} is missing: use `make bench`",
        init.display()
    );
    Ok(init)
}

/// Three lines, with the kernel arguments of the image's own menu.
fn floor_menu(folder: &Path) -> Result<String> {
    let menu = extracted("/boot/grub/grub.cfg", folder)?.context("the ISO has a menu")?;
    let menu = String::from_utf8(menu)?;
    let arguments = menu
        .lines()
        .find_map(|line| {
            let (_, words) = line.trim().strip_prefix("linux ")?.split_once(' ')?;
            words.strip_suffix(" ${rescue_args}")
        })
        .context("the menu starts a kernel")?;
    Ok(format!(
        "linux ($root)/boot/vmlinuz {arguments}\ninitrd ($root)/boot/initrd.img\nboot\n"
    ))
}

/// A boot of the image, in seconds.
struct Boot {
    times: Times,
    parts: Vec<(&'static str, f64)>,
}

impl Boot {
    /// `reported`: when the report began, since power-on.
    fn of(report: &Value, reported: Duration, times: Times) -> Result<Self> {
        let mut parts = Vec::new();
        let mut since = Duration::ZERO;
        for (name, phases) in PHASES {
            let end = phases
                .iter()
                .filter_map(|phase| phase_end(report, phase))
                .max();
            let end = end.with_context(|| format!("the report tells nothing of {name}"))?;
            parts.push((name, end.saturating_sub(since).as_secs_f64()));
            since = end;
        }
        let verified = phase_end(report, "verification").context("it was verified")?;
        parts.push(("verification", verified.saturating_sub(since).as_secs_f64()));
        let before = reported.saturating_sub(verified).as_secs_f64();
        parts.insert(0, ("firmware, loader, unpacking the kernel", before));
        parts.push(("report and reboot", times.whole - reported.as_secs_f64()));
        for (name, what) in WAITS {
            parts.push((name, waited(report, what)));
        }
        Ok(Self { times, parts })
    }
}

/// How long the first wait for disks was for one thing, in seconds.
fn waited(report: &Value, what: &str) -> f64 {
    let parts = report["image"]["waits"][0]["waited_for"].as_array();
    let part = parts
        .into_iter()
        .flatten()
        .find(|part| part["what"] == what);
    part.and_then(|part| part["milliseconds"].as_f64())
        .unwrap_or(0.0)
        / 1e3
}

/// When a phase ended, since the kernel's start.
fn phase_end(report: &Value, phase: &str) -> Option<Duration> {
    let ends = report["image"]["phase_ends"].as_array()?;
    let end = ends.iter().find(|end| end["phase"] == phase)?;
    end["since_kernel_start_ms"]
        .as_u64()
        .map(Duration::from_millis)
}
