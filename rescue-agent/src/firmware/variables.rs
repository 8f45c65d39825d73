//! The firmware's boot variables, as Linux shows them in efivarfs.
//!
//! A variable is a file `NAME-GUID`: four bytes of attributes, then the content. It is written with
//! one `write`, and what is read back comes from the firmware. The kernel protects most variables
//! from being changed by accident (an immutable file), but not the ones written here: `BootNext`,
//! `BootOrder` and `Boot####` have been exempt for as long as that protection exists.
//!
//! Sources: UEFI specification 2.10, sections 3.3 and 8.2; Linux
//! `Documentation/filesystems/efivarfs.rst` and `fs/efivarfs/vars.c`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::VARIABLES;
use super::load_option::{LoadOption, LoadOptionError};
use crate::counted::counted;
use crate::files::read_up_to;

/// `EFI_GLOBAL_VARIABLE`, in whose name the boot variables stand.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Kept without power, and seen by the firmware's boot manager and by operating systems:
/// `EFI_VARIABLE_NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS`.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
/// Longest variable that is read, in bytes. Firmware allows some ten thousand at most.
const MAX_BYTES: u64 = 64 * 1024;

/// The number of a boot entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNumber(pub u16);

impl fmt::Display for BootNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Boot{:04X}", self.0)
    }
}

/// What went wrong with a variable.
#[derive(Debug, Error)]
pub enum VariableError {
    /// The variable cannot be read.
    #[error("cannot read the firmware variable {name}: {source}")]
    Read {
        /// The variable.
        name: String,
        /// What the kernel or the firmware said.
        source: io::Error,
    },
    /// The variable has a content that it cannot have.
    #[error("the firmware variable {name} is not valid: {why}")]
    Content {
        /// The variable.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The firmware does not take it.
    #[error("the firmware did not accept {name}: {source}")]
    Write {
        /// The variable.
        name: String,
        /// What the kernel or the firmware said.
        source: io::Error,
    },
    /// The firmware took it and has something else.
    #[error("the firmware accepted {name}, but did not store it")]
    NotKept {
        /// The variable.
        name: String,
    },
    /// Every number is in use.
    #[error("no number is free for another boot entry")]
    NoNumber,
}

/// The boot variables of a machine.
#[derive(Debug)]
pub struct Variables {
    folder: PathBuf,
}

impl Variables {
    /// The variables of the machine below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self {
            folder: root.join(VARIABLES),
        }
    }

    /// The numbers that the firmware tries, in this order; none if it has no order.
    ///
    /// # Errors
    /// [`VariableError`] when it cannot be read.
    pub fn boot_order(&self) -> Result<Vec<BootNumber>, VariableError> {
        let bytes = self.content("BootOrder")?.unwrap_or_default();
        let units = bytes.as_chunks().0.iter().copied();
        Ok(units
            .map(|unit| BootNumber(u16::from_le_bytes(unit)))
            .collect())
    }

    /// The entry that this start came from.
    ///
    /// # Errors
    /// [`VariableError`] when it cannot be read.
    pub fn boot_current(&self) -> Result<Option<BootNumber>, VariableError> {
        self.number("BootCurrent")
    }

    /// The entry that the next start takes, before the order.
    ///
    /// # Errors
    /// [`VariableError`] when it cannot be read.
    pub(super) fn boot_next(&self) -> Result<Option<BootNumber>, VariableError> {
        self.number("BootNext")
    }

    /// All entries that can be read, by number, also those that are in no order. One that is not
    /// valid is left to the firmware and is not returned.
    ///
    /// # Errors
    /// [`VariableError`] when the variables cannot be listed.
    pub fn entries(&self) -> Result<Vec<(BootNumber, LoadOption)>, VariableError> {
        let entry = |number: BootNumber| match self.entry(number) {
            Ok(entry) => Some((number, entry?)),
            Err(error) => {
                log::debug!("{error}");
                None
            }
        };
        Ok(self.numbers()?.into_iter().filter_map(entry).collect())
    }

    /// Has the next start, and only that, take an entry.
    ///
    /// # Errors
    /// [`VariableError`] when the firmware does not take it.
    pub fn set_boot_next(&self, number: BootNumber) -> Result<(), VariableError> {
        self.write("BootNext", &number.0.to_le_bytes())
    }

    /// Makes an entry, and puts its number at the end of the order, where it takes precedence over
    /// nothing.
    ///
    /// # Errors
    /// [`VariableError`] when the firmware does not take it.
    pub fn add_entry(&self, entry: &[u8]) -> Result<BootNumber, VariableError> {
        let taken = self.numbers()?;
        let mut order = self.boot_order()?;
        let number = (0..=u16::MAX)
            .map(BootNumber)
            .find(|number| !taken.contains(number) && !order.contains(number))
            .ok_or(VariableError::NoNumber)?;
        self.write(&number.to_string(), entry)?;
        order.push(number);
        let order: Vec<u8> = order.iter().flat_map(|one| one.0.to_le_bytes()).collect();
        self.write("BootOrder", &order)?;
        Ok(number)
    }

    /// Whether the firmware verified what it started; `None`: it has no Secure Boot.
    ///
    /// # Errors
    /// [`VariableError`] when it cannot be read.
    pub fn secure_boot(&self) -> Result<Option<bool>, VariableError> {
        let content = self.content("SecureBoot")?;
        Ok(content.map(|bytes| bytes == [1]))
    }

    fn entry(&self, number: BootNumber) -> Result<Option<LoadOption>, VariableError> {
        let name = number.to_string();
        let nonsense = |error: LoadOptionError| VariableError::Content {
            name: name.clone(),
            why: error.to_string(),
        };
        let content = self.content(&name)?;
        content
            .map(|bytes| LoadOption::parse(&bytes).map_err(nonsense))
            .transpose()
    }

    /// The numbers of all `Boot####` variables, ascending.
    fn numbers(&self) -> Result<Vec<BootNumber>, VariableError> {
        let failed = |source| VariableError::Read {
            name: "Boot####".to_owned(),
            source,
        };
        let mut numbers = Vec::new();
        for file in fs::read_dir(&self.folder).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            numbers.extend(name.to_str().and_then(boot_number));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn number(&self, name: &str) -> Result<Option<BootNumber>, VariableError> {
        let Some(bytes) = self.content(name)? else {
            return Ok(None);
        };
        match *bytes.as_slice() {
            [low, high] => Ok(Some(BootNumber(u16::from_le_bytes([low, high])))),
            _ => Err(VariableError::Content {
                name: name.to_owned(),
                why: format!("it has {}, not 2", counted(bytes.len(), "byte", "bytes")),
            }),
        }
    }

    /// What a variable holds behind its attributes; `None` where there is no such variable.
    fn content(&self, name: &str) -> Result<Option<Vec<u8>>, VariableError> {
        let failed = |source| VariableError::Read {
            name: name.to_owned(),
            source,
        };
        let bytes = match read_up_to(&self.file(name), MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match bytes.split_at_checked(ATTRIBUTES.len()) {
            Some((_, content)) => Ok(Some(content.to_vec())),
            None => Err(VariableError::Content {
                name: name.to_owned(),
                why: format!(
                    "it has {} and no attributes",
                    counted(bytes.len(), "byte", "bytes")
                ),
            }),
        }
    }

    /// Writes a variable and looks whether the firmware has it.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), VariableError> {
        let bytes = [ATTRIBUTES.as_slice(), content].concat();
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.file(name))
            // The firmware gets what one call brings: the rest of a short one would be another variable.
            .and_then(|mut file| file.write(&bytes));
        let name = || name.to_owned();
        match written {
            Ok(length) if length == bytes.len() => {}
            Ok(_) => {
                let source = io::ErrorKind::WriteZero.into();
                return Err(VariableError::Write {
                    name: name(),
                    source,
                });
            }
            Err(source) => {
                return Err(VariableError::Write {
                    name: name(),
                    source,
                });
            }
        }
        match self.content(&name())? {
            Some(kept) if kept == content => Ok(()),
            _ => Err(VariableError::NotKept { name: name() }),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{GLOBAL}"))
    }
}

/// The number of a `Boot####` variable by the name of its file.
fn boot_number(file: &str) -> Option<BootNumber> {
    let (name, guid) = file.split_once('-')?;
    let digits = name.strip_prefix("Boot")?;
    let four = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u16::from_str_radix(digits, 16).ok().filter(|_| four)?;
    guid.eq_ignore_ascii_case(GLOBAL)
        .then_some(BootNumber(number))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder that looks like a machine with these variables, attributes included.
    pub(in super::super) fn machine(variables: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(VARIABLES);
        fs::create_dir_all(&folder).unwrap();
        for (name, content) in variables {
            let bytes = [ATTRIBUTES.as_slice(), content].concat();
            fs::write(folder.join(format!("{name}-{GLOBAL}")), bytes).unwrap();
        }
        root
    }

    fn raw(root: &Path, name: &str) -> Vec<u8> {
        fs::read(Variables::below(root).file(name)).unwrap()
    }

    #[test]
    fn order_current_and_next_are_read() {
        let root = machine(&[("BootOrder", &[3, 0, 0x0a, 0]), ("BootCurrent", &[3, 0])]);
        let variables = Variables::below(root.path());
        let order = variables.boot_order().unwrap();
        assert_eq!(order, [BootNumber(3), BootNumber(10)]);
        assert_eq!(variables.boot_current().unwrap(), Some(BootNumber(3)));
        assert_eq!(variables.boot_next().unwrap(), None);
        assert_eq!(BootNumber(10).to_string(), "Boot000A");
    }

    #[test]
    fn only_boot_entries_of_the_specification_are_taken_for_entries() {
        for (file, number) in [
            (format!("Boot000A-{GLOBAL}"), Some(BootNumber(10))),
            (
                format!("Boot000a-{}", GLOBAL.to_uppercase()),
                Some(BootNumber(10)),
            ),
            (format!("BootNext-{GLOBAL}"), None),
            (format!("Boot+00A-{GLOBAL}"), None),
            (format!("Boot00001-{GLOBAL}"), None),
            ("Boot0001-00000000-0000-0000-0000-000000000000".into(), None),
            ("Boot0001".into(), None),
        ] {
            assert_eq!(boot_number(&file), number, "{file}");
        }
    }

    #[test]
    fn variables_that_make_no_sense_are_named() {
        let root = machine(&[("BootNext", &[1]), ("Boot0001", &[1, 2])]);
        let variables = Variables::below(root.path());
        let error = variables.boot_next().unwrap_err().to_string();
        assert!(
            error.contains("BootNext") && error.contains("1 byte,"),
            "{error}"
        );
        fs::write(variables.file("BootNext"), [7, 0]).unwrap();
        let error = variables.boot_next().unwrap_err().to_string();
        assert!(error.contains("no attributes"), "{error}");
        assert!(variables.entries().unwrap().is_empty());
    }

    #[test]
    fn a_machine_without_variables_says_so() {
        let root = tempfile::tempdir().unwrap();
        let variables = Variables::below(root.path());
        assert!(variables.entries().is_err());
        let error = variables.set_boot_next(BootNumber(1)).unwrap_err();
        assert!(
            error.to_string().contains("did not accept BootNext"),
            "{error}"
        );
    }

    #[test]
    fn the_next_start_is_written_with_its_attributes() {
        let root = machine(&[]);
        let variables = Variables::below(root.path());
        variables.set_boot_next(BootNumber(0x1234)).unwrap();
        assert_eq!(raw(root.path(), "BootNext"), [7, 0, 0, 0, 0x34, 0x12]);
        variables.set_boot_next(BootNumber(2)).unwrap();
        assert_eq!(variables.boot_next().unwrap(), Some(BootNumber(2)));
    }

    #[test]
    fn a_new_entry_takes_a_free_number_and_the_end_of_the_order() {
        let root = machine(&[
            ("BootOrder", &[2, 0, 1, 0]),
            ("Boot0000", b"nonsense"),
            ("Boot0002", b"nonsense"),
        ]);
        let variables = Variables::below(root.path());
        // Boot0001 stands in the order without being there.
        assert_eq!(variables.add_entry(b"entry").unwrap(), BootNumber(3));
        assert_eq!(raw(root.path(), "Boot0003"), b"\x07\0\0\0entry");
        assert_eq!(
            raw(root.path(), "BootOrder"),
            [7, 0, 0, 0, 2, 0, 1, 0, 3, 0]
        );
    }
}
