//! Typing the recovery key, as values: each group is checked as soon as it is complete, and nothing of
//! what is typed is shown.

use zeroize::Zeroizing;

use crate::archive::RecoveryKey;
use crate::archive::recovery_key::{GROUP_DIGITS, GROUPS, fits};
use crate::init::keys::Key;
use crate::report::Line;

const DIGITS: usize = GROUPS * GROUP_DIGITS;

/// What a key did.
#[derive(Debug)]
pub(super) enum Reaction {
    /// Nothing.
    None,
    /// The line looks different now.
    Changed,
    /// All of it is there, and every group is right in itself.
    Done(RecoveryKey),
    /// Back, without a key.
    Back,
}

/// A line of hidden digits.
pub(super) struct KeyLine {
    digits: Zeroizing<Vec<u8>>,
    /// The group that was wrong when it was complete, and is typed again.
    wrong: Option<usize>,
}

impl KeyLine {
    pub(super) fn new() -> Self {
        // It never grows beyond this, so that no copy of it is left behind.
        let digits = Zeroizing::new(Vec::with_capacity(DIGITS));
        Self {
            digits,
            wrong: None,
        }
    }

    pub(super) fn press(&mut self, key: Key) -> Reaction {
        match key {
            Key::Character(digit @ '0'..='9') if self.digits.len() < DIGITS => {
                self.digits.extend(u8::try_from(digit));
                self.check()
            }
            Key::Backspace if self.digits.pop().is_some() => Reaction::Changed,
            Key::Enter if self.digits.len() == DIGITS => match RecoveryKey::parse(&self.digits) {
                Ok(key) => Reaction::Done(key),
                // Each group was checked on the way.
                Err(_) => Reaction::None,
            },
            Key::Escape | Key::Character('q') => Reaction::Back,
            _ => Reaction::None,
        }
    }

    /// Takes a group out again that is complete and wrong.
    fn check(&mut self) -> Reaction {
        let length = self.digits.len();
        if !length.is_multiple_of(GROUP_DIGITS) {
            return Reaction::Changed;
        }
        let (number, start) = (length / GROUP_DIGITS, length - GROUP_DIGITS);
        let is_right = fits(&self.digits[start..], number);
        self.wrong = (!is_right).then_some(number);
        if !is_right {
            self.digits.truncate(start);
        }
        Reaction::Changed
    }

    /// A star for each digit, group by group.
    pub(super) fn lines(&self) -> Vec<Line> {
        let star = |place: usize| if place < self.digits.len() { '*' } else { '.' };
        let group = |number: usize| {
            let first = number * GROUP_DIGITS;
            (first..first + GROUP_DIGITS).map(star).collect::<String>()
        };
        let groups: Vec<String> = (0..GROUPS).map(group).collect();
        let rows = groups.chunks(GROUPS / 2);
        rows.map(|row| Line::plain(format!("         {}", row.join("-"))))
            .collect()
    }

    pub(super) fn status(&self) -> String {
        let length = self.digits.len();
        match (self.wrong, length) {
            (Some(wrong), _) if length == (wrong - 1) * GROUP_DIGITS => {
                format!("Group {wrong} is wrong: type it again. Esc: back to the menu.")
            }
            (_, DIGITS) => "All 16 groups are right. Enter: use the key. Esc: back.".into(),
            _ => format!(
                "Group {} of {GROUPS}, {} digits. Esc: back to the menu.",
                length / GROUP_DIGITS + 1,
                length % GROUP_DIGITS
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VMware's published example, as in [`crate::archive::recovery_key`].
    const PUBLISHED: &str = "478269-039194-473926-430939-686855-231401-642208-184477-602511-225586-551660-586542-338394-092578-687140-267425";

    fn typed(line: &mut KeyLine, text: &str) {
        for character in text.chars() {
            line.press(Key::Character(character));
        }
    }

    fn shown(line: &KeyLine) -> String {
        let lines = line.lines().into_iter().map(|line| line.text);
        lines.collect::<Vec<_>>().join("\n") + &line.status()
    }

    #[test]
    fn a_key_is_typed_with_or_without_what_separates_its_groups() {
        for text in [PUBLISHED.to_owned(), PUBLISHED.replace('-', "")] {
            let mut line = KeyLine::new();
            typed(&mut line, &text);
            assert!(line.status().starts_with("All 16 groups"));
            assert!(matches!(line.press(Key::Enter), Reaction::Done(_)));
        }
    }

    #[test]
    fn a_wrong_group_is_named_at_once_and_typed_again() {
        let mut line = KeyLine::new();
        typed(&mut line, "478269-039195");
        assert!(
            line.status().starts_with("Group 2 is wrong"),
            "{}",
            line.status()
        );
        typed(&mut line, "0");
        assert!(line.status().starts_with("Group 2 of 16, 1 digits"));
        line.press(Key::Backspace);
        typed(&mut line, &PUBLISHED[7..]);
        assert!(matches!(line.press(Key::Enter), Reaction::Done(_)));
    }

    #[test]
    fn an_unfinished_key_is_none_and_can_be_given_up() {
        let mut line = KeyLine::new();
        typed(&mut line, &PUBLISHED[..20]);
        assert!(matches!(line.press(Key::Enter), Reaction::None));
        assert!(matches!(line.press(Key::Up), Reaction::None));
        assert!(matches!(line.press(Key::Escape), Reaction::Back));
    }

    #[test]
    fn no_digit_of_the_key_is_shown() {
        let mut line = KeyLine::new();
        let mut digits = 0;
        for character in PUBLISHED.chars() {
            line.press(Key::Character(character));
            digits += usize::from(character.is_ascii_digit());
            let (lines, _) = (line.lines(), line.status());
            let text: String = lines.iter().map(|line| line.text.as_str()).collect();
            assert!(!text.contains(|c: char| c.is_ascii_digit()), "{text}");
            assert_eq!(text.matches('*').count(), digits);
        }
        assert!(!shown(&line).contains("478"));
    }
}
