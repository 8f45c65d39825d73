//! Carrying out a plan: the only module that holds a writable handle to an ESXi disk.
//!
//! Banks are done one after the other; the first write to a bank comes after everything about the
//! one before it has been read back and found right. The bank that boots next comes first, so that
//! whatever happens later, ESXi starts repaired. After a failed write the rest of that disk is left
//! alone: its remaining banks are intact.

use std::fmt;
use std::io;
use std::path::Path;

use thiserror::Error;

use crate::counted::counted;
use crate::disk::{BlockDevice, Disks};
use crate::fat::FatTime;
use crate::fat::exchange::{
    self, ActiveArchive, ExchangeError, Replaced, Replacement, Restoration,
};
use crate::inventory::{Bank, Disk, Inventory};
use crate::plan::{Action, BankPlan, FileChange, FileRestore, Plan, RestoreFrom};

/// The result of a plan.
#[derive(Debug, Default)]
pub struct Receipt {
    /// One for every bank of the plan, in its order.
    pub banks: Vec<BankReceipt>,
}

/// The result of a bank.
#[derive(Debug)]
pub struct BankReceipt {
    /// Clusters freed while settling an interrupted repair; `None` where there was none.
    pub settled: Option<usize>,
    /// The rest.
    pub outcome: Outcome,
}

/// How the work on a bank ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was written.
    Untouched,
    /// Nothing was written, although something should have been.
    Refused {
        /// Why.
        why: String,
    },
    /// The new archives are in place.
    Replaced,
    /// The originals are in place.
    Restored,
    /// Something failed on the way.
    Failed {
        /// What, and where.
        why: String,
        /// Which content the archive has on which it failed.
        in_force: ActiveArchive,
        /// Archives of the bank that were exchanged before, by name.
        exchanged: Vec<String>,
    },
}

/// Why the work on a bank did not come to its end.
#[derive(Debug, Error)]
pub(crate) enum Trouble<'e> {
    /// The disk does not let itself be written.
    #[error("{bank}: cannot be opened for writing: {error}")]
    CannotOpen {
        /// Which bank, in words.
        bank: String,
        /// What the system says.
        error: io::Error,
    },
    /// The disk has failed already.
    #[error("{bank}: not started, because writing to another bank of this disk failed")]
    NotBegun {
        /// Which bank, in words.
        bank: String,
    },
    /// The exchange was refused or failed.
    #[error("{bank}: {error}")]
    Exchange {
        /// Which bank, in words.
        bank: String,
        /// How.
        error: &'e ExchangeError,
    },
    /// Some archives of the bank are exchanged, the next one is not.
    #[error("{bank}: {names} was replaced, but {file} was not: {error}")]
    HalfWay {
        /// Which bank, in words.
        bank: String,
        /// The archives that are exchanged.
        names: String,
        /// The one that is not.
        file: String,
        /// Why not.
        error: &'e ExchangeError,
    },
}

/// What a repair reports while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Before the first write to an archive: what will be there afterwards.
    Intent {
        /// Which bank, in words.
        bank: String,
        /// The archive.
        file: String,
        /// SHA-256 of what is there.
        before: String,
        /// SHA-256 of what will be there.
        after: String,
    },
    /// Traces of an interrupted repair were settled.
    Settled {
        /// Which bank, in words.
        bank: String,
        /// Clusters that are free again.
        freed_clusters: usize,
    },
    /// An archive was exchanged, read back and found right.
    Done {
        /// Which bank, in words.
        bank: String,
        /// The archive.
        file: String,
    },
}

/// Carries a plan out. `tell` hears of everything before and after it is done.
pub fn carry_out(
    plan: &Plan,
    inventory: &Inventory,
    disks: &dyn Disks,
    now: FatTime,
    tell: &mut dyn FnMut(&Event),
) -> Receipt {
    let mut receipts: Vec<Option<BankReceipt>> = plan.banks.iter().map(|_| None).collect();
    let mut order: Vec<usize> = (0..plan.banks.len()).collect();
    order.sort_by_key(|index| {
        let bank = &plan.banks[*index];
        (
            bank.disk,
            inventory.disks[bank.disk].boots_next != Some(bank.bank),
        )
    });
    let mut failed: Vec<&Path> = Vec::new();
    for index in order {
        let bank_plan = &plan.banks[index];
        let disk = &inventory.disks[bank_plan.disk];
        let receipt = match failed.contains(&disk.path.as_path()) {
            true => after_failure(bank_plan, disk),
            false => Work {
                disk,
                bank: &disk.banks[bank_plan.bank],
                disks,
                now,
                tell,
            }
            .bank(bank_plan),
        };
        if matches!(receipt.outcome, Outcome::Failed { .. }) {
            failed.push(&disk.path);
        }
        receipts[index] = Some(receipt);
    }
    Receipt {
        banks: receipts.into_iter().flatten().collect(),
    }
}

/// What a bank is called in messages.
pub fn bank_name(disk: &Disk, bank: &Bank) -> String {
    disk.partition_name(bank.partition)
}

fn after_failure(plan: &BankPlan, disk: &Disk) -> BankReceipt {
    let name = bank_name(disk, &disk.banks[plan.bank]);
    let outcome = match &plan.action {
        Action::Nothing { .. } => Outcome::Untouched,
        Action::Refuse { why, .. } => Outcome::Refused { why: why.clone() },
        Action::Replace(_) | Action::Restore(_) => Outcome::Refused {
            why: Trouble::NotBegun { bank: name }.to_string(),
        },
    };
    BankReceipt {
        settled: None,
        outcome,
    }
}

/// The work on one bank.
struct Work<'w> {
    disk: &'w Disk,
    bank: &'w Bank,
    disks: &'w dyn Disks,
    now: FatTime,
    tell: &'w mut dyn FnMut(&Event),
}

impl Work<'_> {
    fn bank(&mut self, plan: &BankPlan) -> BankReceipt {
        let idle = match &plan.action {
            Action::Refuse { why, .. } => Some(Outcome::Refused { why: why.clone() }),
            Action::Nothing { .. } if !plan.settle => Some(Outcome::Untouched),
            _ => None,
        };
        if let Some(outcome) = idle {
            return BankReceipt {
                settled: None,
                outcome,
            };
        }
        let device = match self.disks.write(&self.disk.path) {
            Ok(device) => device,
            Err(error) => {
                let bank = self.name();
                let why = Trouble::CannotOpen { bank, error }.to_string();
                return BankReceipt {
                    settled: None,
                    outcome: Outcome::Refused { why },
                };
            }
        };
        let settled = match self.settle(device.as_ref(), plan.settle) {
            Ok(settled) => settled,
            Err(outcome) => {
                return BankReceipt {
                    settled: None,
                    outcome,
                };
            }
        };
        let outcome = self
            .act(device.as_ref(), plan)
            .unwrap_or_else(|outcome| outcome);
        BankReceipt { settled, outcome }
    }

    fn settle(&mut self, device: &dyn BlockDevice, wanted: bool) -> Result<Option<usize>, Outcome> {
        if !wanted {
            return Ok(None);
        }
        let settled =
            exchange::settle(device, self.bank.region).map_err(|error| self.outcome(&error))?;
        let freed_clusters = settled.map_or(0, |settled| settled.freed_clusters);
        let bank = self.name();
        (self.tell)(&Event::Settled {
            bank,
            freed_clusters,
        });
        Ok(Some(freed_clusters))
    }

    fn act(&mut self, device: &dyn BlockDevice, plan: &BankPlan) -> Result<Outcome, Outcome> {
        match &plan.action {
            Action::Nothing { .. } => Ok(Outcome::Untouched),
            Action::Refuse { why, .. } => Err(Outcome::Refused { why: why.clone() }),
            Action::Replace(changes) => {
                for (earlier, change) in changes.iter().enumerate() {
                    let file = change.name.to_string();
                    self.intend(&file, &change.before, &change.after);
                    self.replaced(device, change)
                        .map_err(|error| match earlier {
                            0 => self.outcome(&error),
                            _ => {
                                let done = changes[..earlier].iter();
                                let done = done.map(|change| change.name.to_string());
                                self.half_way(done.collect(), &file, &error)
                            }
                        })?;
                    self.done(file);
                }
                Ok(Outcome::Replaced)
            }
            Action::Restore(restores) => {
                for (earlier, restore) in restores.iter().enumerate() {
                    let file = restore.name.to_string();
                    self.intend(&file, &restore.before, &restore.after);
                    match self.restored(device, restore) {
                        Ok(()) => {}
                        Err(error) if earlier > 0 => {
                            let done = &restores[..earlier];
                            let done = done.iter().map(|restore| restore.name.to_string());
                            return Err(self.half_way(done.collect(), &file, &error));
                        }
                        Err(error) => return Err(self.outcome(&error)),
                    }
                    self.done(file);
                }
                Ok(Outcome::Restored)
            }
        }
    }

    fn replaced(&self, device: &dyn BlockDevice, change: &FileChange) -> Result<(), ExchangeError> {
        let build = self.bank.boot_cfg.build.as_deref().unwrap_or_default();
        let in_place = change
            .archive
            .map(|index| self.bank.archives[index].raw.as_deref());
        let replacement = Replacement {
            archive: change.name,
            old: in_place.map(Option::unwrap_or_default),
            new: &change.new,
            replaced: change.replaced,
            build,
        };
        exchange::replace(device, self.bank.region, &replacement, self.now).map(|_| ())
    }

    fn restored(
        &self,
        device: &dyn BlockDevice,
        restore: &FileRestore,
    ) -> Result<(), ExchangeError> {
        let (region, archive) = (self.bank.region, restore.name);
        let in_place = self.bank.archives[restore.archive].raw.as_deref();
        let in_place = in_place.unwrap_or_default();
        match &restore.from {
            RestoreFrom::UndoCopy {
                name,
                bytes,
                sets_aside,
            } => {
                let restoration = Restoration {
                    archive,
                    in_place,
                    copy: *name,
                    original: bytes,
                };
                match sets_aside {
                    true => exchange::swap(device, region, &restoration).map(|_| ()),
                    false => exchange::restore(device, region, &restoration),
                }
            }
            RestoreFrom::Copy { bytes, .. } => {
                let replacement = Replacement {
                    archive,
                    old: Some(in_place),
                    new: bytes,
                    replaced: Replaced::Freed,
                    build: self.bank.boot_cfg.build.as_deref().unwrap_or_default(),
                };
                exchange::replace(device, region, &replacement, self.now).map(|_| ())
            }
        }
    }

    fn intend(&mut self, file: &str, before: &str, after: &str) {
        let (bank, file) = (self.name(), file.to_owned());
        let (before, after) = (before.to_owned(), after.to_owned());
        (self.tell)(&Event::Intent {
            bank,
            file,
            before,
            after,
        });
    }

    fn done(&mut self, file: String) {
        let bank = self.name();
        (self.tell)(&Event::Done { bank, file });
    }

    fn outcome(&self, error: &ExchangeError) -> Outcome {
        let bank = self.name();
        let why = Trouble::Exchange { bank, error }.to_string();
        match error {
            ExchangeError::Refused(_) => Outcome::Refused { why },
            ExchangeError::Failed { in_force, .. } => Outcome::Failed {
                why,
                in_force: *in_force,
                exchanged: Vec::new(),
            },
        }
    }

    /// How a bank ends whose archives of the names `exchanged` are done and whose next one is not. A
    /// refusal is no refusal of the bank any more.
    fn half_way(&self, exchanged: Vec<String>, file: &str, error: &ExchangeError) -> Outcome {
        let (names, bank) = (exchanged.join(" and "), self.name());
        let file = file.to_owned();
        let why = Trouble::HalfWay {
            bank,
            names,
            file,
            error,
        }
        .to_string();
        match error {
            ExchangeError::Refused(_) => Outcome::Failed {
                why: format!("{why}; {}", ActiveArchive::Unchanged),
                in_force: ActiveArchive::Unchanged,
                exchanged,
            },
            ExchangeError::Failed { in_force, .. } => Outcome::Failed {
                why,
                in_force: *in_force,
                exchanged,
            },
        }
    }

    fn name(&self) -> String {
        bank_name(self.disk, self.bank)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intent {
                bank,
                file,
                before,
                after,
            } => {
                write!(
                    f,
                    "{bank}: {file} {} -> {}",
                    &before[..12.min(before.len())],
                    &after[..12.min(after.len())]
                )
            }
            Self::Settled {
                bank,
                freed_clusters,
            } => write!(
                f,
                "{bank}: cleaned up after an interrupted repair ({} freed)",
                counted(*freed_clusters, "cluster", "clusters")
            ),
            Self::Done { bank, file } => write!(f, "{bank}: {file} written and read back"),
        }
    }
}
