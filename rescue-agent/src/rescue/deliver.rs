//! The report, to wherever it is wanted. The result is on the screens by now, and nothing here
//! changes it: a delivery that fails is said and left at that.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::look::Findings;
use super::medium;
use crate::init::keys::any_key;
use crate::init::{self, Machine};
use crate::net::{DEADLINE, Delivered, Delivery, DeliveryError};
use crate::report::{Line, Report, Tone, WIDTH};
use crate::settings::addressing::{Addressing, AddressingError, MacAddress};
use crate::settings::{Key, Origin, command_line_words};

/// Lines around the JSON report on serial consoles.
const BEGIN_REPORT: &str = "-----BEGIN ESXI-RESCUE REPORT-----";
const END_REPORT: &str = "-----END ESXI-RESCUE REPORT-----";
/// How long the drivers of network cards may take to start.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the consoles are looked at for a key.
const KEY_TIMEOUT: Duration = Duration::from_millis(200);

/// Delivers it, the serial consoles last: whoever reads along there knows that all the other
/// deliveries are over.
pub(super) fn deliver(machine: &mut Machine, seen: &Findings, report: &Report) {
    medium::deliver(machine, seen, report);
    to_receiver(machine, report);
    to_serial_consoles(machine, report);
}

fn to_receiver(machine: &mut Machine, report: &Report) {
    let Some(target) = &machine.settings.report else {
        return;
    };
    let to = target.without_query();
    let line = match over_network(machine, &report.to_json()) {
        None => return,
        Some(Ok(delivered)) => Line::new(
            Tone::Good,
            format!("Report   received by {to} ({delivered})"),
        ),
        Some(Err(error)) => Line::new(
            Tone::Warning,
            format!("Report   ! not received by {to}: {error}. The result is not affected."),
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

/// Sends `report` to where the setting `report` says, and shows the progress on the consoles.
/// `None`: the setting says nothing.
fn over_network(machine: &mut Machine, report: &str) -> Option<Result<Delivered, DeliveryError>> {
    let target = machine.settings.report.clone()?;
    let (addressing, boot_card) = addressing_of(machine);
    let delivery = Delivery {
        target,
        pin: machine.settings.report_pin,
        addressing,
        boot_card,
        report: report.to_owned(),
        root: machine.root.clone(),
    };
    start_drivers(machine);
    Some(watch(machine, delivery))
}

/// The setting `network`; a plain `ip=` of the kernel command line counts as given there, unless
/// the setting is given there, too. One that is not understood may be meant for another program,
/// and is passed over with a warning.
fn addressing_of(machine: &mut Machine) -> (Addressing, Option<MacAddress>) {
    let words = command_line_words(&machine.sources.command_line);
    let last = |name: &str| {
        words
            .iter()
            .rfind(|word| word.name == name)?
            .value
            .as_deref()
    };
    let boot_card = last("BOOTIF").and_then(MacAddress::parse_bootif);
    let setting = machine.settings.network.clone();
    let Some(text) =
        last("ip").filter(|_| *machine.settings.origin(Key::Network) != Origin::CommandLine)
    else {
        return (setting, boot_card);
    };
    let addressing = text.parse().unwrap_or_else(|error| {
        let warning = format!("Warning  {}", passed_over(text, &error));
        machine.consoles.show(&Line::new(Tone::Warning, warning));
        setting
    });
    (addressing, boot_card)
}

/// What is said of an `ip=` that is not understood.
pub(crate) fn passed_over(text: &str, error: &AddressingError) -> String {
    format!("ip={text} on the kernel command line is ignored: {error}")
}

fn start_drivers(machine: &mut Machine) {
    machine.devices.start_network();
    let consoles = machine.consoles.clone();
    let deadline = Instant::now() + DRIVER_TIMEOUT;
    machine
        .devices
        .settle(deadline, &mut init::waiting_line(&consoles, deadline));
    consoles.status("");
    machine.times.mark("network_drivers");
}

/// Lets the delivery work on a thread of its own until it is done, time is up, or a key is pressed. A
/// thread that is given up ends with the machine.
fn watch(machine: &mut Machine, delivery: Delivery) -> Result<Delivered, DeliveryError> {
    let consoles = machine.consoles.clone();
    let deadline = Instant::now() + DEADLINE;
    let (tell, progress) = mpsc::channel();
    let (finish, end) = mpsc::sync_channel(1);
    let worker = thread::Builder::new()
        .name("report".to_owned())
        .spawn(move || {
            // Nobody may be listening any more.
            let _ = finish.send(delivery.run(deadline, &tell));
        });
    worker.map_err(|error| DeliveryError::Internal(error.to_string()))?;
    consoles.forget_keys();
    let (mut doing, mut shown) = ("starting".to_owned(), String::new());
    let result = loop {
        doing = progress.try_iter().last().unwrap_or(doing);
        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
        let text = status(&doing, left);
        if text != shown {
            consoles.status(&text);
            shown = text;
        }
        match end.recv_timeout(Duration::ZERO) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Disconnected) => {
                break Err(DeliveryError::Internal("it stopped".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if any_key(&consoles, Some(KEY_TIMEOUT)).is_some() {
            break Err(DeliveryError::Skipped);
        }
    };
    consoles.status("");
    machine.times.mark("report_delivery");
    result
}

fn status(doing: &str, left: u64) -> String {
    let end = format!(". {left} s left; any key skips.");
    let room = WIDTH.saturating_sub(end.len() + "Report: ".len());
    let doing: String = doing.chars().take(room).collect();
    format!("Report: {doing}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_into_a_line() {
        assert_eq!(
            status("asking for an address on eth0", 9),
            "Report: asking for an address on eth0. 9 s left; any key skips."
        );
        assert_eq!(status(&"x".repeat(200), 60).chars().count(), WIDTH);
    }
}
