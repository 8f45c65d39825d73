//! A state archive from outside the disks, to go into the banks: one that ESXi has saved itself, or that
//! its own backup holds (`configBundle-*.tgz`). What it is, whether it can be read, and what it says of
//! the host that it is from.
//!
//! Values only. Not for: whether it may go into a bank, which is the plan's.
//!
//! Of a configBundle it is known that it is a gzip'd tar which holds `state.tgz`, and that ESXi refuses one
//! whose UUID or build is not that of the host (vSphere API, `RestoreFirmwareConfiguration`). The form of
//! its manifest is not documented. So what is relied on is this: the member `state.tgz` in whatever
//! folder, and that the build's number stands as a number in a text member called like `Manifest`.

use std::fmt;

use thiserror::Error;

use crate::archive::{ArchiveError, Bundle, RecoveryKey, Seal, StateArchive, bundle};
use crate::bytes::sha256_hex;
use crate::fat::ShortName;
use crate::inventory::Content;

/// Longest file that is read as an archive; real ones are far smaller.
pub const MAX_BYTES: u64 = 256 << 20;

/// An archive that was given.
#[derive(Debug)]
pub struct Given {
    /// Where it comes from, in words.
    pub place: String,
    /// Its bytes, as they would go into a bank.
    pub bytes: Vec<u8>,
    /// Their SHA-256, hex.
    pub sha256: String,
    /// What it says, where it can be read, or how it is sealed.
    pub content: Result<Content, Seal>,
    /// Which file of a bank it is.
    pub name: ShortName,
    /// Its manifest, where it was taken out of a bundle.
    pub manifest: Option<Manifest>,
}

/// What a bundle says of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest(Option<Vec<u8>>);

/// Why a file is no archive for a bank. Nothing is written then.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Its bytes make no sense.
    #[error("{place} is no state archive that ESXi could load: {error}. Nothing was written")]
    NoArchive {
        /// Where it is.
        place: String,
        /// What is wrong with it.
        error: ArchiveError,
    },
    /// It would be taken as it is, and ESXi's loader cannot load it so.
    #[error(
        "{place} is sealed and not compressed: ESXi's loader does not load it so, and it cannot be changed. Nothing was written"
    )]
    Uncompressed {
        /// Where it is.
        place: String,
    },
    /// The file cannot be read.
    #[error("{place} cannot be read: {why}. Nothing was written")]
    Unreadable {
        /// Where it is.
        place: String,
        /// What the system says.
        why: String,
    },
}

impl Given {
    /// Takes the bytes of a file: an archive, or a bundle with one. `place` is what it is called.
    ///
    /// # Errors
    /// [`ImportError`] where it is nothing that ESXi could load.
    pub fn read(
        bytes: Vec<u8>,
        place: &str,
        recovery_key: Option<&RecoveryKey>,
    ) -> Result<Self, ImportError> {
        let (place, bytes, manifest) = match bundle(&bytes) {
            Some(Bundle { state, manifest }) => (
                format!("state.tgz in {place}"),
                state,
                Some(Manifest(manifest)),
            ),
            None => (place.to_owned(), bytes, None),
        };
        let no_archive = |error| ImportError::NoArchive {
            place: place.clone(),
            error,
        };
        let (content, name) = match StateArchive::open_with(&bytes, recovery_key) {
            Ok(archive) => {
                let name = match archive.is_bare() {
                    true => ShortName::LOCAL,
                    false => ShortName::STATE,
                };
                let content = Content::of(&archive, name).map_err(no_archive)?;
                (Ok(content.opened_by(recovery_key)), name)
            }
            Err(error) => match error.seal() {
                Some(seal) => (Err(seal.clone()), ShortName::STATE),
                None => return Err(no_archive(error)),
            },
        };
        if content.is_err() && !StateArchive::is_compressed(&bytes) {
            return Err(ImportError::Uncompressed { place });
        }
        Ok(Self {
            sha256: sha256_hex(&bytes),
            place,
            bytes,
            content,
            name,
            manifest,
        })
    }

    /// How it is sealed, whether or not it could be opened.
    pub fn seal(&self) -> Option<&Seal> {
        match &self.content {
            Ok(content) => content.seal.as_ref(),
            Err(seal) => Some(seal),
        }
    }
}

impl Manifest {
    /// Whether it names this build of ESXi, such as `8.0.2-0.0.22380479`: its last number stands in it.
    /// `None`: there is no manifest to look into.
    pub fn fits(&self, build: &str) -> Option<bool> {
        let text = String::from_utf8_lossy(self.0.as_ref()?);
        let wanted = build.rsplit(|c: char| !c.is_ascii_digit()).next();
        let wanted = wanted.filter(|number| !number.is_empty())?;
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(numbers.any(|number| number == wanted))
    }
}

/// It may hold anything of the host.
impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = self.0.is_some();
        write!(f, "Manifest({})", if there { "there" } else { "none" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_a_build_by_its_number() {
        let manifest = |text: &str| Manifest(Some(text.as_bytes().to_vec()));
        let build = "8.0.2-0.0.22380479";
        for (text, fits) in [
            ("RELEASELEVEL=8.0.2\nBUILD=22380479\n", true),
            ("VMware ESXi 8.0.2 build-22380479", true),
            ("build 223804790", false),
            ("build 21203435", false),
            ("", false),
        ] {
            assert_eq!(manifest(text).fits(build), Some(fits), "{text}");
        }
        assert_eq!(Manifest(None).fits(build), None);
        assert_eq!(manifest("6.7.0 8169922").fits("6.7.0-8169922"), Some(true));
    }

    #[test]
    fn what_is_no_archive_is_said() {
        let error = Given::read(b"<html>".to_vec(), "state.tgz", None).unwrap_err();
        assert!(
            error.to_string().contains("neither a gzip nor a tar"),
            "{error}"
        );
    }
}
