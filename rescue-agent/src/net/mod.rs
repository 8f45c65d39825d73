//! Sends the report to a receiver on the network, after the work is done.
//!
//! The wired network is brought up only now and only if somebody set `report`. Nothing here can
//! change the result or hold up the machine for longer than [`DEADLINE`]: all of it runs on a
//! thread of its own, and any key skips it.
//!
//! Out of scope: what is in the report; wireless networks, VLANs, IPv6 and proxies.

pub mod dhcp;
pub mod dns;
mod ioctl;
pub mod links;
pub mod post;
mod session;
pub mod tls;

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::init::{self, Machine};
use crate::report::{Line, Tone, WIDTH};
use crate::settings::addressing::{Addressing, AddressingError, FixedAddress, MacAddress};
use crate::settings::{Key, Origin, command_line_words};
use post::PostError;
use session::Task;

/// How long a report may take in all, once the drivers are there.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How long the drivers of network cards may take to start.
const DRIVER_PATIENCE: Duration = Duration::from_secs(20);
/// How often the consoles are looked at for a key.
const KEY_PATIENCE: Duration = Duration::from_millis(200);

/// A report that its receiver has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The interface that led there.
    pub interface: String,
    /// The machine's address on it.
    pub address: FixedAddress,
    /// How often it was tried.
    pub attempts: u32,
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Delivered {
            status,
            interface,
            address,
            ..
        } = self;
        write!(
            f,
            "HTTP {status}, by {interface} with the address {}",
            address.address
        )?;
        match self.attempts {
            0 | 1 => Ok(()),
            attempts => write!(f, ", at attempt {attempts}"),
        }
    }
}

/// Why a report was not delivered. Never a reason to doubt the repair.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// There is no network card with a driver.
    #[error(
        "no wired network card is ready ({}); check that the machine was started with initrd-net.img \
         and see the image's list of drivers", undriven(.without_driver)
    )]
    NoCard {
        /// The network cards that no driver runs.
        without_driver: Vec<String>,
    },
    /// The interface that was asked for is not there.
    #[error("there is no network interface {wanted}; there are: {}", list(.present))]
    NoSuchInterface {
        /// What the setting names.
        wanted: String,
        /// What there is.
        present: Vec<String>,
    },
    /// No cable, or nothing at its other end.
    #[error("no signal on {}; check cable and switch port", list(.0))]
    NoSignal(Vec<String>),
    /// Nobody gives addresses.
    #[error(
        "no DHCP server gave an address on {} in {} s; give one in the setting network",
        list(.0), DEADLINE.as_secs()
    )]
    NoAddress(Vec<String>),
    /// The kernel refuses the address.
    #[error("the address {address} could not be set on {interface}: {problem}")]
    Refused {
        /// The interface.
        interface: String,
        /// The address.
        address: FixedAddress,
        /// What the kernel said.
        problem: String,
    },
    /// The receiver did not take it.
    #[error("{error} ({attempts} {})", if *attempts == 1 { "attempt" } else { "attempts" })]
    NotTaken {
        /// Why not, at the last attempt.
        error: PostError,
        /// How often it was tried.
        attempts: u32,
    },
    /// Somebody pressed a key.
    #[error("skipped by a key")]
    Skipped,
    /// The program failed.
    #[error("the part of this program that sends it failed: {0}")]
    Internal(String),
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn undriven(cards: &[String]) -> String {
    if cards.is_empty() {
        "the machine shows none".to_owned()
    } else {
        format!("without a driver: {}", cards.join(", "))
    }
}

/// Sends `report` to where the setting `report` says, and shows the progress on the consoles.
/// `None`: the setting says nothing.
pub fn deliver(machine: &mut Machine, report: &str) -> Option<Result<Delivered, DeliveryError>> {
    let target = machine.settings.report.clone()?;
    let (addressing, boot_card) = addressing_of(machine);
    let task = Task {
        target,
        pin: machine.settings.report_pin,
        addressing,
        boot_card,
        report: report.to_owned(),
        root: machine.root.clone(),
    };
    start_drivers(machine);
    Some(watch(machine, task))
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
    format!("ip={text} on the kernel command line is passed over: {error}")
}

fn start_drivers(machine: &mut Machine) {
    machine.devices.start_network();
    let consoles = machine.consoles.clone();
    let deadline = Instant::now() + DRIVER_PATIENCE;
    machine
        .devices
        .settle(deadline, &mut init::waiting_line(&consoles, deadline));
    consoles.status("");
    machine.times.mark("network_drivers");
}

/// Lets the task work on a thread of its own until it is done, time is up, or a key is pressed. A
/// thread that is given up ends with the machine.
fn watch(machine: &mut Machine, task: Task) -> Result<Delivered, DeliveryError> {
    let consoles = machine.consoles.clone();
    let deadline = Instant::now() + DEADLINE;
    let (tell, progress) = mpsc::channel();
    let (finish, end) = mpsc::sync_channel(1);
    let worker = thread::Builder::new()
        .name("report".to_owned())
        .spawn(move || {
            // Nobody may be listening any more.
            let _ = finish.send(task.run(deadline, &tell));
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
        if consoles.wait_key(Some(KEY_PATIENCE)).is_some() {
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

    #[test]
    fn every_failure_says_what_to_do_or_what_is_there() {
        let error = DeliveryError::NoCard {
            without_driver: vec!["0000:03:00.0 14e4:16d7".into()],
        };
        assert!(
            error
                .to_string()
                .contains("without a driver: 0000:03:00.0 14e4:16d7")
        );
        let error = DeliveryError::NoSuchInterface {
            wanted: "eth7".into(),
            present: Vec::new(),
        };
        assert_eq!(
            error.to_string(),
            "there is no network interface eth7; there are: none"
        );
        let error = DeliveryError::NotTaken {
            error: PostError::Refused {
                at: "10.0.0.1:80".into(),
            },
            attempts: 3,
        };
        assert!(error.to_string().ends_with("(3 attempts)"));
    }
}
