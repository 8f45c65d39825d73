//! A disk in memory: a shared base image and, over it, the sectors written since.
//!
//! Hundreds of thousands of states differ from their base in a few sectors; cloning one costs
//! what those sectors cost.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

/// Bytes that are kept or left out together when they are all zero.
const CHUNK: usize = 16 << 10;

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
    chunks: HashMap<u64, Box<[u8]>>,
    size: u64,
    sector: usize,
}

impl Image {
    /// A disk of zeros: `size` bytes in sectors of `sector` bytes.
    pub fn zeroed(size: u64, sector: usize) -> Self {
        Self {
            chunks: HashMap::new(),
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
            let part = &bytes[outside.clone()];
            if !self.chunks.contains_key(&number) && part.iter().all(|byte| *byte == 0) {
                return;
            }
            let chunk = self
                .chunks
                .entry(number)
                .or_insert_with(|| vec![0; CHUNK].into());
            chunk[inside..inside + part.len()].copy_from_slice(part);
        });
    }

    /// Puts the content of a file at byte `at`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn write_file(&mut self, at: u64, path: &Path) -> Result<()> {
        const PIECE: usize = 1 << 20;
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut buffer = Vec::with_capacity(PIECE);
        let mut done = 0;
        loop {
            buffer.clear();
            let count = (&file)
                .take(PIECE as u64)
                .read_to_end(&mut buffer)
                .with_context(|| format!("reading {}", path.display()))?;
            if count == 0 {
                return Ok(());
            }
            self.write(at + done, &buffer);
            done += count as u64;
        }
    }

    fn read(&self, at: u64, buffer: &mut [u8]) {
        for_chunks(at, buffer.len(), |number, inside, outside| {
            let part = &mut buffer[outside];
            match self.chunks.get(&number) {
                Some(chunk) => part.copy_from_slice(&chunk[inside..inside + part.len()]),
                None => part.fill(0),
            }
        });
    }
}

/// Calls `each(chunk number, offset in the chunk, range of the transfer)`.
fn for_chunks(at: u64, length: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < length {
        let position = at + done as u64;
        let inside = usize::try_from(position % CHUNK as u64).unwrap_or(0);
        let count = (CHUNK - inside).min(length - done);
        each(position / CHUNK as u64, inside, done..done + count);
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
        let mut buffer = vec![0; CHUNK];
        for at in (0..length).step_by(CHUNK) {
            let count = usize::try_from((length - at).min(CHUNK as u64))?;
            self.read(start + at, &mut buffer[..count])?;
            if buffer[..count].iter().any(|byte| *byte != 0) {
                file.write_all_at(&buffer[..count], at)?;
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
