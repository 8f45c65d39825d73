//! The partition tables of the finished images, as outside tools read them.
//!
//! OVMF starts a stick without a partition table all the same, because it looks for El Torito
//! everywhere; other firmware does not. So a boot proves nothing here, and the tables are read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::disk_image::{self, Partition};
use rescue_tests::scratch;
use rescue_tests::tools::Tool;

const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";

/// What every UEFI firmware starts from a removable medium, and what that starts.
const LOADERS: [&str; 3] = [
    "EFI/BOOT/BOOTX64.EFI",
    "EFI/BOOT/grubx64.efi",
    "EFI/BOOT/mmx64.efi",
];

/// The partitions, after two tools agree that the table is a whole GPT behind a protective MBR.
fn partitions(image: &Path) -> Result<Vec<Partition>> {
    let verdict = Tool::new("sgdisk")?.arg("--verify").arg(image).run_text()?;
    ensure!(verdict.contains("No problems found"), "{verdict}");
    let print = Tool::new("sgdisk")?.arg("--print").arg(image).output()?;
    ensure!(print.errors().trim().is_empty(), "{}", print.errors());
    ensure!(disk_image::table(image)?["label"] == "gpt", "no GPT");
    disk_image::partitions(image)
}

/// The one partition of a type.
fn the_only<'a>(kind: &str, partitions: &'a [Partition]) -> Result<&'a Partition> {
    let found: Vec<_> = partitions.iter().filter(|one| one.kind == kind).collect();
    ensure!(found.len() == 1, "{kind} in {partitions:?}");
    Ok(found[0])
}

/// A copy of a partition's volume, which fsck.fat finds whole.
fn volume(image: &Path, partition: &Partition, folder: &Path) -> Result<PathBuf> {
    let volume = folder.join("volume");
    Tool::new("dd")?
        .arg(format!("if={}", image.display()))
        .arg(format!("of={}", volume.display()))
        .args(["bs=512", "status=none"])
        .arg(format!("skip={}", partition.first))
        .arg(format!("count={}", partition.sectors))
        .run()?;
    Tool::new("fsck.fat")?.arg("-n").arg(&volume).run()?;
    Ok(volume)
}

/// The paths of all files of a FAT volume, without the leading `::/`.
fn files(volume: &Path) -> Result<Vec<String>> {
    let list = Tool::new("mdir")?
        .args(["-/", "-b", "-a", "-i"])
        .arg(volume)
        .arg("::")
        .run_text()?;
    let names = list.lines().filter_map(|line| line.strip_prefix("::/"));
    Ok(names.map(str::to_owned).collect())
}

fn holds_the_loaders(volume: &Path) -> Result<Vec<String>> {
    let files = files(volume)?;
    for loader in LOADERS {
        ensure!(
            files.iter().any(|file| file.eq_ignore_ascii_case(loader)),
            "{loader} in {files:?}"
        );
    }
    Ok(files)
}

#[test]
fn the_iso_is_a_disk_and_a_cd_with_one_efi_system_partition_for_both() -> Result<()> {
    let folder = scratch::folder()?;
    let iso = artefacts::dist("esxi-rescue.iso")?;
    let partitions = partitions(&iso)?;
    let esp = the_only(ESP, &partitions)?;
    holds_the_loaders(&volume(&iso, esp, folder.path())?)?;
    let report = Tool::new("xorriso")?
        .arg("-indev")
        .arg(&iso)
        .args(["-report_el_torito", "plain", "-report_system_area", "plain"])
        .run_text()?;
    let image = |platform: &str| {
        let lines = report.lines();
        let line = lines
            .filter(|line| line.starts_with("El Torito boot img"))
            .find(|line| line.split_whitespace().any(|word| word == platform));
        let words = line.map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.with_context(|| format!("no boot image for {platform}:\n{report}"))
    };
    for platform in ["BIOS", "UEFI"] {
        ensure!(image(platform)?.contains(&"none"), "emulates a floppy");
    }
    // CD sectors are four times as long.
    let on_cd: u64 = image("UEFI")?.last().context("its place")?.parse()?;
    ensure!(on_cd * 4 == esp.first, "{report}");
    ensure!(
        report.contains("grub2-mbr") && report.contains("MBR partition      :   1   0x00  0xee"),
        "{report}"
    );
    Ok(())
}

#[test]
fn the_usb_image_has_a_place_for_bios_and_one_volume_that_fits_a_stick_of_64_mb() -> Result<()> {
    let folder = scratch::folder()?;
    let img = artefacts::dist("esxi-rescue.img")?;
    ensure!(img.metadata()?.len() <= 64_000_000, "{:?}", img.metadata()?);
    let partitions = partitions(&img)?;
    ensure!(partitions.len() == 2, "{partitions:?}");
    the_only(BIOS_BOOT, &partitions)?;
    let volume = volume(&img, the_only(ESP, &partitions)?, folder.path())?;
    let files = holds_the_loaders(&volume)?;
    for name in [
        "boot/vmlinuz",
        "boot/initrd.img",
        "rescue.toml",
        "README.txt",
    ] {
        ensure!(files.iter().any(|file| file == name), "{name} in {files:?}");
    }
    let shown = Tool::new("file")?.arg(&volume).run_text()?;
    ensure!(
        shown.contains("FAT (32 bit)") && shown.contains("ESXI_RESCUE"),
        "{shown}"
    );
    Ok(())
}
