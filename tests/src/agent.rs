//! Runs the built agent as a command on disk images.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::artefacts;
use crate::tools::{Output, Tool};

/// Name and version of the report's schema.
pub const SCHEMA: &str = "esxi-rescue/1";

/// Words a report's `result` may be.
const RESULTS: [&str; 8] = [
    "inspected",
    "planned",
    "reverted",
    "restored",
    "clean",
    "refused",
    "failed",
    "none-found",
];

/// Done, or nothing to do.
pub const DONE: i32 = 0;
/// The command line cannot be obeyed as it stands.
pub const USAGE: i32 = 2;
/// No ESXi installation found.
pub const NONE_FOUND: i32 = 3;
/// At least one bank refused, and nothing written to it.
pub const REFUSED: i32 = 4;
/// A write or its verification failed.
pub const FAILED: i32 = 5;

/// A run of the agent.
#[derive(Debug)]
pub struct Run {
    /// What it left behind.
    pub output: Output,
}

/// Runs the agent on a disk image.
///
/// # Errors
/// When it has not been built, or does not end.
pub fn run(arguments: &[&str], image: &Path) -> Result<Run> {
    let output = Tool::at(artefacts::agent()?)
        .args(arguments)
        .arg(image)
        .output()?;
    Ok(Run { output })
}

/// `revert` of these devices, confirmed, with a JSON report.
///
/// # Errors
/// As [`run`].
pub fn revert(devices: &str, image: &Path) -> Result<Run> {
    run(&["revert", "--devices", devices, "--yes", "--json"], image)
}

impl Run {
    /// Fails unless it ended with this status.
    ///
    /// # Errors
    /// When it did not; shows all it said.
    pub fn expect(self, status: i32) -> Result<Self> {
        let (code, said) = (self.output.code(), self.said());
        ensure!(
            code == status,
            "exit status {code}, expected {status}; it said:\n{said}"
        );
        Ok(self)
    }

    /// Its JSON report.
    ///
    /// # Errors
    /// When standard output is not exactly one report of the known schema.
    pub fn report(&self) -> Result<Value> {
        let said = || format!("standard output is no report:\n{}", self.said());
        let report: Value = serde_json::from_slice(&self.output.stdout).with_context(said)?;
        ensure!(
            report["schema"] == SCHEMA,
            "the schema is {}",
            report["schema"]
        );
        Ok(report)
    }

    /// The report's result.
    ///
    /// # Errors
    /// When there is no report, or its result is no known word.
    pub fn result(&self) -> Result<String> {
        let report = self.report()?;
        let result = report["result"]
            .as_str()
            .with_context(|| format!("no result in {report}"))?;
        ensure!(
            RESULTS.contains(&result),
            "the result is {result:?}, none of {RESULTS:?}"
        );
        Ok(result.to_owned())
    }

    /// Partition number of the bank that boots next, by the report; `None`: no bank does.
    ///
    /// # Errors
    /// When there is no report, or it names several banks of the one disk.
    pub fn boots_next(&self) -> Result<Option<u64>> {
        let report = self.report()?;
        let mut banks = Vec::new();
        collect_banks(&report, &mut banks);
        let next: Vec<u64> = banks
            .into_iter()
            .filter(|bank| bank["boots_next"] == true)
            .filter_map(|bank| bank["partition"].as_u64())
            .collect();
        ensure!(next.len() < 2, "several banks boot next: {next:?}");
        Ok(next.first().copied())
    }

    /// All it said, on standard output and standard error.
    pub fn said(&self) -> String {
        format!("{}{}", self.output.text(), self.output.errors())
    }
}

/// Every object that tells whether it boots next, wherever the report holds it.
fn collect_banks<'a>(value: &'a Value, banks: &mut Vec<&'a Value>) {
    if value.get("boots_next").is_some() {
        banks.push(value);
    }
    match value {
        Value::Object(members) => members
            .values()
            .for_each(|value| collect_banks(value, banks)),
        Value::Array(items) => items.iter().for_each(|value| collect_banks(value, banks)),
        _ => {}
    }
}
