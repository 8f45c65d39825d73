//! The image that `rescue-image collect --serve` gives to BMCs: read by curl, by httpfs2 (as which iDRAC names
//! itself), by many readers at once, and compared byte by byte.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::collector::{Collector, Start};
use rescue_tests::receiver::Certificate;
use rescue_tests::scratch;
use rescue_tests::tools::{self, Tool};
use serde_json::Value;

/// Bytes of the served file: not a multiple of anything.
const SIZE: usize = 3_000_017;

/// A file whose bytes tell where they are.
fn image(folder: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let bytes: Vec<u8> = (0..SIZE)
        .map(|at| ((at * 31 + at / 251) % 256).to_le_bytes()[0])
        .collect();
    let path = folder.join("lab.iso");
    fs::write(&path, &bytes)?;
    Ok((path, bytes))
}

fn serving(image: &Path, more: &[&str]) -> Result<Collector> {
    let image = image.display().to_string();
    let arguments = ["--serve".to_owned(), image];
    Start::default()
        .args(arguments)
        .args(more.iter().copied())
        .start()
}

/// The head and the body of an answer.
fn curl(collect: &Collector, url: &str, more: &[&str]) -> Result<(String, Vec<u8>)> {
    let answer = collect.curl(&["--include"])?.args(more).arg(url).run()?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.context("no end of the head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    Ok((head, answer[end + 4..].to_vec()))
}

#[test]
fn ranges_are_answered_as_bmcs_want_them() -> Result<()> {
    let folder = scratch::folder()?;
    let (path, bytes) = image(folder.path())?;
    let certificate = Certificate::make(folder.path(), "collect", "ec")?;
    let https = Start::default()
        .tls(&certificate)
        .args([
            "--serve",
            &path.display().to_string(),
            "--serve-listen",
            "127.0.0.1:0",
        ])
        .start()?;
    let secure = format!("{}iso/lab.iso", https.url);
    let plain = https.image_url()?;
    ensure!(
        secure.starts_with("https") && plain.starts_with("http:"),
        "{secure} {plain}"
    );
    for url in [&secure, &plain] {
        let (head, body) = curl(&https, url, &["--head"])?;
        ensure!(
            body.is_empty() && head.starts_with("HTTP/1.1 200 OK"),
            "{head}"
        );
        let length = format!("\r\nContent-Length: {SIZE}\r\n");
        ensure!(
            head.contains(&length) && head.contains("\r\nAccept-Ranges: bytes\r\n"),
            "{head}"
        );
        let last = SIZE - 1;
        let cases = [
            ("0-0", 0..1),
            ("0-2047", 0..2048),
            ("131071-131073", 131_071..131_074),
            ("3000000-", 3_000_000..SIZE),
            ("2999999-99999999", 2_999_999..SIZE),
            ("-17", SIZE - 17..SIZE),
            ("-99999999", 0..SIZE),
        ];
        for (range, expected) in cases {
            let (head, body) = curl(&https, url, &["--range", range])?;
            let told = format!(
                "\r\nContent-Range: bytes {}-{}/{SIZE}",
                expected.start,
                expected.end - 1
            );
            let length = format!("\r\nContent-Length: {}\r\n", expected.len());
            ensure!(
                head.starts_with("HTTP/1.1 206 Partial Content\r\nAccept-Ranges: bytes\r\n")
                    && head.contains(&told)
                    && head.contains(&length),
                "{range}: {head}"
            );
            ensure!(body == bytes[expected], "{range}: other bytes");
        }
        for range in [format!("{SIZE}-"), "-0".to_owned()] {
            let (head, _) = curl(&https, url, &["--range", &range])?;
            let told = format!("\r\nContent-Range: bytes */{SIZE}");
            ensure!(
                head.starts_with("HTTP/1.1 416") && head.contains(&told),
                "{range}: {head}"
            );
        }
        // Several ranges, and what is no range: all of it.
        for range in ["0-1,5-6", "9-1", "a-b"] {
            let range = format!("Range: bytes={range}");
            let (head, body) = curl(&https, url, &["--header", &range])?;
            ensure!(
                head.starts_with("HTTP/1.1 200 OK") && body == bytes,
                "{range}: {head}"
            );
        }
        let (head, _) = curl(&https, url, &["--head"])?;
        let field = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::to_owned)
        };
        let tag = field("Etag: ").context("no tag")?;
        let date = field("Last-Modified: ").context("no date")?;
        let old = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (value, status) in [
            (tag.as_str(), 206),
            (date.as_str(), 206),
            ("\"other\"", 200),
            (old, 200),
        ] {
            let condition = format!("If-Range: {value}");
            let (head, _) = curl(
                &https,
                url,
                &["--range", &format!("5-{last}"), "--header", &condition],
            )?;
            ensure!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{condition}: {head}"
            );
        }
        // Three requests, one connection.
        let connections = https
            .curl(&[
                "--output",
                "/dev/null",
                "--write-out",
                "%{num_connects}",
                "--range",
                "0-9",
            ])?
            .args(
                [url, url, url]
                    .iter()
                    .flat_map(|url| ["--output", "/dev/null", url.as_str()])
                    .skip(2),
            )
            .run_text()?;
        ensure!(
            connections == "100",
            "connections of three requests: {connections}"
        );
    }
    let (head, _) = curl(&https, &plain.replace("lab.iso", "none.iso"), &[])?;
    ensure!(head.starts_with("HTTP/1.1 404"), "{head}");
    let (head, _) = curl(&https, &plain, &["--data", "x"])?;
    ensure!(
        head.starts_with("HTTP/1.1 405"),
        "the second port takes no reports: {head}"
    );
    let (head, _) = curl(&https, &plain.replace("iso/lab.iso", ""), &[])?;
    ensure!(
        head.starts_with("HTTP/1.1 404"),
        "nor does it show the page: {head}"
    );
    Ok(())
}

#[test]
fn a_file_system_over_http_mounts_the_image_and_reads_it_whole() -> Result<()> {
    let folder = scratch::folder()?;
    let (path, bytes) = image(folder.path())?;
    let collect = serving(&path, &["--serve-listen", "127.0.0.1:0"])?;
    let mount = folder.path().join("mount");
    fs::create_dir(&mount)?;
    // iDRAC uses httpfs2. Debian 13 does not have it any more.
    let mounts = match tools::find("httpfs2") {
        Ok(httpfs2) => Tool::at(httpfs2),
        Err(_) => Tool::new("httpdirfs")?.arg("--single-file-mode"),
    };
    mounts.arg(collect.image_url()?).arg(&mount).run()?;
    let read = fs::read(mount.join("lab.iso"));
    // Lazily: a program that another test is just starting has a copy of the open file.
    Tool::new("fusermount")?.arg("-uz").arg(&mount).run()?;
    ensure!(read? == bytes, "other bytes were read");
    Ok(())
}

#[test]
fn sixty_four_readers_at_once_are_not_held_up_by_one_that_stalls() -> Result<()> {
    let folder = scratch::folder()?;
    let (path, bytes) = image(folder.path())?;
    let collect = serving(&path, &[])?;
    let mut stalled = TcpStream::connect(collect.address())?;
    stalled.write_all(b"GET /iso/lab.iso HTTP/1.1\r\nHost: a\r\n\r\n")?;
    thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..64)
            .map(|_| scope.spawn(|| read_whole(collect.address())))
            .collect();
        for reader in readers {
            let read = reader
                .join()
                .map_err(|_| anyhow::anyhow!("a reader panicked"))??;
            ensure!(read == bytes, "a reader got other bytes");
        }
        Ok(())
    })?;
    // It gets the rest when it reads on.
    stalled.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut rest = vec![0; SIZE];
    stalled.read_exact(&mut rest)?;
    let told = fs::read_to_string(collect.end()?.path().join("kept/fetches.json"))?;
    let told: Value = serde_json::from_str(&told)?;
    let fetch = &told["fetches"][0];
    ensure!(
        fetch["address"] == "127.0.0.1" && fetch["image"] == "lab.iso" && fetch["requests"] == 65,
        "{told}"
    );
    Ok(())
}

fn read_whole(address: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /iso/lab.iso HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    Ok(answer.split_off(end.context("no end of the head")? + 4))
}

#[test]
fn an_image_that_does_not_fit_the_receiver_is_warned_of() -> Result<()> {
    let folder = scratch::folder()?;
    // The one with network drivers.
    let image = folder.path().join("lab.img");
    let settings = ["report=http://127.0.0.1:1/", "countdown=0"];
    artefacts::customized("esxi-rescue.img", &settings, &image)?;
    let certificate = Certificate::make(folder.path(), "collect", "ec")?;
    let collect = Start::default()
        .tls(&certificate)
        .args(["--serve", &image.display().to_string()])
        .start()?;
    let until = Instant::now() + Duration::from_secs(30);
    let pin = format!("--set report_pin={}", certificate.fingerprint);
    loop {
        let told = collect.errors()?;
        if told.contains(&pin) {
            ensure!(
                told.contains("report by http, and this receiver speaks https"),
                "{told}"
            );
            ensure!(told.contains("to port 1"), "{told}");
            return Ok(());
        }
        ensure!(Instant::now() < until, "not warned: {told}");
        thread::sleep(Duration::from_millis(50));
    }
}
