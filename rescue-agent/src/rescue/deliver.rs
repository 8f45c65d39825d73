//! The report, to wherever it is wanted. The result is on the screens by now, and nothing here
//! changes it: a delivery that fails is said and left at that.

use crate::init::Machine;
use crate::report::Report;

/// Lines around the JSON report on serial consoles.
const BEGIN_REPORT: &str = "-----BEGIN ESXI-RESCUE REPORT-----";
const END_REPORT: &str = "-----END ESXI-RESCUE REPORT-----";

/// Delivers it, the serial consoles last: whoever reads along there knows that all the other
/// deliveries are over.
pub(super) fn deliver(machine: &mut Machine, report: &Report) {
    to_serial_consoles(machine, report);
}

fn to_serial_consoles(machine: &Machine, report: &Report) {
    let json = report.to_json();
    let text = format!("{BEGIN_REPORT}\n{json}\n{END_REPORT}");
    machine.consoles.serial_line(&text);
}
