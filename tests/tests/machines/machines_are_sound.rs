//! The machines that the other tests boot: their console, their ends and their deadline.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::machine::{Bus, Ending, Firmware, Machine};

/// A boot sector that prints a text on the first serial port and then does what `end` says.
fn sector(text: &str, end: &[u8]) -> Vec<u8> {
    let mut code = vec![0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for letter in text.bytes().chain(*b"\r\n") {
        code.extend([0xb0, letter, 0xee]); // mov al, letter; out dx, al
    }
    code.extend(end);
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code
}

/// A disk that begins with these sectors.
fn disk(folder: &Path, sectors: &[Vec<u8>]) -> Result<PathBuf> {
    let image = folder.join("boot.img");
    let file = File::create(&image)?;
    file.set_len(1 << 20)?;
    file.write_all_at(&sectors.concat(), 0)?;
    Ok(image)
}

/// A disk whose boot sector prints "hello" and then does what `end` says.
fn boot_sector(folder: &Path, end: &[u8]) -> Result<PathBuf> {
    disk(folder, &[sector("hello", end)])
}

/// mov al, 0xfe; out 0x64, al; then wait: the keyboard controller resets the machine.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// Copies the disk's second sector over its first one, by the BIOS: the next start is another one.
const NEXT_SECTOR: &[u8] = &[
    0x31, 0xc0, 0x8e, 0xc0, // xor ax, ax; mov es, ax
    0xbb, 0x00, 0x80, 0xba, 0x80, 0x00, // mov bx, 0x8000; mov dx, 0x80
    0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00, 0xcd, 0x13, // mov ax, 0x0201; mov cx, 2; int 0x13
    0xb8, 0x01, 0x03, 0xb9, 0x01, 0x00, 0xcd, 0x13, // mov ax, 0x0301; mov cx, 1; int 0x13
];

/// hlt for ever.
const HANG: &[u8] = &[0xf4, 0xeb, 0xfd];

#[test]
fn a_reboot_ends_the_machine_and_its_console_is_kept() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = boot_sector(folder.path(), RESET)?;
    let finished = Machine::new(Firmware::Bios).disk(Bus::Ahci, &image).run()?;
    assert_eq!(finished.ending, Ending::Rebooted);
    ensure!(finished.serial.contains("hello\n"), "{:?}", finished.serial);
    Ok(())
}

#[test]
fn a_machine_whose_kernel_got_no_timer_is_started_once_more_and_only_once() -> Result<()> {
    let lost = "IO-APIC + timer doesn't work!";
    let once = [NEXT_SECTOR, RESET].concat();
    for again in [lost, "hello"] {
        let folder = tempfile::tempdir()?;
        let sectors = [sector(lost, &once), sector(again, RESET)];
        let image = disk(folder.path(), &sectors)?;
        let machine = Machine::new(Firmware::Bios).disk(Bus::Ahci, &image);
        let finished = machine.run()?;
        ensure!(
            finished.serial.trim() == again,
            "{:?} after {lost:?}",
            finished.serial
        );
        let image = disk(folder.path(), &sectors)?;
        let machine = Machine::new(Firmware::Bios).disk(Bus::Ahci, &image);
        let shown = machine.start()?.wait_for("hello");
        ensure!(shown.is_ok() == (again == "hello"), "{shown:?}");
    }
    Ok(())
}

#[test]
fn a_machine_that_hangs_fails_with_the_end_of_its_console() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = boot_sector(folder.path(), HANG)?;
    let mut running = Machine::new(Firmware::Bios)
        .disk(Bus::VirtioBlk, &image)
        .deadline(Duration::from_secs(20))
        .start()?;
    running.wait_for("hello")?;
    let error = running
        .wait_for("good bye")
        .err()
        .context("it cannot say good bye")?
        .to_string();
    ensure!(
        error.contains("20 s passed") && error.contains("hello"),
        "{error}"
    );
    Ok(())
}

#[test]
fn keys_screen_and_power_are_at_hand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = boot_sector(folder.path(), HANG)?;
    let mut running = Machine::new(Firmware::Bios)
        .disk(Bus::Nvme, &image)
        .start()?;
    running.wait_for("hello")?;
    running.press("ret")?;
    let picture = folder.path().join("screen.png");
    running.screenshot(&picture)?;
    ensure!(std::fs::read(&picture)?.starts_with(b"\x89PNG"));
    running.cut_power()
}

#[test]
fn secure_boot_firmware_starts() -> Result<()> {
    let mut running = Machine::new(Firmware::SecureBoot).start()?;
    running.command("query-status", serde_json::json!({}))?;
    running.cut_power()
}
