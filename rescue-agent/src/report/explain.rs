//! The reasoning behind the verdicts, step by step: from each ESXi disk up to the root of the
//! machine, and from each entry's text to what sits there.

use std::collections::BTreeSet;

use super::Line;
use super::listed::{listed, more_line};
use crate::config::pci::{PciAddress, Reading};
use crate::host::{DiskNode, Host};
use crate::inventory::{Disk, Inventory};
use crate::plan::{Judged, Plan};

/// The lines of `--explain`.
pub fn explain(inventory: &Inventory, host: Option<&Host>, plan: &Plan) -> Vec<Line> {
    let mut lines =
        vec!["Why      what ESXi needs, from the root of the machine to each disk:".into()];
    match host {
        None => lines.push("           unknown: no information about this image's machine".into()),
        Some(host) => {
            for disk in &inventory.disks {
                lines.extend(disk_lines(disk, host));
            }
            lines.extend(unseen_lines(inventory, host));
        }
    }
    lines.push("Why      what is passed through, from the text to the verdict:".into());
    if plan.devices.is_empty() {
        lines.push("           nothing".into());
    }
    let (devices, not_listed) = listed(&plan.devices);
    lines.extend(devices.iter().flat_map(|device| device_lines(device, host)));
    let lines = lines.iter().map(Line::plain);
    lines.chain(more_line(not_listed)).collect()
}

fn disk_lines(disk: &Disk, host: &Host) -> Vec<String> {
    let mut nodes = disk.paths().filter_map(|path| host.disk(path));
    let Some(node) = nodes.next() else {
        return Vec::new();
    };
    let stands_for = match &node.image {
        Some(image) => format!(" (here {})", image.display()),
        None => String::new(),
    };
    let mut lines = vec![format!(
        "  {}{stands_for}: {}",
        node.node.display(),
        disk.summary()
    )];
    if !disk.belongs_to_esxi() {
        lines.push("           so nothing on its path is needed".into());
        return lines;
    }
    lines.extend(path_lines(node, host));
    for other in nodes {
        lines.push(format!(
            "           the same disk as {}:",
            other.node.display()
        ));
        lines.extend(path_lines(other, host));
    }
    lines
}

fn path_lines(node: &DiskNode, host: &Host) -> Vec<String> {
    let mut lines = Vec::new();
    if node.pci_paths.is_empty() {
        lines.push("           ! on no PCI path that Linux knows".into());
    }
    for path in &node.pci_paths {
        for (depth, address) in path.iter().enumerate() {
            let indent = "  ".repeat(depth);
            lines.push(format!("           {indent}{}", described(*address, host)));
        }
    }
    lines.extend(sibling_lines(node, host));
    lines
}

fn sibling_lines(node: &DiskNode, host: &Host) -> Vec<String> {
    let on_path: BTreeSet<PciAddress> = node.pci_paths.iter().flatten().copied().collect();
    host.on_path_of(node)
        .difference(&on_path)
        .map(|address| format!("           same slot: {}", described(*address, host)))
        .collect()
}

fn unseen_lines(inventory: &Inventory, host: &Host) -> Vec<String> {
    host.disks
        .iter()
        .filter(|node| {
            let is_it = |disk: &Disk| disk.paths().any(|path| host.disk(path) == Some(*node));
            !inventory.disks.iter().any(is_it)
        })
        .map(|node| {
            format!(
                "  {}: not examined, so what it needs is unknown",
                node.node.display()
            )
        })
        .collect()
}

fn device_lines(device: &Judged, host: Option<&Host>) -> Vec<String> {
    let mut lines = vec![format!(
        "  {} in {}",
        device.text,
        device.files.join(" and ")
    )];
    let mut step = |text: String| lines.push(format!("           {text}"));
    step(match device.address {
        Some(address) => format!("{}: {address}", how_read(device)),
        None => "read: not a PCI address".into(),
    });
    if let Some(other) = device.alternative {
        let there = host.map(|_| described_at(other, host)).unwrap_or_default();
        step(format!("read as hex it would be {other}{there}"));
    }
    if let Some(recorded) = device.recorded {
        step(format!("recorded as {recorded}"));
    }
    if let (Some(address), Some(_)) = (device.address, host) {
        step(format!("now{}", described_at(address, host)));
    }
    step(format!(
        "{}: {}",
        super::text::verdict_words(device.verdict),
        device.reason
    ));
    lines
}

/// esx.conf is decimal, with exceptions; the ConfigStore is hex.
fn how_read(device: &Judged) -> &'static str {
    match device.reading {
        Reading::Decimal => "read as decimal",
        Reading::Hex => "read as hex",
    }
}

fn described_at(address: PciAddress, host: Option<&Host>) -> String {
    match host.and_then(|host| host.function(address)) {
        Some(function) => format!(" there: {function}"),
        None => " there: nothing".into(),
    }
}

fn described(address: PciAddress, host: &Host) -> String {
    match host.function(address) {
        Some(function) => format!("{address} {function}"),
        None => format!("{address}"),
    }
}
