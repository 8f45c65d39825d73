//! Controllers: the built image finds the ESXi disk behind each, and gives the controller back.
//!
//! Each disk of a machine is an ESXi disk of its own that records its own controller, and nothing
//! else of that machine, as passed through; a controller that the image cannot drive leaves its disk
//! as it was, and the test fails. Judged from the disks. Where no ESXi disk can be found, what there
//! is instead is named, and why it is not one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::boots::{all_are_repaired, plug_in, v80_4kn};
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Board, Bus, Firmware, Machine, Medium, tail};
use rescue_tests::tools::Tool;
use serde_json::Value;

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

/// What is to be said of each controller in a machine whose image cannot drive them all.
const UNDRIVEN: [(&str, &str, &str); 3] = [
    (
        "0000:00:10.0",
        "1b36:0010 class 010802",
        "no driver for it in this image",
    ),
    (
        "0000:00:11.0",
        "1000:0079 class 010400",
        "driver megaraid_sas failed",
    ),
    (
        "0000:00:12.0",
        "15ad:07c0 class 010000",
        "modprobe.blacklist=",
    ),
];

/// The kernel and an initramfs in which the driver of NVMe is missing and the one of MegaRAID is
/// damaged, with a command line that leaves out the one of pvscsi.
fn crippled_image(folder: &Path) -> Result<Medium> {
    let initramfs = fs::read(artefacts::dist("netboot/initrd.img")?)?;
    // The first part is one zstd frame; what follows is none, so that zstd complains at the end.
    let base = Tool::new("zstd")?
        .args(["-dc", "-q"])
        .input(initramfs.clone())
        .output()?;
    let table = Tool::new("cpio")?
        .args(["-i", "--quiet", "--to-stdout", "lib/rescue/drivers.json"])
        .input(base.stdout)
        .run()?;
    let mut table: Value = serde_json::from_slice(&table).context("the driver table")?;
    let modules = table["modules"].as_array_mut().context("modules")?;
    let before = modules.len();
    modules.retain(|module| module["name"] != "nvme");
    ensure!(modules.len() + 1 == before, "NVMe has one driver");
    let overlay = folder.join("overlay");
    fs::create_dir_all(overlay.join("lib/rescue/modules"))?;
    fs::write(overlay.join("lib/rescue/drivers.json"), table.to_string())?;
    fs::write(
        overlay.join("lib/rescue/modules/megaraid_sas.ko.zst"),
        Tool::new("zstd")?.arg("-q").input(*b"not a module").run()?,
    )?;
    let names = "lib\nlib/rescue\nlib/rescue/drivers.json\nlib/rescue/modules\nlib/rescue/modules/megaraid_sas.ko.zst\n";
    let part = Tool::new("cpio")?
        .args(["-o", "--quiet", "-H", "newc"])
        .folder(&overlay)
        .input(names)
        .run()?;
    let crippled = folder.join("initrd.img");
    // The kernel unpacks one part after the other; a later file replaces an earlier one.
    fs::write(&crippled, [initramfs, part].concat())?;
    Ok(Medium::Kernel {
        kernel: artefacts::dist("netboot/vmlinuz")?,
        initramfs: crippled,
        command_line: "console=ttyS0,115200 panic=30 modprobe.blacklist=vmw-pvscsi rescue.wait=15"
            .into(),
    })
}

/// What a console showed, whatever lines it was folded into.
fn unfolded(serial: &str) -> String {
    serial.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a machine that finds no ESXi: it must say so and halt. Gives its console and its report.
fn finds_none(machine: &Machine) -> Result<(String, Value)> {
    let mut running = machine.start()?;
    running.wait_for("Press any key")?;
    let halted = running.halt()?;
    ensure!(halted.result()? == "none-found", "{}", tail(&halted.serial));
    Ok((unfolded(&halted.serial), halted.report()?))
}

#[test]
fn a_controller_without_a_driver_is_named_with_the_reason_and_what_was_waited_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut machine = Machine::new(Firmware::Bios).medium(crippled_image(folder.path())?);
    let mut judges = Vec::new();
    for (index, bus) in [Bus::Nvme, Bus::MegaRaid, Bus::Pvscsi, Bus::Ahci]
        .into_iter()
        .enumerate()
    {
        let judge;
        let maker = if bus == Bus::Ahci {
            EsxiDisk::foreign
        } else {
            EsxiDisk::v67
        };
        (machine, judge) = plug_in(machine, folder.path(), index, (bus, maker))?;
        judges.push(judge);
    }
    let (console, report) = finds_none(&machine)?;
    judges.iter().try_for_each(Judge::nothing_changed)?;
    let undriven = report["image"]["undriven_controllers"].as_array();
    let undriven = undriven.context("the report names controllers")?;
    for (address, what, why) in UNDRIVEN {
        let line = format!("{address} {what}: ");
        let (_, rest) = console
            .split_once(&line)
            .with_context(|| format!("not shown: {line}\n{console}"))?;
        ensure!(rest[..200.min(rest.len())].contains(why), "{line}{rest}");
        ensure!(
            undriven.iter().any(|one| one["address"] == address),
            "not in the report: {address}: {undriven:?}"
        );
    }
    ensure!(undriven.len() == UNDRIVEN.len(), "{undriven:?}");
    ensure!(
        console.contains("of at most 15 s (setting `wait`): drivers ")
            && console.contains("did not appear: a late disk"),
        "{console}"
    );
    let wait = &report["image"]["waits"];
    let last = wait.as_array().and_then(|waits| waits.last());
    ensure!(
        last.is_some_and(|last| last["gave_up_on"] == "a late disk"),
        "{wait}"
    );
    Ok(())
}

#[test]
fn without_an_esxi_disk_the_iso_says_of_each_disk_why_it_is_none_and_stays() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = folder.path().join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0", "wait=15"], &iso)?;
    let foreign = EsxiDisk::foreign().make(folder.path(), "foreign")?;
    let judge = Judge::new(&foreign, folder.path())?;
    let empty = folder.path().join("empty.img");
    fs::File::create(&empty)?.set_len(1 << 30)?;
    let machine = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso))
        .disk(Bus::Ahci, &foreign.image)
        .disk(Bus::VirtioBlk, &empty);
    let (console, report) = finds_none(&machine)?;
    judge.nothing_changed()?;
    ensure!(
        fs::read(&empty)?.iter().all(|byte| *byte == 0),
        "written to"
    );
    for (disk, why) in [
        ("/dev/sda", "not an ESXi disk"),
        ("/dev/vda", "no partition table"),
    ] {
        let line = report["disks"].as_array().into_iter().flatten();
        let line = line.filter(|one| one["path"] == disk);
        let summary: Vec<String> = line.map(|one| one["summary"].to_string()).collect();
        ensure!(
            summary.len() == 1 && summary[0].contains(why),
            "{disk}: {summary:?}"
        );
        ensure!(console.contains(&format!("Disk {disk} (")), "{console}");
    }
    Ok(())
}
