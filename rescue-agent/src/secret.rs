//! A secret that a person gives: from a file, or typed at the terminal without being shown.
//!
//! What is read stands in one buffer that never moves and is wiped when it is dropped, so that no copy of
//! it is left in memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest secret, in bytes, with all that may stand around it.
const MAX_BYTES: usize = 4096;
/// The terminal of this process, whatever its input is.
const TERMINAL: &str = "/dev/tty";

/// How long a pipe may say nothing. A program at its other end may ask a person for a password.
const QUIET_TIME: Duration = Duration::from_secs(60);

/// What Ctrl-C sends.
const CTRL_C: u8 = 3;

/// Why there is no secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Its file cannot be read.
    #[error("{file}: the recovery key cannot be read: {error}")]
    File {
        /// Its name.
        file: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file is something else.
    #[error("{file}: longer than {MAX_BYTES} bytes, so it is not a file with a recovery key")]
    TooLong {
        /// Its name.
        file: String,
    },
    /// Nobody can be asked.
    #[error("the recovery key cannot be asked for: there is no terminal ({0})")]
    NoTerminal(io::Error),
}

/// The content of a file, or of a pipe that somebody writes to, such as that of a program which decrypts the key.
///
/// # Errors
/// [`SecretError`].
pub fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    read(path, QUIET_TIME)
}

fn read(path: &Path, quiet_time: Duration) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let file = || path.display().to_string();
    let failed = |error| SecretError::File {
        file: file(),
        error,
    };
    // Neither the open nor a read waits by itself: for a pipe that nobody writes to, that would be for ever.
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(O_NONBLOCK | O_NOCTTY);
    let mut source = options.open(path).map_err(failed)?;
    let mut buffer = Zeroizing::new(vec![0; MAX_BYTES + 1]);
    let mut length = 0;
    loop {
        match source.read(&mut buffer[length..]) {
            Ok(0) if length > MAX_BYTES => return Err(SecretError::TooLong { file: file() }),
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(&source, quiet_time).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    buffer.truncate(length);
    Ok(buffer)
}

/// Until there is more to read, or the end of it.
fn wait(source: &File, quiet_time: Duration) -> io::Result<()> {
    let mut event = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(quiet_time).unwrap_or(PollTimeout::MAX);
    match poll(&mut event, timeout) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came for {} seconds", quiet_time.as_secs()),
        )),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A line that is typed at the terminal and not shown there.
///
/// # Errors
/// [`SecretError::NoTerminal`].
pub fn from_terminal(question: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let mut options = OpenOptions::new();
    let terminal = options.read(true).write(true).open(TERMINAL);
    typed(terminal.map_err(SecretError::NoTerminal)?, question).map_err(SecretError::NoTerminal)
}

fn typed(mut terminal: File, question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let shown = Hidden::begin(&terminal)?;
    terminal.write_all(question.as_bytes())?;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    let mut byte = Zeroizing::new([0]);
    while terminal.read(&mut *byte)? == 1 && !matches!(byte[0], b'\n' | b'\r') {
        if byte[0] == CTRL_C {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if line.len() < MAX_BYTES {
            line.push(byte[0]);
        }
    }
    drop(shown);
    terminal.write_all(b"\n")?;
    Ok(line)
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn begin(terminal: &File) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = termios::tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        // Ctrl-C is read like any other key: by a signal, this process would end before the echo is on again.
        hidden
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ISIG);
        termios::tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // There is nobody left to be told.
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::pty::openpty;

    use super::*;

    #[test]
    fn what_is_typed_is_read_and_not_shown() {
        let pair = openpty(None, None).unwrap();
        let terminal = File::from(pair.slave);
        let kept = terminal.try_clone().unwrap();
        let mut person = File::from(pair.master);
        let reader = thread::spawn(move || typed(terminal, "The key: ").unwrap());
        let mut screen = Vec::new();
        let mut see = |person: &mut File, end: &str| {
            let mut buffer = [0; 64];
            while !String::from_utf8_lossy(&screen).ends_with(end) {
                let length = person.read(&mut buffer).unwrap();
                screen.extend_from_slice(&buffer[..length]);
            }
        };
        see(&mut person, "The key: ");
        thread::sleep(Duration::from_millis(20));
        person.write_all(b"478269-039194\n").unwrap();
        assert_eq!(reader.join().unwrap().as_slice(), b"478269-039194");
        see(&mut person, "\n");
        let shown = String::from_utf8_lossy(&screen).into_owned();
        assert_eq!(shown, "The key: \r\n");
        let flags = termios::tcgetattr(&kept).unwrap().local_flags;
        assert!(flags.contains(LocalFlags::ECHO));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, b"1 2\n").unwrap();
        assert_eq!(from_file(&file).unwrap().as_slice(), b"1 2\n");
        std::fs::write(&file, [b'1'; MAX_BYTES + 1]).unwrap();
        let error = from_file(&file).unwrap_err();
        assert!(matches!(error, SecretError::TooLong { .. }));
        let error = from_file(&folder.path().join("none")).unwrap_err();
        assert!(matches!(error, SecretError::File { .. }));
    }

    #[test]
    fn a_pipe_is_read_and_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Nobody writes.
        assert_eq!(from_file(&pipe).unwrap().as_slice(), b"");
        // Somebody holds it open and writes nothing.
        let mut writer = OpenOptions::new();
        let mut writer = writer.read(true).write(true).open(&pipe).unwrap();
        let error = read(&pipe, Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("nothing came"), "{error}");
        // Somebody writes late, and ends.
        let late = pipe.clone();
        let reader = thread::spawn(move || from_file(&late).unwrap().to_vec());
        thread::sleep(Duration::from_millis(20));
        writer.write_all(b"1 2\n").unwrap();
        // What is in a pipe that nobody holds open is lost.
        let is_read = || {
            let mut pipe = [PollFd::new(writer.as_fd(), PollFlags::POLLIN)];
            poll(&mut pipe, PollTimeout::ZERO).unwrap() == 0
        };
        while !is_read() {
            thread::sleep(Duration::from_millis(1));
        }
        drop(writer);
        assert_eq!(reader.join().unwrap(), b"1 2\n");
    }
}
