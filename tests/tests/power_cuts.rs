//! Power cuts at every moment of an exchange: no state loses the archive or the original, and
//! every state leads to the end.
//!
//! `RESCUE_DEEP=1` tries many more states; `RESCUE_SEED` makes another run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use rescue_tests::power::content;
use rescue_tests::power::cuts::Effort;
use rescue_tests::power::maker::{self, Furnishing, Shape, Slots, Space};
use rescue_tests::power::rng::{self, Rng};
use rescue_tests::power::runner::{Case, Tally, Task};

const fn shape(bits: u32, sector: usize, cluster: usize, tables: u32, clusters: usize) -> Shape {
    Shape {
        bits,
        sector,
        cluster,
        tables,
        root_slots: 512,
        clusters,
    }
}

const SHAPES: &[Shape] = &[
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
        let task = match kind {
            TaskKind::First | TaskKind::Later => {
                Task::Replace(content::gzip(*after, !furnishing.seed))
            }
            TaskKind::Restore => Task::Restore,
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
                    archive: before,
                    undo: kind
                        .needs_undo()
                        .then_some(lengths[(turn + 1) % lengths.len()].0),
                    slots,
                    space: spaces[(turn + turn / 6) % 2],
                    seed: turn as u64,
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
                let length = sectors * shape.sector;
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
                    archive: length - 1,
                    undo: kind.needs_undo().then_some(2 * shape.cluster + 1),
                    slots,
                    space,
                    seed: 1000 + plans.len() as u64,
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

const TASKS: [TaskKind; 3] = [TaskKind::First, TaskKind::Later, TaskKind::Restore];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskKind {
    First,
    Later,
    Restore,
}

impl TaskKind {
    /// Whether an earlier repair left its undo copy.
    fn needs_undo(self) -> bool {
        self != Self::First
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

#[test]
fn no_power_cut_loses_anything() {
    let (seed, effort) = (rng::seed_from_env(), Effort::from_env());
    let plans = [broad_plans(), deep_plans()].concat();
    let started = Instant::now();
    let tally = on_two_threads(plans.len(), |index| {
        let began = Instant::now();
        let case = plans[index].case()?;
        let made = began.elapsed();
        let tally = case.explore(&effort, &mut Rng::new(seed, index as u64))?;
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
    assert!(tally.states >= 200_000, "only {} states", tally.states);
}
