//! A running `rescue-image collect`, and what the tests ask it by curl.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::artefacts;
use crate::receiver::Certificate;
use crate::tools::{Tool, find};

/// Time that it gets to end.
const DEADLINE: Duration = Duration::from_secs(20);

/// How `rescue-image collect` is started.
#[derive(Debug, Default)]
pub struct Start {
    certificate: Option<Certificate>,
    arguments: Vec<String>,
    disk_kib: Option<u32>,
    port: u16,
    ignored_errors: bool,
}

impl Start {
    /// With HTTPS.
    #[must_use]
    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// With these arguments as well.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// On this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// With a folder of reports on a file system of this size, which only it sees.
    #[must_use]
    pub fn on_disk_of_kib(mut self, size: u32) -> Self {
        self.disk_kib = Some(size);
        self
    }

    /// With a standard error that nothing can be written to.
    #[must_use]
    pub fn errors_unwritable(mut self) -> Self {
        self.ignored_errors = true;
        self
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(self) -> Result<Collector> {
        Collector::start(&self)
    }
}

/// A running `rescue-image collect`. Dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    output: Option<BufReader<UnixStream>>,
    folder: TempDir,
    errors: PathBuf,
    /// Its URL, as it prints it.
    pub url: String,
    /// What it printed before it was ready.
    pub introduction: Vec<String>,
}

impl Collector {
    /// One without anything special.
    ///
    /// # Errors
    /// When it does not start.
    pub fn plain() -> Result<Self> {
        Start::default().start()
    }

    fn start(how: &Start) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("collect-").tempdir()?;
        let store = folder.path().join("kept");
        fs::create_dir(&store)?;
        let mut command = how.program(&store)?;
        command
            .args([
                "collect",
                "--listen",
                &format!("127.0.0.1:{}", how.port),
                "--store",
            ])
            .arg(&store);
        if let Some(certificate) = &how.certificate {
            command.arg("--tls-cert").arg(&certificate.certificate);
            command.arg("--tls-key").arg(&certificate.key);
        }
        command.args(&how.arguments);
        let errors = folder.path().join("errors");
        let full = Path::new("/dev/full");
        let errors_to = if how.ignored_errors { full } else { &errors };
        let errors_to = fs::File::options()
            .create(true)
            .append(true)
            .open(errors_to)?;
        // A socket, since its buffer is small and does not grow.
        let (ours, theirs) = UnixStream::pair()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stderr(errors_to)
            .spawn()?;
        // The command keeps our copy of its end open.
        drop(command);
        let mut collector = Self {
            child,
            output: Some(BufReader::new(ours)),
            folder,
            errors,
            url: String::new(),
            introduction: Vec::new(),
        };
        collector.read_introduction()?;
        Ok(collector)
    }

    fn read_introduction(&mut self) -> Result<()> {
        while !self
            .introduction
            .last()
            .is_some_and(|line| line.starts_with("Ctrl-C"))
        {
            let line = self.next_line()?;
            ensure!(
                !line.is_empty(),
                "it ended after {:?}: {}",
                self.introduction,
                self.errors()?
            );
            self.introduction.push(line.trim().to_owned());
        }
        let url = self.introduction[0]
            .split_whitespace()
            .find(|word| word.starts_with("http"));
        self.url = url
            .context("it names no URL")?
            .trim_end_matches(',')
            .to_owned();
        Ok(())
    }

    /// The folder of reports.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("kept")
    }

    /// Address and port.
    pub fn address(&self) -> &str {
        self.url.split('/').nth(2).unwrap_or_default()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The URL of the first image that it serves where `--serve-listen` says, or else where reports go.
    ///
    /// # Errors
    /// When it serves none.
    pub fn image_url(&self) -> Result<String> {
        let mut urls = self
            .introduction
            .iter()
            .filter(|line| line.contains("/iso/"));
        let line = urls.next_back().context("it serves no image")?;
        let url = line.split_whitespace().last().unwrap_or_default();
        Ok(url.replace("THIS-MACHINE", "127.0.0.1"))
    }

    /// What it prints next; empty where it has ended.
    ///
    /// # Errors
    /// When its output was closed.
    pub fn next_line(&mut self) -> Result<String> {
        let mut line = String::new();
        let output = self.output.as_mut().context("its output was closed")?;
        output.read_line(&mut line)?;
        Ok(line)
    }

    /// Nobody reads its output any more.
    pub fn close_output(&mut self) {
        self.output = None;
    }

    /// What it printed on its standard error.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn errors(&self) -> Result<String> {
        fs::read_to_string(&self.errors).context("reading its standard error")
    }

    /// What curl says the HTTP status of sending the file is.
    ///
    /// # Errors
    /// When curl gets no answer.
    pub fn send(&self, body: &Path, more: &[&str]) -> Result<String> {
        self.send_to("", body, more)
    }

    /// The same to a path below its URL.
    ///
    /// # Errors
    /// When curl gets no answer.
    pub fn send_to(&self, path: &str, body: &Path, more: &[&str]) -> Result<String> {
        let data = format!("@{}", body.display());
        let url = format!("{}{path}", self.url);
        self.curl(&["--output", "/dev/null", "--write-out", "%{http_code}"])?
            .args(["--data-binary", &data])
            .args(more)
            .arg(url)
            .run_text()
    }

    /// Curl that asks for a path below its URL, and gives the whole answer, head and body.
    ///
    /// # Errors
    /// When curl gets no answer.
    pub fn get(&self, path: &str, more: &[&str]) -> Result<String> {
        let url = format!("{}{path}", self.url);
        self.curl(&["--include"])?.args(more).arg(url).run_text()
    }

    /// Curl.
    ///
    /// # Errors
    /// When there is none.
    pub fn curl(&self, arguments: &[&str]) -> Result<Tool> {
        let common = ["--silent", "--show-error", "--insecure", "--max-time", "60"];
        Ok(Tool::new("curl")?.args(common).args(arguments))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).context("sending a signal to collect")
    }

    /// Ctrl-C: its folder, if it ends well.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(mut self) -> Result<TempDir> {
        self.signal(Signal::SIGINT)?;
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "it ended with {status}");
                let folder = std::mem::replace(&mut self.folder, tempfile::tempdir()?);
                return Ok(folder);
            }
            ensure!(Instant::now() < until, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Start {
    /// The builder, or the builder inside of a file system of its own.
    fn program(&self, store: &Path) -> Result<Command> {
        let builder = artefacts::builder()?;
        let Some(size) = self.disk_kib else {
            return Ok(Command::new(builder));
        };
        let mut command = Command::new(find("unshare")?);
        let script = format!("mount -t tmpfs -o size={size}k tmpfs \"$0\" && exec \"$@\"");
        // Root needs no user namespace, and in a chroot there is none to be had.
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--mount", "sh", "-c", &script])
            .arg(store)
            .arg(builder);
        Ok(command)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A report as a host sends it.
pub fn report(serial: &str, result: &str) -> Value {
    json!({
        "schema": "esxi-rescue/1", "version": "0.1.0", "command": "revert", "result": result, "exit_status": 0,
        "summary": "1 device was given back.", "host": {"vendor": "Dell Inc.", "model": "R740", "serial": serial, "uuid": null},
        "disks": [{"path": "/dev/sda", "banks": [{"partition": 5, "build": "ESXi 6.7.0-8169922", "boots_next": true}]}],
        "devices": [], "banks_changed": 2, "devices_changed": 1,
    })
}

/// A file with this content.
///
/// # Errors
/// When it cannot be written.
pub fn file(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
    let path = folder.join(name);
    let mut file = fs::File::create(&path)?;
    file.write_all(bytes.as_ref())?;
    Ok(path)
}
