//! Keys from what terminals send for them: a screen's keyboard and a serial line alike.
//!
//! Source: Linux `console_codes(4)` and ECMA-48 for the sequences; what is unknown is no key.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use super::console::{Consoles, KeyPress};

/// How long is waited for the bytes after an Escape, which may be a key by itself. A person does not
/// notice it.
const AFTER_ESCAPE: Duration = Duration::from_millis(100);

/// How long is waited for the rest of what is no key by itself.
const REST: Duration = Duration::from_secs(1);

/// How long after that the rest still belongs to it, on a line that stood still. Alone it would be a letter, and
/// a letter may be what starts the repair.
const LATE_REST: Duration = Duration::from_secs(5);

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A letter, digit or sign; letters are small ones.
    Character(char),
    /// Enter.
    Enter,
    /// Escape by itself.
    Escape,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// The one left of it all.
    Backspace,
}

/// The keys in what a terminal sent. A line feed after a carriage return is the same Enter.
#[must_use]
pub fn decode(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let (key, length) = match first {
            0x1b => escape_sequence(after),
            b'\r' => (Some(Key::Enter), usize::from(after.first() == Some(&b'\n'))),
            b'\n' => (Some(Key::Enter), 0),
            0x08 | 0x7f => (Some(Key::Backspace), 0),
            b' '..=b'~' => {
                let character = char::from(first.to_ascii_lowercase());
                (Some(Key::Character(character)), 0)
            }
            _ => (None, 0),
        };
        keys.extend(key);
        rest = &after[length.min(after.len())..];
    }
    keys
}

/// The key of the bytes after an Escape, and how many of them belong to it.
fn escape_sequence(after: &[u8]) -> (Option<Key>, usize) {
    let (Some(b'[' | b'O'), Some(rest)) = (after.first(), after.get(1..)) else {
        return (Some(Key::Escape), 0);
    };
    // Parameters, then one byte that says what it is.
    let parameters = rest
        .iter()
        .take_while(|byte| (0x20..0x40).contains(*byte))
        .count();
    let length = (1 + parameters + 1).min(after.len());
    let key = match (rest.get(..parameters), rest.get(parameters)) {
        (_, Some(b'A')) => Some(Key::Up),
        (_, Some(b'B')) => Some(Key::Down),
        (_, Some(b'H')) | (Some(b"1" | b"7"), Some(b'~')) => Some(Key::Home),
        (_, Some(b'F')) | (Some(b"4" | b"8"), Some(b'~')) => Some(Key::End),
        (Some(b"5"), Some(b'~')) => Some(Key::PageUp),
        (Some(b"6"), Some(b'~')) => Some(Key::PageDown),
        _ => None,
    };
    (key, length)
}

/// The bytes at the end that are the beginning of a key; none if all are whole.
fn unfinished(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().rposition(|byte| *byte == 0x1b);
    let key = start.and_then(|start| bytes.get(start..)).unwrap_or(&[]);
    match key {
        [_] | [_, b'[' | b'O'] => key,
        [_, b'[', rest @ ..] if rest.iter().all(|byte| (0x20..0x40).contains(byte)) => key,
        _ => &[],
    }
}

/// A key whose rest did not come in time.
#[derive(Debug)]
struct Cut {
    console: String,
    bytes: Vec<u8>,
    since: Instant,
}

impl Cut {
    /// Whether these bytes are its rest.
    fn goes_on_with(&self, press: &KeyPress) -> bool {
        let fits = match self.bytes.as_slice() {
            [_] => matches!(press.bytes.first(), Some(b'[' | b'O')),
            _ => true,
        };
        fits && self.console == press.console && self.since.elapsed() < LATE_REST
    }
}

/// Waits for any key, for `timeout` at most, and takes all of its bytes: the last one of an arrow would be a letter
/// for the menu that opens next.
pub fn any_key(consoles: &Consoles, timeout: Option<Duration>) -> Option<KeyPress> {
    let mut press = consoles.wait_key(timeout)?;
    while !unfinished(&press.bytes).is_empty() {
        let Some(more) = consoles.wait_key(Some(REST)) else {
            break;
        };
        press.bytes.extend_from_slice(&more.bytes);
    }
    Some(press)
}

/// Keys one after the other, from every console.
#[derive(Debug)]
pub struct Keyboard {
    consoles: Consoles,
    waiting: VecDeque<(Key, String)>,
    cut: Option<Cut>,
}

impl Keyboard {
    /// The keyboards of these consoles. What was pressed before does not count.
    #[must_use]
    pub fn new(consoles: &Consoles) -> Self {
        consoles.forget_keys();
        Self {
            consoles: consoles.clone(),
            waiting: VecDeque::new(),
            cut: None,
        }
    }

    /// The next key, and the name of the console it came from; waits as long as it takes.
    pub fn next_key(&mut self) -> (Key, String) {
        loop {
            if let Some(key) = self.waiting.pop_front() {
                return key;
            }
            if let Some(press) = self.consoles.wait_key(None) {
                self.take(press);
            }
        }
    }

    /// Overwrites what was pressed and still waits: it was a secret. Buffers that grew meanwhile are not reached.
    pub fn forget(&mut self) {
        let places = self.waiting.capacity();
        self.waiting.clear();
        let nothing = || (Key::Escape, String::new());
        self.waiting
            .extend(std::iter::repeat_with(nothing).take(places));
        self.waiting.clear();
    }

    fn take(&mut self, mut press: KeyPress) {
        loop {
            if let Some(mut cut) = self.cut.take_if(|cut| cut.goes_on_with(&press)) {
                cut.bytes.extend_from_slice(&press.bytes);
                press.bytes.zeroize();
                press.bytes = cut.bytes;
            }
            let time = match unfinished(&press.bytes) {
                [] => break,
                [_] => AFTER_ESCAPE,
                _ => REST,
            };
            match self.consoles.wait_key(Some(time)) {
                Some(more) if more.console == press.console => {
                    press.bytes.extend_from_slice(&more.bytes);
                }
                Some(other) => {
                    self.cut_off(&press);
                    press = other;
                }
                None => return self.cut_off(&press),
            }
        }
        self.put(&press);
    }

    fn cut_off(&mut self, press: &KeyPress) {
        self.put(press);
        self.cut = Some(Cut {
            console: press.console.clone(),
            bytes: unfinished(&press.bytes).to_vec(),
            since: Instant::now(),
        });
    }

    fn put(&mut self, press: &KeyPress) {
        let mut keys = decode(&press.bytes);
        let with_name = keys.iter().map(|key| (*key, press.console.clone()));
        self.waiting.extend(with_name);
        // They may be a secret.
        keys.fill(Key::Escape);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::thread;

    use nix::pty::openpty;
    use nix::sys::termios;

    use super::*;

    #[test]
    fn keys_are_told_from_what_terminals_send() {
        use Key::{Backspace, Character, Down, End, Enter, Escape, Home, PageDown, PageUp, Up};
        let cases: [(&[u8], &[Key]); 15] = [
            (b"a", &[Character('a')]),
            (b"A2", &[Character('a'), Character('2')]),
            (b"\r", &[Enter]),
            (b"\r\n", &[Enter]),
            (b"\n\r", &[Enter, Enter]),
            (b"\x1b[A\x1b[B", &[Up, Down]),
            (b"\x1bOA", &[Up]),
            (b"\x1b[1;5A", &[Up]),
            (b"\x1b[5~\x1b[6~", &[PageUp, PageDown]),
            (b"\x1b[H\x1b[1~\x1b[F\x1b[4~", &[Home, Home, End, End]),
            (b"\x1b", &[Escape]),
            (b"\x1bq", &[Escape, Character('q')]),
            (b"\x1b[", &[]),
            (b"\x1b[99;99;99", &[]),
            (b"\x7f\x08\0\x01\xff", &[Backspace, Backspace]),
        ];
        for (bytes, keys) in cases {
            assert_eq!(decode(bytes), keys, "{}", bytes.escape_ascii());
        }
    }

    /// What a keyboard makes of bytes that come in parts, so long one after the other.
    fn in_parts(parts: &'static [&'static [u8]], pause: Duration) -> Vec<Key> {
        let pair = openpty(None, None).unwrap();
        let mut raw = termios::tcgetattr(&pair.slave).unwrap();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&pair.slave, termios::SetArg::TCSANOW, &raw).unwrap();
        let consoles = Consoles::from_files(vec![("ttyS0".into(), File::from(pair.slave))]);
        let mut keyboard = Keyboard::new(&consoles);
        let mut person = File::from(pair.master);
        let presser = thread::spawn(move || {
            for part in parts {
                person.write_all(part).unwrap();
                thread::sleep(pause);
            }
            person
        });
        let mut keys = Vec::new();
        while keys.last() != Some(&Key::Enter) {
            let (key, console) = keyboard.next_key();
            assert_eq!(console, "ttyS0");
            keys.push(key);
        }
        drop(presser.join().unwrap());
        keys
    }

    #[test]
    fn a_key_may_arrive_in_parts() {
        use Key::{Character, Down, Enter, Up};
        let parts: &[&[u8]] = &[b"\x1b", b"[", b"Ax", b"\x1bO", b"B\r"];
        let mut keys = in_parts(parts, Duration::from_millis(20));
        // A busy machine may take longer after an Escape, which is a key by itself then.
        keys.retain(|key| *key != Key::Escape);
        assert_eq!(keys, [Up, Character('x'), Down, Enter]);
    }

    #[test]
    fn a_key_that_arrives_very_slowly_never_becomes_a_letter() {
        use Key::{Character, Enter, Escape, Up};
        let parts: &[&[u8]] = &[b"\x1b", b"[A", b"\x1b[", b"A", b"a\r"];
        let keys = in_parts(parts, REST + AFTER_ESCAPE);
        assert_eq!(keys, [Escape, Up, Up, Character('a'), Enter]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_arrives_makes_it_panic(bytes in proptest::collection::vec(0_u8.., 0..40)) {
            let _ = (decode(&bytes), unfinished(&bytes));
        }
    }
}
