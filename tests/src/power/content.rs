//! Archives of an exact length: gzip files that decompress, one seed one content.

use super::reader::crc32;
use super::rng::Rng;

/// Bytes of a gzip file that holds nothing: header, one empty stored block, trailer.
pub const SHORTEST: usize = 10 + 5 + 8;
const LARGEST_BLOCK: usize = 65_535;

/// A gzip file of `length` bytes ([`SHORTEST`] at least) with random content, in stored blocks
/// (RFC 1951, section 3.2.4).
pub fn gzip(length: usize, seed: u64) -> Vec<u8> {
    let blocks = length.saturating_sub(18).div_ceil(LARGEST_BLOCK + 5).max(1);
    let payload_len = length.saturating_sub(18 + 5 * blocks);
    let mut rng = Rng::new(seed, 0x677a_6970);
    let payload: Vec<u8> = std::iter::repeat_with(|| rng.bits().to_le_bytes()[0])
        .take(payload_len)
        .collect();
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];
    let mut rest = &payload[..];
    for block in 1..=blocks {
        let (part, behind) = rest.split_at(rest.len().min(LARGEST_BLOCK));
        let size = u16::try_from(part.len()).unwrap_or(u16::MAX);
        file.push(u8::from(block == blocks));
        file.extend(size.to_le_bytes());
        file.extend((!size).to_le_bytes());
        file.extend(part);
        rest = behind;
    }
    file.extend(crc32(&payload).to_le_bytes());
    file.extend(u32::try_from(payload.len()).unwrap_or(0).to_le_bytes());
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::reader::gunzip;

    #[test]
    fn every_length_is_exact_and_decompresses() {
        for length in (SHORTEST..900).chain([65_553, 65_554, 65_558, 65_559, 70_000, 131_090]) {
            let file = gzip(length, 7);
            assert_eq!(file.len(), length);
            assert!(gunzip(&file).is_ok(), "{length}");
        }
    }

    #[test]
    fn the_judge_refuses_what_the_loader_refuses() {
        let good = gzip(500, 7);
        let mut trailing = good.clone();
        trailing.push(0);
        let mut flipped = good.clone();
        flipped[100] ^= 1;
        let twice = [&good[..], &good[..]].concat();
        for bad in [&good[..499], &trailing, &flipped, &twice, &good[..9], &[]] {
            assert!(gunzip(bad).is_err());
        }
    }
}
