//! What can be wrong with a volume, in an administrator's words.

use std::io;

use thiserror::Error;

use crate::counted::counted;

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
        "{what} has the name {name}, and ESXi's loader uses the first entry of that name, whatever its type"
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
    /// The allocation tables disagree about a file that has to be trusted.
    #[error("its allocation tables differ about cluster {cluster} of {name}")]
    TablesDiffer {
        /// The file.
        name: String,
        /// The first cluster about which they differ.
        cluster: u32,
    },
    /// The volume is longer than its partition.
    #[error(
        "it says it has {sectors} sectors of {sector_bytes} bytes, more than its partition has"
    )]
    TooLong {
        /// Its length by its first sector.
        sectors: u32,
        /// Bytes of each.
        sector_bytes: u32,
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
        "{name} is {size} bytes long, which is not what its chain of {} holds", counted(*.clusters, "cluster", "clusters")
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

/// Something unusual about a volume that is no reason not to write to it, and that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Note {
    /// The mark that a driver sets while it has a volume mounted.
    #[error(
        "marked as not cleanly unmounted: a system was reset or switched off while it had this volume mounted. The mark stays as it is"
    )]
    MarkedDirty,
    /// Clusters in use that belong to nobody.
    #[error(
        "{} in use {} to no file; not changed",
        counted(*.clusters, "cluster", "clusters"),
        if *.clusters == 1 { "belongs" } else { "belong" }
    )]
    Lost {
        /// How many.
        clusters: usize,
    },
    /// The tables disagree where it does not matter.
    #[error(
        "its allocation tables differ in {}, not of a state archive; not changed", counted(*.entries, "entry", "entries")
    )]
    TablesDiffer {
        /// How many entries.
        entries: usize,
    },
    /// Other files are damaged.
    #[error("another file is damaged: {first}{}. It stays as it is", and_more(*.more))]
    OtherFile {
        /// What is wrong with the first.
        first: Damage,
        /// How many more there are.
        more: usize,
    },
    /// A copy of this program's own is damaged.
    #[error("a copy that an earlier repair kept is damaged: {0}. It stays as it is")]
    Copy(Damage),
    /// A file that has one of our names.
    #[error("{0} is not a file of this program. It stays as it is, and another name is used")]
    ForeignName(String),
    /// The first sector has no signature.
    #[error("its first sector does not end with 55 aa, which ESXi's loader accepts")]
    Unsigned,
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!(", and {more} more"),
    }
}
