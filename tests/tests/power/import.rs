//! Power cuts at every moment at which an archive from outside goes into a bank: a bank holds the old or the
//! given archive, whole, and the next run of the same command comes to its end.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use anyhow::{Context, Result, ensure};
use rescue_tests::power::census::Census;
use rescue_tests::power::cuts::{Cuts, Effort};
use rescue_tests::power::maker::Bank;
use rescue_tests::power::medium::Medium;
use rescue_tests::power::rng::Rng;
use rescue_tests::power::whole::{self, Asked};

const DONE: u8 = 0;

/// What goes into a bank, and what was there.
struct Scene {
    bank: Bank,
    old: Vec<u8>,
    given: Vec<u8>,
}

impl Scene {
    /// Both sealed by the same host: nothing in them can be read here.
    fn new() -> Result<Self> {
        let old = whole::sealed_archive(10, "a")?;
        let given = whole::sealed_archive(11, "a")?;
        ensure!(old != given);
        Ok(Self {
            bank: whole::disk(&old)?,
            old,
            given,
        })
    }

    fn with(&self, medium: Medium) -> Bank {
        Bank {
            medium,
            ..self.bank.clone()
        }
    }

    fn in_place(&self, medium: &Medium) -> Result<Vec<u8>> {
        let bank = self.with(medium.clone());
        whole::read(&bank, b"STATE   TGZ")?.context("STATE.TGZ is gone")
    }

    fn census(&self, medium: &Medium) -> Result<Census> {
        Census::of(medium, self.bank.region.start.0, self.bank.sector)
    }

    fn is_done(&self, medium: &Medium) -> Result<()> {
        ensure!(
            self.in_place(medium)? == self.given,
            "not the given archive"
        );
        let copies = whole::copies(medium, &self.bank)?;
        ensure!(copies == [self.old.clone()], "{} copies", copies.len());
        let problems = self.census(medium)?.problems;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    }
}

#[test]
fn no_power_cut_while_an_archive_is_put_in_place_leaves_a_bank_without_one() {
    let scene = Scene::new().unwrap();
    let asked = Asked::Import(&scene.given);
    let (status, recording) = whole::record(&scene.bank.medium, asked).unwrap();
    assert_eq!(status, DONE);
    scene.is_done(&recording.medium).unwrap();
    let layout = scene.census(&scene.bank.medium).unwrap().layout;
    let epochs = recording.epochs();
    let effort = Effort::from_env();
    let (mut old, mut new) = (0, 0);
    let cuts = Cuts::new(&scene.bank.medium, &epochs, &layout);
    let tried = cuts.all(&effort, &mut Rng::new(15, 0), |cut, medium| {
        let found = scene.in_place(&medium).with_context(|| cut.to_string())?;
        match (found == scene.old, found == scene.given) {
            (true, _) => old += 1,
            (_, true) => new += 1,
            _ => anyhow::bail!("{cut}: neither the old nor the given archive"),
        }
        let again = whole::run_on(&medium, asked).with_context(|| cut.to_string())?;
        ensure!(
            again.0 == DONE,
            "{cut}: the next run ended with {}",
            again.0
        );
        scene.is_done(&again.1).with_context(|| cut.to_string())
    });
    tried.unwrap();
    println!("{old} states with the old archive, {new} with the given one, none bad");
    assert!(old > 100 && new > 0, "{old} old, {new} new");
}
