//! Boot banks as real hosts have them: marks of a reset, tables that differ, second accidents, files of
//! other people, archives that are damaged or missing, disks that are in use. Built and judged by
//! outside tools.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rescue_agent::discover;
use rescue_agent::disk::BlockDevice;
use rescue_agent::plan;
use rescue_agent::policy::Policy;
use rescue_agent::report::{self, Detail};
use rescue_tests::agent::{self, DONE, REFUSED};
use rescue_tests::artefacts;
use rescue_tests::esxi::archive::{Flaw, Layers, Seal};
use rescue_tests::esxi::config_store::StoreLeft;
use rescue_tests::esxi::host::{Owner, SATA};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::judged_disk::{JudgedDisk, start_of};
use rescue_tests::scratch;
use rescue_tests::tools::find;

/// The boot controller, as a selector.
const BOOT: &str = "0000:00:1f.2";

/// `revert --source newest`.
fn newest(case: &JudgedDisk, more: &[&str]) -> Result<agent::Run> {
    let words = ["revert", "--source", "newest", "--devices", BOOT, "--json"];
    case.run(&[&words, more].concat())
}

/// What ESXi does when it saves its configuration: the old file is replaced by a new one.
fn save(case: &JudgedDisk, bank: usize, count: u32, owner: Owner) -> Result<Vec<u8>> {
    let mut archive = case.made.banks[bank].archive.clone();
    archive.backup_counter = Some(count);
    archive.saved += 86_400;
    for device in &mut archive.devices {
        if device.address == SATA {
            device.owner = owner;
        }
    }
    let scratch = tempfile::tempdir_in(case.folder.path())?;
    let packed = archive.pack(scratch.path(), "saved")?.context("a file")?;
    case.put(bank, &packed, "STATE.TGZ")?;
    Ok(fs::read(packed)?)
}

/// The fields of a bank's first sector that say where its tables are: bytes of a sector, and the
/// offsets of both tables.
fn tables(made: &Made, bank: usize) -> Result<[u64; 2]> {
    let start = start_of(made, bank)?;
    let mut sector = [0; 512];
    fs::File::open(&made.image)?.read_exact_at(&mut sector, start)?;
    let word = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
    let (bytes, reserved, length) = (word(11), word(14), word(22));
    ensure!(sector[16] == 2, "two tables");
    Ok([0, 1].map(|copy| start + (reserved + copy * length) * bytes))
}

fn poke(made: &Made, at: u64, bytes: &[u8]) -> Result<()> {
    let image = OpenOptions::new().write(true).open(&made.image)?;
    Ok(image.write_all_at(bytes, at)?)
}

/// What Linux leaves in a bank that it had mounted when the machine was reset. (Windows' twin of it, in
/// the tables, keeps mtools from reading the volume; the power cuts have it.)
fn mark_dirty(made: &Made, bank: usize) -> Result<()> {
    poke(made, start_of(made, bank)? + 0x25, &[1])
}

fn notes(run: &agent::Run, bank: usize) -> Result<String> {
    Ok(run.report()?["disks"][0]["banks"][bank]["volume_notes"].to_string())
}

// --- marks and tables --------------------------------------------------------------------------

#[test]
fn banks_marked_as_not_cleanly_unmounted_are_repaired_and_keep_the_mark() -> Result<()> {
    let case = JudgedDisk::changed(&EsxiDisk::v67(), |made| {
        (0..2).try_for_each(|bank| mark_dirty(made, bank))
    })?;
    let run = case.revert(BOOT)?.expect(DONE)?;
    ensure!(run.result()? == "reverted");
    ensure!(
        notes(&run, 0)?.contains("not cleanly unmounted"),
        "{}",
        run.said()
    );
    // The judge allows no write to the sector with the mark, and no new finding of fsck.fat.
    case.judge.repaired(&[0, 1], &[SATA])?;
    case.restore(&[])?.expect(DONE)?;
    case.judge.restored(&[0, 1])
}

#[test]
fn tables_that_differ_where_no_archive_lies_do_not_stop_a_repair() -> Result<()> {
    let case = JudgedDisk::changed(&EsxiDisk::v67(), |made| {
        for bank in 0..2 {
            let [_, second] = tables(made, bank)?;
            // Cluster 40 000 is free, cluster 2 belongs to a file of the installation.
            poke(made, second + 40_000 * 2, &[0xff, 0xff])?;
            poke(made, second + 4, &[0xff, 0xff])?;
        }
        Ok(())
    })?;
    let run = case.revert(BOOT)?.expect(DONE)?;
    ensure!(
        notes(&run, 0)?.contains("tables differ in 2 entries"),
        "{}",
        run.said()
    );
    case.judge.repaired(&[0, 1], &[SATA])
}

#[test]
fn lost_clusters_do_not_stop_a_repair_and_stay_lost() -> Result<()> {
    let case = JudgedDisk::changed(&EsxiDisk::v67(), |made| {
        for table in tables(made, 0)? {
            poke(made, table + 40_000 * 2, &[0x41, 0x9c, 0xff, 0xff])?;
        }
        Ok(())
    })?;
    let run = case.revert(BOOT)?.expect(DONE)?;
    ensure!(
        notes(&run, 0)?.contains("2 clusters in use belong to no file"),
        "{}",
        run.said()
    );
    case.judge.repaired(&[0, 1], &[SATA])
}

// --- second accidents --------------------------------------------------------------------------

#[test]
fn a_configuration_saved_since_the_repair_is_not_restored_away_unless_a_person_insists()
-> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let original = case.read(0, "STATE.TGZ")?;
    case.revert(BOOT)?.expect(DONE)?;
    let newer = save(&case, 0, 48, Owner::Vmkernel)?;
    let folder = scratch::folder()?;
    let before = Judge::new(&case.made, folder.path())?;

    let run = case.restore(&["--banks", "5"])?.expect(REFUSED)?;
    let said = run.said();
    ensure!(
        said.contains("ESXi has saved its configuration since"),
        "{said}"
    );
    ensure!(
        said.contains("save no. 47") && said.contains("save no. 48"),
        "{said}"
    );
    ensure!(said.contains("--discard-newer"), "{said}");
    before.nothing_changed()?;

    let run = case
        .restore(&["--discard-newer", "--banks", "5"])?
        .expect(DONE)?;
    ensure!(run.result()? == "restored");
    ensure!(case.read(0, "STATE.TGZ")? == original);
    ensure!(case.read(0, "STATE.ORG")? == newer, "the newer one is kept");
    case.judge.bank(0)?.check()?;

    // And back, which nothing is lost by either.
    case.restore(&["--banks", "5"])?.expect(DONE)?;
    ensure!(case.read(0, "STATE.TGZ")? == original, "not by itself");
    case.restore(&["--discard-newer", "--banks", "5"])?
        .expect(DONE)?;
    ensure!(case.read(0, "STATE.TGZ")? == newer);
    ensure!(case.read(0, "STATE.ORG")? == original);
    case.judge.bank(0)?.check()
}

#[test]
fn a_second_accident_has_an_original_of_its_own() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert(BOOT)?.expect(DONE)?;
    let second = [
        save(&case, 0, 60, Owner::Passthru)?,
        save(&case, 1, 60, Owner::Passthru)?,
    ];
    let run = case.revert(BOOT)?.expect(DONE)?;
    ensure!(run.result()? == "reverted");
    for bank in [0, 1] {
        let names = case.judge.bank(bank)?.names()?;
        let copies: Vec<_> = names.iter().filter(|name| name.contains(".OR")).collect();
        ensure!(copies.len() == 1, "{names:?}");
        ensure!(case.read(bank, copies[0])? == second[bank]);
        case.judge.bank(bank)?.check()?;
    }
    case.restore(&[])?.expect(DONE)?;
    for bank in [0, 1] {
        ensure!(case.read(bank, "STATE.TGZ")? == second[bank], "bank {bank}");
        case.judge.bank(bank)?.check()?;
    }
    Ok(())
}

#[test]
fn an_upgrade_in_place_makes_the_archive_in_place_the_original() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert(BOOT)?.expect(DONE)?;
    let upgraded: Vec<Vec<u8>> = [0, 1]
        .into_iter()
        .map(|bank| {
            let text = String::from_utf8(case.read(bank, "BOOT.CFG")?)?;
            let text = text.replace("6.7.0-8169922", "8.0.2-0.0.22380479");
            case.put_bytes(bank, "BOOT.CFG", text.as_bytes())?;
            save(&case, bank, 70, Owner::Passthru)
        })
        .collect::<Result<_>>()?;
    case.revert(BOOT)?.expect(DONE)?;
    case.restore(&[])?.expect(DONE)?;
    for bank in [0, 1] {
        ensure!(
            case.read(bank, "STATE.TGZ")? == upgraded[bank],
            "bank {bank}"
        );
        case.judge.bank(bank)?.check()?;
    }
    Ok(())
}

#[test]
fn an_original_of_another_build_does_not_go_back_by_itself() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let original = case.read(0, "STATE.TGZ")?;
    case.revert(BOOT)?.expect(DONE)?;
    let text = String::from_utf8(case.read(0, "BOOT.CFG")?)?;
    let text = text.replace("6.7.0-8169922", "8.0.2-0.0.22380479");
    case.put_bytes(0, "BOOT.CFG", text.as_bytes())?;
    let run = case.restore(&["--banks", "5"])?.expect(REFUSED)?;
    ensure!(run.said().contains("was upgraded"), "{}", run.said());
    case.restore(&["--discard-newer", "--banks", "5"])?
        .expect(DONE)?;
    ensure!(case.read(0, "STATE.TGZ")? == original);
    Ok(())
}

#[test]
fn a_bank_whose_files_were_copied_by_hand_still_knows_its_original() -> Result<()> {
    for disk in [EsxiDisk::v67(), EsxiDisk::v700()] {
        let case = JudgedDisk::new(&disk)?;
        let original = case.read(0, "STATE.TGZ")?;
        case.revert(BOOT)?.expect(DONE)?;
        for name in ["STATE.TGZ", "STATE.ORG"] {
            let bytes = case.read(0, name)?;
            case.put_bytes(0, name, &bytes)?;
        }
        case.restore(&["--banks", "5"])?.expect(DONE)?;
        ensure!(case.read(0, "STATE.TGZ")? == original);
        case.judge.bank(0)?.check()?;
    }
    Ok(())
}

// --- files of other people ---------------------------------------------------------------------

#[test]
fn files_of_other_people_with_our_names_are_left_alone_and_not_taken_for_ours() -> Result<()> {
    let mut case = JudgedDisk::new(&EsxiDisk::v67())?;
    let foreign = [
        ("STATE.ORG", fs::read("/bin/true")?),
        ("STATE.NEW", b"notes".to_vec()),
        ("STATE.OR1", case.read(1, "STATE.TGZ")?),
    ];
    for (name, bytes) in &foreign {
        case.put_bytes(0, name, bytes)?;
    }
    case = case.judged_from_here()?;
    let original = case.read(0, "STATE.TGZ")?;
    // Nothing to restore: none of them is an undo copy.
    let run = case.restore(&[])?.expect(DONE)?;
    ensure!(run.result()? == "clean", "{}", run.said());
    case.judge.nothing_changed()?;

    let run = case.revert(BOOT)?.expect(DONE)?;
    ensure!(
        notes(&run, 0)?.contains("STATE.ORG is not a file of this program"),
        "{}",
        run.said()
    );
    ensure!(case.read(0, "STATE.OR2")? == original);
    case.restore(&[])?.expect(DONE)?;
    ensure!(case.read(0, "STATE.TGZ")? == original);
    for (name, bytes) in &foreign {
        ensure!(case.read(0, name)? == *bytes, "{name} was touched");
    }
    case.judge.restored(&[0, 1])
}

// --- damaged and missing archives --------------------------------------------------------------

#[test]
fn a_damaged_archive_is_replaced_by_the_newest_and_kept_to_the_byte() -> Result<()> {
    for flaw in [
        Flaw::Truncated,
        Flaw::Garbage,
        Flaw::SecondMember,
        Flaw::Empty,
    ] {
        let disk = EsxiDisk::v67().bank(0, |bank| {
            bank.flaw(flaw);
        });
        let case = JudgedDisk::new(&disk)?;
        let damaged = case.read(0, "STATE.TGZ")?;
        let said = case.revert(BOOT)?.expect(REFUSED)?.said();
        ensure!(said.contains("revert --source newest"), "{flaw:?}: {said}");
        let run = newest(&case, &["--yes"])?.expect(DONE)?;
        ensure!(run.result()? == "reverted", "{flaw:?}: {}", run.said());
        let owners = case.judge.owners(0)?;
        ensure!(
            owners["00000:000:31.2"] == "vmkernel",
            "{flaw:?}: {owners:?}"
        );
        let names = case.judge.bank(0)?.names()?;
        match flaw {
            Flaw::Empty => ensure!(!names.contains(&"STATE.ORG".into()), "{names:?}"),
            _ => ensure!(case.read(0, "STATE.ORG")? == damaged, "{flaw:?}"),
        }
        case.judge.bank(0)?.check()?;
    }
    Ok(())
}

#[test]
fn nul_bytes_behind_the_gzip_member_are_cured_by_the_newest() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let mut padded = case.read(0, "STATE.TGZ")?;
    padded.extend([0; 512]);
    case.put_bytes(0, "STATE.TGZ", &padded)?;
    let run = newest(&case, &["--yes"])?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    ensure!(case.read(0, "STATE.ORG")? == padded);
    ensure!(case.judge.owners(0)?["00000:000:31.2"] == "vmkernel");
    case.judge.bank(0)?.check()
}

fn without_archive(bank: usize) -> EsxiDisk {
    EsxiDisk::v67().bank(bank, |bank| {
        bank.flaw(Flaw::Missing);
    })
}

#[test]
fn a_missing_archive_of_the_bank_that_boots_next_is_made_from_the_newest() -> Result<()> {
    let case = JudgedDisk::new(&without_archive(0))?;
    let run = case.revert(BOOT)?.expect(REFUSED)?;
    let said = run.said();
    ensure!(said.contains("does not start from this bank"), "{said}");
    ensure!(said.contains("revert --source newest"), "{said}");
    ensure!(
        said.contains("Shift+R") && said.contains("partition 6"),
        "{said}"
    );

    // A dry run says the result of the next start with the archive that would be made.
    let run = newest(&case, &["--dry-run"])?.expect(DONE)?;
    let report = run.report()?;
    ensure!(report["next_starts"][0]["good"] == true, "{report}");
    ensure!(!case.judge.bank(0)?.names()?.contains(&"STATE.TGZ".into()));

    let run = newest(&case, &["--yes"])?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    ensure!(case.judge.owners(0)?["00000:000:31.2"] == "vmkernel");
    case.judge.bank(0)?.check()?;
    let run = case.restore(&["--banks", "5"])?.expect(DONE)?;
    ensure!(run.result()? == "clean", "{}", run.said());
    ensure!(
        run.said()
            .contains("there was no STATE.TGZ before the repair"),
        "{}",
        run.said()
    );
    ensure!(case.judge.owners(0)?["00000:000:31.2"] == "vmkernel");
    Ok(())
}

#[test]
fn a_missing_archive_of_the_other_bank_is_named_and_stops_nothing() -> Result<()> {
    let case = JudgedDisk::new(&without_archive(1))?;
    let run = case.revert(BOOT)?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    let why = run.report()?["disks"][0]["banks"][1].to_string();
    ensure!(why.contains("STATE.TGZ is missing"), "{why}");
    ensure!(why.contains("revert --source newest"), "{why}");
    ensure!(!why.contains("fresh installation"), "{why}");
    case.judge.repaired(&[0], &[SATA])?;
    let run = newest(&case, &["--yes"])?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    ensure!(case.judge.owners(1)?["00000:000:31.2"] == "vmkernel");
    case.judge.bank(1)?.check()
}

#[test]
fn a_bank_that_its_bootstate_rules_out_gets_no_archive() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67().bank(1, |bank| {
        bank.never_booted(9);
    }))?;
    for run in [case.revert(BOOT)?, newest(&case, &["--yes"])?] {
        let why = run.expect(DONE)?.report()?["disks"][0]["banks"][1].to_string();
        ensure!(why.contains("its bootstate excludes it"), "{why}");
    }
    case.judge.repaired(&[0], &[SATA])
}

#[test]
fn a_dry_run_foresees_the_bank_that_shift_r_starts() -> Result<()> {
    let disk = EsxiDisk::v67().bank(0, |bank| {
        bank.flaw(Flaw::Garbage);
    });
    let case = JudgedDisk::new(&disk)?;
    let words = ["revert", "--devices", BOOT, "--dry-run", "--json"];
    let report = agent::run(&words, &case.made.image)?.report()?;
    ensure!(report["next_starts"][0]["good"] == false, "{report}");
    ensure!(report["next_starts"][0]["other_bank"] == 6, "{report}");
    case.judge.nothing_changed()
}

// --- what is inside an archive -----------------------------------------------------------------

#[test]
fn a_config_store_with_a_write_ahead_log_is_edited_and_stays_one() -> Result<()> {
    for disk in [EsxiDisk::v700(), EsxiDisk::v80()] {
        let case = JudgedDisk::new(
            &disk.every_bank(|bank| bank.archive.store_left = StoreLeft::WalClosed),
        )?;
        ensure!(case.judge.store_journal_mode(0)? == "wal", "the fixture");
        let run = case.revert(BOOT)?.expect(DONE)?;
        ensure!(run.result()? == "reverted", "{}", run.said());
        // Compares the stores row by row, with their modes, by sqlite3.
        case.judge.repaired(&[0, 1], &[SATA])?;
        ensure!(case.judge.store_journal_mode(0)? == "wal");
        case.restore(&[])?.expect(DONE)?;
        case.judge.restored(&[0, 1])?;
    }
    Ok(())
}

#[test]
fn a_config_store_that_was_in_use_when_it_was_saved_is_refused() -> Result<()> {
    for (left, end) in [
        (StoreLeft::WithJournal, "-journal"),
        (StoreLeft::WalOpen, "-wal"),
    ] {
        let disk = EsxiDisk::v80().every_bank(|bank| bank.archive.store_left = left);
        let case = JudgedDisk::new(&disk)?;
        let said = case.revert(BOOT)?.expect(REFUSED)?.said();
        ensure!(
            said.contains(&format!("current-store-1{end} is next to it")),
            "{said}"
        );
        has_a_remedy_without_another_bank(&said)?;
        case.judge.nothing_changed()?;
    }
    Ok(())
}

#[test]
fn a_plain_archive_beside_the_sealed_one_is_refused_with_advice_that_can_be_followed() -> Result<()>
{
    let both = Layers::Sealed(Seal {
        plain_beside: true,
        ..Seal::default()
    });
    let disk = EsxiDisk::v80().every_bank(|bank| bank.archive.layers = both.clone());
    let case = JudgedDisk::new(&disk)?;
    let said = case.revert(BOOT)?.expect(REFUSED)?.said();
    ensure!(said.contains("both local.tgz and local.tgz.ve"), "{said}");
    has_a_remedy_without_another_bank(&said)?;
    case.judge.nothing_changed()?;

    // In one bank only, the other bank's takes its place.
    let disk = EsxiDisk::v80().bank(0, |bank| bank.archive.layers = both.clone());
    let case = JudgedDisk::new(&disk)?;
    let said = case.revert(BOOT)?.expect(REFUSED)?.said();
    ensure!(said.contains("revert --source newest"), "{said}");
    newest(&case, &["--yes"])?.expect(DONE)?;
    ensure!(case.judge.store_owners(0)?[&SATA.to_string()] == "OWNER_VMKERNEL");
    case.judge.bank(0)?.check()
}

/// Where no bank has an archive that can be read, nobody is sent to another bank.
fn has_a_remedy_without_another_bank(said: &str) -> Result<()> {
    ensure!(said.contains("ESXi gives a device back itself"), "{said}");
    ensure!(!said.contains("use the other bank"), "{said}");
    Ok(())
}

// --- disks in use ------------------------------------------------------------------------------

/// A process that holds a lock on a file, as another run does, until it is dropped.
struct Holder(Child);

impl Holder {
    fn of(file: &Path) -> Result<Self> {
        let mut child = Command::new(find("flock")?)
            .arg("--no-fork")
            .arg(file)
            // The shell waits itself: while a process starts another program, its command cannot be read.
            .args(["sh", "-c", "echo held; read -r end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut word = [0; 5];
        let mut said = child.stdout.take().context("its words")?;
        std::io::Read::read_exact(&mut said, &mut word)?;
        Ok(Self(child))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_image_on_which_another_run_works_is_refused_under_any_name() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let (hard, soft) = (
        case.folder.path().join("hard.img"),
        case.folder.path().join("soft.img"),
    );
    fs::hard_link(&case.made.image, &hard)?;
    symlink(&case.made.image, &soft)?;
    let holder = Holder::of(&hard)?;
    for name in [&case.made.image, &soft] {
        for command in [
            &["revert", "--devices", BOOT, "--yes"][..],
            &["restore", "--yes"][..],
        ] {
            let run = agent::run(command, name)?.expect(REFUSED)?;
            let said = run.said();
            ensure!(said.contains("is in use by process"), "{said}");
            ensure!(said.contains("read -r end"), "{said}");
        }
        // Who only looks disturbs nobody.
        agent::run(&["inspect"], name)?.expect(DONE)?;
    }
    case.judge.nothing_changed()?;
    drop(holder);
    case.revert(BOOT)?.expect(DONE)?;
    case.judge.repaired(&[0, 1], &[SATA])
}

#[test]
fn several_names_of_one_image_are_one_disk() -> Result<()> {
    for name in ["the same", "hard.img", "soft.img"] {
        let case = JudgedDisk::new(&EsxiDisk::v67())?;
        let other = case.folder.path().join(name);
        let other = match name {
            "hard.img" => fs::hard_link(&case.made.image, &other).map(|()| other)?,
            "soft.img" => symlink(&case.made.image, &other).map(|()| other)?,
            _ => case.made.image.clone(),
        };
        let other = other.to_string_lossy().into_owned();
        let arguments = ["revert", "--devices", BOOT, "--yes", "--json", &other];
        let run = agent::run(&arguments, &case.made.image)?.expect(DONE)?;
        let disks = run.report()?["disks"].as_array().map(Vec::len);
        ensure!(disks == Some(1), "{name}: {disks:?}");
        case.judge.repaired(&[0, 1], &[SATA])?;
    }
    Ok(())
}

/// A machine on which the image is under a loop device and its fifth partition mounted.
fn machine_with_mount(made: &Made) -> Result<tempfile::TempDir> {
    let root = scratch::folder()?;
    let disk = root.path().join("sys/dev/block/7:0");
    let part = disk.join("loop0p5");
    fs::create_dir_all(disk.join("loop"))?;
    fs::create_dir_all(&part)?;
    fs::write(
        disk.join("loop/backing_file"),
        format!("{}\n", made.image.display()),
    )?;
    fs::write(part.join("partition"), "5\n")?;
    fs::write(
        part.join("start"),
        format!("{}\n", start_of(made, 0)? / 512),
    )?;
    fs::write(part.join("dev"), "259:0\n")?;
    symlink(&part, root.path().join("sys/dev/block/259:0"))?;
    fs::create_dir_all(root.path().join("proc/self"))?;
    fs::write(
        root.path().join("proc/self/mountinfo"),
        "90 22 259:0 / /media/me/BOOTBANK1 rw,nosuid shared:5 - vfat /dev/loop0p5 rw\n",
    )?;
    Ok(root)
}

#[test]
fn a_mounted_bank_is_named_with_its_mount_point_and_no_bank_of_its_disk_written() -> Result<()> {
    let case = JudgedDisk::changed(&EsxiDisk::v67(), |made| mark_dirty(made, 0))?;
    let root = machine_with_mount(&case.made)?;
    let open = |path: &Path| -> std::io::Result<Box<dyn BlockDevice>> {
        let access = rescue_agent::disk::Access::Read;
        Ok(Box::new(rescue_agent::disk::FileDevice::open(
            path, access,
        )?))
    };
    let mut inventory = discover::discover(&[PathBuf::from(&case.made.image)], &open);
    discover::note_uses(&mut inventory, root.path());
    let policy = Policy {
        devices: BOOT.parse().map_err(|error| anyhow::anyhow!("{error}"))?,
        ..Policy::default()
    };
    let plan = plan::revert(&inventory, &policy, None)?;
    ensure!(!plan.writes());
    let lines = report::intentions(&inventory, &plan, Detail::Full);
    let said: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let said = said.join(" ");
    ensure!(
        said.contains("partition 5 is mounted at /media/me/BOOTBANK1"),
        "{said}"
    );
    ensure!(said.contains("umount"), "{said}");
    ensure!(!said.contains("fsck"), "{said}");
    Ok(())
}

/// The agent is there: what a missing build would look like is no refusal.
#[test]
fn the_option_is_in_the_help() -> Result<()> {
    let help = Command::new(artefacts::agent()?)
        .args(["restore", "--help"])
        .output()?;
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    ensure!(text.contains("--discard-newer"), "{text}");
    Ok(())
}
