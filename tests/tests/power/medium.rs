//! The medium on volumes made and judged by outside programs: sgdisk, mkfs.fat, fsck.fat, mtools.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rescue_agent::bytes::sha256_hex;
use rescue_agent::discover;
use rescue_agent::disk::{
    Access, BlockDevice, ByteOffset, Disks, FileDevice, SectorSize, SystemDisks,
};
use rescue_agent::inventory::Inventory;
use rescue_agent::medium::{Identity, Medium, MediumError, TIMEOUT, find, started_from_stick};
use rescue_agent::originals::Original;
use rescue_agent::settings::MAX_FILE_BYTES;
use rescue_agent::stick::{StickError, StickFile};
use rescue_tests::power::device::{Recorder, Shared};
use rescue_tests::power::medium::{Image, Medium as Disk};
use rescue_tests::scratch;
use rescue_tests::tools::Tool;

const START: u64 = 2048 * 512;
const KIB: u64 = 40_000;
const SECTOR: u64 = 512;

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Tool::new(program)
        .unwrap()
        .args(arguments)
        .env("MTOOLS_SKIP_CHECK", "1")
        .output()
        .unwrap();
    (output.status.success(), output.text() + &output.errors())
}

fn must(program: &str, arguments: &[&str]) -> String {
    let (ok, said) = run(program, arguments);
    assert!(ok, "{program} {arguments:?}: {said}");
    said
}

/// A disk image with one FAT partition.
struct Stick {
    folder: tempfile::TempDir,
}

impl Stick {
    fn new(bits: &str) -> Self {
        let folder = scratch::folder().unwrap();
        let stick = Self { folder };
        let image = stick.image();
        File::create(&image)
            .unwrap()
            .set_len(START + (KIB + 100) * 1024)
            .unwrap();
        let image = image.to_str().unwrap();
        let size = format!("-n=1:2048:+{KIB}K");
        must("sgdisk", &[&size, "-t=1:EF00", image]);
        let (kib, cluster) = (KIB.to_string(), if bits == "32" { "1" } else { "4" });
        must(
            "mkfs.fat",
            &["-F", bits, "-s", cluster, "--offset", "2048", image, &kib],
        );
        stick
    }

    fn marked(bits: &str) -> Self {
        let stick = Self::new(bits);
        stick.folder_made(".disk");
        stick.give(".disk/esxi-rescue-test-1", b"");
        stick
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("stick.img")
    }

    fn at(&self) -> String {
        format!("{}@@{START}", self.image().display())
    }

    fn folder_made(&self, name: &str) {
        must("mmd", &["-i", &self.at(), &format!("::{name}")]);
    }

    fn give(&self, name: &str, content: &[u8]) {
        let file = self.folder.path().join("file");
        fs::write(&file, content).unwrap();
        let (file, to) = (file.to_str().unwrap(), format!("::{name}"));
        must("mcopy", &["-o", "-i", &self.at(), file, &to]);
    }

    fn take(&self, name: &str) -> Vec<u8> {
        let file = self.folder.path().join("taken");
        let _ = fs::remove_file(&file);
        let (file, from) = (file.to_str().unwrap(), format!("::{name}"));
        must("mcopy", &["-i", &self.at(), &from, file]);
        fs::read(file).unwrap()
    }

    fn names(&self) -> String {
        must("mdir", &["-/", "-b", "-i", &self.at(), "::"])
    }

    /// What fsck.fat says of the volume; it is to find nothing.
    fn fsck(&self) -> (bool, String) {
        let volume = self.folder.path().join("volume");
        self.disk().export(START, KIB * 1024, &volume).unwrap();
        run("fsck.fat", &["-n", "-v", volume.to_str().unwrap()])
    }

    fn assert_sound(&self) {
        let (ok, said) = self.fsck();
        assert!(ok && !said.contains("differ"), "{said}");
    }

    /// Turns it into what a cut leaves of these writes.
    fn become_cut(&self, before: &Disk, cut: &[Written]) {
        let mut disk = before.clone();
        for (at, sector) in cut {
            disk.put(at / SECTOR, sector.as_slice().into());
        }
        disk.export(0, disk.size(), &self.image()).unwrap();
    }

    /// It is found and can be written, and then its tables are equal.
    fn assert_usable(&self) {
        let next = vec![file("reports/next", b"next")];
        self.medium().put(next, TIMEOUT).unwrap();
        assert_eq!(self.take("reports/next"), b"next");
        let (_, said) = self.fsck();
        assert!(!said.contains("differ"), "{said}");
    }

    fn inventory(&self) -> Inventory {
        discover::discover(&[self.image()], &SystemDisks)
    }

    fn medium(&self) -> Medium {
        self.medium_through(Arc::new(SystemDisks)).unwrap()
    }

    fn medium_through(&self, disks: Arc<dyn Disks>) -> Option<Medium> {
        find(&self.inventory(), &identity(), disks).unwrap()
    }

    /// The whole disk as it is now, in memory, without what is empty.
    fn disk(&self) -> Disk {
        let length = self.image().metadata().unwrap().len();
        let mut image = Image::zeroed(length, place(SECTOR));
        image.write_file(0, &self.image()).unwrap();
        Disk::new(image)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.image()).unwrap()
    }

    /// Overwrites bytes of the partition.
    fn patch(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.image()).unwrap();
        file.write_all_at(bytes, START + at).unwrap();
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

fn identity() -> Identity {
    Identity::parse("test-1\n").unwrap()
}

fn file(path: &str, content: &[u8]) -> StickFile {
    StickFile {
        path: path.into(),
        content: content.to_vec(),
    }
}

fn noise(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from((n * 7 + n / 251) % 256).unwrap())
        .collect()
}

#[test]
fn the_medium_is_told_by_the_mark_of_this_very_image() {
    for bits in ["16", "32"] {
        let stick = Stick::new(bits);
        assert!(stick.medium_through(Arc::new(SystemDisks)).is_none());
        stick.folder_made(".disk");
        stick.give(".disk/esxi-rescue-test-2", b"");
        assert!(stick.medium_through(Arc::new(SystemDisks)).is_none());
        stick.give(".disk/esxi-rescue-test-1", b"");
        assert!(stick.medium().name().ends_with("stick.img partition 1"));
    }
}

#[test]
fn two_media_of_one_image_are_ambiguous_and_named() {
    let (one, two) = (Stick::marked("32"), Stick::marked("16"));
    let mut inventory = one.inventory();
    inventory.disks.extend(two.inventory().disks);
    let error = find(&inventory, &identity(), Arc::new(SystemDisks)).unwrap_err();
    let text = error.to_string();
    for stick in [&one, &two] {
        assert!(text.contains(stick.image().to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_disk_with_vmwares_mark_or_a_datastore_is_never_the_medium() {
    let stick = Stick::marked("16");
    let image = stick.image();
    must(
        "sgdisk",
        &[
            "-n=2:0:0",
            "-t=2:AA31E02A-400F-11DB-9590-000C2911D1B8",
            image.to_str().unwrap(),
        ],
    );
    assert!(stick.medium_through(Arc::new(SystemDisks)).is_none());
    let stick = Stick::marked("16");
    stick.patch(512, b"VMWARE FAT16    0123456789abcdef");
    assert!(stick.medium_through(Arc::new(SystemDisks)).is_none());
}

#[test]
fn identities_are_plain_words() {
    assert!(Identity::parse("0.1.0-4f2a").is_some());
    for no in ["", "\n", "a b", "../x", "ä", &"x".repeat(65)] {
        assert!(Identity::parse(no).is_none(), "{no:?}");
    }
    assert!(started_from_stick("quiet rescue_from=usb x"));
    assert!(!started_from_stick(
        "rescue_from=usb2 rescue.rescue_from=usb"
    ));
}

#[test]
fn settings_are_read_and_one_that_is_too_long_is_an_error() {
    let stick = Stick::marked("32");
    assert_eq!(stick.medium().settings().unwrap(), None);
    stick.give("Rescue.toml", b"mode = \"inspect\"\n");
    let found = stick.medium().settings().unwrap().unwrap();
    assert_eq!(found, b"mode = \"inspect\"\n");
    stick.give("Rescue.toml", &vec![b' '; 3 * MAX_FILE_BYTES]);
    let error = stick.medium().settings().unwrap_err().to_string();
    assert!(error.starts_with("rescue.toml cannot be read"), "{error}");
}

#[test]
fn files_are_put_replaced_and_read_back_by_others() {
    for bits in ["16", "32"] {
        let stick = Stick::marked(bits);
        let medium = stick.medium();
        let (long, longer) = (noise(70_000), noise(90_001));
        let name = "reports/7XK2P03-20260102-030405.json";
        let first = vec![
            file(name, b"started"),
            file(
                "originals/7XK2P03/sda-bank5-STATE.TGZ-0123456789abcdef",
                &long,
            ),
        ];
        medium.put(first, TIMEOUT).unwrap();
        stick.assert_sound();
        assert_eq!(stick.take(name), b"started");
        medium.put(vec![file(name, &longer)], TIMEOUT).unwrap();
        stick.assert_sound();
        assert_eq!(stick.take(name), longer);
        assert_eq!(
            stick.take("originals/7XK2P03/sda-bank5-STATE.TGZ-0123456789abcdef"),
            long
        );
        assert_eq!(medium.read(name, 100_000).unwrap().unwrap(), longer);
        assert_eq!(medium.list("originals").unwrap(), ["7XK2P03"]);
        assert_eq!(
            stick
                .names()
                .lines()
                .filter(|line| line.contains("reports/"))
                .count(),
            2
        );
    }
}

#[test]
fn many_files_let_their_folder_grow() {
    let stick = Stick::marked("32");
    let medium = stick.medium();
    for number in 0..30 {
        let name = format!("reports/a-rather-long-host-name-20260102-0304{number:02}.json");
        medium
            .put(vec![file(&name, name.as_bytes())], TIMEOUT)
            .unwrap();
    }
    stick.assert_sound();
    for number in 0..30 {
        let name = format!("reports/a-rather-long-host-name-20260102-0304{number:02}.json");
        assert_eq!(stick.take(&name), name.as_bytes());
    }
}

#[test]
fn a_new_folder_that_outgrows_its_first_cluster_at_once_keeps_all_its_files() {
    for count in [3, 4] {
        let stick = Stick::marked("32");
        let folder = "originals/7XK2P03";
        let mut names: Vec<String> = (5..5 + count - 1)
            .map(|bank| format!("{folder}/sda-bank{bank}-STATE.TGZ-0123456789abcdef"))
            .collect();
        names.push(format!("{folder}/index.json"));
        let files = names.iter().map(|name| file(name, name.as_bytes()));
        let medium = stick.medium();
        medium.put(files.collect(), TIMEOUT).unwrap();
        stick.assert_sound();
        for name in &names {
            assert_eq!(stick.take(name), name.as_bytes());
        }
        let later = vec![file(&names[0], b"new"), file(&names[count - 1], b"newer")];
        medium.put(later, TIMEOUT).unwrap();
        stick.assert_sound();
        assert_eq!(stick.take(&names[0]), b"new");
        assert_eq!(stick.take(&names[1]), names[1].as_bytes());
        assert_eq!(stick.take(&names[count - 1]), b"newer");
    }
}

#[test]
fn the_handover_is_a_block_as_grub_writes_it() {
    let stick = Stick::marked("16");
    let uuid = "4C4C4544-0037-5810-8032-B7C04F503033";
    stick.medium().write_handover(uuid, true).unwrap();
    let name = "hosts/4c4c4544-0037-5810-8032-b7c04f503033.env";
    let mut expected = b"# GRUB Environment Block\nhandover=1\n".to_vec();
    expected.resize(1024, b'#');
    assert_eq!(stick.take(name), expected);
    stick.medium().write_handover(uuid, false).unwrap();
    assert!(
        stick
            .take(name)
            .starts_with(b"# GRUB Environment Block\nhandover=0\n#")
    );
    let before = stick.bytes();
    stick
        .medium()
        .write_handover("../boot/grub/rescue", true)
        .unwrap();
    assert_eq!(stick.bytes(), before);
}

#[test]
fn a_copy_that_was_lost_or_cut_short_is_written_again() {
    let stick = Stick::marked("32");
    let (bytes, name) = (noise(3000), "sda-bank5-STATE.TGZ-0123456789abcdef");
    let original = Original {
        file: name.into(),
        sha256: sha256_hex(&bytes),
        size_bytes: 3000,
        taken: "2026-01-02T03:04:05Z".into(),
        host_serial: None,
        host_uuid: None,
        disk_path: "/dev/sda".into(),
        disk_serial: None,
        partition: 5,
        partition_guid: None,
        volume_uuid: "01234567-89ab-cdef-0123-456789abcdef".into(),
        archive: "STATE.TGZ".into(),
        repaired_sha256: vec!["00".into()],
    };
    let kept = |stick: &Stick| {
        let originals = vec![(original.clone(), bytes.clone())];
        stick.medium().keep_originals("7XK2P03", originals).unwrap()
    };
    assert_eq!((kept(&stick), kept(&stick)), (1, 0));
    let copy = format!("originals/7XK2P03/{name}");
    must("mdel", &["-i", &stick.at(), &format!("::{copy}")]);
    assert_eq!(kept(&stick), 1);
    assert_eq!(stick.take(&copy), bytes);
    stick.give(&copy, &bytes[..2000]);
    assert_eq!(kept(&stick), 1);
    assert_eq!(stick.take(&copy), bytes);
    stick.assert_sound();
}

#[test]
fn a_full_medium_is_told_and_not_written() {
    let stick = Stick::marked("16");
    stick.give("filler", &noise(37 << 20));
    let (medium, before) = (stick.medium(), stick.bytes());
    let error = medium
        .put(vec![file("reports/a", &noise(3_000_000))], TIMEOUT)
        .unwrap_err();
    assert!(
        matches!(error, MediumError::Stick(StickError::Full { .. })),
        "{error}"
    );
    assert_eq!(stick.bytes(), before);
}

#[test]
fn where_there_is_no_room_for_the_log_the_end_of_the_run_is_noted_all_the_same() {
    let stick = Stick::marked("16");
    stick.give("filler", &noise(37 << 20));
    let medium = stick.medium();
    let path = medium.report_begun("7XK2P03", "started".into()).unwrap();
    let log = "x".repeat(3_000_000);
    let ended = medium.report_finished("7XK2P03", "ended".into(), log);
    assert_eq!(ended.unwrap(), path);
    assert_eq!(stick.take(&path), b"ended");
    assert_eq!(medium.list("reports").unwrap().len(), 1);
    stick.assert_sound();
}

/// Places in the volume, by the parameter block.
struct Shape {
    table: u64,
    second: u64,
    root: u64,
}

fn shape(stick: &Stick) -> Shape {
    let bytes = stick.bytes();
    let boot = &bytes[place(START)..];
    let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let sectors = match word(22) {
        0 => word(36),
        narrow => narrow,
    };
    let table = word(14) * 512;
    Shape {
        table,
        second: table + sectors * 512,
        root: table + 2 * sectors * 512,
    }
}

#[test]
fn a_damaged_medium_is_refused_and_not_written() {
    type Harm = fn(&Stick, &Shape);
    let harms: [(&str, Harm); 5] = [
        ("tables disagree about a cluster in use", |stick, shape| {
            stick.patch(shape.second + 3 * 2, &[0xf7, 0xff]);
        }),
        ("a chain that breaks off", |stick, shape| {
            stick.patch(shape.table + 3 * 2, &[0, 0]);
            stick.patch(shape.second + 3 * 2, &[0, 0]);
        }),
        ("a loop", |stick, shape| {
            stick.patch(shape.table + 3 * 2, &[3, 0]);
            stick.patch(shape.second + 3 * 2, &[3, 0]);
        }),
        ("a chain out of the volume", |stick, shape| {
            stick.patch(shape.table + 3 * 2, &[0xf0, 0xff]);
            stick.patch(shape.second + 3 * 2, &[0xf0, 0xff]);
        }),
        ("a file that is longer than its chain", |stick, shape| {
            // The second entry of the root, behind `.disk`'s long name and itself.
            let at = (0..16).map(|slot| shape.root + slot * 32).find(|at| {
                let bytes = stick.bytes();
                bytes[place(START + at)..].starts_with(b"VICTIM  BIN")
            });
            stick.patch(at.unwrap() + 28, &9_000_000_u32.to_le_bytes());
        }),
    ];
    for (what, harm) in harms {
        let stick = Stick::marked("16");
        stick.give("victim.bin", &noise(20_000));
        // Its chain is the one that begins behind the clusters of `.disk`.
        let medium = stick.medium();
        harm(&stick, &shape(&stick));
        let before = stick.bytes();
        let error = medium
            .put(vec![file("reports/a", b"a")], TIMEOUT)
            .unwrap_err();
        assert!(
            matches!(error, MediumError::Stick(StickError::Unsound(_))),
            "{what}: {error}"
        );
        assert_eq!(stick.bytes(), before, "{what}");
    }
}

#[test]
fn tables_that_a_cut_write_let_differ_about_nobodys_clusters_are_made_equal() {
    let stick = Stick::marked("16");
    stick.patch(shape(&stick).second + 9000 * 2, &[0xff, 0xff]);
    stick
        .medium()
        .put(vec![file("reports/a", b"a")], TIMEOUT)
        .unwrap();
    stick.assert_sound();
    assert_eq!(stick.take("reports/a"), b"a");
}

#[test]
fn hostile_first_sectors_are_no_medium() {
    let original = Stick::marked("32").disk();
    // Every byte of the parameter block, at its extremes: no panic, no endless walk.
    for at in 11..90 {
        for value in [0_u8, 1, 0x7f, 0x80, 0xff] {
            let mut disk = original.clone();
            disk.patch(START + at, &[value]).unwrap();
            let recorder = Arc::new(Recorder::new(disk));
            let disks = move |_: &Path| -> io::Result<Box<dyn BlockDevice>> {
                Ok(Box::new(Shared(Arc::clone(&recorder))))
            };
            let inventory = discover::discover(&["stick".into()], &disks);
            let found = find(&inventory, &identity(), Arc::new(disks));
            if let Some(medium) = found.unwrap() {
                let _ = medium.settings();
                let _ = medium.put(vec![file("reports/a", b"a")], TIMEOUT);
            }
        }
    }
}

#[test]
fn a_medium_that_was_exchanged_is_not_written() {
    let stick = Stick::marked("16");
    let medium = stick.medium();
    must("mdel", &["-i", &stick.at(), "::.disk/esxi-rescue-test-1"]);
    let before = stick.bytes();
    let error = medium
        .put(vec![file("reports/a", b"a")], TIMEOUT)
        .unwrap_err();
    assert!(matches!(error, MediumError::Gone), "{error}");
    assert_eq!(stick.bytes(), before);
}

/// Records writes, or takes its time.
#[derive(Debug)]
struct Odd {
    inner: FileDevice,
    epochs: Epochs,
    sleep: Duration,
}

impl BlockDevice for Odd {
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> io::Result<()> {
        thread::sleep(self.sleep);
        let mut epochs = self.epochs.lock().unwrap();
        for (number, sector) in data.chunks(512).enumerate() {
            let at = offset.0 + number as u64 * 512;
            epochs.last_mut().unwrap().push((at, sector.to_vec()));
        }
        self.inner.write_at(offset, data)
    }
    fn flush(&self) -> io::Result<()> {
        self.epochs.lock().unwrap().push(Vec::new());
        self.inner.flush()
    }
}

/// A sector that was written: where, and what.
type Written = (u64, Vec<u8>);
/// What was written from one flush to the next.
type Epochs = Arc<Mutex<Vec<Vec<Written>>>>;

/// The system's disks, but for those that are written to.
#[derive(Debug)]
struct OddDisks {
    epochs: Epochs,
    sleep: Duration,
}

impl Disks for OddDisks {
    fn read(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        SystemDisks.read(path)
    }

    fn write(&self, path: &Path) -> io::Result<Box<dyn BlockDevice>> {
        Ok(Box::new(Odd {
            inner: FileDevice::open(path, Access::Write)?,
            epochs: Arc::clone(&self.epochs),
            sleep: self.sleep,
        }))
    }
}

fn odd(sleep: Duration) -> (Arc<dyn Disks>, Epochs) {
    let epochs: Epochs = Arc::new(Mutex::new(vec![Vec::new()]));
    let disks = OddDisks {
        epochs: Arc::clone(&epochs),
        sleep,
    };
    (Arc::new(disks), epochs)
}

/// What a cut can leave of the writes: all before an epoch, and of that one every prefix, every
/// single sector, and all but any one.
fn cuts(epochs: &[Vec<Written>]) -> Vec<Vec<Written>> {
    let mut cuts = Vec::new();
    let mut done: Vec<Written> = Vec::new();
    for epoch in epochs {
        let all = 0..epoch.len();
        let mut kept: Vec<Vec<usize>> = all.clone().map(|end| (0..end).collect()).collect();
        kept.extend(all.clone().map(|one| vec![one]));
        kept.extend(
            all.clone()
                .map(|out| all.clone().filter(|n| *n != out).collect()),
        );
        kept.sort();
        kept.dedup();
        for kept in kept {
            let kept = kept.iter().map(|number| epoch[*number].clone());
            cuts.push(done.iter().cloned().chain(kept).collect());
        }
        done.extend(epoch.iter().cloned());
    }
    cuts.push(done);
    cuts
}

#[test]
fn a_medium_that_hangs_is_left_behind() {
    let stick = Stick::marked("16");
    let (disks, _) = odd(Duration::from_secs(60));
    let medium = stick.medium_through(disks).unwrap();
    let begun = Instant::now();
    let error = medium
        .put(vec![file("reports/a", b"a")], Duration::from_millis(200))
        .unwrap_err();
    assert!(matches!(error, MediumError::Slow(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_or_the_new_report_and_a_medium_that_can_be_written() {
    for bits in ["16", "32"] {
        let stick = Stick::marked(bits);
        let (disks, epochs) = odd(Duration::ZERO);
        let name = "reports/7XK2P03-20260102-030405.json";
        let (old, new) = (noise(1500), noise(2500));
        stick.medium().put(vec![file(name, &old)], TIMEOUT).unwrap();
        let before = stick.disk();
        let medium = stick.medium_through(disks).unwrap();
        medium.put(vec![file(name, &new)], TIMEOUT).unwrap();
        let epochs = epochs.lock().unwrap().clone();
        // New clusters, both tables twice, the folder.
        let written: usize = epochs.iter().map(Vec::len).sum();
        assert!(written >= 2500_usize.div_ceil(512) + 5, "{written}");
        for cut in cuts(&epochs) {
            stick.become_cut(&before, &cut);
            let found = stick.take(name);
            assert!(found == old || found == new, "FAT{bits}, cut: {cut:?}");
            stick.assert_usable();
        }
    }
}

#[test]
fn a_power_cut_while_a_folder_grows_loses_nothing_and_leaves_a_medium_that_can_be_written() {
    // A cluster has 16 slots: four go to each long name, two to a short one, four to what begins a
    // new folder, two to `.disk` in the root. So some of the first cluster's are free, or none.
    let long = |number: u32| format!("a-rather-long-host-name-2026010{number}.json");
    let short = "a.env".to_owned();
    for (folder, names) in [
        ("reports/", vec![long(1), long(2)]),
        ("reports/", vec![long(1), long(2), long(3)]),
        ("", vec![long(1), long(2), long(3)]),
        ("", vec![long(1), long(2), long(3), short]),
    ] {
        let stick = Stick::marked("32");
        let (disks, epochs) = odd(Duration::ZERO);
        let name = |name: &str| format!("{folder}{name}");
        let first = names.iter().map(|one| file(&name(one), one.as_bytes()));
        stick.medium().put(first.collect(), TIMEOUT).unwrap();
        let before = stick.disk();
        let medium = stick.medium_through(disks).unwrap();
        let (new, newer) = (noise(700), noise(800));
        let added = name("one-more-file-that-has-a-rather-long-name-so-that-it-needs-room.json");
        let put = vec![file(&added, &new), file(&name(&names[0]), &newer)];
        medium.put(put, TIMEOUT).unwrap();
        let epochs = epochs.lock().unwrap().clone();
        // Among them one for the link in each table.
        let used = epochs.iter().filter(|epoch| !epoch.is_empty());
        assert_eq!(used.count(), 6, "{folder} {names:?}");
        for cut in cuts(&epochs) {
            stick.become_cut(&before, &cut);
            let replaced = stick.take(&name(&names[0]));
            assert!(
                replaced == names[0].as_bytes() || replaced == newer,
                "{cut:?}"
            );
            for kept in &names[1..] {
                assert_eq!(stick.take(&name(kept)), kept.as_bytes(), "{cut:?}");
            }
            if stick.names().contains(&added) {
                assert_eq!(stick.take(&added), new, "{cut:?}");
            }
            stick.assert_usable();
            for kept in &names[1..] {
                assert_eq!(stick.take(&name(kept)), kept.as_bytes(), "{cut:?}");
            }
        }
    }
}
