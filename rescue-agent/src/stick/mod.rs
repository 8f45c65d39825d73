//! A FAT volume that somebody else made, on a stick or in an image of one: its files read, listed, and
//! put there in place of others. Nothing is taken for granted about it.
//!
//! Not for: boot banks, whose volumes have a reader and a writer of their own ([`crate::fat`]).
//!
//! Source: Microsoft, *FAT: General Overview of On-Disk Format*, version 1.03.

mod error;
mod geometry;
mod volume;
mod window;
mod writing;

pub use error::{Damage, GeometryError, ReadError, StickError};
pub use writing::StickFile;

use crate::disk::BlockDevice;
use crate::fat::Region;
use geometry::Geometry;
use volume::Volume;
use window::Window;

/// The volume in a region of a device.
#[derive(Debug, Clone, Copy)]
pub struct Stick<'d> {
    device: &'d dyn BlockDevice,
    region: Region,
}

impl<'d> Stick<'d> {
    /// The volume that is expected there. Nothing is read yet.
    pub fn new(device: &'d dyn BlockDevice, region: Region) -> Self {
        Self { device, region }
    }

    /// The content of a file, if it is not longer than `limit`; `None` where there is no such file.
    /// Names are parted by `/`, and found without regard to case.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        self.with_volume(|volume| volume.read(path, limit))
    }

    /// The length of a file in bytes; `None` where there is no such file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn length(&self, path: &str) -> Result<Option<u32>, ReadError> {
        let found = self.with_volume(|volume| volume.find(path))?;
        Ok(found
            .filter(|entry| !entry.is_directory)
            .map(|entry| entry.size))
    }

    /// The names in a folder; none where there is no such folder.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn list(&self, folder: &str) -> Result<Vec<String>, ReadError> {
        let entries = self.with_volume(|volume| volume.list(folder))?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    /// Walks over all of it: whether its files contradict one another or the tables.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn check(&self) -> Result<(), ReadError> {
        let window = Window::new(self.device, self.region)?;
        let geometry = Geometry::read(&window).map_err(ReadError::NotFat)?;
        volume::survey(&window, &geometry).map_err(ReadError::Damaged)?;
        Ok(())
    }

    /// Puts files on it, each in place of one of the same name: all of them or none.
    ///
    /// # Errors
    /// [`StickError`]; unless it is [`StickError::Write`], nothing was written.
    pub fn put(&self, files: &[StickFile]) -> Result<(), StickError> {
        writing::put(self.device, self.region, files)
    }

    fn with_volume<T>(
        &self,
        work: impl FnOnce(&Volume<'_, '_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let window = Window::new(self.device, self.region)?;
        let geometry = Geometry::read(&window).map_err(ReadError::NotFat)?;
        work(&Volume::new(&window, &geometry))
    }
}
