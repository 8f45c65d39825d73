//! The report as the agent posts it, at a real receiver: Python's HTTP server, with and without TLS.
//! From a booted image: `machines::network_reports`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_agent::net::post::{Accepted, PostError, post};
use rescue_agent::net::tls::Distrust;
use rescue_agent::settings::target::Pin;
use rescue_tests::receiver::{Certificate, Receiver};
use rescue_tests::scratch;

/// What a small report looks like to those who only carry it.
const REPORT: &str = "{\"schema\":\"esxi-rescue/1\"}";

fn send(url: &str, pin: Option<&str>) -> Result<Result<Accepted, PostError>> {
    let pin = pin
        .map(|pin| Pin::parse(pin).context("no pin"))
        .transpose()?;
    Ok(post(
        &url.parse()?,
        pin,
        &[],
        REPORT,
        Duration::from_secs(30),
    ))
}

#[test]
fn a_pinned_receiver_gets_the_report_whatever_its_key_is() -> Result<()> {
    let folder = scratch::folder()?;
    for kind in ["rsa:2048", "ec", "ed25519"] {
        let certificate = Certificate::make(folder.path(), "receiver", kind)?;
        let receiver = Receiver::start("201", Some(&certificate))?;
        let url = format!("https://127.0.0.1:{}/in", receiver.port);
        let accepted = send(&url, Some(&certificate.fingerprint))?;
        ensure!(
            accepted == Ok(Accepted { status: 201 }),
            "{kind}: {accepted:?}"
        );
        ensure!(receiver.only_body()? == REPORT.as_bytes());
    }
    Ok(())
}

#[test]
fn nobody_else_gets_it() -> Result<()> {
    let folder = scratch::folder()?;
    let certificate = Certificate::make(folder.path(), "receiver", "ec")?;
    let other = Certificate::make(folder.path(), "other", "ec")?;
    let receiver = Receiver::start("201", Some(&certificate))?;
    let url = format!("https://127.0.0.1:{}/", receiver.port);
    let refused = send(&url, Some(&other.fingerprint))?;
    let Err(PostError::Distrust(Distrust::Pin { found, .. })) = &refused else {
        anyhow::bail!("{refused:?}");
    };
    ensure!(
        found.to_string() == certificate.fingerprint,
        "it names what it saw"
    );
    let refused = send(&url, None)?;
    ensure!(
        matches!(refused, Err(PostError::Distrust(_))),
        "no authority vouches for it: {refused:?}"
    );
    ensure!(
        receiver.requests()?.is_empty(),
        "not even a request line got there"
    );
    Ok(())
}

#[test]
fn a_redirect_is_not_followed() -> Result<()> {
    for status in ["302", "307"] {
        let receiver = Receiver::start(status, None)?;
        let sent = send(&format!("http://127.0.0.1:{}/", receiver.port), None)?;
        ensure!(matches!(sent, Err(PostError::Redirect { .. })), "{sent:?}");
        receiver.only_body()?;
    }
    Ok(())
}
