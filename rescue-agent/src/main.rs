//! Command line of the agent, or PID 1 of the rescue image.

use std::process::ExitCode;

fn main() -> ExitCode {
    rescue_agent::main()
}
