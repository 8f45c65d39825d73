//! The names this program uses in a bank beside the archives, and what the entries of these names say.
//!
//! The names must escape ESXi's own housekeeping: it deletes `state.tgz.*` and `local.tgz.*`, and
//! unpacks every other `*.tgz` and `*.gz` it finds in a bank. A name alone proves nothing: an
//! administrator may have a `state.org` of his own. So each of our entries carries a mark.

use super::directory::{Entry, ShortName};
pub use super::mark::Mark;

/// The archives that may be exchanged.
pub const ARCHIVES: [ShortName; 3] = [ShortName::STATE, ShortName::LOCAL, ShortName::ONETIME];

/// How many names there are for copies, and for markers. Files of other people may have some.
const NAMES: usize = 10;

/// The names of copies of an archive, in the order in which they are used: `STATE.ORG`, then
/// `STATE.OR1` to `STATE.OR9`.
pub fn copies_of(archive: ShortName) -> [ShortName; NAMES] {
    numbered(archive, *b"ORG")
}

/// The names of markers: `STATE.NEW`, then `STATE.NE1` to `STATE.NE9`.
pub fn markers_of(archive: ShortName) -> [ShortName; NAMES] {
    numbered(archive, *b"NEW")
}

fn numbered(archive: ShortName, extension: [u8; 3]) -> [ShortName; NAMES] {
    let [first, second, last] = extension;
    let mut digits = b'0'..;
    std::array::from_fn(|_| {
        let digit = digits.next().filter(|digit| *digit != b'0').unwrap_or(last);
        archive.with_extension([first, second, digit])
    })
}

/// Whether an entry is a copy of that archive that this program made.
pub(super) fn is_copy(entry: &Entry, archive: ShortName) -> bool {
    entry.mark().is_some() && has_name_of_copy(entry, archive)
}

/// Whether an entry may be a copy of that archive, by its name.
pub(super) fn has_name_of_copy(entry: &Entry, archive: ShortName) -> bool {
    !entry.is_directory() && copies_of(archive).contains(&entry.name())
}

/// Whether an entry says that an exchange of that archive is under way.
pub(super) fn is_marker(entry: &Entry, archive: ShortName) -> bool {
    entry.mark() == Some(Mark::Kept)
        && entry.size() == 0
        && entry.first_cluster() == 0
        && !entry.is_directory()
        && markers_of(archive).contains(&entry.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_is_the_well_known_one_and_the_others_are_numbered() {
        let shown = |names: [ShortName; NAMES]| names.map(|name| name.to_string());
        let copies = shown(copies_of(ShortName::STATE));
        assert_eq!(&copies[..3], ["STATE.ORG", "STATE.OR1", "STATE.OR2"]);
        assert_eq!(copies[9], "STATE.OR9");
        assert_eq!(
            shown(markers_of(ShortName::LOCAL))[..2],
            ["LOCAL.NEW", "LOCAL.NE1"]
        );
    }
}
