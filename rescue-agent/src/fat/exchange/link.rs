//! Which undo copy belongs to the archive in place.
//!
//! The write that puts a repaired archive in place also gives its entry a creation time that is none:
//! it holds a digest of the repaired archive, of the original it was made of, and of the build of ESXi
//! they belong to. As long as all three are what they were, the digest can be computed again, and
//! says that restoring gives back exactly what the repair replaced. ESXi saving its configuration,
//! another content, or an upgrade breaks it.
//!
//! No reader minds: VMware's loader, ESXi and Linux do not look at creation times, and every value
//! written here is a valid time of the calendar.

use sha2::{Digest, Sha256};

/// A digest that an entry can hold as its creation time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link(pub(super) u32);

impl Link {
    /// Of an archive that was made from `original`, which is `None` where there was no archive before,
    /// under a build of ESXi.
    pub fn of(build: &str, original: Option<&[u8]>, archive: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"esxi-rescue undo 1\0");
        digest.update((build.len() as u64).to_le_bytes());
        digest.update(build);
        match original {
            Some(original) => digest.update(Sha256::digest(original)),
            None => digest.update(b"none"),
        }
        digest.update(Sha256::digest(archive));
        let digest: [u8; 32] = digest.finalize().into();
        let [a, b, c, d, ..] = digest;
        Self(u32::from_le_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn any_other_build_original_or_archive_is_another_link() {
        let link = Link::of("8.0.2", Some(b"original"), b"archive");
        assert_eq!(link, Link::of("8.0.2", Some(b"original"), b"archive"));
        for other in [
            Link::of("8.0.3", Some(b"original"), b"archive"),
            Link::of("8.0.2", Some(b"another"), b"archive"),
            Link::of("8.0.2", None, b"archive"),
            Link::of("8.0.2", Some(b"original"), b"another"),
        ] {
            assert_ne!(link, other);
        }
    }
}
