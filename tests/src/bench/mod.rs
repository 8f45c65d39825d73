//! `make bench`: the promised numbers, measured side by side in one run.
//!
//! A time by itself says more about the machine than about the program, so each is divided by one
//! that was taken in the same run, by turns with it: the same work by hand, the bare cost of the
//! same bytes, the same kernel with nothing to do. Disks lie in memory (`/dev/shm`), so that it is
//! programs that are compared. Times are told with their spread, and judged by the median. Counts (bytes,
//! flushes) are the same each time.
//!
//! | module | measures |
//! |---|---|
//! | [`boot`] | power-on to reboot against an empty image, and where the time goes |
//! | [`repair`] | the repair of a bank against GNU tools and against bare (de)compression; memory |
//! | [`transfers`] | bytes read and written, flushes, on disks of growing size |
//! | [`discovery`] | looking at up to 256 disks, also with a dead one among them |
//! | [`collect`] | a thousand hosts that report at once |
//! | [`entries`] | archives with very many entries, and what a small archive may cost |
//! | [`sizes`] | what the image is made of |

pub mod boot;
pub mod collect;
pub mod data;
pub mod discovery;
pub mod entries;
pub mod process;
pub mod repair;
pub mod sizes;
pub mod spread;
pub mod table;
pub mod transfers;

use std::path::{Path, PathBuf};

use anyhow::Result;

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Enough repetitions to rely on the medians.
    Full,
    /// A fast pass, for work on the program.
    Quick,
}

impl Effort {
    /// Repetitions of something that takes `cost`, in seconds by the order of magnitude.
    pub fn rounds(self, cost: f64) -> usize {
        match (self, cost) {
            (Self::Full, ..1.0) => 9,
            (Self::Full, _) => spread::FEWEST_RUNS,
            (Self::Quick, ..10.0) => 3,
            (Self::Quick, _) => 1,
        }
    }
}

/// A folder for disks: in memory where the machine has such a place.
///
/// # Errors
/// When none can be made.
pub fn workplace() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    };
    Ok(tempfile::Builder::new()
        .prefix("rescue-bench-")
        .tempdir_in(parent)?)
}

/// A file of this module's folder.
fn script(name: &str) -> PathBuf {
    crate::tools::crate_file("src/bench").join(name)
}
