//! The command line: what it accepts, and how a run goes.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::archive::RecoveryKey;
use crate::copies;
use crate::discover;
use crate::disk::lock::{LockError, Locks};
use crate::disk::{Access, SystemDisks, origin};
use crate::fat::FatTime;
use crate::files::read_whole;
use crate::firmware::{self, SecureBoot};
use crate::host::{AssignError, Host};
use crate::import::{self, Given, ImportError};
use crate::inventory::Inventory;
use crate::logging::{self, say};
use crate::originals::{self, Collection};
use crate::plan::{self, Plan};
use crate::policy::{BankChoice, Policy, Selection, Source};
use crate::repair;
use crate::report::{self, Command, Detail, Line, Report, ResultWord};
use crate::secret;
use crate::verify::{self, Proof};

/// Gives devices that are set to passthrough back to ESXi, while the host is offline.
///
/// Finds the boot banks of ESXi 4.x to 9 on the disks of this machine, or on disk images, and
/// changes the owner of the chosen devices from "passthrough" to "vmkernel" in the state archive of
/// every bank. Nothing else is changed; the original archive stays in the bank as STATE.ORG.
///
/// Exit status: 0 done or nothing to do; 1 unexpected; 2 wrong usage, or not confirmed; 3 no ESXi
/// installation found; 4 refused: a bank was not written, or ESXi may not start well although banks were
/// written, and the output says which; 5 a write or its verification failed.
#[derive(Debug, Parser)]
#[command(name = "rescue-agent", version, max_term_width = 100)]
pub struct Cli {
    /// Log on standard error what is read and written, step by step.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show disks, boot banks, which bank boots next, and what is passed through. Writes nothing.
    #[command(
        after_help = "Examples:\n  rescue-agent inspect /dev/sda\n  rescue-agent inspect --json disk.img\n  rescue-agent inspect --save-host host.json                 on the host, for a repair on another machine\n  rescue-agent inspect --explain --pci host.json disk.img    why each device is given back or left alone"
    )]
    Inspect(Inspect),
    /// Give devices back to ESXi, in every boot bank.
    #[command(
        after_help = "Examples:\n  rescue-agent revert --dry-run                   what would be done on this machine\n  rescue-agent revert --yes                       do it, without a question\n  rescue-agent revert --devices 0000:00:1f.2 disk.img\n  rescue-agent revert --devices all,-class:display /dev/sda\n  rescue-agent revert --source state.tgz /dev/sda            an archive that ESXi on this host has saved\n  rescue-agent revert --pci host.json disk.img=/dev/sda      what `auto` means on the saved machine"
    )]
    Revert(Revert),
    /// Restore the original state archives that a repair kept.
    #[command(
        after_help = "Examples:\n  rescue-agent restore /dev/sda\n  rescue-agent restore --originals /media/ESXI_RESCUE/originals /dev/sda"
    )]
    Restore(Restore),
}

#[derive(Debug, Args)]
struct Common {
    /// Print the report as JSON (schema esxi-rescue/1) instead of text.
    #[arg(long)]
    json: bool,
    /// Disks or disk images; without any, every disk of this machine.
    #[arg(value_name = "DISK")]
    disks: Vec<PathBuf>,
}

/// Where the recovery key comes from. Never from the command line itself, which others can read.
#[derive(Debug, Args)]
struct KeyOptions {
    /// The recovery key of the host, from a file. If it is the key of an archive that the host's TPM has
    /// sealed, the archive is opened by it (docs/sealed.md).
    #[arg(long, value_name = "FILE", conflicts_with = "ask_recovery_key")]
    recovery_key_file: Option<PathBuf>,
    /// Ask for the recovery key at the terminal; what is typed is not shown.
    #[arg(long)]
    ask_recovery_key: bool,
}

/// How often a key may be typed wrongly.
const KEY_ATTEMPTS: usize = 3;

impl KeyOptions {
    fn read(&self) -> anyhow::Result<Option<RecoveryKey>> {
        if let Some(file) = &self.recovery_key_file {
            let text = secret::from_file(file).map_err(InvalidRequest::refused)?;
            let key = RecoveryKey::parse(&text).map_err(InvalidRequest::refused)?;
            return Ok(Some(key));
        }
        if !self.ask_recovery_key {
            return Ok(None);
        }
        let mut last = None;
        for _ in 0..KEY_ATTEMPTS {
            let text = secret::from_terminal("Recovery key (16 groups of 6 digits, not shown): ");
            match RecoveryKey::parse(&text.map_err(InvalidRequest::refused)?) {
                Ok(key) => return Ok(Some(key)),
                Err(error) => {
                    say(format_args!("rescue-agent: {error}"));
                    last = Some(error);
                }
            }
        }
        match last {
            Some(error) => Err(InvalidRequest::refused(error)),
            None => Ok(None),
        }
    }
}

#[derive(Debug, Args)]
struct Inspect {
    /// Save this machine's PCI functions and disks to a file, for --pci on another machine.
    #[arg(long, value_name = "FILE", conflicts_with = "pci")]
    save_host: Option<PathBuf>,
    #[command(flatten)]
    key: KeyOptions,
    #[command(flatten)]
    reasoning: Reasoning,
    #[command(flatten)]
    common: Common,
}

/// Where the reasons for the verdicts come from, and whether to show them.
#[derive(Debug, Args)]
struct Reasoning {
    /// The machine the disks belong to, as saved by `inspect --save-host` on it. An image stands
    /// for the disk with its size; if there are several, say which one: DISK=/dev/sda.
    #[arg(long, value_name = "FILE", requires = "disks")]
    pci: Option<PathBuf>,
    /// Show the reasons: the path of each ESXi disk from the PCI root, and how the verdict on
    /// each passed-through entry was reached.
    #[arg(long)]
    explain: bool,
}

#[derive(Debug, Args)]
struct Revert {
    /// Which devices to give back: auto, all, VENDOR:DEVICE (8086:3b25), an address
    /// (0000:00:1f.2, hex), class:WORD; several separated by commas; excluded with a leading -.
    #[arg(
        long,
        value_name = "SEL",
        default_value = "auto",
        allow_hyphen_values = true
    )]
    devices: String,
    /// Which banks to repair: all, active (the one that boots next), or partition numbers (5,6).
    #[arg(long, value_name = "BANKS", default_value = "all")]
    banks: BankChoice,
    /// What goes into the banks: each bank's own archive, repaired (own); the newest of the disk for all of
    /// its banks, repaired (newest); or the archive in a file that ESXi on this host has saved (FILE: a
    /// state.tgz or a configBundle-*.tgz), repaired if it can be read, and otherwise as it is.
    #[arg(long, value_name = "own|newest|FILE", default_value = "own")]
    source: SourceName,
    /// Use the archive of --source FILE even if it seems to be from another host or another build of ESXi, if
    /// it is not sealed and the host's are, or if nothing shows where it is from. Only with --source FILE.
    #[arg(long)]
    trust_source: bool,
    /// Make and show the plan, then stop: nothing is written.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before writing. Without a terminal this is required.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    key: KeyOptions,
    #[command(flatten)]
    reasoning: Reasoning,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone)]
enum SourceName {
    Disk(Source),
    File(PathBuf),
}

impl std::str::FromStr for SourceName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "own" => Self::Disk(Source::Own),
            "newest" => Self::Disk(Source::Newest),
            file => Self::File(file.into()),
        })
    }
}

#[derive(Debug, Args)]
struct Restore {
    /// If a bank has lost its STATE.ORG, use the copy from this folder: `originals` of a rescue
    /// medium, or that of one host in it.
    #[arg(long, value_name = "DIR")]
    originals: Option<PathBuf>,
    /// Restore the original even if ESXi has saved its configuration since the repair, or was
    /// upgraded. What is in place is not lost: it is kept in the bank as STATE.ORG (or STATE.OR1 to
    /// STATE.OR9), and restoring with this option once more brings it back.
    #[arg(long)]
    discard_newer: bool,
    /// Which banks to restore: all, active (the one that boots next), or partition numbers (5,6).
    #[arg(long, value_name = "BANKS", default_value = "all")]
    banks: BankChoice,
    /// Do not ask before writing. Without a terminal this is required.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// Exit status for a request that cannot be understood or carried out as worded.
pub const USAGE: u8 = 2;

/// A request that cannot be understood or carried out as worded; nothing is written then.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct InvalidRequest(String);

impl InvalidRequest {
    fn refused(why: impl ToString) -> anyhow::Error {
        Self(why.to_string()).into()
    }
}

/// Why nothing is written without a terminal.
pub(crate) const NOBODY_TO_ASK: &str = "there is no terminal to confirm on; use --yes to write without a confirmation. Nothing was written.";

/// Why an option is refused that would change nothing.
pub(crate) const NOTHING_TO_TRUST: &str = "--trust-source belongs to --source FILE; an archive that is on the disk already needs no check of where it is from. Nothing was written.";

/// Runs a command; returns the exit status.
///
/// # Errors
/// What is unexpected: a disk that was named and cannot be read at all, a broken terminal.
pub fn run(cli: Cli) -> anyhow::Result<u8> {
    if cli.verbose {
        logging::begin()?;
    }
    let done = match cli.command {
        Action::Inspect(args) => inspect(&args),
        Action::Revert(args) => revert(&args),
        Action::Restore(args) => restore(&args),
    };
    match done {
        Err(error) if error.is::<InvalidRequest>() => Ok(stopped(&error, USAGE)),
        Err(error) if error.is::<LockError>() => {
            Ok(stopped(&error, ResultWord::Refused.exit_status()))
        }
        done => done,
    }
}

/// Says why nothing was done; returns the exit status.
fn stopped(why: &anyhow::Error, exit_status: u8) -> u8 {
    let why = report::escape(&why.to_string());
    say(format_args!("rescue-agent: {why}"));
    exit_status
}

fn inspect(args: &Inspect) -> anyhow::Result<u8> {
    if let Some(file) = &args.save_host {
        let machine = Host::read(Path::new("/"));
        machine.save(file).map_err(InvalidRequest::refused)?;
        say(format_args!(
            "This machine was saved to {}.",
            file.display()
        ));
    }
    let request = Request {
        access: Access::Read,
        key: args.key.read()?,
    };
    let findings = Findings::at(&args.common, args.reasoning.pci.as_deref(), &request)?;
    let host = findings.host.as_ref();
    let plan = plan::revert(&findings.inventory, &Policy::default(), host)
        .unwrap_or_else(|_| plan::listing(&findings.inventory, host));
    let report = findings.report(Command::Inspect, &plan, None, Proof::default());
    let exit_status = report.result.exit_status();
    let explanation = findings.explanation(&plan, args.reasoning.explain);
    if args.common.json {
        show(&[report.with_explanation(explanation).to_json()]);
        return Ok(exit_status);
    }
    show(&report::findings(&findings.inventory, host, Detail::Full));
    show(&report::devices(&plan, Detail::Full));
    show(&explanation);
    show(&report::result(&report, &findings.inventory, None, None));
    Ok(exit_status)
}

fn revert(args: &Revert) -> anyhow::Result<u8> {
    if args.trust_source && matches!(args.source, SourceName::Disk(_)) {
        return Err(InvalidRequest::refused(NOTHING_TO_TRUST));
    }
    let access = match args.dry_run {
        true => Access::Read,
        false => Access::Write,
    };
    let key = args.key.read()?;
    let request = Request { access, key };
    let findings = Findings::at(&args.common, args.reasoning.pci.as_deref(), &request)?;
    let policy = Policy {
        devices: findings.selection(&args.devices)?,
        banks: args.banks.clone(),
        source: match args.source {
            SourceName::Disk(source) => source,
            SourceName::File(_) => Source::Own,
        },
    };
    let plan = match &args.source {
        SourceName::Disk(_) => {
            let host = findings.host.as_ref();
            let plan = plan::revert(&findings.inventory, &policy, host);
            plan.map_err(InvalidRequest::refused)?
        }
        SourceName::File(file) => imported(args, file, &findings, &policy, request.key.as_ref())?,
    };
    let command = if args.dry_run {
        Command::DryRun
    } else {
        Command::Revert
    };
    let explanation = findings.explanation(&plan, args.reasoning.explain);
    carry_out(
        command,
        &findings,
        &plan,
        explanation,
        args.yes,
        args.common.json,
    )
}

/// The plan for an archive from a file. Where it is not certain that it is of this host, a person at the
/// terminal is asked.
fn imported(
    args: &Revert,
    file: &Path,
    findings: &Findings,
    policy: &Policy,
    key: Option<&RecoveryKey>,
) -> anyhow::Result<Plan> {
    let place = file.display().to_string();
    let bytes = read_whole(file, import::MAX_BYTES).map_err(|error| {
        InvalidRequest::refused(ImportError::Unreadable {
            place: place.clone(),
            why: error.to_string(),
        })
    })?;
    let given = Given::read(bytes, &place, key).map_err(InvalidRequest::refused)?;
    let plan = |trusted| {
        let import = plan::Import {
            given: &given,
            trusted,
        };
        let host = findings.host.as_ref();
        plan::import(&findings.inventory, policy, host, import).map_err(InvalidRequest::refused)
    };
    let cautious = plan(args.trust_source)?;
    let may_ask = !args.yes && !args.dry_run && io::stdin().is_terminal();
    if !may_ask || args.trust_source {
        return Ok(cautious);
    }
    let trusting = plan(true)?;
    if cautious.banks_replaced() == trusting.banks_replaced() {
        return Ok(cautious);
    }
    for line in report::intentions(&findings.inventory, &cautious, Detail::Full) {
        say(format_args!("{line}"));
    }
    match answered("Use this archive anyway? [y/N] ")? {
        true => Ok(trusting),
        false => Ok(cautious),
    }
}

fn restore(args: &Restore) -> anyhow::Result<u8> {
    let request = Request {
        access: Access::Write,
        key: None,
    };
    let findings = Findings::at(&args.common, None, &request)?;
    let offers = match &args.originals {
        None => Vec::new(),
        Some(folder) => {
            let collection = Collection::in_folder(folder).map_err(InvalidRequest::refused)?;
            originals::offers(&findings.inventory, findings.host.as_ref(), &collection)
        }
    };
    plan::check_banks(&findings.inventory, &args.banks).map_err(InvalidRequest::refused)?;
    let host = findings.host.as_ref();
    let discard = args.discard_newer;
    let plan = plan::restore(&findings.inventory, &args.banks, &offers, discard, host);
    carry_out(
        Command::Restore,
        &findings,
        &plan,
        Vec::new(),
        args.yes,
        args.common.json,
    )
}

/// Shows a plan, asks, carries it out, proves it, reports.
fn carry_out(
    command: Command,
    findings: &Findings,
    plan: &Plan,
    explanation: Vec<Line>,
    yes: bool,
    json: bool,
) -> anyhow::Result<u8> {
    if !json {
        show(&report::findings(
            &findings.inventory,
            findings.host.as_ref(),
            Detail::Brief,
        ));
        show(&explanation);
        show(&report::intentions(&findings.inventory, plan, Detail::Full));
    }
    let writes = plan.writes() && command != Command::DryRun;
    if writes && !yes && !confirmed()? {
        return Ok(USAGE);
    }
    let (receipt, proof) = match command {
        Command::DryRun | Command::Inspect => (None, Proof::default()),
        Command::Revert | Command::Restore => {
            let mut tell = |event: &repair::Event| {
                say(format_args!(
                    "         {}",
                    report::escape(&event.to_string())
                ));
            };
            let (inventory, now) = (&findings.inventory, FatTime::now());
            let (receipt, proof) =
                verify::repair_and_verify(plan, inventory, &SystemDisks, now, &mut tell);
            (Some(receipt), proof)
        }
    };
    let report = findings.report(command, plan, receipt.as_ref(), proof);
    let exit_status = report.result.exit_status();
    match json {
        true => show(&[report.with_explanation(explanation).to_json()]),
        false => show(&report::result(
            &report,
            &findings.inventory,
            Some(plan),
            receipt.as_ref(),
        )),
    }
    Ok(exit_status)
}

/// Asks at the terminal. Without one the answer is no, and why.
fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        say(format_args!("rescue-agent: {NOBODY_TO_ASK}"));
        return Ok(false);
    }
    let yes = answered("Write this? [y/N] ")?;
    if !yes {
        say(format_args!("Nothing was written."));
    }
    Ok(yes)
}

fn answered(question: &str) -> anyhow::Result<bool> {
    eprint!("{question}");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("reading the answer from the terminal")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// How a command looks at the disks.
struct Request {
    access: Access,
    /// The recovery key that was given.
    key: Option<RecoveryKey>,
}

/// What a command found.
struct Findings {
    host: Option<Host>,
    inventory: Inventory,
    /// Kept until the run ends: what was looked at is what is written.
    _locks: Option<Locks>,
}

impl Findings {
    /// The disks named, or all of this machine; on the machine they are from, if `snapshot` is one.
    /// Nobody else may write to them meanwhile if this run is to.
    fn at(common: &Common, snapshot: Option<&Path>, request: &Request) -> anyhow::Result<Self> {
        match snapshot {
            Some(snapshot) => Self::elsewhere(&common.disks, snapshot, request),
            None => Self::here(&common.disks, request),
        }
    }

    /// This machine counts only if every disk is one of its own: an image has no place in it.
    fn here(disks: &[PathBuf], request: &Request) -> anyhow::Result<Self> {
        let named: Vec<PathBuf> = disks
            .iter()
            .map(|path| real_path(path))
            .collect::<anyhow::Result<_>>()?;
        let machine = Host::read(Path::new("/"));
        let paths = match named.is_empty() {
            true => machine.disks.iter().map(|disk| disk.node.clone()).collect(),
            false => each_once(named),
        };
        let host = paths
            .iter()
            .all(|path| machine.disk(path).is_some())
            .then_some(machine);
        let mut findings = Self::of(&paths, host, request)?;
        findings.relate();
        if findings.host.is_some() {
            firmware::order::note(Path::new("/"), &mut findings.inventory);
        }
        Ok(findings)
    }

    /// Images, or disks that were carried here, in their places on a saved machine.
    fn elsewhere(disks: &[PathBuf], snapshot: &Path, request: &Request) -> anyhow::Result<Self> {
        let host = Host::load(snapshot).map_err(InvalidRequest::refused)?;
        let (mut paths, mut nodes) = (Vec::new(), Vec::new());
        for disk in disks {
            let (path, node) = image_and_node(disk);
            paths.push(real_path(&path)?);
            nodes.push(node);
        }
        let mut findings = Self::of(&paths, Some(host), request)?;
        if let Some(host) = &mut findings.host {
            assign_images(host, &findings.inventory, &nodes).map_err(InvalidRequest::refused)?;
        }
        findings.relate();
        Ok(findings)
    }

    fn of(paths: &[PathBuf], host: Option<Host>, request: &Request) -> anyhow::Result<Self> {
        let root = Path::new("/");
        let locks = match request.access {
            Access::Read => None,
            Access::Write => Some(Locks::take(root, paths)?),
        };
        let mut inventory = discover::discover_with(paths, &SystemDisks, request.key.as_ref());
        discover::note_uses(&mut inventory, root);
        discover::note_partitions(&mut inventory, root);
        Ok(Self {
            host,
            inventory,
            _locks: locks,
        })
    }

    /// Several paths to a disk, and copies of one, show where the machine is known.
    fn relate(&mut self) {
        if let Some(host) = &self.host {
            copies::relate(&mut self.inventory, host);
        }
    }

    /// Reads a selection; where it is none, says what there is to select.
    fn selection(&self, text: &str) -> anyhow::Result<Selection> {
        text.parse().map_err(|error| {
            let there = plan::passed_through(&self.inventory, self.host.as_ref());
            let there = if there.is_empty() { "nothing" } else { &there };
            InvalidRequest::refused(format!("--devices: {error}. Passed through: {there}"))
        })
    }

    fn explanation(&self, plan: &Plan, wanted: bool) -> Vec<Line> {
        match wanted {
            true => report::explain(&self.inventory, self.host.as_ref(), plan),
            false => Vec::new(),
        }
    }

    fn report(
        &self,
        command: Command,
        plan: &Plan,
        receipt: Option<&repair::Receipt>,
        proof: Proof,
    ) -> Report {
        let report = Report::new(
            command,
            &self.inventory,
            self.host.as_ref(),
            Some(plan),
            receipt,
            proof.broken,
            proof.after.as_ref(),
        );
        match &self.host {
            Some(host) if !host.elsewhere => {
                report.with_secure_boot(SecureBoot::of(Path::new("/")))
            }
            _ => report,
        }
    }
}

/// Leaves out what is the same disk under another name: a link, or a loop device over an image.
fn each_once(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let is_new = |path: &PathBuf| match origin::identity(Path::new("/"), path) {
        Ok(identity) if seen.contains(&identity) => false,
        Ok(identity) => {
            seen.push(identity);
            true
        }
        // What is wrong with it is said when it is opened.
        Err(_) => true,
    };
    paths.into_iter().filter(is_new).collect()
}

/// Splits `disk.img=/dev/sda`; a path that exists as it stands is no such pair.
fn image_and_node(disk: &Path) -> (PathBuf, Option<PathBuf>) {
    let pair = disk
        .to_str()
        .filter(|_| !disk.exists())
        .and_then(|text| text.rsplit_once('='))
        .filter(|(_, node)| node.starts_with('/'));
    match pair {
        Some((image, node)) => (image.into(), Some(node.into())),
        None => (disk.to_owned(), None),
    }
}

/// Named places first: what is left may then fit by its size.
fn assign_images(
    host: &mut Host,
    inventory: &Inventory,
    nodes: &[Option<PathBuf>],
) -> Result<(), AssignError> {
    let all = || inventory.disks.iter().zip(nodes);
    for (disk, node) in all() {
        if let Some(node) = node {
            host.assign(&disk.path, node)?;
        }
    }
    for (disk, _) in all().filter(|(_, node)| node.is_none()) {
        host.assign_by_size(&disk.path, disk.size)?;
    }
    Ok(())
}

/// The path behind links such as `/dev/disk/by-id/…`.
fn real_path(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("{}: cannot be opened", path.display()))
}

/// Results, on standard output. One who has stopped reading does not change what was done.
fn show(lines: &[impl fmt::Display]) {
    let mut out = io::stdout().lock();
    let shown = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
    match shown.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => say(format_args!(
            "rescue-agent: the result could not be shown: {error}"
        )),
        _ => {}
    }
}
