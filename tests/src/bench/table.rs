//! The results as a table for people, and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::spread::Spread;

/// Whether a number is as good as was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is.
    Kept,
    /// It is not.
    Missed,
    /// Nothing was promised.
    Told,
}

/// What was measured or counted.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which part of the run, such as `repair`.
    pub part: &'static str,
    /// What was measured.
    pub what: String,
    /// The number, over all runs.
    #[serde(flatten)]
    pub spread: Spread,
    /// Its unit; `x` for a ratio.
    pub unit: &'static str,
    /// The most, or the least, that was promised.
    pub promise: Option<Promise>,
    /// Whether it is kept.
    pub verdict: Verdict,
    /// What the number rests on, in words.
    pub note: String,
}

/// A bound of a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Row {
    /// A number without a promise.
    pub fn told(
        part: &'static str,
        what: impl Into<String>,
        spread: impl Into<Spread>,
        unit: &'static str,
    ) -> Self {
        Self {
            part,
            what: what.into(),
            spread: spread.into(),
            unit,
            promise: None,
            verdict: Verdict::Told,
            note: String::new(),
        }
    }

    /// Judges its median by a promise.
    #[must_use]
    pub fn promised(mut self, promise: Promise) -> Self {
        let kept = match promise {
            Promise::AtMost(most) => self.spread.median <= most,
            Promise::AtLeast(least) => self.spread.median >= least,
        };
        self.promise = Some(promise);
        self.verdict = if kept { Verdict::Kept } else { Verdict::Missed };
        self
    }

    /// How far the median is beyond what was promised, in percent of that.
    fn missed_by(&self) -> String {
        let Some(Promise::AtMost(bound) | Promise::AtLeast(bound)) = self.promise else {
            return String::new();
        };
        format!("{:.0} %", (self.spread.median / bound - 1.0).abs() * 100.0)
    }

    /// Says what it rests on.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// The rows for people, each in a line.
pub fn text(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.chars().count()).max();
    let width = width.unwrap_or(0);
    let (mut text, mut part) = (String::new(), "");
    for row in rows {
        if row.part != part {
            part = row.part;
            // Writing into a String does not fail.
            let _ = writeln!(text, "\n{part}");
        }
        let number = |value| number(value, row.unit);
        let promise = match row.promise {
            None => String::new(),
            Some(Promise::AtMost(most)) => format!("<= {}", number(most)),
            Some(Promise::AtLeast(least)) => format!(">= {}", number(least)),
        };
        let verdict = match row.verdict {
            Verdict::Kept => "kept".to_owned(),
            Verdict::Missed => format!("MISSED by {}", row.missed_by()),
            Verdict::Told => String::new(),
        };
        let spread = row.spread;
        let runs = match spread.runs {
            1 => String::new(),
            runs => format!(
                "{} to {}, {runs} runs",
                number(spread.minimum),
                number(spread.maximum)
            ),
        };
        let value = number(spread.median);
        let line = format!(
            "  {:width$}  {value:>9} {:4} {runs:26} {promise:>11}  {verdict:15}  {}",
            row.what, row.unit, row.note
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Ratios with two digits behind the point, times with one, counts with none.
fn number(value: f64, unit: &str) -> String {
    match unit {
        "x" => format!("{value:.2}"),
        "s" | "ms" | "MiB" | "%" => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_up_to_its_bound() {
        let row = |value| Row::told("part", "what", value, "x");
        for (value, promise, verdict) in [
            (3.0, Promise::AtLeast(3.0), Verdict::Kept),
            (2.9, Promise::AtLeast(3.0), Verdict::Missed),
            (1.3, Promise::AtMost(1.3), Verdict::Kept),
            (1.4, Promise::AtMost(1.3), Verdict::Missed),
            (f64::NAN, Promise::AtMost(1.3), Verdict::Missed),
        ] {
            assert_eq!(row(value).promised(promise).verdict, verdict);
        }
        let spread = Spread::of([1.0, 3.0, 2.0]);
        let judged = Row::told("part", "what", spread, "x").promised(Promise::AtMost(2.0));
        assert_eq!(judged.verdict, Verdict::Kept, "by the median");
        assert!(text(&[judged]).contains("2.00 x    1.00 to 3.00, 3 runs"));
        let text = text(&[row(1.4).promised(Promise::AtMost(1.3)).note("why")]);
        assert!(
            text.contains("1.40 x") && text.contains("<= 1.30  MISSED by 8 %"),
            "{text}"
        );
    }
}
