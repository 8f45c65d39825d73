//! Every version of ESXi, every partition table and volume geometry, by the command. Booted:
//! `machines::versions`.

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{self, DONE, REFUSED};
use rescue_tests::esxi::archive::{Layers, Seal};
use rescue_tests::esxi::host::{Owner, SATA};
use rescue_tests::esxi::layout::{Fat, Layout};
use rescue_tests::esxi::{Bank, EsxiDisk, GptOddity};
use rescue_tests::judge::Judge;
use rescue_tests::judge::archive::Opened;
use rescue_tests::scratch;

/// The boot controller, as a selector.
const BOOT: &str = "0000:00:1f.2";

/// Both banks of a disk.
const BOTH: &[usize] = &[0, 1];

/// Makes the disk, repairs it by the command, and judges the result.
fn repaired_by_command(disk: &EsxiDisk, banks: &[usize]) -> Result<()> {
    let folder = scratch::folder()?;
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    agent::revert(BOOT, &made.image)?.expect(DONE)?;
    judge.repaired(banks, &[SATA])?;
    agent::run(&["restore", "--yes", "--json"], &made.image)?.expect(DONE)?;
    judge.restored(banks)
}

/// Makes the disk and expects that the command refuses all of it; gives what it said.
fn refused_by_command(disk: &EsxiDisk) -> Result<String> {
    let folder = scratch::folder()?;
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let run = agent::revert(BOOT, &made.image)?.expect(REFUSED)?;
    judge.nothing_changed()?;
    Ok(run.said())
}

// --- versions by the command --------------------------------------------------------------------

#[test]
fn v4_1_embedded_is_repaired() -> Result<()> {
    repaired_by_command(&EsxiDisk::v41_embedded(), BOTH)
}

#[test]
fn v4_1_installable_is_repaired() -> Result<()> {
    repaired_by_command(&EsxiDisk::v41_installable(), BOTH)
}

#[test]
fn v5_5_is_repaired() -> Result<()> {
    repaired_by_command(&EsxiDisk::v55(), BOTH)
}

#[test]
fn v6_7_is_repaired() -> Result<()> {
    repaired_by_command(&EsxiDisk::v67(), BOTH)
}

#[test]
fn v7_0_0_is_repaired_in_esx_conf_and_in_the_config_store() -> Result<()> {
    repaired_by_command(&EsxiDisk::v700(), BOTH)
}

#[test]
fn v7_0_3_is_repaired_inside_its_envelope() -> Result<()> {
    repaired_by_command(&EsxiDisk::v703(), BOTH)
}

#[test]
fn v8_0_is_repaired_inside_its_envelope() -> Result<()> {
    repaired_by_command(&EsxiDisk::v80(), BOTH)
}

#[test]
fn v9_0_is_repaired_inside_its_envelope() -> Result<()> {
    repaired_by_command(&EsxiDisk::v90(), BOTH)
}

#[test]
fn in_the_config_store_only_the_chosen_row_changes_its_owner() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v80().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let before = judge.store_owners(0)?;
    agent::revert(BOOT, &made.image)?.expect(DONE)?;
    let mut expected = before;
    expected.insert(BOOT.into(), "OWNER_VMKERNEL".into());
    assert_eq!(judge.store_owners(0)?, expected);
    assert_eq!(
        expected["0000:01:00.0"], "OWNER_PASSTHRU",
        "the GPU stays with its virtual machine"
    );
    Ok(())
}

#[test]
fn where_esx_conf_and_config_store_contradict_each_other_both_give_the_device_back() -> Result<()> {
    let disk = EsxiDisk::v700()
        .bank(0, |bank| {
            bank.own_in_store(SATA, Owner::Vmkernel);
        })
        .bank(1, |bank| {
            bank.own(SATA, Owner::Vmkernel)
                .own_in_store(SATA, Owner::Passthru);
        });
    let folder = scratch::folder()?;
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    agent::revert(BOOT, &made.image)?.expect(DONE)?;
    judge.only_banks_changed(BOTH)?;
    for bank in [0, 1] {
        assert_eq!(judge.owners(bank)?["00000:000:31.2"], "vmkernel");
        assert_eq!(judge.store_owners(bank)?[BOOT], "OWNER_VMKERNEL");
    }
    Ok(())
}

#[test]
fn a_onetime_archive_that_boot_cfg_names_is_repaired_too() -> Result<()> {
    let disk = EsxiDisk::v67().bank(0, |bank| {
        bank.add_onetime();
    });
    repaired_by_command(&disk, BOTH)
}

#[test]
fn the_newest_archive_goes_into_both_banks_on_request() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let arguments = [
        "revert",
        "--devices",
        BOOT,
        "--source",
        "newest",
        "--yes",
        "--json",
    ];
    agent::run(&arguments, &made.image)?.expect(DONE)?;
    judge.only_banks_changed(BOTH)?;
    let inner = |bank: usize| -> Result<String> {
        let scratch = scratch::folder()?;
        let opened = Opened::read(
            "STATE.TGZ",
            &judge.bank(bank)?.read("STATE.TGZ")?,
            None,
            scratch.path(),
        )?;
        Ok(format!("{}{:?}", opened.listing()?, opened.owners()?))
    };
    assert_eq!(inner(0)?, inner(1)?);
    assert_eq!(judge.owners(1)?["00000:000:31.2"], "vmkernel");
    for bank in [0, 1] {
        let original = judge.bank_before(bank)?.read("STATE.TGZ")?;
        ensure!(
            judge.bank(bank)?.read("STATE.ORG")? == original,
            "bank {bank} has no way back"
        );
    }
    Ok(())
}

#[test]
fn the_newest_archive_does_not_go_into_a_bank_of_another_build() -> Result<()> {
    let disk = EsxiDisk::v67().bank(1, |bank| {
        if let Some(boot_cfg) = &mut bank.boot_cfg {
            boot_cfg.build = "6.5.0-4564106".into();
        }
    });
    let folder = scratch::folder()?;
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let arguments = [
        "revert",
        "--devices",
        BOOT,
        "--source",
        "newest",
        "--yes",
        "--json",
    ];
    let said = agent::run(&arguments, &made.image)?.expect(REFUSED)?.said();
    ensure!(
        said.contains("6.5.0-4564106") && said.contains("6.7.0-8169922"),
        "{said}"
    );
    judge.nothing_changed()
}

// --- partition tables and volumes ----------------------------------------------------------------

#[test]
fn logical_partitions_of_an_mbr_are_found() -> Result<()> {
    repaired_by_command(&EsxiDisk::v55().layout(Layout::mbr_5()), BOTH)
}

#[test]
fn a_gpt_with_odd_names_and_an_odd_protective_mbr_is_read() -> Result<()> {
    let disk = EsxiDisk::v703()
        .oddity(GptOddity::NamesOfFf)
        .oddity(GptOddity::OddProtectiveMbr);
    repaired_by_command(&disk, BOTH)
}

#[test]
fn a_damaged_primary_gpt_is_read_through_its_backup_and_is_no_success() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67()
        .oddity(GptOddity::BrokenPrimary)
        .make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let said = agent::run(&["inspect"], &made.image)?.expect(DONE)?.said();
    ensure!(
        said.contains("primary") && said.contains("backup"),
        "{said}"
    );
    // ESXi does not start from this disk, so it is not said that all is well; what can be done is done.
    let report = agent::revert(BOOT, &made.image)?
        .expect(REFUSED)?
        .report()?;
    let summary = report["summary"].to_string();
    ensure!(
        summary.contains("The next start fails") && summary.contains("the primary GPT only"),
        "{summary}"
    );
    judge.repaired(BOTH, &[SATA])
}

#[test]
fn a_disk_of_4096_byte_sectors_is_read_from_an_image() -> Result<()> {
    repaired_by_command(&EsxiDisk::v80().layout(Layout::gpt_7_4kn()), BOTH)
}

#[test]
fn every_volume_geometry_is_repaired() -> Result<()> {
    let fat = |bits, sectors_per_cluster, copies| Fat {
        bits,
        sectors_per_cluster,
        copies,
    };
    // 250 MB in clusters of 64 KiB is a FAT12 volume, although the marker says FAT16.
    for geometry in [fat(12, 128, 2), fat(16, 32, 1), fat(16, 8, 2)] {
        let mut disk = EsxiDisk::v67();
        for bank in [0, 1] {
            disk.layout.bank_mut(bank)?.fat = Some(geometry);
        }
        repaired_by_command(&disk, BOTH).with_context(|| format!("{geometry:?}"))?;
    }
    Ok(())
}

#[test]
fn one_bank_and_three_banks_are_repaired() -> Result<()> {
    let mut one = EsxiDisk::v67();
    one.banks.truncate(1);
    repaired_by_command(&one, &[0])?;
    repaired_by_command(&EsxiDisk::v67().third_bank(), &[0, 1, 2])
}

// --- which bank boots next -----------------------------------------------------------------------

/// Sets `bootstate` and `updated` of a bank.
fn state(bank: &mut Bank, bootstate: &str, updated: &str) {
    if let Some(boot_cfg) = &mut bank.boot_cfg {
        boot_cfg.bootstate = bootstate.into();
        boot_cfg.updated = updated.into();
    }
}

#[test]
fn the_bank_that_boots_next_is_the_one_that_the_loader_takes() -> Result<()> {
    // ((bootstate, updated) of both banks, partition that boots next)
    let cases = [
        (("0", "2"), ("0", "1"), Some(5)),
        (("0", "1"), ("0", "2"), Some(6)),
        (("0", "2"), ("0", "2"), Some(5)),
        (("0", "1"), ("3", "2"), Some(5)),
        (("0", "1"), ("2", "2"), Some(5)),
        (("0", "1"), ("1", "2"), Some(6)),
        (("0", "0"), ("0", "1"), Some(6)),
        (("7", "9"), ("0", "1"), Some(6)),
        (("0", "nine"), ("0", "1"), Some(6)),
        (("3", "2"), ("3", "1"), None),
    ];
    for (first, second, expected) in cases {
        let disk = EsxiDisk::v67()
            .bank(0, |bank| state(bank, first.0, first.1))
            .bank(1, |bank| state(bank, second.0, second.1));
        assert_eq!(boots_next(&disk)?, expected, "{first:?} beside {second:?}");
    }
    Ok(())
}

#[test]
fn a_bank_of_a_quick_boot_does_not_boot_next() -> Result<()> {
    let disk = EsxiDisk::v67().bank(0, |bank| {
        if let Some(boot_cfg) = &mut bank.boot_cfg {
            boot_cfg.quickboot = Some("1".into());
        }
    });
    assert_eq!(boots_next(&disk)?, Some(6));
    Ok(())
}

fn boots_next(disk: &EsxiDisk) -> Result<Option<u64>> {
    let folder = scratch::folder()?;
    let made = disk.make(folder.path(), "disk")?;
    agent::run(&["inspect", "--json"], &made.image)?
        .expect(DONE)?
        .boots_next()
}

#[test]
fn a_fresh_installation_keeps_its_empty_bank_and_boots_the_other_one() -> Result<()> {
    let disk = EsxiDisk::v703().bank(1, |bank| {
        bank.never_booted(3);
    });
    assert_eq!(boots_next(&disk)?, Some(5));
    repaired_by_command(&disk, &[0])
}

// --- refusals ------------------------------------------------------------------------------------

fn sealed(seal: &Seal) -> EsxiDisk {
    EsxiDisk::v80().every_bank(|bank| bank.archive.layers = Layers::Sealed(seal.clone()))
}

#[test]
fn an_archive_sealed_by_a_tpm_is_refused_with_the_commands_for_its_host() -> Result<()> {
    let said = refused_by_command(&sealed(&Seal {
        mode: "TPM",
        ..Seal::default()
    }))?;
    ensure!(
        said.contains("TPM") && said.contains("pcipassthru set"),
        "{said}"
    );
    Ok(())
}

#[test]
fn an_envelope_that_does_not_open_is_refused() -> Result<()> {
    let defects = [
        "key-hash",
        "tag",
        "header-version",
        "footer-version",
        "no-keystore",
        "cipher",
        "short",
    ];
    for defect in defects {
        let seal = Seal {
            defect: Some(defect),
            ..Seal::default()
        };
        refused_by_command(&sealed(&seal)).context(defect)?;
    }
    refused_by_command(&sealed(&Seal {
        mode: "VAULT",
        ..Seal::default()
    }))?;
    Ok(())
}

#[test]
fn the_healthy_bank_beside_a_sealed_one_is_repaired() -> Result<()> {
    let folder = scratch::folder()?;
    let seal = Seal {
        mode: "TPM",
        ..Seal::default()
    };
    let disk = EsxiDisk::v80().bank(0, |bank| bank.archive.layers = Layers::Sealed(seal));
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    agent::revert(BOOT, &made.image)?.expect(REFUSED)?;
    judge.repaired(&[1], &[SATA])
}
