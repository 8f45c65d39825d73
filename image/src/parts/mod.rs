//! The parts that ISO, USB image and netboot tree have in common, made once.

pub mod grub;
pub mod initramfs;
pub mod layout;
pub mod personal;
pub mod prepared;
#[cfg(test)]
pub mod sample;
pub mod store;

use crate::hash;
use crate::inputs::Loaders;
use crate::inputs::tools::Tools;
use crate::parts::grub::NetworkPart;
use crate::parts::layout::SETTINGS_BLOCK;

/// The content of the file that names the image: the digests of what nobody changes later, as sha256sum writes them.
#[must_use]
pub fn sums<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut lines: Vec<String> = files
        .into_iter()
        .filter(|(path, _)| !layout::is_changeable(path))
        .map(|(path, bytes)| format!("{}  {path}\n", hash::sha256(bytes)))
        .collect();
    lines.sort_by(|one, other| one[64..].cmp(&other[64..]));
    lines.concat()
}

/// What every artefact is put together from.
#[derive(Debug)]
pub struct Parts {
    /// The programs that put it together.
    pub tools: Tools,
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
    /// The block with the settings, see [`crate::parts::personal`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_follow_the_identity() {
        assert_eq!(sample::parts().fat_serial(), 0x1234_5678);
    }
}
