//! The menu of the real image, driven by a person's keys over the serial line and over the keyboard
//! of the screen. What was done is judged from the disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::archive::Flaw;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judged_disk::JudgedDisk;
use rescue_tests::machine::{Bus, Ending, Finished, Firmware, Machine, Medium, Running};

/// The last words before the menu, and the menu's own.
const COUNTDOWN: &str = "open the menu.";
const MENU: &str = "A letter, or Enter for: ";

/// The machine around a disk: a person has time to press a key before the repair, and none afterwards
/// is needed.
fn machine(disk: &JudgedDisk, settings: &[&str]) -> Result<Machine> {
    let iso = disk.file("rescue.iso");
    artefacts::customized("esxi-rescue.iso", settings, &iso)?;
    Ok(Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso))
        .disk(Bus::Ahci, &disk.made.image))
}

/// A person at the serial line, and the machine.
struct SerialUser {
    running: Running,
    /// How much of what the line shows has been read.
    read: usize,
}

impl SerialUser {
    fn start(machine: Machine) -> Result<Self> {
        let running = machine.typed().start()?;
        Ok(Self { running, read: 0 })
    }

    /// Waits for a text that was not there before, and then types.
    fn on(&mut self, text: &str, keys: &str) -> Result<()> {
        self.read += self
            .running
            .wait_for_after(self.read, text)
            .with_context(|| format!("before typing {keys:?}"))?;
        self.running.type_keys(keys)
    }

    fn finish(self) -> Result<Finished> {
        self.running.finish()
    }
}

/// A picture of the screen for a person to look at, where `RESCUE_SCREENS` names a folder.
fn photograph(running: &mut Running, name: &str) -> Result<()> {
    let Some(folder) = std::env::var_os("RESCUE_SCREENS") else {
        return Ok(());
    };
    let path: PathBuf = Path::new(&folder).join(format!("{name}.png"));
    running.screenshot(&path)
}

#[test]
fn apply_from_the_menu_repairs_by_keys_of_the_serial_line() -> Result<()> {
    let disk = JudgedDisk::new(&EsxiDisk::v67())?;
    let mut person = SerialUser::start(machine(&disk, &["countdown=12"])?)?;
    person.on(COUNTDOWN, " ")?;
    // The details, page by page and back, and then the first entry by arrows and Enter.
    person.on(MENU, "d")?;
    person.on("q: menu.", "q")?;
    person.on(MENU, "\x1b[B\x1b[H\x1b[B\x1b[A\r")?;
    person.on("Restarting in", "")?;
    let finished = person.finish()?;
    finished.expect(Ending::Rebooted, "reverted")?;
    // Both archives are of use, so that none has to take another one's place.
    ensure!(!finished.serial.contains("newest configuration"));
    disk.judge.repaired(&[0, 1], &[SATA])
}

#[test]
fn the_newest_archive_takes_the_place_of_a_damaged_one_that_boots_next() -> Result<()> {
    let disk = JudgedDisk::new(&EsxiDisk::v67().bank(0, |bank| {
        bank.flaw(Flaw::Garbage);
    }))?;
    let damaged = disk.judge.bank(0)?.read("STATE.TGZ")?;
    let mut person = SerialUser::start(machine(&disk, &["countdown=1"])?)?;
    // The other bank is repaired; that the next start is not, is said, and the machine waits.
    person.on("press Shift+R at ESXi's loader", "")?;
    person.on("Press any key for the menu.", " ")?;
    person.on(MENU, "n")?;
    person.on("Carry this out? y: yes.", "n")?;
    person.on(MENU, "n")?;
    person.on("STATE.TGZ is replaced by the one of bank 6", "")?;
    person.on("Carry this out? y: yes.", "y")?;
    person.on("Restarting in", "")?;
    person.finish()?.expect(Ending::Rebooted, "reverted")?;
    disk.judge.only_banks_changed(&[0, 1])?;
    for bank in [0, 1] {
        let owners = disk.judge.owners(bank)?;
        ensure!(owners["00000:000:31.2"] == "vmkernel", "{owners:?}");
        disk.judge.bank(bank)?.check()?;
    }
    ensure!(
        disk.judge.bank(0)?.read("STATE.ORG")? == damaged,
        "what was in place is kept"
    );
    Ok(())
}

#[test]
fn chosen_devices_and_no_others_go_back_by_keys_of_the_screen() -> Result<()> {
    let disk = JudgedDisk::new(&EsxiDisk::v67())?;
    let mut running = machine(&disk, &["countdown=12"])?.start()?;
    running.wait_for(COUNTDOWN)?;
    photograph(&mut running, "plan")?;
    running.press("ret")?;
    running.wait_for(MENU)?;
    photograph(&mut running, "menu")?;
    running.press("c")?;
    running.wait_for("1 of 2 go back")?;
    running.press("1")?;
    running.wait_for("0 of 2 go back")?;
    running.press("2")?;
    running.wait_for("Number 2: [x] 0000:01:00.0")?;
    photograph(&mut running, "devices")?;
    running.press("ret")?;
    running.wait_for("Carry this out? y: yes.")?;
    photograph(&mut running, "new-plan")?;
    running.press("y")?;
    // The controller of the boot disk was left passed through: that is no success, and the machine waits.
    running.wait_for("Press any key for the menu.")?;
    photograph(&mut running, "result")?;
    let read = running.serial()?.len();
    running.press("ret")?;
    running.wait_for_after(read, MENU)?;
    running.press("r")?;
    running.finish()?.expect(Ending::Rebooted, "refused")?;
    disk.judge.only_banks_changed(&[0, 1])?;
    for bank in [0, 1] {
        let owners = disk.judge.owners(bank)?;
        ensure!(owners["00000:001:00.0"] == "vmkernel", "{owners:?}");
        ensure!(owners["00000:000:31.2"] == "passthru", "{owners:?}");
    }
    Ok(())
}

#[test]
fn restore_from_the_menu_brings_the_original_bytes_back() -> Result<()> {
    let disk = JudgedDisk::new(&EsxiDisk::v67())?;
    let finished = machine(&disk, &["countdown=0"])?.run()?;
    finished.expect(Ending::Rebooted, "reverted")?;
    disk.judge.repaired(&[0, 1], &[SATA])?;
    let mut person = SerialUser::start(machine(&disk, &["countdown=5", "finish=stay"])?)?;
    person.on("Press any key for the menu.", "\r")?;
    person.on(MENU, "o")?;
    person.on("Carry this out? y: yes.", "n")?;
    person.on(MENU, "o")?;
    person.on("Carry this out? y: yes.", "y")?;
    person.on("Press any key for the menu.", "x")?;
    person.on(MENU, "r")?;
    person.finish()?.expect(Ending::Rebooted, "restored")?;
    disk.judge.restored(&[0, 1])
}

#[test]
fn inspecting_offers_nothing_that_writes_and_writes_nothing() -> Result<()> {
    let disk = JudgedDisk::new(&EsxiDisk::v67())?;
    let mut person = SerialUser::start(machine(&disk, &["mode=inspect"])?)?;
    person.on("Press any key for the menu.", " ")?;
    // Every letter that would write, each answered as if somebody meant it.
    person.on(MENU, "aycy1\ryoysybq")?;
    person.on("", "l")?;
    person.on("q: menu.", "q")?;
    person.on(MENU, "p")?;
    let finished = person.finish()?;
    finished.expect(Ending::SwitchedOff, "inspected")?;
    ensure!(!finished.serial.contains("apply the plan"));
    disk.judge.nothing_changed()
}

#[test]
fn a_key_stops_the_countdown_and_power_off_from_the_menu_writes_nothing() -> Result<()> {
    let disk = JudgedDisk::new(&EsxiDisk::v67())?;
    let mut running = machine(&disk, &["countdown=12"])?.start()?;
    running.wait_for(COUNTDOWN)?;
    running.press("esc")?;
    running.wait_for(MENU)?;
    // Longer than the countdown, and a repair: had the key not stopped it, that would be done by then.
    std::thread::sleep(Duration::from_secs(20));
    running.press("p")?;
    let finished = running.finish()?;
    ensure!(
        finished.ending == Ending::SwitchedOff,
        "{:?}",
        finished.ending
    );
    disk.judge.nothing_changed()
}

#[test]
fn words_added_to_an_entry_of_the_boot_menu_count() -> Result<()> {
    const DOWN: char = '\u{e}';
    const LINE_END: char = '\u{5}';
    const START: char = '\u{18}';
    let disk = JudgedDisk::new(&EsxiDisk::v67())?;
    let mut person = SerialUser::start(machine(&disk, &["countdown=1"])?)?;
    person.on("ESXi rescue: repair", "e")?;
    // The kernel's line is the third, below GRUB's own and a blank one.
    let words = "rescue.wait=77 rescue.mode=inspect rescue.finish=poweroff";
    person.on("vmlinuz", &format!("{DOWN}{DOWN}{LINE_END} {words}{START}"))?;
    let finished = person.finish()?;
    finished.expect(Ending::SwitchedOff, "inspected")?;
    disk.judge.nothing_changed()
}

/// A person asked to only look, and wrote the word as the kernel's own are written.
#[test]
fn a_misspelled_setting_on_the_kernel_command_line_stops_before_any_write() -> Result<()> {
    let disk = JudgedDisk::new(&EsxiDisk::v67())?;
    let medium = Medium::Kernel {
        kernel: artefacts::dist("netboot/vmlinuz")?,
        initramfs: artefacts::dist("netboot/initrd.img")?,
        command_line: "console=ttyS0,115200 rescue.countdown=0 Rescue_mode=inspect".into(),
    };
    let machine = Machine::new(Firmware::Bios).medium(medium);
    let mut running = machine.disk(Bus::Ahci, &disk.made.image).start()?;
    running.wait_for("esxi-rescue: result=refused")?;
    let said = running.serial()?;
    running.cut_power()?;
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        said.contains("write rescue.mode, or leave it out"),
        "{said}"
    );
    disk.judge.nothing_changed()
}
