//! What the tests share: makers of ESXi disks, machines to boot, and judges of disks.
//!
//! Everything here that makes or judges a disk uses outside programs only; no code of the agent is
//! called, so that both cannot be wrong in the same way. [`power`] drives the agent's own exchange,
//! and judges it by readers of its own.

pub mod agent;
pub mod artefacts;
pub mod bench;
pub mod boots;
pub mod collector;
pub mod crowd;
pub mod disk_image;
pub mod esxi;
pub mod judge;
pub mod judged_disk;
pub mod live;
pub mod machine;
pub mod ports;
pub mod power;
pub mod rack;
pub mod receiver;
pub mod replay;
pub mod scratch;
pub mod server;
pub mod sparse;
pub mod sysfs;
pub mod tools;
#[cfg(test)]
mod wording;
