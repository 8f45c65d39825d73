//! Who may hold a connection: a number of places in all, and a number for each address, so that nobody
//! keeps the others out.
//!
//! Where an address has all its places, the connection of that address that has been silent longest gives
//! way to the new one, if it has been silent for a while; otherwise the new one is turned away. Where all
//! places are taken, the address with the most connections gives one up in the same way.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A connection that has been silent for less than this keeps its place.
const BUSY: Duration = Duration::from_secs(2);

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// In all.
    pub total: usize,
    /// Of one address.
    pub of_address: usize,
}

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    numbers: Numbers,
    held: Mutex<HashMap<u64, Held>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Held {
    address: IpAddr,
    activity: Arc<Activity>,
}

/// When a connection last moved a byte, and whether it has to go.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last: AtomicU64,
    leave: Notify,
}

impl Activity {
    fn new() -> Activity {
        Activity {
            start: Instant::now(),
            last: AtomicU64::new(0),
            leave: Notify::new(),
        }
    }

    /// A byte moved.
    pub fn mark(&self) {
        self.last.store(self.since_start(), Ordering::Relaxed);
    }

    /// How long none has.
    pub fn silence(&self) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(self.since_start().saturating_sub(last))
    }

    fn since_start(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Comes back when the connection has to give way.
    pub async fn has_to_leave(&self) {
        self.leave.notified().await;
    }
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    id: u64,
    /// Of the connection that holds it.
    pub activity: Arc<Activity>,
}

impl Places {
    /// Places of which none is taken.
    pub fn new(numbers: Numbers) -> Arc<Places> {
        Arc::new(Places {
            numbers,
            held: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// A place for a connection from this address; none where it has to be turned away.
    pub fn take(self: &Arc<Places>, from: IpAddr) -> Option<Place> {
        let address = group(from);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = held.values().filter(|h| h.address == address).count();
        if of_address >= self.numbers.of_address {
            free_one(&mut held, address)?;
        } else if held.len() >= self.numbers.total {
            let most = with_most(&held)?;
            free_one(&mut held, most)?;
        }
        let activity = Arc::new(Activity::new());
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        held.insert(
            id,
            Held {
                address,
                activity: Arc::clone(&activity),
            },
        );
        Some(Place {
            places: Arc::clone(self),
            id,
            activity,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held.lock();
        held.as_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut())
            .remove(&self.id);
    }
}

/// Ends the connection of an address that has been silent longest, if it has been for a while.
fn free_one(held: &mut HashMap<u64, Held>, address: IpAddr) -> Option<()> {
    let (id, _) = held
        .iter()
        .filter(|(_, held)| held.address == address && held.activity.silence() >= BUSY)
        .max_by_key(|(_, held)| held.activity.silence())?;
    let id = *id;
    held.remove(&id)?.activity.leave.notify_one();
    Some(())
}

fn with_most(held: &HashMap<u64, Held>) -> Option<IpAddr> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for held in held.values() {
        *counts.entry(held.address).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(address, _)| address)
}

/// What counts as one address: of IPv6 the network that one subscriber gets.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbers = Numbers {
        total: 10,
        of_address: 4,
    };

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// As if the connection had been silent for a while.
    fn silence(place: &Place) {
        let mut held = place.places.held.lock().unwrap();
        let long_ago = Instant::now().checked_sub(BUSY * 2).unwrap();
        held.get_mut(&place.id).unwrap().activity = Arc::new(Activity {
            start: long_ago,
            last: AtomicU64::new(0),
            leave: Notify::new(),
        });
    }

    #[test]
    fn an_address_has_its_own_number_of_places() {
        let places = Places::new(NUMBERS);
        let held: Vec<_> = (0..4).map(|_| places.take(address(1)).unwrap()).collect();
        assert!(places.take(address(1)).is_none());
        assert!(places.take(address(2)).is_some());
        drop(held);
        assert!(places.take(address(1)).is_some());
        assert!(places.held.lock().unwrap().is_empty());
    }

    #[test]
    fn the_silent_give_way_and_the_busy_do_not() {
        let places = Places::new(NUMBERS);
        let held: Vec<_> = (0..4).map(|_| places.take(address(1)).unwrap()).collect();
        silence(&held[2]);
        assert!(places.take(address(1)).is_some());
        let ids: Vec<u64> = places.held.lock().unwrap().keys().copied().collect();
        assert!(!ids.contains(&held[2].id) && ids.contains(&held[0].id));
    }

    #[test]
    fn when_all_places_are_taken_the_greediest_gives_one_up() {
        let places = Places::new(NUMBERS);
        let greedy: Vec<_> = (0..8)
            .map(|n| places.take(address(n % 2)).unwrap())
            .collect();
        let modest: Vec<_> = (2..4).map(|n| places.take(address(n)).unwrap()).collect();
        assert!(places.take(address(9)).is_none(), "all of them are busy");
        greedy.iter().chain(&modest).for_each(silence);
        let place = places.take(address(9));
        assert!(place.is_some());
        let held = places.held.lock().unwrap();
        assert!(modest.iter().all(|place| held.contains_key(&place.id)));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let of = |text: &str| group(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), address(1));
    }
}
