//! Routes: every way in which the artefacts start a machine ends with a repaired disk.
//!
//! One machine for each way. Judged from the disk afterwards; what the console says is only shown
//! where a test fails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, CARD, Ending, Firmware, Machine, Medium, tail};
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

/// Puts an ESXi disk into a machine and starts it: the disk must be repaired. Gives how it ended.
fn repaired_by(machine: Machine) -> Result<Ending> {
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
fn repairs(firmware: Firmware, medium: Medium) -> Result<()> {
    let ending = repaired_by(Machine::new(firmware).medium(medium))?;
    ensure!(ending == Ending::Rebooted, "it ended by {ending:?}");
    Ok(())
}

fn iso(firmware: Firmware, medium: fn(PathBuf) -> Medium) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = hurried("esxi-rescue.iso", folder.path())?;
    repairs(firmware, medium(iso))
}

fn img(firmware: Firmware) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let img = hurried("esxi-rescue.img", folder.path())?;
    repairs(firmware, Medium::Stick(img))
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
    repairs(Firmware::SecureBoot, medium).with_context(|| {
        format!(
            "the server was asked:\n{}",
            server.requests().unwrap_or_default()
        )
    })
}

#[test]
fn img_as_a_bios_stick() -> Result<()> {
    img(Firmware::Bios)
}

#[test]
fn img_as_a_uefi_stick() -> Result<()> {
    img(Firmware::Uefi)
}

#[test]
fn img_as_a_secure_boot_stick_with_the_keys_of_2011() -> Result<()> {
    img(Firmware::SecureBoot)
}

#[test]
fn img_as_a_secure_boot_stick_with_the_keys_of_2023_only() -> Result<()> {
    img(Firmware::SecureBoot2023)
}

/// What a machine's own settings say: a countdown of none, and an end that shows that they were
/// read.
const SWITCH_OFF: &str = "${rescue_args} rescue.countdown=0 rescue.finish=poweroff";

/// A copy of the netboot tree with settings for one host, in a file of this name.
fn netboot_tree(folder: &Path, host_file: &str) -> Result<PathBuf> {
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
fn repairs_and_switches_off(machine: Machine) -> Result<()> {
    let ending = repaired_by(machine)?;
    ensure!(
        ending == Ending::SwitchedOff,
        "it ended by {ending:?}: its own settings were not read"
    );
    Ok(())
}

#[test]
fn netboot_of_a_bios_network_card_with_settings_by_its_address() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = netboot_tree(folder.path(), &format!("grub/hosts/{CARD}.cfg"))?;
    let file = "bios/grub.0";
    repairs_and_switches_off(
        Machine::new(Firmware::Bios).medium(Medium::Tftp { folder: tree, file }),
    )
}

#[test]
fn netboot_by_secure_boot_with_settings_by_serial_number() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = netboot_tree(folder.path(), "grub/hosts/7XK2P03.cfg")?;
    let file = "shimx64.efi";
    repairs_and_switches_off(
        Machine::new(Firmware::SecureBoot)
            .medium(Medium::Tftp { folder: tree, file })
            .args(["-smbios", "type=1,serial=7XK2P03"]),
    )
}

#[test]
fn netboot_of_ipxe_over_http_with_settings_by_its_address() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = netboot_tree(folder.path(), &format!("hosts/{CARD}.ipxe"))?;
    let server = WebServer::serve(&tree)?;
    let medium = Medium::Ipxe(server.address("esxi-rescue.ipxe"));
    repairs_and_switches_off(Machine::new(Firmware::Bios).medium(medium))
        .with_context(|| server.requests().unwrap_or_default())
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
    repairs(Firmware::Uefi, Medium::Cd(iso))
}

/// Starts a machine of little memory with a disk of 8.0, whose repair needs the most of it.
fn repairs_with_memory_of(
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

#[test]
fn with_256_mib_of_memory_by_bios() -> Result<()> {
    repairs_with_memory_of(256, Firmware::Bios, Medium::Cd)
}

/// GRUB for UEFI itself gives up below this.
#[test]
fn with_320_mib_of_memory_by_secure_boot() -> Result<()> {
    repairs_with_memory_of(320, Firmware::SecureBoot, Medium::Stick)
}
