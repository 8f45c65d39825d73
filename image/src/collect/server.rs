//! The HTTP side: one kind of request, bounded in every way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::document::Document;
use super::store::Store;
use super::view::View;

/// Largest report that is taken, in bytes. One of a host with many disks has some ten thousand.
pub const MAX_REPORT: usize = 4 * 1024 * 1024;
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for the head of its request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30);
/// The pause after the system gave no more connections.
const BREATH: Duration = Duration::from_millis(200);

/// What all connections share.
pub struct Receiver {
    /// Where reports go.
    pub store: Mutex<Store>,
    /// Where they are shown.
    pub view: Mutex<View>,
    /// With HTTPS.
    pub tls: Option<TlsAcceptor>,
}

/// Serves until Ctrl-C.
pub async fn serve(listener: TcpListener, receiver: Arc<Receiver>) -> Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut end = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            _ = &mut end => return Ok(()),
            next = next => next,
        };
        let Ok((stream, from)) = accepted else {
            sleep(BREATH).await;
            continue;
        };
        let receiver = Arc::clone(&receiver);
        tokio::spawn(async move {
            // Too slow, or not what it should be: whoever it is, the connection ends here.
            let _ = timeout(CONNECTION_PATIENCE, connection(stream, from, receiver)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, receiver: Arc<Receiver>) {
    match receiver.tls.clone() {
        None => exchange(stream, from, receiver).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                exchange(stream, from, receiver).await;
            }
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    receiver: Arc<Receiver>,
) {
    let service = service_fn(|request| {
        let receiver = Arc::clone(&receiver);
        async move { Ok::<_, Infallible>(answer(request, from, &receiver).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off has nobody to be told.
    let _ = served.await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, from: SocketAddr, receiver: &Receiver) -> Answer {
    if request.method() != Method::POST {
        let mut answer = say(
            StatusCode::METHOD_NOT_ALLOWED,
            "Reports are sent here by POST.\n",
        );
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > MAX_REPORT as u64) {
        return too_large();
    }
    let bytes = match Limited::new(request.into_body(), MAX_REPORT)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return too_large(),
        Err(_) => return say(StatusCode::BAD_REQUEST, "The request broke off.\n"),
    };
    let document = match Document::parse(&bytes) {
        Ok(document) => document,
        Err(error) => {
            return say(
                StatusCode::UNPROCESSABLE_ENTITY,
                &format!("Refused: {error}\n"),
            );
        }
    };
    keep(&document, &bytes, from, receiver)
}

fn too_large() -> Answer {
    say(
        StatusCode::PAYLOAD_TOO_LARGE,
        &format!("Refused: more than {MAX_REPORT} bytes.\n"),
    )
}

/// Reports are few and small: the short wait for the disk holds up nobody.
fn keep(document: &Document, bytes: &[u8], from: SocketAddr, receiver: &Receiver) -> Answer {
    let when = SystemTime::now();
    let kept = receiver
        .store
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .keep(document, bytes, &from.to_string(), when);
    let mut view = receiver.view.lock().unwrap_or_else(PoisonError::into_inner);
    match kept {
        Ok(kept) => {
            if kept.new {
                view.show(document, &kept.file, when);
            }
            let status = if kept.new {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            say(status, &format!("Kept as {}\n", kept.file))
        }
        Err(error) => {
            view.warn(&format!(
                "A report of {} could not be kept: {error}",
                document.serial
            ));
            say(
                StatusCode::INSUFFICIENT_STORAGE,
                "The report could not be kept; try again later.\n",
            )
        }
    }
}

fn say(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text.to_owned())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}
