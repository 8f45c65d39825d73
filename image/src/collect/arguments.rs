//! The arguments of `rescue-image collect` and `rescue-image reports`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;

use super::Options;
use super::reports::{self, Found, Matching, Query, parse_time};

/// How to get a certificate and make hosts trust it.
pub const HELP: &str = "\
HTTPS with a certificate of your own:
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \\
    -subj /CN=rescue -keyout key.pem -out cert.pem
  rescue-image collect --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem
It prints the certificate's SHA-256: the value of the hosts' setting report_pin.

The page for a browser is shown on this machine only, unless there is a token:
  openssl rand -hex 16 > token
  rescue-image collect --listen 0.0.0.0:8443 … --view-token-file token
The browser asks for it: enter any user name, and the token as the password.

Anybody who can connect to the port can send reports: listen only on a network where this is acceptable.";

/// Receive, store and show the reports of hosts
///
/// The hosts send their reports to the URL of the setting `report`, for example
/// rescue.report=http://10.0.0.1:8080/ on their kernel command line. Each report is stored as
/// DIR/hosts/SERIAL/TIME-HASH.json, and as one line of DIR/reports.jsonl. On a terminal a table shows the last
/// report of each host; elsewhere a line is printed for each report. A browser shows the same as a page. With
/// --serve it also serves the image to BMCs. Ctrl-C ends it.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// Address to listen on; 0.0.0.0:8080 means every network of this machine
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The folder of the reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    store: PathBuf,
    /// Use HTTPS with this certificate (PEM; a chain starts with the receiver's own certificate)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve this image at /iso/NAME.iso, for virtual media and UEFI HTTP Boot; can be given several times
    #[arg(long, value_name = "FILE")]
    serve: Vec<PathBuf>,
    /// Serve the images by plain HTTP on this address as well, for BMCs that do not accept the certificate
    #[arg(long, value_name = "ADDRESS:PORT", requires = "serve")]
    serve_listen: Option<SocketAddr>,
    /// Number of reports to keep of one host; the oldest are deleted first
    #[arg(long, value_name = "N", default_value = "20", value_parser = at_least_one)]
    keep: usize,
    /// Number of reports to keep in total
    #[arg(long, value_name = "N", default_value = "10000", value_parser = at_least_one)]
    keep_total: usize,
    /// MiB of reports to keep in total; the folder needs a little more than twice as much
    #[arg(long, value_name = "MIB", default_value = "1024", value_parser = clap::value_parser!(u64).range(1..))]
    keep_mib: u64,
    /// Show the page to those who know the token in this file; without it, on this machine only
    #[arg(long, value_name = "FILE")]
    view_token_file: Option<PathBuf>,
    /// Show the page to everybody who can connect to the port
    #[arg(long, conflicts_with = "view_token_file")]
    view_without_token: bool,
}

/// Print the results of all hosts, or of one, from the folder of collect
///
/// The last report of each host; one that found nothing left to do does not hide that a host was repaired before. Exit
/// status: 0 found, 3 there is no such report, 4 the names belong to several hosts, 1 another error, 2 wrong usage.
#[derive(Debug, Args)]
pub struct ReportsArgs {
    /// The folder of the reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    store: PathBuf,
    /// The host with one of these names: uuid=, serial=, sku= (taken as a serial number too), path= of the URL that it
    /// reports to. A UUID may be in either byte order, and placeholders such as "Default string" are ignored
    #[arg(long = "match", value_name = "KEY=VALUE,…")]
    matching: Option<Matching>,
    /// Only reports received at this time or later: 2026-01-31T14:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<SystemTime>,
    /// How many seconds to wait for a report
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    wait: u64,
    /// Print JSON, including which addresses read the served images
    #[arg(long)]
    json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("not a number".to_owned()),
    }
}

impl CollectArgs {
    /// Receives reports until Ctrl-C.
    ///
    /// # Errors
    /// See [`super::run`].
    pub fn run(self) -> Result<()> {
        super::run(&Options {
            listen: self.listen,
            store: self.store,
            tls: self.tls_cert.zip(self.tls_key),
            serve: self.serve,
            serve_listen: self.serve_listen,
            keep: self.keep,
            keep_total: self.keep_total,
            keep_mib: self.keep_mib,
            view_token_file: self.view_token_file,
            view_without_token: self.view_without_token,
        })
    }
}

impl ReportsArgs {
    /// Prints what the reports say.
    ///
    /// # Errors
    /// See [`reports::run`].
    pub fn run(self) -> Result<Found> {
        let query = Query {
            store: self.store,
            matching: self.matching,
            since: self.since,
            wait: Duration::from_secs(self.wait),
            json: self.json,
        };
        reports::run(&query, &mut io::stdout().lock())
    }
}
