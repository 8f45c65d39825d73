//! Whether a recovery key was given for an archive, and whether it is its key.

use crate::archive::{ArchiveError, Seal};
use crate::inventory::{ArchiveFile, ContentError};

/// Whether a key was given for an archive that does not contain its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyGiven {
    /// None.
    No,
    /// The right one.
    Opens,
    /// The key of something else.
    Other,
}

/// `None`: the archive needs no key that is not in it.
pub(super) fn key_given(archive: &ArchiveFile) -> Option<KeyGiven> {
    archive.seal().filter(|seal| Seal::is_closed(seal))?;
    Some(match &archive.content {
        Ok(_) => KeyGiven::Opens,
        Err(ContentError::Archive(ArchiveError::OtherRecoveryKey(_))) => KeyGiven::Other,
        Err(_) => KeyGiven::No,
    })
}
