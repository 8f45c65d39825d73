//! Paths that come out of an image or a manifest.

use std::path::{Component, Path};

/// Whether a path leads to somewhere below, wherever it starts.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_not_plain() {
        assert!(is_plain("netboot/.disk/x") && is_plain("vmlinuz"));
        for path in ["", "/etc/passwd", "../x", "a/../../x", "./x"] {
            assert!(!is_plain(path), "{path}");
        }
    }
}
