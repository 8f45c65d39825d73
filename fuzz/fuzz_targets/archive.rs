//! A whole state.tgz: gzip, tar, envelope, from outside in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rescue_agent::archive::{gzip, state};

/// Far below the limit that the product sets, so that the fuzzer's own limit holds.
const LIMIT: usize = 16 << 20;

fuzz_target!(|bytes: &[u8]| {
    if gzip::is_gzip(bytes) {
        let Ok(content) = gzip::inflate(bytes, LIMIT) else {
            return;
        };
        let again = gzip::deflate(&content).expect("what was inflated can be deflated");
        assert_eq!(gzip::inflate(&again, LIMIT).ok(), Some(content));
    }
    if let Ok(archive) = state::StateArchive::open(bytes) {
        let _ = archive.configuration();
    }
});
