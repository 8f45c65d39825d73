//! `encryption.info`: where the key of an encrypted archive comes from.
//!
//! Scope: reading the file, and the key of mode `NONE`, which ESXi 7.0U2 and later derive from
//! the file itself. In every other mode it only says which key is meant: in mode `TPM` the key is
//! sealed to the machine's TPM, and nothing in the file opens the archive.
//!
//! Source of the on-disk facts: measured on ESXi 7 and 8 archives, cross-checked with the
//! behaviour of dissect.hypervisor.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// Real files have some 230 bytes in mode `NONE` and a few thousand in mode `TPM`.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// What ESXi appends to `data1` to make the password.
const PASSWORD_SUFFIX: &[u8] =
    b"This is obfuscation, not encryption. If you want encryption, use TPM.";
const PBKDF2_ROUNDS: u32 = 100_000;
const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 16;
/// The only version of `ConfigEncData` seen.
const DATA_VERSION: &str = "1";

/// What `encryption.info` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keystore {
    mode: Mode,
    key_id: Option<KeyId>,
    key_source: Option<KeySource>,
}

/// How the key of the archive is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: whoever has the file has the key.
    None,
    /// In the TPM of the host.
    Tpm,
    /// Something newer than this product.
    Other(String),
}

/// The name of a key: in the envelope it appears as a UUID.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyId([u8; KEY_ID_BYTES]);

/// An AES-256 key. Never printed, and wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

/// Parsed `ConfigEncData` of mode `NONE`. Never printed: it is as good as the key.
#[derive(Clone, PartialEq, Eq)]
struct KeySource {
    id: KeyId,
    data1: Vec<u8>,
    data2: Vec<u8>,
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeystoreError {
    /// Too large to be what it should be.
    #[error(
        "encryption.info has {bytes} bytes, more than the {FILE_BYTES_MAX} expected; it is not \
         what ESXi writes, and the archive is left as it is"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not the text it should be.
    #[error(
        "encryption.info, line {line}: {what}; it is damaged or of a newer format, and the archive \
         is left as it is"
    )]
    Syntax {
        /// Line number from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A field that must be there is not, or is not of the known form.
    #[error(
        "encryption.info: {field} {what}; it is damaged or of a newer format, and the archive is \
         left as it is"
    )]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Keystore {
    /// Reads the contents of `encryption.info`. Succeeds for every mode; see [`Keystore::own_key`].
    pub fn parse(text: &[u8]) -> Result<Self, KeystoreError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(KeystoreError::TooLarge { bytes: text.len() });
        }
        let mut mode = None;
        let mut data = None;
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let at = |what| KeystoreError::Syntax {
                line: index + 1,
                what,
            };
            let line = std::str::from_utf8(line).map_err(|_| at("not UTF-8 text"))?;
            let Some((key, value)) = parse_line(line).map_err(at)? else {
                continue;
            };
            let slot = match key {
                "mode" => &mut mode,
                "ConfigEncData" => &mut data,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(at("the key occurs a second time"));
            }
        }
        let mode = match mode {
            Some("NONE") => Mode::None,
            Some("TPM") => Mode::Tpm,
            Some(other) => Mode::Other(printable(other)),
            None => return Err(field("mode", "is missing")),
        };
        let key_source = match (&mode, data) {
            (Mode::None, Some(data)) => Some(KeySource::parse(data)?),
            (Mode::None, None) => return Err(field("ConfigEncData", "is missing")),
            (Mode::Tpm | Mode::Other(_), _) => None,
        };
        // Nothing is decided by what another mode keeps there, so that it may have any form.
        let key_id = match &key_source {
            Some(source) => Some(source.id),
            None => data.and_then(KeyId::in_any),
        };
        Ok(Self {
            mode,
            key_id,
            key_source,
        })
    }

    /// How the key is kept.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The name of the key, spelled as envelopes spell it, where the file gives it.
    pub fn key_id(&self) -> Option<String> {
        self.key_id.map(|id| id.to_string())
    }

    /// Derives the key that the file itself contains: some tens of milliseconds. `None` unless the mode
    /// is [`Mode::None`].
    pub fn own_key(&self) -> Option<Key> {
        self.key_source.as_ref().map(KeySource::derive)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "NONE",
            Self::Tpm => "TPM",
            Self::Other(mode) => mode,
        })
    }
}

impl KeyId {
    /// The one that `ConfigEncData` of a mode gives of which nothing else is known.
    fn in_any(data: &str) -> Option<Self> {
        let mut parts = data.split(':');
        let id = parts.find_map(|part| part.strip_prefix("keyId="))?;
        let id = decode("keyId", Some(id)).ok()?;
        Some(Self(id.try_into().ok()?))
    }
}

impl Key {
    /// A key of these bytes.
    pub(super) fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(bytes)
    }

    /// The raw key.
    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl KeySource {
    /// Parses `keyId=<b64>:data1=<b64>:data2=<b64>:version=1`.
    fn parse(text: &str) -> Result<Self, KeystoreError> {
        let mut fields = [None; 4];
        for part in text.split(':') {
            let (name, value) = part
                .split_once('=')
                .ok_or(field("ConfigEncData", "has a part that is not name=value"))?;
            let index = match name {
                "keyId" => 0,
                "data1" => 1,
                "data2" => 2,
                "version" => 3,
                _ => continue,
            };
            if fields[index].replace(value).is_some() {
                return Err(field("ConfigEncData", "has the same part twice"));
            }
        }
        let [id, data1, data2, version] = fields;
        if version != Some(DATA_VERSION) {
            return Err(field("version of ConfigEncData", "is not 1"));
        }
        let id = decode("keyId", id)?;
        let id = <[u8; KEY_ID_BYTES]>::try_from(id.as_slice())
            .map_err(|_| field("keyId", "is not of 16 bytes"))?;
        Ok(Self {
            id: KeyId(id),
            data1: decode("data1", data1)?,
            data2: decode("data2", data2)?,
        })
    }

    fn derive(&self) -> Key {
        let password = [&self.data1, PASSWORD_SUFFIX].concat();
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&password, &self.data2, PBKDF2_ROUNDS, &mut *key);
        Key::new(key)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(not shown)")
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource {{ id: {}, (not shown) }}", self.id)
    }
}

fn field(field: &'static str, what: &'static str) -> KeystoreError {
    KeystoreError::Field { field, what }
}

/// `key = "value"`; `None` for an empty line or a comment.
fn parse_line(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, value) = line
        .split_once('=')
        .ok_or("not of the form key = \"value\"")?;
    let value = value
        .trim()
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .ok_or("the value is not in quotes")?;
    if value.contains('"') {
        return Err("a quote inside the value");
    }
    Ok(Some((key.trim(), value)))
}

/// Text for a console: at most 40 characters, none of them control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// Decodes base64 whose `=` (and any other character) may be percent-encoded.
fn decode(name: &'static str, text: Option<&str>) -> Result<Vec<u8>, KeystoreError> {
    let text = text.ok_or(field(name, "is missing in ConfigEncData"))?;
    let text = percent_decode(text.as_bytes()).ok_or(field(name, "has a bad % escape"))?;
    let bytes = BASE64
        .decode(text)
        .map_err(|_| field(name, "is not base64"))?;
    if bytes.is_empty() {
        return Err(field(name, "is empty"));
    }
    Ok(bytes)
}

/// Replaces each `%HH`. `None` if a `%` is not followed by two hex digits.
fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            // from_str_radix would take a sign.
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            let digits = std::str::from_utf8(digits).ok()?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            decoded.push(*first);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by tests/data/make_envelope.py.
    const INFO: &str = include_str!("../../tests/data/encryption.info");

    #[test]
    fn reads_mode_none_and_derives_the_key() {
        let store = Keystore::parse(INFO.as_bytes()).unwrap();
        assert_eq!(*store.mode(), Mode::None);
        assert_eq!(
            store.key_source.as_ref().unwrap().id.to_string(),
            "5a0c1b2d-3e4f-4051-6273-8495a6b7c8d9"
        );
        // hashlib.pbkdf2_hmac("sha256", DATA1 + OBFUSCATION, DATA2, 100_000, 32)
        let key = store.own_key().unwrap();
        let hex: String = key.bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "b1fd73fcab7de67c075c81834e64b285b8116848d4f5a560f9c8a26ae7d87628"
        );
    }

    #[test]
    fn accepts_the_spellings_seen_and_harmless_ones() {
        let expected = Keystore::parse(INFO.as_bytes()).unwrap();
        let spellings = [
            INFO.replace("%3D", "%3d"),
            INFO.replace("%3D", "="),
            INFO.replace('\n', "\r\n"),
            INFO.replace(" = ", "="),
            INFO.trim_end().to_owned(),
            format!("# a comment\n\nunknown = \"x\"\n{INFO}"),
        ];
        for text in spellings {
            assert_eq!(
                Keystore::parse(text.as_bytes()),
                Ok(expected.clone()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_tpm_or_unknown_mode_is_recognised_and_gives_the_name_of_its_key_at_most() {
        let cases = [
            ("TPM", Mode::Tpm),
            ("HSM\u{7}", Mode::Other("HSM".to_owned())),
        ];
        let id = "keyId=WgwbLT5PQFFic4SVprfI2Q%3d%3d:data1=AA%3d%3d:version=9";
        for (name, mode) in cases {
            for (data, key_id) in [
                ("sealed:blob", None),
                ("keyId=AA%3d%3d", None),
                (id, Some("5a0c1b2d-3e4f-4051-6273-8495a6b7c8d9")),
            ] {
                let text = format!("mode = \"{name}\"\nConfigEncData = \"{data}\"\n");
                let store = Keystore::parse(text.as_bytes()).unwrap();
                assert_eq!(*store.mode(), mode);
                assert_eq!(store.key_id().as_deref(), key_id);
                assert!(store.own_key().is_none());
            }
        }
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let cases = [
            ("", "mode is missing"),
            ("mode = \"NONE\"", "ConfigEncData is missing"),
            ("mode = NONE", "line 1: the value is not in quotes"),
            ("mode", "line 1: not of the form"),
            ("mode = \"NO\"NE\"", "a quote inside"),
            (
                "\nmode = \"NONE\"\nmode = \"TPM\"",
                "line 3: the key occurs a second time",
            ),
        ];
        for (text, said) in cases {
            let error = Keystore::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        let data = [
            ("", "not name=value"),
            (
                "keyId=AA==:data1=AA==:data2=AA==:version=1",
                "keyId is not of 16 bytes",
            ),
            ("keyId=AA==:data1=AA==:data2=AA==:version=2", "is not 1"),
            ("keyId=AA==:data1=AA==:data2=AA==", "is not 1"),
            ("keyId=A:version=1", "keyId is not base64"),
            ("keyId=%3:version=1", "bad % escape"),
            ("keyId=%+3:version=1", "bad % escape"),
            ("keyId=:version=1", "keyId is empty"),
            ("data1=AA==:version=1", "keyId is missing"),
            ("version=1:version=1", "twice"),
        ];
        for (data, said) in data {
            let text = format!("mode = \"NONE\"\nConfigEncData = \"{data}\"\n");
            let error = Keystore::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{data}: {error}");
        }
        let huge = vec![b'\n'; FILE_BYTES_MAX + 1];
        assert!(matches!(
            Keystore::parse(&huge),
            Err(KeystoreError::TooLarge { .. })
        ));
        let binary = Keystore::parse(b"mode = \"\xFF\"").unwrap_err().to_string();
        assert!(binary.contains("not UTF-8"), "{binary}");
    }

    #[test]
    fn key_material_is_never_printed() {
        let store = Keystore::parse(INFO.as_bytes()).unwrap();
        let shown = format!("{store:?} {:?}", store.own_key().unwrap());
        assert!(shown.contains("not shown"));
        assert!(
            !shown.contains("48, 49") && !shown.contains("data1"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Keystore::parse(&text);
        }

        #[test]
        fn any_data_is_read_or_refused(data in "[a-zA-Z0-9%=:+/]{0,80}") {
            let text = format!("mode = \"NONE\"\nConfigEncData = \"{data}\"\n");
            let _ = Keystore::parse(text.as_bytes());
        }
    }
}
