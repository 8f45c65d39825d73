//! Every version of ESXi, booted. By the command: `fast::versions`.

use std::path::Path;

use anyhow::{Context, Result};
use rescue_tests::artefacts;
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::layout::Layout;
use rescue_tests::esxi::{EsxiDisk, Made, VERSIONS};
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Disk, Ending, Firmware, Machine, Medium};

/// Both banks of a disk.
const BOTH: &[usize] = &[0, 1];

fn boot(machine: Machine, folder: &Path) -> Result<()> {
    let iso = folder.join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0"], &iso)?;
    let finished = machine.medium(Medium::Cd(iso)).run()?;
    finished.expect(Ending::Rebooted, "reverted")
}

/// Boots one machine with a disk of each of these versions on its SATA controller.
fn repaired_by_boot(versions: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut machine = Machine::new(Firmware::Bios);
    let mut disks: Vec<(&str, Made, Judge)> = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let (_, maker) = VERSIONS
            .iter()
            .find(|(name, _)| name == version)
            .context("a version")?;
        let made = maker().make(folder.path(), &format!("disk{index}"))?;
        machine = machine.disk(Bus::Ahci, &made.image);
        let judge = Judge::new(&made, folder.path())?;
        disks.push((version, made, judge));
    }
    boot(machine, folder.path())?;
    for (version, _made, judge) in disks {
        judge
            .repaired(BOTH, &[SATA])
            .with_context(|| version.to_owned())?;
    }
    Ok(())
}

#[test]
fn booted_it_repairs_4_1_to_5_5() -> Result<()> {
    repaired_by_boot(&["4.1 embedded", "4.1 installable", "5.5"])
}

#[test]
fn booted_it_repairs_7_0_0_and_7_0_3() -> Result<()> {
    repaired_by_boot(&["7.0.0", "7.0.3"])
}

#[test]
fn booted_it_repairs_6_7_8_0_and_9_0() -> Result<()> {
    repaired_by_boot(&["6.7", "8.0", "9.0"])
}

#[test]
fn booted_it_repairs_an_nvme_disk_of_4096_byte_sectors() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let controller = Bus::Nvme.address(0);
    let disk = EsxiDisk::v80()
        .layout(Layout::gpt_7_4kn())
        .every_bank(|bank| {
            bank.move_boot_controller(controller);
        });
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let nvme = Disk {
        sector_bytes: 4096,
        ..Disk::new(Bus::Nvme, &made.image)
    };
    boot(Machine::new(Firmware::Bios).add_disk(nvme), folder.path())?;
    judge.repaired(BOTH, &[controller])
}
