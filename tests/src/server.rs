//! A web server for machines that start over the network: Python's, on this machine's loopback only.
//! It answers HEAD and GET, as UEFI HTTP Boot asks.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::tools::find;

/// How this machine is called in QEMU's user network.
const SEEN_FROM_GUEST: &str = "10.0.2.2";

/// Time that it gets to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A web server. Dropping it ends it.
#[derive(Debug)]
pub struct WebServer {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl WebServer {
    /// Serves a folder, on a port that is free.
    ///
    /// # Errors
    /// When Python is missing or the server does not start.
    pub fn serve(served: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("web-").tempdir()?;
        let (said, log) = (folder.path().join("said"), folder.path().join("log"));
        let child = Command::new(find("python3")?)
            .args(["-u", "-m", "http.server", "--bind", "127.0.0.1"])
            .arg("--directory")
            .arg(served)
            .arg("0")
            .stdin(Stdio::null())
            .stdout(File::create(&said)?)
            .stderr(File::create(&log)?)
            .spawn()
            .context("starting Python's web server")?;
        let mut server = Self {
            child,
            port: 0,
            folder,
        };
        let start = Instant::now();
        while server.port == 0 {
            ensure!(
                start.elapsed() < PATIENCE && server.child.try_wait()?.is_none(),
                "the web server did not start: {}",
                server.requests()?
            );
            thread::sleep(Duration::from_millis(20));
            server.port = port(&fs::read_to_string(&said)?).unwrap_or(0);
        }
        Ok(server)
    }

    /// The address of a file, as a machine in QEMU reaches it.
    pub fn address(&self, file: &str) -> String {
        format!("http://{SEEN_FROM_GUEST}:{}/{file}", self.port)
    }

    /// What was asked for so far, a line each.
    ///
    /// # Errors
    /// When its diary cannot be read.
    pub fn requests(&self) -> Result<String> {
        fs::read_to_string(self.folder.path().join("log")).context("reading the server's diary")
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Both fail where it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port in "Serving HTTP on 127.0.0.1 port 12345 (…) ...", once the line is whole.
fn port(said: &str) -> Option<u16> {
    let (_, rest) = said.split_once(" port ")?;
    rest.split_once(' ')?.0.parse().ok()
}
