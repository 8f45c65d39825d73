//! What was named is no disk: a virtual disk, a packed image, a part of a disk, an image cut short. Each is
//! said for what it is, with a command that makes a disk of it. The files are made by other programs, and
//! the commands are run as they stand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{self, DONE, REFUSED};
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::layout::Role;
use rescue_tests::judge::Judge;
use rescue_tests::scratch;
use rescue_tests::tools::Tool;
use serde_json::Value;

/// A disk of a few mebibytes with a partition table.
fn small_disk(folder: &Path) -> Result<PathBuf> {
    let image = folder.join("disk.img");
    fs::File::create(&image)?.set_len(8 << 20)?;
    Tool::new("sfdisk")?
        .args(["--quiet", "--label", "gpt"])
        .arg(&image)
        .input("start=2048, size=4096, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n")
        .run()?;
    Ok(image)
}

/// What the agent says of it: what it is, and the command, which stands among the next steps too.
fn said_of(file: &Path) -> Result<(String, String)> {
    let before = fs::read(file)?;
    let report = agent::run(&["inspect", "--json"], file)?
        .expect(REFUSED)?
        .report()?;
    let no_disk = &report["disks"][0]["no_disk"];
    let text = |key: &str| no_disk[key].as_str().map(str::to_owned);
    let what = text("what").with_context(|| format!("{report:#}"))?;
    let command = text("command").unwrap_or_default();
    let steps: Vec<&str> = report["next_steps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(
        steps
            .iter()
            .any(|step| step.contains(&what) && step.contains(&command)),
        "{steps:?}"
    );
    ensure!(fs::read(file)? == before, "it was written");
    Ok((what, command))
}

/// Runs a command as a person would who copies it.
fn run(command: &str, folder: &Path) -> Result<()> {
    Tool::new("sh")?
        .folder(folder)
        .args(["-c", command])
        .run()
        .map(drop)
}

fn same(one: &Path, other: &Path) -> Result<()> {
    ensure!(
        fs::read(one)? == fs::read(other)?,
        "{} differs",
        one.display()
    );
    Ok(())
}

#[test]
fn virtual_disks_are_named_with_the_command_that_makes_a_disk_of_them() -> Result<()> {
    for (format, options) in [
        ("qcow2", ""),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vhdx", ""),
        ("vdi", ""),
    ] {
        let check = || -> Result<()> {
            let folder = scratch::folder()?;
            let disk = small_disk(folder.path())?;
            // A name that a shell would take apart.
            let file = folder.path().join("a disk; of $HOME");
            let mut convert = Tool::new("qemu-img")?.args(["convert", "-f", "raw", "-O", format]);
            if !options.is_empty() {
                convert = convert.args(["-o", options]);
            }
            convert.arg(&disk).arg(&file).run()?;
            let (what, command) = said_of(&file)?;
            ensure!(what.contains(&format!("in the format {format}")), "{what}");
            run(&command, folder.path())?;
            same(&folder.path().join("a disk; of $HOME.raw"), &disk)
        };
        check().with_context(|| format!("{format} {options}"))?;
    }
    Ok(())
}

#[test]
fn of_a_vmdk_in_two_files_the_one_with_the_bytes_is_named() -> Result<()> {
    let folder = scratch::folder()?;
    let disk = small_disk(folder.path())?;
    let text = folder.path().join("esxi.vmdk");
    Tool::new("qemu-img")?
        .args([
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=monolithicFlat",
        ])
        .arg(&disk)
        .arg(&text)
        .run()?;
    let (what, command) = said_of(&text)?;
    let flat = folder.path().join("esxi-flat.vmdk");
    ensure!(what.contains(&flat.display().to_string()), "{what}");
    ensure!(
        command == format!("rescue-agent inspect {}", flat.display()),
        "{command}"
    );
    same(&flat, &disk)
}

#[test]
fn packed_images_are_named_with_the_command_that_unpacks_them() -> Result<()> {
    for (program, arguments, file) in [
        ("gzip", &["-k"][..], "disk.img.gz"),
        ("xz", &["-k"], "disk.img.xz"),
        ("zstd", &["-q", "-k"], "disk.img.zst"),
        ("bzip2", &["-k"], "disk.img.bz2"),
        ("zip", &["-q", "disk.img.zip"], "disk.img.zip"),
        ("tar", &["-cf", "disk.img.tar"], "disk.img.tar"),
    ] {
        let check = || -> Result<()> {
            let folder = scratch::folder()?;
            let disk = small_disk(folder.path())?;
            Tool::new(program)?
                .folder(folder.path())
                .args(arguments.iter().copied())
                .arg("disk.img")
                .run()?;
            let original = folder.path().join("original");
            fs::rename(&disk, &original)?;
            let (what, command) = said_of(&folder.path().join(file))?;
            ensure!(what.contains(&format!("packed by {program}")), "{what}");
            run(&command, folder.path())?;
            same(&disk, &original)
        };
        check().with_context(|| program.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_boot_bank_alone_is_named_and_can_be_repaired_with_the_commands_that_are_said() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "whole")?;
    let judge = Judge::new(&made, folder.path())?;
    let bytes = judge.bank(0)?.bytes();
    let bank = folder.path().join("bank.img");
    let part = |from: &Path, to: &Path, place: &str, sector: u64| -> Result<()> {
        Tool::new("dd")?
            .arg(format!("if={}", from.display()))
            .arg(format!("of={}", to.display()))
            .arg(format!("{place}={sector}"))
            .arg(format!("count={}", (bytes.end - bytes.start) / 512))
            .args(["bs=512", "conv=notrunc", "status=none"])
            .run()
            .map(drop)
    };
    part(&made.image, &bank, "skip", bytes.start / 512)?;
    let (what, command) = said_of(&bank)?;
    ensure!(
        what.contains("a single boot bank, not a whole disk"),
        "{what}"
    );
    run(&command, folder.path())?;
    let disk = folder.path().join("bank.img.raw");
    let run = agent::revert(&SATA.to_string(), &disk)?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    part(&disk, &bank, "skip", 2048)?;
    part(&bank, &made.image, "seek", bytes.start / 512)?;
    judge.repaired(&[0], &[SATA])
}

#[test]
fn an_image_cut_short_is_said_to_be_with_both_sizes() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let whole = made.image.metadata()?.len();
    let vmfs = made
        .layout
        .partitions
        .iter()
        .find(|one| one.role == Role::Vmfs);
    let inside_vmfs = made.layout.bytes(vmfs.context("a datastore")?).start + (1 << 20);
    let banks = made.layout.banks();
    let last_bank = banks.iter().map(|bank| made.layout.bytes(bank).end).max();
    let last_bank = last_bank.context("banks")?;
    let file = fs::File::options().write(true).open(&made.image)?;
    file.set_len(inside_vmfs)?;
    let said = agent::run(&["inspect"], &made.image)?.expect(DONE)?.said();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected =
        format!("the table is that of a disk of {whole} bytes, and there are {inside_vmfs}");
    ensure!(said.contains(&expected), "{said}");
    // What lies behind both banks may be one too; then inside a bank; then inside the table itself.
    for length in [last_bank, last_bank - 4096, 1024] {
        file.set_len(length)?;
        let run = agent::revert(&SATA.to_string(), &made.image)?.expect(REFUSED)?;
        ensure!(run.said().contains("cut short"), "{}", run.said());
    }
    Ok(())
}
