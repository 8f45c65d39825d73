//! The HTTP side: connections, each bounded in every way, and what is answered to which request.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::access::Access;
use super::body::{Answer, say};
use super::document::{Document, MAX_REPORT};
use super::page;
use super::places::{Activity, Numbers, Place, Places};
use super::served::{self, Served};
use super::state::State;
use super::store::{Arrival, Kept, Store};

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest path that is remembered of a report, in characters.
const MAX_PATH: usize = 256;
/// Connections of one listener.
const CONNECTIONS: Numbers = Numbers {
    total: 384,
    of_address: 128,
};
/// Pages that may listen for news at a time.
const MAX_PAGES: usize = 32;
/// How long a client may take for the head of a request, and for TLS.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader of an image may pause between its requests.
const READER_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may stay silent.
const SILENCE: Duration = Duration::from_secs(120);
/// How often silence is looked for.
const LOOK: Duration = Duration::from_secs(5);
/// The pause after the system gave no more connections.
const PAUSE: Duration = Duration::from_millis(200);

/// What all connections share.
pub struct Service {
    /// Where reports go.
    pub store: Arc<Mutex<Store>>,
    /// Its folder.
    pub folder: PathBuf,
    /// What is known, and who is told.
    pub state: Arc<State>,
    /// Who may see the page.
    pub access: Access,
    /// The images that are served.
    pub images: Vec<Served>,
    /// Places for pages that listen.
    pub pages: Arc<Semaphore>,
}

impl Service {
    /// Places for as many pages as there may be.
    pub fn places_for_pages() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_PAGES))
    }
}

/// What a listener answers to.
#[derive(Clone)]
pub enum Role {
    /// Reports, the page and images; with TLS or without.
    All(Option<TlsAcceptor>),
    /// Images only, without TLS.
    Images,
}

/// Serves until the program ends.
pub async fn serve(listener: TcpListener, role: Role, service: Arc<Service>) -> Infallible {
    let places = Places::new(CONNECTIONS);
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        // Too many of this address: it may try again.
        let Some(place) = places.take(from.ip()) else {
            continue;
        };
        let (role, service) = (role.clone(), Arc::clone(&service));
        tokio::spawn(async move { held(stream, from, role, service, place).await });
    }
}

/// A connection that ends when it stays silent, or has to give its place to another one.
async fn held(
    stream: TcpStream,
    from: SocketAddr,
    role: Role,
    service: Arc<Service>,
    place: Place,
) {
    let activity = &place.activity;
    let too_silent = async {
        while activity.silence() < SILENCE {
            sleep(LOOK).await;
        }
    };
    let stream = Watched {
        stream,
        activity: Arc::clone(activity),
    };
    tokio::select! {
        () = connection(stream, from, role, service) => {}
        () = too_silent => {}
        () = activity.has_to_leave() => {}
    }
}

async fn connection(stream: Watched, from: SocketAddr, role: Role, service: Arc<Service>) {
    match &role {
        Role::All(Some(tls)) => {
            if let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                exchange(stream, from, &role, &service).await;
            }
        }
        _ => exchange(stream, from, &role, &service).await,
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    role: &Role,
    service: &Arc<Service>,
) {
    let images_only = matches!(role, Role::Images);
    let handler = service_fn(|request| {
        let service = Arc::clone(service);
        async move { Ok::<_, Infallible>(answer(request, from, images_only, service).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if images_only {
            READER_TIMEOUT
        } else {
            HEAD_TIMEOUT
        })
        .max_buf_size(MAX_HEAD)
        // BMCs look for "Accept-Ranges" in just this spelling.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), handler);
    // A client that breaks off has nobody to be told.
    let _ = served.await;
}

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    images_only: bool,
    service: Arc<Service>,
) -> Answer {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    if reads && request.uri().path().starts_with(served::FOLDER) {
        return image(&request, from.ip(), &service);
    }
    match (images_only, request.method()) {
        (true, _) if reads => say(StatusCode::NOT_FOUND, "Only images are served here.\n"),
        (true, _) => not_allowed("GET, HEAD", "Only images are served here.\n"),
        (false, &Method::POST) => {
            let mut answer = report(request, from, &service).await;
            // A host sends one report; its place is free for the next one.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
            answer
        }
        (false, _) if reads => {
            let seen = service
                .access
                .check(from.ip(), request.uri(), request.headers());
            match seen {
                Ok(()) => view(&request, service).await,
                Err(turned_away) => turned_away,
            }
        }
        (false, _) => not_allowed(
            "GET, HEAD, POST",
            "Send reports with POST, and see them with GET.\n",
        ),
    }
}

fn not_allowed(methods: &'static str, text: &str) -> Answer {
    let mut answer = say(StatusCode::METHOD_NOT_ALLOWED, text);
    let methods = HeaderValue::from_static(methods);
    answer.headers_mut().insert(ALLOW, methods);
    answer
}

fn image(request: &Request<Incoming>, from: IpAddr, service: &Service) -> Answer {
    let path = request.uri().path();
    let Some(image) = service.images.iter().find(|image| image.path() == path) else {
        return say(StatusCode::NOT_FOUND, "There is no such image.\n");
    };
    let from = from.to_canonical();
    if *request.method() == Method::GET {
        service.state.asked(from, &image.name);
    }
    let (state, name) = (Arc::clone(&service.state), image.name.clone());
    let sent = move |bytes| state.sent(from, &name, bytes);
    image.answer(request.method(), request.headers(), sent)
}

/// The page, and what is behind it.
async fn view(request: &Request<Incoming>, service: Arc<Service>) -> Answer {
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    match path[..] {
        [""] => {
            let not_well = request.uri().query() == Some("show=not-well");
            page::all(&service.state.known(), not_well)
        }
        ["events"] if *request.method() == Method::GET => {
            match Arc::clone(&service.pages).try_acquire_owned() {
                Ok(place) => page::events(Arc::clone(&service.state), place),
                Err(_) => say(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Too many pages are open; reload this one to see what is new.\n",
                ),
            }
        }
        ["host", folder] => {
            let folder = folder.to_owned();
            blocking(move || page::host(&service.folder, &folder)).await
        }
        ["host", folder, name] => {
            let (folder, name) = (folder.to_owned(), name.to_owned());
            blocking(move || page::file(&service.folder, &folder, &name)).await
        }
        _ => say(StatusCode::NOT_FOUND, "There is nothing here.\n"),
    }
}

/// Work that waits for a disk.
async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    spawn_blocking(work).await.unwrap_or_else(|_| {
        say(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The request could not be carried out.\n",
        )
    })
}

/// Takes a report.
async fn report(request: Request<Incoming>, from: SocketAddr, service: &Arc<Service>) -> Answer {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > MAX_REPORT as u64) {
        return too_large();
    }
    let path: String = request.uri().path().chars().take(MAX_PATH).collect();
    let body = Limited::new(request.into_body(), MAX_REPORT).collect();
    let bytes = match timeout(REPORT_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(_)) => return say(StatusCode::BAD_REQUEST, "The request was interrupted.\n"),
        Err(_) => return say(StatusCode::REQUEST_TIMEOUT, "The report took too long.\n"),
    };
    let service = Arc::clone(service);
    blocking(move || match Document::parse(&bytes, &path) {
        Ok(document) => keep(&document, &bytes, from, &service),
        Err(error) => say(
            StatusCode::UNPROCESSABLE_ENTITY,
            &format!("Refused: {error}\n"),
        ),
    })
    .await
}

fn too_large() -> Answer {
    say(
        StatusCode::PAYLOAD_TOO_LARGE,
        &format!("Refused: more than {MAX_REPORT} bytes.\n"),
    )
}

fn keep(document: &Document, bytes: &Bytes, from: SocketAddr, service: &Service) -> Answer {
    let arrival = Arrival {
        from: from.to_string(),
        when: SystemTime::now(),
    };
    let mut store = service.store.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = store.keep(document, bytes, &arrival);
    match kept {
        Ok(Kept { file, new }) => {
            let status = if new {
                // Still holding the store: reports are shown in the order in which they are kept.
                let (from, when) = (&arrival.from, arrival.received());
                service.state.report(&document.summary, &file, from, &when);
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            say(status, &format!("Kept as {file}\n"))
        }
        Err(error) => {
            drop(store);
            service
                .state
                .problem(&not_kept(&document.summary.serial, &error));
            say(
                StatusCode::INSUFFICIENT_STORAGE,
                "The report could not be stored; try again later.\n",
            )
        }
    }
}

fn not_kept(serial: &str, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space there: hosts try again for a minute, and then continue without"
        }
        _ => "",
    };
    format!("A report of {serial} could not be stored: {error}{remedy}")
}

/// A connection whose bytes are noticed.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    fn noticed<T>(&self, result: Poll<T>) -> Poll<T> {
        if result.is_ready() {
            self.activity.mark();
        }
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.noticed(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noticed(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.noticed(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
