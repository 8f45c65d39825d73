//! A bank's volume, read by mtools and checked by fsck.fat.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::esxi::layout::Layout;
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
        let mut entries = BTreeMap::new();
        for name in self.names()? {
            let line = self
                .mtool("mdir")?
                .args(["-a", &format!("::/{name}")])
                .run_text()?;
            let stored = name.split('.').next().unwrap_or_default();
            let shown = |line: &&str| line.to_uppercase().starts_with(stored);
            let line = line.lines().find(shown).unwrap_or_default().to_owned();
            let attributes = self
                .mtool("mattrib")?
                .arg(format!("::/{name}"))
                .run_text()?;
            let attributes = attributes
                .split("::")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned();
            let sha256 = hex(&Sha256::digest(self.read(&name)?));
            entries.insert(
                name,
                Entry {
                    sha256,
                    line,
                    attributes,
                },
            );
        }
        Ok(entries)
    }

    /// fsck.fat finds nothing, and all copies of the FAT are equal.
    ///
    /// # Errors
    /// When either does not hold.
    pub fn check(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let volume = folder.path().join("volume");
        sparse::copy_part(&self.image, self.bytes(), &volume)?;
        let output = Tool::new("fsck.fat")?
            .args(["-n", "-v"])
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
