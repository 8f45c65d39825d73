//! The seam between the agent and storage.
//!
//! Everything above reads and writes through [`BlockDevice`]; a real disk, an image file, and the
//! recording and faulty devices of the tests are its implementations.

use std::fmt;
use std::io;

/// A distance from the start of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(pub u64);

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.0)
    }
}

/// The unit a device reads, writes and, on power loss, keeps or loses as a whole: bytes per
/// logical sector, a power of two from 512 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorSize(u32);

impl SectorSize {
    /// The sector of nearly every disk.
    pub const S512: Self = Self(512);
    /// The sector of 4Kn disks.
    pub const S4096: Self = Self(4096);

    /// `None` unless `bytes` is 512, 1024, 2048 or 4096.
    pub const fn new(bytes: u32) -> Option<Self> {
        match bytes {
            512 | 1024 | 2048 | 4096 => Some(Self(bytes)),
            _ => None,
        }
    }

    /// Bytes per sector.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

/// A device of logical sectors.
///
/// Offsets and lengths are in bytes and must be multiples of the sector size in
/// [`BlockDevice::write_at`]; reads may be of any range inside the device. A write is only known
/// to have reached the medium after [`BlockDevice::flush`]; until then any subset of the written
/// sectors may have.
pub trait BlockDevice: fmt::Debug + Send + Sync {
    /// Bytes per logical sector.
    fn sector_size(&self) -> SectorSize;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()>;

    /// Like [`BlockDevice::read_at`], but from the medium rather than from a cache, so that what
    /// comes back is what a later boot will see. Call it after a flush.
    fn read_medium(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buf)
    }

    /// Writes whole sectors at `offset`.
    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()>;

    /// Returns when everything written so far is on the medium: a barrier.
    fn flush(&self) -> io::Result<()>;
}
