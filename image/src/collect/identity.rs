//! Which host a report is of: the names that its firmware gives, which of them mean something, and the
//! name of its folder.
//!
//! Firmware often has a text of the maker's in place of a serial number, shared by every board; such a
//! placeholder names nobody. A UUID is written in two byte orders (SMBIOS 2.6 turned the first three
//! fields around), so that a BMC and the host may spell the same one differently.

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Longest name of a folder that is not made of a hash.
const MAX_NAME: usize = 64;
/// Hex digits of the hash in the names of folders.
const HASH_DIGITS: usize = 32;
/// What a folder's name begins with that is not named after a serial number.
const OTHER_NAMES: [&str; 3] = ["uuid-", "board-", "path-"];
/// The folder of the hosts that tell nothing of themselves.
const NOBODY: &str = "unknown";

/// What makers leave in place of a serial number, in lower case.
const PLACEHOLDERS: [&str; 19] = [
    "to be filled by o.e.m.",
    "to be filled by oem",
    "default string",
    "system serial number",
    "chassis serial number",
    "base board serial number",
    "baseboard serial number",
    "board serial number",
    "serial number",
    "not specified",
    "not available",
    "not applicable",
    "unknown",
    "invalid",
    "empty",
    "none",
    "n/a",
    "0123456789",
    "123456789",
];

/// UUIDs that whole series of boards share.
const SHARED_UUIDS: [&str; 2] = [
    "03000200040005000006000700080009",
    "0123456789abcdef0123456789abcdef",
];

/// What a host says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Names {
    /// Serial number of the chassis.
    #[serde(default)]
    pub serial: Option<String>,
    /// The system's UUID.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Serial number of the board.
    #[serde(default)]
    pub board_serial: Option<String>,
}

impl Names {
    /// The serial number, where it is one.
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_deref().and_then(serial)
    }

    /// The board's serial number, where it is one.
    pub fn board_serial(&self) -> Option<&str> {
        self.board_serial.as_deref().and_then(serial)
    }

    /// The UUID, where it is one.
    pub fn uuid(&self) -> Option<Uuid> {
        self.uuid.as_deref().and_then(Uuid::parse)
    }

    /// What the host is called: its serial number, else UUID, else the board's number, else where the
    /// report was sent to.
    pub fn label(&self, path: &str) -> String {
        self.told(path)
            .map_or_else(|| NOBODY.to_owned(), |(_, text)| text.to_owned())
    }

    /// The name of the host's folder. Hosts whose labels differ have different folders, whatever
    /// characters are in them.
    pub fn folder(&self, path: &str) -> String {
        self.told(path)
            .map_or_else(|| NOBODY.to_owned(), |(kind, text)| folder_name(kind, text))
    }

    fn told<'a>(&'a self, path: &'a str) -> Option<(&'static str, &'a str)> {
        let [uuid, board, of_path] = OTHER_NAMES;
        if let Some(serial) = self.serial() {
            return Some(("", serial));
        }
        if let (Some(_), Some(text)) = (self.uuid(), &self.uuid) {
            return Some((uuid, text.trim()));
        }
        if let Some(serial) = self.board_serial() {
            return Some((board, serial));
        }
        let path = path.trim_matches('/');
        (!path.is_empty()).then_some((of_path, path))
    }

    /// Whether these can be names of one host: by the UUID where both have one, else by a number.
    pub fn same_host(&self, other: &Names) -> bool {
        match (self.uuid(), other.uuid()) {
            (Some(ours), Some(theirs)) => ours.is(&theirs),
            _ => match (self.serial(), other.serial()) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => self.board_serial().is_some() && self.board_serial() == other.board_serial(),
            },
        }
    }
}

/// A serial number without the white space around it, if it is one.
pub fn serial(text: &str) -> Option<&str> {
    let text = text.trim();
    let mut characters = text.chars().filter(|c| c.is_alphanumeric());
    let first = characters.next()?;
    // "0000000", "XXXXXXX", "........"
    let one_character = characters.all(|c| c == first) && (text.len() > 1 || first == '0');
    let known = PLACEHOLDERS.contains(&text.to_ascii_lowercase().as_str());
    (!one_character && !known).then_some(text)
}

/// A UUID, in one of two byte orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Reads one, with or without its hyphens; none where it is a placeholder.
    pub fn parse(text: &str) -> Option<Uuid> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let digits = digits.to_ascii_lowercase();
        let whole = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !whole || SHARED_UUIDS.contains(&digits.as_str()) {
            return None;
        }
        let uuid = Uuid(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes());
        let one_byte = uuid.0.iter().all(|byte| *byte == uuid.0[0]);
        (!one_byte).then_some(uuid)
    }

    /// Whether both mean the same machine, in either byte order.
    pub fn is(&self, other: &Uuid) -> bool {
        self == other || self.turned() == *other
    }

    fn turned(self) -> Uuid {
        let mut bytes = self.0;
        bytes[0..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        Uuid(bytes)
    }
}

/// A text as the name of a folder. A name that ends like one with a hash gets a hash as well, so that
/// nobody can choose a serial number whose folder is another host's.
fn folder_name(kind: &str, text: &str) -> String {
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = text.chars().map(harmless).take(MAX_NAME).collect();
    // A leading dot would hide it, or lead out of the folder.
    let name = name.trim_start_matches('.');
    let taken = ends_like_a_hash(name)
        || (kind.is_empty() && (name == NOBODY || OTHER_NAMES.iter().any(|o| name.starts_with(o))));
    if name == text && !taken {
        return format!("{kind}{name}");
    }
    let hash: String = Sha256::digest(text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{kind}{name}-{}", &hash[..HASH_DIGITS])
}

fn ends_like_a_hash(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(_, end)| {
        end.len() == HASH_DIGITS && end.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Whether a name can be one of [`Names::folder`]'s.
pub fn is_folder_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(serial: &str, uuid: &str, board: &str) -> Names {
        Names {
            serial: Some(serial.to_owned()),
            uuid: Some(uuid.to_owned()),
            board_serial: Some(board.to_owned()),
        }
    }

    const UUID: &str = "4c4c4544-0058-4b10-8032-b7c04f503033";

    #[test]
    fn a_host_is_called_by_the_first_name_that_means_something() {
        let folder = |serial, uuid, board, path| names(serial, uuid, board).folder(path);
        assert_eq!(folder("7XK2P03", UUID, "B1", "/h"), "7XK2P03");
        assert_eq!(folder(" ", UUID, "B1", "/h"), format!("uuid-{UUID}"));
        let zeros = "00000000-0000-0000-0000-000000000000";
        assert_eq!(folder("Default string", zeros, "B1", "/h"), "board-B1");
        assert_eq!(folder("0000", "x", "To be filled by O.E.M.", "/rack/7"), {
            folder_name("path-", "rack/7")
        });
        assert_eq!(folder("", "", "", "/"), "unknown");
        assert_eq!(names("", "", "").label("/"), "unknown");
    }

    #[test]
    fn names_of_folders_are_harmless() {
        assert!(folder_name("", "VMware-42 1f").starts_with("VMware-42_1f-"));
        for serial in [
            "..",
            "../../etc/passwd",
            "/",
            ".hidden",
            "a\0b",
            "é",
            &"x".repeat(300),
            "C:\\x",
        ] {
            let name = folder_name("", serial);
            assert!(is_folder_name(&name), "{name}");
            assert!(name.len() <= MAX_NAME + 1 + HASH_DIGITS, "{name}");
            assert_ne!(name, serial);
        }
    }

    #[test]
    fn nobody_can_be_called_what_another_hosts_folder_is_called() {
        for serial in ["a b", "..", "é", "unknown-ish/"] {
            let folder = folder_name("", serial);
            assert_ne!(folder_name("", &folder), folder);
        }
        assert_ne!(folder_name("", "a b"), folder_name("", "a/b"));
        assert_ne!(names("unknown1", "", "").folder("/"), "unknown");
        for (kind, text) in [("uuid-", UUID), ("board-", "B1"), ("path-", "rack")] {
            let other = folder_name(kind, text);
            assert_ne!(folder_name("", &other), other);
        }
    }

    #[test]
    fn a_uuid_is_the_same_in_either_byte_order() {
        let (one, other) = (
            Uuid::parse("00112233-4455-6677-8899-aabbccddeeff").unwrap(),
            Uuid::parse("33221100554477668899AABBCCDDEEFF").unwrap(),
        );
        assert!(one.is(&other) && other.is(&one) && one.is(&one));
        assert!(!one.is(&Uuid::parse(UUID).unwrap()));
        for none in [
            "",
            "00112233",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "03000200-0400-0500-0006-000700080009",
            "+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(Uuid::parse(none), None, "{none}");
        }
    }

    #[test]
    fn placeholders_are_no_serial_numbers() {
        for text in [
            "",
            " ",
            "0",
            "0000000",
            "XXXXXX",
            "......",
            "None",
            "N/A",
            "Default string",
            "To Be Filled By O.E.M.",
            "0123456789",
        ] {
            assert_eq!(serial(text), None, "{text:?}");
        }
        assert_eq!(serial(" 7XK2P03\n"), Some("7XK2P03"));
        assert_eq!(serial("7"), Some("7"));
    }

    #[test]
    fn two_hosts_with_one_serial_number_are_told_apart_by_their_uuids() {
        let other = "5c4c4544-0058-4b10-8032-b7c04f503033";
        assert!(names("A", UUID, "").same_host(&names("B", UUID, "")));
        assert!(!names("A", UUID, "").same_host(&names("A", other, "")));
        assert!(names("A", "", "").same_host(&names("A", UUID, "")));
        assert!(names("", "", "B1").same_host(&names("", "", "B1")));
        assert!(!names("", "", "").same_host(&names("", "", "")));
    }
}
