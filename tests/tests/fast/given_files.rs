//! Whatever stands where an option names a file: a pipe that nobody writes to, a device without an end, a folder,
//! a circle of links, a file of many gigabytes. No program waits for it, takes memory for it, or writes to it.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{self, USAGE};
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::judge::Judge;
use rescue_tests::scratch;
use rescue_tests::tools::{Output, Tool};

/// What a run on such a file may take. None needs a tenth of it.
const DEADLINE: Duration = Duration::from_secs(20);
/// Address space, in bytes: the programs and their libraries have room in it, and a file of gigabytes has not.
const MEMORY: u64 = 1 << 30;

/// A folder with such things.
struct Things {
    folder: tempfile::TempDir,
}

impl Things {
    fn new() -> Result<Self> {
        let folder = scratch::folder()?;
        let at = |name: &str| folder.path().join(name);
        Tool::new("mkfifo")?.arg(at("pipe")).run_text()?;
        fs::create_dir(at("folder"))?;
        symlink("circle2", at("circle1"))?;
        symlink("circle1", at("circle2"))?;
        symlink("/dev/zero", at("link-to-zero"))?;
        File::create(at("huge"))?.set_len(64 << 30)?;
        Ok(Self { folder })
    }

    /// Every one of them.
    fn all(&self) -> Vec<PathBuf> {
        let names = ["pipe", "folder", "circle1", "link-to-zero", "huge", "none"];
        let own = names.map(|name| self.folder.path().join(name));
        own.into_iter()
            .chain(["/dev/zero", "/dev/full"].map(PathBuf::from))
            .collect()
    }

    /// They are what they were.
    fn are_unchanged(&self) -> Result<()> {
        let kind = |name: &str| fs::symlink_metadata(self.folder.path().join(name));
        ensure!(kind("pipe")?.file_type().is_fifo());
        ensure!(kind("link-to-zero")?.is_symlink());
        ensure!(kind("huge")?.len() == 64 << 30);
        Ok(())
    }
}

/// Runs a program within a deadline and little memory.
fn run(program: &Path, words: &[&str]) -> Result<Output> {
    Tool::new("prlimit")?
        .arg(format!("--as={MEMORY}"))
        .arg(program)
        .args(words)
        .deadline(DEADLINE)
        .output()
        .with_context(|| format!("{} {}", program.display(), words.join(" ")))
}

/// It ended by itself, with words, and not for want of memory.
fn is_refused(what: &str, output: &Output) -> Result<()> {
    let said = format!("{}{}", output.text(), output.errors());
    let code = output.code();
    ensure!((1..=4).contains(&code), "{what}: status {code}: {said}");
    ensure!(
        !said.contains("memory") && !said.contains("panicked"),
        "{what}: {said}"
    );
    ensure!(
        said.lines().any(|line| !line.trim().is_empty()),
        "{what}: no word"
    );
    Ok(())
}

#[test]
fn no_option_of_the_agent_waits_for_a_file_or_takes_memory_for_it() -> Result<()> {
    let things = Things::new()?;
    let made = EsxiDisk::v67().make(things.folder.path(), "disk")?;
    let judge = Judge::new(&made, things.folder.path())?;
    let disk = made.image.to_str().context("a path in UTF-8")?;
    let agent = artefacts::agent()?;
    for path in things.all() {
        let file = path.to_str().context("a path in UTF-8")?;
        for words in [
            &["inspect", file][..],
            &["inspect", "--pci", file, disk],
            &["inspect", "--recovery-key-file", file, disk],
            &["revert", "--yes", "--devices=all", "--source", file, disk],
            &["restore", "--yes", "--originals", file, disk],
        ] {
            is_refused(&words.join(" "), &run(&agent, words)?)?;
        }
        // What is not there, or is a file, is written; all else stays as it is.
        let saved = run(&agent, &["inspect", "--save-host", file, disk])?;
        match path.ends_with("none") || path.ends_with("huge") {
            true => fs::remove_file(&path)?,
            false => is_refused(&format!("--save-host {file}"), &saved)?,
        }
        if path.ends_with("huge") {
            File::create(&path)?.set_len(64 << 30)?;
        }
    }
    things.are_unchanged()?;
    judge.nothing_changed()
}

#[test]
fn no_option_of_the_builder_waits_for_a_file_or_takes_memory_for_it() -> Result<()> {
    let things = Things::new()?;
    let folder = things.folder.path();
    let builder = artefacts::builder()?;
    let at = |name: &str| folder.join(name).display().to_string();
    let (out, cache, store) = (at("out"), at("cache"), at("store"));
    let build = ["build", "--offline", "--out", &out, "--cache", &cache];
    let collect = &["collect", "--listen", "127.0.0.1:0", "--store", &store][..];
    for path in things.all() {
        let file = path.to_str().context("a path in UTF-8")?;
        let mut all = vec![
            vec!["show", file],
            vec!["customize", file, "--set", "mode=inspect"],
            vec!["spdx", file],
            [collect, &["--view-token-file", file]].concat(),
            [collect, &["--tls-cert", file, "--tls-key", file]].concat(),
        ];
        for option in [
            "--agent",
            "--config",
            "--inputs",
            "--kernel-deb",
            "--modules-dir",
        ] {
            all.push([&build[..], &[option, file]].concat());
        }
        // A file of any size is served as it is.
        if !path.ends_with("huge") {
            all.push([collect, &["--serve", file]].concat());
        }
        for words in all {
            is_refused(&words.join(" "), &run(&builder, &words)?)?;
        }
    }
    things.are_unchanged()
}

#[test]
fn trust_without_a_file_to_trust_is_a_usage_error() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    for source in [
        &[][..],
        &["--source", "own"],
        &["--source", "newest"],
        &["--dry-run"],
    ] {
        let words = ["revert", "--devices=all", "--yes", "--trust-source"];
        let run = agent::run(&[&words[..], source].concat(), &made.image)?.expect(USAGE)?;
        ensure!(
            run.said()
                .contains("--trust-source belongs to --source FILE"),
            "{}",
            run.said()
        );
    }
    judge.nothing_changed()
}
