//! The marker that VMware writes into the second sector of its FAT volumes.
//!
//! Boot banks carry it, and so do the EFI system partition, the locker and scratch: the marker
//! alone makes no bank. Source: esx-boot safeboot/vmfat.c.

use std::fmt;

use crate::bytes::hex;

/// What the sector starts with. It says FAT16 on FAT12 volumes as well.
const MAGIC: &[u8; 16] = b"VMWARE FAT16    ";

/// The marker of a VMware FAT volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VmfatMarker {
    /// The volume's UUID, as it lies on the disk.
    pub uuid: [u8; 16],
}

impl VmfatMarker {
    /// Reads the second logical sector of a partition: the bytes from one sector's length on.
    /// `None` where the sector is not such a marker.
    pub fn parse(sector: &[u8]) -> Option<Self> {
        let uuid = sector.strip_prefix(MAGIC)?.first_chunk()?;
        Some(Self { uuid: *uuid })
    }

    /// The UUID as the loader and the ConfigStore spell it: its bytes as 32 hex digits.
    pub fn hex32(&self) -> String {
        hex(&self.uuid)
    }
}

impl fmt::Display for VmfatMarker {
    /// The UUID as it appears in ESXi's paths below `/vmfs/volumes/`: two little-endian u32, a
    /// little-endian u16, and six bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, tail @ ..] = self.uuid;
        let first = u32::from_le_bytes([a0, a1, a2, a3]);
        let second = u32::from_le_bytes([b0, b1, b2, b3]);
        let third = u16::from_le_bytes([c0, c1]);
        write!(f, "{first:08x}-{second:08x}-{third:04x}-")?;
        tail.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(magic: &[u8]) -> Vec<u8> {
        let uuid: Vec<u8> = (0x10..0x20).collect();
        let mut sector = [magic, &uuid].concat();
        sector.resize(512, 0xee);
        sector
    }

    #[test]
    fn the_uuid_has_two_spellings() {
        let marker = VmfatMarker::parse(&sector(MAGIC)).unwrap();
        assert_eq!(marker.hex32(), "101112131415161718191a1b1c1d1e1f");
        assert_eq!(marker.to_string(), "13121110-17161514-1918-1a1b1c1d1e1f");
    }

    #[test]
    fn other_sectors_are_no_markers() {
        for magic in [
            &b"VMWARE FAT16   \0"[..],
            b"VMWARE FAT16",
            b"vmware FAT16    ",
            b"",
            &[0; 16],
        ] {
            assert_eq!(VmfatMarker::parse(&sector(magic)), None);
        }
        let whole = sector(MAGIC);
        for length in 0..32 {
            assert_eq!(VmfatMarker::parse(&whole[..length]), None);
        }
        assert!(VmfatMarker::parse(&whole[..32]).is_some());
    }
}
