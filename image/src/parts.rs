//! The parts that ISO, USB image and netboot tree have in common, made once.

use crate::error::{Error, Result};
use crate::fat;
use crate::grub::{self, NetworkPart};
use crate::hash;
use std::io;
use std::path::Path;

/// File of the settings block on media with a `/boot`, see [`crate::personal`].
pub const SETTINGS_BLOCK: &str = "boot/grub/rescue.env";
/// What the image is, one line.
pub const INFO: &str = ".disk/info";
/// Files that people and `customize` may change.
const CHANGEABLE: &[&str] = &[
    SETTINGS_BLOCK,
    crate::usb::SETTINGS_FILE,
    crate::netboot::SETTINGS_BLOCK,
    crate::netboot::IPXE_SCRIPT,
    crate::netboot::DNSMASQ,
    README,
];
/// Whether people and `customize` may change this file of an image.
#[must_use]
pub fn is_changeable(path: &str) -> bool {
    CHANGEABLE.contains(&path)
}

/// For people.
pub const README: &str = "README.txt";

/// The content of the file that names the image: the digests of what nobody changes later, as sha256sum writes them.
#[must_use]
pub fn sums<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut lines: Vec<String> = files
        .into_iter()
        .filter(|(path, _)| !is_changeable(path))
        .map(|(path, bytes)| format!("{}  {path}\n", hash::sha256(bytes)))
        .collect();
    lines.sort_by(|one, other| one[64..].cmp(&other[64..]));
    lines.concat()
}

/// The programs that firmware starts, all signed.
#[derive(Debug, Clone)]
pub struct Loaders {
    /// shim, signed by Microsoft.
    pub shim: Vec<u8>,
    /// shim's key manager, signed by Debian.
    pub mok_manager: Vec<u8>,
    /// GRUB for removable media, signed by Debian.
    pub grub: Vec<u8>,
    /// GRUB for the network, signed by Debian.
    pub grub_net: Vec<u8>,
}

/// What every artefact is put together from.
#[derive(Debug)]
pub struct Parts {
    /// Identity of the image.
    pub identity: String,
    /// What the image is, one line.
    pub release: String,
    /// The signed kernel.
    pub vmlinuz: Vec<u8>,
    /// PID 1 and the drivers of disks and keyboards.
    pub initrd: Vec<u8>,
    /// The network drivers.
    pub initrd_net: Vec<u8>,
    /// What firmware starts.
    pub loaders: Loaders,
    /// The block with the settings, see [`crate::personal`].
    pub settings_block: Vec<u8>,
    /// Words for the kernel command line that the block holds.
    pub arguments: Vec<String>,
    /// Whether settings that are built in ask for a report to be sent.
    pub reports: bool,
    /// How many drivers there are, and how many of them for the network beside these.
    pub driver_counts: (usize, usize),
    /// Time of everything, seconds since 1970.
    pub epoch: u64,
}

impl Parts {
    /// What `.disk/info` says, one line.
    #[must_use]
    pub fn info(&self) -> String {
        format!(
            "{} drivers {} network-drivers {}\n",
            self.release, self.driver_counts.0, self.driver_counts.1
        )
    }

    /// The files of a medium with a `/boot`, with this menu.
    #[must_use]
    pub fn medium_files<'a>(
        &'a self,
        menu: &'a str,
        network: NetworkPart,
    ) -> Vec<(String, &'a [u8])> {
        let mut files: Vec<(String, &[u8])> = vec![
            ("boot/vmlinuz".to_owned(), &self.vmlinuz),
            ("boot/initrd.img".to_owned(), &self.initrd),
            ("boot/grub/grub.cfg".to_owned(), menu.as_bytes()),
            (SETTINGS_BLOCK.to_owned(), &self.settings_block),
        ];
        if network != NetworkPart::Absent {
            files.push(("boot/initrd-net.img".to_owned(), &self.initrd_net));
        }
        files
    }

    /// The programs where firmware looks for them on removable media.
    #[must_use]
    pub fn loader_files(&self) -> [(String, &[u8]); 3] {
        [
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), &self.loaders.shim),
            ("EFI/BOOT/grubx64.efi".to_owned(), &self.loaders.grub),
            ("EFI/BOOT/mmx64.efi".to_owned(), &self.loaders.mok_manager),
        ]
    }

    /// A FAT serial number that differs from image to image and not from build to build.
    #[must_use]
    pub fn fat_serial(&self) -> u32 {
        self.identity
            .get(..8)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .unwrap_or_default()
    }
}

/// Room for FATs, directories and the ends of files in a FAT16 volume, in bytes.
const SPARE_BYTES: usize = 160 * 1024;
/// Smallest FAT16 volume, in bytes.
const MIN_BYTES: usize = 4200 * 1024;

/// The EFI system partition of the ISO: the loaders, and GRUB's first configuration.
pub fn iso_esp(parts: &Parts) -> Result<Vec<u8>> {
    let finder = grub::finder(&parts.identity);
    let mut files = parts.loader_files().to_vec();
    files.push(("boot/grub/grub.cfg".to_owned(), finder.as_bytes()));
    let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let size = (content + SPARE_BYTES)
        .max(MIN_BYTES)
        .next_multiple_of(64 * 1024);
    let make = || {
        let frame = fat::Frame {
            kind: fat::Kind::Fat16,
            sectors: u32::try_from(size / 512).map_err(io::Error::other)?,
            hidden_sectors: 0,
            serial: parts.fat_serial(),
        };
        fat::volume(frame, &files, &[])
    };
    make().map_err(Error::io("make", Path::new("the EFI system partition")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::initramfs;
    use crate::personal::Personal;

    /// Parts of a small image, for tests.
    pub(crate) fn small() -> Parts {
        let personal = Personal {
            release: "esxi-rescue test".to_owned(),
            arguments: Vec::new(),
        };
        Parts {
            identity: "12345678abcdef00".to_owned(),
            release: "esxi-rescue 0 kernel test".to_owned(),
            vmlinuz: vec![9; 50_000],
            initrd: vec![8; 60_000],
            initrd_net: vec![7; 70_000],
            loaders: Loaders {
                shim: vec![1; 30_000],
                mok_manager: vec![2; 20_000],
                grub: vec![3; 40_000],
                grub_net: vec![4; 40_000],
            },
            settings_block: personal.to_block().unwrap(),
            arguments: Vec::new(),
            reports: false,
            driver_counts: (3, 2),
            epoch: 1_700_000_000,
        }
    }

    /// The same with an initramfs that can be unpacked, so that a finished image of them can be opened.
    pub(crate) fn openable() -> Parts {
        let base = initramfs::Base {
            agent: &[0x7f; 1000],
            driver_table: b"{}",
            dictionary: b"",
            names: b"10de  NVIDIA\n",
            release: "esxi-rescue test\n",
            identity: "12345678abcdef00\n",
            settings: None,
            shell: None,
        };
        Parts {
            initrd: initramfs::base_part(&base, 1).unwrap(),
            ..small()
        }
    }

    #[test]
    fn serials_follow_the_identity() {
        assert_eq!(small().fat_serial(), 0x1234_5678);
    }

    #[test]
    fn the_esp_of_the_iso_grows_with_the_loaders() {
        let mut parts = small();
        assert_eq!(
            iso_esp(&parts).unwrap().len(),
            MIN_BYTES.next_multiple_of(64 * 1024)
        );
        parts.loaders.grub = vec![3; 6_000_000];
        let esp = iso_esp(&parts).unwrap();
        let grub = fat::read_file(&esp, "EFI/BOOT/grubx64.efi")
            .unwrap()
            .unwrap();
        assert_eq!(grub, parts.loaders.grub);
    }
}
