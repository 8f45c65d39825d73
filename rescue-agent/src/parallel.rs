//! Doing the same to many things side by side, with a bound on how many at once.
//!
//! The results come in the order of the things, whichever was done first.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// As many at once as this machine can compute.
pub fn computing() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// `work` on each of `items`, at most `at_once` at a time; `None` where it panicked.
///
/// One item, or one at a time, needs no thread and gets none.
pub fn map<T: Send, R: Send>(
    items: Vec<T>,
    at_once: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<Option<R>> {
    let guarded = |item: T| catch_unwind(AssertUnwindSafe(|| work(item))).ok();
    let workers = at_once.min(items.len());
    if workers < 2 {
        return items.into_iter().map(guarded).collect();
    }
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let queue = Mutex::new(items.into_iter().zip(&mut results));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((item, result)) = next(&queue) {
                    *result = guarded(item);
                }
            });
        }
    });
    results
}

/// What to do next. The lock is free again when this returns.
fn next<I: Iterator>(queue: &Mutex<I>) -> Option<I::Item> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..50).collect();
        for at_once in [0, 1, 2, 7, 100] {
            let doubled = map(items.clone(), at_once, |item| {
                thread::sleep(Duration::from_micros((50 - item) * 20));
                item * 2
            });
            let wanted: Vec<Option<u64>> = items.iter().map(|item| Some(item * 2)).collect();
            assert_eq!(doubled, wanted, "{at_once} at once");
        }
        assert_eq!(map(Vec::<u8>::new(), 4, |item| item), []);
    }

    #[test]
    fn no_more_work_at_once_than_was_asked_for() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        map(vec![(); 40], 3, |()| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1));
            now.fetch_sub(1, Ordering::SeqCst);
        });
        assert_eq!(most.into_inner(), 3);
    }

    #[test]
    fn one_that_panics_does_not_take_others_with_it() {
        let items: Vec<usize> = (0..20).collect();
        for at_once in [1, 4] {
            let results = map(items.clone(), at_once, |item| {
                assert_ne!(item % 5, 0, "on purpose");
                item
            });
            for (index, result) in results.into_iter().enumerate() {
                assert_eq!(result, (index % 5 != 0).then_some(index));
            }
        }
    }
}
