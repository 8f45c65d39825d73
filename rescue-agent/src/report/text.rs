//! The report as lines for a person, at most 80 columns wherever the content allows.

use std::collections::HashSet;

use super::ResultWord;
use super::advice::{BootScript, Unread};
use super::keys::{KeyGiven, key_given};
use super::line::{Line, Mood, Tone, WIDTH, laid_out, shortened};
use super::listed::{listed, more_line};
use crate::archive::{BackupCounter, Seal};
use crate::host::{Host, PciFunction};
use crate::inventory::{ArchiveFile, Bank, Disk, Inventory, SameInstallation, Suspect, UndoCopy};
use crate::plan::{
    Action, BankPlan, ComesBack, DeviceChange, DeviceIdentity, FileChange, Imported, Judged, Plan,
    RestoreFrom, Verdict,
};
use crate::repair::{Outcome, Receipt};
use crate::report::Report;

/// Devices that stay as they are and are still shown one by one where little is said.
const BRIEF_DEVICES: usize = 4;
/// Where the text about a device begins where little is said.
const DEVICE_TEXT: usize = 23;

/// How the standing begins of the bank that boots next.
const NEXT: &str = "boots next";

/// Makes a line that holds text from a disk harmless on a console: characters that steer a
/// terminal, end the line or turn the direction of the text are spelled out.
pub fn escape(line: &str) -> String {
    line.chars()
        .flat_map(|c| {
            let spell = is_steering(c);
            let kept = (!spell).then_some(c);
            kept.into_iter()
                .chain(spell.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}

/// Whether a terminal might take a character for an order.
pub(super) fn is_steering(c: char) -> bool {
    c.is_control() || turns_direction(c)
}

/// Unicode's line and paragraph separators, and its characters for writing from right to left
/// (Unicode Standard Annex 9), which can make a text read as another one.
fn turns_direction(c: char) -> bool {
    matches!(
        c,
        '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// How much of what was found is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What a person needs who has to decide: the disks of ESXi, and per bank what boots when.
    /// Without an ESXi disk, every disk and why it is none.
    Brief,
    /// Everything.
    Full,
}

/// What was found: disks and banks.
pub fn findings(inventory: &Inventory, host: Option<&Host>, detail: Detail) -> Vec<Line> {
    let mut lines = Vec::new();
    let any_of_esxi = inventory.disks.iter().any(Disk::belongs_to_esxi);
    let shown = |disk: &&Disk| detail == Detail::Full || !any_of_esxi || disk.belongs_to_esxi();
    for (place, disk) in inventory.disks.iter().enumerate() {
        if !shown(&disk) {
            continue;
        }
        let from = match inventory.is_one_of_several(place) {
            true => " from this disk",
            false => "",
        };
        lines.push(disk_line(disk, host));
        lines.extend(paths_line(disk).filter(|_| disk.belongs_to_esxi()));
        lines.extend(disk.use_in_words().map(warning));
        if let Ok(table) = &disk.table {
            let warnings = table.warnings.iter().filter(|_| disk.belongs_to_esxi());
            lines.extend(warnings.map(warning));
        }
        for (index, bank) in disk.banks.iter().enumerate() {
            lines.extend(bank_lines((disk, from), index, bank, detail));
        }
        lines.extend(disk.suspects.iter().map(suspect_line));
    }
    if inventory.disks.is_empty() {
        lines.push(Line::plain("Disk     none"));
    }
    lines.extend(start_line(inventory));
    for same in &inventory.same_installations {
        let tone = match same.originals.is_empty() {
            true => Tone::Warning,
            false => Tone::Plain,
        };
        let text = format!("Same     {}", same_installation(same, inventory));
        lines.push(Line::new(tone, text));
    }
    laid_out(&lines)
}

/// Which of several disks with banks the firmware starts, where it says so.
fn start_line(inventory: &Inventory) -> Option<Line> {
    let several = inventory.disks.iter().filter(|disk| !disk.banks.is_empty());
    let disk = &inventory.disks[inventory.starts_first.filter(|_| several.count() > 1)?];
    let (path, entry) = (disk.path.display(), disk.boot_entry.as_ref()?);
    Some(Line::plain(format!(
        "Start    of these disks, the firmware starts {path} first: {entry}"
    )))
}

/// What it means that several disks hold one installation.
pub(super) fn same_installation(same: &SameInstallation, inventory: &Inventory) -> String {
    let names = |wanted: &dyn Fn(&usize) -> bool| {
        let disks = same.disks.iter().filter(|disk| wanted(disk));
        let names = disks.map(|disk| inventory.disks[*disk].path.display().to_string());
        names.collect::<Vec<_>>().join(" and ")
    };
    let originals = names(&|disk| same.originals.contains(disk));
    let copies = names(&|disk| !same.originals.contains(disk));
    let mirror = match same.originals.len() {
        0 => {
            return format!(
                "{copies} hold the same installation, and it is not known from which of them ESXi starts; a repair writes each of them"
            );
        }
        1 => None,
        _ => Some(format!(
            "{originals} are equal, as members of a mirror are; a repair writes each of them"
        )),
    };
    let copy = (!copies.is_empty()).then(|| {
        format!(
            "{copies}, which can be removed, holds a copy of {originals}; a repair writes it, too, because the firmware may start it"
        )
    });
    mirror
        .into_iter()
        .chain(copy)
        .collect::<Vec<_>>()
        .join(". ")
}

/// The other paths to a disk.
fn paths_line(disk: &Disk) -> Option<Line> {
    let others = disk.other_paths.iter();
    let others: Vec<String> = others.map(|path| path.display().to_string()).collect();
    (!others.is_empty()).then(|| {
        Line::plain(format!(
            "         the same disk as {}, by another path; only {} is used",
            others.join(", "),
            disk.path.display()
        ))
    })
}

fn suspect_line(suspect: &Suspect) -> Line {
    let (partition, why) = (suspect.partition, &suspect.why);
    let loader = match suspect.may_boot {
        true => "; ESXi's loader accepts it",
        false => "",
    };
    warning(format!(
        "partition {partition} may be a boot bank but is not accepted as one: {why}{loader}"
    ))
}

/// What may boot instead of the bank that is said to boot next.
fn unless(disk: &Disk) -> String {
    let numbers: Vec<String> = disk
        .unreadable
        .iter()
        .map(|(number, _)| number.to_string())
        .collect();
    match numbers.as_slice() {
        [] => String::new(),
        [one] => format!(", or partition {one} instead, which cannot be read"),
        several => format!(
            ", or one of the partitions {} instead, which cannot be read",
            several.join(", ")
        ),
    }
}

fn warning(text: impl std::fmt::Display) -> Line {
    Line::new(Tone::Warning, format!("         ! {text}"))
}

fn disk_line(disk: &Disk, host: Option<&Host>) -> Line {
    let model = host
        .and_then(|host| host.disk(&disk.path))
        .and_then(|node| node.model.clone());
    let model = model.map(|model| format!(", {model}")).unwrap_or_default();
    let (path, size) = (disk.path.display(), size(disk.size));
    let what = disk.summary();
    Line::plain(format!("Disk     {path} ({size}{model}): {what}"))
}

fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
    let (unit, scale) = UNITS
        .into_iter()
        .find(|(_, scale)| bytes >= *scale)
        .unwrap_or(("KiB", 1 << 10));
    let tenths = bytes * 10 / scale;
    match tenths {
        0..100 => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        _ => format!("{} {unit}", tenths / 10),
    }
}

/// `from` stands behind "boots next" where several disks have banks.
fn bank_lines((disk, from): (&Disk, &str), index: usize, bank: &Bank, detail: Detail) -> Vec<Line> {
    let mut lines = match detail {
        Detail::Brief => bank_briefly((disk, from), index, bank),
        Detail::Full => bank_in_full((disk, from), index, bank),
    };
    match &bank.volume {
        Err(problem) => lines.push(warning(problem)),
        Ok(volume) => {
            if volume.unsettled {
                lines.push(warning(
                    "an interrupted repair left traces; the next one cleans them up",
                ));
            }
            lines.extend(volume.notes.iter().map(warning));
        }
    }
    lines
}

/// One line, and one more for everything out of the ordinary.
fn bank_briefly((disk, from): (&Disk, &str), index: usize, bank: &Bank) -> Vec<Line> {
    let build = bank.boot_cfg.build.as_deref().unwrap_or_default();
    let standing = match (disk.boots_next, disk.boots_after_rollback) {
        (Some(next), _) if next == index => format!("{NEXT}{from}{}", unless(disk)),
        (_, Some(after)) if after == index => "boots after Shift+R".into(),
        _ => bank.standing.to_string(),
    };
    let mut head = format!("  bank {:<2}ESXi {build}  {standing:<19}", bank.partition);
    let mut more = Vec::new();
    for archive in &bank.archives {
        match archive.content.is_ok() {
            true => head.push_str(&format!("  {} {}", archive.name, archive.modified)),
            false => more.extend(archive_problem(archive)),
        }
        more.extend(uncompressed(archive).into_iter().chain(undo_lines(archive)));
    }
    if bank.archives.is_empty() {
        head.push_str("  ");
        head.push_str(&no_archive(bank));
    }
    [vec![Line::plain(head.trim_end())], more].concat()
}

fn bank_in_full((disk, from): (&Disk, &str), index: usize, bank: &Bank) -> Vec<Line> {
    let cfg = &bank.boot_cfg;
    let build = cfg.build.as_deref().unwrap_or_default();
    let standing = match disk.boots_after_rollback == Some(index) {
        true => format!("boots after Shift+R: {}", bank.standing),
        false if disk.boots_next == Some(index) => {
            let standing = bank.standing.to_string();
            let next = format!("{NEXT}{from}");
            format!("{}{}", standing.replacen(NEXT, &next, 1), unless(disk))
        }
        false => bank.standing.to_string(),
    };
    let partition = bank.partition;
    let mut lines = vec![
        Line::plain(format!("  bank {partition:<2}ESXi {build}, {standing}")),
        Line::plain(format!(
            "         bootstate {}, update number {}",
            cfg.bootstate, cfg.updated
        )),
    ];
    lines.extend(bank.archives.iter().flat_map(archive_lines));
    if bank.archives.is_empty() {
        lines.push(Line::plain(format!("         {}", no_archive(bank))));
    }
    lines
}

/// What is said of a bank without an archive.
fn no_archive(bank: &Bank) -> String {
    match bank.missing.first() {
        Some(name) => format!("no {name}, which its boot.cfg loads"),
        None => "no state archive".into(),
    }
}

fn archive_lines(archive: &ArchiveFile) -> Vec<Line> {
    let mut lines: Vec<Line> = archive_problem(archive).into_iter().collect();
    if let Ok(content) = &archive.content {
        let saved = content
            .saved
            .as_ref()
            .map(|saved| format!(", save no. {}{}", saved.count, saved_on(saved)))
            .unwrap_or_default();
        let written = archive.modified;
        lines.push(Line::plain(format!(
            "         {} {} bytes, {written}{saved}",
            archive.name, archive.size
        )));
    }
    lines.extend(archive.seal().map(|seal| seal_line(archive, seal)));
    lines.extend(uncompressed(archive).into_iter().chain(undo_lines(archive)));
    lines
}

/// How an archive is encrypted, and whether the key was there.
fn seal_line(archive: &ArchiveFile, seal: &Seal) -> Line {
    let key_id = seal.key_id.as_deref().unwrap_or("not named");
    let given = match key_given(archive) {
        None => "",
        Some(KeyGiven::No) => ", no recovery key given",
        Some(KeyGiven::Opens) => ", opened by the recovery key",
        Some(KeyGiven::Other) => ", the recovery key given is another one",
    };
    Line::plain(format!(
        "         encrypted: mode {}, key {key_id}{given}",
        seal.mode
    ))
}

fn archive_problem(archive: &ArchiveFile) -> Option<Line> {
    let problem = archive.content.as_ref().err()?;
    Some(warning(format!("{}: {problem}", archive.name)))
}

fn uncompressed(archive: &ArchiveFile) -> Option<Line> {
    let content = archive.content.as_ref().ok()?;
    content
        .uncompressed
        .then(|| warning("left uncompressed by a repair by hand; a repair writes it compressed"))
}

fn undo_lines(archive: &ArchiveFile) -> impl Iterator<Item = Line> {
    let undo = archive.undo.iter().map(|undo| {
        let what = match undo.belongs {
            true => "original of",
            false => "original from before an earlier repair, of",
        };
        copy_line(undo, what)
    });
    let aside = archive
        .set_aside
        .iter()
        .map(|copy| copy_line(copy, "set aside, of"));
    undo.chain(aside)
}

fn copy_line(copy: &UndoCopy, what: &str) -> Line {
    let name = copy.entry.name();
    let problem = match &copy.content {
        Ok(content) => content.problem.clone(),
        Err(why) => Some(why.to_string()),
    };
    match problem {
        None => Line::new(
            Tone::Quiet,
            format!("         {name} {what} {}", copy.entry.modified()),
        ),
        Some(why) => warning(format!("{name} not restorable: {why}")),
    }
}

/// The date that ESXi itself noted beside its counter.
fn saved_on(saved: &BackupCounter) -> String {
    saved
        .modified
        .as_ref()
        .map(|date| format!(" on {date}"))
        .unwrap_or_default()
}

/// What is meant: the verdict on every device, and the work on every bank.
pub fn intentions(inventory: &Inventory, plan: &Plan, detail: Detail) -> Vec<Line> {
    let mut lines = devices(plan, detail);
    let mut plans: Vec<Line> = plan
        .import
        .iter()
        .map(|import| source_line(import))
        .collect();
    // What is the same for several banks of a disk is said once.
    let mut works: Vec<(usize, Vec<Line>, Vec<String>)> = Vec::new();
    for bank in &plan.banks {
        let (disk, work) = (bank.disk, work_lines(bank));
        let number = inventory.disks[disk].banks[bank.bank].partition.to_string();
        let same = |known: &&mut (usize, Vec<Line>, _)| (known.0, &known.1) == (disk, &work);
        match works.iter_mut().find(same) {
            Some((_, _, numbers)) => numbers.push(number),
            None => works.push((disk, work, vec![number])),
        }
    }
    for (disk, work, numbers) in &works {
        plans.extend(plan_lines(&inventory.disks[*disk], numbers, work));
    }
    lines.extend(laid_out(&plans));
    lines
}

fn source_line(import: &Imported) -> Line {
    let hash = &import.sha256[..12.min(import.sha256.len())];
    let trusted = match import.trusted {
        true => ", used without a check that it is from this host",
        false => "",
    };
    Line::plain(format!("Source   {} ({hash}){trusted}", import.place))
}

fn plan_lines(disk: &Disk, numbers: &[String], work: &[Line]) -> Vec<Line> {
    let banks = match numbers {
        [one] => format!("bank {one}"),
        several => format!("banks {}", several.join(", ")),
    };
    let head = format!("Plan     {} {banks}: ", disk.path.display());
    let mut first = Some(head);
    work.iter()
        .map(|line| {
            let head = first.take().unwrap_or_else(|| "         ".into());
            Line::new(line.tone, format!("{head}{line}"))
        })
        .collect()
}

/// The verdict on every device that is passed through, and the boot scripts that pass some through again.
pub fn devices(plan: &Plan, detail: Detail) -> Vec<Line> {
    let (devices, not_listed) = listed(&plan.devices);
    let mut lines = match detail {
        Detail::Full => laid_out(&devices.iter().flat_map(device_in_full).collect::<Vec<_>>()),
        Detail::Brief => devices_briefly(devices),
    };
    lines.extend(more_line(not_listed));
    let scripts = plan.comes_back.iter().flat_map(script_lines);
    lines.extend(laid_out(&scripts.collect::<Vec<_>>()));
    lines
}

/// A line of a boot script that passes a device through again, in its own words.
fn script_lines(line: &ComesBack) -> [Line; 2] {
    let tone = match line.matters() {
        true => Tone::Warning,
        false => Tone::Plain,
    };
    let banks: Vec<String> = line.partitions.iter().map(u32::to_string).collect();
    let banks = match banks.as_slice() {
        [one] => format!("bank {one}"),
        several => format!("banks {}", several.join(", ")),
    };
    [
        Line::new(tone, format!("Script   {banks}: {}", BootScript::of(line))),
        Line::new(Tone::Quiet, format!("         {}", line.mark.words)),
    ]
}

/// Two lines for each device; of many that stay as they are, only their number.
fn devices_briefly(devices: &[Judged]) -> Vec<Line> {
    let many = devices.len() > BRIEF_DEVICES;
    let stays = |device: &&Judged| matches!(device.verdict, Verdict::Leave | Verdict::Stale);
    let (staying, telling): (Vec<&Judged>, Vec<&Judged>) = devices.iter().partition(stays);
    let shown = match many {
        true => telling,
        false => devices.iter().collect(),
    };
    let none_shown = shown.is_empty();
    let mut lines: Vec<Line> = shown.into_iter().flat_map(device_briefly).collect();
    if many && !staying.is_empty() {
        let (number, more) = (staying.len(), if none_shown { "" } else { "more " });
        let stay = if number == 1 { "stays" } else { "stay" };
        let text = format!("Device   {number} {more}that ESXi does not need {stay} passed through");
        lines.push(Line::new(Tone::Quiet, text));
    }
    lines
}

fn device_briefly(device: &Judged) -> Vec<Line> {
    let (address, verdict) = (address_of(device), verdict_words(device.verdict));
    let what = shortened(&what_it_is(device), WIDTH - DEVICE_TEXT);
    let reason = Line::new(
        verdict_tone(device.verdict),
        format!("         {verdict:<12}  {}", device.reason),
    );
    let mut lines = vec![Line::plain(format!("Device   {address:<12}  {what}"))];
    lines.extend(reason.folded(DEVICE_TEXT));
    lines.extend(moved(device));
    lines
}

fn device_in_full(device: &Judged) -> Vec<Line> {
    let address = address_of(device);
    let function = device.present.as_ref();
    let what = function
        .map(|function| format!(" {} {}", function.class, function.id))
        .unwrap_or_default();
    let name = function.and_then(|function| function.name.clone());
    let spelled = match *device.text == *address {
        true => String::new(),
        false => format!(" [{}]", device.text),
    };
    let mut lines = vec![Line::plain(format!("Device   {address}{spelled}{what}"))];
    lines.extend(name.map(|name| Line::plain(format!("         {name}"))));
    lines.push(Line::new(
        verdict_tone(device.verdict),
        format!(
            "         {}: {}",
            verdict_words(device.verdict),
            device.reason
        ),
    ));
    lines.extend(moved(device));
    lines
}

fn moved(device: &Judged) -> Option<Line> {
    let (was, now) = (device.was?, device.present.as_ref()?);
    Some(warning(format!(
        "was {was}, now {}: a card was moved",
        now.id
    )))
}

fn address_of(device: &Judged) -> String {
    let address = device.address.map(|address| address.to_string());
    address.unwrap_or_else(|| device.text.to_string())
}

/// What sits there: class, IDs and, where known, maker and model.
pub fn what_it_is(device: &Judged) -> String {
    let told = |function: &PciFunction| match &function.name {
        Some(name) => format!("{} {} {name}", function.class, function.id),
        None => format!("{} {}", function.class, function.id),
    };
    let recorded = || device.recorded.map(|id| format!("{id}, not there now"));
    let present = device.present.as_deref().map(told);
    present
        .or_else(recorded)
        .unwrap_or_else(|| "unknown".into())
}

/// A verdict as a person reads it.
pub(super) fn verdict_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::GiveBack => "give back",
        Verdict::Leave => "leave",
        Verdict::Stale => "stale, leave",
        Verdict::Unsure => "unsure, leave",
    }
}

fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::GiveBack => Tone::Good,
        Verdict::Unsure => Tone::Warning,
        Verdict::Leave | Verdict::Stale => Tone::Plain,
    }
}

/// The work on a bank, without saying which one.
fn work_lines(plan: &BankPlan) -> Vec<Line> {
    let mut lines = Vec::new();
    if plan.settle {
        lines.push(Line::plain("clean up after an interrupted repair"));
    }
    match &plan.action {
        Action::Nothing { why } => lines.push(Line::plain(format!("nothing to do, {why}"))),
        Action::Refuse { why, remedy } => {
            lines.push(Line::new(Tone::Bad, format!("REFUSED, {why}")));
            lines.push(Line::new(Tone::Warning, format!("what to do: {remedy}")));
        }
        Action::Replace(changes) => lines.extend(
            changes
                .iter()
                .map(|change| Line::new(Tone::Good, change_in_words(change))),
        ),
        Action::Restore(restores) => lines.extend(restores.iter().map(|restore| {
            let from = match &restore.from {
                RestoreFrom::UndoCopy {
                    sets_aside: false, ..
                } => String::new(),
                RestoreFrom::UndoCopy { .. } => ", keep the current archive as a copy".into(),
                RestoreFrom::Copy { place, .. } => format!(", from {place}"),
            };
            let text = format!("{}: restore its original{from}", restore.name);
            Line::new(Tone::Good, text)
        })),
    }
    lines
}

fn change_in_words(change: &FileChange) -> String {
    let name = change.name;
    let devices = addresses(&change.devices).join(", ");
    match (change.taken_from, devices.is_empty()) {
        (None, true) => format!("{name} is replaced by the given archive, unchanged"),
        (None, false) => format!("{name} gives {devices} back to ESXi"),
        (Some(from), true) => format!("{name} is replaced by the one of bank {from}"),
        (Some(from), false) => {
            format!(
                "{name} is replaced by the one of bank {from}, and gives {devices} back to ESXi"
            )
        }
    }
}

/// Each device once, even where two files name it.
fn addresses(devices: &[DeviceChange]) -> Vec<String> {
    let mut seen = HashSet::new();
    let each_once = devices
        .iter()
        .map(DeviceChange::identity)
        .filter(|device| seen.insert(device.clone()));
    let each_once: Vec<DeviceIdentity> = each_once.collect();
    let (devices, more) = listed(&each_once);
    let mut words: Vec<String> = devices.iter().map(ToString::to_string).collect();
    words.extend((more > 0).then(|| format!("and {more} more")));
    words
}

/// How it ended: failures first, then one plain sentence, then what to do next.
pub fn result(
    report: &Report,
    inventory: &Inventory,
    plan: Option<&Plan>,
    receipt: Option<&Receipt>,
) -> Vec<Line> {
    let bad = |text: String| Line::new(Tone::Bad, text);
    let mut lines = Vec::new();
    for (planned, done) in plan
        .iter()
        .flat_map(|plan| &plan.banks)
        .zip(receipt.iter().flat_map(|receipt| &receipt.banks))
    {
        match &done.outcome {
            Outcome::Failed { why, .. } => lines.push(bad(format!("FAILED   {why}"))),
            Outcome::Refused { why } if !matches!(planned.action, Action::Refuse { .. }) => {
                lines.push(bad(format!("REFUSED  {why}; its archive is as it was")));
            }
            _ => {}
        }
    }
    lines.extend(inventory.unreadable_disks().map(|(path, why)| {
        let path = path.display();
        bad(Unread::Disk {
            path: path.to_string(),
            why,
        }
        .to_string())
    }));
    lines.extend(inventory.unreadable().map(|(name, why)| {
        bad(Unread::Partition {
            name,
            why: why.to_owned(),
        }
        .to_string())
    }));
    lines.extend(inventory.suspects().map(|(disk, suspect)| {
        let (name, why) = (disk.partition_name(suspect.partition), suspect.why.clone());
        bad(match suspect.may_boot {
            true => Unread::BootableSuspect { name, why },
            false => Unread::Suspect { name, why },
        }
        .to_string())
    }));
    lines.extend(report.loader_unread().iter().map(|line| bad(line.clone())));
    let broken = report.broken_promises().iter();
    lines.extend(broken.map(|promise| bad(format!("FAILED   {promise}"))));
    let banner = Tone::Banner(mood(report.result));
    lines.push(Line::new(banner, format!("Result   {}", report.summary())));
    let heads = std::iter::once("Next").chain(std::iter::repeat(""));
    let steps = report.next_steps().iter().zip(heads);
    lines.extend(steps.map(|(step, head)| Line::plain(format!("{head:9}{step}"))));
    laid_out(&lines)
}

fn mood(result: ResultWord) -> Mood {
    match result {
        ResultWord::Inspected
        | ResultWord::Planned
        | ResultWord::Reverted
        | ResultWord::Restored
        | ResultWord::Clean => Mood::Good,
        ResultWord::Refused | ResultWord::NoneFound => Mood::Warning,
        ResultWord::Failed | ResultWord::Started => Mood::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_steers_a_terminal_is_spelled_out() {
        for (text, shown) in [
            ("vmhba0 (größer)", "vmhba0 (größer)"),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("a\r\nResult   reverted", "a\\r\\nResult   reverted"),
            ("\u{9b}1A\u{7f}\t", "\\u{9b}1A\\u{7f}\\t"),
            ("\u{202e}kcolb", "\\u{202e}kcolb"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }
}
