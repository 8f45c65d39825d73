//! `reports.jsonl`: one line for each report that is kept, in the order in which they came.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde::Deserialize;

use super::document::{Fields, Summary};

/// The file's name in the folder of reports.
pub const FILE: &str = "reports.jsonl";

/// A line, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct Line {
    /// When it came, RFC 3339.
    pub received: String,
    /// Who sent it.
    #[serde(default)]
    pub from: String,
    /// The path that it was sent to.
    #[serde(default)]
    pub path: String,
    /// The report's file, relative to the folder.
    pub file: String,
    /// Of the report as it came.
    pub sha256: String,
    report: Fields,
}

impl Line {
    /// Reads a line; none where it was cut, or is of something else.
    pub fn parse(line: &[u8]) -> Option<Line> {
        serde_json::from_slice(line).ok()
    }

    /// What is shown of its report.
    pub fn summary(self) -> Summary {
        Summary::of(self.report, &self.path)
    }
}

/// A whole line, or none: what a full disk cuts off would be glued to the next one.
pub fn append(lines: &mut File, line: &[u8]) -> io::Result<()> {
    end_cut_line(lines)?;
    let before = lines.metadata()?.len();
    // One write, so that lines of one program at least are never mixed.
    let written = lines.write_all(line).and_then(|()| lines.sync_data());
    written.inspect_err(|_| {
        // Where even that fails, the next line begins with ending it.
        let _ = lines.set_len(before);
    })
}

/// A line that a power cut left unfinished must not swallow the next one.
pub fn end_cut_line(lines: &mut File) -> io::Result<()> {
    if lines.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    lines.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    lines.read_exact(&mut last)?;
    if last == *b"\n" {
        Ok(())
    } else {
        lines.write_all(b"\n")
    }
}
