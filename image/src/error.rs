//! What can go wrong while building an image, said so that the reader knows what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the builder. Every variant names the file or program and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done, as a verb: "read", "write", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An outside program is not installed.
    #[error(
        "the program {tool} is missing; install the package {package} (scripts/setup.sh image installs everything needed)"
    )]
    ToolMissing {
        /// The program.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// An outside program ended with an error.
    #[error("{tool} failed ({status}):\n{output}")]
    ToolFailed {
        /// The program and its first arguments.
        tool: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A Debian package could not be had.
    #[error("package {package}: {problem}")]
    Package {
        /// The package's name.
        package: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A kernel module could not be understood.
    #[error("kernel module {path}: {problem}")]
    Module {
        /// The module's file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An input file is not what it should be.
    #[error("{path}: {problem}")]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A setting has an unknown key or a bad value.
    #[error("setting {setting}: {problem}")]
    Setting {
        /// The setting as it was given.
        setting: String,
        /// What would be right.
        problem: String,
    },
    /// The finished artefact failed the builder's own check.
    #[error(
        "{path} was written but failed its check: {problem}. It was discarded; please report this"
    )]
    Unsound {
        /// The artefact.
        path: PathBuf,
        /// What the check found.
        problem: String,
    },
}

/// Result of the builder's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes the closure for `map_err` at an I/O edge: `fs::read(p).map_err(Error::io("read", p))`.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// An input file that is not what it should be.
    pub fn input(path: &Path, problem: impl Into<String>) -> Self {
        Self::Input {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}
