//! What a person asked for.

use std::path::PathBuf;

/// Version of this project.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Time of everything in the image unless `SOURCE_DATE_EPOCH` says otherwise: 2026-11-01 00:00 UTC.
pub const DEFAULT_EPOCH: u64 = 1_793_491_200;

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the artefacts go.
    pub out: PathBuf,
    /// Where downloads and prepared kernels are kept.
    pub cache: PathBuf,
    /// The static agent.
    pub agent: PathBuf,
    /// Words to put on the kernel command line.
    pub arguments: Vec<String>,
    /// A `rescue.toml` to build in.
    pub config: Option<PathBuf>,
    /// Which kernel to take.
    pub kernel: Choice,
    /// Debian's suite that all packages come from.
    pub suite: String,
    /// The suite as it was at this time.
    pub snapshot: Option<String>,
    /// A manifest whose packages are to be used again, instead of the newest of a suite.
    pub inputs: Option<PathBuf>,
    /// Put a shell in, offered in the menu of the console.
    pub shell: bool,
    /// Put the network drivers on the ISO too; the other artefacts always have them.
    pub network: bool,
    /// Use the packages of the last build, ask nothing of the network.
    pub offline: bool,
    /// Build even if everything is there.
    pub force: bool,
    /// Time of everything in the image, seconds since 1970.
    pub epoch: u64,
}

/// Which kernel to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// That of Debian.
    Debian,
    /// A `linux-image-*` package file.
    Package(PathBuf),
    /// An installed kernel.
    Installed {
        /// Its `/lib/modules/<version>`.
        modules: PathBuf,
        /// Its `vmlinuz`, if that does not lie beside the modules or in `/boot`.
        vmlinuz: Option<PathBuf>,
    },
}
