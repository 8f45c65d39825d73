//! A finished image, opened again: what kind it is, whether it is whole and ours, what its settings are; and changing these.
//!
//! Not for devices: an image is personalised before it is written to a stick. On the stick itself, `rescue.toml` is a
//! file that any editor opens.

pub mod manifest;
pub mod paths;
pub mod place;
pub mod spdx;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::slice;

use rescue_agent::disk::partition::{self, Health, PartitionError, PartitionKind, TableKind};
use rescue_agent::disk::{BlockDevice, ByteOffset, SectorSize};
use rescue_agent::files;
use rescue_agent::report;
use rescue_agent::settings::{Key, Settings, SettingsSources};

use crate::error::{Error, Result};
use crate::hash;
use crate::lock::Lock;
use crate::media::fat;
use crate::media::frame;
use crate::media::iso;
use crate::media::iso9660;
use crate::media::netboot;
use crate::parts::initramfs;
use crate::parts::layout;
use crate::parts::personal::Personal;
use crate::settings::{self, Setting};

/// No image of ours is larger, in bytes.
const MAX_IMAGE_BYTES: u64 = 1 << 30;
const NETWORK_DRIVERS: &str = "initrd-net.img";
const IDENTITY_PREFIX: &str = "esxi-rescue-";

/// A finished image.
#[derive(Debug)]
pub struct Finished {
    path: PathBuf,
    store: Store,
    identity: String,
    personal: Personal,
}

/// Where its files are.
#[derive(Debug)]
enum Store {
    Iso {
        bytes: Vec<u8>,
        files: BTreeMap<String, Range<usize>>,
        esp: Range<usize>,
    },
    Usb {
        bytes: Vec<u8>,
        volume: Range<usize>,
    },
    Netboot {
        dir: PathBuf,
        /// Changed files that are not written yet.
        changed: BTreeMap<&'static str, Vec<u8>>,
    },
}

impl Finished {
    /// Opens an `.iso`, an `.img` or a netboot directory, and makes sure that it is one of ours and whole.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Store::open(path).and_then(|store| Self::of(path, store));
        place::check_settled(folder_of(path))?;
        opened
    }

    /// The same for an image file in memory; `path` is its name.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::of(path, Store::of_bytes(path, bytes)?)
    }

    fn of(path: &Path, store: Store) -> Result<Self> {
        let foreign = |problem: &str| Error::input(path, problem);
        let identity = store
            .identity(path)?
            .ok_or_else(|| foreign("this is not an image of esxi-rescue"))?;
        let block = store
            .read(path, store.settings_block())?
            .ok_or_else(|| foreign("damaged: its settings block is missing"))?;
        let personal = Personal::from_block(&block)
            .map_err(|problem| Error::input(path, problem.to_string()))?;
        let finished = Self {
            path: path.to_owned(),
            store,
            identity,
            personal,
        };
        finished.check_whole()?;
        Ok(finished)
    }

    /// What kind of image it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.store {
            Store::Iso { .. } => "ISO",
            Store::Usb { .. } => "USB image",
            Store::Netboot { .. } => "netboot tree",
        }
    }

    /// The identity of the image.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What it says it is: version, kernel, number of drivers.
    pub fn info(&self) -> Result<String> {
        let info = self.require(layout::INFO)?;
        Ok(String::from_utf8_lossy(&info).trim().to_owned())
    }

    /// Whether it has the network drivers.
    pub fn has_network(&self) -> Result<bool> {
        Ok(self.read(&self.store.in_boot(NETWORK_DRIVERS))?.is_some())
    }

    /// The settings of all its layers; those of the kernel command line are its settings block.
    pub fn settings(&self) -> Result<Settings> {
        let mut sources = SettingsSources {
            files: Vec::new(),
            command_line: self.personal.arguments.join(" "),
        };
        let initrd = self.require(&self.store.in_boot("initrd.img"))?;
        let built_in = initramfs::file_of_base_part(&initrd, "rescue.toml").map_err(|error| {
            self.damaged(&format!("its initrd.img cannot be unpacked: {error}"))
        })?;
        if let Some(content) = built_in {
            sources = sources.with_file("rescue.toml in the image", content);
        }
        if let (Store::Usb { .. }, Some(content)) = (&self.store, self.read(layout::SETTINGS_FILE)?)
        {
            sources = sources.with_file("rescue.toml on the medium", content);
        }
        sources.resolve().map_err(|errors| {
            let errors = errors.to_string();
            let lines: Vec<String> = errors.lines().map(report::escape).collect();
            Error::input(&self.path, format!("wrong settings:\n{}", lines.join("\n")))
        })
    }

    /// Words of the settings block that are not settings but the kernel's own.
    pub fn other_words(&self) -> impl Iterator<Item = &str> {
        let words = self.personal.arguments.iter().map(String::as_str);
        words.filter(|word| !word.starts_with("rescue."))
    }

    /// Puts a settings file in: on the USB image in place of the one there, elsewhere as words of the settings block.
    pub fn set_config(&mut self, name: &Path, content: &[u8]) -> Result<()> {
        if let Store::Usb { bytes, volume } = &mut self.store {
            settings::check_toml(name, content)?;
            return fat::replace_file(&mut bytes[volume.clone()], layout::SETTINGS_FILE, content)
                .map_err(Error::io("change", &self.path));
        }
        for setting in settings::from_toml(name, content)? {
            self.personal.set(&setting);
        }
        Ok(())
    }

    /// Puts a setting in the settings block, in place of an earlier one.
    pub fn set(&mut self, setting: &Setting) {
        self.personal.set(setting);
    }

    /// Takes a setting out of the settings block.
    pub fn unset(&mut self, key: Key) {
        self.personal.unset(key);
    }

    /// Writes the image with its settings, over the old one or to another place.
    pub fn save(mut self, out: Option<&Path>) -> Result<PathBuf> {
        let block = self.personal.to_block()?;
        if self.settings()?.report.is_some() && !self.has_network()? {
            return Err(Error::input(
                &self.path,
                "it has no network drivers, so that no report can be sent; build it with 'make image NET=1' ('rescue-image build --net')",
            ));
        }
        match &mut self.store {
            Store::Iso { bytes, files, .. } => {
                let place = files[layout::SETTINGS_BLOCK].clone();
                bytes[place].copy_from_slice(&block);
            }
            Store::Usb { bytes, volume } => {
                fat::replace_file(&mut bytes[volume.clone()], layout::SETTINGS_BLOCK, &block)
                    .map_err(Error::io("change", &self.path))?;
            }
            Store::Netboot { changed, .. } => {
                let script = netboot::ipxe_script(&self.personal.arguments);
                changed.insert(layout::NETBOOT_SETTINGS_BLOCK, block);
                changed.insert(layout::IPXE_SCRIPT, script.into_bytes());
            }
        }
        let out = out.unwrap_or(&self.path).to_owned();
        // A link keeps pointing to what it names.
        let target = fs::canonicalize(&out).unwrap_or_else(|_| out.clone());
        let folder = folder_of(&target);
        // A folder that is not there yet is nobody else's.
        let note = |line: &str| eprintln!("{line}");
        let _lock = folder
            .is_dir()
            .then(|| Lock::of(folder, &note))
            .transpose()?;
        let is_ours = fs::canonicalize(&self.path).is_ok_and(|ours| ours == target);
        if is_ours && Self::open(&self.path)?.identity != self.identity {
            return Err(Error::input(
                &self.path,
                "a build has replaced it meanwhile; run the command again",
            ));
        }
        // An intact image is replaced only by an intact image.
        match self.store {
            Store::Iso { bytes, .. } | Store::Usb { bytes, .. } => {
                let changed = Self::of_bytes(&self.path, bytes)?;
                changed.settings()?;
                if let Store::Iso { bytes, .. } | Store::Usb { bytes, .. } = changed.store {
                    replace(&out, &bytes)?;
                }
            }
            Store::Netboot {
                ref dir,
                ref changed,
            } => {
                self.check_whole()?;
                save_tree(dir, changed, &out)?;
            }
        }
        Ok(out)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.store.read(&self.path, name)
    }

    fn require(&self, name: &str) -> Result<Vec<u8>> {
        self.read(name)?
            .ok_or_else(|| self.damaged(&format!("the file {name} in it is missing")))
    }

    /// Compares every file that nobody changes, and what is around the files, with the digests that the image has of them.
    fn check_whole(&self) -> Result<()> {
        let name = format!(".disk/{IDENTITY_PREFIX}{}", self.identity);
        let sums = self.require(&name)?;
        let sums = String::from_utf8_lossy(&sums);
        for line in sums.lines().filter(|line| !frame::is_line(line)) {
            let (digest, name) = line
                .split_once("  ")
                .filter(|(_, name)| paths::is_plain(name))
                .ok_or_else(|| self.damaged("its list of digests is damaged"))?;
            if hash::sha256(&self.require(name)?) != digest {
                return Err(self.damaged(&format!("the file {name} in it was changed")));
            }
        }
        if sums.is_empty() {
            return Err(self.damaged("its list of digests is empty"));
        }
        if let Some(digest) = self.store.frame(&name)
            && frame::stated(&sums) != Some(&digest)
        {
            return Err(self.damaged(
                "something around the files in it was changed (boot code, partition table, directories)",
            ));
        }
        Ok(())
    }

    /// What is quoted from the image may hold anything.
    fn damaged(&self, problem: &str) -> Error {
        Error::input(&self.path, format!("damaged: {}", report::escape(problem)))
    }
}

impl Store {
    fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
        if metadata.is_dir() {
            return Ok(Store::Netboot {
                dir: path.to_owned(),
                changed: BTreeMap::new(),
            });
        }
        if !metadata.is_file() || metadata.len() > MAX_IMAGE_BYTES {
            return Err(Error::input(
                path,
                "not an image of esxi-rescue; give the .iso or .img file or the netboot directory, not a device",
            ));
        }
        let bytes = files::read_up_to(path, MAX_IMAGE_BYTES).map_err(Error::io("read", path))?;
        Self::of_bytes(path, bytes)
    }

    fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let unsound = |problem: String| Error::input(path, problem);
        let esp = esp_place(&bytes).map_err(unsound)?;
        match iso9660::files(&bytes) {
            Some(files) => {
                iso::check_in(Cursor::new(&bytes), path)?;
                Ok(Store::Iso { bytes, files, esp })
            }
            None => Ok(Store::Usb { bytes, volume: esp }),
        }
    }

    fn identity(&self, path: &Path) -> Result<Option<String>> {
        let names: Vec<String> = match self {
            Store::Iso { files, .. } => files
                .keys()
                .filter_map(|name| name.strip_prefix(".disk/"))
                .map(str::to_owned)
                .collect(),
            Store::Usb { bytes, volume } => fat::list(&bytes[volume.clone()], ".disk")
                .map_err(|_| Error::input(path, "this is not an image of esxi-rescue"))?,
            Store::Netboot { dir, .. } => list(&dir.join(".disk")).map_err(|_| {
                Error::input(path, "this directory is not a netboot tree of esxi-rescue")
            })?,
        };
        let identity = |name: &String| name.strip_prefix(IDENTITY_PREFIX).map(str::to_owned);
        let mut identities = names.iter().filter_map(identity);
        match (identities.next(), identities.next()) {
            (Some(_), Some(_)) => Err(Error::input(path, "damaged: two images in one")),
            (first, _) => Ok(first),
        }
    }

    /// The digest of what is around the files, see [`frame`]; a tree has nothing there. `sums` is the file that names the image.
    fn frame(&self, sums: &str) -> Option<String> {
        match self {
            Store::Iso { bytes, files, .. } => {
                let settings = files.get(layout::SETTINGS_BLOCK)?.clone();
                let place = frame::place(files.get(sums)?);
                Some(frame::digest(bytes, &[place, settings]))
            }
            Store::Usb { bytes, volume } => Some(frame::digest(bytes, slice::from_ref(volume))),
            Store::Netboot { .. } => None,
        }
    }

    /// The settings block's path.
    fn settings_block(&self) -> &'static str {
        match self {
            Store::Netboot { .. } => layout::NETBOOT_SETTINGS_BLOCK,
            _ => layout::SETTINGS_BLOCK,
        }
    }

    fn in_boot(&self, name: &str) -> String {
        match self {
            Store::Netboot { .. } => name.to_owned(),
            _ => format!("boot/{name}"),
        }
    }

    fn read(&self, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        let damaged = |error: io::Error| {
            Error::input(
                path,
                format!("damaged: the file {name} in it cannot be read: {error}"),
            )
        };
        match self {
            Store::Iso { bytes, files, esp } => match files.get(name) {
                Some(place) => Ok(Some(bytes[place.clone()].to_vec())),
                // The loaders are in the EFI partition only.
                None if name.starts_with("EFI/") => {
                    fat::read_file(&bytes[esp.clone()], name).map_err(damaged)
                }
                None => Ok(None),
            },
            Store::Usb { bytes, volume } => {
                fat::read_file(&bytes[volume.clone()], name).map_err(damaged)
            }
            Store::Netboot { dir, changed } => match changed.get(name) {
                Some(content) => Ok(Some(content.clone())),
                None => read_below(dir, name).map_err(damaged),
            },
        }
    }
}

/// The EFI system partition of an image whose partition table, with its copy at the end, fits the file. The file may be
/// anything.
fn esp_place(bytes: &[u8]) -> std::result::Result<Range<usize>, String> {
    let foreign = |why: &str| format!("this is not an image of esxi-rescue ({why})");
    let table = match partition::read(&InMemory(bytes)) {
        Ok(table) => table,
        Err(PartitionError::NoTable { .. }) => return Err(foreign("no partition table in it")),
        Err(error) => return Err(format!("damaged: {error}")),
    };
    match table.kind {
        TableKind::Mbr => return Err(foreign("it has another kind of partition table")),
        TableKind::Gpt {
            primary: Health::Good,
            backup: Health::Good,
        } => {}
        TableKind::Gpt { .. } => {
            return Err(
                "damaged: it is too short or too long, or its partition table is damaged"
                    .to_owned(),
            );
        }
    }
    let mut partitions = table.partitions.iter();
    let esp = partitions
        .find(|partition| partition.kind == PartitionKind::EfiSystem)
        .ok_or_else(|| foreign("no EFI system partition"))?;
    if let Some(problem) = &esp.problem {
        return Err(format!("damaged: its EFI system partition: {problem}"));
    }
    let place = |at: u64| usize::try_from(at).map_err(|_| foreign("it is too large"));
    Ok(place(esp.start.0)?..place(esp.start.0 + esp.length)?)
}

/// An image as the disk that it will be.
struct InMemory<'a>(&'a [u8]);

impl fmt::Debug for InMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InMemory").field(&self.0.len()).finish()
    }
}

impl BlockDevice for InMemory<'_> {
    fn sector_size(&self) -> SectorSize {
        SectorSize::S512
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
        let mut reader = Cursor::new(self.0);
        reader.set_position(offset.0);
        reader.read_exact(buf)
    }

    fn write_at(&self, _: ByteOffset, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn list(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn read_below(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let path = dir.join(name);
    let metadata = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    if !metadata.is_file() || metadata.len() > MAX_IMAGE_BYTES {
        return Err(io::Error::other("it is no plain file"));
    }
    files::read_up_to(&path, MAX_IMAGE_BYTES).map(Some)
}

/// Deepest nesting of folders in a netboot tree, and most entries: what a site puts there, too.
const MAX_DEPTH: usize = 8;
const MAX_ENTRIES: usize = 100_000;

/// Writes the changed files of the tree `dir`, or all of it with these to a new directory, which appears as a whole.
fn save_tree(dir: &Path, changed: &BTreeMap<&'static str, Vec<u8>>, out: &Path) -> Result<()> {
    let dir = fs::canonicalize(dir).map_err(Error::io("find", dir))?;
    if fs::canonicalize(out).is_ok_and(|out| out == dir) {
        return changed
            .iter()
            .try_for_each(|(name, content)| replace(&dir.join(name), content));
    }
    if fs::symlink_metadata(out).is_ok() {
        return Err(Error::input(out, "already exists; choose a new directory"));
    }
    let there = out.ancestors().skip(1).find_map(|above| match above {
        above if above.as_os_str().is_empty() => fs::canonicalize(".").ok(),
        above => fs::canonicalize(above).ok(),
    });
    if there.is_some_and(|there| there.starts_with(&dir)) {
        return Err(Error::input(
            out,
            format!("is inside {}; choose a directory elsewhere", dir.display()),
        ));
    }
    let mut content = Vec::new();
    list_tree(&dir, Path::new(""), 0, &mut content)?;
    let parent = folder_of(out);
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    place::tidy(parent)?;
    let temp = tempfile::Builder::new()
        .prefix(place::CUSTOMIZING)
        .tempdir_in(parent)
        .map_err(Error::io("create a directory in", parent))?;
    // Not the temporary directory itself, which is for its owner alone.
    let tree = temp.path().join("tree");
    fs::create_dir(&tree).map_err(Error::io("create", &tree))?;
    for (path, is_dir) in content {
        let (from, to) = (dir.join(&path), tree.join(&path));
        if is_dir {
            fs::create_dir(&to).map_err(Error::io("create", &to))?;
        } else {
            fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
        }
    }
    for (name, content) in changed {
        let path = tree.join(name);
        fs::write(&path, content).map_err(Error::io("write", &path))?;
    }
    Finished::open(&tree)?;
    fs::rename(&tree, out).map_err(Error::io("write", out))
}

/// The files (false) and directories (true) below `dir`, each directory before what is in it.
fn list_tree(
    dir: &Path,
    below: &Path,
    depth: usize,
    found: &mut Vec<(PathBuf, bool)>,
) -> Result<()> {
    let place = dir.join(below);
    for entry in fs::read_dir(&place).map_err(Error::io("list", &place))? {
        let entry = entry.map_err(Error::io("list", &place))?;
        let (name, path) = (below.join(entry.file_name()), entry.path());
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if !kind.is_dir() && !path.is_file() {
            return Err(Error::input(
                &path,
                "is not a regular file; it cannot be copied",
            ));
        }
        if depth > MAX_DEPTH || found.len() > MAX_ENTRIES {
            return Err(Error::input(dir, "contains more than can be copied"));
        }
        found.push((name.clone(), kind.is_dir()));
        if kind.is_dir() {
            list_tree(dir, &name, depth + 1, found)?;
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes beside the target and renames, so that a failure leaves the old file whole.
fn replace(target: &Path, bytes: &[u8]) -> Result<()> {
    let old = fs::metadata(target).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        return Err(Error::input(
            target,
            "exists and is not a regular file; choose a file name. To write the file to a stick, use dd",
        ));
    }
    // A link keeps pointing to what it names.
    let target = &fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    let mode = old.map_or(0o666, |old| old.permissions().mode());
    let folder = folder_of(target);
    place::tidy(folder)?;
    let mut temp = tempfile::Builder::new()
        .prefix(place::CUSTOMIZING)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(Error::io("create a file in", folder))?;
    temp.write_all(bytes)
        .and_then(|()| temp.as_file().sync_all())
        .map_err(Error::io("write", target))?;
    temp.persist(target)
        .map_err(|error| Error::io("write", target)(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::usb;
    use crate::parts::sample;

    fn iso(dir: &Path) -> Vec<u8> {
        let out = dir.join("x.iso");
        iso::make(&sample::parts(), false, dir, &out).unwrap();
        fs::read(out).unwrap()
    }

    fn tree(dir: &Path) -> PathBuf {
        let out = dir.join("netboot");
        netboot::write(&netboot::make(&sample::parts(), dir).unwrap(), &out).unwrap();
        out
    }

    /// What `rescue-image show` asks of an image.
    fn show(bytes: &[u8]) -> Result<()> {
        let path = Path::new("image");
        let image = Finished::of_bytes(path, bytes.to_vec())?;
        image.info()?;
        image.has_network()?;
        image.settings().map(|_| ())
    }

    fn flip(mut bytes: Vec<u8>, places: impl Iterator<Item = usize>) {
        show(&bytes).unwrap();
        for at in places {
            let old = bytes[at];
            for value in [0, 1, old ^ 0x80, 0xff] {
                bytes[at] = value;
                let _ = show(&bytes);
            }
            bytes[at] = old;
        }
    }

    #[test]
    fn no_altered_byte_of_an_iso_makes_it_panic() {
        let temp = tempfile::tempdir().unwrap();
        let bytes = iso(temp.path());
        let esp = esp_place(&bytes).unwrap().start;
        // Partition table and its first entries, Joliet's descriptor and the tree, and the EFI partition's head. A sample
        // of each; the fuzz target `image` tries the rest.
        let places = (512..604)
            .step_by(11)
            .chain((1024..1024 + 256).step_by(31))
            .chain((16 * 2048..40 * 2048).step_by(1013))
            .chain((esp..esp + 64).step_by(7));
        flip(bytes, places);
    }

    /// A sample of places all over an image, some in each part of it.
    fn spread(length: usize) -> impl Iterator<Item = usize> {
        let first = (0..2048).step_by(97).chain((2048..80_000).step_by(4003));
        first.chain((80_000..length).step_by(length / 20))
    }

    #[test]
    fn no_byte_of_an_iso_but_its_settings_can_be_altered_unnoticed() {
        let temp = tempfile::tempdir().unwrap();
        let mut bytes = iso(temp.path());
        let files = iso9660::files(&bytes).unwrap();
        let settings = files[layout::SETTINGS_BLOCK].clone();
        let eltorito = files["boot/grub/i386-pc/eltorito.img"].clone();
        let places = spread(bytes.len()).chain(eltorito.step_by(30_011));
        for at in places.filter(|at| !settings.contains(at)) {
            bytes[at] ^= 0x10;
            assert!(show(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 0x10;
        }
        show(&bytes).unwrap();
    }

    #[test]
    fn no_byte_around_the_volume_of_a_usb_image_can_be_altered_unnoticed() {
        let temp = tempfile::tempdir().unwrap();
        let mut bytes = usb::make(&sample::parts(), temp.path()).unwrap();
        let volume = esp_place(&bytes).unwrap();
        // Boot code, disk signature, partition table, GRUB's core image, the room behind it, the table's copy.
        let core = 1 << 20;
        let places = [
            3,
            440,
            520,
            core,
            core + 30_000,
            volume.start - 1,
            volume.end,
            bytes.len() - 1,
        ];
        for at in places {
            bytes[at] ^= 0x10;
            assert!(show(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 0x10;
        }
        show(&bytes).unwrap();
    }

    #[test]
    fn no_altered_byte_of_a_usb_image_makes_it_panic() {
        let temp = tempfile::tempdir().unwrap();
        let bytes = usb::make(&sample::parts(), temp.path()).unwrap();
        let volume = esp_place(&bytes).unwrap().start;
        // Every field of the parameter block is tried on smaller volumes, where they are read.
        flip(
            bytes,
            [13, 16, 36, 44, 48].into_iter().map(|at| volume + at),
        );
    }

    #[test]
    fn a_tree_whose_digests_name_other_files_is_damaged() {
        let temp = tempfile::tempdir().unwrap();
        let tree = tree(temp.path());
        let sums = tree.join(".disk/esxi-rescue-12345678abcdef00");
        for name in ["/etc/passwd", "../../etc/passwd", "grub/../vmlinuz"] {
            fs::write(&sums, format!("{}  {name}\n", "0".repeat(64))).unwrap();
            let error = Finished::open(&tree).unwrap_err().to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }

    #[test]
    fn what_an_image_holds_cannot_steer_the_terminal() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.img");
        let mut bytes = usb::make(&sample::parts(), temp.path()).unwrap();
        let volume = esp_place(&bytes).unwrap();
        let hostile = b"mode = \"\\u001b[2J\"\n";
        fat::replace_file(&mut bytes[volume], layout::SETTINGS_FILE, hostile).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = Finished::open(&path).unwrap().settings().unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("wrong settings") && !error.contains('\u{1b}'),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.iso");
        iso(temp.path());
        let device = temp.path().join("device");
        std::os::unix::fs::symlink("/dev/full", &device).unwrap();
        for out in [device.as_path(), temp.path(), Path::new("/dev/null")] {
            let error = Finished::open(&path).unwrap().save(Some(out)).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
        assert!(fs::symlink_metadata(&device).unwrap().is_symlink());
    }

    #[test]
    fn an_image_in_place_keeps_its_permissions_and_leaves_nothing_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.iso");
        fs::write(&path, iso(temp.path())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        Finished::open(&path).unwrap().save(None).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(list(folder.path()).unwrap(), ["x.iso"]);
    }

    #[test]
    fn a_tree_goes_to_a_new_place_as_a_whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let tree = tree(temp.path());
        fs::create_dir_all(tree.join("grub/hosts")).unwrap();
        fs::write(tree.join("grub/hosts/5ZTVM22.cfg"), "set default=local").unwrap();
        let save = |out: &Path| {
            let mut image = Finished::open(&tree).unwrap();
            image.set(&Setting::parse("countdown=0").unwrap());
            image.save(Some(out))
        };
        for inside in [tree.join("mine"), tree.join("a/../b/mine")] {
            let error = save(&inside).unwrap_err().to_string();
            assert!(error.contains("is inside"), "{error}");
        }
        let new = temp.path().join("srv/tftp");
        save(&new).unwrap();
        assert_eq!(list(&temp.path().join("srv")).unwrap(), ["tftp"]);
        assert!(new.join("grub/hosts/5ZTVM22.cfg").exists());
        let error = save(&new).unwrap_err().to_string();
        assert!(error.contains("already exists"), "{error}");
        let mode = fs::metadata(&new).unwrap().permissions().mode();
        assert_eq!(mode & 0o500, 0o500);
        assert_eq!(mode, fs::metadata(&tree).unwrap().permissions().mode());
        // What cannot be copied leaves nothing behind.
        std::os::unix::fs::symlink("/dev/null", tree.join("device")).unwrap();
        assert!(save(&temp.path().join("srv/other")).is_err());
        assert_eq!(list(&temp.path().join("srv")).unwrap(), ["tftp"]);
    }
}
