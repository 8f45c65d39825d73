//! Folders for what a test makes and throws away, in memory where there is room.
//!
//! Most tests make thousands of small files. On a disk's file system, making files while as many are
//! being removed takes longer than the tests themselves (a quarter of `power_cuts` on ext4, which does
//! not use the inodes of the last seconds again).

use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

const MEMORY: &str = "/dev/shm";
/// The memory file system is used if it has this much room, in bytes: containers often have 64 MiB.
const ROOM: u64 = 4 << 30;

/// A folder that is removed with the value.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> io::Result<TempDir> {
    match has_room(Path::new(MEMORY)) {
        true => tempfile::tempdir_in(MEMORY),
        false => tempfile::tempdir(),
    }
}

fn has_room(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|found| found.blocks_available() * found.fragment_size() >= ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_has_no_room() {
        assert!(!has_room(Path::new("/nowhere")));
    }

    #[test]
    fn the_folder_goes_with_the_value() {
        let folder = folder().expect("a folder");
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
