//! Sectors: block devices and partition tables.

mod device;
mod file;
mod ioctl;
mod open;
pub mod partition;

pub use device::{BlockDevice, ByteOffset, SectorSize};
pub use file::{Access, FileDevice};
pub use open::{Disks, SystemDisks};
pub use partition::{Partition, PartitionTable};
