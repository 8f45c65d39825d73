//! The state archive, from outside in: gzip, tar, envelope.

pub mod gzip;
pub mod tar;
