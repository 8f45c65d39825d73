//! Numbers in bytes, and bytes as text: little-endian fields, hex, SHA-256.

use sha2::{Digest, Sha256};

/// The little-endian number in the two bytes at `at`; `bytes` must reach that far.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian number in the four bytes at `at`; `bytes` must reach that far.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The SHA-256 of `bytes` in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_little_endian_and_hex_is_lower_case() {
        let bytes = [0xff, 0x34, 0x12, 0xcd, 0xab];
        assert_eq!(u16_at(&bytes, 1), 0x1234);
        assert_eq!(u32_at(&bytes, 1), 0xabcd_1234);
        assert_eq!(hex(&bytes), "ff3412cdab");
        // FIPS 180-2, appendix B.1.
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), digest);
    }
}
