//! Who read a served image: `fetches.json` in the folder of reports. A host whose BMC never read the image
//! was not started from it; one whose BMC did, and that sent no report, was.

use std::collections::VecDeque;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::store::write_whole;

/// The file's name in the folder of reports.
pub const FILE: &str = "fetches.json";
/// Most readers that are remembered.
const MAX_READERS: usize = 1000;

/// What one address read of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The reader.
    pub address: IpAddr,
    /// The image's name.
    pub image: String,
    /// When it began, RFC 3339.
    pub first: String,
    /// When it last asked.
    pub last: String,
    /// How often it asked for a part, or for all of it.
    pub requests: u64,
    /// How many bytes it was sent.
    pub bytes: u64,
}

/// Everybody who read an image, the one who asked last at the end.
#[derive(Debug, Default)]
pub struct Fetches {
    list: VecDeque<Fetch>,
    /// Whether something is not in the file yet.
    changed: bool,
}

#[derive(Deserialize)]
struct File {
    fetches: VecDeque<Fetch>,
}

impl Fetches {
    /// What the file in the folder of reports says; nothing where there is none that can be read.
    pub fn load(store: &Path) -> Fetches {
        let file = fs::read(store.join(FILE)).ok();
        let file = file.and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
        let mut list = file.map(|file| file.fetches).unwrap_or_default();
        list.truncate(MAX_READERS);
        Fetches {
            list,
            changed: false,
        }
    }

    /// A request for a part of an image. Whether it is this reader's first.
    pub fn asked(&mut self, address: IpAddr, image: &str, when: SystemTime) -> bool {
        let when = humantime::format_rfc3339_seconds(when).to_string();
        self.changed = true;
        if let Some(index) = self.index(address, image) {
            if let Some(mut fetch) = self.list.remove(index) {
                fetch.last = when;
                fetch.requests += 1;
                self.list.push_back(fetch);
            }
            return false;
        }
        if self.list.len() >= MAX_READERS {
            self.list.pop_front();
        }
        self.list.push_back(Fetch {
            address,
            image: image.to_owned(),
            first: when.clone(),
            last: when,
            requests: 1,
            bytes: 0,
        });
        true
    }

    /// Bytes that were sent.
    pub fn sent(&mut self, address: IpAddr, image: &str, bytes: u64) {
        if let Some(fetch) = self
            .index(address, image)
            .and_then(|index| self.list.get_mut(index))
        {
            fetch.bytes += bytes;
            self.changed = true;
        }
    }

    fn index(&self, address: IpAddr, image: &str) -> Option<usize> {
        let mut list = self.list.iter();
        list.rposition(|fetch| fetch.address == address && fetch.image == image)
    }

    /// The readers.
    pub fn list(&self) -> impl Iterator<Item = &Fetch> {
        self.list.iter()
    }

    /// The file's new content, if something changed since it was last asked for.
    pub fn changed(&mut self) -> Option<String> {
        std::mem::take(&mut self.changed)
            .then(|| json!({"schema": "esxi-rescue-fetches/1", "fetches": self.list}).to_string())
    }
}

/// Puts the file in place.
///
/// # Errors
/// When it cannot be written; the old one stays.
pub fn write(store: &Path, content: &str) -> std::io::Result<()> {
    write_whole(store, &store.join(FILE), format!("{content}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_of_an_image_is_counted_and_found_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut fetches = Fetches::load(folder.path());
        assert!(fetches.asked(one, "lab.iso", SystemTime::UNIX_EPOCH));
        assert!(fetches.asked(other, "lab.iso", SystemTime::UNIX_EPOCH));
        assert!(!fetches.asked(one, "lab.iso", SystemTime::UNIX_EPOCH));
        fetches.sent(one, "lab.iso", 7);
        write(folder.path(), &fetches.changed().unwrap()).unwrap();
        assert_eq!(fetches.changed(), None);
        let again: Vec<Fetch> = Fetches::load(folder.path()).list().cloned().collect();
        assert_eq!(again.len(), 2);
        assert_eq!(
            (again[1].address, again[1].requests, again[1].bytes),
            (one, 2, 7)
        );
    }

    #[test]
    fn readers_are_not_remembered_without_end() {
        let mut fetches = Fetches::default();
        for number in 0..=u32::try_from(MAX_READERS).unwrap() {
            fetches.asked(
                IpAddr::from(number.to_be_bytes()),
                "x",
                SystemTime::UNIX_EPOCH,
            );
        }
        assert_eq!(fetches.list().count(), MAX_READERS);
    }
}
