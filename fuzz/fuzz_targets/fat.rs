//! A FAT volume: reading never panics, a refusal never writes, an exchange reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rescue_agent::disk::{ByteOffset, SectorSize};
use rescue_agent::fat::exchange::{
    self, Earlier, ExchangeError, Replaced, Replacement, Restoration,
};
use rescue_agent::fat::{FatTime, Region, ShortName, Volume};
use rescue_fuzz::Disk;

/// As long as the seeds are.
const SIZE: u64 = 64 << 10;
const NEW: &[u8] = &[0x6e; 1500];

fuzz_target!(|bytes: &[u8]| {
    let disk = Disk::new(bytes, SIZE, SectorSize::S512);
    let region = Region {
        start: ByteOffset(0),
        length: SIZE,
    };
    let Some(old) = read_everything(&disk, region) else {
        return;
    };
    let at = FatTime::from_unix(1_767_225_600);
    let settled = exchange::settle(&disk, region).map(|_| ());
    if refused_untouched(&disk, &settled, bytes) {
        return;
    }
    let before = disk.content();
    let replacement = Replacement {
        archive: ShortName::STATE,
        old: Some(&old),
        new: NEW,
        replaced: Replaced::Kept(Earlier::SetAside),
        build: "6.7.0-8169922",
    };
    let replaced = exchange::replace(&disk, region, &replacement, at);
    let undo = replaced.as_ref().ok().and_then(|done| done.made_undo);
    if refused_untouched(&disk, &replaced.map(|_| ()), &before) {
        return;
    }
    assert_eq!(read_everything(&disk, region).as_deref(), Some(NEW));
    let Some(copy) = undo else {
        assert!(old.is_empty(), "the original is kept");
        return;
    };
    let restoration = Restoration {
        archive: ShortName::STATE,
        in_place: NEW,
        copy,
        original: &old,
    };
    exchange::restore(&disk, region, &restoration).expect("the undo copy is there");
});

/// Reads all there is; returns `STATE.TGZ`.
fn read_everything(disk: &Disk, region: Region) -> Option<Vec<u8>> {
    let volume = Volume::open(disk, region).ok()?;
    let _ = (
        volume.survey(),
        exchange::assess(&volume, &[ShortName::STATE]),
    );
    for entry in volume.root_entries() {
        let _ = (format!("{entry:?}"), volume.read(&entry));
    }
    let entry = volume.find(ShortName::STATE)?;
    volume.read(&entry).ok()
}

/// Whether it was refused; then nothing may have changed. A disk without fault makes no failure.
fn refused_untouched(disk: &Disk, result: &Result<(), ExchangeError>, before: &[u8]) -> bool {
    match result {
        Ok(()) => false,
        Err(ExchangeError::Refused(_)) => {
            let before = Disk::new(before, SIZE, SectorSize::S512).content();
            assert_eq!(disk.content(), before);
            true
        }
        Err(failed) => panic!("failed on a disk without fault: {failed}"),
    }
}
