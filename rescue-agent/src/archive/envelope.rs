//! `local.tgz.ve`: the envelope ESXi 7.0U2 and later put around the archive.
//!
//! Scope: opening an envelope with a known key, and putting changed data back under the same
//! header. Not for: making an envelope from nothing, or a new key or IV.
//!
//! The file, in blocks of 4096 bytes: a header with attributes; the ciphertext (AES-256-GCM, whose
//! additional data is the raw header block and a fixed word); a footer with the tag. Inside the
//! ciphertext: the data, filler up to a block boundary, and one block of filler that ends with a
//! trailer saying how long the filler before it is.
//!
//! Source of the on-disk facts: measured on ESXi 7 and 8 archives, cross-checked with the
//! behaviour of dissect.hypervisor.

use std::ops::Range;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::keystore::Key;
use crate::bytes::u32_at;

const BLOCK: usize = 4096;
/// Real archives have some hundred kilobytes; bounds memory.
const ENVELOPE_BYTES_MAX: usize = 256 * 1024 * 1024;

const HEADER_MAGIC: &[u8] = b"DataTransformEnvelope";
const HEADER_BODY_SIZE_AT: usize = 504;
const HEADER_VERSION_AT: usize = 508;
const HEADER_BODY: Range<usize> = 512..BLOCK;
const HEADER_VERSION: u32 = 2;

const ATTRIBUTE_END: u8 = 0;
const ATTRIBUTE_STRING: u8 = 0x0B;
const ATTRIBUTE_BYTES: u8 = 0x0C;
/// Type, flag and reserved bytes before the name of an attribute.
const ATTRIBUTE_HEAD: usize = 4;

const CIPHER: &str = "AES-256-GCM";
const IV_BYTES: usize = 12;
const KEY_HASH_BYTES: usize = 32;
/// What ESXi adds to the header block as additional authenticated data.
const AAD_SUFFIX: &[u8] = b"ESXConfiguration";

const FOOTER_MAGIC: &[u8] = b"DataTransformAeadFooter";
const FOOTER_TAG: Range<usize> = 32..48;
const FOOTER_TAG_LENGTH_AT: usize = BLOCK - 8;
const FOOTER_VERSION_AT: usize = BLOCK - 4;
const FOOTER_VERSION: u32 = 1;

/// The trailer is the last part of the last plaintext block.
const TRAILER_BYTES: usize = 512;
const TRAILER_MAGIC: &[u8] = b"DataTransformCryptoFooter";
const TRAILER_PADDING_AT: usize = 504;
const TRAILER_VERSION_AT: usize = 508;
/// Both are laid out alike.
const TRAILER_VERSIONS: [u32; 2] = [1, 2];

/// A parsed envelope; borrows the file's contents.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    header: &'a [u8],
    ciphertext: &'a [u8],
    footer: &'a [u8],
    attributes: Attributes<'a>,
}

/// The attributes that matter; others are carried along, as part of the header.
#[derive(Debug, Clone)]
struct Attributes<'a> {
    iv: [u8; IV_BYTES],
    key_info: &'a [u8],
    key_hash: &'a [u8],
}

/// Why an envelope cannot be opened or made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// The size excludes it.
    #[error(
        "the encrypted archive has {bytes} bytes; a complete one is a multiple of {BLOCK}, at least \
         three blocks and at most {ENVELOPE_BYTES_MAX} bytes. It is truncated or damaged, and is \
         left as it is"
    )]
    Size {
        /// Bytes found.
        bytes: usize,
    },
    /// One of the fixed parts is not what it should be.
    #[error(
        "the encrypted archive, at byte {at}: {what}. It is damaged or of a newer format, and is \
         left as it is"
    )]
    Structure {
        /// Offset in the file.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// A part says a version this product does not know.
    #[error(
        "the encrypted archive's {part} is of version {version}, which this program does not know; it is left as it is"
    )]
    Version {
        /// Which part.
        part: &'static str,
        /// What it says.
        version: u32,
    },
    /// An attribute is missing or not usable.
    #[error(
        "the encrypted archive's attribute {name} {what}. It is damaged or of a newer format, and \
         is left as it is"
    )]
    Attribute {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The key in encryption.info is not the one the envelope was closed with.
    #[error(
        "the key in encryption.info is not the key of this archive (named {key_info}); the two \
         files do not belong together, and the archive is left as it is"
    )]
    WrongKey {
        /// Name of the key the archive wants.
        key_info: String,
    },
    /// Contents and tag do not fit.
    #[error(
        "the encrypted archive's contents do not match its tag: it is damaged, and is left as it \
         is"
    )]
    Tag,
    /// The decrypted data does not end as it should.
    #[error(
        "the decrypted archive does not end as it should: {what}. It is of a newer format, and is \
         left as it is"
    )]
    Trailer {
        /// What is wrong.
        what: &'static str,
    },
    /// What was made does not open to what was put in. Never written.
    #[error(
        "the encrypted archive just made does not open to the same data; it was discarded and nothing was changed. Check the memory of this machine"
    )]
    NotReproduced,
}

impl<'a> Envelope<'a> {
    /// Takes the file apart and checks everything that can be checked without the key.
    pub fn parse(file: &'a [u8]) -> Result<Self, EnvelopeError> {
        let bytes = file.len();
        if !bytes.is_multiple_of(BLOCK) || !(3 * BLOCK..=ENVELOPE_BYTES_MAX).contains(&bytes) {
            return Err(EnvelopeError::Size { bytes });
        }
        let (header, rest) = file.split_at(BLOCK);
        let (ciphertext, footer) = rest.split_at(rest.len() - BLOCK);
        check_header(header)?;
        let attributes = Attributes::parse(header)?;
        check_footer(footer, bytes - BLOCK)?;
        Ok(Self {
            header,
            ciphertext,
            footer,
            attributes,
        })
    }

    /// The name of the key, as the envelope spells it, fit for a console.
    pub fn key_info(&self) -> String {
        String::from_utf8_lossy(self.attributes.key_info)
            .chars()
            .filter(|c| !c.is_control())
            .collect()
    }

    /// Whether it was closed with this key, by the hash of the key in its header.
    pub fn fits(&self, key: &Key) -> bool {
        let hash = Sha256::new()
            .chain_update(CIPHER)
            .chain_update(key.bytes())
            .finalize();
        hash.as_slice() == self.attributes.key_hash
    }

    /// The data inside. The key is checked first, then contents and header against the tag.
    pub fn open(&self, key: &Key) -> Result<Vec<u8>, EnvelopeError> {
        let mut plain = self.decrypt(key)?;
        let trailer = Trailer::parse(&plain)?;
        plain.truncate(trailer.data_length);
        Ok(plain)
    }

    /// An envelope like this one around `data`: header block, key and IV stay as they are, and
    /// with them `encryption.info`. Using an IV twice would be wrong if the key were secret; in
    /// mode `NONE` it is next to the archive.
    ///
    /// The filler is this envelope's own, so that unchanged data gives an identical file. Where
    /// `data` needs another amount of filler before the last block, that part is zeroes. The
    /// result has been opened again and compared.
    pub fn seal(&self, key: &Key, data: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let old = self.decrypt(key)?;
        let trailer = Trailer::parse(&old)?;
        let padding = trailer.padding_for(data.len());
        let bytes = data.len() + padding + 3 * BLOCK;
        if bytes > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::Size { bytes });
        }
        let mut file = Vec::with_capacity(bytes);
        file.extend_from_slice(self.header);
        file.extend_from_slice(data);
        trailer.append_tail(&old, padding, &mut file)?;
        let tag = self.encrypt(key, &mut file[BLOCK..])?;
        let footer = file.len();
        file.extend_from_slice(self.footer);
        file[footer..][FOOTER_TAG].copy_from_slice(&tag);
        if Envelope::parse(&file)?.open(key)? != data {
            return Err(EnvelopeError::NotReproduced);
        }
        Ok(file)
    }

    /// The whole plaintext, with filler and trailer.
    fn decrypt(&self, key: &Key) -> Result<Vec<u8>, EnvelopeError> {
        if !self.fits(key) {
            return Err(EnvelopeError::WrongKey {
                key_info: self.key_info(),
            });
        }
        let tag = Tag::try_from(&self.footer[FOOTER_TAG]).map_err(|_| EnvelopeError::Tag)?;
        let mut plain = self.ciphertext.to_vec();
        self.cipher(key)
            .decrypt_inout_detached(
                &self.nonce(),
                &self.aad(),
                plain.as_mut_slice().into(),
                &tag,
            )
            .map_err(|_| EnvelopeError::Tag)?;
        Ok(plain)
    }

    fn encrypt(&self, key: &Key, plain: &mut [u8]) -> Result<Tag, EnvelopeError> {
        // Fails beyond 64 GiB only.
        self.cipher(key)
            .encrypt_inout_detached(&self.nonce(), &self.aad(), plain.into())
            .map_err(|_| EnvelopeError::NotReproduced)
    }

    fn cipher(&self, key: &Key) -> Aes256Gcm {
        Aes256Gcm::new(key.bytes().into())
    }

    fn nonce(&self) -> Nonce<aes_gcm::aead::consts::U12> {
        self.attributes.iv.into()
    }

    fn aad(&self) -> Vec<u8> {
        [self.header, AAD_SUFFIX].concat()
    }
}

impl<'a> Attributes<'a> {
    fn parse(header: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut wanted = [
            ("vmware.iv", ATTRIBUTE_BYTES, None),
            ("vmware.keyInfo", ATTRIBUTE_STRING, None),
            ("vmware.cipherName", ATTRIBUTE_STRING, None),
            ("vmware.keyHash", ATTRIBUTE_BYTES, None),
        ];
        let mut reader = Reader {
            bytes: header,
            at: HEADER_BODY.start,
        };
        while let Some(found) = reader.attribute()? {
            let Some((known, kind, slot)) = wanted
                .iter_mut()
                .find(|(known, ..)| known.as_bytes() == found.name)
            else {
                continue;
            };
            if found.kind != *kind {
                return Err(attribute(known, "is of another type"));
            }
            if slot.replace(found.value).is_some() {
                return Err(attribute(known, "occurs twice"));
            }
        }
        let [iv, key_info, cipher, key_hash] =
            wanted.map(|(name, _, value)| value.ok_or(attribute(name, "is missing")));
        if cipher? != CIPHER.as_bytes() {
            return Err(attribute("vmware.cipherName", "is not AES-256-GCM"));
        }
        let key_hash = key_hash?;
        if key_hash.len() != KEY_HASH_BYTES {
            return Err(attribute("vmware.keyHash", "is not of 32 bytes"));
        }
        Ok(Self {
            iv: iv?
                .try_into()
                .map_err(|_| attribute("vmware.iv", "is not of 12 bytes"))?,
            key_info: key_info?,
            key_hash,
        })
    }
}

/// One attribute of the header; a string's value is without its NUL.
struct Attribute<'a> {
    kind: u8,
    name: &'a [u8],
    value: &'a [u8],
}

/// Walks the attributes in the header block.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next attribute; `None` at the end mark, or where the block has no room for another.
    fn attribute(&mut self) -> Result<Option<Attribute<'a>>, EnvelopeError> {
        let at = self.at;
        let Some(head) = self.bytes.get(at..at + ATTRIBUTE_HEAD) else {
            return Ok(None);
        };
        let kind = head[0];
        if kind == ATTRIBUTE_END {
            return Ok(None);
        }
        if !matches!(kind, ATTRIBUTE_STRING | ATTRIBUTE_BYTES) || head[1..] != [0; 3] {
            // Without knowing the type, the next one cannot be found.
            return Err(structure(at, "an attribute of unknown type"));
        }
        self.at += ATTRIBUTE_HEAD;
        let name = self.c_string()?;
        let value = if kind == ATTRIBUTE_STRING {
            self.c_string()?
        } else {
            let length = self.take(8)?;
            let length = length
                .iter()
                .rev()
                .fold(0, |n: u64, b| n << 8 | u64::from(*b));
            self.take(usize::try_from(length).unwrap_or(usize::MAX))?
        };
        Ok(Some(Attribute { kind, name, value }))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], EnvelopeError> {
        let at = self.at;
        let taken = at
            .checked_add(length)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or(structure(at, "an attribute that leaves the header"))?;
        self.at += length;
        Ok(taken)
    }

    fn c_string(&mut self) -> Result<&'a [u8], EnvelopeError> {
        let length = self.bytes[self.at..]
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(structure(self.at, "an attribute that leaves the header"))?;
        let text = self.take(length)?;
        self.at += 1;
        Ok(text)
    }
}

/// How a plaintext ends.
struct Trailer {
    data_length: usize,
    plain_length: usize,
}

impl Trailer {
    fn parse(plain: &[u8]) -> Result<Self, EnvelopeError> {
        let bad = |what| EnvelopeError::Trailer { what };
        let trailer = plain
            .len()
            .checked_sub(TRAILER_BYTES)
            .map(|at| &plain[at..])
            .ok_or(bad("it is too short"))?;
        if !starts_padded(&trailer[..TRAILER_PADDING_AT], TRAILER_MAGIC) {
            return Err(bad("the trailer's name is not there"));
        }
        let version = u32_at(trailer, TRAILER_VERSION_AT);
        if !TRAILER_VERSIONS.contains(&version) {
            let part = "trailer";
            return Err(EnvelopeError::Version { part, version });
        }
        let room = plain.len().saturating_sub(BLOCK);
        // One whole block of filler is allowed too: which of 0 and 4096 stands before an exact
        // fit does not matter here.
        let padding = usize::try_from(u32_at(trailer, TRAILER_PADDING_AT))
            .ok()
            .filter(|padding| *padding <= BLOCK && *padding <= room)
            .ok_or(bad("more padding than possible"))?;
        Ok(Self {
            data_length: room - padding,
            plain_length: plain.len(),
        })
    }

    /// Filler between the data and the last block.
    fn padding(&self) -> usize {
        self.plain_length - BLOCK - self.data_length
    }

    /// Filler for data of another length; the same amount if it fits.
    fn padding_for(&self, data_length: usize) -> usize {
        let padding = self.padding();
        if data_length % BLOCK == self.data_length % BLOCK {
            padding
        } else {
            data_length.next_multiple_of(BLOCK) - data_length
        }
    }

    /// Appends what follows the data: `padding` bytes of filler and the last block, as in the
    /// plaintext `old` that this is the trailer of.
    fn append_tail(
        &self,
        old: &[u8],
        padding: usize,
        file: &mut Vec<u8>,
    ) -> Result<(), EnvelopeError> {
        let last_block = old.len() - BLOCK;
        if padding == self.padding() {
            file.extend_from_slice(&old[self.data_length..last_block]);
        } else {
            file.resize(file.len() + padding, 0);
        }
        file.extend_from_slice(&old[last_block..]);
        let at = file.len() - TRAILER_BYTES + TRAILER_PADDING_AT;
        let what = "more padding than possible";
        let padding = u32::try_from(padding).map_err(|_| EnvelopeError::Trailer { what })?;
        file[at..at + 4].copy_from_slice(&padding.to_le_bytes());
        Ok(())
    }
}

fn check_header(header: &[u8]) -> Result<(), EnvelopeError> {
    if !starts_padded(&header[..HEADER_BODY_SIZE_AT], HEADER_MAGIC) {
        return Err(structure(0, "it does not start with DataTransformEnvelope"));
    }
    let version = u32_at(header, HEADER_VERSION_AT);
    if version != HEADER_VERSION {
        let part = "header";
        return Err(EnvelopeError::Version { part, version });
    }
    if usize::try_from(u32_at(header, HEADER_BODY_SIZE_AT)) != Ok(HEADER_BODY.len()) {
        return Err(structure(
            HEADER_BODY_SIZE_AT,
            "a header of unexpected size",
        ));
    }
    Ok(())
}

/// `at`: where the footer starts in the file.
fn check_footer(footer: &[u8], at: usize) -> Result<(), EnvelopeError> {
    if !starts_padded(&footer[..FOOTER_TAG.start], FOOTER_MAGIC) {
        return Err(structure(
            at,
            "the last block is not a DataTransformAeadFooter",
        ));
    }
    let version = u32_at(footer, FOOTER_VERSION_AT);
    if version != FOOTER_VERSION {
        let part = "footer";
        return Err(EnvelopeError::Version { part, version });
    }
    if usize::try_from(u32_at(footer, FOOTER_TAG_LENGTH_AT)) != Ok(FOOTER_TAG.len()) {
        return Err(structure(
            at + FOOTER_TAG_LENGTH_AT,
            "a tag of unexpected size",
        ));
    }
    Ok(())
}

/// Whether `field` is `magic` and zeroes.
fn starts_padded(field: &[u8], magic: &[u8]) -> bool {
    field
        .strip_prefix(magic)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
}

fn structure(at: usize, what: &'static str) -> EnvelopeError {
    EnvelopeError::Structure { at, what }
}

fn attribute(name: &'static str, what: &'static str) -> EnvelopeError {
    EnvelopeError::Attribute { name, what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keystore::Keystore;
    use super::*;

    /// Made by tests/data/make_envelope.py, with another cryptographic library.
    const FILE: &[u8] = include_bytes!("../../tests/data/local.tgz.ve");
    const INFO: &[u8] = include_bytes!("../../tests/data/encryption.info");

    const KEY: [u8; 32] = [7; 32];
    const IV: [u8; IV_BYTES] = [9; IV_BYTES];

    /// What make_envelope.py puts in.
    fn text() -> Vec<u8> {
        (0..173)
            .flat_map(|n| format!("line {n:04} of a state archive\n").into_bytes())
            .collect()
    }

    fn fixture_key() -> Key {
        Keystore::parse(INFO).unwrap().own_key().unwrap()
    }

    fn string(name: &str, value: &str) -> Vec<u8> {
        format!("\x0B\0\0\0{name}\0{value}\0").into_bytes()
    }

    fn binary(name: &str, value: &[u8]) -> Vec<u8> {
        let mut attribute = format!("\x0C\0\0\0{name}\0").into_bytes();
        attribute.extend((value.len() as u64).to_le_bytes());
        attribute.extend(value);
        attribute
    }

    fn key_hash() -> [u8; 32] {
        Sha256::digest([CIPHER.as_bytes(), &KEY].concat()).into()
    }

    fn attributes() -> Vec<Vec<u8>> {
        vec![
            binary("vmware.iv", &IV),
            string("vmware.keyInfo", "a key"),
            string("vmware.cipherName", CIPHER),
            binary("vmware.keyHash", &key_hash()),
        ]
    }

    fn header(attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut header = HEADER_MAGIC.to_vec();
        header.resize(HEADER_BODY_SIZE_AT, 0);
        header.extend(3584u32.to_le_bytes());
        header.extend(HEADER_VERSION.to_le_bytes());
        header.extend(attributes.concat());
        header.resize(BLOCK, 0);
        header
    }

    fn plain(data: &[u8], padding: u32, version: u32) -> Vec<u8> {
        let mut plain = data.to_vec();
        plain.resize(data.len() + padding as usize, 0xA5);
        plain.resize(plain.len() + BLOCK - TRAILER_BYTES, 0x5A);
        plain.extend(TRAILER_MAGIC);
        plain.resize(plain.len() + TRAILER_PADDING_AT - TRAILER_MAGIC.len(), 0);
        plain.extend(padding.to_le_bytes());
        plain.extend(version.to_le_bytes());
        plain
    }

    fn close(header: &[u8], mut plain: Vec<u8>) -> Vec<u8> {
        let tag = Aes256Gcm::new(&KEY.into())
            .encrypt_inout_detached(
                &IV.into(),
                &[header, AAD_SUFFIX].concat(),
                plain.as_mut_slice().into(),
            )
            .unwrap();
        let mut footer = FOOTER_MAGIC.to_vec();
        footer.resize(FOOTER_TAG.start, 0);
        footer.extend(tag);
        footer.resize(FOOTER_TAG_LENGTH_AT, 0);
        footer.extend(16u32.to_le_bytes());
        footer.extend(FOOTER_VERSION.to_le_bytes());
        [header, &plain, &footer].concat()
    }

    fn key() -> Key {
        Key::new(zeroize::Zeroizing::new(KEY))
    }

    #[test]
    fn opens_what_another_implementation_made() {
        let envelope = Envelope::parse(FILE).unwrap();
        assert_eq!(envelope.key_info(), "5a0c1b2d-3e4f-4051-6273-8495a6b7c8d9");
        assert_eq!(envelope.open(&fixture_key()).unwrap(), text());
    }

    #[test]
    fn sealing_unchanged_data_gives_the_identical_file() {
        let envelope = Envelope::parse(FILE).unwrap();
        assert_eq!(envelope.seal(&fixture_key(), &text()).unwrap(), FILE);
    }

    #[test]
    fn sealing_changed_data_changes_ciphertext_and_tag_only() {
        let key = fixture_key();
        let envelope = Envelope::parse(FILE).unwrap();
        let mut data = text();
        data[100] ^= 1;
        let sealed = envelope.seal(&key, &data).unwrap();
        let changed: Vec<_> = (0..FILE.len())
            .filter(|at| sealed[*at] != FILE[*at])
            .collect();
        let footer = FILE.len() - BLOCK;
        assert_eq!(changed[0], BLOCK + 100);
        assert!(
            changed[1..]
                .iter()
                .all(|at| (footer + 32..footer + 48).contains(at))
        );
        assert_eq!(Envelope::parse(&sealed).unwrap().open(&key).unwrap(), data);
    }

    #[test]
    fn seals_data_of_any_length() {
        let key = fixture_key();
        let envelope = Envelope::parse(FILE).unwrap();
        for length in [0, 1, 4095, 4096, 4097, 5017, 5017 + 4096, 8192, 100_000] {
            let data = vec![0x42; length];
            let sealed = envelope.seal(&key, &data).unwrap();
            assert_eq!(sealed.len(), length.next_multiple_of(BLOCK) + 3 * BLOCK);
            assert_eq!(sealed[..BLOCK], FILE[..BLOCK]);
            let again = Envelope::parse(&sealed).unwrap();
            assert_eq!(again.open(&key).unwrap(), data);
            assert_eq!(again.seal(&key, &data).unwrap(), sealed);
        }
    }

    #[test]
    fn both_trailer_versions_and_both_exact_fits_open_and_seal_to_themselves() {
        for (length, padding, version) in [
            (100, 3996, 1),
            (100, 3996, 2),
            (8192, 0, 1),
            (8192, 4096, 2),
            (0, 0, 2),
        ] {
            let data = vec![1; length];
            let file = close(&header(&attributes()), plain(&data, padding, version));
            let envelope = Envelope::parse(&file).unwrap();
            assert_eq!(envelope.open(&key()).unwrap(), data);
            assert_eq!(envelope.seal(&key(), &data).unwrap(), file);
        }
    }

    #[test]
    fn the_order_of_attributes_does_not_matter_and_unknown_ones_are_kept() {
        let mut shuffled = attributes();
        shuffled.reverse();
        shuffled.insert(1, string("vmware.other", "x"));
        let file = close(&header(&shuffled), plain(b"data", 4092, 2));
        let envelope = Envelope::parse(&file).unwrap();
        assert_eq!(envelope.open(&key()).unwrap(), b"data");
        assert_eq!(envelope.seal(&key(), b"data").unwrap(), file);
    }

    #[test]
    fn a_foreign_key_is_named_before_anything_is_decrypted() {
        let envelope = Envelope::parse(FILE).unwrap();
        for result in [envelope.open(&key()), envelope.seal(&key(), b"")] {
            let error = result.unwrap_err();
            assert!(matches!(error, EnvelopeError::WrongKey { .. }), "{error}");
            assert!(error.to_string().contains("5a0c1b2d"), "{error}");
        }
    }

    #[test]
    fn any_change_under_the_tag_is_noticed() {
        let key = fixture_key();
        let last = FILE.len() - BLOCK;
        for at in [4000, BLOCK, BLOCK + 5016, last - 1, last + 32, last + 47] {
            let mut file = FILE.to_vec();
            file[at] ^= 0x80;
            let envelope = Envelope::parse(&file).unwrap();
            assert_eq!(envelope.open(&key), Err(EnvelopeError::Tag), "{at}");
            assert_eq!(envelope.seal(&key, b""), Err(EnvelopeError::Tag), "{at}");
        }
    }

    #[test]
    fn refuses_files_that_are_not_whole_envelopes() {
        let last = FILE.len() - BLOCK;
        let cases: [(usize, u8, &str); 8] = [
            (0, b'X', "at byte 0"),
            (25, 1, "at byte 0"),
            (HEADER_BODY_SIZE_AT, 1, "at byte 504"),
            (HEADER_VERSION_AT, 3, "header is of version 3"),
            (last, 0, "not a DataTransformAeadFooter"),
            (last + 30, 1, "not a DataTransformAeadFooter"),
            (last + FOOTER_TAG_LENGTH_AT, 12, "a tag of unexpected size"),
            (last + FOOTER_VERSION_AT, 2, "footer is of version 2"),
        ];
        for (at, value, said) in cases {
            let mut file = FILE.to_vec();
            file[at] = value;
            let error = Envelope::parse(&file).unwrap_err().to_string();
            assert!(error.contains(said), "{at}: {error}");
        }
        for length in [0, 1, 4096, 8192, FILE.len() - 1, FILE.len() - 100] {
            let error = Envelope::parse(&FILE[..length]).unwrap_err();
            assert_eq!(error, EnvelopeError::Size { bytes: length });
        }
    }

    #[test]
    fn refuses_attributes_it_cannot_use() {
        let no_end = [b"\x0B\0\0\0".to_vec(), vec![b'a'; 3580]].concat();
        let mut too_long = binary("vmware.iv", &IV);
        too_long[14..22].fill(0xFF);
        let cases: [(usize, Vec<u8>, &str); 12] = [
            (0, vec![], "vmware.iv is missing"),
            (3, vec![], "vmware.keyHash is missing"),
            (0, binary("vmware.iv", &[1; 16]), "vmware.iv is not of 12"),
            (0, string("vmware.iv", "abcdefghijkl"), "of another type"),
            (
                2,
                string("vmware.cipherName", "AES-128-GCM"),
                "is not AES-256-GCM",
            ),
            (3, binary("vmware.keyHash", &[1; 20]), "not of 32 bytes"),
            (1, binary("vmware.iv", &IV), "vmware.iv occurs twice"),
            (
                0,
                vec![0x0D, 0, 0, 0, 0],
                "at byte 512: an attribute of unknown type",
            ),
            (0, vec![0x0B, 1, 0, 0, 0], "unknown type"),
            (0, no_end, "leaves the header"),
            (0, too_long, "leaves the header"),
            (
                0,
                vec![0x0C, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF],
                "leaves the header",
            ),
        ];
        for (index, replacement, said) in cases {
            let mut attributes = attributes();
            attributes[index] = replacement;
            let file = close(&header(&attributes), plain(b"", 0, 2));
            let error = Envelope::parse(&file).unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    #[test]
    fn refuses_a_plaintext_that_does_not_end_as_it_should() {
        let mut nameless = plain(b"", 0, 2);
        let at = nameless.len() - TRAILER_BYTES;
        nameless[at] = 0;
        let mut overfull = plain(b"", 0, 2);
        overfull[at + TRAILER_PADDING_AT] = 1;
        let mut unpadded = plain(b"", 0, 2);
        unpadded[at + 100] = 1;
        let cases = [
            (nameless, "the trailer's name"),
            (unpadded, "the trailer's name"),
            (overfull, "more padding than possible"),
            (plain(&[1; 4096], 8192, 2), "more padding than possible"),
            (plain(b"", 0, 3), "trailer is of version 3"),
            (plain(b"", 0, 0), "trailer is of version 0"),
        ];
        for (plain, said) in cases {
            let file = close(&header(&attributes()), plain);
            let envelope = Envelope::parse(&file).unwrap();
            let error = envelope.open(&key()).unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
            assert!(envelope.seal(&key(), b"").is_err());
        }
    }

    proptest! {
        #[test]
        fn damaged_envelopes_never_panic(
            changes in prop::collection::vec((0..FILE.len(), any::<u8>()), 1..8),
            header_changes in prop::collection::vec((500..700usize, any::<u8>()), 0..4),
            blocks in 0..6usize,
        ) {
            let mut file = FILE.to_vec();
            for (at, value) in changes.into_iter().chain(header_changes) {
                file[at] = value;
            }
            file.truncate(file.len().min(blocks * BLOCK));
            if let Ok(envelope) = Envelope::parse(&file) {
                let _ = envelope.open(&key());
            }
        }
    }
}
