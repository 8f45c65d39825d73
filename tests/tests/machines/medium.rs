//! The built USB image, started from a stick that can be written: its settings are obeyed, what was
//! done is found on it afterwards, and an original comes back from it. Judged with mtools, fsck.fat,
//! sha256sum and the disks themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::disk_image;
use rescue_tests::esxi::fat::Volume;
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Ending, Firmware, Machine, Medium, drive};
use rescue_tests::sparse;
use rescue_tests::tools::Tool;
use serde_json::{Value, json};

pub(super) const SERIAL: &str = "7XK2P03";
pub(super) const UUID: &str = "4c4c4544-0058-4b10-8032-b7c04f503033";

/// Without a countdown, and without handing over to the local disk at the next start.
const SETTINGS: &str = "countdown = 0\nbootnext = \"off\"\n";

/// A copy of the USB image, its volume read and written by mtools.
pub(super) struct Stick {
    pub(super) image: PathBuf,
    pub(super) volume: String,
    start: u64,
    bytes: u64,
    folder: PathBuf,
}

impl Stick {
    fn new(folder: &Path, name: &str) -> Result<Self> {
        let image = folder.join(name);
        sparse::copy(&artefacts::dist("esxi-rescue.img")?, &image)?;
        let system = disk_image::system_partition(&image)?;
        Ok(Self {
            volume: system.volume(&image),
            start: system.start(),
            bytes: system.bytes(),
            image,
            folder: folder.to_owned(),
        })
    }

    pub(super) fn with_settings(folder: &Path, settings: &str) -> Result<Self> {
        let stick = Self::new(folder, "stick.img")?;
        stick.set(settings)?;
        Ok(stick)
    }

    fn set(&self, settings: &str) -> Result<()> {
        let file = self.folder.join("settings");
        fs::write(&file, settings)?;
        Tool::new("mcopy")?
            .args(["-o", "-i", &self.volume])
            .arg(&file)
            .arg("::rescue.toml")
            .run()?;
        Ok(())
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.folder.join("taken");
        let _ = fs::remove_file(&file);
        Tool::new("mcopy")?
            .args(["-i", &self.volume, &format!("::{name}")])
            .arg(&file)
            .run()?;
        Ok(fs::read(&file)?)
    }

    /// The paths of its files below a folder; none where there is no such folder.
    pub(super) fn files(&self, folder: &str) -> Result<Vec<String>> {
        let listing = Tool::new("mdir")?
            .args(["-/", "-b", "-i", &self.volume, "::"])
            .run_text()?;
        let names = listing.lines().filter_map(|line| line.strip_prefix("::/"));
        let mut files: Vec<String> = names
            .filter(|name| name.starts_with(&format!("{folder}/")) && !name.ends_with('/'))
            .map(str::to_owned)
            .collect();
        files.sort();
        Ok(files)
    }

    /// The report of the only run so far, or of the latest one.
    fn report(&self) -> Result<Value> {
        let files = self.files("reports")?;
        let mut reports = files.iter().rev().filter(|name| name.ends_with(".json"));
        let name = reports.next().context("no report on the stick")?;
        Ok(serde_json::from_slice(&self.read(name)?)?)
    }

    /// fsck.fat finds nothing wrong.
    pub(super) fn check(&self) -> Result<()> {
        let volume = self.folder.join("volume");
        let (skip, count) = (self.start.to_string(), self.bytes.to_string());
        Tool::new("dd")?
            .arg(format!("if={}", self.image.display()))
            .arg(format!("of={}", volume.display()))
            .args(["bs=1M", "iflag=skip_bytes,count_bytes"])
            .args([format!("skip={skip}"), format!("count={count}")])
            .run()?;
        let said = Tool::new("fsck.fat")?.arg("-n").arg(&volume).run_text()?;
        // A line for the version, one for the count of files.
        ensure!(said.trim().lines().count() == 2, "{said}");
        Ok(())
    }

    fn machine(&self, made: &Made) -> Machine {
        machine(made).medium(Medium::WritableStick(self.image.clone()))
    }
}

fn machine(made: &Made) -> Machine {
    let identity = format!("type=1,serial={SERIAL},uuid={UUID}");
    Machine::new(Firmware::Bios)
        .disk(Bus::Ahci, &made.image)
        .args(["-smbios", &identity])
}

fn sha256sum(file: &Path) -> Result<String> {
    let said = Tool::new("sha256sum")?.arg(file).run_text()?;
    Ok(said
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// The copies on the stick are the archives of all banks as they were, by their names and hashes.
fn originals_are_kept(stick: &Stick, judge: &Judge) -> Result<()> {
    let index: Value =
        serde_json::from_slice(&stick.read(&format!("originals/{SERIAL}/index.json"))?)?;
    let copies = index["originals"].as_array().context("a list")?;
    ensure!(copies.len() == 2, "{index}");
    let mut partitions = Vec::new();
    for copy in copies {
        ensure!(
            copy["host_serial"] == SERIAL && copy["archive"] == "STATE.TGZ",
            "{copy}"
        );
        let name = copy["file"].as_str().unwrap_or_default();
        let bytes = stick.read(&format!("originals/{SERIAL}/{name}"))?;
        let hash = sha256sum(&stick.folder.join("taken"))?;
        ensure!(
            copy["sha256"] == hash && name.ends_with(&hash[..16]),
            "{copy}: {hash}"
        );
        let partition = copy["partition"].as_u64().unwrap_or_default();
        let bank = if partition == 5 { 0 } else { 1 };
        ensure!(
            bytes == judge.bank_before(bank)?.read("STATE.TGZ")?,
            "{copy}"
        );
        partitions.push(partition);
    }
    partitions.sort_unstable();
    ensure!(partitions == [5, 6], "{index}");
    Ok(())
}

#[test]
fn what_was_done_is_on_the_stick_and_a_second_start_of_it_says_that_all_is_done() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let stick = Stick::with_settings(folder.path(), SETTINGS)?;
    let finished = stick.machine(&made).run()?;
    finished.expect(Ending::Rebooted, "reverted")?;
    judge.repaired(&[0, 1], &[SATA])?;
    stick.check()?;
    let files = stick.files("reports")?;
    ensure!(files.len() == 2, "{files:?}");
    ensure!(
        files[0].starts_with(&format!("reports/{SERIAL}-20")),
        "{files:?}"
    );
    ensure!(files[0].ends_with(".json") && files[1] == files[0].replace(".json", ".log"));
    ensure!(stick.report()? == finished.report()?, "the reports differ");
    let log = String::from_utf8(stick.read(&files[1])?)?;
    ensure!(
        log.contains("1 device was given back to ESXi in 2 banks"),
        "{log}"
    );
    originals_are_kept(&stick, &judge)?;

    let judge = Judge::new(&made, folder.path())?;
    let finished = stick.machine(&made).run()?;
    finished.expect(Ending::Rebooted, "clean")?;
    judge.nothing_changed()?;
    stick.check()?;
    let more = stick.files("reports")?;
    ensure!(
        more.len() == 4 && files.iter().all(|file| more.contains(file)),
        "{more:?}"
    );
    let report = stick.report()?;
    ensure!(report == finished.report()?, "the reports differ");
    ensure!(
        report["summary"].to_string().contains("repaired before"),
        "{report}"
    );
    Ok(())
}

#[test]
fn mode_inspect_on_the_stick_keeps_the_hands_off_the_disk() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let settings = format!("{SETTINGS}mode = \"inspect\"\nfinish = \"poweroff\"\n");
    let stick = Stick::with_settings(folder.path(), &settings)?;
    let finished = stick.machine(&made).run()?;
    finished.expect(Ending::SwitchedOff, "inspected")?;
    judge.nothing_changed()?;
    stick.check()?;
    let report = stick.report()?;
    ensure!(report["result"] == "inspected", "{report}");
    ensure!(report["image"]["settings"]["mode"] == "inspect", "{report}");
    ensure!(stick.files("originals")?.is_empty());
    Ok(())
}

/// Starts it, waits for it to say that it refuses, and cuts its power.
fn refuses(machine: Machine, judge: &Judge) -> Result<String> {
    let mut running = machine.start()?;
    running.wait_for("esxi-rescue: result=refused")?;
    let serial = running.serial()?;
    running.cut_power()?;
    judge.nothing_changed()?;
    Ok(serial.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn wrong_settings_on_the_stick_stop_before_any_write_and_name_file_line_and_key() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let settings = "# A comment.\ncountdown = 0\nmode = \"inspct\"\n";
    let stick = Stick::with_settings(folder.path(), settings)?;
    let said = refuses(stick.machine(&made), &judge)?;
    ensure!(
        said.contains("rescue.toml on the medium, line 3: mode = \"inspct\""),
        "{said}"
    );
    ensure!(stick.files("reports")?.is_empty());
    Ok(())
}

#[test]
fn two_sticks_of_the_same_image_stop_before_any_write() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let stick = Stick::with_settings(folder.path(), SETTINGS)?;
    let second = Stick::new(folder.path(), "second.img")?;
    let machine = stick.machine(&made).disk(Bus::Usb, &second.image);
    let said = refuses(machine, &judge)?;
    ensure!(
        said.contains("there are 2 media of this same image"),
        "{said}"
    );
    Ok(())
}

/// The kernel and initramfs of the stick, started by QEMU itself as GRUB on the stick starts them.
fn kernel_of(stick: &Stick, wait: u32) -> Result<Medium> {
    let mut files = BTreeMap::new();
    for name in ["vmlinuz", "initrd.img"] {
        let file = stick.folder.join(name);
        fs::write(&file, stick.read(&format!("boot/{name}"))?)?;
        files.insert(name, file);
    }
    Ok(Medium::Kernel {
        kernel: files["vmlinuz"].clone(),
        initramfs: files["initrd.img"].clone(),
        command_line: format!("console=ttyS0,115200 rescue_from=usb rescue.wait={wait}"),
    })
}

#[test]
fn without_its_stick_nothing_is_written_for_its_settings_are_not_known() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let stick = Stick::with_settings(folder.path(), SETTINGS)?;
    let said = refuses(machine(&made).medium(kernel_of(&stick, 5)?), &judge)?;
    ensure!(said.contains("did not appear within 5 s"), "{said}");
    Ok(())
}

#[test]
fn a_stick_that_comes_late_is_waited_for_and_its_settings_are_obeyed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let settings = format!("{SETTINGS}mode = \"inspect\"\nfinish = \"reboot\"\n");
    let stick = Stick::with_settings(folder.path(), &settings)?;
    let drive = drive("late", &stick.image);
    let mut running = machine(&made)
        .medium(kernel_of(&stick, 200)?)
        .args(["-device", "qemu-xhci,id=sticks,addr=0xf", "-drive", &drive])
        .start()?;
    running.wait_for("s for more devices")?;
    let device =
        json!({ "driver": "usb-storage", "bus": "sticks.0", "drive": "late", "id": "stick" });
    running.command("device_add", device)?;
    let finished = running.finish()?;
    finished.expect(Ending::Rebooted, "inspected")?;
    judge.nothing_changed()?;
    stick.check()?;
    ensure!(stick.report()? == finished.report()?, "the reports differ");
    Ok(())
}

#[test]
fn an_original_that_the_bank_has_lost_comes_back_from_the_stick() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let stick = Stick::with_settings(folder.path(), SETTINGS)?;
    stick
        .machine(&made)
        .run()?
        .expect(Ending::Rebooted, "reverted")?;
    let bank = judge.bank(0)?.bytes();
    Volume::at(&made.image, bank.start).remove("STATE.ORG")?;
    stick.set(&format!("{SETTINGS}mode = \"restore\"\n"))?;
    let finished = stick.machine(&made).run()?;
    finished.expect(Ending::Rebooted, "restored")?;
    judge.restored(&[0, 1])?;
    for bank in [0, 1] {
        let names = judge.bank(bank)?.entries()?;
        ensure!(!names.contains_key("STATE.ORG"), "bank {bank}: {names:?}");
    }
    stick.check()
}
