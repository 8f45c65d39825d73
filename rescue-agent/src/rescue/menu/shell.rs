//! A shell on one console, where the image was built with one.
//!
//! The shell is busybox's. It gets a session of its own with the console as its controlling
//! terminal (`setsid -c`), so that Ctrl-C ends what runs in it and nothing else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{self, InputFlags, LocalFlags, OutputFlags, SetArg};

/// Where the builder puts it, relative to `/`.
const BUSYBOX: &str = "bin/busybox";

/// Whether the image has a shell.
pub(super) fn is_there(root: &Path) -> bool {
    program(root).is_file()
}

fn program(root: &Path) -> PathBuf {
    root.join(BUSYBOX)
}

/// Runs a shell on the console `name` until it ends. Its terminal is hung up then, as that of every
/// session is (Linux `disassociate_ctty`): whoever has it open must open it again, and finds it set
/// as it was before.
///
/// # Errors
/// When the console cannot be opened once more, or the shell cannot be started.
pub(super) fn run(root: &Path, name: &str) -> io::Result<()> {
    let path = root.join("dev").join(name);
    let terminal = open(&path)?;
    let before = match termios::tcgetattr(&terminal) {
        Ok(settings) => Some(settings),
        Err(Errno::ENOTTY) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(before) = &before {
        termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &for_a_person(before.clone()))?;
    }
    let ended = start(root, name, &terminal);
    if let Some(before) = &before {
        termios::tcsetattr(open(&path)?, SetArg::TCSADRAIN, before)?;
    }
    ended
}

/// Opened again, because a shell must be able to wait for its input and the consoles never do.
fn open(path: &Path) -> io::Result<File> {
    // Not waiting for a carrier, which a serial line might do.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    let terminal = options.read(true).write(true).custom_flags(flags.bits());
    let terminal = terminal.open(path)?;
    fcntl(&terminal, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(terminal)
}

/// Lines are edited and echoed, and Ctrl-C is a signal.
fn for_a_person(mut settings: termios::Termios) -> termios::Termios {
    settings.input_flags |= InputFlags::ICRNL | InputFlags::IXON;
    settings.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
    settings.local_flags |= LocalFlags::ISIG
        | LocalFlags::ICANON
        | LocalFlags::ECHO
        | LocalFlags::ECHOE
        | LocalFlags::ECHOK
        | LocalFlags::IEXTEN;
    settings
}

fn start(root: &Path, name: &str, terminal: &File) -> io::Result<()> {
    let is_line = name.starts_with("ttyS") || name.starts_with("hvc");
    let mut shell = Command::new(program(root));
    shell.args(["setsid", "-c", "/bin/busybox", "sh"]);
    shell.env_clear().env("PATH", "/bin:/sbin").env("HOME", "/");
    shell.env("TERM", if is_line { "vt100" } else { "linux" });
    shell.env("PS1", "esxi-rescue# ").current_dir(root);
    shell.stdin(terminal.try_clone()?);
    shell.stdout(terminal.try_clone()?);
    shell.stderr(terminal.try_clone()?);
    // However it ends, the person is back in the menu.
    shell.status().map(drop)
}
