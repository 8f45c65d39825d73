//! A `configBundle-*.tgz`, as ESXi's own backup of its configuration makes it: a gzip'd tar with a state
//! archive and a manifest.

use super::gzip;
use super::state::unpacked_limit;
use super::tar;

/// The state archive in it, in whatever folder.
const STATE: &[u8] = b"state.tgz";
/// What its manifest is called like.
const MANIFEST: &[u8] = b"manifest";
/// Longest manifest that is looked into.
const MAX_MANIFEST_BYTES: usize = 64 * 1024;

/// What a bundle holds.
#[derive(Debug)]
pub struct Bundle {
    /// The state archive.
    pub state: Vec<u8>,
    /// The manifest, if there is one.
    pub manifest: Option<Vec<u8>>,
}

/// The parts of a bundle; `None` where the bytes are none.
pub fn bundle(bytes: &[u8]) -> Option<Bundle> {
    let tar = match gzip::is_gzip(bytes) {
        true => gzip::inflate(bytes, unpacked_limit(bytes)).ok()?,
        false => bytes.to_vec(),
    };
    let members = tar::members(&tar).ok()?;
    let name = |member: &tar::Member| {
        let last = member.path.rsplit(|byte| *byte == b'/').next();
        last.unwrap_or_default().to_ascii_lowercase()
    };
    let state = members.iter().rfind(|member| name(member) == STATE)?;
    let manifest = members.iter().find(|member| {
        let is_called_so = name(member).starts_with(MANIFEST);
        is_called_so && member.data.len() <= MAX_MANIFEST_BYTES
    });
    let content = |member: &tar::Member| member.content(&tar).map(<[u8]>::to_vec);
    Some(Bundle {
        state: content(state)?,
        manifest: manifest.and_then(content),
    })
}
