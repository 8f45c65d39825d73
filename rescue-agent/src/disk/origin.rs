//! What stands behind a path: which file or device the bytes of a disk are in the end.
//!
//! Several names can lead to one disk: symbolic links, hard links, and loop devices over an image
//! file. Whoever compares or locks disks has to see through all of them.
//!
//! Sources: `Documentation/ABI/testing/sysfs-block`, `Documentation/ABI/stable/sysfs-block` and
//! `sysfs-block-loop` of the Linux kernel.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// Loop devices over loop devices are followed this deep.
const MAX_DEPTH: usize = 8;

/// The one thing that several names may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A file: device and inode.
    File(u64, u64),
    /// A block device: its number.
    Device(u64),
}

/// A file or device node, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
}

/// The folder of sysfs that describes a block device.
pub(super) fn sysfs_folder(root: &Path, device: u64) -> PathBuf {
    root.join(format!("sys/dev/block/{}:{}", major(device), minor(device)))
}

/// The folder of sysfs that describes the block device at `path`; `None` where that is none.
pub fn sysfs_folder_of(root: &Path, path: &Path) -> Option<PathBuf> {
    let metadata = path.metadata().ok()?;
    let is_device = metadata.file_type().is_block_device();
    is_device.then(|| sysfs_folder(root, metadata.rdev()))
}

/// What a disk is in the end: an image file also where a loop device over it was named.
///
/// # Errors
/// That of the system where the path leads nowhere.
pub fn identity(root: &Path, path: &Path) -> io::Result<Identity> {
    let chain = chain(root, path)?;
    let last = chain.last().map(|origin| origin.identity);
    last.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// The path itself and everything behind it, the last being where the bytes are. A loop device whose
/// file cannot be reached under its name any more (deleted, another mount namespace) ends the chain.
pub(super) fn chain(root: &Path, path: &Path) -> io::Result<Vec<Origin>> {
    let mut chain = vec![origin(path)?];
    while chain.len() < MAX_DEPTH {
        let Some(Origin {
            identity: Identity::Device(device),
            ..
        }) = chain.last()
        else {
            break;
        };
        let Some(file) = loop_file(root, *device) else {
            break;
        };
        match origin(&file) {
            Ok(origin) => chain.push(origin),
            Err(_) => break,
        }
    }
    Ok(chain)
}

fn origin(path: &Path) -> io::Result<Origin> {
    let metadata = path.metadata()?;
    let identity = match metadata.file_type().is_block_device() {
        true => Identity::Device(metadata.rdev()),
        false => Identity::File(metadata.dev(), metadata.ino()),
    };
    let path = path.to_owned();
    Ok(Origin { path, identity })
}

/// The file behind a loop device, or behind a partition of one.
fn loop_file(root: &Path, device: u64) -> Option<PathBuf> {
    let folder = sysfs_folder(root, device);
    ["loop/backing_file", "../loop/backing_file"]
        .into_iter()
        .find_map(|name| fs::read_to_string(folder.join(name)).ok())
        .map(|text| PathBuf::from(text.trim_end_matches('\n')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn every_name_of_an_image_is_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("image"), "bytes").unwrap();
        fs::write(at("other"), "bytes").unwrap();
        fs::hard_link(at("image"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("image"), at("soft")).unwrap();
        let identity = |name: &str| identity(Path::new("/"), &at(name)).unwrap();
        assert_eq!(identity("image"), identity("hard"));
        assert_eq!(identity("image"), identity("soft"));
        assert_ne!(identity("image"), identity("other"));
    }

    #[test]
    fn a_loop_device_and_its_partitions_lead_to_the_file() {
        let root = tempfile::tempdir().unwrap();
        let disk = sysfs_folder(root.path(), nix::sys::stat::makedev(7, 3));
        fs::create_dir_all(disk.join("loop")).unwrap();
        fs::create_dir_all(disk.join("loop3p5")).unwrap();
        fs::write(disk.join("loop/backing_file"), "/images/a disk.img\n").unwrap();
        let partition = sysfs_folder(root.path(), nix::sys::stat::makedev(259, 1));
        std::os::unix::fs::symlink(disk.join("loop3p5"), &partition).unwrap();
        let expected = Some(PathBuf::from("/images/a disk.img"));
        let file = |major, minor| loop_file(root.path(), nix::sys::stat::makedev(major, minor));
        assert_eq!(file(7, 3), expected);
        assert_eq!(file(259, 1), expected);
        assert_eq!(file(8, 0), None);
    }
}
