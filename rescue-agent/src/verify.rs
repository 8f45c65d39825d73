//! The proof: a fresh look at the disks must show the promise of the plan kept.

use std::path::PathBuf;

use crate::discover::{self, Open};
use crate::hash::sha256_hex;
use crate::inventory::{Bank, Inventory};
use crate::plan::{Action, BankPlan, Plan};
use crate::repair::{Outcome, Receipt, bank_name};

/// Looks again at every disk that was looked at for the plan, and compares.
///
/// Returns the promises that were not kept, in words; none is the good answer. A bank whose repair
/// failed is not judged here: its outcome says what is in force.
pub fn verify(plan: &Plan, receipt: &Receipt, before: &Inventory, open: Open<'_>) -> Vec<String> {
    let paths: Vec<PathBuf> = before.disks.iter().map(|disk| disk.path.clone()).collect();
    let after = discover::discover(&paths, open);
    plan.banks
        .iter()
        .zip(&receipt.banks)
        .filter(|(_, receipt)| !matches!(receipt.outcome, Outcome::Failed { .. }))
        .flat_map(|(bank, receipt)| broken_promises(bank, &receipt.outcome, before, &after))
        .collect()
}

fn broken_promises(
    plan: &BankPlan,
    outcome: &Outcome,
    before: &Inventory,
    after: &Inventory,
) -> Vec<String> {
    let disk = &before.disks[plan.disk];
    let was = &disk.banks[plan.bank];
    let name = bank_name(disk, was);
    let now = after.disks.get(plan.disk).and_then(|disk| {
        disk.banks
            .iter()
            .find(|bank| bank.partition == was.partition)
    });
    let Some(now) = now else {
        return vec![format!("{name}: the bank is not found any more")];
    };
    let mut broken = Vec::new();
    for (archive, expected) in expected_hashes(plan, outcome, was) {
        let found = now
            .archives
            .iter()
            .find(|candidate| candidate.name == was.archives[archive].name)
            .and_then(|candidate| candidate.raw.as_deref())
            .map(sha256_hex);
        if found.as_ref() != Some(&expected) {
            broken.push(format!(
                "{name}: {} should have the SHA-256 {expected} and has {}",
                was.archives[archive].name,
                found.as_deref().unwrap_or("none")
            ));
        }
    }
    if *outcome == Outcome::Replaced {
        broken.extend(
            still_passed_through(plan, now)
                .map(|device| format!("{name}: {device} is still passed through")),
        );
    }
    broken
}

/// The hash every archive of a bank should have now, by the archive's index.
fn expected_hashes(plan: &BankPlan, outcome: &Outcome, was: &Bank) -> Vec<(usize, String)> {
    was.archives
        .iter()
        .enumerate()
        .filter_map(|(index, archive)| {
            let planned = match (&plan.action, outcome) {
                (Action::Replace(changes), Outcome::Replaced) => changes
                    .iter()
                    .find(|change| change.archive == index)
                    .map(|change| change.after.clone()),
                (Action::Restore(restores), Outcome::Restored) => restores
                    .iter()
                    .find(|restore| restore.name == archive.name)
                    .map(|restore| restore.after.clone()),
                _ => None,
            };
            let expected = planned.or_else(|| archive.raw.as_deref().map(sha256_hex))?;
            Some((index, expected))
        })
        .collect()
}

/// Devices that the plan gave back and that the bank still passes through.
fn still_passed_through<'p>(plan: &'p BankPlan, now: &'p Bank) -> impl Iterator<Item = &'p str> {
    let changes = match &plan.action {
        Action::Replace(changes) => changes.as_slice(),
        _ => &[],
    };
    changes
        .iter()
        .flat_map(|change| {
            change
                .devices
                .iter()
                .map(move |device| (change.name, device))
        })
        .filter(|(file, device)| {
            now.archives
                .iter()
                .filter(|archive| archive.name == *file)
                .filter_map(|archive| archive.content.as_ref().ok())
                .flat_map(|content| &content.devices)
                .any(|entry| {
                    entry.passed_through
                        && entry.text == device.text
                        && entry.place.file() == device.file
                })
        })
        .map(|(_, device)| device.text.as_str())
}
