//! What the fuzz targets share: a disk in memory.

use std::io;
use std::sync::{Mutex, PoisonError};

use rescue_agent::disk::{BlockDevice, ByteOffset, SectorSize};

/// A disk with the fuzzer's bytes, and zeros behind them up to its size.
#[derive(Debug)]
pub struct Disk {
    bytes: Mutex<Vec<u8>>,
    size: u64,
    sector_size: SectorSize,
}

impl Disk {
    /// A disk of `size` bytes that starts with these.
    pub fn new(bytes: &[u8], size: u64, sector_size: SectorSize) -> Self {
        let mut bytes = bytes.to_vec();
        bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Self {
            bytes: Mutex::new(bytes),
            size,
            sector_size,
        }
    }

    /// The bytes now.
    pub fn content(&self) -> Vec<u8> {
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn range(&self, offset: ByteOffset, length: usize) -> io::Result<(usize, usize)> {
        let end = offset.0.saturating_add(length as u64);
        if end > self.size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok((
            usize::try_from(offset.0).map_err(io::Error::other)?,
            usize::try_from(end).map_err(io::Error::other)?,
        ))
    }
}

impl BlockDevice for Disk {
    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        let (start, end) = self.range(offset, buf.len())?;
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let there = bytes.get(start..end.min(bytes.len())).unwrap_or_default();
        buf[..there.len()].copy_from_slice(there);
        buf[there.len()..].fill(0);
        Ok(())
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        let (start, end) = self.range(offset, data.len())?;
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
