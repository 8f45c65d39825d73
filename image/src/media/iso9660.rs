//! Which files a finished ISO holds and where, by its Joliet tree, so that settings can be changed in place and the image
//! checked without mounting it.
//!
//! Scope: files of one extent, as xorriso writes those of our size. Source: ECMA-119 (volume descriptors, directory
//! records); Joliet: names in UCS-2, big-endian, in a supplementary descriptor with an escape sequence of its own.

use std::collections::BTreeMap;
use std::ops::Range;

const BLOCK: usize = 2048;
/// The first volume descriptor, in blocks.
const FIRST_DESCRIPTOR: usize = 16;
/// Descriptors that are looked at; an ISO of ours has four.
const MAX_DESCRIPTORS: usize = 16;
const SUPPLEMENTARY: u8 = 2;
const TERMINATOR: u8 = 255;
/// Escape sequences of Joliet's three levels, at this place of the descriptor.
const ESCAPES_AT: usize = 88;
const ESCAPES: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];
/// The record of the root directory within a descriptor.
const ROOT_AT: usize = 156;
const DIRECTORY_FLAG: u8 = 2;
/// Limits against a damaged or hostile tree.
const MAX_ENTRIES: usize = 1000;
const MAX_DEPTH: usize = 8;
const MAX_DIRECTORY_BYTES: usize = 1 << 20;

/// A directory record.
struct Record<'a> {
    place: Range<usize>,
    directory: bool,
    name: &'a [u8],
}

/// The files by path, with the place of their content in bytes. Nothing if this is no Joliet ISO or a damaged one.
#[must_use]
pub fn files(image: &[u8]) -> Option<BTreeMap<String, Range<usize>>> {
    let root = root(image)?;
    let mut found = BTreeMap::new();
    let mut todo = vec![(String::new(), root, 0)];
    let mut seen = 0;
    while let Some((parent, place, depth)) = todo.pop() {
        for record in records(image.get(place)?) {
            seen += 1;
            if seen > MAX_ENTRIES || depth > MAX_DEPTH {
                return None;
            }
            let record = record?;
            if matches!(record.name, [0] | [1]) {
                continue;
            }
            let path = format!("{parent}{}", name(record.name)?);
            if record.directory {
                if record.place.len() > MAX_DIRECTORY_BYTES {
                    return None;
                }
                todo.push((format!("{path}/"), record.place, depth + 1));
            } else {
                image.get(record.place.clone())?;
                found.insert(path, record.place);
            }
        }
    }
    Some(found)
}

fn root(image: &[u8]) -> Option<Range<usize>> {
    for index in 0..MAX_DESCRIPTORS {
        let at = (FIRST_DESCRIPTOR + index) * BLOCK;
        let descriptor = image.get(at..at + BLOCK)?;
        if &descriptor[1..6] != b"CD001" || descriptor[0] == TERMINATOR {
            return None;
        }
        let escape = &descriptor[ESCAPES_AT..ESCAPES_AT + 3];
        if descriptor[0] == SUPPLEMENTARY && ESCAPES.contains(&escape) {
            return parse(&descriptor[ROOT_AT..]).map(|record| record.place);
        }
    }
    None
}

/// The records of a directory. None crosses a block; the rest of a block is zeros.
fn records(directory: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    directory.chunks(BLOCK).flat_map(|block| {
        let mut rest = block;
        std::iter::from_fn(move || {
            let length = usize::from(*rest.first()?);
            if length == 0 {
                return None;
            }
            let record = rest.get(..length).and_then(parse);
            rest = rest.get(length..).unwrap_or_default();
            Some(record)
        })
    })
}

fn parse(record: &[u8]) -> Option<Record<'_>> {
    let word = |at: usize| -> Option<usize> {
        let bytes = record.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = word(2)?.checked_mul(BLOCK)?;
    let end = start.checked_add(word(10)?)?;
    let name_length = usize::from(*record.get(32)?);
    Some(Record {
        place: start..end,
        directory: record.get(25)? & DIRECTORY_FLAG != 0,
        name: record.get(33..33 + name_length)?,
    })
}

/// A name without its version (`;1`), which Joliet may have too.
fn name(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
    let name = String::from_utf16(&units).ok()?;
    let name = name.strip_suffix(";1").unwrap_or(&name);
    (rest.is_empty() && !name.is_empty() && !name.contains(['/', '\0'])).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::sample;
    use std::path::Path;

    fn iso(dir: &Path) -> Vec<u8> {
        let out = dir.join("x.iso");
        crate::media::iso::make(&sample::parts(), true, dir, &out).unwrap();
        std::fs::read(out).unwrap()
    }

    #[test]
    fn the_files_are_found_where_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let image = iso(temp.path());
        let files = files(&image).unwrap();
        let parts = sample::parts();
        assert_eq!(image[files["boot/vmlinuz"].clone()], parts.vmlinuz);
        assert_eq!(
            image[files["boot/grub/rescue.env"].clone()],
            parts.settings_block
        );
        assert!(files.contains_key(".disk/esxi-rescue-12345678abcdef00"));
    }

    #[test]
    fn damaged_and_foreign_files_are_no_panic() {
        let temp = tempfile::tempdir().unwrap();
        let image = iso(temp.path());
        assert!(files(b"").is_none() && files(&vec![0; 100_000]).is_none());
        for length in (0..80_000).step_by(997) {
            assert!(files(&image[..length]).is_none());
        }
        for at in (FIRST_DESCRIPTOR * BLOCK)..(FIRST_DESCRIPTOR + 24) * BLOCK {
            if at % 7 == 0 || image[at] != 0 {
                let mut bad = image[..(FIRST_DESCRIPTOR + 40) * BLOCK].to_vec();
                bad[at] = bad[at].wrapping_add(0x81);
                let _ = files(&bad);
            }
        }
    }
}
