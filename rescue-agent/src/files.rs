//! Files that are read whole, no further than they can be sound, and without waiting for anybody.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// The first `limit` bytes of a file, or all of it where it is shorter. A caller that must tell a
/// longer one apart asks for one byte more.
///
/// # Errors
/// When it cannot be opened or read, or is no file: a device or a pipe could give bytes without
/// end, or none for ever.
pub fn read_up_to(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_file(path)?.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// The whole of a file that may not be longer than `limit`.
///
/// # Errors
/// As [`read_up_to`], and where the file is longer.
pub fn read_whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_file(path)?;
    // Not before the length is known to be allowed: what is refused costs no memory.
    let mut content = Vec::new();
    if file.metadata()?.len() <= limit {
        file.take(limit.saturating_add(1))
            .read_to_end(&mut content)?;
        if content.len() as u64 <= limit {
            return Ok(content);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is longer than the {limit} bytes that are read of such a file"),
    ))
}

/// Writes a file that a person names. What is there and is no file stays as it is: a device would lose what
/// it holds, and a pipe would wait for a reader.
///
/// # Errors
/// When it cannot be written, or is no file.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false);
    let mut file = match options.custom_flags(O_NONBLOCK | O_NOCTTY).open(path) {
        Ok(file) => file,
        // A pipe that nobody reads cannot be opened.
        Err(error) => {
            return match fs::metadata(path) {
                Ok(there) => regular(there.file_type()).and(Err(error)),
                Err(_) => Err(error),
            };
        }
    };
    regular(file.metadata()?.file_type())?;
    file.set_len(0)?;
    file.write_all(content)
}

/// The whole of a file below `root`, no longer than `limit`. A link that leads out of `root` is not
/// followed.
///
/// # Errors
/// As [`read_whole`], and where the file does not lie below `root`.
pub fn read_below(root: &Path, relative: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let path = root.join(relative).canonicalize()?;
    match path.starts_with(root.canonicalize()?) {
        true => read_whole(&path, limit),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is a link to {}, outside of the folder", path.display()),
        )),
    }
}

/// Opens a regular file. The open itself does not wait either: that of a pipe would.
///
/// # Errors
/// When it cannot be opened, or is no file.
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NONBLOCK | O_NOCTTY);
    let file = options.open(path)?;
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

fn regular(kind: FileType) -> io::Result<()> {
    match kind.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {}, not a file", in_words(kind)),
        )),
    }
}

fn in_words(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"sound, and more").unwrap();
        assert_eq!(read_up_to(file.path(), 5).unwrap(), b"sound");
        assert_eq!(read_up_to(file.path(), 99).unwrap(), b"sound, and more");
        assert!(read_up_to(&file.path().join("none"), 5).is_err());
        assert_eq!(read_whole(file.path(), 15).unwrap(), b"sound, and more");
        let error = read_whole(file.path(), 14).unwrap_err().to_string();
        assert!(error.contains("longer than the 14 bytes"), "{error}");
    }

    #[test]
    fn a_link_is_followed_within_the_folder_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(folder.path().join("outside"), "secret").unwrap();
        fs::write(root.join("inside"), "text").unwrap();
        std::os::unix::fs::symlink("inside", root.join("near")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("far")).unwrap();
        let read = |name: &str| read_below(&root, Path::new(name), 99);
        assert_eq!(read("inside").unwrap(), b"text");
        assert_eq!(read("near").unwrap(), b"text");
        for name in ["far", "../outside"] {
            let error = read(name).unwrap_err().to_string();
            assert!(error.contains("outside of the folder"), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, what) in [
            (pipe.as_path(), "a pipe"),
            (folder.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read_up_to(path, 5).unwrap_err().to_string();
            assert_eq!(error, format!("it is {what}, not a file"));
        }
        for (path, what) in [
            (pipe.as_path(), "a pipe"),
            (folder.path(), "a directory"),
            (Path::new("/dev/full"), "a device"),
        ] {
            let error = write_whole(path, b"text").unwrap_err().to_string();
            assert_eq!(error, format!("it is {what}, not a file"));
        }
    }

    #[test]
    fn a_file_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        for text in ["the longer text", "short"] {
            write_whole(&file, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert!(write_whole(&folder.path().join("none/file"), b"").is_err());
    }
}
