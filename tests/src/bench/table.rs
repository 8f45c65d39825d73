//! The results as a table for people, and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

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

/// One measured number.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which part of the run, such as `repair`.
    pub part: &'static str,
    /// What was measured.
    pub what: String,
    /// The number.
    pub value: f64,
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
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            part,
            what: what.into(),
            value,
            unit,
            promise: None,
            verdict: Verdict::Told,
            note: String::new(),
        }
    }

    /// Judges it by a promise.
    #[must_use]
    pub fn promised(mut self, promise: Promise) -> Self {
        let kept = match promise {
            Promise::AtMost(most) => self.value <= most,
            Promise::AtLeast(least) => self.value >= least,
        };
        self.promise = Some(promise);
        self.verdict = if kept { Verdict::Kept } else { Verdict::Missed };
        self
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
        let promise = match row.promise {
            None => String::new(),
            Some(Promise::AtMost(most)) => format!("<= {}", number(most, row.unit)),
            Some(Promise::AtLeast(least)) => format!(">= {}", number(least, row.unit)),
        };
        let verdict = match row.verdict {
            Verdict::Kept => "kept",
            Verdict::Missed => "MISSED",
            Verdict::Told => "",
        };
        let value = number(row.value, row.unit);
        let line = format!(
            "  {:width$}  {value:>9} {:4} {promise:>11}  {verdict:6}  {}",
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
        "ms" | "MiB" | "%" => format!("{value:.1}"),
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
        let text = text(&[row(1.4).promised(Promise::AtMost(1.3)).note("why")]);
        assert!(
            text.contains("1.40 x") && text.contains("<= 1.30  MISSED"),
            "{text}"
        );
    }
}
