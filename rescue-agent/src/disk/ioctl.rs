//! What Linux reports about a block device: the ioctls of `linux/fs.h`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod raw {
    #![allow(missing_docs)]
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(
        blksszget,
        nix::request_code_none!(0x12, 104),
        nix::libc::c_int
    );
}

/// Size of a block device in bytes (`BLKGETSIZE64`).
pub(super) fn size_bytes(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open for the whole call and the kernel writes one u64.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// Bytes per logical sector of a block device (`BLKSSZGET`).
pub(super) fn logical_sector_bytes(device: &File) -> io::Result<u32> {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: the descriptor is open for the whole call and the kernel writes one int.
    unsafe { raw::blksszget(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| io::Error::other(format!("sector size {bytes}")))
}
