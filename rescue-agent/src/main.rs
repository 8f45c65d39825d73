//! Command line of the agent, or PID 1 of the rescue image.

fn main() {}
