//! The EFI system partition of the ISO: shim, GRUB and the key manager where firmware looks for them on removable
//! media, in a FAT volume without any trace of when or where it was made.

use std::io::{Cursor, Write};
use std::path::Path;

use fatfs::{
    Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider,
};

use crate::error::{Error, Result};

const SECTOR_BYTES: usize = 512;
/// Small clusters keep even a small volume a FAT16 (at least 4085 clusters), which every firmware reads.
const CLUSTER_BYTES: u32 = 1024;
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
    Ok(disk.into_inner())
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
