//! The way back into ESXi, without pulling the medium: after the repair the machine starts its own
//! disk, by UEFI and by BIOS; the same medium, started again, changes nothing and hands over again.
//!
//! The ESXi disk carries a boot program that leaves evidence on it. Judged from the disk, and from
//! the firmware's variables as virt-firmware reads them.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::disk_image;
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::local_boot::{self, Evidence};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Ending, Finished, Firmware, Machine, Medium, drive, tail};
use rescue_tests::tools::{Tool, crate_file};
use serde_json::Value;

/// How the boot entry is called that stands for the one ESXi's installer makes.
const ESXI_ENTRY: &str = "Boot0777";
/// Where ESXi's loader is.
const LOADER: &str = "\\EFI\\BOOT\\BOOTX64.EFI";
/// A system UUID in which every byte is another one, so that no order of bytes can be mistaken.
const UUID: &str = "12345678-9abc-def0-0fed-cba987654321";

/// What the rescue says last.
const RESULT: &str = "esxi-rescue: result=";

/// A machine of UEFI with an ESXi disk, and a CD or stick that the firmware prefers.
struct Uefi {
    folder: tempfile::TempDir,
    firmware: Firmware,
    made: Made,
    evidence: Evidence,
}

impl Uefi {
    fn new(firmware: Firmware) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = EsxiDisk::v80().make(folder.path(), "disk")?;
        let iso = artefacts::dist("esxi-rescue.iso")?;
        let evidence = local_boot::for_uefi(&made, &iso, folder.path())?;
        Ok(Self {
            folder,
            firmware,
            made,
            evidence,
        })
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("variables.fd")
    }

    fn judge(&self) -> Result<Judge> {
        Judge::new(&self.made, self.folder.path())
    }

    fn machine(&self, settings: &[&str]) -> Result<Machine> {
        let iso = self.folder.path().join("rescue.iso");
        artefacts::customized("esxi-rescue.iso", settings, &iso)?;
        Ok(Machine::new(self.firmware)
            .medium(Medium::Cd(iso))
            .variables(&self.store())
            .args(disk("esxi", &self.made.image, 0, 1)))
    }

    /// What the firmware's variables say about starting.
    fn variables(&self) -> Result<Value> {
        let shown = boot_variables(&["show"], &self.store(), &[])?;
        Ok(serde_json::from_slice(&shown)?)
    }

    /// Has the firmware know the disk as ESXi's installer does.
    fn add_entry(&self) -> Result<()> {
        self.firmware.make_variables(&self.store())?;
        let partition = local_boot::system_partition(&self.made)?;
        let numbers = [
            u64::from(partition.number),
            partition.first,
            partition.sectors(),
        ];
        let [number, first, sectors] = numbers.map(|number| number.to_string());
        let guid = self.system_guid()?;
        let entry = ["VMware ESXi", LOADER, &number, &first, &sectors, &guid];
        boot_variables(&["add"], &self.store(), &entry)?;
        Ok(())
    }

    /// The unique GUID of the disk's EFI system partition, as sgdisk tells it.
    fn system_guid(&self) -> Result<String> {
        let number = local_boot::system_partition(&self.made)?.number;
        let guid = disk_image::partition_guid(&self.made.image, u64::from(number))?;
        Ok(guid.to_lowercase())
    }
}

fn boot_variables(command: &[&str], store: &Path, more: &[&str]) -> Result<Vec<u8>> {
    Tool::at(artefacts::oracle_python()?)
        .arg(crate_file("fixtures/boot_variables.py"))
        .args(command)
        .arg(store)
        .args(more)
        .run()
}

/// A SATA disk that the firmware starts from as number `order`.
fn disk(id: &str, image: &Path, port: usize, order: usize) -> [String; 4] {
    [
        "-drive".into(),
        drive(id, image),
        "-device".into(),
        format!("ide-hd,bus=ide.{port},drive={id},bootindex={order}"),
    ]
}

/// It ended so, and the rescue had run once by then.
fn ended(finished: &Finished, ending: Ending) -> Result<()> {
    let runs = finished.serial.matches(RESULT).count();
    let found = (finished.ending, runs);
    ensure!(
        found == (ending, 1),
        "it ended by {found:?}:\n{}",
        tail(&finished.serial)
    );
    Ok(())
}

/// It started the local disk, and not the rescue before.
fn straight_to_the_disk(finished: &Finished) -> Result<()> {
    let rescued = finished.serial.contains(RESULT);
    ensure!(
        finished.ending == Ending::SwitchedOff && !rescued,
        "it ended by {:?}:\n{}",
        finished.ending,
        tail(&finished.serial)
    );
    Ok(())
}

fn way_back(finished: &Finished) -> Result<Value> {
    Ok(finished.report()?["image"]["way_back"].take())
}

/// Repaired, the disk started once, and without that nothing else changed.
fn repaired_and_started(judge: &Judge, evidence: &Evidence) -> Result<()> {
    let starts = evidence.starts()?;
    ensure!(starts == 1, "the local disk was started {starts} times");
    evidence.take_back()?;
    judge.repaired(&[0, 1], &[SATA])
}

/// Started once more, and without that no sector changed.
fn unchanged_and_started(judge: &Judge, evidence: &Evidence) -> Result<()> {
    let starts = evidence.starts()?;
    ensure!(starts == 1, "the local disk was started {starts} times");
    evidence.take_back()?;
    judge.nothing_changed()
}

pub(super) fn comes_back_by_uefi(firmware: Firmware) -> Result<()> {
    let uefi = Uefi::new(firmware)?;
    uefi.add_entry()?;
    let judge = uefi.judge()?;
    let machine = uefi.machine(&["countdown=0"])?.restarts();
    let finished = machine.start()?.finish()?;
    ended(&finished, Ending::SwitchedOff)?;
    repaired_and_started(&judge, &uefi.evidence)?;
    ensure!(finished.result()? == "reverted");
    ensure!(way_back(&finished)?["by"] == "boot-next");

    // The medium is still there and still comes first.
    let judge = uefi.judge()?;
    let finished = machine.start()?.finish()?;
    ended(&finished, Ending::SwitchedOff)?;
    unchanged_and_started(&judge, &uefi.evidence)?;
    ensure!(finished.result()? == "clean");
    Ok(())
}

#[test]
fn by_secure_boot_a_repaired_host_starts_its_own_disk_with_the_medium_still_in() -> Result<()> {
    comes_back_by_uefi(Firmware::SecureBoot)
}

#[test]
fn boot_next_is_set_to_the_disks_own_entry_and_honoured() -> Result<()> {
    let uefi = Uefi::new(Firmware::Uefi)?;
    uefi.add_entry()?;
    let machine = uefi.machine(&["countdown=0"])?;
    let finished = machine.run()?;
    ended(&finished, Ending::Rebooted)?;
    let variables = uefi.variables()?;
    ensure!(variables["next"] == ESXI_ENTRY, "{variables}");
    ensure!(way_back(&finished)?["entry"] == ESXI_ENTRY);
    ensure!(uefi.evidence.starts()? == 0);

    // The second half of the same restart.
    let finished = machine.start()?.finish()?;
    straight_to_the_disk(&finished)?;
    ensure!(uefi.evidence.starts()? == 1, "{}", tail(&finished.serial));
    ensure!(uefi.variables()?["next"].is_null(), "it is for one start");
    Ok(())
}

#[test]
fn of_two_installations_the_one_that_the_firmware_starts_is_named() -> Result<()> {
    let uefi = Uefi::new(Firmware::Uefi)?;
    uefi.add_entry()?;
    let other = EsxiDisk::v67().make(uefi.folder.path(), "other")?;
    let judges = [uefi.judge()?, Judge::new(&other, uefi.folder.path())?];
    let machine = uefi.machine(&["countdown=0"])?;
    let machine = machine.args(disk("other", &other.image, 1, 2));
    let finished = machine.run()?;
    ended(&finished, Ending::Rebooted)?;
    let report = finished.report()?;
    let first = report["starts_first"].as_str().unwrap_or_default();
    let disks = report["disks"].as_array().into_iter().flatten();
    let entries: Vec<(&Value, &Value)> = disks
        .map(|disk| (&disk["path"], &disk["boot_entry"]))
        .filter(|(_, entry)| !entry.is_null())
        .collect();
    let expected = format!("{ESXI_ENTRY} \"VMware ESXi\"");
    ensure!(
        entries.len() == 1 && entries[0] == (&first.into(), &expected.into()),
        "{entries:?}"
    );
    let order = format!("of these disks, the firmware starts {first} first");
    ensure!(
        finished.serial.contains(&order),
        "{}",
        tail(&finished.serial)
    );
    ensure!(finished.serial.matches("boots next from this disk").count() == 1);
    for judge in judges {
        judge.repaired(&[0, 1], &[SATA])?;
    }
    Ok(())
}

#[test]
fn without_an_entry_nothing_is_set_unless_one_is_asked_for() -> Result<()> {
    let uefi = Uefi::new(Firmware::Uefi)?;
    let finished = uefi.machine(&["countdown=0"])?.run()?;
    ended(&finished, Ending::Rebooted)?;
    let before = uefi.variables()?;
    ensure!(before["next"].is_null(), "{before}");
    let way = way_back(&finished)?;
    ensure!(way["by"] == "nothing", "{way}");
    let text = way["text"].as_str().unwrap_or_default();
    ensure!(text.contains("remove the medium"), "{text}");

    // The medium starts again, and makes an entry because that is asked for.
    let judge = uefi.judge()?;
    let machine = uefi.machine(&["countdown=0", "bootnext=create"])?;
    let finished = machine.run()?;
    ended(&finished, Ending::Rebooted)?;
    ensure!(finished.result()? == "clean");
    judge.nothing_changed()?;
    let after = uefi.variables()?;
    let made = after["next"].as_str().unwrap_or_default();
    let entry = &after["entries"][made];
    ensure!(
        entry["partition"] == uefi.system_guid()?.as_str(),
        "{after}"
    );
    ensure!(entry["file"] == LOADER, "{after}");
    ensure!(
        before["entries"][made].is_null(),
        "an entry was replaced: {after}"
    );
    let order = |variables: &Value| variables["order"].as_array().cloned().unwrap_or_default();
    let expected = [order(&before), vec![made.into()]].concat();
    ensure!(order(&after) == expected, "{after}");

    let finished = machine.start()?.finish()?;
    straight_to_the_disk(&finished)?;
    unchanged_and_started(&judge, &uefi.evidence)
}

#[test]
fn switched_off_by_setting_nothing_is_set() -> Result<()> {
    let uefi = Uefi::new(Firmware::Uefi)?;
    uefi.add_entry()?;
    let finished = uefi.machine(&["countdown=0", "bootnext=off"])?.run()?;
    ended(&finished, Ending::Rebooted)?;
    ensure!(finished.result()? == "reverted");
    let variables = uefi.variables()?;
    ensure!(variables["next"].is_null(), "{variables}");
    Ok(())
}

/// A machine with a stick that can be written and comes first, another disk, and the ESXi disk last.
struct Stick {
    folder: tempfile::TempDir,
    image: PathBuf,
    made: Made,
    other: Made,
    evidence: Evidence,
}

impl Stick {
    fn new(
        esxi: &EsxiDisk,
        boot_program: impl FnOnce(&Made, &Path) -> Result<Evidence>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = esxi.make(folder.path(), "disk")?;
        let other = EsxiDisk::foreign().make(folder.path(), "other")?;
        let evidence = boot_program(&made, folder.path())?;
        let image = folder.path().join("rescue.img");
        artefacts::customized("esxi-rescue.img", &["countdown=0"], &image)?;
        Ok(Self {
            folder,
            image,
            made,
            other,
            evidence,
        })
    }

    fn judges(&self) -> Result<[Judge; 2]> {
        let folder = self.folder.path();
        Ok([
            Judge::new(&self.made, folder)?,
            Judge::new(&self.other, folder)?,
        ])
    }

    fn machine(&self, firmware: Firmware) -> Machine {
        let stick = drive("stick", &self.image);
        let usb = "usb-storage,bus=sticks.0,removable=on,bootindex=0,drive=stick";
        Machine::new(firmware)
            .variables(&self.folder.path().join("variables.fd"))
            .args(["-uuid", UUID])
            .args([
                "-device",
                "qemu-xhci,id=sticks,addr=0xf",
                "-drive",
                &stick,
                "-device",
                usb,
            ])
            .args(disk("other", &self.other.image, 0, 1))
            .args(disk("esxi", &self.made.image, 1, 2))
    }

    /// What the stick remembers of this machine, by mtools.
    fn remembered(&self) -> Result<String> {
        let volume = disk_image::system_partition(&self.image)?.volume(&self.image);
        let file = format!("::/hosts/{UUID}.env");
        Tool::new("mtype")?.args(["-i", &volume, &file]).run_text()
    }

    /// Repair, start of the disk; then the stick once more.
    fn comes_back_twice(&self, firmware: Firmware) -> Result<()> {
        let machine = self.machine(firmware).restarts();
        let [judge, other] = self.judges()?;
        let finished = machine.start()?.finish()?;
        ended(&finished, Ending::SwitchedOff)?;
        repaired_and_started(&judge, &self.evidence)?;
        other.nothing_changed()?;
        ensure!(finished.result()? == "reverted");
        ensure!(way_back(&finished)?["by"] == "medium");
        ensure!(
            self.remembered()?.contains("\nhandover=0\n"),
            "it is for one start"
        );

        let [judge, _] = self.judges()?;
        let finished = machine.start()?.finish()?;
        ended(&finished, Ending::SwitchedOff)?;
        unchanged_and_started(&judge, &self.evidence)?;
        other.nothing_changed()?;
        ensure!(finished.result()? == "clean");
        Ok(())
    }
}

#[test]
fn by_bios_the_stick_hands_over_to_the_repaired_disk_and_does_so_again() -> Result<()> {
    Stick::new(&EsxiDisk::v67(), local_boot::for_bios)?.comes_back_twice(Firmware::Bios)
}

#[test]
fn by_uefi_without_an_entry_the_stick_hands_over_to_the_repaired_disk() -> Result<()> {
    let iso = artefacts::dist("esxi-rescue.iso")?;
    let boot_program = |made: &Made, folder: &Path| local_boot::for_uefi(made, &iso, folder);
    Stick::new(&EsxiDisk::v80(), boot_program)?.comes_back_twice(Firmware::SecureBoot)
}

#[test]
fn by_bios_the_stick_remembers_before_the_machine_restarts() -> Result<()> {
    let stick = Stick::new(&EsxiDisk::v67(), local_boot::for_bios)?;
    let finished = stick.machine(Firmware::Bios).run()?;
    ended(&finished, Ending::Rebooted)?;
    ensure!(stick.remembered()?.contains("\nhandover=1\n"));
    ensure!(stick.evidence.starts()? == 0);
    Ok(())
}
