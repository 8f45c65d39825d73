//! Sectors: block devices, partition tables, and the search for ESXi disks.

pub mod device;
pub mod partition;

pub use device::{BlockDevice, ByteOffset, SectorSize};
