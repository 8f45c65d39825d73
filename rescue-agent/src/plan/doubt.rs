//! Why it is not certain that an archive from outside may go into a bank.

use thiserror::Error;

/// Why it is not certain that an archive may go into a bank.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Doubt {
    /// Sealed under another key.
    #[error(
        "{place} is sealed under the key {given}, and the archives of this disk under {here}: it is from another host, or this host had another key then"
    )]
    OtherKey {
        /// The archive.
        place: String,
        /// The name of its key.
        given: String,
        /// The name of the key in the banks.
        here: String,
    },
    /// It says that it is of another host.
    #[error("{place} is from another host: its {what} is {given}, that of this host is {here}")]
    OtherHost {
        /// The archive.
        place: String,
        /// What differs.
        what: &'static str,
        /// What it says.
        given: String,
        /// What an archive of the bank says.
        here: String,
    },
    /// A bundle of another build.
    #[error("{place} was saved by another build of ESXi: its manifest does not name {build}")]
    OtherBuild {
        /// The archive.
        place: String,
        /// The build in the bank.
        build: String,
    },
    /// A bundle without a manifest, or a bank without a build.
    #[error(
        "{place}: its manifest, or the build of ESXi in the bank, is missing, so it is not known whether they fit"
    )]
    NoManifest {
        /// The archive.
        place: String,
    },
    /// Not sealed, for a disk with an archive that is.
    #[error(
        "{place} is not sealed by a TPM, and an archive of this disk is: it is not known whether ESXi starts with it"
    )]
    NotSealed {
        /// The archive.
        place: String,
    },
    /// Nothing says anything.
    #[error("{place}: nothing in it, or nothing in the banks, shows which host it is from")]
    Unknown {
        /// The archive.
        place: String,
    },
}
