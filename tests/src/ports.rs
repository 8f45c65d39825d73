//! Ports to listen on, for programs that are told a port before they listen on it.

use std::net::TcpListener;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Below the range from which the kernel takes the ports of connections (32768 and up), or a connection of another test
/// could take the port first.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A port that nothing listens on at any address, a different one each time in one process.
///
/// # Errors
/// When there is none.
pub fn free() -> Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Tests of two programs that run at once begin at different places.
    let start = process::id().wrapping_mul(97);
    (0..COUNT)
        .map(|_| start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)))
        .filter_map(|number| u16::try_from(FIRST + number % COUNT).ok())
        .find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .context("no port is free")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::free;

    #[test]
    fn a_port_is_given_once_and_can_be_listened_on() {
        let (first, second) = (free().unwrap(), free().unwrap());
        assert_ne!(first, second);
        for port in [first, second] {
            // A program that another test is just starting has a copy of the listener that tried the port.
            let end = Instant::now() + Duration::from_secs(20);
            while TcpListener::bind(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < end, "port {port} is not free");
            }
        }
    }
}
