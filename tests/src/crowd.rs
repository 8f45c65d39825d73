//! A thousand hosts that report to `rescue-image collect` at once, while a page is open: for the test, and for the bench.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::collector::{Collector, report};

/// How many hosts send at a time.
const AT_ONCE: usize = 8;
/// How long the page waits for a word.
const SILENCE: Duration = Duration::from_secs(100);

/// What it was like for the hosts, and for the receiver.
#[derive(Debug)]
pub struct Crowd {
    /// From the first report to the last answer.
    pub all: Duration,
    /// How long each host waited for its answer, the shortest first.
    pub answers: Vec<Duration>,
    /// The most memory that the receiver had, in bytes.
    pub memory_bytes: u64,
}

impl Crowd {
    /// How many hosts report.
    pub const HOSTS: usize = 1000;

    /// Has all hosts report to a receiver of its own.
    ///
    /// # Errors
    /// When a report was lost: not answered, not kept, or not seen by the page.
    pub fn report() -> Result<Self> {
        let collect = Collector::plain()?;
        let address = collect.address().to_owned();
        let page = page(&address)?;
        let start = Instant::now();
        let mut answers = send_all(&address)?;
        let all = start.elapsed();
        answers.sort();
        let seen = page.join().map_err(|_| anyhow!("the page panicked"))??;
        ensure!(seen == Self::HOSTS, "the page saw {seen} hosts");
        let memory_bytes = memory(collect.pid())?;
        let folder = collect.end()?;
        let kept = fs::read_to_string(folder.path().join("kept/reports.jsonl"))?;
        let kept = kept.lines().count();
        let hosts = fs::read_dir(folder.path().join("kept/hosts"))?.count();
        ensure!(
            (kept, hosts) == (Self::HOSTS, Self::HOSTS),
            "{kept} reports of {hosts} hosts were kept"
        );
        Ok(Self {
            all,
            answers,
            memory_bytes,
        })
    }
}

fn send_all(address: &str) -> Result<Vec<Duration>> {
    let next = AtomicUsize::new(0);
    let sender = || -> Result<Vec<Duration>> {
        let mut taken = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= Crowd::HOSTS {
                return Ok(taken);
            }
            taken.push(send(address, number)?);
        }
    };
    let answers: Result<Vec<Vec<Duration>>> = thread::scope(|scope| {
        let senders: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(sender)).collect();
        let joined = senders.into_iter().map(|sender| sender.join());
        joined
            .map(|taken| taken.map_err(|_| anyhow!("a sender panicked"))?)
            .collect()
    });
    Ok(answers?.concat())
}

/// Sends a report of some 20 KB, the size of a host's with several disks.
fn send(address: &str, number: usize) -> Result<Duration> {
    let mut report = report(&format!("HOST{number}"), "reverted");
    report["explanation"] = json!(vec!["x".repeat(100); 200]);
    let body = report.to_string();
    let start = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status)?;
    ensure!(status.starts_with("HTTP/1.1 201"), "{status}");
    Ok(start.elapsed())
}

/// Listens for news as a page does, until it has heard of all hosts.
fn page(address: &str) -> Result<thread::JoinHandle<Result<usize>>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SILENCE))?;
    write!(stream, "GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    // Only once it is connected do hosts begin to report.
    let first = lines.next().context("no answer")??;
    ensure!(first.starts_with("HTTP/1.1 200"), "{first}");
    Ok(thread::spawn(move || {
        let mut hosts = BTreeSet::new();
        while hosts.len() < Crowd::HOSTS {
            let line = lines.next().context("the news ended")??;
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            let data: Value = serde_json::from_str(data)?;
            let single = data["key"].as_str().map(str::to_owned);
            let all = data["hosts"].as_array().into_iter().flatten();
            let all = all.filter_map(|host| host["key"].as_str().map(str::to_owned));
            hosts.extend(all.chain(single));
        }
        Ok(hosts.len())
    }))
}

/// The most memory that a process had, in bytes.
fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("the system tells nothing of its memory")?
        .parse()?;
    Ok(kib << 10)
}
