//! No false all-clear: whatever was changed on a disk, no run ends as `reverted` or `clean` while
//! the bank that VMware's loader starts next passes a needed device through.
//!
//! The disks are made by outside tools and changed at random, in what tells where and what the banks
//! are; the agent's whole run is done in this process; and a reader written from the loader's rules
//! says what comes of the next start. `RESCUE_SEED` makes other changes, `RESCUE_DEEP=1` more of
//! them, `RESCUE_CASES=N` only so many; what a failure prints, set as `RESCUE_REPLAY`, is that case
//! alone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use std::{fs, io, thread};

use anyhow::Result;
use rescue_agent::disk::BlockDevice;
use rescue_agent::fat::FatTime;
use rescue_agent::policy::Policy;
use rescue_agent::repair::Event;
use rescue_agent::report::{Command, Report};
use rescue_agent::{discover, plan, verify};
use rescue_tests::esxi::changes::{Changed, Subject};
use rescue_tests::esxi::host::{Owner, SATA};
use rescue_tests::esxi::layout::Layout;
use rescue_tests::esxi::{EsxiDisk, Made, Maker};
use rescue_tests::judge::loader::{Archives, NextStart, next_start};
use rescue_tests::power::device::{Recorder, Shared};
use rescue_tests::power::medium::{Image, Medium};
use rescue_tests::power::rng::{self, Rng};
use rescue_tests::replay::Identifier;
use rescue_tests::scratch;

/// What begins the identifier of a case: the base and the number of the change follow.
const TEST: &str = "next-start";

/// Changes of each base disk.
const CHANGES: usize = 4000;
const DEEP_CHANGES: usize = 100_000;

/// The disks that are changed. Of some one bank is clean already, so that taking the wrong bank for
/// the next one shows.
const BASES: [(&str, Maker); 5] = [
    ("6.7", EsxiDisk::v67),
    ("6.7, the older bank clean", || clean(EsxiDisk::v67(), 1)),
    ("4.1 installable, the older bank clean", || {
        clean(EsxiDisk::v41_installable(), 1)
    }),
    ("4.1 embedded", EsxiDisk::v41_embedded),
    ("7.0.0, the older bank clean", || {
        clean(EsxiDisk::v700().layout(Layout::gpt_7_medium()), 1)
    }),
];

fn clean(disk: EsxiDisk, bank: usize) -> EsxiDisk {
    disk.bank(bank, |bank| {
        bank.own(SATA, Owner::Vmkernel);
    })
}

/// A disk that was made, and as it is in memory.
struct Base {
    name: &'static str,
    made: Made,
    medium: Medium,
}

impl Base {
    fn all(folder: &Path) -> Result<Vec<Self>> {
        let make = |(number, (name, maker)): (usize, &(&'static str, Maker))| {
            let made = maker().make(folder, &format!("base{number}"))?;
            let size = fs::metadata(&made.image)?.len();
            let mut image = Image::zeroed(size, usize::try_from(made.layout.sector_bytes)?);
            image.write_file(0, &made.image)?;
            Ok(Self {
                name,
                made,
                medium: Medium::new(image),
            })
        };
        BASES.iter().enumerate().map(make).collect()
    }
}

/// How a run ended: whether it said that all is well, and what it left.
struct Ended {
    all_clear: bool,
    word: String,
    left: Medium,
}

/// The whole run of `revert --devices 0000:00:1f.2 --yes` on a disk.
fn run(medium: &Medium) -> Ended {
    let device = Arc::new(Recorder::new(medium.clone()));
    let opened = |_: &Path| -> io::Result<Box<dyn BlockDevice>> {
        Ok(Box::new(Shared(Arc::clone(&device))))
    };
    let inventory = discover::discover(&[PathBuf::from("/dev/under_test")], &opened);
    let policy = Policy {
        devices: SATA.to_string().parse().unwrap(),
        ..Policy::default()
    };
    let ended = |all_clear, word: String| Ended {
        all_clear,
        word,
        left: device.recording().medium,
    };
    let plan = match plan::revert(&inventory, &policy, None) {
        Ok(plan) => plan,
        Err(error) => return ended(false, format!("usage: {error}")),
    };
    let now = FatTime::from_unix(1_767_225_600);
    let mut silent = |_: &Event| ();
    let (receipt, proof) = verify::repair_and_verify(&plan, &inventory, &opened, now, &mut silent);
    let report = Report::new(
        Command::Revert,
        &inventory,
        None,
        Some(&plan),
        Some(&receipt),
        proof.broken,
        proof.after.as_ref(),
    );
    let word = format!("{:?}", report.result);
    ended(report.result.exit_status() == 0, word)
}

/// What is wrong with an end, seen from the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    /// All is said to be well, and the needed device is passed through at the next start.
    PassedThrough,
    /// All is said to be well, and the start ends at an archive that cannot be loaded, or at boot.cfg.
    StartEnds,
    /// All is said to be well, and the loader starts no bank of the disk.
    NoBank,
}

fn wrong(all_clear: bool, next: &NextStart) -> Option<Wrong> {
    match next {
        _ if !all_clear => None,
        next if next.passes_through(SATA) => Some(Wrong::PassedThrough),
        NextStart::NoBank => Some(Wrong::NoBank),
        NextStart::Ends { why, .. } => {
            // What is in the other modules is not promised.
            let names = ["state.tgz", "local.tgz", "onetime.tgz", "boot.cfg"];
            let why = why.to_ascii_lowercase();
            let is_ours = names.iter().any(|name| why.contains(name));
            is_ours.then_some(Wrong::StartEnds)
        }
        _ => None,
    }
}

#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    by_end: BTreeMap<String, usize>,
    by_start: BTreeMap<&'static str, usize>,
    /// Starts that end at another module, where all was said to be well.
    no_start: Vec<String>,
    wrong: BTreeMap<Wrong, Vec<String>>,
}

/// Changes a base, runs the agent on it, and looks at the next start.
fn case(base: &Base, id: &Identifier<2>, archives: &Archives, tally: &Mutex<Tally>) -> Result<()> {
    let [number, change] = id.numbers;
    let mut rng = Rng::new(id.seed, (number as u64) << 40 | change as u64);
    let changed: Changed = Subject::new(&base.medium, &base.made)?.change(&mut rng);
    let ended = run(&changed.medium);
    let next = next_start(&ended.left, archives)?;
    let mut tally = tally.lock().unwrap();
    tally.cases += 1;
    let word = ended.word.split(':').next().unwrap_or_default().to_owned();
    *tally.by_end.entry(word).or_default() += 1;
    let start = match &next {
        NextStart::NoBank => "no bank",
        NextStart::Ends { .. } => "ends",
        next if next.passes_through(SATA) => "passes through",
        NextStart::Boots(_) => "boots",
    };
    *tally.by_start.entry(start).or_default() += 1;
    let starts = matches!(next, NextStart::Boots(_));
    let told = format!("{id}  {}: {changed}: {}, but {next}", base.name, ended.word);
    if ended.all_clear && !starts {
        tally.no_start.push(told.clone());
    }
    if let Some(wrong) = wrong(ended.all_clear, &next) {
        tally.wrong.entry(wrong).or_default().push(told);
    }
    Ok(())
}

/// One case, with all that is known of it.
fn replay(bases: &[Base], id: &Identifier<2>) -> Result<()> {
    let archives = Archives::default();
    let [number, change] = id.numbers;
    let base = &bases[number];
    let mut rng = Rng::new(id.seed, (number as u64) << 40 | change as u64);
    let changed = Subject::new(&base.medium, &base.made)?.change(&mut rng);
    let before = next_start(&changed.medium, &archives)?;
    let ended = run(&changed.medium);
    let next = next_start(&ended.left, &archives)?;
    println!("{id}\n{}\n{changed}", base.name);
    println!("before: {before}\nthe run: {}\nafter: {next}", ended.word);
    if let Some(folder) = std::env::var_os("RESCUE_KEEP") {
        let path = Path::new(&folder).join("replayed.img");
        changed.medium.export(0, changed.medium.size(), &path)?;
        println!("the changed disk: {}", path.display());
    }
    assert_eq!(wrong(ended.all_clear, &next), None);
    Ok(())
}

#[test]
fn no_run_gives_an_all_clear_while_the_next_start_passes_the_device_through() {
    let folder = scratch::folder().unwrap();
    let bases = Base::all(folder.path()).unwrap();
    if let Some(id) = Identifier::from_env(TEST).unwrap() {
        return replay(&bases, &id).unwrap();
    }
    // A few only, for who works on what this test has found.
    let cases: Option<usize> = std::env::var("RESCUE_CASES")
        .ok()
        .map(|text| text.parse().unwrap());
    let deep = std::env::var("RESCUE_DEEP").as_deref() == Ok("1");
    let (seed, changes) = (
        rng::seed_from_env(),
        if deep { DEEP_CHANGES } else { CHANGES },
    );
    let (archives, tally) = (Archives::default(), Mutex::new(Tally::default()));
    let (next, count, started) = (
        AtomicUsize::new(0),
        cases.unwrap_or(bases.len() * changes),
        Instant::now(),
    );
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    if index >= count {
                        return;
                    }
                    let id = Identifier {
                        test: TEST,
                        seed,
                        numbers: [index % bases.len(), index / bases.len()],
                    };
                    let base = &bases[index % bases.len()];
                    case(base, &id, &archives, &tally)
                        .unwrap_or_else(|why| panic!("{id}: {why:#}"));
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    println!(
        "seed {seed:#x}: {} changed disks, {:?}; ends {:?}; next starts {:?}; all clear without a \
         start {}; {} different archives opened",
        tally.cases,
        started.elapsed(),
        tally.by_end,
        tally.by_start,
        tally.no_start.len(),
        archives.opened()
    );
    for told in tally.no_start.iter().take(10) {
        println!("  {told}");
    }
    for (wrong, cases) in &tally.wrong {
        println!("{wrong:?}: {} cases", cases.len());
        for told in cases.iter().take(40) {
            println!("  {told}");
        }
    }
    assert!(tally.wrong.is_empty(), "see above");
    if cases.is_some() {
        return;
    }
    assert!(tally.cases >= 20_000, "only {} cases", tally.cases);
    for start in ["no bank", "ends", "passes through", "boots"] {
        assert!(
            tally.by_start.contains_key(start),
            "the changes never led to: {start}"
        );
    }
}

/// A run that says it has repaired and has not, or that looks at the wrong bank, is noticed.
#[test]
fn a_false_all_clear_is_noticed() {
    let ends = |why: &str| NextStart::Ends {
        partition: 5,
        why: why.into(),
    };
    for (next, expected) in [
        (NextStart::NoBank, Some(Wrong::NoBank)),
        (ends("boot.cfg names no kernel"), Some(Wrong::StartEnds)),
        (ends("/STATE.TGZ is missing"), Some(Wrong::StartEnds)),
        (ends("/b.b00 is missing"), None),
    ] {
        assert_eq!(wrong(true, &next), expected, "{next}");
        assert_eq!(wrong(false, &next), None, "{next}");
    }
    let folder = scratch::folder().unwrap();
    let archives = Archives::default();
    for base in Base::all(folder.path()).unwrap() {
        let before = next_start(&base.medium, &archives).unwrap();
        assert_eq!(
            wrong(true, &before),
            Some(Wrong::PassedThrough),
            "{}: {before}",
            base.name
        );
        assert_eq!(wrong(false, &before), None, "nothing was said");
        let ended = run(&base.medium);
        let after = next_start(&ended.left, &archives).unwrap();
        assert!(ended.all_clear, "{}: {}", base.name, ended.word);
        assert_eq!(wrong(true, &after), None, "{}: {after}", base.name);
    }
}

/// An identifier is the same disk, byte for byte, and another one is not.
#[test]
fn an_identifier_makes_the_same_disk_again() {
    let folder = scratch::folder().unwrap();
    let made = EsxiDisk::v67().make(folder.path(), "base").unwrap();
    let mut image = Image::zeroed(fs::metadata(&made.image).unwrap().len(), 512);
    image.write_file(0, &made.image).unwrap();
    let medium = Medium::new(image);
    let subject = Subject::new(&medium, &made).unwrap();
    let change = |number: u64| subject.change(&mut Rng::new(1, number));
    for number in 0..200 {
        let (one, again) = (change(number), change(number));
        assert_eq!(one.what, again.what);
        assert!(one.medium.is_same(&again.medium), "change {number}");
    }
    assert!(!change(1).medium.is_same(&change(2).medium));
}
