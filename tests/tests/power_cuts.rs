//! Power cuts at every moment of an exchange: no state loses the archive or the original, and
//! every state leads to the end.
//!
//! `RESCUE_DEEP=1` tries many more states; `RESCUE_SEED` makes another run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    shape(12, 4096, 4096, 2, 300),
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

/// Every case: each shape with three kinds of free space, both kinds of slots, three tasks.
fn plans() -> Vec<(Shape, Furnishing, TaskKind, usize)> {
    let mut plans = Vec::new();
    let mut turn = 0;
    for shape in SHAPES {
        let lengths = lengths(shape.cluster);
        for slots in [Slots::SameSector, Slots::OtherSector] {
            for task in [TaskKind::First, TaskKind::Later, TaskKind::Restore] {
                let (before, after) = lengths[turn % lengths.len()];
                let space = match turn % 2 {
                    0 => Space::Plenty,
                    _ => Space::Fragmented,
                };
                turn += 1;
                let undo = (task != TaskKind::First).then_some(lengths[turn % lengths.len()].0);
                let furnishing = Furnishing {
                    archive: before,
                    undo,
                    slots,
                    space,
                    seed: turn as u64,
                };
                plans.push((*shape, furnishing, task, after));
            }
        }
    }
    plans
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskKind {
    First,
    Later,
    Restore,
}

fn case(shape: Shape, furnishing: Furnishing, kind: TaskKind, after: usize) -> Result<Case> {
    let bank = maker::make(shape, furnishing)?;
    let task = match kind {
        TaskKind::First | TaskKind::Later => Task::Replace(content::gzip(after, !furnishing.seed)),
        TaskKind::Restore => Task::Restore,
    };
    Case::new(
        format!("{shape}, {kind:?}, {furnishing:?} to {after}"),
        &bank,
        task,
    )
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
    let plans = plans();
    let started = std::time::Instant::now();
    let tally = on_two_threads(plans.len(), |index| {
        let (shape, furnishing, kind, after) = plans[index];
        let began = std::time::Instant::now();
        let case = case(shape, furnishing, kind, after)?;
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
