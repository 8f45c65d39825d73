//! Personal settings inside a finished image: a block of fixed size that GRUB reads as its environment, so that it can
//! be rewritten in place without rebuilding, unpacking or root.
//!
//! Format: a GRUB environment block (grub-core/lib/envblk.c): a fixed first line, `name=value` lines, lines
//! that start with `#` are passed over, and `#` fills the rest. A second line of our own makes the block findable.
//! Nothing in the boot chain verifies it, nor does it need to: it holds what a person could type at the boot menu.

use crate::error::{Error, Result};
use crate::parts::grub;
use crate::settings::{self, Setting};

use rescue_agent::settings::Key;

/// Size of the block, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Longest command line of the kernel on x86, in bytes (COMMAND_LINE_SIZE without its zero). GRUB leaves out what does not
/// fit, from the end and without a word: first of all what the menu's own entries add.
const MAX_COMMAND_LINE: usize = 2047;
/// What stands on it beside the settings at most: GRUB names the kernel first, the stick and an entry of the menu are last.
const BESIDE: [&str; 2] = [
    "BOOT_IMAGE=(tftp,255.255.255.255)/boot/vmlinuz",
    "rescue_from=usb rescue.mode=inspect rescue.mode=restore",
];

const HEAD: &str = "# GRUB Environment Block\n# esxi-rescue personal settings, version 1\n";
const VARIABLE: &str = "rescue_args=";

/// The content of the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Personal {
    /// What the image is, one line.
    pub release: String,
    /// Words for the kernel command line.
    pub arguments: Vec<String>,
}

/// Why a block cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It has another length.
    #[error("its settings block has {0} bytes, not {BLOCK_BYTES}")]
    Size(usize),
    /// It is not UTF-8.
    #[error("its settings block is not text")]
    NotText,
    /// It does not begin as this program writes it.
    #[error("its settings block has another version")]
    OtherVersion,
    /// It does not say what the image is.
    #[error("its settings block does not contain the image's version")]
    NoRelease,
    /// The variable with the settings is missing.
    #[error("its settings block contains no settings line")]
    NoSettings,
}

impl Personal {
    /// Puts a setting in, in place of an earlier one with the same key.
    pub fn set(&mut self, setting: &Setting) {
        self.unset(setting.key);
        self.arguments.push(setting.argument());
    }

    /// Takes a setting out.
    pub fn unset(&mut self, key: Key) {
        let prefix = settings::prefix(key);
        self.arguments.retain(|word| !word.starts_with(&prefix));
    }

    /// The block, ready to be written.
    pub fn to_block(&self) -> Result<Vec<u8>> {
        let words: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        settings::check_arguments(&words)?;
        let mut block =
            format!("{HEAD}# {}\n{VARIABLE}{}\n", self.release, words.join(" ")).into_bytes();
        if block.len() > BLOCK_BYTES {
            return Err(Error::Setting {
                setting: words.join(" "),
                problem: format!(
                    "too long: the image has space for {BLOCK_BYTES} bytes, this needs {}",
                    block.len()
                ),
            });
        }
        let words = words.join(" ");
        let line = [BESIDE[0], grub::BASE_ARGS, &words, BESIDE[1]].join(" ");
        if line.len() > MAX_COMMAND_LINE {
            return Err(Error::Setting {
                problem: format!(
                    "too long: the kernel's command line has space for {} bytes of settings, these have {}",
                    MAX_COMMAND_LINE - (line.len() - words.len()),
                    words.len()
                ),
                setting: format!("{}…", &words[..40]),
            });
        }
        block.resize(BLOCK_BYTES, b'#');
        Ok(block)
    }

    /// Reads a block.
    pub fn from_block(block: &[u8]) -> std::result::Result<Self, BlockError> {
        if block.len() != BLOCK_BYTES {
            return Err(BlockError::Size(block.len()));
        }
        let text = std::str::from_utf8(block).map_err(|_| BlockError::NotText)?;
        let rest = text.strip_prefix(HEAD).ok_or(BlockError::OtherVersion)?;
        let mut lines = rest.lines();
        let release = lines
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .ok_or(BlockError::NoRelease)?;
        let arguments = lines
            .find_map(|line| line.strip_prefix(VARIABLE))
            .ok_or(BlockError::NoSettings)?;
        Ok(Self {
            release: release.to_owned(),
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn personal(arguments: &[&str]) -> Personal {
        Personal {
            release: "esxi-rescue 0.1.0 kernel 6.1".to_owned(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    #[test]
    fn a_block_comes_back_as_it_went_in() {
        let before = personal(&["rescue.countdown=0", "console=ttyS1"]);
        let block = before.to_block().unwrap();
        assert_eq!(block.len(), BLOCK_BYTES);
        assert_eq!(Personal::from_block(&block).unwrap(), before);
    }

    #[test]
    fn an_empty_block_has_no_arguments() {
        let block = personal(&[]).to_block().unwrap();
        assert!(Personal::from_block(&block).unwrap().arguments.is_empty());
    }

    #[test]
    fn setting_a_key_replaces_and_unsetting_removes_it() {
        let mut personal = personal(&["rescue.wait=1", "quiet"]);
        personal.set(&Setting::parse("wait=2").unwrap());
        assert_eq!(personal.arguments, ["quiet", "rescue.wait=2"]);
        personal.unset(Key::Wait);
        assert_eq!(personal.arguments, ["quiet"]);
    }

    #[test]
    fn what_does_not_fit_or_is_not_plain_is_refused() {
        let long = "a".repeat(BLOCK_BYTES);
        assert!(
            personal(&[&long])
                .to_block()
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
        assert!(personal(&["a$b"]).to_block().is_err());
    }

    #[test]
    fn settings_that_the_kernel_would_not_see_are_refused() {
        let room = (0..MAX_COMMAND_LINE)
            .rev()
            .find(|length| personal(&[&"a".repeat(*length)]).to_block().is_ok())
            .unwrap();
        assert!((1700..1950).contains(&room), "{room}");
        let error = personal(&[&"a".repeat(room + 1)]).to_block().unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(&format!("space for {room} bytes of settings")),
            "{error}"
        );
    }

    #[test]
    fn foreign_garbled_and_cut_blocks_are_refused() {
        let block = personal(&[]).to_block().unwrap();
        let says = |bytes: &[u8]| Personal::from_block(bytes).unwrap_err();
        assert_eq!(says(&[0; BLOCK_BYTES]), BlockError::OtherVersion);
        assert_eq!(says(&block[..1000]), BlockError::Size(1000));
        let mut garbled = block.clone();
        garbled[200] = 0xff;
        assert_eq!(says(&garbled), BlockError::NotText);
    }
}
