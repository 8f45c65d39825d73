//! PID 1 of the rescue image.
pub mod console;
pub mod countdown;
pub mod drivers;
pub mod finish;
pub mod mounts;
