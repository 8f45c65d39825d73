//! Damaged and hostile volumes: refused without a write, without a panic, in little memory and
//! time.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rescue_agent::disk::ByteOffset;
use rescue_agent::fat::exchange::{
    self, Earlier, ExchangeError, Refusal, Replaced, Replacement, Restoration,
};
use rescue_agent::fat::{FatError, FatTime, Region, ShortName, Volume};
use rescue_tests::power::census::Census;
use rescue_tests::power::content;
use rescue_tests::power::device::Recorder;
use rescue_tests::power::fence::Fence;
use rescue_tests::power::fsck::fsck;
use rescue_tests::power::maker::{self, Bank, Furnishing, Shape, Slots, Space, Wear};
use rescue_tests::power::medium::{Image, Medium, Source};
use rescue_tests::power::reader::Loader;
use rescue_tests::power::rng::{self, Rng};
use rescue_tests::power::runner::{Case, Task};

/// Counts what each thread has allocated at most, so that tests can limit it.
#[allow(unsafe_code)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<usize> = const { Cell::new(0) };
        static PEAK: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Debug)]
    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    // SAFETY: every request is handed on to the system's allocator as it came.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let now = NOW.get().saturating_add(layout.size());
            NOW.set(now);
            PEAK.set(PEAK.get().max(now));
            // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            NOW.set(NOW.get().saturating_sub(layout.size()));
            // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    /// The most bytes this thread held during `work`, beyond what it held before.
    pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
        let before = NOW.get();
        PEAK.set(before);
        let result = work();
        (result, PEAK.get() - before)
    }
}

const FAT12: Shape = Shape {
    bits: 12,
    sector: 512,
    device_sector: 512,
    cluster: 1024,
    tables: 2,
    root_slots: 64,
    clusters: 120,
};
const FAT16: Shape = Shape {
    bits: 16,
    clusters: 4200,
    ..FAT12
};

fn furnishing(undo: bool) -> Furnishing {
    Furnishing {
        archive: 3000,
        undo: undo.then_some(2500),
        slots: Slots::SameSector,
        space: Space::Plenty,
        seed: 3,
        wear: Wear::None,
    }
}

fn now() -> FatTime {
    FatTime::from_unix(1_767_225_600)
}

fn new_archive() -> Vec<u8> {
    content::gzip(4000, 99)
}

/// Byte offsets on the device of what damage aims at.
struct Map {
    census: Census,
}

impl Map {
    fn of(bank: &Bank) -> Self {
        let census = Census::of(&bank.medium, bank.region.start.0, bank.sector).unwrap();
        assert_eq!(census.problems, Vec::<String>::new());
        Self { census }
    }

    fn table(&self, copy: u64) -> u64 {
        let layout = &self.census.layout;
        layout.byte(layout.tables_at + copy * layout.table_sectors)
    }

    fn slot(&self, name: &str) -> u64 {
        let layout = &self.census.layout;
        let slot = self.census.file(name).unwrap().root_slot.unwrap();
        layout.byte(layout.root_at) + slot as u64 * 32
    }

    fn clusters(&self, name: &str) -> &[u32] {
        &self.census.file(name).unwrap().clusters
    }

    /// Sets the entry of a cluster in the tables named.
    fn link(&self, medium: &mut Medium, copies: &[u64], cluster: u32, to: u32) {
        for copy in copies {
            let bits = self.census.layout.entry_bits(cluster);
            let value = match (self.census.layout.wide, bits[0].1) {
                (false, 0xf0) => to << 4,
                _ => to,
            };
            for ((at, mask), byte) in bits.into_iter().zip(value.to_le_bytes()) {
                let at = self.table(*copy) + at as u64;
                let old = medium.bytes(at, 1).unwrap()[0];
                medium.patch(at, &[old & !mask | byte & mask]).unwrap();
            }
        }
    }
}

/// What was asked of the exchange, and what came of it.
struct Outcome {
    asked: &'static str,
    result: Result<(), ExchangeError>,
    writes: usize,
    medium: Medium,
}

/// Puts [`new_archive`] in place; the undo copy, where there is one, is what the old one was made of.
fn replace(device: &Recorder, region: Region, old: &[u8], undo: bool) -> Result<(), ExchangeError> {
    let replacement = Replacement {
        archive: ShortName::STATE,
        old: Some(old),
        new: &new_archive(),
        replaced: match undo {
            true => Replaced::Original(ShortName::STATE.with_extension(*b"ORG")),
            false => Replaced::Kept(Earlier::Freed),
        },
        build: "6.7.0-8169922",
    };
    exchange::replace(device, region, &replacement, now()).map(|_| ())
}

/// Replaces in both ways, restores and changes places, each on a copy of its own.
fn ask_everything(medium: &Medium, bank: &Bank, old: &[u8]) -> Vec<Outcome> {
    let region = bank.region;
    let ask = |asked, work: &dyn Fn(&Recorder) -> Result<(), ExchangeError>| {
        let recorder = Recorder::new(medium.clone());
        let result = work(&recorder);
        let recording = recorder.into_recording();
        Outcome {
            asked,
            result,
            writes: recording.writes(),
            medium: recording.medium,
        }
    };
    let restoration = Restoration {
        archive: ShortName::STATE,
        in_place: old,
        copy: ShortName::STATE.with_extension(*b"ORG"),
        original: bank.undo.as_deref().unwrap_or_default(),
    };
    vec![
        ask("replace", &|device| replace(device, region, old, true)),
        ask("replace again", &|device| {
            replace(device, region, old, false)
        }),
        ask("restore", &|device| {
            exchange::restore(device, region, &restoration)
        }),
        ask("swap", &|device| {
            exchange::swap(device, region, &restoration).map(|_| ())
        }),
    ]
}

/// Every one of them refuses, with a reason that has these words, and writes nothing.
fn assert_refused(name: &str, medium: &Medium, bank: &Bank, words: &str) {
    for outcome in ask_everything(medium, bank, &bank.archive) {
        let asked = format!("{name}: {}", outcome.asked);
        assert_eq!(outcome.writes, 0, "{asked}: {:?}", outcome.result);
        match outcome.result {
            Err(ExchangeError::Refused(refusal)) => {
                let text = refusal.to_string();
                assert!(text.contains(words), "{asked}: {text}");
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
}

#[test]
fn volumes_on_which_an_exchange_would_not_be_safe_are_refused_untouched() {
    for shape in [FAT12, FAT16] {
        let bank = maker::make(shape, furnishing(true)).unwrap();
        let map = Map::of(&bank);
        let (state, other) = (map.clusters("STATE   TGZ"), map.clusters("B       V00"));
        let free = *map.census.free.last().unwrap();
        let refused = |name: &str, words: &str, damage: &dyn Fn(&mut Medium)| {
            let mut medium = bank.medium.clone();
            damage(&mut medium);
            assert_refused(&format!("{shape}: {name}"), &medium, &bank, words);
        };
        refused("tables differ in the archive", "tables differ", &|medium| {
            map.link(medium, &[1], state[0], 0xfff);
        });
        refused("cross-linked", "both claim cluster", &|medium| {
            map.link(medium, &[0, 1], state[1], other[0]);
        });
        refused(
            "cross-linked by another file",
            "both claim cluster",
            &|medium| {
                map.link(medium, &[0, 1], other[0], state[1]);
            },
        );
        refused("loop", "", &|medium| {
            map.link(medium, &[0, 1], state[2], state[0]);
        });
        refused("chain into nowhere", "no cluster of a file", &|medium| {
            map.link(medium, &[0, 1], state[2], 0xfe0);
        });
        refused(
            "chain into a free cluster",
            "no cluster of a file",
            &|medium| {
                map.link(medium, &[0, 1], state[2], free);
            },
        );
        refused("name twice", "occurs twice", &|medium| {
            let slot = map.slot("B       V00");
            medium.patch(slot, b"STATE   TGZ").unwrap();
        });
        refused("archive that is a directory", "is a directory", &|medium| {
            medium
                .patch(map.slot("STATE   TGZ"), b"STATE   XXX")
                .unwrap();
            medium
                .patch(map.slot("DIR        "), b"STATE   TGZ")
                .unwrap();
        });
        refused(
            "longer than its partition",
            "more than its partition",
            &|medium| {
                let sectors = medium.bytes(bank.region.start.0 + 19, 2).unwrap();
                assert_ne!(sectors, [0, 0], "a small volume");
                medium
                    .patch(bank.region.start.0 + 19, &[sectors[0], sectors[1] + 1])
                    .unwrap();
            },
        );
    }
}

/// What is wrong beside the archives is no reason to refuse, and stays as it is, bit by bit.
#[test]
fn what_is_wrong_with_the_rest_of_a_volume_neither_refuses_nor_changes() {
    for shape in [FAT12, FAT16] {
        let bank = maker::make(shape, furnishing(true)).unwrap();
        let map = Map::of(&bank);
        let other = map.clusters("B       V00");
        let free = *map.census.free.last().unwrap();
        let (bad, end) = match shape.bits {
            12 => (0xff7, 0xfff),
            _ => (0xfff7, 0xffff),
        };
        let accepted = |name: &str, note: &str, damage: &dyn Fn(&mut Medium)| {
            let mut medium = bank.medium.clone();
            damage(&mut medium);
            assert_accepted(&format!("{shape}: {name}"), &medium, &bank, note);
        };
        accepted("dirty", "not cleanly unmounted", &|medium| {
            medium.patch(bank.region.start.0 + 0x25, &[1]).unwrap();
        });
        if shape.bits == 16 {
            accepted("dirty table", "not cleanly unmounted", &|medium| {
                medium.patch(map.table(0) + 3, &[0x7f]).unwrap();
            });
        }
        accepted(
            "a lost chain",
            "1 cluster in use belongs to no file",
            &|medium| {
                map.link(medium, &[0, 1], free, end);
            },
        );
        accepted(
            "tables differ about a free cluster",
            "tables differ in 1 entry",
            &|medium| map.link(medium, &[1], free, end),
        );
        accepted(
            "tables differ about another file",
            "tables differ in 1 entry",
            &|medium| map.link(medium, &[1], other[0], end),
        );
        accepted(
            "a cluster bad in one table",
            "tables differ in 1 entry",
            &|medium| map.link(medium, &[0], free, bad),
        );
        accepted(
            "loop of another file",
            "another file is damaged",
            &|medium| {
                map.link(medium, &[0, 1], other[1], other[0]);
            },
        );
        accepted(
            "another file leads nowhere",
            "another file is damaged",
            &|medium| {
                map.link(medium, &[0, 1], other[1], 0xfe0);
            },
        );
        accepted(
            "two others share a cluster",
            "both claim cluster",
            &|medium| {
                let third = map.clusters("A       V00")[0];
                map.link(medium, &[0, 1], other[0], third);
            },
        );
        accepted(
            "directory without end",
            "another file is damaged",
            &|medium| {
                let dir = map.clusters("DIR        ")[0];
                map.link(medium, &[0, 1], dir, dir);
            },
        );
        accepted(
            "a file named like our marker",
            "STATE.NEW is not",
            &|medium| {
                let slot = map.slot("B       V00");
                medium.patch(slot, b"STATE   NEW").unwrap();
            },
        );
        accepted(
            "an empty file named like our marker",
            "STATE.NEW is not",
            &|medium| {
                let slot = map.slot("B       V00");
                medium.patch(slot, b"STATE   NEW").unwrap();
                medium.patch(slot + 26, &[0; 6]).unwrap();
            },
        );
        accepted(
            "a directory named like a copy",
            "STATE.OR1 is not",
            &|medium| {
                medium
                    .patch(map.slot("DIR        "), b"STATE   OR1")
                    .unwrap();
            },
        );
        accepted("no boot signature", "55 aa", &|medium| {
            medium.patch(bank.region.start.0 + 510, &[0]).unwrap();
        });
    }
}

fn assert_accepted(name: &str, medium: &Medium, bank: &Bank, note: &str) {
    let device = Recorder::new(medium.clone());
    let volume = Volume::open(&device, bank.region).unwrap();
    let assessment = exchange::assess(&volume, &[ShortName::STATE]).unwrap();
    let notes: Vec<String> = assessment.notes.iter().map(ToString::to_string).collect();
    assert!(
        notes.iter().any(|one| one.contains(note)),
        "{name}: {notes:?}"
    );
    assert!(!assessment.unsettled, "{name}");
    // The census wants the signature: it reads a copy that has it.
    let census = |medium: &Medium| {
        let mut signed = medium.clone();
        signed
            .patch(bank.region.start.0 + 510, &[0x55, 0xaa])
            .unwrap();
        Census::of(&signed, bank.region.start.0, bank.sector).unwrap()
    };
    let before = census(medium);
    for outcome in ask_everything(medium, bank, &bank.archive) {
        let asked = format!("{name}: {}", outcome.asked);
        outcome
            .result
            .unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert_eq!(census(&outcome.medium).problems, before.problems, "{asked}");
        let loader = Loader::open(&outcome.medium, bank.region.start.0, bank.sector).unwrap();
        let archive = loader.load(b"STATE   TGZ").unwrap().unwrap();
        let wanted = match outcome.asked {
            "restore" | "swap" => bank.undo.clone().unwrap(),
            _ => new_archive(),
        };
        assert!(archive == wanted, "{asked}");
    }
    let recorder = Recorder::new(medium.clone());
    replace(&recorder, bank.region, &bank.archive, true).unwrap();
    let fence = Fence::around(medium, &before).unwrap();
    fence
        .check(&recorder.into_recording().closed)
        .unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

/// What only replacing minds.
#[test]
fn an_archive_that_cannot_be_exchanged_is_refused_untouched() {
    let bank = maker::make(FAT12, furnishing(true)).unwrap();
    let map = Map::of(&bank);
    let original = Replaced::Original(ShortName::STATE.with_extension(*b"ORG"));
    let replace = |medium: &Medium, old: &[u8], new: &[u8], replaced: Replaced| {
        let recorder = Recorder::new(medium.clone());
        let replacement = Replacement {
            archive: ShortName::STATE,
            old: Some(old),
            new,
            replaced,
            build: "",
        };
        let result = exchange::replace(&recorder, bank.region, &replacement, now());
        assert_eq!(recorder.into_recording().writes(), 0, "{result:?}");
        match result {
            Err(ExchangeError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    };
    let refusal = replace(&bank.medium, b"something else", &new_archive(), original);
    assert!(matches!(refusal, Refusal::Changed(_)), "{refusal}");
    let refusal = replace(&bank.medium, &bank.archive, b"", original);
    assert!(matches!(refusal, Refusal::Empty(_)), "{refusal}");

    let mut empty = bank.medium.clone();
    empty.patch(map.slot("STATE   ORG"), &[0xe5]).unwrap();
    for cluster in map
        .clusters("STATE   ORG")
        .iter()
        .chain(map.clusters("STATE   TGZ"))
    {
        map.link(&mut empty, &[0, 1], *cluster, 0);
    }
    empty.patch(map.slot("STATE   TGZ") + 26, &[0; 6]).unwrap();
    let refusal = replace(&empty, b"", &new_archive(), Replaced::Freed);
    assert!(matches!(refusal, Refusal::Empty(_)), "{refusal}");

    let mut short_undo = bank.medium.clone();
    short_undo
        .patch(map.slot("STATE   ORG") + 29, &[0x70])
        .unwrap();
    let refusal = replace(&short_undo, &bank.archive, &new_archive(), original);
    assert!(matches!(refusal, Refusal::Volume(_)), "{refusal}");
}

#[test]
fn a_full_volume_is_refused_untouched_and_one_with_just_enough_is_repaired() {
    let needed = 4000_usize.div_ceil(1024);
    for (clusters, slots, words) in [
        (needed, Slots::SameSector, None),
        (
            needed - 1,
            Slots::SameSector,
            Some("4 clusters of 1024 bytes; free: 3"),
        ),
        (
            0,
            Slots::SameSector,
            Some("4 clusters of 1024 bytes; free: 0"),
        ),
        (needed, Slots::None, Some("no free entry for the undo copy")),
    ] {
        for undo in [false, true] {
            let furnishing = Furnishing {
                space: Space::Exactly(clusters),
                slots,
                ..furnishing(undo)
            };
            let bank = maker::make(FAT12, furnishing).unwrap();
            let case = Case::new("full", &bank, Task::Replace(new_archive())).unwrap();
            let recorder = Recorder::new(bank.medium.clone());
            let result = case.run(&recorder);
            let recording = recorder.into_recording();
            match words {
                None => {
                    result.unwrap();
                    case.judge_end(&recording.medium).unwrap();
                }
                Some(words) => {
                    let error = result.unwrap_err();
                    assert!(matches!(error, ExchangeError::Refused(_)), "{error:?}");
                    assert!(error.to_string().contains(words), "{error}");
                    assert_eq!(recording.writes(), 0);
                }
            }
        }
    }
}

/// Restoring needs no room at all.
#[test]
fn a_full_volume_can_be_restored() {
    let furnishing = Furnishing {
        space: Space::Exactly(0),
        slots: Slots::None,
        ..furnishing(true)
    };
    let bank = maker::make(FAT12, furnishing).unwrap();
    let case = Case::new("full", &bank, Task::Restore).unwrap();
    let recorder = Recorder::new(bank.medium.clone());
    case.run(&recorder).unwrap();
    case.judge_end(&recorder.into_recording().medium).unwrap();
}

/// The judge of thousands of volumes, judged by `fsck.fat` on a few hundred damaged ones.
#[test]
fn the_census_finds_what_fsck_finds() {
    let seed = rng::seed_from_env();
    let mut rng = Rng::new(seed, 42);
    let (mut damaged, mut sound) = (0, 0);
    for shape in [FAT12, FAT16] {
        let bank = maker::make(shape, furnishing(true)).unwrap();
        let map = Map::of(&bank);
        let names = ["STATE   TGZ", "STATE   ORG", "A       V00", "B       V00"];
        for round in 0..60 {
            let mut medium = bank.medium.clone();
            let name = names[rng.below(names.len())];
            let clusters = map.clusters(name);
            let cluster = clusters[rng.below(clusters.len())];
            let free = map.census.free[rng.below(map.census.free.len())];
            let other = map.clusters(names[rng.below(names.len())])[0];
            let copies: &[u64] = [&[0, 1][..], &[0], &[1]][rng.below(3)];
            match round % 6 {
                0 => map.link(&mut medium, &[0, 1], cluster, other),
                1 => map.link(&mut medium, copies, cluster, 0),
                2 => map.link(&mut medium, copies, free, 0xffff),
                3 => map.link(&mut medium, copies, cluster, free),
                4 => medium
                    .patch(map.slot(name) + 29, &[rng.below(40) as u8])
                    .unwrap(),
                _ => medium.patch(map.slot(name) + 22, &[0, 0x60]).unwrap(),
            }
            let verdict = fsck(&medium, bank.region.start.0, bank.region.length).unwrap();
            let census = Census::of(&medium, bank.region.start.0, shape.sector).unwrap();
            assert_eq!(
                verdict.clean,
                census.problems.is_empty(),
                "seed {seed:#x} round {round}: {:?}\n{}",
                census.problems,
                verdict.text
            );
            match verdict.clean {
                true => sound += 1,
                false => damaged += 1,
            }
        }
    }
    println!("seed {seed:#x}: {damaged} damaged volumes, {sound} sound ones, no disagreement");
    assert!(damaged > 60 && sound > 15, "{damaged} {sound}");
}

/// Banks in every condition an honest world leaves them in: the seeds of the mutations.
fn honest_banks() -> Vec<Bank> {
    let mut banks = Vec::new();
    for (shape, undo, slots) in [
        (FAT12, false, Slots::SameSector),
        (FAT12, true, Slots::OtherSector),
        (FAT12, false, Slots::OtherSector),
        (FAT16, true, Slots::SameSector),
    ] {
        let furnishing = Furnishing {
            slots,
            ..furnishing(undo)
        };
        let bank = maker::make(shape, furnishing).unwrap();
        let case = Case::new("honest", &bank, Task::Replace(new_archive())).unwrap();
        let mut cut = bank.medium.clone();
        banks.push(bank.clone());
        for epoch in case.record().unwrap() {
            for write in epoch {
                cut.put(write.sector, write.data);
            }
            let medium = cut.flattened();
            banks.push(Bank {
                medium,
                ..bank.clone()
            });
        }
    }
    banks
}

/// Changed bytes: which part of the metadata, how far into it, what.
fn mutations() -> impl Strategy<Value = Vec<(u8, u16, u8)>> {
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![
            0, 1, 2, 3, 0x0f, 0x10, 0x20, 0x2e, 0xe5, 0xf0, 0xf7, 0xf8, 0xff
        ]),
    ];
    prop::collection::vec((0_u8..8, any::<u16>(), byte), 1..6)
}

fn mutate(bank: &Bank, layout_of: &Map, mutations: &[(u8, u16, u8)]) -> Medium {
    let mut medium = bank.medium.clone();
    let layout = &layout_of.census.layout;
    let at = u64::from;
    for (part, offset, byte) in mutations {
        let at = match part {
            // The parameter block.
            0 => layout.start + 11 + at(*offset) % 28,
            // The tables, mostly where they are in use.
            1 | 2 => layout_of.table(0) + at(*offset) % 96,
            3 => layout_of.table(1) + at(*offset) % 96,
            // The root directory, mostly where it is in use.
            4 | 5 => layout.byte(layout.root_at) + at(*offset) % 384,
            6 => layout.byte(layout.root_at) + at(*offset) % 2048,
            // The data area: directories among it.
            _ => layout.byte(layout.data_at) + at(*offset) % 32_768,
        };
        medium.patch(at, &[*byte]).unwrap();
    }
    medium
}

fn read_everything(medium: &Medium, region: Region) {
    let device = Recorder::new(medium.clone());
    let Ok(volume) = Volume::open(&device, region) else {
        return;
    };
    let _ = volume.survey();
    let _ = exchange::assess(&volume, &[ShortName::STATE]);
    for entry in volume.root_entries() {
        let _ = format!("{entry:?} {}", entry.modified());
        let _ = volume.read(&entry);
    }
    assert_eq!(device.into_recording().writes(), 0);
}

/// Judges what an exchange did to a volume that nobody vouches for.
fn judge_hostile(medium: &Medium, bank: &Bank) -> Result<(), TestCaseError> {
    let start = bank.region.start.0;
    let sector = bank.sector;
    let before = Census::of(medium, start, sector);
    let loadable = Loader::open(medium, start, sector)
        .ok()
        .and_then(|loader| loader.load(b"STATE   TGZ").ok().flatten());
    let old = loadable.unwrap_or_else(|| bank.archive.clone());
    for outcome in ask_everything(medium, bank, &old) {
        match &outcome.result {
            Err(ExchangeError::Refused(_)) => prop_assert_eq!(outcome.writes, 0),
            Err(failed) => {
                prop_assert!(
                    false,
                    "{}: failed on a disk without fault: {}",
                    outcome.asked,
                    failed
                );
            }
            Ok(()) if outcome.asked.starts_with("replace") => {
                let found = Loader::open(&outcome.medium, start, sector)
                    .and_then(|loader| loader.load(b"STATE   TGZ"));
                let found = found.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
                prop_assert_eq!(found, Some(new_archive()));
            }
            Ok(()) => {}
        }
    }
    // Settling and replacing together may not touch what belongs to others.
    if let Ok(before) = before {
        let recorder = Recorder::new(medium.clone());
        let _ = exchange::settle(&recorder, bank.region);
        let _ = replace(&recorder, bank.region, &old, bank.undo.is_some());
        let epochs = recorder.into_recording().epochs();
        Fence::around_files(medium, &before)
            .and_then(|fence| fence.check(&epochs))
            .map_err(|error| TestCaseError::fail(format!("{error:#}; {:?}", before.problems)))?;
    }
    Ok(())
}

#[test]
fn mutated_volumes_are_survived() {
    const MEMORY: usize = 16 << 20;
    const TIME: Duration = Duration::from_secs(5);
    let banks = honest_banks();
    let originals: Vec<(Bank, Map)> = banks
        .into_iter()
        .map(|bank| {
            let census = Census::of(&bank.medium, bank.region.start.0, bank.sector).unwrap();
            (bank, Map { census })
        })
        .collect();
    let deep = std::env::var("RESCUE_DEEP").as_deref() == Ok("1");
    let mut runner = TestRunner::new(Config {
        cases: if deep { 200_000 } else { 8_000 },
        failure_persistence: None,
        ..Config::default()
    });
    let strategy = (0..originals.len(), mutations());
    let result = runner.run(&strategy, |(which, mutations)| {
        let (bank, map) = &originals[which];
        let medium = mutate(bank, map, &mutations);
        let began = Instant::now();
        let ((), peak) = counting::peak_of(|| read_everything(&medium, bank.region));
        prop_assert!(peak < MEMORY, "{} bytes", peak);
        let (judged, peak) = counting::peak_of(|| judge_hostile(&medium, bank));
        judged?;
        prop_assert!(peak < 2 * MEMORY, "{} bytes", peak);
        prop_assert!(began.elapsed() < TIME, "{:?}", began.elapsed());
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A parameter block on an otherwise empty disk of 4 GiB, as large as real banks.
fn claiming(fields: &[(usize, &[u8])]) -> (Medium, Region) {
    let length = 4_u64 << 30;
    let mut boot = vec![0_u8; 512];
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    for (at, bytes) in fields {
        boot[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let mut image = Image::zeroed(length, 512);
    image.write(0, &boot);
    let region = Region {
        start: ByteOffset(0),
        length,
    };
    (Medium::new(image), region)
}

/// Sectors of 4096 bytes, as many of them in clusters and tables as the fields can say.
fn large_fields(cluster_sectors: &[u8], tables: &[u8]) -> Vec<(usize, Vec<u8>)> {
    vec![
        (11, vec![0x00, 0x10]),
        (13, cluster_sectors.to_vec()),
        (14, vec![2, 0]),
        (16, vec![2]),
        (17, vec![0x00, 0x02]),
        (22, tables.to_vec()),
        (32, (1_u32 << 20).to_le_bytes().to_vec()),
    ]
}

fn claiming_large(cluster_sectors: u8, table_sectors: u16) -> (Medium, Region) {
    let fields = large_fields(&[cluster_sectors], &table_sectors.to_le_bytes());
    let fields: Vec<(usize, &[u8])> = fields.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    claiming(&fields)
}

#[test]
fn absurd_table_sizes_take_no_memory() {
    let (medium, region) = claiming_large(128, 65_535);
    let (result, peak) = counting::peak_of(|| read_and_say(&medium, region));
    assert!(peak < 8 << 20, "{peak} bytes: {result}");
}

/// A directory whose chain runs over the whole volume of 4 GiB.
#[test]
fn endless_directories_take_no_memory() {
    let (medium, region) = claiming_large(128, 16);
    let mut medium = medium;
    let clusters = (1_u32 << 20) / 128 - 2;
    for copy in 0..2 {
        let table: Vec<u8> = (0..clusters)
            .flat_map(|cluster| match cluster {
                0 | 1 => [0xf8, 0xff],
                _ if cluster + 1 == clusters => [0xff, 0xff],
                _ => u16::try_from(cluster + 1).unwrap().to_le_bytes(),
            })
            .collect();
        medium.patch((2 + copy * 16) * 4096, &table).unwrap();
    }
    let mut slot = *b"ENDLESS    \x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0";
    let root = (2 + 2 * 16) * 4096;
    medium.patch(root, &slot).unwrap();
    let (result, peak) = counting::peak_of(|| read_and_say(&medium, region));
    assert!(peak < 8 << 20, "{peak} bytes: {result}");
    assert!(result.contains("DirectoryTooLarge"), "{result}");

    // The same chain as a file that says it is as long: more than is loaded.
    slot[11] = 0x20;
    slot[28..].copy_from_slice(&(3_u32 << 30).to_le_bytes());
    medium.patch(root, &slot).unwrap();
    let device = Recorder::new(medium);
    let volume = Volume::open(&device, region).unwrap();
    let entry = volume.root_entries().next().unwrap();
    let (error, peak) = counting::peak_of(|| volume.read(&entry).unwrap_err());
    assert!(matches!(error, FatError::TooLarge { .. }), "{error}");
    assert!(peak < 1 << 20, "{peak} bytes");
}

fn read_and_say(medium: &Medium, region: Region) -> String {
    let device = Recorder::new(medium.clone());
    let volume = match Volume::open(&device, region) {
        Ok(volume) => volume,
        Err(error) => return error.to_string(),
    };
    match exchange::assess(&volume, &[]) {
        Ok(assessment) => format!("{:?}", assessment.notes),
        Err(refusal) => refusal.to_string(),
    }
}
