//! Running a program and telling what it cost: time, processor time, memory.
//!
//! The system tells the largest memory of a *child* only (`getrusage(2)`, `RUSAGE_CHILDREN`), over
//! all children there were, and counts what the parent had when it forked. So each program is run by
//! a small process of its own, which is this very program, called with [`MEASURE`].

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

use crate::tools::Tool;

/// First argument of the measuring process: `RESULT PROGRAM ARGUMENTS…` follow.
pub const MEASURE: &str = "--measure";

/// No measured program takes longer.
const DEADLINE: Duration = Duration::from_secs(300);

/// What a program cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Cost {
    /// Time from start to end, in seconds.
    pub seconds: f64,
    /// Processor time, its own and the system's for it, in seconds.
    pub processor_seconds: f64,
    /// The most memory that any one of its processes had, in bytes.
    pub memory_bytes: u64,
}

/// Runs a program that must succeed.
///
/// # Errors
/// When it does not; shows what it said.
pub fn cost(program: &Path, arguments: &[OsString]) -> Result<Cost> {
    let result = tempfile::NamedTempFile::new()?;
    Tool::at(std::env::current_exe()?)
        .arg(MEASURE)
        .arg(result.path())
        .arg(program)
        .args(arguments)
        .deadline(DEADLINE)
        .run()?;
    let text = fs::read(result.path())?;
    serde_json::from_slice(&text).with_context(|| format!("measuring {}", program.display()))
}

/// What the measuring process does: runs the program, writes a [`Cost`] to the file.
///
/// # Errors
/// When the program cannot be run, or fails.
pub fn measure(mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let result = arguments.next().context("the file for the result")?;
    let program = arguments.next().context("the program to measure")?;
    let start = Instant::now();
    let status = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        status.success(),
        "{} ended with {status}",
        program.display()
    );
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let cost = Cost {
        seconds,
        processor_seconds: Duration::from_micros(micros.cast_unsigned()).as_secs_f64(),
        memory_bytes: usage.max_rss().cast_unsigned() * 1024,
    };
    Ok(fs::write(result, serde_json::to_vec(&cost)?)?)
}
