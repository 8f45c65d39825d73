//! The USB image: a disk for BIOS and UEFI whose one FAT32 volume a person can open and edit on any desktop.
//!
//! A GPT with GRUB's BIOS boot partition and the EFI system partition; in sector 0 GRUB's boot code. Sources:
//! UEFI specification 2.10, chapter 5 (GPT, protective MBR); for GRUB's sectors see [`crate::parts::grub`].

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;
use gpt::partition_types::{self, Type};
use gpt::{DiskDevice, GptConfig};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::hash;
use crate::media::{fat, frame};
use crate::parts::grub::{self, NetworkPart};
use crate::parts::{self, Parts, layout};
use crate::settings;

const SECTOR_BYTES: u64 = 512;
/// The smallest sticks that are sold as 64 MB, in sectors.
const STICK_SECTORS: u64 = 64_000_000 / SECTOR_BYTES;
/// Partitions start at a MiB, as every tool expects.
const CORE_AT: u64 = 2048;
/// First sector of the FAT volume.
pub const VOLUME_AT: u64 = 4096;
/// What the second copy of the GPT takes at the end of the disk, in sectors.
const BACKUP_SECTORS: u64 = 33;
/// Free room that is left for reports at least, and what the FAT itself takes, in sectors.
const SPARE_SECTORS: u64 = 8 * 2048;
/// Where the MBR keeps its second partition, and the signature of the disk.
const SECOND_PARTITION: usize = 446 + 16;
const DISK_SIGNATURE: usize = 440;
const ACTIVE: u8 = 0x80;

const README: &str = include_str!("usb-readme.txt");

/// The finished image.
pub fn make(parts: &Parts, temp: &Path) -> Result<Vec<u8>> {
    let menu = grub::stick_menu("/boot", NetworkPart::Always);
    let settings = settings::template();
    let mut files = parts.medium_files(&menu, NetworkPart::Always);
    files.extend(parts.loader_files());
    files.push((layout::SETTINGS_FILE.to_owned(), settings.as_bytes()));
    files.push((layout::README.to_owned(), README.as_bytes()));
    let info = parts.info();
    files.push((layout::INFO.to_owned(), info.as_bytes()));
    let sums = parts::sums(files.iter().map(|(path, bytes)| (path.as_str(), *bytes)));
    let bios = grub::bios_disk(&parts.tools, &parts.identity, CORE_AT, temp)?;
    let assemble = || -> io::Result<Vec<u8>> {
        // One sector, whatever the digest in it.
        let mut sums = frame::line(frame::NOT_KNOWN) + &sums;
        let name = grub::identity_file(&parts.identity);
        let disk_sectors = disk_sectors(
            files
                .iter()
                .map(|(_, bytes)| *bytes)
                .chain([sums.as_bytes()]),
        );
        let mut disk = with_table(&parts.identity, disk_sectors)?;
        put(&mut disk, CORE_AT, VOLUME_AT, &bios.core)?;
        disk[..grub::MBR_CODE_BYTES].copy_from_slice(&bios.boot_code);
        finish_mbr(&mut disk, parts.fat_serial());
        let volume = byte(VOLUME_AT)?..byte(VOLUME_AT + volume_sectors(disk_sectors))?;
        let digest = frame::digest(&disk, &[volume]);
        sums.replace_range(frame::place(&(0..sums.len())), &digest);
        let mut files = files.clone();
        files.push((name, sums.as_bytes()));
        let volume = fat::volume(
            fat::Frame {
                kind: fat::Kind::Fat32,
                sectors: small(volume_sectors(disk_sectors))?,
                hidden_sectors: small(VOLUME_AT)?,
                serial: parts.fat_serial(),
            },
            &files,
            &["reports"],
        )?;
        put(&mut disk, VOLUME_AT, disk_sectors, &volume)?;
        Ok(disk)
    };
    assemble().map_err(Error::io("make", Path::new(layout::USB)))
}

/// The size of the disk: what a 64 MB stick holds, or more if the content needs it.
fn disk_sectors<'a>(files: impl Iterator<Item = &'a [u8]>) -> u64 {
    let content: u64 = files
        .map(|bytes| (bytes.len() as u64).div_ceil(SECTOR_BYTES))
        .sum();
    let needed = VOLUME_AT + content + SPARE_SECTORS + BACKUP_SECTORS;
    if needed <= STICK_SECTORS {
        STICK_SECTORS
    } else {
        needed.next_multiple_of(2048)
    }
}

/// Whole kibibytes between the start of the volume and the second copy of the GPT.
fn volume_sectors(disk_sectors: u64) -> u64 {
    (disk_sectors - BACKUP_SECTORS - VOLUME_AT) / 2 * 2
}

/// An empty disk with its partition table, every identifier in it made from the image's identity.
fn with_table(identity: &str, sectors: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(sectors * SECTOR_BYTES).map_err(io::Error::other)?;
    let mut disk = Cursor::new(vec![0_u8; size]);
    gpt::mbr::ProtectiveMBR::with_lb_size(small(sectors - 1)?)
        .overwrite_lba0(&mut disk)
        .map_err(io::Error::other)?;
    let last = VOLUME_AT + volume_sectors(sectors) - 1;
    let partitions = BTreeMap::from([
        (
            1,
            partition(
                identity,
                partition_types::BIOS,
                CORE_AT..=VOLUME_AT - 1,
                "GRUB for BIOS",
            ),
        ),
        (
            2,
            partition(
                identity,
                partition_types::EFI,
                VOLUME_AT..=last,
                "ESXi rescue",
            ),
        ),
    ]);
    write_table(&mut disk, guid(identity, "disk"), partitions).map_err(io::Error::other)?;
    Ok(disk.into_inner())
}

fn write_table(
    disk: impl DiskDevice,
    guid: Uuid,
    partitions: BTreeMap<u32, Partition>,
) -> std::result::Result<(), gpt::GptError> {
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(disk, Some(guid))?;
    table.update_partitions(partitions)?;
    table.write().map(|_| ())
}

fn partition(
    identity: &str,
    kind: Type,
    place: std::ops::RangeInclusive<u64>,
    name: &str,
) -> Partition {
    Partition {
        part_type_guid: kind,
        part_guid: guid(identity, name),
        first_lba: *place.start(),
        last_lba: *place.end(),
        flags: 0,
        name: name.to_owned(),
    }
}

/// A GUID of the random kind that is not random: the same for the same image.
fn guid(identity: &str, what: &str) -> Uuid {
    let digest = hash::sha256(format!("esxi-rescue {identity} {what}").as_bytes());
    let number = u128::from_str_radix(&digest[..32], 16).unwrap_or_default();
    uuid::Builder::from_random_bytes(number.to_be_bytes()).into_uuid()
}

fn put(disk: &mut [u8], at: u64, end: u64, content: &[u8]) -> io::Result<()> {
    let place = disk
        .get_mut(byte(at)?..byte(end)?)
        .and_then(|room| room.get_mut(..content.len()))
        .ok_or_else(|| io::Error::other(format!("no room for {} bytes", content.len())))?;
    place.copy_from_slice(content);
    Ok(())
}

/// The disk signature, and an empty active partition: some BIOSes start only disks that have an active one, while UEFI
/// wants the protective one to be inactive. (xorriso does the same for the ISO.)
fn finish_mbr(disk: &mut [u8], signature: u32) {
    disk[DISK_SIGNATURE..DISK_SIGNATURE + 4].copy_from_slice(&signature.to_le_bytes());
    let mut empty = [0_u8; 16];
    empty[0] = ACTIVE;
    // One sector, so that it does not count as unused.
    empty[12] = 1;
    disk[SECOND_PARTITION..SECOND_PARTITION + 16].copy_from_slice(&empty);
}

fn byte(sector: u64) -> io::Result<usize> {
    usize::try_from(sector * SECTOR_BYTES).map_err(io::Error::other)
}

fn small(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::sample;

    #[test]
    fn the_image_fits_the_smallest_stick_and_grows_when_it_must() {
        let temp = tempfile::tempdir().unwrap();
        let mut parts = sample::parts();
        assert_eq!(make(&parts, temp.path()).unwrap().len(), 64_000_000);
        parts.initrd = vec![8; 70_000_000];
        let large = make(&parts, temp.path()).unwrap();
        assert!(large.len() > 70_000_000 && large.len().is_multiple_of(1 << 20));
    }

    #[test]
    fn identifiers_follow_the_identity_and_differ_from_each_other() {
        assert_eq!(guid("a", "disk"), guid("a", "disk"));
        assert_ne!(guid("a", "disk"), guid("b", "disk"));
        assert_ne!(guid("a", "disk"), guid("a", "ESXi rescue"));
        assert_eq!(guid("a", "disk").get_version_num(), 4);
    }
}
