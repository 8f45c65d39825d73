//! `rescue-image collect`, tried by curl, by clients that misbehave, and read by jq and Python.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::collector::{Collector, Start, file, report};
use rescue_tests::receiver::Certificate;
use rescue_tests::scratch;
use rescue_tests::tools::Tool;
use serde_json::json;

#[test]
fn reports_of_two_hosts_are_kept_shown_and_listed() -> Result<()> {
    let folder = scratch::folder()?;
    let certificate = Certificate::make(folder.path(), "collect", "ec")?;
    for certificate in [None, Some(&certificate)] {
        let mut start = Start::default();
        if let Some(certificate) = certificate {
            start = start.tls(certificate);
        }
        let mut collect = start.start()?;
        if let Some(certificate) = certificate {
            let pin = format!("report_pin={}", certificate.fingerprint);
            ensure!(
                collect.introduction.contains(&pin),
                "{:?}",
                collect.introduction
            );
        }
        let first = file(
            folder.path(),
            "a.json",
            report("7XK2P03", "reverted").to_string(),
        )?;
        let second = file(
            folder.path(),
            "b.json",
            report("../../evil\u{1b}[2J", "refused").to_string(),
        )?;
        ensure!(collect.send(&first, &[])? == "201");
        ensure!(collect.send(&second, &["--header", "Transfer-Encoding: chunked"])? == "201");
        ensure!(
            collect.send(&first, &[])? == "200",
            "the same report is kept once"
        );
        let line = collect.next_line()?;
        ensure!(
            line.contains("7XK2P03") && line.contains("reverted"),
            "{line}"
        );
        ensure!(!collect.next_line()?.contains('\u{1b}'));
        let kept = collect.store();
        let hosts: Vec<String> = fs::read_dir(kept.join("hosts"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        ensure!(
            hosts.len() == 2 && hosts.contains(&"7XK2P03".to_owned()),
            "{hosts:?}"
        );
        let files: Vec<_> = fs::read_dir(kept.join("hosts/7XK2P03"))?.collect::<Result<_, _>>()?;
        ensure!(
            files.len() == 1 && fs::read(files[0].path())? == fs::read(&first)?,
            "kept byte by byte"
        );
        let folder = collect.end()?;
        let lines = folder.path().join("kept/reports.jsonl");
        let told = Tool::new("jq")?
            .args(["-r", "[.host, .result, .report.banks_changed] | @tsv"])
            .arg(&lines)
            .run_text()?;
        ensure!(told.starts_with("7XK2P03\treverted\t2\n"));
        let program =
            "import json, sys; print(len([json.loads(line) for line in open(sys.argv[1])]))";
        let told = Tool::new("python3")?
            .args(["-c", program])
            .arg(&lines)
            .run()?;
        ensure!(told == b"2\n");
    }
    Ok(())
}

#[test]
fn what_is_no_report_is_refused_and_leaves_nothing() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    let other = json!({"schema": "esxi-rescue/2"}).to_string();
    let deep = "[".repeat(1_000_000);
    for (name, body) in [
        ("garbage", "hello"),
        ("empty", ""),
        ("other", &other),
        ("deep", &deep),
    ] {
        let status = collect.send(&file(folder.path(), name, body)?, &[])?;
        ensure!(status == "422", "{name}: {status}");
    }
    let large = file(folder.path(), "large", vec![b' '; 5 * 1024 * 1024])?;
    ensure!(
        collect.send(&large, &["--expect100-timeout", "60"])? == "413",
        "announced as too large"
    );
    // Not announced: curl may still be sending when it is told, and then reports no status.
    let status = collect
        .send(&large, &["--header", "Transfer-Encoding: chunked"])
        .unwrap_or_default();
    ensure!(status.is_empty() || status == "413", "{status}");
    ensure!(collect.send(&file(folder.path(), "any", "")?, &["--request", "PUT"])? == "405");
    let mut raw = TcpStream::connect(collect.address())?;
    raw.write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")?;
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer)?;
    ensure!(
        !answer.starts_with(b"HTTP/1.1 2"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let good = file(folder.path(), "good", report("A", "clean").to_string())?;
    ensure!(collect.send(&good, &[])? == "201", "it still works");
    let kept = collect.end()?;
    ensure!(
        fs::read_to_string(kept.path().join("kept/reports.jsonl"))?
            .lines()
            .count()
            == 1
    );
    ensure!(fs::read_dir(kept.path().join("kept/hosts"))?.count() == 1);
    Ok(())
}

#[test]
fn slow_clients_are_dropped_and_do_not_keep_others_out() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    // As many as there are places, each with half a request.
    let mut slow = Vec::new();
    for index in 0..64 {
        let mut stream = TcpStream::connect(collect.address())?;
        let start: &[u8] = if index % 2 == 0 {
            b"POST / HT"
        } else {
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"
        };
        stream.write_all(start)?;
        slow.push(stream);
    }
    let good = file(folder.path(), "good", report("A", "clean").to_string())?;
    ensure!(
        collect.send(&good, &[])? == "201",
        "a place became free in time"
    );
    drop(slow);
    collect.end()?;
    Ok(())
}

#[test]
fn it_refuses_to_start_on_what_cannot_work() -> Result<()> {
    let folder = scratch::folder()?;
    let certificate = Certificate::make(folder.path(), "one", "ec")?;
    let other = Certificate::make(folder.path(), "other", "ec")?;
    let try_with = |certificate: &Path, key: &Path| -> Result<String> {
        let output = Command::new(artefacts::builder()?)
            .args(["collect", "--listen", "127.0.0.1:0", "--store"])
            .arg(folder.path().join("kept"))
            .arg("--tls-cert")
            .arg(certificate)
            .arg("--tls-key")
            .arg(key)
            .stdin(Stdio::null())
            .output()?;
        ensure!(!output.status.success());
        Ok(String::from_utf8(output.stderr)?)
    };
    let told = try_with(&certificate.certificate, &other.key)?;
    ensure!(told.contains("certificate and key do not match"), "{told}");
    let told = try_with(&certificate.key, &certificate.key)?;
    ensure!(told.contains("certificate"), "{told}");
    let told = try_with(&folder.path().join("none"), &certificate.key)?;
    ensure!(told.contains("none"), "{told}");
    Ok(())
}
