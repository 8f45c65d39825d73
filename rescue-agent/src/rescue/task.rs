//! What is to be done: the request of the settings or of a person, and the plan made of it.

use super::look::Findings;
use super::{Stop, import, medium};
use crate::archive::RecoveryKey;
use crate::init::Machine;
use crate::plan::{self, Import, Judged, Plan, PlanError};
use crate::policy::{Policy, Selection, Source};
use crate::report::{self, Command, Detail, Line};
use crate::settings::{Finish, ImageSource, Mode};

/// How it goes on.
#[derive(Debug)]
pub(super) enum Decision {
    /// This is done.
    CarryOut(Task),
    /// The disks are looked at once more, with this recovery key, before anything else.
    LookWith(RecoveryKey),
    /// The local disk is started.
    LocalDisk,
    /// The machine does this.
    Leave(Finish),
}

/// A request and its plan.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) command: Command,
    pub(super) plan: Plan,
}

/// Whether an archive from the medium is taken although it may be of another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// It is not.
    Checked,
    /// A person confirms that it is from this host.
    Vouched,
}

/// What happens to an archive that is newer than the repair whose original is to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newer {
    /// It stays in place, and its bank is refused.
    Stays,
    /// It is set aside: a person insists.
    IsSetAside,
}

impl Task {
    /// What the settings ask for.
    ///
    /// # Errors
    /// [`Stop`] when the settings make no sense on this machine.
    pub(super) fn from_settings(machine: &Machine, seen: &Findings) -> Result<Self, Stop> {
        let command = match machine.settings.mode {
            Mode::Auto => Command::Revert,
            Mode::Inspect => Command::Inspect,
            Mode::Restore => {
                plan::check_banks(&seen.inventory, &machine.settings.banks)?;
                return Ok(Self::restore(machine, seen, Newer::Stays));
            }
        };
        if (command, machine.settings.source) == (Command::Revert, ImageSource::Medium) {
            return Self::import(machine, seen, Trust::Checked);
        }
        let devices = machine.settings.devices.clone();
        let plan = revert(machine, seen, devices, source(machine))?;
        Ok(Self { command, plan })
    }

    /// To put the archive on the medium into the banks.
    ///
    /// # Errors
    /// [`Stop`] when there is none, or the settings make no sense on this machine.
    pub(super) fn import(machine: &Machine, seen: &Findings, trust: Trust) -> Result<Self, Stop> {
        let given = import::given(machine, seen)?;
        let import = Import {
            given: &given,
            trusted: trust == Trust::Vouched,
        };
        let policy = policy(machine, machine.settings.devices.clone(), source(machine));
        let plan = plan::import(&seen.inventory, &policy, Some(&seen.host), import)?;
        Ok(Self {
            command: Command::Revert,
            plan,
        })
    }

    /// What is left to do on a machine on which this program has done something already.
    pub(super) fn what_is_left(machine: &Machine, seen: &Findings) -> Self {
        Self::from_settings(machine, seen).unwrap_or_else(|_| Self {
            command: Command::Inspect,
            plan: plan::listing(&seen.inventory, Some(&seen.host)),
        })
    }

    /// To give back what a person chose, in archives from the source that a person chose.
    ///
    /// # Errors
    /// [`PlanError`] when the choice does not fit this machine.
    pub(super) fn revert(
        machine: &Machine,
        seen: &Findings,
        devices: Selection,
        source: Source,
    ) -> Result<Self, PlanError> {
        Ok(Self {
            command: Command::Revert,
            plan: revert(machine, seen, devices, source)?,
        })
    }

    /// To bring the originals back.
    pub(super) fn restore(machine: &Machine, seen: &Findings, newer: Newer) -> Self {
        let offers = medium::offers(machine, seen);
        let discard_newer = newer == Newer::IsSetAside;
        let banks = &machine.settings.banks;
        Self {
            command: Command::Restore,
            plan: plan::restore(
                &seen.inventory,
                banks,
                &offers,
                discard_newer,
                Some(&seen.host),
            ),
        }
    }

    /// Whether carrying it out writes to an ESXi disk.
    pub(super) fn writes(&self) -> bool {
        self.plan.writes() && matches!(self.command, Command::Revert | Command::Restore)
    }

    /// What is meant, in few lines.
    pub(super) fn lines(&self, seen: &Findings) -> Vec<Line> {
        match self.command {
            Command::Inspect | Command::DryRun => report::devices(&self.plan, Detail::Brief),
            Command::Revert | Command::Restore => {
                report::intentions(&seen.inventory, &self.plan, Detail::Brief)
            }
        }
    }
}

fn revert(
    machine: &Machine,
    seen: &Findings,
    devices: Selection,
    source: Source,
) -> Result<Plan, PlanError> {
    let policy = policy(machine, devices, source);
    plan::revert(&seen.inventory, &policy, Some(&seen.host))
}

fn policy(machine: &Machine, devices: Selection, source: Source) -> Policy {
    Policy {
        devices,
        banks: machine.settings.banks.clone(),
        source,
    }
}

/// Which banks' archives the settings ask for.
pub(super) fn source(machine: &Machine) -> Source {
    match machine.settings.source {
        ImageSource::Newest => Source::Newest,
        ImageSource::Own | ImageSource::Medium => Source::Own,
    }
}

/// What is passed through, with the verdicts that the settings lead to.
pub(super) fn judged(machine: &Machine, seen: &Findings) -> Vec<Judged> {
    let devices = machine.settings.devices.clone();
    let plan = revert(machine, seen, devices, source(machine));
    plan.unwrap_or_else(|_| plan::listing(&seen.inventory, Some(&seen.host)))
        .devices
}
