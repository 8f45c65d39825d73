//! Runs the outside programs that make and judge disks.
//!
//! The disks are made and judged by programs that share no code with this project, so that a
//! misreading of a format cannot hide in both. A program that is missing fails the test and names its
//! Debian package; nothing is ever skipped. Every run has a deadline.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// Which Debian package carries a program.
const PACKAGES: &[(&str, &str)] = &[
    ("as", "binutils"),
    ("chromedriver", "chromium-driver"),
    ("chromium", "chromium"),
    ("bzip2", "bzip2"),
    ("cmp", "diffutils"),
    ("curl", "curl"),
    ("cp", "coreutils"),
    ("cpio", "cpio"),
    ("dd", "coreutils"),
    ("dpkg-deb", "dpkg"),
    ("fallocate", "util-linux"),
    ("flock", "util-linux"),
    ("fdisk", "fdisk"),
    ("file", "file"),
    ("fsck.fat", "dosfstools"),
    ("fusermount", "fuse or fuse3"),
    ("gunzip", "gzip"),
    ("gzip", "gzip"),
    ("httpdirfs", "httpdirfs"),
    ("httpfs2", "httpfs2"),
    ("jq", "jq"),
    ("ld", "binutils"),
    ("libvirtd", "libvirt-daemon"),
    ("mattrib", "mtools"),
    ("mcopy", "mtools"),
    ("mdel", "mtools"),
    ("mdir", "mtools"),
    ("mkfs.fat", "dosfstools"),
    ("mmd", "mtools"),
    ("mren", "mtools"),
    ("mtype", "mtools"),
    ("openssl", "openssl"),
    ("python3", "python3, python3-cryptography"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("readelf", "binutils"),
    ("setpriv", "util-linux"),
    ("sfdisk", "fdisk"),
    ("sgdisk", "gdisk"),
    ("sha256sum", "coreutils"),
    ("sqlite3", "sqlite3"),
    ("strace", "strace"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("virsh", "libvirt-clients"),
    ("xorriso", "xorriso"),
    ("xz", "xz-utils"),
    ("zip", "zip"),
    ("zstd", "zstd"),
];

/// Folders searched after `PATH`: an unprivileged user's `PATH` lacks those of gdisk and dosfstools.
const SYSTEM_FOLDERS: &[&str] = &["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Time a program gets unless told otherwise: far above what any of them needs.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(2);

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Its exit status, or -1 where a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Standard output as text, undecodable bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text, undecodable bytes replaced.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// One run of an outside program, built up argument by argument.
#[derive(Debug)]
pub struct Tool {
    program: PathBuf,
    command: Command,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

impl Tool {
    /// A program found by name.
    ///
    /// # Errors
    /// When it is not installed; the message names the package.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self::at(find(name)?))
    }

    /// A program at a path, such as one that this workspace built.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let mut command = Command::new(&program);
        // mtools stores local time and every tool prints in its own language: pin both.
        command
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .env("MTOOLS_SKIP_CHECK", "0");
        Self {
            program,
            command,
            input: None,
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds several arguments.
    pub fn args<I, S>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in this folder.
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives it these bytes on standard input; without, it reads from an empty one.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Ends it by force after this long.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be started, outlives its deadline, or ends with a status other than 0.
    pub fn run(self) -> Result<Vec<u8>> {
        let shown = self.to_string();
        let output = self.output()?;
        ensure!(
            output.status.success(),
            "`{shown}` ended with {}:\n{}{}",
            output.status,
            output.text(),
            output.errors()
        );
        Ok(output.stdout)
    }

    /// Runs it and gives its standard output as text.
    ///
    /// # Errors
    /// As [`Tool::run`], and when the output is not UTF-8.
    pub fn run_text(self) -> Result<String> {
        let shown = self.to_string();
        String::from_utf8(self.run()?)
            .with_context(|| format!("the output of `{shown}` is not UTF-8"))
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// When it cannot be started or outlives its deadline.
    pub fn output(mut self) -> Result<Output> {
        let shown = self.to_string();
        let stdin = if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        self.command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("starting `{shown}`"))?;
        let feeder = feed(&mut child, self.input.take());
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let status =
            wait(&mut child, self.deadline).with_context(|| format!("running `{shown}`"))?;
        if let Some(feeder) = feeder {
            // A program may end before it has read all of its input; its status tells whether that
            // was right.
            let _ = feeder.join();
        }
        Ok(Output {
            status,
            stdout: collect(stdout)?,
            stderr: collect(stderr)?,
        })
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        for argument in self.command.get_args() {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        Ok(())
    }
}

/// Finds a program on `PATH` or in the system's own folders.
///
/// # Errors
/// When it is nowhere; the message names the package.
pub fn find(name: &str) -> Result<PathBuf> {
    // The system's Python is the one that Debian's packages of Python modules serve.
    if name == "python3" {
        let system = PathBuf::from("/usr/bin/python3");
        if system.exists() {
            return Ok(system);
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            let known = PACKAGES.iter().find(|(program, _)| *program == name);
            let package = known.map_or(name, |(_, package)| package);
            anyhow!(
                "the program `{name}` is not installed: `apt-get install {package}` brings it, \
                 and so does `make test`"
            )
        })
}

/// Path of a file that belongs to the test crate, such as `fixtures/seal.py`.
pub fn crate_file(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn feed(
    child: &mut Child,
    input: Option<Vec<u8>>,
) -> Option<thread::JoinHandle<std::io::Result<()>>> {
    let mut stdin = child.stdin.take()?;
    let bytes = input?;
    Some(thread::spawn(move || stdin.write_all(&bytes)))
}

type Drain = Option<thread::JoinHandle<std::io::Result<Vec<u8>>>>;

fn drain(stream: Option<impl Read + Send + 'static>) -> Drain {
    let mut stream = stream?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    }))
}

fn collect(drain: Drain) -> Result<Vec<u8>> {
    match drain {
        None => Ok(Vec::new()),
        Some(thread) => Ok(thread
            .join()
            .map_err(|_| anyhow!("the thread reading a program's output ended early"))??),
    }
}

fn wait(child: &mut Child, deadline: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > deadline {
            child.kill()?;
            child.wait()?;
            bail!(
                "still running after {} s: ended by force",
                deadline.as_secs()
            );
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find("no-such-program-here").unwrap_err().to_string();
        assert!(
            error.contains("apt-get install no-such-program-here"),
            "{error}"
        );
    }

    #[test]
    fn a_failing_program_shows_its_command_and_its_words() {
        let error = Tool::new("gzip")
            .unwrap()
            .args(["-t", "/nonexistent"])
            .run()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("gzip -t /nonexistent") && error.contains("No such file"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let run = Tool::new("sleep")
            .unwrap()
            .arg("30")
            .deadline(Duration::from_millis(50))
            .run();
        assert!(format!("{:#}", run.unwrap_err()).contains("ended by force"));
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(
            Tool::new("cat").unwrap().input(*b"abc").run().unwrap(),
            b"abc"
        );
    }
}
