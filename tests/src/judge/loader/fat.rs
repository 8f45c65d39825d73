//! FAT as the loader reads it (`libfat/`, `bootlib/file.c`): sector by sector, the first table only.
//!
//! The boot sector's signature, the second table, a file's attributes and the end of a chain beyond
//! the file's size are not looked at, and the partition's end is no border. Every link that is
//! followed must lead somewhere: the one behind a file's last sector, too, if that is the last one
//! of its cluster.

use anyhow::{Result, bail, ensure};

use super::Disk;

/// Bytes of a directory's slot.
const SLOT: usize = 32;

/// The most bytes of a file that are read here; the files of the tests are far below.
const MOST_BYTES: u32 = 512 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits12,
    Bits16,
    Bits28,
}

/// A volume.
#[derive(Debug)]
pub(super) struct Volume<'m> {
    disk: Disk<'m>,
    first: u64,
    /// Sectors of the volume, from its start.
    table: u32,
    root: u32,
    data: u32,
    /// Sectors of a cluster, as a power of two.
    shift: u32,
    end_cluster: u32,
    root_cluster: u32,
    width: Width,
}

/// What the directory says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    File { cluster: u32, size: u32 },
}

/// Where a chain goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Sector(u32),
    End,
}

fn le16(bytes: &[u8], at: usize) -> u32 {
    u32::from(bytes[at]) | u32::from(bytes[at + 1]) << 8
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    le16(bytes, at) | le16(bytes, at + 2) << 16
}

/// The loader's short name for a path: leading slashes gone, blanks left out, eight characters up to
/// the first dot, three behind it, capitals.
pub(super) fn short_name(path: &str) -> [u8; 11] {
    let path = path.trim_start_matches('/').as_bytes();
    let dot = path.iter().position(|byte| *byte == b'.');
    let (stem, suffix) = match dot {
        Some(dot) => (&path[..dot], &path[dot + 1..]),
        None => (path, &[][..]),
    };
    let mut name = [b' '; 11];
    let put = |from: &[u8], to: &mut [u8]| {
        let letters = from.iter().filter(|byte| **byte != b' ');
        for (place, letter) in to.iter_mut().zip(letters) {
            *place = letter.to_ascii_uppercase();
        }
    };
    put(stem, &mut name[..8]);
    put(suffix, &mut name[8..]);
    name
}

impl<'m> Volume<'m> {
    /// Opens the volume that begins at a sector of the disk.
    pub(super) fn open(disk: Disk<'m>, first: u64) -> Result<Self> {
        let boot = disk.read(first, 1)?;
        let sector = u32::try_from(disk.sector_bytes())?;
        ensure!(le16(&boot, 11) == sector, "not the disk's sectors");
        ensure!([512, 4096].contains(&sector), "sectors of {sector} bytes");
        let shift = match boot[13] {
            0 => 8,
            power if power.is_power_of_two() => power.trailing_zeros(),
            other => bail!("clusters of {other} sectors"),
        };
        let sectors = match le16(&boot, 19) {
            0 => le32(&boot, 32),
            small => small,
        };
        let table_sectors = match le16(&boot, 22) {
            0 => le32(&boot, 36),
            small => small,
        };
        let table = le16(&boot, 14);
        let root = table_sectors
            .wrapping_mul(u32::from(boot[16]))
            .wrapping_add(table);
        let root_sectors = (le16(&boot, 17) * 32).div_ceil(sector);
        let data = root.wrapping_add(root_sectors);
        ensure!(data < sectors, "no room for data");
        let clusters = (sectors - data) >> shift;
        let end_cluster = clusters + 2;
        let (width, least) = match clusters {
            0..=0xff4 => (Width::Bits12, end_cluster + end_cluster / 2),
            0xff5..=0xfff4 => (Width::Bits16, end_cluster * 2),
            0xfff5..=0x0fff_fff4 => (Width::Bits28, end_cluster * 4),
            _ => bail!("{clusters} clusters"),
        };
        ensure!(
            least.div_ceil(sector) <= table_sectors,
            "the table is too small"
        );
        let root_cluster = match width {
            Width::Bits28 => le32(&boot, 44),
            _ => 0,
        };
        Ok(Self {
            disk,
            first,
            table,
            root,
            data,
            shift,
            end_cluster,
            root_cluster,
            width,
        })
    }

    /// The first slot of the root directory with these eleven bytes, whatever kind of slot it is.
    pub(super) fn find(&self, name: &[u8; 11]) -> Result<Found> {
        let mut at = self.sector_of(0)?;
        // A directory that closes on itself would be read for ever.
        for _ in 0..=u32::from(u16::MAX) {
            for slot in self.sector(at)?.chunks_exact(SLOT) {
                if slot[..11] == *name {
                    return Ok(Found::File {
                        cluster: le16(slot, 26) | le16(slot, 20) << 16,
                        size: le32(slot, 28),
                    });
                }
                if slot[0] == 0 {
                    return Ok(Found::Nothing);
                }
            }
            match self.next(at)? {
                Next::Sector(next) => at = next,
                Next::End => return Ok(Found::Nothing),
            }
        }
        bail!("the directory has no end")
    }

    /// The content of a file.
    pub(super) fn load(&self, cluster: u32, size: u32) -> Result<Vec<u8>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        ensure!(size <= MOST_BYTES, "{size} bytes");
        let count = size.div_ceil(u32::try_from(self.disk.sector_bytes())?);
        let mut at = Next::Sector(self.sector_of(cluster)?);
        let mut content = Vec::new();
        for _ in 0..count {
            // Behind the end of a chain there is nothing more to read.
            let Next::Sector(sector) = at else {
                bail!("its chain ends before its size");
            };
            content.extend(self.sector(sector)?);
            at = self.next(sector)?;
        }
        content.truncate(usize::try_from(size)?);
        Ok(content)
    }

    fn sector(&self, number: u32) -> Result<Vec<u8>> {
        self.disk.read(self.first + u64::from(number), 1)
    }

    /// The first sector of a cluster; 0 is the root directory.
    fn sector_of(&self, cluster: u32) -> Result<u32> {
        match if cluster == 0 {
            self.root_cluster
        } else {
            cluster
        } {
            0 => Ok(self.root),
            cluster if (2..self.end_cluster).contains(&cluster) => {
                Ok(self.data + ((cluster - 2) << self.shift))
            }
            other => bail!("a link leads to cluster {other:#x}"),
        }
    }

    fn next(&self, sector: u32) -> Result<Next> {
        if sector < self.data {
            ensure!(sector >= self.root, "a sector before the directory");
            return Ok(match sector + 1 {
                next if next < self.data => Next::Sector(next),
                _ => Next::End,
            });
        }
        let inside = sector - self.data;
        if !(inside + 1).is_multiple_of(1 << self.shift) {
            return Ok(Next::Sector(sector + 1));
        }
        let cluster = 2 + (inside >> self.shift);
        ensure!(cluster < self.end_cluster, "a cluster beyond the volume");
        let (link, end) = self.link(cluster)?;
        match link >= end {
            true => Ok(Next::End),
            false => self.sector_of(link).map(Next::Sector),
        }
    }

    /// A cluster's link, and the first value that ends a chain.
    fn link(&self, cluster: u32) -> Result<(u32, u32)> {
        Ok(match self.width {
            Width::Bits12 => {
                let at = cluster + cluster / 2;
                let pair = self.table_byte(at)? | self.table_byte(at + 1)? << 8;
                let odd = cluster % 2 == 1;
                (if odd { pair >> 4 } else { pair & 0xfff }, 0xff8)
            }
            Width::Bits16 => {
                let at = cluster * 2;
                (self.table_byte(at)? | self.table_byte(at + 1)? << 8, 0xfff8)
            }
            // The loader does not divide by the sector's size here. ESXi has no such volumes.
            Width::Bits28 => bail!("a chain of FAT32"),
        })
    }

    fn table_byte(&self, at: u32) -> Result<u32> {
        let sector_bytes = u32::try_from(self.disk.sector_bytes())?;
        let sector = self.sector(self.table + at / sector_bytes)?;
        Ok(u32::from(sector[(at % sector_bytes) as usize]))
    }
}
