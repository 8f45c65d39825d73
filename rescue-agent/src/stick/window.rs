//! A partition as a stream of bytes in which nothing is written before all of it is
//! known: what is written stays in memory until [`Window::commit`] carries it out in an order that a
//! power cut cannot hurt.
//!
//! | epoch | what is written | what a cut in it leaves |
//! |---|---|---|
//! | data | clusters that nobody named so far | the old files |
//! | claims | the tables, with what is claimed of the free clusters and nothing else | the old files, lost clusters |
//! | links | the first table, then the second, with what folders grew by | a folder may end in its new clusters, which are filled; the second table may not know of them |
//! | names | directories | each directory sector old or new; every chain it names is whole |
//! | releases | the tables as they shall be, counters | the new files, lost clusters |
//!
//! Between epochs stands a flush. Afterwards everything is read back from the medium.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::geometry::Geometry;
use crate::disk::{BlockDevice, ByteOffset};
use crate::fat::Region;

/// A partition, with the changes that are not on the medium yet.
pub(super) struct Window<'d> {
    device: &'d dyn BlockDevice,
    region: Region,
    /// Bytes of a device sector.
    sector: u64,
    /// Sectors that were looked at, by number from the start of the partition.
    sectors: BTreeMap<u64, Sector>,
    position: u64,
}

struct Sector {
    /// What the medium has, where that differs from `now`.
    before: Option<Vec<u8>>,
    now: Vec<u8>,
}

impl Sector {
    fn before(&self) -> &[u8] {
        self.before.as_deref().unwrap_or(&self.now)
    }
}

/// Bytes to be written in one go: where, from the start of the partition, and what.
type Run = (u64, Vec<u8>);

impl<'d> Window<'d> {
    /// The partition at `region` of `device`.
    ///
    /// # Errors
    /// `InvalidInput` if it does not lie on whole sectors inside the device.
    pub(super) fn new(device: &'d dyn BlockDevice, region: Region) -> io::Result<Self> {
        let sector = u64::from(device.sector_size().bytes());
        let end = region.start.0.checked_add(region.length);
        let inside = end.is_some_and(|end| end <= device.size());
        if !inside || !region.start.0.is_multiple_of(sector) {
            let why = "the partition does not lie on whole sectors of its disk";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self {
            device,
            region,
            sector,
            sectors: BTreeMap::new(),
            position: 0,
        })
    }

    /// Length in bytes; a last part that is no whole sector does not count.
    pub(super) fn length(&self) -> u64 {
        self.region.length / self.sector * self.sector
    }

    /// Bytes of a device sector.
    pub(super) fn sector_bytes(&self) -> u64 {
        self.sector
    }

    /// Fills `buf` with what is there now, changes included.
    ///
    /// # Errors
    /// That of the device, or `UnexpectedEof` beyond the end of the partition.
    pub(super) fn read_exact_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.length()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = buf.len() as u64;
        self.device.read_at(self.on_device(at), buf)?;
        let touched = at / self.sector..(at + length).div_ceil(self.sector);
        for (number, sector) in self.sectors.range(touched) {
            let start = number * self.sector;
            let from = start.max(at);
            let to = (start + self.sector).min(at + length);
            buf[place(from - at)..place(to - at)]
                .copy_from_slice(&sector.now[place(from - start)..place(to - start)]);
        }
        Ok(())
    }

    /// Replaces bytes, in memory.
    ///
    /// # Errors
    /// As [`Window::read_exact_at`].
    pub(super) fn write_all_at(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(at))?;
        self.write_all(data)
    }

    fn on_device(&self, at: u64) -> ByteOffset {
        ByteOffset(self.region.start.0 + at)
    }

    fn sector_at(&mut self, number: u64) -> io::Result<&mut Sector> {
        if !self.sectors.contains_key(&number) {
            let mut now = vec![0; place(self.sector)];
            self.device
                .read_at(self.on_device(number * self.sector), &mut now)?;
            self.sectors.insert(number, Sector { before: None, now });
        }
        self.sectors
            .get_mut(&number)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The part of one sector that an access of `wanted` bytes at the current position may touch.
    fn step(&self, wanted: usize) -> (u64, usize, usize) {
        let left = self.length().saturating_sub(self.position);
        let within = self.position % self.sector;
        let length = (self.sector - within).min(left).min(wanted as u64);
        (self.position / self.sector, place(within), place(length))
    }

    /// Brings every change to the medium, in the order of the module's table, and reads it back.
    /// The volume must be the one that `geometry` describes.
    ///
    /// # Errors
    /// That of the device; `InvalidData` where something else was read back.
    pub(super) fn commit(&self, geometry: &Geometry) -> io::Result<()> {
        for epoch in self.epochs(geometry)? {
            if epoch.is_empty() {
                continue;
            }
            for (at, bytes) in runs(epoch) {
                self.device.write_at(self.on_device(at), &bytes)?;
            }
            self.device.flush()?;
        }
        self.read_back()
    }

    fn changed(&self) -> impl Iterator<Item = (u64, &[u8], &[u8])> {
        self.sectors.iter().filter_map(|(number, sector)| {
            let before = sector.before.as_deref()?;
            (before != sector.now).then_some((number * self.sector, before, sector.now.as_slice()))
        })
    }

    fn epochs(&self, geometry: &Geometry) -> io::Result<[Vec<Run>; 6]> {
        let [mut data, mut claims, mut names, mut releases] = <[Vec<Run>; 4]>::default();
        let mut links = <[Vec<Run>; 2]>::default();
        for (at, before, now) in self.changed() {
            if let Some(table) = geometry.table_at(at) {
                let claimed = geometry.kind.claimed(before, now);
                let linked = geometry.kind.linked(before, now);
                if claimed != before {
                    claims.push((at, claimed.clone()));
                }
                if linked != claimed {
                    links[usize::from(table != 0)].push((at, linked.clone()));
                }
                if linked != now {
                    releases.push((at, now.to_vec()));
                }
            } else if at < geometry.tables_end() {
                releases.push((at, now.to_vec()));
            } else {
                let fresh = match geometry.cluster_at(at) {
                    Some(cluster) => self.was_free(geometry, cluster)?,
                    None => false,
                };
                let epoch = if fresh { &mut data } else { &mut names };
                epoch.push((at, now.to_vec()));
            }
        }
        let [first, second] = links;
        Ok([data, claims, first, second, names, releases])
    }

    /// Whether the medium's own table calls a cluster free.
    fn was_free(&self, geometry: &Geometry, cluster: u32) -> io::Result<bool> {
        let at = geometry.entry_at(0, cluster);
        let mut bytes = vec![0; geometry.kind.entry_bytes()];
        match self.sectors.get(&(at / self.sector)) {
            Some(sector) => {
                let within = place(at % self.sector);
                bytes.copy_from_slice(
                    &sector.before()[within..within + geometry.kind.entry_bytes()],
                );
            }
            None => self.device.read_at(self.on_device(at), &mut bytes)?,
        }
        Ok(geometry.kind.is_free(&bytes))
    }

    fn read_back(&self) -> io::Result<()> {
        for (at, _, now) in self.changed() {
            let mut found = vec![0; now.len()];
            self.device.read_medium(self.on_device(at), &mut found)?;
            if found != now {
                let why = format!(
                    "what was written at byte {at} of the partition is different when read back"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(())
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (number, within, length) = self.step(buf.len());
        if length == 0 {
            return Ok(0);
        }
        let sector = self.sector_at(number)?;
        buf[..length].copy_from_slice(&sector.now[within..within + length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (number, within, length) = self.step(buf.len());
        if length == 0 {
            return Ok(0);
        }
        let sector = self.sector_at(number)?;
        if sector.before.is_none() {
            sector.before = Some(sector.now.clone());
        }
        sector.now[within..within + length].copy_from_slice(&buf[..length]);
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length().checked_add_signed(by),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// A length inside a buffer; buffers are far smaller than memory.
fn place(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Joins neighbours.
fn runs(sectors: Vec<Run>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (at, bytes) in sectors {
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == at => run.extend_from_slice(&bytes),
            _ => runs.push((at, bytes)),
        }
    }
    runs
}
