//! How disks are opened: those of this system, or what tests put in their place.

use std::fmt;
use std::io;
use std::path::Path;

use super::device::BlockDevice;
use super::file::{Access, FileDevice};

/// Where disks and disk images come from, by their paths.
pub trait Disks: Send + Sync {
    /// Opens one for reading.
    ///
    /// # Errors
    /// Those of the system; what is opened was not changed.
    fn read(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>>;

    /// Opens one for reading and writing.
    ///
    /// # Errors
    /// As [`Disks::read`].
    fn write(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>>;
}

/// The block devices and disk images of this system.
#[derive(Debug, Clone, Copy)]
pub struct SystemDisks;

impl Disks for SystemDisks {
    fn read(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        Ok(Box::new(FileDevice::open(path, Access::Read)?))
    }

    fn write(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        Ok(Box::new(FileDevice::open(path, Access::Write)?))
    }
}

/// A function that opens a disk, for both.
impl<F> Disks for F
where
    F: Fn(&Path) -> io::Result<Box<dyn BlockDevice>> + Send + Sync,
{
    fn read(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        self(path)
    }

    fn write(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        self(path)
    }
}

impl fmt::Debug for dyn Disks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disks")
    }
}
