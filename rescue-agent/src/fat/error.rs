//! What can be wrong with a volume, in an administrator's words.

use std::io;

use thiserror::Error;

/// Why a volume cannot be read, or will not be written.
#[derive(Debug, Error)]
pub enum FatError {
    /// The device failed.
    #[error("reading {what}: {source}")]
    Read {
        /// What was being read.
        what: String,
        /// The device's answer.
        source: io::Error,
    },
    /// The first sector does not describe a FAT12 or FAT16 volume.
    #[error("not a FAT12 or FAT16 volume: {0}")]
    NotFat(String),
    /// The volume's structures contradict each other.
    #[error("the FAT volume is damaged: {0}")]
    Damaged(#[from] Damage),
    /// No such file in the root directory.
    #[error("no file {0} in the root directory")]
    NotFound(String),
    /// What the loader takes for the file is none.
    #[error(
        "{what} stands where ESXi's loader looks for {name}, which takes the first entry of that name whatever it is"
    )]
    InTheWay {
        /// The name.
        name: String,
        /// What has it.
        what: &'static str,
    },
    /// A file larger than this program is willing to load.
    #[error("{name} says it is {size} bytes long, more than the {limit} bytes this program loads")]
    TooLarge {
        /// The file.
        name: String,
        /// Its size in its directory entry, in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Damage of a volume that makes writing to it, or trusting a file on it, unsafe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Damage {
    /// The volume was not unmounted cleanly, or its driver met errors.
    #[error("it is marked as not cleanly unmounted")]
    MarkedDirty,
    /// The two allocation tables disagree.
    #[error("its two allocation tables differ in {count} entries, the first for cluster {cluster}")]
    TablesDiffer {
        /// Number of differing entries.
        count: usize,
        /// The first of them.
        cluster: u32,
    },
    /// Two files claim one cluster.
    #[error("{name} and another file both claim cluster {cluster}")]
    CrossLinked {
        /// The second claimant, in the order of the directory.
        name: String,
        /// The shared cluster.
        cluster: u32,
    },
    /// A chain that comes back to itself.
    #[error("the cluster chain of {name} loops at cluster {cluster}")]
    Loop {
        /// The file.
        name: String,
        /// Where it closes.
        cluster: u32,
    },
    /// A chain that leads to a free, bad, or impossible cluster.
    #[error(
        "the cluster chain of {name} leads from cluster {cluster} to {next:#x}, which is no cluster of a file"
    )]
    BrokenChain {
        /// The file.
        name: String,
        /// Last good cluster, 0 when the directory entry itself is wrong.
        cluster: u32,
        /// The impossible successor.
        next: u32,
    },
    /// A chain that is longer or shorter than the file's size says.
    #[error(
        "{name} is {size} bytes long, which is not what its chain of {clusters} clusters holds"
    )]
    WrongLength {
        /// The file.
        name: String,
        /// Size by its directory entry, in bytes.
        size: u32,
        /// Length of its chain.
        clusters: usize,
    },
    /// Directories nested deeper than any ESXi volume has them.
    #[error("its directories are nested more than {0} deep")]
    TooDeep(usize),
    /// A directory larger than any can be.
    #[error("the directory {name} is {clusters} clusters long, more than a directory can be")]
    DirectoryTooLarge {
        /// The directory.
        name: String,
        /// Length of its chain.
        clusters: usize,
    },
    /// One name twice in the root directory.
    #[error("{0} occurs twice in its root directory")]
    DuplicateName(String),
}
