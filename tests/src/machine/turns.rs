//! How many machines run at once: whoever starts one more waits until one has ended.
//!
//! An emulated machine keeps one processor busy, and none while it waits for a disk or a timer. Too many at
//! once make each so slow that its kernel misses timer ticks and its deadline passes, so the number does not
//! follow from how many tests run side by side. The time that a machine waits for its turn is no part of its
//! deadline.

use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::available_parallelism;

/// More than there are processors, for those that wait.
const WAITING: usize = 2;

/// At most: each has a gigabyte of memory and more.
const MOST: usize = 8;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run a machine, until it is dropped.
///
/// A thread that holds one must not wait for another: two such threads could wait for each other.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turn {
    /// Waits until fewer machines run than may.
    pub(super) fn wait() -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let most = MOST.min(processors + WAITING);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= most)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_than_may_run_at_once_and_every_one_gets_its_turn() {
        let (now, most, done) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        thread::scope(|scope| {
            for _ in 0..4 * MOST {
                scope.spawn(|| {
                    let _turn = Turn::wait();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                    now.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(done.into_inner(), 4 * MOST);
        assert!((1 + WAITING..=MOST).contains(&most.into_inner()));
    }
}
