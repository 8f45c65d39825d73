//! Boot entries (`Boot####`): a name, where it leads to, and whether it takes part in the boot order.
//!
//! Source: UEFI specification 2.10, section 3.1.3 (`EFI_LOAD_OPTION`).

use thiserror::Error;

use super::device_path::{DevicePath, DevicePathError, ucs2_bytes, ucs2_text};

use crate::counted::counted;

/// Attributes and length of the paths, before the description.
const HEADER_BYTES: usize = 6;
/// The entry takes part in the boot order.
const ACTIVE: u32 = 0x0000_0001;
/// The bits of the category: what the entry is for.
const CATEGORY: u32 = 0x0000_1f00;

/// A boot entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOption {
    /// `LOAD_OPTION_*`.
    pub attributes: u32,
    /// Its name in the firmware's menu.
    pub description: String,
    /// Where it leads to.
    pub path: DevicePath,
}

/// Why a boot entry is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadOptionError {
    /// The variable ends before its fixed fields.
    #[error("it has {}; a boot entry has at least {HEADER_BYTES}", counted(*.found, "byte", "bytes"))]
    TooShort {
        /// Its length.
        found: usize,
    },
    /// The description has no end.
    #[error("its description has no end")]
    Description,
    /// The device paths are longer than the variable.
    #[error("its device paths claim {}, of which there are {left}", counted(*.claimed, "byte", "bytes"))]
    Paths {
        /// The length in the header.
        claimed: usize,
        /// The bytes behind the description.
        left: usize,
    },
    /// The first device path is not valid.
    #[error(transparent)]
    Path(#[from] DevicePathError),
}

impl LoadOption {
    /// Reads the content of a `Boot####` variable.
    ///
    /// # Errors
    /// [`LoadOptionError`] when the fields do not fit.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadOptionError> {
        let found = bytes.len();
        let [a, b, c, d, low, high, ref rest @ ..] = *bytes else {
            return Err(LoadOptionError::TooShort { found });
        };
        let mut units = rest.as_chunks::<2>().0.iter();
        let end = units
            .position(|unit| *unit == [0, 0])
            .ok_or(LoadOptionError::Description)?;
        let (description, paths) = rest.split_at((end + 1) * 2);
        let claimed = usize::from(u16::from_le_bytes([low, high]));
        let left = paths.len();
        let paths = paths
            .get(..claimed)
            .ok_or(LoadOptionError::Paths { claimed, left })?;
        Ok(Self {
            attributes: u32::from_le_bytes([a, b, c, d]),
            description: ucs2_text(description),
            path: DevicePath::parse(paths)?,
        })
    }

    /// An active entry for the boot order, as bytes of a `Boot####` variable.
    #[must_use]
    pub fn active(description: &str, path: &[u8]) -> Vec<u8> {
        let mut bytes = ACTIVE.to_le_bytes().to_vec();
        // Paths of ours have two nodes of less than a hundred bytes.
        let length = u16::try_from(path.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(ucs2_bytes(description));
        bytes.extend(path);
        bytes
    }

    /// Whether the firmware tries it by itself.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.attributes & ACTIVE != 0
    }

    /// Whether it is meant for booting, rather than for a tool of the firmware.
    #[must_use]
    pub fn is_for_booting(&self) -> bool {
        self.attributes & CATEGORY == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::device_path::HardDrive;
    use super::*;

    fn path() -> Vec<u8> {
        let drive = HardDrive {
            id: None,
            number: 1,
            start_lba: 64,
            sectors: 12_800,
        };
        DevicePath::to_file(&drive, "\\EFI\\BOOT\\BOOTX64.EFI")
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let mut bytes = LoadOption::active("VMware ESXi", &path());
        // Optional data of the boot program.
        bytes.extend([1, 2, 3]);
        let entry = LoadOption::parse(&bytes).unwrap();
        assert_eq!(entry.description, "VMware ESXi");
        assert!(entry.is_active() && entry.is_for_booting());
        assert_eq!(entry.path.drive.unwrap().sectors, 12_800);
    }

    #[test]
    fn attributes_tell_what_the_firmware_does_with_it() {
        for (attributes, active, booting) in [
            (0x0001, true, true),
            (0x0000, false, true),
            (0x0008, false, true),
            (0x0101, true, false),
        ] {
            let mut bytes = LoadOption::active("x", &path());
            bytes[..4].copy_from_slice(&u32::to_le_bytes(attributes));
            let entry = LoadOption::parse(&bytes).unwrap();
            let found = (entry.is_active(), entry.is_for_booting());
            assert_eq!(found, (active, booting), "{attributes:#x}");
        }
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = LoadOption::active("VMware ESXi", &path());
        for length in 0..whole.len() {
            assert!(LoadOption::parse(&whole[..length]).is_err(), "{length}");
        }
        for (bytes, words) in [
            (vec![0; 5], "it has 5 bytes"),
            (vec![1, 0, 0, 0, 4, 0, b'a', 0, b'b'], "no end"),
            (
                vec![1, 0, 0, 0, 9, 0, 0, 0, 0x7f, 0xff, 4, 0],
                "claim 9 bytes, of which there are 4",
            ),
            (vec![1, 0, 0, 0, 0, 0, 0, 0], "no end: 0 bytes left"),
        ] {
            let error = LoadOption::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = LoadOption::parse(&bytes);
        }
    }
}
