//! Parts of a small image, for the tests of this crate and for those beside it.

use rescue_image::{Base, Loaders, Parts, Personal, Tools, initramfs};

/// Parts whose initramfs can be unpacked, so that a finished image of them can be opened.
pub fn parts() -> Parts {
    let personal = Personal {
        release: "esxi-rescue test".to_owned(),
        arguments: Vec::new(),
    };
    Parts {
        tools: Tools::installed(),
        identity: "12345678abcdef00".to_owned(),
        release: "esxi-rescue 0 kernel test".to_owned(),
        vmlinuz: vec![9; 50_000],
        initrd: [base_part(), agent_part()].concat(),
        initrd_net: vec![7; 70_000],
        loaders: Loaders {
            shim: vec![1; 30_000],
            mok_manager: vec![2; 20_000],
            grub: vec![3; 40_000],
            grub_net: vec![4; 40_000],
        },
        settings_block: personal.to_block().unwrap(),
        arguments: Vec::new(),
        reports: false,
        driver_counts: (3, 2),
        epoch: 1_700_000_000,
    }
}

/// The part with PID 1.
pub fn agent_part() -> Vec<u8> {
    initramfs::agent_part(&[0x7f; 1000], 1).unwrap()
}

/// The part with the tables.
pub fn base_part() -> Vec<u8> {
    let base = Base {
        driver_table: b"{}",
        dictionary: b"",
        names: b"10de  NVIDIA\n",
        release: "esxi-rescue test\n",
        identity: "12345678abcdef00\n",
        settings: None,
        shell: None,
    };
    initramfs::base_part(&base, 1).unwrap()
}
