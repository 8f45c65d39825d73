//! Images that are built in another way than `make image` does: with a shell, with a kernel package
//! of one's own, with the modules of an unpacked kernel. Booted, and judged from the disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::machine::{Bus, Ending, Firmware, Machine, Medium, tail};
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
    let folder = artefacts::workspace().join(".cache/esxi-rescue/debs");
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
fn a_shell_opens_from_the_menu_where_one_was_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let package = kernel_package()?;
    let iso = built(
        folder.path(),
        &[
            "--with-shell",
            "--kernel-deb",
            text(&package)?,
            "--append",
            "rescue.countdown=12",
        ],
    )?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    // A disk that the person at the shell leaves a word on.
    let slate = folder.path().join("slate.img");
    File::create(&slate)?.set_len(1 << 20)?;
    let mut running = Machine::new(Firmware::Bios)
        .medium(Medium::Cd(iso))
        .disk(Bus::Ahci, &made.image)
        .disk(Bus::VirtioBlk, &slate)
        .typed()
        .start()?;
    let mut read = 0;
    for (text, keys) in [
        ("open the menu.", " "),
        ("A letter, or Enter for: ", "s"),
        ("esxi-rescue# ", "echo written by hand > /dev/vda\r"),
        ("esxi-rescue# ", "exit\r"),
        ("A letter, or Enter for: ", "p"),
    ] {
        read += running
            .wait_for_after(read, text)
            .with_context(|| format!("before typing {keys:?}"))?;
        running.type_keys(keys)?;
    }
    let finished = running.finish()?;
    let end = tail(&finished.serial);
    ensure!(finished.ending == Ending::SwitchedOff, "{end}");
    ensure!(
        fs::read(&slate)?.starts_with(b"written by hand\n"),
        "the shell wrote nothing:\n{end}"
    );
    judge.nothing_changed()
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
    let modules = ["usr/lib/modules", "lib/modules"].map(|place| unpacked.join(place));
    let modules = modules.into_iter().find(|place| place.exists());
    let modules = fs::read_dir(modules.context("no modules in the kernel package")?)?
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
    finished.expect(Ending::Rebooted, "reverted")?;
    judge.repaired(&[0, 1], &[SATA])
}
