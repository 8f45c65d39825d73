//! Recognises what is no disk by its first bytes, so that a person hears what it is and what makes a disk
//! of it.
//!
//! Sources of the signatures: QEMU `docs/interop/qcow2.rst`; VMware "Virtual Disk Format 5.0" (sparse
//! `KDMV`, `COWD` of ESX, and the text of a descriptor); Microsoft "Virtual Hard Disk Image Format
//! Specification" and [MS-VHDX] 2.2.1; VirtualBox `VDICore.h`; RFC 1952, the xz file format 1.1.0,
//! RFC 8878, PKWARE's APPNOTE, POSIX.1 "pax"; vmfs-tools `vmfs_volume.h`.

use std::fs;
use std::path::Path;

use crate::disk::origin;
use crate::disk::partition::{Partition, PartitionKind};
use crate::disk::{BlockDevice, ByteOffset};
use crate::inventory::{NoDisk, Packing};
use crate::loader::LoaderView;

/// Bytes that are looked at. A description of a virtual disk is shorter.
const HEAD_BYTES: usize = 16 << 10;
/// Where a VMFS partition has its signature, and what it is.
const VMFS_AT: ByteOffset = ByteOffset(1 << 20);
const VMFS_SIGNATURE: [u8; 4] = [0x0d, 0xd0, 0x01, 0xc0];

/// Signatures and their places.
const SIGNATURES: [(usize, &[u8], NoDisk); 14] = [
    (0, b"QFI\xfb", NoDisk::VirtualDisk("qcow2")),
    (0, b"KDMV", NoDisk::VirtualDisk("vmdk")),
    (0, b"COWD", NoDisk::VirtualDisk("vmdk")),
    (0, b"conectix", NoDisk::VirtualDisk("vpc")),
    (0, b"vhdxfile", NoDisk::VirtualDisk("vhdx")),
    (64, b"\x7f\x10\xda\xbe", NoDisk::VirtualDisk("vdi")),
    (0, b"\x1f\x8b\x08", NoDisk::Packed(Packing::Gzip)),
    (0, b"\xfd7zXZ\0", NoDisk::Packed(Packing::Xz)),
    (0, b"\x28\xb5\x2f\xfd", NoDisk::Packed(Packing::Zstd)),
    (0, b"BZh", NoDisk::Packed(Packing::Bzip2)),
    (0, b"PK\x03\x04", NoDisk::Packed(Packing::Zip)),
    (257, b"ustar", NoDisk::Packed(Packing::Tar)),
    (0, b"# Disk DescriptorFile", NoDisk::VirtualDisk("vmdk")),
    (0, b"# Disk Descriptorfile", NoDisk::VirtualDisk("vmdk")),
];

/// What a file or device without a partition table is, if it is known.
pub(super) fn recognise(device: &dyn BlockDevice, path: &Path) -> Option<NoDisk> {
    let length = usize::try_from(device.size()).map_or(HEAD_BYTES, |size| size.min(HEAD_BYTES));
    let mut head = vec![0; length];
    device.read_at(ByteOffset(0), &mut head).ok()?;
    let is_there = |(at, bytes, _): &&(usize, &[u8], NoDisk)| {
        head.get(*at..).is_some_and(|rest| rest.starts_with(bytes))
    };
    let found = SIGNATURES
        .iter()
        .find(is_there)
        .map(|(_, _, what)| what.clone());
    match found {
        Some(NoDisk::VirtualDisk("vmdk")) => Some(vmdk(&head, path)),
        Some(other) => Some(other),
        None if is_vmfs(device) => Some(NoDisk::LoneVmfs),
        None => is_lone_bank(device).then_some(NoDisk::LoneBank),
    }
}

/// Whether the volume of a boot bank begins where a disk has its partition table.
pub(super) fn is_lone_bank(device: &dyn BlockDevice) -> bool {
    let whole = Partition {
        number: 1,
        start: ByteOffset(0),
        length: device.size(),
        kind: PartitionKind::BasicData,
        guid: None,
        name: String::new(),
        problem: None,
    };
    super::bank_in(device, &whole, &LoaderView::default()).is_ok()
}

/// The partition of a disk that the block device at `path` is, if it is one.
///
/// Source: the Linux kernel's `Documentation/ABI/stable/sysfs-block`.
pub(super) fn partition(root: &Path, path: &Path) -> Option<NoDisk> {
    partition_in(&fs::canonicalize(origin::sysfs_folder_of(root, path)?).ok()?)
}

fn partition_in(folder: &Path) -> Option<NoDisk> {
    let number = fs::read_to_string(folder.join("partition")).ok()?;
    let disk = folder.parent()?.file_name()?;
    Some(NoDisk::Partition {
        number: number.trim().parse().ok()?,
        disk: Path::new("/dev").join(disk),
    })
}

fn is_vmfs(device: &dyn BlockDevice) -> bool {
    let mut signature = [0; VMFS_SIGNATURE.len()];
    let read = device.read_at(VMFS_AT, &mut signature);
    read.is_ok() && signature == VMFS_SIGNATURE
}

/// A description whose one extent is a file with the disk's bytes names that; anything else is converted.
fn vmdk(head: &[u8], path: &Path) -> NoDisk {
    let text = String::from_utf8_lossy(head);
    let extents: Vec<(&str, &str)> = text.lines().filter_map(extent).collect();
    match extents.as_slice() {
        [("FLAT" | "VMFS", file)] => NoDisk::VmdkText(path.with_file_name(file)),
        _ => NoDisk::VirtualDisk("vmdk"),
    }
}

/// Kind and file of a line `RW 4192256 VMFS "x-flat.vmdk" 0`.
fn extent(line: &str) -> Option<(&str, &str)> {
    let mut words = line.splitn(4, ' ');
    let access = words.next()?;
    let (_sectors, kind, rest) = (words.next()?, words.next()?, words.next()?);
    let file = rest.split('"').nth(1)?;
    matches!(access, "RW" | "RDONLY" | "NOACCESS").then_some((kind, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_of_a_description_are_read_as_vmware_writes_them() {
        let one = "# Disk DescriptorFile\nRW 4192256 VMFS \"esxi-flat.vmdk\"\n";
        let file = Path::new("/vm/esxi-flat.vmdk").to_owned();
        assert_eq!(
            vmdk(one.as_bytes(), Path::new("/vm/esxi.vmdk")),
            NoDisk::VmdkText(file)
        );
        for other in [
            "RW 4192256 VMFSSPARSE \"a.vmdk\"",
            "RW 1 FLAT \"a.vmdk\" 0\nRW 1 FLAT \"b.vmdk\" 0",
            "RW 1 FLAT",
            "",
        ] {
            let found = vmdk(other.as_bytes(), Path::new("/vm/esxi.vmdk"));
            assert_eq!(found, NoDisk::VirtualDisk("vmdk"), "{other}");
        }
    }

    #[test]
    fn a_partition_is_known_by_its_folder_in_sysfs() -> std::io::Result<()> {
        let root = tempfile::tempdir()?;
        let part = root.path().join("sys/devices/pci0000:00/block/sda/sda5");
        fs::create_dir_all(&part)?;
        fs::write(part.join("partition"), "5\n")?;
        let expected = NoDisk::Partition {
            number: 5,
            disk: "/dev/sda".into(),
        };
        assert_eq!(partition_in(&part), Some(expected));
        assert_eq!(partition_in(part.parent().unwrap()), None);
        assert_eq!(partition(Path::new("/"), Path::new("/etc/passwd")), None);
        Ok(())
    }
}
