//! A live Linux, as people start one to repair a host by hand: the kernel that the image is built
//! from, with its own driver for FAT volumes, and busybox. It runs a script as its first process.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::artefacts::{dist, workspace};
use crate::esxi::archive::gzip;
use crate::machine::Medium;
use crate::tools::{Tool, find};

/// Drivers of the kernel package that it needs. A package may lack some, which are part of its kernel
/// then.
const MODULES: [&str; 4] = [
    "*/kernel/fs/fat/*",
    "*/kernel/fs/nls/*",
    "*/kernel/drivers/virtio/*",
    "*/kernel/drivers/block/*",
];

/// What comes before the script. Modules are tried until nothing is missing that they need; the disk is
/// there a moment after its driver.
const BEFORE: &str = r"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /modules
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec >/dev/console 2>&1
for module in 1 2 3 4; do
    for module in fat vfat nls_cp437 nls_ascii nls_utf8 nls_iso8859-1 virtio virtio_ring \
        virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk loop
    do
        [ ! -f /modules/$module.ko ] || insmod /modules/$module.ko 2>/dev/null
    done
done
while [ ! -b /dev/vda5 ]; do sleep 1; done
";

/// Unpacks kernel and modules, which are compressed in some versions of Debian.
const UNPACK: &str = r#"
package=$1; shift
dpkg-deb --fsys-tarfile "$package" | tar -x --wildcards "*/boot/vmlinuz-*" "$@"
find . -name '*.ko.xz' -exec xz -d {} +
mkdir -p tree/bin tree/modules
find . -path ./tree -prune -o -name '*.ko' -exec mv -t tree/modules {} +
"#;

/// Makes it in `folder`. `programs`: files that the script finds in `/bin`.
///
/// # Errors
/// When the kernel's package is not in the builder's cache, or busybox is missing.
pub fn linux(folder: &Path, script: &str, programs: &[&Path]) -> Result<Medium> {
    Tool::at("/bin/sh")
        .args(["-euc", UNPACK, "unpack"])
        .arg(kernel_package()?)
        .args(MODULES)
        .folder(folder)
        .run()
        .context("unpacking the kernel's package")?;
    let tree = folder.join("tree");
    let busybox = find("busybox")?;
    for program in programs.iter().copied().chain([busybox.as_path()]) {
        let name = program.file_name().context("a program has a name")?;
        fs::copy(program, tree.join("bin").join(name))?;
    }
    fs::write(tree.join("init"), format!("{BEFORE}{script}\n"))?;
    Tool::new("chmod")?
        .arg("755")
        .arg(tree.join("init"))
        .run()?;
    let pack = "find . | cpio -o -H newc --quiet -R 0:0";
    let archive = Tool::at("/bin/sh").args(["-c", pack]).folder(&tree).run()?;
    let initramfs = folder.join("live.img");
    fs::write(&initramfs, gzip(archive)?)?;
    Ok(Medium::Kernel {
        kernel: kernel(&folder.join("boot"))?,
        initramfs,
        command_line: "console=ttyS0 rdinit=/init panic=-1 quiet".into(),
    })
}

fn kernel(folder: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?;
    Ok(files.next().context("a package has a kernel")??.path())
}

/// The package of the kernel in `dist/`, where the builder keeps what it has fetched.
fn kernel_package() -> Result<PathBuf> {
    let manifest: Value = serde_json::from_slice(&fs::read(dist("manifest.json")?)?)?;
    let kernel = manifest["kernel"]
        .as_str()
        .context("the image has a kernel")?;
    let cache = workspace().join(".cache/esxi-rescue/debs");
    let prefix = format!("linux-image-{kernel}_");
    let mut found: Vec<PathBuf> = fs::read_dir(&cache)?
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .collect();
    found.sort();
    ensure!(
        !found.is_empty(),
        "{} holds no {prefix}….deb: run `make image` first",
        cache.display()
    );
    let package = found.pop().context("there is one")?;
    std::path::absolute(&package).with_context(|| format!("resolving {}", package.display()))
}
