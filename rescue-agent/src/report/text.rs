//! The report as lines for a person, at most 80 columns wherever the content allows.

use std::borrow::Cow;

use textwrap::{Options, WordSplitter, wrap};

use crate::archive::BackupCounter;
use crate::host::Host;
use crate::inventory::{ArchiveFile, Bank, Disk, Inventory};
use crate::plan::{Action, BankPlan, Judged, Plan, Verdict};
use crate::repair::{Outcome, Receipt};
use crate::report::Report;

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
pub fn findings(inventory: &Inventory, host: Option<&Host>, detail: Detail) -> Vec<String> {
    let mut lines = Vec::new();
    let any_of_esxi = inventory.disks.iter().any(Disk::belongs_to_esxi);
    let shown = |disk: &&Disk| detail == Detail::Full || !any_of_esxi || disk.belongs_to_esxi();
    for disk in inventory.disks.iter().filter(shown) {
        lines.push(disk_line(disk, host));
        if let Ok(table) = &disk.table {
            let warnings = table.warnings.iter().filter(|_| disk.belongs_to_esxi());
            lines.extend(warnings.map(|warning| format!("         ! {warning}")));
        }
        for (index, bank) in disk.banks.iter().enumerate() {
            lines.extend(bank_lines(disk, index, bank, detail));
        }
    }
    if inventory.disks.is_empty() {
        lines.push("Disk     none".into());
    }
    laid_out(&lines)
}

/// Lines made harmless and folded to the width of the smallest screen, less the cursor.
fn laid_out(lines: &[String]) -> Vec<String> {
    const WIDTH: usize = 79;
    let fold = Options::new(WIDTH)
        .subsequent_indent("         ")
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation);
    lines
        .iter()
        .flat_map(|line| {
            wrap(&escape(line), &fold)
                .into_iter()
                .map(Cow::into_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn disk_line(disk: &Disk, host: Option<&Host>) -> String {
    let model = host
        .and_then(|host| host.disk(&disk.path))
        .and_then(|node| node.model.clone());
    let model = model.map(|model| format!(", {model}")).unwrap_or_default();
    format!(
        "Disk     {} ({}{model}): {}",
        disk.path.display(),
        size(disk.size),
        disk.summary()
    )
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

fn bank_lines(disk: &Disk, index: usize, bank: &Bank, detail: Detail) -> Vec<String> {
    let cfg = &bank.boot_cfg;
    let build = cfg.build.as_deref().unwrap_or_default();
    let standing = match disk.boots_after_rollback == Some(index) {
        true if detail == Detail::Brief => "boots after Shift+R".into(),
        true => format!("boots after Shift+R: {}", bank.standing),
        false => bank.standing.to_string(),
    };
    let mut lines = vec![format!(
        "  bank {:<2}ESXi {build}, {standing}",
        bank.partition
    )];
    if detail == Detail::Full {
        lines.push(format!(
            "         bootstate {}, update number {}",
            cfg.bootstate, cfg.updated
        ));
    }
    lines.extend(bank.archives.iter().flat_map(archive_lines));
    if bank.archives.is_empty() {
        lines.push("         no state archive".into());
    }
    match &bank.volume {
        Err(problem) => lines.push(format!("         ! {problem}")),
        Ok(volume) if volume.unsettled => {
            lines.push(
                "         ! an interrupted repair left traces; the next one settles them".into(),
            );
        }
        Ok(_) => {}
    }
    lines
}

fn archive_lines(archive: &ArchiveFile) -> Vec<String> {
    let mut lines = Vec::new();
    match &archive.content {
        Err(problem) => lines.push(format!("         ! {}: {problem}", archive.name)),
        Ok(content) => {
            let how = if content.sealed { ", encrypted" } else { "" };
            let saved = content
                .saved
                .as_ref()
                .map(|saved| format!(", save no. {}{}", saved.count, saved_on(saved)))
                .unwrap_or_default();
            let written = archive.modified;
            lines.push(format!(
                "         {} {} bytes, {written}{saved}{how}",
                archive.name, archive.size
            ));
            if content.hand_made {
                lines.push(
                    "         ! left uncompressed by a repair by hand: ESXi cannot load it".into(),
                );
            }
        }
    }
    if let Some(undo) = &archive.undo {
        let state = match &undo.content {
            Ok(_) => format!("original of {}", undo.entry.modified()),
            Err(why) => format!("! not restorable: {why}"),
        };
        lines.push(format!("         {} {state}", undo.entry.name()));
    }
    lines
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
pub fn intentions(inventory: &Inventory, plan: &Plan) -> Vec<String> {
    let mut lines = devices(plan);
    lines.extend(
        plan.banks
            .iter()
            .flat_map(|bank| plan_lines(inventory, bank)),
    );
    laid_out(&lines)
}

/// The verdict on every device that is passed through.
pub fn devices(plan: &Plan) -> Vec<String> {
    let lines: Vec<String> = plan.devices.iter().flat_map(device_lines).collect();
    laid_out(&lines)
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

fn device_lines(device: &Judged) -> Vec<String> {
    let address = device
        .address
        .map_or_else(|| device.text.clone(), |address| address.to_string());
    let what = device
        .present
        .as_ref()
        .map(|function| format!(" {} {}", function.class, function.id))
        .unwrap_or_default();
    let name = device
        .present
        .as_ref()
        .and_then(|function| function.name.clone());
    let spelled = match device.text == address {
        true => String::new(),
        false => format!(" [{}]", device.text),
    };
    let mut lines = vec![format!("Device   {address}{spelled}{what}")];
    lines.extend(name.map(|name| format!("         {name}")));
    lines.push(format!(
        "         {}: {}",
        verdict_words(device.verdict),
        device.reason
    ));
    if let (Some(was), Some(now)) = (device.was, &device.present) {
        lines.push(format!(
            "         ! was {was}, now {}: a card was moved",
            now.id
        ));
    }
    lines
}

fn plan_lines(inventory: &Inventory, plan: &BankPlan) -> Vec<String> {
    let disk = &inventory.disks[plan.disk];
    let bank = &disk.banks[plan.bank];
    let head = format!("Plan     {} bank {}:", disk.path.display(), bank.partition);
    let mut lines = Vec::new();
    if plan.settle {
        lines.push(format!("{head} settle what an interrupted repair left"));
    }
    match &plan.action {
        Action::Nothing { why } => lines.push(format!("{head} nothing to do, {why}")),
        Action::Refuse { why, remedy } => {
            lines.push(format!("{head} REFUSED, {why}"));
            lines.push(format!("         what to do: {remedy}"));
        }
        Action::Replace(changes) => lines.extend(changes.iter().map(|change| {
            let devices: Vec<&str> = change
                .devices
                .iter()
                .map(|device| device.text.as_str())
                .collect();
            format!(
                "{head} {} gives {} back to ESXi",
                change.name,
                devices.join(", ")
            )
        })),
        Action::Restore(restores) => {
            lines.extend(
                restores
                    .iter()
                    .map(|restore| format!("{head} {} back to its original", restore.name)),
            );
        }
    }
    lines
}

/// How it ended: failures first, then one plain sentence, then what to do next.
pub fn result(
    report: &Report,
    inventory: &Inventory,
    plan: Option<&Plan>,
    receipt: Option<&Receipt>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (planned, done) in plan
        .iter()
        .flat_map(|plan| &plan.banks)
        .zip(receipt.iter().flat_map(|receipt| &receipt.banks))
    {
        match &done.outcome {
            Outcome::Failed { why, .. } => lines.push(format!("FAILED   {why}")),
            Outcome::Refused { why } if !matches!(planned.action, Action::Refuse { .. }) => {
                lines.push(format!("REFUSED  {why}; its archive is as it was"));
            }
            _ => {}
        }
    }
    lines.extend(inventory.unreadable_disks().map(|(path, why)| {
        let path = path.display();
        format!(
            "REFUSED  {path} cannot be read ({why}). It may hold boot banks; it was not written"
        )
    }));
    lines.extend(inventory.unreadable().map(|(name, why)| {
        format!("REFUSED  {name} cannot be read ({why}). It may be a boot bank; it was not written")
    }));
    lines.extend(
        report
            .broken_promises()
            .iter()
            .map(|promise| format!("FAILED   {promise}")),
    );
    lines.push(format!("Result   {}", report.summary()));
    let heads = std::iter::once("Next").chain(std::iter::repeat(""));
    let steps = report.next_steps().iter().zip(heads);
    lines.extend(steps.map(|(step, head)| format!("{head:9}{step}")));
    laid_out(&lines)
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
