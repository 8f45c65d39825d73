//! The state archive of a bank, packed by GNU tar and gzip from a folder of files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::config_store::{self, StoreLeft};
use super::host::{self, Device, Spelling};
use crate::tools::{Tool, crate_file};

/// Path of the configuration file inside local.tgz.
pub const ESX_CONF: &str = "etc/vmware/esx.conf";

/// Path of the ConfigStore inside local.tgz.
pub const CONFIG_STORE: &str = "var/lib/vmware/configstore/backup/current-store-1";

/// Bytes of the two zero blocks that end a tar.
const TAR_END_BYTES: usize = 1024;

/// What a member of the archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A regular file.
    File(Vec<u8>),
    /// A symbolic link to this target.
    Link(&'static str),
}

/// A member of local.tgz.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path without a leading slash.
    pub path: String,
    /// Permission bits, sticky bit included: ESXi uses it as a mark of its own.
    pub mode: u32,
    /// What it holds.
    pub content: Content,
}

impl Member {
    /// A regular file.
    pub fn file(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            mode,
            content: Content::File(bytes.into()),
        }
    }

    /// A symbolic link.
    pub fn link(path: &str, target: &'static str) -> Self {
        Self {
            path: path.into(),
            mode: 0o777,
            content: Content::Link(target),
        }
    }
}

/// Tar dialects met in the wild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// What ESXi writes: old GNU magic, no padding after the two zero blocks.
    OldGnu,
    /// GNU tar by hand, padded to 10240 bytes, with somebody's uid.
    GnuByHand,
    /// POSIX ustar.
    Ustar,
    /// POSIX pax.
    Pax,
}

/// How the files of a bank's configuration lie inside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// `local.tgz` in the bank's root: 3.5 and 4.x embedded.
    Local,
    /// `state.tgz` around `local.tgz`: 4.x installable to 7.0 Update 1.
    State,
    /// `state.tgz` around the sealed `local.tgz.ve` and `encryption.info`: 7.0 Update 2 on.
    Sealed(Seal),
}

/// How an envelope is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// `mode` of encryption.info: `NONE`, `TPM`, or something unheard of.
    pub mode: &'static str,
    /// Name of the keystore member: `encryption.info` or `.#encryption.info`.
    pub keystore: &'static str,
    /// What is wrong with it, as fixtures/seal.py calls it.
    pub defect: Option<&'static str>,
    /// What the key is made from, the same for all archives of a host; `None`: each has its own.
    pub key: Option<&'static str>,
    /// Whether the plain `local.tgz` lies beside the sealed one.
    pub plain_beside: bool,
}

impl Seal {
    /// By the TPM of a host, whose key is made from this seed.
    pub fn by_tpm(key: &'static str) -> Self {
        Self {
            mode: "TPM",
            key: Some(key),
            ..Self::default()
        }
    }
}

/// A key of a host's TPM, in every form in which a person or a program may show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryKey {
    /// 16 groups of six digits, separated by `-`.
    pub groups: String,
    /// Its bytes in hex, small letters.
    pub hex: String,
    /// Its bytes in base64.
    pub base64: String,
}

impl RecoveryKey {
    /// That of the host with this seed. `order` is that of the two bytes in a group: `big` or `little`.
    ///
    /// # Errors
    /// When Python is missing.
    pub fn of(seed: &str, order: &str) -> Result<Self> {
        let said = Tool::new("python3")?
            .arg(crate_file("fixtures/recovery_key.py"))
            .args([seed, order])
            .run_text()?;
        let mut lines = said.lines().map(str::to_owned);
        let mut line = || lines.next().context("three lines");
        Ok(Self {
            groups: line()?,
            hex: line()?,
            base64: line()?,
        })
    }
}

impl Default for Seal {
    fn default() -> Self {
        Self {
            mode: "NONE",
            keystore: "encryption.info",
            defect: None,
            key: None,
            plain_beside: false,
        }
    }
}

/// What is wrong with the file in the bank's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// There is none.
    Missing,
    /// The file stops in its middle.
    Truncated,
    /// Bytes that are no archive at all.
    Garbage,
    /// A file of no bytes.
    Empty,
    /// A second gzip member follows.
    SecondMember,
    /// The outer tar was left uncompressed by a repair by hand.
    PlainState,
    /// The inner tar was left uncompressed by a repair by hand.
    PlainLocal,
    /// Both were.
    PlainBoth,
}

/// A configuration archive, to be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The host's devices.
    pub devices: Vec<Device>,
    /// How esx.conf spells addresses.
    pub spelling: Spelling,
    /// Whether there is an esx.conf at all.
    pub esx_conf: bool,
    /// ESXi's own UUID of the system, in place of the usual one.
    pub system_uuid: Option<&'static str>,
    /// Whether esx.conf has `/device` lines: from 7.0 Update 2 it has none.
    pub device_lines: bool,
    /// Whether there is a ConfigStore.
    pub config_store: bool,
    /// How SQLite left the ConfigStore.
    pub store_left: StoreLeft,
    /// The other members, in order.
    pub members: Vec<Member>,
    /// The number in etc/vmware/.backup.counter.
    pub backup_counter: Option<u32>,
    /// When it was saved, seconds since 1970.
    pub saved: u64,
    /// Tar dialect of the inner archive.
    pub dialect: Dialect,
    /// Whether member names begin with `./`.
    pub dot_slash: bool,
    /// How the layers lie.
    pub layers: Layers,
    /// What is wrong with the result.
    pub flaw: Flaw,
}

impl Archive {
    /// Name of the file in the bank's root, upper case as a plain 8.3 entry shows it.
    pub fn root_name(&self) -> &'static str {
        if self.layers == Layers::Local {
            "LOCAL.TGZ"
        } else {
            "STATE.TGZ"
        }
    }

    /// The key of its envelope in hex, where that is not in the archive itself.
    ///
    /// # Errors
    /// When Python is missing.
    pub fn key(&self) -> Result<Option<String>> {
        match &self.layers {
            Layers::Sealed(Seal { key: Some(key), .. }) => {
                Ok(Some(RecoveryKey::of(key, "big")?.hex))
            }
            _ => Ok(None),
        }
    }

    /// Packs the archive inside `folder` and gives its path; `None` where there is to be none.
    pub fn pack(&self, folder: &Path, seed: &str) -> Result<Option<PathBuf>> {
        if self.flaw == Flaw::Missing {
            return Ok(None);
        }
        let file = folder.join("archive");
        match self.flaw {
            Flaw::Empty => fs::write(&file, [])?,
            Flaw::Garbage => fs::write(&file, noise(seed, 40_000))?,
            _ => self
                .pack_layers(folder, &file, seed)
                .context("packing a state archive")?,
        }
        self.damage(&file, seed)?;
        touch(&file, self.saved)?;
        Ok(Some(file))
    }

    fn pack_layers(&self, folder: &Path, file: &Path, seed: &str) -> Result<()> {
        let tree = folder.join("tree");
        let names = self.lay_out(&tree)?;
        let inner = tar(&tree, &names, self.dialect, self.saved)?;
        let local = if matches!(self.flaw, Flaw::PlainLocal | Flaw::PlainBoth) {
            inner
        } else {
            gzip(inner)?
        };
        if self.layers == Layers::Local {
            return Ok(fs::write(file, local)?);
        }
        let outer = folder.join("outer");
        fs::create_dir(&outer)?;
        let names = self.lay_out_outer(&outer, &local, seed)?;
        let state = tar(&outer, &names, Dialect::OldGnu, self.saved)?;
        let plain = matches!(self.flaw, Flaw::PlainState | Flaw::PlainBoth);
        Ok(fs::write(file, if plain { state } else { gzip(state)? })?)
    }

    /// Writes the members as files and gives their names in order.
    fn lay_out(&self, tree: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        fs::create_dir(tree)?;
        for member in self.all_members(tree)? {
            let path = tree.join(&member.path);
            fs::create_dir_all(path.parent().context("a member has a folder")?)?;
            match &member.content {
                Content::Link(target) => symlink(target, &path)?,
                Content::File(bytes) => {
                    fs::write(&path, bytes)?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(member.mode))?;
                }
            }
            let dot = if self.dot_slash { "./" } else { "" };
            names.push(format!("{dot}{}", member.path));
        }
        Ok(names)
    }

    fn all_members(&self, tree: &Path) -> Result<Vec<Member>> {
        let mut members = self.members.clone();
        if self.esx_conf {
            let devices: &[Device] = if self.device_lines {
                &self.devices
            } else {
                &[]
            };
            let mut text = host::esx_conf(devices, self.spelling);
            if let Some(uuid) = self.system_uuid {
                text = text.replace(host::SYSTEM_UUID, uuid);
            }
            // In the middle: a reader that stops early, or expects it last, shows.
            members.insert(members.len() / 2, Member::file(ESX_CONF, 0o1644, text));
        }
        if let Some(counter) = self.backup_counter {
            let text = format!(
                "# Generated file, do not edit\n# MODIFIED: {}\n{counter}\n",
                self.saved
            );
            members.push(Member::file("etc/vmware/.backup.counter", 0o644, text));
        }
        if self.config_store {
            let scratch = tree.with_extension("store");
            for (end, bytes) in config_store::make(&self.devices, self.store_left, &scratch)? {
                let name = format!("{CONFIG_STORE}{end}");
                members.push(Member::file(&name, 0o600, bytes));
            }
        }
        Ok(members)
    }

    /// Writes the members of the outer archive and gives their names in order.
    fn lay_out_outer(&self, outer: &Path, local: &[u8], seed: &str) -> Result<Vec<String>> {
        let plain = outer.join("local.tgz");
        fs::write(&plain, local)?;
        let Layers::Sealed(seal) = &self.layers else {
            return Ok(vec!["local.tgz".into()]);
        };
        let mut tool = Tool::new("python3")?
            .arg(crate_file("fixtures/seal.py"))
            .args(["--mode", seal.mode, "--seed", seed])
            .args([
                &plain,
                &outer.join("local.tgz.ve"),
                &outer.join(seal.keystore),
            ]);
        if let Some(key) = seal.key {
            tool = tool.args(["--key-seed", key]);
        }
        if let Some(defect) = seal.defect {
            tool = tool.args(["--defect", defect]);
        }
        tool.run().context("sealing local.tgz")?;
        let plain = seal.plain_beside.then_some("local.tgz");
        let names = ["local.tgz.ve", seal.keystore].into_iter().chain(plain);
        Ok(names
            .map(str::to_owned)
            .filter(|name| outer.join(name).exists())
            .collect())
    }

    fn damage(&self, file: &Path, seed: &str) -> Result<()> {
        let mut bytes = fs::read(file)?;
        match self.flaw {
            Flaw::Truncated => bytes.truncate(bytes.len() * 2 / 3),
            Flaw::SecondMember => bytes.extend(gzip(noise(seed, 100))?),
            _ => return Ok(()),
        }
        Ok(fs::write(file, bytes)?)
    }
}

/// Packs named files of a folder.
///
/// # Errors
/// When GNU tar is missing or fails.
pub fn tar(folder: &Path, names: &[String], dialect: Dialect, time: u64) -> Result<Vec<u8>> {
    let (format, owner, factor) = match dialect {
        Dialect::OldGnu => ("oldgnu", "root:0", "1"),
        Dialect::GnuByHand => ("gnu", "admin:1000", "20"),
        Dialect::Ustar => ("ustar", "root:0", "1"),
        Dialect::Pax => ("pax", "root:0", "20"),
    };
    let bytes = Tool::new("tar")?
        .folder(folder)
        .args([
            "--create",
            "--file=-",
            "--no-recursion",
            "--verbatim-files-from",
        ])
        .arg(format!("--format={format}"))
        .arg(format!("--owner={owner}"))
        .arg(format!("--group={owner}"))
        .arg(format!("--mtime=@{time}"))
        .arg(format!("--blocking-factor={factor}"))
        .arg("--files-from=-")
        .input(names.join("\n"))
        .run()?;
    ensure!(bytes.len() > TAR_END_BYTES, "GNU tar packed nothing");
    Ok(bytes)
}

/// Compresses as ESXi does: no name, no time, best compression (`1f8b 0800 00000000 02 03`).
///
/// # Errors
/// When gzip is missing or fails.
pub fn gzip(bytes: Vec<u8>) -> Result<Vec<u8>> {
    Tool::new("gzip")?
        .args(["-n", "-9", "-c"])
        .input(bytes)
        .run()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: &str, length: usize) -> Vec<u8> {
    // FNV-1a of the seed, then xorshift64*.
    let mut state = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sets a file's modification time, seconds since 1970.
pub(super) fn touch(file: &Path, time: u64) -> Result<()> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time);
    Ok(fs::File::options()
        .write(true)
        .open(file)?
        .set_modified(time)?)
}
