//! The agent as a command on images of 6.7 disks: repair, undo, and every reason not to write.

use std::process::Command;

use anyhow::{Result, ensure};
use rescue_tests::agent::{self, DONE, NONE_FOUND, REFUSED};
use rescue_tests::artefacts;
use rescue_tests::esxi::archive::{Dialect, ESX_CONF, Flaw, Member};
use rescue_tests::esxi::host::{Address, GPU, Owner, SATA, Spelling};
use rescue_tests::esxi::{Bank, EsxiDisk};
use rescue_tests::judge::Judge;
use rescue_tests::judged_disk::JudgedDisk;
use rescue_tests::scratch;

/// Spoils a bank before its disk is made.
type Spoil = fn(&mut Bank);

/// The boot controller, as a selector.
const BOOT: &str = "0000:00:1f.2";

// --- what is done ------------------------------------------------------------------------------

#[test]
fn revert_gives_the_boot_controller_back_in_both_banks_and_changes_nothing_else() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let run = case.revert(BOOT)?.expect(DONE)?;
    assert_eq!(run.result()?, "reverted");
    case.judge.repaired(&[0, 1], &[SATA])?;
    for bank in [0, 1] {
        let owners = case.judge.owners(bank)?;
        assert_eq!(owners["00000:000:31.2"], "vmkernel");
        assert_eq!(
            owners["00000:001:00.0"], "passthru",
            "the GPU stays with its virtual machine"
        );
    }
    Ok(())
}

#[test]
fn nobody_reading_along_does_not_break_a_repair_off() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    // The reader at the other end of the pipe is gone before the first word.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let status = Command::new(artefacts::agent()?)
        .args(["revert", "--verbose", "--yes", "--devices", BOOT])
        .arg(&case.made.image)
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .status()?;
    ensure!(status.code() == Some(DONE), "{status}");
    case.judge.repaired(&[0, 1], &[SATA])
}

#[test]
fn a_device_is_selected_by_vendor_and_device() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert("8086:2922")?.expect(DONE)?;
    case.judge.repaired(&[0, 1], &[SATA])
}

#[test]
fn all_selects_every_device_that_is_passed_through() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert("all")?.expect(DONE)?;
    case.judge.repaired(&[0, 1], &[SATA, GPU])
}

#[test]
fn several_selectors_add_up() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert("0000:01:00.0,8086:2922")?.expect(DONE)?;
    case.judge.repaired(&[0, 1], &[SATA, GPU])
}

#[test]
fn a_second_run_finds_nothing_to_do_and_writes_nothing() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert(BOOT)?.expect(DONE)?;
    let folder = scratch::folder()?;
    let again = Judge::new(&case.made, folder.path())?;
    let run = case.revert(BOOT)?.expect(DONE)?;
    assert_eq!(run.result()?, "clean");
    again.nothing_changed()
}

#[test]
fn restore_brings_back_the_original_archives_to_the_byte() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert(BOOT)?.expect(DONE)?;
    case.restore(&[])?.expect(DONE)?;
    case.judge.restored(&[0, 1])
}

#[test]
fn the_original_of_the_first_repair_survives_a_second_one() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let original = case.judge.bank(0)?.read("STATE.TGZ")?;
    case.revert(BOOT)?.expect(DONE)?;
    case.revert("0000:01:00.0")?.expect(DONE)?;
    ensure!(
        case.judge.bank(0)?.read("STATE.ORG")? == original,
        "the way back is lost"
    );
    case.judge.repaired(&[0, 1], &[SATA, GPU])?;
    case.restore(&[])?.expect(DONE)?;
    case.judge.restored(&[0, 1])
}

#[test]
fn every_tar_dialect_and_spelling_of_an_address_is_read() -> Result<()> {
    let dialects = [
        Dialect::OldGnu,
        Dialect::GnuByHand,
        Dialect::Ustar,
        Dialect::Pax,
    ];
    let spellings = [
        Spelling::BusSlot,
        Spelling::ShortSegment,
        Spelling::LongSegment,
    ];
    for (index, dialect) in dialects.into_iter().enumerate() {
        let disk = EsxiDisk::v67().every_bank(|bank| {
            bank.archive.dialect = dialect;
            bank.archive.spelling = spellings[index % spellings.len()];
            bank.archive.dot_slash = index % 2 == 1;
            // ustar has no room for the longest names.
            bank.archive
                .members
                .retain(|member| member.path.len() < 100);
        });
        let case = JudgedDisk::new(&disk)?;
        case.revert(BOOT)?.expect(DONE)?;
        case.judge.repaired(&[0, 1], &[SATA])?;
    }
    Ok(())
}

#[test]
fn archives_that_a_repair_by_hand_left_uncompressed_are_read_and_written_compressed() -> Result<()>
{
    for flaw in [Flaw::PlainState, Flaw::PlainLocal, Flaw::PlainBoth] {
        let case = JudgedDisk::new(&EsxiDisk::v67().bank(0, |bank| {
            bank.flaw(flaw);
        }))?;
        // ESXi's loader takes it with a warning: nothing else may be said.
        let said = agent::run(&["inspect"], &case.made.image)?
            .expect(DONE)?
            .said();
        let line = said.lines().find(|line| line.contains("uncompressed"));
        ensure!(
            line.is_some_and(|line| line
                .trim_end()
                .ends_with("left uncompressed by a repair by hand; a repair writes it compressed")),
            "{said}"
        );
        case.revert(BOOT)?.expect(DONE)?;
        case.judge.repaired(&[0, 1], &[SATA])?;
    }
    Ok(())
}

#[test]
fn a_bank_that_was_never_booted_gets_no_archive() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67().bank(1, |bank| {
        bank.never_booted(3);
    }))?;
    case.revert(BOOT)?.expect(DONE)?;
    case.judge.repaired(&[0], &[SATA])?;
    ensure!(
        !case
            .judge
            .bank(1)?
            .names()?
            .contains(&"STATE.TGZ".to_owned())
    );
    Ok(())
}

#[test]
fn banks_are_known_by_their_content_not_by_number_or_label() -> Result<()> {
    let disk = EsxiDisk::v67().bank(1, |bank| bank.marker = false);
    let case = JudgedDisk::new(&disk)?;
    case.revert(BOOT)?.expect(DONE)?;
    // The second volume lacks VMware's marker: it is not a bank.
    case.judge.repaired(&[0], &[SATA])
}

// --- what is not done --------------------------------------------------------------------------

#[test]
fn a_dry_run_writes_nothing() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let arguments = ["revert", "--devices", BOOT, "--dry-run", "--json"];
    let run = agent::run(&arguments, &case.made.image)?.expect(DONE)?;
    run.report()?;
    case.judge.nothing_changed()
}

#[test]
fn inspect_writes_nothing() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    agent::run(&["inspect", "--json"], &case.made.image)?
        .expect(DONE)?
        .report()?;
    let said = agent::run(&["inspect"], &case.made.image)?
        .expect(DONE)?
        .said();
    ensure!(
        said.contains("6.7.0-8169922") && said.contains(BOOT),
        "{said}"
    );
    case.judge.nothing_changed()
}

#[test]
fn names_on_a_disk_cannot_steer_the_terminal() -> Result<()> {
    // Clears the screen, rings the bell, sets the title, moves up a line, writes backwards.
    let build = "6.7.0-\u{1b}[2J\u{7}\u{202e}";
    let address = "00000:000:31.2\u{1b}]0;title\u{7}\u{8}\u{9b}1A";
    let conf = format!("/device/{address}/owner = \"passthru\"\n");
    let case = JudgedDisk::new(&EsxiDisk::v67().every_bank(|bank| {
        bank.boot_cfg.as_mut().expect("a bank has one").build = build.into();
        bank.archive.esx_conf = false;
        let member = Member::file(ESX_CONF, 0o1644, conf.clone());
        bank.archive.members.push(member);
    }))?;
    for arguments in [
        &["inspect"][..],
        &["inspect", "--json"],
        &["revert", "--devices", "all", "--dry-run"],
        &["revert", "--devices", "all", "--dry-run", "--json"],
        &["revert", "--devices", "0000:00:1e.0", "--dry-run"],
    ] {
        let said = agent::run(arguments, &case.made.image)?.said();
        let steers = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        ensure!(!said.chars().any(steers), "{arguments:?}: {said:?}");
        let told = said.contains("6.7.0-") || said.contains("]0;title");
        ensure!(told, "{arguments:?}: {said:?}");
    }
    case.judge.nothing_changed()
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_written() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let run = agent::run(&["revert", "--devices", BOOT], &case.made.image)?;
    ensure!(
        run.output.code() != DONE && run.said().contains("--yes"),
        "{}",
        run.said()
    );
    case.judge.nothing_changed()
}

#[test]
fn auto_asks_for_a_selector_where_the_disk_is_an_image() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let run = agent::run(&["revert", "--yes"], &case.made.image)?;
    ensure!(
        run.output.code() != DONE && run.said().contains("--devices"),
        "{}",
        run.said()
    );
    case.judge.nothing_changed()
}

#[test]
fn a_selector_that_is_none_is_a_usage_error() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.revert("00-1f-2")?.expect(agent::USAGE)?;
    case.judge.nothing_changed()
}

#[test]
fn a_disk_with_nothing_to_do_is_a_success_and_is_not_written() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67().nothing_to_do())?;
    assert_eq!(case.revert(BOOT)?.expect(DONE)?.result()?, "clean");
    case.judge.nothing_changed()
}

#[test]
fn the_word_under_another_key_is_nothing_to_do() -> Result<()> {
    // The traps of the fixture's esx.conf stay, every owner is vmkernel.
    let disk = EsxiDisk::v67().nothing_to_do().every_bank(|bank| {
        bank.own(GPU, Owner::Vmkernel);
    });
    let case = JudgedDisk::new(&disk)?;
    assert_eq!(case.revert("all")?.expect(DONE)?.result()?, "clean");
    case.judge.nothing_changed()
}

#[test]
fn a_device_that_nothing_knows_is_a_usage_error_that_names_those_passed_through() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let run = case
        .revert(&Address::new(9, 9, 1).to_string())?
        .expect(agent::USAGE)?;
    ensure!(
        run.said().contains(BOOT) && run.said().contains("0000:01:00.0"),
        "{}",
        run.said()
    );
    case.judge.nothing_changed()
}

#[test]
fn a_disk_without_esxi_is_named_so() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::foreign())?;
    assert_eq!(
        case.revert(BOOT)?.expect(NONE_FOUND)?.result()?,
        "none-found"
    );
    case.judge.nothing_changed()
}

#[test]
fn a_file_that_is_no_disk_is_named_so() -> Result<()> {
    let folder = scratch::folder()?;
    for (name, bytes) in [("empty", 0), ("short", 100), ("zeros", 1 << 20)] {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![0; bytes])?;
        agent::revert(BOOT, &path)?.expect(NONE_FOUND)?;
        ensure!(
            std::fs::read(&path)? == vec![0; bytes],
            "{name} was written to"
        );
    }
    Ok(())
}

// --- what is refused, while the healthy bank beside it is repaired -------------------------------

/// Spoils one bank after the other: the other one is repaired, this one is not written to.
/// Gives what the agent said.
fn refused(spoil: impl Fn(&mut Bank) + Copy) -> Result<String> {
    let mut said = String::new();
    for bad in [0, 1] {
        let case = JudgedDisk::new(&EsxiDisk::v67().bank(bad, spoil))?;
        let run = case.revert(BOOT)?.expect(REFUSED)?;
        run.result()?;
        case.judge.repaired(&[1 - bad], &[SATA])?;
        said = run.said();
    }
    Ok(said)
}

#[test]
fn a_truncated_archive_is_refused() -> Result<()> {
    refused(|bank| {
        bank.flaw(Flaw::Truncated);
    })?;
    Ok(())
}

#[test]
fn a_garbage_archive_is_refused() -> Result<()> {
    refused(|bank| {
        bank.flaw(Flaw::Garbage);
    })?;
    Ok(())
}

#[test]
fn an_empty_archive_is_refused() -> Result<()> {
    refused(|bank| {
        bank.flaw(Flaw::Empty);
    })?;
    Ok(())
}

#[test]
fn an_archive_without_esx_conf_is_refused() -> Result<()> {
    refused(|bank| bank.archive.esx_conf = false)?;
    Ok(())
}

#[test]
fn a_full_bank_is_refused() -> Result<()> {
    refused(|bank| bank.free_bytes = Some(8192))?;
    Ok(())
}

#[test]
fn each_refusal_has_a_message_of_its_own() -> Result<()> {
    let spoils: [(&str, Spoil); 4] = [
        ("truncated", |bank| {
            bank.flaw(Flaw::Truncated);
        }),
        ("garbage", |bank| {
            bank.flaw(Flaw::Garbage);
        }),
        ("no esx.conf", |bank| bank.archive.esx_conf = false),
        ("full", |bank| bank.free_bytes = Some(8192)),
    ];
    let mut messages: Vec<(&str, String)> = Vec::new();
    for (name, spoil) in spoils {
        let case = JudgedDisk::new(&EsxiDisk::v67().every_bank(spoil))?;
        let arguments = ["revert", "--devices", BOOT, "--yes"];
        let run = agent::run(&arguments, &case.made.image)?.expect(REFUSED)?;
        case.judge.nothing_changed()?;
        // The path differs from run to run and is no message.
        let said = run
            .said()
            .replace(&case.made.image.display().to_string(), "IMAGE");
        for (other, message) in &messages {
            ensure!(
                *message != said,
                "{name} and {other} are told in the same words:\n{said}"
            );
        }
        messages.push((name, said));
    }
    Ok(())
}
