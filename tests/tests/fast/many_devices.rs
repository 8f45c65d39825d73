//! Configurations with very many devices: all of them are repaired, the report lists some and says how many
//! more there are, and neither time nor memory grows out of hand.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{self, DONE, Run};
use rescue_tests::artefacts;
use rescue_tests::esxi::host::{self, Address};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::judge::loader::{Archives, NextStart, next_start};
use rescue_tests::power::medium::{Image, Medium};
use rescue_tests::scratch;
use rescue_tests::tools::Tool;
use serde_json::Value;

/// Devices that a list of the report has at most, by docs/report.md.
const LISTED: usize = 4096;
/// What an archive below 1 MiB may cost, in bytes.
const MEMORY: u64 = 128 << 20;
/// Rows of a ConfigStore. sqlite3 needs a minute to make four times as many, which `make bench` does.
const ROWS: usize = 4_000;
/// For a program that is not optimised, on a machine that does other things too.
const DEADLINE: Duration = Duration::from_secs(120);

/// A disk of which each bank names so many devices, all passed through.
fn disk(version: EsxiDisk, count: usize) -> EsxiDisk {
    version.every_bank(|bank| bank.archive.devices = host::every_device(count))
}

fn length(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// What the loader starts from the disk passes through, by the reader of the tests.
fn passed_through_next(made: &Made) -> Result<BTreeSet<Address>> {
    let mut image = Image::zeroed(std::fs::metadata(&made.image)?.len(), 512);
    image.write_file(0, &made.image)?;
    match next_start(&Medium::new(image), &Archives::default())? {
        NextStart::Boots(started) => {
            ensure!(started.unknown.is_empty(), "{:?}", started.unknown);
            Ok(started.passed_through)
        }
        other => anyhow::bail!("{other}"),
    }
}

#[test]
fn more_devices_than_a_report_lists_are_all_repaired_and_it_says_how_many_are_not_listed()
-> Result<()> {
    let count = LISTED + 905;
    let folder = scratch::folder()?;
    let made = disk(EsxiDisk::v67(), count).make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    ensure!(passed_through_next(&made)?.len() == count);

    // Left as they are, they are counted in the next start too.
    let run = agent::run(&["inspect", "--json"], &made.image)?.expect(DONE)?;
    let report = run.report()?;
    ensure!(length(&report["devices"]) == LISTED, "{}", run.said());
    ensure!(report["devices_not_listed"] == count - LISTED);
    let run = agent::run(&["inspect"], &made.image)?.expect(DONE)?;
    let words = format!("{} more are passed through and not listed", count - LISTED);
    ensure!(run.said().contains(&words), "{}", run.said());
    let run = agent::run(&["inspect", "--explain"], &made.image)?.expect(DONE)?;
    ensure!(
        run.said().matches(&words).count() == 2,
        "the list and the explanation"
    );

    let run = agent::revert("all", &made.image)?.expect(DONE)?;
    let report = run.report()?;
    ensure!(run.result()? == "reverted", "{}", report["summary"]);
    ensure!(report["devices_changed"] == count, "{}", report["summary"]);
    ensure!(report["devices_not_listed"] == count - LISTED);
    for bank in report["disks"][0]["banks"].as_array().context("banks")? {
        let change = &bank["changes"][0];
        ensure!(length(&change["devices"]) == LISTED);
        ensure!(change["devices_not_listed"] == count - LISTED);
    }
    ensure!(passed_through_next(&made)?.is_empty());
    for bank in [0, 1] {
        let owners = judge.owners(bank)?;
        ensure!(owners.len() == count && owners.values().all(|owner| owner == "vmkernel"));
    }
    agent::run(&["restore", "--yes"], &made.image)?.expect(DONE)?;
    judge.restored(&[0, 1])
}

/// A run within the memory that a small archive may cost, and its time.
fn cheap(words: &[&str], images: &[&Path]) -> Result<Run> {
    let began = Instant::now();
    let output = Tool::new("prlimit")?
        .arg(format!("--data={MEMORY}"))
        .arg(artefacts::agent()?)
        .args(words)
        .args(images)
        .deadline(DEADLINE)
        .output()
        .with_context(|| words.join(" "))?;
    println!("{}: {:?}", words.join(" "), began.elapsed());
    Ok(Run { output })
}

#[test]
fn every_address_there_can_be_costs_little_time_and_memory() -> Result<()> {
    let folder = scratch::folder()?;
    let count = 65_536;
    let made = disk(EsxiDisk::v67(), count).make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let image: &[&Path] = &[&made.image];
    cheap(&["inspect"], image)?.expect(DONE)?;
    cheap(&["inspect", "--explain", "--json"], image)?.expect(DONE)?;
    let all = ["revert", "--yes", "--json", "--devices=all"];
    let run = cheap(&all, image)?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    ensure!(passed_through_next(&made)?.is_empty());
    cheap(&["restore", "--yes"], image)?.expect(DONE)?;
    judge.restored(&[0, 1])
}

#[test]
fn very_many_rows_of_the_config_store_cost_little_time_and_memory() -> Result<()> {
    let folder = scratch::folder()?;
    let made = disk(EsxiDisk::v80(), ROWS).make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let words = ["revert", "--yes", "--json", "--devices=all"];
    let run = cheap(&words, &[&made.image])?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    for bank in [0, 1] {
        let owners = judge.store_owners(bank)?;
        ensure!(owners.len() == ROWS && owners.values().all(|owner| owner == "OWNER_VMKERNEL"));
    }
    Ok(())
}
