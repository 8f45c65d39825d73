//! What is known of each host: the last report of each, shown by the terminal, the page and
//! `rescue-image reports` alike.

use super::document::{Summary, is_well};
use super::identity::Names;

/// Most hosts that are remembered; anybody may send, under any name.
const MAX_HOSTS: usize = 2000;
/// Longest text of a host's that is shown in a table, in characters.
const MAX_CELL: usize = 60;
/// Longest sentence of a host's that is shown, in characters.
const MAX_NOTE: usize = 200;

/// A host, as a table shows it. Its texts are cut, and escaped for a terminal; for HTML they are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The host's folder.
    pub folder: String,
    /// The names that the host gives itself.
    pub names: Names,
    /// What the host is called.
    pub serial: String,
    /// Maker and model.
    pub model: String,
    /// ESXi's version.
    pub build: String,
    /// How it ended, in a word.
    pub result: String,
    /// Banks that were changed.
    pub banks: u64,
    /// Devices that were given back.
    pub devices: u64,
    /// When the report came, RFC 3339.
    pub when: String,
    /// How it ended, in a sentence.
    pub note: String,
    /// The report's file, relative to the folder of reports.
    pub file: String,
    /// The path that it was sent to.
    pub path: String,
    /// Who sent it.
    pub from: String,
}

impl Row {
    /// A report as a row.
    pub fn new(summary: &Summary, file: &str, from: &str, when: &str) -> Row {
        Row {
            folder: summary.folder.clone(),
            names: summary.names.clone(),
            serial: shortened(&summary.serial, MAX_CELL),
            model: shortened(&summary.model, MAX_CELL),
            build: shortened(&summary.build, MAX_CELL),
            result: summary.result.clone(),
            banks: summary.banks,
            devices: summary.devices,
            when: shortened(when, MAX_CELL),
            note: shortened(&summary.note, MAX_NOTE),
            file: file.to_owned(),
            path: shortened(&summary.path, MAX_NOTE),
            from: shortened(from, MAX_CELL),
        }
    }

    /// Whether the host is as it should be.
    pub fn is_well(&self) -> bool {
        is_well(&self.result)
    }

    /// The same host after one more report. That nothing is left to do does not hide what was done: the
    /// host that was repaired and then started from the medium again was still repaired.
    #[must_use]
    pub fn followed_by(&self, later: Row) -> Row {
        let done = matches!(self.result.as_str(), "reverted" | "restored");
        if done && later.result == "clean" && self.names.same_host(&later.names) {
            let again = format!(
                "A later report, of {}, found nothing left to do.",
                later.when
            );
            let note = match self.note.split_once(" A later report, of ") {
                Some((first, _)) => first,
                None => &self.note,
            };
            return Row {
                note: format!("{note} {again}"),
                ..self.clone()
            };
        }
        later
    }
}

/// All hosts, the one that reported last at the end.
#[derive(Debug, Default)]
pub struct Hosts {
    rows: Vec<Row>,
    forgotten: usize,
}

impl Hosts {
    /// Takes a report in, and gives what is known of its host now.
    pub fn take(&mut self, row: Row) -> Row {
        let before = self.rows.iter().position(|r| r.folder == row.folder);
        let row = match before.map(|index| self.rows.remove(index)) {
            Some(before) => before.followed_by(row),
            None => row,
        };
        if self.rows.len() >= MAX_HOSTS {
            self.rows.remove(0);
            self.forgotten += 1;
        }
        self.rows.push(row.clone());
        row
    }

    /// The hosts.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many were too many.
    pub fn forgotten(&self) -> usize {
        self.forgotten
    }
}

/// Text of a stranger for a table: harmless on a terminal, and not too long.
pub fn shortened(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(most).collect();
    let end = if characters.next().is_some() {
        "…"
    } else {
        ""
    };
    format!("{}{end}", harmless(&start))
}

/// Text of a stranger, for a terminal.
pub fn harmless(text: &str) -> String {
    rescue_agent::report::escape(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(serial: &str, result: &str, when: &str) -> Row {
        let report = serde_json::json!({"schema": "esxi-rescue/1", "result": result, "summary": "Done.",
            "banks_changed": 2, "devices_changed": 1, "host": {"serial": serial}, "disks": []});
        let document =
            crate::collect::document::Document::parse(report.to_string().as_bytes(), "/");
        Row::new(&document.unwrap().summary, "f", "10.0.0.1:2", when)
    }

    #[test]
    fn a_later_clean_does_not_hide_that_a_host_was_repaired() {
        let mut hosts = Hosts::default();
        hosts.take(row("A", "reverted", "T1"));
        let after = hosts.take(row("A", "clean", "T2"));
        assert_eq!(
            (after.result.as_str(), after.when.as_str()),
            ("reverted", "T1")
        );
        assert!(after.note.ends_with("of T2, found nothing left to do."));
        let after = hosts.take(row("A", "clean", "T3"));
        assert_eq!(
            after.note,
            "Done. A later report, of T3, found nothing left to do."
        );
        assert_eq!(hosts.take(row("A", "failed", "T4")).result, "failed");
        assert_eq!(hosts.rows().len(), 1);
    }

    #[test]
    fn too_many_hosts_push_out_the_oldest() {
        let mut hosts = Hosts::default();
        for number in 1..=MAX_HOSTS + 5 {
            hosts.take(row(&format!("N{number}"), "clean", "T"));
        }
        assert_eq!((hosts.rows().len(), hosts.forgotten()), (MAX_HOSTS, 5));
        assert_eq!(hosts.rows()[0].serial, "N6");
    }

    #[test]
    fn texts_of_strangers_are_cut_and_cannot_steer_the_terminal() {
        assert_eq!(shortened("a\u{1b}[2J", 60), "a\\u{1b}[2J");
        assert_eq!(shortened(&"x".repeat(1000), 5), "xxxxx…");
    }
}
