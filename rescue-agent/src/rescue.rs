//! The rescue as it runs on the image: look, show, count down, repair, prove, report.
//!
//! What is done with the disks is the same code as behind the command line; what is around it
//! (drivers, consoles, the end of the machine) is [`crate::init`]'s.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::cli::{now, open_readable, open_writable};
use crate::discover;
use crate::host::Host;
use crate::init::console::Consoles;
use crate::init::countdown::{CountdownEnd, countdown};
use crate::init::{self, Machine, Outcome};
use crate::inventory::Inventory;
use crate::net;
use crate::plan::{self, Plan, PlanError};
use crate::policy::{Policy, Source};
use crate::repair;
use crate::report::{self, Command, Detail, Report, ResultWord};
use crate::settings::{Finish, Key, Mode, Origin};
use crate::verify;

/// Lines around the JSON report on serial consoles.
const BEGIN_REPORT: &str = "-----BEGIN ESXI-RESCUE REPORT-----";
const END_REPORT: &str = "-----END ESXI-RESCUE REPORT-----";

/// The work of the image.
#[derive(Debug, Default)]
pub struct ImageRescue;

impl init::Rescue for ImageRescue {
    fn run(&mut self, machine: &mut Machine) -> Outcome {
        let seen = Seen::look(machine);
        seen.show(machine);
        let planned = seen.plan(machine);
        let (command, plan) = match planned {
            Ok(planned) => planned,
            Err(error) => return seen.not_understood(machine, &error),
        };
        match command {
            Command::Inspect | Command::DryRun => {
                say(machine, &report::devices(&plan));
                say(machine, &seen.explanation(&plan));
            }
            Command::Revert | Command::Restore => {
                say(machine, &report::intentions(&seen.inventory, &plan))
            }
        }
        let writes = plan.writes() && matches!(command, Command::Revert | Command::Restore);
        if writes && let Some(outcome) = last_chance(machine, command) {
            return outcome;
        }
        let report = seen.carry_out(machine, command, &plan, writes);
        net::send_report(machine, &report.to_json());
        finish(machine, &report)
    }
}

/// The machine as it was found.
struct Seen {
    host: Host,
    inventory: Inventory,
}

impl Seen {
    /// Looks at every disk, and, as long as no boot bank is among them, waits for more.
    fn look(machine: &mut Machine) -> Self {
        let deadline = machine.devices.deadline(machine.settings.wait);
        loop {
            let host = Host::read(&machine.root);
            let paths: Vec<PathBuf> = host.disks.iter().map(|disk| disk.node.clone()).collect();
            let inventory = discover::discover(&paths, &open_readable);
            if inventory.banks().next().is_some() {
                machine.times.mark("discovery");
                return Self { host, inventory };
            }
            let consoles = machine.consoles.clone();
            let mut waiting = init::waiting_line(&consoles, deadline);
            let more = machine.devices.more_disks(deadline, &mut waiting);
            consoles.status("");
            if more.is_empty() {
                machine.times.mark("discovery");
                return Self { host, inventory };
            }
        }
    }

    fn show(&self, machine: &Machine) {
        let detail = match machine.settings.mode {
            Mode::Inspect => Detail::Full,
            Mode::Auto | Mode::Restore => Detail::Brief,
        };
        say(
            machine,
            &[
                String::new(),
                format!("esxi-rescue {}", env!("CARGO_PKG_VERSION")),
            ],
        );
        say(
            machine,
            &[report::escape(&format!(
                "Host     {}",
                self.host.name_plate
            ))],
        );
        say(
            machine,
            &report::findings(&self.inventory, Some(&self.host), detail),
        );
        for undriven in machine.devices.undriven() {
            say(
                machine,
                &[report::escape(&format!("Driver   ! {undriven}"))],
            );
        }
        for warning in &machine.warnings {
            say(machine, &[report::escape(&format!("Warning  {warning}"))]);
        }
    }

    fn explanation(&self, plan: &Plan) -> Vec<String> {
        report::explain(&self.inventory, Some(&self.host), plan)
    }

    fn plan(&self, machine: &Machine) -> Result<(Command, Plan), PlanError> {
        let settings = &machine.settings;
        let revert = || {
            let policy = Policy {
                devices: settings.devices.clone(),
                banks: settings.banks.clone(),
                source: Source::Own,
            };
            plan::revert(&self.inventory, &policy, Some(&self.host))
        };
        Ok(match settings.mode {
            Mode::Auto => (Command::Revert, revert()?),
            Mode::Inspect => (Command::Inspect, revert()?),
            Mode::Restore => (
                Command::Restore,
                plan::restore(&self.inventory, &settings.banks),
            ),
        })
    }

    /// The settings make no sense on this machine: nothing is written, somebody has to look.
    fn not_understood(&self, machine: &mut Machine, error: &PlanError) -> Outcome {
        say(
            machine,
            &[
                report::escape(&format!("Setting  {error}")),
                "Result   the setting `devices` was not understood. Nothing was written.".into(),
            ],
        );
        let last_line = report::last_line(ResultWord::Refused, 0, 0);
        machine.consoles.serial_line(&last_line);
        Outcome::NeedsAttention
    }

    fn carry_out(
        &self,
        machine: &mut Machine,
        command: Command,
        plan: &Plan,
        writes: bool,
    ) -> Report {
        let mut receipt = None;
        let mut broken = Vec::new();
        if matches!(command, Command::Revert | Command::Restore) {
            let consoles = machine.consoles.clone();
            let mut tell = |event: &repair::Event| {
                consoles.line(&report::escape(&format!("Write    {event}")))
            };
            let done = repair::carry_out(plan, &self.inventory, &open_writable, now(), &mut tell);
            machine.times.mark("repair");
            if writes {
                broken = verify::verify(plan, &done, &self.inventory, &open_readable);
                machine.times.mark("verification");
            }
            receipt = Some(done);
        }
        let report = Report::new(
            command,
            &self.inventory,
            Some(&self.host),
            Some(plan),
            receipt.as_ref(),
            broken,
        )
        .with_explanation(match command {
            Command::Inspect => self.explanation(plan),
            _ => Vec::new(),
        })
        .with_image(about_image(machine));
        say(
            machine,
            &report::result(&report, &self.inventory, Some(plan), receipt.as_ref()),
        );
        report
    }
}

/// The countdown before the first write. `Some`: a person stopped it and chose otherwise.
fn last_chance(machine: &Machine, command: Command) -> Option<Outcome> {
    let doing = if command == Command::Restore {
        "Restoring"
    } else {
        "Repairing"
    };
    let text = |left: u64| format!("{doing} in {left} s. Any key stops.");
    match countdown(&machine.consoles, machine.settings.countdown, text) {
        CountdownEnd::Elapsed => None,
        CountdownEnd::Stopped(_) => ask(&machine.consoles),
    }
}

/// What a person wants who stopped the countdown. `None`: to go on.
fn ask(consoles: &Consoles) -> Option<Outcome> {
    consoles.line("Stopped. Nothing was written.");
    consoles.line("Keys     a apply the plan    r restart    p power off");
    loop {
        consoles.forget_keys();
        match consoles.wait_key(None)?.character() {
            Some('a' | 'A') => return None,
            Some('r' | 'R') => return Some(Outcome::Chosen(Finish::Reboot)),
            Some('p' | 'P') => return Some(Outcome::Chosen(Finish::Poweroff)),
            _ => {}
        }
    }
}

/// Prints the report for machines, gives a person time to read, and says how it ends.
fn finish(machine: &Machine, report: &Report) -> Outcome {
    machine.consoles.serial_line(&format!(
        "{BEGIN_REPORT}\n{}\n{END_REPORT}",
        report.to_json()
    ));
    let outcome = outcome(machine, report);
    machine.consoles.serial_line(&report.last_line());
    outcome
}

fn outcome(machine: &Machine, report: &Report) -> Outcome {
    let finish_was_chosen = *machine.settings.origin(Key::Finish) != Origin::BuiltIn;
    match report.result {
        ResultWord::Reverted | ResultWord::Restored | ResultWord::Clean => {}
        // Somebody has asked to see this, or has to see it.
        ResultWord::Inspected | ResultWord::Planned if finish_was_chosen => {}
        _ => return Outcome::NeedsAttention,
    }
    let (doing, other) = match machine.settings.finish {
        Finish::Reboot => ("Restarting", "stays here"),
        Finish::Poweroff => ("Switching off", "stays here"),
        Finish::Stay => return Outcome::Done,
    };
    let text = |left: u64| format!("{doing} in {left} s. Any key {other}.");
    match countdown(&machine.consoles, reading_time(machine), text) {
        CountdownEnd::Elapsed => Outcome::Done,
        CountdownEnd::Stopped(_) => Outcome::NeedsAttention,
    }
}

/// As long as the countdown before the repair: who needs none there needs none here.
fn reading_time(machine: &Machine) -> Duration {
    machine.settings.countdown
}

fn about_image(machine: &Machine) -> serde_json::Value {
    json!({
        "drivers_loaded": machine.devices.drivers_loaded(),
        "driver_failures": machine.devices.driver_failures(),
        "undriven_controllers": machine.devices.undriven(),
        "waits": machine.devices.waits(),
        "phase_ends": machine.times,
        "warnings": machine.warnings,
        "settings": Key::ALL.iter().map(|key| (key.name(), machine.settings.shown_value(*key))).collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn say(machine: &Machine, lines: &[String]) {
    for line in lines {
        machine.consoles.line(line);
    }
}
