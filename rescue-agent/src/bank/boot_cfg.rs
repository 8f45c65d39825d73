//! `boot.cfg`, read the way VMware's loader reads it, oddities included: what it makes of the
//! file decides which bank boots.
//!
//! In scope: reading. Not in scope: writing (only the loader and ESXi do) and the election
//! itself ([`super::election`]).
//!
//! Two programs read the file, each with its own list of keys: safeboot elects the bank
//! (`build`, `updated`, `bootstate`, `quickboot`), then mboot loads it (`kernel`, `modules`, …).
//! Sources: esx-boot bootlib/parse.c, bootlib/string.c, libc/ctypes.c, libc/standard.c,
//! safeboot/config.c, mboot/config.c. The grammar, as coded there:
//! - A line ends at LF, and for its meaning at the first NUL byte.
//! - Runs of white space become one space, those at both ends vanish; `#` then starts a comment.
//! - The key is what stands before the first `=`. It matches the first key of the list that
//!   *begins* with it, in either case: `boot=3` sets `bootstate`, and a line that starts with `=`
//!   sets the first key. A space in front of `=` belongs to the key, which then matches nothing.
//! - An empty value is 0 or none. A value that is no number, in a key that wants one, rejects
//!   the file. Of several lines with one key, the last counts. Other keys are ignored.

use std::fmt;

/// Real ones have about 3 KiB.
pub const MAX_FILE_BYTES: usize = 256 * 1024;
/// The loader changes `bootstate` only within this many bytes from the start
/// (safeboot/config.c, `bank_set_bootstate`).
const REWRITABLE_BYTES: usize = 512;
/// What separates the items of `modules`.
const MODULE_SEPARATOR: &str = "---";

/// How far a bank has got, as it stands on the disk between boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootState {
    /// 0: in order. Also what a boot.cfg without the key has.
    Valid,
    /// 1: just upgraded, to be tried by the next boot.
    Upgrading,
    /// 2: tried once after an upgrade and never confirmed.
    Dirty,
    /// 3: empty, as on a fresh install, or given up.
    Invalid,
    /// Any other number: the loader treats it as invalid.
    Other(i32),
}

impl From<i32> for BootState {
    fn from(number: i32) -> Self {
        match number {
            0 => Self::Valid,
            1 => Self::Upgrading,
            2 => Self::Dirty,
            3 => Self::Invalid,
            other => Self::Other(other),
        }
    }
}

impl BootState {
    /// The number in boot.cfg.
    pub fn number(self) -> i32 {
        match self {
            Self::Valid => 0,
            Self::Upgrading => 1,
            Self::Dirty => 2,
            Self::Invalid => 3,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for BootState {
    /// Number and name, the names being those of the loader's log: `3 (INVALID)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Valid => "VALID",
            Self::Upgrading => "UPGRADING",
            Self::Dirty => "DIRTY",
            Self::Invalid => "INVALID",
            Self::Other(_) => "CORRUPTED",
        };
        write!(f, "{} ({name})", self.number())
    }
}

/// What boot.cfg says, as the loader understands it. Text that is not UTF-8 has its foreign bytes
/// replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootCfg {
    /// Version and build, such as `6.7.0-8169922`. `None` on an empty bank.
    pub build: Option<String>,
    /// The counter by which banks are compared; 0 where there is none. The loader reads a signed
    /// number and compares it unsigned: -1 is the highest of all.
    pub updated: u32,
    /// How far the bank has got.
    pub bootstate: BootState,
    /// Whether the bank was made for one Quick Boot only.
    pub quickboot: bool,
    /// Whether the loader can change `bootstate`: it looks for the key and one digit, 0 to 3, in
    /// the first 512 bytes, and does not use a bank that it should change and cannot.
    pub bootstate_rewritable: bool,
    /// What mboot makes of the file.
    pub load: Result<LoadSettings, BootCfgError>,
}

impl BootCfg {
    /// Reads a boot.cfg.
    ///
    /// # Errors
    /// [`BootCfgError`] where safeboot rejects the file, and with it the bank. What only mboot
    /// rejects is left in [`BootCfg::load`]: such a bank is elected, and then does not boot.
    pub fn parse(bytes: &[u8]) -> Result<Self, BootCfgError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(BootCfgError::TooLarge { size: bytes.len() });
        }
        let [build, updated, bootstate, quickboot] = read(bytes, &SAFEBOOT_KEYS)?;
        Ok(Self {
            build: build.text(),
            updated: updated.number().cast_unsigned(),
            bootstate: bootstate.number().into(),
            quickboot: quickboot.number() != 0,
            bootstate_rewritable: bootstate_rewritable(bytes),
            load: LoadSettings::parse(bytes),
        })
    }

    /// Whether the file belongs to a bank that holds an ESXi: one that names its build. The
    /// spare bank of a fresh install does not, nor do some installer media.
    pub fn has_build(&self) -> bool {
        self.build.is_some()
    }

    /// The modules the bank loads; none where mboot rejects the file.
    pub fn modules(&self) -> &[String] {
        self.load.as_ref().map_or(&[], |load| &load.modules)
    }
}

/// The part of boot.cfg that mboot acts on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadSettings {
    /// The kernel's file name.
    pub kernel: Option<String>,
    /// The kernel's command line.
    pub kernelopt: Option<String>,
    /// File names in the order of loading, without their options. `state.tgz` is one of them.
    pub modules: Vec<String>,
    /// The banner.
    pub title: Option<String>,
    /// The folder that relative names start from.
    pub prefix: Option<String>,
    /// Whether the file is to be passed over.
    pub skip: bool,
}

impl LoadSettings {
    fn parse(bytes: &[u8]) -> Result<Self, BootCfgError> {
        let [kernel, kernelopt, modules, title, prefix, .., skip, _] = read(bytes, &MBOOT_KEYS)?;
        Ok(Self {
            kernel: kernel.text(),
            kernelopt: kernelopt.text(),
            modules: modules
                .text()
                .as_deref()
                .map_or_else(Vec::new, module_names),
            title: title.text(),
            prefix: prefix.text(),
            skip: skip.number() != 0,
        })
    }
}

/// The first word of every item: mboot takes what follows it for options.
fn module_names(list: &str) -> Vec<String> {
    list.split(MODULE_SEPARATOR)
        .filter_map(|item| item.split_ascii_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// A boot.cfg that the loader rejects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootCfgError {
    /// Beyond [`MAX_FILE_BYTES`].
    #[error("boot.cfg is {size} bytes long, more than the {limit} of any real one", limit = MAX_FILE_BYTES)]
    TooLarge {
        /// Bytes found.
        size: usize,
    },
    /// A key that wants a number has something else.
    #[error(
        "boot.cfg line {line}: {key}={value:?} is not a number; ESXi's loader rejects the whole file for that"
    )]
    NotANumber {
        /// Counted from 1.
        line: usize,
        /// The key's full name.
        key: &'static str,
        /// What it is set to.
        value: String,
    },
}

/// A key that one of the two programs knows.
#[derive(Debug)]
struct Key {
    name: &'static str,
    wants_number: bool,
}

const fn text(name: &'static str) -> Key {
    Key {
        name,
        wants_number: false,
    }
}

const fn number(name: &'static str) -> Key {
    Key {
        name,
        wants_number: true,
    }
}

/// safeboot/config.c, in its order.
const SAFEBOOT_KEYS: [Key; 4] = [
    text("build"),
    number("updated"),
    number("bootstate"),
    number("quickboot"),
];

/// mboot/config.c, in its order, which decides what a shortened key means.
const MBOOT_KEYS: [Key; 16] = [
    text("kernel"),
    text("kernelopt"),
    text("modules"),
    text("title"),
    text("prefix"),
    number("nobootif"),
    number("timeout"),
    number("noquirks"),
    number("norts"),
    text("crypto"),
    number("runtimewd"),
    number("tftpblksize"),
    text("acpitables"),
    number("runtimewdtimeout"),
    number("skip"),
    number("errtimeout"),
];

/// The last value of a key: both default and empty are `Nothing`, 0 as a number.
#[derive(Debug, Default)]
enum Value {
    #[default]
    Nothing,
    Text(String),
    Number(i32),
}

impl Value {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nothing | Self::Number(_) => None,
        }
    }

    fn number(&self) -> i32 {
        match self {
            Self::Number(number) => *number,
            Self::Nothing | Self::Text(_) => 0,
        }
    }
}

/// The values of all `keys`.
fn read<const N: usize>(bytes: &[u8], keys: &[Key; N]) -> Result<[Value; N], BootCfgError> {
    let mut values = [const { Value::Nothing }; N];
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = merge_spaces(line);
        let Some((key, value)) = split_line(&line) else {
            continue;
        };
        let Some(which) = keys.iter().position(|known| abbreviates(key, known.name)) else {
            continue;
        };
        values[which] = convert(value, &keys[which], index + 1)?;
    }
    Ok(values)
}

/// The line up to a NUL byte, each run of white space one space, none at the ends.
fn merge_spaces(line: &[u8]) -> Vec<u8> {
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let words = line
        .split(|byte| is_space(*byte))
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(&b' ')
}

/// White space by the loader's own table, which has two more than C: backspace, and the
/// no-break space of ISO 8859-1 (libc/ctypes.c).
fn is_space(byte: u8) -> bool {
    matches!(byte, 0x08..=0x0d | b' ' | 0xa0)
}

/// Key and value; `None` for comments and lines without `=`.
fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    if line.first() == Some(&b'#') {
        return None;
    }
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let value = &line[equals + 1..];
    Some((&line[..equals], value.strip_prefix(b" ").unwrap_or(value)))
}

/// Whether the key of a line stands for `name`: any beginning of it does, even an empty one.
fn abbreviates(key: &[u8], name: &str) -> bool {
    name.as_bytes()
        .get(..key.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(key))
}

fn convert(value: &[u8], key: &Key, line: usize) -> Result<Value, BootCfgError> {
    if value.is_empty() {
        return Ok(Value::Nothing);
    }
    let text = || String::from_utf8_lossy(value).into_owned();
    if !key.wants_number {
        return Ok(Value::Text(text()));
    }
    atoi(value)
        .map(Value::Number)
        .ok_or_else(|| BootCfgError::NotANumber {
            line,
            key: key.name,
            value: text(),
        })
}

/// Digits after an optional minus sign, read as the loader's `atoi` does: clamped to 64 bits, of
/// which the low 32 are kept. A lone minus sign is 0.
fn atoi(value: &[u8]) -> Option<i32> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut number = 0_i64;
    for digit in digits {
        let digit = i64::from(char::from(*digit).to_digit(10)?);
        let signed = if negative { -digit } else { digit };
        number = number.saturating_mul(10).saturating_add(signed);
    }
    let [b0, b1, b2, b3, ..] = number.to_le_bytes();
    Some(i32::from_le_bytes([b0, b1, b2, b3]))
}

/// Whether the loader finds a `bootstate` to change: the first line that starts with the word,
/// after white space, and goes on with `=` and a digit from 0 to 3 (`scan_config`).
fn bootstate_rewritable(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(REWRITABLE_BYTES)];
    start
        .split(|byte| *byte == b'\n')
        .find_map(bootstate_of_line)
        .is_some_and(|digit| matches!(digit, b'0'..=b'3'))
}

/// The first byte of the value, where the line sets `bootstate`.
fn bootstate_of_line(line: &[u8]) -> Option<u8> {
    const WORD: &[u8] = b"bootstate";
    let blank = |byte: &u8| matches!(*byte, b' ' | b'\t');
    let line = &line[line.iter().take_while(|byte| is_space(**byte)).count()..];
    let rest = line
        .get(..WORD.len())
        .filter(|word| word.eq_ignore_ascii_case(WORD))
        .map(|_| &line[WORD.len()..])?;
    let rest = &rest[rest.iter().take_while(|byte| blank(byte)).count()..];
    let value = rest.strip_prefix(b"=")?;
    value.iter().find(|byte| !blank(byte)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &str = "bootstate=0\n\
        title=Loading VMware ESXi\n\
        timeout=5\n\
        prefix=\n\
        kernel=b.b00\n\
        kernelopt=installerDiskDumpSlotSize=2560 no-auto-partition\n\
        modules=jumpstrt.gz --- useropts.gz --- sb.v00 opt=1 two --- onetime.tgz --- state.tgz\n\
        build=6.7.0-8169922\n\
        updated=7\n";

    fn parse(text: &str) -> BootCfg {
        BootCfg::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_real_file() {
        let cfg = parse(REAL);
        assert_eq!(cfg.build.as_deref(), Some("6.7.0-8169922"));
        assert_eq!(
            (cfg.updated, cfg.bootstate, cfg.quickboot),
            (7, BootState::Valid, false)
        );
        let load = cfg.load.as_ref().unwrap();
        assert_eq!(load.title.as_deref(), Some("Loading VMware ESXi"));
        assert_eq!(
            cfg.modules(),
            [
                "jumpstrt.gz",
                "useropts.gz",
                "sb.v00",
                "onetime.tgz",
                "state.tgz"
            ]
        );
        let load = cfg.load.as_ref().unwrap();
        assert_eq!(load.kernel.as_deref(), Some("b.b00"));
        assert_eq!(
            load.kernelopt.as_deref(),
            Some("installerDiskDumpSlotSize=2560 no-auto-partition")
        );
        assert_eq!(load.prefix, None);
        assert!(cfg.bootstate_rewritable);
        assert!(cfg.has_build());
    }

    #[test]
    fn the_spare_bank_of_a_fresh_install() {
        let cfg = parse(
            "bootstate=3\ntitle=Loading VMware ESXi\nkernel=\nkernelopt=\nmodules=\nbuild=\nupdated=2\n",
        );
        assert_eq!((cfg.updated, cfg.bootstate), (2, BootState::Invalid));
        assert!(!cfg.has_build());
        assert!(cfg.modules().is_empty());
        assert_eq!(cfg.bootstate.to_string(), "3 (INVALID)");
    }

    #[test]
    fn keys_are_matched_as_the_loader_matches_them() {
        // A line, and whether it sets `updated` to 9.
        let cases = [
            ("updated=9", true),
            ("UpDated=9", true),
            ("  \t updated=  9 \r", true),
            ("\u{8}updated=9", true),
            // Any beginning of the key.
            ("u=9", true),
            ("update=9", true),
            ("updated =9", false),
            ("updatedx=9", false),
            ("#updated=9", false),
            (" # updated=9", false),
            ("updated", false),
            ("xupdated=9", false),
            ("updated\0=9", false),
            ("updated=9\0garbage", true),
        ];
        for (line, sets) in cases {
            let cfg = parse(&format!("updated=1\n{line}\nbuild=x"));
            assert_eq!(cfg.updated, if sets { 9 } else { 1 }, "{line:?}");
        }
        // An empty key is the beginning of the first one.
        assert_eq!(parse("=5").build.as_deref(), Some("5"));
        assert_eq!(parse("boot=3").bootstate, BootState::Invalid);
        // `k` and `kernel` are the kernel, only longer ones are its options.
        let load = parse("k=a\nkernelo=b=c").load.unwrap();
        assert_eq!(
            (load.kernel.as_deref(), load.kernelopt.as_deref()),
            (Some("a"), Some("b=c"))
        );
    }

    #[test]
    fn the_last_line_counts_and_empty_is_nothing() {
        let cfg = parse("updated=5\nbuild=a\nupdated=6\nbuild=b");
        assert_eq!((cfg.updated, cfg.build.as_deref()), (6, Some("b")));
        let cfg = parse("updated=5\nbuild=a\nbootstate=2\nupdated=\nbuild=\nbootstate= ");
        assert_eq!(
            (cfg.updated, cfg.build, cfg.bootstate),
            (0, None, BootState::Valid)
        );
        let cfg = parse("");
        assert_eq!(
            (cfg.updated, cfg.build, cfg.bootstate),
            (0, None, BootState::Valid)
        );
        assert!(!cfg.bootstate_rewritable);
    }

    #[test]
    fn numbers_are_the_loaders() {
        let cases = [
            ("0", 0),
            ("007", 7),
            ("-1", u32::MAX),
            ("-", 0),
            ("2147483648", 0x8000_0000),
            ("4294967296", 0),
            ("99999999999999999999", u32::MAX),
            ("-99999999999999999999", 0),
        ];
        for (text, number) in cases {
            assert_eq!(parse(&format!("updated={text}")).updated, number, "{text}");
        }
        assert_eq!(parse("bootstate=-1").bootstate, BootState::Other(-1));
        assert_eq!(parse("bootstate=4").bootstate.to_string(), "4 (CORRUPTED)");
        assert!(parse("quickboot=2").quickboot);
    }

    #[test]
    fn what_is_no_number_rejects_the_file() {
        for value in [
            "x", "1x", "+1", "0x1", "1 2", "1.5", "--1", "\u{661}", "\"1\"",
        ] {
            assert_eq!(
                BootCfg::parse(format!("build=a\nupdated={value}").as_bytes()),
                Err(BootCfgError::NotANumber {
                    line: 2,
                    key: "updated",
                    value: value.into()
                })
            );
        }
        // Even where a later line would correct it; but not under another program's key.
        assert!(BootCfg::parse(b"bootstate=x\nbootstate=0").is_err());
        let cfg = parse("build=a\nupdated=1\ntimeout=soon\nkernel=b.b00");
        assert_eq!(cfg.updated, 1);
        assert!(matches!(
            cfg.load,
            Err(BootCfgError::NotANumber {
                line: 3,
                key: "timeout",
                ..
            })
        ));
        assert_eq!(cfg.modules(), [""; 0]);
    }

    #[test]
    fn the_loader_rewrites_a_digit_near_the_start_only() {
        let far = format!("title={}\nbootstate=1\n", "x".repeat(600));
        let cases = [
            ("bootstate=1", true),
            (" \tBootState \t= \t3", true),
            ("title=a\nbootstate=0", true),
            ("kernelopt=bootstate=1", false),
            ("bootstate=", false),
            ("bootstate=4", false),
            ("bootstate=-1", false),
            ("#bootstate=1", false),
            ("boot=1", false),
            // The first one is taken, whatever it says.
            ("bootstate=9\nbootstate=1", false),
            (&far, false),
        ];
        for (text, rewritable) in cases {
            assert_eq!(
                bootstate_rewritable(text.as_bytes()),
                rewritable,
                "{text:?}"
            );
        }
    }

    #[test]
    fn size_is_bounded() {
        assert_eq!(
            BootCfg::parse(&vec![b'\n'; MAX_FILE_BYTES + 1]),
            Err(BootCfgError::TooLarge {
                size: MAX_FILE_BYTES + 1
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = BootCfg::parse(&bytes);
        }

        #[test]
        fn any_lines_are_survived(lines in "((b|u|bootstate|updated|build|modules|)[ =\\t]{0,3}[0-9a-z #-]{0,8}[\\n\\r\\x00]{0,2}){0,12}") {
            let _ = BootCfg::parse(lines.as_bytes());
        }
    }
}
