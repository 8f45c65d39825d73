//! Text on every console of the machine at once, and keys from any of them.
//!
//! A person may sit in front of VGA or behind a serial line, and nobody knows which. So each line
//! goes to all of them. A console must never hold up a repair: each has a thread of its own that
//! hands it the text, and one that does not take it (flow control, a dead BMC) is given up.
//!
//! Colours, and a picture that is redrawn in place, are for screens: those are the kernel's own
//! terminal (`TERM=linux`). A serial line gets plain text and nothing that steers a terminal,
//! because nobody knows what listens there: a person, a log, a program.
//!
//! Out of scope: what is said.
//!
//! Which consoles exist: `console/active` in Linux `Documentation/ABI/testing/sysfs-tty`.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, FlushArg, InputFlags, SetArg};
use zeroize::Zeroize as _;

use super::paint;
use crate::report::Line;

/// How long a console may take no byte at all before it is given up. Far longer than the pauses
/// of a slow serial line.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// How many texts may wait for a slow console before it is given up.
const QUEUE_TEXTS: usize = 4096;
/// How often a console that takes nothing is tried again. Waiting for it by `poll` would not do:
/// a terminal reports itself writable only once its buffer is nearly empty.
const WRITE_RETRY: Duration = Duration::from_millis(10);
/// How much of the output is kept, in bytes of text.
pub const TRANSCRIPT_BYTES: usize = 256 * 1024;
/// Longest wait handed to `poll` in one go.
const POLL_SLICE: Duration = Duration::from_secs(30);

/// A key that somebody pressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPress {
    /// The console it came from, e.g. `ttyS0`.
    pub console: String,
    /// The bytes that the terminal sent for it, at least one; function keys send several.
    pub bytes: Vec<u8>,
}

/// It may be a part of a secret.
impl Drop for KeyPress {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl KeyPress {
    /// The key as a character, if it is a plain one. Enter is `\r` or `\n`.
    #[cfg(test)]
    #[must_use]
    pub fn character(&self) -> Option<char> {
        match self.bytes.as_slice() {
            [byte] if byte.is_ascii() => Some(char::from(*byte)),
            _ => None,
        }
    }
}

/// All consoles of the machine. Clones speak to the same ones.
#[derive(Clone)]
pub struct Consoles {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    consoles: Vec<Console>,
    /// Width of the line that [`Consoles::status`] left without an end.
    status_width: usize,
    /// Whether the current line was rewritten in place, even if it is blank now.
    rewritten: bool,
    /// Lines of the picture that ends above the cursor, if nothing was said since.
    picture_height: Option<usize>,
    transcript: VecDeque<String>,
    transcript_bytes: usize,
}

/// What a serial line, which cannot redraw, gets of a picture that replaces another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSerial {
    /// All of it, below the other.
    Again,
    /// The line under it only: it says what has changed.
    StatusOnly,
}

/// One terminal.
struct Console {
    name: String,
    file: Arc<File>,
    queue: SyncSender<Work>,
    /// Takes no text any more.
    dropped: Arc<AtomicBool>,
}

/// What the thread of a console is to do next.
enum Work {
    /// Hand over this text.
    Write(Arc<str>),
    /// Answer once everything before has left the machine.
    Drain(Sender<()>),
}

impl fmt::Debug for Consoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consoles").field(&self.names()).finish()
    }
}

impl Consoles {
    /// Opens the consoles of the machine whose `/` is `root`: those in `chosen` (comma-separated
    /// names under `/dev`), or else those that the machine has ([`console_names`]). Names that
    /// cannot be opened are left out. If none is left, `/dev/console` is tried; there may be none
    /// at all, and then text goes nowhere but into the transcript.
    #[must_use]
    pub fn open(root: &Path, chosen: Option<&str>) -> Consoles {
        let names = match chosen {
            Some(text) => text.split(',').map(str::to_owned).collect(),
            None => console_names(root),
        };
        let mut consoles: Vec<Console> = names
            .iter()
            .filter_map(|name| Console::open(root, name).ok())
            .collect();
        if consoles.is_empty() {
            consoles.extend(Console::open(root, "console"));
        }
        Consoles::from_list(consoles)
    }

    /// Consoles over files that are open already, with their names.
    #[cfg(test)]
    #[must_use]
    pub fn from_files(files: Vec<(String, File)>) -> Consoles {
        let consoles = files.into_iter();
        Consoles::from_list(
            consoles
                .filter_map(|(name, file)| Console::start(name, file).ok())
                .collect(),
        )
    }

    fn from_list(consoles: Vec<Console>) -> Consoles {
        Consoles {
            inner: Arc::new(Mutex::new(Inner {
                consoles,
                status_width: 0,
                rewritten: false,
                picture_height: None,
                transcript: VecDeque::new(),
                transcript_bytes: 0,
            })),
        }
    }

    /// Speaks through `other`'s terminals from now on, in every clone. The output so far is kept.
    pub fn replace_with(&self, other: Consoles) {
        let consoles = std::mem::take(&mut other.lock().consoles);
        let mut inner = self.lock();
        inner.status("");
        inner.consoles = consoles;
    }

    /// The names of the consoles that still take text.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let inner = self.lock();
        let live = inner
            .consoles
            .iter()
            .filter(|console| !console.is_dropped());
        live.map(|console| console.name.clone()).collect()
    }

    /// The names of the consoles that were given up.
    #[cfg(test)]
    #[must_use]
    pub fn dropped(&self) -> Vec<String> {
        let inner = self.lock();
        let dropped = inner.consoles.iter().filter(|console| console.is_dropped());
        dropped.map(|console| console.name.clone()).collect()
    }

    /// Writes text and an end of line. Line feeds inside end lines too. The text must be the
    /// program's own, or have gone through [`crate::report::escape`].
    pub fn line(&self, text: &str) {
        self.lock().line(text);
    }

    /// Like [`Consoles::line`], in the line's tone.
    pub fn show(&self, line: &Line) {
        self.lock().show(line);
    }

    /// Begins a fresh screen; a serial line gets an empty line.
    pub fn begin_page(&self) {
        let mut inner = self.lock();
        inner.status("");
        inner.picture_height = None;
        inner.write_where(paint::CLEAR, is_screen);
        inner.write_where("\r\n", |name| !is_screen(name));
    }

    /// Shows lines, and a status line under them, in place of the last picture if nothing else
    /// was said since. Nothing of it goes into the transcript.
    pub fn picture(&self, lines: &[Line], status: &str, on_serial: OnSerial) {
        self.lock().picture(lines, status, on_serial);
    }

    /// What comes next stands below the picture, not in its place.
    pub fn end_picture(&self) {
        self.lock().picture_height = None;
    }

    /// Adds a line to the transcript only.
    pub fn note(&self, text: &str) {
        self.lock().remember(text);
    }

    /// Like [`Consoles::line`], but on serial lines only, and not into the transcript: text for
    /// programs, which would push what a person reads off a screen.
    pub fn serial_line(&self, text: &str) {
        let mut inner = self.lock();
        inner.status("");
        inner.picture_height = None;
        if std::mem::take(&mut inner.rewritten) {
            // Programs read lines: what was rewritten in place must not be part of theirs.
            inner.write_where("\r\n", |name| !is_screen(name));
        }
        inner.write_where(&format!("{}\r\n", text.replace('\n', "\r\n")), |name| {
            !is_screen(name)
        });
    }

    /// Like [`Consoles::line`], and if another thread holds the consoles (or this one, which is
    /// panicking while it writes), gives up instead of waiting.
    pub fn line_if_free(&self, text: &str) {
        match self.inner.try_lock() {
            Ok(mut inner) => inner.line(text),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().line(text),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Rewrites the current line in place and leaves the cursor on it; an empty text clears it.
    /// It does not go into the transcript. Only text of one line makes sense here.
    pub fn status(&self, text: &str) {
        self.lock().status(text);
    }

    /// The output so far, without the status lines; the oldest lines are forgotten beyond
    /// [`TRANSCRIPT_BYTES`].
    #[must_use]
    pub fn transcript(&self) -> String {
        let inner = self.lock();
        inner
            .transcript
            .iter()
            .fold(String::new(), |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            })
    }

    /// Forgets keys that were pressed earlier, so that they do not answer a later question.
    pub fn forget_keys(&self) {
        for console in self.lock().live() {
            // A console without a keyboard has nothing to forget.
            let _ = termios::tcflush(&console.file, FlushArg::TCIFLUSH);
        }
    }

    /// Waits for a key on any console, for `timeout`, or for ever. `None`: the time is over.
    #[must_use]
    pub fn wait_key(&self, timeout: Option<Duration>) -> Option<KeyPress> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut readable = self.readable();
        loop {
            let slice = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => POLL_SLICE,
            };
            if let Some(key) = poll_keys(&mut readable, slice.min(POLL_SLICE)) {
                return Some(key);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return None;
            }
        }
    }

    /// Waits until everything has left the machine, for `timeout` at most. Before a restart:
    /// the last lines on a serial line would be lost.
    pub fn drain(&self, timeout: Duration) {
        let (done, finished) = mpsc::channel();
        for console in self.lock().live() {
            // One whose queue is full is about to be given up.
            let _ = console.queue.try_send(Work::Drain(done.clone()));
        }
        drop(done);
        let deadline = Instant::now() + timeout;
        // Until the time is over, or every console has answered or been given up.
        while finished
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .is_ok()
        {}
    }

    fn readable(&self) -> Vec<(String, Arc<File>)> {
        let inner = self.lock();
        let live = inner.live();
        live.map(|console| (console.name.clone(), Arc::clone(&console.file)))
            .collect()
    }

    /// A panic elsewhere must not silence the consoles.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn live(&self) -> impl Iterator<Item = &Console> {
        self.consoles.iter().filter(|console| !console.is_dropped())
    }

    fn line(&mut self, text: &str) {
        self.status("");
        self.rewritten = false;
        self.picture_height = None;
        for line in text.split('\n') {
            self.remember(line);
        }
        self.write(&format!("{}\r\n", text.replace('\n', "\r\n")));
    }

    fn show(&mut self, line: &Line) {
        self.status("");
        self.picture_height = None;
        self.remember(&line.text);
        self.write_line(line);
    }

    fn write_line(&mut self, line: &Line) {
        self.rewritten = false;
        self.write_where(&format!("{}\r\n", paint::painted(line)), is_screen);
        self.write_where(&format!("{}\r\n", line.text), |name| !is_screen(name));
    }

    fn picture(&mut self, lines: &[Line], status: &str, on_serial: OnSerial) {
        let same = self.picture_height == Some(lines.len());
        self.status("");
        match same {
            true => {
                self.write_where(&paint::redrawn(lines), is_screen);
                if on_serial == OnSerial::Again {
                    for line in lines {
                        self.write_where(&format!("{}\r\n", line.text), |name| !is_screen(name));
                    }
                }
            }
            false => {
                for line in lines {
                    self.write_line(line);
                }
            }
        }
        self.picture_height = Some(lines.len());
        self.status(status);
    }

    fn status(&mut self, text: &str) {
        let width = text.chars().count();
        if self.status_width == 0 && width == 0 {
            return;
        }
        let blanks = self.status_width.saturating_sub(width);
        // Blanks rather than an escape sequence: also right for a terminal that knows none.
        let mut rewritten = format!("\r{text}{:blanks$}", "");
        if width == 0 {
            rewritten.push('\r');
        }
        self.write(&rewritten);
        self.rewritten = true;
        self.status_width = width;
    }

    fn write(&self, text: &str) {
        self.write_where(text, |_| true);
    }

    fn write_where(&self, text: &str, wanted: impl Fn(&str) -> bool) {
        let text: Arc<str> = Arc::from(text);
        for console in self.live().filter(|console| wanted(&console.name)) {
            let work = Work::Write(Arc::clone(&text));
            if console.queue.try_send(work).is_err() {
                console.dropped.store(true, Ordering::Relaxed);
            }
        }
    }

    fn remember(&mut self, line: &str) {
        self.transcript_bytes += line.len() + 1;
        self.transcript.push_back(line.to_owned());
        while self.transcript_bytes > TRANSCRIPT_BYTES {
            let Some(oldest) = self.transcript.pop_front() else {
                break;
            };
            self.transcript_bytes -= oldest.len() + 1;
        }
    }
}

/// Whether a terminal is a screen (`tty0`, `tty1`) rather than a line (`ttyS0`, `hvc0`).
fn is_screen(name: &str) -> bool {
    name.strip_prefix("tty")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Console {
    fn open(root: &Path, name: &str) -> io::Result<Console> {
        // Non-blocking also for the opening itself: a serial line may wait for a carrier.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits())
            .open(root.join("dev").join(name))?;
        set_raw(&file)?;
        Console::start(name.to_owned(), file)
    }

    fn start(name: String, file: File) -> io::Result<Console> {
        let (queue, work) = mpsc::sync_channel(QUEUE_TEXTS);
        let console = Console {
            name,
            file: Arc::new(file),
            queue,
            dropped: Arc::new(AtomicBool::new(false)),
        };
        let (file, dropped) = (Arc::clone(&console.file), Arc::clone(&console.dropped));
        thread::Builder::new()
            .name(format!("console {}", console.name))
            .spawn(move || {
                if serve(&file, &work).is_err() {
                    dropped.store(true, Ordering::Relaxed);
                    // What the line did not take would hold up whoever closes it.
                    let _ = termios::tcflush(&file, FlushArg::TCOFLUSH);
                }
            })?;
        Ok(console)
    }

    fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What a console's thread does: it runs until nobody can speak to the console any more, or it fails.
fn serve(file: &File, work: &Receiver<Work>) -> io::Result<()> {
    for work in work {
        match work {
            Work::Write(text) => write_with_timeout(file, text.as_bytes())?,
            Work::Drain(done) => {
                let drained = termios::tcdrain(file);
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
                match drained {
                    Ok(()) | Err(Errno::ENOTTY) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
}

/// Writes all of it, or fails once nothing has been taken for [`WRITE_TIMEOUT`].
fn write_with_timeout(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    let mut deadline = Instant::now() + WRITE_TIMEOUT;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                bytes = &bytes[taken..];
                deadline = Instant::now() + WRITE_TIMEOUT;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(WRITE_RETRY),
        }
    }
    Ok(())
}

/// Keys arrive one by one, nothing is echoed, and nothing that arrives can stop the output. Files
/// that are no terminals are left as they are.
fn set_raw(file: &File) -> io::Result<()> {
    let mut settings = match termios::tcgetattr(file) {
        Ok(settings) => settings,
        Err(Errno::ENOTTY) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    termios::cfmakeraw(&mut settings);
    // A break on the line is not a key.
    settings.input_flags.insert(InputFlags::IGNBRK);
    termios::tcsetattr(file, SetArg::TCSANOW, &settings)?;
    Ok(())
}

/// The names under `/dev` of the consoles of this machine, each once: those that the kernel
/// speaks on, and the screen (`tty0`). Serial lines that the kernel was not told to use are left
/// alone: their speed is unknown, and something other than a person may listen there.
#[must_use]
pub fn console_names(root: &Path) -> Vec<String> {
    let tty = root.join("sys/class/tty");
    let active = fs::read_to_string(tty.join("console/active")).unwrap_or_default();
    let mut names: Vec<String> = active.split_whitespace().map(str::to_owned).collect();
    if tty.join("tty0").exists() && !names.iter().any(|name| name == "tty0") {
        names.push("tty0".to_owned());
    }
    names
}

/// Keeps the kernel's own messages off the consoles, so that they do not cover the program's.
/// They stay readable in the kernel log; a kernel panic still shows.
///
/// # Errors
/// When `/proc` is not mounted or refuses.
pub fn silence_kernel(root: &Path) -> io::Result<()> {
    fs::write(root.join("proc/sys/kernel/printk"), "1")
}

/// One round of waiting on all consoles. Consoles that hang up are taken off the list.
fn poll_keys(readable: &mut Vec<(String, Arc<File>)>, timeout: Duration) -> Option<KeyPress> {
    if readable.is_empty() {
        thread::sleep(timeout);
        return None;
    }
    let mut fds: Vec<PollFd<'_>> = readable
        .iter()
        .map(|(_, file)| PollFd::new(file.as_fd(), PollFlags::POLLIN))
        .collect();
    // Rounded up, else the last millisecond would be spent spinning.
    let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1));
    if poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)).is_err() {
        return None;
    }
    let events: Vec<PollFlags> = fds
        .iter()
        .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
        .collect();
    let mut key = None;
    let mut events = events.into_iter();
    readable.retain(|(name, file)| {
        let event = events.next().unwrap_or(PollFlags::empty());
        if event.is_empty() || key.is_some() {
            return true;
        }
        match read_key(name, file) {
            Ok(found) => {
                key = found;
                true
            }
            Err(_) => false,
        }
    });
    key
}

/// Reads what a key sent. Fails if nothing will ever come from there again.
fn read_key(name: &str, mut file: &File) -> io::Result<Option<KeyPress>> {
    let mut buffer = [0_u8; 64];
    match file.read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => {
            // An open serial line picks up noise: bytes that no key sends as its first one.
            let bytes: Vec<u8> = buffer[..length]
                .iter()
                .copied()
                .skip_while(|byte| *byte == 0 || !byte.is_ascii())
                .collect();
            Ok((!bytes.is_empty()).then(|| KeyPress {
                console: name.to_owned(),
                bytes,
            }))
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::pty::openpty;

    use super::*;
    use crate::report::Tone;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A terminal and the person in front of it.
    fn terminal() -> (File, File) {
        let pair = openpty(None, None).unwrap();
        let (person, terminal) = (File::from(pair.master), File::from(pair.slave));
        set_raw(&terminal).unwrap();
        for file in [&person, &terminal] {
            fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        (person, terminal)
    }

    fn read_all(mut person: &File) -> String {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = person.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Reads as much as is expected, because text takes its time through a terminal.
    fn read_length(person: &File, length: usize) -> String {
        let deadline = Instant::now() + TIMEOUT;
        let mut read = String::new();
        while read.len() < length && Instant::now() < deadline {
            read.push_str(&read_all(person));
            thread::sleep(Duration::from_millis(1));
        }
        read
    }

    #[test]
    fn every_console_gets_every_line() {
        let (left, left_tty) = terminal();
        let (right, right_tty) = terminal();
        let consoles = Consoles::from_files(vec![("l".into(), left_tty), ("r".into(), right_tty)]);
        consoles.line("one\ntwo");
        consoles.status("3 s");
        consoles.status("2");
        consoles.line("three");
        let expected = "one\r\ntwo\r\n\r3 s\r2  \r \rthree\r\n";
        assert_eq!(read_length(&left, expected.len()), expected);
        assert_eq!(read_length(&right, expected.len()), expected);
        assert_eq!(consoles.transcript(), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_picture_is_redrawn_on_a_screen_and_a_serial_line_gets_plain_text() {
        let (screen, screen_tty) = terminal();
        let (line, line_tty) = terminal();
        let consoles = Consoles::from_files(vec![
            ("tty0".into(), screen_tty),
            ("ttyS0".into(), line_tty),
        ]);
        let [a, b] = ["a", "b"].map(Line::plain);
        let c = Line::new(Tone::Good, "c");
        consoles.picture(&[a.clone(), b], "one", OnSerial::Again);
        consoles.picture(&[a.clone(), c.clone()], "two", OnSerial::StatusOnly);
        consoles.picture(std::slice::from_ref(&c), "", OnSerial::StatusOnly);
        consoles.line("said");
        consoles.picture(&[c], "", OnSerial::StatusOnly);
        let green = "\x1b[32mc\x1b[0m";
        let expected = format!(
            "a\r\nb\r\n\rone\r   \r\x1b[2Aa\x1b[K\r\n{green}\x1b[K\r\n\rtwo\r   \r{green}\r\nsaid\r\n{green}\r\n"
        );
        assert_eq!(read_length(&screen, expected.len()), expected);
        let expected = "a\r\nb\r\n\rone\r   \r\rtwo\r   \rc\r\nsaid\r\nc\r\n";
        assert_eq!(read_length(&line, expected.len()), expected);
        assert_eq!(consoles.transcript(), "said\n");
    }

    #[test]
    fn colours_and_clearing_are_for_screens_only() {
        let (screen, screen_tty) = terminal();
        let (line, line_tty) = terminal();
        let consoles =
            Consoles::from_files(vec![("tty1".into(), screen_tty), ("hvc0".into(), line_tty)]);
        consoles.begin_page();
        consoles.show(&Line::new(Tone::Bad, "FAILED   it"));
        consoles.note("only noted");
        let expected = "\x1b[0m\x1b[H\x1b[2J\x1b[36mFAILED   \x1b[0m\x1b[1;31mit\x1b[0m\r\n";
        assert_eq!(read_length(&screen, expected.len()), expected);
        let expected = "\r\nFAILED   it\r\n";
        assert_eq!(read_length(&line, expected.len()), expected);
        assert_eq!(consoles.transcript(), "FAILED   it\nonly noted\n");
    }

    #[test]
    fn a_console_that_takes_nothing_is_given_up_and_the_others_go_on() {
        let (_stuck, stuck_tty) = terminal();
        let (person, tty) = terminal();
        let consoles =
            Consoles::from_files(vec![("ttyS0".into(), stuck_tty), ("tty0".into(), tty)]);
        let begun = Instant::now();
        let mut read = 0;
        for _ in 0..200 {
            consoles.line(&"x".repeat(1000));
            read += read_all(&person).len();
        }
        assert!(begun.elapsed() < WRITE_TIMEOUT / 2, "nobody waits for it");
        while read < 200 * 1002 && begun.elapsed() < TIMEOUT {
            thread::sleep(Duration::from_millis(5));
            read += read_all(&person).len();
        }
        assert_eq!(read, 200 * 1002);
        while consoles.dropped().is_empty() && begun.elapsed() < TIMEOUT {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(consoles.dropped(), ["ttyS0"]);
        assert_eq!(consoles.names(), ["tty0"]);
        consoles.drain(TIMEOUT);
    }

    #[test]
    fn a_slow_reader_is_not_given_up() {
        let (person, tty) = terminal();
        let consoles = Consoles::from_files(vec![("ttyS0".into(), tty)]);
        let reader = thread::spawn(move || {
            let mut read = 0;
            while read < 40_080 {
                thread::sleep(Duration::from_millis(30));
                read += read_all(&person).len();
            }
        });
        for _ in 0..40 {
            consoles.line(&"x".repeat(1000));
        }
        reader.join().unwrap();
        assert!(consoles.dropped().is_empty());
    }

    #[test]
    fn a_key_from_any_console_ends_the_wait() {
        let (_left, left_tty) = terminal();
        let (right, right_tty) = terminal();
        let consoles = Consoles::from_files(vec![("l".into(), left_tty), ("r".into(), right_tty)]);
        assert_eq!(consoles.wait_key(Some(Duration::from_millis(20))), None);
        (&right).write_all(b"m").unwrap();
        let key = consoles.wait_key(Some(Duration::from_secs(5))).unwrap();
        assert_eq!((key.console.as_str(), key.character()), ("r", Some('m')));
        (&right).write_all(b"\x1b[A").unwrap();
        let key = consoles.wait_key(None).unwrap();
        assert_eq!(
            (key.bytes.as_slice(), key.character()),
            (&b"\x1b[A"[..], None)
        );
    }

    #[test]
    fn noise_and_old_keys_are_no_keys() {
        let (person, tty) = terminal();
        let consoles = Consoles::from_files(vec![("ttyS0".into(), tty)]);
        (&person).write_all(b"\0\xff\xfe").unwrap();
        assert_eq!(consoles.wait_key(Some(Duration::from_millis(50))), None);
        (&person).write_all(b"old").unwrap();
        thread::sleep(Duration::from_millis(50));
        consoles.forget_keys();
        assert_eq!(consoles.wait_key(Some(Duration::from_millis(50))), None);
    }

    #[test]
    fn a_console_that_hangs_up_does_not_make_the_wait_spin_or_end() {
        let (person, tty) = terminal();
        let consoles = Consoles::from_files(vec![("ttyS0".into(), tty)]);
        drop(person);
        let begun = Instant::now();
        assert_eq!(consoles.wait_key(Some(Duration::from_millis(60))), None);
        assert!(begun.elapsed() >= Duration::from_millis(60));
        consoles.line("into the void");
        consoles.drain(TIMEOUT);
        assert_eq!(consoles.dropped(), ["ttyS0"]);
        let none = Consoles::from_files(Vec::new());
        none.line("x");
        assert_eq!(none.wait_key(Some(Duration::from_millis(5))), None);
    }

    #[test]
    fn consoles_are_named_once_and_only_if_they_exist() {
        let cases: [(&str, bool, &[&str]); 4] = [
            ("tty0 ttyS0\n", true, &["tty0", "ttyS0"]),
            ("ttyS1\n", true, &["ttyS1", "tty0"]),
            ("hvc0 ttyS0\n", false, &["hvc0", "ttyS0"]),
            ("", false, &[]),
        ];
        for (active, screen, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            let tty = root.path().join("sys/class/tty");
            fs::create_dir_all(tty.join("console")).unwrap();
            fs::write(tty.join("console/active"), active).unwrap();
            if screen {
                fs::create_dir_all(tty.join("tty0")).unwrap();
            }
            assert_eq!(console_names(root.path()), expected, "{active:?}");
        }
    }

    #[test]
    fn the_transcript_is_bounded() {
        let consoles = Consoles::from_files(Vec::new());
        for number in 0..5000 {
            consoles.line(&format!("{number:0100}"));
        }
        let transcript = consoles.transcript();
        assert!(transcript.len() <= TRANSCRIPT_BYTES);
        assert!(transcript.ends_with("4999\n"));
    }
}
