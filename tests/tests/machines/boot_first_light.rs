//! The built image, booted: it repairs the reported case and reboots. Judged from the disk.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Ending, Finished, Firmware, Machine, Medium, tail};

/// A test's own copy of the ISO, which does not count down.
fn iso(folder: &std::path::Path) -> Result<PathBuf> {
    let iso = folder.join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0"], &iso)?;
    Ok(iso)
}

fn expect(finished: &Finished, result: &str) -> Result<()> {
    let end = tail(&finished.serial);
    ensure!(
        finished.ending == Ending::Rebooted,
        "it ended by {:?}:\n{end}",
        finished.ending
    );
    ensure!(
        finished.result()? == result,
        "the result is {}:\n{end}",
        finished.result()?
    );
    ensure!(finished.report()?["schema"] == rescue_tests::agent::SCHEMA);
    Ok(())
}

fn repairs(firmware: Firmware, medium: fn(PathBuf) -> Medium, bus: Bus) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let machine = Machine::new(firmware)
        .medium(medium(iso(folder.path())?))
        .disk(bus, &made.image);
    expect(&machine.run()?, "reverted")?;
    judge.repaired(&[0, 1], &[SATA])?;
    for bank in [0, 1] {
        let owners = judge.owners(bank)?;
        assert_eq!(owners["00000:000:31.2"], "vmkernel");
        assert_eq!(
            owners["00000:001:00.0"], "passthru",
            "the GPU stays with its virtual machine"
        );
    }
    Ok(())
}

#[test]
fn by_bios_as_a_cd_it_repairs_the_disk_and_reboots() -> Result<()> {
    repairs(Firmware::Bios, Medium::Cd, Bus::Ahci)
}

#[test]
fn by_secure_boot_as_a_stick_it_repairs_the_disk_and_reboots() -> Result<()> {
    repairs(Firmware::SecureBoot, Medium::Stick, Bus::Ahci)
}

#[test]
fn a_second_boot_finds_nothing_to_do_and_writes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let machine = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso(folder.path())?))
        .disk(Bus::Ahci, &made.image);
    expect(&machine.run()?, "reverted")?;
    let judge = Judge::new(&made, folder.path())?;
    expect(&machine.run()?, "clean")?;
    judge.nothing_changed()
}

#[test]
fn a_key_stops_the_countdown_before_anything_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let iso = folder.path().join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=20"], &iso)?;
    let mut running = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso))
        .disk(Bus::Ahci, &made.image)
        .start()?;
    // The plan, shown before the countdown.
    running.wait_for("open the menu.")?;
    std::thread::sleep(Duration::from_secs(2));
    running.press("spc")?;
    // Longer than the countdown: had the key not stopped it, the repair would be done by then.
    std::thread::sleep(Duration::from_secs(40));
    let serial = running.serial()?;
    running.cut_power()?;
    ensure!(!serial.contains("result=reverted"), "{}", tail(&serial));
    judge.nothing_changed()
}
