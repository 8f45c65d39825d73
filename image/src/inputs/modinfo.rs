//! What a kernel module says about itself: the `.modinfo` section of a `.ko` file.
//!
//! Scope: names, aliases, dependencies, soft dependencies, firmware. Not: symbols, signatures, parameters.
//! Source of the format: Linux include/linux/moduleinfo.h and scripts/mod/modpost.c (NUL-separated `key=value`
//! records).

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};

/// No real `.modinfo` comes near this; a larger one is damaged or hostile.
const MAX_SECTION_BYTES: usize = 4 << 20;

/// What a module declares. Names are normalised, see [`normalise`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// The module's own name, empty if the section does not say.
    pub name: String,
    /// Patterns of the devices it serves, as the kernel matches them against a device's modalias.
    pub aliases: Vec<String>,
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules or aliases to load first, where they exist (`softdep: pre:`); not normalised, may be aliases.
    pub soft_pre: Vec<String>,
    /// Firmware files it may ask for.
    pub firmware: Vec<String>,
}

/// Why a module file could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModInfoError {
    /// The file is not a 64-bit ELF object, or is cut short.
    #[error("not a readable 64-bit ELF object: {0}")]
    Elf(String),
    /// There is no `.modinfo` section.
    #[error("it has no .modinfo section, so it is not a kernel module")]
    NoSection,
    /// The section is absurdly large.
    #[error("its .modinfo section has {found} bytes, more than the limit of {MAX_SECTION_BYTES}")]
    TooLarge {
        /// Size found.
        found: usize,
    },
}

/// A module's name as `/proc/modules` spells it: `-` becomes `_`.
#[must_use]
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads the `.modinfo` section of an uncompressed module.
pub fn parse_module(elf: &[u8]) -> Result<ModInfo, ModInfoError> {
    let section = modinfo_section(elf)?;
    if section.len() > MAX_SECTION_BYTES {
        return Err(ModInfoError::TooLarge {
            found: section.len(),
        });
    }
    let mut info = ModInfo::default();
    for record in records(section) {
        info.take(&record);
    }
    Ok(info)
}

fn modinfo_section(elf: &[u8]) -> Result<&[u8], ModInfoError> {
    let wrong = |error: object::read::Error| ModInfoError::Elf(error.to_string());
    let header = FileHeader64::<Endianness>::parse(elf).map_err(wrong)?;
    let endian = header.endian().map_err(wrong)?;
    let sections = header.sections(endian, elf).map_err(wrong)?;
    let (_, section) = sections
        .section_by_name(endian, b".modinfo")
        .ok_or(ModInfoError::NoSection)?;
    section.data(endian, elf).map_err(wrong)
}

fn records(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    bytes
        .split(|byte| *byte == 0)
        .filter(|record| !record.is_empty())
        .map(|record| String::from_utf8_lossy(record).into_owned())
}

impl ModInfo {
    fn take(&mut self, record: &str) {
        let Some((key, value)) = record.split_once('=') else {
            return;
        };
        match key {
            "name" => self.name = normalise(value),
            "alias" => self.aliases.push(value.to_owned()),
            "firmware" => self.firmware.push(value.to_owned()),
            "depends" => self.depends.extend(
                value
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(normalise),
            ),
            "softdep" => self.soft_pre.extend(soft_pre(value)),
            _ => {}
        }
    }
}

/// The names after `pre:` of a softdep line, up to `post:`. Lines without either word (a few crypto modules have
/// them) mean nothing to modprobe, nor here.
fn soft_pre(value: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut within_pre = false;
    for word in value.split_whitespace() {
        match word {
            "pre:" => within_pre = true,
            "post:" => within_pre = false,
            name if within_pre => names.push(name.to_owned()),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A minimal ELF object with one section beside the string table, as small as the format allows.
    pub(crate) fn elf_with(section_name: &str, content: &[u8]) -> Vec<u8> {
        let mut names = vec![0_u8];
        names.extend_from_slice(section_name.as_bytes());
        names.push(0);
        let strings_name = names.len();
        names.extend_from_slice(b".shstrtab\0");
        let content_at = 64;
        let names_at = content_at + content.len();
        let table_at = (names_at + names.len()).next_multiple_of(8);
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for half in [1_u16, 62] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        out.extend_from_slice(&1_u32.to_le_bytes());
        for word in [0, 0, table_at as u64] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&0_u32.to_le_bytes());
        for half in [64_u16, 0, 0, 64, 3, 2] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        out.extend_from_slice(content);
        out.extend_from_slice(&names);
        out.resize(table_at, 0);
        let mut section = |name: usize, kind: u32, at: usize, size: usize| {
            out.extend_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
            out.extend_from_slice(&kind.to_le_bytes());
            for word in [0, 0, at as u64, size as u64] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&[0; 8]);
            for word in [1_u64, 0] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        };
        section(0, 0, 0, 0);
        section(1, 1, content_at, content.len());
        section(strings_name, 3, names_at, names.len());
        out
    }

    #[test]
    fn every_kind_of_record_is_read_and_names_are_normalised() {
        let elf = elf_with(
            ".modinfo",
            b"license=GPL\0\0alias=pci:v*d*sv*sd*bc01sc06i01*\0alias=x-y\0depends=lib-ahci,libata\0name=ahci-x\0\
              softdep=pre: crc32c aes post: later\0softdep=md5\0firmware=a/b.bin\0rubbish\0",
        );
        let info = parse_module(&elf).unwrap();
        assert_eq!(info.name, "ahci_x");
        assert_eq!(info.aliases, ["pci:v*d*sv*sd*bc01sc06i01*", "x-y"]);
        assert_eq!(info.depends, ["lib_ahci", "libata"]);
        assert_eq!(info.soft_pre, ["crc32c", "aes"]);
        assert_eq!(info.firmware, ["a/b.bin"]);
    }

    #[test]
    fn an_empty_depends_is_no_dependency() {
        assert!(
            parse_module(&elf_with(".modinfo", b"depends=\0"))
                .unwrap()
                .depends
                .is_empty()
        );
    }

    #[test]
    fn a_module_without_the_section_is_refused() {
        assert_eq!(
            parse_module(&elf_with(".text", b"x")),
            Err(ModInfoError::NoSection)
        );
    }

    #[test]
    fn hostile_files_give_an_error_and_never_a_panic() {
        let good = elf_with(".modinfo", b"name=ahci\0");
        assert!(matches!(parse_module(b""), Err(ModInfoError::Elf(_))));
        assert!(matches!(
            parse_module(b"\x7fELF"),
            Err(ModInfoError::Elf(_))
        ));
        for length in 0..good.len() {
            let _ = parse_module(&good[..length]);
        }
        for at in 0..good.len() {
            for value in [0_u8, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = parse_module(&bad);
            }
        }
    }

    #[test]
    fn a_bloated_section_is_refused() {
        let elf = elf_with(".modinfo", &vec![b'a'; MAX_SECTION_BYTES + 1]);
        assert!(matches!(
            parse_module(&elf),
            Err(ModInfoError::TooLarge { .. })
        ));
    }
}
