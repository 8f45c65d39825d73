//! The initramfs, in three parts: the devices and tables; PID 1, which is the agent; and the kernel modules. The first
//! two are compressed as a whole. The agent has its own part so that it can be packed before the others are known. Each
//! module is compressed on its own, so that PID 1 decompresses only the few that a machine needs.
//!
//! All parts are "newc" cpio archives; the kernel unpacks any number of them in a row, each compressed or not,
//! aligned to 4 bytes (Linux Documentation/driver-api/early-userspace/buffer-format.rst). Everything is
//! byte-reproducible: fixed order, owners and times, inode numbers counted from 1.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cpio::newc;
use rescue_agent::files;
use zstd::zstd_safe::{self, CParameter};

use crate::error::{Error, Result};
use crate::inputs::drivers::{Selection, on_all, read_module_bytes};
use crate::parts::store::{Store, ZSTD_LEVEL};

/// No compressed part comes near this when unpacked, in bytes; it bounds memory against a damaged one.
const MAX_PART_BYTES: u64 = 256 << 20;

/// How far the second half of an archive looks back into the first: half of the window. Measured with the agent: 0.7 KiB
/// larger than in one thread, in half of the time; with a quarter of the window it is 8 KiB.
const OVERLAP_LOG: u32 = 8;

/// A kernel's configuration is a tenth of this.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// Directories of the base part, parents first.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("lib", 0o755),
    ("lib/firmware", 0o755),
    ("lib/rescue", 0o755),
    ("lib/rescue/modules", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];

/// Device nodes that PID 1 needs before it mounts devtmpfs: name, permissions, major, minor.
const NODES: &[(&str, u32, u32, u32)] = &[
    ("dev/console", 0o600, 5, 1),
    ("dev/kmsg", 0o600, 1, 11),
    ("dev/null", 0o666, 1, 3),
];

/// What goes into the base part beside directories and nodes.
#[derive(Debug)]
pub struct Base<'a> {
    /// The driver table as JSON.
    pub driver_table: &'a [u8],
    /// What the modules were compressed with; empty if nothing.
    pub dictionary: &'a [u8],
    /// Names of PCI devices, in the format of `pci.ids`.
    pub names: &'a [u8],
    /// One line that says what this is.
    pub release: &'a str,
    /// One line that names this very image.
    pub identity: &'a str,
    /// Settings to build in, if any.
    pub settings: Option<&'a [u8]>,
    /// busybox, a static program, if a shell is wanted.
    pub shell: Option<&'a [u8]>,
}

/// A cpio archive under construction.
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    mtime: u32,
}

impl Archive {
    fn new(mtime: u32) -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
            mtime,
        }
    }

    fn entry(&mut self, name: &str, mode: u32) -> newc::Builder {
        self.inode += 1;
        let links = if mode & DIRECTORY != 0 && mode & REGULAR == 0 {
            2
        } else {
            1
        };
        newc::Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .uid(0)
            .gid(0)
            .nlink(links)
            .mtime(self.mtime)
    }

    fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.entry(name, DIRECTORY | permissions)
            .write(&mut self.bytes, 0)
            .finish()
            .map(|_| ())
    }

    fn node(&mut self, name: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        let entry = self
            .entry(name, CHARACTER_DEVICE | permissions)
            .rdev_major(major)
            .rdev_minor(minor);
        entry.write(&mut self.bytes, 0).finish().map(|_| ())
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| {
            io::Error::other(format!(
                "{name} is too large for a cpio archive: {} bytes",
                content.len()
            ))
        })?;
        let mut writer = self
            .entry(name, REGULAR | permissions)
            .write(&mut self.bytes, size);
        writer.write_all(content)?;
        writer.finish().map(|_| ())
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        newc::trailer(&mut self.bytes)?;
        align(&mut self.bytes);
        Ok(self.bytes)
    }
}

/// The kernel looks for the next part at a multiple of 4 bytes and skips zeros.
fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The compressed base part.
pub fn base_part(base: &Base<'_>, mtime: u32) -> Result<Vec<u8>> {
    compressed(base_archive(base, mtime))
}

/// The compressed part with the agent, a static program.
pub fn agent_part(agent: &[u8], mtime: u32) -> Result<Vec<u8>> {
    compressed(agent_archive(agent, mtime))
}

/// Whether this is the part with this agent, whole.
#[must_use]
pub fn is_agent_part(part: &[u8], agent: &[u8], mtime: u32) -> bool {
    let (Ok(archive), Ok(size)) = (
        agent_archive(agent, mtime),
        zstd_safe::find_frame_compressed_size(part),
    ) else {
        return false;
    };
    let Some((frame, zeros)) = part.split_at_checked(size) else {
        return false;
    };
    part.len() == size.next_multiple_of(4)
        && zeros.iter().all(|byte| *byte == 0)
        && zstd::bulk::decompress(frame, archive.len()).is_ok_and(|content| content == archive)
}

fn agent_archive(agent: &[u8], mtime: u32) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(mtime);
    archive.file("init", 0o755, agent)?;
    archive.finish()
}

/// The compressed part with the table of the network drivers.
pub fn network_table_part(table: &[u8], mtime: u32) -> Result<Vec<u8>> {
    let archive = || -> io::Result<Vec<u8>> {
        let mut archive = Archive::new(mtime);
        for name in ["lib", "lib/rescue"] {
            archive.directory(name, 0o755)?;
        }
        archive.file("lib/rescue/drivers-net.json", 0o644, table)?;
        archive.finish()
    };
    compressed(archive())
}

/// In two threads, each with a half of the archive: the bytes are the same however many threads there are.
fn compressed(archive: io::Result<Vec<u8>>) -> Result<Vec<u8>> {
    let pack = || -> io::Result<Vec<u8>> {
        let archive = archive?;
        let half = u32::try_from(archive.len().div_ceil(2)).map_err(io::Error::other)?;
        let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        encoder.set_parameter(CParameter::NbWorkers(2))?;
        encoder.set_parameter(CParameter::JobSize(half))?;
        encoder.set_parameter(CParameter::OverlapSizeLog(OVERLAP_LOG))?;
        encoder.write_all(&archive)?;
        let mut bytes = encoder.finish()?;
        align(&mut bytes);
        Ok(bytes)
    };
    pack().map_err(Error::io("pack", Path::new("the initramfs")))
}

fn base_archive(base: &Base<'_>, mtime: u32) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(mtime);
    for (name, permissions) in DIRECTORIES {
        archive.directory(name, *permissions)?;
    }
    for (name, permissions, major, minor) in NODES {
        archive.node(name, *permissions, *major, *minor)?;
    }
    archive.file("etc/rescue-identity", 0o644, base.identity.as_bytes())?;
    archive.file("etc/rescue-release", 0o644, base.release.as_bytes())?;
    archive.file("lib/rescue/drivers.json", 0o644, base.driver_table)?;
    if !base.dictionary.is_empty() {
        archive.file("lib/rescue/modules/dictionary", 0o644, base.dictionary)?;
    }
    archive.file("lib/rescue/pci.ids", 0o644, base.names)?;
    if let Some(shell) = base.shell {
        archive.directory("bin", 0o755)?;
        archive.file("bin/busybox", 0o755, shell)?;
    }
    if let Some(settings) = base.settings {
        archive.file("rescue.toml", 0o644, settings)?;
    }
    archive.finish()
}

/// A file of the base part at the start of an initramfs; nothing if it has none of that name.
pub fn file_of_base_part(initrd: &[u8], name: &str) -> io::Result<Option<Vec<u8>>> {
    let frame = zstd::Decoder::with_buffer(initrd)?.single_frame();
    let mut archive: Box<dyn Read + '_> = Box::new(frame.take(MAX_PART_BYTES));
    loop {
        let mut reader = newc::Reader::new(archive)?;
        if reader.entry().is_trailer() {
            return Ok(None);
        }
        if reader.entry().name() == name {
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            return Ok(Some(content));
        }
        archive = reader.finish()?;
    }
}

/// The part with the modules, compressed with the dictionary (none if empty); `tick` is called once per module.
pub fn drivers_part(
    selection: &Selection,
    dictionary: &[u8],
    store: &Store,
    mtime: u32,
    tick: &(dyn Fn() + Sync),
) -> Result<Vec<u8>> {
    let compress = |path: &PathBuf| {
        let module = store.compressed(&read_module_bytes(path)?, dictionary);
        tick();
        module
    };
    let modules = on_all(&selection.files, compress)?;
    let pack = || -> io::Result<Vec<u8>> {
        let mut archive = Archive::new(mtime);
        for name in ["lib", "lib/rescue", "lib/rescue/modules"] {
            archive.directory(name, 0o755)?;
        }
        for (driver, content) in selection.drivers.iter().zip(&modules) {
            archive.file(
                &format!("lib/rescue/modules/{}", driver.file),
                0o644,
                content,
            )?;
        }
        archive.finish()
    };
    pack().map_err(Error::io("pack", Path::new("the kernel modules")))
}

/// Says whether a kernel built with this configuration can unpack the base part, and if not, what to do.
pub fn check_kernel_config(path: &Path) -> Result<()> {
    let config = files::read_whole(path, MAX_CONFIG_BYTES).map_err(Error::io("read", path))?;
    let config = String::from_utf8_lossy(&config);
    for option in [
        "CONFIG_BLK_DEV_INITRD",
        "CONFIG_RD_ZSTD",
        "CONFIG_DEVTMPFS",
        "CONFIG_MODULES",
    ] {
        if !config.lines().any(|line| line == format!("{option}=y")) {
            return Err(Error::input(
                path,
                format!(
                    "the kernel was built without {option}, which the rescue image needs; use a Debian kernel"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::inputs::drivers::{Class, Driver};

    fn base() -> Base<'static> {
        Base {
            driver_table: b"{}",
            dictionary: b"common",
            names: b"10de  NVIDIA\n",
            release: "esxi-rescue 0 kernel test\n",
            identity: "12345678abcdef00\n",
            settings: Some(b"countdown = 0\n"),
            shell: Some(b"busybox"),
        }
    }

    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(bytes).unwrap();
            if reader.entry().is_trailer() {
                return found;
            }
            let mut content = Vec::new();
            Read::read_to_end(&mut reader, &mut content).unwrap();
            let entry = reader.entry();
            found.push((
                entry.name().to_owned(),
                entry.mode(),
                entry.rdev_major() << 8 | entry.rdev_minor(),
                content,
            ));
            bytes = reader.finish().unwrap();
        }
    }

    fn unpacked(part: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        assert_eq!(part.len() % 4, 0);
        let frame = zstd::Decoder::new(part).unwrap().single_frame();
        let mut raw = Vec::new();
        Read::read_to_end(&mut { frame }, &mut raw).unwrap();
        entries(&raw)
    }

    #[test]
    fn the_base_part_has_console_and_tables() {
        let entries = unpacked(&base_part(&base(), 1).unwrap());
        let find = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(
            (find("dev/console").1, find("dev/console").2),
            (0o020_600, 0x0501)
        );
        assert_eq!(find("tmp").1, 0o041_777);
        assert_eq!(find("rescue.toml").3, b"countdown = 0\n");
    }

    #[test]
    fn the_agent_is_the_init_of_its_part() {
        let part = agent_part(b"agent", 1).unwrap();
        let init = ("init".to_owned(), 0o100_755, 0, b"agent".to_vec());
        assert_eq!(unpacked(&part), [init]);
        assert!(is_agent_part(&part, b"agent", 1));
        assert!(!is_agent_part(&part, b"agenT", 1) && !is_agent_part(&part, b"agent", 2));
        for cut in 0..part.len() {
            assert!(!is_agent_part(&part[..cut], b"agent", 1), "{cut}");
        }
        let longer = [part.as_slice(), &[0; 4]].concat();
        assert!(!is_agent_part(&longer, b"agent", 1));
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        assert_eq!(
            base_part(&base(), 7).unwrap(),
            base_part(&base(), 7).unwrap()
        );
    }

    #[test]
    fn modules_are_compressed_one_by_one_and_keep_every_byte() {
        let temp = tempfile::tempdir().unwrap();
        let mut selection = Selection {
            drivers: Vec::new(),
            files: Vec::new(),
        };
        for index in 0..9 {
            let name = format!("m{index}");
            let path = temp.path().join(format!("{name}.ko"));
            fs::write(&path, name.repeat(1000)).unwrap();
            selection.files.push(path);
            selection.drivers.push(Driver {
                file: format!("{name}.ko.zst"),
                name,
                depends: Vec::new(),
                pre: Vec::new(),
                aliases: Vec::new(),
                class: Class::Storage,
                firmware: Vec::new(),
            });
        }
        let ticks = AtomicUsize::new(0);
        let part = drivers_part(&selection, b"", &Store::none(), 1, &|| {
            _ = ticks.fetch_add(1, Ordering::Relaxed)
        })
        .unwrap();
        assert_eq!(ticks.into_inner(), 9);
        let entries = entries(&part);
        assert_eq!(entries.len(), 3 + 9);
        assert_eq!(entries[7].0, "lib/rescue/modules/m4.ko.zst");
        assert_eq!(
            zstd::decode_all(entries[7].3.as_slice()).unwrap(),
            "m4".repeat(1000).as_bytes()
        );
    }

    #[test]
    fn a_kernel_without_zstd_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "CONFIG_BLK_DEV_INITRD=y\n# CONFIG_RD_ZSTD is not set\nCONFIG_DEVTMPFS=y\n",
        )
        .unwrap();
        assert!(
            check_kernel_config(file.path())
                .unwrap_err()
                .to_string()
                .contains("CONFIG_RD_ZSTD")
        );
    }
}
