//! How many devices a report lists. No machine has more than some hundred that can be passed through,
//! but a configuration of a few kilobytes can name 65 536. All of them are planned; a report of all would need
//! more memory than everything else, and hours on a serial line.

use super::{Line, Tone};

/// Devices that a list of the report holds at most.
pub(super) const LISTED_MAX: usize = 4096;

/// What a report lists of all, and how many it leaves out.
pub(super) fn listed<T>(all: &[T]) -> (&[T], usize) {
    let listed = &all[..all.len().min(LISTED_MAX)];
    (listed, all.len() - listed.len())
}

/// The line about the devices that are left out.
pub(super) fn more_line(not_listed: usize) -> Option<Line> {
    let text = || format!("Device   {not_listed} more are passed through and not listed");
    (not_listed > 0).then(|| Line::new(Tone::Warning, text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_cut_says_by_how_much() {
        let all: Vec<usize> = (0..LISTED_MAX + 3).collect();
        assert_eq!(listed(&all), (&all[..LISTED_MAX], 3));
        assert_eq!(listed(&all[..LISTED_MAX]), (&all[..LISTED_MAX], 0));
        assert_eq!(more_line(0), None);
        assert!(more_line(3).is_some());
    }
}
