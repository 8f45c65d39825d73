//! Sectors: block devices, partition tables, and the search for ESXi disks.

pub mod device;
pub mod file;
mod ioctl;

pub use device::{BlockDevice, ByteOffset, SectorSize};
pub use file::{Access, FileDevice};
