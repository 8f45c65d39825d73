//! What an image is made of, read and checked before anything is made: the agent, the settings, the packages, and a list
//! of it all with versions and digests.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::build::{Options, VERSION};
use crate::error::{Error, Result};
use crate::hash;
use crate::manifest::Input;
use crate::packages::{Archive, Deb, Release};
use crate::parts::Loaders;
use crate::progress::Progress;
use crate::settings;
use crate::tool;

/// The package that always depends on Debian's newest kernel.
const KERNEL_META: &str = "linux-image-amd64";
const SHIM: &str = "shim-signed";
const SHIM_HELPERS: &str = "shim-helpers-amd64-signed";
const GRUB_EFI: &str = "grub-efi-amd64-signed";
/// Names of PCI devices, for the console and the report.
const PCI_IDS: &str = "pci.ids";
/// Installed programs whose version shapes the artefacts, with the package to ask for it.
const TOOLS: &[&str] = &["xorriso", "grub-common", "grub-pc-bin"];

/// Everything that goes in, read and checked.
#[derive(Debug)]
pub struct Inputs {
    /// The static agent.
    pub agent: Vec<u8>,
    /// The `rescue.toml` to build in.
    pub config: Option<Vec<u8>>,
    /// Whether it asks for a report to be sent.
    pub reports: bool,
    /// The packages.
    pub packages: Packages,
    /// All of it, for the manifest.
    pub list: Vec<Input>,
    /// Digest of everything.
    pub digest: String,
    /// The choices that shape the artefacts, as text.
    pub choices: String,
}

/// The Debian packages that go in.
#[derive(Debug)]
pub struct Packages {
    /// The package that named the kernel.
    pub meta: Release,
    /// The kernel and its modules.
    pub kernel: Deb,
    /// shim.
    pub shim: Deb,
    /// shim's key manager.
    pub shim_helpers: Deb,
    /// GRUB for UEFI.
    pub grub: Deb,
    /// Names of PCI devices.
    pub pci_ids: Deb,
}

impl Packages {
    /// What the files come from.
    #[must_use]
    pub fn releases(&self) -> [&Release; 5] {
        [
            &self.kernel.release,
            &self.shim.release,
            &self.shim_helpers.release,
            &self.grub.release,
            &self.pci_ids.release,
        ]
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
    settings::check_arguments(&words)?;
    let builder = env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
    let builder = hash::sha256_file(&builder)?;
    let packages = fetch_packages(archive, progress)?;
    let mut list: Vec<Input> = packages
        .releases()
        .into_iter()
        .map(Input::package)
        .collect();
    list.push(Input::other(
        "agent",
        "rescue-agent",
        VERSION,
        Some(hash::sha256(&agent)),
    ));
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
    for name in TOOLS {
        list.push(Input::other("tool", name, &tool_version(name), None));
    }
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
        packages,
        list,
        digest,
        choices,
    })
}

/// Kernel, shim, its helpers, GRUB, and names of devices.
fn fetch_packages(archive: &Archive, progress: &Progress) -> Result<Packages> {
    let note = |line: &str| progress.step(line);
    let releases = archive.releases(&[KERNEL_META, SHIM, SHIM_HELPERS, GRUB_EFI, PCI_IDS])?;
    let [meta, shim, shim_helpers, grub, pci_ids] = releases.as_slice() else {
        return Err(missing(
            "apt answered for other packages than were asked for",
        ));
    };
    let (meta, kernel) = fetch_kernel(archive, meta, &note)?;
    Ok(Packages {
        meta,
        kernel,
        shim: archive.fetch(shim, &note)?,
        shim_helpers: archive.fetch(shim_helpers, &note)?,
        grub: archive.fetch(grub, &note)?,
        pci_ids: archive.fetch(pci_ids, &note)?,
    })
}

/// The kernel that the meta package depends on; if it cannot be downloaded, that of the last build, which may
/// have another package name.
fn fetch_kernel(archive: &Archive, meta: &Release, note: &dyn Fn(&str)) -> Result<(Release, Deb)> {
    let fetch = |meta: &Release| -> Result<(Release, Deb)> {
        let name = meta
            .depends
            .iter()
            .find(|name| name.starts_with("linux-image-"));
        let name = name.ok_or_else(|| missing("it depends on no kernel; is this Debian?"))?;
        let releases = archive.releases(&[name])?;
        let release = releases
            .first()
            .ok_or_else(|| missing("its kernel is unknown to apt"))?;
        Ok((meta.clone(), archive.fetch(release, note)?))
    };
    fetch(meta).or_else(|error| {
        let Some(last) = archive.remembered(KERNEL_META).filter(|last| *last != meta) else {
            return Err(error);
        };
        let found = fetch(last).map_err(|_| error)?;
        note(&format!(
            "the current kernel could not be downloaded; going on with {} from the cache",
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

/// Reads the agent and makes sure that it can be PID 1 of a machine without any library.
fn read_agent(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(Error::io("read the agent", path))?;
    match has_interpreter(&bytes) {
        Ok(false) => Ok(bytes),
        Ok(true) => Err(Error::input(
            path,
            "the agent is linked dynamically and could not start; build it with the project's own cargo configuration",
        )),
        Err(error) => Err(Error::input(
            path,
            format!("the agent is no 64-bit Linux program: {error}"),
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
    let content = fs::read(path).map_err(Error::io("read", path))?;
    let settings = settings::check_toml(path, &content)?;
    Ok((content, settings.report.is_some()))
}

/// The version of an installed package, or "unknown" where programs do not come from packages.
fn tool_version(package: &str) -> String {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${Version}", package]);
    match tool::run(&mut command, "dpkg") {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(_) => "unknown".to_owned(),
    }
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
                .contains("no 64-bit Linux program")
        );
    }

    #[test]
    fn this_test_program_is_static_like_the_agent() {
        assert!(read_agent(&env::current_exe().unwrap()).is_ok());
    }
}
