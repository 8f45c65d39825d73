//! What a line looks like on the kernel's own terminal: colours and redrawing in place.
//!
//! Source: Linux `console_codes(4)`; only sequences that the console has always known.

use crate::report::{Line, Mood, Tone};

/// Clears the screen and puts the cursor at its top.
pub(super) const CLEAR: &str = "\x1b[0m\x1b[H\x1b[2J";

const RESET: &str = "\x1b[0m";
/// What heads such as `Disk` are written in: cyan.
const HEAD: &str = "\x1b[36m";

/// A line with its colours, without an end.
pub(super) fn painted(line: &Line) -> String {
    let colour = colour(line.tone);
    if let Tone::Banner(_) | Tone::Title | Tone::Selected = line.tone {
        // The rest of the line takes the colour of the background that it is cleared in.
        return format!("{colour}{}\x1b[K{RESET}", bar(&line.text));
    }
    let (head, rest) = line.head();
    let head = match head.is_empty() {
        true => String::new(),
        false => format!("{HEAD}{head}{RESET}"),
    };
    match colour.is_empty() {
        true => format!("{head}{rest}"),
        false => format!("{head}{colour}{rest}{RESET}"),
    }
}

/// Lines in place of as many lines above the cursor, which stands at the beginning of a line.
pub(super) fn redrawn(lines: &[Line]) -> String {
    let mut text = match lines.len() {
        0 => String::new(),
        height => format!("\x1b[{height}A"),
    };
    for line in lines {
        text.push_str(&format!("{}\x1b[K\r\n", painted(line)));
    }
    text
}

fn colour(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        // Bold white on blue.
        Tone::Title => "\x1b[1;37;44m",
        Tone::Good => "\x1b[32m",
        Tone::Warning => "\x1b[33m",
        Tone::Bad => "\x1b[1;31m",
        // Bold black is dark grey.
        Tone::Quiet => "\x1b[1;30m",
        Tone::Selected => "\x1b[7m",
        Tone::Banner(Mood::Good) => "\x1b[1;37;42m",
        Tone::Banner(Mood::Warning) => "\x1b[30;43m",
        Tone::Banner(Mood::Bad) => "\x1b[1;37;41m",
    }
}

/// Where there are colours, a rule is the colour alone.
fn bar(text: &str) -> &str {
    match text.chars().all(|c| c == crate::report::RULE) {
        true => "",
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_tones_are_coloured_apart_and_nothing_leaks() {
        let good = painted(&Line::new(Tone::Good, "Plan     it"));
        assert_eq!(good, "\x1b[36mPlan     \x1b[0m\x1b[32mit\x1b[0m");
        assert_eq!(painted(&Line::plain("  bank 5")), "  bank 5");
        let banner = painted(&Line::new(Tone::Banner(Mood::Bad), "===="));
        assert_eq!(banner, "\x1b[1;37;41m\x1b[K\x1b[0m");
    }

    #[test]
    fn a_picture_covers_the_one_before() {
        let lines = [Line::plain("a"), Line::plain("b")];
        assert_eq!(redrawn(&lines), "\x1b[2Aa\x1b[K\r\nb\x1b[K\r\n");
        assert_eq!(redrawn(&[]), "");
    }
}
