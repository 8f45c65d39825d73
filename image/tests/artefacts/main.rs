//! What the builder makes, and what `make image` ships, as outside programs read it.

mod external;
mod shipped;

// Clippy's permission for tests does not reach it.
#[allow(clippy::unwrap_used)]
#[path = "../../src/parts/sample.rs"]
mod sample;
