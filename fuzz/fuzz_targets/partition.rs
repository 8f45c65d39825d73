//! Partition tables, GPT and MBR: no panic, and no healthy partition outside the disk.
//!
//! The checksums of a GPT would keep the fuzzer out, so it is let in: they are made right first
//! (UEFI specification 2.10, section 5.3.2).
#![no_main]

use libfuzzer_sys::fuzz_target;
use rescue_agent::disk::{SectorSize, partition};
use rescue_fuzz::Disk;

const SIZE: u64 = 64 << 20;
const SECTOR: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    make_checksums_right(&mut bytes);
    for sector_size in [SectorSize::S512, SectorSize::S4096] {
        let disk = Disk::new(&bytes, SIZE, sector_size);
        let Ok(table) = partition::read(&disk) else {
            continue;
        };
        for partition in &table.partitions {
            let _ = format!("{partition:?}");
            if partition.problem.is_none() {
                let end = partition.start.0.checked_add(partition.length);
                assert!(end.is_some_and(|end| end <= SIZE), "{partition:?}");
            }
        }
        let _ = table.warnings.iter().map(ToString::to_string).count();
    }
    assert!(Disk::new(&bytes, SIZE, SectorSize::S512).content() == bytes);
});

fn make_checksums_right(bytes: &mut [u8]) {
    let Some(header) = bytes.get(SECTOR..2 * SECTOR) else {
        return;
    };
    if !header.starts_with(b"EFI PART") {
        return;
    }
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (count, size) = (word(80) as usize, word(84) as usize);
    let start = (word(72) as usize).saturating_mul(SECTOR);
    let end = start.saturating_add(count.saturating_mul(size));
    let length = (word(12) as usize).min(SECTOR);
    if let Some(entries) = bytes.get(start..end) {
        let sum = crc32(entries);
        bytes[SECTOR + 88..SECTOR + 92].copy_from_slice(&sum.to_le_bytes());
    }
    bytes[SECTOR + 16..SECTOR + 20].fill(0);
    let sum = crc32(&bytes[SECTOR..SECTOR + length]);
    bytes[SECTOR + 16..SECTOR + 20].copy_from_slice(&sum.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ 0xedb8_8320 & 0_u32.wrapping_sub(crc & 1);
        }
    }
    !crc
}
