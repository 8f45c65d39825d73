//! The agent's settings as far as the builder checks them: on the kernel command line (`rescue.KEY=VALUE`) and in
//! `rescue.toml`. A wrong one is refused here, at the desk, and not by the host in the server room.

use std::path::Path;

use crate::error::{Error, Result};

/// Longest time that makes sense for a countdown or a wait: one day, in seconds.
const MAX_SECONDS: u32 = 86_400;

/// The keys, with what each takes.
pub const KEYS: &[(&str, &str)] = &[
    ("mode", "auto, inspect or restore"),
    (
        "devices",
        "auto, all, or a comma-separated list of vendor:device, PCI address, class:storage",
    ),
    ("banks", "all, active, or a comma-separated list of banks"),
    ("countdown", "seconds before the repair starts, 0 to 86400"),
    ("wait", "seconds to wait for disks, 0 to 86400"),
    ("finish", "reboot, poweroff or stay"),
    ("report", "an http:// or https:// URL to send the report to"),
    (
        "console",
        "consoles to show the work on, for instance tty0,ttyS1",
    ),
    ("bootnext", "auto, off or create"),
];

/// One checked setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// One of [`KEYS`].
    pub key: String,
    /// Its value; never empty, without spaces, quotes or anything that GRUB or the kernel would interpret.
    pub value: String,
}

impl Setting {
    /// Checks `KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Self> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| wrong(text, "write KEY=VALUE".to_owned()))?;
        let Some((_, takes)) = KEYS.iter().find(|(known, _)| *known == key) else {
            let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
            return Err(wrong(
                text,
                format!("there is no such key; the keys are {}", known.join(", ")),
            ));
        };
        if !is_right(key, value) {
            return Err(wrong(text, format!("{key} takes {takes}")));
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }

    /// As a word of the kernel command line.
    #[must_use]
    pub fn argument(&self) -> String {
        format!("rescue.{}={}", self.key, self.value)
    }
}

/// Whether a word can stand on the kernel command line and in a GRUB environment block as it is.
#[must_use]
pub fn is_plain_word(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:,/@%?&=+-[]".contains(&byte))
}

/// Checks words for the kernel command line: settings by their keys, others only for their characters.
pub fn check_arguments(words: &[&str]) -> Result<()> {
    for word in words {
        if let Some(setting) = word.strip_prefix("rescue.") {
            Setting::parse(setting)?;
        } else if !is_plain_word(word) {
            return Err(wrong(
                word,
                "only letters, digits and ._:,/@%?&=+-[] can stand here".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Checks a `rescue.toml`: the same keys, one level, values as strings or numbers.
pub fn check_toml(path: &Path, text: &str) -> Result<()> {
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| Error::input(path, format!("not valid TOML: {error}")))?;
    for (key, value) in &table {
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            other => {
                return Err(wrong(
                    &format!("{key} = {other}"),
                    "write a string or a number".to_owned(),
                ));
            }
        };
        Setting::parse(&format!("{key}={value}"))?;
    }
    Ok(())
}

fn is_right(key: &str, value: &str) -> bool {
    if !is_plain_word(value) {
        return false;
    }
    match key {
        "mode" => ["auto", "inspect", "restore"].contains(&value),
        "finish" => ["reboot", "poweroff", "stay"].contains(&value),
        "bootnext" => ["auto", "off", "create"].contains(&value),
        "countdown" | "wait" => value
            .parse::<u32>()
            .is_ok_and(|seconds| seconds <= MAX_SECONDS),
        "report" => ["http://", "https://"].iter().any(|scheme| {
            value
                .strip_prefix(scheme)
                .is_some_and(|rest| !rest.is_empty())
        }),
        "devices" => value.split(',').all(is_device_selector),
        _ => value.split(',').all(|part| !part.is_empty()),
    }
}

fn is_device_selector(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = text.split(':').collect();
    let slot = |part: &str| {
        part.split_once('.').is_some_and(|(device, function)| {
            hex(device, 2) && function.len() == 1 && matches!(function.as_bytes()[0], b'0'..=b'7')
        })
    };
    match parts.as_slice() {
        ["auto" | "all"] => true,
        ["class", name] => !name.is_empty(),
        [bus, last] if last.contains('.') => hex(bus, 2) && slot(last),
        [vendor, device] => hex(vendor, 4) && hex(device, 4),
        [segment, bus, last] => hex(segment, 4) && hex(bus, 2) && slot(last),
        _ => false,
    }
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
            "devices=all",
            "devices=8086:3b25,0000:00:1f.2",
            "devices=class:storage",
            "devices=00:1f.2",
            "banks=active",
            "banks=sda5,sda6",
            "countdown=0",
            "wait=86400",
            "finish=stay",
            "report=https://host:8443/x?y=1&z=%20",
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
            ("mode=repair", "auto, inspect or restore"),
            ("devices=8086:3b2", "vendor:device"),
            ("devices=00:1f.9", "vendor:device"),
            ("devices=", "vendor:device"),
            ("banks=a,,b", "active"),
            ("countdown=-1", "seconds"),
            ("wait=86401", "seconds"),
            ("report=ftp://x", "http://"),
            ("report=https://x y", "http://"),
            ("console=$tty", "consoles"),
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
    fn a_settings_file_is_checked_key_by_key() {
        let path = Path::new("rescue.toml");
        check_toml(path, "countdown = 0\nmode = \"inspect\"\n").unwrap();
        for bad in ["countdown = \"x\"", "[mode]\na=1", "what = 1", "= 3"] {
            assert!(check_toml(path, bad).is_err(), "{bad}");
        }
    }
}
