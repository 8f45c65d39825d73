//! Banks under a live Linux, as people start one to repair a host by hand: a volume that is mounted,
//! and what a reset leaves of it.

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{self, DONE, REFUSED};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::live;
use rescue_tests::machine::{Bus, Ending, Firmware, Machine, tail};

/// The boot controller, as a selector.
const BOOT: &str = "0000:00:1f.2";

#[test]
fn banks_that_were_mounted_when_the_machine_was_reset_are_repaired() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    // One bank only mounted; in the other one a file was written, and more of it is still in memory.
    let script = "mkdir /a /b && mount -t vfat /dev/vda5 /a && mount -t vfat /dev/vda6 /b \
                  && echo by hand >/b/notes.txt && sync && cat /bin/busybox >>/b/notes.txt \
                  && echo Both are mounted.; sleep 600";
    let mut running = Machine::new(Firmware::Bios)
        .medium(live::linux(folder.path(), script, &[])?)
        .disk(Bus::VirtioBlk, &made.image)
        .start()?;
    running.wait_for("Both are mounted.")?;
    // Ends it by force.
    drop(running);

    let judge = Judge::new(&made, folder.path())?;
    for bank in [0, 1] {
        let found = judge.bank(bank)?.findings()?;
        let is_dirty = |line: &String| line.contains("Dirty bit is set");
        ensure!(
            found.iter().any(is_dirty),
            "the mount left no mark: {found:?}"
        );
    }
    let run = agent::revert(BOOT, &made.image)?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    ensure!(
        run.said().contains("not cleanly unmounted"),
        "{}",
        run.said()
    );
    judge.repaired(&[0, 1], &[SATA])?;
    agent::run(&["restore", "--yes"], &made.image)?.expect(DONE)?;
    judge.restored(&[0, 1])
}

#[test]
fn a_mounted_bank_is_refused_with_its_mount_point_until_it_is_unmounted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    // By the disk's own partition, by a loop device over the disk, and by one over the volume alone.
    let script = format!(
        "mkdir /a
repair() {{ rescue-agent revert --devices {BOOT} --yes /dev/vda; echo \"$1: status $?\"; }}
mount -t vfat /dev/vda5 /a && repair own; umount /a
losetup -P /dev/loop0 /dev/vda && mount -t vfat /dev/loop0p5 /a && repair loop; umount /a; losetup -d /dev/loop0
losetup -o {offset} /dev/loop1 /dev/vda && mount -t vfat /dev/loop1 /a && repair part; umount /a; losetup -d /dev/loop1
repair free; sync; sleep 1; reboot -f",
        offset = judge.bank(0)?.bytes().start,
    );
    let program = artefacts::agent()?;
    let finished = Machine::new(Firmware::Bios)
        .medium(live::linux(folder.path(), &script, &[&program])?)
        .disk(Bus::VirtioBlk, &made.image)
        .run()?;
    let said = &finished.serial;
    ensure!(finished.ending == Ending::Rebooted, "{}", tail(said));
    let mut rest = said.as_str();
    for mounted in ["own", "loop", "part"] {
        let (before, after) = rest
            .split_once(&format!("{mounted}: status {REFUSED}"))
            .with_context(|| format!("{mounted}:\n{}", tail(said)))?;
        ensure!(before.contains("mounted at /a"), "{mounted}:\n{before}");
        ensure!(before.contains("umount"), "{mounted}:\n{before}");
        ensure!(!before.contains("fsck"), "{mounted}:\n{before}");
        rest = after;
    }
    ensure!(rest.contains(&format!("free: status {DONE}")), "{rest}");
    judge.repaired(&[0, 1], &[SATA])
}
