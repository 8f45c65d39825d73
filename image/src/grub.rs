//! GRUB: its BIOS core image, its menu, and the few lines by which it finds the medium it came from.
//!
//! The medium is known by a file named after the image's own identity, never by a label or by `/.disk/info` alone,
//! which other media have too.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::tool;

/// Where Debian's grub-pc-bin keeps the BIOS modules.
pub const BIOS_DIR: &str = "/usr/lib/grub/i386-pc";

/// Kernel arguments of every menu entry. After a panic the machine starts again by itself, so that a
/// remote one is not lost. The kernel's serial driver can be the console on one port only; the agent itself
/// serves the others.
pub const BASE_ARGS: &str = "console=tty0 console=ttyS0,115200 loglevel=4 panic=30";

/// Modules of the BIOS core image: all that the menu uses, so that no module directory is needed.
const BIOS_MODULES: &[&str] = &[
    "biosdisk",
    "boot",
    "cat",
    "chain",
    "configfile",
    "echo",
    "fat",
    "halt",
    "iso9660",
    "linux",
    "loadenv",
    "ls",
    "minicmd",
    "normal",
    "part_gpt",
    "part_msdos",
    "reboot",
    "regexp",
    "search",
    "search_fs_file",
    "serial",
    "sleep",
    "smbios",
    "terminal",
    "test",
    "true",
];

/// The file on the medium that names the image.
#[must_use]
pub fn identity_file(identity: &str) -> String {
    format!(".disk/esxi-rescue-{identity}")
}

/// The configuration inside the loaders' own partition: find the medium, then its menu. GRUB tries the disk it came
/// from first, in case two media with the same image are plugged in.
#[must_use]
pub fn finder(identity: &str) -> String {
    let file = identity_file(identity);
    format!(
        "regexp --set=1:own '^([^,]*)' \"$root\"\nsearch --no-floppy --hint \"$own\" --file --set=root /{file}\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"
    )
}

/// The menu.
#[must_use]
pub fn menu() -> String {
    include_str!("menu.cfg").replace("@BASE_ARGS@", BASE_ARGS)
}

/// The El Torito boot image for BIOS: GRUB's CD loader followed by a core image.
pub fn bios_cd_image(identity: &str, temp: &Path) -> Result<Vec<u8>> {
    let early = temp.join("early.cfg");
    let core = temp.join("core.img");
    let script = format!(
        "search --no-floppy --hint $root --file --set=root /{}\nset prefix=($root)/boot/grub\n",
        identity_file(identity)
    );
    fs::write(&early, script).map_err(Error::io("write", &early))?;
    let mut command = Command::new("grub-mkimage");
    command
        .args(["--format", "i386-pc", "--prefix", "/boot/grub", "--config"])
        .arg(&early)
        .arg("--output")
        .arg(&core)
        .args(["--directory", BIOS_DIR])
        .args(BIOS_MODULES);
    tool::run(&mut command, "grub-common and grub-pc-bin")?;
    let loader = Path::new(BIOS_DIR).join("cdboot.img");
    let mut image = fs::read(&loader).map_err(|_| Error::ToolMissing {
        tool: loader.display().to_string(),
        package: "grub-pc-bin",
    })?;
    image.extend(fs::read(&core).map_err(Error::io("read", &core))?);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_has_its_four_entries_and_no_gaps() {
        let menu = menu();
        assert_eq!(menu.matches("\nmenuentry ").count(), 4);
        assert!(menu.contains("console=ttyS0,115200") && !menu.contains('@'));
    }

    #[test]
    fn the_finder_asks_for_this_very_image() {
        assert!(finder("abc").contains("/.disk/esxi-rescue-abc\n"));
    }
}
