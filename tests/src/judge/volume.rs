//! A bank's volume, read by mtools and checked by fsck.fat.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::esxi::layout::Layout;
use crate::scratch;
use crate::sparse;
use crate::tools::Tool;

/// A file of a bank's root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// SHA-256 of its content.
    pub sha256: String,
    /// Its line of mdir: stored name, size, date and time.
    pub line: String,
    /// Its attributes, as mattrib shows them.
    pub attributes: String,
}

/// A bank inside an image.
#[derive(Debug, Clone)]
pub struct BankVolume {
    image: PathBuf,
    bytes: Range<u64>,
}

impl BankVolume {
    /// The bank of this number.
    ///
    /// # Errors
    /// When the layout has no such bank.
    pub fn new(image: &Path, layout: &Layout, index: usize) -> Result<Self> {
        let partition = *layout
            .banks()
            .get(index)
            .with_context(|| format!("no bank {index}"))?;
        Ok(Self {
            image: image.to_owned(),
            bytes: layout.bytes(&partition),
        })
    }

    /// Where it lies on the disk, in bytes.
    pub fn bytes(&self) -> Range<u64> {
        self.bytes.clone()
    }

    fn mtool(&self, name: &str) -> Result<Tool> {
        let image = format!("{}@@{}", self.image.display(), self.bytes.start);
        Ok(Tool::new(name)?.args(["-i", &image]))
    }

    /// Names in the root directory, upper case, in the order of the directory.
    ///
    /// # Errors
    /// When mtools cannot read the volume.
    pub fn names(&self) -> Result<Vec<String>> {
        let listing = self.mtool("mdir")?.args(["-a", "-b", "::/"]).run_text()?;
        Ok(listing
            .lines()
            .map(|line| line.trim_start_matches("::/").to_uppercase())
            .collect())
    }

    /// Content of a file of the root directory.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        self.mtool("mcopy")?
            .args([&format!("::/{name}"), "-"])
            .run()
    }

    /// Every file of the root directory.
    ///
    /// # Errors
    /// When mtools cannot read the volume.
    pub fn entries(&self) -> Result<BTreeMap<String, Entry>> {
        let folder = scratch::folder()?;
        self.mtool("mcopy")?
            .args(["-n", "::/*"])
            .arg(folder.path())
            .run()?;
        let mut files = BTreeMap::new();
        for file in std::fs::read_dir(folder.path())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().to_uppercase();
            files.insert(name, hex(&Sha256::digest(std::fs::read(file.path())?)));
        }
        let (lines, attributes) = (self.lines()?, self.attributes()?);
        let entry = |name: String| -> Result<(String, Entry)> {
            let missing = || format!("mtools lists {name}, but tells nothing of it");
            let entry = Entry {
                sha256: files.get(&name).with_context(missing)?.clone(),
                line: lines.get(&name).with_context(missing)?.clone(),
                attributes: attributes.get(&name).with_context(missing)?.clone(),
            };
            Ok((name, entry))
        };
        self.names()?.into_iter().map(entry).collect()
    }

    /// The lines of mdir by name: `STATE    TGZ      1000 2023-05-04  10:11`.
    fn lines(&self) -> Result<BTreeMap<String, String>> {
        let listing = self.mtool("mdir")?.args(["-a", "::/"]).run_text()?;
        let keyed = |line: &str| {
            let (base, extension) = (line.get(..8)?.trim_end(), line.get(8..12)?.trim());
            let dot = if extension.is_empty() { "" } else { "." };
            Some((
                format!("{base}{dot}{extension}").to_uppercase(),
                line.trim_end().to_owned(),
            ))
        };
        Ok(listing.lines().filter_map(keyed).collect())
    }

    /// The attributes of mattrib by name.
    fn attributes(&self) -> Result<BTreeMap<String, String>> {
        let listing = self.mtool("mattrib")?.arg("::/*").run_text()?;
        let keyed = |line: &str| {
            let (attributes, name) = line.split_once("::/")?;
            Some((name.trim().to_uppercase(), attributes.trim().to_owned()))
        };
        Ok(listing.lines().filter_map(keyed).collect())
    }

    /// fsck.fat finds nothing, and all copies of the FAT are equal.
    ///
    /// # Errors
    /// When either does not hold.
    pub fn check(&self) -> Result<()> {
        let folder = scratch::folder()?;
        let volume = folder.path().join("volume");
        sparse::copy_part(&self.image, self.bytes(), &volume)?;
        let output = Tool::new("fsck.fat")?
            .args(["-V", "-n", "-v"])
            .arg(&volume)
            .output()?;
        ensure!(
            output.code() == 0,
            "fsck.fat -n finds faults:\n{}{}",
            output.text(),
            output.errors()
        );
        fat_copies_are_equal(&volume)
    }

    /// fsck.fat finds nothing that it did not find before, and where all copies of the FAT were equal,
    /// they are.
    ///
    /// # Errors
    /// When either does not hold.
    pub fn is_no_worse_than(&self, before: &Self) -> Result<()> {
        if before.check().is_ok() {
            return self.check();
        }
        let (was, is) = (before.findings()?, self.findings()?);
        for finding in &is {
            ensure!(
                was.contains(finding),
                "fsck.fat finds {finding:?}, and before only {was:?}"
            );
        }
        Ok(())
    }

    /// What fsck.fat says, without its summary.
    ///
    /// # Errors
    /// When fsck.fat cannot be run.
    pub fn findings(&self) -> Result<Vec<String>> {
        let folder = scratch::folder()?;
        let volume = folder.path().join("volume");
        sparse::copy_part(&self.image, self.bytes(), &volume)?;
        let output = Tool::new("fsck.fat")?
            .args(["-V", "-n"])
            .arg(&volume)
            .output()?;
        let text = output.text();
        let lines = text.lines().filter(|line| !line.contains(" files, "));
        Ok(lines.map(|line| line.trim().to_owned()).collect())
    }
}

/// Compares the first FAT with each other one.
fn fat_copies_are_equal(volume: &Path) -> Result<()> {
    let file = File::open(volume)?;
    let number = |at: u64, bytes: usize| -> Result<u64> {
        let mut field = [0; 8];
        file.read_exact_at(&mut field[..bytes], at)?;
        Ok(u64::from_le_bytes(field))
    };
    // BIOS parameter block, as in Microsoft's FAT specification.
    let (sector, reserved) = (number(11, 2)?, number(14, 2)?);
    let (copies, length) = (number(16, 1)?, number(22, 2)? * sector);
    let read = |copy: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length)?];
        file.read_exact_at(&mut bytes, reserved * sector + copy * length)?;
        Ok(bytes)
    };
    let first = read(0)?;
    for copy in 1..copies {
        ensure!(read(copy)? == first, "FAT {} differs from FAT 1", copy + 1);
    }
    Ok(())
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
