//! The built image, booted on machines whose controllers sit in different places: exactly the
//! devices that ESXi needs go back to it, in both banks, and nothing else changes.
//!
//! Each machine carries two ESXi disks on the same controller: one of 6.7, which keeps owners in
//! esx.conf, and one of 8.0, which keeps them in a sealed ConfigStore. Judged from the disks.

use std::path::Path;

use anyhow::{Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::boots::PATIENT;
use rescue_tests::esxi::host::{Address, Device, GPU, Owner, SATA};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Ending, Finished, Firmware, Machine, Medium, drive, tail};
use rescue_tests::sparse;

/// Where the tests put a controller of their own on the root bus.
const OWN_SLOT: Address = Address::new(0, 0x10, 0);

/// Where they put a root port. The firmware numbers the bus behind it 1, so that what is plugged
/// in is 0000:01:00.0.
const ROOT_PORT: Address = Address::new(0, 4, 0);

/// A machine, and what is expected of it.
struct Case<'a> {
    /// The functions that are passed through in both banks of both disks.
    passed_through: &'a [Address],
    /// Those that ESXi gets back.
    given_back: &'a [Address],
    /// QEMU's devices; the drives of the two disks are `old` and `new`, of a foreign one `other`.
    devices: &'a [&'a str],
}

/// A disk on which exactly these devices are passed through.
fn disk(made_by: EsxiDisk, passed_through: &[Address]) -> EsxiDisk {
    made_by.every_bank(|bank| {
        let devices = &mut bank.archive.devices;
        for device in devices.iter_mut() {
            device.owner = Owner::Vmkernel;
        }
        for address in passed_through {
            match devices.iter_mut().find(|device| device.address == *address) {
                Some(device) => device.owner = Owner::Passthru,
                None => devices.push(Device {
                    address: *address,
                    id: (0x1b36, 0x0010),
                    class: "010802",
                    vmkname: None,
                    owner: Owner::Passthru,
                    store_owner: None,
                }),
            }
        }
    })
}

fn boot(folder: &Path, devices: &[&str], drives: &[(&str, &Made)]) -> Result<Finished> {
    let iso = folder.join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0", PATIENT], &iso)?;
    let mut machine = Machine::new(Firmware::Bios).medium(Medium::Cd(iso));
    for (id, made) in drives {
        machine = machine.args(["-drive".to_owned(), drive(id, &made.image)]);
    }
    for device in devices {
        machine = machine.args(["-device", device]);
    }
    let finished = machine.run()?;
    let end = tail(&finished.serial);
    ensure!(
        finished.ending == Ending::Rebooted,
        "it ended by {:?}:\n{end}",
        finished.ending
    );
    Ok(finished)
}

fn check(case: &Case<'_>) -> Result<Finished> {
    let folder = tempfile::tempdir()?;
    let old = disk(EsxiDisk::v67(), case.passed_through).make(folder.path(), "old")?;
    let new = disk(EsxiDisk::v80(), case.passed_through).make(folder.path(), "new")?;
    let other = EsxiDisk::foreign().make(folder.path(), "other")?;
    let judges = [
        Judge::new(&old, folder.path())?,
        Judge::new(&new, folder.path())?,
    ];
    let foreign = Judge::new(&other, folder.path())?;
    let drives = [("old", &old), ("new", &new), ("other", &other)];
    let finished = boot(folder.path(), case.devices, &drives)?;
    let result = finished.result()?;
    for judge in &judges {
        match case.given_back {
            [] => judge.nothing_changed()?,
            devices => judge.repaired(&[0, 1], devices)?,
        }
    }
    foreign.nothing_changed()?;
    let expected = if case.given_back.is_empty() {
        "clean"
    } else {
        "reverted"
    };
    ensure!(result == expected, "{result}:\n{}", tail(&finished.serial));
    Ok(finished)
}

/// The reason that the report gives for a device.
fn verdict(finished: &Finished, address: Address) -> Result<(String, String)> {
    let report = finished.report()?;
    let device = report["devices"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|device| device["address"] == address.to_string());
    let device = device.unwrap_or(&serde_json::Value::Null);
    let text = |key: &str| device[key].as_str().unwrap_or_default().to_owned();
    Ok((text("verdict"), text("reason")))
}

const FOREIGN_DISK_ON_SATA: &str = "ide-hd,bus=ide.3,drive=other";

#[test]
fn without_a_keyboard_or_a_linux_box_the_onboard_sata_controller_goes_back() -> Result<()> {
    let finished = check(&Case {
        passed_through: &[SATA, GPU],
        given_back: &[SATA],
        devices: &[
            "ide-hd,bus=ide.0,drive=old",
            "ide-hd,bus=ide.1,drive=new",
            FOREIGN_DISK_ON_SATA,
        ],
    })?;
    ensure!(verdict(&finished, SATA)?.0 == "give-back");
    ensure!(verdict(&finished, GPU)?.0 == "stale");
    Ok(())
}

#[test]
fn a_marked_bridge_above_the_boot_nvme_goes_back() -> Result<()> {
    let finished = check(&Case {
        passed_through: &[ROOT_PORT],
        given_back: &[ROOT_PORT],
        devices: &[
            "pcie-root-port,id=rp4,addr=4.0,chassis=1,slot=1",
            "nvme,id=ssd,bus=rp4,serial=boot",
            "nvme-ns,bus=ssd,drive=old,nsid=1",
            "nvme-ns,bus=ssd,drive=new,nsid=2",
            FOREIGN_DISK_ON_SATA,
        ],
    })?;
    let (verdict, reason) = verdict(&finished, ROOT_PORT)?;
    ensure!(verdict == "give-back", "{verdict}: {reason}");
    ensure!(
        reason.contains("bridge to the boot disk nvme0n"),
        "{reason}"
    );
    Ok(())
}

#[test]
fn of_two_controllers_the_one_without_esxi_data_stays_passed_through() -> Result<()> {
    let finished = check(&Case {
        passed_through: &[SATA, OWN_SLOT],
        given_back: &[OWN_SLOT],
        devices: &[
            "megasas-gen2,id=raid,addr=10.0",
            "scsi-hd,bus=raid.0,drive=old",
            "scsi-hd,bus=raid.0,drive=new",
            FOREIGN_DISK_ON_SATA,
        ],
    })?;
    ensure!(verdict(&finished, SATA)?.0 == "leave");
    Ok(())
}

#[test]
fn the_usb_controller_of_the_boot_stick_goes_back() -> Result<()> {
    check(&Case {
        passed_through: &[OWN_SLOT],
        given_back: &[OWN_SLOT],
        devices: &[
            "qemu-xhci,id=usb,addr=10.0",
            "usb-storage,bus=usb.0,drive=old,removable=on",
            "usb-storage,bus=usb.0,drive=new,removable=on",
            FOREIGN_DISK_ON_SATA,
        ],
    })?;
    Ok(())
}

#[test]
fn a_boot_nvme_that_inherited_a_moved_gpus_address_goes_back() -> Result<()> {
    let finished = check(&Case {
        // Recorded as 10de:1b80; what sits there now is the boot disk.
        passed_through: &[GPU],
        given_back: &[GPU],
        devices: &[
            "pcie-root-port,id=rp4,addr=4.0,chassis=1,slot=1",
            "nvme,id=ssd,bus=rp4,serial=boot",
            "nvme-ns,bus=ssd,drive=old,nsid=1",
            "nvme-ns,bus=ssd,drive=new,nsid=2",
            FOREIGN_DISK_ON_SATA,
        ],
    })?;
    ensure!(
        finished
            .serial
            .contains("was 10de:1b80, now 1b36:0010: a card was moved"),
        "{}",
        tail(&finished.serial)
    );
    let report = finished.report()?;
    let name = report["devices"][0]["present_name"].to_string();
    ensure!(name.contains("QEMU NVM Express Controller"), "{name}");
    Ok(())
}

#[test]
fn a_storage_controller_handed_over_on_purpose_is_left_alone_and_the_report_says_how_to_choose()
-> Result<()> {
    let finished = check(&Case {
        passed_through: &[SATA],
        given_back: &[],
        devices: &[
            "megasas-gen2,id=raid,addr=10.0",
            "scsi-hd,bus=raid.0,drive=old",
            "scsi-hd,bus=raid.0,drive=new",
            FOREIGN_DISK_ON_SATA,
        ],
    })?;
    ensure!(verdict(&finished, SATA)?.0 == "leave");
    let advice = finished.report()?["next_steps"].to_string();
    ensure!(advice.contains("0000:00:1f.2"), "{advice}");
    Ok(())
}

/// The same LUN behind two HBAs: one file, one identity.
const PATH: &str = "wwn=0x5000c500aabbccdd,serial=LUN0,share-rw=on";

#[test]
fn a_lun_by_two_paths_is_repaired_once_and_both_hbas_go_back() -> Result<()> {
    let second = Address::new(0, 0x11, 0);
    let folder = tempfile::tempdir()?;
    let made = disk(EsxiDisk::v67(), &[OWN_SLOT, second]).make(folder.path(), "lun")?;
    let judge = Judge::new(&made, folder.path())?;
    let devices = [
        "virtio-scsi-pci,id=hba0,addr=10.0",
        "virtio-scsi-pci,id=hba1,addr=11.0",
        &format!("scsi-hd,bus=hba0.0,drive=a,{PATH}"),
        &format!("scsi-hd,bus=hba1.0,drive=b,{PATH}"),
    ];
    let finished = boot(folder.path(), &devices, &[("a", &made), ("b", &made)])?;
    let end = tail(&finished.serial);
    judge.repaired(&[0, 1], &[OWN_SLOT, second])?;
    ensure!(finished.result()? == "reverted", "{end}");
    let report = finished.report()?;
    ensure!(report["banks_changed"] == 2, "{end}");
    let disks = report["disks"].as_array().map_or(0, Vec::len);
    ensure!(
        disks == 1 && report["disks"][0]["other_paths"][0] == "/dev/sdb",
        "{end}"
    );
    for address in [OWN_SLOT, second] {
        let (verdict, reason) = verdict(&finished, address)?;
        let expected = ("give-back", "drives the boot disk sda (also sdb)");
        ensure!(
            (verdict.as_str(), reason.as_str()) == expected,
            "{verdict}: {reason}"
        );
    }
    Ok(())
}

#[test]
fn both_members_of_a_mirror_that_are_visible_alone_are_repaired_and_stay_equal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let one = disk(EsxiDisk::v80(), &[SATA]).make(folder.path(), "one")?;
    let other = Made {
        image: folder.path().join("other.img"),
        ..one.clone()
    };
    sparse::copy(&one.image, &other.image)?;
    let judges = [
        Judge::new(&one, folder.path())?,
        Judge::new(&other, folder.path())?,
    ];
    let devices = [
        "ide-hd,bus=ide.0,drive=a,serial=A1",
        "ide-hd,bus=ide.1,drive=b,serial=B2",
    ];
    let finished = boot(folder.path(), &devices, &[("a", &one), ("b", &other)])?;
    for judge in &judges {
        judge.repaired(&[0, 1], &[SATA])?;
    }
    ensure!(sparse::differing_units(&one.image, &other.image)?.is_empty());
    ensure!(
        finished.result()? == "reverted",
        "{}",
        tail(&finished.serial)
    );
    let same = &finished.report()?["same_installations"][0];
    ensure!(
        same["originals"] == serde_json::json!(["/dev/sda", "/dev/sdb"]),
        "{same:#}"
    );
    ensure!(
        finished.serial.contains("as members of a mirror are"),
        "{}",
        tail(&finished.serial)
    );
    Ok(())
}
