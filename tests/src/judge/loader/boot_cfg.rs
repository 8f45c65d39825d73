//! boot.cfg as the loader reads it (`bootlib/parse.c`, `safeboot/config.c`, `mboot/config.c`).
//!
//! Twice, by two programs with keys of their own: the one that elects a bank, and the one that loads
//! what it names. A line's key counts if it is a beginning of a known key, in any case: `mod=` is
//! `modules=`. A value that should be a number and is none makes the whole file an error.

use anyhow::{Result, bail, ensure};

/// Where the loader can write the new state: in the first bytes of the file.
const WRITABLE_BYTES: usize = 512;

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
}

use Kind::{Number, Text};

/// The keys of the program that elects, in its order.
const ELECTION: &[(&str, Kind)] = &[
    ("build", Text),
    ("updated", Number),
    ("bootstate", Number),
    ("quickboot", Number),
];

/// The keys of the program that loads, in its order.
const LOADING: &[(&str, Kind)] = &[
    ("kernel", Text),
    ("kernelopt", Text),
    ("modules", Text),
    ("title", Text),
    ("prefix", Text),
    ("nobootif", Number),
    ("timeout", Number),
    ("noquirks", Number),
    ("norts", Number),
    ("crypto", Text),
    ("runtimewd", Number),
    ("tftpblksize", Number),
    ("acpitables", Text),
    ("runtimewdtimeout", Number),
    ("skip", Number),
    ("errtimeout", Number),
];

/// The last value of a key; `None`: it has none, or an empty one.
#[derive(Debug)]
struct Values<'k> {
    keys: &'k [(&'k str, Kind)],
    values: Vec<Option<Vec<u8>>>,
}

impl<'k> Values<'k> {
    fn parse(text: &[u8], keys: &'k [(&'k str, Kind)]) -> Result<Self> {
        let mut values = Self {
            keys,
            values: vec![None; keys.len()],
        };
        for line in text.split(|byte| *byte == b'\n') {
            values.take(&merged(line))?;
        }
        Ok(values)
    }

    /// Takes a line whose blanks are merged.
    fn take(&mut self, line: &[u8]) -> Result<()> {
        if line.is_empty() || line[0] == b'#' {
            return Ok(());
        }
        let Some(sign) = line.iter().position(|byte| *byte == b'=') else {
            return Ok(());
        };
        let (key, value) = (&line[..sign], &line[sign + 1..]);
        let begins = |(known, _): &(&str, Kind)| {
            known
                .as_bytes()
                .get(..key.len())
                .is_some_and(|beginning| beginning.eq_ignore_ascii_case(key))
        };
        let Some(place) = self.keys.iter().position(begins) else {
            return Ok(());
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        ensure!(
            self.keys[place].1 == Text || is_number(value),
            "{} is no number",
            self.keys[place].0
        );
        self.values[place] = (!value.is_empty()).then(|| value.to_vec());
        Ok(())
    }

    fn bytes(&self, key: &str) -> Option<&[u8]> {
        let place = self.keys.iter().position(|(known, _)| *known == key)?;
        self.values[place].as_deref()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.bytes(key).map(|value| {
            // A byte is a character: names are compared byte by byte.
            value.iter().map(|byte| char::from(*byte)).collect()
        })
    }

    /// As the loader's `atoi`, from its text through 64 bits into 32.
    #[allow(clippy::cast_possible_truncation, reason = "as the loader does")]
    fn number(&self, key: &str) -> i32 {
        let text = self.text(key).unwrap_or_default();
        let digits = text.trim_start_matches('-');
        let magnitude = match digits {
            "" => 0,
            digits => digits.parse::<i64>().unwrap_or(i64::MAX),
        };
        match text.starts_with('-') {
            true if magnitude == i64::MAX => i64::MIN as i32,
            true => -magnitude as i32,
            false => magnitude as i32,
        }
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || (9..=13).contains(&byte)
}

fn is_number(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    digits.iter().all(u8::is_ascii_digit)
}

/// A line up to a NUL byte, each run of blanks as one, none at the ends.
fn merged(line: &[u8]) -> Vec<u8> {
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let words = line.split(|byte| is_blank(*byte));
    let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
    words.join(&b' ')
}

/// What the election of a bank goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BankConfig {
    pub updated: u32,
    state: i32,
    has_build: bool,
    quick: bool,
}

impl BankConfig {
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let values = Values::parse(text, ELECTION)?;
        Ok(Self {
            updated: values.number("updated").cast_unsigned(),
            state: values.number("bootstate"),
            has_build: values.bytes("build").is_some(),
            quick: values.number("quickboot") != 0,
        })
    }

    /// Found valid, or in the first start after an upgrade.
    pub(super) fn is_eligible(&self) -> bool {
        let sound = self.updated != 0 && self.has_build && !self.quick;
        sound && [0, 1].contains(&self.state)
    }

    /// The state that the loader gives the bank.
    fn new_state(&self) -> i32 {
        match self.state {
            _ if self.quick => 3,
            1 if self.is_eligible() => 2,
            0 => 0,
            _ => 3,
        }
    }

    /// Whether the loader can write the new state, if there is one: else it passes the bank over.
    pub(super) fn state_can_be_set(&self, text: &[u8]) -> bool {
        self.new_state() == self.state || writable_state(text)
    }
}

/// Whether a state of one digit stands in the bytes that can be written.
fn writable_state(text: &[u8]) -> bool {
    const KEY: &[u8] = b"bootstate";
    let text = &text[..text.len().min(WRITABLE_BYTES)];
    for at in 0..text.len() {
        let (before, from) = text.split_at(at);
        let Some(key) = from.get(..KEY.len()) else {
            return false;
        };
        let line = before.rsplit(|byte| *byte == b'\n').next();
        let first = line.is_none_or(|line| line.iter().all(|byte| is_blank(*byte)));
        if !key.eq_ignore_ascii_case(KEY) || !first {
            continue;
        }
        if let [b'=', value @ ..] = gap(&from[KEY.len()..]) {
            return gap(value)
                .first()
                .is_some_and(|state| (b'0'..=b'3').contains(state));
        }
    }
    false
}

/// Without the spaces and tabs in front.
fn gap(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    &bytes[bytes.iter().take_while(|byte| blank(byte)).count()..]
}

/// What is loaded from a bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootConfig {
    kernel: String,
    modules: Vec<String>,
    prefix: String,
}

impl BootConfig {
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let values = Values::parse(text, LOADING)?;
        ensure!(values.number("skip") == 0, "boot.cfg says to skip it");
        let Some(kernel) = values.text("kernel") else {
            bail!("boot.cfg names no kernel");
        };
        Ok(Self {
            kernel,
            modules: items(&values.text("modules").unwrap_or_default()),
            prefix: values.text("prefix").unwrap_or_default(),
        })
    }

    /// The paths of the kernel and of the modules.
    pub(super) fn paths(&self) -> Vec<String> {
        std::iter::once(&self.kernel)
            .chain(&self.modules)
            .map(|file| self.path(file))
            .collect()
    }

    fn path(&self, file: &str) -> String {
        let file = file.trim_start();
        let absolute = file.starts_with('/') || file.contains("://");
        let joined = match absolute || self.prefix.is_empty() {
            true => file.to_owned(),
            false => format!("{}/{file}", self.prefix),
        };
        let mut path = String::new();
        for letter in joined.chars().filter(|letter| !letter.is_whitespace()) {
            let letter = if letter == '\\' { '/' } else { letter };
            if letter != '/' || !path.ends_with('/') {
                path.push(letter);
            }
        }
        path
    }
}

/// The files of a list that is separated by `---`: of each item the first word.
fn items(list: &str) -> Vec<String> {
    let words = list.split("---").map(|item| item.split_whitespace().next());
    words.flatten().map(str::to_owned).collect()
}
