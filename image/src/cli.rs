//! Command line of the builder.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::build;
use crate::collect::arguments::{self, CollectArgs, ReportsArgs};
use crate::finished::Finished;
use crate::finished::manifest::{self, Manifest};
use crate::finished::spdx;
use crate::fleet;
use crate::inputs::apt::DEFAULT_SUITE;
use crate::manual;
use crate::options::{self, Choice, Options};
use crate::parts::layout;
use crate::progress::Progress;
use crate::settings::{self, Setting};
use anyhow::{Context, Result, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use rescue_agent::files;
use rescue_agent::report;
use rescue_agent::settings::{Key, Origin};

/// Makes rescue images for ESXi hosts whose boot storage controller was set to passthrough.
#[derive(Debug, Parser)]
#[command(
    name = "rescue-image",
    version,
    after_help = "'make image' installs the required packages and runs 'rescue-image build'."
)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Build(BuildArgs),
    #[command(after_long_help = settings_help())]
    Customize(CustomizeArgs),
    Show(ShowArgs),
    #[command(after_long_help = arguments::HELP)]
    Collect(CollectArgs),
    Reports(ReportsArgs),
    Fleet(FleetArgs),
    Manual(ManualArgs),
    Spdx(SpdxArgs),
}

/// Build the images into a directory
///
/// Takes the kernel, shim, GRUB and the programs that write the images from packages of one Debian suite (downloaded and
/// verified by apt, nothing is installed, no root needed, this machine's own package sources are not changed), and writes esxi-rescue.iso, esxi-rescue.img, netboot/, manifest.json and SHA256SUMS. Files that
/// are present and still correct are not built again. The same inputs give the same bytes.
#[derive(Debug, Args)]
struct BuildArgs {
    /// Where the images go
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,
    /// Below which directory downloads and prepared kernels are kept between builds
    #[arg(long, value_name = "DIR", default_value = ".cache")]
    cache: PathBuf,
    /// The static agent to pack [default: rescue-agent beside this program]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Words to add to the kernel command line, for example "rescue.countdown=0 rescue.mode=inspect"
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// A rescue.toml with settings to build in
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take all packages from this Debian suite; with trixie-backports the kernel from there and the rest from trixie
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SUITE, conflicts_with = "inputs")]
    suite: String,
    /// Take the suite as it was at this time, from snapshot.debian.org, for example 20261101T000000Z
    #[arg(long, value_name = "DATE")]
    snapshot: Option<String>,
    /// Take the packages that this manifest.json lists, in the same versions
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Use the kernel from this linux-image package file
    #[arg(long, value_name = "FILE", conflicts_with = "modules_dir")]
    kernel_deb: Option<PathBuf>,
    /// Use the modules of an installed kernel, for example /lib/modules/6.1.0-18-amd64, and the vmlinuz next to them
    #[arg(long, value_name = "DIR")]
    modules_dir: Option<PathBuf>,
    /// The kernel that belongs to --modules-dir
    #[arg(long, value_name = "FILE", requires = "modules_dir")]
    vmlinuz: Option<PathBuf>,
    /// Include a shell (Debian's busybox-static), which the menu of the console then offers
    #[arg(long)]
    with_shell: bool,
    /// Include the network drivers in the ISO as well (the USB image and the netboot tree always have them)
    #[arg(long)]
    net: bool,
    /// Do not use the network: use the packages of the last build
    #[arg(long)]
    offline: bool,
    /// Build even if nothing has changed, and replace customised files
    #[arg(long)]
    force: bool,
    /// Show errors only
    #[arg(long, short)]
    quiet: bool,
}

/// Change the settings of a finished image, without rebuilding and without root
///
/// The settings are what the boot menu passes to the agent. Without -o the image is changed in place. Signatures
/// stay valid: nothing that Secure Boot verifies is changed. A changed file no longer matches SHA256SUMS.
#[derive(Debug, Args)]
struct CustomizeArgs {
    /// The image: esxi-rescue.iso, esxi-rescue.img or the directory netboot
    image: PathBuf,
    /// A setting; can be given several times; replaces the present value of the key
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A key to remove: what a rescue.toml on the USB image or in the image says applies then, or else the default
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// A rescue.toml: replaces the file of that name on the USB image; for other images, its settings are copied
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the changed image to this path and do not change IMAGE
    #[arg(long, short, value_name = "OUT")]
    output: Option<PathBuf>,
}

/// Check that an image is intact, and print its version and settings
#[derive(Debug, Args)]
struct ShowArgs {
    /// The image: esxi-rescue.iso, esxi-rescue.img or the directory netboot
    image: PathBuf,
}

/// Write the Ansible plays that repair a rack through its BMCs
///
/// Files that were changed in the folder are not overwritten, and others there are left alone.
#[derive(Debug, Args)]
struct FleetArgs {
    /// Where the plays go
    #[arg(value_name = "DIR", default_value = "dist/fleet")]
    folder: PathBuf,
}

/// Write the manual pages of this program and of rescue-agent
///
/// Read one with `man -l DIR/rescue-agent.1`.
#[derive(Debug, Args)]
struct ManualArgs {
    /// Where the pages go
    #[arg(value_name = "DIR", default_value = "dist/man")]
    folder: PathBuf,
}

/// Print the parts of an image, with versions and licences, as an SPDX document
#[derive(Debug, Args)]
struct SpdxArgs {
    /// The manifest.json that was built with the image
    manifest: PathBuf,
}

/// Runs the program with the words of its command line.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Action::Build(args) => run_build(args),
        Action::Customize(args) => run_customize(&args),
        Action::Show(args) => run_show(&args),
        Action::Collect(args) => args.run(),
        Action::Reports(args) => match args.run() {
            Ok(found) => return ExitCode::from(found.status()),
            Err(error) => Err(error),
        },
        Action::Fleet(args) => fleet::lay_out(&args.folder),
        Action::Manual(args) => run_manual(&args),
        Action::Spdx(args) => run_spdx(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rescue-image: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes. One that its consequence quotes already is not said twice.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said.as_str() {
            "" => cause,
            known if known.ends_with(&cause) => said,
            known => format!("{known}: {cause}"),
        }
    })
}

fn run_manual(args: &ManualArgs) -> Result<()> {
    for program in [Cli::command(), rescue_agent::cli::Cli::command()] {
        manual::write(program, &args.folder)?;
    }
    Ok(())
}

fn run_spdx(args: &SpdxArgs) -> Result<()> {
    let bytes = files::read_whole(&args.manifest, manifest::MAX_BYTES)
        .with_context(|| format!("reading {}", args.manifest.display()))?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a manifest.json", args.manifest.display()))?;
    let text = serde_json::to_string_pretty(&spdx::document(&manifest))?;
    writeln!(io::stdout().lock(), "{text}").context("writing to standard output")
}

fn settings_help() -> String {
    let lines = Key::ALL.map(|key| format!("  {key:<10} {}", key.allowed()));
    format!("Settings:\n{}", lines.join("\n"))
}

fn run_build(args: BuildArgs) -> Result<()> {
    let options = Options {
        agent: args.agent.map_or_else(agent_beside_us, Ok)?,
        out: args.out,
        // A folder of our own: what is not used in it any more is removed.
        cache: args.cache.join("esxi-rescue"),
        arguments: args.append.split_whitespace().map(str::to_owned).collect(),
        config: args.config,
        kernel: match (args.kernel_deb, args.modules_dir) {
            (Some(path), _) => Choice::Package(path),
            (None, Some(modules)) => Choice::Installed {
                modules,
                vmlinuz: args.vmlinuz,
            },
            (None, None) => Choice::Debian,
        },
        suite: args.suite,
        snapshot: args.snapshot,
        inputs: args.inputs,
        shell: args.with_shell,
        network: args.net,
        offline: args.offline,
        force: args.force,
        epoch: epoch(env::var_os("SOURCE_DATE_EPOCH"))?,
    };
    let outcome = build::build(&options, &Progress::new(args.quiet))?;
    if args.quiet {
        return Ok(());
    }
    let state = if outcome.built { "built" } else { "up to date" };
    println!(
        "{}: {state}, kernel {}, {} drivers",
        options.out.display(),
        outcome.manifest.kernel,
        outcome.manifest.modules
    );
    for artefact in &outcome.manifest.artefacts {
        println!(
            "  {:>6.1} MiB  {}  {}",
            mib(artefact.size),
            &artefact.sha256[..16],
            options.out.join(&artefact.path).display()
        );
    }
    println!(
        "  inputs and digests: {}",
        options.out.join(manifest::FILE).display()
    );
    if outcome.iso_cannot_report {
        eprintln!(
            "WARNING: the setting report is set, but {} cannot send a report: it has no network drivers. The USB image and the \
             netboot tree have them; for the ISO build with 'make image NET=1' ('rescue-image build --net')",
            options.out.join(layout::ISO).display()
        );
    }
    Ok(())
}

/// For display only.
#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn agent_beside_us() -> Result<PathBuf> {
    let us = env::current_exe().context("finding the path of this program")?;
    let agent = us.with_file_name("rescue-agent");
    if !agent.exists() {
        bail!(
            "there is no {}; build it (cargo build --release -p rescue-agent) or use --agent FILE",
            agent.display()
        );
    }
    Ok(agent)
}

fn epoch(text: Option<OsString>) -> Result<u64> {
    let Some(text) = text else {
        return Ok(options::DEFAULT_EPOCH);
    };
    let text = text.to_string_lossy();
    text.parse()
        .with_context(|| format!("SOURCE_DATE_EPOCH={text} is not a number of seconds since 1970"))
}

fn run_customize(args: &CustomizeArgs) -> Result<()> {
    if args.set.is_empty() && args.unset.is_empty() && args.config.is_none() {
        bail!(
            "nothing to change: use --set KEY=VALUE, --unset KEY or --config FILE (see rescue-image customize --help)"
        );
    }
    let mut image = Finished::open(&args.image)?;
    if let Some(path) = &args.config {
        let content = settings::read_file(path)?;
        image.set_config(path, &content)?;
    }
    for key in &args.unset {
        image.unset(settings::known_key(key)?);
    }
    for text in &args.set {
        image.set(&Setting::parse(text)?);
    }
    let out = image.save(args.output.as_deref())?;
    print_image(&out, &Finished::open(&out)?)
}

fn run_show(args: &ShowArgs) -> Result<()> {
    print_image(&args.image, &Finished::open(&args.image)?)
}

fn print_image(path: &Path, image: &Finished) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {}, intact", path.display(), image.kind())?;
    // Text from the image is not trusted: its digests are in the image as well.
    writeln!(out, "  {}", report::escape(&image.info()?))?;
    writeln!(out, "  image {}", report::escape(image.identity()))?;
    let network = if image.has_network()? {
        "has"
    } else {
        "does not have"
    };
    writeln!(out, "  {network} the network drivers")?;
    let settings = image.settings()?;
    for key in Key::ALL {
        let origin = match settings.origin(key) {
            Origin::BuiltIn => "default",
            Origin::CommandLine => "settings block",
            Origin::File(name) => name,
        };
        writeln!(
            out,
            "  {:<10} {:<24} {origin}",
            key.name(),
            format!("{:?}", settings.value(key))
        )?;
    }
    for word in image.other_words() {
        writeln!(out, "  {:<35} kernel's own", report::escape(word))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_said_twice() {
        let quoted = crate::error::Error::io("read", Path::new("pipe"))(io::Error::other("a pipe"));
        assert_eq!(in_one_line(&quoted.into()), "cannot read pipe: a pipe");
        let with_context = anyhow::Error::from(io::Error::other("full")).context("writing x");
        assert_eq!(in_one_line(&with_context), "writing x: full");
    }
}
