//! The commands by which ESXi itself gives its controller back, for a host whose archive only its own TPM
//! opens: ready to type, with the addresses of this machine and the UUID of the bank that boots next.
//!
//! The entries inside such an archive cannot be read. So the commands name the controllers of the disks
//! that ESXi keeps anything on, by the machine.
//!
//! Sources: VMware's documentation of esxcli 7.0 for the first command, one detailed report that it
//! rebinds a controller in use at once; that `/bootbank` must be linked again follows from what ESXi
//! does when it starts without its bank, and has not been seen by this project.

use std::collections::BTreeSet;

use crate::config::pci::PciAddress;
use crate::host::Host;
use crate::inventory::{ArchiveFile, Bank, Disk, Inventory};

/// What to type on a host, from its own shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The boot disk, as this program calls it.
    pub disk: String,
    /// Number of the partition of the bank that ESXi must save to.
    pub partition: u32,
    /// UUID of that bank's volume, as ESXi spells it.
    pub bank_uuid: String,
    /// The controllers of all disks that ESXi keeps anything on; none where the machine is not known.
    pub controllers: Vec<PciAddress>,
}

/// A command and what is to be known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What to type.
    pub command: String,
    /// What it does, and what to look for.
    pub what: String,
    /// Whether what it shows decides if the next command may be typed.
    pub is_check: bool,
    /// Who has shown that it works.
    pub proof: &'static str,
}

/// One for each disk with an archive that only its host opens.
pub fn recipes(inventory: &Inventory, host: Option<&Host>) -> Vec<Recipe> {
    let disks = inventory.disks.iter();
    let recipe = |disk: &Disk| {
        let bank = bank_to_save_to(disk)?;
        Some(Recipe {
            disk: disk.path.display().to_string(),
            partition: bank.partition,
            bank_uuid: bank.marker.to_string(),
            controllers: controllers(disk, inventory, host),
        })
    };
    disks.filter_map(recipe).collect()
}

/// The bank that boots next, whichever of them is closed; `None`: none is.
fn bank_to_save_to(disk: &Disk) -> Option<&Bank> {
    let is_closed = |bank: &&Bank| bank.archives.iter().any(ArchiveFile::lacks_its_key);
    let closed = disk.banks.iter().find(is_closed)?;
    let next = disk.boots_next.map(|next| &disk.banks[next]);
    Some(next.unwrap_or(closed))
}

/// The controllers of this disk first, then those of ESXi's other disks.
fn controllers(first: &Disk, inventory: &Inventory, host: Option<&Host>) -> Vec<PciAddress> {
    let Some(host) = host else {
        return Vec::new();
    };
    let others = inventory.disks.iter().filter(|disk| disk.belongs_to_esxi());
    let nodes = std::iter::once(first).chain(others);
    let nodes = nodes.flat_map(|disk| disk.paths().filter_map(|path| host.disk(path)));
    let mut seen = BTreeSet::new();
    nodes
        .flat_map(|node| node.controllers())
        .filter(|address| seen.insert(*address))
        .collect()
}

impl Recipe {
    /// What the commands are for, and where to type them.
    pub const INTRODUCTION: &'static str = "Only ESXi on this host can change its configuration: its key is not on the disk. ESXi still runs there, from memory, and can take the controller back. Start it, log in as root (SSH, or ESXi Shell by Alt+F1 on the console), and type:";

    /// The commands in order.
    pub fn steps(&self) -> Vec<Step> {
        let volume = format!("/vmfs/volumes/{}", self.bank_uuid);
        let step = |command: String, what: String, proof| Step {
            command,
            what,
            is_check: false,
            proof,
        };
        let check = |command, what, proof| Step {
            is_check: true,
            ..step(command, what, proof)
        };
        let mut steps = Vec::new();
        if self.controllers.is_empty() {
            steps.push(check(
                "esxcli hardware pci pcipassthru list".into(),
                "shows what is passed through (Enabled: true). Put the Device ID of the storage controller in place of ADDRESS below.".into(),
                "documented by VMware from 7.0 on",
            ));
        }
        let mut addresses: Vec<String> = self.controllers.iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            addresses.push("ADDRESS".into());
        }
        for address in addresses {
            steps.push(step(
                format!("esxcli hardware pci pcipassthru set -d {address} -e false -a"),
                "gives the controller back at once, without a restart. \"Device owner is already configured\" is no error.".into(),
                "documented by VMware from 7.0 on; that it works for the controller of the boot disk is known from one detailed report",
            ));
        }
        steps.push(check(
            format!("ls {volume}"),
            format!("must show boot.cfg and state.tgz of bank {}. If not, wait a minute and type it again.", self.partition),
            "the UUID was read from this disk",
        ));
        steps.push(step(
            format!("ln -sfn {volume} /bootbank"),
            "links /bootbank, which is in memory until now, to that bank.".into(),
            "not documented by VMware; inferred, and not tried by this project on a TPM host",
        ));
        steps.push(step(
            "/sbin/auto-backup.sh".into(),
            "saves ESXi's configuration, sealed by its own TPM, to that bank.".into(),
            "documented by VMware",
        ));
        steps.push(check(
            "ls -l /bootbank/state.tgz".into(),
            "must show the current time (UTC). If it does not, the change is not saved: do not restart.".into(),
            "",
        ));
        steps.push(step("reboot".into(), "restarts the host.".into(), ""));
        steps
    }

    /// The commands, one sentence each, for a list of what to do next.
    pub fn in_sentences(&self) -> Vec<String> {
        let mut sentences = vec![Self::INTRODUCTION.to_owned()];
        for (number, step) in (1..).zip(self.steps()) {
            sentences.push(format!("{number}. {}", step.command));
            if step.is_check {
                sentences.push(format!("(Command {number} {})", step.what));
            }
        }
        sentences.push("What each command does: docs/sealed.md.".into());
        sentences
    }

    /// A page of its own, line by line: what to type, what to look for, and who has shown that it works.
    pub fn page(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "Boot disk {}; ESXi has to save to bank {}, volume {}.",
                self.disk, self.partition, self.bank_uuid
            ),
            String::new(),
            Self::INTRODUCTION.into(),
            String::new(),
        ];
        for (number, step) in (1..).zip(self.steps()) {
            lines.push(format!("{number}.  {}", step.command));
            lines.push(format!("    {}", step.what));
            if !step.proof.is_empty() {
                lines.push(format!("    ({})", step.proof));
            }
        }
        lines.push(String::new());
        lines.push("If the controller is not given back, or ls shows no files: type the command with `set` again without -a, which changes only the saved setting. Then run /sbin/auto-backup.sh, copy /bootbank/state.tgz to another computer before the host restarts, and put it into the banks with this program: as import/state.tgz on the stick (i in the menu, unless mode is inspect), or by rescue-agent revert --source state.tgz.".into());
        lines.push(String::new());
        lines.push("Details, and what is proven: docs/sealed.md.".into());
        lines
    }
}
