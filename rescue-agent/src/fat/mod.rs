//! The FAT volume of a boot bank: reading it, judging whether it is sound, and the crash-safe
//! exchange of one file in its root directory.
//!
//! Scope: FAT12 and FAT16, as `mkfs.fat`, VMware's installer and ESXi's own driver leave them.
//! Not for: FAT32, long file names, or making volumes (the builder uses the crate `fatfs` for
//! that).
//!
//! Sources: Microsoft, *FAT: General Overview of On-Disk Format*, version 1.03; VMware esx-boot
//! `bootlib/` for what a boot loader needs to find the file again (raw 8.3 name, first FAT, root
//! directory).

mod directory;
mod error;
pub mod exchange;
mod geometry;
mod mark;
pub mod names;
mod survey;
mod table;
mod volume;

pub use directory::{Entry, FatTime, ShortName};
pub use error::{Damage, FatError, Note};
pub use geometry::{FatKind, Geometry};
pub use survey::Survey;
pub use volume::{Region, Volume};
