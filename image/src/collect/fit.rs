//! Whether an image's settings fit this receiver. An image that reports elsewhere, or does not believe the
//! certificate, is found out before a rack is started from it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use hyper::Uri;
use rescue_agent::settings::Key;

use super::served::Served;
use crate::finished::Finished;

/// What of an image's settings matters here.
#[derive(Debug, Clone)]
struct Reports {
    url: String,
    pin: String,
    network: bool,
}

/// What does not fit, each in a sentence or two.
pub fn problems(image: &Served, at: SocketAddr, fingerprint: Option<&str>) -> Vec<String> {
    let name = image.source.display();
    let read = || -> crate::error::Result<Reports> {
        let opened = Finished::open(&image.source)?;
        let settings = opened.settings()?;
        Ok(Reports {
            url: settings.value(Key::Report),
            pin: settings.value(Key::ReportPin),
            network: opened.has_network()?,
        })
    };
    match read() {
        Ok(reports) => mismatches(&reports, at, fingerprint)
            .into_iter()
            .map(|problem| format!("{name}: {problem}"))
            .collect(),
        Err(error) => vec![format!(
            "{name} is served as it is, but it is no rescue image whose settings can be read: {error}"
        )],
    }
}

fn mismatches(reports: &Reports, at: SocketAddr, fingerprint: Option<&str>) -> Vec<String> {
    let scheme = if fingerprint.is_some() {
        "https"
    } else {
        "http"
    };
    let port = at.port();
    let wanted = format!("--set report={scheme}://THIS-MACHINE:{port}/");
    let mut found = Vec::new();
    if !reports.network {
        found.push(
            "it has no network drivers, so that hosts cannot report; build it with 'make image NET=1'"
                .to_owned(),
        );
    }
    let Ok(url) = reports.url.parse::<Uri>() else {
        found.push(format!(
            "it has no setting 'report', so that hosts send nothing; customize it with {wanted}"
        ));
        return found;
    };
    let says = url.scheme_str().unwrap_or_default();
    if says != scheme {
        found.push(format!(
            "its hosts report by {says}, and this receiver speaks {scheme}; customize it with {wanted}"
        ));
    }
    let default = if says == "https" { 443 } else { 80 };
    let to = url.port_u16().unwrap_or(default);
    if to != port {
        found.push(format!(
            "its hosts report to port {to}, and this receiver listens on {port}; if nothing forwards it, customize the image with {wanted}"
        ));
    }
    if let Some(address) = url.host().and_then(|host| host.parse::<IpAddr>().ok()) {
        if !address.is_loopback() && at.ip().is_loopback() {
            found.push(format!(
                "its hosts report to {address}, and this receiver listens on {} only; start it with --listen 0.0.0.0:{port}",
                at.ip()
            ));
        } else if UdpSocket::bind((address, 0)).is_err() {
            found.push(format!(
                "its hosts report to {address}, which is no address of this machine"
            ));
        }
    }
    found.extend(wrong_pin(&reports.pin, fingerprint));
    found
}

fn wrong_pin(pin: &str, fingerprint: Option<&str>) -> Option<String> {
    let fingerprint = fingerprint?;
    let pin: String = pin.chars().filter(|c| *c != ':').collect();
    let wanted = format!("customize it with --set report_pin={fingerprint}");
    if pin.is_empty() {
        return Some(format!(
            "it has no 'report_pin': its hosts accept this receiver only if its certificate is from a public authority; otherwise {wanted}"
        ));
    }
    (!pin.eq_ignore_ascii_case(fingerprint)).then(|| {
        format!(
            "its 'report_pin' is of another certificate, so that its hosts send nothing; {wanted}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(url: &str, pin: &str, at: &str, fingerprint: Option<&str>) -> String {
        let reports = Reports {
            url: url.to_owned(),
            pin: pin.to_owned(),
            network: true,
        };
        mismatches(&reports, at.parse().unwrap(), fingerprint).join("\n")
    }

    #[test]
    fn an_image_that_reports_elsewhere_is_found_out() {
        let pin = "ab".repeat(32);
        let fits = told("https://127.0.0.1:8443/", &pin, "0.0.0.0:8443", Some(&pin));
        assert_eq!(fits, "");
        assert_eq!(told("http://127.0.0.1/", "", "127.0.0.1:80", None), "");
        let cases = [
            ("", "", "127.0.0.1:80", None, "no setting 'report'"),
            (
                "http://127.0.0.1:1/",
                "",
                "0.0.0.0:2",
                None,
                "port 1, and this receiver listens on 2",
            ),
            (
                "http://127.0.0.1:2/",
                "",
                "0.0.0.0:2",
                Some(&pin),
                "speaks https",
            ),
            (
                "https://127.0.0.1:2/",
                "",
                "0.0.0.0:2",
                None,
                "speaks http;",
            ),
            (
                "https://127.0.0.1:2/",
                "",
                "0.0.0.0:2",
                Some(&pin),
                "no 'report_pin'",
            ),
            (
                "http://192.0.2.1:2/",
                "",
                "127.0.0.1:2",
                None,
                "listens on 127.0.0.1 only",
            ),
            (
                "http://192.0.2.1:2/",
                "",
                "0.0.0.0:2",
                None,
                "no address of this machine",
            ),
        ];
        for (url, pin, at, fingerprint, expected) in cases {
            let told = told(url, pin, at, fingerprint.map(String::as_str));
            assert!(told.contains(expected), "{url}: {told}");
        }
        let other = "cd".repeat(32);
        let told = told("https://127.0.0.1:2/", &other, "0.0.0.0:2", Some(&pin));
        assert!(told.contains("another certificate"), "{told}");
    }
}
