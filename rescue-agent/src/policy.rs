//! What the administrator asked for: which devices, which banks.
//!
//! Device selectors are separated by commas. Each one adds the devices it names; with a leading
//! `-` it takes them away again:
//!
//! | selector | names |
//! |---|---|
//! | `auto` | what lies on the PCI path of a disk with an ESXi boot bank or datastore |
//! | `all` | everything that is passed through |
//! | `8086:3b25` | every device with these vendor and device IDs |
//! | `0000:00:1f.2` | the function at this address (hex) |
//! | `class:storage` | every device of a class |

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::config::pci::{PciAddress, VendorDevice};
use crate::host::class_words;

/// One thing a selector can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// What ESXi needs to reach its disks.
    Auto,
    /// Everything.
    All,
    /// By vendor and device ID.
    Id(VendorDevice),
    /// By place.
    Address(PciAddress),
    /// By class, one of the words of [`class_words`].
    Class(String),
}

/// A list of terms, each adding or (`false`) taking away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection(Vec<(bool, Term)>);

/// Text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{text:?} is not a device selector; use auto, all, VENDOR:DEVICE (8086:3b25), an address (0000:00:1f.2) or \
     class:WORD with one of {}; separate several by commas, exclude with a leading -",
    class_words().collect::<Vec<_>>().join(", ")
)]
pub struct SelectionError {
    /// The text.
    pub text: String,
}

impl Default for Selection {
    fn default() -> Self {
        Self(vec![(true, Term::Auto)])
    }
}

impl Selection {
    /// Exactly what these terms name; nothing, if there are none.
    pub fn of(terms: Vec<Term>) -> Option<Self> {
        let terms: Vec<(bool, Term)> = terms.into_iter().map(|term| (true, term)).collect();
        (!terms.is_empty()).then_some(Self(terms))
    }

    /// The terms, in order; `false` stands for "take away".
    pub fn terms(&self) -> &[(bool, Term)] {
        &self.0
    }

    /// Whether `auto` is among the terms that add.
    pub fn uses_auto(&self) -> bool {
        self.0.contains(&(true, Term::Auto))
    }
}

impl FromStr for Selection {
    type Err = SelectionError;

    fn from_str(text: &str) -> Result<Self, SelectionError> {
        let terms = text
            .split(',')
            .map(|word| {
                let word = word.trim();
                match word.strip_prefix('-') {
                    Some(name) => Ok((false, term(name)?)),
                    None => Ok((true, term(word)?)),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        match terms.iter().any(|(adds, _)| *adds) {
            true => Ok(Self(terms)),
            // Only exceptions: they are exceptions from the default.
            false => Ok(Self([vec![(true, Term::Auto)], terms].concat())),
        }
    }
}

fn term(word: &str) -> Result<Term, SelectionError> {
    let unknown = || SelectionError {
        text: word.to_owned(),
    };
    match word {
        "auto" => return Ok(Term::Auto),
        "all" => return Ok(Term::All),
        _ => {}
    }
    if let Some(class) = word.strip_prefix("class:") {
        return match class_words().any(|known| known == class) {
            true => Ok(Term::Class(class.to_owned())),
            false => Err(unknown()),
        };
    }
    if word.contains('.') {
        return word.parse().map(Term::Address).map_err(|_| unknown());
    }
    word.parse().map(Term::Id).map_err(|_| unknown())
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::All => f.write_str("all"),
            Self::Id(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Class(word) => write!(f, "class:{word}"),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (adds, term)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let sign = if *adds { "" } else { "-" };
            write!(f, "{comma}{sign}{term}")?;
        }
        Ok(())
    }
}

/// Which banks to work on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BankChoice {
    /// Every bank of every ESXi disk.
    #[default]
    All,
    /// On each disk the bank that boots next.
    Active,
    /// Banks on partitions with these numbers.
    Partitions(Vec<u32>),
}

/// Text that names no banks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} names no banks; use all, active, or partition numbers such as 5 or 5,6")]
pub struct BankChoiceError(String);

impl FromStr for BankChoice {
    type Err = BankChoiceError;

    fn from_str(text: &str) -> Result<Self, BankChoiceError> {
        match text {
            "all" => Ok(Self::All),
            "active" => Ok(Self::Active),
            numbers => numbers
                .split(',')
                .map(|number| number.trim().parse().ok().filter(|number| *number > 0))
                .collect::<Option<Vec<_>>>()
                .map(Self::Partitions)
                .ok_or_else(|| BankChoiceError(text.to_owned())),
        }
    }
}

impl fmt::Display for BankChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Active => f.write_str("active"),
            Self::Partitions(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                f.write_str(&numbers.join(","))
            }
        }
    }
}

/// Where the archive of a bank comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// Each bank's own archive, edited.
    #[default]
    Own,
    /// The newest archive of the disk, edited, into every bank: what the manual procedure did.
    Newest,
}

/// Everything the planner needs to know of what the administrator asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Devices to give back.
    pub devices: Selection,
    /// Banks to repair.
    pub banks: BankChoice,
    /// What the repaired archive is made from.
    pub source: Source,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_shown_as_they_are_read() {
        for text in [
            "auto",
            "all",
            "auto,10de:2786",
            "all,-class:display",
            "0000:00:1f.2,8086:3b25",
            "10000:e1:00.0",
        ] {
            assert_eq!(text.parse::<Selection>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn exceptions_alone_are_exceptions_from_auto() {
        let selection: Selection = "-class:usb".parse().unwrap();
        assert_eq!(selection.to_string(), "auto,-class:usb");
    }

    #[test]
    fn what_is_no_selector_is_refused_with_what_would_be_one() {
        for text in [
            "",
            "foo",
            "class:foo",
            "8086",
            "8086:zz",
            "0000:00:1f.9",
            "auto,,all",
            "-",
        ] {
            let error = text.parse::<Selection>().unwrap_err().to_string();
            assert!(
                error.contains("class:WORD with one of storage"),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn banks_are_all_active_or_numbers() {
        assert_eq!("all".parse(), Ok(BankChoice::All));
        assert_eq!("active".parse(), Ok(BankChoice::Active));
        assert_eq!("5, 6".parse(), Ok(BankChoice::Partitions(vec![5, 6])));
        for text in ["", "0", "5,", "five", "-1"] {
            assert!(text.parse::<BankChoice>().is_err(), "{text:?}");
        }
    }
}
