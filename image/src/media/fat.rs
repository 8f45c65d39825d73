//! FAT volumes without any trace of when or where they were made: the EFI system partitions of the ISO and of the USB
//! image. Also single files in a finished volume, read by the agent's reader of sticks and replaced by the crate that
//! filled it.
//!
//! Not for a disk of a host: only for volumes of this builder, made in memory, and for files that claim to hold one. The
//! crate `fatfs` takes a volume at its word, so that such a file is walked over first (`check`). Source of the format:
//! Microsoft, "FAT: General Overview of On-Disk Format" (BPB, directory entries).

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use fatfs::{
    Date, DateTime, Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider,
};
use rescue_agent::disk::{BlockDevice, ByteOffset, SectorSize};
use rescue_agent::fat::Region;
use rescue_agent::stick::{ReadError, Stick};

/// Label of every volume.
pub const LABEL: &[u8; 11] = b"ESXI_RESCUE";

const SECTOR_BYTES: usize = 512;
const ENTRY_BYTES: usize = 32;
/// Attribute of a directory, and the combination that marks a slot of a long name.
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// First byte of a deleted entry.
const DELETED: u8 = 0xe5;
/// Bits of a FAT32 entry that hold the number of the next cluster.
const FAT32_NUMBER: u32 = 0x0fff_ffff;
/// Largest file that is read out of a finished volume, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Which FAT, with the cluster size that makes even a small volume one of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// At least 4085 clusters, of 1024 bytes: for small volumes; every firmware reads it.
    Fat16,
    /// At least 65525 clusters, of 512 bytes: what every system mounts and lets people edit.
    Fat32,
}

impl Kind {
    fn fat_type(self) -> FatType {
        match self {
            Kind::Fat16 => FatType::Fat16,
            Kind::Fat32 => FatType::Fat32,
        }
    }

    fn cluster_bytes(self) -> u32 {
        match self {
            Kind::Fat16 => 1024,
            Kind::Fat32 => 512,
        }
    }
}

/// The frame of a volume.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Which FAT.
    pub kind: Kind,
    /// Size of the volume, in sectors of 512 bytes.
    pub sectors: u32,
    /// First sector of the volume on its disk.
    pub hidden_sectors: u32,
    /// The FAT serial number.
    pub serial: u32,
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

/// A volume with these files and (empty) directories; parents are made as needed.
pub fn volume(
    frame: Frame,
    files: &[(String, &[u8])],
    directories: &[&str],
) -> io::Result<Vec<u8>> {
    let size = usize::try_from(frame.sectors).map_err(io::Error::other)? * SECTOR_BYTES;
    let mut disk = Cursor::new(vec![0_u8; size]);
    let options = FormatVolumeOptions::new()
        .total_sectors(frame.sectors)
        .bytes_per_cluster(frame.kind.cluster_bytes())
        .fat_type(frame.kind.fat_type())
        .volume_id(frame.serial)
        .volume_label(*LABEL);
    fatfs::format_volume(&mut disk, options)?;
    {
        let fs = open(&mut disk)?;
        for path in directories {
            make_directory(&fs.root_dir(), path)?;
        }
        for (path, bytes) in files {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let mut file = make_directory(&fs.root_dir(), parent)?.create_file(name)?;
            file.write_all(bytes)?;
        }
        // Counted once, so that whoever mounts it need not.
        fs.stats()?;
        fs.unmount()?;
    }
    let mut volume = disk.into_inner();
    tidy(&mut volume);
    set_hidden_sectors(&mut volume, frame.hidden_sectors);
    Ok(volume)
}

/// The content of a file, or nothing if there is none of that name.
pub fn read_file(volume: &[u8], path: &str) -> io::Result<Option<Vec<u8>>> {
    check(volume)?;
    let disk = Finished(volume);
    disk.stick().read(path, MAX_FILE_BYTES).map_err(of_stick)
}

/// The names in a directory.
pub fn list(volume: &[u8], path: &str) -> io::Result<Vec<String>> {
    check(volume)?;
    let disk = Finished(volume);
    let names = disk.stick().list(path).map_err(of_stick)?;
    // None of ours is empty.
    match names.is_empty() {
        true => Err(io::ErrorKind::NotFound.into()),
        false => Ok(names),
    }
}

/// Replaces the content of a file of the root directory or below, in place; creates it if there is none.
pub fn replace_file(volume: &mut [u8], path: &str, content: &[u8]) -> io::Result<()> {
    check(volume)?;
    forget_free_count(volume);
    let mut disk = Cursor::new(volume);
    let fs = open(&mut disk)?;
    fs.stats()?;
    {
        let mut file = fs.root_dir().create_file(path)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(content)?;
        file.truncate()?;
        file.flush()?;
    }
    fs.unmount()
}

/// The number of free clusters that FAT32 notes down is a hint, which `fatfs` would count on.
fn forget_free_count(volume: &mut [u8]) {
    const SIGNATURE: &[u8] = b"rrAa";
    let wide = volume[22..24] == [0, 0];
    let at = usize::from(u16::from_le_bytes([volume[48], volume[49]])) * SECTOR_BYTES;
    if let Some(info) = volume.get_mut(at..at + SECTOR_BYTES)
        && wide
        && info[484..488] == *SIGNATURE
    {
        info[488..496].fill(0xff);
    }
}

/// A finished volume as a device that is read only.
#[derive(Debug)]
struct Finished<'v>(&'v [u8]);

impl Finished<'_> {
    fn stick(&self) -> Stick<'_> {
        let region = Region {
            start: ByteOffset(0),
            length: self.size(),
        };
        Stick::new(self, region)
    }
}

impl BlockDevice for Finished<'_> {
    fn sector_size(&self) -> SectorSize {
        SectorSize::S512
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset.0).map_err(io::Error::other)?;
        let end = start.saturating_add(buf.len());
        let there = self.0.get(start..end);
        buf.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: ByteOffset, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Walks over a volume before anything in it counts: whether every number leads somewhere, and no two chains meet.
fn check(volume: &[u8]) -> io::Result<()> {
    Finished(volume).stick().check().map_err(of_stick)
}

fn of_stick(error: ReadError) -> io::Error {
    match error {
        ReadError::Device(error) => error,
        large @ ReadError::TooLarge { .. } => io::Error::other(large),
        damage => {
            let why = format!("its FAT volume is damaged: {damage}");
            io::Error::new(io::ErrorKind::InvalidData, why)
        }
    }
}

fn open<T: Read + Write + Seek>(disk: &mut T) -> io::Result<FileSystem<&mut T>> {
    FileSystem::new(disk, FsOptions::new().time_provider(&EPOCH))
}

fn make_directory<'a, T: Read + Write + Seek>(
    root: &Dir<'a, T>,
    path: &str,
) -> io::Result<Dir<'a, T>> {
    let mut dir = root.clone();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        dir = dir.create_dir(name)?;
    }
    Ok(dir)
}

/// Where things are in a volume, in bytes from its start.
struct Geometry {
    cluster_bytes: usize,
    data_at: usize,
    root: Vec<Range<usize>>,
}

impl Geometry {
    /// For volumes that were just formatted here, so nothing needs to be doubted.
    fn of(volume: &[u8]) -> Self {
        let half = |at: usize| usize::from(u16::from_le_bytes([volume[at], volume[at + 1]]));
        let sector_bytes = half(11);
        let fat_at = half(14) * sector_bytes;
        let root_entries = half(17);
        let fat_sectors = match half(22) {
            0 => word(volume, 36),
            sectors => sectors,
        };
        let root_at = fat_at + usize::from(volume[16]) * fat_sectors * sector_bytes;
        let mut geometry = Self {
            cluster_bytes: usize::from(volume[13]) * sector_bytes,
            data_at: root_at + root_entries * ENTRY_BYTES,
            root: Vec::new(),
        };
        geometry.root = match root_entries {
            0 => geometry.fat32_chain(volume, fat_at, word(volume, 44)),
            _ => std::iter::once(root_at..geometry.data_at).collect(),
        };
        geometry
    }

    fn fat32_chain(&self, volume: &[u8], fat_at: usize, first: usize) -> Vec<Range<usize>> {
        let mut chain = Vec::new();
        let mut number = first;
        while let Some(place) = self
            .cluster(number)
            .filter(|place| place.end <= volume.len())
        {
            chain.push(place);
            number = word(volume, fat_at + number * 4) & FAT32_NUMBER as usize;
        }
        chain
    }

    fn cluster(&self, number: usize) -> Option<Range<usize>> {
        let at = self.data_at + number.checked_sub(2)? * self.cluster_bytes;
        Some(at..at + self.cluster_bytes)
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    let half = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    half(at + 2) << 16 | half(at)
}

/// The crate fatfs 0.3 gives even `.` and `..` a long name, where the format wants them bare in the first two slots,
/// and `..` of a directory in the root names the root's cluster, where the format wants 0; fsck.fat complains, and a
/// firmware may too. Mends both in every directory. Those below the root have one cluster each: there are only a
/// few files.
fn tidy(volume: &mut [u8]) {
    let geometry = Geometry::of(volume);
    let mut todo: Vec<(Range<usize>, bool)> = geometry
        .root
        .iter()
        .map(|place| (place.clone(), true))
        .collect();
    while let Some((place, in_root)) = todo.pop() {
        let entries: Vec<[u8; ENTRY_BYTES]> = volume[place].as_chunks().0.to_vec();
        for entry in entries.iter().filter(|entry| is_subdirectory(entry)) {
            let Some(place) = geometry.cluster(first_cluster(entry)) else {
                continue;
            };
            move_dots_first(&mut volume[place.clone()]);
            if in_root {
                clear_first_cluster(&mut volume[place.start + ENTRY_BYTES..place.end]);
            }
            todo.push((place, false));
        }
    }
}

fn is_subdirectory(entry: &[u8; ENTRY_BYTES]) -> bool {
    let (first, attributes) = (entry[0], entry[11]);
    !matches!(first, 0 | DELETED | b'.')
        && attributes & LONG_NAME != LONG_NAME
        && attributes & DIRECTORY != 0
}

fn first_cluster(entry: &[u8; ENTRY_BYTES]) -> usize {
    let half = |at: usize| usize::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
    half(20) << 16 | half(26)
}

fn clear_first_cluster(entry: &mut [u8]) {
    entry[20..22].fill(0);
    entry[26..28].fill(0);
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

/// In the boot sector, and in its copy if there is one.
fn set_hidden_sectors(volume: &mut [u8], hidden: u32) {
    // Offset 22 holds the size of the FAT in FAT16, and 0 in FAT32, which alone has a copy of the boot sector.
    let copy = match u16::from_le_bytes([volume[22], volume[23]]) {
        0 => usize::from(volume[50]) * SECTOR_BYTES,
        _ => 0,
    };
    for at in [0, copy] {
        volume[at + 28..at + 32].copy_from_slice(&hidden.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind) -> Frame {
        Frame {
            kind,
            sectors: match kind {
                Kind::Fat16 => 9000,
                Kind::Fat32 => 70_000,
            },
            hidden_sectors: 4096,
            serial: 0x1234_5678,
        }
    }

    fn made(kind: Kind) -> Vec<u8> {
        let files: [(String, &[u8]); 3] = [
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), &[1; 900_000]),
            ("EFI/BOOT/grubx64.efi".to_owned(), &[3; 1_900_000]),
            ("rescue.toml".to_owned(), b"# nothing\n"),
        ];
        volume(frame(kind), &files, &["reports"]).unwrap()
    }

    #[test]
    fn volumes_hold_what_firmware_looks_for() {
        for kind in [Kind::Fat16, Kind::Fat32] {
            let volume = made(kind);
            assert_eq!(volume[28..32], 4096_u32.to_le_bytes());
            for (path, first, size) in [
                ("EFI/BOOT/BOOTX64.EFI", 1, 900_000),
                ("efi/boot/GRUBX64.EFI", 3, 1_900_000),
            ] {
                let bytes = read_file(&volume, path).unwrap().unwrap();
                assert_eq!((bytes[0], bytes.len()), (first, size));
            }
            assert_eq!(read_file(&volume, "none").unwrap(), None);
            let fs = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
            assert_eq!(
                (fs.fat_type(), fs.volume_id()),
                (kind.fat_type(), 0x1234_5678)
            );
            assert!(fs.root_dir().open_dir("reports").is_ok());
        }
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        assert_eq!(made(Kind::Fat32), made(Kind::Fat32));
    }

    #[test]
    fn a_file_is_replaced_by_a_longer_and_a_shorter_one() {
        let mut volume = made(Kind::Fat32);
        for content in [vec![b'x'; 5000], Vec::new(), b"countdown = 0\n".to_vec()] {
            replace_file(&mut volume, "rescue.toml", &content).unwrap();
            assert_eq!(read_file(&volume, "rescue.toml").unwrap().unwrap(), content);
        }
    }

    /// Whatever stands in a volume: an answer or an error, in a time that its length bounds.
    #[test]
    fn no_altered_byte_makes_it_panic() {
        for kind in [Kind::Fat16, Kind::Fat32] {
            let whole = made(kind);
            let geometry = Geometry::of(&whole);
            let root = geometry.root[0].start;
            let table = usize::from(u16::from_le_bytes([whole[14], whole[15]])) * SECTOR_BYTES;
            let used = |from: usize, to: usize| (from..to).filter(|at| whole[*at] != 0);
            // Every field of the parameter block, and a sample of the rest; the fuzz target `image` tries all.
            let places = used(0, 64)
                .chain([11, 13, 16, 17, 18, 19, 22, 23, 35, 39, 45, 46, 47, 48, 50])
                .chain(used(64, 1024).step_by(23))
                .chain(used(table, table + 24).step_by(3))
                .chain(used(root, root + 256).step_by(5));
            let places: Vec<usize> = places.collect();
            let mut volume = whole.clone();
            for at in places {
                for value in [0, 1, 0x7f, 0xff] {
                    volume[at] = value;
                    let _ = read_file(&volume, "rescue.toml");
                    let _ = list(&volume, "EFI/BOOT");
                    if value == 1 {
                        let mut changed = volume.clone();
                        let _ = replace_file(&mut changed, "rescue.toml", &[b'x'; 5000]);
                    }
                }
                volume[at] = whole[at];
            }
        }
    }

    #[test]
    fn loops_and_clusters_that_do_not_exist_are_damage() {
        let whole = made(Kind::Fat32);
        let table = usize::from(u16::from_le_bytes([whole[14], whole[15]])) * SECTOR_BYTES;
        let first = Geometry::of(&whole).root[0].start;
        for entry in 0..8 {
            let at = first + entry * ENTRY_BYTES;
            let slot: [u8; ENTRY_BYTES] = whole[at..at + ENTRY_BYTES].try_into().unwrap();
            if !is_subdirectory(&slot) {
                continue;
            }
            let cluster = first_cluster(&slot);
            for next in [1, u32::try_from(cluster).unwrap(), 0x0abc_def0] {
                let mut bad = whole.clone();
                let link = table + cluster * 4;
                bad[link..link + 4].copy_from_slice(&next.to_le_bytes());
                let error = list(&bad, "EFI").unwrap_err();
                assert!(error.to_string().contains("damaged"), "{error}");
            }
            let mut bad = whole.clone();
            bad[at + 26] = 1;
            assert!(list(&bad, "EFI").is_err());
        }
    }

    #[test]
    fn a_wrong_number_of_free_clusters_hurts_nobody() {
        for count in [0_u32, 1, 0xffff_fff0] {
            let mut volume = made(Kind::Fat32);
            volume[512 + 488..512 + 492].copy_from_slice(&count.to_le_bytes());
            replace_file(&mut volume, "rescue.toml", &[b'x'; 5000]).unwrap();
            assert_eq!(
                read_file(&volume, "rescue.toml").unwrap().unwrap(),
                [b'x'; 5000]
            );
        }
    }

    #[test]
    fn what_is_no_fat_volume_is_an_error() {
        assert!(read_file(&[0; 4096], "x").is_err());
        assert!(read_file(&[], "x").is_err());
    }
}
