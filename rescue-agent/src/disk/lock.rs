//! One writer at a time: what is opened for writing is locked for the whole run.
//!
//! Linux refuses a second exclusive opening of a block device, but only while it is open, and knows
//! nothing of the kind for image files. So a run that may write first locks every disk it was given,
//! before it looks, and keeps the locks until it ends: what the plan was made from is still there
//! when it is carried out.
//!
//! Two kinds of locks are taken, for they do not see each other: `flock(2)`, which `udev` and
//! `losetup` honour, and the locks of `fcntl(2)` (`F_OFD_SETLK`), which QEMU holds on the images of
//! running machines. Both belong to the file, not to its name, and end with the process.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;
use thiserror::Error;

use super::origin::{self, Identity, Origin};

/// How long a block device's lock is waited for: `udev` holds it for a moment whenever it looks at
/// one (systemd, "Locking Block Device Access").
const UDEV_TIME: Duration = Duration::from_secs(5);
/// How often it is asked for meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// Why a disk cannot be locked. Nothing has been written then.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else works on it.
    #[error(
        "{path} is in use by {holder}. Nothing was written: wait until that has ended, then run this again"
    )]
    Held {
        /// The disk as it was named.
        path: String,
        /// Who has locked it.
        holder: Holder,
    },
    /// The file system has no locks.
    #[error(
        "{path} cannot be locked against a second run ({error}). Nothing was written: copy the image to a local disk and run this on the copy"
    )]
    NoLocks {
        /// The disk as it was named.
        path: String,
        /// What the system says.
        error: io::Error,
    },
}

/// Who has locked a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process that can be seen.
    Process {
        /// Its number.
        pid: u32,
        /// Its command line.
        command: String,
    },
    /// One that cannot be seen: another user's, or another machine's.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command } => write!(f, "process {pid} ({command})"),
            Self::Unknown => f.write_str("another program"),
        }
    }
}

/// Disks that nobody else may change while this value lives.
#[derive(Debug)]
pub struct Locks {
    held: Vec<(Identity, Flock<File>)>,
}

impl Locks {
    /// Locks every disk of `paths`, with all that stands behind it.
    ///
    /// A disk that does not let itself be opened for writing is left out: it cannot be written then,
    /// which is said where it is tried.
    ///
    /// # Errors
    /// [`LockError`] where somebody else has one of them, or locking is not possible.
    pub fn take(root: &Path, paths: &[PathBuf]) -> Result<Self, LockError> {
        let mut locks = Self { held: Vec::new() };
        for path in paths {
            for origin in origin::chain(root, path).unwrap_or_default() {
                locks.lock(root, path, &origin)?;
            }
        }
        Ok(locks)
    }

    fn lock(&mut self, root: &Path, named: &Path, origin: &Origin) -> Result<(), LockError> {
        if self.held.iter().any(|(held, _)| *held == origin.identity) {
            return Ok(());
        }
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&origin.path) else {
            return Ok(());
        };
        let timeout = match origin.identity {
            Identity::Device(_) => UDEV_TIME,
            Identity::File(..) => Duration::ZERO,
        };
        match locked(file, timeout) {
            Ok(lock) => {
                self.held.push((origin.identity, lock));
                Ok(())
            }
            Err(Errno::EWOULDBLOCK | Errno::EACCES) => Err(LockError::Held {
                path: named.display().to_string(),
                holder: holder(root, &origin.path),
            }),
            Err(errno) => Err(LockError::NoLocks {
                path: named.display().to_string(),
                error: errno.into(),
            }),
        }
    }
}

/// Takes both kinds of locks.
fn locked(mut file: File, timeout: Duration) -> Result<Flock<File>, Errno> {
    let start = Instant::now();
    let lock = loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => break lock,
            Err((back, Errno::EWOULDBLOCK)) if start.elapsed() < timeout => file = back,
            Err((_, errno)) => return Err(errno),
        }
        thread::sleep(POLL);
    };
    match fcntl(&*lock, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 0, 0))) {
        // A file system that has only one of the two kinds has locked it by that.
        Ok(_) | Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(lock),
        Err(errno) => Err(errno),
    }
}

/// A lock of `fcntl(2)` on `length` bytes from `start` on; 0 means to the end.
#[allow(clippy::cast_possible_truncation, reason = "constants of one digit")]
fn range(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// Who holds a lock on a file: the process that has it open and whose open file the kernel says is
/// locked. (`/proc/locks` names no process for the locks of `F_OFD_SETLK`.)
fn holder(root: &Path, path: &Path) -> Holder {
    let Ok(wanted) = path.metadata() else {
        return Holder::Unknown;
    };
    let own = std::process::id();
    let processes = fs::read_dir(root.join("proc")).into_iter().flatten();
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .find(|pid| holds(root, *pid, (wanted.dev(), wanted.ino())))
        .map_or(Holder::Unknown, |pid| Holder::Process {
            pid,
            command: command(root, pid),
        })
}

fn holds(root: &Path, pid: u32, wanted: (u64, u64)) -> bool {
    let folder = root.join(format!("proc/{pid}"));
    let open = fs::read_dir(folder.join("fd")).into_iter().flatten();
    open.flatten().any(|entry| {
        let is_it = entry
            .path()
            .metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == wanted);
        // proc_pid_fdinfo(5): one line that starts with `lock:` for each lock of an open file.
        is_it
            && fs::read_to_string(folder.join("fdinfo").join(entry.file_name()))
                .is_ok_and(|text| text.lines().any(|line| line.starts_with("lock:")))
    })
}

fn command(root: &Path, pid: u32) -> String {
    let words = fs::read(root.join(format!("proc/{pid}/cmdline"))).unwrap_or_default();
    let words: Vec<_> = words
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    match words.is_empty() {
        true => "its command cannot be read".into(),
        false => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn take(path: &Path) -> Result<Locks, LockError> {
        Locks::take(Path::new("/"), &[path.to_owned()])
    }

    #[test]
    fn a_second_taker_is_refused_by_any_name_until_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (image, hard, soft) = (
            folder.path().join("image"),
            folder.path().join("hard"),
            folder.path().join("soft"),
        );
        fs::write(&image, "bytes").unwrap();
        fs::hard_link(&image, &hard).unwrap();
        std::os::unix::fs::symlink(&image, &soft).unwrap();
        let first = take(&image).unwrap();
        for name in [&image, &hard, &soft] {
            let error = take(name).unwrap_err();
            assert!(matches!(error, LockError::Held { .. }), "{error}");
        }
        drop(first);
        // A program that another test is just starting has a copy of the lock.
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(error) = take(&soft) {
            assert!(Instant::now() < end, "{error}");
        }
    }

    #[test]
    fn several_names_of_one_image_in_one_run_are_no_conflict() {
        let folder = tempfile::tempdir().unwrap();
        let (image, hard) = (folder.path().join("image"), folder.path().join("hard"));
        fs::write(&image, "bytes").unwrap();
        fs::hard_link(&image, &hard).unwrap();
        Locks::take(Path::new("/"), &[image, hard]).unwrap();
    }

    #[test]
    fn the_locks_of_running_machines_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::write(&image, "bytes").unwrap();
        let machine = File::open(&image).unwrap();
        // QEMU's block/file-posix.c: shared locks on single bytes from 100 on.
        let byte = range(libc::F_RDLCK, 101, 1);
        fcntl(&machine, FcntlArg::F_OFD_SETLK(&byte)).unwrap();
        assert!(matches!(take(&image), Err(LockError::Held { .. })));
    }

    #[test]
    fn the_holder_is_the_process_that_has_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("image");
        fs::write(&image, "bytes").unwrap();
        for (pid, info) in [
            (11, "pos:\t0\n"),
            (12, "pos:\t0\nlock:\t1: FLOCK ADVISORY\n"),
        ] {
            let process = root.path().join(format!("proc/{pid}"));
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::create_dir_all(process.join("fdinfo")).unwrap();
            std::os::unix::fs::symlink(&image, process.join("fd/3")).unwrap();
            fs::write(process.join("fdinfo/3"), info).unwrap();
            fs::write(process.join("cmdline"), format!("agent\0{pid}\0")).unwrap();
        }
        assert_eq!(
            holder(root.path(), &image).to_string(),
            "process 12 (agent 12)"
        );
        assert_eq!(holder(root.path(), root.path()), Holder::Unknown);
    }
}
