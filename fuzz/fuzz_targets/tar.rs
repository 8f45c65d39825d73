//! The tar layer: a member replaced by other content reads back, and the others stay.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rescue_agent::archive::tar;

fuzz_target!(|bytes: &[u8]| {
    let _ = tar::is_tar(bytes);
    let Ok(members) = tar::members(bytes) else {
        return;
    };
    let _ = tar::find(&members, "etc/vmware/esx.conf");
    for (index, member) in members.iter().enumerate().take(4) {
        let _ = member.display_path();
        let content = member.content(bytes).expect("inside the archive");
        for new in [content.to_vec(), [content, b"more"].concat(), Vec::new()] {
            let Ok(replaced) = tar::replace(bytes, member, &new) else {
                continue;
            };
            let after = tar::members(&replaced).expect("a replaced member keeps the archive");
            assert_eq!(after.len(), members.len());
            for (other, (old, now)) in members.iter().zip(&after).enumerate() {
                assert_eq!(old.path, now.path);
                let now = now.content(&replaced);
                match other == index {
                    true => assert_eq!(now, Some(&new[..])),
                    false => assert_eq!(now, old.content(bytes)),
                }
            }
        }
    }
});
