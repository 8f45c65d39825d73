//! Controllers: the built image finds the ESXi disk behind each, and gives the controller back.
//!
//! Each disk of a machine is an ESXi disk of its own that records its own controller, and nothing
//! else of that machine, as passed through; a controller that the image cannot drive leaves its disk
//! as it was, and the test fails. Judged from the disks.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::layout::Layout;
use rescue_tests::esxi::{EsxiDisk, Maker};
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Board, Bus, Disk, Ending, Firmware, Machine, Medium, tail};

/// 8.0 on sectors of 4096 bytes.
fn v80_4kn() -> EsxiDisk {
    EsxiDisk::v80().layout(Layout::gpt_7_4kn())
}

/// Makes an ESXi disk whose passed-through controller is the one that it hangs on, and plugs it in.
fn plug_in(
    machine: Machine,
    folder: &Path,
    index: usize,
    (bus, maker): (Bus, Maker),
) -> Result<(Machine, Judge)> {
    let address = bus.address(index);
    let made = maker()
        .every_bank(|bank| {
            bank.move_boot_controller(address);
        })
        .make(folder, &format!("disk{index}"))?;
    let judge = Judge::new(&made, folder)?;
    let mut disk = Disk::new(bus, &made.image);
    disk.sector_bytes = u32::try_from(made.layout.sector_bytes)?;
    Ok((machine.add_disk(disk), judge))
}

/// Boots one machine with all of these disks and judges each of them.
fn all_are_repaired(board: Board, disks: &[(Bus, Maker)]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = folder.path().join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0"], &iso)?;
    let mut machine = Machine::new(Firmware::Bios)
        .board(board)
        .medium(Medium::Cd(iso));
    let mut judges = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let judge;
        (machine, judge) = plug_in(machine, folder.path(), index, *disk)?;
        judges.push((disk.0.address(index), disk.0, judge));
    }
    let finished = machine.run()?;
    let end = tail(&finished.serial);
    ensure!(
        finished.ending == Ending::Rebooted && finished.result()? == "reverted",
        "it ended by {:?}:\n{end}",
        finished.ending
    );
    for (address, bus, judge) in &judges {
        judge
            .repaired(&[0, 1], &[*address])
            .with_context(|| format!("the disk on {bus:?} at {address}:\n{end}"))?;
    }
    Ok(())
}

#[test]
fn scsi_and_raid_adapters() -> Result<()> {
    all_are_repaired(
        Board::Q35,
        &[
            (Bus::Ahci, EsxiDisk::v67),
            (Bus::VirtioScsi, EsxiDisk::v80),
            (Bus::MegaRaid, EsxiDisk::v67),
            (Bus::MegaRaid1078, EsxiDisk::v80),
            (Bus::MptSas1068, EsxiDisk::v67),
            (Bus::Lsi53c895a, EsxiDisk::v67),
            (Bus::Pvscsi, EsxiDisk::v80),
        ],
    )
}

#[test]
fn usb_and_memory_cards() -> Result<()> {
    all_are_repaired(
        Board::Q35,
        &[
            (Bus::Usb, EsxiDisk::v67),
            (Bus::UsbEhci, EsxiDisk::v67),
            (Bus::Uas, EsxiDisk::v80),
            (Bus::SdCard, EsxiDisk::v67),
        ],
    )
}

#[test]
fn ide_nvme_and_virtio_on_an_old_board() -> Result<()> {
    all_are_repaired(
        Board::Pc,
        &[
            (Bus::PiixIde, EsxiDisk::v67),
            (Bus::Nvme, EsxiDisk::v80),
            (Bus::Nvme, v80_4kn),
            (Bus::VirtioBlk, EsxiDisk::v67),
        ],
    )
}
