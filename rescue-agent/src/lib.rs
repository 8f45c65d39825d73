//! The rescue agent: knows what ESXi keeps on its disks, and gives devices that were handed to
//! passthrough back to the host.
//!
//! The way of the data, one value handed on at each arrow:
//! [`settings`] or [`cli`] → [`discover`] (an [`inventory`]) → [`plan`] → [`repair`] (the only
//! writer; a receipt) → [`verify`] → [`report`].
//!
//! Formats: [`disk`], [`fat`], [`bank`], [`archive`], [`config`]; they parse bytes and do no I/O of
//! their own beyond [`disk::BlockDevice`]. [`host`] is the machine around the disks, [`firmware`] the
//! way back into ESXi.
//!
//! [`copies`] finds several paths to one disk, and copies of one.
//!
//! [`medium`] is the stick the image was started from: settings from it, reports to it. [`stick`] is its
//! file system.
//!
//! The same code runs as a command against disks or disk images, and as PID 1 of the rescue image
//! ([`init`]). [`net`] sends the report then, if somebody wants it.

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use rescue::ImageRescue;

pub mod archive;
pub mod bank;
pub mod bytes;
#[cfg(test)]
mod catalogue;
pub mod cli;
pub mod config;
mod copies;
pub mod counted;
pub mod discover;
pub mod disk;
pub mod fat;
pub mod files;
mod firmware;
pub mod host;
pub mod import;
mod init;
pub mod inventory;
#[cfg(test)]
mod layers;
mod loader;
mod logging;
pub mod medium;
pub mod net;
pub mod originals;
pub mod parallel;
pub mod plan;
pub mod policy;
pub mod repair;
pub mod report;
mod rescue;
mod secret;
pub mod settings;
pub mod stick;
pub mod verify;

pub use init::drivers::table as driver_table;

/// The program: PID 1 of the rescue image, or the command line.
pub fn main() -> ExitCode {
    if init::is_called() {
        let Err(error) = init::run(&mut ImageRescue);
        eprintln!("rescue-agent: {error}");
        return ExitCode::from(cli::USAGE);
    }
    match cli::run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("rescue-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
