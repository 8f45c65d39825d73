//! Where a report goes, and how its receiver proves itself: the settings `report` and `report_pin`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;
use ureq::http::Uri;
use ureq::http::uri::Authority;

/// Longest name of a host, in bytes (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
/// Longest part of it between dots, in bytes.
const MAX_LABEL: usize = 63;

/// The URL that reports are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    host: Host,
    port: u16,
}

/// Who is meant by a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name to look up.
    Name(String),
    /// An address.
    Address(Ipv4Addr),
}

/// Why a text is no URL that reports can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// It is no URL.
    #[error("it is not a URL")]
    NotUrl,
    /// Reports go by HTTP or HTTPS only.
    #[error("it does not start with http:// or https://")]
    Scheme,
    /// The settings are part of the report, and a report is no place for a password.
    #[error("it contains a user or a password, which would become part of every report")]
    User,
    /// An IPv6 address.
    #[error("IPv6 addresses are not supported")]
    Ipv6,
    /// The host is neither a name nor an address.
    #[error("its host is neither a name nor an IPv4 address")]
    Host,
    /// The port is none.
    #[error("its port is not a number from 1 to 65535")]
    Port,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let scheme = ["http://", "https://"];
        if !scheme.iter().any(|scheme| text.starts_with(scheme)) {
            return Err(TargetError::Scheme);
        }
        // The parser stops at `#` and would not say so.
        if text.contains('#') {
            return Err(TargetError::NotUrl);
        }
        let uri: Uri = text.parse().map_err(|_| TargetError::NotUrl)?;
        let authority = uri.authority().ok_or(TargetError::Host)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::User);
        }
        let port = port(authority)?;
        let host = host(authority.host())?;
        let port = port.unwrap_or(if text.starts_with("https") { 443 } else { 80 });
        Ok(Target { uri, host, port })
    }
}

fn port(authority: &Authority) -> Result<Option<u16>, TargetError> {
    let after_host = authority.as_str().get(authority.host().len()..);
    match after_host.unwrap_or_default().strip_prefix(':') {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(0) | Err(_) => Err(TargetError::Port),
            Ok(port) => Ok(Some(port)),
        },
    }
}

fn host(text: &str) -> Result<Host, TargetError> {
    if text.starts_with('[') {
        return Err(TargetError::Ipv6);
    }
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(address));
    }
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(plain)
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_name = name.len() <= MAX_NAME && name.split('.').all(label);
    // What ends in a number is meant as an address and is none.
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_name || numeric {
        return Err(TargetError::Host);
    }
    Ok(Host::Name(name.to_owned()))
}

impl Target {
    /// Whether it is `https://`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Who is meant.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, also where the URL does not name it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As the HTTP client takes it.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// For people and reports: without what follows a `?`, which may be a key to the receiver.
    #[must_use]
    pub fn without_query(&self) -> String {
        let whole = self.to_string();
        match whole.split_once('?') {
            Some((before, _)) => format!("{before}?…"),
            None => whole,
        }
    }
}

/// The URL as it was written, but for an empty path.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

/// The SHA-256 of the certificate (DER) that the receiver must show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// Reads 64 hex digits, also with the colons that `openssl x509 -fingerprint` puts between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Pin> {
        let mut bytes = [0; 32];
        let digits: String = if text.contains(':') {
            let parts: Vec<&str> = text.split(':').collect();
            parts
                .iter()
                .all(|part| part.len() == 2)
                .then(|| parts.concat())?
        } else {
            text.to_owned()
        };
        if digits.len() != 2 * bytes.len() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Pin(bytes))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let cases: [(&str, &str, u16, bool); 6] = [
            ("http://10.0.0.1", "10.0.0.1", 80, false),
            ("http://10.0.0.1:8080/reports", "10.0.0.1", 8080, false),
            (
                "https://Collector.lab.example/x?rack=4",
                "Collector.lab.example",
                443,
                true,
            ),
            ("https://collector:8443", "collector", 8443, true),
            ("https://lab_1.example./", "lab_1.example", 443, true),
            (
                "http://xn--bcher-kva.example",
                "xn--bcher-kva.example",
                80,
                false,
            ),
        ];
        for (text, host, port, https) in cases {
            let target: Target = text.parse().unwrap();
            let found = match target.host() {
                Host::Name(name) => name.clone(),
                Host::Address(address) => address.to_string(),
            };
            assert_eq!(
                (found.as_str(), target.port(), target.is_https()),
                (host, port, https),
                "{text}"
            );
        }
        let secret: Target = "https://a.b/x?token=1".parse().unwrap();
        assert_eq!(secret.without_query(), "https://a.b/x?…");
        assert_eq!(secret.to_string(), "https://a.b/x?token=1");
    }

    #[test]
    fn what_is_no_url_for_reports_is_said() {
        let cases = [
            ("ftp://x", TargetError::Scheme),
            ("x", TargetError::Scheme),
            ("HTTP://x", TargetError::Scheme),
            ("http://", TargetError::NotUrl),
            ("http:///x", TargetError::NotUrl),
            ("http://a b", TargetError::NotUrl),
            ("http://a/#b", TargetError::NotUrl),
            ("http://u:p@a/", TargetError::User),
            ("http://[::1]/", TargetError::Ipv6),
            ("http://1.2.3/", TargetError::Host),
            ("http://1.2.3.256/", TargetError::Host),
            ("http://a..b/", TargetError::Host),
            ("http://a:0/", TargetError::Port),
            ("http://a:/", TargetError::Port),
            ("http://a:65536/", TargetError::Port),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Target>().expect_err(text), expected, "{text}");
        }
        let long = format!("http://{}/", "a".repeat(64));
        assert_eq!(long.parse::<Target>(), Err(TargetError::Host));
    }

    #[test]
    fn pins_are_read_as_people_find_them() {
        let plain = "00ff".repeat(16);
        let pin = Pin::parse(&plain).unwrap();
        assert_eq!(pin.to_string(), plain);
        let colons = vec!["00:FF"; 16].join(":");
        assert_eq!(Pin::parse(&colons), Some(pin));
        for text in [
            "",
            "00",
            &plain[1..],
            &format!("{plain}0"),
            &plain.replace("0", "g"),
            &format!("0:0{}", &plain[2..]),
            &"é".repeat(32),
        ] {
            assert_eq!(Pin::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(https?://)?[ -~é]{0,80}") {
            let _ = text.parse::<Target>();
            let _ = Pin::parse(&text);
        }
    }
}
