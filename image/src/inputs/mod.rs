//! What an image is made of, read and checked before anything is made: the agent, the settings, the packages, and a list
//! of it all with versions and digests.

pub mod dictionary;
pub mod drivers;
pub mod kernel;
pub mod licences;
pub mod list;
pub mod modinfo;
pub mod names;
pub mod network;
pub mod packages;

use std::env;
use std::path::Path;
use std::process::Command;

use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use rescue_agent::files;

use crate::error::{Error, Result};
use crate::hash;
use crate::inputs::kernel::Source;
use crate::inputs::list::Input;
use crate::inputs::packages::{Archive, Deb, Release};
use crate::options::{Choice, Options, VERSION};
use crate::progress::Progress;
use crate::settings;
use crate::tool;

/// The package that always depends on Debian's newest kernel.
const KERNEL_META: &str = "linux-image-amd64";
const SHIM: &str = "shim-signed";
const SHIM_HELPERS: &str = "shim-helpers-amd64-signed";
/// A shell that needs no library.
const BUSYBOX: &str = "busybox-static";
/// Where the package has it; from Debian 13 on below `usr`.
const BUSYBOX_FILES: [&str; 2] = ["bin/busybox", "usr/bin/busybox"];
const GRUB_EFI: &str = "grub-efi-amd64-signed";
/// Names of PCI devices, for the console and the report.
const PCI_IDS: &str = "pci.ids";
/// Installed programs whose version shapes the artefacts, with the package to ask for it.
const TOOLS: &[&str] = &["xorriso", "grub-common", "grub-pc-bin", "libc6-dev"];

/// Everything that goes in, read and checked.
#[derive(Debug)]
pub struct Inputs {
    /// The static agent.
    pub agent: Vec<u8>,
    /// The `rescue.toml` to build in.
    pub config: Option<Vec<u8>>,
    /// Whether it asks for a report to be sent.
    pub reports: bool,
    /// Whether these, or the words of the kernel command line, do.
    pub asks_for_report: bool,
    /// The packages.
    pub packages: Packages,
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
    /// The package that named the kernel, if one did.
    pub meta: Option<Release>,
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
}

impl Packages {
    /// The packages whose files go in.
    #[must_use]
    pub fn shipped(&self) -> Vec<&Release> {
        let kernel = match &self.kernel {
            Source::Package(deb) => Some(deb),
            Source::Installed { .. } => None,
        };
        let always = [&self.shim, &self.shim_helpers, &self.grub, &self.pci_ids];
        let debs = kernel.into_iter().chain(always).chain(&self.busybox);
        debs.map(|deb| &deb.release).collect()
    }
}

/// Reads and checks everything.
pub fn collect(options: &Options, archive: &Archive, progress: &Progress) -> Result<Inputs> {
    let agent = read_agent(&options.agent)?;
    let (config, reports) = match &options.config {
        Some(path) => read_config(path).map(|(content, reports)| (Some(content), reports))?,
        None => (None, false),
    };
    let words: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    let asks_for_report = settings::check_arguments(&words)?.report.is_some() || reports;
    let builder = env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
    let builder = hash::sha256_file(&builder)?;
    let packages = fetch_packages(options, archive, progress)?;
    let mut list: Vec<Input> = packages
        .shipped()
        .into_iter()
        .map(licences::package)
        .collect();
    if let Source::Installed {
        modules, digest, ..
    } = &packages.kernel
    {
        let name = modules.display().to_string();
        list.push(Input::other("kernel", &name, "", Some(digest.clone())));
    }
    list.push(Input {
        sha256: Some(hash::sha256(&agent)),
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
    let choices = format!(
        "{VERSION} {:?} {} {}",
        options.arguments, options.epoch, options.network
    );
    list.extend(TOOLS.iter().map(|name| installed(name)));
    list.extend(licences::crates());
    list.push(Input::other(
        "builder",
        "rescue-image",
        VERSION,
        Some(builder),
    ));
    let digest = hash::sha256(format!("{choices}\n{list:?}").as_bytes());
    Ok(Inputs {
        agent,
        config,
        reports,
        asks_for_report,
        packages,
        list,
        digest,
        choices,
    })
}

fn fetch_packages(options: &Options, archive: &Archive, progress: &Progress) -> Result<Packages> {
    let note = |line: &str| progress.step(line);
    let fetch = |name: &str| -> Result<Deb> {
        let releases = archive.releases(&[name])?;
        let release = releases
            .first()
            .ok_or_else(|| missing("apt returned other packages than requested"))?;
        archive.fetch(release, &note)
    };
    let (meta, kernel) = match &options.kernel {
        Choice::Debian(suite) => {
            let (meta, deb) = newest_kernel(archive, suite.as_deref(), &note)?;
            (Some(meta), Source::Package(deb))
        }
        Choice::Package(path) => (None, Source::Package(Deb::at(path)?)),
        Choice::Installed { modules, vmlinuz } => {
            (None, Source::installed(modules, vmlinuz.as_deref())?)
        }
    };
    Ok(Packages {
        meta,
        kernel,
        shim: fetch(SHIM)?,
        shim_helpers: fetch(SHIM_HELPERS)?,
        grub: fetch(GRUB_EFI)?,
        pci_ids: fetch(PCI_IDS)?,
        busybox: options.shell.then(|| fetch(BUSYBOX)).transpose()?,
    })
}

/// The kernel that the meta package depends on; if it cannot be downloaded, that of the last build, which may
/// have another package name.
fn newest_kernel(
    archive: &Archive,
    suite: Option<&str>,
    note: &dyn Fn(&str),
) -> Result<(Release, Deb)> {
    let meta = archive.releases_of(suite, &[KERNEL_META])?;
    let meta = meta
        .first()
        .ok_or_else(|| missing("apt does not know it; is this Debian?"))?;
    let fetch = |meta: &Release| -> Result<(Release, Deb)> {
        let name = meta
            .depends
            .iter()
            .find(|name| name.starts_with("linux-image-"));
        let name =
            name.ok_or_else(|| missing("it does not depend on a kernel; is this Debian?"))?;
        let releases = archive.releases_of(suite, &[name])?;
        let release = releases
            .first()
            .ok_or_else(|| missing("apt does not know its kernel"))?;
        Ok((meta.clone(), archive.fetch(release, note)?))
    };
    fetch(meta).or_else(|error| {
        let Some(last) = archive.remembered(KERNEL_META).filter(|last| *last != meta) else {
            return Err(error);
        };
        let found = fetch(last).map_err(|_| error)?;
        note(&format!(
            "the current kernel could not be downloaded; using {} from the cache",
            found.1.release.package
        ));
        Ok(found)
    })
}

fn missing(problem: &str) -> Error {
    Error::Package {
        package: KERNEL_META.to_owned(),
        problem: problem.to_owned(),
    }
}

/// Longest agent that is read, many times what it is.
const MAX_AGENT_BYTES: u64 = 256 << 20;

/// Reads the agent and makes sure that it can be PID 1 of a machine without any library.
fn read_agent(path: &Path) -> Result<Vec<u8>> {
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

/// A package of this machine: its version shapes the artefacts, and files of some are in them (GRUB for BIOS, the C library
/// in the agent). "unknown" where programs do not come from packages.
fn installed(package: &str) -> Input {
    let mut command = Command::new("dpkg-query");
    let format = "--showformat=${Version} ${source:Package} ${source:Version}";
    command.args(["--show", format, package]);
    let answer = tool::run(&mut command, "dpkg").map(|output| output.stdout);
    let answer = String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned();
    let words: Vec<&str> = answer.split_whitespace().collect();
    let &[version, source, source_version] = words.as_slice() else {
        return Input::other("tool", package, "unknown", None);
    };
    match licences::of_package(package) {
        Some(licence) => {
            let url = licences::source_of_package(source, source_version);
            Input::licensed("tool", package, version, licence, &url)
        }
        None => Input::other("tool", package, version, None),
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
