//! A read, a write or a flush that fails, at every index of an exchange: what the error says is
//! active is what any later boot will find, and the next run reaches the end.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

use std::time::Duration;

use anyhow::Result;
use rescue_agent::disk::{BlockDevice, ByteOffset, SectorSize};
use rescue_agent::fat::exchange::{ActiveArchive, Earlier, ExchangeError};
use rescue_tests::power::content;
use rescue_tests::power::device::{
    Epoch, Fault, Faulty, Landed, Operation, Recorder, Recording, Slow,
};
use rescue_tests::power::maker::{self, Bank, Furnishing, Shape, Slots, Space, Wear};
use rescue_tests::power::medium::Medium;
use rescue_tests::power::runner::{Case, Task};

const SHAPE: Shape = Shape {
    bits: 12,
    sector: 512,
    device_sector: 512,
    cluster: 1024,
    tables: 2,
    root_slots: 512,
    clusters: 300,
};

fn bank(slots: Slots, undo: Option<usize>, task: &Task) -> Bank {
    let furnishing = Furnishing {
        archive: match task {
            Task::Create(_) => 0,
            _ => 3000,
        },
        undo,
        slots,
        space: Space::Fragmented,
        seed: 77,
        wear: Wear::None,
    };
    maker::make(SHAPE, furnishing).unwrap()
}

/// Every kind of exchange, with one commit write and with two.
fn cases() -> Vec<Case> {
    let new = content::gzip(4100, 78);
    let mut cases = Vec::new();
    for slots in [Slots::SameSector, Slots::OtherSector] {
        for (undo, task) in [
            (None, Task::Replace(new.clone())),
            (Some(2000), Task::Replace(new.clone())),
            (Some(2000), Task::Again(new.clone(), Earlier::Freed)),
            (None, Task::Create(new.clone())),
            (Some(2000), Task::Restore),
            (Some(2000), Task::Swap),
            (None, Task::PutBack(new.clone())),
        ] {
            let name = format!("{} {slots:?} undo {undo:?}", name_of(&task));
            cases.push(Case::new(name, &bank(slots, undo, &task), task).unwrap());
        }
    }
    cases
}

fn name_of(task: &Task) -> &'static str {
    match task {
        Task::Replace(_) => "replace",
        Task::Again(..) => "replace again",
        Task::Create(_) => "create",
        Task::Swap => "swap",
        Task::Restore => "restore",
        Task::PutBack(_) => "put back",
    }
}

/// Every fault worth injecting at `index`.
fn faults(index: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    for operation in [Operation::Read, Operation::Write, Operation::Flush] {
        let landings: &[Landed] = match operation {
            Operation::Write => &[Landed::Nothing, Landed::Half, Landed::All],
            _ => &[Landed::Nothing],
        };
        for landed in landings {
            for lasting in [false, true] {
                faults.push(Fault {
                    operation,
                    index,
                    lasting,
                    landed: *landed,
                });
            }
        }
    }
    faults
}

/// Everything the medium may hold when the power goes right after the error: what was flushed,
/// and of the rest nothing, everything, each prefix, or each single sector.
fn possible_media(base: &Medium, recording: &Recording) -> Vec<Medium> {
    let mut durable = base.clone();
    for write in recording.closed.iter().flatten() {
        durable.put(write.sector, write.data.clone());
    }
    let open: &Epoch = &recording.open;
    let with = |there: &dyn Fn(usize) -> bool| {
        let mut medium = durable.clone();
        for (_, write) in open.iter().enumerate().filter(|(index, _)| there(*index)) {
            medium.put(write.sector, write.data.clone());
        }
        medium
    };
    let prefixes = (0..=open.len()).map(|count| with(&move |index| index < count));
    let singles = (0..open.len()).map(|only| with(&move |index| index == only));
    prefixes.chain(singles).collect()
}

/// Whether what the error claims is true of an archive found on the medium.
fn claim_holds(claim: ActiveArchive, case: &Case, archive: &[u8]) -> bool {
    match claim {
        ActiveArchive::Old | ActiveArchive::Unchanged => archive == case.before(),
        ActiveArchive::New => archive == case.after(),
        ActiveArchive::OldOrNew => archive == case.before() || archive == case.after(),
        ActiveArchive::None => archive.is_empty(),
        ActiveArchive::NoneOrNew => archive.is_empty() || archive == case.after(),
    }
}

fn judge(case: &Case, fault: Fault, error: &ExchangeError, recording: &Recording) -> Result<usize> {
    let media = possible_media(case.base(), recording);
    let claim = match error {
        ExchangeError::Refused(refusal) => {
            anyhow::ensure!(recording.writes() == 0, "refused ({refusal}) after a write");
            ActiveArchive::Unchanged
        }
        ExchangeError::Failed {
            in_force, reason, ..
        } => {
            let text = error.to_string();
            anyhow::ensure!(text.contains(reason) && text.contains(&in_force.to_string()));
            *in_force
        }
    };
    for medium in &media {
        let archive = case.judge_cut(medium)?;
        anyhow::ensure!(
            claim_holds(claim, case, &archive),
            "{fault:?}: it says {claim:?}, which a power cut now would make untrue ({error})"
        );
        case.judge_state(medium)?;
    }
    Ok(media.len())
}

#[test]
fn every_fault_tells_the_truth_and_is_repaired_by_the_next_run() {
    let (mut injected, mut media) = (0, 0);
    for case in cases() {
        for index in 0.. {
            let mut any_struck = false;
            for fault in faults(index) {
                let device = Faulty::new(case.base().clone(), fault);
                let result = case.run(&device);
                if !device.has_struck() {
                    result.unwrap();
                    continue;
                }
                any_struck = true;
                injected += 1;
                let error = match result {
                    Err(error) => error,
                    Ok(()) => panic!("{}: {fault:?} went unnoticed", case.name()),
                };
                media += judge(&case, fault, &error, &device.recording())
                    .unwrap_or_else(|error| panic!("{}: {fault:?}: {error:#}", case.name()));
            }
            if !any_struck {
                break;
            }
        }
    }
    println!("{injected} faults injected, {media} media judged");
    assert!(injected > 500, "only {injected} faults");
}

/// Settling what a cut left meets faults as well: the archive stays what it was.
#[test]
fn a_fault_while_settling_changes_nothing_that_counts() {
    let mut injected = 0;
    for case in cases() {
        let epochs = case.record().unwrap();
        let mut cut = case.base().clone();
        for epoch in &epochs {
            for write in epoch {
                cut.put(write.sector, write.data.clone());
            }
            injected += faults_while_settling(&case, &cut);
        }
    }
    println!("{injected} faults injected");
    assert!(injected > 100, "only {injected} faults");
}

fn faults_while_settling(case: &Case, cut: &Medium) -> usize {
    let mut injected = 0;
    let before = case.judge_cut(cut).unwrap();
    for index in 0.. {
        let mut any_struck = false;
        for fault in faults(index) {
            let device = Faulty::new(cut.clone(), fault);
            let result = rescue_agent::fat::exchange::settle(&device, case.region());
            if !device.has_struck() {
                continue;
            }
            any_struck = true;
            injected += 1;
            assert!(result.is_err(), "{}: {fault:?} unnoticed", case.name());
            for medium in possible_media(cut, &device.recording()) {
                assert_eq!(case.judge_cut(&medium).unwrap(), before, "{fault:?}");
                case.judge_state(&medium).unwrap();
            }
        }
        if !any_struck {
            return injected;
        }
    }
    injected
}

/// A disk that needs its time gets it: no timeout, no retry, the same result.
#[test]
fn a_slow_disk_is_waited_for() {
    for case in cases() {
        let quick = Recorder::new(case.base().clone());
        case.run(&quick).unwrap();
        let slow = Slow::new(case.base().clone(), Duration::from_millis(2));
        case.run(&slow).unwrap();
        let operations = slow.operations();
        let (quick, slow) = (quick.into_recording(), slow.into_recording());
        assert_eq!(
            (quick.writes(), quick.flushes),
            (slow.writes(), slow.flushes)
        );
        assert!(operations < 300, "{}: {operations} operations", case.name());
        case.judge_end(&slow.medium).unwrap();
    }
}

/// A disk that drops a write to one sector and says nothing.
#[derive(Debug)]
struct Forgetful {
    inner: Recorder,
    sector: u64,
}

impl BlockDevice for Forgetful {
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> std::io::Result<()> {
        for (sector, part) in (offset.0 / 512..).zip(data.chunks(512)) {
            if sector != self.sector {
                self.inner.write_at(ByteOffset(sector * 512), part)?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Noticed at once, whichever sector it is: nothing is built on it, and the error names what is
/// active.
#[test]
fn a_disk_that_drops_a_write_silently_is_noticed() {
    for case in cases() {
        let epochs = case.record().unwrap();
        for write in epochs.iter().flatten() {
            let disk = Forgetful {
                inner: Recorder::new(case.base().clone()),
                sector: write.sector,
            };
            let error = case.run(&disk).unwrap_err();
            let ExchangeError::Failed { in_force, .. } = &error else {
                panic!("{}: {error}", case.name());
            };
            let medium = disk.inner.into_recording().medium;
            let archive = case
                .judge_cut(&medium)
                .unwrap_or_else(|why| panic!("{}: {error}: {why:#}", case.name()));
            assert!(claim_holds(*in_force, &case, &archive), "{error}");
            case.judge_state(&medium)
                .unwrap_or_else(|why| panic!("{}: {error}: {why:#}", case.name()));
        }
    }
}
