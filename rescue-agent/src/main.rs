//! Command line of the agent, or PID 1 of the rescue image.

use std::process::ExitCode;

use clap::Parser;
use rescue_agent::cli::{self, Cli};
use rescue_agent::init;
use rescue_agent::rescue::ImageRescue;

fn main() -> ExitCode {
    let named_init = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "init");
    if named_init || std::process::id() == 1 {
        let Err(error) = init::run(&mut ImageRescue);
        eprintln!("rescue-agent: {error}");
        return ExitCode::from(cli::USAGE);
    }
    match cli::run(Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("rescue-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
