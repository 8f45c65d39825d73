//! What the builder makes, read by programs that are not ours: cpio, zstd, fsck.fat, mtools, sgdisk, xorriso.

// Clippy's permission for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rescue_image::drivers::{Class, Driver, Selection};
use rescue_image::esp::{self, Loaders};
use rescue_image::grub;
use rescue_image::hash;
use rescue_image::initramfs::{self, Base};
use rescue_image::iso::{self, Tree};
use rescue_image::personal::{self, Personal};
use rescue_image::settings::Setting;

const EPOCH: u64 = 1_700_000_000;

/// Runs a program with the input and returns what it prints; it must succeed.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = try_run(program, arguments, input);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    output.stdout
}

fn try_run(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; run scripts/setup.sh test"));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A reader may stop early, as cpio does at its trailer.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn base_part() -> Vec<u8> {
    let base = Base {
        agent: &[0x7f; 100_000],
        driver_table: b"{}",
        names: b"10de  NVIDIA\n",
        release: "esxi-rescue test\n",
        settings: None,
    };
    initramfs::base_part(&base, 1).unwrap()
}

fn drivers_part(dir: &Path) -> Vec<u8> {
    let path = dir.join("ahci.ko");
    fs::write(&path, b"module bytes").unwrap();
    let driver = Driver {
        name: "ahci".to_owned(),
        file: "ahci.ko.zst".to_owned(),
        depends: Vec::new(),
        pre: Vec::new(),
        aliases: Vec::new(),
        class: Class::Storage,
        firmware: Vec::new(),
    };
    let selection = Selection {
        drivers: vec![driver],
        files: vec![path],
    };
    initramfs::drivers_part(&selection, 1, &|| ()).unwrap()
}

/// A small ISO, made in a directory of its own.
fn small_iso(dir: &Path) -> PathBuf {
    let loaders = Loaders {
        shim: vec![1; 30_000],
        mok_manager: vec![2; 20_000],
        grub: vec![3; 40_000],
    };
    let esp = esp::volume(&loaders, &grub::finder("test"), 0xcafe_f00d).unwrap();
    let bios_image = grub::bios_cd_image("test", dir).unwrap();
    let personal = Personal {
        release: "esxi-rescue test".to_owned(),
        arguments: Vec::new(),
    };
    let block = personal.to_block().unwrap();
    let tree = Tree {
        files: vec![
            (grub::identity_file("test"), b"\n"),
            ("boot/vmlinuz".to_owned(), b"kernel"),
            ("boot/grub/rescue.env".to_owned(), &block),
        ],
        bios_image: &bios_image,
        esp: &esp,
    };
    let out = dir.join("out.iso");
    iso::write(&tree, EPOCH, dir, &out).unwrap();
    out
}

#[test]
fn cpio_reads_the_base_part_after_zstd() {
    // zstd complains of the zeros that align the next part, after it has written everything.
    let raw = try_run("zstd", &["-dc"], &base_part()).stdout;
    let listing = text(run("cpio", &["-t", "--quiet", "-v", "-n"], &raw));
    for (name, start) in [
        ("init", "-rwxr-xr-x   1 0        0 "),
        ("dev/console", "crw-------   1 0        0 "),
        ("tmp", "drwxrwxrwt   2 0        0 "),
        ("lib/rescue/drivers.json", "-rw-r--r--   1 0        0 "),
    ] {
        let line = listing
            .lines()
            .find(|line| line.ends_with(&format!(" {name}")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{listing}"));
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn cpio_and_zstd_give_back_the_module_byte_by_byte() {
    let temp = tempfile::tempdir().unwrap();
    let part = drivers_part(temp.path());
    let module = run(
        "cpio",
        &[
            "-i",
            "--quiet",
            "--to-stdout",
            "lib/rescue/modules/ahci.ko.zst",
        ],
        &part,
    );
    assert_eq!(run("zstd", &["-dc"], &module), b"module bytes");
}

#[test]
fn fsck_finds_nothing_wrong_with_the_esp_and_mtools_reads_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("efi.img");
    let loaders = Loaders {
        shim: vec![1; 30_000],
        mok_manager: vec![2; 20_000],
        grub: vec![3; 40_000],
    };
    fs::write(&path, esp::volume(&loaders, "search\n", 1).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    run("fsck.fat", &["-n", path], b"");
    assert_eq!(
        run("mtype", &["-i", path, "::/EFI/BOOT/BOOTX64.EFI"], b""),
        vec![1; 30_000]
    );
    assert_eq!(
        run("mtype", &["-i", path, "::/boot/grub/grub.cfg"], b""),
        b"search\n"
    );
}

#[test]
fn the_iso_is_a_disk_with_an_esp_and_a_cd_with_both_boot_records() {
    let temp = tempfile::tempdir().unwrap();
    let iso = small_iso(temp.path());
    let path = iso.to_str().unwrap();
    let table = text(run("sgdisk", &["--print", path], b""));
    assert!(
        table
            .lines()
            .any(|line| line.split_whitespace().nth(5) == Some("EF00")),
        "{table}"
    );
    let record = text(run(
        "xorriso",
        &["-indev", path, "-report_el_torito", "plain"],
        b"",
    ));
    for wanted in ["boot img :   1  BIOS  y", "boot img :   2  UEFI  y"] {
        assert!(record.contains(&format!("El Torito {wanted}")), "{record}");
    }
}

#[test]
fn two_builds_in_two_places_give_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = hash::sha256_file(&small_iso(one.path())).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(first, hash::sha256_file(&small_iso(two.path())).unwrap());
}

#[test]
fn customising_changes_the_settings_block_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let path = small_iso(temp.path());
    let before = personal::read_image(&path).unwrap();
    let (at, mut personal) = personal::find(&path, &before).unwrap();
    personal.set(&Setting::parse("countdown=0").unwrap());
    let mut after = before.clone();
    after[at..at + personal::BLOCK_BYTES].copy_from_slice(&personal.to_block().unwrap());
    assert_eq!(before[..at], after[..at]);
    assert_eq!(
        before[at + personal::BLOCK_BYTES..],
        after[at + personal::BLOCK_BYTES..]
    );
    fs::write(&path, &after).unwrap();
    let out = temp.path().join("rescue.env");
    let copy = [
        "-osirrox",
        "on",
        "-indev",
        path.to_str().unwrap(),
        "-extract",
        "/boot/grub/rescue.env",
        out.to_str().unwrap(),
    ];
    run("xorriso", &copy, b"");
    let listed = text(run("grub-editenv", &[out.to_str().unwrap(), "list"], b""));
    assert_eq!(listed, "rescue_args=rescue.countdown=0\n");
}
