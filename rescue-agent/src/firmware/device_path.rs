//! Device paths: where a boot entry leads to.
//!
//! Read is what identifies a partition and a file on it: the hard drive node and the file path nodes,
//! wherever in the path they stand. Some firmware puts them behind the whole way to the disk, some
//! behind a node of its own (`VenHw`), and most keep the short form that starts with the partition.
//! Everything else in a path is skipped. Out of scope: finding the device.
//!
//! Source: UEFI specification 2.10, sections 10.2 and 10.3 (hard drive node: table 10-49, file path
//! node: table 10-53).

use std::fmt;

use thiserror::Error;

use crate::counted::counted;
use crate::disk::partition::Guid;

/// Type, subtype and length of a node.
const NODE_HEADER_BYTES: usize = 4;
/// Type of the nodes of media.
const MEDIA: u8 = 0x04;
/// Subtype of a hard drive node among media.
const HARD_DRIVE: u8 = 0x01;
/// Subtype of a file path node among media.
const FILE_PATH: u8 = 0x04;
/// Type of the nodes that end something.
const END: u8 = 0x7f;
/// Subtype of the end of the whole path.
const END_ENTIRE: u8 = 0xff;
/// A hard drive node with its header.
const HARD_DRIVE_BYTES: u16 = 42;
/// `PartitionFormat` and `SignatureType` of an MBR.
const MBR: u8 = 1;
/// `PartitionFormat` and `SignatureType` of a GPT.
const GPT: u8 = 2;

/// What identifies a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionId {
    /// The unique GUID of a GPT partition.
    Gpt(Guid),
    /// The signature of an MBR disk, and the number of the partition.
    Mbr {
        /// The four bytes at offset 440 of the disk, little-endian.
        signature: u32,
        /// The number of the partition, from 1.
        number: u32,
    },
}

/// A partition as a hard drive node names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardDrive {
    /// What identifies it; `None` where the node has no signature, or one of zeros.
    pub id: Option<PartitionId>,
    /// Its number, from 1.
    pub number: u32,
    /// Its first sector.
    pub start_lba: u64,
    /// Its length in sectors.
    pub sectors: u64,
}

/// What a device path says about a partition and a file on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicePath {
    /// The partition.
    pub drive: Option<HardDrive>,
    /// The file, such as `\EFI\BOOT\BOOTX64.EFI`; its parts are joined.
    pub file: Option<String>,
}

/// Why a device path is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DevicePathError {
    /// It stops without its end node.
    #[error("its device path has no end: {} left at byte {at}", counted(*.left, "byte", "bytes"))]
    NoEnd {
        /// Where the next node should begin.
        at: usize,
        /// How many bytes there are.
        left: usize,
    },
    /// A node claims a length that it cannot have.
    #[error("the device path node {kind:#04x}/{subtype:#04x} at byte {at} claims {}", counted(*.length, "byte", "bytes"))]
    Length {
        /// Where the node begins.
        at: usize,
        /// Its type.
        kind: u8,
        /// Its subtype.
        subtype: u8,
        /// The length that it claims.
        length: u16,
    },
}

impl DevicePath {
    /// Reads the first path in `bytes`, up to its end or to the end of its first instance.
    ///
    /// # Errors
    /// [`DevicePathError`] when the nodes do not fit into each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, DevicePathError> {
        let mut path = Self::default();
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let [kind, subtype, low, high, ..] = *rest else {
                let left = rest.len();
                return Err(DevicePathError::NoEnd { at, left });
            };
            let length = u16::from_le_bytes([low, high]);
            let wrong = DevicePathError::Length {
                at,
                kind,
                subtype,
                length,
            };
            let end = usize::from(length);
            let body = rest
                .get(NODE_HEADER_BYTES..end)
                .ok_or_else(|| wrong.clone())?;
            match (kind, subtype) {
                (END, _) => return Ok(path),
                (MEDIA, HARD_DRIVE) if path.drive.is_none() => {
                    path.drive = Some(hard_drive(body).ok_or(wrong)?);
                }
                (MEDIA, FILE_PATH) => path.add_file(&ucs2_text(body)),
                _ => {}
            }
            at += end;
        }
    }

    /// The path of a file on a partition, in the short form that firmware completes by itself.
    #[must_use]
    pub fn to_file(drive: &HardDrive, file: &str) -> Vec<u8> {
        let mut bytes = vec![MEDIA, HARD_DRIVE];
        bytes.extend(HARD_DRIVE_BYTES.to_le_bytes());
        bytes.extend(drive.number.to_le_bytes());
        bytes.extend(drive.start_lba.to_le_bytes());
        bytes.extend(drive.sectors.to_le_bytes());
        bytes.extend(signature_bytes(drive.id));
        let name = ucs2_bytes(file);
        let length = NODE_HEADER_BYTES + name.len();
        // Names of ours are short; a longer one than a node can hold would be cut by its length.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        bytes.extend([MEDIA, FILE_PATH]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(name);
        bytes.extend([END, END_ENTIRE, 4, 0]);
        bytes
    }

    /// Several file path nodes are one path, with a separator between them.
    fn add_file(&mut self, part: &str) {
        let file = self.file.get_or_insert_default();
        if !file.is_empty() && !file.ends_with('\\') && !part.starts_with('\\') {
            file.push('\\');
        }
        file.push_str(part);
    }
}

/// The body of a hard drive node; longer ones than the specification's are read as far as it goes.
fn hard_drive(body: &[u8]) -> Option<HardDrive> {
    let number = u32::from_le_bytes(field(body, 0)?);
    let signature: [u8; 16] = field(body, 20)?;
    let [format, kind] = field(body, 36)?;
    let none = signature == [0; 16];
    let [a, b, c, d, ..] = signature;
    let id = match (format, kind) {
        _ if none => None,
        (GPT, GPT) => Some(PartitionId::Gpt(Guid::from_efi_bytes(signature))),
        (MBR, MBR) => Some(PartitionId::Mbr {
            signature: u32::from_le_bytes([a, b, c, d]),
            number,
        }),
        _ => None,
    };
    Some(HardDrive {
        id,
        number,
        start_lba: u64::from_le_bytes(field(body, 4)?),
        sectors: u64::from_le_bytes(field(body, 12)?),
    })
}

/// Signature, format and signature type of a hard drive node.
fn signature_bytes(id: Option<PartitionId>) -> [u8; 18] {
    let mut bytes = [0; 18];
    match id {
        Some(PartitionId::Gpt(guid)) => {
            bytes[..16].copy_from_slice(&guid.to_efi_bytes());
            bytes[16..].copy_from_slice(&[GPT, GPT]);
        }
        Some(PartitionId::Mbr { signature, .. }) => {
            bytes[..4].copy_from_slice(&signature.to_le_bytes());
            bytes[16..].copy_from_slice(&[MBR, MBR]);
        }
        None => {}
    }
    bytes
}

fn field<const N: usize>(body: &[u8], at: usize) -> Option<[u8; N]> {
    body.get(at..)?.first_chunk().copied()
}

/// Text of 16-bit characters up to the first NUL or the end.
pub(super) fn ucs2_text(bytes: &[u8]) -> String {
    let units = bytes.as_chunks().0.iter().copied().map(u16::from_le_bytes);
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// Text as 16-bit characters with a NUL at the end.
pub(super) fn ucs2_bytes(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt(guid) => guid.fmt(f),
            Self::Mbr { signature, number } => {
                write!(f, "partition {number} of MBR disk {signature:08x}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUID: [u8; 16] = [
        0xe2, 0xf2, 0xb6, 0x0d, 0x85, 0x8a, 0xe6, 0x4d, 0xb3, 0xe4, 0x1a, 0x3e, 0x7c, 0xb9, 0xf0,
        0xa1,
    ];

    /// `HD(1,GPT,0db6f2e2-8a85-4de6-b3e4-1a3e7cb9f0a1,0x40,0x3200)/\EFI\VMware\safeboot64.efi`.
    fn short_form() -> Vec<u8> {
        let mut bytes = vec![4, 1, 42, 0, 1, 0, 0, 0];
        bytes.extend(0x40_u64.to_le_bytes());
        bytes.extend(0x3200_u64.to_le_bytes());
        bytes.extend(GUID);
        bytes.extend([2, 2]);
        let name = ucs2_bytes("\\EFI\\VMware\\safeboot64.efi");
        bytes.extend([4, 4, u8::try_from(name.len() + 4).unwrap(), 0]);
        bytes.extend(name);
        bytes.extend([0x7f, 0xff, 4, 0]);
        bytes
    }

    fn drive() -> HardDrive {
        HardDrive {
            id: Some(PartitionId::Gpt(Guid::from_efi_bytes(GUID))),
            number: 1,
            start_lba: 0x40,
            sectors: 0x3200,
        }
    }

    #[test]
    fn a_short_form_tells_partition_and_file_and_is_written_the_same_way() {
        let path = DevicePath::parse(&short_form()).unwrap();
        assert_eq!(path.drive, Some(drive()));
        let id = path.drive.unwrap().id.unwrap();
        assert_eq!(id.to_string(), "0DB6F2E2-8A85-4DE6-B3E4-1A3E7CB9F0A1");
        assert_eq!(path.file.as_deref(), Some("\\EFI\\VMware\\safeboot64.efi"));
        let written = DevicePath::to_file(&drive(), "\\EFI\\VMware\\safeboot64.efi");
        assert_eq!(written, short_form());
    }

    #[test]
    fn the_partition_is_found_behind_nodes_of_the_firmwares_own() {
        // VenHw with a GUID, as some firmware writes ESXi's entry; then PciRoot.
        let mut bytes = vec![1, 4, 20, 0];
        bytes.extend([0xab; 16]);
        bytes.extend([2, 1, 12, 0, 0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0]);
        bytes.extend(short_form());
        assert_eq!(DevicePath::parse(&bytes).unwrap().drive, Some(drive()));
    }

    #[test]
    fn an_mbr_partition_is_told_by_signature_and_number() {
        let id = PartitionId::Mbr {
            signature: 0x5e5c_1ba2,
            number: 4,
        };
        let mbr = HardDrive {
            id: Some(id),
            number: 4,
            start_lba: 32,
            sectors: 8160,
        };
        let bytes = DevicePath::to_file(&mbr, "\\EFI\\BOOT\\BOOTX64.EFI");
        assert_eq!(&bytes[24..28], &[0xa2, 0x1b, 0x5c, 0x5e]);
        assert_eq!(DevicePath::parse(&bytes).unwrap().drive, Some(mbr));
        assert_eq!(id.to_string(), "partition 4 of MBR disk 5e5c1ba2");
    }

    #[test]
    fn signatures_that_tell_nothing_are_none() {
        for (place, value) in [(24, None), (40, Some(7)), (41, Some(0)), (41, Some(1))] {
            let mut bytes = short_form();
            match value {
                None => bytes[place..place + 16].fill(0),
                Some(value) => bytes[place] = value,
            }
            let drive = DevicePath::parse(&bytes).unwrap().drive.unwrap();
            assert_eq!(drive.id, None, "byte {place}");
        }
    }

    #[test]
    fn parts_of_a_file_name_are_joined() {
        let mut bytes = Vec::new();
        for part in ["\\EFI", "BOOT\\", "X.EFI"] {
            let name = ucs2_bytes(part);
            bytes.extend([4, 4, u8::try_from(name.len() + 4).unwrap(), 0]);
            bytes.extend(name);
        }
        bytes.extend([0x7f, 0xff, 4, 0]);
        let path = DevicePath::parse(&bytes).unwrap();
        assert_eq!(path.file.as_deref(), Some("\\EFI\\BOOT\\X.EFI"));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_place() {
        let whole = short_form();
        for length in 0..whole.len() {
            assert!(DevicePath::parse(&whole[..length]).is_err(), "{length}");
        }
        for (bytes, words) in [
            (vec![1, 1, 0, 0], "claims 0 bytes"),
            (vec![1, 1, 3, 0], "claims 3 bytes"),
            (vec![1, 1, 0xff, 0xff], "claims 65535 bytes"),
            (vec![4, 1, 8, 0, 1, 0, 0, 0], "claims 8 bytes"),
            (vec![1, 1, 4, 0, 9], "1 byte left at byte 4"),
        ] {
            let error = DevicePath::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = DevicePath::parse(&bytes);
        }
    }
}
