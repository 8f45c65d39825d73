//! Every sequence of up to six events in the life of a bank: repairs, restores with and without the
//! option, ESXi saving its configuration with and without the device passed through, upgrades. No
//! archive is lost that nobody asked to lose, and each command does what a small model says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use rescue_tests::esxi::host::Owner;
use rescue_tests::power::census::Census;
use rescue_tests::power::maker::Bank;
use rescue_tests::power::whole::{self, Asked};

/// How long the sequences are.
const LENGTH: usize = 6;
/// The boot controller, as a selector.
const BOOT: &str = "0000:00:1f.2";
/// Exit statuses.
const DONE: u8 = 0;
const REFUSED: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Revert,
    Restore,
    DiscardNewer,
    SavePassedThrough,
    SaveOwned,
    Upgrade,
}

const EVENTS: [Event; 6] = [
    Event::Revert,
    Event::Restore,
    Event::DiscardNewer,
    Event::SavePassedThrough,
    Event::SaveOwned,
    Event::Upgrade,
];

/// An archive, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    bytes: Vec<u8>,
    passes_through: bool,
    /// What a repair made it of, and under which build.
    made_of: Option<(Vec<u8>, usize)>,
}

/// What should be in the bank.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    in_place: Item,
    /// The copies, and whether each was set aside.
    copies: Vec<(Item, bool)>,
    build: usize,
}

impl Model {
    /// The copy that the archive in place belongs to.
    fn original(&self) -> Option<usize> {
        let (original, build) = self.in_place.made_of.as_ref()?;
        let is_it = |(copy, _): &(Item, bool)| copy.bytes == *original;
        self.copies
            .iter()
            .position(is_it)
            .filter(|_| *build == self.build)
    }

    /// A copy that keeps the original of an earlier repair.
    fn earlier(&self) -> Option<usize> {
        self.copies.iter().position(|(_, aside)| !aside)
    }

    /// All archives that can be had back, or are in place.
    fn reachable(&self) -> Vec<&Item> {
        let copies = self.copies.iter().map(|(item, _)| item);
        copies.chain([&self.in_place]).collect()
    }
}

/// The archives that ESXi saves, by how often it has saved and whether the device is passed through.
type Saves = BTreeMap<(usize, bool), Vec<u8>>;

fn saves() -> Result<Saves> {
    let mut saves = Saves::new();
    for count in 0..=LENGTH {
        for passed in [true, false] {
            let owner = match passed {
                true => Owner::Passthru,
                false => Owner::Vmkernel,
            };
            let number = u32::try_from(count)? + 10;
            saves.insert((count, passed), whole::archive(number, owner)?);
        }
    }
    Ok(saves)
}

/// A moment in the life of a bank.
#[derive(Clone)]
struct Moment {
    bank: Bank,
    model: Model,
}

impl Moment {
    fn first(saves: &Saves) -> Result<Self> {
        let bytes = saves[&(0, true)].clone();
        Ok(Self {
            bank: whole::disk(&bytes)?,
            model: Model {
                in_place: Item {
                    bytes,
                    passes_through: true,
                    made_of: None,
                },
                copies: Vec::new(),
                build: 0,
            },
        })
    }

    /// The moment after an event, judged.
    fn after(&self, event: Event, depth: usize, saves: &Saves) -> Result<Self> {
        let mut next = self.clone();
        match event {
            Event::SavePassedThrough | Event::SaveOwned => {
                let passes_through = event == Event::SavePassedThrough;
                let bytes = &saves[&(depth, passes_through)];
                whole::save(&mut next.bank, bytes)?;
                next.model.in_place = Item {
                    bytes: bytes.clone(),
                    passes_through,
                    made_of: None,
                };
            }
            Event::Upgrade => {
                next.model.build += 1;
                let build = format!("{}.0.0-1000", 7 + next.model.build);
                whole::upgrade(&mut next.bank, &build)?;
            }
            Event::Revert => next.revert()?,
            Event::Restore => next.restore(false)?,
            Event::DiscardNewer => next.restore(true)?,
        }
        next.judge(&self.model, event)?;
        Ok(next)
    }

    fn ask(&mut self, asked: Asked<'_>) -> Result<u8> {
        let (status, medium) = whole::run_on(&self.bank.medium, asked)?;
        self.bank.medium = medium;
        Ok(status)
    }

    fn in_place(&self) -> Result<Vec<u8>> {
        whole::read(&self.bank, b"STATE   TGZ")?.context("STATE.TGZ is gone")
    }

    fn revert(&mut self) -> Result<()> {
        let status = self.ask(Asked::Revert(BOOT))?;
        ensure!(status == DONE, "revert ended with {status}");
        if !self.model.in_place.passes_through {
            return Ok(());
        }
        let model = &mut self.model;
        // The original of an accident before is what ESXi has made the archive in place of.
        model.copies.retain(|(_, aside)| *aside);
        let bytes = whole::read(&self.bank, b"STATE   TGZ")?.context("STATE.TGZ is gone")?;
        ensure!(bytes != model.in_place.bytes, "nothing was repaired");
        let repaired = Item {
            bytes,
            passes_through: false,
            made_of: Some((model.in_place.bytes.clone(), model.build)),
        };
        let original = std::mem::replace(&mut model.in_place, repaired);
        model.copies.push((original, false));
        Ok(())
    }

    fn restore(&mut self, discard_newer: bool) -> Result<()> {
        let asked = match discard_newer {
            true => Asked::DiscardNewer,
            false => Asked::Restore,
        };
        let status = self.ask(asked)?;
        let now = self.in_place()?;
        let model = &mut self.model;
        let expected = match (model.original(), model.earlier()) {
            (Some(original), _) => {
                model.in_place = model.copies.remove(original).0;
                DONE
            }
            (None, Some(_)) if !discard_newer => REFUSED,
            (None, Some(earlier)) => {
                let original = model.copies.remove(earlier).0;
                let newer = std::mem::replace(&mut model.in_place, original);
                model.copies.push((newer, true));
                DONE
            }
            // Which of several is for the agent to choose.
            (None, None) if discard_newer && !model.copies.is_empty() => {
                let chosen = model.copies.iter().position(|(one, _)| one.bytes == now);
                let chosen = chosen.context("no copy came back")?;
                let back = model.copies.remove(chosen).0;
                let newer = std::mem::replace(&mut model.in_place, back);
                model.copies.push((newer, true));
                DONE
            }
            (None, None) => DONE,
        };
        ensure!(
            status == expected,
            "restore ended with {status}, not {expected}"
        );
        Ok(())
    }

    fn judge(&self, before: &Model, event: Event) -> Result<()> {
        ensure!(
            self.in_place()? == self.model.in_place.bytes,
            "another archive is in place"
        );
        let mut found = whole::copies(&self.bank.medium, &self.bank)?;
        let copies = self.model.copies.iter().map(|(item, _)| item.bytes.clone());
        let mut wanted: Vec<Vec<u8>> = copies.collect();
        found.sort();
        wanted.sort();
        ensure!(
            found == wanted,
            "{} copies are there, {} should be",
            found.len(),
            wanted.len()
        );
        let census = Census::of(
            &self.bank.medium,
            self.bank.region.start.0,
            self.bank.sector,
        )?;
        ensure!(census.problems.is_empty(), "{:?}", census.problems);
        self.nothing_is_lost(before, event)
    }

    /// What ESXi has saved stays reachable through every command, but for the original of an accident
    /// before the one that is repaired now.
    fn nothing_is_lost(&self, before: &Model, event: Event) -> Result<()> {
        if !matches!(event, Event::Revert | Event::Restore | Event::DiscardNewer) {
            return Ok(());
        }
        let now = self.model.reachable();
        for item in before.reachable() {
            let saved_by_esxi = item.made_of.is_none();
            let is_there = now.iter().any(|other| other.bytes == item.bytes);
            let superseded = event == Event::Revert
                && before.in_place.passes_through
                && before
                    .earlier()
                    .is_some_and(|earlier| before.copies[earlier].0 == *item);
            ensure!(
                !saved_by_esxi || is_there || superseded,
                "{event:?} lost an archive that nobody asked to lose"
            );
        }
        Ok(())
    }
}

/// Tries everything that can follow; returns how many sequences that were.
fn explore(moment: &Moment, path: &mut Vec<Event>, saves: &Saves) -> Result<usize> {
    if path.len() == LENGTH {
        return Ok(0);
    }
    let mut tried = 0;
    for event in EVENTS {
        path.push(event);
        let next = moment
            .after(event, path.len(), saves)
            .with_context(|| format!("{path:?}"))?;
        tried += 1;
        // What changed nothing is followed by nothing new.
        if next.model != moment.model {
            let mut next = next;
            next.bank.medium = next.bank.medium.flattened();
            tried += explore(&next, path, saves)?;
        }
        path.pop();
    }
    Ok(tried)
}

#[test]
fn no_history_of_a_bank_loses_an_archive_that_nobody_asked_to_lose() {
    let saves = saves().unwrap();
    let first = Moment::first(&saves).unwrap();
    let starts: Vec<[Event; 2]> = EVENTS
        .iter()
        .flat_map(|one| EVENTS.iter().map(|two| [*one, *two]))
        .collect();
    let (next, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(start) = starts.get(next.fetch_add(1, Ordering::SeqCst)) {
                    match begin(&first, start, &saves) {
                        Ok(count) => _ = tried.fetch_add(count, Ordering::SeqCst),
                        Err(error) => *failure.lock().unwrap() = Some(error),
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap() {
        panic!("{error:#}");
    }
    let tried = tried.into_inner();
    println!("{tried} different histories of up to {LENGTH} events, none bad");
    assert!(tried > 5_000, "only {tried} histories");
}

/// Everything that begins with these two events.
fn begin(first: &Moment, start: &[Event; 2], saves: &Saves) -> Result<usize> {
    let mut moment = first.clone();
    let mut path = Vec::new();
    for event in start {
        path.push(*event);
        let next = moment
            .after(*event, path.len(), saves)
            .with_context(|| format!("{path:?}"))?;
        if next.model == moment.model {
            return Ok(path.len());
        }
        moment = next;
    }
    Ok(path.len() + explore(&moment, &mut path, saves)?)
}
