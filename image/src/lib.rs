//! Builder of the rescue images: packs the static agent, a Debian kernel with its drivers, and the signed boot loaders into
//! artefacts that a broken ESXi host can boot.
//!
//! Scope: choosing, packing, checking, describing, personalising. Not: what happens after boot, which is the agent's, and not
//! writing ISO 9660, which is xorriso's.
//!
//! The layers, each of which knows only those before it: [`error`], [`tool`], [`settings`], [`options`]; [`inputs`], what goes
//! in; [`parts`], what is made of it once; [`media`], the ISO, the USB image and the netboot tree put together from the parts;
//! [`finished`], the output directory, and finished images opened again; [`build`], which leads. [`collect`] stands alone.

pub mod build;
pub mod collect;
pub mod error;
pub mod finished;
pub mod hash;
pub mod inputs;
pub mod manual;
pub mod media;
pub mod options;
pub mod parts;
pub mod progress;
pub mod settings;
pub mod tool;
