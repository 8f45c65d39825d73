//! Directory entries: 8.3 names, times, and the slots of the root directory.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::geometry::ENTRY_BYTES;
use super::mark::{MARK_BITS, Mark};
use crate::bytes::{u16_at, u32_at};

/// Attribute bits (Microsoft's specification, "FAT Directory Structure").
const ATTR_VOLUME: u8 = 0x08;
const ATTR_DIRECTORY: u8 = 0x10;
const ATTR_LONG_NAME: u8 = 0x0f;
/// First byte of a slot whose file was deleted.
const DELETED: u8 = 0xe5;
/// First byte of the first slot that was never used; no entry stands behind it.
const END: u8 = 0x00;

/// A name as it stands in a directory entry: eight and three bytes, upper case, padded by blanks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortName([u8; 11]);

impl ShortName {
    /// The state archive.
    pub const STATE: Self = Self(*b"STATE   TGZ");
    /// The archive of embedded 4.x installations.
    pub const LOCAL: Self = Self(*b"LOCAL   TGZ");
    /// The archive that scripted installations apply on top, once.
    pub const ONETIME: Self = Self(*b"ONETIME TGZ");
    /// What the loader reads.
    pub const BOOT_CFG: Self = Self(*b"BOOT    CFG");

    /// The eleven bytes as stored.
    pub fn from_raw(raw: [u8; 11]) -> Self {
        Self(raw)
    }

    /// The name with another extension.
    pub fn with_extension(mut self, extension: [u8; 3]) -> Self {
        self.0[8..].copy_from_slice(&extension);
        self
    }

    /// The eleven bytes as stored.
    pub fn raw(&self) -> &[u8; 11] {
        &self.0
    }
}

impl fmt::Display for ShortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, extension) = self.0.split_at(8);
        write!(f, "{}", base.trim_ascii_end().escape_ascii())?;
        match extension.trim_ascii_end() {
            [] => Ok(()),
            extension => write!(f, ".{}", extension.escape_ascii()),
        }
    }
}

impl fmt::Debug for ShortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A moment as FAT stores it: local time without a zone (ESXi keeps UTC), two-second steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FatTime {
    date: u16,
    time: u16,
}

impl FatTime {
    /// Now, by this machine's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::from_unix(since.map_or(0, |since| since.as_secs()))
    }

    /// From seconds since 1970-01-01 UTC, clamped to what FAT can say (1980 to 2107).
    pub fn from_unix(seconds: u64) -> Self {
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        // Days to civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
        let z = days + 719_468;
        let (era, doe) = (z / 146_097, z % 146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + u64::from(month <= 2);
        if year < 1980 {
            return Self {
                date: 1 << 5 | 1,
                time: 0,
            };
        }
        let year = (year - 1980).min(127);
        let date = year << 9 | month << 5 | day;
        let time = ((of_day / 3600) << 11) | ((of_day % 3600 / 60) << 5) | (of_day % 60 / 2);
        Self {
            date: u16::try_from(date).unwrap_or(u16::MAX),
            time: u16::try_from(time).unwrap_or(0),
        }
    }

    /// Year, month, day, hour, minute, second.
    pub fn fields(self) -> [u16; 6] {
        let (d, t) = (self.date, self.time);
        let (hour, minute, second) = (t >> 11, t >> 5 & 63, (t & 31) * 2);
        [1980 + (d >> 9), d >> 5 & 15, d & 31, hour, minute, second]
    }
}

impl fmt::Display for FatTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, day, hour, minute, second] = self.fields();
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
        )
    }
}

/// A number of 32 bits as a valid time of the calendar, and back: hundredths of seconds up to two
/// seconds, then two-second steps, minutes, hours, days (28 of them exist in every month), months, and
/// the first years that any ESXi existed in.
mod coded {
    const TENTHS: u32 = 200;
    const STEPS: u32 = 30;
    const MINUTES: u32 = 60;
    const HOURS: u32 = 24;
    const DAYS: u32 = 28;
    const MONTHS: u32 = 12;
    /// 2001, counted from 1980. What is left of 32 bits is 0 or 1.
    const FIRST_YEAR: u32 = 21;

    /// Offset of the creation time in an entry; its hundredths come first.
    pub(super) const AT: usize = 13;

    pub(super) fn encode(number: u32) -> [u8; 5] {
        let mut rest = number;
        let mut digit = |base: u32| {
            let digit = rest % base;
            rest /= base;
            digit
        };
        let tenths = digit(TENTHS);
        let time = digit(STEPS) | digit(MINUTES) << 5 | digit(HOURS) << 11;
        let date = (digit(DAYS) + 1) | (digit(MONTHS) + 1) << 5 | (rest + FIRST_YEAR) << 9;
        let ([a, ..], [b, c, ..], [d, e, ..]) =
            (tenths.to_le_bytes(), time.to_le_bytes(), date.to_le_bytes());
        [a, b, c, d, e]
    }

    pub(super) fn decode([a, b, c, d, e]: [u8; 5]) -> Option<u32> {
        let (time, date) = (
            u32::from(u16::from_le_bytes([b, c])),
            u32::from(u16::from_le_bytes([d, e])),
        );
        let digits = [
            (Some(u32::from(a)), TENTHS),
            (Some(time & 31), STEPS),
            (Some(time >> 5 & 63), MINUTES),
            (Some(time >> 11), HOURS),
            ((date & 31).checked_sub(1), DAYS),
            ((date >> 5 & 15).checked_sub(1), MONTHS),
            ((date >> 9).checked_sub(FIRST_YEAR), 2),
        ];
        let number = digits
            .iter()
            .rev()
            .try_fold(0_u64, |number, (digit, base)| {
                let digit = digit.filter(|digit| digit < base)?;
                Some(number * u64::from(*base) + u64::from(digit))
            })?;
        u32::try_from(number).ok()
    }
}

/// A directory entry, all 32 bytes of it, so that what this program does not understand is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry([u8; ENTRY_BYTES]);

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} bytes from cluster {})",
            self.name(),
            self.size(),
            self.first_cluster()
        )
    }
}

impl Entry {
    pub(super) fn new(raw: [u8; ENTRY_BYTES]) -> Self {
        Self(raw)
    }

    /// An empty file.
    pub(super) fn empty_file(name: ShortName, at: FatTime) -> Self {
        const ATTR_ARCHIVE: u8 = 0x20;
        let mut raw = [0; ENTRY_BYTES];
        raw[..11].copy_from_slice(name.raw());
        raw[11] = ATTR_ARCHIVE;
        Self(raw).stamped(at)
    }

    /// The 8.3 name.
    pub fn name(&self) -> ShortName {
        let mut raw = [0; 11];
        raw.copy_from_slice(&self.0[..11]);
        ShortName(raw)
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u32 {
        u32_at(&self.0, 28)
    }

    /// Number of the first cluster, 0 for an empty file.
    pub fn first_cluster(&self) -> u32 {
        u32::from(u16_at(&self.0, 26))
    }

    /// When the content was last written.
    pub fn modified(&self) -> FatTime {
        FatTime {
            time: u16_at(&self.0, 22),
            date: u16_at(&self.0, 24),
        }
    }

    /// What it is, if this program made it.
    pub fn mark(&self) -> Option<Mark> {
        Mark::of(self.0[12])
    }

    /// The same entry with that mark, or none.
    pub(super) fn marked(mut self, mark: Option<Mark>) -> Self {
        self.0[12] = self.0[12] & !MARK_BITS | Mark::bits(mark);
        self
    }

    /// The number that stands for the creation time, if it can be one.
    pub(super) fn coded(&self) -> Option<u32> {
        coded::decode(*self.0[coded::AT..].first_chunk()?)
    }

    /// The same entry with a number in place of the creation time.
    pub(super) fn with_code(mut self, number: u32) -> Self {
        self.0[coded::AT..coded::AT + 5].copy_from_slice(&coded::encode(number));
        self
    }

    /// The same entry, created at that time.
    pub(super) fn created(mut self, at: FatTime) -> Self {
        self.0[13] = 0;
        self.0[14..16].copy_from_slice(&at.time.to_le_bytes());
        self.0[16..18].copy_from_slice(&at.date.to_le_bytes());
        self
    }

    pub(super) fn is_directory(&self) -> bool {
        self.0[11] & ATTR_DIRECTORY != 0
    }

    /// What the entry is in words, unless it is a file.
    pub(super) fn is_no_file(&self) -> Option<&'static str> {
        match self.0[11] {
            kind if kind & ATTR_LONG_NAME == ATTR_LONG_NAME => Some("a part of a long name"),
            kind if kind & ATTR_VOLUME != 0 => Some("the label of the volume"),
            kind if kind & ATTR_DIRECTORY != 0 => Some("a directory"),
            _ => None,
        }
    }

    /// A part of a long name, or the volume's label.
    fn is_not_a_file(&self) -> bool {
        self.0[11] & ATTR_LONG_NAME == ATTR_LONG_NAME || self.0[11] & ATTR_VOLUME != 0
    }

    fn is_dot(&self) -> bool {
        self.0[0] == b'.'
    }

    /// The same entry under another name: everything but the name is kept.
    pub(super) fn renamed(mut self, name: ShortName) -> Self {
        self.0[..11].copy_from_slice(name.raw());
        self
    }

    /// The same entry, naming other content. The upper half of the cluster number, which FAT12
    /// and FAT16 do not have, becomes zero: VMware's loader still reads it (esx-boot
    /// `libfat/searchdir.c`).
    pub(super) fn naming(mut self, first_cluster: u16, size: u32) -> Self {
        self.0[20..22].fill(0);
        self.0[26..28].copy_from_slice(&first_cluster.to_le_bytes());
        self.0[28..32].copy_from_slice(&size.to_le_bytes());
        self
    }

    /// The same entry with its modification time (and access date) set.
    pub(super) fn stamped(mut self, at: FatTime) -> Self {
        self.0[18..20].copy_from_slice(&at.date.to_le_bytes());
        self.0[22..24].copy_from_slice(&at.time.to_le_bytes());
        self.0[24..26].copy_from_slice(&at.date.to_le_bytes());
        self
    }

    pub(super) fn deleted(mut self) -> Self {
        self.0[0] = DELETED;
        self
    }

    pub(super) fn bytes(&self) -> &[u8; ENTRY_BYTES] {
        &self.0
    }
}

fn slot(bytes: &[u8], index: usize) -> Option<[u8; ENTRY_BYTES]> {
    bytes.get(index * ENTRY_BYTES..)?.first_chunk().copied()
}

/// The live entries of a directory's bytes, with their slot numbers: files and directories, no
/// labels, no long names, no dot entries.
pub(super) fn live_entries(bytes: &[u8]) -> impl Iterator<Item = (usize, Entry)> + '_ {
    (0..bytes.len() / ENTRY_BYTES)
        .map_while(|index| Some((index, slot(bytes, index)?)))
        .take_while(|(_, raw)| raw[0] != END)
        .filter(|(_, raw)| raw[0] != DELETED)
        .map(|(index, raw)| (index, Entry(raw)))
        .filter(|(_, entry)| !entry.is_not_a_file() && !entry.is_dot())
}

/// The first entry whose eleven bytes are that name, whatever it is.
pub(super) fn first_of_name(bytes: &[u8], name: ShortName) -> Option<Entry> {
    (0..bytes.len() / ENTRY_BYTES)
        .map_while(|index| slot(bytes, index))
        .take_while(|raw| raw[0] != END)
        .find(|raw| raw.starts_with(name.raw()))
        .map(Entry)
}

/// Whether any entry has these eleven bytes as its name, whatever it is.
pub(super) fn has_raw_name(bytes: &[u8], name: ShortName) -> bool {
    first_of_name(bytes, name).is_some()
}

/// The slots of a directory's bytes that may take a new entry, ascending. They have to be used in
/// that order: what stands behind the end mark is not alive.
///
/// A never-used slot is one of them only if the slot behind it is never-used as well (or there is
/// none): what stands behind the end mark was never promised to be zero, and using the mark must not
/// bring it back.
pub(super) fn free_slots(bytes: &[u8]) -> Vec<usize> {
    let mut free = Vec::new();
    for index in 0..bytes.len() / ENTRY_BYTES {
        match bytes[index * ENTRY_BYTES] {
            DELETED => free.push(index),
            END => {
                let next = bytes.get((index + 1) * ENTRY_BYTES);
                if next.is_some_and(|byte| *byte != END) {
                    break;
                }
                free.push(index);
            }
            _ => {}
        }
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1980-01-01 00:00:00"),
            (1_683_195_072, "2023-05-04 10:11:12"),
            (951_782_399, "2000-02-28 23:59:58"),
            (951_782_400, "2000-02-29 00:00:00"),
            (4_102_444_799, "2099-12-31 23:59:58"),
            (u64::from(u32::MAX) * 4, "2107-"),
        ] {
            let text = FatTime::from_unix(seconds).to_string();
            assert!(text.starts_with(shown), "{seconds}: {text}");
        }
    }

    #[test]
    fn a_name_is_shown_as_people_write_it() {
        assert_eq!(ShortName::STATE.to_string(), "STATE.TGZ");
        assert_eq!(ShortName::from_raw(*b"NOEXT      ").to_string(), "NOEXT");
        assert_eq!(
            ShortName::from_raw(*b"A\x1b[2J   TXT").to_string(),
            "A\\x1b[2J.TXT"
        );
    }

    /// A directory of empty slots whose first bytes are `first`.
    fn slots(first: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; first.len() * ENTRY_BYTES];
        for (index, byte) in first.iter().enumerate() {
            bytes[index * ENTRY_BYTES] = *byte;
        }
        bytes
    }

    #[test]
    fn the_end_mark_is_free_only_if_using_it_revives_nothing() {
        assert_eq!(
            free_slots(&slots(&[b'A', DELETED, b'B', END, END])),
            [1, 3, 4]
        );
        assert_eq!(free_slots(&slots(&[b'A', END, b'X', END])), [0usize; 0]);
        assert_eq!(free_slots(&slots(&[b'A', END, END, b'X', END])), [1]);
        assert_eq!(free_slots(&slots(&[b'A', b'B', END])), [2]);
        assert_eq!(free_slots(&slots(b"AB")), [0usize; 0]);
    }

    #[test]
    fn what_stands_behind_the_end_mark_is_not_alive() {
        assert_eq!(
            live_entries(&slots(&[b'A', DELETED, b'B', END, b'C'])).count(),
            2
        );
    }

    #[test]
    fn every_number_is_a_valid_time_and_comes_back() {
        let entry = Entry::empty_file(ShortName::STATE, FatTime::from_unix(0));
        let numbers = (0..40_000).map(|step: u32| step.wrapping_mul(0x9e37_79b9));
        for number in numbers.chain([0, 1, u32::MAX]) {
            let coded = entry.with_code(number);
            assert_eq!(coded.coded(), Some(number));
            let raw = coded.bytes();
            let time = FatTime {
                time: u16::from_le_bytes([raw[14], raw[15]]),
                date: u16::from_le_bytes([raw[16], raw[17]]),
            };
            let [year, month, day, hour, minute, second] = time.fields();
            assert!((2001..=2002).contains(&year), "{time}");
            assert!(
                (1..=12).contains(&month) && (1..=28).contains(&day),
                "{time}"
            );
            assert!(
                hour < 24 && minute < 60 && second < 60 && raw[13] < 200,
                "{time}"
            );
        }
        assert_eq!(entry.coded(), None, "1980");
    }

    #[test]
    fn renaming_and_naming_back_restores_every_byte() {
        let entry =
            Entry::empty_file(ShortName::STATE, FatTime::from_unix(1_683_195_072)).naming(7, 99);
        let undo = entry.renamed(ShortName::LOCAL);
        assert_eq!(undo.renamed(ShortName::STATE), entry);
        assert_eq!((undo.first_cluster(), undo.size()), (7, 99));
    }
}
