//! What a person sees: on a terminal a table that is renewed with each report, one row for each host;
//! elsewhere a line for each report.

use std::time::SystemTime;

use console::{Style, Term, measure_text_width, pad_str, truncate_str};

use super::document::Document;

/// The heads of the table's columns.
const HEADS: [&str; 7] = [
    "Serial",
    "Host",
    "ESXi",
    "Result",
    "Banks",
    "Devices",
    "When (UTC)",
];
/// The column with the result.
const RESULT: usize = 3;
/// Widest that a column gets.
const MAX_COLUMN: usize = 30;
/// Longest text that is kept of what a host says of itself, in characters.
const MAX_CELL: usize = 60;
/// Most hosts that are remembered; anybody may send, under any name.
const MAX_ROWS: usize = 1000;
/// Lines of the terminal that the table leaves to what stands above it.
const LINES_LEFT: usize = 6;

/// The view of all reports.
pub struct View {
    terminal: Term,
    /// The last report of each host, latest last.
    rows: Vec<Row>,
    /// How many were too many.
    forgotten: usize,
    /// Lines of the table that is on the terminal now.
    drawn: usize,
}

struct Row {
    folder: String,
    cells: [String; 7],
}

impl View {
    /// A view on the standard output.
    pub fn for_stdout() -> View {
        View {
            terminal: Term::stdout(),
            rows: Vec::new(),
            forgotten: 0,
            drawn: 0,
        }
    }

    /// Shows a report that came at `when`.
    pub fn show(&mut self, document: &Document, file: &str, when: SystemTime) {
        let when = humantime::format_rfc3339_seconds(when).to_string();
        let cells = [
            &document.serial,
            &document.model,
            &document.build,
            &document.result,
            &document.banks.to_string(),
            &document.devices.to_string(),
            &when,
        ]
        .map(|cell| shortened(cell));
        if !self.terminal.is_term() {
            let [serial, model, build, result, banks, devices, when] = cells;
            let line = format!(
                "{when}  {serial}  {model}  {build}  {result}  banks={banks} devices={devices}  {file}"
            );
            // Whoever read this may have gone; the reports are in the folder.
            let _ = self.terminal.write_line(&line);
            return;
        }
        self.take(Row {
            folder: document.folder.clone(),
            cells,
        });
        self.draw();
    }

    fn take(&mut self, row: Row) {
        self.rows.retain(|other| other.folder != row.folder);
        if self.rows.len() >= MAX_ROWS {
            self.rows.remove(0);
            self.forgotten += 1;
        }
        self.rows.push(row);
    }

    /// Says that something went wrong.
    pub fn warn(&mut self, text: &str) {
        self.erase();
        eprintln!("rescue-image: {}", harmless(text));
        if self.terminal.is_term() {
            self.draw();
        }
    }

    fn erase(&mut self) {
        let _ = self
            .terminal
            .clear_last_lines(std::mem::take(&mut self.drawn));
    }

    fn draw(&mut self) {
        self.erase();
        let (height, width) = self.terminal.size();
        let room = usize::from(height).saturating_sub(LINES_LEFT).max(1);
        for line in self.table(room, usize::from(width)) {
            if self.terminal.write_line(&line).is_ok() {
                self.drawn += 1;
            }
        }
    }

    /// The table with the latest `room` hosts.
    fn table(&self, room: usize, width: usize) -> Vec<String> {
        let rows = &self.rows[self.rows.len().saturating_sub(room)..];
        let widths: Vec<usize> = HEADS
            .iter()
            .enumerate()
            .map(|(column, head)| {
                let cells = rows
                    .iter()
                    .map(|row| measure_text_width(&row.cells[column]));
                cells.chain([head.len()]).max().unwrap_or(0).min(MAX_COLUMN)
            })
            .collect();
        let line = |cells: &[String]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| {
                    pad_str(cell, *width, console::Alignment::Left, Some("…")).into_owned()
                })
                .collect();
            truncate_str(padded.join("  ").trim_end(), width.saturating_sub(1), "…").into_owned()
        };
        let mut lines = vec![String::new(), line(&HEADS.map(str::to_owned))];
        for row in rows {
            let mut cells = row.cells.clone();
            cells[RESULT] = tone(&cells[RESULT]).apply_to(&cells[RESULT]).to_string();
            lines.push(line(&cells));
        }
        let hidden = self.rows.len() - rows.len() + self.forgotten;
        if hidden > 0 {
            lines.push(format!("and {hidden} earlier"));
        }
        lines
    }
}

fn tone(result: &str) -> Style {
    match result {
        "reverted" | "restored" | "clean" => Style::new().green(),
        "failed" => Style::new().red().bold(),
        "refused" | "none-found" => Style::new().yellow(),
        _ => Style::new(),
    }
}

/// Text of a stranger for a cell.
fn shortened(text: &str) -> String {
    let start: String = text.chars().take(MAX_CELL).collect();
    truncate_str(&harmless(&start), MAX_CELL, "…").into_owned()
}

/// Text of a stranger, for a terminal.
fn harmless(text: &str) -> String {
    rescue_agent::report::escape(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(serials: &[&str]) -> View {
        let mut view = View::for_stdout();
        view.rows = serials
            .iter()
            .map(|serial| Row {
                folder: (*serial).to_owned(),
                cells: [
                    serial,
                    "Dell Inc. PowerEdge R740 with a long name",
                    "ESXi 6.7.0-8169922",
                    "reverted",
                    "2",
                    "1",
                    "2026-01-01T00:00:00Z",
                ]
                .map(harmless),
            })
            .collect();
        view
    }

    #[test]
    fn the_table_fits_the_terminal() {
        let lines = view(&["A", "B", "C"]).table(2, 80);
        assert_eq!(lines.len(), 5);
        assert!(
            lines.iter().all(|line| measure_text_width(line) < 80),
            "{lines:#?}"
        );
        assert!(lines[1].starts_with("Serial  Host"));
        assert!(
            lines[2].starts_with('B') && lines[3].starts_with('C'),
            "{lines:#?}"
        );
        assert_eq!(lines[4], "and 1 earlier");
    }

    #[test]
    fn many_hosts_and_long_names_are_cut() {
        let mut view = view(&[]);
        for number in 0..MAX_ROWS + 5 {
            view.take(Row {
                folder: number.to_string(),
                cells: [""; 7].map(|_| shortened(&"x\u{1b}".repeat(1000))),
            });
        }
        assert_eq!(view.rows.len(), MAX_ROWS);
        assert_eq!(view.rows[0].folder, "5");
        assert!(measure_text_width(&view.rows[0].cells[0]) <= MAX_CELL);
        let lines = view.table(2, 80);
        assert_eq!(lines[4], format!("and {} earlier", MAX_ROWS + 3));
    }

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2J"), "a\\u{1b}[2J");
    }
}
