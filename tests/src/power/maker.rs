//! Makes the volumes of boot banks with outside tools: `mkfs.fat` and mtools.
//!
//! Layout as on ESXi's own banks: two reserved sectors, the second with VMware's marker
//! (esx-boot, `safeboot/vmfat.c`); boot.cfg, a few modules, a directory, and `STATE.TGZ`.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rescue_agent::disk::ByteOffset;
use rescue_agent::fat::Region;

use super::census::Census;
use super::content;
use super::medium::{Image, Medium};

/// Sectors of the disk before and behind the volume, filled with a pattern.
const GUARD_SECTORS: usize = 8;
const GUARD_BYTE: u8 = 0xa5;

/// The search path with the folders that hold `mkfs.fat` for users other than root.
pub fn tool_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// What `mkfs.fat` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Table entry width: 12 or 16.
    pub bits: u32,
    /// Bytes per sector of the volume.
    pub sector: usize,
    /// Bytes per sector of the disk: what it writes as a whole. Smaller than the volume's where
    /// a 4Kn disk was copied into an image.
    pub device_sector: usize,
    /// Bytes per cluster.
    pub cluster: usize,
    /// Number of tables.
    pub tables: u32,
    /// Slots of the root directory.
    pub root_slots: usize,
    /// Number of clusters wanted; the volume has about as many.
    pub clusters: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "FAT{} sector {}/{} cluster {} tables {}",
            self.bits, self.sector, self.device_sector, self.cluster, self.tables
        )
    }
}

/// Where the root directory has a free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// In the sector of `STATE.TGZ`: the commit is one write.
    SameSector,
    /// Only in another sector: the commit is two writes.
    OtherSector,
    /// Nowhere.
    None,
}

/// How the free clusters lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// One long run.
    Plenty,
    /// Every other cluster only, at first.
    Fragmented,
    /// A run that begins at this cluster: used to put a chain across two table sectors.
    From(u32),
    /// Just so many clusters.
    Exactly(usize),
    /// Just so many clusters, each this far from the next, so that a chain of them touches many
    /// sectors of the tables.
    Scattered {
        /// How many.
        clusters: usize,
        /// Clusters in use between two of them.
        gap: usize,
    },
}

/// What is on a volume.
#[derive(Debug, Clone, Copy)]
pub struct Furnishing {
    /// Length of `STATE.TGZ` in bytes.
    pub archive: usize,
    /// Length of `STATE.ORG` in bytes, if an earlier repair left one.
    pub undo: Option<usize>,
    /// Room in the root directory.
    pub slots: Slots,
    /// Room in the data area.
    pub space: Space,
    /// Seed of the contents.
    pub seed: u64,
}

/// A disk with one bank.
#[derive(Debug, Clone)]
pub struct Bank {
    /// The disk.
    pub medium: Medium,
    /// Where the volume lies.
    pub region: Region,
    /// Bytes per sector of the volume.
    pub sector: usize,
    /// Content of `STATE.TGZ`.
    pub archive: Vec<u8>,
    /// Content of `STATE.ORG`.
    pub undo: Option<Vec<u8>>,
    /// Content of `BOOT.CFG`.
    pub boot_cfg: Vec<u8>,
}

/// Makes a disk with one bank.
///
/// # Errors
/// When a tool is missing or fails, or the furnishing does not fit.
pub fn make(shape: Shape, furnishing: Furnishing) -> Result<Bank> {
    let maker = Maker::new(shape)?;
    maker.format()?;
    let archive = content::gzip(furnishing.archive, furnishing.seed);
    let undo = furnishing
        .undo
        .map(|length| content::gzip(length, furnishing.seed ^ 0x6f72_6967));
    let boot_cfg =
        b"bootstate=0\ntitle=Loading VMware ESXi\nbuild=6.7.0-8169922\nupdated=2\n".to_vec();
    maker.add(&[
        ("BOOT.CFG", &boot_cfg),
        ("A.V00", &content::gzip(shape.cluster / 2 + 30, 1)),
        ("STATE.TGZ", &archive),
    ])?;
    if let Some(undo) = &undo {
        maker.add(&[("STATE.ORG", undo)])?;
    }
    maker.add(&[("B.V00", &content::gzip(shape.cluster + 1, 2))])?;
    maker.mtool("mmd", &["::/DIR"])?;
    maker.add_to("DIR", &[("INSIDE.TXT", b"inside")])?;
    maker.arrange(furnishing.space)?;
    maker.fill_slots(furnishing.slots)?;
    let (medium, region) = maker.disk()?;
    Ok(Bank {
        medium,
        region,
        sector: shape.sector,
        archive,
        undo,
        boot_cfg,
    })
}

struct Maker {
    shape: Shape,
    folder: tempfile::TempDir,
    volume: PathBuf,
}

impl Maker {
    fn new(shape: Shape) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let volume = folder.path().join("volume.img");
        Ok(Self {
            shape,
            folder,
            volume,
        })
    }

    fn format(&self) -> Result<()> {
        let shape = self.shape;
        let table = ((shape.clusters + 2) * shape.bits as usize).div_ceil(8 * shape.sector);
        let root = (shape.root_slots * 32).div_ceil(shape.sector);
        let sectors = 2 + shape.tables as usize * table + root;
        let bytes = sectors * shape.sector + shape.clusters * shape.cluster;
        fs::File::create(&self.volume)?.set_len(bytes as u64)?;
        let volume = self.volume.to_string_lossy();
        let number = |value: usize| value.to_string();
        self.run(
            "mkfs.fat",
            &[
                "-a",
                "--invariant",
                "-R",
                "2",
                "-F",
                &number(shape.bits as usize),
                "-S",
                &number(shape.sector),
                "-s",
                &number(shape.cluster / shape.sector),
                "-f",
                &number(shape.tables as usize),
                "-r",
                &number(shape.root_slots),
                &volume,
            ],
        )
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Result<()> {
        let output = Command::new(tool)
            .args(arguments)
            .env("PATH", tool_path())
            .env("MTOOLS_SKIP_CHECK", "1")
            .env("MTOOLSRC", "/dev/null")
            // The same plan makes the same volume, times included.
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .with_context(|| format!("starting {tool} (packages dosfstools, mtools)"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{tool} {arguments:?}: {text}");
        Ok(())
    }

    fn mtool(&self, tool: &str, arguments: &[&str]) -> Result<()> {
        let volume = self.volume.to_string_lossy();
        let all: Vec<&str> = ["-i", &volume]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.run(tool, &all)
    }

    fn add(&self, files: &[(&str, &[u8])]) -> Result<()> {
        self.add_to("", files)
    }

    fn add_to(&self, directory: &str, files: &[(&str, &[u8])]) -> Result<()> {
        let mut arguments = Vec::new();
        for (name, content) in files {
            let path = self.folder.path().join(name);
            fs::write(&path, content)?;
            arguments.push(path.to_string_lossy().into_owned());
        }
        arguments.push(format!("::/{directory}"));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.mtool("mcopy", &arguments)
    }

    fn arrange(&self, space: Space) -> Result<()> {
        match space {
            Space::Plenty => Ok(()),
            Space::Fragmented => self.fragment(),
            Space::From(cluster) => {
                let first_free = self.census()?.free.first().copied().unwrap_or(0);
                self.fill_clusters(cluster.saturating_sub(first_free) as usize)
            }
            Space::Exactly(left) => {
                let free = self.census()?.free.len();
                ensure!(free >= left, "only {free} clusters are free");
                self.fill_clusters(free - left)
            }
            Space::Scattered { clusters, gap } => self.scatter(clusters, gap),
        }
    }

    fn fill_clusters(&self, clusters: usize) -> Result<()> {
        match clusters {
            0 => Ok(()),
            _ => self.add(&[("FILL.BIN", &vec![0x77; clusters * self.shape.cluster])]),
        }
    }

    /// One-cluster files in a directory, every other of them deleted again.
    fn fragment(&self) -> Result<()> {
        const FILES: usize = 48;
        self.mtool("mmd", &["::/FRAG"])?;
        let names: Vec<String> = (0..FILES).map(|number| format!("F{number:03}")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b"x"[..])).collect();
        self.add_to("FRAG", &files)?;
        let gone: Vec<String> = names
            .iter()
            .step_by(2)
            .map(|name| format!("::/FRAG/{name}"))
            .collect();
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        self.mtool("mdel", &gone)
    }

    /// Files of `gap` clusters and of one cluster by turns, the rest filled, the latter deleted.
    fn scatter(&self, clusters: usize, gap: usize) -> Result<()> {
        self.mtool("mmd", &["::/FRAG"])?;
        let wide = vec![0x55; gap * self.shape.cluster];
        let names: Vec<(String, String)> = (0..clusters)
            .map(|number| (format!("S{number:03}"), format!("T{number:03}")))
            .collect();
        let files: Vec<(&str, &[u8])> = names
            .iter()
            .flat_map(|(s, t)| [(&s[..], &wide[..]), (&t[..], &b"x"[..])])
            .collect();
        self.add_to("FRAG", &files)?;
        self.fill_clusters(self.census()?.free.len())?;
        let gone: Vec<String> = names.iter().map(|(_, t)| format!("::/FRAG/{t}")).collect();
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        self.mtool("mdel", &gone)
    }

    fn fill_slots(&self, slots: Slots) -> Result<()> {
        let used = self
            .census()?
            .files
            .iter()
            .filter(|file| file.root_slot.is_some())
            .count();
        let wanted = match slots {
            Slots::SameSector => return Ok(()),
            Slots::OtherSector => self.shape.sector / 32 + 1,
            Slots::None => self.shape.root_slots,
        };
        let names: Vec<String> = (used..wanted)
            .map(|number| format!("E{number:05}"))
            .collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &[][..])).collect();
        self.add(&files)
    }

    fn census(&self) -> Result<Census> {
        let file = fs::File::open(&self.volume)?;
        Census::of(&file, 0, self.shape.sector)
    }

    /// The volume in the middle of a disk.
    fn disk(&self) -> Result<(Medium, Region)> {
        let length = fs::metadata(&self.volume)?.len();
        let guard = GUARD_SECTORS * self.shape.sector;
        let start = guard as u64;
        let mut image = Image::zeroed(length + 2 * start, self.shape.device_sector);
        image.write_file(start, &self.volume)?;
        image.write(0, &vec![GUARD_BYTE; guard]);
        image.write(start + length, &vec![GUARD_BYTE; guard]);
        image.write(
            start + self.shape.sector as u64,
            &marker_sector(self.shape.sector),
        );
        let region = Region {
            start: ByteOffset(start),
            length,
        };
        Ok((Medium::new(image), region))
    }
}

/// VMware's marker: sixteen bytes of name, sixteen of UUID (esx-boot, `safeboot/vmfat.c`).
fn marker_sector(bytes: usize) -> Vec<u8> {
    let mut sector = vec![0; bytes];
    sector[..16].copy_from_slice(b"VMWARE FAT16    ");
    sector[16..32].copy_from_slice(&[0x5c; 16]);
    sector
}
