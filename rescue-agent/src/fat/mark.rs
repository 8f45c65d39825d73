//! The marks by which this program knows its own files in a bank again.
//!
//! They stand in byte 12 of a directory entry. Windows uses four bits of that byte (0x08 and 0x10 for
//! the case of names, 0x01 and 0x02 for encryption); Linux, mtools and fsck.fat know the two for the
//! case of names, and fsck.fat one more (0x20: the short name is none). Nobody uses the bits of the
//! marks.

/// The bits of byte 12 that make the marks.
pub(super) const MARK_BITS: u8 = 0xc4;

/// What an entry of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The original that a repair kept, or the note that an exchange is under way.
    Kept,
    /// A newer configuration that a person let an original replace, or what had the name of
    /// the archive and was none. Never replaced.
    SetAside,
    /// The original of an earlier repair, while a new one replaces it.
    Superseded,
}

impl Mark {
    pub(super) fn bits(mark: Option<Self>) -> u8 {
        match mark {
            None => 0,
            Some(Self::Kept) => 0x44,
            Some(Self::SetAside) => 0xc4,
            Some(Self::Superseded) => 0x84,
        }
    }

    pub(super) fn of(bits: u8) -> Option<Self> {
        [Self::Kept, Self::SetAside, Self::Superseded]
            .into_iter()
            .find(|mark| Self::bits(Some(*mark)) == bits & MARK_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_is_mistaken_for_another_or_for_the_case_of_a_name() {
        for case in [0, 0x01, 0x02, 0x08, 0x10, 0x18, 0x20] {
            assert_eq!(Mark::of(case), None);
            for mark in [Mark::Kept, Mark::SetAside, Mark::Superseded] {
                assert_eq!(Mark::of(Mark::bits(Some(mark)) | case), Some(mark));
            }
        }
    }
}
