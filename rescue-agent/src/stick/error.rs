//! Why a volume could not be read or written to, in a person's words.

use std::io;

use thiserror::Error;

use crate::counted::counted;

/// What makes it no FAT16 or FAT32 volume.
#[derive(Debug, Error)]
pub enum GeometryError {
    /// The device failed.
    #[error("reading its first sector: {0}")]
    Device(#[source] io::Error),
    /// The first sector does not end as that of a volume does.
    #[error("no boot signature 55 aa in its first sector")]
    NoSignature,
    /// Sectors or clusters of an impossible size.
    #[error(
        "{} per sector and {} per cluster",
        counted(*sector_bytes, "byte", "bytes"),
        counted(*cluster_sectors, "sector", "sectors")
    )]
    Units {
        /// Bytes of a sector.
        sector_bytes: u64,
        /// Sectors of a cluster.
        cluster_sectors: u64,
    },
    /// No reserved sector, or another number of tables than one or two.
    #[error(
        "{} and {}",
        counted(*reserved, "reserved sector", "reserved sectors"),
        counted(*tables, "allocation table", "allocation tables")
    )]
    Areas {
        /// Reserved sectors.
        reserved: u64,
        /// Allocation tables.
        tables: u64,
    },
    /// The volume is larger than its partition.
    #[error("its {total} sectors do not fit into its partition")]
    TooLong {
        /// Sectors of the volume.
        total: u64,
    },
    /// The root directory has a size that its kind of volume cannot have.
    #[error("a root directory of {bytes} bytes")]
    RootSize {
        /// Its size.
        bytes: u64,
    },
    /// More clusters than FAT32 can number.
    #[error("too many clusters")]
    TooManyClusters,
    /// The number of clusters decides the kind of volume, and it is another one.
    #[error("{clusters} clusters do not fit its kind of tables")]
    OtherKind {
        /// Clusters of the volume.
        clusters: u32,
    },
    /// The tables are shorter than the volume needs.
    #[error("tables of {table_bytes} bytes for {clusters} clusters")]
    TableSize {
        /// Size of a table.
        table_bytes: u64,
        /// Clusters of the volume.
        clusters: u32,
    },
    /// Flags or a version that this program does not know.
    #[error("a variety of FAT32 that is not understood")]
    Variety,
    /// The root directory begins outside of the volume.
    #[error("a root directory in cluster {cluster}")]
    RootCluster {
        /// Where it is said to begin.
        cluster: u32,
    },
}

/// What is wrong with the files or the tables of a volume.
#[derive(Debug, Error)]
pub enum Damage {
    /// The device failed.
    #[error("reading {what}: {source}")]
    Device {
        /// What was being read.
        what: &'static str,
        /// The device's answer.
        source: io::Error,
    },
    /// The root directory cannot be read.
    #[error(transparent)]
    Root(#[from] Box<ReadError>),
    /// The volume's sectors are smaller than the disk's.
    #[error("its sectors are smaller than those of its disk")]
    SmallSectors,
    /// Its tables are larger than this program keeps in memory.
    #[error("it is too large: {clusters} clusters")]
    TooLarge {
        /// Clusters of the volume.
        clusters: u32,
    },
    /// A chain leads out of the volume.
    #[error("a chain leads to cluster {0}")]
    LeadsOut(u32),
    /// A chain ends before its file does.
    #[error("a chain ends early at cluster {0}")]
    EndsEarly(u32),
    /// Folders in folders, too many.
    #[error("its folders are nested more than {0} deep")]
    TooDeep(usize),
    /// A file is longer than its chain.
    #[error("{name} has {size} bytes, and its clusters hold {holds}")]
    Short {
        /// The file.
        name: String,
        /// Its size by its entry.
        size: u32,
        /// What its clusters hold.
        holds: u64,
    },
    /// A file's chain leads out of the volume.
    #[error("{name} leads to cluster {cluster}, which does not exist")]
    FileLeadsOut {
        /// The file.
        name: String,
        /// Where its chain leads.
        cluster: u32,
    },
    /// Two files own a cluster, or a chain is a loop.
    #[error("{name} shares cluster {cluster} with another file, or is a loop")]
    Shared {
        /// The file.
        name: String,
        /// The cluster.
        cluster: u32,
    },
    /// A file's chain leads to a free cluster.
    #[error("{name} ends early at cluster {cluster}")]
    FileEndsEarly {
        /// The file.
        name: String,
        /// The cluster.
        cluster: u32,
    },
    /// A folder is larger than any real one.
    #[error("a folder of {0} clusters")]
    LargeFolder(usize),
    /// The tables differ about a cluster that is in use.
    #[error("its two allocation tables disagree about cluster {0}")]
    TablesDiffer(u32),
}

/// Why a file or folder cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] io::Error),
    /// It is no volume of this kind.
    #[error(transparent)]
    NotFat(GeometryError),
    /// The volume contradicts itself.
    #[error(transparent)]
    Damaged(Damage),
    /// It is too large.
    #[error("it has {size} bytes; at most {limit} are read")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Why files were not put on the volume. Unless it is [`StickError::Write`], nothing was written.
#[derive(Debug, Error)]
pub enum StickError {
    /// It could not be read.
    #[error("{what} cannot be read: {source}")]
    Read {
        /// What was being read.
        what: String,
        /// The device's answer.
        source: io::Error,
    },
    /// It is no volume of this kind, or contradicts itself.
    #[error(
        "its file system is damaged ({0}), so that nothing was written to it; repair it with chkdsk, First Aid or fsck.fat (writing the image to it again deletes its reports and originals)"
    )]
    Unsound(#[from] ReadError),
    /// No room.
    #[error("it is full: {needed} bytes are needed and {free} free; delete old reports from it")]
    Full {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The change could not be prepared; nothing was written.
    #[error("the files could not be prepared ({0}), so that nothing was written to it")]
    Prepare(String),
    /// Writing failed.
    #[error("writing to it failed: {0}")]
    Write(#[source] io::Error),
}

impl StickError {
    /// Turns a device's error into one that says what was being read.
    pub(super) fn reading(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Read { what, source }
    }
}
