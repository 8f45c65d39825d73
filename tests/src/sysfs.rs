//! Folders that look like a machine: a sysfs tree made from a short description in TOML.
//!
//! A description lists PCI functions by their place below `/sys/devices`, disks by the place of
//! their device, what each disk holds, and which functions are passed through, with the verdict
//! expected on each. The tree has what Linux shows of them, links included.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A machine as its file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What it is an example of.
    pub about: String,
    /// PCI functions: `PLACE VENDOR:DEVICE CLASS [DRIVER]`.
    pub functions: Vec<String>,
    /// Its disks.
    pub disk: Vec<Disk>,
    /// What is passed through, and what should become of it.
    pub passed_through: Vec<Expected>,
}

/// A disk of the machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name, such as `sda`.
    pub name: String,
    /// Its device, below `/sys/devices`.
    pub at: String,
    /// Controllers that the device's folder links to, below `/sys/devices`.
    #[serde(default)]
    pub links: Vec<String>,
    /// Whether its medium can be taken out.
    #[serde(default)]
    pub removable: bool,
    /// Its world-wide name.
    pub wwid: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// `esxi-VERSION`, `datastore`, `vsan`, `core-dump`, `reserved` or `other`; `copy-of NAME` for the
    /// same bytes once more, `later-copy-of NAME` for that installation (of 6.7) with a configuration that
    /// was saved more often, `path-to NAME` for the same disk under another name.
    pub holds: String,
}

/// A function that is passed through in both banks, and the verdict on it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Its address, as Linux spells it.
    pub address: String,
    /// What it was when ESXi recorded it; nothing where the version does not record it, `none` where
    /// somebody added the line by hand.
    pub id: Option<String>,
    /// Its class then, six hex digits.
    pub class: Option<String>,
    /// `give-back`, `leave`, `stale` or `unsure`.
    pub verdict: String,
    /// Part of the reason.
    pub reason: String,
    /// The recorded ID, where the report is to say that it differs from what is there now.
    pub was: Option<String>,
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// When the file is missing or no description.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads a description from text.
    ///
    /// # Errors
    /// When it is no description.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Makes the tree below `root`; `bytes` gives each disk's size.
    ///
    /// # Errors
    /// When a line of the description is malformed or a file cannot be made.
    pub fn make(&self, root: &Path, bytes: impl Fn(&Disk) -> Result<u64>) -> Result<()> {
        for folder in ["sys/bus/pci/devices", "sys/block", "sys/class/dmi/id"] {
            fs::create_dir_all(root.join(folder))?;
        }
        put(&root.join("sys/class/dmi/id"), "product_name", &self.about)?;
        for function in &self.functions {
            make_function(root, function).with_context(|| function.clone())?;
        }
        for disk in &self.disk {
            make_disk(root, disk, bytes(disk)?).with_context(|| disk.name.clone())?;
        }
        Ok(())
    }
}

fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    Ok(fs::write(folder.join(name), format!("{text}\n"))?)
}

fn make_function(root: &Path, line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let mut word = || {
        words
            .next()
            .context("a function is PLACE VENDOR:DEVICE CLASS")
    };
    let (place, id, class) = (word()?, word()?, word()?);
    let (vendor, device) = id.split_once(':').context("an ID is VENDOR:DEVICE")?;
    let folder = root.join("sys/devices").join(place);
    fs::create_dir_all(&folder)?;
    put(&folder, "vendor", &format!("0x{vendor}"))?;
    put(&folder, "device", &format!("0x{device}"))?;
    put(&folder, "class", &format!("0x{class}"))?;
    if let Some(driver) = words.next() {
        let driver = root.join("sys/bus/pci/drivers").join(driver);
        fs::create_dir_all(&driver)?;
        symlink(driver, folder.join("driver"))?;
    }
    let address = Path::new(place).file_name().context("a place has a name")?;
    symlink(&folder, root.join("sys/bus/pci/devices").join(address))?;
    Ok(())
}

fn make_disk(root: &Path, disk: &Disk, bytes: u64) -> Result<()> {
    let device = root.join("sys/devices").join(&disk.at);
    // NVMe namespaces hang on their device directly; other disks in its folder `block`.
    let parent: PathBuf = match disk.name.starts_with("nvme") {
        true => device.clone(),
        false => device.join("block"),
    };
    let folder = parent.join(&disk.name);
    fs::create_dir_all(&folder)?;
    put(&folder, "size", &(bytes / 512).to_string())?;
    put(&folder, "removable", if disk.removable { "1" } else { "0" })?;
    put(&device, "model", "TEST DISK")?;
    for (name, value) in [("wwid", &disk.wwid), ("serial", &disk.serial)] {
        if let Some(value) = value {
            put(&device, name, value)?;
        }
    }
    symlink(&device, folder.join("device"))?;
    for link in &disk.links {
        let controller = root.join("sys/devices").join(link);
        fs::create_dir_all(&controller)?;
        let name = controller.file_name().context("a controller has a name")?;
        symlink(&controller, device.join(name))?;
    }
    symlink(&folder, root.join("sys/block").join(&disk.name))?;
    Ok(())
}
