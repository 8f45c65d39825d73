//! What is known while `collect` runs, for everybody who shows it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use super::document::Summary;
use super::fetches::Fetches;
use super::hosts::{Hosts, Row, shortened};
use super::lines::{self, Line};
use super::view::{Message, View};

/// Most problems that are remembered.
const MAX_PROBLEMS: usize = 20;
/// Longest text of a problem, in characters.
const MAX_TEXT: usize = 300;
/// Changes that wait for a page that is slow to take them; after that it gets everything again.
const WAITING: usize = 256;

/// Something that changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// A report came: what is known of its host now.
    Host(Arc<Row>),
    /// Somebody read an image.
    Fetches,
    /// Something went wrong.
    Problem,
}

/// Something that went wrong, or that a person should know.
#[derive(Debug, Clone)]
pub struct Problem {
    /// When, RFC 3339.
    pub when: String,
    /// What.
    pub text: String,
}

/// What is known.
#[derive(Debug, Default)]
pub struct Known {
    /// The hosts.
    pub hosts: Hosts,
    /// Who read an image.
    pub fetches: Fetches,
    /// What went wrong, latest last.
    pub problems: VecDeque<Problem>,
}

/// What is known, and who is told of changes.
#[derive(Debug)]
pub struct State {
    known: Mutex<Known>,
    changes: broadcast::Sender<Change>,
    view: View,
}

impl State {
    /// What the folder of reports says, to be shown on this view.
    pub fn load(store: &Path, view: View) -> State {
        let lines = std::fs::read(store.join(lines::FILE)).unwrap_or_default();
        let mut hosts = Hosts::default();
        for line in lines.split(|byte| *byte == b'\n').filter_map(Line::parse) {
            let (file, from, when) = (line.file.clone(), line.from.clone(), line.received.clone());
            hosts.take(Row::new(&line.summary(), &file, &from, &when));
        }
        State {
            known: Mutex::new(Known {
                hosts,
                fetches: Fetches::load(store),
                problems: VecDeque::new(),
            }),
            changes: broadcast::Sender::new(WAITING),
            view,
        }
    }

    /// What is known.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Shows lines at the terminal.
    pub fn say(&self, lines: Vec<String>) {
        self.view.show(Message::Lines(lines));
    }

    /// A report was kept.
    pub fn report(&self, summary: &Summary, file: &str, from: &str, when: &str) {
        let report = Row::new(summary, file, from, when);
        let known = self.known().hosts.take(report.clone());
        self.view
            .show(Message::Report(Box::new(report), Box::new(known.clone())));
        // Without a page there is nobody to hear it.
        let _ = self.changes.send(Change::Host(Arc::new(known)));
    }

    /// Something went wrong, or a person should know it.
    pub fn problem(&self, text: &str) {
        let text = shortened(text, MAX_TEXT);
        let problem = Problem {
            when: now(),
            text: text.clone(),
        };
        let mut known = self.known();
        // A full disk says the same with every report.
        known.problems.retain(|old| old.text != text);
        if known.problems.len() >= MAX_PROBLEMS {
            known.problems.pop_front();
        }
        known.problems.push_back(problem);
        drop(known);
        self.view.show(Message::Warning(text));
        let _ = self.changes.send(Change::Problem);
    }

    /// Somebody asked for a part of an image.
    pub fn asked(&self, address: IpAddr, image: &str) {
        let first = self
            .known()
            .fetches
            .asked(address, image, SystemTime::now());
        if first {
            let line = format!("{}  {address} reads {image}", now());
            self.view.show(Message::Note(line));
            let _ = self.changes.send(Change::Fetches);
        }
    }

    /// Bytes of an image went out.
    pub fn sent(&self, address: IpAddr, image: &str, bytes: u64) {
        self.known().fetches.sent(address, image, bytes);
    }

    /// The new content of the file of fetches, if there is something new; pages are told then.
    pub fn changed_fetches(&self) -> Option<String> {
        let changed = self.known().fetches.changed();
        if changed.is_some() {
            let _ = self.changes.send(Change::Fetches);
        }
        changed
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
