//! How far repeated measurements of one thing lie apart.

use serde::Serialize;

/// Fewer runs than that say little about the next one.
pub const FEWEST_RUNS: usize = 5;

/// The smallest, the middle and the largest of some measurements. What is counted is the same each time, and is
/// counted once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub minimum: f64,
    /// The middle, by which promises are judged; not a number where nothing was measured.
    pub median: f64,
    /// The largest.
    pub maximum: f64,
    /// How many measurements there were.
    pub runs: usize,
}

impl Spread {
    /// Of these measurements.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match (values.len() % 2, values.get(middle)) {
            (_, None) => f64::NAN,
            (1, Some(value)) => *value,
            (_, Some(value)) => f64::midpoint(values[middle - 1], *value),
        };
        let or_nothing = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self {
            minimum: or_nothing(values.first()),
            median,
            maximum: or_nothing(values.last()),
            runs: values.len(),
        }
    }

    /// Of the ratios of measurements that were made by turns, each divided by the one of its turn.
    pub fn of_ratios(values: &[f64], by: &[f64]) -> Self {
        Self::of(values.iter().zip(by).map(|(value, by)| value / by))
    }
}

impl From<f64> for Spread {
    fn from(counted: f64) -> Self {
        Self::of([counted])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let nothing = Spread::of([]);
        assert!(nothing.median.is_nan() && nothing.minimum.is_nan() && nothing.runs == 0);
        let close = |one: f64, other: f64| (one - other).abs() < 1e-9;
        let three = Spread::of([3.0, 1.0, 2.5]);
        assert!(close(three.minimum, 1.0) && close(three.median, 2.5) && close(three.maximum, 3.0));
        assert_eq!(three.runs, 3);
        assert!(close(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5));
    }

    #[test]
    fn a_ratio_is_made_of_one_turn() {
        // The machine was twice as slow in the second turn, which changes no ratio.
        let ratios = Spread::of_ratios(&[3.0, 6.0], &[2.0, 4.0]);
        assert!((ratios.minimum - 1.5).abs() < 1e-9 && (ratios.maximum - 1.5).abs() < 1e-9);
    }
}
