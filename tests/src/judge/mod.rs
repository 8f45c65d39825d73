//! Judges a disk after a repair, by outside readers only: mtools, gzip, GNU tar, Python's tarfile,
//! cmp, sqlite3, dissect.hypervisor and fsck.fat.
//!
//! A [`Judge`] keeps the disk as it was. Each of its checks fails with what differs and where.

pub mod archive;
pub mod interrupted;
pub mod loader;
mod store;
pub mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::esxi::Made;
use crate::esxi::archive::Archive;
use crate::esxi::host::{Address, Device, Owner};
use crate::sparse;
use archive::{Edit, Opened, compare_archives};
use volume::{BankVolume, Entry};

/// Knows a disk as it was, and compares.
#[derive(Debug)]
pub struct Judge {
    made: Made,
    before: PathBuf,
    folder: PathBuf,
}

impl Judge {
    /// Keeps a copy of a disk in `folder`, before anything is done to it.
    ///
    /// # Errors
    /// When the copy cannot be made.
    pub fn new(made: &Made, folder: &Path) -> Result<Self> {
        let name = made
            .image
            .file_stem()
            .context("an image has a name")?
            .to_string_lossy();
        let before = folder.join(format!("{name}.before"));
        sparse::copy(&made.image, &before)?;
        Ok(Self {
            made: made.clone(),
            before,
            folder: folder.to_owned(),
        })
    }

    /// A bank's volume as it is now.
    ///
    /// # Errors
    /// When the disk has no such bank.
    pub fn bank(&self, index: usize) -> Result<BankVolume> {
        BankVolume::new(&self.made.image, &self.made.layout, index)
    }

    /// A bank's volume as it was.
    ///
    /// # Errors
    /// When the disk has no such bank.
    pub fn bank_before(&self, index: usize) -> Result<BankVolume> {
        BankVolume::new(&self.before, &self.made.layout, index)
    }

    /// These bytes are the archive of both banks, the archives from before are kept, and nothing else has changed.
    ///
    /// # Errors
    /// Says what is not so.
    pub fn holds_in_both_banks(&self, bytes: &[u8]) -> Result<()> {
        self.only_banks_changed(&[0, 1])?;
        for bank in [0, 1] {
            let (before, now) = (self.bank_before(bank)?, self.bank(bank)?);
            now.is_no_worse_than(&before)?;
            ensure!(now.read("STATE.TGZ")? == bytes, "bank {bank}");
            ensure!(
                now.read("STATE.ORG")? == before.read("STATE.TGZ")?,
                "bank {bank}"
            );
        }
        Ok(())
    }

    /// Nothing at all was written.
    ///
    /// # Errors
    /// When a sector differs.
    pub fn nothing_changed(&self) -> Result<()> {
        let units = sparse::differing_units(&self.before, &self.made.image)?;
        ensure!(
            units.is_empty(),
            "nothing was to change, but bytes from {units:?} on did"
        );
        Ok(())
    }

    /// Whatever changed lies inside these banks' partitions, behind their boot and marker sectors.
    ///
    /// # Errors
    /// When another sector differs.
    pub fn only_banks_changed(&self, banks: &[usize]) -> Result<()> {
        let sector = self.made.layout.sector_bytes;
        let allowed: Vec<_> = banks
            .iter()
            .map(|index| self.bank(*index).map(|bank| bank.bytes()))
            .collect::<Result<_>>()?;
        for unit in sparse::differing_units(&self.before, &self.made.image)? {
            let Some(bank) = allowed.iter().find(|bank| bank.contains(&unit)) else {
                bail!("byte {unit} of the disk changed, outside of the banks {banks:?}");
            };
            ensure!(
                unit >= bank.start + 2 * sector,
                "the boot sector or the marker sector of the bank at byte {} changed",
                bank.start
            );
        }
        Ok(())
    }

    /// These banks are repaired: the selected devices belong to ESXi now, every other byte of every
    /// layer, file and sector is as it was, and the original archive is kept beside the new one.
    /// All other banks are untouched.
    ///
    /// # Errors
    /// When anything of this does not hold.
    pub fn repaired(&self, banks: &[usize], devices: &[Address]) -> Result<()> {
        self.only_banks_changed(banks)?;
        for index in banks {
            self.bank_repaired(*index, devices)
                .with_context(|| format!("bank {index}"))?;
        }
        Ok(())
    }

    /// These banks hold their original archive again, to the byte, and every other file as it was.
    ///
    /// # Errors
    /// When anything of this does not hold.
    pub fn restored(&self, banks: &[usize]) -> Result<()> {
        self.only_banks_changed(banks)?;
        for index in banks {
            let (before, now) = (self.bank_before(*index)?, self.bank(*index)?);
            now.is_no_worse_than(&before)?;
            let (was, is) = (before.entries()?, now.entries()?);
            for (name, entry) in &was {
                let found = is.get(name).with_context(|| format!("{name} is gone"))?;
                ensure!(
                    found.sha256 == entry.sha256,
                    "bank {index}: {name} is not the original"
                );
            }
        }
        Ok(())
    }

    fn bank_repaired(&self, index: usize, devices: &[Address]) -> Result<()> {
        let (before, now) = (self.bank_before(index)?, self.bank(index)?);
        now.is_no_worse_than(&before)?;
        let bank = &self.made.banks[index];
        let archives: Vec<_> = std::iter::once((bank.archive.root_name(), &bank.archive))
            .chain(
                bank.onetime
                    .as_ref()
                    .map(|archive| ("ONETIME.TGZ", archive)),
            )
            .collect();
        let names: Vec<&str> = archives.iter().map(|(name, _)| *name).collect();
        only_archives_changed(&before.entries()?, &now.entries()?, &names)?;
        for (name, archive) in archives {
            let (was, is) = (before.read(name)?, now.read(name)?);
            let undo = undo_name(name);
            ensure!(
                now.read(&undo)? == was,
                "{undo} is not the original {name}: the repair cannot be undone"
            );
            archive::is_one_gzip_member(&is)?;
            let scratch = tempfile::Builder::new()
                .prefix("judging-")
                .tempdir_in(&self.folder)?;
            let key = archive.key()?;
            let open = |bytes: &[u8], folder| {
                Opened::read(name, bytes, key.as_deref(), &scratch.path().join(folder))
            };
            let (was, is) = (open(&was, "before")?, open(&is, "after")?);
            compare_archives(&was, &is, &edits(archive, devices)).context(name)?;
        }
        Ok(())
    }

    /// Owners by esx.conf in a bank as it is now.
    ///
    /// # Errors
    /// When the archive does not open.
    pub fn owners(&self, index: usize) -> Result<BTreeMap<String, String>> {
        self.opened(index, Opened::owners)
    }

    /// Owners by the ConfigStore in a bank as it is now; empty where there is none.
    ///
    /// # Errors
    /// When the archive does not open.
    pub fn store_owners(&self, index: usize) -> Result<BTreeMap<String, String>> {
        self.opened(index, Opened::store_owners)
    }

    /// The journal mode of the ConfigStore in a bank as it is now.
    ///
    /// # Errors
    /// When the archive does not open, or holds none.
    pub fn store_journal_mode(&self, index: usize) -> Result<String> {
        self.opened(index, Opened::store_journal_mode)
    }

    /// What the archive of a bank says now.
    fn opened<T>(&self, index: usize, ask: impl Fn(&Opened) -> Result<T>) -> Result<T> {
        let scratch = tempfile::Builder::new()
            .prefix("judging-")
            .tempdir_in(&self.folder)?;
        let archive = &self.made.banks[index].archive;
        let (name, key) = (archive.root_name(), archive.key()?);
        let bytes = self.bank(index)?.read(name)?;
        ask(&Opened::read(name, &bytes, key.as_deref(), scratch.path())?)
    }
}

/// Name of the undo copy of an archive: `STATE.TGZ` → `STATE.ORG`.
pub fn undo_name(archive: &str) -> String {
    format!("{}.ORG", archive.trim_end_matches(".TGZ"))
}

/// The devices of a selection that are passed through in an archive, as it spells them.
fn edits(archive: &Archive, devices: &[Address]) -> Vec<Edit> {
    let selected =
        |device: &&Device| device.owner == Owner::Passthru && devices.contains(&device.address);
    let edit = |device: &Device| Edit {
        line: archive
            .device_lines
            .then(|| device.address.spelled(archive.spelling)),
        row: archive.config_store.then(|| device.address.to_string()),
    };
    archive.devices.iter().filter(selected).map(edit).collect()
}

/// The files are the same but for these archives, and their undo copies are there.
fn only_archives_changed(
    before: &BTreeMap<String, Entry>,
    now: &BTreeMap<String, Entry>,
    archives: &[&str],
) -> Result<()> {
    for (name, entry) in before {
        let found = now.get(name).with_context(|| format!("{name} is gone"))?;
        ensure!(
            found.attributes == entry.attributes,
            "the attributes of {name} changed"
        );
        if !archives.contains(&name.as_str()) {
            ensure!(found == entry, "{name} changed: {entry:?} became {found:?}");
        }
    }
    let more: BTreeSet<_> = now
        .keys()
        .filter(|name| !before.contains_key(*name))
        .cloned()
        .collect();
    let undo: BTreeSet<_> = archives.iter().map(|name| undo_name(name)).collect();
    ensure!(more == undo, "new files: {more:?}, expected {undo:?}");
    Ok(())
}
