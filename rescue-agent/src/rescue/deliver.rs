//! The report, to wherever it is wanted. The result is on the screens by now, and nothing here
//! changes it: a delivery that fails is said and left at that.

use super::look::Seen;
use super::medium;
use crate::init::Machine;
use crate::net;
use crate::report::{Line, Report, Tone};

/// Lines around the JSON report on serial consoles.
const BEGIN_REPORT: &str = "-----BEGIN ESXI-RESCUE REPORT-----";
const END_REPORT: &str = "-----END ESXI-RESCUE REPORT-----";

/// Delivers it, the serial consoles last: whoever reads along there knows that all the other
/// deliveries are over.
pub(super) fn deliver(machine: &mut Machine, seen: &Seen, report: &Report) {
    medium::deliver(machine, seen, report);
    to_receiver(machine, report);
    to_serial_consoles(machine, report);
}

fn to_receiver(machine: &mut Machine, report: &Report) {
    let Some(target) = &machine.settings.report else {
        return;
    };
    let to = target.without_query();
    let line = match net::deliver(machine, &report.to_json()) {
        None => return,
        Some(Ok(delivered)) => {
            Line::new(Tone::Good, format!("Report   taken by {to} ({delivered})"))
        }
        Some(Err(error)) => Line::new(
            Tone::Warning,
            format!("Report   ! not taken by {to}: {error}. The result stands all the same."),
        ),
    };
    let lines: Vec<Line> = line.folded(HEAD).collect();
    super::say(machine, &lines);
}

/// How far what follows a head such as `Report` is set in.
const HEAD: usize = 9;

fn to_serial_consoles(machine: &Machine, report: &Report) {
    let json = report.to_json();
    let text = format!("{BEGIN_REPORT}\n{json}\n{END_REPORT}");
    machine.consoles.serial_line(&text);
}
