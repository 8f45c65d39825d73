//! One attempt to hand a report to its receiver: an HTTP POST.
//!
//! The client is `ureq`, with name lookup and TLS of our own ([`super::dns`], [`super::tls`]).
//! Nothing is followed, nothing is kept, and of the answer only a little is read.
//!
//! Out of scope: retries, and having a network.

use std::error::Error as StdError;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use thiserror::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::header::LOCATION;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, TcpConnector};
use ureq::{Agent, Body};

use super::dns::{self, LookupError};
use super::tls::{Distrust, Tls};
use crate::report::escape;
use crate::settings::target::{Host, Pin, Target};

/// How much of an answer's text is read, in bytes.
const MAX_ANSWER_TEXT: u64 = 512;
/// Largest head of an answer that is read, in bytes.
const MAX_ANSWER_HEAD: usize = 16 * 1024;
/// The port of name servers.
const DNS_PORT: u16 = 53;

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PostError {
    /// The receiver's name leads nowhere.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The receiver's machine is there, and nothing on it takes connections.
    #[error("nothing listens at {at}; start the receiver there, or correct the setting report")]
    Refused {
        /// Where.
        at: String,
    },
    /// The network does not lead there.
    #[error(
        "there is no route to {at} ({problem}); check address, netmask and gateway, or the setting network"
    )]
    Unreachable {
        /// Where.
        at: String,
        /// What the kernel said.
        problem: String,
    },
    /// Time went by.
    #[error(
        "{at} did not answer within {seconds} s; look for a firewall, or a receiver that hangs"
    )]
    Silent {
        /// Where.
        at: String,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// The receiver is not who it should be.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// TLS failed for another reason than the certificate.
    #[error("{at} does not use TLS correctly ({problem}); should the URL begin with http:// ?")]
    Tls {
        /// Where.
        at: String,
        /// What TLS says.
        problem: String,
    },
    /// The receiver wants the report to go elsewhere.
    #[error(
        "the receiver answers with HTTP {status} and points to {to}; redirects are not followed: put the right URL in the setting report"
    )]
    Redirect {
        /// The HTTP status.
        status: u16,
        /// Where it points.
        to: String,
    },
    /// The receiver does not want it.
    #[error("the receiver refused the report with HTTP {status}: {text}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of what it says.
        text: String,
    },
    /// The connection or the answer was cut or is none.
    #[error("the exchange with {at} was interrupted: {problem}")]
    Broken {
        /// Where.
        at: String,
        /// What happened.
        problem: String,
    },
}

impl PostError {
    /// Whether another attempt may go better.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            PostError::Distrust(_) | PostError::Redirect { .. } => false,
            // The receiver has seen the report and said no, unless it says that it is in trouble.
            PostError::Status { status, .. } => *status >= 500 || matches!(status, 408 | 425 | 429),
            _ => true,
        }
    }
}

/// What the receiver said to a report that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The HTTP status, 200 to 299.
    pub status: u16,
}

/// Sends `report` once, and waits `timeout` at most in all.
///
/// # Errors
/// When the receiver does not handle it, as far as can be told.
pub fn post(
    target: &Target,
    pin: Option<Pin>,
    name_servers: &[Ipv4Addr],
    report: &str,
    timeout: Duration,
) -> Result<Accepted, PostError> {
    let servers = name_servers
        .iter()
        .map(|server| SocketAddr::from((*server, DNS_PORT)));
    let names = Names {
        target: target.clone(),
        servers: servers.collect(),
    };
    let explain = |error| explain(error, target, timeout);
    let tls = Tls::new(pin).map_err(|error| explain(ureq::Error::Other(Box::new(error))))?;
    let connector = ().chain(TcpConnector::default()).chain(tls);
    let agent = Agent::with_parts(config(timeout), connector, names);
    let request = agent
        .post(target.uri())
        .header("Content-Type", "application/json");
    let mut answer = request.send(report).map_err(explain)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(Accepted {
            status: status.as_u16(),
        });
    }
    if status.is_redirection() {
        let to = answer
            .headers()
            .get(LOCATION)
            .map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        return Err(PostError::Redirect {
            status: status.as_u16(),
            to: shown(&to.unwrap_or_default()),
        });
    }
    Err(PostError::Status {
        status: status.as_u16(),
        text: text(answer.body_mut()),
    })
}

fn config(timeout: Duration) -> Config {
    Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_response_header_size(MAX_ANSWER_HEAD)
        // Not from the environment: there is none.
        .proxy(None)
        .timeout_global(Some(timeout))
        .user_agent(concat!("esxi-rescue/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The beginning of an answer, for a person.
fn text(body: &mut Body) -> String {
    let mut start = Vec::new();
    // What cannot be read was not going to help.
    let _ = body
        .as_reader()
        .take(MAX_ANSWER_TEXT)
        .read_to_end(&mut start);
    shown(&String::from_utf8_lossy(&start))
}

/// Somebody else's text as one short line.
fn shown(text: &str) -> String {
    const SHOWN: usize = 200;
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(SHOWN).collect();
    if line.is_empty() {
        "(no text)".to_owned()
    } else {
        escape(&line)
    }
}

fn explain(error: ureq::Error, target: &Target, timeout: Duration) -> PostError {
    let host = match target.host() {
        Host::Name(name) => name.clone(),
        Host::Address(address) => address.to_string(),
    };
    let at = format!("{host}:{}", target.port());
    if let Some(distrust) = Distrust::find(cause(&error)) {
        return distrust.into();
    }
    let problem = shown(&error.to_string());
    match error {
        ureq::Error::Timeout(_) => PostError::Silent {
            at,
            seconds: timeout.as_secs(),
        },
        ureq::Error::Other(other) => match other.downcast::<LookupError>() {
            Ok(lookup) => PostError::Lookup(*lookup),
            Err(_) => PostError::Tls { at, problem },
        },
        ureq::Error::Io(error) if is_tls(&error) => PostError::Tls { at, problem },
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => PostError::Refused { at },
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => PostError::Unreachable { at, problem },
            _ => PostError::Broken { at, problem },
        },
        _ => PostError::Broken { at, problem },
    }
}

/// What the error stands for: ureq does not count what it wraps as its source.
fn cause(error: &ureq::Error) -> &(dyn StdError + 'static) {
    match error {
        ureq::Error::Io(inner) => inner,
        ureq::Error::Other(inner) => inner.as_ref(),
        other => other,
    }
}

fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| (inner as &(dyn StdError + 'static)).is::<rustls::Error>())
}

/// Where the receiver's name leads.
#[derive(Debug)]
struct Names {
    target: Target,
    servers: Vec<SocketAddr>,
}

impl Resolver for Names {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let timeout = timeout.not_zero().map_or(Duration::MAX, |timeout| *timeout);
        let now = Instant::now();
        let addresses = match self.target.host() {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                dns::lookup(name, &self.servers, now.checked_add(timeout).unwrap_or(now))
                    .map_err(|error| ureq::Error::Other(Box::new(error)))?
            }
        };
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(dns::MAX_ADDRESSES) {
            resolved.push((address, self.target.port()).into());
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::thread;

    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(b"}") {
            let length = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8(request).unwrap()
    }

    /// Sends a small report to a server that plays `part`, and returns what came of it.
    fn against<T: Send + 'static>(
        part: impl FnOnce(TcpStream) -> T + Send + 'static,
        timeout: Duration,
    ) -> (Result<Accepted, PostError>, T) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("http://{}/in?rack=4", listener.local_addr().unwrap());
        let server = thread::spawn(move || part(listener.accept().unwrap().0));
        let result = post(&target.parse().unwrap(), None, &[], "{\"a\":1}", timeout);
        (result, server.join().unwrap())
    }

    fn answered(answer: &'static [u8]) -> Result<Accepted, PostError> {
        let part = move |mut stream: TcpStream| {
            request(&mut stream);
            // A client that has seen enough may hang up.
            let _ = stream.write_all(answer);
        };
        against(part, TIMEOUT).0
    }

    #[test]
    fn the_report_arrives_as_it_is() {
        let part = |mut stream: TcpStream| {
            let request = request(&mut stream);
            stream
                .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
            request.to_lowercase()
        };
        let (result, request) = against(part, TIMEOUT);
        assert_eq!(result, Ok(Accepted { status: 201 }));
        assert!(
            request.starts_with("post /in?rack=4 http/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        assert!(request.contains("content-length: 7\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
    }

    #[test]
    fn answers_that_mean_no_are_told_from_those_that_mean_later() {
        let no = answered(b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\nnot a\x1b[2J\nreport")
            .unwrap_err();
        assert_eq!(
            no,
            PostError::Status {
                status: 400,
                text: "not a\\u{1b}[2J report".into()
            }
        );
        assert!(!no.may_pass());
        assert!(
            answered(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                .unwrap_err()
                .may_pass()
        );
        let elsewhere =
            answered(b"HTTP/1.1 307 Go\r\nLocation: http://10.0.0.9/\r\nContent-Length: 0\r\n\r\n")
                .unwrap_err();
        assert_eq!(
            elsewhere,
            PostError::Redirect {
                status: 307,
                to: "http://10.0.0.9/".into()
            }
        );
        let seen =
            answered(b"HTTP/1.1 302 Go\r\nLocation: http://10.0.0.9/\r\nContent-Length: 0\r\n\r\n")
                .unwrap_err();
        assert!(
            matches!(seen, PostError::Redirect { status: 302, .. }),
            "{seen}"
        );
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        for answer in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"",
            b"HTTP/1.1 2",
            b"\0\0\0\0",
            b"HTTP/9.9 200 OK\r\n\r\n",
        ] {
            let error = answered(answer).unwrap_err();
            assert!(
                matches!(error, PostError::Broken { .. }),
                "{answer:?}: {error}"
            );
        }
    }

    #[test]
    fn an_endless_answer_is_not_read() {
        let part = |mut stream: TcpStream| {
            request(&mut stream);
            stream.write_all(b"HTTP/1.1 500 No\r\n\r\n").unwrap();
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        };
        let (result, ()) = against(part, TIMEOUT);
        assert!(
            matches!(result, Err(PostError::Status { status: 500, .. })),
            "{result:?}"
        );
        let part = |mut stream: TcpStream| {
            request(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
            while stream.write_all(b"X-More: and more\r\n").is_ok() {}
        };
        let (result, ()) = against(part, TIMEOUT);
        assert!(
            matches!(result, Err(PostError::Broken { .. })),
            "{result:?}"
        );
    }

    #[test]
    fn time_is_bounded_against_those_who_never_finish() {
        let part = |mut stream: TcpStream| {
            request(&mut stream);
            for byte in b"HTTP/1.1 200 OK\r\n".iter().cycle() {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        };
        let (result, ()) = against(part, Duration::from_millis(600));
        assert!(
            matches!(result, Err(PostError::Silent { .. })),
            "{result:?}"
        );
    }

    #[test]
    fn nobody_there_is_said() {
        // A socket that has a port and does not listen: no other program can take the port.
        let (family, flags) = (AddressFamily::Inet, SockFlag::SOCK_CLOEXEC);
        let taken = socket(family, SockType::Stream, flags, None).unwrap();
        bind(taken.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let free: SockaddrIn = getsockname(taken.as_raw_fd()).unwrap();
        let target: Target = format!("http://{free}/").parse().unwrap();
        let error = post(&target, None, &[], "{}", TIMEOUT).unwrap_err();
        assert_eq!(
            error,
            PostError::Refused {
                at: free.to_string()
            }
        );
        let named: Target = "http://collector.lab.example/".parse().unwrap();
        let error = post(&named, None, &[], "{}", TIMEOUT).unwrap_err();
        assert!(
            matches!(error, PostError::Lookup(LookupError::NoServer { .. })),
            "{error}"
        );
    }

    #[test]
    fn a_receiver_without_tls_is_not_taken_for_one_with() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("https://{}/", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        let error = post(&target.parse().unwrap(), None, &[], "{}", TIMEOUT).unwrap_err();
        server.join().unwrap();
        assert!(matches!(error, PostError::Tls { .. }), "{error}");
    }
}
