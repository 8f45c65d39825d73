//! What is there: the machine, its disks, and what ESXi keeps on them.

use std::path::PathBuf;

use super::find_medium::{self, MediumStop};
use super::say;
use crate::archive::RecoveryKey;
use crate::copies;
use crate::discover;
use crate::disk::SystemDisks;
use crate::firmware;
use crate::host::Host;
use crate::init::{self, Machine};
use crate::inventory::Inventory;
use crate::plan::{self, Plan, Recipe};
use crate::report::{self, Detail, Line, Tone};

/// The machine as it was found.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) host: Host,
    pub(super) inventory: Inventory,
    /// The recovery key that a person typed.
    recovery_key: Option<RecoveryKey>,
}

impl Findings {
    /// Looks at every disk, and, as long as no boot bank is among them, or the medium that brings
    /// the settings is missing, waits for more.
    ///
    /// # Errors
    /// [`MediumStop`]: it is not clear what the settings are.
    pub(super) fn look(machine: &mut Machine) -> Result<Self, MediumStop> {
        loop {
            let seen = Self::now(machine, None);
            find_medium::look_for(machine, &seen.inventory)?;
            if seen.inventory.banks().next().is_some() && !find_medium::is_missing(machine) {
                machine.times.mark("discovery");
                return Ok(seen);
            }
            let deadline = machine.devices.deadline(machine.settings.wait);
            let consoles = machine.consoles.clone();
            let mut waiting = init::waiting_line(&consoles, deadline);
            let more = machine.devices.more_disks(deadline, &mut waiting);
            consoles.status("");
            if more.is_empty() {
                machine.times.mark("discovery");
                return match find_medium::is_missing(machine) {
                    true => Err(MediumStop::Missing(machine.settings.wait)),
                    false => Ok(seen),
                };
            }
        }
    }

    /// The recovery key that a person typed.
    pub(super) fn recovery_key(&self) -> Option<&RecoveryKey> {
        self.recovery_key.as_ref()
    }

    /// Looks once more, for a person who stays after the work: what is there is there by now.
    pub(super) fn once_more(&self, machine: &Machine) -> Self {
        Self::now(machine, self.recovery_key.clone())
    }

    /// Looks once more, with a recovery key.
    pub(super) fn with_key(machine: &Machine, key: RecoveryKey) -> Self {
        Self::now(machine, Some(key))
    }

    fn now(machine: &Machine, recovery_key: Option<RecoveryKey>) -> Self {
        let host = Host::read(&machine.root);
        let paths: Vec<PathBuf> = host.disks.iter().map(|disk| disk.node.clone()).collect();
        let mut inventory = discover::discover_with(&paths, &SystemDisks, recovery_key.as_ref());
        discover::note_uses(&mut inventory, &machine.root);
        copies::relate(&mut inventory, &host);
        firmware::order::note(&machine.root, &mut inventory);
        Self {
            host,
            inventory,
            recovery_key,
        }
    }

    /// Shows it on a fresh page.
    pub(super) fn show(&self, machine: &Machine) {
        machine.consoles.begin_page();
        say(machine, &self.overview(machine, Detail::Brief));
    }

    /// The machine, its disks, and what went wrong on the way here.
    pub(super) fn overview(&self, machine: &Machine, detail: Detail) -> Vec<Line> {
        let title = format!("esxi-rescue {}", env!("CARGO_PKG_VERSION"));
        let mut lines = vec![
            Line::new(Tone::Title, title),
            Line::plain(format!("Host     {}", self.host.name_plate)),
        ];
        let host = Some(&self.host);
        lines.extend(report::findings(&self.inventory, host, detail));
        let problems = machine.devices.driver_problems();
        let problems = problems.iter().map(|one| format!("Driver   ! {one}"));
        let warnings = machine.warnings.iter();
        let warnings = warnings.map(|warning| format!("Warning  {warning}"));
        let all = problems.chain(self.waiting(machine)).chain(warnings);
        lines.extend(all.map(|text| Line::new(Tone::Warning, text)));
        lines
    }

    /// What was waited for, where it matters: something did not come, or no bank was found.
    fn waiting(&self, machine: &Machine) -> Option<String> {
        let found = self.inventory.banks().next().is_some();
        let words = machine.devices.waits_in_words(machine.settings.wait);
        (!found || machine.devices.gave_up()).then(|| format!("Waited   {words}"))
    }

    /// How this host helps itself where only its own TPM opens an archive, as pages; none elsewhere.
    pub(super) fn recipe_pages(&self) -> Vec<String> {
        let recipes = plan::recipes(&self.inventory, Some(&self.host));
        let lines = recipes.iter().flat_map(Recipe::page);
        let lines: Vec<String> = lines.collect();
        match lines.is_empty() {
            true => lines,
            false => [vec![format!("Host {}", self.host.name_plate)], lines].concat(),
        }
    }

    /// The reasoning behind the verdicts of a plan.
    pub(super) fn explanation(&self, plan: &Plan) -> Vec<Line> {
        report::explain(&self.inventory, Some(&self.host), plan)
    }
}
