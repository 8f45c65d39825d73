//! The file systems that everything else on PID 1 stands on.
//!
//! Out of scope: file systems on disks. The agent reads those itself and mounts none.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use thiserror::Error;

use crate::firmware::VARIABLES;

/// A file system of the kernel, and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelMount {
    /// The type as `mount -t` takes it.
    pub kind: &'static str,
    /// The mount point, relative to `/`.
    pub target: &'static str,
    /// The options as `mount -o` takes them.
    pub options: &'static str,
}

/// Without these nothing works: processes and settings, devices, device nodes.
pub const ESSENTIAL: [KernelMount; 3] = [
    KernelMount {
        kind: "proc",
        target: "proc",
        options: "",
    },
    KernelMount {
        kind: "sysfs",
        target: "sys",
        options: "",
    },
    KernelMount {
        kind: "devtmpfs",
        target: "dev",
        options: "mode=0755",
    },
];

/// Room for temporary files, bounded so that a machine with little memory stays alive.
pub const TEMPORARY: [KernelMount; 2] = [
    KernelMount {
        kind: "tmpfs",
        target: "run",
        options: "mode=0755,size=16m",
    },
    KernelMount {
        kind: "tmpfs",
        target: "tmp",
        options: "mode=1777,size=50%",
    },
];

/// The firmware's variables; only where the machine was started by UEFI.
pub const FIRMWARE_VARIABLES: KernelMount = KernelMount {
    kind: "efivarfs",
    target: VARIABLES,
    options: "",
};

/// A file system could not be mounted.
#[derive(Debug, Error)]
pub enum MountError {
    /// The folder to mount it on could not be made.
    #[error("cannot make /{target} to mount {kind} on it: {error}")]
    Folder {
        /// The file system.
        kind: &'static str,
        /// The mount point, relative to `/`.
        target: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refused.
    #[error("cannot mount {kind} on /{target}: {error}")]
    Mount {
        /// The file system.
        kind: &'static str,
        /// The mount point, relative to `/`.
        target: &'static str,
        /// What the kernel said.
        error: Errno,
    },
}

impl KernelMount {
    /// Mounts it under `root`; one that is mounted already is left as it is.
    ///
    /// # Errors
    /// When the folder cannot be made or the kernel refuses.
    pub fn mount(&self, root: &Path) -> Result<(), MountError> {
        let KernelMount {
            kind,
            target,
            options,
        } = *self;
        let path = root.join(target);
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(|error| MountError::Folder {
                kind,
                target,
                error,
            })?;
        }
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        if kind != "devtmpfs" {
            flags |= MsFlags::MS_NODEV;
        }
        match mount(Some(kind), &path, Some(kind), flags, Some(options)) {
            Ok(()) | Err(Errno::EBUSY) => Ok(()),
            Err(error) => Err(MountError::Mount {
                kind,
                target,
                error,
            }),
        }
    }
}

/// Mounts the firmware's variables if this machine has any: `false` if not.
///
/// # Errors
/// When it has some and they cannot be mounted.
pub fn mount_firmware_variables(root: &Path) -> Result<bool, MountError> {
    if !root.join(FIRMWARE_VARIABLES.target).is_dir() {
        return Ok(false);
    }
    FIRMWARE_VARIABLES.mount(root).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_uefi_has_no_firmware_variables() {
        let root = tempfile::tempdir().unwrap();
        assert!(!mount_firmware_variables(root.path()).unwrap());
        assert!(!root.path().join("sys").exists());
    }

    #[test]
    fn a_mount_point_that_cannot_be_made_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("proc"), "in the way").unwrap();
        let error = ESSENTIAL[0].mount(root.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot make /proc to mount proc on it:")
        );
    }
}
