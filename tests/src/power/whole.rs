//! A small whole disk in memory with one bank that holds real archives, the agent's whole run on it,
//! and what others do to it: ESXi saving its configuration, an upgrade.
//!
//! ESXi's writing is played by the crate `fatfs`, which shares no code with the agent's exchange.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rescue_agent::disk::{BlockDevice, ByteOffset, Disks};
use rescue_agent::fat::{FatTime, Region};
use rescue_agent::import::Given;
use rescue_agent::plan::{self, Plan};
use rescue_agent::policy::{BankChoice, Policy};
use rescue_agent::repair::Event;
use rescue_agent::report::{Command, Report};
use rescue_agent::{discover, verify};

use super::device::{Recorder, Recording, Shared};
use super::maker::{self, Bank, Furnishing, Shape, Slots, Space, Wear};
use super::medium::{Medium, Source};
use super::reader::Loader;
use crate::esxi::EsxiDisk;
use crate::esxi::archive::{Archive, Layers, Seal};
use crate::esxi::host::{Address, GPU, Owner, SATA};
use crate::scratch;

const NODE: &str = "/dev/under_test";
const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;

/// What the agent is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// `revert --devices` with this selection.
    Revert(&'a str),
    /// `restore`.
    Restore,
    /// `restore --discard-newer`.
    DiscardNewer,
    /// `revert --source` with an archive of these bytes.
    Import(&'a [u8]),
}

/// The agent's whole run; its exit status.
///
/// # Errors
/// When there is no plan.
pub fn run(disks: &dyn Disks, path: &Path, asked: Asked<'_>) -> Result<u8> {
    let inventory = discover::discover(&[PathBuf::from(path)], disks);
    let (command, plan): (Command, Plan) = match asked {
        Asked::Revert(devices) => {
            let policy = Policy {
                devices: devices
                    .parse()
                    .map_err(|error| anyhow::anyhow!("{error}"))?,
                ..Policy::default()
            };
            (Command::Revert, plan::revert(&inventory, &policy, None)?)
        }
        Asked::Import(bytes) => {
            let given = Given::read(bytes.to_vec(), "the file", None)?;
            let import = plan::Import {
                given: &given,
                trusted: false,
            };
            let plan = plan::import(&inventory, &Policy::default(), None, import)?;
            (Command::Revert, plan)
        }
        Asked::Restore | Asked::DiscardNewer => {
            let discard = asked == Asked::DiscardNewer;
            let plan = plan::restore(&inventory, &BankChoice::All, &[], discard, None);
            (Command::Restore, plan)
        }
    };
    let now = FatTime::from_unix(1_767_225_600);
    let (receipt, proof) =
        verify::repair_and_verify(&plan, &inventory, disks, now, &mut |_: &Event| {});
    let report = Report::new(
        command,
        &inventory,
        None,
        Some(&plan),
        Some(&receipt),
        proof.broken,
        proof.after.as_ref(),
    );
    Ok(report.result.exit_status())
}

/// As [`run`], on a disk in memory: what is on it afterwards.
///
/// # Errors
/// As [`run`].
pub fn run_on(medium: &Medium, asked: Asked<'_>) -> Result<(u8, Medium)> {
    let (status, recording) = record(medium, asked)?;
    Ok((status, recording.medium))
}

/// As [`run_on`], with every write of it.
///
/// # Errors
/// As [`run`].
pub fn record(medium: &Medium, asked: Asked<'_>) -> Result<(u8, Recording)> {
    let device = Arc::new(Recorder::new(medium.clone()));
    let opened = {
        let device = Arc::clone(&device);
        move |_: &Path| -> io::Result<Box<dyn BlockDevice>> {
            Ok(Box::new(Shared(Arc::clone(&device))))
        }
    };
    let status = run(&opened, Path::new(NODE), asked)?;
    Ok((status, device.recording()))
}

/// A state archive of a 6.7 host, packed by outside tools: saved that often, with the boot controller
/// owned so, and a few kilobytes long.
///
/// # Errors
/// When a tool fails.
pub fn archive(count: u32, owner: Owner) -> Result<Vec<u8>> {
    let disk = EsxiDisk::v67();
    let mut archive: Archive = disk.banks[0].archive.clone();
    archive.members.clear();
    archive.backup_counter = Some(count);
    for device in &mut archive.devices {
        match device.address {
            address if address == SATA => device.owner = owner,
            address if address == GPU => device.owner = Owner::Passthru,
            _ => {}
        }
    }
    let folder = scratch::folder()?;
    let packed = archive.pack(folder.path(), &count.to_string())?;
    Ok(std::fs::read(packed.context("a file")?)?)
}

/// A state archive of an 8.0 host, sealed by the TPM of the host of that name.
///
/// # Errors
/// When a tool fails.
pub fn sealed_archive(count: u32, host: &'static str) -> Result<Vec<u8>> {
    let mut archive: Archive = EsxiDisk::v80().banks[0].archive.clone();
    archive.members.clear();
    archive.backup_counter = Some(count);
    archive.layers = Layers::Sealed(Seal::by_tpm(host));
    let folder = scratch::folder()?;
    let packed = archive.pack(folder.path(), &count.to_string())?;
    Ok(std::fs::read(packed.context("a file")?)?)
}

/// The address of the boot controller and of a graphics card in [`archive`].
pub const ADDRESSES: [Address; 2] = [SATA, GPU];

/// A disk with an MBR and one bank that has this archive.
///
/// # Errors
/// When a tool fails.
pub fn disk(archive: &[u8]) -> Result<Bank> {
    let shape = Shape {
        bits: 12,
        sector: 512,
        device_sector: 512,
        cluster: 512,
        tables: 2,
        root_slots: 64,
        clusters: 300,
    };
    let furnishing = Furnishing {
        archive: 0,
        undo: None,
        slots: Slots::SameSector,
        space: Space::Plenty,
        seed: 1,
        wear: Wear::None,
    };
    let mut bank = maker::make(shape, furnishing)?;
    let (first, sectors) = (bank.region.start.0 / SECTOR, bank.region.length / SECTOR);
    let mut table = [0_u8; 512];
    // One primary partition of type 6, as in `Layout::mbr_4`.
    table[446 + 4] = 6;
    table[446 + 8..446 + 12].copy_from_slice(&u32::try_from(first)?.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&u32::try_from(sectors)?.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    bank.medium.patch(0, &table)?;
    // A bank that the loader starts, down to the archive.
    write_file(&mut bank, "B.B00", b"kernel")?;
    let text = String::from_utf8(bank.boot_cfg.clone())?;
    let text = format!("{text}kernel=b.b00\nmodules=state.tgz\n").into_bytes();
    write_file(&mut bank, "BOOT.CFG", &text)?;
    bank.boot_cfg = text;
    save(&mut bank, archive)?;
    bank.medium = bank.medium.flattened();
    Ok(bank)
}

/// ESXi saves its configuration: a new file takes the place of the old one.
///
/// # Errors
/// When the volume cannot be written.
pub fn save(bank: &mut Bank, archive: &[u8]) -> Result<()> {
    write_file(bank, "STATE.TGZ", archive)?;
    bank.archive = archive.to_vec();
    Ok(())
}

/// The build in boot.cfg changes, as by an upgrade.
///
/// # Errors
/// When the volume cannot be written.
pub fn upgrade(bank: &mut Bank, build: &str) -> Result<()> {
    let text = String::from_utf8(bank.boot_cfg.clone())?;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.starts_with("build=") {
            true => format!("build={build}"),
            false => line.to_owned(),
        })
        .collect();
    let text = format!("{}\n", lines.join("\n"));
    write_file(bank, "BOOT.CFG", text.as_bytes())?;
    bank.boot_cfg = text.into_bytes();
    Ok(())
}

fn write_file(bank: &mut Bank, name: &str, bytes: &[u8]) -> Result<()> {
    let disk = Recorder::new(bank.medium.clone());
    {
        let stream = Stream {
            disk: &disk,
            region: bank.region,
            position: 0,
        };
        let volume = fatfs::FileSystem::new(stream, fatfs::FsOptions::new())?;
        let root = volume.root_dir();
        // There may be none yet.
        let _ = root.remove(name);
        let mut file = root.create_file(name)?;
        file.write_all(bytes)?;
        file.flush()?;
        drop(file);
        drop(root);
        volume.unmount()?;
    }
    bank.medium = disk.into_recording().medium;
    Ok(())
}

/// A file of the bank, as VMware's loader reads it.
///
/// # Errors
/// When the loader could not.
pub fn read(bank: &Bank, name: &[u8; 11]) -> Result<Option<Vec<u8>>> {
    Loader::open(&bank.medium, bank.region.start.0, bank.sector)?.load(name)
}

/// The copies of the archive that are there, by all names there are for them.
///
/// # Errors
/// When one of them cannot be read.
pub fn copies(medium: &impl Source, bank: &Bank) -> Result<Vec<Vec<u8>>> {
    let loader = Loader::open(medium, bank.region.start.0, bank.sector)?;
    let mut copies = Vec::new();
    for digit in b'0'..=b'9' {
        let mut name = *b"STATE   ORG";
        name[10] = if digit == b'0' { b'G' } else { digit };
        copies.extend(loader.load(&name)?);
    }
    ensure!(copies.iter().all(|copy| !copy.is_empty()), "an empty copy");
    Ok(copies)
}

/// A volume on a recording disk, as a stream of bytes for the crate `fatfs`.
#[derive(Debug)]
pub struct Stream<'d> {
    /// The disk.
    pub disk: &'d Recorder,
    /// Where the volume lies.
    pub region: Region,
    /// Where the stream is.
    pub position: u64,
}

impl Stream<'_> {
    /// The rest of the sector at the position: its offset, the offset inside, and the length.
    fn part(&self, wanted: usize) -> (u64, usize, usize) {
        let inside = self.position % SECTOR;
        let length = (SECTOR - inside).min(self.region.length - self.position);
        let start = self.region.start.0 + self.position - inside;
        let number = |value: u64| usize::try_from(value).unwrap_or(0);
        (start, number(inside), wanted.min(number(length)))
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (start, inside, length) = self.part(buffer.len());
        let at = ByteOffset(start + inside as u64);
        self.disk.read_at(at, &mut buffer[..length])?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (start, inside, length) = self.part(buffer.len());
        let mut sector = [0; SECTOR_BYTES];
        self.disk.read_at(ByteOffset(start), &mut sector)?;
        sector[inside..inside + length].copy_from_slice(&buffer[..length]);
        self.disk.write_at(ByteOffset(start), &sector)?;
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl Seek for Stream<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => self.region.length.saturating_add_signed(by),
            SeekFrom::Current(by) => self.position.saturating_add_signed(by),
        };
        Ok(self.position)
    }
}
