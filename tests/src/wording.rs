//! Plain English: expressions that were replaced once must not come back.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tools::crate_file;

/// An expression in lower case, and what to write in its place.
const REPLACED: &[(&str, &str)] = &[
    ("a moment ago", "current"),
    ("all the same", "anyway, or still"),
    ("an error in itself", "an internal error"),
    ("anew", "again"),
    ("are told by", "are identified by"),
    ("bad wish", "invalid request"),
    ("by way of", "through"),
    ("calm", "leave it out"),
    ("cannot be told", "cannot be determined"),
    ("comes to is not known", "is not known"),
    ("diary", "log"),
    ("earlier accident", "earlier repair"),
    ("for who wants to know", "background"),
    (
        "gives a host its disks back",
        "gives ESXi access to its disks again",
    ),
    ("goes by its order", "uses its own boot order"),
    ("hand-made", "uncompressed"),
    ("hands-off", "unattended"),
    ("how-manieth", "nth"),
    ("in force", "active"),
    (
        "is no ipv4 address that it could be",
        "is not a usable IPv4 address",
    ),
    ("is of no use", "cannot be used"),
    ("is told by", "is identified by"),
    ("lies beside", "is next to"),
    ("life of a thread", "runs until"),
    ("makes no sense", "is not valid, or does not fit"),
    ("mend", "correct"),
    ("name plate", "manufacturer, model and serial number"),
    ("patience", "timeout"),
    ("patiently", "with retries"),
    ("rules it out", "excludes it"),
    ("seat", "assign"),
    (
        "second accident",
        "repair after ESXi has saved a new configuration",
    ),
    ("sit down", "begin"),
    ("sit in between", "intercept the connection"),
    ("sits in between", "intercepts the connection"),
    ("station", "step"),
    ("take its place", "replace it"),
    ("take the place of", "replace"),
    ("taken for one", "accepted as one"),
    ("takes it for", "accepts it as"),
    ("takes the place of", "replaces"),
    ("talkative", "not silenced"),
    ("tells", "reports"),
    ("the house", "layout"),
    ("undriven", "without a driver"),
    ("up for good", "permanently"),
    ("vouch", "confirm"),
    ("vouches", "confirms"),
    ("what became of", "the result of"),
    ("what becomes of", "what happens to"),
    ("what was said", "the output"),
    ("wish", "request"),
    ("wishes", "requests"),
    ("without the disk around it", "not a whole disk"),
];

/// Which of the expressions a text contains, as whole words and across line ends.
fn replaced_in(text: &str) -> Vec<(&'static str, &'static str)> {
    let text = plain_words(text);
    let found = REPLACED.iter().filter(|(old, _)| contains(&text, old));
    found.copied().collect()
}

/// The text in lower case, without comment marks, with single spaces.
fn plain_words(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_start();
        line.trim_start_matches(['/', '#', '!', '>'])
    });
    let words = lines.flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

fn contains(text: &str, words: &str) -> bool {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(words).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + words.len()..].chars().next();
        !part_of_word(before) && !part_of_word(after)
    })
}

/// The documentation, scripts, texts in the images, and the sources with their messages and comments.
fn documents() -> Result<Vec<PathBuf>> {
    let root = crate_file("..");
    let mut found = Vec::new();
    for folder in [
        "",
        "docs",
        "scripts",
        ".github",
        "image/src",
        "rescue-agent/src",
    ] {
        collect(&root.join(folder), folder.is_empty(), &mut found)?;
    }
    Ok(found)
}

fn collect(folder: &Path, flat: bool, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if !flat {
                collect(&path, flat, found)?;
            }
        } else if is_document(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_document(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let extension = path.extension().unwrap_or_default();
    name == "Makefile"
        || ["md", "txt", "sh", "cfg", "conf", "ipxe", "yml", "rs"]
            .iter()
            .any(|known| extension == *known)
}

#[test]
fn replaced_expressions_do_not_come_back() -> Result<()> {
    let documents = documents()?;
    assert!(documents.iter().any(|path| path.ends_with("README.md")));
    assert!(documents.iter().any(|path| path.ends_with("menu.cfg")));
    let mut complaints = Vec::new();
    for path in documents {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for (old, new) in replaced_in(&text) {
            complaints.push(format!("{}: \"{old}\"; write \"{new}\"", path.display()));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

#[test]
fn an_expression_is_found_across_lines_and_only_as_whole_words() {
    for (old, _) in REPLACED {
        let split = old.replacen(' ', "\n//! ", 1);
        let text = format!("//! Before, {}.", split.to_uppercase());
        assert!(replaced_in(&text).iter().any(|(found, _)| found == old));
    }
    assert_eq!(
        replaced_in("recommended, in_force, undriven_controllers, workstation"),
        []
    );
}
