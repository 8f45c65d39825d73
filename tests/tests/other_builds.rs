//! An image that is built from the modules of an unpacked kernel in place of Debian's package. Booted,
//! and judged from the disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Firmware, Machine, Medium, tail};
use rescue_tests::tools::Tool;

/// How long a build may take; one whose kernel is not in the cache packs some 500 modules.
const PATIENCE: Duration = Duration::from_secs(400);

/// Builds into `folder` and returns the ISO.
fn built(folder: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let (out, cache) = (folder.join("dist"), folder.join("cache"));
    // A copy, because the cache keeps the kernel of the last build only.
    Tool::new("cp")?
        .arg("-a")
        .arg(artefacts::workspace().join(".cache"))
        .arg(&cache)
        .run()?;
    Tool::at(artefacts::builder()?)
        .args(["build", "--quiet", "--out"])
        .arg(&out)
        .arg("--cache")
        .arg(cache)
        .args(arguments)
        .deadline(PATIENCE)
        .run()?;
    Ok(out.join("esxi-rescue.iso"))
}

/// The kernel package of the last build.
fn kernel_package() -> Result<PathBuf> {
    let folder = artefacts::workspace().join(".cache/debs");
    let files = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut packages = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("linux-image-6") && name.ends_with(".deb")
        });
    packages.next().context("no kernel package in the cache")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

#[test]
fn the_modules_of_an_unpacked_kernel_make_an_image_that_repairs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let unpacked = folder.path().join("kernel");
    Tool::new("dpkg-deb")?
        .arg("--extract")
        .arg(kernel_package()?)
        .arg(&unpacked)
        .run()?;
    let modules = fs::read_dir(unpacked.join("lib/modules"))?
        .next()
        .context("no modules in the kernel package")??
        .path();
    let version = modules.file_name().unwrap_or_default().to_string_lossy();
    let kernel = unpacked.join(format!("boot/vmlinuz-{version}"));
    let iso = built(
        folder.path(),
        &[
            "--modules-dir",
            text(&modules)?,
            "--vmlinuz",
            text(&kernel)?,
            "--append",
            "rescue.countdown=0",
        ],
    )?;
    let made = EsxiDisk::v80().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    let finished = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso))
        .disk(Bus::Ahci, &made.image)
        .run()?;
    ensure!(
        finished.result()? == "reverted",
        "{}",
        tail(&finished.serial)
    );
    judge.repaired(&[0, 1], &[SATA])
}
