//! What `make image` ships: sizes, completeness, and the same bytes every time; read by programs that are not ours.

// Clippy's permission for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;

/// Parts of the kernel that can hold an ESXi disk. Written down here anew, not taken from the builder.
const STORAGE: &[&str] = &[
    "kernel/drivers/ata/",
    "kernel/drivers/message/fusion/",
    "kernel/drivers/mmc/",
    "kernel/drivers/nvme/host/",
    "kernel/drivers/pci/controller/",
    "kernel/drivers/scsi/",
    "kernel/drivers/usb/host/",
    "kernel/drivers/usb/storage/",
    "kernel/drivers/block/virtio_blk.ko",
];
/// No disk of this machine hangs on these: a SCSI target, disks in memory, disks over the network.
const NOT_STORAGE: &[&str] = &["tcm_qla2xxx", "scsi_debug", "nvme_rdma", "nvme_tcp"];
/// Wired cards that hosts have, by make.
const NETWORK: &[&str] = &[
    "atlantic",
    "be2net",
    "bnx2",
    "bnx2x",
    "bnxt_en",
    "cxgb4",
    "e1000",
    "e1000e",
    "enic",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx4_en",
    "mlx5_core",
    "qede",
    "qlcnic",
    "r8169",
    "sfc",
    "tg3",
    "virtio_net",
    "vmxnet3",
    "cdc_ncm",
    "r8152",
    "realtek",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn shipped(name: &str) -> PathBuf {
    let path = workspace().join("dist").join(name);
    assert!(
        path.exists(),
        "{} does not exist: run `make image` first",
        path.display()
    );
    path
}

fn agent() -> PathBuf {
    shipped("bin/rescue-agent")
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// What a shell command prints; with `pipefail`, so that no failure is lost.
fn shell(script: &str, dir: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A reader may stop early, as cpio does at its trailer.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{script}: {}", output.status);
    output.stdout
}

fn lines(bytes: Vec<u8>) -> Vec<String> {
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The name of a module as `/proc/modules` has it, from the name of its file.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap();
    let name = name.split(".ko").next().unwrap();
    name.replace('-', "_")
}

/// The first part that is not compressed: the modules.
fn modules_part(initrd: &[u8]) -> &[u8] {
    let magic = b"0707010000";
    let at = initrd
        .windows(magic.len())
        .position(|window| window == magic)
        .unwrap();
    &initrd[at..]
}

/// Unpacks the modules of an initramfs below `dir`: path by name.
fn unpack_modules(initrd: &Path, dictionary: &Path, dir: &Path) -> BTreeMap<String, PathBuf> {
    fs::create_dir_all(dir).unwrap();
    shell(
        "cpio -idm --quiet",
        dir,
        modules_part(&fs::read(initrd).unwrap()),
    );
    let unpack = format!(
        "zstd -dq -D '{}' --rm lib/rescue/modules/*.zst",
        dictionary.display()
    );
    shell(&unpack, dir, b"");
    fs::read_dir(dir.join("lib/rescue/modules"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (module_name(path.to_str().unwrap()), path))
        .collect()
}

fn dictionary(initrd: &Path, dir: &Path) -> PathBuf {
    // zstd complains of what follows the base part, after it has written that.
    let script = "(zstd -dcq 2>/dev/null || true) | cpio -i --quiet --to-stdout lib/rescue/modules/dictionary";
    let path = dir.join("dictionary");
    fs::write(&path, shell(script, dir, &fs::read(initrd).unwrap())).unwrap();
    path
}

/// The kernel package that the image was made from, unpacked: path by the name of the module.
fn package_modules(dir: &Path) -> BTreeMap<String, String> {
    let debs = workspace().join(".cache/esxi-rescue/debs");
    let script = format!(
        "dpkg-deb --fsys-tarfile '{}'/linux-image-*.deb | tar -x && find . -name '*.ko*' -type f",
        debs.display()
    );
    lines(shell(&script, dir, b""))
        .into_iter()
        .map(|path| (module_name(&path), path))
        .collect()
}

/// A module of the package as the kernel takes it; from Debian 13 on the package has it compressed.
fn original(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    match path.extension().unwrap().to_str().unwrap() {
        "xz" => shell("xz -dc", Path::new("/"), &bytes),
        _ => bytes,
    }
}

#[test]
fn the_artefacts_are_as_small_as_promised() {
    assert!(size(&shipped("esxi-rescue.iso")) <= 28 * MIB);
    assert!(size(&shipped("esxi-rescue.img")) <= 64_000_000);
}

#[test]
fn every_storage_module_of_the_kernel_package_is_inside_unaltered_with_all_it_needs() {
    let temp = tempfile::tempdir().unwrap();
    let package_dir = temp.path().join("package");
    fs::create_dir(&package_dir).unwrap();
    let package = package_modules(&package_dir);
    let initrd = shipped("netboot/initrd.img");
    let dictionary = dictionary(&initrd, temp.path());
    let base = unpack_modules(&initrd, &dictionary, &temp.path().join("base"));
    let missing: Vec<&String> = package
        .iter()
        .filter(|(_, path)| STORAGE.iter().any(|part| path.contains(part)))
        .map(|(name, _)| name)
        .filter(|name| !base.contains_key(*name) && !NOT_STORAGE.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in the image: {missing:?}");
    let network = unpack_modules(
        &shipped("netboot/initrd-net.img"),
        &dictionary,
        &temp.path().join("network"),
    );
    for name in NETWORK {
        // One that a storage driver stands on is in the base part.
        let there = network.contains_key(*name) || base.contains_key(*name);
        assert!(there, "{name} is not in the image");
    }
    let builtin = lines(shell(
        "cat */modules/*/modules.builtin usr/lib/modules/*/modules.builtin 2>/dev/null || true",
        &package_dir,
        b"",
    ));
    let builtin: BTreeSet<String> = builtin.iter().map(|line| module_name(line)).collect();
    for (name, path) in base.iter().chain(&network) {
        let original = original(&package_dir.join(&package[name]));
        assert!(fs::read(path).unwrap() == original, "{name} was altered");
        let depends = shell(
            &format!("modinfo -F depends '{}'", path.display()),
            temp.path(),
            b"",
        );
        for need in String::from_utf8(depends).unwrap().trim().split(',') {
            let need = need.replace('-', "_");
            let there = need.is_empty()
                || builtin.contains(&need)
                || base.contains_key(&need)
                || network.contains_key(&need) && !base.contains_key(name);
            assert!(there, "{name} needs {need}");
        }
    }
}

#[test]
fn the_usb_image_that_is_shipped_is_sound() {
    let temp = tempfile::tempdir().unwrap();
    let image = shipped("esxi-rescue.img");
    let image = image.display();
    let script = format!(
        "sgdisk --verify '{image}' | grep -q 'No problems found'
         sfdisk --verify '{image}' 2>&1 | grep -q 'No errors detected'
         dd if='{image}' of=volume bs=1M skip=2 status=none
         fsck.fat -n volume"
    );
    shell(&script, temp.path(), b"");
    // `rescue.toml` can be edited and nothing in it is active.
    let toml = shell("mtype -i volume ::/rescue.toml", temp.path(), b"");
    let mut settings = lines(toml);
    settings.retain(|line| !line.is_empty());
    assert!(settings.len() > 10 && settings.iter().all(|line| line.starts_with('#')));
}

#[test]
fn the_agent_does_not_tell_where_it_was_built() {
    let agent = fs::read(agent()).unwrap();
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME"))
        .unwrap();
    let workspace = fs::canonicalize(workspace()).unwrap();
    for place in [workspace.to_str().unwrap(), &format!("{home}/")] {
        let found = agent
            .windows(place.len())
            .any(|window| window == place.as_bytes());
        assert!(
            !found,
            "the agent names {place}; if it was built before scripts/rustc-from-anywhere.sh came, run `cargo clean` once"
        );
    }
}

/// The kernel is named by the project's suite, not by the machine that built it.
#[test]
fn everything_is_from_the_suite_that_the_manifest_names() {
    let script = r#"jq -r '.suite, (.inputs[] | select(.sha256 and .source) | "\(.kind) \(.name)")' manifest.json"#;
    let listed = lines(shell(script, &workspace().join("dist"), b""));
    assert_eq!(listed[0], "trixie");
    for wanted in [
        "package shim-signed",
        "package grub-efi-amd64-signed",
        "package grub-pc-bin",
        "package pci.ids",
        "tool xorriso",
        "tool grub-common",
        "tool libc6",
    ] {
        assert!(
            listed.iter().any(|line| line == wanted),
            "{wanted} is missing in {listed:?}"
        );
    }
    assert!(
        listed
            .iter()
            .any(|line| line.starts_with("package linux-image-6.12.")),
        "{listed:?}"
    );
}

/// Builds everything, with the network drivers on the ISO too, and returns the digests of all artefacts.
fn build(out: &Path) -> String {
    let status = Command::new(agent().with_file_name("rescue-image"))
        .args([
            "build",
            "--quiet",
            "--net",
            "--force",
            "--offline",
            "--agent",
        ])
        .arg(agent())
        .arg("--cache")
        .arg(workspace().join(".cache"))
        .arg("--out")
        .arg(out)
        .status()
        .unwrap();
    assert!(status.success());
    let script = "find . -type f ! -name manifest.json ! -name SHA256SUMS | sort | xargs sha256sum";
    String::from_utf8(shell(script, out, b"")).unwrap()
}

#[test]
fn two_builds_at_two_times_in_two_places_give_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = build(one.path());
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(first, build(&two.path().join("deeper/inside")));
    assert_eq!(first.lines().count(), 16, "{first}");
    assert!(size(&one.path().join("esxi-rescue.iso")) <= 37 * MIB);
}
