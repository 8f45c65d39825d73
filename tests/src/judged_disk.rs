//! A made disk in a folder of its own, and its judge: what most tests of the commands begin with.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::agent::{self, Run};
use crate::esxi::fat::Volume;
use crate::esxi::{EsxiDisk, Made};
use crate::judge::Judge;

/// A disk, and the judge that knows how it was.
#[derive(Debug)]
pub struct JudgedDisk {
    /// Removed with everything in it when this value is dropped.
    pub folder: tempfile::TempDir,
    /// The disk as it was made.
    pub made: Made,
    /// Compares the disk with what it was.
    pub judge: Judge,
}

impl JudgedDisk {
    /// Makes the disk.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(disk: &EsxiDisk) -> Result<Self> {
        Self::changed(disk, |_| Ok(()))
    }

    /// Makes the disk and changes it before the judge keeps its copy.
    ///
    /// # Errors
    /// When it cannot be made or changed.
    pub fn changed(disk: &EsxiDisk, change: impl FnOnce(&Made) -> Result<()>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = disk.make(folder.path(), "disk")?;
        change(&made)?;
        let judge = Judge::new(&made, folder.path())?;
        Ok(Self {
            folder,
            made,
            judge,
        })
    }

    /// From here on the judge compares with the disk as it is now.
    ///
    /// # Errors
    /// When the copy cannot be made.
    pub fn judged_from_here(mut self) -> Result<Self> {
        self.judge = Judge::new(&self.made, self.folder.path())?;
        Ok(self)
    }

    /// The path of a file in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The image, to be read and written.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn image(&self) -> Result<File> {
        let mut options = File::options();
        Ok(options.read(true).write(true).open(&self.made.image)?)
    }

    /// Where a bank begins on the disk, in bytes.
    ///
    /// # Errors
    /// When the disk has no such bank.
    pub fn start(&self, bank: usize) -> Result<u64> {
        start_of(&self.made, bank)
    }

    /// The volume of a bank.
    ///
    /// # Errors
    /// When the disk has no such bank.
    pub fn volume(&self, bank: usize) -> Result<Volume<'_>> {
        Ok(Volume::at(&self.made.image, self.start(bank)?))
    }

    /// A file of a bank.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn read(&self, bank: usize, name: &str) -> Result<Vec<u8>> {
        self.judge.bank(bank)?.read(name)
    }

    /// Puts a file into a bank; a file of that name is replaced.
    ///
    /// # Errors
    /// When it does not fit, or the disk has no such bank.
    pub fn put(&self, bank: usize, file: &Path, name: &str) -> Result<()> {
        let volume = self.volume(bank)?;
        // There may be none yet.
        let _ = volume.remove(name);
        volume.put(file, name)
    }

    /// The same with bytes.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_bytes(&self, bank: usize, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.file("put");
        fs::write(&file, bytes)?;
        self.put(bank, &file, name)
    }

    /// Runs the agent on the image.
    ///
    /// # Errors
    /// As [`agent::run`].
    pub fn run(&self, arguments: &[&str]) -> Result<Run> {
        agent::run(arguments, &self.made.image)
    }

    /// `revert` of these devices, confirmed, with a JSON report.
    ///
    /// # Errors
    /// As [`agent::run`].
    pub fn revert(&self, devices: &str) -> Result<Run> {
        agent::revert(devices, &self.made.image)
    }

    /// `restore`, confirmed, with a JSON report.
    ///
    /// # Errors
    /// As [`agent::run`].
    pub fn restore(&self, more: &[&str]) -> Result<Run> {
        self.run(&[&["restore", "--yes", "--json"], more].concat())
    }
}

/// Where a bank of a made disk begins, in bytes.
///
/// # Errors
/// When the disk has no such bank.
pub fn start_of(made: &Made, bank: usize) -> Result<u64> {
    let partitions = made.layout.banks();
    let partition = partitions.get(bank).context("no such bank")?;
    Ok(made.layout.bytes(partition).start)
}
