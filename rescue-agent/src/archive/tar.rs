//! A tar archive in memory: its members, and the replacement of one member's content.
//!
//! In scope: finding members, whatever dialect names them (v7, ustar, old GNU with long names,
//! pax), and exchanging one content so that every other byte of the archive stays as it was: the
//! order, the other headers, what follows the end-of-archive blocks. Not in scope: creating
//! archives, adding or removing members (ESXi restores a member only where its image has that file
//! already), and unpacking to a file system.
//!
//! The crate `tar` reads; what is written is one size field, its checksum, and content. Format:
//! POSIX.1-2017 "pax", and the GNU tar manual, "Basic Tar Format".

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;

use tar::{Archive, Entries, Entry, EntryType, Header};

use crate::counted::counted;

/// Headers and content come in blocks of this many bytes.
pub(super) const BLOCK_BYTES: usize = 512;
/// Far more than the files in the image of any ESXi version.
pub const MAX_MEMBERS: usize = 100_000;
/// Larger than a boot bank of ESXi 6, and a hundred times the archives seen.
pub const MAX_ARCHIVE_BYTES: usize = 1024 * 1024 * 1024;

/// Where a header's size field stands: 12 bytes, octal text or base-256.
const SIZE_FIELD: Range<usize> = 124..136;
/// Where a header's checksum stands: 8 bytes, octal text.
const CHECKSUM_FIELD: Range<usize> = 148..156;
/// Where ustar, pax and old GNU archives say `ustar`.
const MAGIC_FIELD: Range<usize> = 257..262;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// A regular file: the only kind whose content this module hands out or replaces.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    SymLink,
    /// A hard link to an earlier member.
    HardLink,
    /// A file stored without its holes; its content does not stand in one piece.
    Sparse,
    /// A device, a pipe, or something newer, by its type byte.
    Other(u8),
}

/// One member of an archive: where its parts stand, in bytes from the archive's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The full name, long-name records resolved, otherwise as it stands in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// The member's own header, after any records that precede it.
    pub header_offset: usize,
    /// The content; empty for everything but [`MemberKind::File`].
    pub data: Range<usize>,
    /// The file's size in bytes.
    pub size: u64,
    /// Whether a pax record, not the header alone, says the size.
    pub size_in_pax: bool,
}

impl Member {
    /// The content, or `None` where `archive` is too short to be the one this member is from.
    pub fn content<'a>(&self, archive: &'a [u8]) -> Option<&'a [u8]> {
        archive.get(self.data.clone())
    }

    /// The name for people: escaped where it is not plain text.
    pub fn display_path(&self) -> String {
        self.path.escape_ascii().to_string()
    }
}

/// Why an archive was not read, or not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header that is none, or that contradicts itself.
    #[error("the tar archive is damaged in the member that starts at byte {offset}: {reason}")]
    Header {
        /// Where the member's first header stands, in bytes.
        offset: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Content that reaches behind the end of the archive.
    #[error(
        "the tar archive is cut short: {path}, at byte {offset}, needs {} of content; left: {available}", counted(*.size, "byte", "bytes")
    )]
    Truncated {
        /// The member.
        path: String,
        /// Its header, in bytes.
        offset: usize,
        /// The content's length.
        size: u64,
        /// Bytes between the header and the end of the archive.
        available: usize,
    },
    /// Beyond [`MAX_MEMBERS`].
    #[error("the tar archive has more than {limit} members, more than any real one", limit = MAX_MEMBERS)]
    TooManyMembers,
    /// Beyond [`MAX_ARCHIVE_BYTES`].
    #[error("the tar archive is {size} bytes long, more than the {limit} of any real one", limit = MAX_ARCHIVE_BYTES)]
    TooLarge {
        /// Bytes found or, for a replacement, wanted.
        size: usize,
    },
    /// A global pax header that changes every member's name or size.
    #[error(
        "the tar archive has a global pax header with a {key:?} record at byte {offset}; such archives are not supported"
    )]
    GlobalRecord {
        /// The record.
        key: String,
        /// The global header, in bytes.
        offset: usize,
    },
    /// The wanted name is something else than a file.
    #[error("{path}, at byte {offset} of the tar archive, is not a regular file ({kind:?})")]
    NotAFile {
        /// The member.
        path: String,
        /// What it is.
        kind: MemberKind,
        /// Its header, in bytes.
        offset: usize,
    },
    /// The member is not from this archive.
    #[error(
        "the tar archive has no header of {path} at byte {offset}; it is not the archive that was read, and was not changed"
    )]
    Foreign {
        /// The member.
        path: String,
        /// Where its header should be.
        offset: usize,
    },
    /// The new length cannot be written where the old one stands.
    #[error(
        "the size of {path}, at byte {offset} of the tar archive, cannot be changed to {size}: {reason}"
    )]
    Size {
        /// The member.
        path: String,
        /// Its header, in bytes.
        offset: usize,
        /// The wanted length.
        size: usize,
        /// Why not.
        reason: &'static str,
    },
}

/// Whether the bytes start with a tar header: by the magic of ustar, or by a checksum that holds,
/// which is all that v7 archives have.
pub fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(MAGIC_FIELD) == Some(b"ustar")
        || header_at(bytes, 0).is_some_and(|header| checksum_holds(&header))
}

/// All members, in the order of the archive. Empty for an archive that consists of its end only.
///
/// # Errors
/// [`TarError`] for whatever is not a well-formed archive up to its end marker, with its place.
pub fn members(archive: &[u8]) -> Result<Vec<Member>, TarError> {
    if archive.len() > MAX_ARCHIVE_BYTES {
        return Err(TarError::TooLarge {
            size: archive.len(),
        });
    }
    let mut reader = Archive::new(Cursor::new(archive));
    let entries: Entries<'_, _> = reader
        .entries_with_seek()
        .map_err(|error| header_error(0, &error))?;
    let mut found = Vec::new();
    let mut next = 0;
    for entry in entries {
        let mut entry = entry.map_err(|error| header_error(next, &error))?;
        let is_global = entry.header().entry_type().is_pax_global_extensions();
        let records = PaxRecords::of(&mut entry).map_err(|error| header_error(next, &error))?;
        if is_global {
            records.refuse_global(next)?;
        }
        let member = member(archive, &entry, &records)?;
        next = stored_range(archive, &entry, &member)?
            .end
            .next_multiple_of(BLOCK_BYTES);
        if is_global {
            continue;
        }
        if found.len() == MAX_MEMBERS {
            return Err(TarError::TooManyMembers);
        }
        found.push(member);
    }
    Ok(found)
}

fn header_error(offset: usize, error: &dyn std::fmt::Display) -> TarError {
    TarError::Header {
        offset,
        reason: error.to_string().escape_debug().to_string(),
    }
}

/// An entry of an archive that lies in memory.
type MemoryEntry<'a, 'b> = Entry<'a, Cursor<&'b [u8]>>;

/// What the pax records in front of a member say, as far as it matters here.
#[derive(Default)]
struct PaxRecords {
    path: bool,
    size: bool,
    sparse: bool,
    /// The file's real name: a sparse member itself is called `GNUSparseFile.N/…`.
    sparse_name: Option<Vec<u8>>,
}

impl PaxRecords {
    fn of(entry: &mut MemoryEntry<'_, '_>) -> std::io::Result<Self> {
        let mut found = Self::default();
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            found.path |= record.key_bytes() == b"path";
            found.size |= record.key_bytes() == b"size";
            found.sparse |= record.key_bytes().starts_with(b"GNU.sparse.");
            if record.key_bytes() == b"GNU.sparse.name" {
                found.sparse_name = Some(record.value_bytes().to_vec());
            }
        }
        Ok(found)
    }

    /// A global header may tell its origin (git does), but not rename or resize all members: the
    /// crate does not apply that, ESXi's reader might.
    fn refuse_global(&self, offset: usize) -> Result<(), TarError> {
        let key = match self {
            Self { size: true, .. } => "size",
            Self { path: true, .. } => "path",
            Self { sparse: true, .. } => "GNU.sparse",
            _ => return Ok(()),
        };
        Err(TarError::GlobalRecord {
            key: key.to_owned(),
            offset,
        })
    }
}

fn member(
    archive: &[u8],
    entry: &MemoryEntry<'_, '_>,
    records: &PaxRecords,
) -> Result<Member, TarError> {
    let path = records
        .sparse_name
        .clone()
        .unwrap_or_else(|| path_of(entry));
    let kind = kind_of(entry.header().entry_type(), &path, records);
    let mut member = Member {
        path,
        kind,
        header_offset: offset(entry.raw_header_position())?,
        data: 0..0,
        size: entry.size(),
        size_in_pax: records.size,
    };
    if let Some(reason) = bad_size_field(entry.header()) {
        return Err(header_error(member.header_offset, &reason));
    }
    let stored = stored_range(archive, entry, &member)?;
    member.data = if kind == MemberKind::File {
        stored
    } else {
        stored.start..stored.start
    };
    Ok(member)
}

/// The name up to a NUL byte, which ends it for every reader written in C.
fn path_of(entry: &MemoryEntry<'_, '_>) -> Vec<u8> {
    let path = entry.path_bytes();
    path.split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

fn kind_of(entry_type: EntryType, path: &[u8], records: &PaxRecords) -> MemberKind {
    match entry_type {
        _ if records.sparse => MemberKind::Sparse,
        EntryType::Regular | EntryType::Continuous if !path.ends_with(b"/") => MemberKind::File,
        // Before there was a type for it, a name's last slash made a directory.
        EntryType::Regular | EntryType::Directory => MemberKind::Directory,
        EntryType::Symlink => MemberKind::SymLink,
        EntryType::Link => MemberKind::HardLink,
        EntryType::GNUSparse => MemberKind::Sparse,
        other => MemberKind::Other(other.as_byte()),
    }
}

/// The crate reads the last eight bytes of a base-256 number and drops what stands before them.
fn bad_size_field(header: &Header) -> Option<&'static str> {
    let field = &header.as_old().size;
    match field[0] {
        0x80 if field[1..4].iter().any(|byte| *byte != 0) => Some("its size exceeds 64 bits"),
        0x00..=0x80 => None,
        0xff => Some("its size is negative"),
        _ => Some("its size exceeds 64 bits"),
    }
}

/// The bytes that an entry occupies behind its header.
fn stored_range(
    archive: &[u8],
    entry: &MemoryEntry<'_, '_>,
    member: &Member,
) -> Result<Range<usize>, TarError> {
    let start = offset(entry.raw_file_position())?;
    let stored = match member.kind {
        // Its size counts the holes; the header's counts what is stored.
        MemberKind::Sparse if !member.size_in_pax => entry
            .header()
            .entry_size()
            .map_err(|error| header_error(member.header_offset, &error))?,
        _ => entry.size(),
    };
    usize::try_from(stored)
        .ok()
        .and_then(|stored| start.checked_add(stored))
        .filter(|end| *end <= archive.len())
        .map(|end| start..end)
        .ok_or_else(|| TarError::Truncated {
            path: member.display_path(),
            offset: member.header_offset,
            size: stored,
            available: archive.len().saturating_sub(start),
        })
}

/// A position that the crate gives as a u64.
fn offset(position: u64) -> Result<usize, TarError> {
    usize::try_from(position).map_err(|error| header_error(usize::MAX, &error))
}

/// A file that was looked up by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// The last member of that name: what unpacking leaves.
    pub member: &'a Member,
    /// Members of the same name before it, which unpacking overwrites. Usually none.
    pub overridden: Vec<&'a Member>,
}

/// The file called `path`, such as `etc/vmware/esx.conf`. Names match with and without `./` or
/// `/` in front; `.#esx.conf`, a marker that ESXi keeps beside a file, is another name.
///
/// # Errors
/// [`TarError::NotAFile`] where the last member of that name is a link, a directory or the like,
/// so that nobody takes its lack of content for an empty file.
pub fn find<'a>(members: &'a [Member], path: &str) -> Result<Option<Found<'a>>, TarError> {
    let wanted: Vec<&[u8]> = segments(path.as_bytes()).collect();
    let mut named: Vec<&Member> = members
        .iter()
        .filter(|member| segments(&member.path).eq(wanted.iter().copied()))
        .collect();
    match named.pop() {
        None => Ok(None),
        Some(member) if member.kind == MemberKind::File => Ok(Some(Found {
            member,
            overridden: named,
        })),
        Some(member) => Err(TarError::NotAFile {
            path: member.display_path(),
            kind: member.kind,
            offset: member.header_offset,
        }),
    }
}

/// Longest path of a file below a folder, in bytes: PATH_MAX of Linux. ESXi runs none with a longer one.
const MAX_PATH_BYTES: usize = 4096;

/// The files inside a folder, and in folders in it, each with its path from the root; of several of one
/// path the last, as unpacking would have it.
pub fn files_below<'a>(members: &'a [Member], folder: &str) -> BTreeMap<String, &'a Member> {
    let folder: Vec<&[u8]> = segments(folder.as_bytes()).collect();
    let mut found = BTreeMap::new();
    let short = members
        .iter()
        .filter(|one| one.path.len() <= MAX_PATH_BYTES);
    for member in short {
        let path: Vec<&[u8]> = segments(&member.path).collect();
        if !path.starts_with(&folder) || path.len() == folder.len() {
            continue;
        }
        let path = path.iter().map(|part| part.escape_ascii());
        let path = path.fold(String::new(), |path, part| format!("{path}/{part}"));
        match member.kind {
            MemberKind::File => found.insert(path, member),
            _ => found.remove(&path),
        };
    }
    found
}

/// The parts of a path that mean something.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

/// Overwrites the content of `member` by `new`, of the same length. Nothing else changes.
///
/// # Errors
/// [`TarError`]; `archive` is as it was then.
pub fn replace_in_place(archive: &mut [u8], member: &Member, new: &[u8]) -> Result<(), TarError> {
    own_header(archive, member)?;
    if new.len() != member.data.len() {
        return Err(size_error(
            member,
            new.len(),
            "it has to keep its length here",
        ));
    }
    archive[member.data.clone()].copy_from_slice(new);
    Ok(())
}

/// The archive with `new` as the content of `member`.
///
/// With the same length only those bytes change. With another one, the size in the member's
/// header (in the same notation), its checksum and the padding to the next block change as well.
///
/// # Errors
/// [`TarError`] where `member` is not from `archive`, is not a file, or has its size in a pax
/// record and is to change its length.
pub fn replace(archive: &[u8], member: &Member, new: &[u8]) -> Result<Vec<u8>, TarError> {
    let mut header = own_header(archive, member)?;
    if new.len() != member.data.len() {
        resize(&mut header, member, new.len())?;
    }
    let old_end = member
        .data
        .end
        .next_multiple_of(BLOCK_BYTES)
        .min(archive.len());
    let behind = &archive[old_end..];
    let padding = match new.len() == member.data.len() {
        true => &archive[member.data.end..old_end],
        false => &[0; BLOCK_BYTES][..new.len().next_multiple_of(BLOCK_BYTES) - new.len()],
    };
    let between = &archive[member.header_offset + BLOCK_BYTES..member.data.start];
    let parts = [
        &archive[..member.header_offset],
        header.as_bytes(),
        between,
        new,
        padding,
        behind,
    ];
    let size = parts.iter().map(|part| part.len()).sum();
    if size > MAX_ARCHIVE_BYTES {
        return Err(TarError::TooLarge { size });
    }
    Ok(parts.concat())
}

/// The member's header, once it is certain that the member is a file of this archive.
fn own_header(archive: &[u8], member: &Member) -> Result<Header, TarError> {
    if member.kind != MemberKind::File {
        return Err(TarError::NotAFile {
            path: member.display_path(),
            kind: member.kind,
            offset: member.header_offset,
        });
    }
    header_at(archive, member.header_offset)
        .filter(checksum_holds)
        .filter(|header| {
            member.size_in_pax || header.entry_size().is_ok_and(|size| size == member.size)
        })
        .filter(|_| member.header_offset.checked_add(BLOCK_BYTES) == Some(member.data.start))
        .filter(|_| u64::try_from(member.data.len()) == Ok(member.size))
        .filter(|_| member.content(archive).is_some())
        .ok_or_else(|| TarError::Foreign {
            path: member.display_path(),
            offset: member.header_offset,
        })
}

fn header_at(archive: &[u8], offset: usize) -> Option<Header> {
    let block = archive.get(offset..offset.checked_add(BLOCK_BYTES)?)?;
    Some(Header::from_byte_slice(block).clone())
}

/// The sum of all header bytes, those of the checksum counted as spaces.
fn checksum(header: &Header) -> u32 {
    let bytes = header.as_bytes();
    let outside = bytes[..CHECKSUM_FIELD.start]
        .iter()
        .chain(&bytes[CHECKSUM_FIELD.end..]);
    outside.map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ')
}

fn checksum_holds(header: &Header) -> bool {
    header
        .cksum()
        .is_ok_and(|written| written == checksum(header))
}

fn size_error(member: &Member, size: usize, reason: &'static str) -> TarError {
    let (path, offset) = (member.display_path(), member.header_offset);
    TarError::Size {
        path,
        offset,
        size,
        reason,
    }
}

/// Writes another size into a header, and the checksum that follows from it.
fn resize(header: &mut Header, member: &Member, size: usize) -> Result<(), TarError> {
    if member.size_in_pax {
        return Err(size_error(member, size, "a pax record says its size"));
    }
    let value = u64::try_from(size).unwrap_or(u64::MAX);
    let fits = set_number(&mut header.as_mut_bytes()[SIZE_FIELD], value);
    let sum = u64::from(checksum(header));
    let fits = fits && set_number(&mut header.as_mut_bytes()[CHECKSUM_FIELD], sum);
    if fits && checksum_holds(header) && header.entry_size().is_ok_and(|size| size == value) {
        return Ok(());
    }
    Err(size_error(
        member,
        size,
        "its header has no room for the number",
    ))
}

/// Writes a number in the notation that the field has: base-256, or octal with the same padding
/// and end. A number that is too long for that gets the usual notation: digits from the field's
/// start, then a NUL. Returns whether it fits at all.
fn set_number(field: &mut [u8], value: u64) -> bool {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at_mut(field.len() - 8);
        high.fill(0);
        low.copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
        return true;
    }
    let padding = field.iter().take_while(|byte| **byte == b' ').count();
    let digits = field[padding..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let fill = if padding > 0 { ' ' } else { '0' };
    let text = format!("{value:o}");
    let width = padding + digits;
    if text.len() <= width {
        let zeros = std::iter::repeat_n(fill, width - text.len());
        for (slot, digit) in field.iter_mut().zip(zeros.chain(text.chars())) {
            *slot = digit as u8;
        }
        return true;
    }
    let Some((end, digits)) = field.split_last_mut() else {
        return false;
    };
    if text.len() > digits.len() {
        return false;
    }
    digits.fill(b'0');
    let start = digits.len() - text.len();
    digits[start..].copy_from_slice(text.as_bytes());
    *end = 0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Octal with leading zeros and a NUL, as every current tar writes it.
    fn octal(value: usize, width: usize) -> Vec<u8> {
        format!("{value:0width$o}\0").into_bytes()
    }

    /// A member in the old GNU dialect, or without any magic.
    fn raw(name: &[u8], entry_type: u8, size_field: &[u8], data: &[u8], magic: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0001644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[SIZE_FIELD][..size_field.len()].copy_from_slice(size_field);
        block[136..148].copy_from_slice(b"14412345670\0");
        block[156] = entry_type;
        block[257..257 + magic.len()].copy_from_slice(magic);
        seal(&mut block);
        block.extend_from_slice(data);
        block.resize(block.len().next_multiple_of(BLOCK_BYTES), 0);
        block
    }

    /// Writes the checksum the way GNU tar does: six digits, NUL, space.
    fn seal(block: &mut [u8]) {
        block[CHECKSUM_FIELD].fill(b' ');
        let sum: usize = block[..BLOCK_BYTES]
            .iter()
            .map(|byte| usize::from(*byte))
            .sum();
        block[148..155].copy_from_slice(&octal(sum, 6));
    }

    const GNU: &[u8] = b"ustar  \0root\0";

    fn file(name: &str, data: &[u8]) -> Vec<u8> {
        raw(name.as_bytes(), b'0', &octal(data.len(), 11), data, GNU)
    }

    fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
        [parts.concat(), vec![0; 2 * BLOCK_BYTES]].concat()
    }

    fn names(members: &[Member]) -> Vec<String> {
        members.iter().map(Member::display_path).collect()
    }

    fn sample() -> Vec<u8> {
        archive(&[
            file("etc/passwd", b"root"),
            file("./etc/vmware/esx.conf", &[b'x'; 700]),
            file("etc/vmware/.#esx.conf", b""),
            file("etc/hosts", &[b'h'; 512]),
        ])
    }

    #[test]
    fn members_are_found_with_their_places() {
        let bytes = sample();
        let members = members(&bytes).unwrap();
        assert_eq!(
            names(&members),
            [
                "etc/passwd",
                "./etc/vmware/esx.conf",
                "etc/vmware/.#esx.conf",
                "etc/hosts"
            ]
        );
        let conf = find(&members, "etc/vmware/esx.conf").unwrap().unwrap();
        assert_eq!(conf.member.header_offset, 1024);
        assert_eq!(conf.member.content(&bytes), Some(&[b'x'; 700][..]));
        assert!(conf.overridden.is_empty());
        assert_eq!(find(&members, "etc/vmware").unwrap(), None);
        assert_eq!(
            find(&members, "/etc//./hosts")
                .unwrap()
                .unwrap()
                .member
                .size,
            512
        );
    }

    #[test]
    fn of_one_name_the_last_member_counts() {
        let bytes = archive(&[file("a", b"1"), file("./a", b"2"), file("/a", b"3")]);
        let members = members(&bytes).unwrap();
        let found = find(&members, "a").unwrap().unwrap();
        assert_eq!(found.member.content(&bytes), Some(&b"3"[..]));
        assert_eq!(found.overridden.len(), 2);
    }

    #[test]
    fn what_is_no_file_is_not_taken_for_an_empty_one() {
        let link = raw(b"a", b'2', &octal(0, 11), b"", GNU);
        let directory = raw(b"a/", 0, &octal(0, 11), b"", b"");
        for (part, kind) in [
            (link, MemberKind::SymLink),
            (directory, MemberKind::Directory),
        ] {
            let bytes = archive(&[file("a", b"1"), part]);
            let members = members(&bytes).unwrap();
            assert_eq!(members[1].kind, kind);
            assert!(matches!(
                find(&members, "a"),
                Err(TarError::NotAFile { .. })
            ));
            assert!(matches!(
                replace(&bytes, &members[1], b""),
                Err(TarError::NotAFile { .. })
            ));
        }
    }

    #[test]
    fn the_same_length_changes_content_only() {
        let bytes = sample();
        let members = members(&bytes).unwrap();
        let new = vec![b'y'; 700];
        let mut wanted = bytes.clone();
        wanted[members[1].data.clone()].fill(b'y');
        assert_eq!(replace(&bytes, &members[1], &new), Ok(wanted.clone()));
        let mut in_place = bytes;
        replace_in_place(&mut in_place, &members[1], &new).unwrap();
        assert_eq!(in_place, wanted);
        assert!(matches!(
            replace_in_place(&mut in_place, &members[1], b"y"),
            Err(TarError::Size { .. })
        ));
        assert_eq!(in_place, wanted);
    }

    #[test]
    fn another_length_changes_size_checksum_and_padding() {
        let bytes = sample();
        let before = members(&bytes).unwrap();
        for length in [0, 1, 511, 512, 513, 699, 701, 1024, 1025, 100_000] {
            let new = vec![b'n'; length];
            let wanted = archive(&[
                file("etc/passwd", b"root"),
                file("./etc/vmware/esx.conf", &new),
                file("etc/vmware/.#esx.conf", b""),
                file("etc/hosts", &[b'h'; 512]),
            ]);
            assert_eq!(replace(&bytes, &before[1], &new), Ok(wanted), "{length}");
        }
    }

    #[test]
    fn numbers_keep_their_notation() {
        let cases: [(&[u8], &[u8]); 6] = [
            (b"00000000004\0", b"00000001750\0"),
            (b"0000000004 \0", b"0000001750 \0"),
            (b"          4 ", b"       1750 "),
            (b"000000000004", b"000000001750"),
            // No room for another digit: the usual notation.
            (b"4\0", b"00000001750\0"),
            (
                b"\x80\0\0\0\0\0\0\0\0\0\0\x04",
                b"\x80\0\0\0\0\0\0\0\0\0\x03\xe8",
            ),
        ];
        for (old, new) in cases {
            let bytes = archive(&[raw(b"a", b'0', old, b"1234", GNU), file("b", b"2")]);
            let found = members(&bytes).unwrap();
            assert_eq!(found[0].size, 4);
            let changed = replace(&bytes, &found[0], &[b'z'; 1000]).unwrap();
            assert_eq!(changed[SIZE_FIELD], *new, "{}", old.escape_ascii());
            let found = members(&changed).unwrap();
            assert_eq!(found[0].content(&changed), Some(&[b'z'; 1000][..]));
            assert_eq!(found[1].content(&changed), Some(&b"2"[..]));
        }
    }

    #[test]
    fn how_the_archive_ends_is_kept() {
        let parts = [file("a", &[b'a'; 10]), file("b", &[b'b'; 600])].concat();
        let endings: [Vec<u8>; 5] = [
            vec![],
            vec![0; 512],
            vec![0; 1024],
            vec![0; 10240],
            [vec![0; 1024], b"anything".to_vec()].concat(),
        ];
        for ending in endings {
            let bytes = [parts.clone(), ending.clone()].concat();
            let found = members(&bytes).unwrap();
            let changed = replace(&bytes, &found[0], &[b'c'; 513]).unwrap();
            assert!(changed.ends_with(&[&parts[1024..], &ending].concat()));
        }
        // The last content without its padding.
        let unpadded = &parts[..parts.len() - 424];
        let found = members(unpadded).unwrap();
        assert_eq!(found[1].content(unpadded), Some(&[b'b'; 600][..]));
        assert_eq!(
            replace(unpadded, &found[1], &[b'b'; 600]).unwrap(),
            unpadded
        );
    }

    #[test]
    fn long_names_of_gnu_and_pax_are_resolved() {
        let name = "d/".repeat(80) + "file";
        let record = |key: &str, value: &str| {
            let body = key.len() + value.len() + 3;
            let length = (body..).find(|n| n.to_string().len() + body == *n).unwrap();
            format!("{length} {key}={value}\n")
        };
        let pax = record("path", &name) + &record("mtime", "1.5");
        for front in [
            raw(
                b"././@LongLink",
                b'L',
                &octal(name.len() + 1, 11),
                (name.clone() + "\0").as_bytes(),
                GNU,
            ),
            raw(
                b"PaxHeaders/x",
                b'x',
                &octal(pax.len(), 11),
                pax.as_bytes(),
                b"ustar\x0000",
            ),
        ] {
            let bytes = archive(&[front.clone(), file("short", b"1"), file("b", b"2")]);
            let found = members(&bytes).unwrap();
            assert_eq!(names(&found), [name.as_str(), "b"]);
            assert_eq!(found[0].header_offset, front.len());
            let changed = replace(&bytes, &found[0], &[b'x'; 600]).unwrap();
            let wanted = archive(&[front, file("short", &[b'x'; 600]), file("b", b"2")]);
            assert_eq!(changed, wanted);
        }
        let sized = record("size", "4");
        let front = raw(
            b"x",
            b'x',
            &octal(sized.len(), 11),
            sized.as_bytes(),
            b"ustar\x0000",
        );
        let bytes = archive(&[front, file("a", b"1234")]);
        let found = members(&bytes).unwrap();
        assert!(found[0].size_in_pax);
        assert!(replace(&bytes, &found[0], b"4321").is_ok());
        assert!(matches!(
            replace(&bytes, &found[0], b"4"),
            Err(TarError::Size { .. })
        ));
        let front = raw(
            b"g",
            b'g',
            &octal(sized.len(), 11),
            sized.as_bytes(),
            b"ustar\x0000",
        );
        assert!(matches!(
            members(&archive(&[front, file("a", b"1234")])),
            Err(TarError::GlobalRecord { offset: 0, .. })
        ));
        let sparse = record("GNU.sparse.major", "1") + &record("GNU.sparse.name", "a");
        let front = raw(
            b"x",
            b'x',
            &octal(sparse.len(), 11),
            sparse.as_bytes(),
            b"ustar\x0000",
        );
        let found = members(&archive(&[front, file("GNUSparseFile.1/a", b"1234")])).unwrap();
        assert!(matches!(find(&found, "a"), Err(TarError::NotAFile { .. })));
        let comment = record("comment", "0123");
        let front = raw(
            b"g",
            b'g',
            &octal(comment.len(), 11),
            comment.as_bytes(),
            b"ustar\x0000",
        );
        assert_eq!(
            names(&members(&archive(&[front, file("a", b"")])).unwrap()),
            ["a"]
        );
    }

    #[test]
    fn damage_is_refused_with_its_place() {
        let good = sample();
        let with = |at: usize, value: &[u8], sealed: bool| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            if sealed {
                let block = at / BLOCK_BYTES * BLOCK_BYTES;
                seal(&mut bytes[block..]);
            }
            members(&bytes).unwrap_err()
        };
        let header = |error: &TarError, at: usize| matches!(error, TarError::Header { offset, .. } if *offset == at);
        // A flipped name byte, and bytes that are no number.
        assert!(header(&with(1024, b"X", false), 1024));
        assert!(header(&with(1024 + 124, b"zz", true), 1024));
        // Sizes: negative, beyond 64 bits, near the end of the numbers, behind the end.
        assert!(header(&with(1024 + 124, &[0xff; 12], true), 1024));
        assert!(header(&with(1024 + 124, &[0x80, 1], true), 1024));
        assert!(header(&with(1024 + 124, &[0xc0, 0], true), 1024));
        let huge = [
            0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert!(header(&with(1024 + 124, &huge, true), 1024));
        let large = with(1024 + 124, b"77777777777\0", true);
        assert!(matches!(
            large,
            TarError::Truncated {
                offset: 1024,
                size: 0o77777777777,
                ..
            }
        ));
    }

    #[test]
    fn every_cut_inside_a_member_is_noticed() {
        let bytes = sample();
        for length in 0..4096 + 512 {
            // A cut between members, or in the padding of one, loses members but breaks none.
            let whole = [0, 2560 + 512, 4096].contains(&length)
                || (512 + 4..=1024).contains(&length)
                || (1536 + 700..=2560).contains(&length);
            let result = members(&bytes[..length]);
            assert_eq!(result.is_ok(), whole, "{length}: {result:?}");
        }
    }

    #[test]
    fn members_of_another_archive_are_refused() {
        let (bytes, other) = (sample(), archive(&[file("x", &[b'x'; 3000])]));
        for member in members(&bytes).unwrap().iter().skip(1) {
            assert!(matches!(
                replace(&other, member, b"1"),
                Err(TarError::Foreign { .. })
            ));
            let mut copy = other.clone();
            let new = vec![0; member.data.len()];
            assert!(replace_in_place(&mut copy, member, &new).is_err());
            assert_eq!(copy, other);
        }
    }

    #[test]
    fn archives_are_recognised() {
        assert!(is_tar(&sample()));
        assert!(is_tar(&raw(b"v7", 0, &octal(0, 11), b"", b"")));
        let gzip = [&[0x1f, 0x8b, 8][..], &[0; 2000]].concat();
        for foreign in [&b""[..], b"short", &[0; 1024], &gzip] {
            assert!(!is_tar(foreign));
        }
        assert_eq!(members(&[0; 1024]), Ok(vec![]));
        assert_eq!(members(b""), Ok(vec![]));
        assert!(members(&gzip).is_err());
    }

    #[test]
    fn archives_written_by_the_crate_are_read() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "var/lib/".repeat(20) + "x";
        for (name, data) in [("etc/a", &b"one"[..]), (&long, b"two")] {
            let mut header = Header::new_gnu();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, name, data).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let found = members(&bytes).unwrap();
        assert_eq!(names(&found), ["etc/a", &long]);
        assert_eq!(found[1].content(&bytes), Some(&b"two"[..]));
    }

    proptest! {
        #[test]
        fn replacing_and_putting_back_gives_the_same_archive(
            sizes in proptest::collection::vec(0_usize..1500, 1..6),
            which: prop::sample::Index,
            new in proptest::collection::vec(any::<u8>(), 0..2000),
            ending in prop_oneof![Just(0_usize), 512_usize..3000],
        ) {
            let parts: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(n, size)| file(&format!("file{n}"), &vec![b'a'; *size]))
                .collect();
            let bytes = [parts.concat(), vec![0; ending]].concat();
            let before = members(&bytes).unwrap();
            let n = which.index(before.len());
            let changed = replace(&bytes, &before[n], &new).unwrap();
            let after = members(&changed).unwrap();
            for (at, (old, now)) in before.iter().zip(&after).enumerate() {
                let wanted = if at == n { Some(&new[..]) } else { old.content(&bytes) };
                prop_assert_eq!(now.content(&changed), wanted);
            }
            let old = before[n].content(&bytes).unwrap();
            prop_assert_eq!(replace(&changed, &after[n], old).unwrap(), bytes);
        }

        #[test]
        fn any_bytes_are_survived(
            at in 0_usize..4096,
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut archive = sample();
            archive[at..at + bytes.len()].copy_from_slice(&bytes);
            let block = at / BLOCK_BYTES * BLOCK_BYTES;
            for sealed in [false, true] {
                if sealed {
                    seal(&mut archive[block..]);
                }
                let _ = is_tar(&archive);
                for member in members(&archive).unwrap_or_default() {
                    let _ = replace(&archive, &member, b"new");
                }
            }
        }
    }
}
