//! Disks of this machine and disk images, as [`BlockDevice`]s.
//!
//! A block device is written, and read back, past the page cache (`O_DIRECT`): what is written is
//! exactly the sectors named, and what is read back comes from the disk. It is opened exclusively
//! for writing, which Linux refuses while any of its partitions is mounted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc::{O_DIRECT, O_EXCL};

use super::device::{BlockDevice, ByteOffset, SectorSize};
use super::ioctl;

/// Alignment that every direct transfer satisfies: the largest logical sector there is.
const DIRECT_ALIGNMENT: usize = 4096;

/// Whether a device may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing, exclusively.
    Write,
}

/// A block device node or an image file.
#[derive(Debug)]
pub struct FileDevice {
    path: PathBuf,
    cached: File,
    /// A second handle past the page cache; only for block devices.
    direct: Option<File>,
    size: u64,
    sector_size: SectorSize,
}

impl FileDevice {
    /// Opens a disk or image.
    ///
    /// # Errors
    /// That of the system, or `InvalidInput` when the path is neither a regular file nor a block
    /// device.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let kind = path.metadata()?.file_type();
        let writable = access == Access::Write;
        let mut options = OpenOptions::new();
        options.read(true).write(writable);
        if kind.is_file() {
            let cached = options.open(path)?;
            let size = cached.metadata()?.len();
            let path = path.to_owned();
            return Ok(Self {
                path,
                cached,
                direct: None,
                size,
                sector_size: SectorSize::S512,
            });
        }
        if !kind.is_block_device() {
            let why = "neither a disk nor a disk image";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let exclusive = if writable { O_EXCL } else { 0 };
        let cached = options.custom_flags(exclusive).open(path)?;
        let direct = match writable {
            true => Some(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(O_DIRECT)
                    .open(path)?,
            ),
            false => None,
        };
        let sector_bytes = ioctl::logical_sector_bytes(&cached)?;
        let sector_size = SectorSize::new(sector_bytes)
            .ok_or_else(|| io::Error::other(format!("sectors of {sector_bytes} bytes")))?;
        let size = ioctl::size_bytes(&cached)?;
        Ok(Self {
            path: path.to_owned(),
            cached,
            direct,
            size,
            sector_size,
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl BlockDevice for FileDevice {
    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.cached.read_exact_at(buf, offset.0)
    }

    fn read_medium(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        let Some(direct) = &self.direct else {
            // The nearest an image file has: forget the cached pages. That it is only advice does
            // no harm; the image's own storage is the medium here.
            let (start, length) = (offset.0.cast_signed(), buf.len() as i64);
            posix_fadvise(
                &self.cached,
                start,
                length,
                PosixFadviseAdvice::POSIX_FADV_DONTNEED,
            )?;
            return self.read_at(offset, buf);
        };
        let start = offset.0 / DIRECT_ALIGNMENT as u64 * DIRECT_ALIGNMENT as u64;
        let end = (offset.0 + buf.len() as u64)
            .next_multiple_of(DIRECT_ALIGNMENT as u64)
            .min(self.size);
        let length = usize::try_from(end - start).map_err(io::Error::other)?;
        let mut aligned = AlignedBuffer::zeroed(length);
        direct.read_exact_at(aligned.bytes(), start)?;
        let skip = usize::try_from(offset.0 - start).map_err(io::Error::other)?;
        buf.copy_from_slice(&aligned.bytes()[skip..skip + buf.len()]);
        Ok(())
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        let sector = u64::from(self.sector_size.bytes());
        if !offset.0.is_multiple_of(sector) || !(data.len() as u64).is_multiple_of(sector) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not whole sectors",
            ));
        }
        let Some(direct) = &self.direct else {
            return self.cached.write_all_at(data, offset.0);
        };
        let mut aligned = AlignedBuffer::zeroed(data.len());
        aligned.bytes().copy_from_slice(data);
        direct.write_all_at(aligned.bytes(), offset.0)
    }

    fn flush(&self) -> io::Result<()> {
        self.direct.as_ref().unwrap_or(&self.cached).sync_data()
    }
}

/// Memory whose start is a multiple of [`DIRECT_ALIGNMENT`], as direct transfers demand.
struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + DIRECT_ALIGNMENT];
        let start = memory.as_ptr().align_offset(DIRECT_ALIGNMENT);
        Self {
            memory,
            start,
            length,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}
