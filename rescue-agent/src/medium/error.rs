//! Why the medium could not be used, in a person's words.

use std::time::Duration;

use thiserror::Error;

use crate::stick::StickError;

/// Why the medium could not be used. None of it touches the repair of an ESXi disk.
#[derive(Debug, Error)]
pub enum MediumError {
    /// Several media of this image: settings could be on either.
    #[error(
        "there are {} media of this same image ({}), and the settings could be on either; remove all but one and start again",
        .0.len(),
        .0.join(", ")
    )]
    Ambiguous(Vec<String>),
    /// A file on it could not be read.
    #[error("{file} cannot be read: {why}")]
    File {
        /// Its path.
        file: String,
        /// In words.
        why: String,
    },
    /// Its file system did not take the files.
    #[error(transparent)]
    Stick(#[from] StickError),
    /// It is not there any more, or it is another one.
    #[error("it was removed, or replaced by another one")]
    Gone,
    /// It did not answer.
    #[error("it did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// A defect of this program, which was shown where it happened.
    #[error("the program failed while it worked on it")]
    Defect,
}
