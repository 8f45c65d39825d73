//! The judge accepts a repair that was made with outside tools alone, and sees what a bad one does.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rescue_tests::esxi::archive::{CONFIG_STORE, Dialect, Layers, gzip, tar};
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::judge::archive::Opened;
use rescue_tests::judge::volume::BankVolume;
use rescue_tests::scratch;
use rescue_tests::tools::{Tool, crate_file};

/// Repairs a bank the way a careful person would, and leaves the original as STATE.ORG.
fn repair_by_hand(made: &Made, index: usize, folder: &Path, extra: &str) -> Result<()> {
    let archive = &made.banks[index].archive;
    let name = archive.root_name();
    let bank = BankVolume::new(&made.image, &made.layout, index)?;
    let opened = Opened::read(name, &bank.read(name)?, None, &folder.join("opened"))?;
    let mut local = fs::read(folder.join("opened/local.tar"))?;
    let line = |owner: &str| {
        format!(
            "/device/{}/owner = \"{owner}\"",
            SATA.spelled(archive.spelling)
        )
        .into_bytes()
    };
    if archive.device_lines {
        // At the start of a line: the fixture has the same words in a comment.
        replace(
            &mut local,
            &[b"\n", &line("passthru")[..]].concat(),
            &[b"\n", &line("vmkernel")[..]].concat(),
        )?;
    }
    if archive.config_store {
        let store = folder.join("store");
        fs::write(&store, opened.file(CONFIG_STORE)?)?;
        let before = fs::read(&store)?;
        let edit = "UPDATE Config SET UserValue=replace(UserValue,'\"owner\":\"OWNER_PASSTHRU\"','\"owner\":\"OWNER_VMKERNEL\"') \
                    WHERE Name='pci_devices' AND Identifier='0000:00:1f.2'";
        Tool::new("sqlite3")?
            .args(["-batch", "-bail"])
            .arg(&store)
            .arg(edit)
            .run()?;
        replace(&mut local, &before, &fs::read(&store)?)?;
    }
    if !extra.is_empty() {
        replace(
            &mut local,
            extra.as_bytes(),
            &extra.to_uppercase().into_bytes(),
        )?;
    }
    let new = folder.join("new.tgz");
    fs::write(&new, packed(made, index, folder, &gzip(local)?)?)?;
    put(made, index, &new)
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) -> Result<()> {
    ensure!(
        old.len() == new.len(),
        "{} bytes are not {}",
        old.len(),
        new.len()
    );
    let at = bytes
        .windows(old.len())
        .position(|window| window == old)
        .context("nothing to replace")?;
    bytes[at..at + old.len()].copy_from_slice(new);
    Ok(())
}

fn packed(made: &Made, index: usize, folder: &Path, local: &[u8]) -> Result<Vec<u8>> {
    let archive = &made.banks[index].archive;
    if archive.layers == Layers::Local {
        return Ok(local.to_vec());
    }
    let outer = folder.join("outer");
    fs::create_dir(&outer)?;
    let plain = outer.join("local.tgz");
    fs::write(&plain, local)?;
    let names = match &archive.layers {
        Layers::Sealed(seal) => {
            // The same seed gives the same key and the same header.
            Tool::new("python3")?
                .arg(crate_file("fixtures/seal.py"))
                .args(["--seed", &format!("bank{index}")])
                .args([
                    &plain,
                    &outer.join("local.tgz.ve"),
                    &outer.join(seal.keystore),
                ])
                .run()?;
            vec!["local.tgz.ve".to_owned(), seal.keystore.to_owned()]
        }
        _ => vec!["local.tgz".to_owned()],
    };
    gzip(tar(&outer, &names, Dialect::OldGnu, archive.saved)?)
}

fn put(made: &Made, index: usize, file: &Path) -> Result<()> {
    let offset = made.layout.bytes(&made.layout.banks()[index]).start;
    let image = format!("{}@@{offset}", made.image.display());
    let name = made.banks[index].archive.root_name();
    let undo = rescue_tests::judge::undo_name(name);
    Tool::new("mren")?
        .args(["-i", &image, &format!("::/{name}"), &format!("::/{undo}")])
        .run()?;
    Tool::new("mcopy")?
        .args(["-i", &image])
        .arg(file)
        .arg(format!("::/{name}"))
        .run()?;
    Ok(())
}

fn judged(disk: &EsxiDisk, extra: &str) -> Result<Result<()>> {
    let folder = scratch::folder()?;
    let made = disk.make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    for index in [0, 1] {
        let scratch = folder.path().join(format!("by-hand-{index}"));
        fs::create_dir(&scratch)?;
        repair_by_hand(&made, index, &scratch, extra)?;
    }
    Ok(judge.repaired(&[0, 1], &[SATA]))
}

#[test]
fn a_careful_repair_by_hand_is_accepted() -> Result<()> {
    for disk in [
        EsxiDisk::v67(),
        EsxiDisk::v41_embedded(),
        EsxiDisk::v700(),
        EsxiDisk::v80(),
    ] {
        judged(&disk, "")??;
    }
    Ok(())
}

#[test]
fn one_more_edit_is_seen() -> Result<()> {
    for extra in ["nameserver", "etc/hosts", "vmnic0"] {
        ensure!(
            judged(&EsxiDisk::v67(), extra)?.is_err(),
            "an edit of {extra} went unseen"
        );
    }
    // In a row of the ConfigStore that is none of a device's.
    ensure!(
        judged(&EsxiDisk::v700(), "esx01 ")?.is_err(),
        "an edit of the host's name went unseen"
    );
    Ok(())
}

#[test]
fn a_bank_left_as_it_was_is_not_repaired() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    judge.restored(&[0, 1])?;
    ensure!(judge.repaired(&[0], &[SATA]).is_err());
    Ok(())
}
