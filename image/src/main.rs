//! Command line of the builder.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use rescue_image::build::{self, Options};
use rescue_image::collect;
use rescue_image::manifest;
use rescue_image::personal::{self, Personal};
use rescue_image::progress::Progress;
use rescue_image::settings::{KEYS, Setting};

/// Makes rescue images for ESXi hosts whose boot storage controller was passed through to a virtual machine.
#[derive(Debug, Parser)]
#[command(
    name = "rescue-image",
    version,
    after_help = "Start with 'make image', which installs what is needed and runs 'rescue-image build'."
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
    #[command(after_long_help = COLLECT_HELP)]
    Collect(CollectArgs),
}

/// Build the images into a directory
///
/// Takes the kernel, shim and GRUB from Debian packages (downloaded and verified by apt, nothing is
/// installed, no root needed) and writes esxi-rescue.iso, manifest.json and SHA256SUMS. What is already
/// there and still right is not built again. The same inputs give the same bytes.
#[derive(Debug, Args)]
struct BuildArgs {
    /// Where the images go
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,
    /// Where downloads and prepared kernels are kept between builds
    #[arg(long, value_name = "DIR", default_value = ".cache")]
    cache: PathBuf,
    /// The static agent to pack [default: rescue-agent beside this program]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Words for the kernel command line, for instance "rescue.countdown=0 rescue.mode=inspect"
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// A rescue.toml with settings to build in
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask nothing of the network: use the packages of the last build
    #[arg(long)]
    offline: bool,
    /// Build even if everything is there
    #[arg(long)]
    force: bool,
    /// Show errors only
    #[arg(long, short)]
    quiet: bool,
}

/// Change the settings of a finished image, without rebuilding and without root
///
/// The settings are what the boot menu passes to the agent. Without -o the file is changed in place. Signatures
/// stay valid: nothing that Secure Boot verifies is touched. SHA256SUMS no longer fits a changed file.
#[derive(Debug, Args)]
struct CustomizeArgs {
    /// The image, for instance dist/esxi-rescue.iso
    file: PathBuf,
    /// A setting; may be given several times, replaces an earlier value of the key
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A key to set back to the default
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Write the changed image here and leave FILE as it is
    #[arg(long, short, value_name = "OUT")]
    output: Option<PathBuf>,
}

/// Print what an image is and its settings
#[derive(Debug, Args)]
struct ShowArgs {
    /// The image
    file: PathBuf,
}

/// Receive the reports of hosts, keep them and show them as they come
///
/// The hosts send where the setting `report` says, for instance
/// rescue.report=http://10.0.0.1:8080/ on their kernel command line. Each report is kept as
/// DIR/hosts/SERIAL/TIME-HASH.json, and as one line of DIR/reports.jsonl. On a terminal a table shows the last
/// report of each host; elsewhere a line is printed for each report. Ctrl-C ends it.
#[derive(Debug, Args)]
struct CollectArgs {
    /// Where to listen; 0.0.0.0:8080 is every network of this machine
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The folder that keeps the reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    store: PathBuf,
    /// Receive by HTTPS with this certificate (PEM, a chain with the receiver's own first)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// How to get a certificate and make hosts trust it.
const COLLECT_HELP: &str = "\
HTTPS with a certificate of your own:
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \\
    -subj /CN=rescue -keyout key.pem -out cert.pem
  rescue-image collect --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem
It prints the certificate's SHA-256, which the hosts take as the setting report_pin.

Anybody who reaches the port may send reports: listen only where that is all right.";

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Action::Build(args) => run_build(args),
        Action::Customize(args) => run_customize(&args),
        Action::Show(args) => run_show(&args),
        Action::Collect(args) => collect::run(&collect::Options {
            listen: args.listen,
            store: args.store,
            tls: args.tls_cert.zip(args.tls_key),
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rescue-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn settings_help() -> String {
    let lines: Vec<String> = KEYS
        .iter()
        .map(|(key, takes)| format!("  {key:<10} {takes}"))
        .collect();
    format!("Settings:\n{}", lines.join("\n"))
}

fn run_build(args: BuildArgs) -> Result<()> {
    let options = Options {
        agent: args.agent.map_or_else(agent_beside_us, Ok)?,
        out: args.out,
        cache: args.cache,
        arguments: args.append.split_whitespace().map(str::to_owned).collect(),
        config: args.config,
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
            artefact.sha256,
            options.out.join(&artefact.path).display()
        );
    }
    println!(
        "  inputs and digests: {}",
        options.out.join(manifest::FILE).display()
    );
    Ok(())
}

/// For display only.
#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn agent_beside_us() -> Result<PathBuf> {
    let us = env::current_exe().context("finding this program's own place")?;
    let agent = us.with_file_name("rescue-agent");
    if !agent.exists() {
        bail!(
            "there is no {}; build it (cargo build --release -p rescue-agent) or say --agent FILE",
            agent.display()
        );
    }
    Ok(agent)
}

fn epoch(text: Option<OsString>) -> Result<u64> {
    let Some(text) = text else {
        return Ok(build::DEFAULT_EPOCH);
    };
    let text = text.to_string_lossy();
    text.parse()
        .with_context(|| format!("SOURCE_DATE_EPOCH={text} is not a number of seconds since 1970"))
}

fn run_customize(args: &CustomizeArgs) -> Result<()> {
    if args.set.is_empty() && args.unset.is_empty() {
        bail!(
            "nothing to change: give --set KEY=VALUE or --unset KEY (see rescue-image customize --help)"
        );
    }
    let mut image = personal::read_image(&args.file)?;
    let (at, mut personal) = personal::find(&args.file, &image)?;
    for key in &args.unset {
        if !KEYS.iter().any(|(known, _)| known == key) {
            bail!("--unset {key}: there is no such key (see rescue-image customize --help)");
        }
        personal.unset(key);
    }
    for text in &args.set {
        personal.set(&Setting::parse(text)?);
    }
    let block = personal.to_block()?;
    image[at..at + block.len()].copy_from_slice(&block);
    let target = args.output.as_deref().unwrap_or(&args.file);
    replace(target, &image)?;
    print_image(target, &personal);
    Ok(())
}

/// Writes beside the target and renames, so that a failure leaves the old file whole.
fn replace(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = target
        .file_name()
        .context("the output has no file name")?
        .to_owned();
    name.push(".new");
    let temp = target.with_file_name(name);
    fs::write(&temp, bytes).with_context(|| format!("writing {}", temp.display()))?;
    fs::rename(&temp, target).with_context(|| format!("writing {}", target.display()))
}

fn run_show(args: &ShowArgs) -> Result<()> {
    let (_, personal) = personal::find(&args.file, &personal::read_image(&args.file)?)?;
    print_image(&args.file, &personal);
    Ok(())
}

fn print_image(path: &Path, personal: &Personal) {
    println!("{}: {}", path.display(), personal.release);
    if personal.arguments.is_empty() {
        println!("  settings: the defaults");
    }
    for word in &personal.arguments {
        println!("  {word}");
    }
}
