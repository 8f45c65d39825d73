//! A finished ISO with altered bytes: opening it and asking what it is gives an answer or an error, and never panics.
//! The fuzzer's bytes are the changes: four for the place, one for the value.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rescue_image::{Finished, iso};

#[path = "../../image/src/parts/sample.rs"]
mod sample;

static ISO: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let out = temp.path().join("x.iso");
    iso::make(&sample::parts(), true, temp.path(), &out).expect("an ISO");
    std::fs::read(out).expect("the ISO")
});

fuzz_target!(|changes: &[u8]| {
    let mut bytes = ISO.clone();
    for change in changes.as_chunks::<5>().0 {
        let at = u32::from_le_bytes([change[0], change[1], change[2], change[3]]);
        let at = at as usize % bytes.len();
        bytes[at] = change[4];
    }
    if let Ok(image) = Finished::of_bytes(Path::new("x.iso"), bytes) {
        let _ = (image.info(), image.has_network(), image.settings());
    }
});
