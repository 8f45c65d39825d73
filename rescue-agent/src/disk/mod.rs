//! Sectors: block devices and partition tables.

mod device;
mod file;
mod ioctl;
pub mod partition;

pub use device::{BlockDevice, ByteOffset, SectorSize};
pub use file::{Access, FileDevice};
pub use partition::{Partition, PartitionTable};
