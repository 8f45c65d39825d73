//! What a PCI function is for, in words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A PCI class code: base class, subclass, programming interface (PCI Code and ID Assignment
/// Specification). Shown in words where an administrator of storage would ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciClass(pub u32);

impl From<PciClass> for String {
    /// Six hex digits.
    fn from(class: PciClass) -> Self {
        format!("{:06x}", class.0)
    }
}

impl TryFrom<String> for PciClass {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::from_recorded(&text)
            .ok_or_else(|| format!("{text:?} is no PCI class: expected six hex digits"))
    }
}

impl PciClass {
    /// Base class: 0x01 is mass storage.
    pub fn base(self) -> u8 {
        u8::try_from(self.0 >> 16 & 0xff).unwrap_or(0)
    }

    /// Reads the class as ESXi records it in esx.conf: six hex digits, or four without the
    /// programming interface. `None` for anything else.
    pub fn from_recorded(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let number = u32::from_str_radix(digits, 16).ok()?;
        match digits.len() {
            6 => Some(Self(number)),
            4 => Some(Self(number << 8)),
            _ => None,
        }
    }

    /// Whether it is a bridge to another bus.
    pub fn is_bridge(self) -> bool {
        self.base() == 0x06
    }

    /// Whether it is a USB controller.
    pub fn is_usb(self) -> bool {
        self.base_and_sub() == 0x0c03
    }

    /// Whether it is a network card.
    pub fn is_network(self) -> bool {
        self.base() == 0x02
    }

    /// Base class and subclass.
    fn base_and_sub(self) -> u32 {
        self.0 >> 8 & 0xffff
    }

    /// Whether it is of the class that a selector `class:WORD` names.
    pub fn is(self, word: &str) -> bool {
        CLASS_WORDS
            .iter()
            .any(|(known, matches)| *known == word && matches(self))
    }

    /// Whether it is a USB host controller: a function that plays a USB device leads to no disk.
    pub fn is_usb_host(self) -> bool {
        self.is_usb() && self.0 & 0xff != 0xfe
    }

    /// Whether the function drives disks, or a bus that boot media hang on.
    pub fn drives_storage(self) -> bool {
        self.base() == 0x01
            || self.is_usb_host()
            // SD cards, and Fibre Channel, which hosts without disks of their own boot from.
            || matches!(self.base_and_sub(), 0x0805 | 0x0c04)
    }
}

/// The words that a selector `class:WORD` may use.
pub fn class_words() -> impl Iterator<Item = &'static str> {
    CLASS_WORDS.iter().map(|(word, _)| *word)
}

type Matches = fn(PciClass) -> bool;

/// The words of `class:WORD`, and what each one matches.
const CLASS_WORDS: [(&str, Matches); 6] = [
    ("storage", |class| class.base() == 0x01),
    ("network", PciClass::is_network),
    ("display", |class| class.base() == 0x03),
    ("bridge", |class| class.base() == 0x06),
    ("usb", |class| class.base_and_sub() == 0x0c03),
    ("sdhost", |class| class.base_and_sub() == 0x0805),
];

impl fmt::Display for PciClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.base_and_sub() {
            0x0100 => "SCSI controller",
            0x0101 => "IDE controller",
            0x0104 => "RAID controller",
            0x0105 => "ATA controller",
            0x0106 => "SATA controller",
            0x0107 => "SAS controller",
            0x0108 => "NVMe controller",
            0x0180 => "storage controller",
            0x0200 => "Ethernet controller",
            0x0300 => "graphics card",
            0x0302 => "3D graphics card",
            0x0403 => "audio device",
            0x0600 => "host bridge",
            0x0601 => "ISA bridge",
            0x0604 => "PCI bridge",
            0x0805 => "SD host controller",
            0x0c03 => "USB controller",
            0x0c04 => "Fibre Channel adapter",
            _ => return write!(f, "device of class {:06x}", self.0),
        };
        f.write_str(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read_as_esxi_and_sysfs_spell_them() {
        let sata = PciClass(0x01_06_01);
        let cases = [
            ("010601", Some(sata)),
            ("0x010601", Some(sata)),
            ("0106", Some(PciClass(0x01_06_00))),
            ("", None),
            ("106", None),
            ("01060g", None),
            ("+10601", None),
            ("0106010", None),
        ];
        for (text, expected) in cases {
            assert_eq!(PciClass::from_recorded(text), expected, "{text:?}");
        }
        assert_eq!(PciClass::try_from(String::from(sata)), Ok(sata));
    }

    #[test]
    fn storage_is_more_than_the_storage_class() {
        for class in [0x01_06_01, 0x01_08_02, 0x0c_03_30, 0x08_05_01, 0x0c_04_00] {
            assert!(PciClass(class).drives_storage(), "{class:06x}");
        }
        for class in [0x03_00_00, 0x02_00_00, 0x06_04_00, 0x0c_05_00, 0x0c_03_fe] {
            assert!(!PciClass(class).drives_storage(), "{class:06x}");
        }
    }
}
