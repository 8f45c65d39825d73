//! PCI addresses and IDs, in every spelling that ESXi and Linux use for them.
//!
//! In scope: text to value and back. Not in scope: which functions a machine has (`host`), and
//! which of them a plan chooses.
//!
//! Linux (sysfs, lspci) and ESXi's ConfigStore write addresses in hex: `0000:00:1f.2`. esx.conf
//! writes the same function in **decimal**, `000:31.2` or `00000:000:31.2` (VMware KB 1010789:
//! slot 0b is recorded as `000:11.0`). Lines that a person added by hand, following a blog post,
//! are often in hex; see [`EsxAddress`] for how that is told apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The highest slot number: the slot has five bits in a PCI address.
const MAX_SLOT: u32 = 31;
/// The highest function number: the function has three bits in a PCI address.
const MAX_FUNCTION: u32 = 7;
/// More digits than any spelling has; bounds what [`field`] looks at.
const MAX_DIGITS: usize = 8;

/// Where a PCI function sits. Shown and parsed as Linux spells it: `0000:00:1f.2`, all hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    /// PCI segment, "domain" in Linux. Intel VMD makes ones from 0x10000 up, more than the 16
    /// bits of the firmware's segments.
    pub segment: u32,
    /// Bus within the segment.
    pub bus: u8,
    /// Slot ("device") on the bus, 0 to 31.
    pub slot: u8,
    /// Function within the slot, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// `None` where a number does not fit its field.
    fn new(segment: u32, bus: u32, slot: u32, function: u32) -> Option<Self> {
        if slot > MAX_SLOT || function > MAX_FUNCTION {
            return None;
        }
        Some(Self {
            segment,
            bus: u8::try_from(bus).ok()?,
            slot: u8::try_from(slot).ok()?,
            function: u8::try_from(function).ok()?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            bus,
            slot,
            function,
        } = self;
        write!(f, "{segment:04x}:{bus:02x}:{slot:02x}.{function:x}")
    }
}

impl TryFrom<String> for PciAddress {
    type Error = PciTextError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(value: PciAddress) -> Self {
        value.to_string()
    }
}

impl FromStr for PciAddress {
    type Err = PciTextError;

    /// Reads hex: `0000:00:1f.2` (sysfs, ConfigStore), or `00:1f.2`, which means segment 0.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        split(text)
            .and_then(|fields| fields.read(Reading::Hex))
            .ok_or_else(|| PciTextError::Address {
                text: text.to_owned(),
            })
    }
}

/// Text that is not a PCI address or ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PciTextError {
    /// Not an address.
    #[error(
        "{text:?} is not a PCI address: expected segment:bus:slot.function in hex, such as 0000:00:1f.2"
    )]
    Address {
        /// What was found.
        text: String,
    },
    /// Not a pair of IDs.
    #[error(
        "{text:?} is not a PCI ID: expected vendor:device, four hex digits each, such as 8086:3b25"
    )]
    VendorDevice {
        /// What was found.
        text: String,
    },
}

/// The number base an address was read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// As ESXi itself writes esx.conf.
    Decimal,
    /// As people write it who copied the address from lspci.
    Hex,
}

impl Reading {
    fn radix(self) -> u32 {
        match self {
            Self::Decimal => 10,
            Self::Hex => 16,
        }
    }
}

/// An address of esx.conf: its text, and what the text means.
///
/// The whole text is read in one base, for one writer uses one base: decimal where every field
/// allows it, else hex (`a` to `f`, or a number above its field's highest). `0000:16:00.0` is
/// valid in both and means bus 16 in one and bus 22 in the other; decimal is what ESXi writes, so
/// decimal wins, and [`EsxAddress::alternative`] says that the other reading exists. A plan that
/// finds no device at the decimal address, or one with other IDs, has to call itself unsure.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EsxAddress {
    /// As it stands in the file. This, never the reading, is what names an entry in the file.
    pub text: String,
    /// What it most likely means.
    pub address: PciAddress,
    /// The base in which `address` was read.
    pub reading: Reading,
    /// What it would mean in hex, where that is something else than `address`.
    pub alternative: Option<PciAddress>,
}

impl EsxAddress {
    /// Reads the spellings of esx.conf: `000:31.2` (bus:slot.function), `0000:00:31.2` and
    /// `00000:000:31.2` (segment:bus:slot.function). `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let fields = split(text)?;
        let hex = fields.read(Reading::Hex);
        let (address, reading, alternative) = match (fields.read(Reading::Decimal), hex) {
            (Some(decimal), hex) => (decimal, Reading::Decimal, hex.filter(|hex| *hex != decimal)),
            (None, hex) => (hex?, Reading::Hex, None),
        };
        Some(Self {
            text: text.to_owned(),
            address,
            reading,
            alternative,
        })
    }
}

impl fmt::Display for EsxAddress {
    /// The one spelling of this program; the file's own text where that differs comes after it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?} in esx.conf)", self.address, self.text)
    }
}

/// The four fields of an address, not yet read as numbers.
struct Fields<'a> {
    segment: &'a str,
    bus: &'a str,
    slot: &'a str,
    function: &'a str,
}

impl Fields<'_> {
    fn read(&self, reading: Reading) -> Option<PciAddress> {
        PciAddress::new(
            field(self.segment, reading)?,
            field(self.bus, reading)?,
            field(self.slot, reading)?,
            field(self.function, reading)?,
        )
    }
}

/// Cuts `[segment:]bus:slot.function` apart; a missing segment is segment 0.
fn split(text: &str) -> Option<Fields<'_>> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, slot) = rest.rsplit_once(':')?;
    let (segment, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
    Some(Fields {
        segment,
        bus,
        slot,
        function,
    })
}

/// A number of digits only: no sign, no white space, no prefix.
fn field(digits: &str, reading: Reading) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !plain || digits.len() > MAX_DIGITS {
        return None;
    }
    u32::from_str_radix(digits, reading.radix()).ok()
}

/// What a PCI function is: vendor and device ID. Shown and parsed as `8086:3b25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VendorDevice {
    /// The maker, as registered with the PCI-SIG.
    pub vendor: u16,
    /// The model, as numbered by the maker.
    pub device: u16,
}

impl VendorDevice {
    /// Reads the two values of esx.conf (`8086`, `3b25`) or of sysfs (`0x8086`, `0x3b25`, a line
    /// end behind). `None` where either is not a hex number of up to four digits.
    pub fn from_parts(vendor: &str, device: &str) -> Option<Self> {
        Some(Self {
            vendor: id(vendor)?,
            device: id(device)?,
        })
    }
}

impl fmt::Display for VendorDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl TryFrom<String> for VendorDevice {
    type Error = PciTextError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VendorDevice> for String {
    fn from(value: VendorDevice) -> Self {
        value.to_string()
    }
}

impl FromStr for VendorDevice {
    type Err = PciTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once(':')
            .filter(|(vendor, device)| vendor.len() == 4 && device.len() == 4)
            .and_then(|(vendor, device)| Self::from_parts(vendor, device))
            .ok_or_else(|| PciTextError::VendorDevice {
                text: text.to_owned(),
            })
    }
}

/// One ID of up to four hex digits.
pub(super) fn id(text: &str) -> Option<u16> {
    let text = text.trim_ascii_end();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u16::try_from(field(digits, Reading::Hex)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(segment: u32, bus: u8, slot: u8, function: u8) -> PciAddress {
        PciAddress {
            segment,
            bus,
            slot,
            function,
        }
    }

    #[test]
    fn the_three_spellings_of_esx_conf_mean_one_function() {
        for text in ["000:31.2", "0000:00:31.2", "00000:000:31.2"] {
            let parsed = EsxAddress::parse(text).unwrap();
            assert_eq!(parsed.address.to_string(), "0000:00:1f.2", "{text}");
            assert_eq!(parsed.reading, Reading::Decimal);
            assert_eq!(parsed.text, text);
            assert_eq!(parsed.alternative, None, "slot 0x31 does not exist");
        }
    }

    #[test]
    fn esx_conf_is_decimal_and_hex_only_where_it_must_be() {
        use Reading::{Decimal, Hex};
        // Text, reading, address, meaning in hex where that is another one.
        let cases = [
            // VMware KB 1010789.
            ("000:11.0", Decimal, at(0, 0, 11, 0), Some(at(0, 0, 17, 0))),
            ("005:00.1", Decimal, at(0, 5, 0, 1), None),
            (
                "0000:10:00.0",
                Decimal,
                at(0, 10, 0, 0),
                Some(at(0, 16, 0, 0)),
            ),
            ("00000:101:00.0", Decimal, at(0, 101, 0, 0), None),
            ("0000:00:1f.2", Hex, at(0, 0, 31, 2), None),
            // One hex field makes all of them hex.
            ("0000:10:1f.2", Hex, at(0, 16, 31, 2), None),
            ("0000:0A:00.0", Hex, at(0, 10, 0, 0), None),
            ("0000:ff:1F.7", Hex, at(0, 255, 31, 7), None),
            (
                "10000:00:02.0",
                Decimal,
                at(10000, 0, 2, 0),
                Some(at(0x10000, 0, 2, 0)),
            ),
            ("10000:e1:00.0", Hex, at(0x10000, 0xe1, 0, 0), None),
        ];
        for (text, reading, address, alternative) in cases {
            let parsed = EsxAddress::parse(text).unwrap();
            assert_eq!(
                (parsed.reading, parsed.address),
                (reading, address),
                "{text}"
            );
            assert_eq!(parsed.alternative, alternative, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let cases = [
            "",
            ".",
            ":",
            ":.",
            "31.2",
            "000:31",
            "000:31.",
            "000:.2",
            ":31.2",
            "000:32.x",
            "0000:00:40.0",
            "0000:00:1f.8",
            "0000:100:00.0a",
            "0000:1ff:1f.0",
            "+00:31.2",
            "000:-1.2",
            "000: 1.2",
            "000:31.2 ",
            "0x0:31.2",
            "0:0:0:31.2",
            "000000000:00:31.2",
            "000:31.2.1",
            "000:3\u{661}.2",
            "pcie",
            "000:31.10",
        ];
        for text in cases {
            assert_eq!(EsxAddress::parse(text), None, "{text:?}");
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn linux_spelling_is_hex() {
        assert_eq!("0000:00:1f.2".parse(), Ok(at(0, 0, 31, 2)));
        assert_eq!("00:1f.2".parse(), Ok(at(0, 0, 31, 2)));
        assert_eq!("10000:e1:00.0".parse(), Ok(at(0x10000, 0xe1, 0, 0)));
        assert_eq!(at(0x10000, 0xe1, 0, 0).to_string(), "10000:e1:00.0");
        // Decimal in esx.conf, out of range in hex.
        assert!("0000:00:31.2".parse::<PciAddress>().is_err());
    }

    #[test]
    fn ids() {
        let id = VendorDevice {
            vendor: 0x8086,
            device: 0x3b25,
        };
        assert_eq!("8086:3b25".parse(), Ok(id));
        assert_eq!("8086:3B25".parse(), Ok(id));
        assert_eq!(id.to_string(), "8086:3b25");
        assert_eq!(VendorDevice::from_parts("0x8086\n", "0x3b25\n"), Some(id));
        assert_eq!(VendorDevice::from_parts("8086", "3b25"), Some(id));
        assert_eq!(VendorDevice::from_parts("8086", ""), None);
        assert_eq!(VendorDevice::from_parts("18086", "3b25"), None);
        for text in [
            "",
            "8086",
            "8086:",
            "8086:3b2",
            "8086:3b250",
            "80g6:3b25",
            "8086:3b25:0",
        ] {
            assert!(text.parse::<VendorDevice>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn display_and_parse_agree(segment: u32, bus: u8, slot in 0u8..32, function in 0u8..8) {
            let address = at(segment, bus, slot, function);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            let decimal = format!("{segment:05}:{bus:03}:{slot:02}.{function}");
            if segment < 100_000_000 {
                prop_assert_eq!(EsxAddress::parse(&decimal).unwrap().address, address);
            }
        }

        #[test]
        fn any_text_is_survived(text: String) {
            let _ = EsxAddress::parse(&text);
            let _ = text.parse::<PciAddress>();
            let _ = text.parse::<VendorDevice>();
        }
    }
}
