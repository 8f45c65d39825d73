//! The disks the other tests stand on are what they claim to be, as outside readers see them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rescue_tests::esxi::archive::Flaw;
use rescue_tests::esxi::host::{Address, GPU, Owner, SATA, Spelling};
use rescue_tests::esxi::layout::{Fat, Layout};
use rescue_tests::esxi::{EsxiDisk, GptOddity, VERSIONS};
use rescue_tests::judge::Judge;
use rescue_tests::judge::archive::is_one_gzip_member;
use rescue_tests::scratch;
use rescue_tests::tools::Tool;

fn made(disk: &EsxiDisk) -> Result<(tempfile::TempDir, Judge)> {
    let folder = scratch::folder()?;
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    Ok((folder, judge))
}

fn owner(owners: &BTreeMap<String, String>, address: &str) -> Result<String> {
    owners
        .get(address)
        .cloned()
        .with_context(|| format!("no owner of {address} in {owners:?}"))
}

#[test]
fn every_version_has_two_clean_banks_with_the_boot_controller_passed_through() -> Result<()> {
    for (version, disk) in VERSIONS {
        let disk = disk();
        let (_folder, judge) = made(&disk)?;
        for (index, bank) in disk.banks.iter().enumerate() {
            let archive = &bank.archive;
            judge
                .bank(index)?
                .check()
                .with_context(|| format!("{version}, bank {index}"))?;
            is_one_gzip_member(&judge.bank(index)?.read(archive.root_name())?)?;
            if archive.device_lines {
                let owners = judge.owners(index)?;
                assert_eq!(
                    owner(&owners, &SATA.spelled(archive.spelling))?,
                    "passthru",
                    "{version}"
                );
                assert_eq!(
                    owner(&owners, &GPU.spelled(archive.spelling))?,
                    "passthru",
                    "{version}"
                );
            }
            if archive.config_store {
                let owners = judge.store_owners(index)?;
                assert_eq!(
                    owner(&owners, "0000:00:1f.2")?,
                    "OWNER_PASSTHRU",
                    "{version}"
                );
                assert_eq!(
                    owner(&owners, "0000:00:02.0")?,
                    "OWNER_VMKERNEL",
                    "{version}"
                );
            }
        }
        judge.nothing_changed()?;
    }
    Ok(())
}

#[test]
fn addresses_are_decimal_in_esx_conf_and_hex_in_the_config_store() {
    assert_eq!(SATA.spelled(Spelling::LongSegment), "00000:000:31.2");
    assert_eq!(SATA.spelled(Spelling::ShortSegment), "0000:00:31.2");
    assert_eq!(SATA.spelled(Spelling::BusSlot), "000:31.2");
    assert_eq!(Address::new(0x65, 0, 0).to_string(), "0000:65:00.0");
}

#[test]
fn the_banks_carry_the_marker_and_the_geometry_of_real_ones() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let table = Tool::new("sgdisk")?
        .arg("--print")
        .arg(&made.image)
        .run_text()?;
    for partition in [
        "   5            8224          520191 ",
        "   6          520224         1032191 ",
    ] {
        ensure!(
            table.contains(partition),
            "{partition:?} is not in\n{table}"
        );
    }
    for bank in made.layout.banks() {
        let marker = Tool::new("dd")?
            .arg(format!("if={}", made.image.display()))
            .args([
                "bs=512",
                "count=1",
                "status=none",
                &format!("skip={}", bank.first + 1),
            ])
            .run()?;
        assert_eq!(&marker[..16], b"VMWARE FAT16    ");
        assert_ne!(&marker[16..32], [0; 16]);
    }
    Ok(())
}

#[test]
fn archives_look_like_those_that_esxi_writes() -> Result<()> {
    let (_folder, judge) = made(&EsxiDisk::v67())?;
    let newer = judge.bank(0)?.read("STATE.TGZ")?;
    assert_eq!(newer[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3]);
    let scratch = scratch::folder()?;
    let opened =
        rescue_tests::judge::archive::Opened::read("STATE.TGZ", &newer, None, scratch.path())?;
    let listing = opened.listing()?;
    for expected in [
        "-rw------T 0/0",
        "-rw-r--r-T 0/0",
        "etc/localtime -> /usr/share/zoneinfo/UTC",
        "etc/vmware/.#esx.conf",
        "etc/vmware/.backup.counter",
    ] {
        ensure!(
            listing.contains(expected),
            "{expected:?} is not in\n{listing}"
        );
    }
    ensure!(
        listing.lines().any(|line| line.len() > 160),
        "there is no long name in\n{listing}"
    );
    let older = judge.bank(1)?.read("STATE.TGZ")?;
    assert_ne!(newer, older);
    Ok(())
}

#[test]
fn the_word_stands_where_it_must_not_be_touched() -> Result<()> {
    let disk = EsxiDisk::v67().nothing_to_do();
    let (_folder, judge) = made(&disk)?;
    let scratch = scratch::folder()?;
    let state = judge.bank(0)?.read("STATE.TGZ")?;
    let opened =
        rescue_tests::judge::archive::Opened::read("STATE.TGZ", &state, None, scratch.path())?;
    let text = String::from_utf8(opened.file("etc/vmware/esx.conf")?)?;
    assert_eq!(text.matches("passthru").count(), 7, "{text}");
    assert_eq!(
        opened
            .owners()?
            .values()
            .filter(|owner| *owner == "passthru")
            .count(),
        1
    );
    Ok(())
}

#[test]
fn flaws_are_flaws() -> Result<()> {
    let flaws = [
        Flaw::Truncated,
        Flaw::Garbage,
        Flaw::Empty,
        Flaw::SecondMember,
        Flaw::PlainState,
    ];
    for flaw in flaws {
        let disk = EsxiDisk::v67().bank(1, |bank| {
            bank.flaw(flaw);
        });
        let (_folder, judge) = made(&disk)?;
        judge.bank(1)?.check()?;
        let state = judge.bank(1)?.read("STATE.TGZ")?;
        ensure!(
            is_one_gzip_member(&state).is_err(),
            "{flaw:?} is a sound gzip file"
        );
        is_one_gzip_member(&judge.bank(0)?.read("STATE.TGZ")?)?;
    }
    Ok(())
}

#[test]
fn a_full_bank_is_full() -> Result<()> {
    let disk = EsxiDisk::v67().bank(0, |bank| bank.free_bytes = Some(8192));
    let (_folder, judge) = made(&disk)?;
    judge.bank(0)?.check()?;
    let state = judge.bank(0)?.read("STATE.TGZ")?;
    ensure!(state.len() > 8192, "{} bytes would still fit", state.len());
    ensure!(judge.bank(0)?.names()?.contains(&"FILLER.V00".to_owned()));
    Ok(())
}

#[test]
fn the_second_bank_of_a_fresh_installation_has_no_archive() -> Result<()> {
    let disk = EsxiDisk::v67().bank(1, |bank| {
        bank.never_booted(3);
    });
    let (_folder, judge) = made(&disk)?;
    ensure!(!judge.bank(1)?.names()?.contains(&"STATE.TGZ".to_owned()));
    let boot_cfg = String::from_utf8(judge.bank(1)?.read("BOOT.CFG")?)?;
    ensure!(
        boot_cfg.contains("bootstate=3\n") && boot_cfg.contains("updated=3\n"),
        "{boot_cfg}"
    );
    Ok(())
}

#[test]
fn a_judge_sees_an_edit_outside_of_the_owners() -> Result<()> {
    use std::os::unix::fs::FileExt;
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    judge.only_banks_changed(&[])?;
    let marker = (made.layout.banks()[0].first + 1) * 512;
    std::fs::File::options()
        .write(true)
        .open(&made.image)?
        .write_all_at(b"X", marker)?;
    ensure!(judge.nothing_changed().is_err());
    ensure!(judge.only_banks_changed(&[]).is_err());
    ensure!(
        judge.only_banks_changed(&[0]).is_err(),
        "the marker sector must never change"
    );
    Ok(())
}

#[test]
fn odd_partition_tables_keep_their_partitions() -> Result<()> {
    for oddity in [GptOddity::NamesOfFf, GptOddity::OddProtectiveMbr] {
        let folder = scratch::folder()?;
        let made = EsxiDisk::v67().oddity(oddity).make(folder.path(), "disk")?;
        let report = Tool::new("sgdisk")?
            .arg("--verify")
            .arg(&made.image)
            .output()?;
        ensure!(
            !report.text().contains("CRC"),
            "{oddity:?}: {}",
            report.text()
        );
        Judge::new(&made, folder.path())?.bank(1)?.check()?;
    }
    Ok(())
}

#[test]
fn a_controller_owned_by_esxi_is_nothing_to_do() -> Result<()> {
    let (_folder, judge) = made(&EsxiDisk::v67().nothing_to_do())?;
    for index in [0, 1] {
        assert_eq!(
            owner(&judge.owners(index)?, "00000:000:31.2")?,
            Owner::Vmkernel.esx_conf()
        );
    }
    Ok(())
}

#[test]
fn every_geometry_and_table_makes_clean_volumes() -> Result<()> {
    let mut disks = vec![
        ("4Kn", EsxiDisk::v80().layout(Layout::gpt_7_4kn())),
        ("MBR of 5.x", EsxiDisk::v55().layout(Layout::mbr_5())),
        ("three banks", EsxiDisk::v67().third_bank()),
    ];
    for (name, bits, sectors_per_cluster, copies) in [("FAT12", 12, 128, 2), ("one FAT", 16, 32, 1)]
    {
        let mut disk = EsxiDisk::v67();
        disk.layout.bank_mut(0)?.fat = Some(Fat {
            bits,
            sectors_per_cluster,
            copies,
        });
        disks.push((name, disk));
    }
    for (name, disk) in disks {
        let (_folder, judge) = made(&disk)?;
        for index in 0..disk.banks.len() {
            judge.bank(index)?.check().context(name)?;
            judge.bank(index)?.read("BOOT.CFG").context(name)?;
        }
    }
    Ok(())
}

#[test]
fn a_damaged_primary_gpt_has_a_sound_backup() -> Result<()> {
    let folder = scratch::folder()?;
    let disk = EsxiDisk::v67().oddity(GptOddity::BrokenPrimary);
    let made = disk.make(folder.path(), "disk")?;
    let output = Tool::new("sgdisk")?
        .arg("--verify")
        .arg(&made.image)
        .output()?;
    let report = format!("{}{}", output.text(), output.errors());
    ensure!(
        report.contains("corrupt GPT") && report.contains("valid backup"),
        "{report}"
    );
    Ok(())
}

#[test]
fn every_partition_is_where_its_layout_says() -> Result<()> {
    let mut disks: Vec<EsxiDisk> = VERSIONS.iter().map(|(_, maker)| maker()).collect();
    disks.push(EsxiDisk::v80().layout(Layout::gpt_7_4kn()));
    disks.push(EsxiDisk::v55().layout(Layout::mbr_5()));
    disks.push(EsxiDisk::foreign());
    for disk in disks {
        let folder = scratch::folder()?;
        let made = disk.make(folder.path(), "disk")?;
        let table = Tool::new("fdisk")?
            .args(["--sector-size", &made.layout.sector_bytes.to_string()])
            .args(["--list", "--output", "Start,End"])
            .arg(&made.image)
            .run_text()?;
        let found: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        for partition in &made.layout.partitions {
            let (first, last) = (partition.first.to_string(), partition.last.to_string());
            ensure!(
                found.contains(&vec![&first, &last]),
                "no {partition:?} in\n{table}"
            );
        }
    }
    Ok(())
}
