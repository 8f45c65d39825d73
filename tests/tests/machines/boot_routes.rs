//! Routes: every way in which the artefacts start a machine ends with a repaired disk.
//!
//! One machine for each way. UEFI without Secure Boot is in `boot_matrix`: it starts the same programs. Judged from the disk afterwards; what the console says is only shown
//! where a test fails.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rescue_tests::agent;
use rescue_tests::boots::{
    hurried, netboot_tree, repairs, repairs_and_switches_off, repairs_with_memory_of,
    unsigned_is_refused,
};
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, CARD, Ending, Firmware, Machine, Medium};
use rescue_tests::server::WebServer;

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
fn iso_as_a_bios_cd_twice_and_the_second_time_there_is_nothing_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = hurried("esxi-rescue.iso", folder.path())?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let machine = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso))
        .disk(Bus::Ahci, &made.image);
    let judge = Judge::new(&made, folder.path())?;
    let finished = machine.run()?;
    finished.expect(Ending::Rebooted, "reverted")?;
    ensure!(finished.report()?["schema"] == agent::SCHEMA);
    judge.repaired(&[0, 1], &[SATA])?;
    for bank in [0, 1] {
        let owners = judge.owners(bank)?;
        ensure!(owners["00000:000:31.2"] == "vmkernel", "{owners:?}");
        ensure!(
            owners["00000:001:00.0"] == "passthru",
            "the GPU is its VM's: {owners:?}"
        );
    }
    let judge = Judge::new(&made, folder.path())?;
    machine.run()?.expect(Ending::Rebooted, "clean")?;
    judge.nothing_changed()
}

#[test]
fn iso_as_a_bios_stick() -> Result<()> {
    iso(Firmware::Bios, Medium::Stick)
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
fn img_as_a_secure_boot_stick_with_the_keys_of_2011() -> Result<()> {
    img(Firmware::SecureBoot)
}

#[test]
fn img_as_a_secure_boot_stick_with_the_keys_of_2023_only() -> Result<()> {
    img(Firmware::SecureBoot2023)
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

#[test]
fn an_unsigned_first_link_is_refused_by_secure_boot_and_only_by_that() -> Result<()> {
    unsigned_is_refused(Firmware::SecureBoot)
}

#[test]
fn with_256_mib_of_memory_by_bios() -> Result<()> {
    repairs_with_memory_of(256, Firmware::Bios, Medium::Cd)
}

// GRUB for UEFI itself gives up below this.
#[test]
fn with_320_mib_of_memory_by_secure_boot() -> Result<()> {
    repairs_with_memory_of(320, Firmware::SecureBoot, Medium::Stick)
}
