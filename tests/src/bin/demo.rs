//! `make demo`: the reported case for a person to watch. A 6.7 disk before, the image booting with
//! its console shown, and the disk after.

use std::time::Duration;

use anyhow::Result;
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Firmware, Machine, Medium};

/// Long enough to read what the console shows.
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    println!("An ESXi 6.7 disk whose boot controller 00000:000:31.2 is passed through:");
    show_owners(&judge)?;
    println!(
        "\nBooting dist/esxi-rescue.iso in QEMU, by BIOS, with the disk on that controller:\n"
    );
    let finished = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(artefacts::dist("esxi-rescue.iso")?))
        .disk(Bus::Ahci, &made.image)
        .deadline(DEADLINE)
        .shown()
        .run()?;
    println!(
        "\n\nIt took {} s from power-on to reboot. The disk now:",
        finished.elapsed.as_secs()
    );
    show_owners(&judge)?;
    judge.repaired(&[0, 1], &[SATA])?;
    println!("\nEvery other byte of both banks, and of the disk, is as it was.");
    Ok(())
}

fn show_owners(judge: &Judge) -> Result<()> {
    for bank in [0, 1] {
        println!("  bank {}", bank + 1);
        for (address, owner) in judge.owners(bank)? {
            println!("    /device/{address}/owner = \"{owner}\"");
        }
    }
    Ok(())
}
