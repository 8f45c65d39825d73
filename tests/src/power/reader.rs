//! Reads a bank the way VMware's boot loader does, to judge what is on a disk.
//!
//! A fresh implementation from the loader's rules, sharing no code with the agent. The rules, and
//! where they stand in VMware's esx-boot: the volume's sector size must be the disk's
//! (`libfat/open.c`); only the first allocation table is read, and a chain may not lead to an
//! impossible cluster (`libfat/fatchain.c`); only the root directory is searched, for the eleven
//! raw bytes of the 8.3 name, first match, attributes not looked at, up to the first slot that
//! starts with zero (`libfat/searchdir.c`); the file must decompress as one gzip member whose
//! checksum and length are its last eight bytes (`bootlib/gzip.c`).
//!
//! Stricter than the loader in one point: the chain must end exactly where the size says.

use anyhow::{Result, bail, ensure};
use flate2::{Decompress, FlushDecompress, Status};

use super::medium::Source;

/// Largest content this judge decompresses, in bytes.
const MAX_CONTENT: usize = 64 << 20;
const SLOT: usize = 32;

/// A volume, seen by the loader.
#[derive(Debug)]
pub struct Loader<'s, S> {
    source: &'s S,
    /// Byte offset of cluster 2 on the device.
    data: u64,
    cluster_bytes: u64,
    end_cluster: u32,
    wide: bool,
    table: Vec<u8>,
    root: Vec<u8>,
}

fn le16(bytes: &[u8], at: usize) -> u32 {
    u32::from(bytes[at]) | u32::from(bytes[at + 1]) << 8
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    le16(bytes, at) | le16(bytes, at + 2) << 16
}

impl<'s, S: Source> Loader<'s, S> {
    /// Opens the volume that starts at byte `start` of a disk with sectors of `sector` bytes.
    ///
    /// # Errors
    /// What the loader would refuse.
    pub fn open(source: &'s S, start: u64, sector: usize) -> Result<Self> {
        let boot = source.bytes(start, sector)?;
        ensure!(
            le16(&boot, 11) as usize == sector,
            "not the disk's sector size"
        );
        ensure!(sector == 512 || sector == 4096, "{sector} bytes per sector");
        ensure!(
            boot[13].is_power_of_two(),
            "{} sectors per cluster",
            boot[13]
        );
        let sectors = match le16(&boot, 19) {
            0 => le32(&boot, 32),
            small => small,
        };
        let (reserved, copies) = (le16(&boot, 14), u32::from(boot[16]));
        let (slots, table_sectors) = (le16(&boot, 17), le16(&boot, 22));
        let root = reserved + copies * table_sectors;
        let root_sectors = (slots as usize * SLOT).div_ceil(sector);
        let data = root + u32::try_from(root_sectors)?;
        ensure!(data < sectors, "no room for data");
        let clusters = (sectors - data) / u32::from(boot[13]);
        ensure!(clusters <= 0xfff4, "not FAT12 or FAT16");
        let wide = clusters > 0xff4;
        let byte = |number: u32| start + u64::from(number) * sector as u64;
        Ok(Self {
            source,
            data: byte(data),
            cluster_bytes: u64::from(boot[13]) * sector as u64,
            end_cluster: clusters + 2,
            wide,
            table: source.bytes(byte(reserved), table_sectors as usize * sector)?,
            root: source.bytes(byte(root), root_sectors * sector)?,
        })
    }

    /// The first slot of the root directory with these eleven bytes.
    pub fn slot(&self, name: &[u8; 11]) -> Option<&[u8]> {
        for slot in self.root.chunks_exact(SLOT) {
            if &slot[..11] == name {
                return Some(slot);
            }
            if slot[0] == 0 {
                return None;
            }
        }
        None
    }

    /// The content of a file; `None` when there is no such file.
    ///
    /// # Errors
    /// When its chain is not closed exactly where its size ends.
    pub fn load(&self, name: &[u8; 11]) -> Result<Option<Vec<u8>>> {
        let Some(slot) = self.slot(name) else {
            return Ok(None);
        };
        let size = le32(slot, 28) as usize;
        if size == 0 {
            return Ok(Some(Vec::new()));
        }
        let clusters = (size as u64).div_ceil(self.cluster_bytes);
        ensure!(
            clusters <= u64::from(self.end_cluster),
            "larger than the volume"
        );
        let mut content = Vec::with_capacity(size);
        let mut cluster = le16(slot, 26) | le16(slot, 20) << 16;
        for _ in 0..clusters {
            ensure!(
                (2..self.end_cluster).contains(&cluster),
                "the chain leads to {cluster:#x}"
            );
            let at = self.data + u64::from(cluster - 2) * self.cluster_bytes;
            let wanted = (size - content.len()).min(usize::try_from(self.cluster_bytes)?);
            let filled = content.len();
            content.resize(filled + wanted, 0);
            self.source.read(at, &mut content[filled..])?;
            cluster = self.next(cluster);
        }
        ensure!(self.ends(cluster), "the chain goes on to {cluster:#x}");
        Ok(Some(content))
    }

    fn next(&self, cluster: u32) -> u32 {
        if self.wide {
            return le16(&self.table, cluster as usize * 2);
        }
        let pair = le16(&self.table, cluster as usize + cluster as usize / 2);
        match cluster % 2 {
            0 => pair & 0xfff,
            _ => pair >> 4,
        }
    }

    fn ends(&self, entry: u32) -> bool {
        entry >= if self.wide { 0xfff8 } else { 0xff8 }
    }
}

/// Decompresses a file as the loader does: one gzip member, nothing behind it, checksum and
/// length in the last eight bytes.
///
/// # Errors
/// What the loader would refuse.
pub fn gunzip(file: &[u8]) -> Result<Vec<u8>> {
    let start = gzip_header(file)?;
    ensure!(file.len() > start + 8, "too short for a gzip file");
    let (stream, trailer) = file[start..].split_at(file.len() - start - 8);
    let length = le32(trailer, 4) as usize;
    ensure!(length <= MAX_CONTENT, "{length} bytes of content");
    let mut content = vec![0; length + 1];
    let mut inflate = Decompress::new(false);
    let status = inflate.decompress(stream, &mut content, FlushDecompress::Finish)?;
    ensure!(
        status == Status::StreamEnd,
        "the stream does not end: {status:?}"
    );
    ensure!(
        inflate.total_in() == stream.len() as u64,
        "bytes behind the gzip member"
    );
    ensure!(
        inflate.total_out() == length as u64,
        "not as long as it says"
    );
    content.truncate(length);
    ensure!(crc32(&content) == le32(trailer, 0), "checksum error");
    Ok(content)
}

fn gzip_header(file: &[u8]) -> Result<usize> {
    ensure!(
        file.len() >= 10 && file[..3] == [0x1f, 0x8b, 8],
        "no gzip header"
    );
    let flags = file[3];
    ensure!(flags & 0xe0 == 0, "reserved gzip flags");
    let mut at = 10;
    if flags & 4 != 0 {
        ensure!(file.len() >= 12, "gzip header cut off");
        at += 2 + le16(file, 10) as usize;
    }
    for text in [8, 16] {
        if flags & text != 0 {
            match file.iter().skip(at).position(|byte| *byte == 0) {
                Some(length) => at += length + 1,
                None => bail!("gzip header cut off"),
            }
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    Ok(at)
}

/// The checksum of RFC 1952, section 8, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ 0xedb8_8320 & 0_u32.wrapping_sub(crc & 1);
        }
    }
    !crc
}
