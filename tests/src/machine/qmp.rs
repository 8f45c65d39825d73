//! QEMU's machine protocol: JSON lines over a local socket.
//!
//! Source: QEMU's docs/interop/qmp-spec and the QAPI reference.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer a command.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to a running QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    answers: Receiver<Value>,
    events: Receiver<Value>,
}

impl Qmp {
    /// Connects; `None` while QEMU does not listen yet.
    pub(super) fn connect(socket: &Path) -> Result<Option<Self>> {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).context("connecting to QEMU's monitor"),
        };
        let (answer, answers) = channel();
        let (event, events) = channel();
        let reader = BufReader::new(stream.try_clone()?);
        thread::spawn(move || sort(reader, &answer, &event));
        let mut qmp = Self {
            stream,
            answers,
            events,
        };
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(Some(qmp))
    }

    /// Sends a command and waits for its answer.
    pub(super) fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": name, "arguments": arguments }).to_string();
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("sending {name} to QEMU"))?;
        let mut answer = self
            .answers
            .recv_timeout(ANSWER)
            .with_context(|| format!("QEMU did not answer {name}"))?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => bail!("QEMU refused {name}: {answer}"),
        }
    }

    /// Why QEMU ended, once it has.
    pub(super) fn shutdown_reason(self) -> Option<String> {
        let shutdown = |event: &Value| event["event"] == "SHUTDOWN";
        // The reader ends with QEMU, and the channel with the reader.
        let event = self.events.iter().find(shutdown)?;
        event["data"]["reason"].as_str().map(str::to_owned)
    }
}

/// Sorts what QEMU sends into answers and events, until the connection ends.
fn sort(reader: BufReader<UnixStream>, answers: &Sender<Value>, events: &Sender<Value>) {
    for line in reader.lines().map_while(|line| line.ok()) {
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let target = if value.get("event").is_some() {
            events
        } else {
            answers
        };
        // The greeting is neither.
        if value.get("QMP").is_none() && target.send(value).is_err() {
            return;
        }
    }
}
