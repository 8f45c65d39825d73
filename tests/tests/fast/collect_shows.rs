//! What people and programs see of the reports: the page, driven in a headless Chromium, and
//! `rescue-image reports`.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::collector::{Collector, Start, file, report};
use rescue_tests::scratch;
use rescue_tests::tools::{Output, Tool, crate_file};
use serde_json::{Value, json};

/// A serial number that is an attack.
const HOSTILE: &str = "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>\"'&";

#[test]
fn the_page_is_live_and_what_hosts_say_stays_text() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    let body = file(
        folder.path(),
        "a.json",
        report("FIRST", "refused").to_string(),
    )?;
    collect.send(&body, &[])?;
    let (url, host) = (&collect.url, format!("{}host/FIRST", collect.url));
    let hostile = {
        let mut hostile = report(HOSTILE, "reverted");
        for field in ["vendor", "model"] {
            hostile["host"][field] = json!("<b onclick=x>&lt;\u{202e}\u{1b}[2J");
        }
        hostile["summary"] =
            json!("<script>document.title='taken'</script>\r\nevent: all\ndata: {}\n\n");
        hostile.to_string()
    };
    let rows = "[...document.querySelectorAll('#hosts tr')]";
    let steps = json!([
        ["open", url],
        [
            "until",
            "return document.getElementById('live').textContent.startsWith('Live')"
        ],
        ["run", format!("return {rows}.map(row => row.dataset.key)")],
        ["post", url, hostile],
        ["post", url, report("THIRD", "clean").to_string()],
        ["until", format!("return {rows}.length == 3")],
        ["run", format!("return {rows}[1].cells[0].textContent")],
        [
            "run",
            format!("return {rows}[1].querySelectorAll('script, img, b').length")
        ],
        [
            "run",
            "return document.title + document.querySelectorAll('img').length"
        ],
        [
            "run",
            "return document.getElementById('counts').textContent"
        ],
        // With the keyboard alone: to the filter, and on to the first host.
        ["keys", "\u{e004}\u{e004}\u{e007}"],
        [
            "until",
            "return location.search == '?show=not-well' && document.readyState == 'complete'"
        ],
        [
            "run",
            format!(
                "return {rows}.filter(row => row.offsetParent !== null).map(row => row.dataset.key)"
            )
        ],
        ["keys", "\u{e004}\u{e004}\u{e004}"],
        ["run", "return document.activeElement.getAttribute('href')"],
        ["open", host],
        ["run", "return document.querySelector('pre').textContent"],
        // A phone: no wider than the window.
        ["size", 420, 900],
        ["open", url],
        [
            "run",
            "return document.documentElement.scrollWidth <= innerWidth"
        ],
    ]);
    let told = browse(folder.path(), &steps)?;
    let answers = &told["answers"];
    let expected = [
        (2, json!(["FIRST"])),
        (6, json!(HOSTILE.chars().take(60).collect::<String>() + "…")),
        (7, json!(0)),
        (8, json!("Rescue reports0")),
        (9, json!("3 hosts, 1 needs attention")),
        (12, json!(["FIRST"])),
        (14, json!("/host/FIRST")),
        (19, json!(true)),
    ];
    for (step, expected) in expected {
        ensure!(
            answers[step] == expected,
            "{}: {}",
            steps[step],
            answers[step]
        );
    }
    let shown = answers[16].as_str().context("no report")?;
    ensure!(shown.contains("\"serial\": \"FIRST\""), "{shown}");
    ensure!(
        told["console"] == json!([]),
        "the console says {}",
        told["console"]
    );
    let requests = told["requests"].as_array().context("no requests")?;
    // The window that Chromium begins with is made of parts of its own.
    let elsewhere = |address: &&Value| {
        let address = address.as_str().unwrap_or_default();
        !["chrome:", "data:"]
            .iter()
            .any(|own| address.starts_with(own))
            && !address.starts_with(url.as_str())
    };
    ensure!(
        !requests.iter().any(|address| elsewhere(&address)),
        "{requests:?}"
    );
    ensure!(
        requests
            .iter()
            .any(|address| address == &format!("{url}events")),
        "{requests:?}"
    );
    Ok(())
}

fn browse(folder: &Path, steps: &Value) -> Result<Value> {
    let told = Tool::new("python3")?
        .arg(crate_file("fixtures/browser.py"))
        .arg(folder)
        .input(steps.to_string())
        .deadline(Duration::from_secs(600))
        .run_text()?;
    Ok(serde_json::from_str(&told)?)
}

#[test]
fn the_page_is_a_table_without_a_script_and_forbids_everything_else() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    let body = file(
        folder.path(),
        "a.json",
        report("<i>A</i>", "failed").to_string(),
    )?;
    collect.send(&body, &[])?;
    let page = collect.get("", &[])?;
    for part in [
        "Content-Security-Policy: default-src 'none'; script-src 'sha256-",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        "&lt;i&gt;A&lt;/i&gt;</a></th>",
        "data-label=\"Result\">failed</td>",
        "Dell Inc. R740",
    ] {
        ensure!(page.contains(part), "{part} is not in {page}");
    }
    ensure!(!page.contains("<i>") && !page.contains("unsafe"), "{page}");
    let links = ["src=", "url(", "@import", "http://", "https://"];
    ensure!(!links.iter().any(|link| page.contains(link)), "{page}");
    Ok(())
}

#[test]
fn the_page_is_seen_by_whom_it_is_meant_for() -> Result<()> {
    let folder = scratch::folder()?;
    let token = file(folder.path(), "token", "0123456789abcdef0123\n")?;
    let status = |collect: &Collector, more: &[&str]| -> Result<String> {
        Ok(collect
            .get("", more)?
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned())
    };
    let plain = Collector::plain()?;
    ensure!(status(&plain, &[])?.contains("200"));
    let named = status(&plain, &["--header", "Host: evil.example"])?;
    ensure!(named.contains("403"), "{named}");
    let with_token = Start::default()
        .args(["--view-token-file", &token.display().to_string()])
        .start()?;
    ensure!(status(&with_token, &[])?.contains("401"));
    ensure!(status(&with_token, &["--user", "me:wrong"])?.contains("401"));
    ensure!(status(&with_token, &["--user", "me:0123456789abcdef0123"])?.contains("200"));
    let host = with_token.get("host/A", &[])?;
    ensure!(host.starts_with("HTTP/1.1 401"), "{host}");
    let events = with_token.get("events", &[])?;
    ensure!(events.starts_with("HTTP/1.1 401"), "{events}");
    let body = file(folder.path(), "a.json", report("A", "clean").to_string())?;
    ensure!(with_token.send(&body, &[])? == "201", "hosts need no token");
    Ok(())
}

fn reports(store: &Path, arguments: &[&str]) -> Result<Output> {
    Tool::at(artefacts::builder()?)
        .args(["reports", "--store"])
        .arg(store)
        .args(arguments)
        .output()
}

#[test]
fn a_host_is_found_by_what_its_bmc_calls_it() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    let mut one = report("7XK2P03", "reverted");
    one["host"]["uuid"] = json!("4c4c4544-0058-4b10-8032-b7c04f503033");
    let mut junk = report("To be filled by O.E.M.", "refused");
    junk["host"]["uuid"] = json!("00000000-0000-0000-0000-000000000000");
    collect.send(&file(folder.path(), "a", one.to_string())?, &[])?;
    collect.send_to(
        "rack/7?secret=1",
        &file(folder.path(), "b", junk.to_string())?,
        &[],
    )?;
    let store = collect.store();
    let lines = fs::read_to_string(store.join("reports.jsonl"))?;
    ensure!(
        lines.contains("\"path\":\"/rack/7\"") && !lines.contains("secret"),
        "{lines}"
    );
    let found = |matching: &str| reports(&store, &["--json", "--match", matching]);
    for (matching, host) in [
        (
            "uuid=44454C4C-5800-104B-8032-B7C04F503033,serial=Default string",
            "7XK2P03",
        ),
        ("serial=CN7475158R0123,sku=7XK2P03", "7XK2P03"),
        ("path=/rack/7", "rack/7"),
    ] {
        let output = found(matching)?;
        ensure!(output.code() == 0, "{matching}: {}", output.errors());
        let told: Value = serde_json::from_str(&output.text())?;
        ensure!(told["hosts"][0]["host"] == host, "{matching}: {told}");
    }
    ensure!(found("serial=OTHER")?.code() == 3);
    ensure!(found("serial=7XK2P03,path=/rack/7")?.code() == 4);
    ensure!(found("serial=None,uuid=")?.code() == 1);
    let table = reports(&store, &[])?.text();
    ensure!(
        table.starts_with("HOST") && table.lines().count() == 3,
        "{table}"
    );
    Ok(())
}

#[test]
fn a_report_is_waited_for() -> Result<()> {
    let folder = scratch::folder()?;
    let collect = Collector::plain()?;
    let store = collect.store();
    ensure!(reports(&store, &["--wait", "1", "--match", "serial=LATE"])?.code() == 3);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            reports(
                &store,
                &[
                    "--wait",
                    "50",
                    "--match",
                    "serial=LATE",
                    "--since",
                    "2020-01-01T00:00:00Z",
                ],
            )
        });
        for name in ["OTHER", "LATE"] {
            let body = report(name, "reverted").to_string();
            collect.send(&file(folder.path(), name, body)?, &[])?;
        }
        let output = waiting
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        ensure!(output.code() == 0, "{}", output.errors());
        ensure!(
            output.text().contains("LATE") && !output.text().contains("OTHER"),
            "{}",
            output.text()
        );
        Ok(())
    })
}
