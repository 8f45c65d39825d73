//! A state archive, opened layer by layer with outside readers and compared byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::store;
use crate::artefacts::oracle_python;
use crate::esxi::archive::{CONFIG_STORE, ESX_CONF};
use crate::tools::{Tool, crate_file};

/// The word of a device that is passed through, and the word of one that is not: equally long.
const WORDS: (&[u8], &[u8]) = (b"passthru", b"vmkernel");

/// Length of the envelope's header block in bytes, which a repair keeps as it is.
const ENVELOPE_HEADER_BYTES: usize = 4096;

/// One device that a repair gives back to ESXi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Its address as esx.conf spells it, where esx.conf has a line for it.
    pub line: Option<String>,
    /// Its address as the ConfigStore spells it, where it has a row there.
    pub row: Option<String>,
}

/// An archive's layers as files, for the outside tools to read.
#[derive(Debug)]
pub struct Opened {
    /// The outer tar; 4.x embedded has none.
    outer: Option<PathBuf>,
    /// The sealed inner archive and its keystore.
    sealed: Option<(Vec<u8>, Vec<u8>)>,
    /// The inner tar.
    local: PathBuf,
    folder: PathBuf,
}

impl Opened {
    /// Opens an archive inside `folder`. `name` is the file's name in the bank; `key` that of its envelope
    /// in hex, where it is not in the archive.
    ///
    /// # Errors
    /// When a layer does not open.
    pub fn read(name: &str, bytes: &[u8], key: Option<&str>, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let local = folder.join("local.tar");
        let mut opened = Self {
            outer: None,
            sealed: None,
            local,
            folder: folder.to_owned(),
        };
        let mut inner = bytes.to_vec();
        if name == "STATE.TGZ" {
            let outer = folder.join("state.tar");
            fs::write(&outer, unpacked(bytes).context("state.tgz")?)?;
            inner = opened.read_outer(&outer, key)?;
            opened.outer = Some(outer);
        }
        fs::write(&opened.local, unpacked(&inner).context("local.tgz")?)?;
        Ok(opened)
    }

    fn read_outer(&mut self, outer: &Path, key: Option<&str>) -> Result<Vec<u8>> {
        let names: Vec<String> = members(outer)?
            .into_iter()
            .map(|member| member.name)
            .collect();
        if !names.iter().any(|name| name == "local.tgz.ve") {
            return member(outer, "local.tgz");
        }
        let keystore = names.iter().find(|name| name.ends_with("encryption.info"));
        let keystore = member(outer, keystore.context("there is no encryption.info")?)?;
        let sealed = member(outer, "local.tgz.ve")?;
        let files =
            ["local.tgz.ve", "encryption.info", "local.tgz"].map(|name| self.folder.join(name));
        fs::write(&files[0], &sealed)?;
        fs::write(&files[1], &keystore)?;
        Tool::at(oracle_python()?)
            .arg(crate_file("fixtures/open_envelope.py"))
            .args(&files)
            .args(key)
            .run()
            .context("dissect.hypervisor does not open the envelope")?;
        self.sealed = Some((sealed, keystore));
        Ok(fs::read(&files[2])?)
    }

    /// Content of a member of the inner archive, by GNU tar.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn file(&self, name: &str) -> Result<Vec<u8>> {
        let dotted = format!("./{name}");
        let found = members(&self.local)?
            .into_iter()
            .find(|member| member.name.trim_start_matches("./") == name);
        found.with_context(|| format!("local.tgz holds no {name}"))?;
        member(&self.local, name).or_else(|_| member(&self.local, &dotted))
    }

    /// The inner archive as GNU tar lists it, names, modes, owners, sizes and times.
    ///
    /// # Errors
    /// When GNU tar cannot read it.
    pub fn listing(&self) -> Result<String> {
        listing(&self.local)
    }

    /// Owners of devices by esx.conf, by the address as it is spelled there.
    ///
    /// # Errors
    /// When there is no esx.conf.
    pub fn owners(&self) -> Result<BTreeMap<String, String>> {
        let text = String::from_utf8(self.file(ESX_CONF)?)?;
        Ok(text.lines().filter_map(owner_line).collect())
    }

    /// Owners of devices by the ConfigStore; empty where there is none.
    ///
    /// # Errors
    /// When sqlite3 cannot read it.
    pub fn store_owners(&self) -> Result<BTreeMap<String, String>> {
        match self.store()? {
            Some(path) => store::owners(&path),
            None => Ok(BTreeMap::new()),
        }
    }

    /// The journal mode of the ConfigStore, by sqlite3.
    ///
    /// # Errors
    /// When there is none, or sqlite3 cannot read it.
    pub fn store_journal_mode(&self) -> Result<String> {
        store::journal_mode(&self.store()?.context("there is no ConfigStore")?)
    }

    fn store(&self) -> Result<Option<PathBuf>> {
        let held = |member: &Place| member.name.trim_start_matches("./") == CONFIG_STORE;
        if !members(&self.local)?.iter().any(held) {
            return Ok(None);
        }
        let path = self.folder.join("current-store-1");
        fs::write(&path, self.file(CONFIG_STORE)?)?;
        Ok(Some(path))
    }
}

/// `/device/<address>/owner = "<owner>"`, and nothing that resembles it.
fn owner_line(line: &str) -> Option<(String, String)> {
    let (address, rest) = line.strip_prefix("/device/")?.split_once('/')?;
    let owner = rest.strip_prefix("owner = \"")?.strip_suffix('"')?;
    Some((address.to_owned(), owner.to_owned()))
}

/// Where a member's content lies in its tar.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    data: Range<usize>,
}

/// The members of a tar, by Python's tarfile.
fn members(tar: &Path) -> Result<Vec<Place>> {
    let text = Tool::new("python3")?
        .arg(crate_file("fixtures/tar_members.py"))
        .arg(tar)
        .run_text()?;
    let place = |line: &str| -> Option<Place> {
        let mut fields = line.splitn(3, ' ');
        let start: usize = fields.next()?.parse().ok()?;
        let size: usize = fields.next()?.parse().ok()?;
        Some(Place {
            name: fields.next()?.to_owned(),
            data: start..start + size,
        })
    };
    text.lines()
        .map(|line| place(line).with_context(|| format!("not a member: {line}")))
        .collect()
}

fn member(tar: &Path, name: &str) -> Result<Vec<u8>> {
    Tool::new("tar")?
        .arg("--extract")
        .arg("--to-stdout")
        .arg("--file")
        .arg(tar)
        .args(["--", name])
        .run()
}

fn listing(tar: &Path) -> Result<String> {
    Tool::new("tar")?
        .args([
            "--list",
            "--verbose",
            "--full-time",
            "--numeric-owner",
            "--file",
        ])
        .arg(tar)
        .run_text()
}

/// Unpacks a gzip file; a tar that a repair by hand left uncompressed is taken as it is.
fn unpacked(bytes: &[u8]) -> Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    Tool::new("gzip")?.arg("--test").input(bytes).run()?;
    Tool::new("gzip")?
        .args(["--decompress", "--stdout"])
        .input(bytes)
        .run()
}

/// A file is exactly one gzip member, as VMware's loader wants it.
///
/// # Errors
/// When it is not.
pub fn is_one_gzip_member(bytes: &[u8]) -> Result<()> {
    ensure!(
        bytes.starts_with(&[0x1f, 0x8b]),
        "the archive is not compressed"
    );
    Tool::new("python3")?
        .arg(crate_file("fixtures/one_member.py"))
        .input(bytes)
        .run()?;
    Ok(())
}

/// Both archives are the same but for the owners of these devices.
///
/// # Errors
/// When another byte of any layer differs, or an owner is not as it should be.
pub fn compare_archives(before: &Opened, after: &Opened, edits: &[Edit]) -> Result<()> {
    compare_outer(before, after)?;
    let lines: Vec<&str> = edits
        .iter()
        .filter_map(|edit| edit.line.as_deref())
        .collect();
    let rows: Vec<&str> = edits
        .iter()
        .filter_map(|edit| edit.row.as_deref())
        .collect();
    compare_inner(before, after, lines.len())?;
    if before.file(ESX_CONF).is_ok() {
        let mut expected = before.owners()?;
        for address in lines {
            expected.insert(address.to_owned(), "vmkernel".into());
        }
        let owners = after.owners()?;
        ensure!(
            owners == expected,
            "esx.conf says {owners:?}, expected {expected:?}"
        );
    }
    match (before.store()?, after.store()?) {
        (Some(was), Some(is)) => store::compare(&was, &is, &rows),
        _ => Ok(()),
    }
}

/// The outer tar is the same but for the length and the content of its inner archive.
fn compare_outer(before: &Opened, after: &Opened) -> Result<()> {
    let (Some(was), Some(is)) = (&before.outer, &after.outer) else {
        ensure!(
            before.outer.is_none() && after.outer.is_none(),
            "the layers of the archive changed"
        );
        return Ok(());
    };
    ensure!(
        without_sizes(was)? == without_sizes(is)?,
        "the outer archive lists other members"
    );
    let (was_bytes, is_bytes) = (fs::read(was)?, fs::read(is)?);
    for (one, two) in members(was)?.iter().zip(members(is)?) {
        let (header, other) = (header(&was_bytes, one)?, header(&is_bytes, &two)?);
        ensure!(
            header == other,
            "the tar header of {} changed beyond its size",
            one.name
        );
    }
    ensure!(
        tail(was, &was_bytes)? == tail(is, &is_bytes)?,
        "the end of the outer archive changed"
    );
    match (&before.sealed, &after.sealed) {
        (None, None) => Ok(()),
        (Some((was, keystore)), Some((is, other))) => {
            ensure!(keystore == other, "encryption.info changed");
            let (was, is) = (
                was.get(..ENVELOPE_HEADER_BYTES),
                is.get(..ENVELOPE_HEADER_BYTES),
            );
            ensure!(was == is, "the header block of the envelope changed");
            Ok(())
        }
        _ => bail!("an archive was sealed or unsealed"),
    }
}

/// The listing without its column of sizes.
fn without_sizes(tar: &Path) -> Result<Vec<String>> {
    let drop_size = |line: &str| {
        let column = |(place, word)| (place != 2).then_some(word);
        line.split_whitespace()
            .enumerate()
            .filter_map(column)
            .collect::<Vec<_>>()
            .join(" ")
    };
    Ok(listing(tar)?.lines().map(drop_size).collect())
}

/// A member's header block with size and checksum blanked.
fn header(tar: &[u8], place: &Place) -> Result<Vec<u8>> {
    let start = place
        .data
        .start
        .checked_sub(512)
        .context("a member has a header")?;
    let mut header = tar
        .get(start..place.data.start)
        .context("a header lies in the tar")?
        .to_vec();
    header[124..136].fill(0);
    header[148..156].fill(0);
    Ok(header)
}

/// What follows the last member.
fn tail(tar: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let end = members(tar)?
        .last()
        .map_or(0, |member| member.data.end.next_multiple_of(512));
    Ok(bytes.get(end..).unwrap_or_default().to_vec())
}

/// The inner tar is the same but for eight bytes in esx.conf per line edited, and the ConfigStore.
fn compare_inner(before: &Opened, after: &Opened, lines: usize) -> Result<()> {
    ensure!(
        before.listing()? == after.listing()?,
        "the inner archive lists other members"
    );
    let places = members(&before.local)?;
    let (was, is) = (fs::read(&before.local)?, fs::read(&after.local)?);
    let within = |offset: usize, name: &str| {
        places.iter().any(|place| {
            place.name.trim_start_matches("./") == name && place.data.contains(&offset)
        })
    };
    let mut words = 0;
    let mut offsets = differing_bytes(&before.local, &after.local)?
        .into_iter()
        .peekable();
    while let Some(offset) = offsets.next() {
        if within(offset, CONFIG_STORE) {
            continue;
        }
        ensure!(
            within(offset, ESX_CONF),
            "byte {offset} of the inner archive changed"
        );
        let word = offset..offset + WORDS.0.len();
        ensure!(
            was.get(word.clone()) == Some(WORDS.0) && is.get(word.clone()) == Some(WORDS.1),
            "byte {offset} of the inner archive changed, but it is no owner"
        );
        // The two words differ in each of their letters.
        while offsets.next_if(|next| word.contains(next)).is_some() {}
        words += 1;
    }
    ensure!(
        words == lines,
        "{words} owners changed in esx.conf, expected {lines}"
    );
    Ok(())
}

/// Offsets of the bytes in which two files differ, by cmp.
fn differing_bytes(one: &Path, two: &Path) -> Result<Vec<usize>> {
    let output = Tool::new("cmp")?
        .arg("--verbose")
        .args([one, two])
        .output()?;
    ensure!(
        output.code() < 2 && output.errors().is_empty(),
        "cmp: {}",
        output.errors()
    );
    let offset = |line: &str| -> Result<usize> {
        let first = line
            .split_whitespace()
            .next()
            .context("cmp printed an empty line")?;
        // cmp counts from 1.
        Ok(first.parse::<usize>()? - 1)
    };
    output.text().lines().map(offset).collect()
}

#[cfg(test)]
mod tests {
    use super::owner_line;

    #[test]
    fn only_an_owner_is_an_owner() {
        let line = r#"/device/00000:000:31.2/owner = "passthru""#;
        assert_eq!(
            owner_line(line),
            Some(("00000:000:31.2".into(), "passthru".into()))
        );
        for other in [
            r#"# /device/00000:000:31.2/owner = "passthru""#,
            r#"/devices/00000:000:31.2/owner = "passthru""#,
            r#"/device/00000:000:31.2/previous/owner = "passthru""#,
            r#"/device/00000:000:31.2/options = "passthru""#,
        ] {
            assert_eq!(owner_line(other), None, "{other}");
        }
    }
}
