//! A line for a person, with the tone it is said in. What a tone looks like is the terminal's
//! matter; a line without colours says the same.

use std::borrow::Cow;
use std::fmt;

use textwrap::{Options, WordSplitter, wrap};

use super::escape;

/// Columns of the smallest screen, less the cursor.
pub const WIDTH: usize = 79;
/// Where the text begins after the word at the head of a line.
pub(crate) const HEAD: usize = 9;

/// How a line is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// The name of the program, or of what follows.
    Title,
    /// It goes well, or is about to.
    Good,
    /// A person should know.
    Warning,
    /// It went wrong.
    Bad,
    /// Beside the point, for those who look closely.
    Quiet,
    /// What a key would act on.
    Selected,
    /// The result, as large as the terminal can say it.
    Banner(Mood),
}

/// What a result is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// All is well.
    Good,
    /// Somebody has to look.
    Warning,
    /// Something failed.
    Bad,
}

/// A line, harmless on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// How it is said.
    pub tone: Tone,
    /// What is said.
    pub text: String,
}

impl Line {
    /// A line; what steers a terminal is spelled out.
    pub fn new(tone: Tone, text: impl AsRef<str>) -> Self {
        let text = escape(text.as_ref());
        Self { tone, text }
    }

    /// A line without anything special.
    pub fn plain(text: impl AsRef<str>) -> Self {
        Self::new(Tone::Plain, text)
    }

    /// An empty line.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The word at its head, such as `Disk`, and the rest.
    pub fn head(&self) -> (&str, &str) {
        let is_head = |head: &str| {
            let word = head.trim_end();
            let letters = word.bytes().all(|byte| byte.is_ascii_alphabetic());
            let is_word = letters && word.starts_with(|c: char| c.is_ascii_uppercase());
            head.ends_with(' ') && (is_word || word == "Way back")
        };
        match self.text.split_at_checked(HEAD) {
            Some((head, rest)) if is_head(head) => (head, rest),
            _ => ("", &self.text),
        }
    }

    /// Cut to the width of the smallest screen.
    pub fn cut(self) -> Self {
        let text = shortened(&self.text, WIDTH);
        Self { text, ..self }
    }

    /// Folded to the width of the smallest screen; what follows is set in by `indent` columns.
    pub(crate) fn folded(&self, indent: usize) -> impl Iterator<Item = Line> + '_ {
        let blanks = " ".repeat(indent);
        let fold = Options::new(WIDTH)
            .subsequent_indent(&blanks)
            .break_words(false)
            .word_splitter(WordSplitter::NoHyphenation);
        let lines: Vec<String> = wrap(&self.text, &fold)
            .into_iter()
            .map(Cow::into_owned)
            .collect();
        let tone = self.tone;
        lines.into_iter().map(move |text| Line { tone, text })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Lines folded to the width of the smallest screen, under their heads.
pub(super) fn laid_out(lines: &[Line]) -> Vec<Line> {
    lines.iter().flat_map(|line| line.folded(HEAD)).collect()
}

/// At most `width` characters of a text, with dots where something is missing.
pub(super) fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(3)).collect();
    format!("{}...", kept.trim_end())
}

/// The result stands between two rules of its own tone.
pub fn framed(lines: Vec<Line>) -> Vec<Line> {
    let mut framed = Vec::with_capacity(lines.len() + 2);
    let mut inside = None;
    for line in lines {
        let banner = matches!(line.tone, Tone::Banner(_)).then_some(line.tone);
        if banner != inside {
            framed.extend(banner.or(inside).map(rule));
            inside = banner;
        }
        framed.push(line);
    }
    framed.extend(inside.map(rule));
    framed
}

fn rule(tone: Tone) -> Line {
    Line::new(tone, RULE.to_string().repeat(WIDTH))
}

/// What a rule is made of.
pub(crate) const RULE: char = '=';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_a_word_and_blanks() {
        for (text, head) in [
            ("Disk     /dev/sda", "Disk     "),
            ("REFUSED  it", "REFUSED  "),
            ("Way back it", "Way back "),
            ("         more", ""),
            ("  bank 5 ESXi", ""),
            ("A device without", ""),
            ("Halted. Press", ""),
            ("Größer   x", ""),
            ("", ""),
        ] {
            assert_eq!(Line::plain(text).head().0, head, "{text:?}");
        }
    }

    #[test]
    fn a_result_of_several_lines_is_framed_once() {
        let banner = Tone::Banner(Mood::Good);
        let lines = vec![
            Line::plain("a"),
            Line::new(banner, "b"),
            Line::new(banner, "c"),
            Line::plain("d"),
        ];
        let texts: Vec<String> = framed(lines).into_iter().map(|line| line.text).collect();
        let rule = "=".repeat(WIDTH);
        assert_eq!(texts, ["a", &rule, "b", "c", &rule, "d"]);
    }

    #[test]
    fn long_texts_are_shortened_by_characters() {
        assert_eq!(shortened("größer als", 10), "größer als");
        assert_eq!(shortened("größer als das", 10), "größer...");
    }

    #[test]
    fn what_comes_from_a_disk_cannot_end_a_line() {
        assert_eq!(Line::plain("a\nResult").text, "a\\nResult");
    }
}
