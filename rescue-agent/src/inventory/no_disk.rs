//! What was named and is no disk: a disk image of another format, one that is packed, or a part of a disk.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Sectors of the images that tools make.
const SECTOR_BYTES: u64 = 512;
/// Sectors before and behind a bank that gets a partition table of its own: a mebibyte, as tools leave.
const BORDER_SECTORS: u64 = 2048;

/// Something that is no disk, and that a disk can be made of, or found by.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoDisk {
    /// A file with the disk of a virtual machine, in a format of its own. The name is qemu-img's.
    #[error("it is a virtual disk in the format {0}, not a raw disk image")]
    VirtualDisk(&'static str),
    /// The text that belongs to a virtual disk, whose bytes are in a file beside it.
    #[error("it is the descriptor of a virtual disk, whose data is in {}", .0.display())]
    VmdkText(PathBuf),
    /// A packed file.
    #[error("it is a file packed by {}, which may hold a disk image", .0.name())]
    Packed(Packing),
    /// A boot bank alone.
    #[error("it is a single boot bank, not a whole disk, so it is not known which bank boots next")]
    LoneBank,
    /// A datastore alone.
    #[error("it is a single VMFS datastore, not a whole disk")]
    LoneVmfs,
    /// A partition of a disk of this machine.
    #[error("it is partition {number} of {}, not a whole disk", .disk.display())]
    Partition {
        /// Its number.
        number: u32,
        /// The disk.
        disk: PathBuf,
    },
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip
    Gzip,
    /// xz
    Xz,
    /// zstd
    Zstd,
    /// bzip2
    Bzip2,
    /// zip
    Zip,
    /// tar, also an OVA
    Tar,
}

impl Packing {
    /// The program that makes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Zip => "zip",
            Self::Tar => "tar",
        }
    }

    /// How the names of such files end.
    fn ending(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Xz => "xz",
            Self::Zstd => "zst",
            Self::Bzip2 => "bz2",
            Self::Zip => "zip",
            Self::Tar => "tar",
        }
    }
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// In words.
    pub advice: String,
    /// A command for a shell that makes something usable of it.
    pub command: Option<String>,
}

impl NoDisk {
    /// What to do, for the file or device at `path` of that many bytes.
    pub fn remedy(&self, path: &Path, bytes: u64) -> Remedy {
        let it = quoted(path);
        let raw = quoted(&beside(path, "raw"));
        let (advice, command) = match self {
            Self::VirtualDisk(format) => (
                format!(
                    "Convert it, and name {raw} instead (to convert that back: qemu-img convert -f raw -O {format})"
                ),
                Some(format!("qemu-img convert -f {format} -O raw {it} {raw}")),
            ),
            Self::VmdkText(file) => (
                "Name the data file instead".into(),
                Some(format!("rescue-agent inspect {}", quoted(file))),
            ),
            Self::Packed(packing) => packing.remedy(path),
            Self::LoneBank => (
                format!(
                    "Name the whole disk, or an image of all of it. If this is all there is: put a partition table around it, name {raw} instead, and copy the bank out of it afterwards (dd if={raw} of={it} skip={BORDER_SECTORS} count={} conv=notrunc)",
                    bytes / SECTOR_BYTES
                ),
                Some(format!(
                    "(head -c 1M /dev/zero; cat {it}; head -c 1M /dev/zero) > {raw} && echo 'start={BORDER_SECTORS}, size={}, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7' | sfdisk --quiet --label gpt {raw}",
                    bytes / SECTOR_BYTES
                )),
            ),
            Self::LoneVmfs => (
                "Name the whole disk, or an image of all of it: the boot banks are in other partitions"
                    .into(),
                None,
            ),
            Self::Partition { disk, .. } => (
                "Name the whole disk instead".into(),
                Some(format!("rescue-agent inspect {}", quoted(disk))),
            ),
        };
        Remedy { advice, command }
    }
}

impl Packing {
    fn remedy(self, path: &Path) -> (String, Option<String>) {
        let it = quoted(path);
        let has_its_ending = path.extension().is_some_and(|end| end == self.ending());
        let unpacked = match has_its_ending {
            true => path.with_extension(""),
            false => beside(path, "raw"),
        };
        let unpacked = quoted(&unpacked);
        match self {
            Self::Zip => (
                "Unpack it, and name the disk image from it instead".into(),
                Some(format!("unzip {it}")),
            ),
            Self::Tar => (
                "Unpack it, and name the disk image from it instead".into(),
                Some(format!("tar -xf {it}")),
            ),
            _ => (
                format!("Unpack it, and name {unpacked} instead"),
                Some(format!("{} -dc {it} > {unpacked}", self.name())),
            ),
        }
    }
}

/// The name of a new file beside another one.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    shlex::try_quote(&text).map_or_else(|_| format!("{text:?}"), |quoted| quoted.into_owned())
}
