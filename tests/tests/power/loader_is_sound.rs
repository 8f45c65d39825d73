//! The reader that stands for VMware's loader takes what the loader takes, and refuses what it
//! refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

use std::fs;

use rescue_tests::esxi::host::{GPU, Owner, SATA};
use rescue_tests::esxi::layout::Layout;
use rescue_tests::esxi::{EsxiDisk, GptOddity, Made, VERSIONS};
use rescue_tests::judge::loader::{Archives, NextStart, next_start};
use rescue_tests::power::medium::{Image, Medium, Source};
use rescue_tests::scratch;

fn in_memory(made: &Made) -> Medium {
    let size = fs::metadata(&made.image).unwrap().len();
    let mut image = Image::zeroed(size, made.layout.sector_bytes as usize);
    image.write_file(0, &made.image).unwrap();
    Medium::new(image)
}

fn made(disk: &EsxiDisk) -> (Made, Medium) {
    let folder = scratch::folder().unwrap();
    let made = disk.make(folder.path(), "disk").unwrap();
    let medium = in_memory(&made);
    (made, medium)
}

#[test]
fn of_every_version_the_newer_bank_is_started_with_what_its_archive_says() {
    let archives = Archives::default();
    for (version, maker) in VERSIONS {
        let (_, medium) = made(&maker());
        let next = next_start(&medium, &archives).unwrap();
        let NextStart::Boots(started) = next else {
            panic!("{version}: {next}");
        };
        assert_eq!(started.partition, 5, "{version}");
        assert_eq!(started.passed_through, [SATA, GPU].into(), "{version}");
        assert_eq!(started.unknown, Vec::<String>::new(), "{version}");
        assert_eq!(started.archives.len(), 1, "{version}");
    }
}

#[test]
fn sectors_of_4096_bytes_odd_tables_and_a_third_bank_are_read() {
    let archives = Archives::default();
    for (disk, partition) in [
        (EsxiDisk::v80().layout(Layout::gpt_7_4kn()), Some(5)),
        (EsxiDisk::v67().oddity(GptOddity::NamesOfFf), Some(5)),
        (EsxiDisk::v67().oddity(GptOddity::OddProtectiveMbr), Some(5)),
        // The backup table is nothing to the loader.
        (EsxiDisk::v67().oddity(GptOddity::BrokenPrimary), None),
        (EsxiDisk::v67().third_bank(), Some(8)),
        (EsxiDisk::foreign(), None),
    ] {
        let (_, medium) = made(&disk);
        let found = match next_start(&medium, &archives).unwrap() {
            NextStart::Boots(started) => Some(started.partition),
            _ => None,
        };
        assert_eq!(found, partition);
    }
}

/// The bank that is started, for changes by hand: byte offsets.
struct Bank {
    start: u64,
    table: u64,
    root: u64,
    data: u64,
    cluster: u64,
}

impl Bank {
    fn of(made: &Made, medium: &Medium) -> Self {
        let start = made.layout.bytes(&made.layout.banks()[0]).start;
        let field = |at: u64, length: usize| {
            let bytes = medium.bytes(start + at, length).unwrap();
            bytes
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u64::from(*byte))
        };
        let (reserved, table) = (field(14, 2), field(22, 2));
        let root = reserved + 2 * table;
        Self {
            start,
            table: start + reserved * 512,
            root: start + root * 512,
            data: start + root * 512 + field(17, 2) * 32,
            cluster: field(13, 1) * 512,
        }
    }

    fn slot(&self, medium: &Medium, name: &[u8; 11]) -> u64 {
        let mut slots = (0..100).map(|slot| self.root + slot * 32);
        slots
            .find(|at| medium.bytes(*at, 11).unwrap() == name)
            .unwrap()
    }

    fn first(&self, medium: &Medium, name: &[u8; 11]) -> u64 {
        let at = self.slot(medium, name) + 26;
        let bytes = medium.bytes(at, 2).unwrap();
        u64::from(bytes[0]) | u64::from(bytes[1]) << 8
    }

    fn boot_cfg(&self, medium: &mut Medium, from: &str, to: &str) {
        let at = self.data + (self.first(medium, CONFIG) - 2) * self.cluster;
        let slot = self.slot(medium, CONFIG);
        let size = medium.bytes(slot + 28, 2).unwrap();
        let size = usize::from(size[0]) | usize::from(size[1]) << 8;
        let text = String::from_utf8(medium.bytes(at, size).unwrap()).unwrap();
        assert!(text.contains(from), "{from}");
        let text = text.replace(from, to);
        medium.patch(at, text.as_bytes()).unwrap();
        let size = u32::try_from(text.len()).unwrap();
        medium.patch(slot + 28, &size.to_le_bytes()).unwrap();
    }
}

const CONFIG: &[u8; 11] = b"BOOT    CFG";
const STATE: &[u8; 11] = b"STATE   TGZ";

type Change = fn(&Bank, &mut Medium);

/// What is done to the bank that is started, and the partition that is started then; 0: the start
/// ends.
const CHANGES: &[(&str, Change, u32)] = &[
    ("nothing", |_, _| (), 5),
    (
        "no 55AA",
        |bank, medium| medium.patch(bank.start + 510, &[0, 0]).unwrap(),
        5,
    ),
    (
        "a sector more than the partition has",
        |bank, medium| {
            let old = medium.bytes(bank.start + 32, 1).unwrap()[0];
            medium
                .patch(bank.start + 32, &[old.wrapping_add(1)])
                .unwrap();
        },
        5,
    ),
    (
        "no marker",
        |bank, medium| medium.patch(bank.start + 512, b"x").unwrap(),
        6,
    ),
    (
        "the second table cleared",
        |bank, medium| {
            let second = bank.table + (bank.root - bank.table) / 2;
            medium.patch(second, &[0; 512]).unwrap();
        },
        5,
    ),
    (
        "a cluster too many behind boot.cfg",
        |bank, medium| {
            let at = bank.table + bank.first(medium, CONFIG) * 2;
            medium.patch(at, &[0xa0, 0x0f]).unwrap();
        },
        5,
    ),
    (
        "a loop behind boot.cfg",
        |bank, medium| {
            let first = bank.first(medium, CONFIG);
            let at = bank.table + first * 2;
            medium.patch(at, &(first as u16).to_le_bytes()).unwrap();
        },
        5,
    ),
    (
        "boot.cfg's last link leads nowhere",
        |bank, medium| {
            let at = bank.table + bank.first(medium, CONFIG) * 2;
            medium.patch(at, &[1, 0]).unwrap();
        },
        // The whole file is shorter than its cluster: that link is not followed.
        5,
    ),
    (
        "the archive's chain is cut",
        |bank, medium| {
            let at = bank.table + bank.first(medium, STATE) * 2;
            medium.patch(at, &[1, 0]).unwrap();
        },
        0,
    ),
    (
        "no archive",
        |bank, medium| {
            let at = bank.slot(medium, STATE);
            medium.patch(at, b"\xe5").unwrap();
        },
        0,
    ),
    (
        "an empty label before the archive",
        |bank, medium| {
            let mut slot = [0; 32];
            slot[..11].copy_from_slice(STATE);
            slot[11] = 8;
            let others = medium.bytes(bank.root, 50 * 32).unwrap();
            medium.patch(bank.root + 32, &others).unwrap();
            medium.patch(bank.root, &slot).unwrap();
        },
        // The loader takes it, as a file without content.
        5,
    ),
    (
        "an archive of two members",
        |bank, medium| {
            let slot = bank.slot(medium, STATE);
            let size = medium.bytes(slot + 28, 4).unwrap();
            let size = u32::from_le_bytes(size.try_into().unwrap());
            medium.patch(slot + 28, &(size + 8).to_le_bytes()).unwrap();
        },
        0,
    ),
    (
        "an older generation",
        |bank, medium| bank.boot_cfg(medium, "updated=2", "updated=0"),
        6,
    ),
    (
        "the beginning of a key",
        |bank, medium| bank.boot_cfg(medium, "updated=2", "updated=2\nup=0"),
        6,
    ),
    (
        "a blank before the sign",
        |bank, medium| bank.boot_cfg(medium, "updated=2", "updated=2\nupdated =0"),
        5,
    ),
    (
        "a generation below zero is the highest",
        |bank, medium| bank.boot_cfg(medium, "updated=2", "updated=-1"),
        5,
    ),
    (
        "no number",
        |bank, medium| bank.boot_cfg(medium, "updated=2", "updated=two"),
        6,
    ),
    (
        "dirty",
        |bank, medium| bank.boot_cfg(medium, "bootstate=0", "bootstate=2"),
        6,
    ),
    (
        "in the first start after an upgrade",
        |bank, medium| bank.boot_cfg(medium, "bootstate=0", "bootstate=1"),
        5,
    ),
    (
        "used by a quick boot",
        |bank, medium| bank.boot_cfg(medium, "bootstate=0", "bootstate=0\nquickboot=1"),
        6,
    ),
    (
        "a module that is missing",
        |bank, medium| bank.boot_cfg(medium, "--- state.tgz", "--- gone.v00 --- state.tgz"),
        0,
    ),
    (
        "a prefix that is a folder",
        |bank, medium| bank.boot_cfg(medium, "prefix=", "prefix=folder"),
        0,
    ),
    (
        "lines that end with CR",
        |bank, medium| bank.boot_cfg(medium, "\n", "\r\n"),
        5,
    ),
];

#[test]
fn the_reader_takes_what_the_loader_takes() {
    let disk = EsxiDisk::v67().bank(1, |bank| {
        bank.own(SATA, Owner::Vmkernel);
    });
    let (made, base) = made(&disk);
    let archives = Archives::default();
    for (what, change, expected) in CHANGES {
        let mut medium = base.clone();
        change(&Bank::of(&made, &medium), &mut medium);
        let next = next_start(&medium, &archives).unwrap();
        match (&next, expected) {
            (NextStart::Ends { partition: 5, .. }, 0) => {}
            (NextStart::Boots(started), partition) => {
                assert_eq!(started.partition, *partition, "{what}: {next}");
                let label = what.contains("label");
                let passed = *partition == 5 && !label;
                assert_eq!(next.passes_through(SATA), passed, "{what}: {next}");
            }
            _ => panic!("{what}: {next}"),
        }
    }
}
