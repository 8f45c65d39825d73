//! Compressed kernel modules of earlier builds, each under the digest of all that it was made from, so that only what is
//! new is compressed. What is not used for some weeks is removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::hash;

/// zstd level; beyond 19 the kernel's decompressor needs a larger window than is worth it.
pub const ZSTD_LEVEL: i32 = 19;
/// How long a module stays after its last use.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The folder with the modules; none for a build that keeps nothing.
#[derive(Debug)]
pub struct Store(Option<PathBuf>);

impl Store {
    /// Opens a folder, creating it.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        Ok(Self(Some(dir.to_owned())))
    }

    /// One that keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The module `bytes`, compressed with the dictionary (none if empty).
    pub fn compressed(&self, bytes: &[u8], dictionary: &[u8]) -> Result<Vec<u8>> {
        let compress = || -> io::Result<Vec<u8>> {
            zstd::bulk::Compressor::with_dictionary(ZSTD_LEVEL, dictionary)?.compress(bytes)
        };
        let path = match &self.0 {
            Some(dir) => dir.join(key(bytes, dictionary)),
            None => return compress().map_err(Error::io("compress", Path::new("a kernel module"))),
        };
        // A damaged copy is made again.
        if let Some(known) = fs::read(&path)
            .ok()
            .filter(|known| holds(known, bytes, dictionary))
        {
            _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(known);
        }
        let made = compress().map_err(Error::io("compress", &path))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let keep = || -> io::Result<()> {
            let mut temp = tempfile::NamedTempFile::new_in(folder)?;
            temp.write_all(&made)?;
            temp.persist(&path).map(|_| ()).map_err(|error| error.error)
        };
        keep().map_err(Error::io("write", &path))?;
        Ok(made)
    }

    /// Removes what was not used for long.
    pub fn tidy(&self) -> Result<()> {
        let Some(dir) = &self.0 else {
            return Ok(());
        };
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let path = entry.map_err(Error::io("list", dir))?.path();
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if used.is_ok_and(|used| used.elapsed().unwrap_or_default() > KEPT) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn key(bytes: &[u8], dictionary: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!(
        "zstd {} {ZSTD_LEVEL}\n",
        zstd::zstd_safe::version_string()
    ));
    hasher.update(Sha256::digest(dictionary));
    hasher.update(bytes);
    hash::hex(&hasher.finalize())
}

fn holds(compressed: &[u8], bytes: &[u8], dictionary: &[u8]) -> bool {
    zstd::bulk::Decompressor::with_dictionary(dictionary)
        .and_then(|mut decompressor| decompressor.decompress(compressed, bytes.len()))
        .is_ok_and(|content| content == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_compressed_once_and_a_damaged_copy_again() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let module = b"module ".repeat(1000);
        let first = store.compressed(&module, b"").unwrap();
        let copy = temp.path().join(key(&module, b""));
        let written = fs::metadata(&copy).unwrap().modified().unwrap();
        assert_eq!(store.compressed(&module, b"").unwrap(), first);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        assert!(fs::metadata(&copy).unwrap().modified().unwrap() >= written);
        for damaged in [&first[..first.len() - 1], b"", b"nonsense"] {
            fs::write(&copy, damaged).unwrap();
            assert_eq!(store.compressed(&module, b"").unwrap(), first);
            assert_eq!(fs::read(&copy).unwrap(), first);
        }
        assert_eq!(Store::none().compressed(&module, b"").unwrap(), first);
    }

    #[test]
    fn another_dictionary_is_another_copy() {
        assert_ne!(key(b"a", b""), key(b"a", b"x"));
        assert_ne!(key(b"a", b""), key(b"b", b""));
    }

    #[test]
    fn what_was_not_used_for_long_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        for module in [b"old", b"new"] {
            store.compressed(module, b"").unwrap();
        }
        let old = temp.path().join(key(b"old", b""));
        let long_ago = SystemTime::now() - KEPT - Duration::from_secs(60);
        File::open(&old).unwrap().set_modified(long_ago).unwrap();
        store.tidy().unwrap();
        assert!(!old.exists() && temp.path().join(key(b"new", b"")).exists());
    }
}
