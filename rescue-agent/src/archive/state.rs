//! The state archive as a whole: its layers opened from outside in, its configuration read, and
//! the same archive built again with edited owners.
//!
//! | ESXi | file | layers |
//! |---|---|---|
//! | 4.x embedded, `onetime.tgz` | `local.tgz` | gzip, tar of `etc/…` |
//! | 4.x installable to 7.0U1 | `state.tgz` | gzip, tar, `local.tgz`: gzip, tar of `etc/…` |
//! | 7.0U2 on | `state.tgz` | gzip, tar, `local.tgz.ve`: envelope, gzip, tar of `etc/…` |
//!
//! A layer left uncompressed by a repair by hand is read too. ESXi's loader takes it with a warning;
//! whether ESXi itself does is not known, so that what is written is always gzip.
//!
//! An archive holds private keys and password hashes: nothing here shows or keeps member contents
//! beyond the lines that name devices.

use std::thread;

use thiserror::Error;

use super::envelope::{Envelope, EnvelopeError};
use super::gzip::{self, GzipError};
use super::keystore::{Key, Keystore, KeystoreError, Mode};
use super::recovery_key::RecoveryKey;
use super::tar::{self, Member, TarError};
use crate::config::boot_script::{self, BootMark};
use crate::config::configstore::{self, ConfigStoreError, Store, StoreDevice};
use crate::config::esx_conf::{self, ByteRange, DeviceLines, EsxConf, EsxConfError};

/// What is left to do for a bank that cannot be repaired. The loader permanently stops using the bank that Shift+R leaves
/// ([`crate::bank`]).
macro_rules! other_bank {
    () => {
        "if this bank boots next and the other bank is repaired, or needs no repair, press Shift+R at ESXi's loader and confirm: \
         it starts the other bank, and permanently stops using this one"
    };
}
pub(crate) use other_bank;

/// Limit for every unpacked layer. Real ones are below 10 MiB; the limit stands for archives that
/// expand without end.
pub const MAX_UNPACKED_BYTES: usize = 256 << 20;
/// What a small archive may unpack to, twice what any real one does.
const SMALL_UNPACKED_BYTES: usize = 24 << 20;
/// Beyond that, so many times its own size. Real configurations take a tenth when packed; deflate
/// could make a thousandth of zeros, and so a file of a kilobyte fill the memory.
const MAX_UNPACKED_RATIO: usize = 24;

/// How many bytes each layer of an archive may unpack to: memory follows the archive's size.
pub(super) fn unpacked_limit(raw: &[u8]) -> usize {
    let of_its_size = raw.len().saturating_mul(MAX_UNPACKED_RATIO);
    of_its_size.clamp(SMALL_UNPACKED_BYTES, MAX_UNPACKED_BYTES)
}

/// Size of a `local.tgz` up to which it is proven while the layers around it are made, which needs
/// the unpacked configuration for longer.
const PROVEN_ASIDE_BYTES_MAX: usize = 16 << 20;

/// Lines of boot scripts that are reported of one archive.
const MAX_BOOT_MARKS: usize = 64;

/// The outermost layer, in messages.
const OUTER: &str = "the archive";
const LOCAL: &str = "local.tgz";
const SEALED: &str = "local.tgz.ve";
/// Both spellings occur; the second is how ESXi marks files it keeps across reboots.
const KEYSTORES: [&str; 2] = ["encryption.info", ".#encryption.info"];
const ESX_CONF: &str = "etc/vmware/esx.conf";
const CONFIG_STORE: &str = "var/lib/vmware/configstore/backup/current-store-1";
/// What SQLite leaves beside a store that was not closed, by the ends of their names: a part of the
/// store is there, or was.
const STORE_LEFTOVERS: [&str; 3] = ["-journal", "-wal", "-shm"];
const BACKUP_COUNTER: &str = "etc/vmware/.backup.counter";
/// Scripts that ESXi runs at the end of each start.
const BOOT_SCRIPTS: &str = "etc/rc.local.d";
/// What precedes the name of a file in that of a marker that ESXi keeps beside it.
const MARKER: &str = ".#";

/// Why an archive cannot be opened, read or built.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Neither gzip nor tar.
    #[error("{layer} is neither a gzip nor a tar file")]
    NotAnArchive {
        /// Which layer.
        layer: &'static str,
    },
    /// A gzip layer is damaged.
    #[error("{layer}: {source}")]
    Gzip {
        /// Which layer.
        layer: &'static str,
        /// What is wrong.
        source: GzipError,
    },
    /// A tar layer is damaged.
    #[error("{layer}: {source}")]
    Tar {
        /// Which layer.
        layer: &'static str,
        /// What is wrong.
        source: TarError,
    },
    /// The configuration is encrypted with a key that only this host's TPM has.
    #[error("the configuration is encrypted with a key sealed in the host's TPM")]
    SealedByTpm(Seal),
    /// The configuration is encrypted in a way this program does not know.
    #[error("the configuration is encrypted in an unknown mode \"{}\"", .0.mode)]
    UnknownMode(Seal),
    /// A recovery key was given, and it is the key of something else.
    #[error(
        "the recovery key that was given is not the key of this archive{}: it is from another host, or this host had another key then, or ESXi uses it for something else",
        .0.named()
    )]
    OtherRecoveryKey(Seal),
    /// The key's description is missing.
    #[error(
        "the configuration is encrypted (local.tgz.ve), but encryption.info, which contains the key, is missing"
    )]
    NoKeystore,
    /// The key's description is damaged.
    #[error("encryption.info: {0}")]
    Keystore(#[from] KeystoreError),
    /// The envelope cannot be opened or closed.
    #[error("local.tgz.ve: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Both an encrypted and a plain configuration.
    #[error("it holds both local.tgz and local.tgz.ve; which one ESXi would read is not known")]
    PlainAndSealed,
    /// No place where an owner could stand.
    #[error("it holds neither etc/vmware/esx.conf nor a ConfigStore")]
    NoConfiguration,
    /// esx.conf is malformed.
    #[error("esx.conf: {0}")]
    EsxConf(#[from] EsxConfError),
    /// The ConfigStore cannot be read or changed safely.
    #[error("ConfigStore: {0}")]
    ConfigStore(#[from] ConfigStoreError),
    /// The ConfigStore was in use when it was saved.
    #[error("the ConfigStore was in use when it was saved: current-store-1{0} is next to it")]
    StoreNotClosed(&'static str),
    /// The result is not what it should be. Nothing was written.
    #[error("the new archive, opened again, does not have the intended content: {0}")]
    NotAsMeant(&'static str),
}

impl ArchiveError {
    /// What an administrator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::SealedByTpm(_) | Self::UnknownMode(_) | Self::OtherRecoveryKey(_) => {
                "let ESXi itself give the devices back: the commands for this host are under Next, in the report, \
                 in the menu (h) and in docs/sealed.md"
            }
            Self::NotAnArchive { .. } | Self::Gzip { .. } | Self::Tar { .. } => {
                concat!("the archive is damaged; ", other_bank!())
            }
            Self::NoKeystore | Self::Keystore(_) | Self::Envelope(_) => {
                concat!("ESXi cannot open this archive either; ", other_bank!())
            }
            _ => {
                concat!(
                    "this program cannot change this archive safely; ",
                    other_bank!()
                )
            }
        }
    }

    /// How the archive is encrypted, where that is why it cannot be opened: ESXi on its host can open it.
    pub fn seal(&self) -> Option<&Seal> {
        match self {
            Self::SealedByTpm(seal) | Self::UnknownMode(seal) | Self::OtherRecoveryKey(seal) => {
                Some(seal)
            }
            _ => None,
        }
    }
}

/// How an archive is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Where its key is kept.
    pub mode: Mode,
    /// The name of its key, as ESXi spells it.
    pub key_id: Option<String>,
}

impl Seal {
    /// Whether only the host's TPM, or something else outside of the archive, has the key.
    pub fn is_closed(&self) -> bool {
        self.mode != Mode::None
    }

    fn named(&self) -> String {
        let key_id = self.key_id.as_ref();
        key_id
            .map(|id| format!(" (named {id})"))
            .unwrap_or_default()
    }
}

/// How the configuration is wrapped.
#[derive(Debug)]
enum Wrapping {
    /// The file itself is the tar of `etc/…`.
    Bare,
    /// A tar around `local.tgz`.
    Nested { outer: Vec<u8>, member: Member },
    /// A tar around an envelope around `local.tgz`.
    Sealed {
        outer: Vec<u8>,
        member: Member,
        key: Key,
        seal: Seal,
    },
}

/// An opened archive.
#[derive(Debug)]
pub struct StateArchive {
    wrapping: Wrapping,
    /// The tar of `etc/…`.
    etc: Vec<u8>,
    places: Places,
    uncompressed: bool,
}

/// Where in the tar of `etc/…` the files stand that matter here.
#[derive(Debug)]
struct Places {
    esx_conf: Option<Member>,
    store: Option<Member>,
    store_leftover: Option<&'static str>,
    backup_counter: Option<Member>,
    /// Each with its path from the root.
    boot_scripts: Vec<(String, Member)>,
}

impl Places {
    fn find(etc: &[u8], layer: &'static str) -> Result<Self, ArchiveError> {
        let members = tar::members(etc).map_err(in_tar(layer))?;
        let mut store_leftover = None;
        for end in STORE_LEFTOVERS {
            if member(&members, &format!("{CONFIG_STORE}{end}"), layer)?.is_some() {
                store_leftover = Some(end);
            }
        }
        Ok(Self {
            esx_conf: member(&members, ESX_CONF, layer)?,
            store: member(&members, CONFIG_STORE, layer)?,
            store_leftover,
            backup_counter: member(&members, BACKUP_COUNTER, layer)?,
            boot_scripts: tar::files_below(&members, BOOT_SCRIPTS)
                .into_iter()
                .filter(|(path, _)| !is_marker(path))
                .map(|(path, member)| (path, member.clone()))
                .collect(),
        })
    }
}

/// When ESXi saved the configuration, by its own counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupCounter {
    /// How often it has been saved.
    pub count: u64,
    /// The date in ESXi's comment, as it stands there.
    pub modified: Option<String>,
}

/// What an archive says of the host it is of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// ESXi's own UUID of the system, made when it was installed.
    pub system_uuid: Option<String>,
    /// The host's name.
    pub host_name: Option<String>,
}

/// What an archive says about devices.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// The host.
    pub identity: Identity,
    /// The device entries of esx.conf; `None` where the archive has no esx.conf.
    pub esx_conf: Option<Vec<DeviceLines>>,
    /// The devices of the ConfigStore; `None` where the archive has none.
    pub store: Option<Vec<StoreDevice>>,
    /// When it was saved.
    pub saved: Option<BackupCounter>,
    /// The volume UUID of the bank the ConfigStore was saved in, 32 hex digits.
    pub store_bank: Option<String>,
    /// Lines of boot scripts that pass devices through at each start.
    pub boot_marks: Vec<BootMark>,
}

/// What to change, within the places where owners stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Values `passthru` of esx.conf, by their place in it.
    pub esx_conf: Vec<ByteRange>,
    /// Rows of the ConfigStore, by their identifier.
    pub store: Vec<String>,
}

impl StateArchive {
    /// Opens every layer of `raw`, the bytes of a file in a bank.
    ///
    /// # Errors
    /// [`ArchiveError`], naming the layer.
    pub fn open(raw: &[u8]) -> Result<Self, ArchiveError> {
        Self::open_with(raw, None)
    }

    /// Like [`StateArchive::open`], also where the key is the recovery key of the host.
    ///
    /// # Errors
    /// [`ArchiveError`], naming the layer.
    pub fn open_with(raw: &[u8], given: Option<&RecoveryKey>) -> Result<Self, ArchiveError> {
        let limit = unpacked_limit(raw);
        let (outer, outer_gzip) = unwrap(raw, OUTER, limit)?;
        let members = tar::members(&outer).map_err(in_tar(OUTER))?;
        let (wrapping, etc, inner_gzip) = match (
            member(&members, SEALED, OUTER)?,
            member(&members, LOCAL, OUTER)?,
        ) {
            (Some(_), Some(_)) => return Err(ArchiveError::PlainAndSealed),
            (Some(member), None) => {
                let (seal, local, key) = unseal(&outer, &members, &member, given)?;
                let (etc, gzip) = unwrap(&local, LOCAL, limit)?;
                let sealed = Wrapping::Sealed {
                    outer,
                    member,
                    key,
                    seal,
                };
                (sealed, etc, gzip)
            }
            (None, Some(member)) => {
                let (etc, gzip) = unwrap(&outer[member.data.clone()], LOCAL, limit)?;
                (Wrapping::Nested { outer, member }, etc, gzip)
            }
            (None, None) => (Wrapping::Bare, outer, outer_gzip),
        };
        let places = Places::find(&etc, LOCAL)?;
        Ok(Self {
            wrapping,
            etc,
            places,
            uncompressed: !(outer_gzip && inner_gzip),
        })
    }

    /// How the configuration is encrypted; `None`: not at all.
    pub fn seal(&self) -> Option<&Seal> {
        match &self.wrapping {
            Wrapping::Sealed { seal, .. } => Some(seal),
            Wrapping::Bare | Wrapping::Nested { .. } => None,
        }
    }

    /// Whether the file itself is the tar of `etc/…`, as `local.tgz` is.
    pub fn is_bare(&self) -> bool {
        matches!(self.wrapping, Wrapping::Bare)
    }

    /// Whether the outermost layer of a file is compressed.
    pub fn is_compressed(raw: &[u8]) -> bool {
        gzip::is_gzip(raw)
    }

    /// Whether a layer is uncompressed, as a repair by hand leaves it.
    pub fn is_uncompressed(&self) -> bool {
        self.uncompressed
    }

    /// What the archive says about devices.
    ///
    /// # Errors
    /// [`ArchiveError::NoConfiguration`], [`ArchiveError::StoreNotClosed`], or what is malformed.
    pub fn configuration(&self) -> Result<Configuration, ArchiveError> {
        if let Some(leftover) = self.places.store_leftover {
            return Err(ArchiveError::StoreNotClosed(leftover));
        }
        let esx_conf = match self.content(self.places.esx_conf.as_ref()) {
            Some(text) => Some(esx_conf::parse(text)?),
            None => None,
        };
        let identity = esx_conf
            .as_ref()
            .map_or_else(Identity::default, |conf| Identity {
                system_uuid: conf.system_uuid().map(str::to_owned),
                host_name: conf.host_name().map(str::to_owned),
            });
        let esx_conf = esx_conf.map(EsxConf::into_devices);
        let store = self
            .content(self.places.store.as_ref())
            .map(Store::open)
            .transpose()?;
        if esx_conf.is_none() && store.is_none() {
            return Err(ArchiveError::NoConfiguration);
        }
        let saved = self
            .content(self.places.backup_counter.as_ref())
            .and_then(backup_counter);
        // It decides nothing, so that a store without it is no less sound.
        let store_bank = store
            .as_ref()
            .and_then(|store| store.boot_fs_uuid().ok().flatten());
        Ok(Configuration {
            identity,
            store_bank,
            esx_conf,
            store: store.as_ref().map(Store::devices).transpose()?,
            saved,
            boot_marks: self.boot_marks(),
        })
    }

    /// Gives the owners of `edit` back to ESXi, in memory. Every other byte of the configuration
    /// is kept.
    ///
    /// # Errors
    /// [`ArchiveError`] when a place does not hold what `edit` says. The archive cannot be used then.
    pub fn edit(&mut self, edit: &Edit) -> Result<(), ArchiveError> {
        if let Some(member) = &self.places.esx_conf {
            esx_conf::give_back(&mut self.etc[member.data.clone()], &edit.esx_conf).map_err(
                |_| ArchiveError::NotAsMeant("esx.conf does not say passthru where it did"),
            )?;
        } else if !edit.esx_conf.is_empty() {
            return Err(ArchiveError::NoConfiguration);
        }
        if edit.store.is_empty() {
            return Ok(());
        }
        let member = self
            .places
            .store
            .as_ref()
            .ok_or(ArchiveError::NoConfiguration)?;
        let store = configstore::give_back(&self.etc[member.data.clone()], &edit.store)?;
        match store.len() == member.data.len() {
            true => tar::replace_in_place(&mut self.etc, member, &store),
            false => tar::replace(&self.etc, member, &store).map(|etc| self.etc = etc),
        }
        .map_err(in_tar(LOCAL))?;
        self.places = Places::find(&self.etc, LOCAL)?;
        Ok(())
    }

    /// Whether it is what a repair makes of `original`: only owners differ, and each of those that do was
    /// passed through and is given back.
    pub fn is_made_from(&self, original: &Self) -> bool {
        let (Ok(was), Ok(is)) = (tar::members(&original.etc), tar::members(&self.etc)) else {
            return false;
        };
        let same_names =
            was.len() == is.len() && was.iter().zip(&is).all(|(was, is)| was.path == is.path);
        let is_file = |member: &Member, found: &Option<Member>| {
            found
                .as_ref()
                .is_some_and(|found| found.data == member.data)
        };
        same_names
            && was.iter().zip(&is).all(|(was, is)| {
                let (before, after) = (&original.etc[was.data.clone()], &self.etc[is.data.clone()]);
                match (
                    is_file(was, &original.places.esx_conf),
                    is_file(was, &original.places.store),
                ) {
                    (true, _) => esx_conf::is_given_back(before, after),
                    (_, true) => configstore::is_given_back(before, after),
                    _ => before == after,
                }
            })
    }

    /// Builds the file, and proves of every layer that it opens to what was put in. Outside the
    /// configuration every byte of the outer tar is kept.
    ///
    /// # Errors
    /// [`ArchiveError`] when a layer cannot be made, or the proof fails.
    pub fn pack(self) -> Result<Vec<u8>, ArchiveError> {
        let Self { wrapping, etc, .. } = self;
        let local = gzip::deflate(&etc).map_err(in_gzip(LOCAL))?;
        if local.len() > PROVEN_ASIDE_BYTES_MAX {
            prove(&local, &etc, LOCAL)?;
            drop(etc);
            return wrapping.around(local);
        }
        thread::scope(|scope| {
            let copy = local.clone();
            let proof = scope.spawn(move || prove(&copy, &etc, LOCAL));
            let packed = wrapping.around(local);
            let failed = Err(ArchiveError::NotAsMeant("the verification did not finish"));
            proof.join().unwrap_or(failed).and(packed)
        })
    }

    /// Bytes of memory that its layers take.
    pub fn memory_bytes(&self) -> usize {
        let outer = match &self.wrapping {
            Wrapping::Bare => 0,
            Wrapping::Nested { outer, .. } | Wrapping::Sealed { outer, .. } => outer.capacity(),
        };
        self.etc.capacity() + outer
    }

    /// Lines of its boot scripts that pass devices through. Nothing in a script makes the archive unsound.
    pub fn boot_marks(&self) -> Vec<BootMark> {
        let scripts = self.places.boot_scripts.iter();
        scripts
            .flat_map(|(path, member)| boot_script::marks(path, &self.etc[member.data.clone()]))
            .take(MAX_BOOT_MARKS)
            .collect()
    }

    fn content(&self, member: Option<&Member>) -> Option<&[u8]> {
        member.map(|member| &self.etc[member.data.clone()])
    }
}

impl Wrapping {
    /// The file around a new `local.tgz`.
    fn around(self, local: Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
        match self {
            Self::Bare => Ok(local),
            Self::Nested { outer, member } => pack_outer(&outer, &member, LOCAL, &local),
            Self::Sealed {
                outer, member, key, ..
            } => {
                // Sealing opens the result and compares.
                let sealed = Envelope::parse(&outer[member.data.clone()])?.seal(&key, &local)?;
                pack_outer(&outer, &member, SEALED, &sealed)
            }
        }
    }
}

/// Proves that a compressed layer opens to its content.
fn prove(packed: &[u8], content: &[u8], layer: &'static str) -> Result<(), ArchiveError> {
    match gzip::inflates_to(packed, content).map_err(in_gzip(layer))? {
        true => Ok(()),
        false => Err(ArchiveError::NotAsMeant("a layer's content differs")),
    }
}

/// Puts `content` in the place of `old_member` (called `name`) of the outer tar and compresses it.
fn pack_outer(
    old: &[u8],
    old_member: &Member,
    name: &str,
    content: &[u8],
) -> Result<Vec<u8>, ArchiveError> {
    let new = tar::replace(old, old_member, content).map_err(in_tar(OUTER))?;
    let members = tar::members(&new).map_err(in_tar(OUTER))?;
    let found = member(&members, name, OUTER)?
        .filter(|found| found.content(&new) == Some(content))
        .ok_or(ArchiveError::NotAsMeant("its configuration differs"))?;
    if found.path != old_member.path || around(&new, &found) != around(old, old_member) {
        return Err(ArchiveError::NotAsMeant("its outer members differ"));
    }
    let raw = gzip::deflate(&new).map_err(in_gzip(OUTER))?;
    prove(&raw, &new, OUTER)?;
    Ok(raw)
}

/// What stands before a member's header and behind its content.
fn around<'a>(archive: &'a [u8], member: &Member) -> (&'a [u8], &'a [u8]) {
    let behind = member.data.end.next_multiple_of(tar::BLOCK_BYTES);
    (
        &archive[..member.header_offset],
        &archive[behind.min(archive.len())..],
    )
}

/// Takes the gzip layer off, where there is one; returns whether there was.
fn unwrap(
    bytes: &[u8],
    layer: &'static str,
    limit: usize,
) -> Result<(Vec<u8>, bool), ArchiveError> {
    if gzip::is_gzip(bytes) {
        return Ok((gzip::inflate(bytes, limit).map_err(in_gzip(layer))?, true));
    }
    match tar::is_tar(bytes) {
        true => Ok((bytes.to_vec(), false)),
        false => Err(ArchiveError::NotAnArchive { layer }),
    }
}

/// Takes the envelope off: how it was closed, what is inside, and the key.
fn unseal(
    outer: &[u8],
    members: &[Member],
    sealed: &Member,
    given: Option<&RecoveryKey>,
) -> Result<(Seal, Vec<u8>, Key), ArchiveError> {
    let [plain, marked] = KEYSTORES;
    let keystore = match member(members, plain, OUTER)? {
        Some(keystore) => keystore,
        None => member(members, marked, OUTER)?.ok_or(ArchiveError::NoKeystore)?,
    };
    let keystore = Keystore::parse(&outer[keystore.data.clone()])?;
    let envelope = Envelope::parse(&outer[sealed.data.clone()]);
    let named_by_envelope = || Some(envelope.as_ref().ok()?.key_info());
    let seal = Seal {
        mode: keystore.mode().clone(),
        key_id: keystore.key_id().or_else(named_by_envelope),
    };
    let fitting = |given: &RecoveryKey, envelope: &Envelope<'_>| {
        let mut candidates = given.candidates().iter();
        candidates.find(|key| envelope.fits(key)).cloned()
    };
    // One that is damaged cannot be used by its own host either.
    let envelope = envelope?;
    let key = match (keystore.own_key(), given) {
        (Some(key), _) => key,
        (None, Some(given)) => {
            let key = fitting(given, &envelope);
            key.ok_or_else(|| ArchiveError::OtherRecoveryKey(seal.clone()))?
        }
        (None, None) if seal.mode == Mode::Tpm => return Err(ArchiveError::SealedByTpm(seal)),
        (None, None) => return Err(ArchiveError::UnknownMode(seal)),
    };
    let local = envelope.open(&key)?;
    Ok((seal, local, key))
}

fn is_marker(path: &str) -> bool {
    let name = path.rsplit('/').next();
    name.is_some_and(|name| name.starts_with(MARKER))
}

/// Reads `etc/vmware/.backup.counter`: comment lines, one of them `# MODIFIED: <date>`, and an
/// integer.
fn backup_counter(text: &[u8]) -> Option<BackupCounter> {
    let text = String::from_utf8_lossy(text);
    let count = text.lines().find_map(|line| line.trim().parse().ok())?;
    let modified = text
        .lines()
        .find_map(|line| {
            line.trim_start_matches('#')
                .trim()
                .strip_prefix("MODIFIED:")
        })
        .map(|date| date.trim().to_owned());
    Some(BackupCounter { count, modified })
}

/// The member of that path, the last of several, as unpacking would have it.
fn member(
    members: &[Member],
    path: &str,
    layer: &'static str,
) -> Result<Option<Member>, ArchiveError> {
    let found = tar::find(members, path).map_err(in_tar(layer))?;
    Ok(found.map(|found| found.member.clone()))
}

fn in_gzip(layer: &'static str) -> impl Fn(GzipError) -> ArchiveError {
    move |source| ArchiveError::Gzip { layer, source }
}

fn in_tar(layer: &'static str) -> impl Fn(TarError) -> ArchiveError {
    move |source| ArchiveError::Tar { layer, source }
}
