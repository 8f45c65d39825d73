//! The build from inputs to `dist/`: collect what the image is made of, see whether it is there already, make it, check it,
//! put it in place, write down what it is.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::error::{Error, Result};
use crate::esp::{self, Loaders};
use crate::grub;
use crate::hash;
use crate::initramfs::{self, Base};
use crate::iso;
use crate::kernel::{self, Kernel};
use crate::manifest::{self, Artefact, Input, Manifest};
use crate::names;
use crate::packages::{Archive, Deb, Release};
use crate::personal::{self, Personal};
use crate::progress::Progress;
use crate::settings;
use crate::tool;

/// Version of this project.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Time of everything in the image unless `SOURCE_DATE_EPOCH` says otherwise: 2026-11-01 00:00 UTC.
pub const DEFAULT_EPOCH: u64 = 1_793_491_200;

/// The package that always depends on Debian's newest kernel.
const KERNEL_META: &str = "linux-image-amd64";
const SHIM: &str = "shim-signed";
const SHIM_HELPERS: &str = "shim-helpers-amd64-signed";
const GRUB_EFI: &str = "grub-efi-amd64-signed";
/// Names of PCI devices, for the console and the report.
const PCI_IDS: &str = "pci.ids";
/// Installed programs whose version shapes the artefacts, with the package to ask for it.
const TOOLS: &[&str] = &["xorriso", "grub-common", "grub-pc-bin"];

const ISO: &str = "esxi-rescue.iso";

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the artefacts go.
    pub out: PathBuf,
    /// Where downloads and prepared kernels are kept.
    pub cache: PathBuf,
    /// The static agent.
    pub agent: PathBuf,
    /// Words to put on the kernel command line.
    pub arguments: Vec<String>,
    /// A `rescue.toml` to build in.
    pub config: Option<PathBuf>,
    /// Use the packages of the last build, ask nothing of the network.
    pub offline: bool,
    /// Build even if everything is there.
    pub force: bool,
    /// Time of everything in the image, seconds since 1970.
    pub epoch: u64,
}

/// How a build ended.
#[derive(Debug)]
pub struct Outcome {
    /// What is in the output directory now.
    pub manifest: Manifest,
    /// Whether anything had to be made.
    pub built: bool,
}

/// Everything that goes in, read and checked.
struct Inputs {
    agent: Vec<u8>,
    config: Option<Vec<u8>>,
    packages: Packages,
    builder: String,
    list: Vec<Input>,
    /// Digest of everything.
    digest: String,
    /// Digest of what ends up in the image, short: the same on every machine.
    identity: String,
}

/// The Debian packages that go in.
struct Packages {
    /// The package that named the kernel.
    meta: Release,
    kernel: Deb,
    shim: Deb,
    shim_helpers: Deb,
    grub: Deb,
    pci_ids: Deb,
}

impl Packages {
    /// What the files come from.
    fn releases(&self) -> [&Release; 5] {
        [
            &self.kernel.release,
            &self.shim.release,
            &self.shim_helpers.release,
            &self.grub.release,
            &self.pci_ids.release,
        ]
    }
}

/// Builds what is not there yet.
pub fn build(options: &Options, progress: &Progress) -> Result<Outcome> {
    let mut archive = Archive::open(&options.cache.join("debs"), options.offline)?;
    let inputs = collect(options, &archive, progress)?;
    let there = Manifest::load(&options.out)
        .filter(|found| found.inputs_digest == inputs.digest && found.holds(&options.out));
    if let (Some(manifest), false) = (there, options.force) {
        return Ok(Outcome {
            manifest,
            built: false,
        });
    }
    let mtime = u32::try_from(options.epoch).map_err(|_| Error::Setting {
        setting: format!("SOURCE_DATE_EPOCH={}", options.epoch),
        problem: "must fit 32 bits".to_owned(),
    })?;
    let kernel = kernel::prepare(
        &inputs.packages.kernel,
        &options.cache,
        &inputs.builder,
        mtime,
        progress,
    )?;
    make_iso(options, &inputs, &kernel, mtime, progress)?;
    let manifest = describe(options, &inputs, &kernel)?;
    manifest.store(&options.out)?;
    archive.remember(
        inputs
            .packages
            .releases()
            .into_iter()
            .chain([&inputs.packages.meta]),
    )?;
    Ok(Outcome {
        manifest,
        built: true,
    })
}

fn collect(options: &Options, archive: &Archive, progress: &Progress) -> Result<Inputs> {
    let agent = read_agent(&options.agent)?;
    let config = options.config.as_deref().map(read_config).transpose()?;
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
    let packed = format!(
        "{VERSION}\n{:?}\n{:?}\n{}",
        list, options.arguments, options.epoch
    );
    let identity = hash::sha256(packed.as_bytes())[..16].to_owned();
    for name in TOOLS {
        list.push(Input::other("tool", name, &tool_version(name), None));
    }
    list.push(Input::other(
        "builder",
        "rescue-image",
        VERSION,
        Some(builder.clone()),
    ));
    let digest = hash::sha256(format!("{packed}\n{list:?}").as_bytes());
    Ok(Inputs {
        agent,
        config,
        packages,
        builder,
        list,
        digest,
        identity,
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

fn read_config(path: &Path) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    settings::check_toml(path, &text)?;
    Ok(text.into_bytes())
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

fn make_iso(
    options: &Options,
    inputs: &Inputs,
    kernel: &Kernel,
    mtime: u32,
    progress: &Progress,
) -> Result<()> {
    fs::create_dir_all(&options.out).map_err(Error::io("create", &options.out))?;
    let temp = tempfile::Builder::new()
        .prefix(".making-")
        .tempdir_in(&options.out)
        .map_err(Error::io("create a directory in", &options.out))?;
    progress.step(&format!(
        "packing the initramfs for kernel {} ({} drivers)",
        kernel.abi, kernel.module_count
    ));
    let release = release_line(kernel);
    let mut initrd = initramfs::base_part(
        &Base {
            agent: &inputs.agent,
            driver_table: &kernel.driver_table,
            names: &names::slim(&inputs.packages.pci_ids.file(names::FILE)?),
            release: &format!("{release}\n"),
            settings: inputs.config.as_deref(),
        },
        mtime,
    )?;
    initrd.extend_from_slice(&kernel.drivers_part);
    progress.step("making the boot loaders");
    let bios_image = grub::bios_cd_image(&inputs.identity, temp.path())?;
    let esp = esp::volume(
        &loaders(&inputs.packages)?,
        &grub::finder(&inputs.identity),
        fat_serial(&inputs.identity),
    )?;
    let personal = Personal {
        release: format!("{release} image {}", inputs.identity),
        arguments: options.arguments.clone(),
    };
    let block = personal.to_block()?;
    let menu = grub::menu();
    let info = format!("{release}\n");
    progress.step("writing the ISO");
    let tree = iso::Tree {
        files: vec![
            (".disk/info".to_owned(), info.as_bytes()),
            (grub::identity_file(&inputs.identity), b"\n"),
            ("boot/vmlinuz".to_owned(), &kernel.vmlinuz),
            ("boot/initrd.img".to_owned(), &initrd),
            ("boot/grub/grub.cfg".to_owned(), menu.as_bytes()),
            ("boot/grub/rescue.env".to_owned(), &block),
        ],
        bios_image: &bios_image,
        esp: &esp,
    };
    let made = temp.path().join(ISO);
    iso::write(&tree, options.epoch, temp.path(), &made)?;
    personal::find(&made, &personal::read_image(&made)?)?;
    let place = options.out.join(ISO);
    fs::rename(&made, &place).map_err(Error::io("write", &place))
}

fn loaders(packages: &Packages) -> Result<Loaders> {
    Ok(Loaders {
        shim: packages.shim.file("usr/lib/shim/shimx64.efi.signed")?,
        mok_manager: packages
            .shim_helpers
            .file("usr/lib/shim/mmx64.efi.signed")?,
        grub: packages
            .grub
            .file("usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed")?,
    })
}

fn release_line(kernel: &Kernel) -> String {
    format!("esxi-rescue {VERSION} kernel {}", kernel.abi)
}

/// A FAT serial number that differs from image to image and not from build to build.
fn fat_serial(identity: &str) -> u32 {
    identity
        .get(..8)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or_default()
}

fn describe(options: &Options, inputs: &Inputs, kernel: &Kernel) -> Result<Manifest> {
    Ok(Manifest {
        schema: manifest::SCHEMA.to_owned(),
        version: VERSION.to_owned(),
        identity: inputs.identity.clone(),
        kernel: kernel.abi.clone(),
        modules: kernel.module_count,
        source_date_epoch: options.epoch,
        arguments: options.arguments.clone(),
        inputs_digest: inputs.digest.clone(),
        inputs: inputs.list.clone(),
        artefacts: vec![Artefact::measure(&options.out, ISO)?],
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

    #[test]
    fn serials_follow_the_identity() {
        assert_eq!(fat_serial("12345678abcdef00"), 0x1234_5678);
    }
}
