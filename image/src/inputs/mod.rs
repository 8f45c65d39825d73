//! What an image is made of, read and checked before anything is made: the agent, the settings, the packages, and a list
//! of it all with versions and digests.

pub mod apt;
pub mod dictionary;
pub mod drivers;
pub mod kernel;
pub mod licences;
pub mod list;
pub mod modinfo;
pub mod names;
pub mod network;
pub mod package_set;
pub mod packages;
pub mod release;
pub mod tools;

use std::env;
use std::path::Path;
use std::process::Command;

use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use rescue_agent::files;

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::apt::{Apt, Origin};
use crate::inputs::kernel::Source;
use crate::inputs::list::Input;
use crate::inputs::package_set::{PackageSet, Wanted};
use crate::inputs::packages::{Archive, Deb};
use crate::options::{Choice, Options, VERSION};
use crate::progress::Progress;
use crate::settings;
use crate::tool;

/// Where the package of the shell has it; from Debian 13 on below `usr`.
const BUSYBOX_FILES: [&str; 2] = ["bin/busybox", "usr/bin/busybox"];
/// The package of this machine whose files are in the agent: the C library.
const LIBC: &str = "libc6-dev";

/// Everything that goes in, read and checked.
#[derive(Debug)]
pub struct Inputs {
    /// The `rescue.toml` to build in.
    pub config: Option<Vec<u8>>,
    /// Whether it asks for a report to be sent.
    pub reports: bool,
    /// Whether these, or the words of the kernel command line, do.
    pub asks_for_report: bool,
    /// The packages.
    pub packages: Packages,
    /// The suite that they are from.
    pub origin: Origin,
    /// Their versions.
    pub set: PackageSet,
    /// All of it, for the manifest.
    pub list: Vec<Input>,
    /// Digest of everything.
    pub digest: String,
    /// The choices that shape the artefacts, as text.
    pub choices: String,
}

/// What goes in from Debian, and the kernel wherever it is from.
#[derive(Debug)]
pub struct Packages {
    /// The kernel and its modules.
    pub kernel: Source,
    /// shim.
    pub shim: Deb,
    /// shim's key manager.
    pub shim_helpers: Deb,
    /// GRUB for UEFI.
    pub grub: Deb,
    /// Names of PCI devices.
    pub pci_ids: Deb,
    /// A shell, if one is wanted.
    pub busybox: Option<Deb>,
    /// GRUB for BIOS, and the programs that put the artefacts together.
    pub tools: Vec<Deb>,
}

/// Reads and checks everything beside the agent, and lists it all.
pub fn collect(
    options: &Options,
    agent: &[u8],
    archive: &Archive,
    progress: &Progress,
) -> Result<Inputs> {
    let (config, reports) = match &options.config {
        Some(path) => read_config(path).map(|(content, reports)| (Some(content), reports))?,
        None => (None, false),
    };
    let words: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    let asks_for_report = settings::check_arguments(&words)?.report.is_some() || reports;
    let builder = env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
    let builder = hash::sha256_file(&builder)?;
    let (origin, set, debs) = fetch(options, archive, progress)?;
    let mut list: Vec<Input> = set.shipped.iter().map(licences::package).collect();
    list.extend(set.tools.iter().map(licences::tool));
    let packages = sort(options, &set, debs)?;
    match (&options.kernel, &packages.kernel) {
        (Choice::Package(_), Source::Package(deb)) => list.push(licences::package(&deb.release)),
        (_, Source::Package(_)) => {}
        (
            _,
            Source::Installed {
                modules, digest, ..
            },
        ) => {
            let name = modules.display().to_string();
            list.push(Input::other("kernel", &name, "", Some(digest.clone())));
        }
    }
    list.push(Input {
        sha256: Some(hash::sha256(agent)),
        licence: Some("MIT OR Apache-2.0".to_owned()),
        ..Input::other("agent", "rescue-agent", VERSION, None)
    });
    if let Some(config) = &config {
        list.push(Input::other(
            "settings",
            "rescue.toml",
            "",
            Some(hash::sha256(config)),
        ));
    }
    let choices = serde_json::json!([VERSION, options.arguments, options.epoch, options.network]);
    let choices = choices.to_string();
    list.push(installed(LIBC));
    list.extend(licences::crates());
    list.push(Input::other(
        "builder",
        "rescue-image",
        VERSION,
        Some(builder),
    ));
    let digest = hash::sha256(serde_json::json!([choices, list]).to_string().as_bytes());
    Ok(Inputs {
        config,
        reports,
        asks_for_report,
        packages,
        origin,
        set,
        list,
        digest,
        choices,
    })
}

/// The versions of a build, and their files in the same order.
type Fetched = (Origin, PackageSet, Vec<Deb>);

fn fetch(options: &Options, archive: &Archive, progress: &Progress) -> Result<Fetched> {
    let wanted = Wanted {
        kernel: options.kernel == Choice::Debian,
        shell: options.shell,
    };
    let snapshot = options.snapshot.as_deref();
    if let Some(path) = &options.inputs {
        let (suite, set) = PackageSet::of_manifest(path)?;
        let origin = Origin::new(&suite, snapshot)?;
        let set = set
            .only(wanted)
            .map_err(|name| Error::input(path, format!("does not list the package {name}")))?;
        let debs = fetch_again(options, archive, &origin, &set, progress)?;
        return Ok((origin, set, debs));
    }
    let origin = Origin::new(&options.suite, snapshot)?;
    let error = if options.offline {
        Error::Package {
            package: origin.to_string(),
            problem: "the last build was not from this suite; build once without --offline"
                .to_owned(),
        }
    } else {
        match fetch_newest(options, archive, &origin, wanted, progress) {
            Ok((set, debs)) => return Ok((origin, set, debs)),
            Err(error) => error,
        }
    };
    let Some(set) = archive.remembered(&origin) else {
        return Err(error);
    };
    let set = set.only(wanted).map_err(|name| Error::Package {
        package: name.to_owned(),
        problem: "the last build did not use it; build once without --offline".to_owned(),
    })?;
    let debs = archive.cached(&set)?;
    if !options.offline {
        progress.step(&format!(
            "the packages of the last build are used, because Debian could not be asked: {error}"
        ));
    }
    Ok((origin, set, debs))
}

fn fetch_newest(
    options: &Options,
    archive: &Archive,
    origin: &Origin,
    wanted: Wanted,
    progress: &Progress,
) -> Result<(PackageSet, Vec<Deb>)> {
    let note = |line: &str| progress.step(line);
    let apt = Apt::set_up(&options.cache, origin)?;
    apt.refresh(&note)?;
    let set = PackageSet::newest(&apt, wanted)?;
    let debs = archive.fetch(&set, &apt, &note)?;
    Ok((set, debs))
}

/// The packages of an earlier build, in the same versions.
fn fetch_again(
    options: &Options,
    archive: &Archive,
    origin: &Origin,
    set: &PackageSet,
    progress: &Progress,
) -> Result<Vec<Deb>> {
    let missing = archive.missing(set);
    if options.offline || missing.is_empty() {
        return archive.cached(set);
    }
    let note = |line: &str| progress.step(line);
    let apt = Apt::set_up(&options.cache, origin)?;
    apt.refresh(&note)?;
    let gone = apt.gone(&missing)?;
    if !gone.is_empty() {
        let names: Vec<String> = gone
            .iter()
            .map(|one| format!("{} {}", one.package, one.version))
            .collect();
        return Err(Error::Package {
            package: names.join(", "),
            problem: format!(
                "gone from {origin}; use --snapshot DATE with a date when they were there"
            ),
        });
    }
    archive.fetch(set, &apt, &note)
}

/// Each file in its place.
fn sort(options: &Options, set: &PackageSet, debs: Vec<Deb>) -> Result<Packages> {
    let mut debs = debs.into_iter();
    let shipped: Vec<Deb> = debs.by_ref().take(set.shipped.len()).collect();
    let find = |package: &str| {
        let mut shipped = shipped.iter();
        let found = shipped.find(|deb| deb.release.package == package);
        found.cloned().ok_or_else(|| Error::Package {
            package: package.to_owned(),
            problem: "is missing among the packages of this build".to_owned(),
        })
    };
    let kernel = match &options.kernel {
        Choice::Debian => Source::Package(find(
            set.kernel().map_or("linux-image", |kernel| &kernel.package),
        )?),
        Choice::Package(path) => Source::Package(Deb::at(path)?),
        Choice::Installed { modules, vmlinuz } => Source::installed(modules, vmlinuz.as_deref())?,
    };
    Ok(Packages {
        kernel,
        shim: find(package_set::SHIM)?,
        shim_helpers: find(package_set::SHIM_HELPERS)?,
        grub: find(package_set::GRUB_EFI)?,
        pci_ids: find(package_set::PCI_IDS)?,
        busybox: options
            .shell
            .then(|| find(package_set::BUSYBOX))
            .transpose()?,
        tools: [find(package_set::GRUB_BIOS)?]
            .into_iter()
            .chain(debs)
            .collect(),
    })
}

/// Longest agent that is read, many times what it is.
const MAX_AGENT_BYTES: u64 = 256 << 20;

/// Reads the agent and makes sure that it can be PID 1 of a machine without any library.
pub fn read_agent(path: &Path) -> Result<Vec<u8>> {
    let bytes =
        files::read_whole(path, MAX_AGENT_BYTES).map_err(Error::io("read the agent", path))?;
    match has_interpreter(&bytes) {
        Ok(false) => Ok(bytes),
        Ok(true) => Err(Error::input(
            path,
            "the agent is linked dynamically and could not start in the image; build it with the project's own cargo configuration",
        )),
        Err(error) => Err(Error::input(
            path,
            format!("the agent is not a 64-bit Linux program: {error}"),
        )),
    }
}

fn has_interpreter(elf: &[u8]) -> std::result::Result<bool, object::read::Error> {
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    Ok(header
        .program_headers(endian, elf)?
        .iter()
        .any(|segment| segment.p_type(endian) == PT_INTERP))
}

/// The settings file, and whether it asks for a report to be sent.
fn read_config(path: &Path) -> Result<(Vec<u8>, bool)> {
    let content = settings::read_file(path)?;
    let settings = settings::check_toml(path, &content)?;
    Ok((content, settings.report.is_some()))
}

/// A package of this machine. "unknown" where programs do not come from packages.
fn installed(package: &str) -> Input {
    let mut command = Command::new("dpkg-query");
    let format = "--showformat=${Version} ${source:Package} ${source:Version}";
    command.args(["--show", format, package]);
    let answer = tool::run(&mut command, "dpkg").map(|output| output.stdout);
    let answer = String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned();
    let words: Vec<&str> = answer.split_whitespace().collect();
    let &[version, source, source_version] = words.as_slice() else {
        return Input::other(list::TOOL, package, "unknown", None);
    };
    match licences::of_package(package) {
        Some(licence) => {
            let url = licences::source_of_package(source, source_version);
            Input::licensed(list::TOOL, package, version, licence, &url)
        }
        None => Input::other(list::TOOL, package, version, None),
    }
}

/// The shell out of its package.
pub fn shell(busybox: &Deb) -> Result<Vec<u8>> {
    let [first, second] = BUSYBOX_FILES;
    busybox.file(first).or_else(|_| busybox.file(second))
}

/// The programs that firmware starts, all signed.
#[derive(Debug, Clone)]
pub struct Loaders {
    /// shim, signed by Microsoft.
    pub shim: Vec<u8>,
    /// shim's key manager, signed by Debian.
    pub mok_manager: Vec<u8>,
    /// GRUB for removable media, signed by Debian.
    pub grub: Vec<u8>,
    /// GRUB for the network, signed by Debian.
    pub grub_net: Vec<u8>,
}

/// The signed loaders out of the packages.
pub fn loaders(packages: &Packages) -> Result<Loaders> {
    let grub = |name: &str| {
        let path = format!("usr/lib/grub/x86_64-efi-signed/{name}.efi.signed");
        packages.grub.file(&path)
    };
    Ok(Loaders {
        shim: packages.shim.file("usr/lib/shim/shimx64.efi.signed")?,
        mok_manager: packages
            .shim_helpers
            .file("usr/lib/shim/mmx64.efi.signed")?,
        grub: grub("gcdx64")?,
        grub_net: grub("grubnetx64")?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_dynamic_or_foreign_agent_is_refused() {
        let dynamic = read_agent(Path::new("/bin/sh")).unwrap_err().to_string();
        assert!(dynamic.contains("dynamically"), "{dynamic}");
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), "#!/bin/sh\n").unwrap();
        assert!(
            read_agent(script.path())
                .unwrap_err()
                .to_string()
                .contains("not a 64-bit Linux program")
        );
    }

    #[test]
    fn this_test_program_is_static_like_the_agent() {
        assert!(read_agent(&env::current_exe().unwrap()).is_ok());
    }
}
