//! Routes: every way in which the artefacts start a machine ends with a repaired disk.
//!
//! One machine for each way. Judged from the disk afterwards; what the console says is only shown
//! where a test fails.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Ending, Finished, Firmware, Machine, Medium, tail};
use rescue_tests::server::WebServer;
use rescue_tests::tools::Tool;

/// The signed chain's first link without its signature, of Debian's package `shim-unsigned`.
const UNSIGNED_SHIM: &str = "/usr/lib/shim/shimx64.efi";

/// What the firmware says of a program whose signature it does not accept.
const ACCESS_DENIED: &str = "Access Denied";

/// An artefact that does not count down, in a folder of its own.
fn hurried(artefact: &str, folder: &Path) -> Result<PathBuf> {
    let image = folder.join(artefact);
    artefacts::customized(artefact, &["countdown=0"], &image)?;
    Ok(image)
}

fn must_be_reverted(finished: &Finished) -> Result<()> {
    let end = tail(&finished.serial);
    ensure!(
        finished.ending == Ending::Rebooted,
        "it ended by {:?}:\n{end}",
        finished.ending
    );
    let result = finished.result()?;
    ensure!(result == "reverted", "the result is {result}:\n{end}");
    Ok(())
}

/// Starts a machine with an ESXi disk from a medium: the disk must be repaired.
fn repairs(firmware: Firmware, medium: Medium, memory_mib: u32) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let machine = Machine::new(firmware)
        .medium(medium)
        .memory_mib(memory_mib)
        .disk(Bus::Ahci, &made.image);
    must_be_reverted(&machine.run()?)?;
    judge.repaired(&[0, 1], &[SATA])
}

const ENOUGH_MIB: u32 = 1024;

fn iso(firmware: Firmware, medium: fn(PathBuf) -> Medium) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = hurried("esxi-rescue.iso", folder.path())?;
    repairs(firmware, medium(iso), ENOUGH_MIB)
}

#[test]
fn iso_as_a_bios_cd() -> Result<()> {
    iso(Firmware::Bios, Medium::Cd)
}

#[test]
fn iso_as_a_bios_stick() -> Result<()> {
    iso(Firmware::Bios, Medium::Stick)
}

#[test]
fn iso_as_a_uefi_cd() -> Result<()> {
    iso(Firmware::Uefi, Medium::Cd)
}

#[test]
fn iso_as_a_secure_boot_cd_with_the_keys_of_2011() -> Result<()> {
    iso(Firmware::SecureBoot, Medium::Cd)
}

#[test]
fn iso_as_a_secure_boot_stick_with_the_keys_of_2011() -> Result<()> {
    iso(Firmware::SecureBoot, Medium::Stick)
}

#[test]
fn iso_as_a_secure_boot_cd_with_the_keys_of_2023_only() -> Result<()> {
    iso(Firmware::SecureBoot2023, Medium::Cd)
}

#[test]
fn iso_as_a_secure_boot_stick_with_the_keys_of_2023_only() -> Result<()> {
    iso(Firmware::SecureBoot2023, Medium::Stick)
}

#[test]
fn iso_by_secure_boot_over_http() -> Result<()> {
    let folder = tempfile::tempdir()?;
    hurried("esxi-rescue.iso", folder.path())?;
    let server = WebServer::serve(folder.path())?;
    let medium = Medium::Http(server.address("esxi-rescue.iso"));
    repairs(Firmware::SecureBoot, medium, ENOUGH_MIB).with_context(|| {
        format!(
            "the server was asked:\n{}",
            server.requests().unwrap_or_default()
        )
    })
}

/// Where the boot partition of a disk image begins, in bytes: its EFI system partition.
fn esp_offset(image: &Path) -> Result<u64> {
    let table = Tool::new("sfdisk")?.arg("--json").arg(image).run_text()?;
    let table: serde_json::Value = serde_json::from_str(&table)?;
    let partitions = table["partitiontable"]["partitions"].as_array();
    let esp = partitions
        .into_iter()
        .flatten()
        .find(|partition| partition["type"] == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
        .and_then(|partition| partition["start"].as_u64());
    Ok(esp.context("no EFI system partition")? * 512)
}

/// Puts the unsigned shim in the place of the signed one.
fn take_the_signature_away(image: &Path) -> Result<()> {
    ensure!(
        Path::new(UNSIGNED_SHIM).exists(),
        "{UNSIGNED_SHIM} is missing: `apt-get install shim-unsigned` brings it"
    );
    let volume = format!("{}@@{}", image.display(), esp_offset(image)?);
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

#[test]
fn an_unsigned_first_link_is_refused_by_secure_boot_and_only_by_that() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = hurried("esxi-rescue.iso", folder.path())?;
    take_the_signature_away(&iso)?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let mut refused = Machine::new(Firmware::SecureBoot)
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
    repairs(Firmware::Uefi, Medium::Cd(iso), ENOUGH_MIB)
}
