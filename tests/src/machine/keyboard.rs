//! A person at the serial console: a terminal whose keys arrive as the bytes it sends.

use std::io::Write;
use std::process::ChildStdin;

use anyhow::{Context, Result};

/// The end of the serial line that a person types at: QEMU's standard input.
#[derive(Debug)]
pub struct SerialKeyboard {
    line: ChildStdin,
}

impl SerialKeyboard {
    pub(super) const fn at(line: ChildStdin) -> Self {
        Self { line }
    }

    /// Sends what the terminal sends for some keys, such as `"a"`, `"\r"` or `"\x1b[A"`.
    ///
    /// # Errors
    /// When the machine has gone.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        let sent = self.line.write_all(keys.as_bytes());
        sent.context("typing at the serial line")
    }
}
