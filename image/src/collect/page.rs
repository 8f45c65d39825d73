//! The page: one document without anything from elsewhere. Without JavaScript it is a plain table; with it,
//! new reports appear by themselves. All that hosts say is text: escaped here, and put in as text by the
//! script. The policy in its head lets a browser run that script only, and talk to nobody else.

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use rescue_agent::counted::counted;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{self, Sender};
use tokio::time::timeout;

use super::body::{Answer, Content, answer, say};
use super::document::{MAX_REPORT, is_well};
use super::fetches::Fetch;
use super::hosts::Row;
use super::identity::is_folder_name;
use super::state::{Change, Known, State};
use super::store::HOSTS;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const HTML: &str = "text/html; charset=utf-8";

/// The heads of the table of hosts.
const HEADS: [&str; 8] = [
    "Serial",
    "Host",
    "ESXi",
    "Result",
    "Banks",
    "Devices",
    "When (UTC)",
    "Note",
];
/// The heads of the table of readers.
const READER_HEADS: [&str; 7] = [
    "Address",
    "Image",
    "Requests",
    "Sent",
    "First (UTC)",
    "Last (UTC)",
    "Report",
];
/// Most readers that are shown.
const MAX_READERS: usize = 200;
/// How often a page that waits hears that it is still connected.
const ALIVE: Duration = Duration::from_secs(15);
/// How long a page may take for a message.
const STALL: Duration = Duration::from_secs(30);

/// What a browser may do with the page: run this script, use this style, ask this server.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
});

/// The page with all hosts, or with those that need attention.
pub fn all(known: &Known, only_not_well: bool) -> Answer {
    let mut page = String::new();
    let not_well = known.hosts.rows().iter().filter(|row| !row.is_well());
    let hosts = counted(known.hosts.rows().len(), "host", "hosts");
    let open = counted(not_well.count(), "needs attention", "need attention");
    let current = |is: bool| if is { " aria-current=\"page\"" } else { "" };
    let class = if only_not_well {
        " class=\"not-well\""
    } else {
        ""
    };
    let _ = write!(
        page,
        "<main{class}>\n<h1>Rescue reports</h1>\n<p id=\"counts\">{hosts}, {open}</p>\n\
         <p id=\"live\">Reload the page to see what is new.</p>\n<p id=\"said\" class=\"hidden\" role=\"status\"></p>\n\
         <nav aria-label=\"Filter\"><a href=\"/\"{}>All hosts</a> <a href=\"/?show=not-well\"{}>Need attention, or no report</a></nav>\n\
         <ul id=\"problems\" aria-label=\"Problems\">",
        current(!only_not_well),
        current(only_not_well),
    );
    for text in problems(known) {
        let _ = write!(page, "<li>{}</li>", escaped(&text));
    }
    page.push_str("</ul>\n");
    let rows = known.hosts.rows().iter().rev().map(host_row);
    table(
        &mut page,
        "hosts",
        "The last report of each host",
        &HEADS,
        rows,
    );
    if known.hosts.forgotten() > 0 {
        let _ = write!(
            page,
            "<p>{} in the folder only.</p>",
            counted(
                known.hosts.forgotten(),
                "earlier host is",
                "earlier hosts are"
            )
        );
    }
    page.push_str("<h2>Who read the image</h2>\n");
    let rows = readers(known).into_iter().map(|reader| reader_row(&reader));
    table(
        &mut page,
        "readers",
        "Addresses that read a served image. One that sent no report may be the BMC of a host that did.",
        &READER_HEADS,
        rows,
    );
    let _ = write!(page, "</main>\n<script>{SCRIPT}</script>\n");
    document("Rescue reports", &page)
}

fn table(
    page: &mut String,
    id: &str,
    caption: &str,
    heads: &[&str],
    rows: impl Iterator<Item = String>,
) {
    let _ = write!(
        page,
        "<table role=\"table\">\n<caption>{caption}</caption>\n<thead role=\"rowgroup\"><tr role=\"row\">"
    );
    for head in heads {
        let _ = write!(page, "<th scope=\"col\" role=\"columnheader\">{head}</th>");
    }
    // Nothing between the rows: the script counts on rows only.
    let _ = write!(
        page,
        "</tr></thead>\n<tbody id=\"{id}\" role=\"rowgroup\">{}</tbody>\n</table>\n",
        rows.collect::<String>()
    );
}

fn cell(label: &str, text: &str) -> String {
    let class = if label == "Result" {
        " class=\"result\""
    } else {
        ""
    };
    format!(
        "<td role=\"cell\"{class} data-label=\"{label}\">{}</td>",
        escaped(text)
    )
}

fn host_row(row: &Row) -> String {
    let well = if row.is_well() { "yes" } else { "no" };
    let key = escaped(&row.folder);
    let texts = [
        &row.model,
        &row.build,
        &row.result,
        &row.banks.to_string(),
        &row.devices.to_string(),
        &row.when,
        &row.note,
    ];
    let cells: String = HEADS[1..]
        .iter()
        .zip(texts)
        .map(|(label, text)| cell(label, text))
        .collect();
    format!(
        "<tr role=\"row\" data-key=\"{key}\" data-well=\"{well}\" data-result=\"{}\"><th scope=\"row\" role=\"rowheader\">\
         <a href=\"/host/{key}\">{}</a></th>{cells}</tr>",
        escaped(&row.result),
        escaped(&row.serial)
    )
}

fn host_json(row: &Row) -> Value {
    json!({
        "key": row.folder, "serial": row.serial, "model": row.model, "build": row.build, "result": row.result,
        "banks": row.banks, "devices": row.devices, "when": row.when, "note": row.note, "well": row.is_well(),
    })
}

/// Who read an image, latest first, and whether a report came from the same address.
fn readers(known: &Known) -> Vec<(Fetch, bool)> {
    let senders: HashSet<IpAddr> = known
        .hosts
        .rows()
        .iter()
        .filter_map(|row| row.from.parse::<std::net::SocketAddr>().ok())
        .map(|from| from.ip().to_canonical())
        .collect();
    let list: Vec<&Fetch> = known.fetches.list().collect();
    let latest = list.into_iter().rev().take(MAX_READERS);
    latest
        .map(|fetch| (fetch.clone(), senders.contains(&fetch.address)))
        .collect()
}

fn reader_texts((fetch, reported): &(Fetch, bool)) -> [String; 7] {
    [
        fetch.address.to_string(),
        fetch.image.clone(),
        fetch.requests.to_string(),
        format!("{} KiB", fetch.bytes.div_ceil(1024)),
        fetch.first.clone(),
        fetch.last.clone(),
        if *reported { "yes" } else { "none from here" }.to_owned(),
    ]
}

fn reader_row(reader: &(Fetch, bool)) -> String {
    let texts = reader_texts(reader);
    let cells: String = READER_HEADS
        .iter()
        .zip(&texts)
        .skip(1)
        .map(|(label, text)| cell(label, text))
        .collect();
    let reported = if reader.1 { "yes" } else { "no" };
    format!(
        "<tr role=\"row\" data-reported=\"{reported}\"><th scope=\"row\" role=\"rowheader\">{}</th>{cells}</tr>",
        escaped(&texts[0])
    )
}

fn readers_json(known: &Known) -> Value {
    let list = readers(known).into_iter().map(|reader| {
        let [address, image, requests, size, first, last, report] = reader_texts(&reader);
        json!({"address": address, "image": image, "requests": requests, "size": size, "first": first,
            "last": last, "report": report, "reported": reader.1})
    });
    list.collect()
}

fn problems(known: &Known) -> Vec<String> {
    let list = known.problems.iter().rev();
    list.map(|problem| format!("{}: {}", problem.when, problem.text))
        .collect()
}

fn everything(known: &Known) -> Value {
    let hosts: Vec<Value> = known.hosts.rows().iter().map(host_json).collect();
    json!({"hosts": hosts, "readers": readers_json(known), "problems": problems(known)})
}

/// The changes from now on, as server-sent events, which begin with everything that is known. The page
/// holds one of a few places as long as it listens.
pub fn events(state: Arc<State>, place: OwnedSemaphorePermit) -> Answer {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        send_events(&state, &sender).await;
        drop(place);
    });
    let mut answer = Response::new(Content::Flow(receiver));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(
        hyper::header::CACHE_CONTROL,
        HeaderValue::from_static("no-store"),
    );
    answer
}

/// Until the page has gone.
async fn send_events(state: &State, sender: &Sender<std::io::Result<Bytes>>) {
    let mut changes = state.changes();
    let mut next = event("all", &everything(&state.known()));
    loop {
        match timeout(STALL, sender.send(Ok(Bytes::from(next)))).await {
            Ok(Ok(())) => {}
            _ => return,
        }
        next = match timeout(ALIVE, changes.recv()).await {
            Err(_) => ":\n\n".to_owned(),
            Ok(Ok(Change::Host(row))) => event("host", &host_json(&row)),
            Ok(Ok(Change::Fetches)) => event("readers", &readers_json(&state.known())),
            Ok(Ok(Change::Problem)) => event("problems", &json!(problems(&state.known()))),
            // It was too slow for single changes.
            Ok(Err(RecvError::Lagged(_))) => event("all", &everything(&state.known())),
            Ok(Err(RecvError::Closed)) => return,
        };
    }
}

/// JSON has no line feed of its own, so that one line holds it.
fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// The page of one host: its last report in full, and links to all that are kept.
pub fn host(store: &Path, folder: &str) -> Answer {
    let files = if is_folder_name(folder) {
        files(&store.join(HOSTS).join(folder))
    } else {
        Vec::new()
    };
    let Some(last) = files.last() else {
        return say(StatusCode::NOT_FOUND, "There is no report of this host.\n");
    };
    let report = report(store, folder, last)
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .unwrap_or_default();
    let mut page = format!(
        "<main>\n<h1>Reports of {}</h1>\n<nav aria-label=\"Back\"><a href=\"/\">All hosts</a></nav>\n\
         <h2>Kept reports, the last one first</h2>\n<ul>\n",
        escaped(folder)
    );
    for name in files.iter().rev() {
        let name = escaped(name);
        let _ = writeln!(
            page,
            "<li><a href=\"/host/{}/{name}\">{name}</a></li>",
            escaped(folder)
        );
    }
    let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
    let word = text("result");
    let well = if is_well(&word) {
        "OK"
    } else {
        "needs attention"
    };
    let pretty = serde_json::to_string_pretty(&report).unwrap_or_default();
    let _ = write!(
        page,
        "</ul>\n<h2>The last report: {} ({well})</h2>\n<p>{}</p>\n<pre tabindex=\"0\" aria-label=\"The report in full\">{}</pre>\n</main>\n",
        escaped(&word),
        escaped(&rescue_agent::report::escape(&text("summary"))),
        escaped(&harmless_lines(&pretty)),
    );
    document(&format!("Reports of {folder}"), &page)
}

/// A report as it came.
pub fn file(store: &Path, folder: &str, name: &str) -> Answer {
    let fits = is_folder_name(folder) && is_folder_name(name);
    match fits.then(|| report(store, folder, name)).flatten() {
        Some(bytes) => {
            let mut answer = answer(StatusCode::OK, "application/json", bytes);
            protect(&mut answer, "default-src 'none'; sandbox");
            answer
        }
        None => say(StatusCode::NOT_FOUND, "There is no such report.\n"),
    }
}

/// The reports in a host's folder, oldest first. Their names tell the second only.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let plain = is_folder_name(&name) && name.ends_with(".json");
            plain.then(|| {
                (
                    entry.metadata().and_then(|there| there.modified()).ok(),
                    name,
                )
            })
        })
        .collect();
    files.sort();
    files.into_iter().map(|(_, name)| name).collect()
}

fn report(store: &Path, folder: &str, name: &str) -> Option<Vec<u8>> {
    let path = store.join(HOSTS).join(folder).join(name);
    let there = fs::symlink_metadata(&path).ok()?;
    let plain = there.is_file() && there.len() <= MAX_REPORT as u64;
    plain.then(|| fs::read(path).ok()).flatten()
}

fn document(title: &str, body: &str) -> Answer {
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escaped(title)
    );
    let mut answer = answer(StatusCode::OK, HTML, page);
    protect(&mut answer, &POLICY);
    answer
}

fn protect(answer: &mut Answer, policy: &str) {
    let headers = answer.headers_mut();
    for (name, value) in [
        ("content-security-policy", policy),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Text for HTML, inside of elements and of quoted attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text of several lines in which nothing turns the direction of writing.
fn harmless_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(rescue_agent::report::escape).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_say_stays_text() {
        assert_eq!(
            escaped("<script>alert(\"1\" & '2')</script>"),
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;"
        );
        let text = event("host", &json!({"serial": "a\r\nevent: all\n\n"}));
        assert_eq!(text.matches('\n').count(), 3, "{text}");
    }

    #[test]
    fn script_and_style_cannot_end_their_elements() {
        for text in [SCRIPT, STYLE] {
            assert!(!text.contains("</") && !text.contains("<!--"));
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval"));
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let store = tempfile::tempdir().unwrap();
        let outside = store.path().join("secret.json");
        fs::write(&outside, "{}").unwrap();
        let folder = store.path().join("hosts/A");
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("link.json")).unwrap();
        for (host, name) in [
            ("..", "secret.json"),
            ("A", "../../secret.json"),
            ("A", "link.json"),
            ("A/..", "x"),
            ("", ""),
        ] {
            let status = file(store.path(), host, name).status();
            assert_eq!(status, StatusCode::NOT_FOUND, "{host} {name}");
        }
    }
}
