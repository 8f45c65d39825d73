//! Whole boots that tests share: by every route, and from every controller.
//!
//! Each of them ends with a look at the disks, by [`Judge`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::artefacts;
use crate::disk_image;
use crate::esxi::host::SATA;
use crate::esxi::layout::Layout;
use crate::esxi::{EsxiDisk, Maker};
use crate::judge::Judge;
use crate::machine::{Board, Bus, Disk, Ending, Firmware, Machine, Medium, tail};
use crate::tools::Tool;

/// The signed chain's first link without its signature, of Debian's package `shim-unsigned`.
const UNSIGNED_SHIM: &str = "/usr/lib/shim/shimx64.efi";

/// What the firmware says of a program whose signature it does not accept.
const ACCESS_DENIED: &str = "Access Denied";

/// An artefact that does not count down, in a folder of its own.
///
/// # Errors
/// When the artefact or the builder is missing.
pub fn hurried(artefact: &str, folder: &Path) -> Result<PathBuf> {
    let image = folder.join(artefact);
    artefacts::customized(artefact, &["countdown=0"], &image)?;
    Ok(image)
}

/// Puts an ESXi disk into a machine and starts it: the disk must be repaired. Gives how it ended.
///
/// # Errors
/// When the disk is not repaired as it must be.
pub fn repaired_by(machine: Machine) -> Result<Ending> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let finished = machine.disk(Bus::Ahci, &made.image).run()?;
    judge
        .repaired(&[0, 1], &[SATA])
        .with_context(|| tail(&finished.serial))?;
    ensure!(
        finished.result()? == "reverted",
        "{}",
        tail(&finished.serial)
    );
    Ok(finished.ending)
}

/// Starts a machine with an ESXi disk from a medium: the disk must be repaired, and the machine
/// restarted.
///
/// # Errors
/// When the disk is not repaired, or the machine ends otherwise.
pub fn repairs(firmware: Firmware, medium: Medium) -> Result<()> {
    let ending = repaired_by(Machine::new(firmware).medium(medium))?;
    ensure!(ending == Ending::Rebooted, "it ended by {ending:?}");
    Ok(())
}

/// What a machine's own settings say: a countdown of none, and an end that shows that they were
/// read.
pub const SWITCH_OFF: &str = "${rescue_args} rescue.countdown=0 rescue.finish=poweroff";

/// A copy of the netboot tree with settings for one host, in a file of this name.
///
/// # Errors
/// When the tree has not been built or cannot be copied.
pub fn netboot_tree(folder: &Path, host_file: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    Tool::new("cp")?
        .arg("-r")
        .arg(artefacts::dist("netboot")?)
        .arg(&tree)
        .run()?;
    let settings = match host_file.ends_with(".ipxe") {
        true => format!("#!ipxe\nset rescue_args {SWITCH_OFF}\n"),
        false => format!("set rescue_args=\"{SWITCH_OFF}\"\n"),
    };
    let host_file = tree.join(host_file);
    fs::create_dir_all(host_file.parent().context("a folder")?)?;
    fs::write(host_file, settings)?;
    Ok(tree)
}

/// Starts a machine over the network: the disk must be repaired, by the machine's own settings.
///
/// # Errors
/// When the disk is not repaired, or the machine's own settings were not read.
pub fn repairs_and_switches_off(machine: Machine) -> Result<()> {
    let ending = repaired_by(machine)?;
    ensure!(
        ending == Ending::SwitchedOff,
        "it ended by {ending:?}: its own settings were not read"
    );
    Ok(())
}

/// Puts the unsigned shim in the place of the signed one.
fn take_the_signature_away(image: &Path) -> Result<()> {
    ensure!(
        Path::new(UNSIGNED_SHIM).exists(),
        "{UNSIGNED_SHIM} is missing: `apt-get install shim-unsigned` brings it"
    );
    let volume = disk_image::system_partition(image)?.volume(image);
    Tool::new("mcopy")?
        .args([
            "-o",
            "-i",
            &volume,
            UNSIGNED_SHIM,
            "::/EFI/BOOT/BOOTX64.EFI",
        ])
        .run()?;
    Ok(())
}

/// Starts the ISO with an unsigned first link: this Secure Boot must refuse it and leave the disk
/// alone, and without Secure Boot the same ISO must start.
///
/// # Errors
/// When it starts, or a sector changes, or it does not start without Secure Boot.
pub fn unsigned_is_refused(firmware: Firmware) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = hurried("esxi-rescue.iso", folder.path())?;
    take_the_signature_away(&iso)?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let mut refused = Machine::new(firmware)
        .medium(Medium::Cd(iso.clone()))
        .disk(Bus::Ahci, &made.image)
        .start()?;
    refused.wait_for(ACCESS_DENIED)?;
    let serial = refused.serial()?;
    refused.cut_power()?;
    if serial.contains("esxi-rescue") {
        bail!("it started all the same:\n{}", tail(&serial));
    }
    judge.nothing_changed()?;
    // The same medium starts where nobody asks for a signature: it was refused for that alone.
    repairs(Firmware::Uefi, Medium::Cd(iso))
}

/// 8.0 on sectors of 4096 bytes.
pub fn v80_4kn() -> EsxiDisk {
    EsxiDisk::v80().layout(Layout::gpt_7_4kn())
}

/// Makes an ESXi disk whose passed-through controller is the one that it hangs on, and plugs it in.
///
/// # Errors
/// When the disk cannot be made.
pub fn plug_in(
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

/// The setting for machines of which every disk must be found: an emulated controller may be slower than a real one.
pub const PATIENT: &str = "wait=150";

/// Boots one machine with all of these disks and judges each of them.
///
/// # Errors
/// When one of the disks is not repaired as it must be.
pub fn all_are_repaired(board: Board, disks: &[(Bus, Maker)]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = folder.path().join("rescue.iso");
    artefacts::customized("esxi-rescue.iso", &["countdown=0", PATIENT], &iso)?;
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
    finished.expect(Ending::Rebooted, "reverted")?;
    for (address, bus, judge) in &judges {
        judge
            .repaired(&[0, 1], &[*address])
            .with_context(|| format!("the disk on {bus:?} at {address}:\n{end}"))?;
    }
    Ok(())
}

/// Starts a machine of little memory with a disk of 8.0, whose repair needs the most of it.
///
/// # Errors
/// When the disk is not repaired as it must be.
pub fn repairs_with_memory_of(
    mib: u32,
    firmware: Firmware,
    medium: fn(PathBuf) -> Medium,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = hurried("esxi-rescue.iso", folder.path())?;
    let made = EsxiDisk::v80().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let finished = Machine::new(firmware)
        .medium(medium(iso))
        .memory_mib(mib)
        .disk(Bus::Ahci, &made.image)
        .run()?;
    judge
        .repaired(&[0, 1], &[SATA])
        .with_context(|| tail(&finished.serial))
}
