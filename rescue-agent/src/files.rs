//! Files that are read whole, and no further than they can be sound.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The first `limit` bytes of a file, or all of it where it is shorter. A caller that must tell a
/// longer one apart asks for one byte more.
///
/// # Errors
/// When it cannot be opened or read.
pub fn read_up_to(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"sound, and more").unwrap();
        assert_eq!(read_up_to(file.path(), 5).unwrap(), b"sound");
        assert_eq!(read_up_to(file.path(), 99).unwrap(), b"sound, and more");
        assert!(read_up_to(&file.path().join("none"), 5).is_err());
    }
}
