//! Debian packages on disk: verified copies in a cache, and files out of them.
//!
//! apt checks the archive's signatures; the SHA-256 of its signed index is checked again on every use, so that a cache
//! altered on disk is noticed.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use tar::EntryType;

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::apt::{Apt, Origin};
use crate::inputs::package_set::PackageSet;
use crate::inputs::release::{self, Release};
use crate::tool;

/// A verified `.deb` on disk.
#[derive(Debug, Clone)]
pub struct Deb {
    /// What it is.
    pub release: Release,
    /// Where it is.
    pub path: PathBuf,
}

/// The copies of the last build.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    index: Option<Index>,
}

/// What the last build took.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    origin: String,
    set: PackageSet,
}

impl Archive {
    /// Opens the cache directory, creating it.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let dir = fs::canonicalize(dir).map_err(Error::io("find", dir))?;
        // One that cannot be read is that of another version of this program: everything is asked for again.
        let index = fs::read(dir.join("index.json")).ok();
        let index = index.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self { dir, index })
    }

    /// What the last build took, if it was from there.
    #[must_use]
    pub fn remembered(&self, origin: &Origin) -> Option<&PackageSet> {
        let index = self.index.as_ref()?;
        (index.origin == origin.to_string()).then_some(&index.set)
    }

    /// The verified files, in the order asked; nothing is downloaded.
    pub fn cached(&self, set: &PackageSet) -> Result<Vec<Deb>> {
        let deb = |release: &Release| {
            self.find(release).ok_or_else(|| Error::Package {
                package: release.package.clone(),
                problem: format!(
                    "version {} is not in the cache {}; build once without --offline",
                    release.version,
                    self.dir.display()
                ),
            })
        };
        set.all().map(deb).collect()
    }

    /// The same; what is not here is downloaded.
    pub fn fetch(&self, set: &PackageSet, apt: &Apt, note: &dyn Fn(&str)) -> Result<Vec<Deb>> {
        let mut found: Vec<Option<Deb>> = set.all().map(|release| self.find(release)).collect();
        let missing: Vec<&Release> = set
            .all()
            .zip(&found)
            .filter(|(_, deb)| deb.is_none())
            .map(|(release, _)| release)
            .collect();
        if !missing.is_empty() {
            let more = match missing.len() - 1 {
                0 => String::new(),
                count => format!(" and {count} more packages"),
            };
            note(&format!(
                "downloading {} {}{more}",
                missing[0].package, missing[0].version
            ));
            let mut downloaded = self.download(&missing, apt)?.into_iter();
            for place in found.iter_mut().filter(|place| place.is_none()) {
                *place = downloaded.next();
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Those that are not here.
    pub fn missing<'s>(&self, set: &'s PackageSet) -> Vec<&'s Release> {
        set.all()
            .filter(|release| self.find(release).is_none())
            .collect()
    }

    /// Remembers the packages of a finished build, for `--offline`, and drops all others from the cache.
    pub fn remember(&mut self, origin: &Origin, set: &PackageSet) -> Result<()> {
        let path = self.dir.join("index.json");
        let index = Index {
            origin: origin.to_string(),
            set: set.clone(),
        };
        let text = serde_json::to_vec_pretty(&index)
            .map_err(|error| Error::input(&path, error.to_string()))?;
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        let keep: Vec<PathBuf> = set.all().map(|release| self.path_of(release)).collect();
        for entry in fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))? {
            let path = entry.map_err(Error::io("list", &self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == "deb") && !keep.contains(&path)
            {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        self.index = Some(index);
        Ok(())
    }

    fn path_of(&self, release: &Release) -> PathBuf {
        self.dir.join(file_name(release))
    }

    fn find(&self, release: &Release) -> Option<Deb> {
        let path = self.path_of(release);
        let right =
            path.exists() && hash::sha256_file(&path).is_ok_and(|sha256| sha256 == release.sha256);
        right.then(|| Deb {
            release: release.clone(),
            path,
        })
    }

    fn download(&self, releases: &[&Release], apt: &Apt) -> Result<Vec<Deb>> {
        let temp = tempfile::Builder::new()
            .prefix("download-")
            .tempdir_in(&self.dir)
            .map_err(Error::io("create a directory in", &self.dir))?;
        apt.download(releases, temp.path())?;
        releases
            .iter()
            .map(|release| self.take_in(release, temp.path()))
            .collect()
    }

    /// Moves a downloaded package into the cache, if it is the one that was asked for.
    fn take_in(&self, release: &Release, folder: &Path) -> Result<Deb> {
        let start = format!("{}_", release.package);
        let mut found = None;
        for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
            let path = entry.map_err(Error::io("list", folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&start) {
                found = Some(path);
            }
        }
        let wrong = |problem: String| Error::Package {
            package: release.package.clone(),
            problem,
        };
        let found = found.ok_or_else(|| {
            wrong("apt-get download reported success but wrote no .deb".to_owned())
        })?;
        let sha256 = hash::sha256_file(&found)?;
        if sha256 != release.sha256 {
            return Err(wrong(format!(
                "the download has SHA-256 {sha256}, and {} was expected",
                release.sha256
            )));
        }
        let path = self.path_of(release);
        fs::rename(&found, &path).map_err(Error::io("write", &path))?;
        Ok(Deb {
            release: release.clone(),
            path,
        })
    }
}

/// The name of a package in the cache.
fn file_name(release: &Release) -> String {
    format!(
        "{}_{}.deb",
        release.package,
        release.version.replace(':', "%3a")
    )
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
        let release = release::of_paragraph(&fields).ok_or_else(|| {
            Error::input(path, "the package does not contain its name and version")
        })?;
        Ok(Self {
            release,
            path: path.to_owned(),
        })
    }

    fn archive(&self) -> Result<tar::Archive<Cursor<Vec<u8>>>> {
        let output = tool::run(
            Command::new("dpkg-deb")
                .arg("--fsys-tarfile")
                .arg(&self.path),
            "dpkg",
        )?;
        Ok(tar::Archive::new(Cursor::new(output.stdout)))
    }

    /// One file out of the package, by its path without the leading `/`.
    pub fn file(&self, path: &str) -> Result<Vec<u8>> {
        let mut archive = self.archive()?;
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

    /// Unpacks the parts of the package that lie below these folders. Of links only those to another name in the same
    /// folder are made: no other is needed, and one that leads out of the package would bring files of this machine in.
    pub fn unpack(&self, parts: &[&str], into: &Path) -> Result<()> {
        fs::create_dir_all(into).map_err(Error::io("create", into))?;
        let mut archive = self.archive()?;
        for entry in archive.entries().map_err(Error::io("read", &self.path))? {
            let mut entry = entry.map_err(Error::io("read", &self.path))?;
            let path = entry
                .path()
                .map_err(Error::io("read", &self.path))?
                .into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path);
            let wanted = parts.iter().any(|part| path.starts_with(part));
            let kept = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Directory => true,
                EntryType::Symlink => entry
                    .link_name()
                    .is_ok_and(|target| target.is_some_and(|target| is_a_name(&target))),
                _ => false,
            };
            if wanted && kept {
                let done = entry
                    .unpack_in(into)
                    .map_err(Error::io("unpack", &self.path))?;
                if !done {
                    return Err(Error::input(
                        &self.path,
                        format!("the path {} leads out of the package", path.display()),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn is_a_name(path: &Path) -> bool {
    let mut parts = path.components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inputs::package_set::tests::package_set;

    /// A cache in `dir` that has all of the set, and the set with the digests of what is there.
    fn filled(dir: &Path) -> (Archive, PackageSet) {
        let mut set = package_set();
        for release in set.shipped.iter_mut().chain(&mut set.tools) {
            let content = release.package.as_bytes();
            release.sha256 = hash::sha256(content);
            fs::write(dir.join(file_name(release)), content).unwrap();
        }
        (Archive::open(dir).unwrap(), set)
    }

    #[test]
    fn a_cached_file_is_used_only_with_the_right_digest() {
        let temp = tempfile::tempdir().unwrap();
        let (archive, set) = filled(temp.path());
        assert_eq!(archive.cached(&set).unwrap().len(), set.all().count());
        let kernel = set.kernel().unwrap();
        fs::write(archive.path_of(kernel), b"tampered").unwrap();
        let error = archive.cached(&set).unwrap_err().to_string();
        assert!(
            error.contains("linux-image") && error.contains("--offline"),
            "{error}"
        );
        assert_eq!(archive.missing(&set), [kernel]);
    }

    #[test]
    fn the_last_build_of_a_suite_is_remembered_and_older_files_are_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let (mut archive, set) = filled(temp.path());
        let older = temp.path().join("shim-signed_0.deb");
        fs::write(&older, "").unwrap();
        let origin = Origin::new("trixie", None).unwrap();
        archive.remember(&origin, &set).unwrap();
        assert!(!older.exists());
        let again = Archive::open(temp.path()).unwrap();
        assert_eq!(again.remembered(&origin), Some(&set));
        assert_eq!(
            again.remembered(&Origin::new("bookworm", None).unwrap()),
            None
        );
        fs::write(temp.path().join("index.json"), "{}").unwrap();
        assert_eq!(
            Archive::open(temp.path()).unwrap().remembered(&origin),
            None
        );
    }

    /// A package with these files, made by Debian's own tool.
    pub(crate) fn package(dir: &Path, fill: impl Fn(&Path)) -> Deb {
        let root = dir.join("root");
        fs::create_dir_all(root.join("DEBIAN")).unwrap();
        let control = "Package: linux-image-test\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@example.org>\nDescription: a\n";
        fs::write(root.join("DEBIAN/control"), control).unwrap();
        fill(&root);
        let path = dir.join("test.deb");
        let mut command = Command::new("dpkg-deb");
        command
            .args(["--root-owner-group", "-Znone", "--build"])
            .arg(&root)
            .arg(&path);
        tool::run(&mut command, "dpkg").unwrap();
        Deb::at(&path).unwrap()
    }

    #[test]
    fn links_that_lead_out_of_a_package_are_not_made() {
        use std::os::unix::fs::symlink;
        let temp = tempfile::tempdir().unwrap();
        let deb = package(temp.path(), |root| {
            fs::create_dir_all(root.join("boot")).unwrap();
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::write(root.join("boot/real"), "real").unwrap();
            fs::write(root.join("etc/other"), "other").unwrap();
            symlink("real", root.join("boot/near")).unwrap();
            symlink("/etc/passwd", root.join("boot/absolute")).unwrap();
            symlink("../../etc/passwd", root.join("boot/upward")).unwrap();
            symlink("..", root.join("boot/parent")).unwrap();
        });
        assert_eq!(deb.release.package, "linux-image-test");
        let out = temp.path().join("out");
        deb.unpack(&["boot"], &out).unwrap();
        let mut names: Vec<String> = fs::read_dir(out.join("boot"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["near", "real"]);
        assert_eq!(fs::read(out.join("boot/near")).unwrap(), b"real");
        assert!(!out.join("etc").exists());
        assert_eq!(deb.file("etc/other").unwrap(), b"other");
    }
}
