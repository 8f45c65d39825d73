//! Originals that were kept outside the bank: when one may go back, and when not. The folder of
//! copies is made here, as the documentation of its fields says; judged from the disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rescue_agent::discover;
use rescue_agent::disk::SystemDisks;
use rescue_agent::originals::{self, Offer};
use rescue_agent::plan::{self, Action};
use rescue_agent::policy::BankChoice;
use rescue_tests::agent::{self, DONE, REFUSED, USAGE};
use rescue_tests::disk_image;
use rescue_tests::esxi::fat::Volume;
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::scratch;
use serde_json::{Value, json};

/// A repaired disk whose banks have lost their `STATE.ORG`, and copies of the originals.
struct Loss {
    folder: tempfile::TempDir,
    made: Made,
    /// The disk before the repair.
    judge: Judge,
    index: Value,
}

impl Loss {
    fn new() -> Result<Self> {
        let folder = scratch::folder()?;
        let made = EsxiDisk::v67().make(folder.path(), "disk")?;
        let judge = Judge::new(&made, folder.path())?;
        let repair = agent::revert("0000:00:1f.2", &made.image)?.expect(DONE)?;
        let report = repair.report()?;
        let host = folder.path().join("originals/7XK2P03");
        fs::create_dir_all(&host)?;
        let mut originals = Vec::new();
        for (index, bank) in report["disks"][0]["banks"]
            .as_array()
            .context("banks")?
            .iter()
            .enumerate()
        {
            let start = judge.bank(index)?.bytes().start;
            Volume::at(&made.image, start).remove("STATE.ORG")?;
            let file = format!("sda-bank{}-STATE.TGZ", bank["partition"]);
            fs::write(
                host.join(&file),
                judge.bank_before(index)?.read("STATE.TGZ")?,
            )?;
            let number = bank["partition"].as_u64().context("a partition number")?;
            let guid = disk_image::partition_guid(&made.image, number)?;
            originals.push(json!({
                "file": file,
                "sha256": bank["changes"][0]["before_sha256"],
                "size_bytes": 1,
                "taken": "2026-01-02 03:04:05Z",
                "host_serial": "7XK2P03",
                "host_uuid": null,
                "disk_path": "/dev/sda",
                "disk_serial": "WD-1",
                "partition": bank["partition"],
                "partition_guid": guid,
                "volume_uuid": bank["uuid"],
                "archive": "STATE.TGZ",
                "repaired_sha256": ["00", bank["changes"][0]["after_sha256"]],
            }));
        }
        Ok(Self {
            folder,
            made,
            judge,
            index: json!({ "schema": "esxi-rescue-originals/1", "originals": originals }),
        })
    }

    fn originals(&self) -> PathBuf {
        self.folder.path().join("originals")
    }

    /// The copy of the first bank's original.
    fn first_copy(&self) -> PathBuf {
        let name = self.index["originals"][0]["file"].as_str();
        let host = self.originals().join("7XK2P03");
        host.join(name.unwrap_or_default())
    }

    fn restore(&self, folder: &Path) -> Result<agent::Run> {
        let index = self.originals().join("7XK2P03/index.json");
        fs::write(index, serde_json::to_vec(&self.index)?)?;
        let folder = folder.to_str().context("a path in UTF-8")?;
        let words = ["restore", "--yes", "--json", "--originals", folder];
        agent::run(&words, &self.made.image)
    }
}

/// A file's SHA-256, by sha256sum.
fn sha256(file: &Path) -> Result<String> {
    let said = rescue_tests::tools::Tool::new("sha256sum")?
        .arg(file)
        .run_text()?;
    let word = said.split_whitespace().next();
    Ok(word.context("sha256sum tells a sum")?.to_owned())
}

#[test]
fn lost_originals_come_back_and_the_banks_are_as_before_the_repair() -> Result<()> {
    for below in ["", "7XK2P03"] {
        let loss = Loss::new()?;
        let run = loss.restore(&loss.originals().join(below))?.expect(DONE)?;
        ensure!(run.result()? == "restored", "{}", run.said());
        loss.judge.restored(&[0, 1])?;
        for bank in [0, 1] {
            let entries = loss.judge.bank(bank)?.entries()?;
            ensure!(!entries.contains_key("STATE.ORG") && !entries.contains_key("STATE.NEW"));
        }
        // Once more: there is nothing left to bring back.
        let run = loss.restore(&loss.originals())?.expect(DONE)?;
        ensure!(run.result()? == "clean", "{}", run.said());
    }
    Ok(())
}

#[test]
fn the_undo_copy_in_the_bank_comes_first() -> Result<()> {
    let mut loss = Loss::new()?;
    // Repaired once more from what is there, the bank has an undo copy of its own: the repaired one.
    agent::revert("0000:01:00.0", &loss.made.image)?.expect(DONE)?;
    let own = loss.judge.bank(0)?.read("STATE.ORG")?;
    loss.index["originals"][0]["sha256"] = json!("damaged, and not looked at");
    loss.restore(&loss.originals())?.expect(DONE)?;
    ensure!(loss.judge.bank(0)?.read("STATE.TGZ")? == own);
    Ok(())
}

#[test]
fn a_copy_that_is_not_this_archives_or_not_whole_does_not_go_back() -> Result<()> {
    type Change = fn(&mut Loss) -> Result<()>;
    // What is done to the copy of the first bank, what becomes of that bank, and what is said.
    let cases: [(&str, Change, &str, &str); 10] = [
        (
            "another volume",
            |loss| {
                loss.index["originals"][0]["volume_uuid"] = json!("5b5b5b5b-5b5b5b5b-5b5b-0");
                Ok(())
            },
            "untouched",
            "no undo copy",
        ),
        (
            "another partition",
            |loss| {
                loss.index["originals"][0]["partition_guid"] =
                    json!("00000000-0000-0000-0000-000000000001");
                Ok(())
            },
            "untouched",
            "no undo copy",
        ),
        (
            "another archive",
            |loss| {
                loss.index["originals"][0]["archive"] = json!("LOCAL.TGZ");
                Ok(())
            },
            "untouched",
            "no undo copy",
        ),
        (
            "saved since",
            |loss| {
                loss.index["originals"][0]["repaired_sha256"] = json!(["00"]);
                Ok(())
            },
            "refused",
            "ESXi has saved its configuration since",
        ),
        (
            "damaged",
            |loss| {
                let file = loss.first_copy();
                let mut bytes = fs::read(&file)?;
                bytes[100] ^= 1;
                Ok(fs::write(&file, bytes)?)
            },
            "refused",
            "its SHA-256 is not the recorded one",
        ),
        (
            "gone",
            |loss| {
                loss.index["originals"][0]["file"] = json!("sda-bank9");
                Ok(())
            },
            "refused",
            "cannot be read",
        ),
        (
            "elsewhere",
            |loss| {
                loss.index["originals"][0]["file"] = json!("../../../etc/passwd");
                Ok(())
            },
            "refused",
            "as a file",
        ),
        (
            "no archive, with the hash that is recorded",
            |loss| {
                let file = loss.first_copy();
                fs::write(&file, b"not an archive")?;
                loss.index["originals"][0]["sha256"] = json!(sha256(&file)?);
                Ok(())
            },
            "refused",
            "is no state archive: the archive is neither a gzip nor a tar file",
        ),
        (
            "a pipe that nobody writes to",
            |loss| {
                let file = loss.first_copy();
                fs::remove_file(&file)?;
                rescue_tests::tools::Tool::new("mkfifo")?
                    .arg(&file)
                    .run_text()?;
                Ok(())
            },
            "refused",
            "it is a pipe, not a file",
        ),
        (
            "a link out of the folder",
            |loss| {
                let (file, outside) = (loss.first_copy(), loss.folder.path().join("outside"));
                fs::rename(&file, &outside)?;
                Ok(std::os::unix::fs::symlink(outside, file)?)
            },
            "refused",
            "outside of the folder",
        ),
    ];
    for (what, change, outcome, why) in cases {
        let mut loss = Loss::new()?;
        change(&mut loss)?;
        let before = loss.judge.bank(0)?.read("STATE.TGZ")?;
        let run = loss.restore(&loss.originals())?;
        let bank = &run.report()?["disks"][0]["banks"][0];
        ensure!(bank["outcome"] == outcome, "{what}: {bank}");
        ensure!(bank["why"].to_string().contains(why), "{what}: {bank}");
        run.expect(if outcome == "refused" { REFUSED } else { DONE })?;
        ensure!(loss.judge.bank(0)?.read("STATE.TGZ")? == before, "{what}");
        // The other bank's copy is good all the same.
        ensure!(
            loss.judge.bank(1)?.read("STATE.TGZ")?
                == loss.judge.bank_before(1)?.read("STATE.TGZ")?,
            "{what}: the other bank"
        );
    }
    Ok(())
}

#[test]
fn a_folder_without_an_index_that_makes_sense_is_a_usage_error() -> Result<()> {
    let mut loss = Loss::new()?;
    let judge = Judge::new(&loss.made, loss.folder.path())?;
    let empty = loss.folder.path().join("empty");
    fs::create_dir(&empty)?;
    for folder in [&empty, &loss.folder.path().join("missing")] {
        loss.restore(folder)?.expect(USAGE)?;
    }
    for index in [
        json!({ "schema": "esxi-rescue-originals/2", "originals": [] }),
        json!({ "schema": "esxi-rescue-originals/1", "originals": [{ "file": 1 }] }),
        json!([]),
    ] {
        loss.index = index;
        loss.restore(&loss.originals())?.expect(USAGE)?;
    }
    judge.nothing_changed()
}

#[test]
fn where_copies_cannot_be_looked_into_a_bank_without_its_original_is_refused() -> Result<()> {
    let loss = Loss::new()?;
    let inventory = discover::discover(std::slice::from_ref(&loss.made.image), &SystemDisks);
    let unknown = originals::unknown(&inventory, "the stick does not answer");
    let actions = |offers: &[Offer]| -> Vec<Action> {
        let plan = plan::restore(&inventory, &BankChoice::All, offers, false, None);
        plan.banks.into_iter().map(|bank| bank.action).collect()
    };
    // Without a stick nothing is known of copies, and nothing is claimed.
    ensure!(matches!(
        actions(&[])[..],
        [Action::Nothing { .. }, Action::Nothing { .. }]
    ));
    for action in actions(&unknown) {
        let Action::Refuse { why, remedy } = action else {
            bail!("it was not refused: {action:?}");
        };
        ensure!(why.contains("the stick does not answer") && remedy.contains("--originals"));
    }
    Ok(())
}
