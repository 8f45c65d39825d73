//! Makes the volumes of boot banks with outside tools: `mkfs.fat` and mtools.
//!
//! Layout as on ESXi's own banks: two reserved sectors, the second with VMware's marker
//! (esx-boot, `safeboot/vmfat.c`); boot.cfg, a few modules, a directory, and `STATE.TGZ`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rescue_agent::disk::ByteOffset;
use rescue_agent::fat::Region;

use super::census::Census;
use super::content;
use super::medium::{Image, Medium, Source};
use crate::scratch;
use crate::tools::Tool;

/// Sectors of the disk before and behind the volume, filled with a pattern.
const GUARD_SECTORS: usize = 8;
const GUARD_BYTE: u8 = 0xa5;

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

/// What earlier accidents have left on a volume, and is none of the agent's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wear {
    /// Nothing.
    None,
    /// The mark that a driver sets while it has the volume mounted.
    Dirty,
    /// Clusters in use that belong to no file.
    Lost,
    /// Tables that differ about free clusters and about another file.
    Unequal,
    /// Another file whose chain leads to a free cluster.
    Broken,
    /// All of it.
    Everything,
}

impl Wear {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Dirty,
        Self::Lost,
        Self::Unequal,
        Self::Broken,
        Self::Everything,
    ];

    fn has(self, other: Self) -> bool {
        self == other || self == Self::Everything
    }
}

/// What is on a volume.
#[derive(Debug, Clone, Copy)]
pub struct Furnishing {
    /// Length of `STATE.TGZ` in bytes; 0: there is none.
    pub archive: usize,
    /// Length of `STATE.ORG` in bytes, if an earlier repair left one.
    pub undo: Option<usize>,
    /// Room in the root directory.
    pub slots: Slots,
    /// Room in the data area.
    pub space: Space,
    /// Seed of the contents.
    pub seed: u64,
    /// What earlier accidents have left.
    pub wear: Wear,
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
    /// Whether accidents have left something on it.
    pub worn: bool,
    /// Content of `STATE.TGZ`; empty where there is none.
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
    let archive = match furnishing.archive {
        0 => Vec::new(),
        length => content::gzip(length, furnishing.seed),
    };
    let undo = furnishing
        .undo
        .map(|length| content::gzip(length, furnishing.seed ^ 0x6f72_6967));
    let boot_cfg =
        b"bootstate=0\ntitle=Loading VMware ESXi\nbuild=6.7.0-8169922\nupdated=2\n".to_vec();
    maker.add(&[
        ("BOOT.CFG", &boot_cfg),
        ("A.V00", &content::gzip(shape.cluster / 2 + 30, 1)),
    ])?;
    if !archive.is_empty() {
        maker.add(&[("STATE.TGZ", &archive)])?;
    }
    let beside = furnishing.slots != Slots::OtherSector;
    if let Some(undo) = undo.as_ref().filter(|_| beside) {
        maker.add(&[("STATE.ORG", undo)])?;
    }
    maker.add(&[("B.V00", &content::gzip(shape.cluster + 1, 2))])?;
    maker.mtool("mmd", &["::/DIR"])?;
    maker.add_to("DIR", &[("INSIDE.TXT", b"inside")])?;
    if let Some(undo) = undo.as_ref().filter(|_| !beside) {
        // Its clusters come before what fills the volume, its entry behind what fills the sector.
        maker.fill_slots(furnishing.slots)?;
        maker.add(&[("STATE.ORG", undo)])?;
    }
    maker.arrange(furnishing.space)?;
    maker.fill_slots(furnishing.slots)?;
    let (mut medium, region) = maker.disk()?;
    if undo.is_some() {
        mark_as_ours(&mut medium, region, shape.sector, "STATE   ORG")?;
    }
    wear_out(&mut medium, region, shape.sector, furnishing.wear)?;
    Ok(Bank {
        medium: medium.flattened(),
        region,
        sector: shape.sector,
        worn: furnishing.wear != Wear::None,
        archive,
        undo,
        boot_cfg,
    })
}

/// Sets the mark by which the agent knows its undo copies: bits 0x44 of byte 12 of the entry.
///
/// # Errors
/// When there is no such file.
pub fn mark_as_ours(medium: &mut Medium, region: Region, sector: usize, name: &str) -> Result<()> {
    let census = Census::of(medium, region.start.0, sector)?;
    let slot = census.file(name).and_then(|file| file.root_slot);
    let slot = slot.with_context(|| format!("no {name}"))?;
    let at = census.layout.byte(census.layout.root_at) + (slot * 32 + 12) as u64;
    medium.patch(at, &[0x44])
}

/// Leaves what accidents leave.
fn wear_out(medium: &mut Medium, region: Region, sector: usize, wear: Wear) -> Result<()> {
    if wear == Wear::None {
        return Ok(());
    }
    let census = Census::of(medium, region.start.0, sector)?;
    let layout = &census.layout;
    let all: Vec<usize> = (0..layout.copies).collect();
    if wear.has(Wear::Dirty) {
        medium.patch(region.start.0 + 0x25, &[1])?;
        if layout.wide {
            // Bit 15 of the second entry: not cleanly unmounted.
            set_entries(medium, layout, &all, 1, 0x7fff)?;
        }
    }
    let end = if layout.wide { 0xffff } else { 0xfff };
    let free = &census.free;
    ensure!(free.len() > 40, "too few free clusters to leave some lost");
    if wear.has(Wear::Lost) {
        // A chain of two, and one alone among the first that are taken.
        let (one, two, three) = (free[free.len() - 9], free[free.len() - 8], free[1]);
        set_entries(medium, layout, &all, one, two)?;
        set_entries(medium, layout, &all, two, end)?;
        set_entries(medium, layout, &all, three, end)?;
    }
    if wear.has(Wear::Unequal) && layout.copies > 1 {
        let last = [layout.copies - 1];
        set_entries(medium, layout, &last, free[2], end)?;
        let other = census.file("B       V00").context("no B.V00")?;
        set_entries(medium, layout, &last, other.clusters[0], end)?;
        set_entries(medium, layout, &[0], free[free.len() - 5], end)?;
    }
    if wear.has(Wear::Broken) {
        let other = census.file("A       V00").context("no A.V00")?;
        set_entries(
            medium,
            layout,
            &all,
            other.clusters[0],
            free[free.len() - 3],
        )?;
    }
    Ok(())
}

/// Writes an entry of some of the tables.
fn set_entries(
    medium: &mut Medium,
    layout: &super::census::Layout,
    copies: &[usize],
    cluster: u32,
    value: u32,
) -> Result<()> {
    for copy in copies {
        let table = layout.tables_at + *copy as u64 * layout.table_sectors;
        let bits = layout.entry_bits(cluster);
        let shifted = if bits[0].1 == 0xf0 { value << 4 } else { value };
        for ((offset, mask), new) in bits.into_iter().zip(shifted.to_le_bytes()) {
            let at = layout.byte(table) + offset as u64;
            let old = medium.bytes(at, 1)?[0];
            medium.patch(at, &[old & !mask | new & mask])?;
        }
    }
    Ok(())
}

struct Maker {
    shape: Shape,
    folder: tempfile::TempDir,
    volume: PathBuf,
}

impl Maker {
    fn new(shape: Shape) -> Result<Self> {
        let folder = scratch::folder()?;
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
        Tool::new(tool)?
            .args(arguments)
            .env("MTOOLS_SKIP_CHECK", "1")
            .env("MTOOLSRC", "/dev/null")
            // The same plan makes the same volume, times included.
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .run()
            .map(|_| ())
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
        if used >= wanted {
            return Ok(());
        }
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
