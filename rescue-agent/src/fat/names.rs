//! The names of an exchange: of the archives, of what keeps their originals, and of the marker that
//! an exchange is under way; and what the entries of these names say.

use super::directory::{Entry, ShortName};
use super::volume::Volume;

/// The archives that may be exchanged.
pub const ARCHIVES: [ShortName; 3] = [ShortName::STATE, ShortName::LOCAL, ShortName::ONETIME];

/// The directory entries of one exchange.
///
/// The names must escape ESXi's own housekeeping: it deletes `state.tgz.*` and `local.tgz.*`, and
/// unpacks every other `*.tgz` and `*.gz` it finds in a bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// What is replaced.
    pub archive: ShortName,
    /// What keeps the original.
    pub undo: ShortName,
    /// What says that an exchange is under way.
    pub marker: ShortName,
}

impl Names {
    /// The names that belong to an archive: `STATE.TGZ`, `STATE.ORG`, `STATE.NEW`.
    pub fn of(archive: ShortName) -> Self {
        Self {
            archive,
            undo: archive.with_extension(*b"ORG"),
            marker: archive.with_extension(*b"NEW"),
        }
    }
}

/// Whether `entry` is an undo copy that names the same chain as its archive: what the middle of a
/// two-sector commit looks like.
pub(super) fn is_alias(volume: &Volume<'_>, entry: &Entry) -> bool {
    ARCHIVES.map(Names::of).iter().any(|names| {
        entry.name() == names.undo
            && entry.first_cluster() != 0
            && volume.find(names.archive).is_some_and(|archive| {
                archive.first_cluster() == entry.first_cluster() && archive.size() == entry.size()
            })
    })
}

pub(super) fn is_marker(entry: &Entry) -> bool {
    entry.size() == 0
        && entry.first_cluster() == 0
        && !entry.is_directory()
        && ARCHIVES
            .map(Names::of)
            .iter()
            .any(|names| entry.name() == names.marker)
}
