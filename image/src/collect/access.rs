//! Who may see the page. Reports name hosts and serial numbers, so that nobody on the network sees them
//! unless the administrator said so: with a token, or in so many words.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{StatusCode, Uri};
use rescue_agent::counted::counted;
use rescue_agent::files;
use sha2::{Digest, Sha256};

use super::body::{Answer, say};

/// Shortest token, in characters.
const MIN_TOKEN: usize = 16;

/// Longest file with a token that is read, in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Who may see the page.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever is on this machine.
    ThisMachine,
    /// Whoever knows the token, of which this is the SHA-256.
    Token([u8; 32]),
    /// Whoever reaches the port.
    Everybody,
}

impl Access {
    /// Access by the token in a file, white space around it aside.
    ///
    /// # Errors
    /// When the file cannot be read, or the token is too short to be one.
    pub fn by_token(file: &Path) -> Result<Access> {
        let text = files::read_whole(file, MAX_TOKEN_BYTES)
            .and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
            .with_context(|| format!("reading the token in {}", file.display()))?;
        let token = text.trim();
        ensure!(
            token.len() >= MIN_TOKEN,
            "the token in {} has {}; it needs {MIN_TOKEN} or more, for instance from 'openssl rand -hex 16'",
            file.display(),
            counted(token.len(), "character", "characters")
        );
        Ok(Access::Token(Sha256::digest(token).into()))
    }

    /// Lets a request through, or gives the answer that turns it away.
    ///
    /// # Errors
    /// The answer.
    #[allow(clippy::result_large_err)]
    pub fn check(&self, from: IpAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), Answer> {
        match self {
            Access::Everybody => Ok(()),
            // The time it takes to compare hashes reveals nothing about the token.
            Access::Token(hash) => match token(headers) {
                Some(token) if Sha256::digest(&token)[..] == hash[..] => Ok(()),
                _ => Err(asked_for_token()),
            },
            Access::ThisMachine if !from.to_canonical().is_loopback() => Err(say(
                StatusCode::FORBIDDEN,
                "The page is shown on the machine that collects only. To see it from elsewhere, start collect \
                 with --view-token-file FILE (or --view-without-token).\n",
            )),
            // A page of somebody else's whose name was made to lead here could read this one.
            Access::ThisMachine if !names_this_machine(uri, headers) => Err(say(
                StatusCode::FORBIDDEN,
                "Without a token the page is shown only at the address 127.0.0.1, not under a name.\n",
            )),
            Access::ThisMachine => Ok(()),
        }
    }
}

fn asked_for_token() -> Answer {
    let mut answer = say(
        StatusCode::UNAUTHORIZED,
        "The token is needed: as the password, with any user name.\n",
    );
    answer.headers_mut().insert(
        WWW_AUTHENTICATE,
        HeaderValue::from_static("Basic realm=\"esxi-rescue reports\", charset=\"UTF-8\""),
    );
    answer
}

/// The password of HTTP's basic authentication, or a bearer's token.
fn token(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    let pair = STANDARD.decode(value.trim()).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (_, password) = pair.split_once(':')?;
    scheme
        .eq_ignore_ascii_case("basic")
        .then(|| password.to_owned())
}

/// Whether the request was made to an address, or to `localhost`.
fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let named = host
        .and_then(|host| host.parse::<hyper::http::uri::Authority>().ok())
        .or_else(|| uri.authority().cloned());
    named.is_some_and(|named| {
        let name = named.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(access: &Access, from: [u8; 4], headers: &[(&str, &str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        access
            .check(from.into(), &Uri::from_static("/"), &headers)
            .map_or_else(|answer| answer.status().as_u16(), |()| 200)
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];
    const THERE: [u8; 4] = [10, 0, 0, 1];

    #[test]
    fn without_a_token_only_this_machine_sees_the_page() {
        let access = Access::ThisMachine;
        for (from, host, expected) in [
            (HERE, "127.0.0.1:8080", 200),
            (HERE, "localhost", 200),
            (HERE, "[::1]:8080", 200),
            (HERE, "evil.example", 403),
            (HERE, "127.0.0.1.evil.example", 403),
            (THERE, "10.0.0.9:8080", 403),
            (THERE, "127.0.0.1", 403),
        ] {
            assert_eq!(status(&access, from, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(status(&access, HERE, &[]), 403);
        assert_eq!(status(&Access::Everybody, THERE, &[]), 200);
    }

    #[test]
    fn the_token_is_taken_as_password_and_as_bearer_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let access = Access::by_token(&file).unwrap();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (value, expected) in [
            (basic("any:0123456789abcdef"), 200),
            (basic("0123456789abcdef"), 401),
            (basic("0123456789abcdef:"), 401),
            ("Bearer 0123456789abcdef".to_owned(), 200),
            ("Bearer 0123456789abcdeg".to_owned(), 401),
            ("Basic !!".to_owned(), 401),
            ("0123456789abcdef".to_owned(), 401),
        ] {
            let got = status(&access, HERE, &[("authorization", &value)]);
            assert_eq!(got, expected, "{value}");
        }
        assert_eq!(status(&access, HERE, &[]), 401);
        std::fs::write(&file, "short").unwrap();
        let told = Access::by_token(&file).unwrap_err().to_string();
        assert!(told.contains("5 characters"), "{told}");
    }
}
