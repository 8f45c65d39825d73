//! Choosing devices as values: a list in which keys turn devices on and off.

use crate::config::pci::PciAddress;
use crate::init::keys::Key;
use crate::plan::{Judged, Verdict};
use crate::policy::{Selection, Term};
use crate::report::{self, Line, Tone};

/// Devices that are shown at once: with what stands around them, they fit the smallest screen.
const SHOWN: usize = 18;

/// What a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing.
    None,
    /// The list looks different now.
    Changed,
    /// The choice is made.
    Done,
    /// Back, without a choice.
    Back,
}

/// A device that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    address: PciAddress,
    verdict: Verdict,
    what: String,
    chosen: bool,
}

/// The devices that are passed through, each chosen or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceList {
    rows: Vec<Row>,
    selected: usize,
    /// A number of which more digits may come.
    typed: usize,
}

impl DeviceList {
    /// Each device that has an address, once; chosen are those that the plan gives back.
    pub(super) fn new(devices: &[Judged]) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for device in devices {
            let Some(address) = device.address else {
                continue;
            };
            let chosen = device.verdict == Verdict::GiveBack;
            match rows.iter_mut().find(|row| row.address == address) {
                Some(row) => row.chosen |= chosen,
                None => rows.push(Row {
                    address,
                    verdict: device.verdict,
                    what: report::what_it_is(device),
                    chosen,
                }),
            }
        }
        Self {
            rows,
            selected: 0,
            typed: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Numbers turn devices on and off, as the space bar does with the selected one; Enter ends.
    pub(super) fn press(&mut self, key: Key) -> Reaction {
        if let Key::Character(digit @ '0'..='9') = key {
            return self.digit(digit);
        }
        let typed = std::mem::take(&mut self.typed);
        let last = self.rows.len().saturating_sub(1);
        match key {
            Key::Enter if typed > 0 => return self.turn(typed - 1),
            Key::Enter => return Reaction::Done,
            Key::Escape | Key::Character('q') => return Reaction::Back,
            Key::Character(' ' | 'x') => return self.turn(self.selected),
            Key::Up => self.selected = self.selected.saturating_sub(1),
            Key::Down => self.selected = self.selected.saturating_add(1).min(last),
            Key::PageUp => self.selected = self.selected.saturating_sub(SHOWN),
            Key::PageDown => self.selected = self.selected.saturating_add(SHOWN).min(last),
            Key::Home => self.selected = 0,
            Key::End => self.selected = last,
            Key::Backspace => {}
            Key::Character(_) => return Reaction::None,
        }
        Reaction::Changed
    }

    /// A number counts as soon as no longer one can follow.
    fn digit(&mut self, digit: char) -> Reaction {
        let value = digit.to_digit(10).and_then(|n| usize::try_from(n).ok());
        let number = self.typed * 10 + value.unwrap_or_default();
        self.typed = 0;
        match number {
            0 => Reaction::None,
            number if number > self.rows.len() => Reaction::None,
            number if number * 10 > self.rows.len() => self.turn(number - 1),
            number => {
                self.typed = number;
                Reaction::Changed
            }
        }
    }

    fn turn(&mut self, place: usize) -> Reaction {
        let Some(row) = self.rows.get_mut(place) else {
            return Reaction::None;
        };
        row.chosen = !row.chosen;
        self.selected = place;
        Reaction::Changed
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let first = self.first_shown();
        let rows = self.rows.iter().enumerate().skip(first).take(SHOWN);
        rows.map(|(place, row)| {
            let tone = match (place == self.selected, row.chosen) {
                (true, _) => Tone::Selected,
                (false, true) => Tone::Good,
                (false, false) => Tone::Plain,
            };
            Line::new(tone, self.row(place, row)).cut()
        })
        .collect()
    }

    /// The selected one is always among those shown.
    fn first_shown(&self) -> usize {
        self.selected / SHOWN * SHOWN
    }

    fn row(&self, place: usize, row: &Row) -> String {
        let (number, address, what) = (place + 1, row.address, &row.what);
        let chosen = if row.chosen { 'x' } else { ' ' };
        let needed = match row.verdict {
            Verdict::GiveBack => "needed",
            Verdict::Leave => "not needed",
            Verdict::Stale => "not there",
            Verdict::Unsure => "unsure",
        };
        format!("{number:>4}  [{chosen}] {address}  {needed:<10}  {what}")
    }

    /// What is chosen, for a console that cannot redraw, and a number that may still grow.
    pub(super) fn status(&self) -> String {
        if self.typed > 0 {
            return format!("Number {}_   (another digit, or Enter)", self.typed);
        }
        let chosen = self.rows.iter().filter(|row| row.chosen).count();
        let all = self.rows.len();
        let selected = match self.rows.get(self.selected) {
            Some(row) if row.chosen => format!("[x] {}", row.address),
            Some(row) => format!("[ ] {}", row.address),
            None => String::new(),
        };
        format!(
            "{chosen} of {all} go back to ESXi. Number {}: {selected}",
            self.selected + 1
        )
    }

    /// The request; `None` where nothing is chosen.
    pub(super) fn selection(&self) -> Option<Selection> {
        let chosen = self.rows.iter().filter(|row| row.chosen);
        let terms: Vec<Term> = chosen.map(|row| Term::Address(row.address)).collect();
        Selection::of(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pci::Reading;
    use crate::plan::{Kind, Need, Request};

    fn device(address: &str, verdict: Verdict) -> Judged {
        Judged {
            text: address.into(),
            address: address.parse().ok(),
            reading: Reading::Hex,
            alternative: None,
            files: vec!["esx.conf"],
            vmkname: None,
            present: None,
            choose_by: None,
            kind: Kind::Unknown,
            recorded: None,
            was: None,
            need: Need::Absent,
            request: Request::NotNamed,
            verdict,
            reason: "because".into(),
        }
    }

    fn two() -> DeviceList {
        DeviceList::new(&[
            device("0000:00:1f.2", Verdict::GiveBack),
            device("0000:01:00.0", Verdict::Leave),
        ])
    }

    fn many() -> DeviceList {
        let devices: Vec<Judged> = (0..25)
            .map(|slot| device(&format!("0000:02:{slot:02x}.0"), Verdict::Leave))
            .collect();
        DeviceList::new(&devices)
    }

    fn request(list: &DeviceList) -> Option<String> {
        list.selection().map(|selection| selection.to_string())
    }

    #[test]
    fn a_number_turns_a_device_on_and_off() {
        let mut list = two();
        assert_eq!(request(&list).as_deref(), Some("0000:00:1f.2"));
        assert_eq!(list.press(Key::Character('2')), Reaction::Changed);
        assert_eq!(request(&list).as_deref(), Some("0000:00:1f.2,0000:01:00.0"));
        assert_eq!(list.press(Key::Character('1')), Reaction::Changed);
        assert_eq!(request(&list).as_deref(), Some("0000:01:00.0"));
        assert_eq!(list.press(Key::Character('2')), Reaction::Changed);
        assert_eq!(request(&list), None);
        for nothing in ['0', '3', 'k'] {
            assert_eq!(list.press(Key::Character(nothing)), Reaction::None);
        }
        assert_eq!(list.press(Key::Enter), Reaction::Done);
        assert_eq!(list.press(Key::Escape), Reaction::Back);
    }

    #[test]
    fn numbers_of_two_digits_wait_for_the_second() {
        let mut list = many();
        assert_eq!(list.press(Key::Character('1')), Reaction::Changed);
        assert!(list.status().starts_with("Number 1_"));
        assert_eq!(list.press(Key::Character('7')), Reaction::Changed);
        assert_eq!(request(&list).as_deref(), Some("0000:02:10.0"));
        list.press(Key::Character('2'));
        assert_eq!(list.press(Key::Enter), Reaction::Changed, "ends the number");
        assert_eq!(request(&list).as_deref(), Some("0000:02:01.0,0000:02:10.0"));
        list.press(Key::Character('3'));
        assert_eq!(request(&list).map(|text| text.len()), Some(12 * 3 + 2));
        list.press(Key::Character('2'));
        assert_eq!(list.press(Key::Character('9')), Reaction::None, "29 of 25");
    }

    #[test]
    fn arrows_and_the_space_bar_do_the_same() {
        let mut list = two();
        list.press(Key::Down);
        assert_eq!(list.press(Key::Character(' ')), Reaction::Changed);
        assert_eq!(request(&list).as_deref(), Some("0000:00:1f.2,0000:01:00.0"));
        assert_eq!(
            list.status(),
            "2 of 2 go back to ESXi. Number 2: [x] 0000:01:00.0"
        );
    }

    #[test]
    fn many_devices_are_shown_page_by_page() {
        let mut list = many();
        assert_eq!(list.lines().len(), SHOWN);
        list.press(Key::End);
        let lines = list.lines();
        assert_eq!(lines.len(), 25 - SHOWN);
        assert_eq!(lines.last().unwrap().tone, Tone::Selected);
        for line in many().lines() {
            assert!(line.text.chars().count() <= report::WIDTH);
        }
        assert!(list.status().len() <= report::WIDTH);
    }

    #[test]
    fn a_device_is_listed_once_and_only_with_an_address() {
        let mut odd = device("x", Verdict::Unsure);
        odd.text = "unknown".into();
        let list = DeviceList::new(&[
            device("0000:00:1f.2", Verdict::Leave),
            device("0000:00:1f.2", Verdict::GiveBack),
            odd.clone(),
        ]);
        assert_eq!((list.rows.len(), request(&list).is_some()), (1, true));
        assert!(DeviceList::new(&[odd]).is_empty());
    }
}
