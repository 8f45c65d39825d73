//! Command line of the agent, or PID 1 of the rescue image.

use std::process::ExitCode;

use clap::Parser;
use rescue_agent::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("rescue-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
