//! GRUB: its BIOS images for CD, disk and network, its menu, and the few lines by which it finds the medium it came
//! from.
//!
//! The medium is known by a file named after the image's own identity, never by a label or by `/.disk/info` alone,
//! which other media have too. Sources of the layout of the BIOS images: GRUB's grub-core/boot/i386/pc/boot.S and
//! diskboot.S, include/grub/i386/pc/boot.h, util/setup.c.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::inputs::tools::Tools;
use crate::tool;

/// Kernel arguments of every menu entry. After a panic the machine starts again by itself, so that a
/// remote one is not lost. The kernel's serial driver can be the console on one port only; the agent itself
/// serves the others.
pub const BASE_ARGS: &str = "console=tty0 console=ttyS0,115200 loglevel=4 panic=30";

/// Says to the agent that it was started from a stick, which may show up later than the disks.
const STARTED_FROM_STICK: &str = "rescue_from=usb";

/// Modules of every BIOS image: all that the menu uses, so that no module directory is needed.
const BIOS_MODULES: &[&str] = &[
    "biosdisk",
    "boot",
    "cat",
    "chain",
    "configfile",
    "echo",
    "fat",
    "halt",
    "iso9660",
    "keystatus",
    "linux",
    "loadenv",
    "ls",
    "minicmd",
    "normal",
    "part_gpt",
    "part_msdos",
    "reboot",
    "regexp",
    "search",
    "search_fs_file",
    "serial",
    "sleep",
    "smbios",
    "terminal",
    "test",
    "true",
];
/// What a BIOS image started over the network needs beside these.
const PXE_MODULES: &[&str] = &["pxe", "tftp"];

/// Size of a disk's sector and of each of GRUB's first two stages, in bytes.
const SECTOR_BYTES: usize = 512;
/// The part of the first sector that is GRUB's: code and its data before the disk signature and partition table of
/// the MBR.
pub const MBR_CODE_BYTES: usize = 440;
/// Where `boot.img` holds the sector of the core image (`GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// A jump in `boot.img` past a check of the drive number for BIOSes that pass a wrong one
/// (`GRUB_BOOT_MACHINE_DRIVE_CHECK`). On disks, the check is switched on by two `nop`s, as grub-bios-setup does.
const BOOT_DRIVE_CHECK: usize = 0x66;
const NOP: u8 = 0x90;
/// Where the core image's first sector says where its second is: the first entry of the block list at its end.
const CORE_BLOCK_LIST: usize = SECTOR_BYTES - 12;

/// Whether the menu hands the kernel the part with the network drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkPart {
    /// The medium does not have it.
    Absent,
    /// When the settings that GRUB can see ask for a report to be sent.
    IfReporting,
    /// Always: settings that GRUB cannot read may ask for it.
    Always,
}

/// Where GRUB's files of a BIOS disk go, and what is in them.
#[derive(Debug)]
pub struct BiosDisk {
    /// Code for the first sector, [`MBR_CODE_BYTES`] long.
    pub boot_code: Vec<u8>,
    /// The core image, for the sectors it was made for.
    pub core: Vec<u8>,
}

/// The file on the medium that names the image.
#[must_use]
pub fn identity_file(identity: &str) -> String {
    format!(".disk/esxi-rescue-{identity}")
}

/// The configuration inside the loaders' own partition: find the medium, then its menu. GRUB tries the disk it came
/// from first, in case two media with the same image are plugged in.
#[must_use]
pub fn finder(identity: &str) -> String {
    let file = identity_file(identity);
    format!(
        "regexp --set=1:own '^([^,]*)' \"$root\"\nsearch --no-floppy --hint \"$own\" --file --set=root /{file}\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"
    )
}

/// The menu, for a medium whose kernel lies in the directory `files` ("" or with a leading `/`).
#[must_use]
pub fn menu(files: &str, network: NetworkPart) -> String {
    menu_with(files, network, BASE_ARGS)
}

/// The menu of the stick, where the agent has to wait for settings that GRUB cannot read.
#[must_use]
pub fn stick_menu(files: &str, network: NetworkPart) -> String {
    menu_with(files, network, &format!("{BASE_ARGS} {STARTED_FROM_STICK}"))
}

fn menu_with(files: &str, network: NetworkPart, base_args: &str) -> String {
    let network = match network {
        NetworkPart::Absent => "absent",
        NetworkPart::IfReporting => "if_reporting",
        NetworkPart::Always => "always",
    };
    include_str!("menu.cfg")
        .replace("@BASE_ARGS@", base_args)
        .replace("@FILES@", files)
        .replace("@NETWORK@", network)
}

/// The El Torito boot image for BIOS: GRUB's CD loader followed by a core image.
pub fn bios_cd_image(tools: &Tools, identity: &str, temp: &Path) -> Result<Vec<u8>> {
    let mut image = read_stage(tools, "cdboot.img")?;
    image.extend(core_image(
        tools,
        "i386-pc",
        "/boot/grub",
        &early(identity, "$root"),
        &[],
        temp,
    )?);
    Ok(image)
}

/// What makes a disk bootable by a BIOS, with the core image at sector `core_at`.
pub fn bios_disk(tools: &Tools, identity: &str, core_at: u64, temp: &Path) -> Result<BiosDisk> {
    let mut boot_code = read_stage(tools, "boot.img")?;
    let mut core = core_image(
        tools,
        "i386-pc",
        "/boot/grub",
        &early(identity, "$root,"),
        &[],
        temp,
    )?;
    if boot_code.len() != SECTOR_BYTES || core.len() < 2 * SECTOR_BYTES {
        return Err(Error::input(
            &tools.grub_bios(),
            "GRUB's boot.img or core image has an unexpected size; this GRUB is not supported",
        ));
    }
    boot_code.truncate(MBR_CODE_BYTES);
    boot_code[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&core_at.to_le_bytes());
    boot_code[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].fill(NOP);
    core[CORE_BLOCK_LIST..CORE_BLOCK_LIST + 8].copy_from_slice(&(core_at + 1).to_le_bytes());
    Ok(BiosDisk { boot_code, core })
}

/// What a BIOS starts over PXE; it looks for its menu where GRUB for UEFI does, in `/grub` of the TFTP server.
pub fn bios_pxe_image(tools: &Tools, temp: &Path) -> Result<Vec<u8>> {
    core_image(tools, "i386-pc-pxe", "/grub", "", PXE_MODULES, temp)
}

/// Finds the medium before anything else; `hint` is where to look first.
fn early(identity: &str, hint: &str) -> String {
    format!(
        "search --no-floppy --hint \"{hint}\" --file --set=root /{}\nset prefix=($root)/boot/grub\n",
        identity_file(identity)
    )
}

fn core_image(
    tools: &Tools,
    format: &str,
    prefix: &str,
    script: &str,
    more_modules: &[&str],
    temp: &Path,
) -> Result<Vec<u8>> {
    // Those of the ISO and of the USB image are made at the same time.
    let temp = tempfile::tempdir_in(temp).map_err(Error::io("create a directory in", temp))?;
    let early = temp.path().join("early.cfg");
    let core = temp.path().join("core.img");
    let mut command = tools.command("grub-mkimage");
    command
        .args(["--format", format, "--prefix", prefix, "--directory"])
        .arg(tools.grub_bios())
        .arg("--output")
        .arg(&core);
    if !script.is_empty() {
        fs::write(&early, script).map_err(Error::io("write", &early))?;
        command.arg("--config").arg(&early);
    }
    command.args(BIOS_MODULES).args(more_modules);
    tool::run(&mut command, "grub-common and grub-pc-bin")?;
    fs::read(&core).map_err(Error::io("read", &core))
}

fn read_stage(tools: &Tools, name: &str) -> Result<Vec<u8>> {
    let path = tools.grub_bios().join(name);
    fs::read(&path).map_err(|_| Error::ToolMissing {
        tool: path.display().to_string(),
        package: "grub-pc-bin",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_has_its_four_entries_and_no_gaps() {
        for network in [
            NetworkPart::Absent,
            NetworkPart::IfReporting,
            NetworkPart::Always,
        ] {
            let menu = menu("/boot", network);
            assert_eq!(menu.matches("\nmenuentry ").count(), 4);
            assert!(menu.contains("console=ttyS0,115200") && !menu.contains('@'));
        }
    }

    #[test]
    fn the_finder_asks_for_this_very_image() {
        assert!(finder("abc").contains("/.disk/esxi-rescue-abc\n"));
    }

    #[test]
    fn a_bios_disk_says_in_both_stages_where_the_next_is() {
        let temp = tempfile::tempdir().unwrap();
        let disk = bios_disk(&Tools::installed(), "abc", 0x0001_0203_0405, temp.path()).unwrap();
        assert_eq!(disk.boot_code.len(), MBR_CODE_BYTES);
        assert_eq!(
            disk.boot_code[0x5c..0x64],
            0x0001_0203_0405_u64.to_le_bytes()
        );
        assert_eq!(disk.boot_code[0x66..0x68], [NOP, NOP]);
        assert_eq!(disk.core[0x1f4..0x1fc], 0x0001_0203_0406_u64.to_le_bytes());
        // The list's own length in sectors (all but the first), which grub-mkimage fills in.
        let sectors = u16::from_le_bytes([disk.core[0x1fc], disk.core[0x1fd]]);
        assert_eq!(usize::from(sectors), disk.core.len().div_ceil(512) - 1);
    }
}
