//! What a person sees at the terminal: a table that is renewed with each report, one row for each host;
//! where the output is no terminal, a line for each report.
//!
//! It has a thread of its own. Whatever happens to the terminal, or to the program that reads the output,
//! reports are taken: what cannot be shown is left out.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use console::{Style, Term, measure_text_width, pad_str, truncate_str};
use rescue_agent::counted::counted;

use super::hosts::{Row, harmless};

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
/// Most hosts that are remembered: more than any terminal has lines.
const MAX_ROWS: usize = 1000;
/// Lines of the terminal that the table leaves to what stands above it.
const LINES_LEFT: usize = 6;
/// How many messages wait while the output is not read.
const WAITING: usize = 256;

/// Something to show.
#[derive(Debug)]
pub enum Message {
    /// Lines, as they are.
    Lines(Vec<String>),
    /// A report that came, and what is known of its host now.
    Report(Box<Row>, Box<Row>),
    /// A line between the reports.
    Note(String),
    /// Something that went wrong, or that a person should know.
    Warning(String),
}

/// The view: messages go in, and are shown as soon as the output takes them.
#[derive(Debug)]
pub struct View {
    messages: SyncSender<Message>,
    left_out: Arc<AtomicUsize>,
}

impl View {
    /// A view on the standard output.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start() -> io::Result<View> {
        let (messages, waiting) = sync_channel(WAITING);
        let left_out = Arc::new(AtomicUsize::new(0));
        let ours = Arc::clone(&left_out);
        thread::Builder::new()
            .name("view".to_owned())
            .spawn(move || Screen::new().run(&waiting, &ours))?;
        Ok(View { messages, left_out })
    }

    /// Shows something; leaves it out where too much waits already.
    pub fn show(&self, message: Message) {
        if self.messages.try_send(message).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The terminal, or what is in its place.
struct Screen {
    terminal: Term,
    /// What is known of each host, latest last.
    rows: Vec<Line>,
    /// How many were too many.
    forgotten: usize,
    /// Lines of the table that is on the terminal now.
    drawn: usize,
}

struct Line {
    folder: String,
    cells: [String; 7],
}

impl Line {
    fn of(row: &Row) -> Line {
        Line {
            folder: row.folder.clone(),
            cells: [
                row.serial.clone(),
                row.model.clone(),
                row.build.clone(),
                row.result.clone(),
                row.banks.to_string(),
                row.devices.to_string(),
                row.when.clone(),
            ],
        }
    }
}

impl Screen {
    fn new() -> Screen {
        Screen {
            terminal: Term::stdout(),
            rows: Vec::new(),
            forgotten: 0,
            drawn: 0,
        }
    }

    fn run(mut self, messages: &Receiver<Message>, left_out: &AtomicUsize) {
        for message in messages {
            match message {
                Message::Lines(lines) => {
                    for line in lines {
                        let _ = self.terminal.write_line(&line);
                    }
                }
                Message::Report(report, known) => self.report(&report, &known),
                Message::Note(line) => self.note(&line),
                Message::Warning(text) => self.warn(&text),
            }
            let count = left_out.swap(0, Ordering::Relaxed);
            if count > 0 {
                self.warn(&format!(
                    "The output was not read for a while: {} omitted; the reports are in the folder",
                    counted(count, "line was", "lines were")
                ));
            }
        }
    }

    fn report(&mut self, report: &Row, known: &Row) {
        if self.terminal.is_term() {
            self.take(Line::of(known));
            self.draw();
            return;
        }
        let [serial, model, build, result, banks, devices, when] = Line::of(report).cells;
        let file = &report.file;
        let line = format!(
            "{when}  {serial}  {model}  {build}  {result}  banks={banks} devices={devices}  {file}"
        );
        // Whoever read this may have gone; the reports are in the folder.
        let _ = self.terminal.write_line(&line);
    }

    fn take(&mut self, row: Line) {
        self.rows.retain(|other| other.folder != row.folder);
        if self.rows.len() >= MAX_ROWS {
            self.rows.remove(0);
            self.forgotten += 1;
        }
        self.rows.push(row);
    }

    fn note(&mut self, line: &str) {
        self.erase();
        let _ = self.terminal.write_line(&harmless(line));
        if self.terminal.is_term() {
            self.draw();
        }
    }

    fn warn(&mut self, text: &str) {
        self.erase();
        let _ = writeln!(io::stderr(), "rescue-image: {}", harmless(text));
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
        if self.rows.is_empty() {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(serials: &[&str]) -> Screen {
        let mut screen = Screen::new();
        screen.rows = serials.iter().map(|serial| line(serial)).collect();
        screen
    }

    fn line(serial: &str) -> Line {
        Line {
            folder: serial.to_owned(),
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
        }
    }

    #[test]
    fn the_table_fits_the_terminal() {
        let lines = screen(&["A", "B", "C"]).table(2, 80);
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
    fn many_hosts_are_cut() {
        let mut screen = screen(&[]);
        for number in 0..MAX_ROWS + 5 {
            screen.take(line(&number.to_string()));
        }
        assert_eq!(screen.rows.len(), MAX_ROWS);
        assert_eq!(screen.rows[0].folder, "5");
        let lines = screen.table(2, 80);
        assert_eq!(lines[4], format!("and {} earlier", MAX_ROWS + 3));
    }

    #[test]
    fn a_reader_that_has_stopped_holds_up_nobody() {
        let (messages, waiting) = sync_channel(2);
        let view = View {
            messages,
            left_out: Arc::default(),
        };
        for _ in 0..5 {
            view.show(Message::Warning("x".to_owned()));
        }
        assert_eq!(view.left_out.load(Ordering::Relaxed), 3);
        assert_eq!(waiting.try_iter().count(), 2);
    }
}
