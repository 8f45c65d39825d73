//! Builder of the rescue images: packs the static agent, a Debian kernel with its drivers, and the signed boot loaders into
//! artefacts that a broken ESXi host can boot.
//!
//! Scope: choosing, packing, checking, describing, personalising. Not: what happens after boot, which is the agent's, and not
//! writing ISO 9660, which is xorriso's. The way of the data: [`inputs`] ([`packages`]) and [`kernel`]
//! (with [`drivers`], [`modinfo`]) bring what goes in, [`initramfs`], [`grub`] and [`fat`] make the [`parts`], [`iso`], [`usb`] and
//! [`netboot`] put them together, [`place`] puts them in place, [`manifest`] says what is in them; [`build`] leads. [`finished`] opens a finished image again and changes
//! its settings ([`personal`]).

pub mod build;
pub mod collect;
pub mod dictionary;
pub mod drivers;
pub mod error;
pub mod fat;
pub mod finished;
pub mod grub;
pub mod hash;
pub mod initramfs;
pub mod inputs;
pub mod iso;
pub mod iso9660;
pub mod kernel;
pub mod licences;
pub mod manifest;
pub mod manual;
pub mod modinfo;
pub mod names;
pub mod netboot;
pub mod network;
pub mod packages;
pub mod parts;
pub mod personal;
pub mod place;
pub mod progress;
pub mod settings;
pub mod tool;
pub mod usb;
