//! The menu as values: its entries, and which one a key chooses.

use crate::init::keys::Key;
use crate::report::{Line, Tone};

/// What a person can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Carry the plan out that was shown.
    Apply,
    /// Choose the devices, and so make another plan.
    Devices,
    /// Give every bank the newest archive of its disk, repaired.
    Newest,
    /// Everything that was found, and why each verdict.
    Details,
    /// What to type on this host, whose configuration is sealed.
    Recipe,
    /// Type the recovery key of this host.
    RecoveryKey,
    /// Put the archive on the medium into the banks.
    Import,
    /// Bring the originals back.
    Restore,
    /// The output so far, and the kernel's own messages.
    Log,
    /// A shell on this console.
    Shell,
    /// Start the local disk.
    LocalDisk,
    /// Restart.
    Reboot,
    /// Switch off.
    PowerOff,
}

impl Choice {
    const ALL: [Self; 13] = [
        Self::Apply,
        Self::Recipe,
        Self::RecoveryKey,
        Self::Import,
        Self::Devices,
        Self::Newest,
        Self::Details,
        Self::Restore,
        Self::Log,
        Self::Shell,
        Self::LocalDisk,
        Self::Reboot,
        Self::PowerOff,
    ];

    /// The letter that chooses it.
    fn letter(self) -> char {
        match self {
            Self::Apply => 'a',
            Self::Devices => 'c',
            Self::Newest => 'n',
            Self::Details => 'd',
            Self::Recipe => 'h',
            Self::Import => 'i',
            Self::RecoveryKey => 'k',
            Self::Restore => 'o',
            Self::Log => 'l',
            Self::Shell => 's',
            Self::LocalDisk => 'b',
            Self::Reboot => 'r',
            Self::PowerOff => 'p',
        }
    }

    /// What it does, for a person who reads no more than this.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Apply => "apply the plan",
            Self::Devices => "choose devices",
            Self::Newest => "newest configuration of the disk into every bank",
            Self::Details => "details: everything that was found, and why",
            Self::Recipe => "help for this host: its TPM seals the configuration",
            Self::RecoveryKey => "key: type the recovery key of this host",
            Self::Import => "import the archive that is on this stick",
            Self::Restore => "restore the originals",
            Self::Log => "log",
            Self::Shell => "shell on this console",
            Self::LocalDisk => "boot the local disk",
            Self::Reboot => "restart the machine",
            Self::PowerOff => "power off",
        }
    }
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Whether anything that writes may be chosen at all.
    pub(super) writing: bool,
    /// Whether the plan has something to do.
    pub(super) plan: bool,
    /// Whether any device is passed through.
    pub(super) devices: bool,
    /// Whether only this host opens an archive.
    pub(super) recipe: bool,
    /// Whether the medium has an archive for this host.
    pub(super) import: bool,
    /// Whether a bank's own archive cannot be used, and the newest one of the disk can replace it.
    pub(super) newest: bool,
    /// Whether any bank has its original.
    pub(super) originals: bool,
    /// Whether the image has a shell.
    pub(super) shell: bool,
}

impl Offer {
    fn has(self, choice: Choice) -> bool {
        match choice {
            Choice::Apply => self.writing && self.plan,
            Choice::Devices => self.writing && self.devices,
            Choice::Recipe => self.recipe,
            Choice::Import => self.writing && self.import,
            Choice::RecoveryKey => self.writing && self.recipe,
            Choice::Newest => self.writing && self.newest,
            Choice::Restore => self.writing && self.originals,
            // In a shell everything can be written.
            Choice::Shell => self.writing && self.shell,
            // The way there is written down for the firmware, or on the stick.
            Choice::LocalDisk => self.writing,
            Choice::Details | Choice::Log | Choice::Reboot | Choice::PowerOff => true,
        }
    }
}

/// What a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing.
    None,
    /// Another entry is selected now.
    Moved,
    /// This is wanted.
    Chosen(Choice),
}

/// The menu: the entries on offer, one of them selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Menu {
    entries: Vec<Choice>,
    selected: usize,
}

impl Menu {
    pub(super) fn new(offer: Offer) -> Self {
        let entries = Choice::ALL.into_iter();
        Self {
            entries: entries.filter(|choice| offer.has(*choice)).collect(),
            selected: 0,
        }
    }

    /// A letter chooses its entry at once, a digit the one at that place; arrows select, and Enter
    /// takes what is selected.
    pub(super) fn press(&mut self, key: Key) -> Reaction {
        let last = self.entries.len().saturating_sub(1);
        let to = match key {
            Key::Up => self.selected.saturating_sub(1),
            Key::Down => self.selected.saturating_add(1).min(last),
            Key::Home | Key::PageUp => 0,
            Key::End | Key::PageDown => last,
            Key::Enter => {
                let selected = self.entries.get(self.selected);
                return selected.map_or(Reaction::None, |choice| Reaction::Chosen(*choice));
            }
            Key::Character(character) => match self.named_by(character) {
                Some(place) => {
                    self.selected = place;
                    return Reaction::Chosen(self.entries[place]);
                }
                None => return Reaction::None,
            },
            Key::Escape | Key::Backspace => return Reaction::None,
        };
        match std::mem::replace(&mut self.selected, to) == to {
            true => Reaction::None,
            false => Reaction::Moved,
        }
    }

    fn named_by(&self, character: char) -> Option<usize> {
        let digit = character.to_digit(10).and_then(|n| usize::try_from(n).ok());
        match digit {
            Some(number) => number
                .checked_sub(1)
                .filter(|place| *place < self.entries.len()),
            None => {
                let mut entries = self.entries.iter();
                entries.position(|choice| choice.letter() == character)
            }
        }
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let entries = self.entries.iter().enumerate();
        let entries = entries.map(|(place, choice)| {
            let (letter, words) = (choice.letter(), choice.words());
            match place == self.selected {
                true => Line::new(Tone::Selected, format!("       > {letter}  {words}")),
                false => Line::plain(format!("         {letter}  {words}")),
            }
        });
        entries.collect()
    }

    /// The line below: it says alone what is selected, for a console that cannot redraw.
    pub(super) fn status(&self) -> String {
        let selected = self.entries.get(self.selected);
        let selected = selected.map_or("", |choice| choice.words());
        format!("A letter, or Enter for: {selected}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Offer = Offer {
        writing: true,
        plan: true,
        devices: true,
        recipe: true,
        import: true,
        newest: true,
        originals: true,
        shell: true,
    };

    #[test]
    fn letters_and_digits_choose_at_once() {
        for (place, choice) in Choice::ALL.into_iter().enumerate() {
            let mut menu = Menu::new(EVERYTHING);
            let letter = Key::Character(choice.letter());
            assert_eq!(menu.press(letter), Reaction::Chosen(choice));
            // There are more entries than digits, but never so many on offer at once.
            let Some(digit) = char::from_digit(u32::try_from(place + 1).unwrap(), 10) else {
                continue;
            };
            assert_eq!(menu.press(Key::Character(digit)), Reaction::Chosen(choice));
        }
        let mut menu = Menu::new(EVERYTHING);
        for nothing in ['0', 'x', ' '] {
            assert_eq!(menu.press(Key::Character(nothing)), Reaction::None);
        }
        assert_eq!(menu.press(Key::Escape), Reaction::None);
    }

    #[test]
    fn letters_are_told_apart() {
        let letters: std::collections::BTreeSet<char> =
            Choice::ALL.into_iter().map(Choice::letter).collect();
        assert_eq!(letters.len(), Choice::ALL.len());
    }

    #[test]
    fn arrows_select_and_enter_takes() {
        let mut menu = Menu::new(EVERYTHING);
        assert_eq!(menu.press(Key::Up), Reaction::None);
        assert_eq!(menu.press(Key::Down), Reaction::Moved);
        assert_eq!(menu.press(Key::Enter), Reaction::Chosen(Choice::Recipe));
        assert_eq!(menu.press(Key::End), Reaction::Moved);
        assert_eq!(menu.press(Key::Down), Reaction::None);
        assert_eq!(menu.press(Key::Enter), Reaction::Chosen(Choice::PowerOff));
        assert!(menu.status().contains("power off"));
        let lines = menu.lines();
        let (last, others) = lines.split_last().unwrap();
        assert_eq!(last.tone, Tone::Selected);
        assert!(others.iter().all(|line| line.tone == Tone::Plain));
    }

    #[test]
    fn without_writing_nothing_that_writes_is_on_offer() {
        let menu = Menu::new(Offer {
            writing: false,
            ..EVERYTHING
        });
        use Choice::{Details, Log, PowerOff, Reboot, Recipe};
        assert_eq!(menu.entries, [Recipe, Details, Log, Reboot, PowerOff]);
        for letter in ['a', 'c', 'n', 'o', 's', 'b'] {
            let mut menu = menu.clone();
            assert_eq!(menu.press(Key::Character(letter)), Reaction::None);
        }
    }

    #[test]
    fn what_there_is_no_reason_for_is_not_on_offer() {
        let menu = Menu::new(Offer {
            plan: false,
            devices: false,
            recipe: false,
            import: false,
            newest: false,
            originals: false,
            shell: false,
            ..EVERYTHING
        });
        assert_eq!(menu.entries[0], Choice::Details);
        assert_eq!(menu.entries.len(), 5);
    }
}
