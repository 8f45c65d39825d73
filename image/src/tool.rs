//! Running outside programs (apt, dpkg-deb, grub-mkimage, xorriso) with errors that say what they said.

use std::io;
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};

/// Lines of a failed program's output that are worth showing.
const SHOWN_LINES: usize = 25;

/// Runs the command to its end without a terminal and returns what it printed.
/// `package` is the Debian package to name if the program is not installed.
pub fn run(command: &mut Command, package: &'static str) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|source| start_error(&name, package, source))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::ToolFailed {
        tool: describe(command),
        status: output.status.to_string(),
        output: last_lines(&output),
    })
}

fn start_error(name: &str, package: &'static str, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::NotFound {
        return Error::ToolMissing {
            tool: name.to_owned(),
            package,
        };
    }
    Error::ToolFailed {
        tool: name.to_owned(),
        status: "could not be started".to_owned(),
        output: source.to_string(),
    }
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().take(6).map(|arg| arg.to_string_lossy()));
    words.join(" ")
}

fn last_lines(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = run(&mut Command::new("no-such-program-here"), "xorriso").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("no-such-program-here") && text.contains("xorriso"),
            "{text}"
        );
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let error = run(
            Command::new("sh").args(["-c", "echo why >&2; exit 3"]),
            "dash",
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("why") && text.contains('3'), "{text}");
    }
}
