//! How a report is delivered: interfaces come up, addresses arrive, and one after the other is tried
//! until the receiver has the report.
//!
//! A server has several cards, and only some lead to the receiver. Each gets its chance: those with
//! a signal are asked for an address at the same time, and every address is tried on its own, with
//! the others taken away, so that the kernel has no choice of ways.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::dhcp::Client;
use super::ioctl::Interfaces;
use super::links::{Link, links};
use super::post::{PostError, post};
use super::{Delivered, DeliveryError};
use crate::host::PciFunction;
use crate::settings::addressing::{Addressing, FixedAddress, MacAddress};
use crate::settings::target::{Pin, Target};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(15);
/// The pause after the first failed attempt on an address; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How long a network card may take to come. Its driver has started when this begins.
const CARD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the cards are looked at.
const TICK: Duration = Duration::from_millis(20);
/// PCI class of network controllers (`PCI_BASE_CLASS_NETWORK`).
const PCI_NETWORK: u8 = 0x02;

/// What is to be delivered, and how.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Where to.
    pub(crate) target: Target,
    /// The certificate that the receiver must show.
    pub(crate) pin: Option<Pin>,
    /// How to get an address.
    pub(crate) addressing: Addressing,
    /// The card that the machine was started from by the network.
    pub(crate) boot_card: Option<MacAddress>,
    /// The report.
    pub(crate) report: String,
    /// Where `/` is.
    pub(crate) root: PathBuf,
}

/// An address of this machine that may lead to the receiver.
#[derive(Debug)]
struct Way {
    interface: String,
    address: FixedAddress,
    name_servers: Vec<Ipv4Addr>,
    next_try: Instant,
    pause: Duration,
}

/// What is going on.
struct Session<'a> {
    delivery: &'a Delivery,
    kernel: Interfaces,
    /// Interfaces with a question for an address under way; none for those that could not ask.
    clients: BTreeMap<String, Option<Client>>,
    ways: Vec<Way>,
    /// The interface that has its address now.
    active: Option<String>,
    attempts: u32,
    failure: Option<DeliveryError>,
}

impl Delivery {
    /// Works until the report is delivered, cannot be, or `deadline` has come.
    pub(crate) fn run(
        &self,
        deadline: Instant,
        tell: &Sender<String>,
    ) -> Result<Delivered, DeliveryError> {
        let kernel =
            Interfaces::open().map_err(|error| DeliveryError::Internal(error.to_string()))?;
        let mut session = Session {
            delivery: self,
            kernel,
            clients: BTreeMap::new(),
            ways: Vec::new(),
            active: None,
            attempts: 0,
            failure: None,
        };
        // Whoever watched may have given up.
        let tell = |text: String| drop(tell.send(text));
        let begun = Instant::now();
        loop {
            let links = session.look();
            let hopeless = links.is_empty() && begun.elapsed() >= CARD_TIMEOUT;
            if hopeless || Instant::now() >= deadline {
                return Err(session.give_up(&links));
            }
            if let Some(delivered) = session.try_next(deadline, &tell)? {
                return Ok(delivered);
            }
            tell(session.waiting_for(&links));
            thread::sleep(TICK);
        }
    }

    /// The links that may be used: the one that is named, or the one that the machine was started
    /// from, or all.
    fn usable(&self, mut links: Vec<Link>) -> Vec<Link> {
        if let Some(name) = &self.addressing.interface {
            links.retain(|link| link.name == *name);
        } else if links.iter().any(|link| Some(link.mac) == self.boot_card) {
            links.retain(|link| Some(link.mac) == self.boot_card);
        }
        links
    }
}

impl Session<'_> {
    /// Switches on what is there, asks for addresses where there is a signal, takes what was given.
    fn look(&mut self) -> Vec<Link> {
        let links = self.delivery.usable(links(&self.delivery.root));
        for link in &links {
            if !link.carrier {
                // Nothing is lost if it is on already, and one that cannot be stays without signal.
                let _ = self.kernel.switch_on(&link.name);
            } else if !self.clients.contains_key(&link.name) {
                self.begin(link);
            }
        }
        let mut given = Vec::new();
        for (name, slot) in &mut self.clients {
            if let Some(lease) = slot.as_mut().and_then(Client::poll) {
                *slot = None;
                given.push((name.clone(), lease));
            }
        }
        for (name, lease) in given {
            self.add_way(name, lease.address, lease.name_servers);
        }
        links
    }

    fn begin(&mut self, link: &Link) {
        let client = match self.delivery.addressing.fixed {
            Some(address) => {
                self.add_way(link.name.clone(), address, Vec::new());
                None
            }
            None => match Client::open(&link.name, link.mac) {
                Ok(client) => Some(client),
                Err(error) => {
                    let problem = format!("{}: no packet socket: {error}", link.name);
                    self.failure = Some(DeliveryError::Internal(problem));
                    None
                }
            },
        };
        self.clients.insert(link.name.clone(), client);
    }

    fn add_way(&mut self, interface: String, address: FixedAddress, given: Vec<Ipv4Addr>) {
        let mut name_servers = self.delivery.addressing.name_servers.clone();
        name_servers.extend(given);
        self.ways.push(Way {
            interface,
            address,
            name_servers,
            next_try: Instant::now(),
            pause: FIRST_PAUSE,
        });
    }

    /// Tries the way whose turn it is, if it is any's.
    fn try_next(
        &mut self,
        deadline: Instant,
        tell: &dyn Fn(String),
    ) -> Result<Option<Delivered>, DeliveryError> {
        let now = Instant::now();
        let due = self
            .ways
            .iter()
            .enumerate()
            .filter(|(_, way)| way.next_try <= now);
        let Some(index) = due
            .min_by_key(|(_, way)| way.next_try)
            .map(|(index, _)| index)
        else {
            return Ok(None);
        };
        let way = self.ways.remove(index);
        tell(format!(
            "sending by {} ({})",
            way.interface, way.address.address
        ));
        let outcome = self.attempt(&way, deadline.saturating_duration_since(now).min(ATTEMPT));
        match outcome {
            Ok(delivered) => return Ok(Some(delivered)),
            Err(DeliveryError::NotTaken { error, attempts }) if !error.may_pass() => {
                return Err(DeliveryError::NotTaken { error, attempts });
            }
            Err(error) => self.failure = Some(error),
        }
        self.ways.push(Way {
            next_try: Instant::now() + way.pause,
            pause: (way.pause * 2).min(LONGEST_PAUSE),
            ..way
        });
        Ok(None)
    }

    fn attempt(&mut self, way: &Way, timeout: Duration) -> Result<Delivered, DeliveryError> {
        self.activate(way).map_err(|error| DeliveryError::Refused {
            interface: way.interface.clone(),
            address: way.address,
            problem: error.to_string(),
        })?;
        self.attempts += 1;
        let delivery = self.delivery;
        match post(
            &delivery.target,
            delivery.pin,
            &way.name_servers,
            &delivery.report,
            timeout,
        ) {
            Ok(accepted) => Ok(Delivered {
                status: accepted.status,
                interface: way.interface.clone(),
                address: way.address,
                attempts: self.attempts,
            }),
            Err(error) => Err(self.not_taken(error)),
        }
    }

    fn not_taken(&self, error: PostError) -> DeliveryError {
        DeliveryError::NotTaken {
            error,
            attempts: self.attempts,
        }
    }

    /// Makes the way the only one that the kernel knows.
    fn activate(&mut self, way: &Way) -> Result<(), Errno> {
        if self.active.as_ref() == Some(&way.interface) {
            return Ok(());
        }
        if let Some(other) = self.active.take() {
            self.kernel.set_address(&other, Ipv4Addr::UNSPECIFIED)?;
        }
        let FixedAddress {
            address, gateway, ..
        } = way.address;
        self.kernel.set_address(&way.interface, address)?;
        self.kernel
            .set_netmask(&way.interface, way.address.netmask())?;
        self.active = Some(way.interface.clone());
        match gateway.map(|gateway| self.kernel.add_default_route(&way.interface, gateway)) {
            // It may stand since an earlier report of this start.
            None | Some(Ok(()) | Err(Errno::EEXIST)) => Ok(()),
            // A gateway outside of its own network helps nobody, and may not be needed.
            Some(Err(Errno::ENETUNREACH)) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    fn waiting_for(&self, links: &[Link]) -> String {
        let with_signal: Vec<&str> = links
            .iter()
            .filter(|link| link.carrier)
            .map(|link| link.name.as_str())
            .collect();
        match (&self.failure, self.ways.is_empty()) {
            (Some(DeliveryError::NotTaken { error, .. }), _) => format!("trying again: {error}"),
            (_, false) => "trying again".to_owned(),
            _ if links.is_empty() => "waiting for a network card".to_owned(),
            _ if with_signal.is_empty() => "waiting for a signal on the network".to_owned(),
            _ => format!("asking for an address on {}", with_signal.join(", ")),
        }
    }

    /// What kept the report from being delivered, most telling first.
    fn give_up(&mut self, links: &[Link]) -> DeliveryError {
        if let Some(failure) = self.failure.take() {
            return failure;
        }
        let names = |links: &[Link]| links.iter().map(|link| link.name.clone()).collect();
        if let (Some(wanted), true) = (&self.delivery.addressing.interface, links.is_empty()) {
            let present = names(&super::links::links(&self.delivery.root));
            return DeliveryError::NoSuchInterface {
                wanted: wanted.clone(),
                present,
            };
        }
        if links.is_empty() {
            return DeliveryError::NoCard {
                without_driver: self.cards_without_driver(),
            };
        }
        let with_signal: Vec<Link> = links.iter().filter(|link| link.carrier).cloned().collect();
        if with_signal.is_empty() {
            DeliveryError::NoSignal(names(links))
        } else {
            DeliveryError::NoAddress(names(&with_signal))
        }
    }

    fn cards_without_driver(&self) -> Vec<String> {
        let functions = PciFunction::all(&self.delivery.root).into_iter();
        let without_driver = functions
            .filter(|function| function.class.base() == PCI_NETWORK && function.driver.is_none());
        without_driver
            .map(|function| format!("{} {}", function.address, function.id))
            .collect()
    }
}
