//! Command line of the builder.

fn main() {}
