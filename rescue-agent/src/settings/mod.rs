//! The settings of a run: what they are, where they may come from, and the one parser for all of
//! those places.
//!
//! Layers, weakest first: built in < `rescue.toml` in the image < `rescue.toml` on the medium <
//! kernel command line (`rescue.KEY=VALUE`). The keys are the same everywhere.
//!
//! Out of scope: reading the files, and the grammar of the values of `devices` and `banks`, which
//! is [`crate::policy`]'s.

pub(crate) mod addressing;
mod command_line;
mod file;
pub mod target;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::policy::{BankChoice, Selection};
use addressing::Addressing;
use target::{Pin, Target};

pub use command_line::{CommandLineWord, MAX_COMMAND_LINE_BYTES, command_line_words};

/// Longest settings file that is looked at, in bytes. A hand-written one has a few hundred.
pub const MAX_FILE_BYTES: usize = 64 * 1024;
/// Longest value of one setting, in bytes.
pub const MAX_VALUE_BYTES: usize = 2048;
/// Longest time a setting may ask for, in seconds: one day.
pub const MAX_SECONDS: u64 = 24 * 60 * 60;
/// Most consoles that may be named.
pub const MAX_CONSOLES: usize = 8;

/// What the rescue image is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Find, plan, count down, repair.
    Auto,
    /// Find and show; never write.
    Inspect,
    /// Put the original state archives back.
    Restore,
}

/// What the machine does after the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// Restart.
    Reboot,
    /// Switch off.
    Poweroff,
    /// Stay on and show the result until somebody presses a key.
    Stay,
}

/// What is done about the firmware's next start once all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BootNext {
    /// Direct it to the boot entry of the ESXi disk, if there is one.
    Auto,
    /// Leave it to the firmware.
    Off,
    /// Direct it to the boot entry of the ESXi disk, and make one if there is none.
    Create,
}

/// What goes into the banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// Each bank's own archive, repaired.
    Own,
    /// The newest archive of the disk, repaired.
    Newest,
    /// The archive that a person has put on the medium.
    Medium,
}

/// The name of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// `mode`
    Mode,
    /// `devices`
    Devices,
    /// `banks`
    Banks,
    /// `source`
    Source,
    /// `countdown`
    Countdown,
    /// `wait`
    Wait,
    /// `finish`
    Finish,
    /// `report`
    Report,
    /// `report_pin`
    ReportPin,
    /// `network`
    Network,
    /// `console`
    Console,
    /// `bootnext`
    BootNext,
}

impl Key {
    /// Every key, in the order in which they are shown.
    pub const ALL: [Key; 12] = [
        Key::Mode,
        Key::Devices,
        Key::Banks,
        Key::Source,
        Key::Countdown,
        Key::Wait,
        Key::Finish,
        Key::Report,
        Key::ReportPin,
        Key::Network,
        Key::Console,
        Key::BootNext,
    ];

    /// The key as it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Key::Mode => "mode",
            Key::Devices => "devices",
            Key::Banks => "banks",
            Key::Source => "source",
            Key::Countdown => "countdown",
            Key::Wait => "wait",
            Key::Finish => "finish",
            Key::Report => "report",
            Key::ReportPin => "report_pin",
            Key::Network => "network",
            Key::Console => "console",
            Key::BootNext => "bootnext",
        }
    }

    /// What may be written as its value, for error messages.
    #[must_use]
    pub const fn allowed(self) -> &'static str {
        match self {
            Key::Mode => "auto, inspect, restore",
            Key::Devices => {
                "auto, all, VENDOR:DEVICE, a PCI address, class:WORD, or several separated by commas, excluded with a leading -"
            }
            Key::Banks => "all, active, or partition numbers such as 5,6",
            Key::Source => "own, newest, medium",
            Key::Countdown | Key::Wait => "a whole number of seconds from 0 to 86400",
            Key::Finish => "reboot, poweroff, stay",
            Key::Report => {
                "a URL that starts with http:// or https://, with a name or an IPv4 address, without user and password, or nothing"
            }
            Key::ReportPin => {
                "the SHA-256 of the receiver's certificate in 64 hex digits, or nothing"
            }
            Key::Network => {
                "dhcp, or an address in the form of the kernel's ip=: ADDRESS::GATEWAY:NETMASK::INTERFACE:none:NAMESERVER"
            }
            Key::Console => {
                "up to 8 comma-separated names of terminals, such as tty0,ttyS1, or nothing"
            }
            Key::BootNext => "auto, off, create",
        }
    }

    fn parse(name: &str) -> Option<Key> {
        Key::ALL.into_iter().find(|key| key.name() == name)
    }

    /// The key that a misspelled name stands for: the nearest one, if it is near. Letter case and the
    /// kind of line between two words do not count.
    fn meant_by(name: &str) -> Option<Key> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        let distance = |key: &Key| strsim::osa_distance(&name, key.name());
        let nearest = Key::ALL.into_iter().min_by_key(distance)?;
        // One mistake in a short word, up to three in a long one.
        let near = (nearest.name().len() / 3).max(1);
        (distance(&nearest) <= near).then_some(nearest)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody set it.
    BuiltIn,
    /// A settings file, by the name under which a person knows it.
    File(String),
    /// The kernel command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built in"),
            Origin::File(name) => f.write_str(name),
            Origin::CommandLine => f.write_str("kernel command line"),
        }
    }
}

/// A place in a source of settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The source.
    pub origin: Origin,
    /// The line in it, counted from 1; none for the command line.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}", self.origin),
            None => write!(f, "{}", self.origin),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The source is larger than any real one.
    #[error("{origin}: {found} bytes of settings; at most {limit} are read")]
    TooLong {
        /// The source.
        origin: Origin,
        /// Its length in bytes.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The file is not UTF-8 text.
    #[error("{origin}: not UTF-8 text (byte {offset}); save the file as UTF-8")]
    NotUtf8 {
        /// The source.
        origin: Origin,
        /// The first byte that does not fit, counted from 0.
        offset: usize,
    },
    /// The file is not TOML.
    #[error("{place}: not TOML: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the TOML parser says.
        message: String,
    },
    /// There is no such setting.
    #[error("{place}: unknown setting {key:?}{}; the settings are {}", suggestion(*meant), names())]
    UnknownKey {
        /// Where.
        place: Place,
        /// The name that was found, shortened.
        key: String,
        /// The setting that it probably stands for.
        meant: Option<Key>,
    },
    /// A word that is none of this program's, but looks like one of its settings.
    #[error(
        "{place}: {word:?} is not a setting, but looks like one: write rescue.{meant}, or leave it out"
    )]
    Misspelled {
        /// Where.
        place: Place,
        /// The word before its `=`, shortened.
        word: String,
        /// The setting that it probably stands for.
        meant: Key,
    },
    /// The key stands there without a value.
    #[error("{place}: {key} has no value; allowed: {}", key.allowed())]
    NoValue {
        /// Where.
        place: Place,
        /// The key.
        key: Key,
    },
    /// The value is not one that this key may have.
    #[error("{place}: {key} = {value:?}: not possible; allowed: {}", key.allowed())]
    BadValue {
        /// Where.
        place: Place,
        /// The key.
        key: Key,
        /// The value that was found, shortened.
        value: String,
    },
    /// A pin and a URL where nobody shows a certificate.
    #[error(
        "{place}: report_pin is set, but report begins with http://, where the receiver shows no certificate; use https:// or remove report_pin"
    )]
    PinWithoutTls {
        /// Where the pin was set.
        place: Place,
    },
    /// The value has a TOML type that no setting has.
    #[error("{place}: {key} is {found}, not a string or whole number; allowed: {}", key.allowed())]
    WrongType {
        /// Where.
        place: Place,
        /// The key.
        key: Key,
        /// The TOML type that was found.
        found: &'static str,
    },
}

/// Everything that is wrong with the settings, so that a person can correct it in one go.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", lines(.0))]
pub struct SettingsErrors(pub Vec<SettingsError>);

fn lines(errors: &[SettingsError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

fn suggestion(meant: Option<Key>) -> String {
    meant.map_or_else(String::new, |key| format!(" (is {key} meant?)"))
}

fn names() -> String {
    Key::ALL.map(Key::name).join(", ")
}

/// The settings of this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What to do.
    pub mode: Mode,
    /// Which devices go back to the host.
    pub devices: Selection,
    /// Which banks are repaired.
    pub banks: BankChoice,
    /// What goes into them.
    pub source: ImageSource,
    /// How long the plan is shown before it is carried out.
    pub countdown: Duration,
    /// How long disks are waited for at most.
    pub wait: Duration,
    /// What the machine does afterwards.
    pub finish: Finish,
    /// Where the report is sent, if anywhere.
    pub report: Option<Target>,
    /// The certificate that the receiver of the report must show, if it is pinned.
    pub report_pin: Option<Pin>,
    /// How the machine gets an address, if a report is sent.
    pub network: Addressing,
    /// The terminals to use in place of those the machine names: comma-separated names.
    pub console: Option<String>,
    /// What is done about the firmware's next start.
    pub bootnext: BootNext,
    places: BTreeMap<Key, Place>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mode: Mode::Auto,
            devices: Selection::default(),
            banks: BankChoice::default(),
            source: ImageSource::Own,
            countdown: Duration::from_secs(10),
            wait: Duration::from_secs(30),
            finish: Finish::Reboot,
            report: None,
            report_pin: None,
            network: Addressing::default(),
            console: None,
            bootnext: BootNext::Auto,
            places: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Where the value of `key` came from.
    #[must_use]
    pub fn origin(&self, key: Key) -> &Origin {
        self.places
            .get(&key)
            .map_or(&Origin::BuiltIn, |place| &place.origin)
    }

    /// Where the value of `key` came from, with the line if it is known; none if it is built in.
    #[must_use]
    pub fn place(&self, key: Key) -> Option<&Place> {
        self.places.get(&key)
    }

    /// The value of `key` as it would be written.
    #[must_use]
    pub fn value(&self, key: Key) -> String {
        match key {
            Key::Mode => match self.mode {
                Mode::Auto => "auto",
                Mode::Inspect => "inspect",
                Mode::Restore => "restore",
            }
            .to_owned(),
            Key::Devices => self.devices.to_string(),
            Key::Banks => self.banks.to_string(),
            Key::Source => match self.source {
                ImageSource::Own => "own",
                ImageSource::Newest => "newest",
                ImageSource::Medium => "medium",
            }
            .to_owned(),
            Key::Countdown => self.countdown.as_secs().to_string(),
            Key::Wait => self.wait.as_secs().to_string(),
            Key::Finish => match self.finish {
                Finish::Reboot => "reboot",
                Finish::Poweroff => "poweroff",
                Finish::Stay => "stay",
            }
            .to_owned(),
            Key::Report => self
                .report
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            Key::ReportPin => self
                .report_pin
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            Key::Network => self.network.to_string(),
            Key::Console => self.console.clone().unwrap_or_default(),
            Key::BootNext => match self.bootnext {
                BootNext::Auto => "auto",
                BootNext::Off => "off",
                BootNext::Create => "create",
            }
            .to_owned(),
        }
    }

    /// [`Settings::value`] for reports: without what may be a key to the receiver.
    #[must_use]
    pub fn shown_value(&self, key: Key) -> String {
        match (key, &self.report) {
            (Key::Report, Some(target)) => target.without_query(),
            _ => self.value(key),
        }
    }

    /// What single values do not show to be wrong.
    fn contradictions(&self) -> Vec<SettingsError> {
        let open = self
            .report
            .as_ref()
            .is_some_and(|target| !target.is_https());
        match self.place(Key::ReportPin) {
            Some(place) if open && self.report_pin.is_some() => {
                vec![SettingsError::PinWithoutTls {
                    place: place.clone(),
                }]
            }
            _ => Vec::new(),
        }
    }

    /// Takes one value, if it is one that `key` may have.
    fn set(&mut self, key: Key, value: &str, place: &Place) -> Result<(), SettingsError> {
        self.try_set(key, value)
            .ok_or_else(|| SettingsError::BadValue {
                place: place.clone(),
                key,
                value: shortened(value),
            })?;
        self.places.insert(key, place.clone());
        Ok(())
    }

    fn try_set(&mut self, key: Key, value: &str) -> Option<()> {
        if value.len() > MAX_VALUE_BYTES || value.contains(char::is_control) {
            return None;
        }
        match key {
            Key::Mode => {
                self.mode = match value {
                    "auto" => Mode::Auto,
                    "inspect" => Mode::Inspect,
                    "restore" => Mode::Restore,
                    _ => return None,
                }
            }
            Key::Devices => self.devices = value.trim().parse().ok()?,
            Key::Banks => self.banks = value.trim().parse().ok()?,
            Key::Source => {
                self.source = match value {
                    "own" => ImageSource::Own,
                    "newest" => ImageSource::Newest,
                    "medium" => ImageSource::Medium,
                    _ => return None,
                }
            }
            Key::Countdown => self.countdown = seconds(value)?,
            Key::Wait => self.wait = seconds(value)?,
            Key::Finish => {
                self.finish = match value {
                    "reboot" => Finish::Reboot,
                    "poweroff" => Finish::Poweroff,
                    "stay" => Finish::Stay,
                    _ => return None,
                }
            }
            Key::Report => self.report = unless_empty(value, |text| text.parse().ok())?,
            Key::ReportPin => self.report_pin = unless_empty(value, Pin::parse)?,
            Key::Network => self.network = value.trim().parse().ok()?,
            Key::Console => self.console = terminals(value)?,
            Key::BootNext => {
                self.bootnext = match value {
                    "auto" => BootNext::Auto,
                    "off" => BootNext::Off,
                    "create" => BootNext::Create,
                    _ => return None,
                }
            }
        }
        Some(())
    }
}

/// Digits only: `str::parse` alone would also take a sign.
fn seconds(value: &str) -> Option<Duration> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.then(|| value.parse().ok()).flatten()?;
    (number <= MAX_SECONDS).then(|| Duration::from_secs(number))
}

/// Nothing, or what `parse` makes of something.
fn unless_empty<T>(value: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() {
        return Some(None);
    }
    parse(value).map(Some)
}

/// Nothing, or names of terminals. They become paths under `/dev`, so that only letters and
/// digits are let through.
fn terminals(value: &str) -> Option<Option<String>> {
    if value.is_empty() {
        return Some(None);
    }
    let names: Vec<&str> = value.split(',').map(str::trim).collect();
    let usable = names.len() <= MAX_CONSOLES
        && names
            .iter()
            .all(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    usable.then(|| Some(names.join(",")))
}

/// Enough of a value for a person to know it again.
fn shortened(value: &str) -> String {
    const SHOWN: usize = 60;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}

/// A settings file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFile {
    /// The name under which a person knows it, e.g. `rescue.toml on the medium`.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Everything that settings are made from. It is kept, because a layer (the medium) may turn up
/// after others have been used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsSources {
    /// Settings files, weakest first.
    pub files: Vec<SettingsFile>,
    /// The kernel command line; empty if there is none.
    pub command_line: String,
}

impl SettingsSources {
    /// The same with one more file, stronger than those before and weaker than the command line.
    #[must_use]
    pub fn with_file(mut self, name: &str, content: Vec<u8>) -> Self {
        self.files.push(SettingsFile {
            name: name.to_owned(),
            content,
        });
        self
    }

    /// Lays the sources over the built-in values.
    ///
    /// # Errors
    /// All that is wrong in any source, also in values that a stronger source would replace: a
    /// person wrote them and meant something by them.
    pub fn resolve(&self) -> Result<Settings, SettingsErrors> {
        let mut settings = Settings::default();
        let mut errors = Vec::new();
        for file in &self.files {
            file::apply(&mut settings, file, &mut errors);
        }
        command_line::apply(&mut settings, &self.command_line, &mut errors);
        errors.extend(settings.contradictions());
        if errors.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsErrors(errors))
        }
    }
}

fn known_key(name: &str, place: &Place) -> Result<Key, SettingsError> {
    Key::parse(name).ok_or_else(|| SettingsError::UnknownKey {
        place: place.clone(),
        key: shortened(name),
        meant: Key::meant_by(name),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_command_line(text: &str) -> Result<Settings, SettingsErrors> {
        SettingsSources {
            files: Vec::new(),
            command_line: text.to_owned(),
        }
        .resolve()
    }

    fn from_file(content: impl Into<Vec<u8>>) -> Result<Settings, SettingsErrors> {
        SettingsSources::default()
            .with_file("rescue.toml", content.into())
            .resolve()
    }

    fn messages(result: Result<Settings, SettingsErrors>) -> Vec<String> {
        let errors = result.expect_err("the settings are wrong").0;
        errors.iter().map(ToString::to_string).collect()
    }

    const PINNED_HTTP: &str = "report = 'http://a/'\nreport_pin = '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'";

    #[test]
    fn what_a_report_shows_of_its_target_is_no_key_to_it() {
        let settings = from_command_line("rescue.report=https://a.b/in?token=1").unwrap();
        assert_eq!(settings.shown_value(Key::Report), "https://a.b/in?…");
        assert_eq!(settings.shown_value(Key::Network), "dhcp");
    }

    #[test]
    fn built_in_values_are_the_documented_ones() {
        let settings = from_command_line("").unwrap();
        let shown: Vec<String> = Key::ALL.map(|key| settings.value(key)).to_vec();
        assert_eq!(
            shown,
            [
                "auto", "auto", "all", "own", "10", "30", "reboot", "", "", "dhcp", "", "auto"
            ]
        );
        assert!(
            Key::ALL
                .iter()
                .all(|key| *settings.origin(*key) == Origin::BuiltIn)
        );
    }

    #[test]
    fn each_key_takes_its_values_from_either_source() {
        let pin = "0123456789abcdef".repeat(4);
        let cases: [(Key, &str); 23] = [
            (Key::Mode, "auto"),
            (Key::Mode, "inspect"),
            (Key::Mode, "restore"),
            (Key::Devices, "8086:3b25,0000:00:1f.2,class:storage"),
            (Key::Banks, "all"),
            (Key::Banks, "active"),
            (Key::Banks, "5,6"),
            (Key::Countdown, "0"),
            (Key::Wait, "86400"),
            (Key::Finish, "reboot"),
            (Key::Finish, "poweroff"),
            (Key::Finish, "stay"),
            (Key::Report, "https://10.0.0.1:8443/reports?rack=4"),
            (Key::Report, ""),
            (Key::ReportPin, &pin),
            (Key::ReportPin, ""),
            (Key::Network, "dhcp"),
            (
                Key::Network,
                "10.0.0.2::10.0.0.1:255.255.255.0::eth0:none:10.0.0.53",
            ),
            (Key::Console, "tty0,ttyS1"),
            (Key::Console, ""),
            (Key::BootNext, "auto"),
            (Key::BootNext, "off"),
            (Key::BootNext, "create"),
        ];
        for (key, value) in cases {
            let lined = from_command_line(&format!("quiet rescue.{key}={value} ro")).unwrap();
            assert_eq!(lined.value(key), value, "{key} on the command line");
            assert_eq!(*lined.origin(key), Origin::CommandLine);
            let filed = from_file(format!("\n{key} = \"{value}\"\n")).unwrap();
            assert_eq!(filed.value(key), value, "{key} in a file");
            assert_eq!(
                filed.place(key).map(ToString::to_string).as_deref(),
                Some("rescue.toml, line 2")
            );
        }
    }

    #[test]
    fn stronger_layers_replace_weaker_ones_key_by_key() {
        let sources = SettingsSources {
            files: Vec::new(),
            command_line: "rescue.wait=5 rescue.wait=6".to_owned(),
        }
        .with_file(
            "image",
            b"countdown = 1\nwait = 1\nfinish = 'stay'".to_vec(),
        )
        .with_file("medium", b"countdown = 2\nwait = 2".to_vec());
        let settings = sources.resolve().unwrap();
        assert_eq!(settings.countdown, Duration::from_secs(2));
        assert_eq!(
            *settings.origin(Key::Countdown),
            Origin::File("medium".to_owned())
        );
        assert_eq!(settings.wait, Duration::from_secs(6));
        assert_eq!(settings.finish, Finish::Stay);
        assert_eq!(
            *settings.origin(Key::Finish),
            Origin::File("image".to_owned())
        );
    }

    #[test]
    fn bad_settings_name_source_line_key_value_and_what_is_allowed() {
        let cases: [(&str, &str); 27] = [
            (
                "mode = 'automatic'",
                "rescue.toml, line 1: mode = \"automatic\": not possible; allowed: auto, inspect, restore",
            ),
            (
                "\n\nmod = 'auto'",
                "rescue.toml, line 3: unknown setting \"mod\" (is mode meant?); the settings are mode, devices, banks, source, countdown, wait, finish, report, report_pin, network, console, bootnext",
            ),
            (
                "Mode = 'auto'",
                "rescue.toml, line 1: unknown setting \"Mode\" (is mode meant?)",
            ),
            (
                "countdown = -1",
                "rescue.toml, line 1: countdown = \"-1\": not possible; allowed: a whole number",
            ),
            ("countdown = '+1'", "countdown = \"+1\""),
            ("countdown = 86401", "countdown = \"86401\""),
            (
                "wait = 99999999999999999999999999",
                "wait = \"99999999999999999999999999\"",
            ),
            ("wait = 1.5", "wait is a number with a fraction"),
            ("wait = ''", "wait = \"\""),
            ("finish = true", "finish is true or false"),
            ("devices = ['all']", "devices is a list"),
            ("devices = '  '", "devices = \"  \""),
            ("banks = ''", "banks = \"\""),
            ("[mode]\nx = 1", "mode is a table"),
            ("[rescue]\nmode = 'auto'", "unknown setting \"rescue\";"),
            ("report = 'ftp://x'", "report = \"ftp://x\""),
            ("report = 'http:///x'", "report = \"http:///x\""),
            ("report = 'http://a b'", "report = \"http://a b\""),
            (
                "report = 'http://me:secret@host/'",
                "without user and password",
            ),
            ("report_pin = 'abcd'", "report_pin = \"abcd\""),
            ("network = 'eth0:dhcp'", "network = \"eth0:dhcp\""),
            (
                "network = '10.0.0.1::10.9.0.1:255.255.255.0'",
                "allowed: dhcp, or an address",
            ),
            (
                PINNED_HTTP,
                "rescue.toml, line 2: report_pin is set, but report begins with http://",
            ),
            ("console = '../sda'", "console = \"../sda\""),
            ("console = 'tty0,'", "console = \"tty0,\""),
            ("devices = \"all\\u001b[2J\"", "devices = \"all\\u{1b}[2J\""),
            ("mode = auto", "rescue.toml, line 1: not TOML:"),
        ];
        for (text, expected) in cases {
            let found = messages(from_file(text));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(expected), "{text}: {}", found[0]);
        }
    }

    #[test]
    fn every_mistake_is_reported_even_one_that_a_stronger_layer_would_hide() {
        let sources = SettingsSources {
            files: Vec::new(),
            command_line: "rescue.wait=soon rescue.mode=inspect".to_owned(),
        }
        .with_file("image", b"mode = 'x'\nbank = 1".to_vec());
        assert_eq!(messages(sources.resolve()).len(), 3);
    }

    #[test]
    fn command_line_mistakes_are_named() {
        let cases = [
            (
                "rescue.mode",
                "kernel command line: mode has no value; allowed: auto",
            ),
            (
                "rescue.mode=",
                "kernel command line: mode = \"\": not possible",
            ),
            ("rescue.=x", "unknown setting \"\""),
            ("rescue.foo.bar=1", "unknown setting \"foo.bar\""),
            ("rescue.countdown=10s", "countdown = \"10s\""),
            ("\"rescue.devices=a\u{7}\"", "devices = \"a\\u{7}\""),
        ];
        for (text, expected) in cases {
            let found = messages(from_command_line(text));
            assert!(found[0].contains(expected), "{text}: {}", found[0]);
        }
        assert!(from_command_line("rescue rescued.mode=1 norescue.mode=2 mode=3").is_ok());
    }

    #[test]
    fn words_that_look_like_settings_and_are_none_are_not_passed_over() {
        let cases = [
            ("rescue_mode=inspect", "rescue_mode", "mode"),
            ("rescue-mode=inspect", "rescue-mode", "mode"),
            ("Rescue.mode=inspect", "Rescue.mode", "mode"),
            ("RESCUE.MODE=inspect", "RESCUE.MODE", "mode"),
            ("rescue_mdoe=inspect", "rescue_mdoe", "mode"),
            ("rescue-device=auto", "rescue-device", "devices"),
            ("Rescue_Bank=5", "Rescue_Bank", "banks"),
            ("rescue_count_down=60", "rescue_count_down", "countdown"),
            ("rescue-report-pin=1", "rescue-report-pin", "report_pin"),
            ("\"rescue_finish=stay\"", "rescue_finish", "finish"),
            ("rescue_wait", "rescue_wait", "wait"),
        ];
        for (text, word, key) in cases {
            let found = messages(from_command_line(&format!("quiet {text} rescue.wait=5")));
            let expected = format!(
                "kernel command line: {word:?} is not a setting, but looks like one: write rescue.{key}, or leave it out"
            );
            assert_eq!(found, [expected], "{text}");
        }
        let found = messages(from_command_line("rescue.Mode=inspect rescue.bnaks=5"));
        assert!(found[0].contains("unknown setting \"Mode\" (is mode meant?)"));
        assert!(found[1].contains("unknown setting \"bnaks\" (is banks meant?)"));
        // Nobody else's words begin with this program's name and a dot.
        let found = messages(from_command_line("RESCUE.quickly"));
        assert!(found[0].contains("unknown setting \"RESCUE.quickly\";"));
        // Words of others, and one that the image's boot menu has.
        assert!(
            from_command_line("rescue_from=usb rescue-disk=sda rescue_ rescue-1 rescuée.mode")
                .is_ok()
        );
    }

    #[test]
    fn the_command_line_is_split_as_the_kernel_does() {
        type Word = (&'static str, Option<&'static str>);
        let cases: [(&str, &[Word]); 7] = [
            ("  a  b=c\n", &[("a", None), ("b", Some("c"))]),
            ("a=\"x y\" b", &[("a", Some("x y")), ("b", None)]),
            ("\"a=x y\" b", &[("a", Some("x y")), ("b", None)]),
            ("a=x\" \"y", &[("a", Some("x\" \"y"))]),
            ("a=b=c", &[("a", Some("b=c"))]),
            ("a=\"unfinished b", &[("a", Some("unfinished b"))]),
            ("\"", &[("", None)]),
        ];
        for (text, expected) in cases {
            let found = command_line_words(text);
            let found: Vec<(&str, Option<&str>)> = found
                .iter()
                .map(|word| (word.name.as_str(), word.value.as_deref()))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn files_from_other_editors_are_read_or_explained() {
        let settings = from_file("\u{feff}mode = 'inspect'\r\nwait = 0x10\r\n").unwrap();
        assert_eq!(
            (settings.mode, settings.wait.as_secs()),
            (Mode::Inspect, 16)
        );
        let utf16: Vec<u8> = "\u{feff}mode"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert!(messages(from_file(utf16))[0].contains("save the file as UTF-8"));
        let huge = vec![b'#'; MAX_FILE_BYTES + 1];
        assert!(messages(from_file(huge))[0].contains("at most 65536"));
        let long = format!("devices = '{}'", "a".repeat(MAX_VALUE_BYTES + 1));
        assert!(messages(from_file(long))[0].len() < 300);
        let twice = messages(from_file("wait = 1\nwait = 2"));
        assert!(
            twice[0].starts_with("rescue.toml, line 2: not TOML: duplicate"),
            "{twice:?}"
        );
        assert!(from_file("a = ".to_owned() + &"[".repeat(60_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(file in proptest::collection::vec(any::<u8>(), 0..300), line in "\\PC{0,200}") {
            let sources = SettingsSources { files: Vec::new(), command_line: line }.with_file("f", file);
            let _ = sources.resolve();
        }
    }
}
