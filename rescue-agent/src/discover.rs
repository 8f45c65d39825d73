//! Looking: disks in, inventory out. Reads partition tables, the directories of FAT volumes with
//! VMware's mark, boot.cfg and the archives, and nothing else; writes nothing.

mod no_disk;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::libc::ENOMEDIUM;

use crate::archive::{ArchiveError, BackupCounter, RecoveryKey, StateArchive};
use crate::bank::{self, BootCfg, Candidate, VmfatMarker};
use crate::bytes::sha256_hex;
use crate::disk::partition::{self, Partition, PartitionError, PartitionProblem, PartitionTable};
use crate::disk::usage;
use crate::disk::{BlockDevice, ByteOffset, Disks, SectorSize};
use crate::fat::exchange::{self, Link};
use crate::fat::names::{ARCHIVES, Mark};
use crate::fat::{Entry, FatError, Region, ShortName, Volume};
use crate::inventory::{
    ArchiveFile, Bank, Content, ContentError, Disk, Inventory, Kept, Large, Loaded, NextBoot,
    NoDisk, NoTable, Suspect, UndoContent, UndoCopy,
};
use crate::loader::{self, LoadedArchive, LoaderView};
use crate::parallel;

/// Disks looked at side by side. They are waited for rather than computed with: enough that the
/// slowest one, and not their sum, is what takes time.
const PARALLEL_DISKS: usize = 64;

/// How long a disk has to show its partition table. A healthy one answers in a fraction of a second: the kernel lets it spin
/// up before it shows it. A read that the kernel has to repeat takes 30 s more, and is waited for; each read of a dead disk
/// takes a multiple of that (Linux `SD_TIMEOUT` and `SD_MAX_RETRIES`), and there would be many.
const TABLE_TIMEOUT: Duration = Duration::from_secs(45);

/// Bytes of opened archives that are kept for the planning. What real hosts have is a hundredth of
/// it; beyond, an archive is opened once more rather than more memory taken.
const KEPT_BYTES_MAX: usize = 96 << 20;
/// No archive is kept open that unpacks to more than this many times its size, many times what a real one
/// does: several small files must not take much memory.
const KEPT_RATIO_MAX: usize = 64;

/// Bytes of archives up to which those of a disk are opened side by side, since each takes several
/// times its size of memory meanwhile.
const OPENED_AT_ONCE_BYTES_MAX: usize = 16 << 20;
/// Below this sum a thread costs more memory than it saves time: what real hosts have is opened in a few
/// milliseconds, and something small that unpacks to much is not opened twice at once.
const OPENED_AT_ONCE_BYTES_MIN: usize = 2 << 20;

/// What archives say whose bytes are known, by the SHA-256 of these bytes in hex.
pub type Known = HashMap<String, Content>;

/// Looks at every disk of `paths`, many at once; the result keeps their order.
pub fn discover(paths: &[PathBuf], disks: &dyn Disks) -> Inventory {
    look_at(paths, disks, &Known::new(), None)
}

/// Like [`discover`]: every disk is read as if never seen, but an archive whose bytes turn out to be
/// known is not opened once more.
pub fn discover_again(paths: &[PathBuf], disks: &dyn Disks, known: &Known) -> Inventory {
    look_at(paths, disks, known, None)
}

/// Like [`discover`], also into the archives that a recovery key opens.
pub fn discover_with(
    paths: &[PathBuf],
    disks: &dyn Disks,
    recovery_key: Option<&RecoveryKey>,
) -> Inventory {
    look_at(paths, disks, &Known::new(), recovery_key)
}

fn look_at(
    paths: &[PathBuf],
    disks: &dyn Disks,
    known: &Known,
    recovery_key: Option<&RecoveryKey>,
) -> Inventory {
    let look = Look {
        disks,
        known,
        recovery_key,
        kept_bytes: AtomicUsize::new(0),
        opening: Mutex::default(),
        large: Large::default(),
        timeout: TABLE_TIMEOUT,
    };
    look.at_all(paths)
}

impl Look<'_> {
    fn at_all(&self, paths: &[PathBuf]) -> Inventory {
        let looked_at = parallel::map(paths.iter().collect(), PARALLEL_DISKS, |path| self.at(path));
        let failed = |path: &PathBuf| {
            let why = "examining it failed unexpectedly".to_owned();
            without_table(path, 0, NoTable::Closed(why))
        };
        Inventory {
            disks: looked_at
                .into_iter()
                .zip(paths)
                .map(|(disk, path)| disk.unwrap_or_else(|| failed(path)))
                .collect(),
            same_installations: Vec::new(),
            starts_first: None,
        }
    }
}

/// Notes what the machine whose `/` is `root` uses of each disk.
pub fn note_uses(inventory: &mut Inventory, root: &Path) {
    for disk in &mut inventory.disks {
        disk.in_use = usage::of(root, &disk.path);
    }
}

/// Notes which of what was named are partitions of the machine whose `/` is `root`, not disks.
pub fn note_partitions(inventory: &mut Inventory, root: &Path) {
    for disk in &mut inventory.disks {
        if matches!(disk.table, Err(NoTable::Absent(_) | NoTable::NoDisk(_)))
            && let Some(partition) = no_disk::partition(root, &disk.path)
        {
            disk.table = Err(NoTable::NoDisk(partition));
        }
    }
}

/// A look at disks, and what it has already seen and keeps.
struct Look<'l> {
    disks: &'l dyn Disks,
    known: &'l Known,
    recovery_key: Option<&'l RecoveryKey>,
    kept_bytes: AtomicUsize,
    /// Held while a small archive is opened: of several that unpack to much, one after the other takes memory.
    opening: Mutex<()>,
    /// What archives with very many devices say.
    large: Large<Content>,
    timeout: Duration,
}

/// The partition table of a disk; `None` where it does not answer in time. A thread of its own asks, which is left behind
/// then: no process can take back a read.
fn table_in_time(
    device: &Arc<dyn BlockDevice>,
    timeout: Duration,
) -> Option<Result<PartitionTable, PartitionError>> {
    let (tell, told) = mpsc::channel();
    let asked = Arc::clone(device);
    let asking = thread::Builder::new().spawn(move || {
        let table = partition::read(asked.as_ref());
        // The disk is closed by the one who looks at it, when that is over, and not by this thread.
        drop(asked);
        let _ = tell.send(table);
    });
    let Ok(asking) = asking else {
        // Without a thread there is no deadline.
        return Some(partition::read(device.as_ref()));
    };
    match told.recv_timeout(timeout) {
        Ok(table) => Some(table),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => match asking.join() {
            Ok(()) => None,
            Err(panic) => resume_unwind(panic),
        },
    }
}

impl Look<'_> {
    fn at(&self, path: &Path) -> Disk {
        let device: Arc<dyn BlockDevice> = match self.disks.read(path) {
            Ok(device) => Arc::from(device),
            Err(error) => {
                let why = format!("cannot be opened: {error}");
                let no_medium = error.raw_os_error() == Some(ENOMEDIUM);
                return without_table(
                    path,
                    0,
                    match no_medium {
                        true => NoTable::Absent(why),
                        false => NoTable::Closed(why),
                    },
                );
            }
        };
        let Some(table) = table_in_time(&device, self.timeout) else {
            let seconds = self.timeout.as_secs();
            let why = format!("it did not answer within {seconds} s, and was not read any further");
            return without_table(path, device.size(), NoTable::Unreadable(why));
        };
        match table {
            Ok(table) => {
                let disk = self.partitioned(path, device.as_ref(), table);
                // The boot code of a volume can look like a table.
                let is_empty = disk.banks.is_empty() && disk.suspects.is_empty();
                match is_empty && no_disk::is_lone_bank(device.as_ref()) {
                    true => without_table(path, disk.size, NoTable::NoDisk(NoDisk::LoneBank)),
                    false => disk,
                }
            }
            Err(error) => {
                let why = match error {
                    PartitionError::NoTable { .. } => no_disk::recognise(device.as_ref(), path)
                        .map_or_else(|| NoTable::Absent(error.to_string()), NoTable::NoDisk),
                    _ => NoTable::Unreadable(error.to_string()),
                };
                without_table(path, device.size(), why)
            }
        }
    }

    fn partitioned(&self, path: &Path, device: &dyn BlockDevice, table: PartitionTable) -> Disk {
        let (mut found, mut not_banks, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        let (mut suspects, mut alike) = (Vec::new(), Vec::new());
        let view = loader::look(device, &table);
        for partition in table
            .partitions
            .iter()
            .filter(|partition| partition.kind.may_hold_bank())
        {
            log::debug!(
                "{}: looking for a boot bank in partition {} ({}, {} bytes at {})",
                path.display(),
                partition.number,
                partition.kind,
                partition.length,
                partition.start
            );
            match bank_in(device, partition, &view) {
                Ok(bank) => found.push(bank),
                Err(NoBank::Not) => {}
                Err(NoBank::Is(why)) => not_banks.push((partition.number, why)),
                Err(NoBank::MayBe(why)) => suspects.push(Suspect {
                    partition: partition.number,
                    why,
                    may_boot: view.bank(partition.number).is_some(),
                }),
                Err(NoBank::IfOfSize(why)) => alike.push((partition, why)),
                Err(NoBank::Unknown(why)) => unreadable.push((partition.number, why)),
            }
        }
        for (index, (partition, why)) in alike.iter().enumerate() {
            let others = (0..).zip(&alike).filter(|(other, _)| *other != index);
            let others = others.map(|(_, (other, _))| other.length);
            let banks = found.iter().map(|bank| bank.partition.length);
            match others.chain(banks).any(|length| length == partition.length) {
                true => suspects.push(Suspect {
                    partition: partition.number,
                    why: why.clone(),
                    may_boot: false,
                }),
                false => not_banks.push((
                    partition.number,
                    "VMware's mark but no boot.cfg (ESP, locker or scratch)".into(),
                )),
            }
        }
        suspects.extend(unlisted(&view, &table));
        let loader_unread = unread(&view, &unreadable);
        let candidates = candidates(&found, &view);
        let election = bank::elect(&candidates);
        let elected = election.next.map(|next| candidates[next].partition);
        let to_bank = |candidate: Option<usize>| {
            let partition = candidates[candidate?].partition;
            let is_it = |bank: &Found<'_>| bank.partition.number == partition;
            found.iter().position(is_it)
        };
        let (boots_next, boots_after_rollback) =
            (to_bank(election.next), to_bank(election.after_shift_r));
        let verdict_on = |bank: &Found<'_>| {
            let number = bank.partition.number;
            let its = candidates.iter().zip(&election.verdicts);
            let mut its = its.filter(|(candidate, _)| candidate.partition == number);
            its.next().map(|(_, verdict)| *verdict)
        };
        let standings: Vec<bank::Standing> = found
            .iter()
            .map(|bank| verdict_on(bank).unwrap_or(bank::Standing::NoBootCfg))
            .collect();
        let archives = self.open_all(&mut found);
        let next_boot = match (elected, boots_next) {
            (None, _) => NextBoot::NoBank,
            (Some(partition), bank) => {
                let of_bank = bank.map_or(&[][..], |bank| archives[bank].as_slice());
                self.next_boot(partition, of_bank, &view)
            }
        };
        let banks = found
            .into_iter()
            .zip(archives)
            .zip(standings)
            .map(|((found, archives), standing)| found.into_bank(archives, standing))
            .collect();
        Disk {
            path: path.to_owned(),
            other_paths: Vec::new(),
            size: device.size(),
            table: Ok(table),
            banks,
            not_banks,
            unreadable,
            suspects,
            loader_unread,
            next_boot,
            boots_next,
            boots_after_rollback,
            boot_entry: None,
            in_use: Vec::new(),
        }
    }

    /// What the loader hands to ESXi when it boots a bank whose archives were opened here.
    fn next_boot(&self, partition: u32, of_bank: &[ArchiveFile], view: &LoaderView) -> NextBoot {
        let loaded = |archive: &LoadedArchive| {
            let raw = Some(archive.bytes.as_slice());
            let same = |own: &ArchiveFile| (own.name, own.raw.as_deref()) == (archive.name, raw);
            match of_bank.iter().position(same) {
                Some(index) => Loaded::OfBank(index),
                None => {
                    let content = self.open_archive(&archive.bytes, archive.name);
                    Loaded::Other(archive.name, Box::new(content))
                }
            }
        };
        let not_found = view.not_found.iter().map(|why| (None, why.clone()));
        let Some(bank) = view.bank(partition) else {
            // The loader could not read it just now; what it would load is what was read here.
            return NextBoot::Bank {
                partition,
                archives: (0..of_bank.len()).map(Loaded::OfBank).collect(),
                ends: not_found.collect(),
            };
        };
        let of_files = bank.ends.iter().cloned();
        let of_files = of_files.map(|(name, why)| (Some(name), why));
        NextBoot::Bank {
            partition,
            archives: bank.archives.iter().map(loaded).collect(),
            ends: not_found.chain(of_files).collect(),
        }
    }

    /// Opens the archives of all banks. The disk is not asked any more: reading it is done in one
    /// order always, computing is what several processors are for.
    fn open_all(&self, found: &mut [Found<'_>]) -> Vec<Vec<ArchiveFile>> {
        let counts: Vec<usize> = found.iter().map(|bank| bank.files.len()).collect();
        let files: Vec<Files> = found
            .iter_mut()
            .flat_map(|bank| std::mem::take(&mut bank.files))
            .collect();
        let at_once = match files.iter().map(Files::bytes).sum::<usize>() {
            OPENED_AT_ONCE_BYTES_MIN..=OPENED_AT_ONCE_BYTES_MAX => parallel::computing(),
            _ => 1,
        };
        let mut opened = parallel::map(files, at_once, |files| self.open_files(files))
            .into_iter()
            .map(|opened| opened.unwrap_or_else(|| resume_unwind(Box::new("opening an archive"))));
        counts
            .into_iter()
            .map(|count| opened.by_ref().take(count).collect())
            .collect()
    }

    fn open_files(&self, files: Files) -> ArchiveFile {
        let (raw, sha256, content) = match files.archive {
            Ok(raw) => {
                let sha256 = sha256_hex(&raw);
                let content = match self.known.get(&sha256) {
                    Some(content) => Ok(content.clone()),
                    None => self.open_once(&raw, &sha256, files.entry.name()),
                };
                (
                    Some(raw),
                    Some(sha256),
                    content.map_err(ContentError::Archive),
                )
            }
            Err(error) => (None, None, Err(ContentError::File(error))),
        };
        let ties = Ties {
            link: exchange::link_in(&files.entry),
            build: &files.build,
            raw: raw.as_deref(),
        };
        let copies = files
            .copies
            .into_iter()
            .map(|(entry, copy)| {
                let content = copy.map(|copy| self.open_undo(copy));
                UndoCopy {
                    entry,
                    belongs: content.as_ref().is_ok_and(|one| ties.bind(&one.raw)),
                    content,
                }
            })
            .collect();
        let made_anew = ties.are_to_nothing();
        let (undo, set_aside) = sorted(copies);
        ArchiveFile {
            name: files.entry.name(),
            size: files.entry.size(),
            modified: files.entry.modified(),
            made_anew,
            raw,
            sha256,
            content,
            undo,
            set_aside,
        }
    }

    /// Opens an archive, unless one of the same bytes with very many devices was opened before.
    fn open_once(
        &self,
        raw: &[u8],
        sha256: &str,
        name: ShortName,
    ) -> Result<Content, ArchiveError> {
        let _one_by_one = self.turn(raw);
        let open = || self.open_archive(raw, name);
        self.large.or_made(sha256, name, |content| content, open)
    }

    /// The turn of a small archive. A large one, whose memory its size bounds, needs none.
    fn turn(&self, raw: &[u8]) -> Option<MutexGuard<'_, ()>> {
        let wait = || self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        (raw.len() < OPENED_AT_ONCE_BYTES_MIN).then(wait)
    }

    fn open_archive(&self, raw: &[u8], name: ShortName) -> Result<Content, ArchiveError> {
        let archive = StateArchive::open_with(raw, self.recovery_key)?;
        let content = Content::of(&archive, name)?.opened_by(self.recovery_key);
        let bytes = archive.memory_bytes();
        if bytes > raw.len().saturating_mul(KEPT_RATIO_MAX) {
            return Ok(content);
        }
        let kept = self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        if kept.saturating_add(bytes) <= KEPT_BYTES_MAX {
            return Ok(Content {
                kept: Kept::new(archive),
                ..content
            });
        }
        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Ok(content)
    }

    /// When an archive was saved, as far as it says so.
    fn saved(&self, raw: &[u8]) -> Result<Option<BackupCounter>, ArchiveError> {
        let _one_by_one = self.turn(raw);
        let archive = StateArchive::open_with(raw, self.recovery_key)?;
        Ok(archive.configuration().ok().and_then(|one| one.saved))
    }

    fn open_undo(&self, raw: Vec<u8>) -> UndoContent {
        let sha256 = sha256_hex(&raw);
        let (saved, problem) = match self.known.get(&sha256) {
            Some(content) => (content.saved.clone(), None),
            None => match self.saved(&raw) {
                Ok(saved) => (saved, None),
                // ESXi on its host can load it.
                Err(error) if error.seal().is_some() => (None, None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        UndoContent {
            raw,
            sha256,
            saved,
            problem,
        }
    }
}

/// The undo copy of an archive among its copies, and those that were set aside, the latest first.
fn sorted(mut copies: Vec<UndoCopy>) -> (Option<UndoCopy>, Vec<UndoCopy>) {
    let rank = |copy: &UndoCopy| match (copy.belongs, copy.entry.mark()) {
        (true, _) => Some(0),
        (false, Some(Mark::Kept)) => Some(1),
        (false, Some(Mark::Superseded)) => Some(2),
        (false, Some(Mark::SetAside) | None) => None,
    };
    let ranked = copies.iter().enumerate();
    let ranked = ranked.filter_map(|(index, copy)| Some((rank(copy)?, index)));
    let undo = ranked.min().map(|(_, index)| copies.remove(index));
    let name = undo.as_ref().map(|undo| undo.entry.name());
    let mut set_aside: Vec<UndoCopy> = copies
        .into_iter()
        .filter(|copy| Some(copy.entry.name()) != name)
        .filter(|copy| copy.entry.mark() == Some(Mark::SetAside))
        .collect();
    set_aside.sort_by_key(|copy| std::cmp::Reverse(copy.entry.modified()));
    (undo, set_aside)
}

/// What identifies the original that an archive in place belongs to.
struct Ties<'t> {
    link: Option<Link>,
    build: &'t str,
    raw: Option<&'t [u8]>,
}

impl Ties<'_> {
    /// Whether the archive is what a repair made of this original. Where its entry holds no link, as
    /// in a bank whose files were copied by hand, their contents tell.
    fn bind(&self, original: &[u8]) -> bool {
        match (self.link, self.raw) {
            (Some(link), Some(raw)) => link == Link::of(self.build, Some(original), raw),
            (None, Some(raw)) => is_made_from(raw, original),
            (_, None) => false,
        }
    }

    /// Whether a repair put it where there was none.
    fn are_to_nothing(&self) -> bool {
        let raw = self.raw.filter(|_| self.link.is_some());
        raw.is_some_and(|raw| self.link == Some(Link::of(self.build, None, raw)))
    }
}

fn is_made_from(raw: &[u8], original: &[u8]) -> bool {
    match (StateArchive::open(raw), StateArchive::open(original)) {
        (Ok(archive), Ok(original)) => archive.is_made_from(&original),
        _ => false,
    }
}

fn without_table(path: &Path, size: u64, why: NoTable) -> Disk {
    Disk {
        path: path.to_owned(),
        other_paths: Vec::new(),
        size,
        table: Err(why),
        banks: Vec::new(),
        not_banks: Vec::new(),
        unreadable: Vec::new(),
        suspects: Vec::new(),
        loader_unread: Vec::new(),
        next_boot: NextBoot::NoBank,
        boots_next: None,
        boots_after_rollback: None,
        boot_entry: None,
        in_use: Vec::new(),
    }
}

/// A bank before the loader's rule has been applied.
struct Found<'p> {
    partition: &'p Partition,
    region: Region,
    marker: VmfatMarker,
    boot_cfg: BootCfg,
    files: Vec<Files>,
    missing: Vec<ShortName>,
    volume: Result<exchange::Assessment, exchange::Refusal>,
}

impl Found<'_> {
    fn into_bank(self, archives: Vec<ArchiveFile>, standing: bank::Standing) -> Bank {
        Bank {
            partition: self.partition.number,
            region: self.region,
            marker: self.marker,
            boot_cfg: self.boot_cfg,
            standing,
            archives,
            missing: self.missing,
            volume: self.volume,
        }
    }
}

/// What the loader's rule is applied to: every partition that it takes for a bank, whether it was
/// accepted as one here or not.
fn candidates<'c>(found: &'c [Found<'_>], view: &'c LoaderView) -> Vec<Candidate<'c>> {
    let number = |bank: &&Found<'_>| bank.partition.number;
    let of_loader = |partition: u32| view.bank(partition).map(|bank| &bank.boot_cfg);
    let is_unread = |partition: u32| view.unread.iter().any(|(unread, _)| *unread == partition);
    let own = found.iter().map(|bank| {
        let partition = bank.partition.number;
        let unread = Some(&bank.boot_cfg).filter(|_| is_unread(partition));
        Candidate {
            partition,
            cfg: of_loader(partition).or(unread),
        }
    });
    let others = view.banks.iter().filter(|bank| {
        let mut own = found.iter();
        !own.any(|found| number(&found) == bank.partition)
    });
    let others = others.map(|bank| Candidate {
        partition: bank.partition,
        cfg: Some(&bank.boot_cfg),
    });
    own.chain(others).collect()
}

/// Banks that the loader finds where the table lists no partition that may hold one.
fn unlisted(view: &LoaderView, table: &PartitionTable) -> Vec<Suspect> {
    let is_listed = |number: u32| {
        let mut listed = table.partitions.iter();
        listed.any(|partition| partition.number == number && partition.kind.may_hold_bank())
    };
    let banks = view.banks.iter().filter(|bank| !is_listed(bank.partition));
    banks
        .map(|bank| Suspect {
            partition: bank.partition,
            why: "ESXi's loader finds a bank there, by its own rules for the table".into(),
            may_boot: true,
        })
        .collect()
}

/// Partitions that the loader would read and cannot, beyond those that are known already.
fn unread(view: &LoaderView, known: &[(u32, String)]) -> Vec<(u32, String)> {
    let is_known = |number: u32| known.iter().any(|(known, _)| *known == number);
    let new = view.unread.iter().filter(|(number, _)| !is_known(*number));
    new.cloned().collect()
}

/// Why a partition that may hold a bank is not accepted as one.
enum NoBank {
    /// Nothing of VMware's is in it.
    Not,
    /// It is none.
    Is(String),
    /// It looks like one, or the loader accepts it as one, and it is not a sound one.
    MayBe(String),
    /// It looks like one if it has the size of another one: scratch and locker can look the same.
    IfOfSize(String),
    /// It may be one: the disk does not let it be read.
    Unknown(String),
}

impl NoBank {
    fn because(error: &FatError, what: &str) -> Self {
        let why = format!("{what}{error}");
        match error {
            FatError::Read { .. } => Self::Unknown(why),
            _ => Self::MayBe(why),
        }
    }
}

/// The bank of a partition: VMware's mark, a boot.cfg that parses, and a `build` in it; and that the
/// loader has the same boot.cfg, if it finds a bank there.
fn bank_in<'p>(
    device: &dyn BlockDevice,
    partition: &'p Partition,
    view: &LoaderView,
) -> Result<Found<'p>, NoBank> {
    let region = Region {
        start: partition.start,
        length: partition.length,
    };
    if let Some(problem) = &partition.problem {
        return Err(behind(problem, device, region));
    }
    let volume = match Volume::open(device, region) {
        Ok(volume) => volume,
        Err(error @ FatError::NotFat(_)) => {
            return Err(match is_marked(device, region)? {
                true => NoBank::MayBe(format!("VMware's mark, but {error}")),
                false => NoBank::Not,
            });
        }
        Err(error) => return Err(NoBank::because(&error, "")),
    };
    let Some(marker) = marker(device, &volume, region)? else {
        return Err(unmarked(&volume));
    };
    let text = boot_cfg(&volume)?;
    let boot_cfg = BootCfg::parse(&text)
        .map_err(|error| NoBank::MayBe(format!("VMware's mark, but boot.cfg: {error}")))?;
    if !boot_cfg.has_build() {
        return Err(without_build(&volume));
    }
    let of_loader = view.bank(partition.number);
    if of_loader.is_some_and(|bank| bank.boot_cfg_bytes != text) {
        let why = "ESXi's loader reads another boot.cfg there than the one of that name";
        return Err(NoBank::MayBe(why.into()));
    }
    let files = files(&volume, &boot_cfg);
    let missing = missing(&volume, &boot_cfg);
    let names = files.iter().map(|files| files.entry.name());
    let names: Vec<ShortName> = names.chain(missing.iter().copied()).collect();
    let volume = exchange::assess(&volume, &names);
    Ok(Found {
        partition,
        region,
        marker,
        boot_cfg,
        files,
        missing,
        volume,
    })
}

/// A partition that contradicts the disk or the rest of the table.
fn behind(problem: &PartitionProblem, device: &dyn BlockDevice, region: Region) -> NoBank {
    match is_marked(device, region) {
        Ok(true) => NoBank::MayBe(format!("VMware's mark, but {problem}")),
        Ok(false) => NoBank::Is(problem.to_string()),
        Err(_) if matches!(problem, PartitionProblem::OutsideDevice { .. }) => {
            NoBank::Unknown(problem.to_string())
        }
        Err(_) => NoBank::Is(problem.to_string()),
    }
}

/// Whether the second sector carries VMware's mark, whichever of the two sizes sectors have.
fn is_marked(device: &dyn BlockDevice, region: Region) -> Result<bool, NoBank> {
    let mut marked = false;
    for sector_bytes in [SectorSize::S512, SectorSize::S4096] {
        let mut start = [0; 32];
        let second = u64::from(sector_bytes.bytes());
        // A table may say that a partition begins or ends beyond every number of bytes.
        let Some(offset) = region.start.0.checked_add(second).map(ByteOffset) else {
            continue;
        };
        if second + start.len() as u64 > region.length {
            continue;
        }
        device.read_at(offset, &mut start).map_err(|error| {
            NoBank::Unknown(format!("reading its second sector at {offset}: {error}"))
        })?;
        marked |= VmfatMarker::parse(&start).is_some();
    }
    Ok(marked)
}

/// A volume without VMware's mark, which the loader passes over.
fn unmarked(volume: &Volume<'_>) -> NoBank {
    let boot_cfg = volume.find(ShortName::BOOT_CFG);
    let text = boot_cfg.and_then(|entry| volume.read(&entry).ok());
    let has_build = text
        .and_then(|text| BootCfg::parse(&text).ok())
        .is_some_and(|cfg| cfg.has_build());
    match has_build && holds_archive(volume) {
        true => NoBank::Is(
            "boot.cfg and a state archive as in a boot bank, but not VMware's mark, without which ESXi's loader ignores it".into(),
        ),
        false => NoBank::Not,
    }
}

fn boot_cfg(volume: &Volume<'_>) -> Result<Vec<u8>, NoBank> {
    if let Some((_, what)) = volume.in_the_way(ShortName::BOOT_CFG) {
        let name = ShortName::BOOT_CFG.to_string();
        let error = FatError::InTheWay { name, what };
        return Err(NoBank::because(&error, "VMware's mark, but "));
    }
    let Some(entry) = volume.find(ShortName::BOOT_CFG) else {
        return Err(match holds_archive(volume) {
            true => NoBank::IfOfSize("VMware's mark and a state archive, but no boot.cfg".into()),
            false => NoBank::Is("VMware's mark but no boot.cfg (ESP, locker or scratch)".into()),
        });
    };
    let read = volume.read(&entry);
    read.map_err(|error| NoBank::because(&error, "VMware's mark, but boot.cfg: "))
}

/// A volume with VMware's mark whose boot.cfg names no build: the loader does not boot it.
fn without_build(volume: &Volume<'_>) -> NoBank {
    match holds_archive(volume) {
        true => NoBank::MayBe(
            "VMware's mark and a state archive, but its boot.cfg names no build".into(),
        ),
        false => NoBank::Is("its boot.cfg names no build (installation medium?)".into()),
    }
}

fn holds_archive(volume: &Volume<'_>) -> bool {
    let mut names = [ShortName::STATE, ShortName::LOCAL].into_iter();
    names.any(|name| volume.find(name).is_some() || volume.in_the_way(name).is_some())
}

/// Reads the second sector of a volume, where VMware leaves its mark.
fn marker(
    device: &dyn BlockDevice,
    volume: &Volume<'_>,
    region: Region,
) -> Result<Option<VmfatMarker>, NoBank> {
    let sector_bytes = volume.geometry().sector_bytes;
    let mut sector = vec![0; sector_bytes as usize];
    let offset = ByteOffset(region.start.0 + u64::from(sector_bytes));
    device.read_at(offset, &mut sector).map_err(|error| {
        NoBank::Unknown(format!("reading its second sector at {offset}: {error}"))
    })?;
    Ok(VmfatMarker::parse(&sector))
}

/// An archive of a bank and its undo copy, as they were read.
struct Files {
    entry: Entry,
    archive: Result<Vec<u8>, FatError>,
    /// Files that have the name of a copy of it.
    copies: Vec<(Entry, Result<Vec<u8>, FatError>)>,
    /// The build of ESXi in this bank.
    build: String,
}

/// The archives of a bank: those of `STATE.TGZ`, `LOCAL.TGZ` (4.x embedded) and `ONETIME.TGZ` that
/// boot.cfg has the loader load. Where it names neither of the first two, the one that is there: a
/// reset to factory defaults takes the name out of boot.cfg, and ESXi puts it back.
fn files(volume: &Volume<'_>, boot_cfg: &BootCfg) -> Vec<Files> {
    let own = [ShortName::STATE, ShortName::LOCAL];
    let build = boot_cfg.build.as_deref().unwrap_or_default();
    let there = |name: &ShortName| file(volume, *name, build);
    let mut files: Vec<Files> = own
        .iter()
        .filter(|name| loads(boot_cfg, **name))
        .filter_map(&there)
        .collect();
    if files.is_empty() {
        files.extend(own.iter().find_map(&there));
    }
    let onetime = [ShortName::ONETIME];
    let onetime = onetime.iter().filter(|name| loads(boot_cfg, **name));
    files.extend(onetime.filter_map(&there));
    files
}

/// Whether boot.cfg has the loader load the file of that name.
fn loads(boot_cfg: &BootCfg, name: ShortName) -> bool {
    let mut modules = boot_cfg.modules().iter();
    modules.any(|module| loader::name_of(module) == name)
}

/// The archive of that name as the loader finds it, or what stands in its place.
fn file(volume: &Volume<'_>, name: ShortName, build: &str) -> Option<Files> {
    let in_the_way = volume.in_the_way(name);
    let entry = match in_the_way {
        Some((entry, _)) => entry,
        None => volume.find(name)?,
    };
    let archive = match in_the_way {
        Some((_, what)) => Err(FatError::InTheWay {
            name: name.to_string(),
            what,
        }),
        None => volume.read(&entry),
    };
    let copies = exchange::copies(volume, name)
        .into_iter()
        .map(|copy| (copy, volume.read(&copy)))
        .collect();
    Some(Files {
        entry,
        archive,
        copies,
        build: build.to_owned(),
    })
}

/// Archives that boot.cfg has the loader load, and that it will not find. It looks for the name alone,
/// whatever has it.
fn missing(volume: &Volume<'_>, boot_cfg: &BootCfg) -> Vec<ShortName> {
    ARCHIVES
        .into_iter()
        .filter(|name| loads(boot_cfg, *name))
        .filter(|name| !volume.has_name(*name))
        .collect()
}

impl Files {
    fn bytes(&self) -> usize {
        let copies = self.copies.iter().map(|(_, raw)| raw);
        std::iter::once(&self.archive)
            .chain(copies)
            .filter_map(|raw| raw.as_ref().ok())
            .map(Vec::len)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, Sender};

    use super::*;

    /// A disk whose reads end when the test does; or one of nothing but zeros.
    #[derive(Debug)]
    struct Dead(Option<Mutex<Receiver<()>>>);

    impl BlockDevice for Dead {
        fn sector_size(&self) -> SectorSize {
            SectorSize::S512
        }

        fn size(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, _: ByteOffset, buf: &mut [u8]) -> io::Result<()> {
            if let Some(gate) = &self.0 {
                let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            buf.fill(0);
            Ok(())
        }

        fn write_at(&self, _: ByteOffset, _: &[u8]) -> io::Result<()> {
            unreachable!("looking does not write")
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_does_not_answer_is_unreadable_and_holds_up_no_other() {
        let (end, gate): (Sender<()>, _) = mpsc::channel();
        let gate = Mutex::new(Some(Mutex::new(gate)));
        let disks = |path: &Path| -> io::Result<Box<dyn BlockDevice>> {
            let dead = path.ends_with("dead");
            Ok(Box::new(Dead(match dead {
                true => gate.lock().unwrap().take(),
                false => None,
            })))
        };
        let look = Look {
            disks: &disks,
            known: &Known::new(),
            recovery_key: None,
            kept_bytes: AtomicUsize::new(0),
            opening: Mutex::default(),
            large: Large::default(),
            timeout: Duration::from_secs(2),
        };
        let seen = look.at_all(&["one".into(), "dead".into(), "other".into()]);
        // The dead disk is still being read; that nothing waits for it is why this line is reached.
        let is_silent = |disk: &Disk| match &disk.table {
            Err(NoTable::Unreadable(why)) => why.starts_with("it did not answer within"),
            _ => false,
        };
        let silent: Vec<bool> = seen.disks.iter().map(is_silent).collect();
        assert_eq!(silent, [false, true, false]);
        drop(end);
    }
}
