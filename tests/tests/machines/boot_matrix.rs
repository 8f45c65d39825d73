//! All of the boot matrix that `make test` leaves out: `make test-boot` runs it.
//!
//! Each controller alone in its machine, so that no slow neighbour gives its disk time to come; and
//! the routes crossed with the kinds of firmware. Ignored by `cargo test` unless asked for.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rescue_tests::boots::{
    all_are_repaired, hurried, netboot_tree, repairs, repairs_and_switches_off,
    repairs_with_memory_of, unsigned_is_refused, v80_4kn,
};
use rescue_tests::esxi::{EsxiDisk, Maker};
use rescue_tests::machine::{Board, Bus, CARD, Firmware, Machine, Medium};
use rescue_tests::server::WebServer;

use super::way_back::comes_back_by_uefi;

/// Every controller that a disk can hang on.
const CONTROLLERS: [(Board, Bus, Maker); 15] = [
    (Board::Q35, Bus::Ahci, EsxiDisk::v80),
    (Board::Q35, Bus::Nvme, EsxiDisk::v67),
    (Board::Q35, Bus::Nvme, v80_4kn),
    (Board::Pc, Bus::PiixIde, EsxiDisk::v67),
    (Board::Q35, Bus::VirtioScsi, EsxiDisk::v67),
    (Board::Q35, Bus::VirtioBlk, EsxiDisk::v80),
    (Board::Q35, Bus::MegaRaid, EsxiDisk::v80),
    (Board::Q35, Bus::MegaRaid1078, EsxiDisk::v67),
    (Board::Q35, Bus::MptSas1068, EsxiDisk::v80),
    (Board::Q35, Bus::Lsi53c895a, EsxiDisk::v80),
    (Board::Q35, Bus::Pvscsi, EsxiDisk::v67),
    (Board::Q35, Bus::Usb, EsxiDisk::v80),
    (Board::Q35, Bus::UsbEhci, EsxiDisk::v80),
    (Board::Q35, Bus::Uas, EsxiDisk::v67),
    (Board::Q35, Bus::SdCard, EsxiDisk::v80),
];

/// Every kind of UEFI firmware.
const UEFI: [Firmware; 3] = [
    Firmware::Uefi,
    Firmware::SecureBoot,
    Firmware::SecureBoot2023,
];

/// Tries all, and fails with all that failed.
fn each<T: Copy + std::fmt::Debug>(cases: &[T], run: impl Fn(T) -> Result<()>) -> Result<()> {
    let mut failed = Vec::new();
    for case in cases {
        let outcome = run(*case);
        println!(
            "{case:?}: {}",
            if outcome.is_ok() { "ok" } else { "FAILED" }
        );
        if let Err(error) = outcome {
            failed.push(format!("{case:?}: {error:#}"));
        }
    }
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn each_controller_alone() -> Result<()> {
    let names: Vec<(Board, Bus, usize)> = CONTROLLERS
        .iter()
        .enumerate()
        .map(|(place, (board, bus, _))| (*board, *bus, place))
        .collect();
    each(&names, |(board, bus, place)| {
        all_are_repaired(board, &[(bus, CONTROLLERS[place].2)])
    })
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn iso_as_cd_and_stick_by_every_uefi() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let iso = hurried("esxi-rescue.iso", folder.path())?;
    let media: [fn(PathBuf) -> Medium; 2] = [Medium::Cd, Medium::Stick];
    for medium in media {
        each(&UEFI, |firmware| repairs(firmware, medium(iso.clone())))?;
    }
    Ok(())
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn img_as_stick_by_every_uefi() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let img = hurried("esxi-rescue.img", folder.path())?;
    each(&UEFI, |firmware| {
        repairs(firmware, Medium::Stick(img.clone()))
    })
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn the_way_back_by_uefi_without_secure_boot() -> Result<()> {
    comes_back_by_uefi(Firmware::Uefi)
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn iso_over_http_by_every_uefi() -> Result<()> {
    let folder = tempfile::tempdir()?;
    hurried("esxi-rescue.iso", folder.path())?;
    let server = WebServer::serve(folder.path())?;
    each(&UEFI, |firmware| {
        repairs(firmware, Medium::Http(server.address("esxi-rescue.iso")))
    })
    .with_context(|| server.requests().unwrap_or_default())
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn netboot_by_every_uefi_with_settings_by_uuid() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let uuid = "4c4c4544-0035-5a10-8054-b4c04f4d3232";
    let tree = netboot_tree(folder.path(), &format!("grub/hosts/{uuid}.cfg"))?;
    each(&UEFI, |firmware| {
        let (folder, file) = (tree.clone(), "shimx64.efi");
        repairs_and_switches_off(
            Machine::new(firmware)
                .medium(Medium::Tftp { folder, file })
                .args(["-uuid", uuid]),
        )
    })
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn netboot_of_ipxe_over_tftp() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = netboot_tree(folder.path(), &format!("hosts/{CARD}.ipxe"))?;
    let file = "esxi-rescue.ipxe";
    repairs_and_switches_off(
        Machine::new(Firmware::Bios).medium(Medium::Tftp { folder: tree, file }),
    )
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn an_unsigned_first_link_is_refused_with_the_keys_of_2023_too() -> Result<()> {
    unsigned_is_refused(Firmware::SecureBoot2023)
}

#[test]
#[ignore = "`make test-boot` runs it"]
fn little_memory_by_stick() -> Result<()> {
    repairs_with_memory_of(256, Firmware::Bios, Medium::Stick)
}
