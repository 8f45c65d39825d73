//! A boot bank: its marker, its boot.cfg, and which bank ESXi's loader boots next.
//!
//! In scope: bytes and values, never I/O, and nothing that writes: this program changes neither
//! the marker nor boot.cfg. Not in scope: the FAT volume (`fat`) and the state archive
//! (`archive`). The facts are those of VMware's own loader, github.com/vmware/esx-boot.

pub mod boot_cfg;
mod election;
mod marker;

pub use boot_cfg::BootCfg;
pub use election::{Candidate, Election, Verdict as Standing, elect};
pub use marker::VmfatMarker;
