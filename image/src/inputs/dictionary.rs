//! What the kernel modules of an image have in common: a zstd dictionary, with which each of them, compressed on its own so
//! that PID 1 unpacks only those it needs, takes a tenth less.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::inputs::drivers::{on_all, read_module_bytes};

/// Size of the dictionary, in bytes. Smaller and larger ones were measured with the 280 drivers of kernel 6.12: twice and half
/// of it make the image 0.3 MiB larger.
const MAX_BYTES: usize = 256 * 1024;
/// How much of each module is looked at, in bytes.
const SAMPLE_BYTES: usize = 128 * 1024;
/// Fewer modules than that have nothing worth learning in common (zstd refuses to train on a handful of samples).
const MIN_SAMPLES: usize = 50;

/// The dictionary for these modules; empty if they are too few to learn from.
pub fn train(files: &[PathBuf]) -> Result<Vec<u8>> {
    if files.len() < MIN_SAMPLES {
        return Ok(Vec::new());
    }
    let samples = on_all(files, |path| {
        let mut sample = read_module_bytes(path)?;
        sample.truncate(SAMPLE_BYTES);
        Ok(sample)
    })?;
    zstd::dict::from_samples(&samples, MAX_BYTES).map_err(Error::io(
        "learn from",
        std::path::Path::new("the kernel modules"),
    ))
}
