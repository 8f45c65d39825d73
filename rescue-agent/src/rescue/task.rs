//! What is to be done: the wish of the settings or of a person, and the plan made of it.

use super::look::Seen;
use super::say;
use crate::init::Machine;
use crate::plan::{self, Plan, PlanError};
use crate::policy::{Policy, Selection, Source};
use crate::report::{self, Command};
use crate::settings::Mode;

/// A wish and its plan.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) command: Command,
    pub(super) plan: Plan,
}

impl Task {
    /// What the settings ask for.
    ///
    /// # Errors
    /// [`PlanError`] when the settings make no sense on this machine.
    pub(super) fn from_settings(machine: &Machine, seen: &Seen) -> Result<Self, PlanError> {
        let settings = &machine.settings;
        let command = match settings.mode {
            Mode::Auto => Command::Revert,
            Mode::Inspect => Command::Inspect,
            Mode::Restore => return Ok(Self::restore(machine, seen)),
        };
        let plan = revert(machine, seen, settings.devices.clone())?;
        Ok(Self { command, plan })
    }

    fn restore(machine: &Machine, seen: &Seen) -> Self {
        let plan = plan::restore(&seen.inventory, &machine.settings.banks);
        Self {
            command: Command::Restore,
            plan,
        }
    }

    /// Whether carrying it out writes to an ESXi disk.
    pub(super) fn writes(&self) -> bool {
        self.plan.writes() && matches!(self.command, Command::Revert | Command::Restore)
    }

    /// Shows what is meant.
    pub(super) fn show(&self, machine: &Machine, seen: &Seen) {
        match self.command {
            Command::Inspect | Command::DryRun => {
                say(machine, &report::devices(&self.plan));
                say(machine, &seen.explanation(&self.plan));
            }
            Command::Revert | Command::Restore => {
                say(machine, &report::intentions(&seen.inventory, &self.plan));
            }
        }
    }
}

fn revert(machine: &Machine, seen: &Seen, devices: Selection) -> Result<Plan, PlanError> {
    let policy = Policy {
        devices,
        banks: machine.settings.banks.clone(),
        source: Source::Own,
    };
    plan::revert(&seen.inventory, &policy, Some(&seen.host))
}
