//! Seeded changes of what tells where and what an ESXi disk's banks are: partition table, boot
//! sector, allocation tables, root directory and boot.cfg.
//!
//! Bytes at random, and changes that mean something: entries that move by a sector, checksums made
//! anew, chains that go on or turn back, slots that stand before others, values of boot.cfg.

use std::fmt;

use anyhow::{Context, Result, ensure};

use super::Made;
use super::layout::Scheme;
use crate::power::medium::{Medium, Source};
use crate::power::rng::Rng;

/// Bytes of a directory's slot.
const SLOT: u64 = 32;
/// Slots of a root directory that are in use on the disks of the tests, and a few more.
const USED_SLOTS: usize = 24;
/// Bytes of a GPT entry that are in use, and entries of the disks of the tests.
const ENTRY: u64 = 128;
const ENTRIES: usize = 10;
/// The files whose slots and chains are changed most.
const FILES: [&[u8; 11]; 3] = [b"BOOT    CFG", b"STATE   TGZ", b"LOCAL   TGZ"];

/// A disk that changes are made to.
#[derive(Debug)]
pub struct Subject<'m> {
    medium: &'m Medium,
    scheme: Scheme,
    banks: Vec<Bank>,
}

/// A bank's volume, as its boot sector lays it out: byte offsets on the disk.
#[derive(Debug, Clone)]
struct Bank {
    start: u64,
    tables: [u64; 2],
    root: u64,
    data: u64,
    cluster: u64,
    wide: bool,
}

/// A changed disk, and what was changed.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The disk.
    pub medium: Medium,
    /// What was done to it.
    pub what: Vec<String>,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what.join("; "))
    }
}

impl<'m> Subject<'m> {
    /// The disk `medium`, which was made as `made`.
    ///
    /// # Errors
    /// When its banks cannot be read.
    pub fn new(medium: &'m Medium, made: &Made) -> Result<Self> {
        let banks = made.layout.banks();
        let banks = banks
            .iter()
            .map(|bank| Bank::at(medium, made.layout.bytes(bank).start));
        Ok(Self {
            medium,
            scheme: made.layout.scheme,
            banks: banks.collect::<Result<_>>()?,
        })
    }

    /// One change, or two.
    pub fn change(&self, rng: &mut Rng) -> Changed {
        let mut changed = Changed {
            medium: self.medium.clone(),
            what: Vec::new(),
        };
        for _ in 0..1 + usize::from(rng.one_in(3)) {
            let mut medium = changed.medium.clone();
            // What an earlier change has made of the disk may leave nothing for this one to change.
            if let Ok(what) = self.one(&mut medium, rng) {
                changed.medium = medium;
                changed.what.push(what);
            }
        }
        changed
    }

    fn one(&self, medium: &mut Medium, rng: &mut Rng) -> Result<String> {
        let number = rng.below(self.banks.len());
        let bank = &self.banks[number];
        let what = match rng.below(12) {
            0 => return self.table_bytes(medium, rng),
            1 | 2 if self.scheme == Scheme::Gpt => return gpt(medium, rng),
            1 | 2 => return self.table_bytes(medium, rng),
            3 => bank.bytes(medium, rng)?,
            4 | 5 => bank.boot_sector(medium, rng)?,
            6 | 7 => bank.chain(medium, rng)?,
            8 | 9 => bank.slot(medium, rng)?,
            _ => bank.boot_cfg(medium, rng)?,
        };
        Ok(format!("bank {number}: {what}"))
    }

    /// Bytes of the partition table.
    fn table_bytes(&self, medium: &mut Medium, rng: &mut Rng) -> Result<String> {
        let places: &[(u64, usize)] = match self.scheme {
            Scheme::Gpt => &[(446, 66), (512, 92), (1024, 1024)],
            Scheme::Mbr => &[(446, 66)],
        };
        let (at, length) = places[rng.below(places.len())];
        bytes(medium, at, length, rng)
    }
}

fn number(medium: &Medium, at: u64, length: usize) -> Result<u64> {
    let bytes = medium.bytes(at, length)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn put(medium: &mut Medium, at: u64, length: usize, value: u64) -> Result<()> {
    medium.patch(at, &value.to_le_bytes()[..length])
}

/// Changes one to four bytes of a range.
fn bytes(medium: &mut Medium, at: u64, length: usize, rng: &mut Rng) -> Result<String> {
    let mut what = Vec::new();
    for _ in 0..=rng.below(4) {
        let place = at + rng.below(length) as u64;
        let old = medium.bytes(place, 1)?[0];
        let new = match rng.below(5) {
            0 => 0,
            1 => 0xff,
            2 => old.wrapping_add(1),
            3 => old ^ 1 << rng.below(8),
            _ => rng.bits().to_le_bytes()[0],
        };
        medium.patch(place, &[new])?;
        what.push(format!("byte {place:#x} {old:#04x} to {new:#04x}"));
    }
    Ok(what.join(", "))
}

/// A small step up or down, or something else altogether.
fn near(value: u64, rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => value.wrapping_add(rng.below(64) as u64),
        3 => value.wrapping_sub(rng.below(64) as u64),
        4 => 0,
        _ => rng.bits() >> rng.below(64),
    }
}

/// Changes entries of the GPT, or fields of its header, and makes the checksums anew.
fn gpt(medium: &mut Medium, rng: &mut Rng) -> Result<String> {
    let sector = medium.sector_bytes() as u64;
    // An earlier change may have moved it off the disk; the entries are where they were.
    let size = medium.size();
    let moved = number(medium, sector + 72, 8)?.checked_mul(sector);
    let on_disk = |at: &u64| *at <= size.saturating_sub(ENTRY * ENTRIES as u64);
    let table = moved.filter(on_disk).unwrap_or(2 * sector);
    let entry = |index: usize| table + index as u64 * ENTRY;
    let one = entry(rng.below(ENTRIES));
    let what = match rng.below(8) {
        0..=2 => {
            let field = [32, 40][rng.below(2)];
            let old = number(medium, one + field, 8)?;
            let new = near(old, rng);
            put(medium, one + field, 8, new)?;
            format!("entry at {one:#x}: field {field} {old} to {new}")
        }
        3 => {
            let other = entry(rng.below(ENTRIES));
            let (first, second) = (medium.bytes(one, 128)?, medium.bytes(other, 128)?);
            medium.patch(one, &second)?;
            medium.patch(other, &first)?;
            format!("entries at {one:#x} and {other:#x} exchanged")
        }
        4 => {
            let other = entry(rng.below(ENTRIES));
            let bytes = medium.bytes(other, 128)?;
            medium.patch(one, &bytes)?;
            format!("the entry at {other:#x} also at {one:#x}")
        }
        5 => {
            medium.patch(one, &[0; 128])?;
            format!("entry at {one:#x} cleared")
        }
        6 => {
            let byte = one + rng.below(16) as u64;
            medium.patch(byte, &[rng.bits().to_le_bytes()[0]])?;
            format!("entry at {one:#x}: another type")
        }
        _ => {
            let count = [5, 6, 8, 64, 127, 256][rng.below(6)];
            put(medium, sector + 80, 4, count)?;
            format!("{count} entries")
        }
    };
    seal(medium, rng.one_in(8))?;
    Ok(format!("GPT: {what}, checksums made anew"))
}

/// The checksums of the primary GPT: right, or of the header only.
fn seal(medium: &mut Medium, header_only: bool) -> Result<()> {
    let sector = medium.sector_bytes() as u64;
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        u64::from(crc.sum())
    };
    if !header_only {
        let table = number(medium, sector + 72, 8)? * sector;
        let length = number(medium, sector + 80, 4)? * number(medium, sector + 84, 4)?;
        let entries = medium.bytes(table, usize::try_from(length)?)?;
        put(medium, sector + 88, 4, crc(&entries))?;
    }
    put(medium, sector + 16, 4, 0)?;
    let length = number(medium, sector + 12, 4)?;
    let header = medium.bytes(sector, usize::try_from(length)?)?;
    put(medium, sector + 16, 4, crc(&header))
}

impl Bank {
    fn at(medium: &Medium, start: u64) -> Result<Self> {
        let field = |at: u64, length: usize| number(medium, start + at, length);
        let sector = field(11, 2)?;
        let sectors = match field(19, 2)? {
            0 => field(32, 4)?,
            small => small,
        };
        let (reserved, copies, table) = (field(14, 2)?, field(16, 1)?, field(22, 2)?);
        ensure!(copies == 2, "a bank of the tests has two tables");
        let root = reserved + copies * table;
        let data = root + (field(17, 2)? * SLOT).div_ceil(sector);
        let clusters = (sectors - data) / field(13, 1)?;
        Ok(Self {
            start,
            tables: [reserved, reserved + table].map(|at| start + at * sector),
            root: start + root * sector,
            data: start + data * sector,
            cluster: field(13, 1)? * sector,
            wide: clusters > 0xff4,
        })
    }

    /// Bytes anywhere.
    fn bytes(&self, medium: &mut Medium, rng: &mut Rng) -> Result<String> {
        let (at, length) = match rng.below(5) {
            0 => (self.start, 64),
            1 => (self.start + medium.sector_bytes() as u64, 32),
            2 => (self.tables[rng.below(2)], 1200),
            3 => (self.root, USED_SLOTS * 32),
            _ => (self.start + 510, 2),
        };
        bytes(medium, at, length, rng)
    }

    /// A field of the boot sector.
    fn boot_sector(&self, medium: &mut Medium, rng: &mut Rng) -> Result<String> {
        const FIELDS: [(u64, usize, &str); 9] = [
            (510, 2, "signature"),
            (11, 2, "sector size"),
            (13, 1, "sectors of a cluster"),
            (14, 2, "reserved sectors"),
            (16, 1, "number of tables"),
            (17, 2, "root slots"),
            (21, 1, "medium"),
            (22, 2, "sectors of a table"),
            (32, 4, "sectors"),
        ];
        let (at, length, name) = FIELDS[rng.below(FIELDS.len())];
        let (at, name) = match name {
            // A small volume has its number of sectors elsewhere.
            "sectors" if number(medium, self.start + 19, 2)? != 0 => (19, "sectors (small)"),
            _ => (at, name),
        };
        let old = number(medium, self.start + at, length.min(4))?;
        let new = match length {
            1 if rng.one_in(2) => 1 << rng.below(8),
            _ => near(old, rng),
        };
        let length = if at == 19 { 2 } else { length };
        put(medium, self.start + at, length, new)?;
        Ok(format!("boot sector: {name} {old} to {new}"))
    }

    /// Where the first slot of a name is.
    fn slot_of(&self, medium: &Medium, name: &[u8; 11]) -> Option<u64> {
        let slots = (0..256).map(|slot| self.root + slot * SLOT);
        slots
            .into_iter()
            .find(|at| medium.bytes(*at, 11).is_ok_and(|bytes| bytes == name))
    }

    /// A slot of one of the files that count, or of any.
    fn some_slot(&self, medium: &Medium, rng: &mut Rng) -> u64 {
        let any = self.root + rng.below(USED_SLOTS) as u64 * SLOT;
        match rng.below(4) {
            0 => any,
            _ => self
                .slot_of(medium, FILES[rng.below(FILES.len())])
                .unwrap_or(any),
        }
    }

    fn link(&self, medium: &Medium, cluster: u64) -> Result<u64> {
        let table = self.tables[0];
        if self.wide {
            return number(medium, table + cluster * 2, 2);
        }
        let pair = number(medium, table + cluster * 3 / 2, 2)?;
        Ok(if cluster % 2 == 1 {
            pair >> 4
        } else {
            pair & 0xfff
        })
    }

    fn set_link(&self, medium: &mut Medium, table: u64, cluster: u64, to: u64) -> Result<()> {
        if self.wide {
            return put(medium, table + cluster * 2, 2, to);
        }
        let at = table + cluster * 3 / 2;
        let pair = number(medium, at, 2)?;
        let pair = match cluster % 2 {
            1 => pair & 0xf | to << 4,
            _ => pair & 0xf000 | to & 0xfff,
        };
        put(medium, at, 2, pair)
    }

    /// A link of a file's chain, in the first table, the second or both.
    fn chain(&self, medium: &mut Medium, rng: &mut Rng) -> Result<String> {
        let slot = self.some_slot(medium, rng);
        let first = number(medium, slot + 26, 2)?;
        let mut chain = vec![first];
        while let Some(last) = chain.last().copied() {
            let next = self.link(medium, last)?;
            let inside = (2..0xff0).contains(&next) || self.wide && (2..0xfff0).contains(&next);
            if !inside || chain.len() > 4000 {
                break;
            }
            chain.push(next);
        }
        // The last link most of all.
        let place = match rng.below(3) {
            0 => rng.below(chain.len()),
            _ => chain.len() - 1,
        };
        let free = (2..4000).find(|cluster| self.link(medium, *cluster).is_ok_and(|to| to == 0));
        let end = if self.wide { 0xffff } else { 0xfff };
        let to = match rng.below(9) {
            0 | 1 => free.context("a free cluster")?,
            2 => first,
            3 => 0,
            4 => 1,
            5 => end - 8,
            6 => end,
            7 => chain[rng.below(chain.len())],
            _ => 2 + rng.below(4000) as u64,
        };
        let tables = match rng.below(4) {
            0 => &self.tables[..1],
            1 => &self.tables[1..],
            _ => &self.tables[..],
        };
        for table in tables {
            self.set_link(medium, *table, chain[place], to)?;
            if rng.one_in(2) && Some(to) == free {
                self.set_link(medium, *table, to, end)?;
            }
        }
        Ok(format!(
            "slot at {slot:#x}: link {place} of {} to {to:#x} in {} table(s)",
            chain.len(),
            tables.len()
        ))
    }

    /// A slot of the root directory.
    fn slot(&self, medium: &mut Medium, rng: &mut Rng) -> Result<String> {
        let slot = self.some_slot(medium, rng);
        let old = medium.bytes(slot, 32)?;
        let name = String::from_utf8_lossy(&old[..11]).into_owned();
        let what = match rng.below(9) {
            0 | 1 => {
                // Another slot of the same name stands before it.
                let kind = [0x08, 0x0f, 0x10, 0x20, 0x16][rng.below(5)];
                let mut decoy = old.clone();
                decoy[11] = kind;
                if rng.one_in(2) {
                    decoy[26..32].copy_from_slice(&[0; 6]);
                }
                let before = self.root + rng.below(2) as u64 * SLOT;
                // The others move on by one slot, or one is lost.
                if !rng.one_in(4) {
                    let others = medium.bytes(before, USED_SLOTS * 32)?;
                    medium.patch(before + SLOT, &others)?;
                }
                medium.patch(before, &decoy)?;
                format!("one of kind {kind:#x} of this name at {before:#x}")
            }
            2 => {
                let kind = [0x08, 0x0f, 0x10, 0x18, 0x27, 0x00][rng.below(6)];
                medium.patch(slot + 11, &[kind])?;
                format!("of kind {kind:#x}")
            }
            3 => {
                let old = number(medium, slot + 28, 4)?;
                let new = near(old, rng);
                put(medium, slot + 28, 4, new)?;
                format!("{old} to {new} bytes")
            }
            4 => {
                let old = number(medium, slot + 26, 2)?;
                let new = near(old, rng);
                put(medium, slot + 26, 2, new)?;
                format!("first cluster {old} to {new}")
            }
            5 => {
                medium.patch(slot, &[[0xe5, 0, 0x05, b'X'][rng.below(4)]])?;
                "another first letter".into()
            }
            6 => {
                let other = self.root + rng.below(USED_SLOTS) as u64 * SLOT;
                let bytes = medium.bytes(other, 32)?;
                medium.patch(other, &old)?;
                medium.patch(slot, &bytes)?;
                format!("exchanged with the one at {other:#x}")
            }
            7 => {
                let before = self.root + rng.below(USED_SLOTS) as u64 * SLOT;
                medium.patch(before, &[0])?;
                format!("and the directory's end at {before:#x}")
            }
            _ => {
                let high = rng.bits().to_le_bytes();
                medium.patch(slot + 20, &high[..2])?;
                "with leftovers in the upper half of the cluster's number".into()
            }
        };
        Ok(format!("slot {name:?} at {slot:#x}: {what}"))
    }

    /// The text of boot.cfg.
    fn boot_cfg(&self, medium: &mut Medium, rng: &mut Rng) -> Result<String> {
        let Some(slot) = self.slot_of(medium, FILES[0]) else {
            return self.bytes(medium, rng);
        };
        let (cluster, size) = (
            number(medium, slot + 26, 2)?,
            number(medium, slot + 28, 4)?.min(self.cluster),
        );
        if cluster < 2 {
            return self.bytes(medium, rng);
        }
        let at = self.data + (cluster - 2) * self.cluster;
        let text = medium.bytes(at, usize::try_from(size)?)?;
        let (what, mut text) = edited(text, rng);
        text.truncate(usize::try_from(self.cluster)?);
        medium.patch(at, &text)?;
        put(medium, slot + 28, 4, text.len() as u64)?;
        Ok(format!("boot.cfg: {what}"))
    }
}

/// Lines that change what boot.cfg says, or do not.
const LINES: &[&str] = &[
    "updated=0",
    "updated=9",
    "updated=-1",
    "updated=4294967297",
    "updated=99999999999999999999",
    "updated=two",
    "updated= 7",
    "updated",
    "up=8",
    "updated =8",
    "UPDATED=8",
    "updatedx=8",
    "bootstate=0",
    "bootstate=1",
    "bootstate=2",
    "bootstate=3",
    "bootstate=-1",
    "bootstate=x",
    "boots=3",
    "quickboot=1",
    "quickboot=0",
    "q=1",
    "build=",
    "b=",
    "=x",
    "=",
    "build = 6.7.0",
    "modules=",
    "modules=k.b00 --- state.tgz",
    "modules=k.b00",
    "m=k.b00",
    "modules=k.b00---STATE.TGZ",
    "modules=k.b00 --- /state.tgz",
    "modules=k.b00 --- state.tgzip",
    "modules=k.b00 --- local.tgz",
    "modules=k.b00 --- missing.v00 --- state.tgz",
    "modules=k.b00 --- state.tgz --- onetime.tgz",
    "prefix=/",
    "prefix=dir",
    "kernel=",
    "kernel=missing.b00",
    "timeout=soon",
    "skip=1",
    "# a comment",
    "\t bootstate=0 \r",
];

fn edited(text: Vec<u8>, rng: &mut Rng) -> (String, Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = text
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let place = rng.below(lines.len());
    let what = match rng.below(8) {
        0..=3 => {
            let line = LINES[rng.below(LINES.len())];
            let place = if rng.one_in(3) { place } else { lines.len() };
            lines.insert(place, line.as_bytes().to_vec());
            format!("{line:?} as line {place}")
        }
        4 => {
            let line = lines.remove(place);
            format!("without {:?}", String::from_utf8_lossy(&line))
        }
        5 => {
            let line = lines[place].clone();
            let at = rng.below(line.len().max(1));
            let byte = [0, b' ', b'#', b'=', b'\r', b'\n', b'-', b'9'][rng.below(8)];
            match rng.one_in(2) {
                true => lines[place].insert(at.min(line.len()), byte),
                false => {
                    if let Some(old) = lines[place].get_mut(at) {
                        *old = byte;
                    }
                }
            }
            format!("byte {byte:#04x} at {at} of line {place}")
        }
        6 => {
            for line in &mut lines {
                line.push(b'\r');
            }
            "lines end with CR".into()
        }
        _ => {
            lines.reverse();
            "lines in reverse".into()
        }
    };
    (what, lines.join(&b'\n'))
}
