//! SHA-256 as lower-case hex, of bytes and of files.

use std::io::Read;
use std::path::Path;

pub use rescue_agent::bytes::{hex, sha256_hex as sha256};
use rescue_agent::files;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 of a file's content, in lower-case hex.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = files::open_file(path).map_err(Error::io("read", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 18];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_input_has_the_known_digest() {
        assert_eq!(
            sha256(b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_file_hashes_like_its_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = vec![7_u8; 600_000];
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(sha256_file(file.path()).unwrap(), sha256(&bytes));
    }
}
