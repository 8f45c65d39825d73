//! Owners of devices by esx.conf, as ESXi's own parser reads it: a stream of characters.
//!
//! TAB, LF, CR and space are white space, a NUL byte ends the file, `#` where a statement could begin
//! is a comment to the end of the line. A statement is a key, `=`, and a value in quotes, without
//! escapes. Several may share a line. Of a key that stands there twice the last value counts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::esxi::host::Address;

/// The most bytes of a key or a value.
const LONGEST: usize = 8191;

/// The devices whose owner is `passthru`.
pub(super) fn passed_through(file: &[u8]) -> Result<BTreeSet<Address>> {
    let mut owners = BTreeMap::new();
    for (key, value) in statements(file)? {
        let Some(device) = key
            .strip_prefix("/device/")
            .and_then(|rest| rest.strip_suffix("/owner"))
        else {
            continue;
        };
        if !device.contains('/') {
            owners.insert(device.to_owned(), value);
        }
    }
    let passed = owners.iter().filter(|(_, owner)| *owner == "passthru");
    passed
        .map(|(device, _)| address(device).with_context(|| format!("no address: {device}")))
        .collect()
}

fn is_blank(byte: u8) -> bool {
    [b'\t', b'\n', b'\r', b' '].contains(&byte)
}

fn statements(file: &[u8]) -> Result<Vec<(String, String)>> {
    let file = file.split(|byte| *byte == 0).next().unwrap_or_default();
    let text: String = file.iter().map(|byte| char::from(*byte)).collect();
    let mut statements = Vec::new();
    let mut rest = text.as_str();
    loop {
        rest = rest.trim_start_matches(['\t', '\n', '\r', ' ']);
        if rest.is_empty() {
            return Ok(statements);
        }
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        ensure!(rest.starts_with('/'), "no key: {:.40}", rest);
        let (key, after) = rest.split_once('=').context("a key without a value")?;
        let key = key.trim_end_matches(['\t', '\n', '\r', ' ']);
        ensure!(
            key.len() <= LONGEST && !key.bytes().any(is_blank),
            "no key: {key:.40}"
        );
        let after = after.trim_start_matches(['\t', '\n', '\r', ' ']);
        let Some((value, after)) = after
            .strip_prefix('"')
            .and_then(|text| text.split_once('"'))
        else {
            bail!("{key:.40} has no value in quotes");
        };
        ensure!(value.len() <= LONGEST, "a value that is too long");
        statements.push((key.to_owned(), value.to_owned()));
        rest = after;
    }
}

/// `000:31.2`, `0000:00:31.2` or `00000:000:31.2`: decimal, and hex where that is the only reading.
fn address(text: &str) -> Option<Address> {
    let fields: Vec<&str> = text.split([':', '.']).collect();
    let (segment, rest) = match fields.as_slice() {
        [bus, slot, function] => ("0", [*bus, *slot, *function]),
        [segment, bus, slot, function] => (*segment, [*bus, *slot, *function]),
        _ => return None,
    };
    let reading = |radix: u32| -> Option<Address> {
        let number = |text: &str| u16::from_str_radix(text, radix).ok();
        let [bus, slot, function] = rest.map(|text| number(text).map(u8::try_from)?.ok());
        Some(Address {
            segment: number(segment)?,
            bus: bus?,
            slot: slot.filter(|slot| *slot < 32)?,
            function: function.filter(|function| *function < 8)?,
        })
    };
    reading(10).or_else(|| reading(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_a_stream_and_the_last_owner_counts() {
        let text = "# /device/000:1.0/owner = \"passthru\"\n/device/000:31.2/owner = \"passthru\" \
                    /device/000:31.2/options=\"passthru\"\r\n/device/000:2.0/owner\t=\n\"passthru\"\n\
                    /device/000:2.0/owner = \"vmkernel\"\n/devices/000:3.0/owner = \"passthru\"\n\
                    /device/0000:00:1f.3/owner = \"passthru\"\0/device/000:4.0/owner = \"passthru\"";
        let expected = [Address::new(0, 31, 2), Address::new(0, 31, 3)];
        assert_eq!(passed_through(text.as_bytes()).unwrap(), expected.into());
    }

    #[test]
    fn malformed_text_is_no_file() {
        for text in ["/a = b", "/a = \"b", "a = \"b\"", "/a b = \"c\"", "/a"] {
            assert!(passed_through(text.as_bytes()).is_err(), "{text}");
        }
    }
}
