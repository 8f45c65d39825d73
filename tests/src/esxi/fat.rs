//! FAT volumes inside a disk image, made and filled by dosfstools and mtools.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::layout::{Layout, Partition};
use crate::tools::Tool;

/// First 16 bytes of the second sector of every FAT volume that ESXi formats (esx-boot,
/// safeboot/vmfat.c); a volume UUID of 16 bytes follows.
pub const MARKER: &[u8; 16] = b"VMWARE FAT16    ";

/// A FAT volume at its place in an image.
#[derive(Debug, Clone, Copy)]
pub struct Volume<'a> {
    image: &'a Path,
    /// Start of the volume in bytes.
    offset: u64,
}

impl<'a> Volume<'a> {
    /// The volume that starts at a byte of an image.
    pub fn at(image: &'a Path, offset: u64) -> Self {
        Self { image, offset }
    }

    /// Formats a partition. The volume's serial number and UUID follow from `serial`.
    pub fn format(
        image: &'a Path,
        layout: &Layout,
        partition: &Partition,
        serial: u32,
    ) -> Result<Self> {
        let fat = partition
            .fat
            .context("this partition carries no FAT volume")?;
        let volume = Self::at(image, layout.bytes(partition).start);
        // mkfs.fat counts --offset in the sectors of the volume, its length in 1024-byte blocks.
        Tool::new("mkfs.fat")?
            .args(["-a", "-R", "2", "-r", "512", "--mbr=n"])
            .args(["-F", &fat.bits.to_string(), "-f", &fat.copies.to_string()])
            .args(["-s", &fat.sectors_per_cluster.to_string()])
            .args([
                "-S",
                &layout.sector_bytes.to_string(),
                "-i",
                &format!("{serial:08x}"),
            ])
            .args(["--offset", &partition.first.to_string()])
            .arg(image)
            .arg((partition.sectors() * layout.sector_bytes / 1024).to_string())
            .run()?;
        Ok(volume)
    }

    /// Writes VMware's marker and a volume UUID into the second sector.
    pub fn mark(&self, sector_bytes: u64, uuid: [u8; 16]) -> Result<()> {
        let mut bytes = MARKER.to_vec();
        bytes.extend(uuid);
        let file = OpenOptions::new().write(true).open(self.image)?;
        file.write_all_at(&bytes, self.offset + sector_bytes)
            .with_context(|| format!("marking a volume of {}", self.image.display()))
    }

    /// Puts a file into the root directory, its modification time kept.
    ///
    /// An upper-case name makes a plain 8.3 entry; a lower-case one sets the lower-case bits.
    pub fn put(&self, file: &Path, name: &str) -> Result<()> {
        Tool::new("mcopy")?
            .args(["-m", "-D", "o", "-i", &self.image_argument()])
            .arg(file)
            .arg(format!("::/{name}"))
            .run()?;
        Ok(())
    }

    /// Makes a directory in the root.
    pub fn make_directory(&self, name: &str) -> Result<()> {
        Tool::new("mmd")?
            .args(["-i", &self.image_argument(), &format!("::/{name}")])
            .run()?;
        Ok(())
    }

    /// Removes a file of the root directory.
    pub fn remove(&self, name: &str) -> Result<()> {
        Tool::new("mdel")?
            .args(["-i", &self.image_argument(), &format!("::/{name}")])
            .run()?;
        Ok(())
    }

    /// Free space in bytes, as mtools counts it.
    pub fn free_bytes(&self) -> Result<u64> {
        let listing = Tool::new("mdir")?
            .args(["-i", &self.image_argument(), "::/"])
            .run_text()?;
        let line = listing
            .lines()
            .rev()
            .find(|line| line.trim_end().ends_with("bytes free"));
        let digits: String = line
            .context("mdir shows no free space")?
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        Ok(digits.parse()?)
    }

    /// Fills the volume with one file until only `leave` bytes are free.
    pub fn fill(&self, scratch: &Path, leave: u64) -> Result<()> {
        let free = self.free_bytes()?;
        ensure!(
            free > leave,
            "only {free} bytes are free, {leave} were to be left"
        );
        let filler = scratch.join("filler");
        std::fs::File::create(&filler)?.set_len(free - leave)?;
        self.put(&filler, "FILLER.V00")?;
        std::fs::remove_file(&filler)?;
        // The file is all zeros: give their space on this machine back.
        Tool::new("fallocate")?
            .arg("--dig-holes")
            .arg(self.image)
            .run()?;
        Ok(())
    }

    /// How mtools names the volume: `IMAGE@@OFFSET`.
    pub fn image_argument(&self) -> String {
        format!("{}@@{}", self.image.display(), self.offset)
    }
}
