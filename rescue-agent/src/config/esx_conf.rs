//! `etc/vmware/esx.conf`: which devices it gives away, and the one edit that takes them back.
//!
//! In scope: the grammar, the entries under `/device/`, and overwriting an owner in place. Not in
//! scope: any other key, and writing the file again. ESXi refuses a malformed esx.conf as a whole,
//! so nothing here ever adds, drops or reorders text.
//!
//! The grammar is the one of ESXi's own reader, a stream of characters rather than of lines: TAB,
//! LF, CR and SPACE are white space; a NUL byte ends the file; `#` at the start of a statement
//! comments to the line end; a statement is a key, `=` and a value in double quotes without any
//! escapes; a key is `/segment` repeated, and a segment may carry an `[index]`; several
//! statements may share a line; of duplicate keys the last one wins. Keys and values are limited
//! to 8191 bytes.

use std::fmt;
use std::ops::Range;

use super::pci;

/// Larger than any esx.conf seen (tens of KiB, a few hundred on hosts with many LUNs).
pub const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;
/// The longest key or value that ESXi reads, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8191;

/// What an entry's owner says when the device is given to virtual machines.
const PASSTHRU: &[u8; 8] = b"passthru";
/// What it says when the device is ESXi's own: as many bytes, so that the edit moves nothing.
const VMKERNEL: &[u8; 8] = b"vmkernel";

/// A place in the file, in bytes from its start.
pub type ByteRange = Range<usize>;

/// Who drives a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// ESXi itself.
    Vmkernel,
    /// Virtual machines.
    Passthru,
    /// The service console of classic ESX.
    Console,
    /// Something this program does not know and leaves alone.
    Other(String),
}

impl Owner {
    fn new(value: &[u8]) -> Self {
        match value {
            b"vmkernel" => Self::Vmkernel,
            b"passthru" => Self::Passthru,
            b"console" => Self::Console,
            other => Self::Other(String::from_utf8_lossy(other).into_owned()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmkernel => f.write_str("vmkernel"),
            Self::Passthru => f.write_str("passthru"),
            Self::Console => f.write_str("console"),
            Self::Other(text) => write!(f, "{}", text.escape_default()),
        }
    }
}

/// One `/device/ADDRESS/owner` statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerValue {
    /// Where the value stands, without its quotes.
    pub range: ByteRange,
    /// What it says.
    pub value: Owner,
}

/// Everything under one `/device/ADDRESS`. Of a key that occurs more than once, the last value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLines {
    /// The address as it is spelled in the file; [`super::pci::EsxAddress::parse`] reads it.
    pub address_text: String,
    /// Every `owner` statement in the order of the file. Usually one; often none.
    pub owners: Vec<OwnerValue>,
    /// PCI vendor ID.
    pub vendor: Option<u16>,
    /// PCI device ID.
    pub device: Option<u16>,
    /// ESXi's name for the adapter, such as `vmhba0`.
    pub vmkname: Option<String>,
    /// PCI class, hex text.
    pub class: Option<String>,
}

impl DeviceLines {
    fn new(address_text: String) -> Self {
        Self {
            address_text,
            owners: Vec::new(),
            vendor: None,
            device: None,
            vmkname: None,
            class: None,
        }
    }

    /// The owner that ESXi acts on: the last one. `None` where the entry names no owner.
    pub fn owner(&self) -> Option<&Owner> {
        self.owners.last().map(|owner| &owner.value)
    }

    /// Every place where this entry says `passthru`, overridden ones included: what
    /// [`give_back`] takes.
    pub fn passthru_ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.owners
            .iter()
            .filter(|owner| owner.value == Owner::Passthru)
            .map(|owner| owner.range.clone())
    }

    fn set(&mut self, leaf: &[u8], value: &[u8], range: ByteRange) {
        let text = || Some(String::from_utf8_lossy(value).into_owned());
        let id = || str::from_utf8(value).ok().and_then(pci::id);
        match leaf {
            b"owner" => {
                // Nearly every entry has one, and a file may have very many entries.
                self.owners.reserve_exact(1);
                self.owners.push(OwnerValue {
                    range,
                    value: Owner::new(value),
                });
            }
            b"vendor" => self.vendor = id(),
            b"device" => self.device = id(),
            b"vmkname" => self.vmkname = text(),
            b"class" => self.class = text(),
            _ => {}
        }
    }
}

/// Where ESXi keeps its own UUID of the system. It is the line that has to be removed from a host that
/// was copied, because two hosts must not have the same.
const SYSTEM_UUID: &[u8] = b"/system/uuid";
/// Where it keeps the host's name.
const HOST_NAME: &[u8] = b"/adv/Misc/HostName";

/// A parsed esx.conf. Only the device entries are kept, and what identifies the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EsxConf {
    devices: Vec<DeviceLines>,
    statements: usize,
    system_uuid: Option<String>,
    host_name: Option<String>,
}

impl EsxConf {
    /// The entries under `/device/`, in the order in which their addresses first occur. On ESXi
    /// 7.0U2 and later there are usually none: the ConfigStore holds them.
    pub fn devices(&self) -> &[DeviceLines] {
        &self.devices
    }

    /// The same, handed out.
    pub fn into_devices(self) -> Vec<DeviceLines> {
        self.devices
    }

    /// ESXi's own UUID of the system.
    pub fn system_uuid(&self) -> Option<&str> {
        self.system_uuid.as_deref()
    }

    /// The name of the host.
    pub fn host_name(&self) -> Option<&str> {
        self.host_name.as_deref()
    }

    /// How many statements the file holds, device entries and all others.
    pub fn statements(&self) -> usize {
        self.statements
    }
}

/// Text that ESXi's own reader would refuse, or that this program does not take on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EsxConfError {
    /// Beyond [`MAX_FILE_BYTES`].
    #[error("esx.conf is {size} bytes long, more than the {limit} that any real one has; it was not read", limit = MAX_FILE_BYTES)]
    TooLarge {
        /// Bytes found.
        size: usize,
    },
    /// The grammar is broken.
    #[error(
        "esx.conf is malformed at byte {offset}, line {line}: {problem}; ESXi refuses such a file, so it was left alone"
    )]
    Malformed {
        /// Bytes from the start of the file.
        offset: usize,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        problem: Problem,
    },
}

/// How a statement breaks the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A statement starts with something else than `/`.
    #[error("expected a key that starts with '/', found {}", found.escape_ascii())]
    NoKey {
        /// The byte found.
        found: u8,
    },
    /// A key holds a double quote.
    #[error("there is a quote inside a key")]
    QuoteInKey,
    /// A `[` without its `]`.
    #[error("the '[' of a key's index is not closed on its line")]
    OpenIndex,
    /// No `=` after a key.
    #[error("expected '=' after a key, found {}", found.escape_ascii())]
    NoEquals {
        /// The byte found.
        found: u8,
    },
    /// No opening quote.
    #[error("expected a value in double quotes, found {}", found.escape_ascii())]
    NoValue {
        /// The byte found.
        found: u8,
    },
    /// A key or value is longer than ESXi reads.
    #[error("a key or value is longer than {limit} bytes", limit = MAX_TOKEN_BYTES)]
    TooLong,
    /// The file, or the part of it before a NUL byte, ends within a statement.
    #[error("the file ends in the middle of a statement")]
    Ends,
}

/// Reads a whole esx.conf.
///
/// # Errors
/// [`EsxConfError`] where ESXi's own reader would refuse the file; nothing of it may be edited
/// then.
pub fn parse(bytes: &[u8]) -> Result<EsxConf, EsxConfError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(EsxConfError::TooLarge { size: bytes.len() });
    }
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let mut cursor = Cursor {
        text: &bytes[..end],
        at: 0,
    };
    let mut conf = Collector::default();
    while let Some(statement) = cursor.statement()? {
        conf.take(
            &bytes[statement.key],
            &bytes[statement.value.clone()],
            statement.value,
        );
    }
    Ok(conf.finish())
}

/// Where a statement's two halves stand.
struct Statement {
    key: ByteRange,
    value: ByteRange,
}

/// Walks the text before the first NUL byte.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn error(&self, offset: usize, problem: Problem) -> EsxConfError {
        let before = &self.text[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        EsxConfError::Malformed {
            offset,
            line,
            problem,
        }
    }

    /// The next statement; `None` at the end of the text.
    fn statement(&mut self) -> Result<Option<Statement>, EsxConfError> {
        self.skip_space_and_comments();
        match self.peek() {
            None => return Ok(None),
            Some(b'/') => {}
            Some(found) => return Err(self.error(self.at, Problem::NoKey { found })),
        }
        let key = self.key()?;
        self.expect(b'=', |found| Problem::NoEquals { found })?;
        self.expect(b'"', |found| Problem::NoValue { found })?;
        let value = self.value()?;
        Ok(Some(Statement { key, value }))
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn skip_space_and_comments(&mut self) {
        self.skip_space();
        while self.peek() == Some(b'#') {
            self.at = self.find(b'\n').unwrap_or(self.text.len());
            self.skip_space();
        }
    }

    /// Position of the next `wanted` byte.
    fn find(&self, wanted: u8) -> Option<usize> {
        let rest = &self.text[self.at..];
        rest.iter()
            .position(|byte| *byte == wanted)
            .map(|distance| self.at + distance)
    }

    /// A key, up to white space or `=`. Indexes may hold both: they name LUNs and targets.
    fn key(&mut self) -> Result<ByteRange, EsxConfError> {
        let start = self.at;
        while let Some(byte) = self.peek() {
            match byte {
                b'=' => break,
                b'"' => return Err(self.error(self.at, Problem::QuoteInKey)),
                b'[' => self.at = self.index_end()?,
                byte if is_space(byte) => break,
                _ => self.at += 1,
            }
        }
        self.bounded(start..self.at)
    }

    /// Past the `]` that closes the index at the cursor.
    fn index_end(&self) -> Result<usize, EsxConfError> {
        let open = || self.error(self.at, Problem::OpenIndex);
        let close = self.find(b']').ok_or_else(open)?;
        if self.text[self.at..close].contains(&b'\n') {
            return Err(open());
        }
        Ok(close + 1)
    }

    /// Skips white space and then `wanted`.
    fn expect(&mut self, wanted: u8, problem: fn(u8) -> Problem) -> Result<(), EsxConfError> {
        self.skip_space();
        match self.peek() {
            Some(found) if found == wanted => {
                self.at += 1;
                Ok(())
            }
            Some(found) => Err(self.error(self.at, problem(found))),
            None => Err(self.error(self.at, Problem::Ends)),
        }
    }

    /// A value, up to its closing quote, which is consumed.
    fn value(&mut self) -> Result<ByteRange, EsxConfError> {
        let close = self
            .find(b'"')
            .ok_or_else(|| self.error(self.text.len(), Problem::Ends))?;
        let range = self.bounded(self.at..close)?;
        self.at = close + 1;
        Ok(range)
    }

    fn bounded(&self, range: ByteRange) -> Result<ByteRange, EsxConfError> {
        if range.len() > MAX_TOKEN_BYTES {
            return Err(self.error(range.start, Problem::TooLong));
        }
        Ok(range)
    }
}

/// White space of the grammar.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | b' ')
}

/// Groups device statements by address while the file is read.
#[derive(Default)]
struct Collector<'a> {
    conf: EsxConf,
    by_address: std::collections::HashMap<&'a [u8], usize>,
}

impl<'a> Collector<'a> {
    fn take(&mut self, key: &'a [u8], value: &[u8], range: ByteRange) {
        self.conf.statements += 1;
        let text = || Some(String::from_utf8_lossy(value).into_owned());
        match key {
            SYSTEM_UUID => self.conf.system_uuid = text(),
            HOST_NAME => self.conf.host_name = text(),
            _ => {}
        }
        let Some((address, leaf)) = device_key(key) else {
            return;
        };
        let devices = &mut self.conf.devices;
        let index = *self.by_address.entry(address).or_insert_with(|| {
            devices.push(DeviceLines::new(
                String::from_utf8_lossy(address).into_owned(),
            ));
            devices.len() - 1
        });
        devices[index].set(leaf, value, range);
    }

    fn finish(self) -> EsxConf {
        self.conf
    }
}

/// Splits `/device/ADDRESS/LEAF`; `None` for any other key, deeper ones included.
fn device_key(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut segments = key.strip_prefix(b"/device/")?.split(|byte| *byte == b'/');
    let (address, leaf) = (segments.next()?, segments.next()?);
    (segments.next().is_none() && !address.is_empty()).then_some((address, leaf))
}

/// The edit was not made: the text is not the one the ranges come from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("esx.conf does not say \"passthru\" at bytes {} to {}; the text is not the one that was inspected, so nothing of it was changed", range.start, range.end)]
pub struct GiveBackError {
    /// The range that does not hold what it should.
    pub range: ByteRange,
}

/// Overwrites `passthru` by `vmkernel` at each of `ranges`, in place.
///
/// # Errors
/// Every range is checked before the first byte is changed: it must hold exactly `passthru`
/// between two double quotes. Otherwise [`GiveBackError`], and `text` is as it was.
pub fn give_back(text: &mut [u8], ranges: &[ByteRange]) -> Result<(), GiveBackError> {
    for range in ranges {
        if !holds_passthru(text, range) {
            return Err(GiveBackError {
                range: range.clone(),
            });
        }
    }
    for range in ranges {
        text[range.clone()].copy_from_slice(VMKERNEL);
    }
    Ok(())
}

/// Whether two texts are the same but for values `passthru` of the first that are `vmkernel` in the
/// second.
pub fn is_given_back(before: &[u8], after: &[u8]) -> bool {
    if before.len() != after.len() {
        return false;
    }
    let mut at = 0;
    while let Some(more) = before[at..]
        .iter()
        .zip(&after[at..])
        .position(|(was, is)| was != is)
    {
        // The two words differ in each of their letters.
        let range = at + more..at + more + PASSTHRU.len();
        if !holds_passthru(before, &range) || after.get(range.clone()) != Some(VMKERNEL.as_slice())
        {
            return false;
        }
        at = range.end;
    }
    true
}

fn holds_passthru(text: &[u8], range: &ByteRange) -> bool {
    let before = range.start.checked_sub(1).and_then(|at| text.get(at));
    text.get(range.clone()) == Some(PASSTHRU.as_slice())
        && before == Some(&b'"')
        && text.get(range.end) == Some(&b'"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_owners_given_back_are_taken_for_a_repair() {
        let before = b"/device/000:31.2/owner = \"passthru\"\n/vm/a = \"b\"\n";
        let mut after = before.to_vec();
        assert!(is_given_back(before, &after), "nothing was passed through");
        let word = before.windows(8).position(|word| word == PASSTHRU);
        let word = word.map(|at| at..at + 8).unwrap();
        give_back(&mut after, std::slice::from_ref(&word)).unwrap();
        assert!(is_given_back(before, &after));
        assert!(!is_given_back(&after, before), "the other way round");
        let value = after.len() - 3;
        after[value] = b'c';
        assert!(!is_given_back(before, &after), "another value");
        assert!(!is_given_back(before, &after[1..]));
    }

    const REAL: &str = concat!(
        "# a comment with \"quotes\" and /device/000:31.2/owner = \"passthru\"\n",
        "/system/uuid = \"5b0e0c3a-0f6e-4a3c-9d1e-001b21aa0001\"\n",
        "/storage/plugin/NMP/device[naa.600144f070cc440000004dda7ec40006]/psp = \"VMW_PSP_RR\"\n",
        "/vmkdevmgr/logical/pci#p0000:00:1f.2#0/alias = \"vmhba0\"\n",
        "/device/00000:000:31.2/vendor = \"8086\"\n",
        "/device/00000:000:31.2/device = \"3b25\"\n",
        "/device/00000:000:31.2/owner = \"passthru\"\n",
        "/device/00000:000:31.2/vmkname = \"vmhba0\"\n",
        "/device/00000:000:31.2/class = \"0x010601\"\n",
        "/device/00000:003:00.0/owner = \"passthru\"\n",
        "/device/00000:002:00.0/owner = \"vmkernel\"\n",
        "/vm/name = \"passthru\"\n",
        "/device/00000:004:00.0/options/owner = \"passthru\"\n",
        "/graphics/mode = \"SHARED_PASSTHRU\"\n",
    );

    fn owners(conf: &EsxConf) -> Vec<(&str, Option<Owner>)> {
        conf.devices()
            .iter()
            .map(|d| (d.address_text.as_str(), d.owner().cloned()))
            .collect()
    }

    fn passthru_ranges(conf: &EsxConf) -> Vec<ByteRange> {
        conf.devices()
            .iter()
            .flat_map(DeviceLines::passthru_ranges)
            .collect()
    }

    #[test]
    fn a_real_file_yields_its_devices() {
        let conf = parse(REAL.as_bytes()).unwrap();
        assert_eq!(conf.statements(), 13);
        assert_eq!(
            owners(&conf),
            [
                ("00000:000:31.2", Some(Owner::Passthru)),
                ("00000:003:00.0", Some(Owner::Passthru)),
                ("00000:002:00.0", Some(Owner::Vmkernel)),
            ]
        );
        let sata = &conf.devices()[0];
        assert_eq!(sata.vendor, Some(0x8086));
        assert_eq!(sata.device, Some(0x3b25));
        assert_eq!(sata.vmkname.as_deref(), Some("vmhba0"));
        assert_eq!(sata.class.as_deref(), Some("0x010601"));
    }

    #[test]
    fn only_the_chosen_entry_changes() {
        let conf = parse(REAL.as_bytes()).unwrap();
        let mut text = REAL.as_bytes().to_vec();
        let ranges: Vec<_> = conf.devices()[0].passthru_ranges().collect();
        give_back(&mut text, &ranges).unwrap();
        let wanted = REAL.replace(
            "\n/device/00000:000:31.2/owner = \"passthru\"",
            "\n/device/00000:000:31.2/owner = \"vmkernel\"",
        );
        assert_eq!(String::from_utf8(text).unwrap(), wanted);
    }

    #[test]
    fn of_duplicates_the_last_counts_and_all_are_kept() {
        let text = "/device/000:31.2/owner=\"passthru\" /device/000:31.2/owner\t=\r\n\"vmkernel\"\
                    /device/000:31.2/owner = \"passthru\"#no space, still a comment";
        let conf = parse(text.as_bytes()).unwrap();
        assert_eq!(owners(&conf), [("000:31.2", Some(Owner::Passthru))]);
        assert_eq!(conf.devices()[0].owners.len(), 3);
        let mut edited = text.as_bytes().to_vec();
        give_back(&mut edited, &passthru_ranges(&conf)).unwrap();
        assert_eq!(
            String::from_utf8(edited).unwrap(),
            text.replace("passthru", "vmkernel")
        );
    }

    #[test]
    fn owners_that_are_not_exactly_passthru_are_not_taken_for_it() {
        for (value, owner) in [
            ("console", Owner::Console),
            ("Passthru", Owner::Other("Passthru".into())),
            ("passthru ", Owner::Other("passthru ".into())),
            ("", Owner::Other(String::new())),
        ] {
            let conf = parse(format!("/device/0:1.0/owner = \"{value}\"").as_bytes()).unwrap();
            assert_eq!(conf.devices()[0].owner(), Some(&owner));
            assert_eq!(passthru_ranges(&conf), []);
        }
    }

    #[test]
    fn a_nul_byte_ends_the_file() {
        let conf = parse(b"/a = \"1\"\n\0 this is not read").unwrap();
        assert_eq!(conf.statements(), 1);
        assert!(parse(b"/a = \"1\0\"").is_err());
    }

    #[test]
    fn files_without_statements_are_fine() {
        for text in ["", "\n", "#", "# only a comment", " \t\r\n#x\n#y\n", "\0"] {
            assert_eq!(parse(text.as_bytes()), Ok(EsxConf::default()), "{text:?}");
        }
    }

    #[test]
    fn malformed_text_names_its_place() {
        // Text, offset, line, problem.
        let cases: [(&str, usize, usize, Problem); 11] = [
            ("junk", 0, 1, Problem::NoKey { found: b'j' }),
            ("/a = \"1\"\n<<<<", 9, 2, Problem::NoKey { found: b'<' }),
            ("/a", 2, 1, Problem::Ends),
            ("/a =", 4, 1, Problem::Ends),
            ("/a = 1", 5, 1, Problem::NoValue { found: b'1' }),
            ("/a b = \"1\"", 3, 1, Problem::NoEquals { found: b'b' }),
            ("/a = \"1", 7, 1, Problem::Ends),
            ("/a\"b = \"1\"", 2, 1, Problem::QuoteInKey),
            ("/a[1 = \"1\"", 2, 1, Problem::OpenIndex),
            ("/a[1\n] = \"1\"", 2, 1, Problem::OpenIndex),
            (
                "/a = \"one\nvalue\"\n/b \"2\"",
                20,
                3,
                Problem::NoEquals { found: b'"' },
            ),
        ];
        for (text, offset, line, problem) in cases {
            assert_eq!(
                parse(text.as_bytes()),
                Err(EsxConfError::Malformed {
                    offset,
                    line,
                    problem
                }),
                "{text:?}"
            );
        }
    }

    #[test]
    fn tokens_have_esxis_limit() {
        let key = |n: usize| format!("/{} = \"1\"", "k".repeat(n - 1));
        let value = |n: usize| format!("/a = \"{}\"", "v".repeat(n));
        assert!(parse(key(MAX_TOKEN_BYTES).as_bytes()).is_ok());
        assert!(parse(key(MAX_TOKEN_BYTES + 1).as_bytes()).is_err());
        assert!(parse(value(MAX_TOKEN_BYTES).as_bytes()).is_ok());
        assert!(parse(value(MAX_TOKEN_BYTES + 1).as_bytes()).is_err());
        assert!(matches!(
            parse(&vec![b' '; MAX_FILE_BYTES + 1]),
            Err(EsxConfError::TooLarge { .. })
        ));
    }

    #[test]
    fn an_edit_at_the_wrong_place_changes_nothing() {
        let text = b"/device/0:1.0/owner = \"passthru\" /x = \"xpassthru\" passthru".to_vec();
        let good = parse(&text[..49]).unwrap().devices()[0].owners[0]
            .range
            .clone();
        for bad in [
            0..8,
            22..30,
            24..32,
            39..47,
            40..48,
            50..58,
            55..63,
            23..30,
            1000..1008,
            0..0,
        ] {
            let mut edited = text.clone();
            let result = give_back(&mut edited, &[good.clone(), bad.clone()]);
            assert_eq!(result, Err(GiveBackError { range: bad }));
            assert_eq!(edited, text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_edits_keep_the_rest(
            text in proptest::collection::vec(
                prop_oneof![
                    Just(b"/device/000:31.2/owner = \"passthru\"\n".to_vec()),
                    Just(b"/device/0:1.0/owner=\"vmkernel\" ".to_vec()),
                    Just(b"/x[1]/y = \"passthru\"\n".to_vec()),
                    proptest::collection::vec(any::<u8>(), 0..6),
                    "[/\\[\\]=\" #\n]{0,4}".prop_map(String::into_bytes),
                ],
                0..12,
            )
        ) {
            let text = text.concat();
            let Ok(conf) = parse(&text) else { return Ok(()) };
            let ranges = passthru_ranges(&conf);
            let mut edited = text.clone();
            prop_assert_eq!(give_back(&mut edited, &ranges), Ok(()));
            let again = parse(&edited).unwrap();
            prop_assert_eq!(passthru_ranges(&again), []);
            prop_assert_eq!(again.devices().len(), conf.devices().len());
            for (at, (old, new)) in text.iter().zip(&edited).enumerate() {
                prop_assert!(old == new || ranges.iter().any(|range| range.contains(&at)));
            }
        }
    }
}
