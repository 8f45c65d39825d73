//! The recovery key of a host, as ESXi shows it (`esxcli system settings encryption recovery list`): 16
//! groups of six digits.
//!
//! Scope: reading it, and naming a mistake in it by the number of the group. Whether it is the key of an
//! archive only the archive can say ([`super::envelope`]). VMware does not document what it opens.
//!
//! A group is `11 * v + n`, where `v` are 16 bits of the key and `n` is the group's number from 0, modulo
//! 11: a mistyped group shows, and so do two that were swapped, unless their numbers differ by 11.
//! Source: measured on two published keys, all 24 groups of which fit. The order of the two bytes of
//! `v` is not known, so both are tried.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroizing;

use super::keystore::Key;

/// How many groups a key has.
pub const GROUPS: usize = 16;
/// How many digits a group has.
pub const GROUP_DIGITS: usize = 6;
/// What a group counts its 16 bits by, so that the remainder is left for its number.
const STEP: u32 = 11;

/// A recovery key. Never printed; wiped from memory with its last clone.
#[derive(Clone)]
pub struct RecoveryKey(Arc<[Key; 2]>);

/// What is wrong with the text of a recovery key. It repeats nothing of that text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecoveryKeyError {
    /// A character that is no digit, or a group of another length.
    #[error("the recovery key: group {number} is not six digits")]
    NotSixDigits {
        /// Number of the group, from 1.
        number: usize,
    },
    /// Too few or too many groups.
    #[error("the recovery key has {found} groups of digits, not {GROUPS}")]
    Count {
        /// How many there are.
        found: usize,
    },
    /// The group's own check fails.
    #[error("the recovery key: group {number} is wrong, a digit in it is mistyped")]
    Group {
        /// Number of the first such group, from 1.
        number: usize,
    },
    /// Two groups fit each in the place of the other.
    #[error("the recovery key: groups {first} and {second} are swapped")]
    Swapped {
        /// Number of the one, from 1.
        first: usize,
        /// Number of the other.
        second: usize,
    },
}

impl RecoveryKey {
    /// Reads a key: groups with anything between them that is a blank or `-`, or all digits in one. What
    /// ESXi prints around it (the heading, the identifier in braces) may be there, too.
    ///
    /// # Errors
    /// [`RecoveryKeyError`], which names the group.
    pub fn parse(text: &[u8]) -> Result<Self, RecoveryKeyError> {
        let values = values(&groups(text)?)?;
        let mut keys = [Zeroizing::new([0; 32]), Zeroizing::new([0; 32])];
        for (index, value) in values.iter().enumerate() {
            keys[0][2 * index..][..2].copy_from_slice(&value.to_be_bytes());
            keys[1][2 * index..][..2].copy_from_slice(&value.to_le_bytes());
        }
        let [big, little] = keys;
        Ok(Self(Arc::new([Key::new(big), Key::new(little)])))
    }

    /// The keys that it may stand for.
    pub(super) fn candidates(&self) -> &[Key; 2] {
        &self.0
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(not shown)")
    }
}

/// Whether six digits can stand in the group of that number, counted from 1.
pub fn fits(group: &[u8], number: usize) -> bool {
    value(group, number).is_some()
}

/// The places of the groups in a text; all that ESXi prints beside them is passed over.
fn groups(text: &[u8]) -> Result<Vec<&[u8]>, RecoveryKeyError> {
    let mut groups: Vec<&[u8]> = Vec::new();
    for word in text.split(u8::is_ascii_whitespace) {
        let is_name = word.first() == Some(&b'{') && word.last() == Some(&b'}');
        if is_name || [&b"Recovery"[..], b"ID", b"Key"].contains(&word) {
            continue;
        }
        for part in word
            .split(|byte| *byte == b'-')
            .filter(|part| !part.is_empty())
        {
            let is_whole = part.len() == GROUPS * GROUP_DIGITS;
            let step = if is_whole { GROUP_DIGITS } else { part.len() };
            groups.extend(part.chunks(step));
        }
    }
    let is_group =
        |group: &&[u8]| group.len() == GROUP_DIGITS && group.iter().all(u8::is_ascii_digit);
    match groups.iter().position(|group| !is_group(group)) {
        Some(index) => Err(RecoveryKeyError::NotSixDigits { number: index + 1 }),
        None if groups.len() != GROUPS => Err(RecoveryKeyError::Count {
            found: groups.len(),
        }),
        None => Ok(groups),
    }
}

/// The 16 bits of each group, each of which has been checked.
fn values(groups: &[&[u8]]) -> Result<Zeroizing<[u16; GROUPS]>, RecoveryKeyError> {
    let mut values = Zeroizing::new([0; GROUPS]);
    let mut wrong = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        match value(group, index + 1) {
            Some(value) => values[index] = value,
            None => wrong.push(index),
        }
    }
    match *wrong.as_slice() {
        [] => Ok(values),
        [first, second] if fits(groups[first], second + 1) && fits(groups[second], first + 1) => {
            Err(RecoveryKeyError::Swapped {
                first: first + 1,
                second: second + 1,
            })
        }
        [first, ..] => Err(RecoveryKeyError::Group { number: first + 1 }),
    }
}

/// The 16 bits of the group of that number, counted from 1.
fn value(group: &[u8], number: usize) -> Option<u16> {
    const DIGITS: Range<u8> = b'0'..b'9' + 1;
    if group.len() != GROUP_DIGITS || !group.iter().all(|digit| DIGITS.contains(digit)) {
        return None;
    }
    let written = group
        .iter()
        .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let place = u32::try_from(number.checked_sub(1)?).ok()? % STEP;
    let rest = written.checked_sub(place)?;
    let value = rest.is_multiple_of(STEP).then_some(rest / STEP)?;
    u16::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of VMware's documentation ("List the Contents of the Secure ESXi Configuration
    /// Recovery Key").
    const PUBLISHED: &str = "478269-039194-473926-430939-686855-231401-642208-184477-602511-225586-551660-586542-338394-092578-687140-267425";

    fn written(values: &[u16; GROUPS]) -> Vec<String> {
        let numbered = (0..).zip(values);
        numbered
            .map(|(n, value)| format!("{:06}", u32::from(*value) * 11 + n % 11))
            .collect()
    }

    fn error(text: &str) -> RecoveryKeyError {
        RecoveryKey::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_published_key_is_read_however_it_is_separated() {
        let expected = RecoveryKey::parse(PUBLISHED.as_bytes()).unwrap();
        let table = format!(
            "Recovery ID                             Key\n--------------------------------------  ---\n{{2DDD5424-7F3F-406A-8DA8-D62630F6C8BC}}  {PUBLISHED}\n"
        );
        for text in [
            PUBLISHED.replace('-', ""),
            PUBLISHED.replace('-', " "),
            PUBLISHED.replace('-', "\r\n"),
            format!(" {PUBLISHED}\n"),
            table,
        ] {
            let read = RecoveryKey::parse(text.as_bytes()).unwrap();
            assert_eq!(read.candidates(), expected.candidates());
        }
    }

    #[test]
    fn both_orders_of_bytes_are_candidates() {
        let mut values = [0; GROUPS];
        values[0] = 0x0102;
        values[15] = 0xfffe;
        let text = written(&values).join("-");
        let read = RecoveryKey::parse(text.as_bytes()).unwrap();
        let [big, little] = read.candidates();
        let ends = |key: &Key| [key.bytes()[..2].to_vec(), key.bytes()[30..].to_vec()];
        assert_eq!(ends(big), [[1, 2], [0xff, 0xfe]]);
        assert_eq!(ends(little), [[2, 1], [0xfe, 0xff]]);
    }

    #[test]
    fn a_wrong_group_is_named_and_so_are_two_that_were_swapped() {
        let groups: Vec<&str> = PUBLISHED.split('-').collect();
        let changed = |index: usize, text: &str| {
            let mut groups = groups.clone();
            groups[index] = text;
            groups.join("-")
        };
        use RecoveryKeyError::{Count, Group, NotSixDigits, Swapped};
        assert_eq!(error(&changed(4, "686856")), Group { number: 5 });
        // It fits by its remainder, and is more than 16 bits can be.
        assert_eq!(error(&changed(0, "999999")), Group { number: 1 });
        assert_eq!(error(&changed(15, "26742")), NotSixDigits { number: 16 });
        assert_eq!(error(&changed(2, "47392O")), NotSixDigits { number: 3 });
        assert_eq!(error(&groups[1..].join("-")), Count { found: 15 });
        assert_eq!(error(""), Count { found: 0 });
        let mut swapped = groups.clone();
        swapped.swap(1, 8);
        let swapped = error(&swapped.join(" "));
        assert_eq!(
            swapped,
            Swapped {
                first: 2,
                second: 9
            }
        );
    }

    #[test]
    fn nothing_of_a_key_is_in_what_is_said_of_it() {
        let said = format!("{:?}", RecoveryKey::parse(PUBLISHED.as_bytes()).unwrap());
        assert_eq!(said, "RecoveryKey(not shown)");
        for index in 0..GROUPS {
            let mut groups: Vec<&str> = PUBLISHED.split('-').collect();
            groups[index] = "999999";
            let error = error(&groups.join("-"));
            let said = format!("{error} {error:?}");
            assert!(
                !said.contains("99999") && !said.contains("478269"),
                "{said}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::array::uniform16(any::<u16>())) {
            let text = written(&values).join("-");
            let read = RecoveryKey::parse(text.as_bytes()).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
            prop_assert_eq!(&read.candidates()[0].bytes()[..], &bytes[..]);
        }

        #[test]
        fn one_wrong_digit_always_shows(
            values in prop::array::uniform16(any::<u16>()), at in 0..96_usize, other in 1..10_u8,
        ) {
            let mut text = written(&values).concat().into_bytes();
            text[at] = b'0' + (text[at] - b'0' + other) % 10;
            prop_assert_eq!(
                RecoveryKey::parse(&text).unwrap_err(),
                RecoveryKeyError::Group { number: at / GROUP_DIGITS + 1 }
            );
        }

        #[test]
        fn any_text_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = RecoveryKey::parse(&text);
        }
    }
}
