//! How a run ended in one sentence, and what to do next. The same words for a person and in JSON.

use super::ResultWord;
use crate::inventory::Inventory;
use crate::plan::{Plan, Verdict};

/// How a run ended whose end nobody noted.
pub(super) const BEGUN: &str = "writing began, and how it ended was not noted: the run was cut off, or the medium was taken out.";

/// How it ended. `changed`: banks and different devices that were changed.
pub(super) fn summary(
    result: ResultWord,
    inventory: &Inventory,
    plan: Option<&Plan>,
    changed: (usize, usize),
) -> String {
    let (banks, devices) = changed;
    match result {
        ResultWord::Inspected => format!(
            "{} boot banks found. Nothing was written.",
            inventory.banks().count()
        ),
        ResultWord::Planned => "this was a dry run. Nothing was written.".into(),
        ResultWord::Reverted => format!(
            "{devices} {} back to ESXi in {banks} {}, written and verified.",
            if devices == 1 {
                "device was given"
            } else {
                "devices were given"
            },
            if banks == 1 { "bank" } else { "banks" },
        ),
        ResultWord::Restored => {
            format!("the originals are back in {banks} banks, written and verified.")
        }
        ResultWord::Clean => clean(inventory, plan).into(),
        ResultWord::Refused => match banks {
            0 => "refused. Nothing was written.".into(),
            n => {
                format!("{n} banks were repaired, at least one other was refused and not written.")
            }
        },
        ResultWord::Failed => {
            "writing or verifying failed; see above for what is in force now.".into()
        }
        ResultWord::NoneFound => "no ESXi installation found. Nothing was written.".into(),
        ResultWord::Started => BEGUN.into(),
    }
}

fn clean(inventory: &Inventory, plan: Option<&Plan>) -> &'static str {
    let mut archives = inventory.banks().flat_map(|(_, bank)| &bank.archives);
    let repaired = archives.any(|archive| {
        let undo = archive.undo.as_ref();
        undo.is_some_and(|undo| undo.content.is_ok())
    });
    let has = |verdict| {
        plan.is_some_and(|plan| plan.devices.iter().any(|device| device.verdict == verdict))
    };
    let any = plan.is_some_and(|plan| !plan.devices.is_empty());
    match (any, has(Verdict::Unsure)) {
        (_, false) if repaired => {
            "nothing to do: this host was repaired before, and no device that ESXi needs is passed through."
        }
        (false, _) => "nothing to do.",
        (true, false) => "nothing to do: no device that ESXi needs is passed through.",
        (true, true) => {
            "nothing was written: no passed-through device is certainly needed by ESXi, but not all are certain."
        }
    }
}

/// What the administrator can do now, one sentence each.
pub(super) fn next_steps(result: ResultWord, plan: Option<&Plan>) -> Vec<String> {
    let unsure = plan.is_some_and(|plan| {
        let mut verdicts = plan.devices.iter().map(|device| device.verdict);
        verdicts.any(|verdict| verdict == Verdict::Unsure)
    });
    let steps: &[&str] = match result {
        ResultWord::Reverted => &[
            "Boot ESXi. Do not move cards before it has booted once.",
            "A VM that owned the device starts only after its pciPassthru entries are removed.",
            "Undo: rescue-agent restore.",
        ],
        ResultWord::Restored => &["The host is as it was before the repair."],
        ResultWord::Clean | ResultWord::Planned | ResultWord::Inspected => {
            return how_to_choose(plan).into_iter().collect();
        }
        ResultWord::Started => &["Run the rescue again: it settles what was interrupted."],
        ResultWord::Failed => &[
            "Run the rescue again: it settles what was interrupted.",
            "If it fails again, the disk itself is failing: image it first.",
        ],
        ResultWord::NoneFound => {
            &["Check that the disk is connected and its controller has a driver."]
        }
        ResultWord::Refused => &[],
    };
    let steps = steps.iter().map(|step| (*step).to_owned());
    match result == ResultWord::Reverted && unsure {
        true => steps.chain(how_to_choose(plan)).collect(),
        false => steps.collect(),
    }
}

/// How to give back what the plan leaves alone.
fn how_to_choose(plan: Option<&Plan>) -> Option<String> {
    let left: Vec<String> = plan?
        .devices
        .iter()
        .filter(|device| matches!(device.verdict, Verdict::Leave | Verdict::Unsure))
        .filter_map(|device| device.address)
        .map(|address| address.to_string())
        .collect();
    let example = left.first()?;
    let all = match left.len() {
        1 => String::new(),
        _ => format!(" (or several, by commas: {})", left.join(",")),
    };
    Some(format!(
        "To give back what is left, choose it by address{all}: --devices={example} on the command line, rescue.devices={example} in the boot menu; `all` means everything."
    ))
}
