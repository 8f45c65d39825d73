//! The EFI system partition of the ISO: shim, GRUB and the key manager where firmware looks for them on removable
//! media, in a FAT volume without any trace of when or where it was made.

use std::io::{Cursor, Write};
use std::ops::Range;
use std::path::Path;

use fatfs::{
    Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider,
};

use crate::error::{Error, Result};

const SECTOR_BYTES: usize = 512;
/// Small clusters keep even a small volume a FAT16 (at least 4085 clusters), which every firmware reads.
const CLUSTER_BYTES: u32 = 1024;
const ENTRY_BYTES: usize = 32;
/// Attribute of a directory, and the combination that marks a slot of a long name.
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// First byte of a deleted entry.
const DELETED: u8 = 0xe5;
/// Room for FATs, directories and the ends of files.
const SPARE_BYTES: usize = 160 * 1024;
const MIN_BYTES: usize = 4200 * 1024;

/// The programs of the volume.
#[derive(Debug)]
pub struct Loaders {
    /// shim, signed by Microsoft.
    pub shim: Vec<u8>,
    /// shim's key manager, signed by Debian.
    pub mok_manager: Vec<u8>,
    /// GRUB for removable media, signed by Debian.
    pub grub: Vec<u8>,
}

/// The same moment for every file: FAT's epoch.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

static EPOCH: Epoch = Epoch;

/// The volume, with GRUB's first configuration in it; `serial` is the FAT serial number.
pub fn volume(loaders: &Loaders, finder: &str, serial: u32) -> Result<Vec<u8>> {
    let files: [(&str, &[u8]); 4] = [
        ("EFI/BOOT/BOOTX64.EFI", &loaders.shim),
        ("EFI/BOOT/grubx64.efi", &loaders.grub),
        ("EFI/BOOT/mmx64.efi", &loaders.mok_manager),
        ("boot/grub/grub.cfg", finder.as_bytes()),
    ];
    fill(&files, serial).map_err(Error::io("make", Path::new("the EFI system partition")))
}

fn fill(files: &[(&str, &[u8])], serial: u32) -> std::io::Result<Vec<u8>> {
    let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let size = (content + SPARE_BYTES)
        .max(MIN_BYTES)
        .next_multiple_of(64 * 1024);
    let sectors = u32::try_from(size / SECTOR_BYTES).map_err(std::io::Error::other)?;
    let mut disk = Cursor::new(vec![0_u8; size]);
    let options = FormatVolumeOptions::new()
        .total_sectors(sectors)
        .bytes_per_cluster(CLUSTER_BYTES)
        .fat_type(FatType::Fat16)
        .volume_id(serial)
        .volume_label(*b"ESXI_RESCUE");
    fatfs::format_volume(&mut disk, options)?;
    {
        let fs = FileSystem::new(&mut disk, FsOptions::new().time_provider(&EPOCH))?;
        for (path, bytes) in files {
            let mut dir = fs.root_dir();
            let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
            for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
                dir = dir.create_dir(parent)?;
            }
            dir.create_file(name)?.write_all(bytes)?;
        }
        fs.unmount()?;
    }
    let mut volume = disk.into_inner();
    tidy(&mut volume);
    Ok(volume)
}

/// Where things are in a FAT16 volume, in bytes from its start.
struct Geometry {
    cluster_bytes: usize,
    root: Range<usize>,
}

impl Geometry {
    /// From the boot sector (Microsoft, "FAT: General Overview of On-Disk Format", BPB). For volumes that were
    /// just formatted here, so nothing needs to be doubted.
    fn of(volume: &[u8]) -> Self {
        let half = |at: usize| usize::from(u16::from_le_bytes([volume[at], volume[at + 1]]));
        let sector_bytes = half(11);
        let root_at = (half(14) + usize::from(volume[16]) * half(22)) * sector_bytes;
        Self {
            cluster_bytes: usize::from(volume[13]) * sector_bytes,
            root: root_at..root_at + half(17) * ENTRY_BYTES,
        }
    }

    fn cluster(&self, number: usize) -> Range<usize> {
        let at = self.root.end + (number - 2) * self.cluster_bytes;
        at..at + self.cluster_bytes
    }
}

/// The crate fatfs 0.3 gives even `.` and `..` a long name, where the format wants them bare in the first two slots;
/// fsck.fat complains, and a firmware may too. Takes the long names out of every directory below the root. Each has one
/// cluster: there are only a few files.
fn tidy(volume: &mut [u8]) {
    let geometry = Geometry::of(volume);
    let mut todo = vec![geometry.root.clone()];
    while let Some(place) = todo.pop() {
        let entries: Vec<[u8; ENTRY_BYTES]> = volume[place].as_chunks().0.to_vec();
        for entry in entries.iter().filter(|entry| is_subdirectory(entry)) {
            let place = geometry.cluster(usize::from(u16::from_le_bytes([entry[26], entry[27]])));
            move_dots_first(&mut volume[place.clone()]);
            todo.push(place);
        }
    }
}

fn is_subdirectory(entry: &[u8; ENTRY_BYTES]) -> bool {
    let (first, attributes) = (entry[0], entry[11]);
    !matches!(first, 0 | DELETED | b'.')
        && attributes & LONG_NAME != LONG_NAME
        && attributes & DIRECTORY != 0
}

/// Drops the long-name slots that stand before `.` and `..` at the start of a directory.
fn move_dots_first(directory: &mut [u8]) {
    for slot in 0..2 {
        let at = slot * ENTRY_BYTES;
        if directory[at + 11] & LONG_NAME == LONG_NAME {
            let end = directory.len();
            directory.copy_within(at + ENTRY_BYTES.., at);
            directory[end - ENTRY_BYTES..].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn loaders() -> Loaders {
        Loaders {
            shim: vec![1; 900_000],
            mok_manager: vec![2; 800_000],
            grub: vec![3; 3_900_000],
        }
    }

    #[test]
    fn the_volume_holds_what_firmware_looks_for() {
        let volume = volume(&loaders(), "search x\n", 0x1234_5678).unwrap();
        let fs = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
        assert_eq!(
            (fs.fat_type(), fs.volume_id()),
            (FatType::Fat16, 0x1234_5678)
        );
        for (path, first, size) in [
            ("EFI/BOOT/BOOTX64.EFI", 1, 900_000),
            ("efi/boot/GRUBX64.EFI", 3, 3_900_000),
        ] {
            let mut bytes = Vec::new();
            fs.root_dir()
                .open_file(path)
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap();
            assert_eq!((bytes[0], bytes.len()), (first, size));
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        assert_eq!(
            volume(&loaders(), "x", 1).unwrap(),
            volume(&loaders(), "x", 1).unwrap()
        );
    }
}
