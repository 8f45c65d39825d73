//! Partition tables of ESXi boot disks, as the versions lay them out.
//!
//! Only positions and types; the contents are made by the parent module. Numbers are those of real
//! installations: esx-boot for 5.x and 6.x, measured disks for 7.x and later.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tools::Tool;

/// Size of the whole disk of a 4.x to 6.x fixture, in 512-byte sectors: 16 GiB, sparse.
const DISK_SECTORS_SMALL: u64 = 16 << 21;

/// Size of the whole disk of a 7.x or later fixture, in 512-byte sectors: 160 GiB, sparse.
const DISK_SECTORS_LARGE: u64 = 160 << 21;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// EFI system partition, with the loader of ESXi.
    Esp,
    /// Boot bank; the number counts from 0 in the order of the disk.
    Bank(usize),
    /// Core dump, raw.
    CoreDump,
    /// Locker ("store") volume.
    Locker,
    /// Scratch volume.
    Scratch,
    /// VMFS datastore.
    Vmfs,
    /// ESX-OSData (VMFS-L).
    OsData,
    /// vSAN's header.
    VsanHeader,
    /// The data of vSAN's objects ("Virsto").
    VsanData,
    /// VMware reserved.
    Reserved,
    /// MBR container of the logical partitions.
    Extended,
    /// A FAT volume that has nothing to do with ESXi.
    Foreign,
}

impl Role {
    /// GPT type GUID.
    pub fn guid(self) -> &'static str {
        match self {
            Self::Esp => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            Self::CoreDump => "9D275380-40AD-11DB-BF97-000C2911D1B8",
            Self::Vmfs => "AA31E02A-400F-11DB-9590-000C2911D1B8",
            Self::VsanHeader => "381CFCCC-7288-11E0-92EE-000C2911D0B2",
            Self::VsanData => "77719A0C-A4A0-11E3-A47E-000C29745A24",
            Self::Reserved => "9198EFFC-31C0-11DB-8F78-000C2911D1B8",
            Self::OsData => "4EB2EA39-7855-4790-A79E-FAE495E21F8D",
            Self::Bank(_) | Self::Locker | Self::Scratch | Self::Extended | Self::Foreign => {
                "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
            }
        }
    }

    /// MBR type, as sfdisk writes it (hex).
    pub fn mbr_type(self) -> &'static str {
        match self {
            Self::Esp => "4",
            Self::Bank(_) | Self::Locker | Self::Scratch | Self::Foreign => "6",
            Self::CoreDump => "fc",
            Self::Vmfs | Self::OsData | Self::VsanHeader | Self::VsanData | Self::Reserved => "fb",
            Self::Extended => "5",
        }
    }
}

/// A FAT volume's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fat {
    /// 12 or 16.
    pub bits: u8,
    /// Cluster size in sectors.
    pub sectors_per_cluster: u64,
    /// Number of FATs.
    pub copies: u8,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the table.
    pub number: u32,
    /// First logical sector.
    pub first: u64,
    /// Last logical sector, inclusive.
    pub last: u64,
    /// What it is for.
    pub role: Role,
    /// Its FAT volume, if it carries one.
    pub fat: Option<Fat>,
}

impl Partition {
    /// Its length in logical sectors.
    pub fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// GUID partition table.
    Gpt,
    /// Master boot record with one extended partition.
    Mbr,
}

/// A whole disk's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Kind of table.
    pub scheme: Scheme,
    /// Logical sector size in bytes: 512 or 4096.
    pub sector_bytes: u64,
    /// Length of the disk in logical sectors.
    pub sectors: u64,
    /// The partitions, in the order they are created in.
    pub partitions: Vec<Partition>,
}

const fn partition(number: u32, first: u64, last: u64, role: Role) -> Partition {
    Partition {
        number,
        first,
        last,
        role,
        fat: None,
    }
}

const fn volume(
    number: u32,
    first: u64,
    last: u64,
    role: Role,
    sectors_per_cluster: u64,
) -> Partition {
    let fat = Some(Fat {
        bits: 16,
        sectors_per_cluster,
        copies: 2,
    });
    Partition {
        number,
        first,
        last,
        role,
        fat,
    }
}

impl Layout {
    /// 5.x and 6.x on GPT, a disk large enough for everything.
    pub fn gpt_5_and_6() -> Self {
        Self {
            scheme: Scheme::Gpt,
            sector_bytes: 512,
            sectors: DISK_SECTORS_SMALL,
            partitions: vec![
                volume(1, 64, 8191, Role::Esp, 1),
                volume(5, 8224, 520_191, Role::Bank(0), 8),
                volume(6, 520_224, 1_032_191, Role::Bank(1), 8),
                partition(7, 1_032_224, 1_257_471, Role::CoreDump),
                volume(8, 1_257_504, 1_843_199, Role::Locker, 16),
                partition(9, 1_843_200, 7_086_079, Role::CoreDump),
                volume(2, 7_086_080, 15_472_639, Role::Scratch, 128),
                partition(3, 15_472_640, DISK_SECTORS_SMALL - 64, Role::Vmfs),
            ],
        }
    }

    /// 7.x and later on a large disk: banks of 4095 MiB with clusters of 64 KiB.
    pub fn gpt_7_large() -> Self {
        Self {
            scheme: Scheme::Gpt,
            sector_bytes: 512,
            sectors: DISK_SECTORS_LARGE,
            partitions: vec![
                volume(1, 64, 204_863, Role::Esp, 4),
                volume(5, 208_896, 8_595_455, Role::Bank(0), 128),
                volume(6, 8_597_504, 16_984_063, Role::Bank(1), 128),
                partition(7, 16_986_112, 268_435_455, Role::OsData),
                partition(8, 268_437_504, DISK_SECTORS_LARGE - 64, Role::Vmfs),
            ],
        }
    }

    /// 7.x and later on a medium of 10 to 32 GB: banks of 1 GiB.
    pub fn gpt_7_medium() -> Self {
        Self {
            scheme: Scheme::Gpt,
            sector_bytes: 512,
            sectors: DISK_SECTORS_SMALL,
            partitions: vec![
                volume(1, 64, 204_863, Role::Esp, 4),
                volume(5, 208_896, 2_306_047, Role::Bank(0), 128),
                volume(6, 2_308_096, 4_405_247, Role::Bank(1), 128),
                partition(7, 4_407_296, DISK_SECTORS_SMALL - 64, Role::OsData),
            ],
        }
    }

    /// 7.x and later on a native 4096-byte-sector disk: sizes in bytes as on the medium disk.
    pub fn gpt_7_4kn() -> Self {
        Self {
            scheme: Scheme::Gpt,
            sector_bytes: 4096,
            sectors: DISK_SECTORS_SMALL / 8,
            partitions: vec![
                // fdisk lets no partition begin before the first mebibyte.
                volume(1, 256, 25_855, Role::Esp, 1),
                volume(5, 26_112, 288_255, Role::Bank(0), 16),
                volume(6, 288_512, 550_655, Role::Bank(1), 16),
                partition(7, 550_912, DISK_SECTORS_SMALL / 8 - 64, Role::OsData),
            ],
        }
    }

    /// 4.x embedded or installable: MBR, banks of 48 MB as logical partitions.
    pub fn mbr_4() -> Self {
        Self {
            scheme: Scheme::Mbr,
            sector_bytes: 512,
            sectors: DISK_SECTORS_SMALL,
            partitions: vec![
                partition(1, 8192, 1_843_199, Role::Extended),
                volume(2, 1_843_200, 10_229_759, Role::Scratch, 128),
                partition(3, 10_229_760, DISK_SECTORS_SMALL - 64, Role::Vmfs),
                volume(4, 32, 8191, Role::Esp, 1),
                volume(5, 8224, 106_495, Role::Bank(0), 4),
                volume(6, 106_528, 204_799, Role::Bank(1), 4),
                partition(7, 204_832, 430_079, Role::CoreDump),
                volume(8, 430_112, 1_015_807, Role::Locker, 16),
            ],
        }
    }

    /// 5.0 and later installed with `formatwithmbr`, or on a small stick: MBR, banks of 250 MB.
    pub fn mbr_5() -> Self {
        Self {
            scheme: Scheme::Mbr,
            sector_bytes: 512,
            sectors: DISK_SECTORS_SMALL,
            partitions: vec![
                partition(1, 8192, 1_843_199, Role::Extended),
                volume(2, 1_843_200, 10_229_759, Role::Scratch, 128),
                partition(3, 10_229_760, DISK_SECTORS_SMALL - 64, Role::Vmfs),
                volume(4, 32, 8191, Role::Esp, 1),
                volume(5, 8224, 520_191, Role::Bank(0), 8),
                volume(6, 520_224, 1_032_191, Role::Bank(1), 8),
                partition(7, 1_032_224, 1_257_471, Role::CoreDump),
                volume(8, 1_257_504, 1_843_199, Role::Locker, 16),
            ],
        }
    }

    /// A disk of some other system: an ESP and one FAT volume, no trace of ESXi.
    pub fn foreign() -> Self {
        Self {
            scheme: Scheme::Gpt,
            sector_bytes: 512,
            sectors: 1 << 21,
            partitions: vec![
                volume(1, 2048, 206_847, Role::Esp, 4),
                volume(2, 206_848, 718_847, Role::Foreign, 8),
            ],
        }
    }

    /// Byte range of a partition on the disk.
    pub fn bytes(&self, partition: &Partition) -> Range<u64> {
        partition.first * self.sector_bytes..(partition.last + 1) * self.sector_bytes
    }

    /// The banks' partitions, in order.
    pub fn banks(&self) -> Vec<Partition> {
        let bank = |partition: &&Partition| matches!(partition.role, Role::Bank(_));
        self.partitions.iter().filter(bank).copied().collect()
    }

    /// The partition of a bank.
    ///
    /// # Errors
    /// When the disk has no such bank.
    pub fn bank_mut(&mut self, index: usize) -> Result<&mut Partition> {
        self.partitions
            .iter_mut()
            .find(|partition| partition.role == Role::Bank(index))
            .with_context(|| format!("this layout has no bank {index}"))
    }

    /// Writes the partition table into an image of the right length.
    pub(super) fn write(&self, image: &Path) -> Result<()> {
        match (self.scheme, self.sector_bytes) {
            (_, 512) => self.write_by_sfdisk(image),
            (_, _) => self.write_by_fdisk(image),
        }
    }

    /// sfdisk takes every image for a disk of 512-byte sectors; fdisk can be told otherwise.
    fn write_by_fdisk(&self, image: &Path) -> Result<()> {
        let mut keys = String::from("g\n");
        for (
            index,
            Partition {
                number,
                first,
                last,
                role,
                ..
            },
        ) in self.partitions.iter().enumerate()
        {
            write!(keys, "n\n{number}\n{first}\n{last}\n")?;
            // With one partition fdisk does not ask which one is meant.
            let which = if index == 0 {
                String::new()
            } else {
                format!("{number}\n")
            };
            write!(keys, "t\n{which}{}\n", role.guid())?;
        }
        keys.push_str("w\n");
        Tool::new("fdisk")?
            .args([
                "--sector-size",
                &self.sector_bytes.to_string(),
                "--wipe-partitions=never",
            ])
            .arg(image)
            .input(keys)
            .run()
            .context("writing the GPT")?;
        Ok(())
    }

    /// sfdisk rather than sgdisk, which sleeps for a second at its end; sgdisk reads the result.
    fn write_by_sfdisk(&self, image: &Path) -> Result<()> {
        let mut script = String::from(match self.scheme {
            Scheme::Gpt => "label: gpt\nfirst-lba: 34\nunit: sectors\n",
            Scheme::Mbr => "label: dos\nlabel-id: 0x5e5c1ba2\nunit: sectors\n",
        });
        for partition in &self.partitions {
            let Partition {
                number,
                first,
                role,
                ..
            } = partition;
            let (sectors, kind) = (partition.sectors(), self.kind(*role));
            let active = self.scheme == Scheme::Mbr && *role == Role::Esp;
            let flag = if active { ", bootable" } else { "" };
            writeln!(
                script,
                "disk{number} : start={first}, size={sectors}, type={kind}{flag}"
            )?;
        }
        Tool::new("sfdisk")?
            .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never"])
            .arg(image)
            .input(script)
            .run()
            .context("writing the partition table")?;
        Ok(())
    }

    /// How this layout's table names a partition's type.
    fn kind(&self, role: Role) -> &'static str {
        match self.scheme {
            Scheme::Gpt => role.guid(),
            Scheme::Mbr => role.mbr_type(),
        }
    }
}
