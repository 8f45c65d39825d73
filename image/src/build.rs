//! The build from inputs to `dist/`: collect what the image is made of, see whether it is there already, make it, check it,
//! put it in place, write down what it is.

use std::fs;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::finished::manifest::{self, Artefact, Manifest};
use crate::finished::place;
use crate::hash;
use crate::inputs::names;
use crate::inputs::packages::Archive;
use crate::inputs::tools::Tools;
use crate::inputs::{self, Inputs};
use crate::lock::Lock;
use crate::media::iso;
use crate::media::netboot;
use crate::media::usb;
use crate::options::{Options, VERSION};
use crate::parts::initramfs::{self, Base};
use crate::parts::personal::Personal;
use crate::parts::prepared::{self, Kernel};
use crate::parts::{Parts, layout};
use crate::progress::Progress;

/// How a build ended.
#[derive(Debug)]
pub struct Outcome {
    /// What is in the output directory now.
    pub manifest: Manifest,
    /// Whether anything had to be made.
    pub built: bool,
    /// Whether the settings ask for a report that the ISO has no drivers to send.
    pub iso_cannot_report: bool,
}

/// Builds what is not there yet.
pub fn build(options: &Options, progress: &Progress) -> Result<Outcome> {
    let note = |line: &str| progress.step(line);
    fs::create_dir_all(&options.cache).map_err(Error::io("create", &options.cache))?;
    let _cache = Lock::of(&options.cache, &note)?;
    fs::create_dir_all(&options.out).map_err(Error::io("create", &options.out))?;
    let _out = Lock::of(&options.out, &note)?;
    if place::settle(&options.out)? {
        note("a build before this one was interrupted; its images are in place now");
    }
    place::tidy(&options.out)?;
    prepared::tidy(&options.cache)?;
    let mtime = u32::try_from(options.epoch).map_err(|_| Error::Setting {
        setting: format!("SOURCE_DATE_EPOCH={}", options.epoch),
        problem: "must fit 32 bits".to_owned(),
    })?;
    let agent = inputs::read_agent(&options.agent)?;
    let mut archive = Archive::open(&options.cache.join("debs"))?;
    let (inputs, agent_part) = collect(options, &agent, &archive, mtime, progress)?;
    let iso_cannot_report = inputs.asks_for_report && !options.network;
    let before = Manifest::load(&options.out);
    if let (Some(manifest), false) = (&before, options.force) {
        if manifest.inputs_digest == inputs.digest && manifest.holds(&options.out) {
            remember(&mut archive, &inputs)?;
            return Ok(Outcome {
                manifest: manifest.clone(),
                built: false,
                iso_cannot_report,
            });
        }
        place::check_unchanged(&options.out, manifest)?;
    }
    let kernel = prepared::prepare(&inputs.packages.kernel, &options.cache, mtime, progress)?;
    let parts = make_parts(
        options,
        &inputs,
        (&agent, &agent_part),
        &kernel,
        mtime,
        progress,
    )?;
    let describe = |artefacts| describe(options, &inputs, &kernel, &parts.identity, artefacts);
    let manifest = put_together(options, &parts, before.as_ref(), describe, progress)?;
    remember(&mut archive, &inputs)?;
    Ok(Outcome {
        manifest,
        built: true,
        iso_cannot_report,
    })
}

/// For `--offline`. Also when there was nothing to build: the cache may be newer than what was built.
fn remember(archive: &mut Archive, inputs: &Inputs) -> Result<()> {
    match inputs.set.kernel() {
        Some(_) => archive.remember(&inputs.origin, &inputs.set),
        None => Ok(()),
    }
}

/// The inputs, and the part with the agent. To pack a changed agent takes longest of all and needs nothing else, so it is
/// done while apt is asked.
fn collect(
    options: &Options,
    agent: &[u8],
    archive: &Archive,
    mtime: u32,
    progress: &Progress,
) -> Result<(Inputs, Vec<u8>)> {
    thread::scope(|scope| {
        let part = scope.spawn(|| prepared::agent_part(agent, &options.cache, mtime, progress));
        let inputs = inputs::collect(options, agent, archive, progress);
        let part = joined(part);
        Ok((inputs?, part?))
    })
}

/// What a thread ended with.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn make_parts(
    options: &Options,
    inputs: &Inputs,
    (agent, agent_part): (&[u8], &[u8]),
    kernel: &Kernel,
    mtime: u32,
    progress: &Progress,
) -> Result<Parts> {
    progress.step(&format!(
        "packing the initramfs for kernel {} ({} drivers)",
        kernel.abi, kernel.module_count
    ));
    let tools = Tools::unpacked(&inputs.packages.tools, &options.cache)?;
    let release = release_line(kernel);
    let loaders = inputs::loaders(&inputs.packages)?;
    let names = names::slim(&inputs.packages.pci_ids.file(names::FILE)?);
    let busybox = inputs.packages.busybox.as_ref();
    let shell = busybox.map(inputs::shell).transpose()?;
    let identity = identity(&[
        agent,
        inputs.config.as_deref().unwrap_or_default(),
        &names,
        &kernel.vmlinuz,
        &kernel.driver_table,
        &kernel.drivers_part,
        &kernel.network_part,
        &loaders.shim,
        &loaders.grub,
        shell.as_deref().unwrap_or_default(),
        inputs.choices.as_bytes(),
    ]);
    let mut initrd = initramfs::base_part(
        &Base {
            driver_table: &kernel.driver_table,
            dictionary: &kernel.dictionary,
            names: &names,
            release: &format!("{release}\n"),
            identity: &format!("{identity}\n"),
            settings: inputs.config.as_deref(),
            shell: shell.as_deref(),
        },
        mtime,
    )?;
    initrd.extend_from_slice(agent_part);
    initrd.extend_from_slice(&kernel.drivers_part);
    let personal = Personal {
        release: format!("{release} image {identity}"),
        arguments: options.arguments.clone(),
    };
    Ok(Parts {
        tools,
        settings_block: personal.to_block()?,
        arguments: options.arguments.clone(),
        release,
        driver_counts: (kernel.module_count, kernel.network_module_count),
        vmlinuz: kernel.vmlinuz.clone(),
        initrd,
        initrd_net: kernel.network_part.clone(),
        loaders,
        reports: inputs.reports,
        epoch: options.epoch,
        identity,
    })
}

/// The name of an image, by what is in it: two images with one name do the same.
fn identity(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hash::hex(&hasher.finalize())[..16].to_owned()
}

/// Makes every artefact beside the output directory's old ones, then puts them in place, with what `describe` makes of them.
fn put_together(
    options: &Options,
    parts: &Parts,
    before: Option<&Manifest>,
    describe: impl FnOnce(Vec<Artefact>) -> Manifest,
    progress: &Progress,
) -> Result<Manifest> {
    let temp = tempfile::Builder::new()
        .prefix(place::MAKING)
        .tempdir_in(&options.out)
        .map_err(Error::io("create a directory in", &options.out))?;
    let temp = temp.path();
    let made = temp.join("made");
    fs::create_dir(&made).map_err(Error::io("create", &made))?;
    let tree = netboot::make(parts, temp)?;
    let mut names = vec![layout::ISO.to_owned(), layout::USB.to_owned()];
    names.extend(
        tree.iter()
            .map(|(path, _)| format!("{}/{path}", layout::NETBOOT)),
    );
    if !options.force {
        place::check_ours(&options.out, &names, before)?;
    }
    progress.step("writing the ISO, the USB image and the netboot tree");
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let image = made.join(layout::USB);
            fs::write(&image, usb::make(parts, temp)?).map_err(Error::io("write", &image))?;
            netboot::write(&tree, &made.join(layout::NETBOOT))
        });
        let iso = iso::make(parts, options.network, temp, &made.join(layout::ISO));
        // What is said of a full disk is clearer here than where the ISO is written.
        joined(others).and(iso)
    })?;
    let measured = names.iter().map(|name| Artefact::measure(&made, name));
    let manifest = describe(measured.collect::<Result<_>>()?);
    manifest.store(&made)?;
    place::put(&made, &options.out, before)?;
    Ok(manifest)
}

fn release_line(kernel: &Kernel) -> String {
    format!("esxi-rescue {VERSION} kernel {}", kernel.abi)
}

fn describe(
    options: &Options,
    inputs: &Inputs,
    kernel: &Kernel,
    identity: &str,
    artefacts: Vec<Artefact>,
) -> Manifest {
    Manifest {
        schema: manifest::SCHEMA.to_owned(),
        version: VERSION.to_owned(),
        identity: identity.to_owned(),
        kernel: kernel.abi.clone(),
        suite: inputs.origin.suite().to_owned(),
        modules: kernel.module_count,
        source_date_epoch: options.epoch,
        arguments: options.arguments.clone(),
        inputs_digest: inputs.digest.clone(),
        inputs: inputs.list.clone(),
        artefacts,
    }
}
