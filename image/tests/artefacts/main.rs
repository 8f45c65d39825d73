//! What the builder makes, and what `make image` ships, as outside programs read it.

mod external;
mod shipped;
