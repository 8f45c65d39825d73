//! The report as lines for a person, at most 80 columns wherever the content allows.

use crate::fat::FatTime;
use crate::host::Host;
use crate::inventory::{ArchiveFile, Bank, Disk, Inventory};
use crate::plan::{Action, BankPlan, Judged, Plan, Verdict};
use crate::repair::{Outcome, Receipt};
use crate::report::Report;

/// Width of a console that can be relied on.
const COLUMNS: usize = 80;

/// Where text begins on a line, behind the line's head.
const MARGIN: usize = 9;

/// Makes text that came from a disk harmless on a console: control characters are spelled out.
pub fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let spell = c.is_control() && c != '\n';
            let kept = (!spell).then_some(c);
            kept.into_iter()
                .chain(spell.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}

/// What was found: machine, disks, banks.
pub fn findings(inventory: &Inventory, host: Option<&Host>) -> Vec<String> {
    let mut lines = Vec::new();
    for disk in &inventory.disks {
        lines.push(disk_line(disk, host));
        if let Ok(table) = &disk.table {
            lines.extend(
                table
                    .warnings
                    .iter()
                    .filter(|_| disk.belongs_to_esxi())
                    .map(|warning| format!("         ! {warning}")),
            );
        }
        for (index, bank) in disk.banks.iter().enumerate() {
            lines.extend(bank_lines(disk, index, bank));
        }
    }
    if inventory.disks.is_empty() {
        lines.push("Disk     none".into());
    }
    lines.iter().map(|line| escape(line)).collect()
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

fn bank_lines(disk: &Disk, index: usize, bank: &Bank) -> Vec<String> {
    let next = if disk.boots_next == Some(index) {
        " <- boots next"
    } else {
        ""
    };
    let rollback = if disk.boots_after_rollback == Some(index) {
        " (after Shift+R)"
    } else {
        ""
    };
    let mut lines = vec![
        format!(
            "  bank {:<2} ESXi {}{next}{rollback}",
            bank.partition,
            bank.boot_cfg.build.as_deref().unwrap_or_default()
        ),
        format!("         {}", bank.standing),
    ];
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
                .map(|saved| format!(", save no. {}", saved.count))
                .unwrap_or_default();
            let written = date(archive.modified);
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
            Ok(_) => format!("original of {}", date(undo.entry.modified())),
            Err(why) => format!("! not restorable: {why}"),
        };
        lines.push(format!("         {} {state}", undo.entry.name()));
    }
    lines
}

fn date(at: FatTime) -> String {
    at.to_string()
}

/// What is meant: the verdict on every device, and the work on every bank.
pub fn intentions(inventory: &Inventory, plan: &Plan) -> Vec<String> {
    let mut lines = devices(plan);
    lines.extend(
        plan.banks
            .iter()
            .flat_map(|bank| plan_lines(inventory, bank)),
    );
    lines.iter().map(|line| escape(line)).collect()
}

/// The verdict on every device that is passed through.
pub fn devices(plan: &Plan) -> Vec<String> {
    let lines = plan.devices.iter().flat_map(device_lines);
    lines.map(|line| escape(&line)).collect()
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
pub fn result(report: &Report, plan: Option<&Plan>, receipt: Option<&Receipt>) -> Vec<String> {
    let mut lines = Vec::new();
    for (planned, done) in plan
        .iter()
        .flat_map(|plan| &plan.banks)
        .zip(receipt.iter().flat_map(|receipt| &receipt.banks))
    {
        match &done.outcome {
            Outcome::Failed { why, .. } => lines.push(format!("FAILED   {why}")),
            Outcome::Refused { why } if !matches!(planned.action, Action::Refuse { .. }) => {
                lines.push(format!("REFUSED  {why}"));
            }
            _ => {}
        }
    }
    lines.extend(
        report
            .broken_promises()
            .iter()
            .map(|promise| format!("FAILED   {promise}")),
    );
    lines.push(format!("Result   {}", report.summary()));
    lines.extend(next_step_lines(report.next_steps()));
    lines.iter().map(|line| escape(line)).collect()
}

/// What to do next, broken into lines a console shows whole.
fn next_step_lines(steps: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for step in steps {
        let mut line = String::new();
        for word in step.split(' ') {
            if !line.is_empty() && MARGIN + line.len() + 1 + word.len() > COLUMNS {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    let heads = std::iter::once("Next").chain(std::iter::repeat(""));
    lines
        .iter()
        .zip(heads)
        .map(|(line, head)| format!("{head:MARGIN$}{line}"))
        .collect()
}
