//! `rescue-image fleet`: lays out the plays that repair a rack through its BMCs. They are part of this
//! program, so that they are always of its version.
//!
//! Files that a person changed are not overwritten, and others in the folder are left alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::hash;

/// The file that says what was written, so that a changed file is known.
const WRITTEN: &str = ".written";

/// A file of the plays: its path and its content.
type Play = (&'static str, &'static str);

macro_rules! plays {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../fleet/", $path)))),*]
    };
}

/// All of them.
const PLAYS: [Play; 19] = plays![
    "ansible.cfg",
    "eject.yml",
    "rack.example.yml",
    "repair.yml",
    "requirements.yml",
    "roles/esxi_rescue/defaults/main.yml",
    "roles/esxi_rescue/meta/argument_specs.yml",
    "roles/esxi_rescue/tasks/command.yml",
    "roles/esxi_rescue/tasks/eject.yml",
    "roles/esxi_rescue/tasks/get.yml",
    "roles/esxi_rescue/tasks/known.yml",
    "roles/esxi_rescue/tasks/look.yml",
    "roles/esxi_rescue/tasks/main.yml",
    "roles/esxi_rescue/tasks/off.yml",
    "roles/esxi_rescue/tasks/reports.yml",
    "roles/esxi_rescue/tasks/slot.yml",
    "roles/esxi_rescue/tasks/start.yml",
    "roles/esxi_rescue/tasks/wait.yml",
    "roles/esxi_rescue/tasks/wait_off.yml",
];

/// Writes the plays into a folder.
///
/// # Errors
/// When one of them was changed there, or cannot be written; then none is.
pub fn lay_out(folder: &Path) -> Result<()> {
    let written = fs::read_to_string(folder.join(WRITTEN)).unwrap_or_default();
    let changed: Vec<PathBuf> = PLAYS
        .iter()
        .filter(|(path, content)| is_changed(&folder.join(path), content, &written))
        .map(|(path, _)| folder.join(path))
        .collect();
    if let Some(first) = changed.first() {
        bail!(
            "{} was changed there: copy the folder, or move the file away, so that it is not lost ({} in all)",
            first.display(),
            changed.len()
        );
    }
    let mut list = String::new();
    for (path, content) in PLAYS {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        list += &format!("{}\n", digest(content.as_bytes()));
    }
    let path = folder.join(WRITTEN);
    fs::write(&path, list).with_context(|| format!("writing {}", path.display()))
}

/// Whether a file is neither what is to be written nor what was written before.
fn is_changed(path: &Path, content: &str, written: &str) -> bool {
    fs::read(path).is_ok_and(|there| {
        there != content.as_bytes() && !written.lines().any(|line| line == digest(&there))
    })
}

fn digest(bytes: &[u8]) -> String {
    hash::sha256(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_plays_is_laid_out() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet");
        let mut folders = vec![source.clone()];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path
                    .strip_prefix(&source)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                assert!(PLAYS.iter().any(|(path, _)| *path == name), "{name}");
                count += 1;
            }
        }
        assert_eq!(count, PLAYS.len());
    }

    #[test]
    fn what_a_person_changed_is_not_overwritten_and_what_we_wrote_is() {
        let folder = tempfile::tempdir().unwrap();
        lay_out(folder.path()).unwrap();
        lay_out(folder.path()).unwrap();
        let (rack, play) = (
            folder.path().join("rack.yml"),
            folder.path().join("repair.yml"),
        );
        fs::write(&rack, "mine").unwrap();
        // As an earlier version wrote it.
        fs::write(&play, "old").unwrap();
        fs::write(folder.path().join(WRITTEN), digest(b"old")).unwrap();
        lay_out(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&rack).unwrap(), "mine");
        assert_ne!(fs::read_to_string(&play).unwrap(), "old");
        fs::write(&play, "mine").unwrap();
        let told = lay_out(folder.path()).unwrap_err().to_string();
        assert!(told.contains("repair.yml was changed"), "{told}");
        assert_eq!(fs::read_to_string(&play).unwrap(), "mine");
    }
}
