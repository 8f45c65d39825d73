//! Sectors: block devices and partition tables.

mod device;
mod file;
mod ioctl;
pub mod lock;
mod open;
pub mod origin;
pub mod partition;
pub mod usage;

pub use device::{BlockDevice, ByteOffset, SectorSize};
pub use file::{Access, FileDevice};
pub use open::{Disks, SystemDisks};
pub use partition::{Partition, PartitionTable};
