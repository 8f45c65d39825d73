//! Tests of both kinds of tables, on disks that sgdisk and sfdisk made.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::gpt::gpt_kind;
use super::mbr::MBR_LOGICALS_MAX;
use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A device over a file or over bytes, read-only.
#[derive(Debug)]
struct Image<T> {
    store: T,
    size: u64,
    sector: SectorSize,
}

trait Store: fmt::Debug + Send + Sync {
    fn fill(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl Store for File {
    fn fill(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buf, at)
    }
}

impl Store for Vec<u8> {
    fn fill(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(at).unwrap();
        let range = self.get(start..start + buf.len());
        let range = range.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(range);
        Ok(())
    }
}

impl<T: Store> BlockDevice for Image<T> {
    fn sector_size(&self) -> SectorSize {
        self.sector
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.store.fill(offset.0, buf)
    }
    fn write_at(&self, _: ByteOffset, _: &[u8]) -> io::Result<()> {
        panic!("reading a partition table must not write")
    }
    fn flush(&self) -> io::Result<()> {
        panic!("reading a partition table must not flush")
    }
}

fn file_image(file: &NamedTempFile) -> Image<File> {
    let store = file.reopen().unwrap();
    let size = store.metadata().unwrap().len();
    let sector = SectorSize::S512;
    Image {
        store,
        size,
        sector,
    }
}

fn memory(store: Vec<u8>) -> Image<Vec<u8>> {
    let size = store.len() as u64;
    let sector = SectorSize::S512;
    Image {
        store,
        size,
        sector,
    }
}

fn blank(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn run(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} must be installed: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// (number, first, last, type GUID, name)
type Entry = (u32, u64, u64, &'static str, &'static str);

const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const BASIC: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";
const CORE: &str = "9D275380-40AD-11DB-BF97-000C2911D1B8";
const VMFS: &str = "AA31E02A-400F-11DB-9590-000C2911D1B8";
const OSDATA: &str = "4EB2EA39-7855-4790-A79E-FAE495E21F8D";
const RESERVED: &str = "9198EFFC-31C0-11DB-8F78-000C2911D1B8";
const VSAN: &str = "381CFCCC-7288-11E0-92EE-000C2911D0B2";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

fn sgdisk(bytes: u64, entries: &[Entry]) -> NamedTempFile {
    let file = blank(bytes);
    let mut command = Command::new("sgdisk");
    command.args(["--clear", "--set-alignment=1"]);
    for (number, first, last, kind, name) in entries {
        command.arg(format!("--new={number}:{first}:{last}"));
        command.arg(format!("--typecode={number}:{kind}"));
        command.arg(format!("--change-name={number}:{name}"));
    }
    run(command.arg(file.path()), "");
    file
}

fn sfdisk(bytes: u64, script: &str) -> NamedTempFile {
    let file = blank(bytes);
    run(
        Command::new("sfdisk")
            .args(["--no-reread", "--quiet"])
            .arg(file.path()),
        script,
    );
    file
}

const SMALL: [Entry; 3] = [
    (1, 64, 163, ESP, "BOOT"),
    (5, 200, 1199, BASIC, "BOOTBANK1"),
    (6, 1200, 2199, BASIC, "BOOTBANK2"),
];

/// Made once: sgdisk draws new GUIDs each time.
fn small_gpt() -> Vec<u8> {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || std::fs::read(sgdisk(2 * MIB, &SMALL).path()).unwrap();
    TABLE.get_or_init(make).clone()
}

fn get(table: &PartitionTable, number: u32) -> &Partition {
    let found = table.partitions.iter().find(|p| p.number == number);
    found.unwrap_or_else(|| panic!("partition {number} missing in {table:#?}"))
}

fn good() -> TableKind {
    gpt_kind(Health::Good, Health::Good)
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

/// Makes the checksums of a 512-byte-sector GPT whose header is at `header` right again.
fn seal(image: &mut [u8], header: usize) {
    let word = |at: usize, image: &[u8]| {
        u32::from_le_bytes(image[header + at..header + at + 4].try_into().unwrap())
    };
    let start = word(72, image) as usize * 512;
    let length = (word(80, image) as usize).min(image.len()) * word(84, image) as usize;
    if let Some(entries) = image.get(start..start + length) {
        let sum = crc32(entries).to_le_bytes();
        image[header + 88..header + 92].copy_from_slice(&sum);
    }
    image[header + 16..header + 20].fill(0);
    let sum = crc32(&image[header..header + 92]).to_le_bytes();
    image[header + 16..header + 20].copy_from_slice(&sum);
}

#[test]
fn reads_an_esxi_7_disk() {
    let entries = [
        (1, 64, 204_863, ESP, "BOOT"),
        (5, 208_896, 8_595_455, BASIC, "BOOTBANK1"),
        (6, 8_597_504, 16_984_063, BASIC, "BOOTBANK2"),
        (7, 16_986_112, 30_000_000, OSDATA, "OSDATA"),
        (8, 30_001_152, 60_000_000, VMFS, "datastore1"),
    ];
    let disk = sgdisk(32 * GIB, &entries);
    let table = read(&file_image(&disk)).unwrap();
    assert_eq!(table.kind, good());
    assert_eq!(table.sector_size, SectorSize::S512);
    assert_eq!(table.warnings, []);
    assert_eq!(table.partitions.len(), entries.len());
    for (number, first, last, _, name) in entries {
        let found = get(&table, number);
        assert_eq!(found.start, ByteOffset(first * 512));
        assert_eq!(found.length, (last - first + 1) * 512);
        assert_eq!(found.name, name);
        assert_eq!(found.problem, None);
        assert!(found.guid.is_some());
    }
    let banks: Vec<_> = table
        .partitions
        .iter()
        .filter(|p| p.kind.may_hold_bank())
        .map(|p| p.number)
        .collect();
    assert_eq!(banks, [1, 5, 6]);
    let stores: Vec<_> = table
        .partitions
        .iter()
        .filter(|p| p.kind.holds_datastore())
        .map(|p| p.number)
        .collect();
    assert_eq!(stores, [7, 8]);
}

#[test]
fn reads_an_esxi_6_disk_with_its_types_and_guids() {
    let entries = [
        (1, 64, 8191, ESP, ""),
        (5, 8224, 520_191, BASIC, ""),
        (6, 520_224, 1_032_191, BASIC, ""),
        (7, 1_032_224, 1_257_471, CORE, ""),
        (8, 1_257_504, 1_843_199, BASIC, ""),
        (9, 1_843_200, 7_086_079, RESERVED, ""),
        (2, 7_086_080, 15_472_639, VSAN, ""),
        (3, 15_472_640, 16_000_000, VMFS, ""),
        (4, 16_000_001, 16_000_100, LINUX, ""),
    ];
    let disk = sgdisk(8 * GIB, &entries);
    run(
        Command::new("sgdisk")
            .arg("--partition-guid=5:6E4EBE5D-0123-4567-89AB-CDEF01234567")
            .arg(disk.path()),
        "",
    );
    let table = read(&file_image(&disk)).unwrap();
    let kinds = [
        (1, PartitionKind::EfiSystem),
        (2, PartitionKind::Vsan),
        (3, PartitionKind::Vmfs),
        (4, PartitionKind::Other(LINUX.to_owned())),
        (5, PartitionKind::BasicData),
        (6, PartitionKind::BasicData),
        (7, PartitionKind::VmwareCoreDump),
        (8, PartitionKind::BasicData),
        (9, PartitionKind::VmwareReserved),
    ];
    for (number, kind) in kinds {
        assert_eq!(get(&table, number).kind, kind);
    }
    let guid = get(&table, 5).guid.unwrap().to_string();
    assert_eq!(guid, "6E4EBE5D-0123-4567-89AB-CDEF01234567");
}

#[test]
fn reads_an_mbr_disk_with_logical_partitions() {
    let disk = sfdisk(
        GIB,
        "label: dos\n\
         x4 : start=32, size=8160, type=4, bootable\n\
         x1 : start=8192, size=1835008, type=5\n\
         x5 : start=8224, size=511968, type=6\n\
         x6 : start=520224, size=511968, type=6\n\
         x7 : start=1032224, size=225248, type=fc\n\
         x8 : start=1257504, size=585696, type=6\n\
         x3 : start=1843200, size=200000, type=fb\n",
    );
    let table = read(&file_image(&disk)).unwrap();
    assert_eq!(table.kind, TableKind::Mbr);
    assert_eq!(table.warnings, []);
    let expected = [
        (4, 32, 8160, PartitionKind::Fat(4)),
        (1, 8192, 1_835_008, PartitionKind::Extended),
        (5, 8224, 511_968, PartitionKind::Fat(6)),
        (6, 520_224, 511_968, PartitionKind::Fat(6)),
        (7, 1_032_224, 225_248, PartitionKind::VmwareCoreDump),
        (8, 1_257_504, 585_696, PartitionKind::Fat(6)),
        (3, 1_843_200, 200_000, PartitionKind::Vmfs),
    ];
    assert_eq!(table.partitions.len(), expected.len());
    for (number, start, sectors, kind) in expected {
        let found = get(&table, number);
        assert_eq!(found.start, ByteOffset(start * 512), "{number}");
        assert_eq!(found.length, sectors * 512, "{number}");
        assert_eq!(found.kind, kind);
        assert_eq!(found.problem, None, "{number}");
    }
}

#[test]
fn accepts_what_real_esxi_disks_hold() {
    let mut image = small_gpt();
    // The sector count of the protective entry, and the name of partition 5.
    image[446 + 12..446 + 16].copy_from_slice(&77u32.to_le_bytes());
    let name = 1024 + 4 * 128 + 56;
    image[name..name + 72].fill(0xFF);
    seal(&mut image, 512);
    let table = read(&memory(image)).unwrap();
    assert_eq!(table.kind, good());
    assert_eq!(table.warnings, []);
    assert_eq!(get(&table, 5).name, "");
    assert_eq!(get(&table, 6).name, "BOOTBANK2");
}

#[test]
fn reads_a_damaged_primary_through_the_backup_and_says_that_esxi_will_not_boot() {
    let spoils: [(&str, usize, &str); 3] = [
        ("signature", 512, "no GPT header"),
        ("header", 512 + 40, "checksum"),
        ("entries", 1024 + 200, "CRC"),
    ];
    let whole = read(&memory(small_gpt())).unwrap();
    for (what, at, said) in spoils {
        let mut image = small_gpt();
        image[at] ^= 0x55;
        let table = read(&memory(image)).unwrap();
        assert_eq!(table.partitions, whole.partitions, "{what}");
        let TableKind::Gpt { primary, backup } = &table.kind else {
            panic!("{what}: {table:?}")
        };
        assert!(matches!(primary, Health::Damaged(reason) if reason.contains(said)));
        assert_eq!(*backup, Health::Good);
        let [warning] = table.warnings.as_slice() else {
            panic!("{what}: {:?}", table.warnings)
        };
        assert!(warning.to_string().contains("will not boot this disk"));
    }
}

#[test]
fn a_damaged_backup_is_a_warning() {
    let mut image = small_gpt();
    let last = image.len() - 512;
    image[last..].fill(0);
    let table = read(&memory(image)).unwrap();
    assert!(matches!(
        table.warnings.as_slice(),
        [TableWarning::BackupDamaged { .. }]
    ));
    assert_eq!(table.partitions.len(), 3);
}

#[test]
fn finds_the_backup_of_an_image_copied_to_a_larger_disk() {
    let mut image = small_gpt();
    image.resize(image.len() + 100_000, 0);
    let table = read(&memory(image)).unwrap();
    assert_eq!(table.kind, good());
}

#[test]
fn refuses_when_both_copies_are_damaged() {
    let mut image = small_gpt();
    let last = image.len() - 512;
    image[512] = 0;
    image[last + 20] ^= 1;
    let error = read(&memory(image)).unwrap_err();
    assert!(matches!(error, PartitionError::GptUnusable { .. }));
    assert!(error.to_string().contains("Repair the table"), "{error}");
}

/// The same table on sectors of 4096 bytes: sector numbers, and so the checksums, stay.
fn stretch(image: &[u8]) -> Vec<u8> {
    let sectors = image.len() / 512;
    let mut wide = vec![0; sectors * 4096];
    let array = 128 * 128;
    for (sector, length) in [
        (0, 512),
        (1, 512),
        (2, array),
        (sectors - 33, array),
        (sectors - 1, 512),
    ] {
        wide[sector * 4096..sector * 4096 + length]
            .copy_from_slice(&image[sector * 512..sector * 512 + length]);
    }
    wide
}

#[test]
fn reads_a_4kn_disk() {
    let mut disk = memory(stretch(&small_gpt()));
    disk.sector = SectorSize::S4096;
    let table = read(&disk).unwrap();
    assert_eq!(table.kind, good());
    assert_eq!(table.sector_size, SectorSize::S4096);
    assert_eq!(table.warnings, []);
    assert_eq!(get(&table, 5).start, ByteOffset(200 * 4096));
    assert_eq!(get(&table, 5).length, 1000 * 4096);
}

#[test]
fn detects_a_table_of_other_sectors_than_the_devices() {
    let wide = memory(stretch(&small_gpt()));
    let mut narrow = memory(small_gpt());
    narrow.sector = SectorSize::S4096;
    for (disk, sector) in [(wide, SectorSize::S4096), (narrow, SectorSize::S512)] {
        let table = read(&disk).unwrap();
        assert_eq!(table.sector_size, sector);
        let start = 200 * u64::from(sector.bytes());
        assert_eq!(get(&table, 5).start, ByteOffset(start));
        assert!(matches!(
            table.warnings.as_slice(),
            [TableWarning::SectorSize { .. }]
        ));
    }
}

#[test]
fn a_device_without_a_table_says_so() {
    let fat = blank(4 * MIB);
    run(Command::new("mkfs.fat").arg(fat.path()), "");
    let no_partitions = sfdisk(4 * MIB, "label: dos\n");
    let images = [
        vec![],
        vec![0; 100],
        vec![0; 512],
        vec![0; 100_000],
        vec![0xFF; 100_000],
        std::fs::read(fat.path()).unwrap(),
        std::fs::read(no_partitions.path()).unwrap(),
    ];
    for image in images {
        let error = read(&memory(image)).unwrap_err();
        assert!(matches!(error, PartitionError::NoTable { .. }), "{error}");
    }
}

#[test]
fn an_mbr_wins_over_the_gpt_left_behind_by_an_earlier_life() {
    let mut image = small_gpt();
    let mbr = sfdisk(2 * MIB, "label: dos\nstart=64, size=2000, type=6\n");
    image[..512].copy_from_slice(&std::fs::read(mbr.path()).unwrap()[..512]);
    let table = read(&memory(image)).unwrap();
    assert_eq!(table.kind, TableKind::Mbr);
    assert_eq!(table.partitions.len(), 1);
}

#[test]
fn a_gpt_without_protective_mbr_is_read_with_a_warning_but_its_backup_alone_is_not_believed() {
    let mut image = small_gpt();
    image[..512].fill(0);
    let table = read(&memory(image.clone())).unwrap();
    assert_eq!(table.warnings, [TableWarning::NotProtected]);
    assert_eq!(table.partitions.len(), 3);
    image[512..1024].fill(0);
    let error = read(&memory(image)).unwrap_err();
    assert!(matches!(error, PartitionError::NoTable { .. }));
}

#[test]
fn flags_entries_that_contradict_the_device_the_table_or_each_other() {
    let outside = PartitionProblem::OutsideDevice {
        end: 5000 * 512,
        device: 2 * MIB,
    };
    let far = PartitionProblem::OutsideDevice {
        end: u64::MAX,
        device: 2 * MIB,
    };
    let cases = [
        (200, 4999, Some(outside)),
        (200, u64::MAX - 1, Some(far.clone())),
        (u64::MAX - 1, u64::MAX - 1, Some(far)),
        (200, 198, Some(PartitionProblem::Empty)),
        (200, u64::MAX, Some(PartitionProblem::Empty)),
        (1, 190, Some(PartitionProblem::OverlapsTable)),
        (33, 63, Some(PartitionProblem::OverlapsTable)),
        (2200, 4095, Some(PartitionProblem::OverlapsTable)),
        (100, 190, Some(PartitionProblem::Overlaps { other: 1 })),
        (200, 1200, Some(PartitionProblem::Overlaps { other: 6 })),
        (200, 1199, None),
    ];
    for (first, last, problem) in cases {
        let mut image = small_gpt();
        let entry = 1024 + 4 * 128;
        image[entry + 32..entry + 40].copy_from_slice(&u64::to_le_bytes(first));
        image[entry + 40..entry + 48].copy_from_slice(&u64::to_le_bytes(last));
        seal(&mut image, 512);
        let table = read(&memory(image)).unwrap();
        // `u64::MAX` as the end: the number of sectors overflows unless the start is 1 on.
        if (first, last) == (200, u64::MAX) {
            assert!(get(&table, 5).problem.is_some());
        } else {
            assert_eq!(get(&table, 5).problem, problem, "{first}..={last}");
        }
    }
}

#[test]
fn refuses_headers_that_ask_for_too_much() {
    let cases: [(usize, &[u8], &str); 6] = [
        (24, &9u64.to_le_bytes(), "says it is in sector 9"),
        (72, &u64::MAX.to_le_bytes(), "outside the device"),
        (72, &4090u64.to_le_bytes(), "outside the device"),
        (80, &u32::MAX.to_le_bytes(), "entries, more than"),
        (84, &0u32.to_le_bytes(), "entries are of 0 bytes"),
        (84, &129u32.to_le_bytes(), "entries are of 129 bytes"),
    ];
    for (at, value, said) in cases {
        let mut image = small_gpt();
        image[512 + at..512 + at + value.len()].copy_from_slice(value);
        image[512 + 16..512 + 20].fill(0);
        let sum = crc32(&image[512..512 + 92]).to_le_bytes();
        image[512 + 16..512 + 20].copy_from_slice(&sum);
        let table = read(&memory(image)).unwrap();
        let TableKind::Gpt { primary, .. } = &table.kind else {
            panic!("{table:?}")
        };
        assert!(
            matches!(primary, Health::Damaged(reason) if reason.contains(said)),
            "{said}: {primary:?}"
        );
        // Entries of another size are only not read here: the loader takes them.
        let all: Vec<String> = table.warnings.iter().map(ToString::to_string).collect();
        let will_not_boot = all
            .iter()
            .any(|one| one.contains("will not boot this disk"));
        let loader_takes_it = matches!(said, "entries, more than" | "entries are of 129 bytes");
        assert_eq!(will_not_boot, !loader_takes_it, "{said}: {all:?}");
    }
}

/// An entry of a boot record: (type, start, sectors).
type Slot = (u8, u32, u32);

fn boot_record(entries: &[Slot]) -> [u8; 512] {
    let mut record = [0; 512];
    for (index, (sys, start, sectors)) in entries.iter().enumerate() {
        let at = 446 + 16 * index;
        record[at + 4] = *sys;
        record[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        record[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xAA]);
    record
}

/// A disk of 4000 sectors with an extended partition at 100..3100 and the given records in
/// it: (sector within the extended partition, entries).
fn extended_disk(records: &[(usize, &[Slot])]) -> Image<Vec<u8>> {
    let mut image = vec![0; 4000 * 512];
    image[..512].copy_from_slice(&boot_record(&[(5, 100, 3000)]));
    for (sector, entries) in records {
        let at = (100 + sector) * 512;
        image[at..at + 512].copy_from_slice(&boot_record(entries));
    }
    memory(image)
}

#[test]
fn follows_logical_partitions_even_out_of_order_and_counts_unused_records() {
    let disk = extended_disk(&[
        (0, &[(6, 10, 20), (5, 1000, 50)]),
        (1000, &[(0, 0, 0), (5, 500, 50)]),
        (500, &[(6, 10, 20), (0, 0, 0)]),
    ]);
    let table = read(&disk).unwrap();
    assert_eq!(table.warnings, []);
    let found: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.number, p.start.0 / 512, p.problem.clone()))
        .collect();
    assert_eq!(
        found,
        [(1, 100, None), (5, 110, None), (7, 610, None)],
        "{table:#?}"
    );
}

#[test]
fn hostile_chains_of_logical_partitions_end() {
    let first: (usize, &[Slot]) = (0, &[(6, 10, 20), (5, 1000, 50)]);
    let cases: [(Image<Vec<u8>>, u32, &str); 6] = [
        (extended_disk(&[]), 5, "record"),
        (
            extended_disk(&[first, (1000, &[(6, 1, 2), (5, 1000, 1)])]),
            7,
            "loop",
        ),
        (extended_disk(&[first]), 6, "record"),
        (
            extended_disk(&[(0, &[(6, 10, 20), (5, u32::MAX, 50)])]),
            6,
            "outside the extended",
        ),
        (
            extended_disk(&[(0, &[(6, 10, 20), (5, 3000, 50)])]),
            6,
            "outside the extended",
        ),
        (
            extended_disk(&[(0, &[(5, 10, 20), (5, 1000, 50)])]),
            5,
            "nests",
        ),
    ];
    for (disk, broken_at, said) in cases {
        let table = read(&disk).unwrap();
        let [TableWarning::BrokenChain { number, reason }] = table.warnings.as_slice() else {
            panic!("{said}: {:?}", table.warnings)
        };
        assert_eq!(*number, broken_at, "{said}");
        assert!(reason.contains(said), "{said}: {reason}");
    }
    let links: Vec<[Slot; 2]> = (1..1000)
        .map(|next| [(6, 1, 1), (5, 3 * next, 3)])
        .collect();
    let long: Vec<_> = links
        .iter()
        .enumerate()
        .map(|(index, entries)| (3 * index, entries.as_slice()))
        .collect();
    let table = read(&extended_disk(&long)).unwrap();
    assert_eq!(table.partitions.len(), 1 + MBR_LOGICALS_MAX as usize);
    assert_eq!(table.warnings.len(), 1);
}

#[test]
fn flags_logical_partitions_that_leave_their_container_or_cover_its_records() {
    let disk = extended_disk(&[
        (0, &[(6, 10, 20), (5, 1000, 50)]),
        (1000, &[(6, 10, u32::MAX), (5, 500, 50)]),
        (500, &[(6, 0, 20), (0, 0, 0)]),
    ]);
    let table = read(&disk).unwrap();
    let problem = |number| get(&table, number).problem.clone();
    assert_eq!(problem(5), None);
    assert_eq!(problem(6), Some(PartitionProblem::OutsideExtended));
    assert_eq!(problem(7), Some(PartitionProblem::OverlapsTable));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutated_tables_never_panic(
        changes in prop::collection::vec((0..2 * 1024 + 16_384usize, any::<u8>()), 1..24),
        fix in any::<bool>(),
    ) {
        let mut image = small_gpt();
        for (at, value) in changes {
            image[at] = value;
        }
        if fix {
            seal(&mut image, 512);
        }
        if let Ok(table) = read(&memory(image)) {
            for partition in table.partitions.iter().filter(|p| p.problem.is_none()) {
                prop_assert!(partition.start.0 + partition.length <= 2 * MIB);
            }
        }
    }

    #[test]
    fn random_boot_records_never_panic(
        entries in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 4),
        chain in prop::collection::vec(
            (0..3000usize, any::<u8>(), 0..4000u32, 0..4000u32, 0..4000u32), 0..8),
    ) {
        let mut disk = extended_disk(&[]);
        for (sector, sys, start, sectors, next) in chain {
            let record = boot_record(&[(sys, start, sectors), (5, next, 1)]);
            disk.store[(100 + sector) * 512..(101 + sector) * 512].copy_from_slice(&record);
        }
        let _ = read(&disk);
        disk.store[..512].copy_from_slice(&boot_record(&entries));
        let _ = read(&disk);
    }
}
