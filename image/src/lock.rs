//! One program at a time in a folder. The lock is on the folder itself, so that nothing is left behind when a program is
//! killed, and no file of ours lies among those of others.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rescue_agent::report;

use crate::error::{Error, Result};

/// Holds the folder until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

impl Lock {
    /// Waits until nobody else holds the folder; `note` is told who does.
    pub fn of(folder: &Path, note: &dyn Fn(&str)) -> Result<Self> {
        let file = File::open(folder).map_err(Error::io("open", folder))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let inode = file.metadata().map_err(Error::io("read", folder))?.ino();
                let who = holder(inode).unwrap_or_else(|| "another process".to_owned());
                note(&format!(
                    "waiting for {who}, which works in {}",
                    folder.display()
                ));
                file.lock().map_err(Error::io("lock", folder))?;
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => note(&format!(
                "{} cannot be locked ({error}); do not run two builds in it",
                folder.display()
            )),
        }
        Ok(Self { _folder: file })
    }
}

/// Process number and command of who holds a lock, as Linux lists it in `/proc/locks`, for instance
/// `1: FLOCK  ADVISORY  WRITE 9489 fe:00:5693493 0 EOF`.
fn holder(inode: u64) -> Option<String> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let process = process_of(&locks, inode)?;
    let command = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let words: Vec<String> = command
        .split(|byte| *byte == 0)
        .map(|word| report::escape(&String::from_utf8_lossy(word)))
        .collect();
    Some(format!(
        "process {process} ({})",
        words.join(" ").trim_end()
    ))
}

fn process_of(locks: &str, inode: u64) -> Option<u32> {
    let end = format!(":{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, "WRITE", process, place, ..] if place.ends_with(&end) => {
                process.parse().ok()
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn the_second_waits_and_says_for_whom() {
        let temp = tempfile::tempdir().unwrap();
        let first = Lock::of(temp.path(), &|line| panic!("{line}")).unwrap();
        let (told, hears) = mpsc::channel();
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                let lock = Lock::of(temp.path(), &|line| told.send(line.to_owned()).unwrap());
                lock.map(|_| ())
            });
            let note = hears.recv().unwrap();
            assert!(
                note.contains(&format!("process {}", std::process::id())),
                "{note}"
            );
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_waiting_process_is_not_taken_for_the_holder() {
        let locks = "1: FLOCK  ADVISORY  WRITE 23 fe:00:57 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 24 fe:00:57 0 EOF\n2: POSIX  ADVISORY  WRITE 25 fe:00:58 0 EOF\n";
        assert_eq!(process_of(locks, 57), Some(23));
        assert_eq!(process_of(locks, 58), None);
        assert_eq!(process_of(locks, 7), None);
    }
}
