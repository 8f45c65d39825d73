//! One gzip member, as ESXi's loader wants it: nothing before it and nothing after it.
//!
//! In scope: bytes to bytes, in memory, with a limit on what comes out. Not in scope: files of
//! several members, and streams.
//!
//! The loader takes the checksum and the length from the *last eight bytes of the file*, so bytes
//! behind the member, even zero padding, make it refuse the archive (esx-boot bootlib/gzip.c). The
//! format itself is RFC 1952.

use std::thread;

use flate2::bufread::GzDecoder;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use libdeflater::{CompressionLvl, Compressor, crc32};

use crate::counted::counted;

/// First two bytes of every gzip member.
const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The header of the archives that ESXi 7.0.2 writes: deflate, no flags, no time, "slowest" as
/// the hint for the level, Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];
/// CRC-32 and length modulo 2^32 of the content, each a little-endian u32.
const TRAILER_BYTES: usize = 8;
/// Deflate's best: 258 bytes from two bits. No member expands further than this.
const MAX_EXPANSION: usize = 1032;

/// Why bytes are not one whole gzip member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GzipError {
    /// The magic is missing.
    #[error("not a gzip file: it starts with {} instead of 1f 8b", hex(found))]
    NotGzip {
        /// The first bytes, up to four.
        found: Vec<u8>,
    },
    /// The magic is there, the rest of the header is not one of a gzip file.
    #[error("the gzip header is damaged")]
    Header,
    /// The bytes end before the member does.
    #[error("the gzip data is cut short: its {size} bytes end before the archive does")]
    Truncated {
        /// Bytes there are.
        size: usize,
    },
    /// The compressed data is not valid.
    #[error("the gzip data is damaged: it cannot be decompressed beyond byte {offset}")]
    Corrupt {
        /// Where, roughly: bytes from the start that were taken in.
        offset: usize,
    },
    /// The content is not what was compressed once.
    #[error(
        "the gzip data is damaged: its checksum is {found:08x}, the content's is {computed:08x}"
    )]
    Checksum {
        /// As the file says.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// The content has not the length that the file says.
    #[error("the gzip data is damaged: it says it holds {} and holds {actual}", counted(*.found, "byte", "bytes"))]
    Length {
        /// As the file says, modulo 2^32.
        found: u32,
        /// As decompressed.
        actual: usize,
    },
    /// Bytes behind the member.
    #[error(
        "{} after the end of the gzip data, where no archive of ESXi's has any",
        if *.zeros {
            counted(*.count, "zero byte stands", "zero bytes stand")
        } else {
            counted(*.count, "other byte stands", "other bytes stand")
        }
    )]
    TrailingData {
        /// How many.
        count: usize,
        /// Whether all of them are zero: padding rather than another member or a damaged file.
        zeros: bool,
    },
    /// More content than the caller takes.
    #[error(
        "the gzip data expands to more than {limit} bytes, more than any real archive of its kind"
    )]
    TooLarge {
        /// The caller's limit, in bytes.
        limit: usize,
    },
    /// The compressor failed, which it has no reason to.
    #[error("compressing {size} bytes failed")]
    Compress {
        /// Bytes to compress.
        size: usize,
    },
}

/// Whether the bytes start like a gzip member. [`inflate`] finds out whether they are one.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The content of a gzip member that makes up the whole of `bytes`.
///
/// # Errors
/// [`GzipError`], also where the content is larger than `limit` bytes; memory use stays below
/// `limit` and a small constant.
pub fn inflate(bytes: &[u8], limit: usize) -> Result<Vec<u8>, GzipError> {
    let body = body(bytes)?;
    let (content, used) =
        inflate_raw(body, capacity_hint(body, limit), limit).map_err(|stop| match stop {
            Stop::Truncated => GzipError::Truncated { size: bytes.len() },
            Stop::Corrupt { taken } => GzipError::Corrupt {
                offset: bytes.len() - body.len() + taken,
            },
            Stop::TooLarge => GzipError::TooLarge { limit },
        })?;
    check_end(bytes, &body[used..], &content)?;
    Ok(content)
}

/// Whether `bytes` are one gzip member whose content is `expected`: what [`inflate`] would tell,
/// without a second copy of the content in memory.
///
/// # Errors
/// [`GzipError`], as [`inflate`].
pub fn inflates_to(bytes: &[u8], expected: &[u8]) -> Result<bool, GzipError> {
    let body = body(bytes)?;
    let mut piece = vec![0; COMPARED_BYTES.min(expected.len() + 1)];
    let mut stream = Decompress::new(false);
    let (mut taken, mut compared) = (0, 0);
    loop {
        let status = stream
            .decompress(&body[taken..], &mut piece, FlushDecompress::None)
            .map_err(|_| GzipError::Corrupt {
                offset: bytes.len() - body.len() + taken,
            })?;
        let position = |total: u64| usize::try_from(total).unwrap_or(usize::MAX);
        let (now_taken, now) = (position(stream.total_in()), position(stream.total_out()));
        if expected.get(compared..now) != Some(&piece[..now - compared]) {
            return Ok(false);
        }
        if status == Status::StreamEnd {
            if now != expected.len() {
                return Ok(false);
            }
            return check_end(bytes, &body[now_taken..], expected).map(|()| true);
        }
        if (now_taken, now) == (taken, compared) {
            return Err(GzipError::Truncated { size: bytes.len() });
        }
        (taken, compared) = (now_taken, now);
    }
}

/// Checks what follows the compressed data: checksum, length, and nothing else.
fn check_end(bytes: &[u8], end: &[u8], content: &[u8]) -> Result<(), GzipError> {
    let Some((trailer, rest)) = end.split_first_chunk::<TRAILER_BYTES>() else {
        return Err(GzipError::Truncated { size: bytes.len() });
    };
    check_trailer(*trailer, content)?;
    match rest {
        [] => Ok(()),
        rest => Err(GzipError::TrailingData {
            count: rest.len(),
            zeros: rest.iter().all(|byte| *byte == 0),
        }),
    }
}

/// The compressed data and all that follows it.
fn body(bytes: &[u8]) -> Result<&[u8], GzipError> {
    if !is_gzip(bytes) {
        return Err(match bytes.len() {
            0 | 1 => GzipError::Truncated { size: bytes.len() },
            _ => GzipError::NotGzip {
                found: bytes[..bytes.len().min(4)].to_vec(),
            },
        });
    }
    let mut decoder = GzDecoder::new(bytes);
    if decoder.header().is_some() {
        return Ok(decoder.get_ref());
    }
    // Reading is what makes the decoder tell why it holds no header.
    let cut_short = std::io::Read::read(&mut decoder, &mut [0])
        .is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof);
    Err(if cut_short {
        GzipError::Truncated { size: bytes.len() }
    } else {
        GzipError::Header
    })
}

/// How much to allocate at first: what the last four bytes promise, as far as it can be true.
fn capacity_hint(body: &[u8], limit: usize) -> usize {
    let promised = body
        .last_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let possible = body.len().saturating_mul(MAX_EXPANSION).min(limit);
    usize::try_from(promised)
        .unwrap_or(usize::MAX)
        .min(possible)
}

/// Why [`inflate_raw`] ended early.
enum Stop {
    Truncated,
    Corrupt { taken: usize },
    TooLarge,
}

/// Inflates a deflate stream; returns the content and how many bytes of `body` it took.
fn inflate_raw(body: &[u8], hint: usize, limit: usize) -> Result<(Vec<u8>, usize), Stop> {
    // One byte more than is expected or allowed, so that the stream can show that it goes on.
    let most = limit.saturating_add(1);
    let mut content = Vec::with_capacity(hint.saturating_add(1).min(most));
    let mut stream = Decompress::new(false);
    let mut taken = 0;
    loop {
        if content.len() > limit {
            return Err(Stop::TooLarge);
        }
        if content.len() == content.capacity() {
            content.reserve_exact(content.len().max(GROWTH_BYTES).min(most - content.len()));
        }
        let before = (taken, content.len());
        let status = stream
            .decompress_vec(&body[taken..], &mut content, FlushDecompress::Finish)
            .map_err(|_| Stop::Corrupt { taken })?;
        taken = usize::try_from(stream.total_in()).map_err(|_| Stop::TooLarge)?;
        if status == Status::StreamEnd {
            return if content.len() > limit {
                Err(Stop::TooLarge)
            } else {
                Ok((content, taken))
            };
        }
        // There was room for output, and yet nothing happened: the input is at its end.
        if before == (taken, content.len()) {
            return Err(Stop::Truncated);
        }
    }
}

fn check_trailer(trailer: [u8; TRAILER_BYTES], content: &[u8]) -> Result<(), GzipError> {
    let [c0, c1, c2, c3, l0, l1, l2, l3] = trailer;
    let (checksum, length) = check_values(content);
    let found = u32::from_le_bytes([c0, c1, c2, c3]);
    if found != checksum {
        return Err(GzipError::Checksum {
            found,
            computed: checksum,
        });
    }
    let found = u32::from_le_bytes([l0, l1, l2, l3]);
    if found != length {
        return Err(GzipError::Length {
            found,
            actual: content.len(),
        });
    }
    Ok(())
}

/// CRC-32 and length modulo 2^32.
fn check_values(content: &[u8]) -> (u32, u32) {
    // Truncation is what the format asks for.
    let length = content.len() as u64 & u64::from(u32::MAX);
    (crc32(content), u32::try_from(length).unwrap_or_default())
}

/// The first bytes of a file, for a message.
fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Compression level for configurations, by libdeflate.
///
/// Measured on tars of configuration files from 100 KiB to 64 MiB: smaller than `gzip -6` by 0.8 to
/// 3 %, in a third of its time. (flate2's own compressor is either slower or up to 1.1 % larger.)
/// What it makes is never taken on trust: flate2 unpacks it again before anything is written.
const CONFIGURATION: u32 = 6;
/// Compression level by flate2, which can end a stretch without ending the stream: for what surrounds
/// noise, some hundred bytes of tar headers.
const STRETCH: u32 = 7;
/// Content beyond this is compressed in two parts side by side. What real hosts have is far smaller.
const ONE_PART_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Compression level of both parts, the first by flate2, the second by libdeflate: together smaller
/// than `gzip -6` by 0.2 to 1.2 %, in a third less time than at the levels for small content.
const PART: u32 = 5;
/// The first of the two parts is one of so many; it takes twice as long for each byte.
const FIRST_PART_OF: usize = 3;

/// The history that deflate can refer back to, in bytes.
const WINDOW_BYTES: usize = 32 * 1024;
/// Content is judged in pieces of this many bytes.
const PIECE_BYTES: usize = 16 * 1024;
/// The largest block that deflate can store as it is.
const STORED_BLOCK_BYTES: usize = 65_535;
/// Of so many pieces one is judged to tell what content is.
const PIECES_PER_SAMPLE: usize = 8;
/// By how much a buffer grows at least.
const GROWTH_BYTES: usize = 64 * 1024;
/// How much is unpacked and compared at a time.
const COMPARED_BYTES: usize = 256 * 1024;

/// Compresses into one member with the header that ESXi itself writes.
///
/// Content that is mostly without any preference for a byte value, such as a tar around an
/// encrypted envelope, is stored in blocks of the largest size: that costs a copy instead of a
/// search, and takes less space than what `gzip` makes of it.
///
/// # Errors
/// [`GzipError::Compress`], which stands for a fault of the compressor.
pub fn deflate(content: &[u8]) -> Result<Vec<u8>, GzipError> {
    let packed = match is_mostly_noise(content) {
        true => store_noise(content),
        false => deflate_whole(content),
    };
    let mut out = packed.ok_or(GzipError::Compress {
        size: content.len(),
    })?;
    let (checksum, length) = check_values(content);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    Ok(out)
}

/// Header and compressed data of a configuration. It is the same on every machine, however many
/// processors it has.
fn deflate_whole(content: &[u8]) -> Option<Vec<u8>> {
    let mut first = HEADER.to_vec();
    if content.len() <= ONE_PART_BYTES_MAX {
        return deflate_end(content, CONFIGURATION, &first);
    }
    let (head, tail) = content.split_at(content.len() / FIRST_PART_OF);
    thread::scope(|scope| {
        let tail = scope.spawn(|| deflate_end(tail, PART, &[]));
        let head = deflate_run(head, PART, false, &mut first);
        let tail = tail.join().ok().flatten();
        head?;
        first.extend_from_slice(&tail?);
        Some(first)
    })
}

/// `before`, and compressed data that ends the stream.
fn deflate_end(content: &[u8], level: u32, before: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = Compressor::new(CompressionLvl::new(level.cast_signed()).ok()?);
    // Zeros that are never written to take no memory.
    let room = before.len() + compressor.deflate_compress_bound(content.len()) + TRAILER_BYTES;
    let mut out = vec![0; room];
    out[..before.len()].copy_from_slice(before);
    let packed = compressor
        .deflate_compress(content, &mut out[before.len()..])
        .ok()?;
    out.truncate(before.len() + packed);
    out.shrink_to(out.len() + TRAILER_BYTES);
    Some(out)
}

/// Header and data of content with long stretches that cannot be compressed.
fn store_noise(content: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 1024 + 1024);
    out.extend_from_slice(&HEADER);
    let mut rest = content;
    loop {
        let (run, behind) = split_run(rest);
        let last = behind.is_empty();
        match run {
            Run::Stored(bytes) => store(bytes, last, &mut out),
            Run::Deflated(bytes) => deflate_run(bytes, STRETCH, last, &mut out)?,
        }
        if last {
            return Some(out);
        }
        rest = behind;
    }
}

/// Whether more than half of the content cannot be compressed, told by a sample.
fn is_mostly_noise(content: &[u8]) -> bool {
    let mut samples = content
        .chunks_exact(PIECE_BYTES)
        .skip(1)
        .step_by(PIECES_PER_SAMPLE);
    let count = samples.len();
    let noise = samples.by_ref().filter(|piece| is_noise(piece)).count();
    noise > count / 2
}

/// A stretch of content, and what to do with it.
enum Run<'a> {
    Stored(&'a [u8]),
    Deflated(&'a [u8]),
}

/// Cuts the first run off.
///
/// Bytes are stored only in stretches of the window's size and more: what comes behind such a
/// stretch could not have referred back beyond it anyway.
fn split_run(content: &[u8]) -> (Run<'_>, &[u8]) {
    let noise = noise_length(content);
    if noise >= WINDOW_BYTES {
        let (run, behind) = content.split_at(noise);
        return (Run::Stored(run), behind);
    }
    let mut at = noise;
    while at < content.len() {
        let noise = noise_length(&content[at..]);
        if noise >= WINDOW_BYTES {
            break;
        }
        at = (at + noise + PIECE_BYTES).min(content.len());
    }
    let (run, behind) = content.split_at(at);
    (Run::Deflated(run), behind)
}

/// How many bytes at the start, in whole pieces, look like noise.
fn noise_length(content: &[u8]) -> usize {
    content
        .chunks_exact(PIECE_BYTES)
        .take_while(|piece| is_noise(piece))
        .count()
        * PIECE_BYTES
}

/// Whether byte values are spread so evenly that no code is shorter than eight bits.
///
/// The sum of the squared counts is n²/256 + n for random bytes, give or take 0.14 % of n²/256
/// for a piece, and more for anything with a preference. Twice that spread and more is let pass:
/// it stands for less than 0.1 % that a Huffman code could have saved.
fn is_noise(piece: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    for byte in piece {
        counts[usize::from(*byte)] += 1;
    }
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    let even = (PIECE_BYTES * PIECE_BYTES / 256) as u64;
    squares <= even + PIECE_BYTES as u64 + even / 160
}

/// Appends bytes as stored blocks. The output must end on a whole byte.
fn store(bytes: &[u8], last: bool, out: &mut Vec<u8>) {
    let blocks = bytes.len().div_ceil(STORED_BLOCK_BYTES);
    out.reserve_exact(bytes.len() + blocks * 5 + TRAILER_BYTES);
    for (index, block) in bytes.chunks(STORED_BLOCK_BYTES).enumerate() {
        let is_final = last && index + 1 == blocks;
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(is_final));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
}

/// Appends bytes compressed, ending the stream or, within it, on a whole byte. `None` where the
/// compressor fails.
fn deflate_run(bytes: &[u8], level: u32, last: bool, out: &mut Vec<u8>) -> Option<()> {
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut stream = Compress::new(Compression::new(level), false);
    let mut taken = 0;
    loop {
        let before = (taken, out.len());
        out.reserve_exact((bytes.len() / 8).max(GROWTH_BYTES));
        let status = stream.compress_vec(&bytes[taken..], out, flush).ok()?;
        taken = usize::try_from(stream.total_in()).ok()?;
        // A flush is complete when it leaves room in the output.
        let flushed = !last && taken == bytes.len() && out.len() < out.capacity();
        if status == Status::StreamEnd || flushed {
            return Some(());
        }
        if before == (taken, out.len()) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 16 * 1024 * 1024;

    fn gz(content: &[u8]) -> Vec<u8> {
        deflate(content).unwrap()
    }

    /// Bytes that look random and are the same in every run.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..length).map(|_| next()).collect()
    }

    fn text(length: usize) -> Vec<u8> {
        (0_u32..)
            .flat_map(|n| format!("/a/{n} = \"{}\"\n", n * 7).into_bytes())
            .take(length)
            .collect()
    }

    /// Another implementation of the format's outer parts: flate2's own.
    fn flate2_reads(bytes: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut GzDecoder::new(bytes), &mut content).unwrap();
        content
    }

    #[test]
    fn content_comes_back() {
        let mixed = [
            text(5000),
            noise(100_000),
            text(70_000),
            noise(20_000),
            text(100),
        ]
        .concat();
        for content in [
            Vec::new(),
            b"x".to_vec(),
            vec![0; 1_000_000],
            noise(40_000),
            noise(1_000_000),
            text(1_000_000),
            text(5 * 1024 * 1024),
            mixed.clone(),
            [mixed, noise(3 * WINDOW_BYTES)].concat(),
        ] {
            let packed = gz(&content);
            assert!(inflate(&packed, LIMIT).unwrap() == content);
            assert!(flate2_reads(&packed) == content);
            assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3]);
        }
    }

    #[test]
    fn a_member_is_told_from_others_without_unpacking_it_whole() {
        for content in [vec![], text(10), text(COMPARED_BYTES * 3), noise(100_000)] {
            let packed = gz(&content);
            assert_eq!(inflates_to(&packed, &content), Ok(true));
            assert_eq!(
                inflates_to(&packed, &[&content[..], b"x"].concat()),
                Ok(false)
            );
            let Some((last, shorter)) = content.split_last() else {
                continue;
            };
            assert_eq!(inflates_to(&packed, shorter), Ok(false));
            for at in [0, content.len() / 2] {
                let mut other = content.clone();
                other[at] ^= 1;
                assert_eq!(inflates_to(&packed, &other), Ok(false));
            }
            let end = packed.len() - TRAILER_BYTES;
            for length in [0, 5, end / 2, end, end + 7] {
                let cut = inflates_to(&packed[..length], &content);
                assert!(matches!(cut, Err(GzipError::Truncated { .. })), "{cut:?}");
            }
            let longer = [&packed[..], &[*last]].concat();
            let longer = inflates_to(&longer, &content);
            assert!(matches!(
                longer,
                Err(GzipError::TrailingData { count: 1, .. })
            ));
            let mut damaged = packed.clone();
            damaged[end] ^= 1;
            let damaged = inflates_to(&damaged, &content);
            assert!(matches!(damaged, Err(GzipError::Checksum { .. })));
        }
    }

    #[test]
    fn noise_is_stored_and_text_is_compressed() {
        let size = 1_000_000;
        assert!(gz(&noise(size)).len() < size + size / 10_000 + 64);
        assert!(gz(&text(size)).len() < size / 3);
        assert!(is_noise(&noise(PIECE_BYTES)));
        assert!(!is_noise(&text(PIECE_BYTES)));
    }

    #[test]
    fn the_limit_counts_content_bytes() {
        let packed = gz(&vec![0; 100_000]);
        assert!(inflate(&packed, 100_000).is_ok());
        assert_eq!(
            inflate(&packed, 99_999),
            Err(GzipError::TooLarge { limit: 99_999 })
        );
        assert_eq!(inflate(&packed, 0), Err(GzipError::TooLarge { limit: 0 }));
        assert_eq!(inflate(&gz(b""), 0), Ok(Vec::new()));
        assert!(inflate(&packed, usize::MAX).is_ok());
    }

    #[test]
    fn every_cut_is_called_one() {
        let packed = gz(&[text(3000), noise(100)].concat());
        for length in 0..packed.len() {
            assert_eq!(
                inflate(&packed[..length], LIMIT),
                Err(GzipError::Truncated { size: length }),
                "{length}"
            );
        }
    }

    #[test]
    fn bytes_behind_the_member_are_refused() {
        let packed = gz(b"content");
        for (behind, zeros) in [(&[0; 512][..], true), (b"\0x", false), (&packed, false)] {
            let bytes = [&packed, behind].concat();
            let error = inflate(&bytes, LIMIT).unwrap_err();
            assert_eq!(
                error,
                GzipError::TrailingData {
                    count: behind.len(),
                    zeros
                }
            );
        }
    }

    #[test]
    fn foreign_and_damaged_bytes_are_told_apart() {
        assert_eq!(
            inflate(b"hello", LIMIT),
            Err(GzipError::NotGzip {
                found: b"hell".to_vec()
            })
        );
        assert!(!is_gzip(b"hello"));
        let good = gz(&text(5000));
        assert!(is_gzip(&good));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            inflate(&bytes, LIMIT)
        };
        let end = good.len();
        assert_eq!(with(2, 7), Err(GzipError::Header));
        assert!(matches!(
            with(end - 8, !good[end - 8]),
            Err(GzipError::Checksum { .. })
        ));
        assert!(matches!(
            with(end - 2, 1),
            Err(GzipError::Length {
                found: 70536,
                actual: 5000
            })
        ));
        // A block type that does not exist.
        assert!(matches!(with(10, 7), Err(GzipError::Corrupt { .. })));
    }

    #[test]
    fn headers_with_names_and_comments_are_read() {
        let packed = gz(b"content");
        let mut named = vec![0x1f, 0x8b, 8, 0x18, 1, 2, 3, 4, 0, 255];
        named.extend_from_slice(b"local.tar\0by hand\0");
        named.extend_from_slice(&packed[10..]);
        assert_eq!(inflate(&named, LIMIT).unwrap(), b"content");
        assert_eq!(
            inflate(&named[..15], LIMIT),
            Err(GzipError::Truncated { size: 15 })
        );
    }

    #[test]
    fn a_lying_length_costs_no_memory() {
        let mut packed = gz(b"content");
        let end = packed.len();
        packed[end - 4..].copy_from_slice(&[0xff; 4]);
        assert!(capacity_hint(&packed[10..], usize::MAX) <= packed.len() * MAX_EXPANSION);
        assert!(matches!(
            inflate(&packed, LIMIT),
            Err(GzipError::Length { .. })
        ));
    }

    proptest! {
        #[test]
        fn round_trip(content in proptest::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(inflate(&gz(&content), LIMIT), Ok(content));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = inflate(&bytes, 1000);
            let _ = inflate(&[&HEADER[..], &bytes].concat(), 1000);
        }

        #[test]
        fn any_flip_is_noticed_or_harmless(at in 0_usize..1000, value: u8) {
            let content = text(3000);
            let mut packed = gz(&content);
            let at = at % packed.len();
            packed[at] = value;
            if let Ok(read) = inflate(&packed, LIMIT) {
                prop_assert_eq!(read, content);
            }
        }
    }
}
