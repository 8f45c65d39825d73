//! A receiver of reports that shares no code with this project, and certificates for it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::tools::{Tool, crate_file, find};

/// A certificate that nobody vouches for, with its key, made by openssl.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The SHA-256 of the certificate in hex, as openssl tells it.
    pub fingerprint: String,
}

impl Certificate {
    /// Makes one in `folder`, with a key of the kind that `openssl req -newkey` calls `kind`.
    ///
    /// # Errors
    /// When openssl is missing or refuses.
    pub fn make(folder: &Path, name: &str, kind: &str) -> Result<Self> {
        let (certificate, key) = (
            folder.join(format!("{name}.crt")),
            folder.join(format!("{name}.key")),
        );
        let mut tool = Tool::new("openssl")?.args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=receiver",
        ]);
        tool = tool.args(["-newkey", kind]);
        if kind == "ec" {
            tool = tool.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        tool.arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .run()?;
        let told = Tool::new("openssl")?
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(&certificate)
            .run_text()?;

        let (_, fingerprint) = told
            .trim()
            .split_once('=')
            .context("openssl told no fingerprint")?;
        let fingerprint = fingerprint.replace(':', "").to_lowercase();
        Ok(Self {
            certificate,
            key,
            fingerprint,
        })
    }
}

/// A running receiver; it ends with this value.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    folder: TempDir,
    /// The port on the loopback interface.
    pub port: u16,
}

impl Receiver {
    /// Starts one that answers with `answer`: an HTTP status, or `never`.
    ///
    /// # Errors
    /// When Python is missing or the receiver does not start.
    pub fn start(answer: &str, certificate: Option<&Certificate>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(find("python3")?);
        command
            .arg(crate_file("fixtures/receiver.py"))
            .arg(folder.path())
            .arg(answer);
        if let Some(certificate) = certificate {
            command.arg(&certificate.certificate).arg(&certificate.key);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().context("the receiver has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let port = line
            .trim()
            .parse()
            .with_context(|| format!("the receiver said {line:?}"));
        Ok(Self {
            child,
            folder,
            port: port?,
        })
    }

    /// The requests that have arrived, oldest first.
    ///
    /// # Errors
    /// When the receiver's notes cannot be read.
    pub fn requests(&self) -> Result<Vec<Value>> {
        let path = self.folder.path().join("requests");
        if !path.exists() {
            return Ok(Vec::new());
        }
        fs::read_to_string(path)?
            .lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }

    /// The body of the only request.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn only_body(&self) -> Result<Vec<u8>> {
        let requests = self.requests()?;
        ensure!(
            requests.len() == 1,
            "{} requests arrived: {requests:?}",
            requests.len()
        );
        Ok(fs::read(self.folder.path().join("0.body"))?)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
