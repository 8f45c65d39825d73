//! What the agent wrote, as one number per case, so that two versions of the agent can be compared.
//!
//! With `RESCUE_RECORD=FILE` every case appends a line to the file: a SHA-256 over each sector
//! written and each barrier between them, by the task and by all of its recoveries; how many runs
//! those were, and how many sectors; the name of the case. The volumes are the same in every run of
//! the same seed, so a change that is to write the same bytes leaves the same lines. Threads take
//! turns: sort both files before comparing them.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::device::Recording;
use crate::judge::volume::hex;

/// The variable that names the file.
const VARIABLE: &str = "RESCUE_RECORD";

/// The digest of a case, while it grows.
#[derive(Debug)]
pub struct Record(Option<Mutex<Sum>>);

#[derive(Debug, Default)]
struct Sum {
    hash: Sha256,
    runs: usize,
    sectors: usize,
}

impl Record {
    /// One that counts only if somebody asked for it.
    pub fn from_env() -> Self {
        Self(std::env::var_os(VARIABLE).map(|_| Mutex::default()))
    }

    /// Adds the writes of one run.
    pub fn add(&self, recording: &Recording) {
        let Some(sum) = &self.0 else {
            return;
        };
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.runs += 1;
        sum.hash.update(b"run");
        for epoch in recording.epochs() {
            sum.sectors += epoch.len();
            sum.hash.update(b"flush");
            for write in epoch {
                sum.hash.update(write.sector.to_le_bytes());
                sum.hash.update(&write.data);
            }
        }
        sum.hash.update(recording.flushes.to_le_bytes());
    }

    /// Appends the line of a case that is done.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&self, name: &str) -> Result<()> {
        let (Some(sum), Some(path)) = (&self.0, std::env::var_os(VARIABLE)) else {
            return Ok(());
        };
        let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = hex(&sum.hash.clone().finalize());
        let line = format!("{digest} {} {} {name}\n", sum.runs, sum.sectors);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("{VARIABLE}: {}", path.display()))
    }
}
