//! Debian packages as inputs: which version apt would install, a verified copy in a cache, single files out of it.
//!
//! Nothing is installed and no root is needed. apt checks the archive's signatures; the SHA-256 of its signed index
//! is checked again on every use, so that a cache altered on disk is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hash;
use crate::tool;

/// A version of a package, as the archive's signed index describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Binary package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the `.deb`.
    pub sha256: String,
    /// Source package.
    pub source: String,
    /// Version of the source package.
    pub source_version: String,
    /// Names of the packages it depends on, first alternatives only.
    pub depends: Vec<String>,
}

/// A verified `.deb` on disk.
#[derive(Debug, Clone)]
pub struct Deb {
    /// What it is.
    pub release: Release,
    /// Where it is.
    pub path: PathBuf,
}

/// Where the packages come from and where copies are kept.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    offline: bool,
    known: BTreeMap<String, Release>,
}

impl Archive {
    /// Opens the cache directory, creating it. `offline`: ask apt for nothing, use the versions of the last build.
    pub fn open(dir: &Path, offline: bool) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let dir = fs::canonicalize(dir).map_err(Error::io("resolve", dir))?;
        let index = dir.join("index.json");
        let known = match fs::read(&index) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Error::input(
                    &index,
                    format!("not the cache's index ({error}); delete it"),
                )
            })?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Self {
            dir,
            offline,
            known,
        })
    }

    /// The version of each package to use, in the order asked: apt's candidate, or, offline or where apt
    /// knows none, that of the last build.
    pub fn releases(&self, packages: &[&str]) -> Result<Vec<Release>> {
        self.releases_of(None, packages)
    }

    /// The same from a certain suite, such as `bookworm-backports`, which must be among apt's sources.
    pub fn releases_of(&self, suite: Option<&str>, packages: &[&str]) -> Result<Vec<Release>> {
        let offered = if self.offline {
            BTreeMap::new()
        } else {
            candidates(suite, packages)?
        };
        packages
            .iter()
            .map(|package| {
                offered
                    .get(*package)
                    .or_else(|| self.known.get(*package))
                    .cloned()
                    .ok_or_else(|| self.unknown(package))
            })
            .collect()
    }

    /// The verified file: from the cache, or downloaded. If the download fails and the cache holds the version of
    /// the last build, that one, with a note for the user.
    pub fn fetch(&self, release: &Release, note: &dyn Fn(&str)) -> Result<Deb> {
        if let Some(deb) = self.cached(release) {
            return Ok(deb);
        }
        let failed = if self.offline {
            Error::Package {
                package: release.package.clone(),
                problem: format!(
                    "version {} is not in the cache {}; build once without --offline",
                    release.version,
                    self.dir.display()
                ),
            }
        } else {
            note(&format!(
                "downloading {} {}",
                release.package, release.version
            ));
            match self.download(release) {
                Ok(deb) => return Ok(deb),
                Err(error) => error,
            }
        };
        let Some(deb) = self
            .known
            .get(&release.package)
            .and_then(|known| self.cached(known))
        else {
            return Err(failed);
        };
        note(&format!(
            "{} {} could not be downloaded; using {} from the cache",
            release.package, release.version, deb.release.version
        ));
        Ok(deb)
    }

    /// The version of a package that the last build used.
    #[must_use]
    pub fn remembered(&self, package: &str) -> Option<&Release> {
        self.known.get(package)
    }

    /// Remembers the packages of a finished build, for `--offline`, and drops all others from the cache.
    pub fn remember<'a>(&mut self, used: impl IntoIterator<Item = &'a Release>) -> Result<()> {
        self.known = used
            .into_iter()
            .map(|release| (release.package.clone(), release.clone()))
            .collect();
        let index = self.dir.join("index.json");
        let text = serde_json::to_vec_pretty(&self.known)
            .map_err(|error| Error::input(&index, error.to_string()))?;
        fs::write(&index, text).map_err(Error::io("write", &index))?;
        let keep: Vec<PathBuf> = self
            .known
            .values()
            .map(|release| self.path_of(release))
            .collect();
        for entry in fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))? {
            let path = entry.map_err(Error::io("list", &self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == "deb") && !keep.contains(&path)
            {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn path_of(&self, release: &Release) -> PathBuf {
        self.dir.join(format!(
            "{}_{}.deb",
            release.package,
            release.version.replace(':', "%3a")
        ))
    }

    fn cached(&self, release: &Release) -> Option<Deb> {
        let path = self.path_of(release);
        let right =
            path.exists() && hash::sha256_file(&path).is_ok_and(|sha256| sha256 == release.sha256);
        right.then(|| Deb {
            release: release.clone(),
            path,
        })
    }

    fn download(&self, release: &Release) -> Result<Deb> {
        let temp = tempfile::Builder::new()
            .prefix("download-")
            .tempdir_in(&self.dir)
            .map_err(Error::io("create a directory in", &self.dir))?;
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .arg(format!("{}={}", release.package, release.version))
            .current_dir(temp.path());
        tool::run(&mut command, "apt").map_err(|error| Error::Package {
            package: release.package.clone(),
            problem: format!("the download failed; if the package lists are old, run 'apt-get update' as root.\n{error}"),
        })?;
        let found = first_deb(temp.path())?;
        let sha256 = hash::sha256_file(&found)?;
        if sha256 != release.sha256 {
            return Err(Error::Package {
                package: release.package.clone(),
                problem: format!(
                    "the download has SHA-256 {sha256}, the archive's index says {}",
                    release.sha256
                ),
            });
        }
        let path = self.path_of(release);
        fs::rename(&found, &path).map_err(Error::io("write", &path))?;
        Ok(Deb {
            release: release.clone(),
            path,
        })
    }

    fn unknown(&self, package: &str) -> Error {
        let problem = if self.offline {
            format!(
                "no earlier build in {} used it; build once without --offline",
                self.dir.display()
            )
        } else {
            "apt does not know this package; run 'apt-get update' as root, on Debian 12 or later"
                .to_owned()
        };
        Error::Package {
            package: package.to_owned(),
            problem,
        }
    }
}

impl Deb {
    /// A package file that lies somewhere, with what it says about itself.
    pub fn at(path: &Path) -> Result<Self> {
        let sha256 = hash::sha256_file(path)?;
        let output = tool::run(Command::new("dpkg-deb").arg("--field").arg(path), "dpkg").map_err(
            |error| Error::input(path, format!("this is not a Debian package: {error}")),
        )?;
        let fields = format!(
            "{}\nSHA256: {sha256}\n",
            String::from_utf8_lossy(&output.stdout).trim_end()
        );
        let release = parse_paragraph(&fields).ok_or_else(|| {
            Error::input(path, "the package does not contain its name and version")
        })?;
        Ok(Self {
            release,
            path: path.to_owned(),
        })
    }

    /// One file out of the package, by its path without the leading `/`.
    pub fn file(&self, path: &str) -> Result<Vec<u8>> {
        let output = tool::run(
            Command::new("dpkg-deb")
                .arg("--fsys-tarfile")
                .arg(&self.path),
            "dpkg",
        )?;
        let mut archive = tar::Archive::new(Cursor::new(output.stdout));
        let entries = archive.entries().map_err(Error::io("read", &self.path))?;
        for entry in entries {
            let mut entry = entry.map_err(Error::io("read", &self.path))?;
            let name = entry.path_bytes().into_owned();
            if name.strip_prefix(b"./").unwrap_or(&name) == path.as_bytes() {
                let mut bytes = Vec::new();
                entry
                    .read_to_end(&mut bytes)
                    .map_err(Error::io("read", &self.path))?;
                return Ok(bytes);
            }
        }
        Err(Error::input(
            &self.path,
            format!("the package does not contain the file {path}; its layout has changed"),
        ))
    }

    /// Unpacks the whole package below a directory.
    pub fn unpack(&self, into: &Path) -> Result<()> {
        tool::run(
            Command::new("dpkg-deb").arg("-x").arg(&self.path).arg(into),
            "dpkg",
        )
        .map(|_| ())
    }
}

fn first_deb(dir: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    Err(Error::input(
        dir,
        "apt-get download reported success but wrote no .deb",
    ))
}

/// apt's candidate of each package that it knows.
fn candidates(suite: Option<&str>, packages: &[&str]) -> Result<BTreeMap<String, Release>> {
    let mut command = Command::new("apt-cache");
    if let Some(suite) = suite {
        command.arg(format!("--option=APT::Default-Release={suite}"));
    }
    command.args(["show", "--no-all-versions"]).args(packages);
    // apt-cache fails as a whole if it knows one of the names not; the answer on stdout is still right.
    let output = match command.env("LC_ALL", "C.UTF-8").output() {
        Ok(output) => output,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::ToolMissing {
                tool: "apt-cache".to_owned(),
                package: "apt",
            });
        }
        Err(source) => return Err(Error::io("run", Path::new("apt-cache"))(source)),
    };
    if let (Some(suite), true) = (suite, output.stdout.is_empty()) {
        return Err(Error::Package {
            package: packages.join(", "),
            problem: format!(
                "not available in the suite {suite}; add the suite to apt's sources and run 'apt-get update' as root.\n{}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        });
    }
    Ok(parse_index(&String::from_utf8_lossy(&output.stdout)))
}

/// Parses paragraphs of a Debian package index; the first of a package wins. Paragraphs without version or digest
/// (virtual or locally installed packages) are left out.
fn parse_index(text: &str) -> BTreeMap<String, Release> {
    let mut releases = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        if let Some(release) = parse_paragraph(paragraph) {
            releases.entry(release.package.clone()).or_insert(release);
        }
    }
    releases
}

fn parse_paragraph(paragraph: &str) -> Option<Release> {
    let field = |name: &str| {
        paragraph
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
    };
    let package = field("Package")?.to_owned();
    let version = field("Version")?.to_owned();
    let (source, source_version) = match field("Source") {
        None => (package.clone(), version.clone()),
        Some(text) => match text.split_once(" (") {
            Some((name, rest)) => (name.to_owned(), rest.trim_end_matches(')').to_owned()),
            None => (text.to_owned(), version.clone()),
        },
    };
    let depends = field("Depends")
        .unwrap_or_default()
        .split(',')
        .filter_map(|one| one.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    Some(Release {
        sha256: field("SHA256")?.to_owned(),
        package,
        version,
        source,
        source_version,
        depends,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "Package: shim-signed\nSource: shim-signed-src (1.51)\nVersion: 1:1.51+16.1\nDepends: debconf (>= 0.5) | x, mokutil\nSHA256: aa\n\
        \nPackage: shim-signed\nVersion: 1.0\nSHA256: bb\n\nPackage: virtual-only\nVersion: 2\n\nnonsense\n";

    fn release(version: &str, content: &[u8]) -> Release {
        Release {
            package: "pkg".to_owned(),
            version: version.to_owned(),
            sha256: hash::sha256(content),
            source: "pkg".to_owned(),
            source_version: version.to_owned(),
            depends: Vec::new(),
        }
    }

    #[test]
    fn the_index_gives_version_digest_source_and_dependencies() {
        let releases = parse_index(INDEX);
        assert_eq!(releases.len(), 1);
        let shim = &releases["shim-signed"];
        assert_eq!(
            (shim.version.as_str(), shim.sha256.as_str()),
            ("1:1.51+16.1", "aa")
        );
        assert_eq!(
            (shim.source.as_str(), shim.source_version.as_str()),
            ("shim-signed-src", "1.51")
        );
        assert_eq!(shim.depends, ["debconf", "mokutil"]);
    }

    #[test]
    fn a_cached_file_is_used_only_with_the_right_digest() {
        let temp = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(temp.path(), true).unwrap();
        let release = release("1:2", b"content");
        assert!(
            archive
                .fetch(&release, &|_| ())
                .unwrap_err()
                .to_string()
                .contains("--offline")
        );
        fs::write(archive.path_of(&release), b"tampered").unwrap();
        assert!(archive.fetch(&release, &|_| ()).is_err());
        fs::write(archive.path_of(&release), b"content").unwrap();
        let deb = archive.fetch(&release, &|_| ()).unwrap();
        archive.remember([&deb.release]).unwrap();
        let again = Archive::open(temp.path(), true).unwrap();
        assert_eq!(again.releases(&["pkg"]).unwrap(), [release]);
    }

    #[test]
    fn a_failed_download_goes_on_with_the_remembered_version_and_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(temp.path(), true).unwrap();
        let old = release("1", b"old");
        fs::write(archive.path_of(&old), b"old").unwrap();
        let deb = archive.fetch(&old, &|_| ()).unwrap();
        archive.remember([&deb.release]).unwrap();
        let said = std::cell::RefCell::new(Vec::new());
        let got = archive
            .fetch(&release("2", b"new"), &|line| {
                said.borrow_mut().push(line.to_owned())
            })
            .unwrap();
        assert_eq!(got.release.version, "1");
        assert!(said.borrow()[0].contains("from the cache"), "{said:?}");
    }

    #[test]
    fn remembering_drops_superseded_files() {
        let temp = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(temp.path(), true).unwrap();
        let (old, new) = (release("1", b"old"), release("2", b"new"));
        for (release, content) in [(&old, b"old"), (&new, b"new")] {
            fs::write(archive.path_of(release), content).unwrap();
        }
        let deb = archive.fetch(&new, &|_| ()).unwrap();
        archive.remember([&deb.release]).unwrap();
        assert!(!archive.path_of(&old).exists() && archive.path_of(&new).exists());
    }
}
