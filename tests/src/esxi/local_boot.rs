//! Gives an ESXi disk a small boot program, in place of ESXi's, that leaves evidence on the disk
//! each time it is started and switches the machine off.
//!
//! For BIOS it is a few instructions in the first sector, assembled by GNU as. For UEFI it is shim
//! and GRUB as Debian signs them, so that Secure Boot lets them start as it does ESXi's loader, with
//! a menu of their own in the EFI system partition. The evidence can be taken back, so that the disk
//! can be compared with what it was.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Made;
use super::layout::{Partition, Role};
use crate::disk_image;
use crate::tools::{Tool, crate_file};

/// The sector where the program for BIOS counts: behind the GPT, before the first partition.
const EVIDENCE_LBA: u64 = 50;
/// The byte in it that is the count.
const COUNT_AT: usize = 32;
/// Bytes of the first sector that are for the program; the rest is the partition table's.
const CODE_BYTES: usize = 440;
/// Bytes of the EFI system partition in which the evidence is looked for.
const SEARCHED_BYTES: usize = 32 << 20;

/// What the program for UEFI does, in GRUB's words.
const MENU: &str = "\
load_env --skip-sig --file ${prefix}/evidence.env starts
set starts=\"${starts}x\"
save_env --file ${prefix}/evidence.env starts
halt
";
/// How an environment block begins in which nothing was counted yet.
const NO_STARTS: &str = "# GRUB Environment Block\nstarts=\n";
/// The size of an environment block.
const BLOCK_BYTES: usize = 1024;

/// Where on a disk the boot program leaves its evidence.
#[derive(Debug)]
pub struct Evidence {
    image: PathBuf,
    at: u64,
    blank: Vec<u8>,
    count: fn(&[u8]) -> usize,
}

impl Evidence {
    /// How often the program was started.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn starts(&self) -> Result<usize> {
        let mut bytes = vec![0; self.blank.len()];
        File::open(&self.image)?.read_exact_at(&mut bytes, self.at)?;
        Ok((self.count)(&bytes))
    }

    /// Takes it back: the disk is as if the program had never run.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn take_back(&self) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.image)?;
        Ok(file.write_all_at(&self.blank, self.at)?)
    }
}

/// Puts the program for BIOS on a disk of 512-byte sectors.
///
/// # Errors
/// When an outside tool is missing or fails, or the program does not fit.
pub fn for_bios(made: &Made, folder: &Path) -> Result<Evidence> {
    let code = assemble(folder)?;
    ensure!(code.len() <= CODE_BYTES, "{} bytes of code", code.len());
    let mut blank = vec![0; 512];
    blank[..COUNT_AT].copy_from_slice(b"starts of the local disk        ");
    let evidence = Evidence {
        image: made.image.clone(),
        at: EVIDENCE_LBA * 512,
        blank,
        count: |sector| usize::from(sector[COUNT_AT]),
    };
    evidence.take_back()?;
    let file = OpenOptions::new().write(true).open(&made.image)?;
    file.write_all_at(&code, 0)?;
    Ok(evidence)
}

fn assemble(folder: &Path) -> Result<Vec<u8>> {
    let (object, program) = (folder.join("local_boot.o"), folder.join("local_boot.bin"));
    Tool::new("as")?
        .args(["--32", "--defsym"])
        .arg(format!("EVIDENCE_LBA={EVIDENCE_LBA}"))
        .arg("-o")
        .arg(&object)
        .arg(crate_file("fixtures/local_boot.S"))
        .run()?;
    Tool::new("ld")?
        .args(["-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00"])
        .arg("-o")
        .arg(&program)
        .arg(&object)
        .run()?;
    fs::read(&program).context("reading the assembled boot program")
}

/// Puts the program for UEFI, whose loaders are those of a rescue ISO, into a disk's EFI system
/// partition. That of ESXi 7 and later is large enough.
///
/// # Errors
/// When an outside tool is missing or fails, or the disk has no such partition.
pub fn for_uefi(made: &Made, iso: &Path, folder: &Path) -> Result<Evidence> {
    let partition = system_partition(made)?;
    let range = made.layout.bytes(&partition);
    let volume = format!("{}@@{}", made.image.display(), range.start);
    let mut blank = NO_STARTS.as_bytes().to_vec();
    blank.resize(BLOCK_BYTES, b'#');
    let put = |name: &str, content: &[u8]| -> Result<()> {
        let file = folder.join("put");
        fs::write(&file, content)?;
        let mcopy = Tool::new("mcopy")?.args(["-D", "o", "-i", &volume]);
        mcopy.arg(&file).arg(format!("::/{name}")).run()?;
        Ok(())
    };
    let mmd = Tool::new("mmd")?.args(["-D", "s", "-i", &volume]);
    mmd.args(["::/EFI/BOOT", "::/boot", "::/boot/grub"]).run()?;
    for name in ["BOOTX64.EFI", "grubx64.efi"] {
        put(&format!("EFI/BOOT/{name}"), &loader(iso, name)?)?;
    }
    put("boot/grub/grub.cfg", MENU.as_bytes())?;
    put("boot/grub/evidence.env", &blank)?;
    let at = range.start + offset_of(&made.image, range.start, &blank)?;
    Ok(Evidence {
        image: made.image.clone(),
        at,
        blank,
        count: |block| block.split(|byte| *byte == b'\n').nth(1).map_or(0, marks),
    })
}

/// The marks in a line `starts=xxx`.
fn marks(line: &[u8]) -> usize {
    line.iter().filter(|byte| **byte == b'x').count()
}

/// The EFI system partition of a disk.
///
/// # Errors
/// When it has none.
pub fn system_partition(made: &Made) -> Result<Partition> {
    let partitions = &made.layout.partitions;
    let found = partitions.iter().find(|one| one.role == Role::Esp);
    Ok(*found.context("this disk has no EFI system partition")?)
}

/// A program of the EFI system partition that an ISO carries behind its file system.
fn loader(iso: &Path, name: &str) -> Result<Vec<u8>> {
    let system = disk_image::system_partition(iso)?;
    Tool::new("mcopy")?
        .arg("-i")
        .arg(system.volume(iso))
        .args([&format!("::/EFI/BOOT/{name}"), "-"])
        .run()
}

/// Where `wanted` stands, counted from `start`.
fn offset_of(image: &Path, start: u64, wanted: &[u8]) -> Result<u64> {
    let mut bytes = vec![0; SEARCHED_BYTES];
    File::open(image)?.read_exact_at(&mut bytes, start)?;
    let sectors = bytes.chunks(512).enumerate();
    let found = sectors
        .map(|(index, _)| index * 512)
        .find(|at| bytes[*at..].starts_with(wanted));
    Ok(u64::try_from(found.context(
        "the evidence is not in the EFI system partition",
    )?)?)
}
