//! `rescue-image collect` goes on: with a full disk, without its terminal, with senders that take all
//! places, and with a thousand hosts at once.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use rescue_tests::artefacts;
use rescue_tests::collector::{Collector, Start, file, report};
use rescue_tests::crowd::Crowd;
use rescue_tests::ports;
use rescue_tests::scratch;
use rescue_tests::tools::{Tool, crate_file};
use serde_json::json;

#[test]
fn a_full_disk_is_said_and_nothing_that_was_kept_is_lost() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Start::default().on_disk_of_kib(700).start()?;
    let mut statuses = Vec::new();
    for number in 0..12 {
        let mut large = report(&format!("HOST{number}"), "clean");
        large["filling"] = json!("x".repeat(60_000));
        let body = file(folder.path(), "large.json", large.to_string())?;
        statuses.push(collect.send(&body, &[])?);
    }
    let kept = statuses.iter().filter(|status| *status == "201").count();
    ensure!(
        kept > 2 && statuses[11] == "507",
        "a disk of 700 KiB took {statuses:?}"
    );
    let page = collect.get("", &[])?;
    ensure!(page.contains("could not be stored"), "{page}");
    ensure!(
        collect.errors()?.contains("free some space there"),
        "{}",
        collect.errors()?
    );
    for (number, status) in statuses.iter().enumerate() {
        let host = collect.get(&format!("host/HOST{number}"), &[])?;
        let there = host.starts_with("HTTP/1.1 200");
        ensure!(
            there == (status == "201"),
            "HOST{number} was answered {status}: {host}"
        );
    }
    Ok(())
}

#[test]
fn it_goes_on_when_its_output_cannot_be_written() -> Result<()> {
    let folder = scratch::folder()?;
    let mut collect = Start::default().errors_unwritable().start()?;
    let send = |collect: &Collector, number: usize| -> Result<()> {
        let body = report(&format!("HOST{number}"), "clean").to_string();
        let status = collect.send(&file(folder.path(), "r.json", body)?, &[])?;
        ensure!(status == "201", "report {number}: {status}");
        Ok(())
    };
    // Nobody reads: what the socket and the queue hold is soon full.
    let line = "x".repeat(60);
    for number in 0..40 {
        let mut long = report(&format!("{number}{line}"), "clean");
        long["host"]["model"] = json!(line);
        let body = file(folder.path(), "r.json", long.to_string())?;
        ensure!(collect.send(&body, &[])? == "201");
    }
    // Nobody ever will.
    collect.close_output();
    send(&collect, 1)?;
    ensure!(collect.send(&file(folder.path(), "bad", "{}")?, &[])? == "422");
    send(&collect, 2)?;
    collect.signal(Signal::SIGHUP)?;
    send(&collect, 3)?;
    let kept = collect.end()?;
    let lines = fs::read_to_string(kept.path().join("kept/reports.jsonl"))?;
    ensure!(lines.lines().count() == 43, "{}", lines.lines().count());
    Ok(())
}

#[test]
fn it_goes_on_when_its_terminal_goes_away() -> Result<()> {
    let folder = scratch::folder()?;
    let body = file(folder.path(), "r.json", report("A", "clean").to_string())?;
    let port = ports::free()?;
    let statuses = Tool::new("python3")?
        .arg(crate_file("fixtures/lost_terminal.py"))
        .arg(format!("http://127.0.0.1:{port}/"))
        .arg(body)
        .arg(artefacts::builder()?)
        .args([
            "collect",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--store",
        ])
        .arg(folder.path().join("kept"))
        .run_text()?;
    ensure!(statuses == "201\n201\n201\n", "{statuses}");
    Ok(())
}

#[test]
fn silent_senders_of_one_address_keep_nobody_out() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(collect.address())?;
        // Those beyond the number of an address are turned away.
        let _ = stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
        silent.push(stream);
    }
    let body = file(folder.path(), "a.json", report("A", "clean").to_string())?;
    let other = collect.send(&body, &["--interface", "127.0.0.2"])?;
    ensure!(other == "201", "another address: {other}");
    let body = file(folder.path(), "b.json", report("B", "clean").to_string())?;
    let retried = ["--retry", "20", "--retry-all-errors", "--retry-delay", "1"];
    let same = collect.send(&body, &retried)?;
    ensure!(
        same == "201",
        "the same address, once they are silent: {same}"
    );
    drop(silent);
    collect.end()?;
    Ok(())
}

#[test]
fn all_that_is_kept_is_for_its_owner_only() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    let body = file(folder.path(), "a.json", report("A", "clean").to_string())?;
    collect.send(&body, &[])?;
    let kept = collect.end()?;
    let listed = Tool::new("sh")?
        .args(["-c", "find \"$0\" -mindepth 1 -printf '%y %m\\n' | sort -u"])
        .arg(kept.path().join("kept"))
        .run_text()?;
    ensure!(listed == "d 700\nf 600\n", "{listed}");
    Ok(())
}

#[test]
fn a_thousand_hosts_report_while_a_page_is_open() -> Result<()> {
    // It fails unless all of them are kept and seen.
    let crowd = Crowd::report()?;
    println!(
        "{} hosts in {:?}: the slowest answer after {:?}",
        Crowd::HOSTS,
        crowd.all,
        crowd.answers[Crowd::HOSTS - 1]
    );
    Ok(())
}

#[test]
fn old_reports_go_and_the_newest_stay() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Start::default().args(["--keep", "2"]).start()?;
    let count =
        |store: &Path| -> Result<usize> { Ok(fs::read_dir(store.join("hosts/A"))?.count()) };
    for number in 0..5 {
        let mut one = report("A", "clean");
        one["summary"] = json!(format!("number {number}"));
        collect.send(&file(folder.path(), "r.json", one.to_string())?, &[])?;
    }
    let other = file(folder.path(), "b.json", report("B", "clean").to_string())?;
    collect.send(&other, &[])?;
    ensure!(count(&collect.store())? == 2);
    ensure!(fs::read_dir(collect.store().join("hosts/B"))?.count() == 1);
    let mode = fs::metadata(collect.store().join("reports.jsonl"))?
        .permissions()
        .mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let last = collect.get("host/A", &[])?;
    ensure!(
        last.contains("number 4") && !last.contains("number 2"),
        "{last}"
    );
    Ok(())
}
