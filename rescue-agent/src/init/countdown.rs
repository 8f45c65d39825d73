//! The moment in which a person may still say stop.

use std::time::{Duration, Instant};

use super::console::{Consoles, KeyPress};
use super::keys::any_key;

/// How a countdown ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CountdownEnd {
    /// Somebody pressed this key.
    Stopped(KeyPress),
    /// Nobody did.
    Elapsed,
}

/// Counts `total` down on one line of every console; any key stops it. `text` says what is shown
/// while that many seconds are left, in one line. Keys pressed before do not count. A `total` of
/// zero is over at once and shows nothing.
pub fn countdown(
    consoles: &Consoles,
    total: Duration,
    text: impl Fn(u64) -> String,
) -> CountdownEnd {
    if total.is_zero() {
        return CountdownEnd::Elapsed;
    }
    consoles.forget_keys();
    let deadline = Instant::now() + total;
    let end = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break CountdownEnd::Elapsed;
        }
        let seconds = left.as_nanos().div_ceil(Duration::from_secs(1).as_nanos());
        consoles.status(&text(u64::try_from(seconds).unwrap_or(u64::MAX)));
        // Up to the moment when the shown number changes.
        let shown_for = match left.subsec_nanos() {
            0 => Duration::from_secs(1),
            part => Duration::from_nanos(u64::from(part)),
        };
        if let Some(key) = any_key(consoles, Some(shown_for.min(left))) {
            break CountdownEnd::Stopped(key);
        }
    };
    consoles.status("");
    end
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use nix::pty::openpty;
    use nix::sys::termios;

    use super::*;

    fn terminal() -> (File, Consoles) {
        let pair = openpty(None, None).unwrap();
        let mut settings = termios::tcgetattr(&pair.slave).unwrap();
        termios::cfmakeraw(&mut settings);
        termios::tcsetattr(&pair.slave, termios::SetArg::TCSANOW, &settings).unwrap();
        let consoles = Consoles::from_files(vec![("tty0".into(), File::from(pair.slave))]);
        (File::from(pair.master), consoles)
    }

    #[test]
    fn it_elapses_and_rewrites_one_line() {
        let (mut person, consoles) = terminal();
        let begun = Instant::now();
        let end = countdown(&consoles, Duration::from_millis(1700), |left| {
            format!("{left} s")
        });
        assert_eq!(end, CountdownEnd::Elapsed);
        assert!(begun.elapsed() >= Duration::from_millis(1700));
        let expected = b"\r2 s\r1 s\r   \r";
        let mut shown = vec![0; expected.len()];
        person.read_exact(&mut shown).unwrap();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_key_stops_it_but_not_one_from_before() {
        let (mut person, consoles) = terminal();
        person.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(50));
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        // Again and again: a key from before the countdown's beginning does not count.
        let presser = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(150));
                person.write_all(b" ").unwrap();
            }
        });
        let begun = Instant::now();
        let end = countdown(&consoles, Duration::from_secs(20), |left| left.to_string());
        over.store(true, Ordering::Relaxed);
        let CountdownEnd::Stopped(key) = end else {
            unreachable!("a key was pressed")
        };
        assert_eq!(key.character(), Some(' '));
        assert!((100..15_000).contains(&begun.elapsed().as_millis()));
        presser.join().unwrap();
    }

    #[test]
    fn what_stops_it_is_taken_whole() {
        let (mut person, consoles) = terminal();
        let presser = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            for part in [&b"\x1b["[..], b"A"] {
                person.write_all(part).unwrap();
                thread::sleep(Duration::from_millis(300));
            }
            person
        });
        let end = countdown(&consoles, Duration::from_secs(20), |left| left.to_string());
        assert!(matches!(end, CountdownEnd::Stopped(key) if key.bytes == b"\x1b[A"));
        assert_eq!(consoles.wait_key(Some(Duration::from_millis(500))), None);
        drop(presser.join().unwrap());
    }

    #[test]
    fn zero_is_over_at_once() {
        let consoles = Consoles::from_files(Vec::new());
        let end = countdown(&consoles, Duration::ZERO, |_| {
            unreachable!("nothing is shown")
        });
        assert_eq!(end, CountdownEnd::Elapsed);
    }
}
