//! Builder of the rescue images: packs the static agent, a Debian kernel with its drivers, and the signed boot loaders into
//! artefacts that a broken ESXi host can boot.
//!
//! Scope: choosing, packing, checking, describing, personalising. Not: what happens after boot, which is the agent's, and not
//! writing ISO 9660, which is xorriso's.
//!
//! The layers, each of which knows only those before it: [`error`], [`tool`], [`settings`], [`options`]; [`inputs`], what goes
//! in; [`parts`], what is made of it once; [`media`], the ISO, the USB image and the netboot tree put together from the parts;
//! [`finished`], the output directory, and finished images opened again; [`build`], which leads. [`collect`] stands alone.

// The documentation is for those who work on this, who see everything.
#![allow(rustdoc::private_intra_doc_links)]

mod build;
mod cli;
mod collect;
mod error;
mod finished;
mod fleet;
mod hash;
mod inputs;
mod lock;
mod manual;
mod media;
mod options;
mod parts;
mod progress;
mod settings;
mod tool;

pub use cli::main;
// What the tests beside this library make images of, and open them with.
pub use finished::Finished;
pub use hash::sha256_file;
pub use inputs::Loaders;
pub use inputs::drivers::{Class, Driver, Selection};
pub use inputs::tools::Tools;
pub use media::{iso, netboot, usb};
pub use parts::initramfs::{self, Base};
pub use parts::personal::{BLOCK_BYTES, Personal};
pub use parts::store::Store;
pub use parts::{Parts, grub};
pub use settings::Setting;

/// The tests share a file with those beside the library, which know it by its name.
#[cfg(test)]
extern crate self as rescue_image;
