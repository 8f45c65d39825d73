//! Whatever is asked for, on whatever machine: no run ends as `reverted` or `clean` while VMware's loader
//! starts a bank next in which a device is passed through that ESXi needs on that machine.
//!
//! Every combination of devices, banks, source and mode, over the machines of
//! `rescue-agent/tests/machines`. What ESXi needs is written in their descriptions; what comes of the
//! next start is found by the reader that is written from the loader's rules.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::Run;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::{Address, Owner};
use rescue_tests::judge::loader::{Archives, NextStart, next_start};
use rescue_tests::power::medium::{Image, Medium};
use rescue_tests::sparse;

use super::case::{Case, machines, parse};

const BANKS: [&str; 4] = ["all", "active", "5", "6"];

/// A machine whose disks are put back as they were made, and what ESXi needs there.
struct Machine {
    case: Case,
    needed: Vec<Address>,
}

impl Machine {
    /// With `older_is_clean`, nothing is passed through in the bank that does not boot next.
    fn new(name: &str, older_is_clean: bool) -> Result<Self> {
        let case = Case::with(name, |disk| match older_is_clean && disk.banks.len() == 2 {
            true => clean(disk, 1),
            false => disk,
        })?;
        let expected = case.description.passed_through.iter();
        let needed = expected.filter(|one| one.verdict == "give-back");
        let needed = needed
            .map(|one| parse(&one.address))
            .collect::<Result<_>>()?;
        for made in case.disks.values() {
            sparse::copy(&made.image, &made.image.with_extension("kept"))?;
        }
        Ok(Self { case, needed })
    }

    /// What may be asked for: by need, everything, what is needed and no more, everything but that, and
    /// everything else.
    fn devices(&self) -> Vec<String> {
        let listed = |sign: &str| {
            let all = self.needed.iter().map(|one| format!("{sign}{one}"));
            all.collect::<Vec<_>>().join(",")
        };
        let mut devices = vec!["auto".to_owned(), "all".to_owned()];
        if !self.needed.is_empty() {
            devices.extend([listed(""), listed("-"), format!("all,{}", listed("-"))]);
        }
        devices
    }

    /// Every request: the words of a command line.
    fn requests(&self) -> Vec<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut requests: Vec<Vec<String>> = Vec::new();
        for banks in BANKS {
            requests.push(words(&["restore", "--yes", "--json", "--banks", banks]));
            for devices in self.devices() {
                let devices = format!("--devices={devices}");
                for (mode, source) in [("--yes", "own"), ("--yes", "newest"), ("--dry-run", "own")]
                {
                    let ways = ["--banks", banks, "--source", source];
                    requests.push(words(
                        &[&["revert", "--json", mode, &devices][..], &ways].concat(),
                    ));
                }
            }
        }
        requests
    }

    fn is_as_made(&self) -> Result<()> {
        for made in self.case.disks.values() {
            fs::remove_file(&made.image)?;
            sparse::copy(&made.image.with_extension("kept"), &made.image)?;
        }
        Ok(())
    }

    /// The next start from each disk with banks.
    fn next_starts(&self, archives: &Archives) -> Result<Vec<NextStart>> {
        let with_banks = self
            .case
            .disks
            .values()
            .filter(|made| !made.banks.is_empty());
        let starts = with_banks.map(|made| {
            let sector = usize::try_from(made.layout.sector_bytes)?;
            let mut image = Image::zeroed(made.image.metadata()?.len(), sector);
            image.write_file(0, &made.image)?;
            next_start(&Medium::new(image), archives)
        });
        starts.collect()
    }
}

/// A disk on which nothing is passed through in a bank.
fn clean(disk: EsxiDisk, bank: usize) -> EsxiDisk {
    disk.bank(bank, |bank| {
        for device in &mut bank.archive.devices {
            device.owner = Owner::Vmkernel;
        }
    })
}

/// A device that ESXi needs and does not get from the bank that starts next, although all was said to
/// be well.
fn wrong(result: &str, needed: &[Address], starts: &[NextStart]) -> Option<Address> {
    let all_clear = matches!(result, "reverted" | "clean");
    let missing = |device: &&Address| starts.iter().any(|start| start.passes_through(**device));
    needed.iter().find(missing).copied().filter(|_| all_clear)
}

/// How a run ended in a word: its result, or that the request makes no sense here.
fn ended(run: &Run) -> Result<String> {
    match run.output.code() {
        2 => Ok("usage".into()),
        _ => run.result(),
    }
}

/// Runs every request on a machine, and counts how the runs ended.
fn try_all(
    machine: &Machine,
    archives: &Archives,
    counts: &Mutex<BTreeMap<String, usize>>,
) -> Result<()> {
    // A run that writes nothing leaves the next start as it was.
    let untouched = machine.next_starts(archives)?;
    for request in machine.requests() {
        let words: Vec<&str> = request.iter().map(String::as_str).collect();
        let run = machine.case.run(&words)?;
        let result = ended(&run).with_context(|| words.join(" "))?;
        let wrote = result != "usage" && run.report()?["banks_changed"] != 0;
        let starts = match wrote {
            true => machine.next_starts(archives)?,
            false => untouched.clone(),
        };
        let wrong = wrong(&result, &machine.needed, &starts);
        ensure!(
            wrong.is_none(),
            "{}: {result}, but {wrong:?} is passed through: {}",
            words.join(" "),
            starts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        );
        if wrote {
            machine.is_as_made()?;
        }
        *counts
            .lock()
            .unwrap_or_else(|error| error.into_inner())
            .entry(result)
            .or_default() += 1;
    }
    Ok(())
}

#[test]
fn no_request_ends_well_while_the_next_start_passes_a_needed_device_through() -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(machines())? {
        let path = entry?.path();
        let name = path.file_stem().context("a file has a name")?;
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    let cases: Vec<(&String, bool)> = names
        .iter()
        .flat_map(|name| [(name, false), (name, true)])
        .collect();
    let (archives, counts) = (Archives::default(), Mutex::new(BTreeMap::new()));
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, older_is_clean)) =
                    cases.get(next.fetch_add(1, Ordering::SeqCst))
                {
                    let machine = Machine::new(name, *older_is_clean);
                    let tried = machine.and_then(|machine| try_all(&machine, &archives, &counts));
                    if let Err(error) = tried {
                        let failure =
                            format!("{name}, older bank clean {older_is_clean}: {error:#}");
                        failures
                            .lock()
                            .unwrap_or_else(|error| error.into_inner())
                            .push(failure);
                    }
                }
            });
        }
    });
    let counts = counts
        .into_inner()
        .unwrap_or_else(|error| error.into_inner());
    let failures = failures
        .into_inner()
        .unwrap_or_else(|error| error.into_inner());
    println!(
        "{} machines, {} requests: {counts:?}",
        cases.len(),
        counts.values().sum::<usize>()
    );
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    // Every end has occurred, so that the combinations are worth their name.
    for result in ["reverted", "clean", "refused", "planned"] {
        ensure!(
            counts.contains_key(result),
            "no run ended as {result}: {counts:?}"
        );
    }
    Ok(())
}

#[test]
fn a_run_that_is_said_to_end_well_and_does_not_is_noticed() -> Result<()> {
    let archives = Archives::default();
    let machine = Machine::new("onboard-sata", false)?;
    let starts = machine.next_starts(&archives)?;
    let needed = machine.needed.first().copied();
    ensure!(needed.is_some(), "something is needed");
    for result in ["reverted", "clean"] {
        ensure!(wrong(result, &machine.needed, &starts) == needed);
    }
    ensure!(wrong("refused", &machine.needed, &starts).is_none());
    machine.case.run(&["revert", "--yes"])?.expect(0)?;
    ensure!(
        wrong(
            "reverted",
            &machine.needed,
            &machine.next_starts(&archives)?
        )
        .is_none()
    );
    machine.is_as_made()?;
    ensure!(machine.next_starts(&archives)? == starts);
    Ok(())
}
