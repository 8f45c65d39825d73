//! Power-on to reboot: the image, which repairs a disk, against the floor.
//!
//! The floor is the same ISO (firmware path, GRUB, kernel, kernel arguments), in which the initramfs
//! is replaced by one that holds a single program, [`floor_init`](../../floor_init/index.html), and
//! the menu by the three lines that start it. What it takes is what this firmware, this loader and
//! this kernel cost on this machine; what is above it, is ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::sizes::extracted;
use super::table::{Promise, Row};
use super::{Effort, median};
use crate::artefacts;
use crate::esxi::EsxiDisk;
use crate::machine::{Bus, Ending, Firmware, Machine, Medium, tail};
use crate::sparse;
use crate::tools::Tool;

/// What a boot of the image may take of the floor's time.
const OVER_FLOOR: f64 = 1.35;
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

/// Boots by turns, and says where the time goes.
///
/// # Errors
/// When the image or the floor's program is missing, or a boot does not end as it should.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let rescue = folder.path().join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0"], &rescue)?;
    let floor = floor(&rescue, folder.path())?;
    let disk = EsxiDisk::v67().make(folder.path(), "disk")?.image;
    let rounds = match effort {
        Effort::Full => 5,
        Effort::Quick => 1,
    };
    let (mut floors, mut boots) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("bench: boot, round {} of {rounds}", round + 1);
        let copy = folder.path().join("copy.img");
        sparse::copy(&disk, &copy)?;
        floors.push(boot_floor(&floor, &copy)?);
        boots.push(Boot::of(&rescue, &copy)?);
        fs::remove_file(&copy)?;
    }
    Ok(told(floors, &boots))
}

fn told(floors: Vec<f64>, boots: &[Boot]) -> Vec<Row> {
    let floor = median(floors);
    let whole = median(boots.iter().map(|boot| boot.whole).collect());
    let told = |what: &str, value: f64, unit| Row::told("boot", what, value, unit);
    let mut rows = vec![
        told("power-on to reboot / floor", whole / floor, "x")
            .promised(Promise::AtMost(OVER_FLOOR))
            .note(format!(
                "{:.0} ms against {:.0} ms",
                whole * 1e3,
                floor * 1e3
            )),
    ];
    let names = boots.first().into_iter().flat_map(|boot| &boot.parts);
    for (index, (name, _)) in names.enumerate() {
        let values = boots
            .iter()
            .filter_map(|boot| Some(boot.parts.get(index)?.1));
        rows.push(told(
            &format!("of it: {name}"),
            median(values.collect()) * 1e3,
            "ms",
        ));
    }
    rows
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

fn machine(iso: &Path, disk: &Path) -> Machine {
    Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso.to_owned()))
        .disk(Bus::Ahci, disk)
}

fn boot_floor(iso: &Path, disk: &Path) -> Result<f64> {
    let finished = machine(iso, disk).run()?;
    let end = tail(&finished.serial);
    ensure!(
        finished.ending == Ending::Rebooted,
        "the floor did not reboot:\n{end}"
    );
    Ok(finished.elapsed.as_secs_f64())
}

/// A boot of the image, in seconds.
struct Boot {
    whole: f64,
    parts: Vec<(&'static str, f64)>,
}

impl Boot {
    fn of(iso: &Path, disk: &Path) -> Result<Self> {
        let mut running = machine(iso, disk).start()?;
        running.wait_for(REPORT)?;
        let reported = running.elapsed();
        let finished = running.finish()?;
        let result = finished.result()?;
        ensure!(result == "reverted", "the image ended with {result}");
        let report = finished.report()?;
        let mut parts = Vec::new();
        let mut since = Duration::ZERO;
        for (name, phases) in PHASES {
            let end = phases
                .iter()
                .filter_map(|phase| phase_end(&report, phase))
                .max();
            let end = end.with_context(|| format!("the report tells nothing of {name}"))?;
            parts.push((name, end.saturating_sub(since).as_secs_f64()));
            since = end;
        }
        let verified = phase_end(&report, "verification").context("it was verified")?;
        parts.push(("verification", verified.saturating_sub(since).as_secs_f64()));
        let before = reported.saturating_sub(verified).as_secs_f64();
        parts.insert(0, ("firmware, loader, unpacking the kernel", before));
        let after = finished.elapsed.saturating_sub(reported).as_secs_f64();
        parts.push(("report and reboot", after));
        Ok(Self {
            whole: finished.elapsed.as_secs_f64(),
            parts,
        })
    }
}

/// When a phase ended, since the kernel's start.
fn phase_end(report: &Value, phase: &str) -> Option<Duration> {
    let ends = report["image"]["phase_ends"].as_array()?;
    let end = ends.iter().find(|end| end["phase"] == phase)?;
    end["since_kernel_start_ms"]
        .as_u64()
        .map(Duration::from_millis)
}
