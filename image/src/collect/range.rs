//! Which part of a file a request asks for: `Range` and `If-Range` of RFC 9110, section 14 and 13.1.5.
//!
//! One range is answered; of several the whole file is the answer, which the standard allows and every
//! client takes. A range that is no range is passed over, as the standard asks for.

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The whole file.
    Whole,
    /// The bytes from the first to the last of these, both of them too.
    Range(u64, u64),
    /// Nothing of the file is asked for: 416.
    Outside,
}

/// What a header `Range` asks for of a file of `size` bytes.
pub fn part(header: Option<&str>, size: u64) -> Part {
    let Some(range) = header.and_then(one_range) else {
        return Part::Whole;
    };
    match range {
        (None, None) => Part::Whole,
        (None, Some(0)) => Part::Outside,
        (None, Some(_)) if size == 0 => Part::Outside,
        (None, Some(length)) => Part::Range(size.saturating_sub(length), size - 1),
        (Some(first), Some(last)) if last < first => Part::Whole,
        (Some(first), _) if first >= size => Part::Outside,
        (Some(first), last) => Part::Range(first, last.unwrap_or(u64::MAX).min(size - 1)),
    }
}

/// The only range of a header; none where there are several, or it is not understood.
fn one_range(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, ranges) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return None;
    }
    let (first, last) = ranges.trim().split_once('-')?;
    Some((number(first)?, number(last)?))
}

/// A number, or nothing where there is none; none at all where it is something else.
#[allow(clippy::option_option)]
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More than any file has.
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

/// Whether the header `If-Range` names the file as it is now: by its strong tag, or by its very date.
pub fn is_current(header: Option<&str>, tag: &str, modified: &str) -> bool {
    header.is_none_or(|header| {
        let header = header.trim();
        header == tag || header == modified
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood_as_the_standard_says() {
        let cases = [
            (None, Part::Whole),
            (Some("bytes=0-0"), Part::Range(0, 0)),
            (Some("bytes=0-99"), Part::Range(0, 99)),
            (Some("Bytes=10-19"), Part::Range(10, 19)),
            (Some("bytes= 10-19 "), Part::Range(10, 19)),
            (Some("bytes=90-1000"), Part::Range(90, 99)),
            (Some("bytes=99-"), Part::Range(99, 99)),
            (Some("bytes=-1"), Part::Range(99, 99)),
            (Some("bytes=-1000"), Part::Range(0, 99)),
            (Some("bytes=0-18446744073709551615"), Part::Range(0, 99)),
            (Some("bytes=0-99999999999999999999999"), Part::Range(0, 99)),
            (Some("bytes=100-"), Part::Outside),
            (Some("bytes=99999999999999999999999-"), Part::Outside),
            (Some("bytes=-0"), Part::Outside),
            (Some("bytes=9-1"), Part::Whole),
            (Some("bytes=0-1,5-6"), Part::Whole),
            (Some("bytes=-"), Part::Whole),
            (Some("bytes=a-b"), Part::Whole),
            (Some("bytes=+1-2"), Part::Whole),
            (Some("bytes=--1"), Part::Whole),
            (Some("bytes"), Part::Whole),
            (Some("lines=1-2"), Part::Whole),
            (Some(""), Part::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(part(header, 100), expected, "{header:?}");
        }
        assert_eq!(part(Some("bytes=0-0"), 0), Part::Outside);
        assert_eq!(part(Some("bytes=-5"), 0), Part::Outside);
    }

    #[test]
    fn a_range_of_another_version_is_not_given() {
        let current = |header| is_current(header, "\"1-2\"", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(current(None));
        assert!(current(Some("\"1-2\"")));
        assert!(current(Some("Sun, 06 Nov 1994 08:49:37 GMT")));
        assert!(!current(Some("W/\"1-2\"")));
        assert!(!current(Some("\"1-3\"")));
        assert!(!current(Some("Sun, 06 Nov 1994 08:49:38 GMT")));
    }
}
