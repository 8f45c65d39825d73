//! The driver table of the image: which modules there are, what they need, which hardware asks
//! for them. The builder writes it, PID 1 reads it, and no kmod is needed.
//!
//! Aliases are shell patterns that the kernel's own modules carry, matched against the `modalias`
//! of a device as `modprobe` does (fnmatch without flags, kmod `libkmod/libkmod-config.c`).

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;

use glob::Pattern;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only version of the table that is understood.
pub const SCHEMA: &str = "esxi-rescue-drivers/1";
/// Largest table that is read, in bytes. One for every storage and network driver of a kernel has
/// about 2 MiB.
pub const MAX_TABLE_BYTES: usize = 16 * 1024 * 1024;

/// What a module is for, so that the console can speak of "storage drivers".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Disks and their controllers.
    Storage,
    /// USB hosts and USB core.
    Usb,
    /// Keyboards.
    Hid,
    /// Wired network cards.
    Net,
    /// File systems and their character sets.
    Fs,
    /// Everything the others are built on: buses, checksums, helpers.
    #[default]
    Core,
}

/// A module of the image. All names are normalised (`_`, as in `/proc/modules`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its file in the folder of modules.
    pub file: String,
    /// Modules that must be there first.
    #[serde(default)]
    pub depends: Vec<String>,
    /// Modules that should be there first.
    #[serde(default)]
    pub pre: Vec<String>,
    /// Patterns of the hardware that asks for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it is for.
    #[serde(default)]
    pub class: Class,
    /// Firmware files that it may ask for; the image has none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<String>,
}

/// The table as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverTable {
    /// [`SCHEMA`].
    pub schema: String,
    /// The release of the kernel whose modules these are.
    pub kernel: String,
    /// The modules, sorted by name.
    pub modules: Vec<Module>,
    /// The names of drivers that are part of the kernel itself.
    #[serde(default)]
    pub builtin: Vec<String>,
}

/// Why a driver table cannot be used.
#[derive(Debug, Error)]
pub enum DriverTableError {
    /// It is larger than any real one.
    #[error("the driver table has {found} bytes; at most {MAX_TABLE_BYTES} are read")]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// It is not the JSON that the builder writes.
    #[error("the driver table is damaged: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("the driver table has the schema {found:?}; this program reads {SCHEMA:?}")]
    Schema {
        /// The schema it names.
        found: String,
    },
    /// A name occurs twice.
    #[error("the driver table lists the module {name:?} twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A file name that leads out of the folder of modules.
    #[error("the driver table names the file {file:?} for {module:?}: not a plain file name")]
    File {
        /// The module.
        module: String,
        /// Its file.
        file: String,
    },
    /// The modules are for another kernel than those of the first table.
    #[error("the table of further drivers is for the kernel {found:?}, the first for {first:?}")]
    Kernel {
        /// The kernel it is for.
        found: String,
        /// The kernel of the first table.
        first: String,
    },
    /// An alias that is no pattern.
    #[error("the driver table has the alias {alias:?} for {module:?}: not a pattern")]
    Alias {
        /// The module.
        module: String,
        /// The alias.
        alias: String,
    },
}

/// The place of a module in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(pub(super) usize);

/// A driver table that was checked, with indexes for quick questions.
pub struct Catalog {
    kernel: String,
    modules: Vec<Module>,
    by_name: HashMap<String, ModuleId>,
    builtin: Vec<String>,
    aliases: AliasIndex,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("kernel", &self.kernel)
            .field("modules", &self.modules.len())
            .finish_non_exhaustive()
    }
}

impl DriverTable {
    fn parse(bytes: &[u8]) -> Result<DriverTable, DriverTableError> {
        if bytes.len() > MAX_TABLE_BYTES {
            return Err(DriverTableError::TooLarge { found: bytes.len() });
        }
        let table: DriverTable = serde_json::from_slice(bytes)?;
        if table.schema == SCHEMA {
            Ok(table)
        } else {
            Err(DriverTableError::Schema {
                found: table.schema,
            })
        }
    }
}

impl Catalog {
    /// Reads a table.
    ///
    /// # Errors
    /// When it is not one that the builder of this version writes.
    pub fn parse(bytes: &[u8]) -> Result<Catalog, DriverTableError> {
        Catalog::new(DriverTable::parse(bytes)?)
    }

    /// Reads a table and one that adds to it, such as that of the network drivers.
    ///
    /// # Errors
    /// When one is not what the builder of this version writes, or they do not belong together.
    pub fn parse_both(bytes: &[u8], further: &[u8]) -> Result<Catalog, DriverTableError> {
        let mut table = DriverTable::parse(bytes)?;
        let further = DriverTable::parse(further)?;
        if further.kernel != table.kernel {
            return Err(DriverTableError::Kernel {
                found: further.kernel,
                first: table.kernel,
            });
        }
        table.modules.extend(further.modules);
        table.builtin.extend(further.builtin);
        Catalog::new(table)
    }

    /// A table with nothing in it, for an image that has none.
    #[must_use]
    pub fn empty() -> Catalog {
        Catalog {
            kernel: String::new(),
            modules: Vec::new(),
            by_name: HashMap::new(),
            builtin: Vec::new(),
            aliases: AliasIndex::default(),
        }
    }

    fn new(table: DriverTable) -> Result<Catalog, DriverTableError> {
        let mut catalog = Catalog::empty();
        for (index, module) in table.modules.iter().enumerate() {
            let id = ModuleId(index);
            if catalog.by_name.insert(module.name.clone(), id).is_some() {
                return Err(DriverTableError::Twice {
                    name: module.name.clone(),
                });
            }
            if module.file.is_empty() || module.file.contains('/') {
                return Err(DriverTableError::File {
                    module: module.name.clone(),
                    file: module.file.clone(),
                });
            }
            for alias in &module.aliases {
                catalog
                    .aliases
                    .add(alias, id)
                    .ok_or_else(|| DriverTableError::Alias {
                        module: module.name.clone(),
                        alias: alias.clone(),
                    })?;
            }
        }
        catalog.kernel = table.kernel;
        catalog.modules = table.modules;
        catalog.builtin = table.builtin;
        Ok(catalog)
    }

    /// The modules; the place of each is its [`ModuleId`].
    #[must_use]
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module at `id`.
    #[must_use]
    pub fn module(&self, id: ModuleId) -> &Module {
        &self.modules[id.0]
    }

    /// The module of that name, if the image has it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ModuleId> {
        self.by_name.get(name).copied()
    }

    /// Whether the driver of that name is part of the kernel itself.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.iter().any(|builtin| builtin == name)
    }

    /// The modules that a device with this `modalias` asks for, in the order of the table.
    #[must_use]
    pub fn wanted_by(&self, modalias: &str) -> Vec<ModuleId> {
        self.aliases.lookup(modalias)
    }
}

/// Patterns, found by what stands before their first wildcard. Thousands of patterns meet
/// hundreds of devices on a processor that may be emulated, so that trying each would be felt.
#[derive(Default)]
struct AliasIndex {
    buckets: HashMap<String, Vec<Alias>>,
    /// The lengths that occur among the keys of `buckets`, in bytes.
    lengths: Vec<usize>,
}

struct Alias {
    text: String,
    module: ModuleId,
    /// Compiled when first needed; most never are.
    pattern: OnceCell<Option<Pattern>>,
}

impl AliasIndex {
    /// Adds a pattern; `None` if it is not one.
    fn add(&mut self, text: &str, module: ModuleId) -> Option<()> {
        let literal = text.split(['*', '?', '[']).next().unwrap_or_default();
        let alias = Alias {
            text: text.to_owned(),
            module,
            pattern: OnceCell::new(),
        };
        // Only these can be malformed.
        if text.contains('[') {
            alias.pattern()?;
        }
        if let Err(place) = self.lengths.binary_search(&literal.len()) {
            self.lengths.insert(place, literal.len());
        }
        self.buckets
            .entry(literal.to_owned())
            .or_default()
            .push(alias);
        Some(())
    }

    fn lookup(&self, modalias: &str) -> Vec<ModuleId> {
        let mut found: Vec<ModuleId> = self
            .lengths
            .iter()
            .filter_map(|length| self.buckets.get(modalias.get(..*length)?))
            .flatten()
            .filter(|alias| alias.matches(modalias))
            .map(|alias| alias.module)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Alias {
    fn matches(&self, modalias: &str) -> bool {
        self.pattern()
            .is_some_and(|pattern| pattern.matches(modalias))
    }

    fn pattern(&self) -> Option<&Pattern> {
        let compile = || {
            // To the crate a doubled star means folders; here it is a star.
            let mut text = self.text.clone();
            while text.contains("**") {
                text = text.replace("**", "*");
            }
            Pattern::new(&text).ok()
        };
        self.pattern.get_or_init(compile).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(modules: &str) -> Result<Catalog, DriverTableError> {
        let text = format!(
            r#"{{"schema":"{SCHEMA}","kernel":"6.1.0","modules":[{modules}],"builtin":["scsi_dh"]}}"#
        );
        Catalog::parse(text.as_bytes())
    }

    fn wanted(catalog: &Catalog, modalias: &str) -> Vec<String> {
        let ids = catalog.wanted_by(modalias);
        ids.into_iter()
            .map(|id| catalog.module(id).name.clone())
            .collect()
    }

    #[test]
    fn devices_get_the_modules_whose_patterns_fit() {
        let catalog = table(
            r#"{"name":"ahci","file":"ahci.ko.zst","aliases":["pci:v*d*sv*sd*bc01sc06i01*","pci:v00008086d00002922sv*sd*bc*sc*i*"]},
               {"name":"sd_mod","file":"sd_mod.ko.zst","aliases":["scsi:t-0x00*","scsi:t-0x0e*"]},
               {"name":"r8169","file":"r.ko.zst","aliases":["pci:v000010ECd00008[0-9]6?sv*sd*bc02*"],"class":"net"},
               {"name":"odd","file":"odd.ko.zst","aliases":["x**y","*:tail"]}"#,
        )
        .unwrap();
        let cases: [(&str, &[&str]); 9] = [
            (
                "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
                &["ahci"],
            ),
            ("pci:v00001B21d00000612sv0sd0bc01sc06i01", &["ahci"]),
            ("pci:v00008086d00001234sv0sd0bc01sc04i00", &[]),
            ("scsi:t-0x00", &["sd_mod"]),
            ("scsi:t-0x05", &[]),
            ("pci:v000010ECd00008168sv0sd0bc02sc00i00", &["r8169"]),
            ("x/any/thing.y", &["odd"]),
            ("é:tail", &["odd"]),
            ("", &[]),
        ];
        for (modalias, expected) in cases {
            assert_eq!(wanted(&catalog, modalias), expected, "{modalias}");
        }
        assert!(catalog.is_builtin("scsi_dh") && !catalog.is_builtin("ahci"));
        assert!(catalog.find("ahci").is_some() && catalog.find("xhci").is_none());
    }

    #[test]
    fn two_tables_become_one_if_they_belong_together() {
        let text = |kernel: &str, name: &str| {
            format!(
                r#"{{"schema":"{SCHEMA}","kernel":"{kernel}","modules":[{{"name":"{name}","file":"x","aliases":["pci:{name}*"]}}]}}"#
            )
        };
        let both = |kernel: &str, name: &str| {
            Catalog::parse_both(
                text("6.1", "ahci").as_bytes(),
                text(kernel, name).as_bytes(),
            )
        };
        let catalog = both("6.1", "e1000").unwrap();
        assert_eq!(wanted(&catalog, "pci:e1000x"), ["e1000"]);
        assert_eq!(wanted(&catalog, "pci:ahcix"), ["ahci"]);
        let message = both("6.2", "e1000").unwrap_err().to_string();
        assert!(
            message.contains("6.2") && message.contains("6.1"),
            "{message}"
        );
        assert!(
            both("6.1", "ahci")
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }

    #[test]
    fn tables_that_cannot_be_right_are_refused() {
        let cases = [
            (
                r#"{"name":"a","file":"a"},{"name":"a","file":"b"}"#,
                "twice",
            ),
            (r#"{"name":"a","file":"../a"}"#, "not a plain file name"),
            (r#"{"name":"a","file":""}"#, "not a plain file name"),
            (
                r#"{"name":"a","file":"a","aliases":["pci:[0-"]}"#,
                "not a pattern",
            ),
            (r#"{"name":"a"}"#, "damaged"),
            (r#"{"name":"#, "damaged"),
        ];
        for (modules, expected) in cases {
            let message = table(modules).unwrap_err().to_string();
            assert!(message.contains(expected), "{modules}: {message}");
        }
        let other = Catalog::parse(br#"{"schema":"x/2","kernel":"","modules":[]}"#).unwrap_err();
        assert!(other.to_string().contains("x/2"), "{other}");
        let large = Catalog::parse(&vec![b' '; MAX_TABLE_BYTES + 1]).unwrap_err();
        assert!(large.to_string().contains("16777217 bytes"), "{large}");
    }
}
