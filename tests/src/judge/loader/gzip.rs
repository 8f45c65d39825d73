//! Modules as the loader unpacks them (`bootlib/gzip.c`, `mboot/load.c`): what does not begin as
//! gzip is taken as it is; what does must be one member whose last eight bytes are its checksum and
//! its length.

use anyhow::{Result, bail, ensure};
use flate2::{Decompress, FlushDecompress, Status};

/// The most bytes of a module that are unpacked here.
const MOST_BYTES: usize = 512 << 20;

/// Length of the checksum and the length at the end.
const TRAILER: usize = 8;

/// The content of a module.
pub(super) fn extract(module: Vec<u8>) -> Result<Vec<u8>> {
    if !module.starts_with(&[0x1f, 0x8b]) {
        return Ok(module);
    }
    let start = header_bytes(&module)?;
    ensure!(module.len() > start + TRAILER, "too short for gzip");
    let number = |at: usize| {
        let bytes = module[module.len() - at..].iter().take(4).rev();
        bytes.fold(0_u32, |value, byte| value << 8 | u32::from(*byte))
    };
    let (checksum, length) = (number(8), number(4) as usize);
    let packed = &module[start..module.len() - TRAILER];
    if length == 0 {
        ensure!(packed.len() <= 256, "it says that it is empty");
        return Ok(Vec::new());
    }
    ensure!(length <= MOST_BYTES, "no memory for {length} bytes");
    let mut content = vec![0; length];
    let mut inflate = Decompress::new(false);
    let status = inflate.decompress(packed, &mut content, FlushDecompress::Finish)?;
    ensure!(status == Status::StreamEnd, "gzip data error");
    content.truncate(usize::try_from(inflate.total_out())?);
    let mut crc = flate2::Crc::new();
    crc.update(&content);
    ensure!(crc.sum() == checksum, "gzip checksum error");
    Ok(content)
}

fn header_bytes(module: &[u8]) -> Result<usize> {
    ensure!(module.len() >= 10, "gzip header cut off");
    let flags = module[3];
    ensure!(flags & 0xe0 == 0, "reserved gzip flags");
    ensure!(module[2] == 8, "not deflated");
    let mut length = 10;
    if flags & 0x04 != 0 {
        ensure!(module.len() >= 13, "gzip header cut off");
        length += 2 + usize::from(module[10]) + (usize::from(module[11]) << 8);
    }
    for text in [0x08, 0x10] {
        if flags & text != 0 {
            let Some(end) = module.iter().skip(length).position(|byte| *byte == 0) else {
                bail!("gzip header cut off");
            };
            length += end + 1;
        }
    }
    length += if flags & 0x02 != 0 { 2 } else { 0 };
    ensure!(length <= module.len(), "gzip header cut off");
    Ok(length)
}
