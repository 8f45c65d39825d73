//! An archive that a person has put on the medium for a host.

use super::Medium;
use super::error::MediumError;
use crate::import::MAX_BYTES;

/// The folder of such archives; one of a host is in a folder of that host in it, or right in it.
const FOLDER: &str = "import";
/// The archive as ESXi saves it.
const STATE: &str = "state.tgz";
/// What ESXi calls its own backups like, in small letters.
const BUNDLE: (&str, &str) = ("configbundle", ".tgz");

/// Where an archive for one of these names of a host is looked for, in this order.
pub fn folders(labels: &[String]) -> Vec<String> {
    let own = labels.iter().map(|label| format!("{FOLDER}/{label}"));
    own.chain([FOLDER.to_owned()]).collect()
}

impl Medium {
    /// The archive for a host that has these names: where it is, and its bytes. `state.tgz` comes before a
    /// backup of ESXi's own, and of several of those the last one by its name.
    ///
    /// # Errors
    /// [`MediumError`].
    pub fn archive_for(&self, labels: &[String]) -> Result<Option<(String, Vec<u8>)>, MediumError> {
        for path in self.archives(labels) {
            let path = path?;
            if let Some(bytes) = self.read(&path, MAX_BYTES)? {
                return Ok(Some((path, bytes)));
            }
        }
        Ok(None)
    }

    /// Whether there is one, without reading it.
    pub fn has_archive_for(&self, labels: &[String]) -> bool {
        self.archives(labels).flatten().next().is_some()
    }

    /// The archives for a host, the best one first: one of each folder.
    fn archives(&self, labels: &[String]) -> impl Iterator<Item = Result<String, MediumError>> {
        let best = |folder: String| {
            let mut names = match self.list(&folder) {
                Ok(names) => names,
                Err(error) => return Some(Err(error)),
            };
            let is_bundle = |name: &String| {
                let name = name.to_ascii_lowercase();
                name.starts_with(BUNDLE.0) && name.ends_with(BUNDLE.1)
            };
            let state = names.iter().find(|name| name.eq_ignore_ascii_case(STATE));
            let state = state.cloned();
            names.retain(is_bundle);
            names.sort();
            let name = state.or(names.pop())?;
            Some(Ok(format!("{folder}/{name}")))
        };
        folders(labels).into_iter().filter_map(best)
    }
}
