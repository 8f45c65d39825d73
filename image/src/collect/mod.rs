//! `rescue-image collect`: takes the reports that hosts send (setting `report`), keeps them in a folder,
//! shows them as they come, at the terminal and as a page, and serves the image that the hosts start from;
//! and `rescue-image reports`, which reads the folder.
//!
//! Everybody who reaches the port may send, so nothing that comes in is trusted: sizes, times, the number
//! of connections and what is kept are bounded, names are made harmless before they become files or reach a
//! terminal or a browser. It listens on this machine alone unless told otherwise, and so does its page.
//!
//! Out of scope: who may send (that is for the network around it), and sending anything on.

mod access;
pub mod arguments;
mod body;
mod document;
mod fetches;
mod fit;
mod hosts;
mod identity;
mod lines;
mod page;
mod places;
mod range;
pub mod reports;
mod served;
mod server;
mod state;
mod store;
mod tls;
mod view;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use access::Access;
use served::Served;
use server::{Role, Service};
use state::State;
use store::{Limits, Store};
use view::View;

/// How often what was read of images is written down.
const NOTE: Duration = Duration::from_secs(1);
/// Bytes in a MiB.
const MIB: u64 = 1024 * 1024;

/// Where to listen, and where what comes in is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The folder for the reports.
    pub store: PathBuf,
    /// Certificate chain and key, both PEM; none: plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Images to serve.
    pub serve: Vec<PathBuf>,
    /// Where to serve them by plain HTTP as well.
    pub serve_listen: Option<SocketAddr>,
    /// Reports of one host that are kept.
    pub keep: usize,
    /// Reports in all that are kept.
    pub keep_total: usize,
    /// MiB of reports that are kept.
    pub keep_mib: u64,
    /// A file with the token that the page asks for.
    pub view_token_file: Option<PathBuf>,
    /// Show the page to everybody who reaches the port.
    pub view_without_token: bool,
}

/// Receives reports until Ctrl-C.
///
/// # Errors
/// When the certificate, the folder, an image or an address cannot be used.
pub fn run(options: &Options) -> Result<()> {
    let tls = options
        .tls
        .as_ref()
        .map(|(certificate, key)| tls::load(certificate, key))
        .transpose()?;
    let access = match (&options.view_token_file, options.view_without_token) {
        (Some(file), _) => Access::by_token(file)?,
        (None, true) => Access::Everybody,
        (None, false) => Access::ThisMachine,
    };
    let images = images(&options.serve)?;
    let limits = Limits {
        per_host: options.keep,
        total: options.keep_total,
        bytes: options.keep_mib.saturating_mul(MIB),
    };
    let store = Store::open(&options.store, limits)?;
    let state = State::load(&options.store, View::start()?);
    let service = Arc::new(Service {
        store: Arc::new(Mutex::new(store)),
        folder: options.store.clone(),
        state: Arc::new(state),
        access,
        images,
        pages: Service::places_for_pages(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(listen(options, tls.as_ref(), service));
    // A page may still be open, or a reader of an image be slow.
    runtime.shutdown_background();
    ended
}

fn images(files: &[PathBuf]) -> Result<Vec<Served>> {
    let images: Vec<Served> = files
        .iter()
        .map(|file| Served::open(file))
        .collect::<Result<_>>()?;
    let mut names = HashSet::new();
    for image in &images {
        ensure!(
            names.insert(&image.name),
            "two of the served images would be {}: rename one of them",
            image.path()
        );
    }
    Ok(images)
}

async fn listen(options: &Options, tls: Option<&tls::Tls>, service: Arc<Service>) -> Result<()> {
    let bind = async |at: SocketAddr| {
        TcpListener::bind(at)
            .await
            .with_context(|| format!("listening on {at}"))
    };
    let listener = bind(options.listen).await?;
    // The port may have been left to the system (port 0).
    let at = listener.local_addr()?;
    let reading = match options.serve_listen {
        Some(at) => Some(bind(at).await?),
        None => None,
    };
    let images_at = reading.as_ref().map(TcpListener::local_addr).transpose()?;
    // From now on the terminal may go away.
    let mut hangup = signal(SignalKind::hangup()).context("waiting for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("waiting for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for signals")?;
    service
        .state
        .say(introduction(at, images_at, options, tls, &service));
    let all = Role::All(tls.map(|tls| tls.acceptor.clone()));
    tokio::spawn(server::serve(listener, all, Arc::clone(&service)));
    if let Some(reading) = reading {
        tokio::spawn(server::serve(reading, Role::Images, Arc::clone(&service)));
    }
    let (fitting, fingerprint) = (Arc::clone(&service), tls.map(|tls| tls.fingerprint.clone()));
    // Opening an image reads all of it; nobody waits for that.
    tokio::task::spawn_blocking(move || {
        for image in &fitting.images {
            for problem in fit::problems(image, at, fingerprint.as_deref()) {
                fitting.state.problem(&problem);
            }
        }
    });
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => {}
            () = tokio::time::sleep(NOTE) => note_fetches(&service, &options.store),
        }
    }
    note_fetches(&service, &options.store);
    Ok(())
}

/// Small and rare: nobody is held up by it.
fn note_fetches(service: &Service, store: &Path) {
    let Some(content) = service.state.changed_fetches() else {
        return;
    };
    if let Err(error) = fetches::write(store, &content) {
        let text = format!("The list of who read the image could not be saved: {error}");
        service.state.problem(&text);
    }
}

/// What a person needs to know to make hosts send here.
fn introduction(
    at: SocketAddr,
    images_at: Option<SocketAddr>,
    options: &Options,
    tls: Option<&tls::Tls>,
    service: &Service,
) -> Vec<String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut lines = vec![format!(
        "Receiving reports on {scheme}://{at}/, storing them in {}",
        options.store.display()
    )];
    if let Some(tls) = tls {
        lines.push(format!(
            "Settings for the hosts: report={scheme}://THIS-MACHINE:{}/",
            at.port()
        ));
        lines.push(format!(
            "                        report_pin={}",
            tls.fingerprint
        ));
    }
    if at.ip().is_loopback() {
        lines.push(format!(
            "Only this machine can send reports: to accept hosts on the network, use --listen 0.0.0.0:{}",
            at.port()
        ));
    }
    let here = format!("{scheme}://127.0.0.1:{}/", at.port());
    lines.push(match &service.access {
        Access::ThisMachine => format!("The page for a browser: {here} on this machine only"),
        Access::Token(_) => format!("The page for a browser: {here}, with the token as password"),
        Access::Everybody => {
            format!("The page for a browser: {here}, for everybody who can connect")
        }
    });
    for image in &service.images {
        let path = image.path();
        lines.push(format!(
            "The image: {scheme}://THIS-MACHINE:{}{path}",
            at.port()
        ));
        if let Some(images_at) = images_at {
            let port = images_at.port();
            lines.push(format!("           http://THIS-MACHINE:{port}{path}"));
        }
    }
    lines.push("Ctrl-C ends it.".to_owned());
    lines
}
