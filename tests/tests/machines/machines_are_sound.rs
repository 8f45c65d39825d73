//! The machines that the other tests boot: their console, their ends and their deadline.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::machine::{Bus, Ending, Firmware, Machine};

/// A boot sector that prints "hello" on the first serial port and then does what `end` says.
fn boot_sector(folder: &Path, end: &[u8]) -> Result<PathBuf> {
    let mut code = vec![0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for letter in b"hello\r\n" {
        code.extend([0xb0, *letter, 0xee]); // mov al, letter; out dx, al
    }
    code.extend(end);
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    let image = folder.join("boot.img");
    let file = File::create(&image)?;
    file.set_len(1 << 20)?;
    file.write_all_at(&code, 0)?;
    Ok(image)
}

/// mov al, 0xfe; out 0x64, al; then wait: the keyboard controller resets the machine.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

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
