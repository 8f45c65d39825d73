//! Micro-benchmarks of the agent's parts: `cargo bench -p rescue-agent`.
//!
//! For work on one part. What is promised is measured by `make bench`, on whole runs.

// Benchmarks end where their data cannot be made.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io::{self, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use rescue_agent::archive::envelope::Envelope;
use rescue_agent::archive::keystore::Keystore;
use rescue_agent::archive::{StateArchive, gzip, tar as rescue_tar};
use rescue_agent::config::configstore;
use rescue_agent::config::pci::PciAddress;
use rescue_agent::discover::discover;
use rescue_agent::disk::{BlockDevice, ByteOffset, SectorSize};
use rescue_agent::fat::{Region, Volume};
use rescue_agent::host::{DiskNode, Host, PciClass, PciFunction};
use rescue_agent::plan;
use rescue_agent::policy::Policy;

/// Made by tests/data/make_envelope.py.
const ENVELOPE: &[u8] = include_bytes!("../tests/data/local.tgz.ve");
const KEYSTORE: &[u8] = include_bytes!("../tests/data/encryption.info");

const MIB: usize = 1 << 20;
const SECTOR: usize = 512;
/// Of the disk with a bank; its one partition starts at the first MiB.
const DISK_BYTES: usize = 65 * MIB;
const CONTROLLER: &str = "0000:00:1f.2";

fn main() {
    divan::main();
}

/// Text like that of esx.conf.
fn text(bytes: usize) -> Vec<u8> {
    let mut text = String::new();
    for number in 0_u32.. {
        if text.len() >= bytes {
            break;
        }
        let mixed = number.wrapping_mul(2_654_435_761);
        let _ = writeln!(
            text,
            "/net/vswitch/child[{:04}]/port{mixed:x} = \"{}\"",
            number / 9,
            mixed % 977
        );
    }
    text.truncate(bytes);
    text.into_bytes()
}

fn tarred(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The tar of a configuration: many files, esx.conf among them.
fn configuration(bytes: usize) -> Vec<u8> {
    let mut conf = b"/device/00000:000:31.2/owner = \"passthru\"\n".to_vec();
    conf.extend(text(bytes / 4));
    let other = text(8192);
    let names: Vec<String> = (0..bytes / 4 * 3 / other.len())
        .map(|number| format!("etc/vmware/file{number}"))
        .collect();
    let mut files: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), other.as_slice()))
        .collect();
    files.push(("etc/vmware/esx.conf", &conf));
    tarred(&files)
}

fn state_archive() -> Vec<u8> {
    let local = gzip::deflate(&configuration(MIB)).unwrap();
    gzip::deflate(&tarred(&[("local.tgz", &local)])).unwrap()
}

#[divan::bench(args = [MIB / 10, MIB, 16 * MIB])]
fn gzip_deflate(bencher: Bencher<'_, '_>, bytes: usize) {
    let content = configuration(bytes);
    let counted = bencher.counter(BytesCount::new(content.len()));
    counted.bench(|| gzip::deflate(black_box(&content)));
}

#[divan::bench(args = [MIB / 10, MIB, 16 * MIB])]
fn gzip_inflate(bencher: Bencher<'_, '_>, bytes: usize) {
    let content = configuration(bytes);
    let packed = gzip::deflate(&content).unwrap();
    let counted = bencher.counter(BytesCount::new(content.len()));
    counted.bench(|| gzip::inflate(black_box(&packed), 1 << 30));
}

#[divan::bench(args = [MIB / 10, MIB, 16 * MIB])]
fn gzip_prove(bencher: Bencher<'_, '_>, bytes: usize) {
    let content = configuration(bytes);
    let packed = gzip::deflate(&content).unwrap();
    let counted = bencher.counter(BytesCount::new(content.len()));
    counted.bench(|| gzip::inflates_to(black_box(&packed), &content));
}

#[divan::bench]
fn tar_walk(bencher: Bencher<'_, '_>) {
    let content = configuration(MIB);
    bencher.bench(|| rescue_tar::members(black_box(&content)));
}

#[divan::bench]
fn tar_replace(bencher: Bencher<'_, '_>) {
    let content = configuration(MIB);
    let members = rescue_tar::members(&content).unwrap();
    let new = text(5000);
    bencher.bench(|| rescue_tar::replace(black_box(&content), &members[3], &new));
}

#[divan::bench]
fn archive_open(bencher: Bencher<'_, '_>) {
    let raw = state_archive();
    bencher.bench(|| StateArchive::open(black_box(&raw)));
}

#[divan::bench]
fn archive_pack_and_prove(bencher: Bencher<'_, '_>) {
    let raw = state_archive();
    bencher
        .with_inputs(|| StateArchive::open(&raw).unwrap())
        .bench_values(StateArchive::pack);
}

#[divan::bench]
fn keystore_key() {
    let _ = black_box(Keystore::parse(black_box(KEYSTORE)).unwrap().own_key());
}

#[divan::bench]
fn envelope_open(bencher: Bencher<'_, '_>) {
    let key = Keystore::parse(KEYSTORE).unwrap().own_key().unwrap();
    bencher.bench(|| Envelope::parse(black_box(ENVELOPE)).unwrap().open(&key));
}

#[divan::bench(args = [MIB / 10, MIB])]
fn envelope_seal(bencher: Bencher<'_, '_>, bytes: usize) {
    let key = Keystore::parse(KEYSTORE).unwrap().own_key().unwrap();
    let envelope = Envelope::parse(ENVELOPE).unwrap();
    let content = text(bytes);
    bencher.bench(|| envelope.seal(&key, black_box(&content)));
}

/// A ConfigStore with one device that is passed through, among `rows` others.
fn store(rows: usize) -> Vec<u8> {
    let mut connection = rusqlite::Connection::open_in_memory().unwrap();
    let table = "CREATE TABLE Config(Component TEXT,ConfigGroup TEXT,Name TEXT,Identifier TEXT,\
                 AutoConfValue TEXT,UserValue TEXT,CachedValue TEXT,DesiredValue TEXT,\
                 PRIMARY KEY(Component,ConfigGroup,Name,Identifier));\
                 CREATE TABLE KVTable(Key TEXT,Value TEXT);";
    connection.execute_batch(table).unwrap();
    let sql = "INSERT INTO Config VALUES('esx','hardware','pci_devices',?1,'{}',?2,NULL,NULL)";
    let mut insert = connection.prepare(sql).unwrap();
    let mut add = |address: &str, owner: &str| {
        let json = format!("{{\"sbdf\":\"{address}\",\"owner\":\"{owner}\"}}");
        insert.execute([address, &json]).unwrap()
    };
    add(CONTROLLER, "OWNER_PASSTHRU");
    for row in 0..rows {
        add(
            &format!("0000:{:02x}:{:02x}.0", 1 + row / 32, row % 32),
            "OWNER_VMKERNEL",
        );
    }
    drop(insert);
    connection.serialize("main").unwrap().to_vec()
}

#[divan::bench(args = [10, 1000])]
fn config_store_edit(bencher: Bencher<'_, '_>, rows: usize) {
    let store = store(rows);
    let devices = [CONTROLLER.to_owned()];
    bencher.bench(|| configstore::give_back(black_box(&store), &devices).unwrap());
}

/// A disk in memory.
#[derive(Debug, Clone)]
struct Memory(Arc<Vec<u8>>);

impl BlockDevice for Memory {
    fn sector_size(&self) -> SectorSize {
        SectorSize::S512
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset.0).map_err(io::Error::other)?;
        let found = self.0.get(at..at + buf.len());
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: ByteOffset, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk with one bank, whose boot controller is passed through.
fn disk() -> Memory {
    let mut bytes = vec![0; DISK_BYTES];
    // One primary partition of type 6 (FAT16), from the first MiB to the end.
    bytes[450] = 6;
    bytes[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    bytes[458..462].copy_from_slice(&(64 * 2048_u32).to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let volume = &mut bytes[MIB..];
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat16);
    fatfs::format_volume(Cursor::new(&mut *volume), options).unwrap();
    volume[SECTOR..SECTOR + 16].copy_from_slice(b"VMWARE FAT16    ");
    {
        let fs = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new()).unwrap();
        let put = |name: &str, content: &[u8]| {
            let mut file = fs.root_dir().create_file(name).unwrap();
            file.write_all(content).unwrap();
        };
        let cfg = "bootstate=0\nkernel=b.b00\nmodules=state.tgz\nbuild=6.7.0-1\nupdated=1\n";
        put("BOOT.CFG", cfg.as_bytes());
        put("STATE.TGZ", &state_archive());
        for number in 0..100 {
            put(&format!("MODULE{number}.V00"), &text(100_000));
        }
    }
    Memory(Arc::new(bytes))
}

#[divan::bench]
fn fat_open_and_survey(bencher: Bencher<'_, '_>) {
    let disk = disk();
    let region = Region {
        start: ByteOffset(MIB as u64),
        length: 64 * MIB as u64,
    };
    bencher.bench(|| Volume::open(black_box(&disk), region).unwrap().survey());
}

const NODE: &str = "/dev/sda";

/// A machine of many functions.
fn host() -> Host {
    let function = |address: PciAddress, class| PciFunction {
        address,
        id: "8086:2922".parse().unwrap(),
        class: PciClass(class),
        above: Vec::new(),
        driver: Some("driver".into()),
        name: None,
    };
    let controller: PciAddress = CONTROLLER.parse().unwrap();
    let others = (0..250).map(|n| format!("0000:{:02x}:{:02x}.0", 1 + n / 32, n % 32));
    let others = others.map(|address| function(address.parse().unwrap(), 0x02_0000));
    Host {
        pci: others
            .chain([function(controller, 0x01_0601)])
            .map(|function| (function.address, function))
            .collect(),
        disks: vec![DiskNode {
            node: NODE.into(),
            model: None,
            serial: None,
            size: DISK_BYTES as u64,
            removable: false,
            pci_paths: vec![vec![controller]],
            world_wide_ids: Vec::new(),
            image: None,
        }],
        ..Host::default()
    }
}

#[divan::bench]
fn discovery(bencher: Bencher<'_, '_>) {
    let disk = disk();
    let open = |_: &Path| -> io::Result<Box<dyn BlockDevice>> { Ok(Box::new(disk.clone())) };
    bencher.bench(|| discover(black_box(&[PathBuf::from(NODE)]), &open));
}

/// Every passed-through entry judged against the machine, without making an archive.
#[divan::bench]
fn pci_judge(bencher: Bencher<'_, '_>) {
    let disk = disk();
    let open = |_: &Path| -> io::Result<Box<dyn BlockDevice>> { Ok(Box::new(disk.clone())) };
    let inventory = discover(&[PathBuf::from(NODE)], &open);
    assert_eq!(inventory.banks().count(), 1, "the bank is found");
    let (host, policy) = (host(), Policy::default());
    assert!(
        plan::revert(&inventory, &policy, Some(&host))
            .unwrap()
            .writes()
    );
    bencher.bench(|| plan::listing(black_box(&inventory), Some(&host)));
}
