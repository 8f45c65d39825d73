//! A person at the serial console: a terminal whose keys arrive as the bytes it sends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};

/// The end of the serial line that a person types at.
#[derive(Debug)]
pub struct SerialKeyboard {
    stream: UnixStream,
}

impl SerialKeyboard {
    /// The socket of a machine whose files are in `folder`.
    pub(super) fn socket(folder: &Path) -> PathBuf {
        folder.join("serial-line")
    }

    /// Sits down at it.
    pub(super) fn at(folder: &Path) -> Result<Self> {
        let socket = Self::socket(folder);
        let stream = UnixStream::connect(socket).context("connecting to the serial line")?;
        let mut shown = stream.try_clone()?;
        // What the machine says is in its log as well; here it must only not pile up.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while shown.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        Ok(Self { stream })
    }

    /// Sends what the terminal sends for some keys, such as `"a"`, `"\r"` or `"\x1b[A"`.
    ///
    /// # Errors
    /// When the machine has gone.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        let sent = self.stream.write_all(keys.as_bytes());
        sent.context("typing at the serial line")
    }
}
