//! Long text page by page, as values: which page a key leads to.

use crate::init::keys::Key;
use crate::report::Line;

/// Lines of a page: with the line below, they fill the smallest screen.
pub(super) const PAGE: usize = 24;
/// Lines that are shown at most; of longer text the end, which is what a person looks for.
const MOST: usize = 10_000;

/// Where the rest of a line begins that is longer than the screen is wide.
const INDENT: usize = 11;

/// What a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing.
    None,
    /// Another page.
    Turned,
    /// Enough read.
    Done,
}

/// Text and the place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pager {
    lines: Vec<Line>,
    top: usize,
}

impl Pager {
    /// From the beginning.
    pub(super) fn new(lines: Vec<Line>) -> Self {
        let folded = lines.iter().flat_map(|line| line.folded(INDENT));
        let mut lines: Vec<Line> = folded.collect();
        lines.drain(..lines.len().saturating_sub(MOST));
        Self { lines, top: 0 }
    }

    /// Begins with the last page.
    pub(super) fn at_end(mut self) -> Self {
        self.top = self.last_top();
        self
    }

    pub(super) fn press(&mut self, key: Key) -> Reaction {
        let last = self.last_top();
        let to = match key {
            Key::Character(' ' | 'f') | Key::Enter | Key::PageDown if self.top == last => {
                return Reaction::Done;
            }
            Key::Character(' ' | 'f') | Key::Enter | Key::PageDown => self.top + PAGE,
            Key::Character('b') | Key::PageUp => self.top.saturating_sub(PAGE),
            Key::Down => self.top + 1,
            Key::Up => self.top.saturating_sub(1),
            Key::Home | Key::Character('g') => 0,
            Key::End | Key::Character('e') => last,
            Key::Character('q') | Key::Escape => return Reaction::Done,
            Key::Character(_) | Key::Backspace => return Reaction::None,
        };
        let to = to.min(last);
        match std::mem::replace(&mut self.top, to) == to {
            true => Reaction::None,
            false => Reaction::Turned,
        }
    }

    /// Where the last page begins: it is a full one, if there are that many lines.
    fn last_top(&self) -> usize {
        self.lines.len().saturating_sub(PAGE)
    }

    /// The page: always of the same height, so that it can be redrawn in place.
    pub(super) fn page(&self) -> Vec<Line> {
        let lines = self.lines.iter().skip(self.top).take(PAGE).cloned();
        lines.collect()
    }

    pub(super) fn status(&self) -> String {
        let (all, end) = (self.lines.len(), self.top + PAGE);
        let (first, last) = (self.top + 1, end.min(all));
        let next = if end < all { "Space: next. " } else { "" };
        let back = if self.top > 0 { "b: back. " } else { "" };
        format!("Lines {first} to {last} of {all}. {next}{back}q: menu.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pager(lines: usize) -> Pager {
        Pager::new((0..lines).map(|n| Line::plain(n.to_string())).collect())
    }

    fn shown(pager: &Pager) -> (String, String) {
        let page = pager.page();
        let text = |line: Option<&Line>| line.map(ToString::to_string).unwrap_or_default();
        (text(page.first()), text(page.last()))
    }

    #[test]
    fn pages_follow_one_another_and_the_last_ends() {
        let mut pager = pager(60);
        assert_eq!(shown(&pager), ("0".into(), "23".into()));
        assert_eq!(pager.press(Key::Character('b')), Reaction::None);
        assert_eq!(pager.press(Key::Character(' ')), Reaction::Turned);
        assert_eq!(shown(&pager), ("24".into(), "47".into()));
        assert_eq!(pager.press(Key::Enter), Reaction::Turned);
        assert_eq!(shown(&pager), ("36".into(), "59".into()));
        assert_eq!(pager.press(Key::Home), Reaction::Turned);
        assert_eq!(pager.press(Key::Down), Reaction::Turned);
        assert_eq!(shown(&pager).0, "1");
        assert_eq!(pager.press(Key::End), Reaction::Turned);
        assert_eq!(pager.press(Key::Down), Reaction::None);
        assert_eq!(pager.press(Key::Character(' ')), Reaction::Done);
        assert_eq!(pager.press(Key::Character('q')), Reaction::Done);
    }

    #[test]
    fn a_line_of_a_page_is_a_line_of_the_screen() {
        let pager = Pager::new(vec![Line::plain("word ".repeat(40)), Line::empty()]);
        let page = pager.page();
        assert_eq!((page.len(), page[3].text.as_str()), (4, ""));
        assert!(
            page.iter()
                .all(|line| line.text.len() <= crate::report::WIDTH)
        );
    }

    #[test]
    fn short_text_is_one_page() {
        let mut short = pager(3);
        assert_eq!(short.page().len(), 3);
        assert_eq!(short.status(), "Lines 1 to 3 of 3. q: menu.");
        assert_eq!(short.press(Key::Character(' ')), Reaction::Done);
        assert_eq!(pager(0).press(Key::End), Reaction::None);
    }

    #[test]
    fn of_endless_text_the_end_is_kept() {
        let pager = pager(MOST + 5);
        assert_eq!(pager.page()[0].text, "5");
        assert_eq!(pager.at_end().page()[PAGE - 1].text, (MOST + 4).to_string());
    }
}
