//! Builder of the rescue images: packs the static agent, a Debian kernel with its drivers, and the signed boot loaders into
//! artefacts that a broken ESXi host can boot.
//!
//! Scope: choosing, packing, checking, describing, personalising. Not: what happens after boot, which is the agent's, and not
//! writing ISO 9660, which is xorriso's. The way of the data: [`packages`] and [`kernel`] (with [`drivers`], [`modinfo`])
//! bring the inputs, [`initramfs`], [`grub`] and [`esp`] make the parts, [`iso`] puts them together, [`manifest`] says what is in
//! them; [`build`] leads. [`personal`] changes the settings of a finished image.

pub mod build;
pub mod collect;
pub mod drivers;
pub mod error;
pub mod esp;
pub mod grub;
pub mod hash;
pub mod initramfs;
pub mod iso;
pub mod kernel;
pub mod manifest;
pub mod modinfo;
pub mod names;
pub mod packages;
pub mod personal;
pub mod progress;
pub mod settings;
pub mod tool;
