//! The volume, read: FAT16 and FAT32 with long names, as `mkfs.fat`, this project's builder, Windows
//! and macOS leave them.
//!
//! It is looked for on every disk of a machine, so that anything may turn up here: every number is
//! checked, every walk is bounded. Writing is done by the crate `fatfs`, which takes a volume at its
//! word, and therefore only after [`survey`] has found it sound.

use std::io;

use super::error::{Damage, GeometryError, ReadError};
use super::geometry::{ENTRY_BYTES, Geometry, Link, Root};
use super::window::Window;
use crate::bytes::{u16_at, u32_at};

/// Largest allocation table that is looked at as a whole, in bytes: clusters of 32 KiB on 128 GB.
const MAX_TABLE_BYTES: u64 = 16 << 20;
/// Largest directory there can be, in bytes: 65 536 entries.
const MAX_DIRECTORY_BYTES: u64 = 65_536 * 32;
/// Deepest nesting of folders that is followed.
const MAX_DEPTH: usize = 32;

/// Attribute bits of an entry.
const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// First byte of a slot whose file was deleted.
pub(super) const DELETED: u8 = 0xe5;

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_directory: bool,
    first: u32,
    pub(super) size: u32,
    /// Number of its slot in the directory, that with the short name.
    slot: u32,
}

impl Entry {
    fn is_dots(&self) -> bool {
        self.name == "." || self.name == ".."
    }
}

impl Geometry {
    /// Reads the parameter block of the volume in `window`.
    ///
    /// # Errors
    /// [`GeometryError`].
    pub(super) fn read(window: &Window<'_>) -> Result<Self, GeometryError> {
        let mut sector = [0; 512];
        window
            .read_exact_at(0, &mut sector)
            .map_err(GeometryError::Device)?;
        Self::parse(&sector, window.length())
    }
}

/// A volume to read from.
#[derive(Clone, Copy)]
pub(super) struct Volume<'w, 'd> {
    window: &'w Window<'d>,
    geometry: &'w Geometry,
}

impl<'w, 'd> Volume<'w, 'd> {
    pub(super) fn new(window: &'w Window<'d>, geometry: &'w Geometry) -> Self {
        Self { window, geometry }
    }

    /// The entry at a path below the root, names parted by `/`, without regard to case.
    pub(super) fn find(&self, path: &str) -> Result<Option<Entry>, ReadError> {
        let mut folder = self.root()?;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let found = entries(&folder)
                .into_iter()
                .find(|entry| entry.name.eq_ignore_ascii_case(part));
            let Some(entry) = found else { return Ok(None) };
            if parts.peek().is_none() {
                return Ok(Some(entry));
            }
            if !entry.is_directory {
                return Ok(None);
            }
            folder = self.content(&entry, MAX_DIRECTORY_BYTES)?;
        }
        Ok(None)
    }

    /// The content of the file at a path; `None` where there is no such file.
    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        match self.find(path)? {
            Some(entry) if !entry.is_directory => self.content(&entry, limit).map(Some),
            _ => Ok(None),
        }
    }

    /// The names in the folder at a path; none where there is no such folder.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Entry>, ReadError> {
        match self.find(path)? {
            Some(entry) if entry.is_directory => {
                let content = self.content(&entry, MAX_DIRECTORY_BYTES)?;
                let listed = entries(&content).into_iter();
                Ok(listed.filter(|entry| !entry.is_dots()).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn root(&self) -> Result<Vec<u8>, ReadError> {
        match &self.geometry.root {
            Root::Fixed(place) => Ok(self.bytes(place.start, place.end - place.start)?),
            Root::Chain(first) => self.chained(*first, None, MAX_DIRECTORY_BYTES),
        }
    }

    fn content(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ReadError> {
        if entry.is_directory {
            return self.chained(entry.first, None, limit);
        }
        if entry.size == 0 {
            return Ok(Vec::new());
        }
        self.chained(entry.first, Some(u64::from(entry.size)), limit)
    }

    /// What a chain holds: `size` bytes of it, or all.
    fn chained(&self, first: u32, size: Option<u64>, limit: u64) -> Result<Vec<u8>, ReadError> {
        if let Some(size) = size.filter(|size| *size > limit) {
            return Err(ReadError::TooLarge { size, limit });
        }
        let step = self.geometry.cluster_bytes;
        let (mut bytes, mut next) = (Vec::new(), first);
        loop {
            if !self.geometry.is_cluster(next) {
                return Err(ReadError::Damaged(Damage::LeadsOut(next)));
            }
            let left = size.map_or(step, |size| size - bytes.len() as u64);
            let place = self.geometry.cluster_place(next);
            bytes.extend(self.bytes(place, left.min(step))?);
            let length = bytes.len() as u64;
            match self.link(next)? {
                _ if size == Some(length) => return Ok(bytes),
                Link::Next(_) if length >= limit => {
                    let size = length + step;
                    return Err(ReadError::TooLarge { size, limit });
                }
                Link::Next(number) => next = number,
                Link::End if size.is_none() => return Ok(bytes),
                _ => {
                    return Err(ReadError::Damaged(Damage::EndsEarly(next)));
                }
            }
        }
    }

    fn link(&self, cluster: u32) -> io::Result<Link> {
        let mut entry = vec![0; self.geometry.kind.entry_bytes()];
        self.window
            .read_exact_at(self.geometry.entry_at(0, cluster), &mut entry)?;
        Ok(self.geometry.kind.link(&entry, self.geometry.clusters))
    }

    fn bytes(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.window.read_exact_at(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Where the first slots of the folder at a path are, for [`super::writing`].
    pub(super) fn folder_place(&self, path: &str) -> Result<Option<u64>, ReadError> {
        let entry = self.find(path)?.filter(|entry| entry.is_directory);
        Ok(entry
            .filter(|entry| self.geometry.is_cluster(entry.first))
            .map(|entry| self.geometry.cluster_place(entry.first)))
    }

    /// Where the slot of the file at a path is that has its short name, clusters and size.
    pub(super) fn slot_place(&self, path: &str) -> Result<Option<u64>, ReadError> {
        let Some(entry) = self.find(path)?.filter(|entry| !entry.is_directory) else {
            return Ok(None);
        };
        let at = u64::from(entry.slot) * ENTRY_BYTES as u64;
        let folder = path.rsplit_once('/').map(|(folder, _)| self.find(folder));
        let mut cluster = match (folder.transpose()?.flatten(), &self.geometry.root) {
            (Some(folder), _) => folder.first,
            (None, Root::Chain(first)) => *first,
            (None, Root::Fixed(place)) => return Ok(Some(place.start + at)),
        };
        for _ in 0..at / self.geometry.cluster_bytes {
            let Link::Next(next) = self.link(cluster)? else {
                return Ok(None);
            };
            cluster = next;
        }
        let within = at % self.geometry.cluster_bytes;
        Ok(Some(self.geometry.cluster_place(cluster) + within))
    }
}

/// The entries of a directory, long names joined; labels and deleted ones are left out.
fn entries(directory: &[u8]) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut long = LongName::default();
    for (number, slot) in (0_u32..).zip(directory.as_chunks::<ENTRY_BYTES>().0) {
        match (slot[0], slot[11]) {
            (0, _) => break,
            (DELETED, _) => long = LongName::default(),
            (_, LONG_NAME) => long.take(slot),
            (_, attributes) if attributes & VOLUME_LABEL != 0 => long = LongName::default(),
            (_, attributes) => {
                let name = std::mem::take(&mut long).finish(slot);
                let first = u32::from(u16_at(slot, 26)) | u32::from(u16_at(slot, 20)) << 16;
                found.push(Entry {
                    name: name.unwrap_or_else(|| short_name(slot)),
                    is_directory: attributes & DIRECTORY != 0,
                    // Sixteen and sixteen bits.
                    first,
                    size: u32_at(slot, 28),
                    slot: number,
                });
            }
        }
    }
    found
}

/// A long name as it is put together from its slots, which stand last part first.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    next: u8,
    checksum: u8,
}

impl LongName {
    const LAST: u8 = 0x40;

    fn take(&mut self, slot: &[u8; ENTRY_BYTES]) {
        let (number, checksum) = (slot[0] & !Self::LAST, slot[13]);
        let begins = slot[0] & Self::LAST != 0;
        if begins {
            *self = Self {
                units: Vec::new(),
                next: number,
                checksum,
            };
        }
        if number == 0 || number != self.next || checksum != self.checksum {
            *self = Self::default();
            return;
        }
        let text = [&slot[1..11], &slot[14..26], &slot[28..32]].concat();
        let units = text
            .as_chunks::<2>()
            .0
            .iter()
            .map(|unit| u16::from_le_bytes(*unit));
        self.units.splice(0..0, units);
        self.next = number - 1;
    }

    /// The name, if it is whole and belongs to the short name in `slot`.
    fn finish(self, slot: &[u8; ENTRY_BYTES]) -> Option<String> {
        let checksum = slot[..11]
            .iter()
            .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.units.is_empty() || self.next != 0 || checksum != self.checksum {
            return None;
        }
        let end = self.units.iter().position(|unit| *unit == 0);
        let units = &self.units[..end.unwrap_or(self.units.len())];
        Some(String::from_utf16_lossy(units))
    }
}

fn short_name(slot: &[u8; ENTRY_BYTES]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
    let (base, extension) = (text(&slot[..8]), text(&slot[8..11]));
    match extension.is_empty() {
        true => base,
        false => format!("{base}.{extension}"),
    }
}

/// What a walk over the whole volume found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Survey {
    /// Clusters that may be used.
    pub(super) free: u32,
    /// Clusters that the tables disagree about as they do where a write to the medium was cut off.
    pub(super) differing: Vec<u32>,
}

/// Walks over the whole volume: whether its files contradict one another or the tables.
///
/// # Errors
/// [`Damage`]: what makes it unsafe to write to.
pub(super) fn survey(window: &Window<'_>, geometry: &Geometry) -> Result<Survey, Damage> {
    if geometry.sector_bytes < window.sector_bytes() {
        return Err(Damage::SmallSectors);
    }
    let used = (u64::from(geometry.clusters) + 2) * geometry.kind.entry_bytes() as u64;
    if used > MAX_TABLE_BYTES {
        return Err(Damage::TooLarge {
            clusters: geometry.clusters,
        });
    }
    let volume = Volume::new(window, geometry);
    let table = |number| {
        let bytes = volume.bytes(geometry.entry_at(number, 0), used);
        bytes.map_err(reading("its allocation table"))
    };
    let first = table(0)?;
    let mut walk = Walk {
        owned: vec![false; geometry.clusters as usize + 2],
        links: links(&first, geometry),
        volume,
    };
    let root = match &geometry.root {
        Root::Fixed(_) => Vec::new(),
        Root::Chain(cluster) => walk.claim(*cluster, "the root directory")?,
    };
    let content = match &geometry.root {
        Root::Fixed(_) => walk.volume.root().map_err(Box::new)?,
        Root::Chain(_) => walk.content(&root)?,
    };
    walk.directory(&content, 0)?;
    let differing = match geometry.tables {
        1 => Vec::new(),
        _ => walk.differing(&first, &table(1)?)?,
    };
    let free = walk
        .links
        .iter()
        .skip(2)
        .filter(|link| **link == Link::Free);
    Ok(Survey {
        free: u32::try_from(free.count()).unwrap_or(0),
        differing,
    })
}

/// Turns a device's error into one that says what was being read.
fn reading(what: &'static str) -> impl FnOnce(io::Error) -> Damage {
    move |source| Damage::Device { what, source }
}

fn links(table: &[u8], geometry: &Geometry) -> Vec<Link> {
    let entries = table.chunks(geometry.kind.entry_bytes());
    entries
        .map(|entry| geometry.kind.link(entry, geometry.clusters))
        .collect()
}

struct Walk<'w, 'd> {
    volume: Volume<'w, 'd>,
    links: Vec<Link>,
    owned: Vec<bool>,
}

impl Walk<'_, '_> {
    fn directory(&mut self, content: &[u8], depth: usize) -> Result<(), Damage> {
        if depth > MAX_DEPTH {
            return Err(Damage::TooDeep(MAX_DEPTH));
        }
        for entry in entries(content).iter().filter(|entry| !entry.is_dots()) {
            let name = &entry.name;
            if entry.first == 0 && entry.size == 0 && !entry.is_directory {
                continue;
            }
            let chain = self.claim(entry.first, name)?;
            let holds = chain.len() as u64 * self.volume.geometry.cluster_bytes;
            if entry.is_directory {
                let content = self.content(&chain)?;
                self.directory(&content, depth + 1)?;
            } else if holds < u64::from(entry.size) {
                return Err(Damage::Short {
                    name: name.clone(),
                    size: entry.size,
                    holds,
                });
            }
        }
        Ok(())
    }

    /// The clusters of a chain, which nobody else may own.
    fn claim(&mut self, first: u32, name: &str) -> Result<Vec<u32>, Damage> {
        let (mut chain, mut next) = (Vec::new(), first);
        loop {
            let link = self.links.get(next as usize).copied();
            let Some(link) = link.filter(|_| self.volume.geometry.is_cluster(next)) else {
                return Err(Damage::FileLeadsOut {
                    name: name.into(),
                    cluster: next,
                });
            };
            let owned = &mut self.owned[next as usize];
            if *owned {
                return Err(Damage::Shared {
                    name: name.into(),
                    cluster: next,
                });
            }
            *owned = true;
            chain.push(next);
            match link {
                Link::Next(number) => next = number,
                Link::End => return Ok(chain),
                Link::Free | Link::None => {
                    return Err(Damage::FileEndsEarly {
                        name: name.into(),
                        cluster: next,
                    });
                }
            }
        }
    }

    fn content(&self, chain: &[u32]) -> Result<Vec<u8>, Damage> {
        let geometry = self.volume.geometry;
        if chain.len() as u64 * geometry.cluster_bytes > MAX_DIRECTORY_BYTES {
            return Err(Damage::LargeFolder(chain.len()));
        }
        let mut content = Vec::new();
        for cluster in chain {
            let place = geometry.cluster_place(*cluster);
            let bytes = self.volume.bytes(place, geometry.cluster_bytes);
            content.extend(bytes.map_err(reading("a folder"))?);
        }
        Ok(content)
    }

    /// Where the tables disagree. About clusters in use they must not, but that the second does not
    /// know yet what a folder grew by.
    fn differing(&self, first: &[u8], second: &[u8]) -> Result<Vec<u32>, Damage> {
        let kind = self.volume.geometry.kind;
        let entries = first
            .chunks(kind.entry_bytes())
            .zip(second.chunks(kind.entry_bytes()));
        let mut differing = Vec::new();
        for (cluster, (a, b)) in (0_u32..).zip(entries).skip(2) {
            if kind.value(a) == kind.value(b) {
                continue;
            }
            let links = [a, b].map(|entry| kind.link(entry, self.volume.geometry.clusters));
            let grew = matches!(links, [Link::Next(_), Link::End]);
            if self.owned[cluster as usize] && !grew {
                return Err(Damage::TablesDiffer(cluster));
            }
            differing.push(cluster);
        }
        Ok(differing)
    }
}
