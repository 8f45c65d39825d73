//! `rescue-image collect`: takes the reports that hosts send (setting `report`), keeps them in a folder
//! and shows them as they come: the view of a rack being repaired.
//!
//! Everybody who reaches the port may send, so nothing that comes in is trusted: sizes, times and the
//! number of connections are bounded, names are made harmless before they become files or reach a
//! terminal. It listens on this machine alone unless told otherwise.
//!
//! Out of scope: who may send (that is for the network around it), and sending anything on.

mod document;
mod server;
mod store;
mod tls;
mod view;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::net::TcpListener;

use server::Receiver;
use store::Store;
use view::View;

/// Where to listen, and where what comes in is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The folder for the reports.
    pub store: PathBuf,
    /// Certificate chain and key, both PEM; none: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Receives reports until Ctrl-C.
///
/// # Errors
/// When the certificate, the folder or the address cannot be used.
pub fn run(options: &Options) -> Result<()> {
    let tls = options
        .tls
        .as_ref()
        .map(|(certificate, key)| tls::load(certificate, key))
        .transpose()?;
    let store = Store::open(&options.store)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("listening on {}", options.listen))?;
        // The port may have been left to the system (port 0).
        introduce(listener.local_addr()?, options, tls.as_ref());
        let receiver = Receiver {
            store: Mutex::new(store),
            view: Mutex::new(View::for_stdout()),
            tls: tls.map(|tls| tls.acceptor),
        };
        server::serve(listener, Arc::new(receiver)).await
    })
}

/// What a person needs to know to make hosts send here.
fn introduce(at: SocketAddr, options: &Options, tls: Option<&tls::Tls>) {
    let scheme = if tls.is_some() { "https" } else { "http" };
    println!(
        "Receiving reports on {scheme}://{at}/, keeping them in {}",
        options.store.display()
    );
    if let Some(tls) = tls {
        println!(
            "The hosts' settings: report={scheme}://THIS-MACHINE:{}/",
            at.port()
        );
        println!("                     report_pin={}", tls.fingerprint);
    }
    if at.ip().is_loopback() {
        println!(
            "Only this machine can send: for hosts on the network use --listen 0.0.0.0:{}",
            at.port()
        );
    }
    println!("Ctrl-C ends it.");
}
