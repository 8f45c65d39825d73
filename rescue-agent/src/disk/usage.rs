//! What this machine uses a disk for: mounted file systems, swap, and devices made of it.
//!
//! A volume that is mounted must not be written beside its driver, and looks damaged while it is:
//! its driver sets the mark "not cleanly unmounted". So it is named with its mount point.
//!
//! Sources: proc_pid_mountinfo(5), proc_swaps(5), and `Documentation/ABI/stable/sysfs-block` of the
//! Linux kernel.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;

use super::device::ByteOffset;
use super::origin::{self, Identity, sysfs_folder};

/// Sysfs counts in units of 512 bytes, whatever the sector size.
const SYSFS_UNIT: u64 = 512;

/// A part of a disk that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// Where on the disk the part begins; 0 for the whole disk.
    pub start: ByteOffset,
    /// By what.
    pub by: User,
}

/// What uses a part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A file system, mounted there.
    Mount(PathBuf),
    /// Swap space.
    Swap,
    /// A device made of it, such as a RAID or an encrypted volume, by name.
    Device(String),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(at) => write!(f, "mounted at {}", at.display()),
            Self::Swap => f.write_str("used as swap space"),
            Self::Device(name) => write!(f, "used by the device {name}"),
        }
    }
}

/// What the machine whose `/` is `root` uses of the disk or image at `path`.
pub fn of(root: &Path, path: &Path) -> Vec<InUse> {
    let Ok(identity) = origin::identity(root, path) else {
        return Vec::new();
    };
    let named = path.metadata().ok().and_then(|metadata| {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let is_device = metadata.file_type().is_block_device();
        is_device.then(|| metadata.rdev())
    });
    let mut parts = Vec::new();
    let devices = block_devices(root);
    let mut disks: Vec<u64> = devices
        .iter()
        .copied()
        .filter(|device| is_loop_over(root, *device, identity))
        .collect();
    disks.extend(named.filter(|device| !disks.contains(device)));
    for disk in disks {
        let offset = number(&sysfs_folder(root, disk).join("loop/offset")).unwrap_or(0);
        parts.push((disk, offset));
        for part in partitions(root, disk) {
            let start = number(&sysfs_folder(root, part).join("start")).unwrap_or(0);
            parts.push((part, offset + start * SYSFS_UNIT));
        }
    }
    let (mounts, swaps) = (mounts(root), swaps(root));
    parts
        .into_iter()
        .flat_map(|(device, start)| {
            users(root, device, &mounts, &swaps).map(move |by| InUse {
                start: ByteOffset(start),
                by,
            })
        })
        .collect()
}

fn users(
    root: &Path,
    device: u64,
    mounts: &[(u64, PathBuf)],
    swaps: &[u64],
) -> impl Iterator<Item = User> {
    let mounted = mounts
        .iter()
        .filter(|(mounted, _)| *mounted == device)
        .map(|(_, at)| User::Mount(at.clone()));
    let swap = swaps.contains(&device).then_some(User::Swap);
    let holders = names(&sysfs_folder(root, device).join("holders"));
    let all: Vec<User> = mounted
        .chain(swap)
        .chain(holders.into_iter().map(User::Device))
        .collect();
    all.into_iter()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn block_devices(root: &Path) -> Vec<u64> {
    let all = names(&root.join("sys/dev/block"));
    all.iter().filter_map(|name| device_number(name)).collect()
}

/// Whether it is a loop device, as a whole, over this file.
fn is_loop_over(root: &Path, device: u64, file: Identity) -> bool {
    let backing = sysfs_folder(root, device).join("loop/backing_file");
    let Ok(text) = fs::read_to_string(backing) else {
        return false;
    };
    let path = Path::new(text.trim_end_matches('\n'));
    origin::identity(root, path).is_ok_and(|found| found == file)
}

fn partitions(root: &Path, disk: u64) -> Vec<u64> {
    let folder = sysfs_folder(root, disk);
    names(&folder)
        .iter()
        .map(|name| folder.join(name))
        .filter(|part| part.join("partition").is_file())
        .filter_map(|part| device_number(fs::read_to_string(part.join("dev")).ok()?.trim()))
        .collect()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Devices and where they are mounted.
fn mounts(root: &Path) -> Vec<(u64, PathBuf)> {
    let text = fs::read(root.join("proc/self/mountinfo")).unwrap_or_default();
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut words = line.split(|byte| *byte == b' ');
            let device = device_number(std::str::from_utf8(words.nth(2)?).ok()?)?;
            let at = words.nth(1)?;
            Some((device, PathBuf::from(OsString::from_vec(unescaped(at)))))
        })
        .collect()
}

/// Blanks, tabs, line ends and backslashes stand there as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let (mut plain, mut at) = (Vec::with_capacity(word.len()), 0);
    while at < word.len() {
        let digits = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let escaped = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(word[at]));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    plain
}

fn swaps(root: &Path) -> Vec<u64> {
    let text = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|path| match origin::identity(root, Path::new(path)) {
            Ok(Identity::Device(device)) => Some(device),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    /// A machine with the loop device 7:3 over an image, whose fifth partition 259:1 begins at
    /// sector 8224.
    fn machine(image: &Path) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("sys/dev/block/7:3");
        let part = disk.join("loop3p5");
        fs::create_dir_all(disk.join("loop")).unwrap();
        fs::create_dir_all(part.join("holders")).unwrap();
        let backing = format!("{}\n", image.display());
        fs::write(disk.join("loop/backing_file"), backing).unwrap();
        fs::write(disk.join("loop/offset"), "0\n").unwrap();
        fs::write(part.join("partition"), "5\n").unwrap();
        fs::write(part.join("start"), "8224\n").unwrap();
        fs::write(part.join("dev"), "259:1\n").unwrap();
        std::os::unix::fs::symlink(&part, root.path().join("sys/dev/block/259:1")).unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        root
    }

    fn mount(root: &Path, line: &str) {
        fs::write(root.join("proc/self/mountinfo"), line).unwrap();
    }

    #[test]
    fn a_mounted_partition_of_an_image_is_named_with_its_mount_point() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let root = machine(image.path());
        mount(
            root.path(),
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             90 22 259:1 / /media/me/BOOT\\040BANK rw,nosuid shared:5 - vfat /dev/loop3p5 rw\n",
        );
        let found = of(root.path(), image.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].start, ByteOffset(8224 * 512));
        assert_eq!(found[0].by.to_string(), "mounted at /media/me/BOOT BANK");
    }

    #[test]
    fn a_volume_mounted_through_a_loop_device_with_an_offset_is_found() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let root = machine(image.path());
        let offset = root.path().join("sys/dev/block/7:3/loop/offset");
        fs::write(offset, "4210688\n").unwrap();
        mount(root.path(), "90 22 7:3 / /mnt rw - vfat /dev/loop3 rw\n");
        let found = of(root.path(), image.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].start, ByteOffset(4_210_688));
    }

    #[test]
    fn a_device_made_of_a_partition_is_named() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let root = machine(image.path());
        let holder = root.path().join("sys/dev/block/259:1/holders/dm-0");
        fs::create_dir(holder).unwrap();
        let found = of(root.path(), image.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].by.to_string(), "used by the device dm-0");
    }

    #[test]
    fn nothing_is_in_use_on_a_machine_that_uses_nothing() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let root = machine(image.path());
        assert_eq!(of(root.path(), image.path()), []);
        let other = tempfile::NamedTempFile::new().unwrap();
        mount(root.path(), "90 22 7:3 / /mnt rw - vfat /dev/loop3 rw\n");
        assert_eq!(of(root.path(), other.path()), []);
    }

    #[test]
    fn a_path_that_ends_in_a_backslash_is_read_as_it_is() {
        assert_eq!(unescaped(b"/a\\134b\\"), b"/a\\b\\");
    }
}
