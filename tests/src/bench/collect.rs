//! A thousand hosts that report to `rescue-image collect` while a page is open.

use anyhow::Result;

use super::Effort;
use super::spread::Spread;
use super::table::{Promise, Row};
use crate::crowd::Crowd;

/// How long all of them may take, in seconds.
const MOST_SECONDS: f64 = 60.0;

/// Times and memory; a report that is lost is an error.
///
/// # Errors
/// When a report was lost.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let rounds = effort.rounds(10.0);
    let mut crowds = Vec::new();
    for round in 1..=rounds {
        eprintln!("bench: collect, round {round} of {rounds}");
        crowds.push(Crowd::report()?);
    }
    let told = |what: &str, unit, of: fn(&Crowd) -> f64| {
        let what = format!("{} hosts: {what}", Crowd::HOSTS);
        Row::told("collect", what, Spread::of(crowds.iter().map(of)), unit)
    };
    Ok(vec![
        told("all reports", "s", |crowd| crowd.all.as_secs_f64())
            .promised(Promise::AtMost(MOST_SECONDS)),
        told("an answer, the median host", "ms", |crowd| {
            answer(crowd, Crowd::HOSTS / 2)
        }),
        told("an answer, the slowest host", "ms", |crowd| {
            answer(crowd, Crowd::HOSTS - 1)
        }),
        told("memory", "MiB", |crowd| {
            crowd.memory_bytes as f64 / f64::from(1 << 20)
        }),
    ])
}

/// How long the host waited that so many waited less than, in milliseconds.
fn answer(crowd: &Crowd, place: usize) -> f64 {
    crowd.answers[place].as_secs_f64() * 1e3
}
