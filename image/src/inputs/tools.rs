//! The outside programs that write bytes of the artefacts, grub-mkimage and xorriso: other versions of them write other
//! bytes. So a build takes them from the same suite as everything else, and starts them with that suite's C library,
//! unpacked beside them. Nothing of them is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::packages::Deb;

/// What is needed of the packages.
const PARTS: &[&str] = &["lib", "usr/bin", "usr/lib"];
/// Where libraries are; from Debian 13 on below `usr` only.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
const LOADER: &str = "ld-linux-x86-64.so.2";
const PREFIX: &str = "tools-";

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The folder that is the root of their packages; `/` for those of this machine.
    root: PathBuf,
    /// The dynamic loader to start them with, unless they are this machine's.
    loader: Option<PathBuf>,
}

impl Tools {
    /// Those of this machine, for tests: what they write depends on their version.
    #[must_use]
    pub fn installed() -> Self {
        Self {
            root: PathBuf::from("/"),
            loader: None,
        }
    }

    /// Those out of packages, unpacked once into the cache.
    pub fn unpacked(debs: &[Deb], cache: &Path) -> Result<Self> {
        let digests: Vec<&str> = debs.iter().map(|deb| deb.release.sha256.as_str()).collect();
        let name = format!(
            "{PREFIX}{}",
            &hash::sha256(digests.concat().as_bytes())[..16]
        );
        let cache = fs::canonicalize(cache).map_err(Error::io("find", cache))?;
        let root = cache.join(&name);
        if !root.exists() {
            let temp = tempfile::Builder::new()
                .prefix("unpack-")
                .tempdir_in(&cache)
                .map_err(Error::io("create a directory in", &cache))?;
            let made = temp.path().join(&name);
            for deb in debs {
                deb.unpack(PARTS, &made)?;
            }
            for old in fs::read_dir(&cache).map_err(Error::io("list", &cache))? {
                let old = old.map_err(Error::io("list", &cache))?;
                if old.file_name().to_string_lossy().starts_with(PREFIX) {
                    fs::remove_dir_all(old.path()).map_err(Error::io("remove", &old.path()))?;
                }
            }
            fs::rename(&made, &root).map_err(Error::io("create", &root))?;
        }
        let loader = LIBRARIES
            .iter()
            .map(|folder| root.join(folder).join(LOADER))
            .find(|path| path.exists())
            .ok_or_else(|| {
                Error::input(&root, format!("no {LOADER} in the packages of this suite"))
            })?;
        Ok(Self {
            root,
            loader: Some(loader),
        })
    }

    /// Starts one of the programs.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let Some(loader) = &self.loader else {
            return Command::new(program);
        };
        let libraries: Vec<String> = LIBRARIES
            .iter()
            .map(|folder| self.root.join(folder).display().to_string())
            .collect();
        let mut command = Command::new(loader);
        command
            .args(["--inhibit-cache", "--library-path"])
            .arg(libraries.join(":"))
            .arg(self.root.join("usr/bin").join(program));
        // No library of this machine is loaded by these variables.
        command
            .env_remove("LD_PRELOAD")
            .env_remove("LD_LIBRARY_PATH");
        command
    }

    /// The folder with GRUB's modules for BIOS.
    #[must_use]
    pub fn grub_bios(&self) -> PathBuf {
        self.root.join("usr/lib/grub/i386-pc")
    }
}
