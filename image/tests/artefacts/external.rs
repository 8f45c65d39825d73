//! What the builder makes, read by programs that are not ours: cpio, zstd, fsck.fat, mtools, sgdisk, xorriso.

// Clippy's permission for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rescue_image::{
    BLOCK_BYTES, Class, Driver, Finished, Selection, Setting, Store, grub, initramfs, iso, netboot,
    sha256_file, usb,
};

use crate::sample::{agent_part, base_part, parts};

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
    initramfs::drivers_part(&selection, b"", &Store::none(), 1, &|| ()).unwrap()
}

/// A small ISO, made in a directory of its own.
fn small_iso(dir: &Path) -> PathBuf {
    let out = dir.join("out.iso");
    iso::make(&parts(), false, dir, &out).unwrap();
    out
}

/// A small USB image.
fn small_img(dir: &Path) -> PathBuf {
    let out = dir.join("out.img");
    fs::write(&out, usb::make(&parts(), dir).unwrap()).unwrap();
    out
}

#[test]
fn cpio_reads_the_compressed_parts_after_zstd() {
    // zstd complains of the zeros that align the next part, after it has written everything.
    let listing = |part: &[u8]| {
        let raw = try_run("zstd", &["-dc"], part).stdout;
        text(run("cpio", &["-t", "--quiet", "-v", "-n"], &raw))
    };
    let listing = listing(&base_part()) + &listing(&agent_part());
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
    fs::write(&path, iso::esp(&parts()).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    run("fsck.fat", &["-n", path], b"");
    assert_eq!(
        run("mtype", &["-i", path, "::/EFI/BOOT/BOOTX64.EFI"], b""),
        vec![1; 30_000]
    );
    assert_eq!(
        run("mtype", &["-i", path, "::/boot/grub/grub.cfg"], b""),
        grub::finder("12345678abcdef00").as_bytes()
    );
}

#[test]
fn the_usb_image_is_a_sound_disk_for_every_outside_reader() {
    let temp = tempfile::tempdir().unwrap();
    let img = small_img(temp.path());
    let path = img.to_str().unwrap();
    let verdict = text(run("sgdisk", &["--verify", path], b""));
    assert!(verdict.contains("No problems found"), "{verdict}");
    let table = text(run("sfdisk", &["--dump", path], b""));
    for wanted in [
        "label: gpt",
        "type=21686148-6449-6E6F-744E-656564454649",
        "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    ] {
        assert!(table.contains(wanted), "{wanted} is missing in\n{table}");
    }
    // fsck.fat reads a volume only from its first byte on.
    let disk = fs::read(&img).unwrap();
    let volume = temp.path().join("volume.img");
    fs::write(&volume, &disk[4096 * 512..disk.len() - 33 * 512]).unwrap();
    let volume = volume.to_str().unwrap();
    let said = text(run("fsck.fat", &["-n", "-v", volume], b""));
    assert!(said.contains("32 bit entries"), "{said}");
    let last_step = "Checking free cluster summary.
";
    assert!(said.contains(&format!("{last_step}{volume}: ")), "{said}");
    assert_eq!(
        text(run("mlabel", &["-s", "-i", volume, "::"], b"")).trim(),
        "Volume label is ESXI_RESCUE"
    );
    for (file, first) in [
        ("::/EFI/BOOT/BOOTX64.EFI", 1),
        ("::/EFI/BOOT/grubx64.efi", 3),
        ("::/boot/initrd-net.img", 7),
    ] {
        assert_eq!(run("mtype", &["-i", volume, file], b"")[0], first, "{file}");
    }
    let listing = text(run("mdir", &["-b", "-/", "-a", "-i", volume, "::/"], b""));
    for name in [
        "/.disk/esxi-rescue-12345678abcdef00",
        "/reports/",
        "/rescue.toml",
        "/README.txt",
    ] {
        assert!(listing.contains(name), "{name} is missing in\n{listing}");
    }
}

#[test]
fn the_usb_image_leads_a_bios_from_sector_to_sector() {
    let temp = tempfile::tempdir().unwrap();
    let disk = fs::read(small_img(temp.path())).unwrap();
    let sector = |at: usize| {
        let number = u64::from_le_bytes(disk[at..at + 8].try_into().unwrap());
        usize::try_from(number).unwrap() * 512
    };
    let core = sector(0x5c);
    assert_eq!(core, 2048 * 512);
    // GRUB's diskboot.img and the compressed core behind it, as grub-mkimage made them.
    assert_eq!(sector(core + 0x1f4), core + 512);
    let segment = u16::from_le_bytes(disk[core + 0x1fe..core + 0x200].try_into().unwrap());
    assert_eq!(segment, 0x820);
    assert_eq!(disk[510..512], [0x55, 0xaa]);
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
    let first = sha256_file(&small_iso(one.path())).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(first, sha256_file(&small_iso(two.path())).unwrap());
    let first = sha256_file(&small_img(one.path())).unwrap();
    assert_eq!(first, sha256_file(&small_img(two.path())).unwrap());
}

/// A small netboot tree.
fn small_tree(dir: &Path) -> PathBuf {
    let out = dir.join("netboot");
    netboot::write(&netboot::make(&parts(), dir).unwrap(), &out).unwrap();
    out
}

/// Changes an image as `rescue-image customize IMAGE --set countdown=0 -o OUT` does.
fn customise(image: &Path, out: &Path) {
    let mut finished = Finished::open(image).unwrap();
    finished.set(&Setting::parse("countdown=0").unwrap());
    finished.save(Some(out)).unwrap();
}

fn grub_reads(block: &Path) -> String {
    text(run("grub-editenv", &[block.to_str().unwrap(), "list"], b""))
}

/// A file of the FAT volume of a USB image, as mtools reads it.
fn of_volume(img: &Path, name: &str) -> Vec<u8> {
    let volume = format!("{}@@{}", img.display(), 4096 * 512);
    run("mtype", &["-i", &volume, &format!("::/{name}")], b"")
}

#[test]
fn customising_the_iso_changes_the_settings_block_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let (path, changed) = (small_iso(temp.path()), temp.path().join("changed.iso"));
    customise(&path, &changed);
    let (before, after) = (fs::read(&path).unwrap(), fs::read(&changed).unwrap());
    let differs: Vec<usize> = (0..before.len())
        .filter(|at| before[*at] != after[*at])
        .collect();
    assert!(differs[differs.len() - 1] - differs[0] < BLOCK_BYTES);
    let out = temp.path().join("rescue.env");
    let copy = [
        "-osirrox",
        "on",
        "-indev",
        changed.to_str().unwrap(),
        "-extract",
        "/boot/grub/rescue.env",
        out.to_str().unwrap(),
    ];
    run("xorriso", &copy, b"");
    assert_eq!(grub_reads(&out), "rescue_args=rescue.countdown=0\n");
}

#[test]
fn customising_the_usb_image_changes_its_two_settings_files() {
    let temp = tempfile::tempdir().unwrap();
    let (path, changed) = (small_img(temp.path()), temp.path().join("changed.img"));
    let mut finished = Finished::open(&path).unwrap();
    finished.set(&Setting::parse("countdown=0").unwrap());
    let config = b"# mine\nmode = 'inspect'\nreport = 'http://192.0.2.1/'\n";
    finished.set_config(Path::new("my.toml"), config).unwrap();
    assert!(
        finished
            .set_config(Path::new("my.toml"), b"mode = 3")
            .is_err()
    );
    finished.save(Some(&changed)).unwrap();
    assert_eq!(of_volume(&changed, "rescue.toml"), config);
    let block = temp.path().join("rescue.env");
    fs::write(&block, of_volume(&changed, "boot/grub/rescue.env")).unwrap();
    assert_eq!(grub_reads(&block), "rescue_args=rescue.countdown=0\n");
    assert_eq!(of_volume(&changed, "boot/vmlinuz"), parts().vmlinuz);
    let volume = temp.path().join("volume");
    fs::write(&volume, &fs::read(&changed).unwrap()[4096 * 512..]).unwrap();
    run("fsck.fat", &["-n", volume.to_str().unwrap()], b"");
}

#[test]
fn customising_the_netboot_tree_changes_what_grub_and_ipxe_read() {
    let temp = tempfile::tempdir().unwrap();
    let (path, changed) = (small_tree(temp.path()), temp.path().join("mine"));
    customise(&path, &changed);
    assert_eq!(
        grub_reads(&changed.join("grub/rescue.env")),
        "rescue_args=rescue.countdown=0\n"
    );
    let script = fs::read_to_string(changed.join("esxi-rescue.ipxe")).unwrap();
    assert!(
        script.contains("\nset rescue_args rescue.countdown=0\n"),
        "{script}"
    );
    assert_eq!(grub_reads(&path.join("grub/rescue.env")), "rescue_args=\n");
    let differing = try_run(
        "diff",
        &["-rq", path.to_str().unwrap(), changed.to_str().unwrap()],
        b"",
    );
    assert_eq!(text(differing.stdout).lines().count(), 2);
}

#[test]
fn every_artefact_says_what_it_is_and_how_it_is_set() {
    let temp = tempfile::tempdir().unwrap();
    for (path, kind, network) in [
        (small_iso(temp.path()), "ISO", false),
        (small_img(temp.path()), "USB image", true),
        (small_tree(temp.path()), "netboot tree", true),
    ] {
        let finished = Finished::open(&path).unwrap();
        assert_eq!(finished.kind(), kind);
        assert_eq!(finished.has_network().unwrap(), network);
        assert_eq!(finished.identity(), "12345678abcdef00");
        assert!(
            finished
                .info()
                .unwrap()
                .contains("drivers 3 network-drivers 2")
        );
        assert_eq!(finished.settings().unwrap().countdown.as_secs(), 10);
    }
}

#[test]
fn an_image_without_network_drivers_takes_no_address_for_reports() {
    let temp = tempfile::tempdir().unwrap();
    let path = small_iso(temp.path());
    let mut finished = Finished::open(&path).unwrap();
    finished.set(&Setting::parse("report=http://192.0.2.1/").unwrap());
    let error = finished.save(None).unwrap_err().to_string();
    assert!(error.contains("no network drivers"), "{error}");
}

#[test]
fn foreign_cut_and_altered_images_are_refused_with_the_reason() {
    let temp = tempfile::tempdir().unwrap();
    let says = |path: &Path| Finished::open(path).unwrap_err().to_string();
    let with = |name: &str, bytes: &[u8]| {
        let path = temp.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    assert!(says(&with("zeros", &[0; 100_000])).contains("not an image of esxi-rescue"));
    assert!(says(&with("empty", b"")).contains("not an image of esxi-rescue"));
    assert!(says(Path::new("/dev/null")).contains("not a device"));
    assert!(says(temp.path()).contains("not a netboot tree"));
    for path in [small_iso(temp.path()), small_img(temp.path())] {
        let whole = fs::read(&path).unwrap();
        let cut = with("cut", &whole[..whole.len() - 512 * 1024]);
        assert!(says(&cut).contains("damaged"), "{}", says(&cut));
        let kernel = parts().vmlinuz;
        let at = whole
            .windows(1000)
            .position(|window| window == &kernel[..1000])
            .unwrap();
        let mut altered = whole.clone();
        altered[at + 5] ^= 1;
        let altered = says(&with("altered", &altered));
        assert!(altered.contains("vmlinuz in it was changed"), "{altered}");
    }
    let tree = small_tree(temp.path());
    fs::remove_file(tree.join("initrd.img")).unwrap();
    assert!(says(&tree).contains("initrd.img in it is missing"));
}

#[test]
fn groff_sets_the_manual_pages_without_a_complaint() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().to_str().unwrap();
    run(env!("CARGO_BIN_EXE_rescue-image"), &["manual", folder], b"");
    for (page, word) in [
        ("rescue-agent", "passed through"),
        ("rescue-agent-revert", "--dry-run"),
        ("rescue-image", "collect"),
        ("rescue-image-customize", "countdown"),
    ] {
        let source = fs::read(temp.path().join(format!("{page}.1"))).unwrap();
        let output = try_run("groff", &["-man", "-Tascii", "-P-cbou", "-ww"], &source);
        let complaints = text(output.stderr);
        assert!(complaints.is_empty(), "{page}: {complaints}");
        assert!(
            text(output.stdout).contains(word),
            "{page} does not say {word}"
        );
    }
}
