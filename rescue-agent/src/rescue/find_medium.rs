//! The medium that the image was started from, and the settings on it, before anything is decided.
//! Settings that are not clear stop the run, before any write.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::disk::SystemDisks;
use crate::init::Machine;
use crate::inventory::Inventory;
use crate::medium::{self, Identity, MediumError, SETTINGS};
use crate::report::Sentence;
use crate::settings::SettingsErrors;

/// Why it is not clear what the settings are. Nothing has been written then.
#[derive(Debug, Error)]
pub(crate) enum MediumStop {
    /// There are several, or the settings on it cannot be read.
    #[error(transparent)]
    Unclear(#[from] MediumError),
    /// The settings on it are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsErrors),
    /// The image was started from it, and it does not show.
    #[error(
        "this image was started from a USB stick, which did not appear within {} s as a readable disk, so its settings are not known. Try another USB port, or a larger rescue.wait, or another stick; or continue without it: in the boot menu press e and remove the word rescue_from=usb",
        .0.as_secs()
    )]
    Missing(Duration),
}

impl MediumStop {
    pub(crate) fn sentence(&self) -> Sentence {
        match self {
            Self::Settings(_) => Sentence::BadSettings,
            Self::Unclear(_) | Self::Missing(_) => Sentence::UnknownSettings,
        }
    }
}

/// Looks for the medium among the disks, and takes the settings from it once it is there.
pub(super) fn look_for(machine: &mut Machine, inventory: &Inventory) -> Result<(), MediumStop> {
    let Some(identity) = Identity::of_image(&machine.root) else {
        return Ok(());
    };
    let found = medium::find(inventory, &identity, Arc::new(SystemDisks))?;
    let (Some(found), None) = (found, &machine.medium) else {
        return Ok(());
    };
    if let Some(content) = found.settings()? {
        machine.add_settings(&format!("{SETTINGS} on the medium"), content)?;
    }
    machine.medium = Some(found);
    Ok(())
}

/// Whether the image was started from a stick that has not been found.
pub(super) fn is_missing(machine: &Machine) -> bool {
    let words = &machine.sources.command_line;
    machine.medium.is_none() && medium::started_from_stick(words)
}
