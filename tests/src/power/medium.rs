//! A disk in memory: a shared base image and, over it, the sectors written since.
//!
//! Hundreds of thousands of states differ from their base in a few sectors; cloning one costs
//! what those sectors cost.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Bytes that are kept or left out together when they are all zero.
const CHUNK: usize = 16 << 10;
const ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Something bytes can be read from: a [`Medium`], or an image file.
pub trait Source {
    /// Fills `buffer` from byte `at`.
    ///
    /// # Errors
    /// When the range is not inside, or the file cannot be read.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()>;

    /// Reads `length` bytes from byte `at`.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        self.read(at, &mut buffer)?;
        Ok(buffer)
    }
}

impl Source for File {
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_exact_at(buffer, at)
            .with_context(|| format!("{} bytes at {at}", buffer.len()))
    }
}

/// A whole disk; only what is not zero takes memory.
#[derive(Debug, Clone)]
pub struct Image {
    chunks: Vec<Option<Box<[u8]>>>,
    size: u64,
    sector: usize,
}

impl Image {
    /// A disk of zeros: `size` bytes in sectors of `sector` bytes.
    pub fn zeroed(size: u64, sector: usize) -> Self {
        let chunks = usize::try_from(size.div_ceil(CHUNK as u64)).unwrap_or(0);
        Self {
            chunks: vec![None; chunks],
            size,
            sector,
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Puts bytes at byte `at`.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        for_chunks(at, bytes.len(), |number, inside, outside| {
            let part = &bytes[outside];
            let chunk = &mut self.chunks[number];
            if chunk.is_none() && *part == ZEROS[..part.len()] {
                return;
            }
            let chunk = chunk.get_or_insert_with(|| ZEROS.to_vec().into());
            chunk[inside..inside + part.len()].copy_from_slice(part);
        });
    }

    /// Puts the content of a file at byte `at`; its holes are skipped, not read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn write_file(&mut self, at: u64, path: &Path) -> Result<()> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let length = file.metadata()?.len();
        let mut end = 0;
        while let Some(start) = next_data(&file, end)? {
            end = lseek(&file, start.cast_signed(), Whence::SeekHole)?.cast_unsigned();
            let mut piece = vec![0; usize::try_from(end.min(length) - start)?];
            Source::read(&file, start, &mut piece)?;
            self.write(at + start, &piece);
        }
        Ok(())
    }

    fn read(&self, at: u64, buffer: &mut [u8]) {
        for_chunks(at, buffer.len(), |number, inside, outside| {
            let part = &mut buffer[outside];
            match &self.chunks[number] {
                Some(chunk) => part.copy_from_slice(&chunk[inside..inside + part.len()]),
                None => part.fill(0),
            }
        });
    }
}

/// Where the next data of a sparse file begins, if there is more (`lseek(2)`, `SEEK_DATA`).
fn next_data(file: &File, from: u64) -> Result<Option<u64>> {
    match lseek(file, from.cast_signed(), Whence::SeekData) {
        Ok(start) => Ok(Some(start.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error).context("looking for the next data"),
    }
}

/// Calls `each(chunk number, offset in the chunk, range of the transfer)`.
fn for_chunks(at: u64, length: usize, mut each: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < length {
        let position = at + done as u64;
        let inside = usize::try_from(position % CHUNK as u64).unwrap_or(0);
        let count = (CHUNK - inside).min(length - done);
        let number = usize::try_from(position / CHUNK as u64).unwrap_or(usize::MAX);
        each(number, inside, done..done + count);
        done += count;
    }
}

/// One state of a disk.
#[derive(Debug, Clone)]
pub struct Medium {
    base: Arc<Image>,
    written: BTreeMap<u64, Arc<[u8]>>,
}

impl Medium {
    /// The state in which nothing was written yet.
    pub fn new(base: Image) -> Self {
        Self {
            base: Arc::new(base),
            written: BTreeMap::new(),
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.base.size
    }

    /// Bytes per sector.
    pub fn sector_bytes(&self) -> usize {
        self.base.sector
    }

    /// Writes one sector, by number.
    pub fn put(&mut self, sector: u64, data: Arc<[u8]>) {
        self.written.insert(sector, data);
    }

    /// Reads one sector, by number.
    ///
    /// # Errors
    /// When there is no such sector.
    pub fn sector(&self, sector: u64) -> Result<Vec<u8>> {
        self.bytes(sector * self.base.sector as u64, self.base.sector)
    }

    /// Changes bytes anywhere, as damage does.
    ///
    /// # Errors
    /// When the range is not inside.
    pub fn patch(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let sector = self.base.sector as u64;
        for (position, byte) in (at..).zip(bytes) {
            let number = position / sector;
            let mut data = self.sector(number)?;
            data[usize::try_from(position % sector)?] = *byte;
            self.put(number, data.into());
        }
        Ok(())
    }

    /// Whether both are the same base with the same sectors written.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.base, &other.base) && self.written == other.written
    }

    /// The same content as a base of its own.
    pub fn flattened(&self) -> Self {
        let mut image = (*self.base).clone();
        for (sector, data) in &self.written {
            image.write(sector * self.base.sector as u64, data);
        }
        Self::new(image)
    }

    /// Writes `length` bytes from byte `start` to a new file, leaving holes for zeros.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn export(&self, start: u64, length: u64, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        file.set_len(length)?;
        let sector = self.base.sector as u64;
        let chunks = self.base.chunks.iter().enumerate();
        let chunks =
            chunks.filter_map(|(number, chunk)| chunk.as_ref().map(|_| (number * CHUNK) as u64));
        let sectors = self.written.keys().map(|number| number * sector);
        let parts = chunks
            .zip(std::iter::repeat(CHUNK as u64))
            .chain(sectors.zip(std::iter::repeat(sector)));
        for (at, count) in parts {
            let (from, to) = (at.max(start), (at + count).min(start + length));
            if from < to {
                let part = self.bytes(from, usize::try_from(to - from)?)?;
                file.write_all_at(&part, from - start)?;
            }
        }
        Ok(())
    }
}

impl Source for Medium {
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let end = at.saturating_add(buffer.len() as u64);
        ensure!(end <= self.base.size, "{} bytes at {at}", buffer.len());
        self.base.read(at, buffer);
        let sector = self.base.sector as u64;
        for (number, data) in self.written.range(at / sector..end.div_ceil(sector)) {
            let start = number * sector;
            let (from, to) = (start.max(at), (start + sector).min(end));
            let source = usize::try_from(from - start)?..usize::try_from(to - start)?;
            let target = usize::try_from(from - at)?..usize::try_from(to - at)?;
            buffer[target].copy_from_slice(&data[source]);
        }
        Ok(())
    }
}
