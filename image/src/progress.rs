//! What the builder shows while it works: a moving line on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    quiet: bool,
    start: Instant,
}

/// The progress of one counted step.
#[derive(Debug)]
pub struct Bar {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows progress on standard error; `quiet` shows none.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self {
            terminal: stderr().is_terminal(),
            quiet,
            start: Instant::now(),
        }
    }

    /// Says what is being done now.
    pub fn step(&self, text: &str) {
        if !self.quiet {
            eprintln!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
        }
    }

    /// A step of `total` parts.
    #[must_use]
    pub fn bar(&self, text: &str, total: usize) -> Bar {
        self.step(text);
        if self.quiet || !self.terminal {
            return Bar { bar: None };
        }
        let bar = ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("          {wide_bar} {pos}/{len}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar: Some(bar) }
    }
}

impl Bar {
    /// One part is done.
    pub fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// The step is done; the bar disappears.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
