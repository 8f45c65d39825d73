//! boot.cfg: never a panic, and the same answer twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rescue_agent::bank::boot_cfg::BootCfg;

fuzz_target!(|bytes: &[u8]| {
    let first = BootCfg::parse(bytes);
    assert_eq!(format!("{first:?}"), format!("{:?}", BootCfg::parse(bytes)));
    if let Ok(config) = first {
        let _ = (config.has_build(), config.modules());
    }
});
