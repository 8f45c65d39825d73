//! What the medium says to GRUB about a host: an environment block of GRUB's, one for each host.
//!
//! GRUB's menu loads it (`load_env`), starts the local disk if `handover=1` stands in it, and first
//! takes that back (`save_env`), so that each finished run is followed by one start of the disk.
//! `save_env` writes in place, which is why the block has a fixed size.
//!
//! Source: GRUB, *The GRUB environment block* in its manual, and `grub-core/lib/envblk.c`.

/// Size of an environment block, which GRUB does not change.
pub const BLOCK_BYTES: usize = 1024;
/// How each begins.
const SIGNATURE: &str = "# GRUB Environment Block\n";

/// Where the block of the host with this system UUID is. `None` unless it is a UUID: it becomes the
/// name of a file.
pub fn path(uuid: &str) -> Option<String> {
    let uuid = uuid.trim().to_ascii_lowercase();
    let plain = uuid
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (uuid.len() == 36 && plain).then(|| format!("hosts/{uuid}.env"))
}

/// The block.
pub fn block(on: bool) -> Vec<u8> {
    let mut block = format!("{SIGNATURE}handover={}\n", u8::from(on)).into_bytes();
    block.resize(BLOCK_BYTES, b'#');
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_become_names() {
        let uuid = "4C4C4544-0037-5810-8032-B7C04F503033";
        assert_eq!(
            path(uuid).as_deref(),
            Some("hosts/4c4c4544-0037-5810-8032-b7c04f503033.env")
        );
        for no in [
            "",
            "..",
            "../../boot/grub/rescue",
            &uuid[1..],
            &format!("{uuid}0"),
            "4c4c4544/0037-5810-8032-b7c04f503033",
        ] {
            assert_eq!(path(no), None, "{no}");
        }
    }

    #[test]
    fn the_block_has_grubs_size_and_signature() {
        let block = block(true);
        assert_eq!(block.len(), 1024);
        assert!(block.starts_with(b"# GRUB Environment Block\nhandover=1\n####"));
    }
}
