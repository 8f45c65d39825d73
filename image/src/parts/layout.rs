//! Names of the files of the artefacts, and which of them people may change.

/// The ISO.
pub const ISO: &str = "esxi-rescue.iso";
/// The USB image.
pub const USB: &str = "esxi-rescue.img";
/// The directory with the netboot tree.
pub const NETBOOT: &str = "netboot";

/// File of the settings block on media with a `/boot`, see [`crate::parts::personal`].
pub const SETTINGS_BLOCK: &str = "boot/grub/rescue.env";
/// The settings block in the netboot tree.
pub const NETBOOT_SETTINGS_BLOCK: &str = "grub/rescue.env";
/// The settings file on the USB image.
pub const SETTINGS_FILE: &str = "rescue.toml";
/// The script that iPXE reads.
pub const IPXE_SCRIPT: &str = "esxi-rescue.ipxe";
/// The example for dnsmasq.
pub const DNSMASQ: &str = "dnsmasq.conf";
/// What the image is, one line.
pub const INFO: &str = ".disk/info";
/// For people.
pub const README: &str = "README.txt";

/// Files that people and `customize` may change.
const CHANGEABLE: &[&str] = &[
    SETTINGS_BLOCK,
    SETTINGS_FILE,
    NETBOOT_SETTINGS_BLOCK,
    IPXE_SCRIPT,
    DNSMASQ,
    README,
];

/// Whether people and `customize` may change this file of an image.
#[must_use]
pub fn is_changeable(path: &str) -> bool {
    CHANGEABLE.contains(&path)
}
