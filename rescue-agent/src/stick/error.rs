//! Why a volume could not be read or written to, in a person's words.

use std::io;

use thiserror::Error;

/// Why a file or folder cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] io::Error),
    /// It is no volume of this kind.
    #[error("{0}")]
    NotFat(String),
    /// The volume contradicts itself.
    #[error("{0}")]
    Damaged(String),
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
    /// Its file system contradicts itself.
    #[error(
        "its file system is damaged ({why}), so that nothing was written to it; repair it with chkdsk, First Aid or fsck.fat, or write the image to it again"
    )]
    Unsound {
        /// In words.
        why: String,
    },
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
