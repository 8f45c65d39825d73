//! Keys from what terminals send for them: a screen's keyboard and a serial line alike.
//!
//! Source: Linux `console_codes(4)` and ECMA-48 for the sequences; what is unknown is no key.

use std::collections::VecDeque;
use std::time::Duration;

use super::console::{Consoles, KeyPress};

/// How long the rest of a key's bytes may take on a slow line. A person who presses Escape alone
/// does not notice it.
const REST: Duration = Duration::from_millis(100);

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

/// Whether bytes end in the middle of a key.
fn is_unfinished(bytes: &[u8]) -> bool {
    let Some(start) = bytes.iter().rposition(|byte| *byte == 0x1b) else {
        return false;
    };
    match bytes.get(start + 1..) {
        Some([]) | Some([b'[' | b'O']) => true,
        Some([b'[', rest @ ..]) => rest.iter().all(|byte| (0x20..0x40).contains(byte)),
        _ => false,
    }
}

/// Keys one after the other, from every console.
#[derive(Debug)]
pub struct Keyboard {
    consoles: Consoles,
    waiting: VecDeque<(Key, String)>,
}

impl Keyboard {
    /// The keyboards of these consoles. What was pressed before does not count.
    #[must_use]
    pub fn new(consoles: &Consoles) -> Self {
        consoles.forget_keys();
        Self {
            consoles: consoles.clone(),
            waiting: VecDeque::new(),
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
        while is_unfinished(&press.bytes) {
            match self.consoles.wait_key(Some(REST)) {
                Some(more) if more.console == press.console => {
                    press.bytes.extend_from_slice(&more.bytes);
                }
                Some(other) => {
                    self.put(&press);
                    press = other;
                }
                None => break,
            }
        }
        self.put(&press);
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

    #[test]
    fn a_key_may_arrive_in_parts() {
        let pair = openpty(None, None).unwrap();
        let mut raw = termios::tcgetattr(&pair.slave).unwrap();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&pair.slave, termios::SetArg::TCSANOW, &raw).unwrap();
        let consoles = Consoles::from_files(vec![("ttyS0".into(), File::from(pair.slave))]);
        let mut keyboard = Keyboard::new(&consoles);
        let mut person = File::from(pair.master);
        let presser = thread::spawn(move || {
            for part in [&b"\x1b"[..], b"[", b"Ax"] {
                person.write_all(part).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
            person
        });
        assert_eq!(keyboard.next_key(), (Key::Up, "ttyS0".into()));
        assert_eq!(keyboard.next_key().0, Key::Character('x'));
        drop(presser.join().unwrap());
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_arrives_makes_it_panic(bytes in proptest::collection::vec(0_u8.., 0..40)) {
            let _ = (decode(&bytes), is_unfinished(&bytes));
        }
    }
}
