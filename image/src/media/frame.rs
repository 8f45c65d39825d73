//! The digest of what is in an image beside its files: boot code, partition tables, volume descriptors, directories, the
//! gaps in which GRUB lies. It stands in the file that names the image, above the digests of the files, in a line that
//! sha256sum takes for a comment.
//!
//! Of an ISO it covers every byte but the settings, which are changed later, and itself. Of a USB image it covers every
//! byte around the FAT volume, whose tables and directories change with each file that is put there.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::hash;

const START: &str = "# around the files ";
/// What stands in an ISO until its digest is known: it is part of the ISO.
pub const NOT_KNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The line with the digest.
#[must_use]
pub fn line(digest: &str) -> String {
    format!("{START}{digest}\n")
}

/// The digest in the file that names an image.
#[must_use]
pub fn stated(sums: &str) -> Option<&str> {
    sums.lines().next()?.strip_prefix(START)
}

/// Whether a line of that file is this one.
#[must_use]
pub fn is_line(line: &str) -> bool {
    line.starts_with(START)
}

/// Where the digest stands, if the file that names the image is at `sums`.
#[must_use]
pub fn place(sums: &Range<usize>) -> Range<usize> {
    let start = sums.start + START.len();
    start..start + NOT_KNOWN.len()
}

/// The digest of all bytes but those of these places.
#[must_use]
pub fn digest(image: &[u8], without: &[Range<usize>]) -> String {
    let mut without = without.to_vec();
    without.sort_by_key(|place| place.start);
    let mut hasher = Sha256::new();
    let mut at = 0;
    for place in without {
        hasher.update(image.get(at..place.start).unwrap_or_default());
        at = at.max(place.end);
    }
    hasher.update(image.get(at..).unwrap_or_default());
    hash::hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_outside_of_the_places_counts() {
        let image = [5_u8; 100];
        let without = [40..60, 10..20];
        let before = digest(&image, &without);
        for at in 0..image.len() {
            let mut changed = image;
            changed[at] ^= 1;
            let inside = without.iter().any(|place| place.contains(&at));
            assert_eq!(digest(&changed, &without) == before, inside, "{at}");
        }
    }

    #[test]
    fn the_line_is_found_again() {
        let sums = line(NOT_KNOWN) + "aa  vmlinuz\n";
        assert_eq!(stated(&sums), Some(NOT_KNOWN));
        assert_eq!(&sums[place(&(0..sums.len()))], NOT_KNOWN);
        assert_eq!(stated("aa  vmlinuz\n"), None);
    }
}
