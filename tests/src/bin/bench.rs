//! `make bench`: measures the promised numbers, prints them as a table, and writes `dist/bench.json`.
//!
//! usage: bench [--quick] [PART…], with the parts boot, slow-media, repair, transfers, discovery, entries, collect, sizes. Ends with
//! status 1 if a promise is missed.

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, bail};
use rescue_tests::artefacts;
use rescue_tests::bench::table::{Row, Verdict, text};
use rescue_tests::bench::{
    Effort, boot, collect, discovery, entries, process, repair, sizes, transfers,
};
use serde_json::json;

/// The version of the JSON's fields.
const SCHEMA: &str = "esxi-rescue-bench/2";
/// All parts; the one that needs the quietest machine comes first.
const PARTS: [&str; 8] = [
    "boot",
    "slow-media",
    "repair",
    "transfers",
    "discovery",
    "entries",
    "collect",
    "sizes",
];

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|word| word == process::MEASURE).is_some() {
        process::measure(arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    let words: Vec<String> = arguments
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let effort = match words.iter().any(|word| word == "--quick") {
        true => Effort::Quick,
        false => Effort::Full,
    };
    let chosen: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| *word != "--quick")
        .collect();
    if let Some(unknown) = chosen.iter().find(|word| !PARTS.contains(word)) {
        bail!(
            "{unknown:?} is no part; usage: bench [--quick] [{}]",
            PARTS.join("] [")
        );
    }
    let mut rows = Vec::new();
    for part in PARTS
        .iter()
        .filter(|part| chosen.is_empty() || chosen.contains(part))
    {
        rows.extend(measured(part, effort)?);
    }
    report(&rows, effort)
}

fn measured(part: &str, effort: Effort) -> Result<Vec<Row>> {
    match part {
        "boot" => boot::rows(effort),
        "slow-media" => boot::slow_rows(effort),
        "repair" => repair::rows(effort),
        "transfers" => transfers::rows(),
        "discovery" => discovery::rows(effort),
        "entries" => entries::rows(effort),
        "collect" => collect::rows(effort),
        _ => sizes::rows(),
    }
}

fn report(rows: &[Row], effort: Effort) -> Result<ExitCode> {
    let machine = machine();
    println!("{machine}\n{}", text(rows));
    let missed = rows
        .iter()
        .filter(|row| row.verdict == Verdict::Missed)
        .count();
    let folder = artefacts::workspace().join("dist");
    fs::create_dir_all(&folder)?;
    let file = folder.join("bench.json");
    let report = json!({
        "schema": SCHEMA,
        "machine": machine,
        "quick": effort == Effort::Quick,
        "missed": missed,
        "rows": rows,
    });
    fs::write(&file, serde_json::to_vec_pretty(&report)?)?;
    println!("Written to dist/bench.json. Promises missed: {missed}.");
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What this was measured on.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("an unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} x {model}, Linux {}, guests in QEMU's software emulation",
        kernel.trim()
    )
}
