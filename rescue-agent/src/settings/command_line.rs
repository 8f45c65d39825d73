//! Settings from the kernel command line.
//!
//! Quoting follows the kernel's own rule, `next_arg` in Linux `lib/cmdline.c`.

use super::{Key, Origin, Place, Settings, SettingsError, known_key, shortened};

/// Longest kernel command line that is looked at, in bytes. Linux on x86 stops at 2048
/// (`COMMAND_LINE_SIZE`); the rest is room for other kernels.
pub const MAX_COMMAND_LINE_BYTES: usize = 16 * 1024;
/// The name before the dot and the key in a word of the kernel command line.
const NAME: &str = "rescue";

/// Takes every setting of a kernel command line, and notes all that is wrong with them.
pub(super) fn apply(settings: &mut Settings, text: &str, errors: &mut Vec<SettingsError>) {
    let place = Place {
        origin: Origin::CommandLine,
        line: None,
    };
    if text.len() > MAX_COMMAND_LINE_BYTES {
        return errors.push(SettingsError::TooLong {
            origin: Origin::CommandLine,
            found: text.len(),
            limit: MAX_COMMAND_LINE_BYTES,
        });
    }
    for word in command_line_words(text) {
        let outcome = key_of(&word.name, &place).and_then(|key| match (key, &word.value) {
            (None, _) => Ok(()),
            (Some(key), Some(value)) => settings.set(key, value, &place),
            (Some(key), None) => Err(SettingsError::NoValue {
                place: place.clone(),
                key,
            }),
        });
        errors.extend(outcome.err());
    }
}

/// The key that a word sets; none where it is somebody else's. A person who wrote `rescue_mode=inspect`
/// meant that nothing is written: such a word is an error, not somebody else's.
fn key_of(word: &str, place: &Place) -> Result<Option<Key>, SettingsError> {
    let Some((name, rest)) = word.split_at_checked(NAME.len()) else {
        return Ok(None);
    };
    let Some(separator @ ('.' | '_' | '-')) = rest.chars().next() else {
        return Ok(None);
    };
    let key = &rest[1..];
    match (name == NAME, separator, Key::meant_by(key)) {
        _ if !name.eq_ignore_ascii_case(NAME) => Ok(None),
        (true, '.', _) => known_key(key, place).map(Some),
        (_, _, Some(meant)) => Err(SettingsError::Misspelled {
            place: place.clone(),
            word: shortened(word),
            meant,
        }),
        (_, '.', None) => known_key(word, place).map(Some),
        _ => Ok(None),
    }
}

/// A word of the kernel command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLineWord {
    /// What stands before the first `=`.
    pub name: String,
    /// What stands after it, without the quotes around it; none without a `=`.
    pub value: Option<String>,
}

/// Splits a command line as Linux does (`next_arg` in `lib/cmdline.c`): at white space outside
/// double quotes; one pair of quotes around the value, or around the whole word, is taken away.
#[must_use]
pub fn command_line_words(text: &str) -> Vec<CommandLineWord> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_kernel_space);
    while !rest.is_empty() {
        let end = word_end(rest);
        words.push(command_line_word(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_kernel_space);
    }
    words
}

fn is_kernel_space(character: char) -> bool {
    character.is_ascii_whitespace() || character == '\u{b}'
}

fn word_end(text: &str) -> usize {
    let mut quoted = false;
    for (index, character) in text.char_indices() {
        if character == '"' {
            quoted = !quoted;
        } else if !quoted && is_kernel_space(character) {
            return index;
        }
    }
    text.len()
}

fn command_line_word(word: &str) -> CommandLineWord {
    let word = match word.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
        None => word,
    };
    match word.split_once('=') {
        None => CommandLineWord {
            name: word.to_owned(),
            value: None,
        },
        Some((name, value)) => {
            let value = match value.strip_prefix('"') {
                Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
                None => value,
            };
            CommandLineWord {
                name: name.to_owned(),
                value: Some(value.to_owned()),
            }
        }
    }
}
