//! The agent's settings as the builder meets them: words for the kernel command line, and `rescue.toml`. The keys and
//! their parser are the agent's own; a wrong setting is rejected when the image is made, not only when the host
//! starts.

use std::path::Path;

use rescue_agent::files;
use rescue_agent::settings::{self, Key, Origin, Settings, SettingsSources};

use crate::error::{Error, Result};

/// One checked setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: Key,
    /// Its value, without spaces, quotes or anything that GRUB or the kernel would interpret.
    pub value: String,
}

impl Setting {
    /// Checks `KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Self> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| wrong(text, "write KEY=VALUE".to_owned()))?;
        Self::new(known_key(key)?, value)
    }

    fn new(key: Key, value: &str) -> Result<Self> {
        let setting = Self {
            key,
            value: value.to_owned(),
        };
        let word = setting.argument();
        check_plain(&word)?;
        SettingsSources {
            files: Vec::new(),
            command_line: word.clone(),
        }
        .resolve()
        .map_err(|errors| wrong(&word, errors.to_string()))?;
        Ok(setting)
    }

    /// As a word of the kernel command line.
    #[must_use]
    pub fn argument(&self) -> String {
        format!("{}{}", prefix(self.key), self.value)
    }
}

/// What a word of the kernel command line that sets this key starts with.
#[must_use]
pub fn prefix(key: Key) -> String {
    format!("rescue.{key}=")
}

/// The key of that name.
pub fn known_key(name: &str) -> Result<Key> {
    let known = Key::ALL.into_iter().find(|key| key.name() == name);
    known.ok_or_else(|| {
        let names = Key::ALL.map(Key::name).join(", ");
        wrong(name, format!("there is no such key; the keys are {names}"))
    })
}

/// Checks words for the kernel command line: settings by the agent's parser, all of them for their characters.
pub fn check_arguments(words: &[&str]) -> Result<Settings> {
    words.iter().try_for_each(|word| check_plain(word))?;
    SettingsSources {
        files: Vec::new(),
        command_line: words.join(" "),
    }
    .resolve()
    .map_err(|errors| wrong(&words.join(" "), errors.to_string()))
}

/// A word stands on the kernel command line and in a GRUB environment block as it is.
fn check_plain(word: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:,/@%?&=+-[]~".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return Ok(());
    }
    Err(wrong(
        word,
        "only letters, digits and ._:,/@%?&=+-[]~ are possible on the kernel command line"
            .to_owned(),
    ))
}

/// The content of a `rescue.toml` that a person named, as far as its length is checked.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    // One byte more, so that a file that is too long is told apart.
    let limit = settings::MAX_FILE_BYTES as u64 + 1;
    files::read_up_to(path, limit).map_err(Error::io("read", path))
}

/// Checks a `rescue.toml` and returns what it sets.
pub fn check_toml(path: &Path, content: &[u8]) -> Result<Settings> {
    SettingsSources::default()
        .with_file(&path.display().to_string(), content.to_vec())
        .resolve()
        .map_err(|errors| Error::input(path, format!("wrong settings:\n{errors}")))
}

/// The settings of a `rescue.toml` as words for the kernel command line.
pub fn from_toml(path: &Path, content: &[u8]) -> Result<Vec<Setting>> {
    let settings = check_toml(path, content)?;
    Key::ALL
        .into_iter()
        .filter(|key| *settings.origin(*key) != Origin::BuiltIn)
        .map(|key| Setting::new(key, &settings.value(key)))
        .collect()
}

/// A `rescue.toml` with every key in it and none active, for people to edit.
#[must_use]
pub fn template() -> String {
    let mut text =
        "# Settings of the ESXi rescue. Remove the # at the start of a line to change a setting.\n\
         # A wrong setting stops the program before it writes anything.\n"
            .to_owned();
    let defaults = Settings::default();
    for key in Key::ALL {
        text.push_str(&format!(
            "\n# {}\n#{key} = {:?}\n",
            key.allowed(),
            defaults.value(key)
        ));
    }
    text
}

fn wrong(setting: &str, problem: String) -> Error {
    Error::Setting {
        setting: setting.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_settings_pass() {
        for text in [
            "mode=inspect",
            "devices=8086:3b25,0000:00:1f.2",
            "banks=active",
            "wait=86400",
            "report=https://host:8443/x?y=1&z=%20",
            "report=",
            "console=tty0,ttyS1",
        ] {
            assert_eq!(
                Setting::parse(text).unwrap().argument(),
                format!("rescue.{text}")
            );
        }
    }

    #[test]
    fn wrong_settings_are_refused_with_what_would_be_right() {
        for (text, expected) in [
            ("mode", "KEY=VALUE"),
            ("colour=red", "the keys are mode"),
            ("mode=repair", "auto, inspect, restore"),
            ("wait=86401", "seconds"),
            ("report=https://x y", "only letters"),
            ("console=$tty", "only letters"),
        ] {
            let error = Setting::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn arguments_of_the_kernel_pass_if_plain() {
        check_arguments(&["console=ttyS1,115200n8", "rescue.wait=5", "pci=nomsi"]).unwrap();
        assert!(check_arguments(&["rescue.wait=soon"]).is_err());
        assert!(check_arguments(&["a;b"]).is_err());
    }

    #[test]
    fn a_settings_file_is_checked_and_becomes_words() {
        let path = Path::new("rescue.toml");
        let words = from_toml(path, b"countdown = 0\nmode = \"inspect\"\n").unwrap();
        let words: Vec<String> = words.iter().map(Setting::argument).collect();
        assert_eq!(words, ["rescue.mode=inspect", "rescue.countdown=0"]);
        let error = check_toml(path, b"\nwhat = 1").unwrap_err().to_string();
        assert!(error.contains("rescue.toml, line 2"), "{error}");
    }

    #[test]
    fn the_template_sets_nothing_and_every_line_of_it_can_be_taken_into_use() {
        let template = template();
        assert!(
            from_toml(Path::new("t"), template.as_bytes())
                .unwrap()
                .is_empty()
        );
        let used: String = template
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .map(|line| format!("{line}\n"))
            .collect();
        let set = check_toml(Path::new("t"), used.as_bytes()).unwrap();
        assert!(
            Key::ALL
                .iter()
                .all(|key| *set.origin(*key) != Origin::BuiltIn)
        );
    }
}
