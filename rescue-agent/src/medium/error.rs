//! Why the medium could not be used, in a person's words.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// Why the medium could not be used. None of it touches the repair of an ESXi disk.
#[derive(Debug, Error)]
pub enum MediumError {
    /// Several media of this image: settings could be on either.
    #[error(
        "there are {} media of this very image ({}), and the settings could be on either; take out all but one and start again",
        .0.len(),
        .0.join(", ")
    )]
    Ambiguous(Vec<String>),
    /// It could not be read.
    #[error("{what} cannot be read: {source}")]
    Read {
        /// What was being read.
        what: String,
        /// The device's answer.
        source: io::Error,
    },
    /// A file on it could not be read.
    #[error("{file} cannot be read: {why}")]
    File {
        /// Its path.
        file: String,
        /// In words.
        why: String,
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
    /// It is not there any more, or it is another one.
    #[error("it is not there any more, or was exchanged for another one")]
    Gone,
    /// It did not answer.
    #[error("it did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// A defect of this program, which was shown where it happened.
    #[error("the program failed while it worked on it")]
    Defect,
}

impl MediumError {
    /// Turns a device's error into one that says what was being read.
    pub(super) fn reading(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Read { what, source }
    }
}
