//! The way back into ESXi, once all is well and the machine is about to start again.

use thiserror::Error;

use super::look::Findings;
use super::say;
use crate::firmware::{self, By, WayBack};
use crate::init::Machine;
use crate::medium::{self, MediumError};
use crate::report::{Line, ResultWord, Tone};
use crate::settings::{BootNext, Finish};

/// Where the text of a line begins, behind its first word.
const INDENT: usize = 9;

/// Prepares the next start and says what was done. `None`: there is nothing to go back to, or the
/// machine does not start again, and nothing is left behind for a later start.
pub(super) fn after(machine: &mut Machine, seen: &Findings, result: ResultWord) -> Option<WayBack> {
    let well = matches!(
        result,
        ResultWord::Reverted | ResultWord::Restored | ResultWord::Clean
    );
    let starts_again = machine.settings.finish != Finish::Poweroff;
    if !well || !starts_again {
        return None;
    }
    let way = prepare(machine, seen, machine.settings.bootnext);
    machine.times.mark("way back");
    Some(way)
}

/// Prepares the next start because a person asked for the local disk, whatever `bootnext` says.
pub(super) fn by_hand(machine: &Machine, seen: &Findings) -> WayBack {
    let setting = match machine.settings.bootnext {
        BootNext::Off => BootNext::Auto,
        setting => setting,
    };
    prepare(machine, seen, setting)
}

/// Why the menu of the medium does not hand over to the local disk.
#[derive(Debug, Error)]
enum NotRemembered {
    /// The TPM measures what was started before ESXi: its key may stay closed to an ESXi that the
    /// menu of the medium has started.
    #[error(
        "the configuration of this host is sealed by its TPM, so the menu of this medium must not start it"
    )]
    Sealed,
    /// Nothing can be written where this image comes from.
    #[error("this medium cannot record that the host is finished: it is a CD, or the network")]
    NoStick,
    /// Nothing distinguishes this host from others.
    #[error("the host has no UUID to identify it on the medium")]
    NoUuid,
    /// The medium failed.
    #[error("the medium could not record the host: {0}")]
    Medium(#[from] MediumError),
}

fn prepare(machine: &Machine, seen: &Findings, setting: BootNext) -> WayBack {
    let uuid = seen.host.name_plate.uuid.as_deref();
    let is_sealed = seen.inventory.is_sealed_by_tpm();
    let mut remember = || match is_sealed {
        false => remember(machine, uuid),
        true => Err(NotRemembered::Sealed),
    };
    let way = firmware::lead_back(&machine.root, setting, &seen.inventory, &mut remember);
    let tone = match way.by {
        By::BootNext | By::Medium => Tone::Good,
        By::Nothing => Tone::Plain,
    };
    let line = Line::new(tone, format!("Way back {}", way.text));
    say(machine, &line.folded(INDENT).collect::<Vec<_>>());
    way
}

/// Has the medium remember this host, so that its menu hands over to the local disk.
fn remember(machine: &Machine, uuid: Option<&str>) -> Result<(), NotRemembered> {
    // A stick that is plugged in beside a CD is not asked at the next start.
    let started_from = machine
        .medium
        .as_ref()
        .filter(|_| medium::started_from_stick(&machine.sources.command_line));
    let medium = started_from.ok_or(NotRemembered::NoStick)?;
    let uuid = uuid.ok_or(NotRemembered::NoUuid)?;
    Ok(medium.write_handover(uuid, true)?)
}
