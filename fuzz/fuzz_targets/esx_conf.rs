//! esx.conf: an edit changes the owners it is told to, and nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rescue_agent::config::esx_conf::{self, Owner};

fuzz_target!(|bytes: &[u8]| {
    let Ok(before) = esx_conf::parse(bytes) else {
        return;
    };
    let ranges: Vec<_> = before
        .devices()
        .iter()
        .flat_map(|device| device.passthru_ranges())
        .collect();
    let mut edited = bytes.to_vec();
    esx_conf::give_back(&mut edited, &ranges).expect("the ranges come from this text");
    let after = esx_conf::parse(&edited).expect("an edit keeps the grammar");
    assert_eq!(after.statements(), before.statements());
    assert_eq!(after.devices().len(), before.devices().len());
    let owners = after.devices().iter().flat_map(|device| &device.owners);
    assert!(
        owners
            .into_iter()
            .all(|owner| owner.value != Owner::Passthru)
    );
    let changed = edited.iter().zip(bytes).enumerate();
    for (at, _) in changed.filter(|(_, (new, old))| new != old) {
        assert!(ranges.iter().any(|range| range.contains(&at)));
    }
});
