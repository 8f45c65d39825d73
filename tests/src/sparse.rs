//! Copies, compares and hashes disk images of many gigabytes by looking only at the parts that hold data.
//!
//! An image is a sparse file. Holes are found with `SEEK_DATA`/`SEEK_HOLE`; a hole and written zeros count as the same content, as they do for
//! every reader of the disk.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sha2::{Digest, Sha256};

/// Unit in which data is compared, in bytes: the smallest logical sector, so that a difference names its sector.
pub const UNIT_BYTES: u64 = 512;

/// Bytes read at once, a multiple of [`UNIT_BYTES`].
const CHUNK_BYTES: u64 = 1 << 20;

/// The byte ranges of a file that are not holes, ascending, aligned down to [`UNIT_BYTES`].
fn data_ranges(file: &File, within: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = within.start;
    while at < within.end {
        let start = match lseek(file, i64::try_from(at)?, Whence::SeekData) {
            Ok(start) => u64::try_from(start)?,
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error).context("looking for data in a sparse file"),
        };
        let end = lseek(file, i64::try_from(start)?, Whence::SeekHole)
            .context("looking for a hole in a sparse file")?;
        let end = u64::try_from(end)?;
        if start >= within.end {
            break;
        }
        ranges.push(start / UNIT_BYTES * UNIT_BYTES..end.min(within.end));
        at = end;
    }
    Ok(ranges)
}

/// Calls `each(offset, bytes)` for every run of data inside `within`, in steps of at most a mebibyte.
fn for_each_chunk(
    file: &File,
    ranges: &[Range<u64>],
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(CHUNK_BYTES)?];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let length = usize::try_from(CHUNK_BYTES.min(range.end - at))?;
            file.read_exact_at(&mut buffer[..length], at)?;
            each(at, &buffer[..length])?;
            at += u64::try_from(length)?;
        }
    }
    Ok(())
}

fn whole(file: &File) -> Result<Range<u64>> {
    Ok(0..file.metadata()?.len())
}

/// Copies an image, holes kept.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let length = std::fs::metadata(from)
        .with_context(|| format!("reading {}", from.display()))?
        .len();
    copy_part(from, 0..length, to)
}

/// Copies a byte range of an image into a file of its own, holes kept.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_part(from: &Path, part: Range<u64>, to: &Path) -> Result<()> {
    let source = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(to)
        .with_context(|| format!("creating {}", to.display()))?;
    target.set_len(part.end - part.start)?;
    for_each_chunk(&source, &data_ranges(&source, &part)?, |at, bytes| {
        // A range is aligned down to a sector, which may lie before an unaligned part.
        let skip = usize::try_from(part.start.saturating_sub(at))?;
        Ok(target.write_all_at(&bytes[skip..], at + u64::try_from(skip)? - part.start)?)
    })
}

/// SHA-256 over an image's length and every 512-byte unit that is not all zeros, each with its position: equal for equal content, however the
/// holes lie.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(image: &Path) -> Result<String> {
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let range = whole(&file)?;
    let mut hash = Sha256::new();
    hash.update(range.end.to_le_bytes());
    for_each_chunk(&file, &data_ranges(&file, &range)?, |at, bytes| {
        for (unit, offset) in bytes
            .chunks(usize::try_from(UNIT_BYTES)?)
            .zip((at..).step_by(usize::try_from(UNIT_BYTES)?))
        {
            if unit.iter().any(|byte| *byte != 0) {
                hash.update(offset.to_le_bytes());
                hash.update(unit);
            }
        }
        Ok(())
    })?;
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Byte offsets of all 512-byte units in which two images differ, ascending.
///
/// # Errors
/// When a file cannot be read, or the images differ in length.
pub fn differing_units(before: &Path, after: &Path) -> Result<Vec<u64>> {
    let (first, second) = (File::open(before)?, File::open(after)?);
    let (range, other) = (whole(&first)?, whole(&second)?);
    anyhow::ensure!(
        range == other,
        "the image was {} bytes long and is {} bytes long now",
        range.end,
        other.end
    );
    let mut ranges = data_ranges(&first, &range)?;
    ranges.extend(data_ranges(&second, &range)?);
    let mut units = Vec::new();
    let mut opposite = vec![0; usize::try_from(CHUNK_BYTES)?];
    for_each_chunk(&first, &merged(ranges), |at, bytes| {
        let opposite = &mut opposite[..bytes.len()];
        second.read_exact_at(opposite, at)?;
        let size = usize::try_from(UNIT_BYTES)?;
        for (index, (one, two)) in bytes.chunks(size).zip(opposite.chunks(size)).enumerate() {
            if one != two {
                units.push(at + u64::try_from(index)? * UNIT_BYTES);
            }
        }
        Ok(())
    })?;
    Ok(units)
}

fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(folder: &Path, name: &str, marks: &[(u64, u8)]) -> std::path::PathBuf {
        let path = folder.join(name);
        let file = File::create(&path).unwrap();
        file.set_len(1 << 32).unwrap();
        for (at, byte) in marks {
            file.write_all_at(&[*byte], *at).unwrap();
        }
        path
    }

    #[test]
    fn a_copy_is_the_same_content() {
        let folder = tempfile::tempdir().unwrap();
        let one = sparse(
            folder.path(),
            "one",
            &[(5, 1), (1 << 31, 2), ((1 << 32) - 1, 3)],
        );
        let two = folder.path().join("two");
        copy(&one, &two).unwrap();
        assert!(differing_units(&one, &two).unwrap().is_empty());
        assert_eq!(digest(&one).unwrap(), digest(&two).unwrap());
    }

    #[test]
    fn a_part_starts_at_its_first_byte() {
        let folder = tempfile::tempdir().unwrap();
        let one = sparse(folder.path(), "one", &[(1025, 7), (2048, 9)]);
        let part = folder.path().join("part");
        copy_part(&one, 1025..2049, &part).unwrap();
        let bytes = std::fs::read(&part).unwrap();
        assert_eq!((bytes.len(), bytes[0], bytes[1023]), (1024, 7, 9));
    }

    #[test]
    fn a_changed_byte_names_its_unit() {
        let folder = tempfile::tempdir().unwrap();
        let one = sparse(folder.path(), "one", &[(5, 1)]);
        let two = sparse(folder.path(), "two", &[(5, 1), (1 << 30, 4)]);
        assert_eq!(differing_units(&one, &two).unwrap(), [1 << 30]);
        assert_ne!(digest(&one).unwrap(), digest(&two).unwrap());
    }

    #[test]
    fn written_zeros_and_holes_are_one_content() {
        let folder = tempfile::tempdir().unwrap();
        let one = sparse(folder.path(), "one", &[(5, 1)]);
        let two = sparse(folder.path(), "two", &[(5, 1), (1 << 30, 0)]);
        assert!(differing_units(&one, &two).unwrap().is_empty());
        assert_eq!(digest(&one).unwrap(), digest(&two).unwrap());
    }
}
