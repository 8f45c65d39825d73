//! A FAT volume as the loader reads it: from the first table, without looking at the boot sector's
//! signature, at attributes, at the second table, or at the end of the partition (`libfat/`).

use std::cell::RefCell;
use std::collections::HashMap;

use super::{Refused, Sectors, not};
use crate::bytes::{u16_at, u32_at};
use crate::fat::ShortName;

const ENTRY_BYTES: u32 = 32;
/// Above this a file is no archive and no boot.cfg: bounds memory.
const FILE_BYTES_MAX: u32 = 256 << 20;
/// Slots of a root directory that are looked at; no real one has more than 512.
const ROOT_ENTRIES_MAX: u32 = 65_536;

/// A volume that begins at a sector of the disk.
#[derive(Debug)]
pub(super) struct Volume<'d> {
    disk: Sectors<'d>,
    first: u64,
    /// First sector of the table, of the root directory and of the data, from the volume's start.
    table: u32,
    root: u32,
    data: u32,
    cluster_sectors: u32,
    /// One more than the highest number of a cluster.
    end: u32,
    is_fat12: bool,
    /// Sectors of the table that were read already.
    table_sectors: RefCell<HashMap<u32, Vec<u8>>>,
}

impl<'d> Volume<'d> {
    pub(super) fn open(disk: Sectors<'d>, first: u64) -> Result<Self, Refused> {
        let boot = disk.read(first, 1, "the boot sector")?;
        let sector = u32::from(u16_at(&boot, 11));
        if sector != disk.bytes {
            return Err(not(format!("its sectors have {sector} bytes")));
        }
        let cluster_sectors = match u32::from(boot[13]) {
            0 => 256,
            power if power.is_power_of_two() => power,
            other => return Err(not(format!("{other} sectors per cluster"))),
        };
        let either = |small: usize, large: usize| match u16_at(&boot, small) {
            0 => u32_at(&boot, large),
            small => u32::from(small),
        };
        let (sectors, table_sectors) = (either(19, 32), either(22, 36));
        let table = u32::from(u16_at(&boot, 14));
        let tables = table_sectors.wrapping_mul(u32::from(boot[16]));
        let root = table.wrapping_add(tables);
        let root_sectors = (u32::from(u16_at(&boot, 17)) * 32).div_ceil(sector);
        let data = root.wrapping_add(root_sectors);
        if data >= sectors {
            return Err(not("no room for data"));
        }
        let clusters = (sectors - data) / cluster_sectors;
        let end = clusters + 2;
        let is_fat12 = clusters < 4085;
        let bytes = if is_fat12 { end + end / 2 } else { end * 2 };
        if clusters >= 65_525 || bytes.div_ceil(sector) > table_sectors {
            return Err(not(format!("{clusters} clusters")));
        }
        Ok(Self {
            disk,
            first,
            table,
            root,
            data,
            cluster_sectors,
            end,
            is_fat12,
            table_sectors: RefCell::default(),
        })
    }

    /// Whether a file of that name is there, and the loader can follow it to its end.
    pub(super) fn has(&self, name: ShortName) -> Result<bool, Refused> {
        match self.find(name)? {
            Some((cluster, size)) => self.sectors_of(cluster, size).map(|_| true),
            None => Ok(false),
        }
    }

    /// The content of the first entry of that name.
    pub(super) fn load(&self, name: ShortName) -> Result<Option<Vec<u8>>, Refused> {
        let Some((cluster, size)) = self.find(name)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        for run in self.sectors_of(cluster, size)?.chunk_by(|a, b| a + 1 == *b) {
            content.extend(self.sectors(run[0], run.len() as u64, "a file")?);
        }
        content.truncate(size as usize);
        Ok(Some(content))
    }

    /// First cluster and size of the first entry of that name, whatever the entry is.
    fn find(&self, name: ShortName) -> Result<Option<(u32, u32)>, Refused> {
        let per_sector = self.disk.bytes / ENTRY_BYTES;
        for sector in self.root..self.data.min(self.root + ROOT_ENTRIES_MAX / per_sector) {
            for slot in self
                .sectors(sector, 1, "the root directory")?
                .chunks_exact(ENTRY_BYTES as usize)
            {
                if slot[..11] == *name.raw() {
                    let high = u32::from(u16_at(slot, 20)) << 16;
                    return Ok(Some((high | u32::from(u16_at(slot, 26)), u32_at(slot, 28))));
                }
                if slot[0] == 0 {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// The sectors of a file, in order. The chain is followed from sector to sector, and once more
    /// behind the last one, so that what stands there must lead somewhere, too.
    fn sectors_of(&self, cluster: u32, size: u32) -> Result<Vec<u32>, Refused> {
        if size > FILE_BYTES_MAX {
            return Err(not(format!("a file of {size} bytes")));
        }
        let count = size.div_ceil(self.disk.bytes) as usize;
        let mut sectors = Vec::with_capacity(count);
        let mut at = match count {
            0 => None,
            _ => Some(self.start_of(cluster)?),
        };
        while sectors.len() < count {
            let sector = at.ok_or_else(|| not("its chain ends before its size"))?;
            sectors.push(sector);
            at = self.behind(sector)?;
        }
        Ok(sectors)
    }

    /// The first sector of a cluster. Cluster 0 is the root directory, also for a file.
    fn start_of(&self, cluster: u32) -> Result<u32, Refused> {
        match cluster {
            0 => Ok(self.root),
            cluster if (2..self.end).contains(&cluster) => {
                Ok(self.data + (cluster - 2) * self.cluster_sectors)
            }
            other => Err(not(format!("its chain leads to cluster {other:#x}"))),
        }
    }

    /// The sector behind a sector; `None` at the end of a chain.
    fn behind(&self, sector: u32) -> Result<Option<u32>, Refused> {
        if sector < self.data {
            return Ok(Some(sector + 1).filter(|next| *next < self.data));
        }
        let within = sector - self.data;
        if !(within + 1).is_multiple_of(self.cluster_sectors) {
            return Ok(Some(sector + 1));
        }
        let cluster = 2 + within / self.cluster_sectors;
        let (link, end) = match self.is_fat12 {
            true => {
                let at = cluster + cluster / 2;
                let pair = self.table_byte(at)? | self.table_byte(at + 1)? << 8;
                let odd = cluster % 2 == 1;
                (if odd { pair >> 4 } else { pair & 0xfff }, 0xff8)
            }
            false => {
                let at = cluster * 2;
                (self.table_byte(at)? | self.table_byte(at + 1)? << 8, 0xfff8)
            }
        };
        match link >= end {
            true => Ok(None),
            false => self.start_of(link).map(Some),
        }
    }

    fn table_byte(&self, at: u32) -> Result<u32, Refused> {
        let (number, offset) = (at / self.disk.bytes, (at % self.disk.bytes) as usize);
        if let Some(sector) = self.table_sectors.borrow().get(&number) {
            return Ok(u32::from(sector[offset]));
        }
        let sector = self.sectors(self.table + number, 1, "the allocation table")?;
        let byte = u32::from(sector[offset]);
        self.table_sectors.borrow_mut().insert(number, sector);
        Ok(byte)
    }

    fn sectors(&self, from: u32, count: u64, what: &'static str) -> Result<Vec<u8>, Refused> {
        let sector = self.first.saturating_add(u64::from(from));
        self.disk.read(sector, count, what)
    }
}
