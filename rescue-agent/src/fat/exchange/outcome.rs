//! How an exchange ends: refusals before the first write, failures after it, and what is known then.

use std::fmt;

use thiserror::Error;

use crate::counted::counted;
use crate::fat::directory::ShortName;
use crate::fat::error::FatError;

/// Which content the archive has after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActiveArchive {
    /// The one from before.
    Old,
    /// The one that was to be put in place.
    New,
    /// One of the two, intact; the disk has not confirmed which.
    OldOrNew,
    /// Whichever was active before: nothing was to change.
    Unchanged,
    /// There was none before, and there is none.
    None,
    /// There was none before; the disk has not confirmed whether the new one is there.
    NoneOrNew,
}

impl fmt::Display for ActiveArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "the old archive is active and intact",
            Self::New => "the new archive is active and intact",
            Self::Unchanged => "the archive that was active still is, and is intact",
            Self::OldOrNew => {
                "either the old or the new archive is active and intact; the disk has not confirmed which"
            }
            Self::None => "there is still no archive",
            Self::NoneOrNew => {
                "either there is still no archive or the new one is active and intact; the disk has not confirmed which"
            }
        })
    }
}

/// A step of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Writing the marker.
    Intent,
    /// Writing the new content.
    Data,
    /// Writing the new chain.
    Tables,
    /// Switching the directory entry.
    Commit,
    /// Freeing what nobody names any more.
    Release,
    /// Removing the marker.
    Cleanup,
    /// Reading back.
    Verify,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intent => "noting the intent",
            Self::Data => "writing the new archive",
            Self::Tables => "writing its cluster chain",
            Self::Commit => "switching the directory entry",
            Self::Release => "freeing unused clusters",
            Self::Cleanup => "removing the marker",
            Self::Verify => "reading the result back",
        })
    }
}

/// Why an exchange was not begun. Nothing was written.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The volume cannot be read or is damaged.
    #[error(transparent)]
    Volume(#[from] FatError),
    /// Too few free clusters.
    #[error(
        "not enough space: the new archive needs {} of {cluster_bytes} bytes; free: {free}", counted(*.needed, "cluster", "clusters")
    )]
    NoSpace {
        /// Clusters needed.
        needed: u64,
        /// Clusters free.
        free: u64,
        /// Bytes per cluster.
        cluster_bytes: u32,
    },
    /// Too few slots left in the root directory.
    #[error(
        "the root directory has no free entry for the undo copy: it is full, or the entries after its end are not empty"
    )]
    NoSlot,
    /// There is nothing to exchange, or nothing that an undo copy could keep.
    #[error("{0} is empty, or was to become empty")]
    Empty(ShortName),
    /// The archive is not what the plan was made for.
    #[error("{0} has changed since the plan was made")]
    Changed(ShortName),
    /// Nothing to restore from.
    #[error("there is no undo copy {0}")]
    NoUndo(ShortName),
    /// What has the archive's name is no file.
    #[error("{0} is a directory")]
    NameTaken(ShortName),
    /// All names for copies are taken.
    #[error("all ten names for a copy of {0} are taken, the extensions ORG and OR1 to OR9")]
    NoName(ShortName),
    /// An interrupted exchange has to be settled first.
    #[error("an interrupted repair has left traces that are not cleaned up yet")]
    Unsettled,
}

/// How an exchange ended when it did not succeed.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// Not begun; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Begun, and failed.
    #[error("{stage} failed: {reason}; {in_force}")]
    Failed {
        /// Where.
        stage: Stage,
        /// Which content is active now.
        in_force: ActiveArchive,
        /// What went wrong.
        reason: String,
    },
}

pub(super) fn failed<E: fmt::Display>(
    stage: Stage,
    in_force: ActiveArchive,
) -> impl Fn(E) -> ExchangeError {
    move |reason| ExchangeError::Failed {
        stage,
        in_force,
        reason: reason.to_string(),
    }
}
