//! The report as values: what `--json` prints, what goes over the serial line.

use std::collections::HashSet;

use serde::Serialize;

use super::Line;
use super::advice;
use super::keys::{KeyGiven, key_given};
use super::listed::listed;
use crate::disk::partition::TableKind;
use crate::firmware::SecureBoot;
use crate::host::{Host, SystemInfo};
use crate::inventory::{ArchiveFile, Bank, Disk, Inventory, NoTable, SameInstallation, UndoCopy};
use crate::plan::{
    Action, BankPlan, Cause, ComesBack, DeviceChange, DeviceIdentity, Imported, Judged, Need,
    NextStart, Plan, Recipe, Request, Verdict,
};
use crate::repair::{BankReceipt, Outcome, Receipt};
use crate::report::text::{is_steering, same_installation};

/// The version of the fields below: what is documented under it keeps its name and meaning.
pub const SCHEMA: &str = "esxi-rescue/1";
/// How many times fields were added. Since 2 a report knows suspects and the next start;
/// since 3 all data of ESXi's; since 4 recipes and Secure Boot; since 5 paths, copies and which disk starts;
/// since 6 boot scripts; since 7 a given archive; since 8 how many devices are not listed.
const REVISION: u32 = 8;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Look only.
    Inspect,
    /// Plan a repair and stop.
    DryRun,
    /// Give devices back.
    Revert,
    /// Take the originals back.
    Restore,
}

/// The outcome in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResultWord {
    /// Looked, and wrote nothing because nothing was asked for.
    Inspected,
    /// Planned, and wrote nothing because it was a dry run.
    Planned,
    /// Devices were given back to ESXi.
    Reverted,
    /// The originals are back.
    Restored,
    /// Nothing to do.
    Clean,
    /// At least one bank was refused; nothing was written to it.
    Refused,
    /// A write or its verification failed.
    Failed,
    /// No ESXi boot bank anywhere.
    NoneFound,
    /// Writing begins; how it ended is not known yet.
    Started,
}

impl ResultWord {
    /// The exit status of the command line.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Inspected | Self::Planned | Self::Reverted | Self::Restored | Self::Clean => 0,
            Self::NoneFound => 3,
            Self::Refused => 4,
            Self::Failed => 5,
            Self::Started => 1,
        }
    }

    /// As it stands in JSON and in the last line on the serial console.
    pub fn word(self) -> &'static str {
        match self {
            Self::Inspected => "inspected",
            Self::Planned => "planned",
            Self::Reverted => "reverted",
            Self::Restored => "restored",
            Self::Clean => "clean",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NoneFound => "none-found",
            Self::Started => "started",
        }
    }
}

/// The line by which a program that reads the serial console knows how it ended.
pub fn last_line(result: ResultWord, banks: usize, devices: usize) -> String {
    let result = result.word();
    format!("esxi-rescue: result={result} banks={banks} devices={devices}")
}

/// Everything a run saw and did.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    revision: u32,
    version: &'static str,
    command: Command,
    /// The outcome in one word.
    pub result: ResultWord,
    exit_status: u8,
    summary: String,
    next_steps: Vec<String>,
    host: Option<SystemInfo>,
    disks: Vec<DiskReport>,
    same_installations: Vec<SameInstallationReport>,
    starts_first: Option<String>,
    next_starts: Vec<NextStartReport>,
    devices: Vec<DeviceReport>,
    devices_not_listed: usize,
    recipes: Vec<RecipeReport>,
    source: Option<SourceReport>,
    /// Whether this start ran with Secure Boot.
    secure_boot: Option<SecureBoot>,
    #[serde(skip)]
    sealed_by_tpm: bool,
    boot_scripts: Vec<BootScriptReport>,
    banks_changed: usize,
    devices_changed: usize,
    /// Promises that the verification did not find kept.
    broken_promises: Vec<String>,
    /// What could not be read as the loader would, as lines for a person.
    #[serde(skip)]
    loader_unread: Vec<String>,
    /// The reasoning behind the verdicts, where it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explanation: Vec<String>,
    /// What only the rescue image adds: drivers, waiting, timings.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct DiskReport {
    path: String,
    other_paths: Vec<String>,
    world_wide_ids: Vec<String>,
    size_bytes: u64,
    model: Option<String>,
    serial: Option<String>,
    pci_path: Vec<Vec<String>>,
    summary: String,
    in_use: Option<String>,
    no_disk: Option<NoDiskReport>,
    partition_table: Option<TableReport>,
    boot_entry: Option<String>,
    boots_next: Option<u32>,
    boots_after_rollback: Option<u32>,
    datastores: Vec<u32>,
    esxi_data: Vec<EsxiDataReport>,
    unreadable: Vec<UnreadableReport>,
    suspects: Vec<SuspectReport>,
    boots_next_uncertain: bool,
    banks: Vec<BankReport>,
}

#[derive(Debug, Serialize)]
struct SameInstallationReport {
    disks: Vec<String>,
    originals: Vec<String>,
    text: String,
}

#[derive(Debug, Serialize)]
struct EsxiDataReport {
    partition: u32,
    kind: String,
}

#[derive(Debug, Serialize)]
struct NoDiskReport {
    what: String,
    advice: String,
    command: Option<String>,
}

#[derive(Debug, Serialize)]
struct SuspectReport {
    partition: u32,
    why: String,
    loader_takes_it: bool,
}

#[derive(Debug, Serialize)]
struct NextStartReport {
    disk: String,
    partition: Option<u32>,
    good: bool,
    ends: Option<String>,
    passed_through: Vec<StillPassedReport>,
    not_listed: usize,
    unread: Vec<String>,
    unless_partitions: Vec<u32>,
    other_bank: Option<u32>,
}

#[derive(Debug, Serialize)]
struct StillPassedReport {
    device: String,
    why_needed: String,
    cause: &'static str,
}

#[derive(Debug, Serialize)]
struct RecipeReport {
    disk: String,
    partition: u32,
    bank_uuid: String,
    controllers: Vec<String>,
    commands: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SourceReport {
    place: String,
    sha256: String,
    encryption_mode: Option<String>,
    key_id: Option<String>,
    as_it_is: bool,
    trusted: bool,
}

#[derive(Debug, Serialize)]
struct UnreadableReport {
    partition: u32,
    why: String,
}

#[derive(Debug, Serialize)]
struct TableReport {
    kind: &'static str,
    sector_bytes: u32,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BankReport {
    partition: u32,
    uuid: String,
    build: String,
    bootstate: String,
    updated: u32,
    standing: String,
    boots_next: bool,
    volume_problem: Option<String>,
    volume_notes: Vec<String>,
    interrupted_repair: bool,
    archives: Vec<ArchiveReport>,
    missing_archives: Vec<String>,
    action: &'static str,
    outcome: &'static str,
    why: Option<String>,
    remedy: Option<String>,
    in_force: Option<String>,
    settled_clusters: Option<usize>,
    changes: Vec<ChangeReport>,
}

#[derive(Debug, Serialize)]
struct ArchiveReport {
    name: String,
    size_bytes: u32,
    modified: String,
    sha256: Option<String>,
    encrypted: Option<bool>,
    encryption_mode: Option<String>,
    key_id: Option<String>,
    recovery_key: Option<&'static str>,
    left_uncompressed: Option<bool>,
    saved_count: Option<u64>,
    saved_date: Option<String>,
    store_saved_in_this_bank: Option<bool>,
    problem: Option<String>,
    undo_copy: Option<UndoReport>,
    set_aside: Vec<UndoReport>,
    made_anew: bool,
}

#[derive(Debug, Serialize)]
struct UndoReport {
    name: String,
    belongs: bool,
    size_bytes: u32,
    modified: String,
    sha256: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct ChangeReport {
    file: String,
    before_sha256: String,
    after_sha256: String,
    devices: Vec<DeviceChangeReport>,
    devices_not_listed: usize,
}

#[derive(Debug, Serialize)]
struct DeviceChangeReport {
    address: Option<String>,
    text: String,
    file: &'static str,
}

#[derive(Debug, Serialize)]
struct DeviceReport {
    address: Option<String>,
    text: String,
    files: Vec<&'static str>,
    vmkname: Option<String>,
    present_id: Option<String>,
    present_class: Option<String>,
    present_name: Option<String>,
    recorded_id: Option<String>,
    need: &'static str,
    request: &'static str,
    verdict: &'static str,
    reason: String,
}

#[derive(Debug, Serialize)]
struct BootScriptReport {
    disk: String,
    partitions: Vec<u32>,
    file: String,
    line: usize,
    text: String,
    device: Option<String>,
    need: &'static str,
    summary: String,
}

impl Report {
    /// Puts together what a run saw (`inventory`), meant (`plan`), did (`receipt`), could not prove
    /// (`broken_promises`) and saw afterwards (`after`, where it looked again).
    pub fn new(
        command: Command,
        inventory: &Inventory,
        host: Option<&Host>,
        plan: Option<&Plan>,
        receipt: Option<&Receipt>,
        broken_promises: Vec<String>,
        after: Option<&Inventory>,
    ) -> Self {
        let now = after.unwrap_or(inventory);
        let predicted = command == Command::DryRun;
        let next_starts = plan.map_or_else(Vec::new, |plan| plan.next_starts(now, predicted));
        let unread_is_meant = plan.is_some_and(|plan| plan.put_as_it_is(now));
        let bad_start = match command {
            Command::Inspect => None,
            _ => advice::bad_start(&next_starts, now, unread_is_meant),
        };
        let suspicious = [inventory, now].iter().any(|one| is_suspicious(one));
        let result = match result_word(command, inventory, plan, receipt, &broken_promises) {
            ResultWord::NoneFound if suspicious => ResultWord::Refused,
            ResultWord::Inspected => ResultWord::Inspected,
            ResultWord::Failed => ResultWord::Failed,
            ResultWord::Restored if !suspicious && command == Command::Restore => {
                ResultWord::Restored
            }
            _ if suspicious || bad_start.is_some() => ResultWord::Refused,
            other => other,
        };
        let (bad_start, why_bad) = bad_start.unzip();
        let disks = inventory
            .disks
            .iter()
            .enumerate()
            .map(|(index, disk)| disk_report(index, disk, host, plan, receipt))
            .collect();
        let banks_changed = receipt.map_or(0, banks_changed);
        let devices_changed = plan
            .zip(receipt)
            .map_or(0, |(plan, receipt)| devices_changed(plan, receipt));
        let (devices, devices_not_listed) =
            listed(plan.map_or(&[], |plan| plan.devices.as_slice()));
        Self {
            schema: SCHEMA,
            revision: REVISION,
            version: env!("CARGO_PKG_VERSION"),
            command,
            result,
            exit_status: result.exit_status(),
            summary: advice::summary(
                result,
                inventory,
                plan,
                (banks_changed, devices_changed),
                why_bad,
            )
            .to_string(),
            next_steps: [
                advice::for_no_disks(inventory),
                advice::next_steps(result, plan, bad_start),
            ]
            .concat(),
            host: host.map(|host| host.name_plate.clone()),
            disks,
            same_installations: inventory
                .same_installations
                .iter()
                .map(|same| same_installation_report(same, inventory))
                .collect(),
            starts_first: inventory
                .starts_first
                .map(|disk| inventory.disks[disk].path.display().to_string()),
            next_starts: next_starts
                .iter()
                .map(|start| next_start_report(start, now))
                .collect(),
            devices: devices.iter().map(device_report).collect(),
            devices_not_listed,
            recipes: plan
                .map(|plan| plan.recipes.iter().map(recipe_report).collect())
                .unwrap_or_default(),
            source: plan
                .and_then(|plan| plan.import.as_deref())
                .map(source_report),
            secure_boot: None,
            sealed_by_tpm: [inventory, now].iter().any(|one| one.is_sealed_by_tpm()),
            boot_scripts: plan
                .iter()
                .flat_map(|plan| &plan.comes_back)
                .map(|line| boot_script_report(line, inventory))
                .collect(),
            banks_changed,
            devices_changed,
            broken_promises,
            loader_unread: loader_unread([Some(inventory), after]),
            explanation: Vec::new(),
            image: None,
        }
    }

    /// The same as a note from before the first write: what is about to be done. Who finds it as the
    /// last word knows that the run was cut off.
    pub fn begun(mut self) -> Self {
        self.result = ResultWord::Started;
        self.exit_status = self.result.exit_status();
        self.summary = advice::Sentence::Started.to_string();
        self.next_steps = advice::next_steps(self.result, None, None);
        self
    }

    /// Adds what the firmware says of this start, and what follows from it before ESXi starts: a host
    /// whose configuration is sealed by its TPM does not start without the Secure Boot that it had.
    pub fn with_secure_boot(mut self, secure_boot: SecureBoot) -> Self {
        let warning = Some(secure_boot).filter(|_| self.sealed_by_tpm);
        let step = warning.and_then(advice::before_esxi_starts);
        self.next_steps.splice(0..0, step);
        self.secure_boot = Some(secure_boot);
        self
    }

    /// Adds what only the rescue image knows.
    pub fn with_image(mut self, image: serde_json::Value) -> Self {
        self.image = Some(image);
        self
    }

    /// Adds the reasoning behind the verdicts, line by line.
    pub fn with_explanation(mut self, lines: Vec<Line>) -> Self {
        self.explanation = lines.into_iter().map(|line| line.text).collect();
        self
    }

    /// How it ended, in one sentence.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Whether it says how a host with a sealed configuration helps itself.
    pub fn has_recipes(&self) -> bool {
        !self.recipes.is_empty()
    }

    /// What the administrator can do now, one sentence each.
    pub fn next_steps(&self) -> &[String] {
        &self.next_steps
    }

    /// Promises that the verification did not find kept, in words.
    pub fn broken_promises(&self) -> &[String] {
        &self.broken_promises
    }

    /// Lines of what could not be read as ESXi's loader would.
    pub(super) fn loader_unread(&self) -> &[String] {
        &self.loader_unread
    }

    /// The JSON text. It goes to terminals too, so it holds nothing that steers one.
    pub fn to_json(&self) -> String {
        // Plain values of owned strings and numbers: there is nothing that could fail.
        let json = serde_json::to_string_pretty(self)
            .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        let mut harmless = String::with_capacity(json.len());
        for c in json.chars() {
            // Strings cannot hold a newline as it is; all of those are the layout's. Every other
            // steering character stands in a string, and is below 0x10000.
            match c != '\n' && is_steering(c) {
                true => harmless.push_str(&format!("\\u{:04x}", u32::from(c))),
                false => harmless.push(c),
            }
        }
        harmless
    }

    /// The last line on the serial console.
    pub fn last_line(&self) -> String {
        last_line(self.result, self.banks_changed, self.devices_changed)
    }
}

fn loader_unread(inventories: [Option<&Inventory>; 2]) -> Vec<String> {
    let unread = inventories
        .into_iter()
        .flatten()
        .flat_map(Inventory::loader_unread);
    let lines = unread.map(|(name, why)| {
        let why = why.to_owned();
        advice::Unread::Loader { name, why }.to_string()
    });
    lines.collect()
}

/// Whether there is something that may be a bank and is not accepted as one.
fn is_suspicious(inventory: &Inventory) -> bool {
    inventory.suspects().next().is_some()
        || inventory.unreadable().next().is_some()
        || inventory.loader_unread().next().is_some()
}

fn next_start_report(start: &NextStart, inventory: &Inventory) -> NextStartReport {
    let (still, not_listed) = listed(&start.passed_through);
    let still = still.iter().map(|still| StillPassedReport {
        device: still.device.clone(),
        why_needed: still.why_needed.clone(),
        cause: match still.cause {
            Cause::LeftByRequest => "left-by-request",
            Cause::NotRepaired => "not-repaired",
            Cause::Unsure => "unsure",
        },
    });
    let unread = start
        .unread
        .iter()
        .map(|(name, why)| format!("{name}: {why}"));
    NextStartReport {
        disk: inventory.disks[start.disk].path.display().to_string(),
        partition: start.partition,
        good: start.is_good(),
        ends: start.ends.clone(),
        passed_through: still.collect(),
        not_listed,
        unread: unread.collect(),
        unless_partitions: start.unless.clone(),
        other_bank: start.other,
    }
}

fn source_report(import: &Imported) -> SourceReport {
    let seal = import.seal.as_ref();
    SourceReport {
        place: import.place.clone(),
        sha256: import.sha256.clone(),
        encryption_mode: seal.map(|seal| seal.mode.to_string()),
        key_id: seal.and_then(|seal| seal.key_id.clone()),
        as_it_is: import.as_it_is,
        trusted: import.trusted,
    }
}

fn recipe_report(recipe: &Recipe) -> RecipeReport {
    let steps = recipe.steps().into_iter();
    RecipeReport {
        disk: recipe.disk.clone(),
        partition: recipe.partition,
        bank_uuid: recipe.bank_uuid.clone(),
        controllers: recipe.controllers.iter().map(ToString::to_string).collect(),
        commands: steps.map(|step| step.command).collect(),
    }
}

fn result_word(
    command: Command,
    inventory: &Inventory,
    plan: Option<&Plan>,
    receipt: Option<&Receipt>,
    broken_promises: &[String],
) -> ResultWord {
    let unreadable =
        inventory.unreadable().next().is_some() || inventory.unreadable_disks().next().is_some();
    if inventory.banks().next().is_none() && !unreadable {
        return ResultWord::NoneFound;
    }
    let outcomes = || {
        receipt
            .iter()
            .flat_map(|receipt| receipt.banks.iter().map(|bank| &bank.outcome))
    };
    let refused_by_plan = plan.is_some_and(|plan| {
        plan.banks
            .iter()
            .any(|bank| matches!(bank.action, Action::Refuse { .. }))
    });
    if !broken_promises.is_empty()
        || outcomes().any(|outcome| matches!(outcome, Outcome::Failed { .. }))
    {
        return ResultWord::Failed;
    }
    if unreadable
        || refused_by_plan
        || outcomes().any(|outcome| matches!(outcome, Outcome::Refused { .. }))
    {
        return ResultWord::Refused;
    }
    match command {
        Command::Inspect => ResultWord::Inspected,
        Command::DryRun if plan.is_some_and(Plan::writes) => ResultWord::Planned,
        _ if outcomes().any(|outcome| *outcome == Outcome::Replaced) => {
            match plan.is_some_and(Plan::takes_as_it_is) {
                true => ResultWord::Restored,
                false => ResultWord::Reverted,
            }
        }
        _ if outcomes().any(|outcome| *outcome == Outcome::Restored) => ResultWord::Restored,
        _ => ResultWord::Clean,
    }
}

fn banks_changed(receipt: &Receipt) -> usize {
    let changed =
        |bank: &&BankReceipt| matches!(bank.outcome, Outcome::Replaced | Outcome::Restored);
    receipt.banks.iter().filter(changed).count()
}

/// How many different devices were given back.
fn devices_changed(plan: &Plan, receipt: &Receipt) -> usize {
    let mut seen: HashSet<DeviceIdentity> = HashSet::new();
    for (bank, receipt) in plan.banks.iter().zip(&receipt.banks) {
        let (Action::Replace(changes), Outcome::Replaced) = (&bank.action, &receipt.outcome) else {
            continue;
        };
        let devices = changes.iter().flat_map(|change| &change.devices);
        seen.extend(devices.map(DeviceChange::identity));
    }
    seen.len()
}

fn disk_report(
    index: usize,
    disk: &Disk,
    host: Option<&Host>,
    plan: Option<&Plan>,
    receipt: Option<&Receipt>,
) -> DiskReport {
    let node = host.and_then(|host| host.disk(&disk.path));
    let number = |bank: Option<usize>| bank.map(|bank| disk.banks[bank].partition);
    DiskReport {
        path: disk.path.display().to_string(),
        other_paths: disk
            .other_paths
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        world_wide_ids: node.map_or_else(Vec::new, |node| node.world_wide_ids.clone()),
        size_bytes: disk.size,
        model: node.and_then(|node| node.model.clone()),
        serial: node.and_then(|node| node.serial.clone()),
        pci_path: host
            .iter()
            .flat_map(|host| disk.paths().filter_map(|path| host.disk(path)))
            .flat_map(|node| &node.pci_paths)
            .map(|path| path.iter().map(ToString::to_string).collect())
            .collect(),
        summary: disk.summary(),
        in_use: disk.use_in_words(),
        no_disk: no_disk_report(disk),
        partition_table: disk.table.as_ref().ok().map(|table| TableReport {
            kind: match table.kind {
                TableKind::Gpt { .. } => "gpt",
                TableKind::Mbr => "mbr",
            },
            sector_bytes: table.sector_size.bytes(),
            warnings: table.warnings.iter().map(ToString::to_string).collect(),
        }),
        boot_entry: disk.boot_entry.clone(),
        boots_next: disk.next_boot.partition(),
        boots_after_rollback: number(disk.boots_after_rollback),
        datastores: disk.datastores().collect(),
        esxi_data: disk
            .esxi_data()
            .map(|(partition, kind)| EsxiDataReport {
                partition,
                kind: kind.to_string(),
            })
            .collect(),
        unreadable: disk
            .unreadable
            .iter()
            .map(|(partition, why)| UnreadableReport {
                partition: *partition,
                why: why.clone(),
            })
            .collect(),
        suspects: disk
            .suspects
            .iter()
            .map(|suspect| SuspectReport {
                partition: suspect.partition,
                why: suspect.why.clone(),
                loader_takes_it: suspect.may_boot,
            })
            .collect(),
        boots_next_uncertain: !disk.unreadable.is_empty(),
        banks: (0..disk.banks.len())
            .map(|bank| bank_report(disk, index, bank, plan, receipt))
            .collect(),
    }
}

fn same_installation_report(
    same: &SameInstallation,
    inventory: &Inventory,
) -> SameInstallationReport {
    let paths = |disks: &[usize]| {
        let paths = disks.iter().map(|disk| &inventory.disks[*disk].path);
        paths.map(|path| path.display().to_string()).collect()
    };
    SameInstallationReport {
        disks: paths(&same.disks),
        originals: paths(&same.originals),
        text: same_installation(same, inventory),
    }
}

fn no_disk_report(disk: &Disk) -> Option<NoDiskReport> {
    let Err(NoTable::NoDisk(what)) = &disk.table else {
        return None;
    };
    let remedy = what.remedy(&disk.path, disk.size);
    Some(NoDiskReport {
        what: what.to_string(),
        advice: remedy.advice,
        command: remedy.command,
    })
}

fn bank_report(
    disk: &Disk,
    disk_index: usize,
    index: usize,
    plan: Option<&Plan>,
    receipt: Option<&Receipt>,
) -> BankReport {
    let bank = &disk.banks[index];
    let position = plan.and_then(|plan| {
        plan.banks
            .iter()
            .position(|plan| (plan.disk, plan.bank) == (disk_index, index))
    });
    let planned = position.and_then(|position| plan?.banks.get(position));
    let done = position.and_then(|position| receipt?.banks.get(position));
    let (why, remedy) = reasons(planned, done);
    BankReport {
        partition: bank.partition,
        uuid: bank.marker.to_string(),
        build: bank.boot_cfg.build.clone().unwrap_or_default(),
        bootstate: bank.boot_cfg.bootstate.to_string(),
        updated: bank.boot_cfg.updated,
        standing: bank.standing.to_string(),
        boots_next: disk.boots_next == Some(index),
        volume_problem: bank.volume.as_ref().err().map(ToString::to_string),
        volume_notes: bank
            .volume
            .iter()
            .flat_map(|volume| &volume.notes)
            .map(ToString::to_string)
            .collect(),
        missing_archives: bank.missing.iter().map(ToString::to_string).collect(),
        interrupted_repair: interrupted(bank),
        archives: bank
            .archives
            .iter()
            .map(|archive| archive_report(bank, archive))
            .collect(),
        action: planned.map_or("none", |plan| match plan.action {
            Action::Nothing { .. } if plan.settle => "settle",
            Action::Nothing { .. } => "nothing",
            Action::Refuse { .. } => "refuse",
            Action::Replace(_) => "replace",
            Action::Restore(_) => "restore",
        }),
        outcome: done.map_or("none", |receipt| match receipt.outcome {
            Outcome::Untouched => "untouched",
            Outcome::Refused { .. } => "refused",
            Outcome::Replaced => "replaced",
            Outcome::Restored => "restored",
            Outcome::Failed { .. } => "failed",
        }),
        why,
        remedy,
        in_force: done.and_then(|receipt| match &receipt.outcome {
            Outcome::Failed {
                in_force,
                exchanged,
                ..
            } if exchanged.is_empty() => Some(in_force.to_string()),
            Outcome::Failed {
                in_force,
                exchanged,
                ..
            } => Some(format!(
                "{}: replaced; the other archive: {in_force}",
                exchanged.join(", ")
            )),
            _ => None,
        }),
        settled_clusters: done.and_then(|receipt| receipt.settled),
        changes: planned.map(change_reports).unwrap_or_default(),
    }
}

fn interrupted(bank: &Bank) -> bool {
    bank.volume.as_ref().is_ok_and(|volume| volume.unsettled)
}

fn reasons(
    planned: Option<&BankPlan>,
    done: Option<&BankReceipt>,
) -> (Option<String>, Option<String>) {
    match (
        done.map(|receipt| &receipt.outcome),
        planned.map(|plan| &plan.action),
    ) {
        (Some(Outcome::Failed { why, .. }), _) => (Some(why.clone()), None),
        (_, Some(Action::Refuse { why, remedy })) => (Some(why.clone()), Some(remedy.clone())),
        (Some(Outcome::Refused { why }), _) => (Some(why.clone()), None),
        (_, Some(Action::Nothing { why })) => (Some(why.clone()), None),
        _ => (None, None),
    }
}

fn archive_report(bank: &Bank, archive: &ArchiveFile) -> ArchiveReport {
    let content = archive.content.as_ref().ok();
    let saved = content.and_then(|content| content.saved.as_ref());
    ArchiveReport {
        name: archive.name.to_string(),
        size_bytes: archive.size,
        modified: archive.modified.to_string(),
        sha256: archive.sha256.clone(),
        encrypted: match archive.seal() {
            Some(_) => Some(true),
            None => content.map(|_| false),
        },
        encryption_mode: archive.seal().map(|seal| seal.mode.to_string()),
        key_id: archive.seal().and_then(|seal| seal.key_id.clone()),
        recovery_key: key_given(archive).map(|given| match given {
            KeyGiven::No => "not-given",
            KeyGiven::Opens => "opens",
            KeyGiven::Other => "other",
        }),
        left_uncompressed: content.map(|content| content.uncompressed),
        saved_count: saved.map(|saved| saved.count),
        saved_date: saved.and_then(|saved| saved.modified.clone()),
        store_saved_in_this_bank: content
            .and_then(|content| content.store_bank.as_ref())
            .map(|uuid| uuid.eq_ignore_ascii_case(&bank.marker.hex32())),
        problem: archive.content.as_ref().err().map(ToString::to_string),
        undo_copy: archive.undo.as_ref().map(undo_report),
        set_aside: archive.set_aside.iter().map(undo_report).collect(),
        made_anew: archive.made_anew,
    }
}

fn undo_report(undo: &UndoCopy) -> UndoReport {
    let content = undo.content.as_ref();
    let problem = content.map_or_else(
        |why| Some(why.to_string()),
        |content| content.problem.clone(),
    );
    UndoReport {
        name: undo.entry.name().to_string(),
        belongs: undo.belongs,
        size_bytes: undo.entry.size(),
        modified: undo.entry.modified().to_string(),
        sha256: undo
            .content
            .as_ref()
            .ok()
            .map(|content| content.sha256.clone()),
        problem,
    }
}

fn change_reports(plan: &BankPlan) -> Vec<ChangeReport> {
    match &plan.action {
        Action::Replace(changes) => changes
            .iter()
            .map(|change| ChangeReport {
                file: change.name.to_string(),
                before_sha256: change.before.clone(),
                after_sha256: change.after.clone(),
                devices: listed(&change.devices)
                    .0
                    .iter()
                    .map(|device| DeviceChangeReport {
                        address: device.address.map(|address| address.to_string()),
                        text: device.text.to_string(),
                        file: device.file,
                    })
                    .collect(),
                devices_not_listed: listed(&change.devices).1,
            })
            .collect(),
        Action::Restore(restores) => restores
            .iter()
            .map(|restore| ChangeReport {
                file: restore.name.to_string(),
                before_sha256: restore.before.clone(),
                after_sha256: restore.after.clone(),
                devices: Vec::new(),
                devices_not_listed: 0,
            })
            .collect(),
        Action::Nothing { .. } | Action::Refuse { .. } => Vec::new(),
    }
}

fn boot_script_report(line: &ComesBack, inventory: &Inventory) -> BootScriptReport {
    BootScriptReport {
        disk: inventory.disks[line.disk].path.display().to_string(),
        partitions: line.partitions.clone(),
        file: line.mark.file.clone(),
        line: line.mark.line,
        text: line.mark.words.clone(),
        device: line.mark.device.map(|device| device.to_string()),
        need: line.need.as_ref().map_or("unknown", need_word),
        summary: advice::BootScript::of(line).to_string(),
    }
}

fn need_word(need: &Need) -> &'static str {
    match need {
        Need::Needed { .. } => "needed",
        Need::NotNeeded { .. } => "not-needed",
        Need::Absent => "absent",
        Need::Unknown { .. } => "unknown",
    }
}

fn device_report(device: &Judged) -> DeviceReport {
    DeviceReport {
        address: device.address.map(|address| address.to_string()),
        text: device.text.to_string(),
        files: device.files.clone(),
        vmkname: device.vmkname.clone(),
        present_id: device
            .present
            .as_ref()
            .map(|function| function.id.to_string()),
        present_class: device
            .present
            .as_ref()
            .map(|function| function.class.to_string()),
        present_name: device
            .present
            .as_ref()
            .and_then(|function| function.name.clone()),
        recorded_id: device.was.map(|id| id.to_string()),
        need: need_word(&device.need),
        request: match device.request {
            Request::ByNeed => "by-need",
            Request::Chosen(_) => "chosen",
            Request::Excepted(_) => "excepted",
            Request::NotNamed => "not-named",
        },
        verdict: match device.verdict {
            Verdict::GiveBack => "give-back",
            Verdict::Leave => "leave",
            Verdict::Stale => "stale",
            Verdict::Unsure => "unsure",
        },
        reason: device.reason.clone(),
    }
}
