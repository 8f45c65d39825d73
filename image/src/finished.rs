//! A finished image, opened again: what kind it is, whether it is whole and ours, what its settings are; and changing these.
//!
//! Not for devices: an image is personalised before it is written to a stick. On the stick itself, `rescue.toml` is a
//! file that any editor opens.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rescue_agent::files;
use rescue_agent::report;
use rescue_agent::settings::{Key, Settings, SettingsSources};

use crate::error::{Error, Result};
use crate::fat;
use crate::hash;
use crate::initramfs;
use crate::iso;
use crate::iso9660;
use crate::netboot;
use crate::parts;
use crate::personal::Personal;
use crate::place;
use crate::settings::{self, Setting};
use crate::usb;

/// No image of ours is larger, in bytes.
const MAX_IMAGE_BYTES: u64 = 1 << 30;
const SECTOR_BYTES: usize = 512;
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
        let store = Store::open(path)?;
        let foreign = |problem: &str| Error::input(path, problem);
        let identity = store
            .identity(path)?
            .ok_or_else(|| foreign("this is no image of esxi-rescue"))?;
        let block = store
            .read(path, store.settings_block())?
            .ok_or_else(|| foreign("damaged: its settings block is missing"))?;
        let personal =
            Personal::from_block(&block).map_err(|problem| Error::input(path, problem))?;
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
        let info = self.require(parts::INFO)?;
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
        if let (Store::Usb { .. }, Some(content)) = (&self.store, self.read(usb::SETTINGS_FILE)?) {
            sources = sources.with_file("rescue.toml on the medium", content);
        }
        sources
            .resolve()
            .map_err(|errors| Error::input(&self.path, format!("wrong settings:\n{errors}")))
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
            return fat::replace_file(&mut bytes[volume.clone()], usb::SETTINGS_FILE, content)
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
        let out = out.unwrap_or(&self.path).to_owned();
        match &mut self.store {
            Store::Iso { bytes, files, .. } => {
                let place = files[parts::SETTINGS_BLOCK].clone();
                bytes[place].copy_from_slice(&block);
                replace(&out, bytes)?;
            }
            Store::Usb { bytes, volume } => {
                fat::replace_file(&mut bytes[volume.clone()], parts::SETTINGS_BLOCK, &block)
                    .map_err(Error::io("change", &self.path))?;
                replace(&out, bytes)?;
            }
            Store::Netboot { dir, changed } => {
                let script = netboot::ipxe_script(&self.personal.arguments);
                changed.insert(netboot::SETTINGS_BLOCK, block);
                changed.insert(netboot::IPXE_SCRIPT, script.into_bytes());
                if out != *dir {
                    copy_tree(dir, &out)?;
                }
                for (name, content) in changed {
                    replace(&out.join(name), content)?;
                }
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

    /// Compares every file that nobody changes with the digest that the image has of it.
    fn check_whole(&self) -> Result<()> {
        let sums = self.require(&format!(".disk/{IDENTITY_PREFIX}{}", self.identity))?;
        let sums = String::from_utf8_lossy(&sums);
        for line in sums.lines() {
            let (digest, name) = line
                .split_once("  ")
                .filter(|(_, name)| place::is_plain(name))
                .ok_or_else(|| self.damaged("its list of digests is garbled"))?;
            if hash::sha256(&self.require(name)?) != digest {
                return Err(self.damaged(&format!("the file {name} in it was altered")));
            }
        }
        if sums.is_empty() {
            return Err(self.damaged("its list of digests is empty"));
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
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let unsound = |problem: String| Error::input(path, problem);
        let esp = esp_place(&bytes).map_err(unsound)?;
        match iso9660::files(&bytes) {
            Some(files) => {
                iso::check(path)?;
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
                .map_err(|_| Error::input(path, "this is no image of esxi-rescue"))?,
            Store::Netboot { dir, .. } => list(&dir.join(".disk")).map_err(|_| {
                Error::input(path, "this directory is no netboot tree of esxi-rescue")
            })?,
        };
        let identity = |name: &String| name.strip_prefix(IDENTITY_PREFIX).map(str::to_owned);
        let mut identities = names.iter().filter_map(identity);
        match (identities.next(), identities.next()) {
            (Some(_), Some(_)) => Err(Error::input(path, "damaged: two images in one")),
            (first, _) => Ok(first),
        }
    }

    /// The settings block's path.
    fn settings_block(&self) -> &'static str {
        match self {
            Store::Netboot { .. } => netboot::SETTINGS_BLOCK,
            _ => parts::SETTINGS_BLOCK,
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

/// The EFI system partition of an image with a GPT that ends where the file does. The file may be anything.
/// Source: UEFI specification 2.10, 5.3.2 (header) and 5.3.3 (entries).
fn esp_place(bytes: &[u8]) -> std::result::Result<Range<usize>, String> {
    let foreign = || "this is no image of esxi-rescue (no partition table in it)".to_owned();
    let damaged = || "damaged: its partition table is garbled".to_owned();
    let header: &[u8; 92] = bytes
        .get(SECTOR_BYTES..)
        .and_then(<[u8]>::first_chunk)
        .filter(|header| header.starts_with(b"EFI PART"))
        .ok_or_else(foreign)?;
    let mut summed = *header;
    summed[16..20].fill(0);
    if number(&header[12..16]) != 92 || crc32(&summed) != number(&header[16..20]) {
        return Err(damaged());
    }
    let byte = |sector: usize| sector.checked_mul(SECTOR_BYTES);
    let end = number(&header[32..40]).checked_add(1).and_then(byte);
    if end != Some(bytes.len()) {
        return Err(format!(
            "damaged: cut short or padded: it has {} bytes, its partition table is for {}",
            bytes.len(),
            end.unwrap_or(usize::MAX)
        ));
    }
    let (count, size) = (number(&header[80..84]), number(&header[84..88]));
    let entries = byte(number(&header[72..80]))
        .and_then(|start| bytes.get(start..)?.get(..count.checked_mul(size)?))
        .filter(|entries| crc32(entries) == number(&header[88..92]))
        .ok_or_else(damaged)?;
    let (entries, rest) = entries.as_chunks::<128>();
    if size != 128 || !rest.is_empty() {
        return Err(damaged());
    }
    let esp = entries
        .iter()
        .find(|entry| entry[..16] == iso::ESP_TYPE_BYTES)
        .ok_or_else(|| "this is no image of esxi-rescue (no EFI system partition)".to_owned())?;
    let start = byte(number(&esp[32..40]));
    let end = number(&esp[40..48]).checked_add(1).and_then(byte);
    match (start, end) {
        (Some(start), Some(end)) if start < end && end <= bytes.len() => Ok(start..end),
        _ => Err("damaged: its EFI system partition lies outside of it".to_owned()),
    }
}

/// A number, its least byte first. Larger ones than fit lead nowhere.
fn number(bytes: &[u8]) -> usize {
    let value = bytes
        .iter()
        .rev()
        .fold(0, |value: u64, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The checksum of GPT's header and entries.
fn crc32(bytes: &[u8]) -> usize {
    let sum = !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    });
    sum as usize
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

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Err(Error::input(to, "is there already; name a new directory"));
    }
    fs::create_dir_all(to).map_err(Error::io("create", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let path = entry.map_err(Error::io("list", from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_tree(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(Error::io("copy", &path))?;
        }
    }
    Ok(())
}

/// Writes beside the target and renames, so that a failure leaves the old file whole.
fn replace(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = target
        .file_name()
        .ok_or_else(|| Error::input(target, "the output has no file name"))?
        .to_owned();
    name.push(".new");
    let temp = target.with_file_name(name);
    fs::write(&temp, bytes).map_err(Error::io("write", &temp))?;
    fs::rename(&temp, target).map_err(Error::io("write", target))
}
