//! The manual pages, made of the command lines themselves, so that they cannot say anything else than `--help`.

use std::fs;
use std::path::Path;

use clap::Command;

use crate::error::{Error, Result};

/// Writes a page of section 1 for the program and for each of its commands, such as `rescue-agent-inspect.1`.
///
/// # Errors
/// When the folder or a page cannot be written.
pub fn write(program: Command, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    clap_mangen::generate_to(program, folder).map_err(Error::io("write the manual into", folder))
}
