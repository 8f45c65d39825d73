//! The rescue agent: knows what ESXi keeps on its disks, and gives devices that were handed to
//! passthrough back to the host.
//!
//! The way of the data, one value handed on at each arrow:
//! `settings` → discover ([`disk`], [`bank`], [`archive`], [`config`]: an inventory) → plan →
//! repair (the only writer) → verify → [`report`].
//!
//! The same code runs as a command against disks or disk images, and as PID 1 of the rescue image
//! ([`init`]).

pub mod archive;
pub mod bank;
pub mod config;
pub mod disk;
pub mod fat;
pub mod host;
pub mod init;
pub mod report;
pub mod settings;
