//! The hybrid ISO: a CD for BIOS and UEFI, and the same bytes a disk for both when written to a stick.
//!
//! xorriso writes it; the EFI system partition is appended as a real GPT partition. Some combinations of xorriso's
//! options silently write no partition table, which emulators forgive and real firmware does not, so the finished
//! file is checked here.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::inputs::tools::Tools;
use crate::media::{fat, frame, iso9660};
use crate::parts::grub::{self, NetworkPart};
use crate::parts::{self, Parts, layout};
use crate::tool;

/// Volume label of the ISO.
pub const LABEL: &str = "ESXI_RESCUE";

/// Type of an EFI system partition, as text for xorriso and as on disk.
const ESP_TYPE: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const ESP_TYPE_BYTES: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// Type of the protective partition around the ISO itself (Windows' basic data).
const DATA_TYPE: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";

const SECTOR_BYTES: u64 = 512;
const GPT_ENTRY_BYTES: usize = 128;
const GPT_ENTRIES: usize = 128;
/// Volume descriptors of an ISO start here, in bytes.
const DESCRIPTORS_AT: u64 = 16 * 2048;

/// Room for FATs, directories and the ends of files in a FAT16 volume, in bytes.
const SPARE_BYTES: usize = 160 * 1024;
/// Smallest FAT16 volume, in bytes.
const MIN_BYTES: usize = 4200 * 1024;

/// The content of an ISO.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Files by their path on the medium.
    pub files: Vec<(String, &'a [u8])>,
    /// The BIOS boot image, see [`grub::bios_cd_image`].
    pub bios_image: &'a [u8],
    /// The EFI system partition, see [`esp`].
    pub esp: &'a [u8],
}

/// Makes the ISO at `out`, working in `temp`; the network drivers are on it if `with_network`.
pub fn make(parts: &Parts, with_network: bool, temp: &Path, out: &Path) -> Result<()> {
    let network = match (with_network, parts.reports) {
        (false, _) => NetworkPart::Absent,
        (true, false) => NetworkPart::IfReporting,
        (true, true) => NetworkPart::Always,
    };
    let menu = grub::menu("/boot", network);
    let (info, identity) = (parts.info(), grub::identity_file(&parts.identity));
    let mut files = parts.medium_files(&menu, network);
    files.push((layout::INFO.to_owned(), info.as_bytes()));
    // The loaders are in the EFI partition.
    let loaders = parts.loader_files();
    let all = files.iter().chain(&loaders);
    let sums = frame::line(frame::NOT_KNOWN)
        + &parts::sums(all.map(|(path, bytes)| (path.as_str(), *bytes)));
    files.push((identity.clone(), sums.as_bytes()));
    let tree = Tree {
        files,
        bios_image: &grub::bios_cd_image(&parts.tools, &parts.identity, temp)?,
        esp: &esp(parts)?,
    };
    write(&tree, &parts.tools, parts.epoch, temp, out)?;
    seal(&identity, out)
}

/// Puts the digest of all around the files into the finished ISO.
fn seal(identity: &str, path: &Path) -> Result<()> {
    let mut bytes = fs::read(path).map_err(Error::io("read", path))?;
    let files = iso9660::files(&bytes).unwrap_or_default();
    let (Some(sums), Some(settings)) = (files.get(identity), files.get(layout::SETTINGS_BLOCK))
    else {
        return Err(Error::Unsound {
            path: path.to_owned(),
            problem: "its files cannot be found in it".to_owned(),
        });
    };
    let place = frame::place(sums);
    let digest = frame::digest(&bytes, &[place.clone(), settings.clone()]);
    bytes[place].copy_from_slice(digest.as_bytes());
    fs::write(path, bytes).map_err(Error::io("write", path))
}

/// The EFI system partition of the ISO: the loaders, and GRUB's first configuration.
pub fn esp(parts: &Parts) -> Result<Vec<u8>> {
    let finder = grub::finder(&parts.identity);
    let mut files = parts.loader_files().to_vec();
    files.push(("boot/grub/grub.cfg".to_owned(), finder.as_bytes()));
    let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let size = (content + SPARE_BYTES)
        .max(MIN_BYTES)
        .next_multiple_of(64 * 1024);
    let make = || {
        let frame = fat::Frame {
            kind: fat::Kind::Fat16,
            sectors: u32::try_from(size / 512).map_err(io::Error::other)?,
            hidden_sectors: 0,
            serial: parts.fat_serial(),
        };
        fat::volume(frame, &files, &[])
    };
    make().map_err(Error::io("make", Path::new("the EFI system partition")))
}

/// Writes the ISO to `out`, working in `temp`; `epoch` (seconds since 1970) is the time of every file and of the volume.
pub fn write(tree: &Tree<'_>, tools: &Tools, epoch: u64, temp: &Path, out: &Path) -> Result<()> {
    let root = temp.join("iso");
    let esp = temp.join("efi.img");
    put(&esp, tree.esp)?;
    put(
        &root.join("boot/grub/i386-pc/eltorito.img"),
        tree.bios_image,
    )?;
    for (path, bytes) in &tree.files {
        put(&root.join(path), bytes)?;
    }
    set_times(&root, SystemTime::UNIX_EPOCH + Duration::from_secs(epoch))?;
    let mut command = tools.command("xorriso");
    command
        // The machine's own settings for xorriso are not read.
        .arg("-no_rc")
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .env("TZ", "UTC")
        .args(["-as", "mkisofs", "-quiet", "-V", LABEL, "-l", "-r", "-J"])
        // The padding is for discs burnt track by track, and 300 KiB.
        .arg("-no-pad")
        .args([
            "-b",
            "boot/grub/i386-pc/eltorito.img",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
        ])
        .args(["-boot-info-table", "--grub2-boot-info", "--grub2-mbr"])
        .arg(tools.grub_bios().join("boot_hybrid.img"))
        .args([
            "-partition_offset",
            "16",
            "-append_partition",
            "2",
            ESP_TYPE,
        ])
        .arg(&esp)
        .args(["-appended_part_as_gpt", "-iso_mbr_part_type", DATA_TYPE])
        .args([
            "-eltorito-alt-boot",
            "-e",
            "--interval:appended_partition_2:all::",
            "-no-emul-boot",
            "-o",
        ])
        .arg(out)
        .arg(&root);
    tool::run(&mut command, "xorriso")?;
    check(out)
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    fs::write(path, bytes).map_err(Error::io("write", path))
}

/// Sets the time of everything below a directory, content before container.
fn set_times(dir: &Path, time: SystemTime) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path: PathBuf = entry.map_err(Error::io("list", dir))?.path();
        if path.is_dir() {
            set_times(&path, time)?;
        } else {
            set_time(&path, time)?;
        }
    }
    set_time(dir, time)
}

fn set_time(path: &Path, time: SystemTime) -> Result<()> {
    File::open(path)
        .and_then(|file| file.set_modified(time))
        .map_err(Error::io("set the time of", path))
}

/// Checks what firmware needs: boot code and signature of the MBR, a GPT with an EFI system partition that holds a FAT
/// volume, and El Torito's boot record.
pub fn check(path: &Path) -> Result<()> {
    check_in(File::open(path).map_err(Error::io("read", path))?, path)
}

/// The same for an ISO in memory, or wherever it is; `path` is its name.
pub fn check_in(mut file: impl Read + Seek, path: &Path) -> Result<()> {
    let unsound = |problem: &str| Error::Unsound {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let mbr = read_at(&mut file, path, 0, 512)?;
    if mbr[510..] != [0x55, 0xaa] || mbr[..32].iter().all(|byte| *byte == 0) {
        return Err(unsound(
            "no boot code in its first sector; a BIOS could not start it from a stick",
        ));
    }
    if read_at(&mut file, path, SECTOR_BYTES, 8)? != b"EFI PART" {
        return Err(unsound("no GPT; UEFI could not start it from a stick"));
    }
    let byte_of = |sector: &[u8]| u64_at(sector).saturating_mul(SECTOR_BYTES);
    let entries_at = byte_of(&read_at(&mut file, path, SECTOR_BYTES + 72, 8)?);
    let entries = read_at(&mut file, path, entries_at, GPT_ENTRIES * GPT_ENTRY_BYTES)?;
    let esp = entries
        .chunks(GPT_ENTRY_BYTES)
        .find(|entry| entry[..16] == ESP_TYPE_BYTES)
        .ok_or_else(|| unsound("its GPT has no EFI system partition"))?;
    let boot = read_at(&mut file, path, byte_of(&esp[32..40]), 512)?;
    if boot[510..] != [0x55, 0xaa] || &boot[54..59] != b"FAT16" {
        return Err(unsound("its EFI system partition contains no FAT volume"));
    }
    let record = read_at(&mut file, path, DESCRIPTORS_AT + 2048, 64)?;
    if &record[1..6] != b"CD001" || !record[7..].starts_with(b"EL TORITO SPECIFICATION") {
        return Err(unsound(
            "no El Torito boot record; it could not be started as a CD",
        ));
    }
    Ok(())
}

fn read_at(file: &mut (impl Read + Seek), path: &Path, at: u64, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    file.seek(SeekFrom::Start(at))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(Error::io("check", path))?;
    Ok(bytes)
}

fn u64_at(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::sample;

    #[test]
    fn a_file_without_a_partition_table_is_unsound() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.iso");
        let mut bytes = vec![0_u8; 64 * 1024];
        fs::write(&path, &bytes).unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("boot code"));
        bytes[0] = 0xeb;
        bytes[510] = 0x55;
        bytes[511] = 0xaa;
        fs::write(&path, &bytes).unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("no GPT"));
        bytes[512..520].copy_from_slice(b"EFI PART");
        bytes[512 + 72] = 2;
        fs::write(&path, &bytes).unwrap();
        assert!(
            check(&path)
                .unwrap_err()
                .to_string()
                .contains("no EFI system partition")
        );
    }

    #[test]
    fn a_short_file_is_an_error_and_no_panic() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(check(file.path()).is_err());
    }

    #[test]
    fn the_esp_of_the_iso_grows_with_the_loaders() {
        let mut parts = sample::parts();
        assert_eq!(
            esp(&parts).unwrap().len(),
            MIN_BYTES.next_multiple_of(64 * 1024)
        );
        parts.loaders.grub = vec![3; 6_000_000];
        let esp = esp(&parts).unwrap();
        let grub = fat::read_file(&esp, "EFI/BOOT/grubx64.efi")
            .unwrap()
            .unwrap();
        assert_eq!(grub, parts.loaders.grub);
    }
}
