//! Sends the report to a receiver on the network, after the work is done.
//!
//! The wired network is brought up only now. A [`Delivery`] says where the report goes and how; it runs
//! until the deadline of its caller at most, who gives it a thread of its own.
//!
//! Out of scope: consoles, drivers and keys; what is in the report; wireless networks, VLANs, IPv6 and proxies.

mod dhcp;
pub(crate) mod dns;
mod ioctl;
mod links;
pub mod post;
mod session;
pub mod tls;

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::settings::addressing::FixedAddress;
use post::PostError;
pub(crate) use session::Delivery;

/// How long a report may take in all, once the drivers are there.
pub const DEADLINE: Duration = Duration::from_secs(60);

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
         and see the image's list of drivers", cards(.without_driver)
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
    /// The receiver does not handle it.
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

fn cards(cards: &[String]) -> String {
    if cards.is_empty() {
        "the machine shows none".to_owned()
    } else {
        format!("without a driver: {}", cards.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
