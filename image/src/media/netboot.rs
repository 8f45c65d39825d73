//! The netboot tree: what a TFTP server hands out to UEFI firmware (Secure Boot included), to BIOS PXE ROMs and to
//! iPXE, with a menu, an example for dnsmasq, and the command line explained.
//!
//! GRUB for the network looks for `/grub/grub.cfg` on the server that it came from, so that the tree is the root of
//! the TFTP server. Not here: serving it.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::parts::grub::{self, NetworkPart};
use crate::parts::{self, Parts, layout};

/// The files of the tree, sorted by path.
pub fn make(parts: &Parts, temp: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let network = if parts.reports {
        NetworkPart::Always
    } else {
        NetworkPart::IfReporting
    };
    let mut files = vec![
        (layout::INFO, parts.info().into_bytes()),
        (
            layout::README,
            include_bytes!("netboot/README.txt").to_vec(),
        ),
        ("bios/grub.0", grub::bios_pxe_image(&parts.tools, temp)?),
        (
            layout::DNSMASQ,
            include_bytes!("netboot/dnsmasq.conf").to_vec(),
        ),
        (
            layout::IPXE_SCRIPT,
            ipxe_script(&parts.arguments).into_bytes(),
        ),
        ("grub/grub.cfg", grub::menu("", network).into_bytes()),
        (layout::NETBOOT_SETTINGS_BLOCK, parts.settings_block.clone()),
        ("grubx64.efi", parts.loaders.grub_net.clone()),
        ("initrd-net.img", parts.initrd_net.clone()),
        ("initrd.img", parts.initrd.clone()),
        ("mmx64.efi", parts.loaders.mok_manager.clone()),
        ("shimx64.efi", parts.loaders.shim.clone()),
        ("vmlinuz", parts.vmlinuz.clone()),
    ];
    let sums = parts::sums(files.iter().map(|(path, bytes)| (*path, bytes.as_slice())));
    let identity = grub::identity_file(&parts.identity);
    files.push((&identity, sums.into_bytes()));
    files.sort_by_key(|(path, _)| *path);
    Ok(files
        .into_iter()
        .map(|(path, bytes)| (path.to_owned(), bytes))
        .collect())
}

/// The iPXE script with these settings in it.
#[must_use]
pub fn ipxe_script(arguments: &[String]) -> String {
    include_str!("netboot/esxi-rescue.ipxe")
        .replace("@RESCUE_ARGS@", &arguments.join(" "))
        .replace("@BASE_ARGS@", grub::BASE_ARGS)
}

/// Writes the tree to a new directory.
pub fn write(files: &[(String, Vec<u8>)], dir: &Path) -> Result<()> {
    for (path, bytes) in files {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::sample;

    #[test]
    fn the_tree_holds_what_each_kind_of_client_asks_for() {
        let temp = tempfile::tempdir().unwrap();
        let files = make(&sample::parts(), temp.path()).unwrap();
        let find = |name: &str| &files.iter().find(|(path, _)| path == name).unwrap().1;
        assert_eq!(*find("grubx64.efi"), sample::parts().loaders.grub_net);
        assert!(find("bios/grub.0").len() > 50_000);
        let menu = String::from_utf8(find("grub/grub.cfg").clone()).unwrap();
        assert!(menu.contains("set files=\"\"") && menu.contains("set network=\"if_reporting\""));
    }

    #[test]
    fn the_script_for_ipxe_carries_the_settings() {
        let script = ipxe_script(&["rescue.wait=5".to_owned(), "quiet".to_owned()]);
        assert!(script.starts_with("#!ipxe\n") && !script.contains('@'));
        assert!(
            script.contains("\nset rescue_args rescue.wait=5 quiet\n"),
            "{script}"
        );
    }
}
