//! Power cuts at every moment of an exchange: no state loses the archive or the original, and
//! every state leads to the end.
//!
//! `RESCUE_DEEP=1` tries many more states; `RESCUE_SEED` makes another run;
//! `RESCUE_RECORD=FILE` notes what was written, to compare two versions of the agent by; what a
//! failure prints, set as `RESCUE_REPLAY`, is that state alone (`RESCUE_KEEP` names a folder for it).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use rescue_agent::disk::BlockDevice as _;
use rescue_agent::fat::exchange::Earlier;
use rescue_tests::power::content;
use rescue_tests::power::cuts::Effort;
use rescue_tests::power::device::Recorder;
use rescue_tests::power::maker::{self, Furnishing, Shape, Slots, Space, Wear};
use rescue_tests::power::medium::{Medium, Source as _};
use rescue_tests::power::rng::{self, Rng};
use rescue_tests::power::runner::{Case, Tally, Task};
use rescue_tests::power::whole::Stream;
use rescue_tests::replay::Identifier;

const fn shape(bits: u32, sector: usize, cluster: usize, tables: u32, clusters: usize) -> Shape {
    Shape {
        bits,
        sector,
        device_sector: sector,
        cluster,
        tables,
        root_slots: 512,
        clusters,
    }
}

/// The volume of a 4Kn disk in an image file: the directory's sectors of 512 bytes are the atoms.
const COPIED: Shape = Shape {
    device_sector: 512,
    ..shape(12, 4096, 4096, 2, 300)
};

const SHAPES: &[Shape] = &[
    COPIED,
    shape(12, 512, 512, 2, 700),
    shape(12, 512, 512, 1, 700),
    shape(12, 512, 1024, 2, 300),
    shape(12, 512, 2048, 2, 300),
    shape(12, 512, 4096, 1, 300),
    shape(12, 512, 8192, 2, 200),
    shape(12, 512, 16384, 2, 160),
    shape(12, 512, 32768, 1, 160),
    shape(12, 512, 65536, 2, 160),
    shape(12, 4096, 4096, 2, 2800),
    shape(12, 4096, 8192, 1, 300),
    shape(12, 4096, 16384, 2, 200),
    shape(12, 4096, 32768, 2, 160),
    shape(12, 4096, 65536, 2, 160),
    shape(16, 512, 512, 2, 4200),
    shape(16, 512, 1024, 1, 4200),
    shape(16, 512, 2048, 2, 4200),
    shape(16, 512, 4096, 2, 4200),
    shape(16, 512, 8192, 1, 4200),
    shape(16, 512, 16384, 2, 4200),
    shape(16, 512, 32768, 2, 4200),
    shape(16, 512, 65536, 2, 4200),
    shape(16, 4096, 4096, 2, 4200),
    shape(16, 4096, 8192, 2, 4200),
    shape(16, 4096, 16384, 1, 4200),
    shape(16, 4096, 32768, 2, 4200),
    shape(16, 4096, 65536, 2, 4200),
];

/// Lengths of an archive before and after, around the boundaries of a cluster.
fn lengths(cluster: usize) -> [(usize, usize); 9] {
    let c = cluster;
    [
        (c, c + 1),
        (c + 1, c),
        (c - 1, c - 1),
        (2 * c - 1, 2 * c + 1),
        (2 * c, c - 1),
        (c + 1, 2 * c),
        (c - 1, c),
        (2 * c + 1, 2 * c + 1),
        (3 * c, content::SHORTEST + 7),
    ]
}

/// A volume to make and what to do on it.
#[derive(Debug, Clone, Copy)]
struct Plan {
    shape: Shape,
    furnishing: Furnishing,
    kind: TaskKind,
    after: usize,
}

impl Plan {
    fn case(&self) -> Result<Case> {
        let Self {
            shape,
            furnishing,
            kind,
            after,
        } = self;
        let bank = maker::make(*shape, *furnishing)?;
        let new = content::gzip(*after, !furnishing.seed);
        let task = match kind {
            TaskKind::First | TaskKind::Later => Task::Replace(new),
            TaskKind::Again => Task::Again(new, Earlier::Freed),
            TaskKind::Aside => Task::Again(new, Earlier::SetAside),
            TaskKind::Create => Task::Create(new),
            TaskKind::Restore => Task::Restore,
            TaskKind::Swap => Task::Swap,
            TaskKind::PutBack => Task::PutBack(new),
        };
        let name = format!("{shape}, {kind:?}, {furnishing:?} to {after}");
        Case::new(name, &bank, task)
    }
}

/// Each shape with both kinds of slots and all tasks; lengths and free space take turns.
fn broad_plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for shape in SHAPES {
        let lengths = lengths(shape.cluster);
        for slots in [Slots::SameSector, Slots::OtherSector] {
            for kind in TASKS {
                let turn = plans.len();
                let (before, after) = lengths[turn % lengths.len()];
                let spaces = [Space::Plenty, Space::Fragmented];
                let furnishing = Furnishing {
                    archive: kind.length(before),
                    undo: kind
                        .needs_undo()
                        .then_some(lengths[(turn + 1) % lengths.len()].0),
                    slots,
                    space: spaces[(turn + turn / 8) % 2],
                    seed: turn as u64,
                    wear: Wear::ALL[(turn + turn / 6) % Wear::ALL.len()],
                };
                plans.push(Plan {
                    shape: *shape,
                    furnishing,
                    kind,
                    after,
                });
            }
        }
    }
    plans
}

/// Archives of many clusters, just few enough sectors for every subset; chains that cross from
/// one sector of a table into the next, or touch many; volumes with no cluster to spare.
fn deep_plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for shape in SHAPES
        .iter()
        .filter(|shape| shape.cluster <= 4 * shape.sector)
    {
        for (turn, sectors) in [7, 10, 12].into_iter().enumerate() {
            for kind in TASKS {
                let length = sectors * shape.device_sector;
                let clusters = length.div_ceil(shape.cluster);
                // The first cluster whose entry stands in the table's second sector, less a few.
                let crossing = (shape.sector * 8 / shape.bits as usize).min(shape.clusters / 2) - 3;
                let space = match (turn, shape.bits, shape.cluster) {
                    (0, 16, 512) => Space::Scattered { clusters, gap: 270 },
                    (0, ..) => Space::Exactly(clusters),
                    (1, ..) => Space::From(u32::try_from(crossing).unwrap()),
                    _ => Space::Fragmented,
                };
                let slots = [Slots::SameSector, Slots::OtherSector][(plans.len()) % 2];
                let furnishing = Furnishing {
                    archive: kind.length(length - 1),
                    undo: kind.needs_undo().then_some(2 * shape.cluster + 1),
                    slots,
                    space,
                    seed: 1000 + plans.len() as u64,
                    wear: match space {
                        Space::Fragmented => Wear::ALL[plans.len() / 3 % Wear::ALL.len()],
                        _ => Wear::None,
                    },
                };
                plans.push(Plan {
                    shape: *shape,
                    furnishing,
                    kind,
                    after: length - [0, 1, 0][turn],
                });
            }
        }
    }
    plans
}

const TASKS: [TaskKind; 8] = [
    TaskKind::First,
    TaskKind::Later,
    TaskKind::Again,
    TaskKind::Restore,
    TaskKind::Create,
    TaskKind::PutBack,
    TaskKind::Swap,
    TaskKind::Aside,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskKind {
    First,
    Later,
    Again,
    Aside,
    Create,
    Restore,
    Swap,
    PutBack,
}

impl TaskKind {
    /// Whether an earlier repair left its undo copy.
    fn needs_undo(self) -> bool {
        use TaskKind::{Again, Aside, Later, Restore, Swap};
        matches!(self, Later | Again | Aside | Restore | Swap)
    }

    /// The length of the archive in place.
    fn length(self, otherwise: usize) -> usize {
        match self {
            Self::Create => 0,
            _ => otherwise,
        }
    }
}

/// Runs `work` for every number below `count` on two threads.
fn on_two_threads(count: usize, work: impl Fn(usize) -> Result<Tally> + Sync) -> Result<Tally> {
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Ok(Tally::default())));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    if index >= count {
                        return;
                    }
                    let tally = work(index);
                    let mut total = total.lock().unwrap();
                    match (&mut *total, tally) {
                        (Ok(sum), Ok(tally)) => sum.add(tally),
                        (Ok(_), Err(error)) => *total = Err(error),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    total.into_inner().unwrap()
}

/// What begins the identifier of a state: the number of the plan and of its state follow.
const TEST: &str = "cut";
/// The same where `RESCUE_DEEP` chose the states.
const DEEP_TEST: &str = "deep-cut";

fn all_plans() -> Vec<Plan> {
    [broad_plans(), deep_plans()].concat()
}

/// The state that an identifier names, made again, and what is wrong with it.
fn replayed(id: &Identifier<2>) -> Result<(String, Medium, Result<()>)> {
    let effort = match id.test {
        DEEP_TEST => Effort::DEEP,
        _ => Effort::NORMAL,
    };
    let [plan, wanted] = id.numbers;
    let plans = all_plans();
    let case = plans.get(plan).context("no such plan")?.case()?;
    let mut rng = Rng::new(id.seed, plan as u64);
    let mut found = None;
    case.explore_and_show(&effort, &mut rng, &mut |state| {
        if state.number == wanted {
            let verdict = match state.verdict {
                Ok(()) => Ok(()),
                Err(why) => Err(anyhow!("{why:#}")),
            };
            let what = format!("{}: {}", case.name(), state.cut);
            found = Some((what, state.medium.clone(), verdict));
        }
    })?;
    found.context("this plan has no such state")
}

/// The one state that `RESCUE_REPLAY` names.
fn replay(id: &Identifier<2>) {
    let (what, medium, verdict) = replayed(id).unwrap();
    println!("{id}\n{what}");
    if let Some(folder) = std::env::var_os("RESCUE_KEEP") {
        let path = std::path::Path::new(&folder).join("replayed.img");
        medium.export(0, medium.size(), &path).unwrap();
        println!("the disk: {}", path.display());
    }
    verdict.unwrap();
}

#[test]
fn no_power_cut_loses_anything() {
    for test in [TEST, DEEP_TEST] {
        if let Some(id) = Identifier::from_env(test).unwrap() {
            return replay(&id);
        }
    }
    let (seed, effort) = (rng::seed_from_env(), Effort::from_env());
    let deep = effort.subsets == Effort::DEEP.subsets;
    let test = if deep { DEEP_TEST } else { TEST };
    let plans = all_plans();
    let started = Instant::now();
    let tally = on_two_threads(plans.len(), |index| {
        let began = Instant::now();
        let case = plans[index].case()?;
        let made = began.elapsed();
        let mut bad = Vec::new();
        let mut rng = Rng::new(seed, index as u64);
        let mut tally = case.explore_and_show(&effort, &mut rng, &mut |state| {
            if state.verdict.is_err() {
                let numbers = [index, state.number];
                bad.push(Identifier {
                    test,
                    seed,
                    numbers,
                });
            }
        })?;
        tally
            .descriptions
            .extend(bad.iter().map(ToString::to_string));
        if std::env::var_os("RESCUE_VERBOSE").is_some() {
            eprintln!(
                "{:?} + {:?} {}: {tally}",
                made,
                began.elapsed() - made,
                case.name()
            );
        }
        Ok(tally)
    })
    .unwrap();
    println!("seed {seed:#x}: {tally}, in {:?}", started.elapsed());
    assert_eq!(tally.bad, 0, "{:#?}", tally.descriptions);
    assert!(tally.states >= 400_000, "only {} states", tally.states);
}

/// What earlier accidents leave on a volume meets every kind of exchange.
#[test]
fn every_task_is_cut_on_every_kind_of_worn_volume() {
    let plans = all_plans();
    for kind in TASKS {
        for wear in Wear::ALL {
            let is_it = |plan: &&Plan| (plan.kind, plan.furnishing.wear) == (kind, wear);
            assert!(
                plans.iter().any(|plan| is_it(&plan)),
                "{kind:?} never on {wear:?}"
            );
        }
    }
}

/// An identifier is the same state, byte for byte, whenever it is asked for.
#[test]
fn an_identifier_makes_the_same_state_again() {
    let seed = rng::seed_from_env();
    let (plan, mut states) = (3, Vec::new());
    let case = all_plans()[plan].case().unwrap();
    let mut rng = Rng::new(seed, plan as u64);
    case.explore_and_show(&Effort::NORMAL, &mut rng, &mut |state| {
        states.push((
            format!("{}: {}", case.name(), state.cut),
            state.medium.clone(),
        ));
    })
    .unwrap();
    let content = |medium: &Medium| medium.bytes(0, medium.size() as usize).unwrap();
    let last = states.len() - 1;
    let id = |number| Identifier {
        test: TEST,
        seed,
        numbers: [plan, number],
    };
    for number in [0, last / 3, last] {
        let printed = id(number).to_string();
        let read = Identifier::parse(TEST, &printed).unwrap().unwrap();
        let (what, medium, verdict) = replayed(&read).unwrap();
        assert_eq!(what, states[number].0, "{printed}");
        assert!(content(&medium) == content(&states[number].1), "{printed}");
        verdict.unwrap();
    }
    assert!(replayed(&id(last + 1)).is_err(), "there is no such state");
}

/// A small bank of ordinary shape for the tests below.
fn small(bits: u32, tables: u32) -> Shape {
    let clusters = if bits == 12 { 300 } else { 4200 };
    shape(bits, 512, 1024, tables, clusters)
}

fn furnishing(slots: Slots, space: Space, seed: u64) -> Furnishing {
    Furnishing {
        archive: 3000,
        undo: None,
        slots,
        space,
        seed,
        wear: Wear::None,
    }
}

/// Repairs and a restore at the end, each cut once: the original of the first repair is kept
/// through all of them, and is what comes back.
#[test]
fn the_first_original_survives_any_number_of_cut_repairs() {
    let seed = rng::seed_from_env();
    println!("seed {seed:#x}");
    let lives = if Effort::from_env().subsets > 1000 {
        400
    } else {
        60
    };
    on_two_threads(lives, |life| {
        let mut rng = Rng::new(seed, 7_000 + life as u64);
        let slots = [Slots::SameSector, Slots::OtherSector][life % 2];
        let space = [Space::Plenty, Space::Fragmented][life / 2 % 2];
        let shape = small(12, 1 + u32::from(life % 3 == 0));
        let mut bank = maker::make(shape, furnishing(slots, space, life as u64))?;
        let original = bank.archive.clone();
        for repair in 0..6 {
            let length = content::SHORTEST + rng.below(5000);
            let new = content::gzip(length, rng.bits());
            let name = format!("life {life}, repair {repair}");
            bank = Case::new(name, &bank, Task::Replace(new))?.cut_once(&mut rng)?;
            assert_eq!(bank.undo.as_ref(), Some(&original));
        }
        let restore = Case::new(format!("life {life}, restore"), &bank, Task::Restore)?;
        let bank = restore.cut_once(&mut rng)?;
        assert_eq!(bank.archive, original);
        Ok(Tally::default())
    })
    .unwrap();
}

/// A disk that ignores the barrier before or behind the commit is found out: the proof can fail.
#[test]
fn a_missing_barrier_is_noticed() {
    let effort = Effort::NORMAL;
    for (kind, slots) in [
        (TaskKind::First, Slots::SameSector),
        (TaskKind::First, Slots::OtherSector),
        (TaskKind::Later, Slots::SameSector),
        (TaskKind::Again, Slots::SameSector),
        (TaskKind::Create, Slots::SameSector),
        (TaskKind::Restore, Slots::SameSector),
        (TaskKind::Restore, Slots::OtherSector),
        (TaskKind::Swap, Slots::OtherSector),
        (TaskKind::PutBack, Slots::SameSector),
    ] {
        let plan = Plan {
            shape: small(12, 2),
            furnishing: Furnishing {
                archive: kind.length(3000),
                undo: kind.needs_undo().then_some(1500),
                ..furnishing(slots, Space::Plenty, 5)
            },
            kind,
            after: 4000,
        };
        let case = plan.case().unwrap();
        let mut bad = Vec::new();
        for index in 0.. {
            let Some(epochs) = case.record_ignoring_flush(index).unwrap() else {
                break;
            };
            let tally = case
                .judge_recording(&epochs, &effort, &mut Rng::new(1, 1), |medium| {
                    case.judge_state(medium)
                })
                .unwrap();
            println!("{kind:?} {slots:?} without flush {index}: {tally}");
            bad.push(tally.bad);
        }
        // Flushes close these epochs: intent 0, data 1, tables 2, commit 3, release 4. A commit in two
        // sectors is 3 and 4. A second accident begins with the mark on the first undo copy; behind the
        // commit its slot becomes a marker 5, its clusters are freed 6. Restoring begins with its commit, in two sectors with the intent;
        // changing places in two sectors is a new entry, the switch, and the old entry.
        let guards: &[usize] = match (kind, slots) {
            (TaskKind::First, Slots::SameSector) => &[2],
            (TaskKind::First, _) => &[3],
            (TaskKind::Later | TaskKind::PutBack, _) => &[2, 3],
            (TaskKind::Again | TaskKind::Aside, _) => &[3, 6],
            (TaskKind::Create, _) => &[2],
            (TaskKind::Restore, Slots::SameSector) => &[0],
            (TaskKind::Restore, _) => &[1],
            (TaskKind::Swap, _) => &[0, 1],
        };
        for guard in guards {
            assert!(
                bad[*guard] > 0,
                "{kind:?} {slots:?}: flush {guard}: {bad:?}"
            );
        }
    }
}

/// The usual ways to replace a file on FAT, with the crate `fatfs`, on the same disk.
#[test]
fn truncating_or_renaming_instead_is_noticed() {
    let plan = Plan {
        shape: small(16, 2),
        furnishing: furnishing(Slots::SameSector, Space::Plenty, 9),
        kind: TaskKind::First,
        after: 4000,
    };
    let case = plan.case().unwrap();
    for rename in [false, true] {
        let disk = Recorder::new(case.base().clone());
        {
            let stream = Stream {
                disk: &disk,
                region: case.region(),
                position: 0,
            };
            let volume = fatfs::FileSystem::new(stream, fatfs::FsOptions::new()).unwrap();
            let root = volume.root_dir();
            let name = if rename { "STATE.TMP" } else { "STATE.TGZ" };
            let mut file = root.create_file(name).unwrap();
            file.truncate().unwrap();
            std::io::Write::write_all(&mut file, case.after()).unwrap();
            std::io::Write::flush(&mut file).unwrap();
            drop(file);
            if rename {
                root.remove("STATE.TGZ").unwrap();
                root.rename("STATE.TMP", &root, "STATE.TGZ").unwrap();
            }
            drop(root);
            volume.unmount().unwrap();
        }
        disk.flush().unwrap();
        let recording = disk.into_recording();
        assert_eq!(case.judge_archive(&recording.medium).unwrap(), case.after());
        // Kindest to it: every single sector write has reached the disk before the next begins.
        let ordered: Vec<_> = recording
            .epochs()
            .concat()
            .into_iter()
            .map(|write| vec![write])
            .collect();
        let mut effort = Effort::NORMAL;
        effort.torn_writes = 0;
        let tally = case
            .judge_recording(&ordered, &effort, &mut Rng::new(1, 1), |medium| {
                case.judge_archive(medium).map(|_| ())
            })
            .unwrap();
        println!("fatfs, rename {rename}: {tally}");
        assert!(tally.bad > 0, "rename {rename}: {tally}");
    }
}
