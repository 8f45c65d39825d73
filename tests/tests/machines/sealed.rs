//! Hosts whose TPM has sealed the configuration, before the real image: the commands on the screen and on
//! the stick, an archive that is given on the stick, the recovery key that a person types.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::esxi::archive::{Archive, Layers, RecoveryKey, Seal};
use rescue_tests::esxi::host::{Owner, SATA};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Disk, Ending, Firmware, Machine, Medium, tail};
use rescue_tests::tools::Tool;

use super::medium::{SERIAL, Stick, UUID};

/// The words before the menu, and the menu's own.
const MENU: &str = "A letter, or Enter for: ";
const WAITS: &str = "Press any key for the menu.";
/// The console before the first write.
const FIRST_WRITE: &str = "Write    ";

/// The disk of a sealed host, a stick, and who judges the disk.
struct Scene {
    folder: tempfile::TempDir,
    made: Made,
    judge: Judge,
    stick: Stick,
}

impl Scene {
    fn new(settings: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = EsxiDisk::v80()
            .every_bank(|bank| bank.archive.layers = Layers::Sealed(Seal::by_tpm("a")));
        let made = disk.make(folder.path(), "disk")?;
        let judge = Judge::new(&made, folder.path())?;
        let stick = Stick::with_settings(folder.path(), settings)?;
        Ok(Self {
            folder,
            made,
            judge,
            stick,
        })
    }

    /// An archive that the host of that name has saved after the controller was given back.
    fn given(&self, host: &'static str) -> Result<Vec<u8>> {
        let mut archive: Archive = self.made.banks[0].archive.clone();
        archive.layers = Layers::Sealed(Seal::by_tpm(host));
        for device in archive
            .devices
            .iter_mut()
            .filter(|device| device.address == SATA)
        {
            device.owner = Owner::Vmkernel;
        }
        let folder = self.folder.path().join(format!("given-{host}"));
        fs::create_dir(&folder)?;
        let packed = archive.pack(&folder, "given")?;
        Ok(fs::read(packed.context("an archive")?)?)
    }

    /// Puts it on the stick, in the folder of this host.
    fn put(&self, bytes: &[u8]) -> Result<()> {
        let file = self.folder.path().join("import");
        fs::write(&file, bytes)?;
        let volume = &self.stick.volume;
        for folder in ["::import".to_owned(), format!("::import/{SERIAL}")] {
            // It may be there.
            let _ = Tool::new("mmd")?.args(["-i", volume, &folder]).run();
        }
        Tool::new("mcopy")?
            .args(["-o", "-i", volume])
            .arg(&file)
            .arg(format!("::import/{SERIAL}/state.tgz"))
            .run()?;
        Ok(())
    }

    fn machine(&self, firmware: Firmware, writes_per_second: Option<u32>) -> Machine {
        let identity = format!("type=1,serial={SERIAL},uuid={UUID}");
        Machine::new(firmware)
            .add_disk(Disk {
                writes_per_second,
                ..Disk::new(Bus::Ahci, &self.made.image)
            })
            .medium(Medium::WritableStick(self.stick.image.clone()))
            .args(["-smbios", &identity])
    }

    /// No note has the stick's menu start ESXi.
    fn is_not_handed_over(&self) -> Result<()> {
        let notes = self.stick.files("hosts")?;
        ensure!(notes.is_empty(), "{notes:?}");
        Ok(())
    }
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_archive_on_the_stick_goes_into_the_banks_and_the_machine_restarts() -> Result<()> {
    let scene = Scene::new("countdown = 0\nsource = \"medium\"\n")?;
    let given = scene.given("a")?;
    scene.put(&given)?;
    let finished = scene.machine(Firmware::Uefi, None).run()?;
    finished.expect(Ending::Rebooted, "restored")?;
    scene.judge.holds_in_both_banks(&given)?;
    scene.is_not_handed_over()?;
    let report = finished.report()?;
    // Firmware without Secure Boot may say nothing at all.
    ensure!(report["secure_boot"] != "on", "{report}");
    let first = report["next_steps"][0].as_str().unwrap_or_default();
    ensure!(first.contains("switch it on again"), "{first}");
    ensure!(report["image"]["way_back"]["by"] != "medium", "{report}");
    scene.stick.check()
}

#[test]
fn an_archive_of_another_host_on_the_stick_is_taken_only_if_a_person_says_so() -> Result<()> {
    let scene = Scene::new("countdown = 0\nsource = \"medium\"\n")?;
    let given = scene.given("b")?;
    scene.put(&given)?;
    let mut running = scene.machine(Firmware::Bios, None).typed().start()?;
    running.wait_for(WAITS)?;
    scene.judge.nothing_changed()?;
    let mut read = running.serial()?.len();
    for (text, keys) in [
        ("", " "),
        (MENU, "i"),
        ("t: it is from this host", "t"),
        ("Carry this out? y: yes.", "y"),
    ] {
        if !text.is_empty() {
            read += running.wait_for_after(read, text).context(text)?;
        }
        running.type_keys(keys)?;
    }
    let finished = running.finish()?;
    finished.expect(Ending::Rebooted, "restored")?;
    ensure!(
        plain(&finished.serial)
            .contains("it is from another host, or this host had another key then")
    );
    scene.judge.holds_in_both_banks(&given)?;
    scene.is_not_handed_over()
}

#[test]
fn power_cuts_while_the_archive_of_the_stick_is_put_in_place_lose_nothing() -> Result<()> {
    let scene = Scene::new("countdown = 0\nsource = \"medium\"\n")?;
    let given = scene.given("a")?;
    scene.put(&given)?;
    for wait in [100, 900] {
        let mut running = scene.machine(Firmware::Bios, Some(8)).start()?;
        if let Err(error) = running.wait_for(FIRST_WRITE) {
            // On a busy machine the first power cut may come after the last write.
            scene.judge.holds_in_both_banks(&given).context(error)?;
            continue;
        }
        std::thread::sleep(Duration::from_millis(wait));
        running.cut_power()?;
        for bank in [0, 1] {
            let (before, now) = (scene.judge.bank_before(bank)?, scene.judge.bank(bank)?);
            let found = now.read("STATE.TGZ")?;
            ensure!(
                found == given || found == before.read("STATE.TGZ")?,
                "bank {bank}"
            );
        }
    }
    let finished = scene.machine(Firmware::Bios, None).run()?;
    let result = finished.result()?;
    ensure!(
        ["restored", "clean"].contains(&result.as_str()),
        "{}",
        tail(&finished.serial)
    );
    scene.judge.holds_in_both_banks(&given)?;
    scene.stick.check()
}

/// Every form in which the key may appear, without its separators.
fn forms(key: &RecoveryKey) -> Vec<String> {
    let digits = key.groups.replace('-', "");
    vec![
        key.groups.clone(),
        key.groups[..13].into(),
        key.groups[98..].into(),
        key.groups.replace('-', " "),
        digits[..24].into(),
        key.hex[..24].into(),
        key.hex[..24].to_uppercase(),
        key.base64[..24].into(),
    ]
}

#[test]
fn the_commands_are_on_the_screen_and_the_stick_and_the_typed_key_repairs_and_is_nowhere()
-> Result<()> {
    let scene = Scene::new("countdown = 5\nbootnext = \"off\"\n")?;
    let key = RecoveryKey::of("a", "little")?;
    let mut running = scene.machine(Firmware::Bios, None).typed().start()?;
    running.wait_for(WAITS)?;
    scene.judge.nothing_changed()?;
    let recipe = String::from_utf8(scene.stick.read(&format!("recipes/{SERIAL}.txt"))?)?;
    let volume = "/vmfs/volumes/5e5c0005-5b5b5b5b-5b5b-5b5b5b5b5b5b";
    for command in [
        "esxcli hardware pci pcipassthru set -d 0000:00:1f.2 -e false -a".to_owned(),
        format!("ln -sfn {volume} /bootbank"),
    ] {
        ensure!(recipe.contains(&command), "{command} is not in {recipe}");
        let serial = plain(&running.serial()?);
        ensure!(serial.contains(&command), "{command} is not on the console");
    }
    let mistyped = match key.groups.strip_prefix('0') {
        Some(rest) => format!("1{}", &rest[..5]),
        None => format!("0{}", &key.groups[1..6]),
    };
    let mut read = running.serial()?.len();
    for (text, keys) in [
        ("", " "),
        (MENU, "h"),
        ("q: menu.", "q"),
        (MENU, "k"),
        ("Group 1 of 16", mistyped.as_str()),
        ("Group 1 is wrong", key.groups.as_str()),
        ("All 16 groups are right", "\r"),
        (MENU, "a"),
        ("Restarting in", ""),
    ] {
        if !text.is_empty() {
            read += running.wait_for_after(read, text).context(text)?;
        }
        running.type_keys(keys)?;
    }
    let finished = running.finish()?;
    finished.expect(Ending::Rebooted, "reverted")?;
    // By dissect.hypervisor, with the key.
    scene.judge.repaired(&[0, 1], &[SATA])?;
    scene.is_not_handed_over()?;

    let mut left: Vec<(PathBuf, Vec<u8>)> = vec![("the serial log".into(), finished.serial.into())];
    for folder in ["reports", "recipes", "originals", "hosts"] {
        for file in scene.stick.files(folder)? {
            let bytes = scene.stick.read(&file)?;
            left.push((file.into(), bytes));
        }
    }
    left.push((Path::new("the stick").into(), fs::read(&scene.stick.image)?));
    ensure!(
        left.len() >= 6,
        "{:?}",
        left.iter().map(|(place, _)| place).collect::<Vec<_>>()
    );
    for (place, bytes) in &left {
        for form in forms(&key) {
            let is_there = bytes
                .windows(form.len())
                .any(|piece| piece == form.as_bytes());
            ensure!(!is_there, "{form} is in {}", place.display());
        }
    }
    Ok(())
}
