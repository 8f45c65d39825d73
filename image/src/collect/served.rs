//! An image that BMCs and firmware read over HTTP, at `/iso/NAME.iso`.
//!
//! What a BMC's reader wants was measured with httpfs2, as which iDRAC names itself: HTTP/1.1 with
//! connections that stay, HEAD, single ranges, `Content-Length`, and `Accept-Ranges: bytes`, in this very
//! spelling, with 200 and with 206. It reads in small parts, out of order, for minutes, and may stall.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use hyper::{Method, Response, StatusCode};
use rescue_agent::files;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::body::{Answer, Content, say};
use super::range::{self, Part};

/// Where images are.
pub const FOLDER: &str = "/iso/";
/// How much is read at a time, in bytes.
const PIECE: u64 = 128 * 1024;
/// How many pieces wait for a reader that is slower than the disk.
const AHEAD: usize = 2;
/// How long a reader may take for a piece.
const STALL: Duration = Duration::from_secs(120);

/// A served image. The file stays open: one that is put in its place later is not mixed with it.
#[derive(Debug)]
pub struct Served {
    file: Arc<File>,
    /// The file.
    pub source: PathBuf,
    /// Its name in the URL.
    pub name: String,
    size: u64,
    tag: String,
    modified: String,
}

impl Served {
    /// Opens an image.
    ///
    /// # Errors
    /// When it is no file that can be read.
    pub fn open(source: &Path) -> Result<Served> {
        let what = || format!("opening {} to serve it", source.display());
        // Not the system's own open, which waits for a writer if it is a pipe.
        let file = match files::open_file(source) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => bail!(
                "{} is not a file: --serve takes an ISO image",
                source.display()
            ),
            file => file.with_context(what)?,
        };
        let there = file.metadata().with_context(what)?;
        let modified = there.modified().with_context(what)?;
        let stamp = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Served {
            file: Arc::new(file),
            source: source.to_owned(),
            name: url_name(source),
            size: there.len(),
            tag: format!("\"{:x}-{:x}\"", there.len(), stamp.as_nanos()),
            modified: httpdate::fmt_http_date(modified),
        })
    }

    /// Its path in the URL.
    pub fn path(&self) -> String {
        format!("{FOLDER}{}", self.name)
    }

    /// The answer to a GET or HEAD, and which bytes of the file are in it.
    fn head(&self, method: &Method, headers: &HeaderMap) -> (hyper::http::response::Builder, Part) {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let part = if *method == Method::GET
            && range::is_current(text(IF_RANGE), &self.tag, &self.modified)
        {
            range::part(text(RANGE), self.size)
        } else {
            Part::Whole
        };
        let size = self.size;
        let (status, length, range) = match part {
            Part::Whole => (StatusCode::OK, size, None),
            Part::Range(first, last) => (
                StatusCode::PARTIAL_CONTENT,
                last - first + 1,
                Some(format!("bytes {first}-{last}/{size}")),
            ),
            Part::Outside => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                0,
                Some(format!("bytes */{size}")),
            ),
        };
        let mut answer = Response::builder()
            .status(status)
            .header(ACCEPT_RANGES, "bytes")
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .header(LAST_MODIFIED, &self.modified)
            .header(ETAG, &self.tag);
        if let Some(range) = range {
            answer = answer.header(CONTENT_RANGE, range);
        }
        (answer, part)
    }

    /// Answers a GET or HEAD. `sent` hears of the bytes that went out, piece by piece.
    pub fn answer(
        &self,
        method: &Method,
        headers: &HeaderMap,
        sent: impl Fn(u64) + Send + 'static,
    ) -> Answer {
        let (head, part) = self.head(method, headers);
        let content = match (part, self.size) {
            _ if *method == Method::HEAD => Content::Whole(None),
            (Part::Outside, _) | (Part::Whole, 0) => Content::Whole(None),
            (Part::Whole, size) => self.flow(0, size - 1, sent),
            (Part::Range(first, last), _) => self.flow(first, last, sent),
        };
        head.body(content)
            .unwrap_or_else(|_| say(StatusCode::INTERNAL_SERVER_ERROR, "No answer.\n"))
    }

    fn flow(&self, first: u64, last: u64, sent: impl Fn(u64) + Send + 'static) -> Content {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let file = Arc::clone(&self.file);
        tokio::spawn(async move {
            let mut at = first;
            while at <= last {
                let length = PIECE.min(last - at + 1);
                let piece = piece(&file, at, length).await;
                let whole = piece.is_ok();
                let taken = timeout(STALL, sender.send(piece)).await;
                if !whole || !matches!(taken, Ok(Ok(()))) {
                    return;
                }
                sent(length);
                at += length;
            }
        });
        Content::Flow(receiver)
    }
}

/// A part of the file, all of it.
async fn piece(file: &Arc<File>, at: u64, length: u64) -> io::Result<Bytes> {
    let file = Arc::clone(file);
    let read = spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Bytes::from(bytes))
    });
    read.await.map_err(io::Error::other)?
}

/// A file's name as the end of a URL that every BMC takes: some want it to end in `.iso`.
fn url_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name
        .chars()
        .map(|c| {
            let plain = c.is_ascii_alphanumeric() || "._-".contains(c);
            if plain { c } else { '_' }
        })
        .collect();
    let stem = name
        .get(name.len().saturating_sub(4)..)
        .filter(|end| end.eq_ignore_ascii_case(".iso"))
        .map_or(name.as_str(), |end| &name[..name.len() - end.len()]);
    format!("{stem}.iso")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_a_name_that_ends_in_iso() {
        for (file, name) in [
            ("/x/lab.iso", "lab.iso"),
            ("LAB.ISO", "LAB.iso"),
            ("rescue.img", "rescue.img.iso"),
            ("my lab é.iso", "my_lab__.iso"),
            ("x", "x.iso"),
        ] {
            assert_eq!(url_name(Path::new(file)), name);
        }
    }

    #[test]
    fn what_is_no_file_is_not_served() {
        let told = format!("{:#}", Served::open(Path::new("/")).unwrap_err());
        assert!(told.contains("not a file"), "{told}");
        let told = format!("{:#}", Served::open(Path::new("/no/such.iso")).unwrap_err());
        assert!(told.contains("/no/such.iso"), "{told}");
    }
}
