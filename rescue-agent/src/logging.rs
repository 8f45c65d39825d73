//! What goes on, on standard error, and the program's own log there for `--verbose`: what is read, and each epoch that is
//! written. Not for results, which are the report's.

use std::fmt;
use std::io::{self, Write};

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};

use crate::report;

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let from_here = record.target().starts_with(env!("CARGO_CRATE_NAME"));
        if from_here {
            let text = report::escape(&record.args().to_string());
            say(format_args!("  log    {text}"));
        }
    }

    fn flush(&self) {}
}

/// What goes on, on standard error. That nobody listens any more must not break off a repair, as
/// `eprintln` would.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Begins the log.
///
/// # Errors
/// When there is one already.
pub fn begin() -> Result<(), SetLoggerError> {
    log::set_logger(&StandardError)?;
    log::set_max_level(LevelFilter::Debug);
    Ok(())
}
