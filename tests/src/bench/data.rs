//! What the measured archives hold: files like those of a real host's configuration, the same in
//! every run, as many as are wanted.

use crate::esxi::archive::{Member, noise};

/// Bytes of header that GNU tar puts before a member.
const HEADER_BYTES: usize = 512;
/// No file of a configuration is larger.
const FILE_BYTES_MAX: u64 = 96 << 10;
/// Words that texts are made of.
const VOCABULARY: u64 = 3000;

/// Numbers that look random (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        (self.roll() >> 16) % end.max(1)
    }

    /// A few of the words are most of a text.
    fn word(&mut self) -> String {
        let rank = self.below(VOCABULARY).min(self.below(VOCABULARY));
        let rank = rank.min(self.below(VOCABULARY));
        let mut letters = Dice(rank * 0x9e37_79b9 + 1);
        letters.roll();
        let length = 3 + letters.below(8);
        (0..length)
            .map(|_| char::from(b'a' + u8::try_from(letters.below(26)).unwrap_or(0)))
            .collect()
    }

    fn hex(&mut self) -> String {
        format!("{:016x}", self.roll())
    }
}

/// Members that take about `bytes` in a tar.
pub fn members(bytes: usize) -> Vec<Member> {
    let mut dice = Dice(0x5eed);
    let (mut members, mut taken) = (Vec::new(), 0);
    while taken + 2 * HEADER_BYTES < bytes {
        let room = (bytes - taken - 2 * HEADER_BYTES) as u64;
        // Many small files, some large ones.
        let length = dice.below(FILE_BYTES_MAX).min(dice.below(FILE_BYTES_MAX));
        let length = usize::try_from(length.min(room)).unwrap_or(0);
        let number = members.len();
        let (kind, content) = match number % 32 {
            0 => ("keys/key", noise(&format!("key {number}"), length)),
            1 => ("certificates/pem", certificate(&mut dice, length)),
            2..8 => ("hostd/pool.xml", xml(&mut dice, length)),
            8..12 => ("logs/log", log(&mut dice, length)),
            12..18 => ("store/object.json", json(&mut dice, length)),
            _ => ("adv/options.conf", options(&mut dice, length)),
        };
        taken += HEADER_BYTES + content.len().next_multiple_of(HEADER_BYTES);
        let path = format!("etc/vmware/{}/{kind}.{number}", number / 100);
        members.push(Member::file(&path, 0o644, content));
    }
    members
}

fn lines(length: usize, mut line: impl FnMut(usize) -> String) -> Vec<u8> {
    let mut text = Vec::with_capacity(length + 256);
    for number in 0.. {
        if text.len() >= length {
            break;
        }
        text.extend(line(number).into_bytes());
        text.push(b'\n');
    }
    text.truncate(length);
    text
}

/// As esx.conf: one option a line, under the path of its group.
fn options(dice: &mut Dice, length: usize) -> Vec<u8> {
    let mut path = String::new();
    lines(length, |number| {
        if number % 12 == 0 {
            let (group, child) = (dice.word(), number / 12);
            path = format!("/{group}/{}/child[{child:04}]", dice.word());
        }
        match dice.below(3) {
            0 => format!("{path}/{} = \"{}\"", dice.word(), dice.below(65_536)),
            1 => format!("{path}/{} = \"false\"", dice.word()),
            _ => format!("{path}/{} = \"{}\"", dice.word(), dice.word()),
        }
    })
}

fn xml(dice: &mut Dice, length: usize) -> Vec<u8> {
    lines(length, |number| match number % 5 {
        0 => format!("  <ConfigEntry id=\"{number:04}\">"),
        1 => format!("    <name>{}.{}</name>", dice.word(), dice.word()),
        2 => format!("    <objID>{}</objID>", dice.below(1_000_000)),
        3 => format!(
            "    <path>/vmfs/volumes/{}/{}.vmx</path>",
            dice.hex(),
            dice.word()
        ),
        _ => "  </ConfigEntry>".into(),
    })
}

fn json(dice: &mut Dice, length: usize) -> Vec<u8> {
    lines(length, |number| {
        format!(
            "{{\"sbdf\":\"0000:{:02x}:{:02x}.0\",\"owner\":\"OWNER_VMKERNEL\",\"revision\":{number},\"label\":\"{}\",\"enabled\":{},\"limit\":{}}}",
            dice.below(256),
            dice.below(32),
            dice.word(),
            dice.below(2) == 0,
            dice.below(5000)
        )
    })
}

fn log(dice: &mut Dice, length: usize) -> Vec<u8> {
    lines(length, |number| {
        let words: Vec<String> = (0..4 + dice.below(8)).map(|_| dice.word()).collect();
        format!(
            "2023-05-04T10:{:02}:{:02}.{:03}Z cpu{}:{}) {}",
            number / 60 % 60,
            number % 60,
            dice.below(1000),
            dice.below(16),
            2_097_152 + dice.below(9999),
            words.join(" ")
        )
    })
}

fn certificate(dice: &mut Dice, length: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    lines(length, |_| {
        let letter = |_| char::from(LETTERS[usize::try_from(dice.below(64)).unwrap_or(0)]);
        (0..64).map(letter).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esxi::archive::Content;

    #[test]
    fn it_is_the_same_every_time_and_as_large_as_was_asked() {
        for bytes in [50_000, 1 << 20] {
            let made = members(bytes);
            assert_eq!(made, members(bytes));
            let size = |member: &Member| match &member.content {
                Content::File(content) => 512 + content.len().next_multiple_of(512),
                Content::Link(_) => 512,
            };
            let total: usize = made.iter().map(size).sum();
            assert!((bytes - 2048..=bytes + 1024).contains(&total), "{total}");
        }
    }
}
