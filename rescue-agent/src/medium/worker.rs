//! Work on the medium happens in a thread of its own, so that a stick that hangs holds up nobody.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use super::error::MediumError;

type Job = Box<dyn FnOnce() + Send>;

/// Does one thing after the other. What was waited for in vain is still done if it can be; what
/// comes after it waits for it.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: Sender<Job>,
}

impl Worker {
    pub(super) fn start() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        // Without a thread every job ends as a defect, and the repair goes on.
        let _ = thread::Builder::new().name("medium".into()).spawn(move || {
            for job in queue {
                // The panic hook has said what happened.
                let _ = panic::catch_unwind(AssertUnwindSafe(job));
            }
        });
        Self { jobs }
    }

    /// Does `job`, and waits for it for `timeout` at most.
    pub(super) fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce() -> Result<T, MediumError> + Send + 'static,
    ) -> Result<T, MediumError> {
        let (done, answer) = mpsc::sync_channel(1);
        let job = move || {
            // Whoever asked may have stopped waiting.
            let _ = done.send(job());
        };
        self.jobs
            .send(Box::new(job))
            .map_err(|_| MediumError::Defect)?;
        match answer.recv_timeout(timeout) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(MediumError::Slow(timeout)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(MediumError::Defect),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_hangs_or_panics_holds_up_nobody_and_later_ones_are_done() {
        let worker = Worker::start();
        let (go_on, told) = mpsc::channel::<()>();
        let slow = worker.run(Duration::from_millis(20), move || {
            let _ = told.recv();
            Ok(())
        });
        drop(go_on);
        assert!(matches!(slow, Err(MediumError::Slow(_))), "{slow:?}");
        let defect = worker.run::<()>(Duration::from_secs(20), || panic!("on purpose"));
        assert!(matches!(defect, Err(MediumError::Defect)), "{defect:?}");
        assert_eq!(worker.run(Duration::from_secs(20), || Ok(7)).unwrap(), 7);
    }
}
