//! The archive that a person has put on the medium, to go into the banks.

use thiserror::Error;

use super::look::Findings;
use crate::import::{Given, ImportError};
use crate::init::Machine;
use crate::medium::{MediumError, import_folders};
use crate::originals::host_labels;

/// Why there is no archive to take. Nothing has been written then.
#[derive(Debug, Error)]
pub(crate) enum ImportStop {
    /// There is no medium that could have one.
    #[error(
        "source = \"medium\", and this image was not started from a stick that can be read: write the .img to a stick and put the archive on it, or use `rescue-agent revert --source FILE`"
    )]
    NoMedium,
    /// The medium has none.
    #[error(
        "source = \"medium\", and there is no state.tgz or configBundle-*.tgz in {places} on it"
    )]
    Nothing {
        /// Where it was looked for.
        places: String,
    },
    /// The medium cannot be read.
    #[error("source = \"medium\": {0}")]
    Medium(#[from] MediumError),
    /// What is there is no archive.
    #[error(transparent)]
    Archive(#[from] ImportError),
}

/// The archive on the medium for this host.
///
/// # Errors
/// [`ImportStop`].
pub(super) fn given(machine: &Machine, seen: &Findings) -> Result<Given, ImportStop> {
    let medium = machine.medium.as_ref().ok_or(ImportStop::NoMedium)?;
    let labels = host_labels(&seen.host.name_plate);
    let Some((path, bytes)) = medium.archive_for(&labels)? else {
        let places = import_folders(&labels).join(", ");
        return Err(ImportStop::Nothing { places });
    };
    let place = format!("{path} on the medium");
    Ok(Given::read(bytes, &place, seen.recovery_key())?)
}

/// Whether the medium has something for this host.
pub(super) fn is_there(machine: &Machine, seen: &Findings) -> bool {
    let labels = host_labels(&seen.host.name_plate);
    let medium = machine.medium.as_ref();
    medium.is_some_and(|medium| medium.has_archive_for(&labels))
}
