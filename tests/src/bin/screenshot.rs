//! `make screenshot`: boots the image with an ESXi disk and photographs what a person sees on the
//! screen: the plan, the menu, the choice of devices, the result. Writes PNG files to the folder named, or `docs/`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::machine::{Bus, Firmware, Machine, Medium, Running};

/// The screen may be a moment behind the serial line.
const SETTLE: Duration = Duration::from_millis(700);

/// A server with a graphics card behind a bridge, where the disk's configuration has it.
const HARDWARE: [&str; 6] = [
    "-smbios",
    "type=1,manufacturer=Example,product=Server 2U,serial=7XK2P03",
    "-device",
    "pcie-root-port,id=slot1,chassis=1,addr=0x1c",
    "-device",
    "secondary-vga,bus=slot1",
];

fn main() -> Result<()> {
    let argument = std::env::args_os().nth(1);
    let to = argument.map_or_else(|| artefacts::workspace().join("docs"), PathBuf::from);
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let mut running = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(artefacts::dist("esxi-rescue.iso")?))
        .disk(Bus::Ahci, &made.image)
        .args(HARDWARE)
        .start()?;
    running.wait_for("open the menu.")?;
    shoot(&mut running, &to, "screenshot.png")?;
    running.press("spc")?;
    running.wait_for("Enter for: ")?;
    shoot(&mut running, &to, "screenshot-menu.png")?;
    running.press("c")?;
    running.wait_for("of 2 go back")?;
    shoot(&mut running, &to, "screenshot-devices.png")?;
    running.press("q")?;
    thread::sleep(SETTLE);
    running.press("a")?;
    running.wait_for("Restarting in")?;
    shoot(&mut running, &to, "screenshot-result.png")?;
    running.cut_power()
}

fn shoot(running: &mut Running, folder: &Path, name: &str) -> Result<()> {
    thread::sleep(SETTLE);
    let path = folder.join(name);
    running.screenshot(&path)?;
    println!("{}", path.display());
    Ok(())
}
