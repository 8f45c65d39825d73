//! One report model, as console text and as JSON.
//!
//! The model holds no member contents of any archive beyond the addresses and owners of devices.
//! Its fields are documented in `docs/report.md`; they are stable under one `schema`.

mod advice;
mod explain;
mod keys;
mod line;
mod listed;
mod model;
mod text;

pub(crate) use advice::Sentence;
#[cfg(test)]
pub(crate) use advice::{BadStart, BootScript, Unread};
pub use explain::explain;
pub(crate) use line::{HEAD, RULE};
pub use line::{Line, Mood, Tone, WIDTH, framed};
pub use model::{Command, Report, ResultWord, last_line};
pub use text::{Detail, devices, escape, findings, intentions, result, what_it_is};
