//! apt with a configuration of its own, so that every machine finds the same packages: one Debian suite and its security
//! updates, and nothing else. The machine's mirror and proxy are taken over. Its own sources, lists, pins and state are
//! neither used nor changed, and no root is needed.
//!
//! apt checks the signatures of the archive, with the keys of Debian's package `debian-archive-keyring`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::inputs::release::{self, Release};
use crate::tool;

/// Debian stable by its name: another kernel is a decision of this project, not of the day of the build.
pub const DEFAULT_SUITE: &str = "trixie";

const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";
/// Where Debian keeps every version of every package.
const SNAPSHOTS: &str = "http://snapshot.debian.org/archive";
/// The suites that have no security updates of their own.
const ROLLING: [&str; 2] = ["sid", "unstable"];
const BACKPORTS: &str = "-backports";
/// How old the lists may be before they are asked for again.
const FRESH: Duration = Duration::from_secs(12 * 3600);
/// A file whose time is that of the last refresh.
const STAMP: &str = "refreshed";

/// A state of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    suite: String,
    snapshot: Option<String>,
}

impl Origin {
    /// A suite by its name, as it is now or as it was at a time such as `20261101T000000Z`.
    pub fn new(suite: &str, snapshot: Option<&str>) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if suite.is_empty() || suite.starts_with('-') || !suite.bytes().all(plain) {
            return Err(Error::Setting {
                setting: format!("--suite {suite}"),
                problem: "must be a suite of Debian, for example trixie or trixie-backports"
                    .to_owned(),
            });
        }
        if let Some(date) = snapshot {
            let digits = |text: &str, count| {
                text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
            };
            let parts = date.strip_suffix('Z').and_then(|date| date.split_once('T'));
            if !(digits(date, 8)
                || parts.is_some_and(|(day, time)| digits(day, 8) && digits(time, 6)))
            {
                return Err(Error::Setting {
                    setting: format!("--snapshot {date}"),
                    problem: "must be a date such as 20261101 or 20261101T120000Z".to_owned(),
                });
            }
        }
        Ok(Self {
            suite: suite.to_owned(),
            snapshot: snapshot.map(str::to_owned),
        })
    }

    /// Its name.
    #[must_use]
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// The release that backports are for; otherwise the suite itself.
    fn base(&self) -> &str {
        self.suite.strip_suffix(BACKPORTS).unwrap_or(&self.suite)
    }

    fn is_backports(&self) -> bool {
        self.suite.ends_with(BACKPORTS)
    }

    /// The lines of apt's sources.
    fn sources(&self, mirrors: &Mirrors, keyring: &str) -> String {
        let (main, security, checked) = match &self.snapshot {
            None => (mirrors.main.clone(), mirrors.security.clone(), ""),
            // The lists of a snapshot have expired.
            Some(date) => (
                format!("{SNAPSHOTS}/debian/{date}"),
                format!("{SNAPSHOTS}/debian-security/{date}"),
                " check-valid-until=no",
            ),
        };
        let base = self.base();
        let mut lines = vec![(main.as_str(), base.to_owned())];
        if !ROLLING.contains(&base) {
            lines.push((&security, format!("{base}-security")));
        }
        if self.is_backports() {
            lines.push((&main, self.suite.clone()));
        }
        lines
            .into_iter()
            .map(|(url, suite)| format!("deb [arch=amd64 signed-by={keyring} target=Packages{checked}] {url} {suite} main\n"))
            .collect()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            None => f.write_str(&self.suite),
            Some(date) => write!(f, "{}@{date}", self.suite),
        }
    }
}

/// Where this machine gets Debian's packages from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    /// As the machine's own apt is set up; Debian's own servers where that does not have Debian.
    fn of_machine() -> Self {
        let mut command = Command::new("apt-get");
        command.args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)",
            "Created-By: Packages",
        ]);
        let answer = tool::run(&mut command, "apt").map(|output| output.stdout);
        Self::of_targets(&String::from_utf8_lossy(&answer.unwrap_or_default()))
    }

    /// The first of each kind in apt's list of what it would download.
    fn of_targets(targets: &str) -> Self {
        let (mut main, mut security) = (None, None);
        for line in targets.lines() {
            let mut words = line.split(' ');
            let (Some(url), Some(suite), Some("main"), Some(origin)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let url = url.trim_end_matches('/');
            // Without lists apt does not know whose they are, and prints the variable's name.
            let is_debian = origin == "Debian"
                || origin.starts_with('$')
                    && (url.ends_with("/debian") || url.ends_with("/debian-security"));
            if !is_debian || url.starts_with("cdrom:") {
                continue;
            }
            let place = if suite.contains("-security") {
                &mut security
            } else {
                &mut main
            };
            place.get_or_insert_with(|| url.to_owned());
        }
        Self {
            main: main.unwrap_or_else(|| MIRROR.to_owned()),
            security: security.unwrap_or_else(|| SECURITY_MIRROR.to_owned()),
        }
    }
}

/// apt, set up for one state of the archive.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    origin: Origin,
}

/// What a suite offers: the newest version of every package.
#[derive(Debug)]
pub struct Offer {
    text: String,
    places: HashMap<String, Range<usize>>,
}

impl Apt {
    /// Sets up apt in a folder of its own below `cache`.
    pub fn set_up(cache: &Path, origin: &Origin) -> Result<Self> {
        let keyring = KEYRINGS
            .into_iter()
            .find(|path| Path::new(path).exists())
            .ok_or_else(|| Error::ToolMissing {
                tool: KEYRINGS[0].to_owned(),
                package: "debian-archive-keyring",
            })?;
        let dir = cache.join("apt").join(origin.to_string());
        for name in [
            "cache/archives/partial",
            "empty",
            "lists/partial",
            "log",
            "state",
        ] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        let dir = fs::canonicalize(&dir).map_err(Error::io("find", &dir))?;
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).map_err(Error::io("write", &path))
        };
        write("state/status", "")?;
        write("apt.conf", &configuration(&dir))?;
        let sources = origin.sources(&Mirrors::of_machine(), keyring);
        if fs::read_to_string(dir.join("sources.list")).ok().as_deref() != Some(&sources) {
            _ = fs::remove_file(dir.join(STAMP));
            write("sources.list", &sources)?;
        }
        Ok(Self {
            dir,
            origin: origin.clone(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.dir.join("apt.conf"));
        command
    }

    /// Asks for the lists if they are not of today. If that fails, older ones are used, with a note.
    pub fn refresh(&self, note: &dyn Fn(&str)) -> Result<()> {
        let stamp = self.dir.join(STAMP);
        let age = fs::metadata(&stamp)
            .and_then(|stamp| stamp.modified())
            .ok()
            .map(|time| time.elapsed().unwrap_or_default());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        note(&format!(
            "asking Debian for the package lists of {}",
            self.origin
        ));
        let mut command = self.command("apt-get");
        command.args(["-q", "--error-on=any", "update"]);
        match tool::run(&mut command, "apt") {
            Ok(_) => fs::write(&stamp, "").map_err(Error::io("write", &stamp)),
            Err(error) if age.is_none() => Err(error),
            Err(_) => {
                note("the package lists could not be refreshed; the older ones are used");
                Ok(())
            }
        }
    }

    /// The newest versions. Of backports this is the release that they are for; what is taken from the backports themselves
    /// is in [`Apt::offer_of_backports`].
    pub fn offer(&self) -> Result<Offer> {
        let mut command = self.command("apt-cache");
        command.arg("dumpavail");
        Ok(Offer::of(tool::run(&mut command, "apt")?.stdout))
    }

    /// The newest versions, backports first; nothing if this is no suite of backports.
    pub fn offer_of_backports(&self) -> Result<Option<Offer>> {
        if !self.origin.is_backports() {
            return Ok(None);
        }
        let mut command = self.command("apt-cache");
        command.arg(format!(
            "--option=APT::Default-Release={}",
            self.origin.suite
        ));
        command.arg("dumpavail");
        Ok(Some(Offer::of(tool::run(&mut command, "apt")?.stdout)))
    }

    /// Those of the releases that the archive does not have any more, in this very version and with these bytes.
    pub fn gone<'r>(&self, releases: &[&'r Release]) -> Result<Vec<&'r Release>> {
        let mut command = self.command("apt-cache");
        command.args(["show", "--all-versions"]);
        command.args(releases.iter().map(|release| &release.package));
        // It fails if it knows one of the names not; what it prints of the others is still right.
        let output = command
            .env("LC_ALL", "C.UTF-8")
            .output()
            .map_err(Error::io("run", Path::new("apt-cache")))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let offered: Vec<Release> = text
            .split("\n\n")
            .filter_map(release::of_paragraph)
            .collect();
        let has = |wanted: &Release| {
            offered.iter().any(|one| {
                (&one.package, &one.version, &one.sha256)
                    == (&wanted.package, &wanted.version, &wanted.sha256)
            })
        };
        Ok(releases
            .iter()
            .copied()
            .filter(|release| !has(release))
            .collect())
    }

    /// Downloads packages into a folder, under names of apt's choice.
    pub fn download(&self, releases: &[&Release], folder: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["-q", "download"]).current_dir(folder);
        command.args(
            releases
                .iter()
                .map(|release| format!("{}={}", release.package, release.version)),
        );
        tool::run(&mut command, "apt").map(|_| ())
    }
}

/// What apt is told, after the machine's own configuration, of which proxy and access data stay.
fn configuration(dir: &Path) -> String {
    let mut lines = [
        "#clear APT::Update;",
        "#clear APT::Default-Release;",
        "#clear APT::Architectures;",
        "APT::Architecture \"amd64\";",
        "APT::Architectures { \"amd64\"; };",
        // The user of apt's sandbox may not write here.
        "APT::Sandbox::User \"root\";",
        // The packages are verified, whatever the machine does with its own.
        "Acquire::AllowInsecureRepositories \"false\";",
        "Acquire::AllowDowngradeToInsecureRepositories \"false\";",
        "Acquire::AllowWeakRepositories \"false\";",
        "APT::Get::AllowUnauthenticated \"false\";",
        "Acquire::Languages \"none\";",
        "Acquire::Retries \"3\";",
    ]
    .map(str::to_owned)
    .to_vec();
    let places = BTreeMap::from([
        ("Dir::Cache", "cache"),
        ("Dir::Etc::preferences", "empty/preferences"),
        ("Dir::Etc::preferencesparts", "empty"),
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::Etc::sourceparts", "empty"),
        ("Dir::Log", "log"),
        ("Dir::State", "state"),
        ("Dir::State::lists", "lists"),
        ("Dir::State::status", "state/status"),
    ]);
    lines.extend(
        places
            .into_iter()
            .map(|(key, name)| format!("{key} \"{}\";", dir.join(name).display())),
    );
    lines.join("\n") + "\n"
}

impl Offer {
    pub(crate) fn of(text: Vec<u8>) -> Self {
        let text = String::from_utf8(text)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut places = HashMap::new();
        let mut at = 0;
        for paragraph in text.split("\n\n") {
            let first = paragraph.lines().next().unwrap_or_default();
            if let Some(name) = first.strip_prefix("Package: ") {
                places
                    .entry(name.to_owned())
                    .or_insert(at..at + paragraph.len());
            }
            at += paragraph.len() + 2;
        }
        Self { text, places }
    }

    /// The newest version of a package.
    #[must_use]
    pub fn release(&self, package: &str) -> Option<Release> {
        let place = self.places.get(package)?.clone();
        release::of_paragraph(self.text.get(place)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_the_machine_is_taken_over_and_that_of_others_is_not() {
        let targets = "http://mirror.example/debian/ bookworm main Debian\nhttp://mirror.example/security/ bookworm-security main Debian\n\
            https://other.example/debian/ stable main Other\n";
        let found = Mirrors::of_targets(targets);
        assert_eq!(found.main, "http://mirror.example/debian");
        assert_eq!(found.security, "http://mirror.example/security");
        let without_lists =
            Mirrors::of_targets("http://mirror.example/debian/ bookworm main $(ORIGIN)\n");
        assert_eq!(without_lists.main, "http://mirror.example/debian");
        assert_eq!(without_lists.security, SECURITY_MIRROR);
        let ubuntu = Mirrors::of_targets(
            "http://archive.ubuntu.com/ubuntu/ noble main Ubuntu\ncdrom:[x]/debian bookworm main Debian\n",
        );
        assert_eq!(ubuntu.main, MIRROR);
    }

    fn sources(suite: &str, snapshot: Option<&str>) -> Vec<String> {
        let mirrors = Mirrors {
            main: MIRROR.to_owned(),
            security: SECURITY_MIRROR.to_owned(),
        };
        let origin = Origin::new(suite, snapshot).unwrap();
        let sources = origin.sources(&mirrors, "/k");
        sources
            .lines()
            .map(|line| line.split_once("] ").unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn a_suite_comes_with_its_security_updates() {
        let (main, security) = (
            "http://deb.debian.org/debian trixie main",
            "http://deb.debian.org/debian-security trixie-security main",
        );
        assert_eq!(sources("trixie", None), [main, security]);
        let backports = "http://deb.debian.org/debian trixie-backports main";
        assert_eq!(
            sources("trixie-backports", None),
            [main, security, backports]
        );
        assert_eq!(sources("sid", None).len(), 1);
        let then = sources("trixie", Some("20261101T000000Z"));
        assert_eq!(
            then[0],
            "http://snapshot.debian.org/archive/debian/20261101T000000Z trixie main"
        );
    }

    #[test]
    fn what_is_no_suite_or_date_is_refused() {
        for suite in ["", "-x", "trixie main", "Trixie", "../x"] {
            assert!(Origin::new(suite, None).is_err(), "{suite}");
        }
        for date in ["", "2026", "yesterday", "20261101T0000Z", "../20261101"] {
            assert!(Origin::new("trixie", Some(date)).is_err(), "{date}");
        }
    }

    #[test]
    fn an_offer_is_looked_up_by_name() {
        let offer = Offer::of(b"Package: a\nVersion: 1\nSHA256: aa\n\nPackage: b\nVersion: 2\nSHA256: bb\nDepends: a, c | d\n\n".to_vec());
        assert_eq!(offer.release("b").unwrap().depends, ["a", "c"]);
        assert_eq!(offer.release("a").unwrap().version, "1");
        assert!(offer.release("c").is_none());
    }
}
