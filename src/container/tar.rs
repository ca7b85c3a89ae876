//! The directory of a tar archive: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax
//! Extended Header", and the GNU extensions of "Basic Tar Format" in the manual of GNU tar: long
//! names, numbers in base 256, sparse members of the old kind and of pax 0.0, 0.1 and 1.0.
//!
//! An archive that two readers would understand differently is refused rather than read.

use std::ops::Range;
use std::sync::Arc;

use super::error::Fault;
use super::{Limits, Member, MemberKind};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::probe::tar_sums;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

/// Headers and contents are whole numbers of these.
pub(super) const BLOCK: usize = 512;
const UNIT: Pow2 = Pow2::SECTOR;

/// More members than this are in no archive of disks.
pub(super) const MAX_MEMBERS: usize = 1 << 16;
/// The longest name that is believed.
const MAX_NAME: u64 = 64 << 10;
/// The longest extended header that is believed, unless a sparse map lies in it.
const MAX_EXTENDED: u64 = 1 << 20;

/// What an entry of a sparse map takes up in memory, here and as a piece of the file, bytes.
const ENTRY: u64 = 48;

/// A directory, as it was read.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) members: Vec<Member>,
    pub(super) findings: Vec<Finding>,
    /// Where it ends.
    pub(super) end: u64,
}

/// What headers before a member said of it.
#[derive(Debug, Default)]
struct Ahead {
    long_name: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: SparseAhead,
    /// Where the first of these headers lies.
    start: Option<u64>,
}

/// What extended headers say of a sparse member.
#[derive(Debug, Default)]
struct SparseAhead {
    name: Option<Vec<u8>>,
    /// `GNU.sparse.size` or `GNU.sparse.realsize`.
    size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    /// The numbers of the map, an offset and a length in turn.
    map: Option<Vec<u64>>,
}

/// Reads all headers. Nothing of the members' content is read, but for the map of sparse ones.
pub(super) fn read(storage: &Arc<dyn Storage>, limits: &Limits) -> Result<Directory> {
    let mut reader = Reader { storage, limits, at: 0, room: limits.max_directory_size };
    let mut directory = Directory::default();
    let mut ahead = Ahead::default();
    let size = storage.size();
    loop {
        let at = reader.at;
        if at == size {
            let text = "the archive ends without the blocks of zeros that mark its end";
            directory.findings.push(Finding::new(Code::Truncated, text).at(at));
            break;
        }
        let block = reader.block("a header of the archive")?;
        if crate::bytes::is_zero(&block) {
            let lone = reader.at < size
                && !crate::bytes::is_zero(&reader.block("the end of the archive")?);
            if lone {
                let text = "a single block of zeros ends the archive, and more follows: \
                            readers will disagree about what is in it";
                directory.findings.push(Finding::new(Code::Ambiguous, text).at(at));
            }
            break;
        }
        let header = Header::parse(&block, at)?;
        let here = |error: Error| error.at(at);
        match header.kind {
            b'x' | b'X' => {
                let records = reader.content(header.size, reader.room, "an extended header")?;
                ahead.start.get_or_insert(at);
                ahead.take(&records).map_err(here)?;
                reader.spend(to_u64(records.len())).map_err(here)?;
            }
            b'g' => {
                let records = reader.content(header.size, MAX_EXTENDED, "a global header")?;
                let mut global = Ahead::default();
                global.take(&records).map_err(here)?;
                if global.says_anything() {
                    return Err(here(Fault::GlobalHeader.into()));
                }
            }
            b'L' => {
                let mut name = reader.content(header.size, MAX_NAME, "a long name")?;
                ahead.start.get_or_insert(at);
                name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
                ahead.long_name = Some(name);
            }
            b'K' => {
                ahead.start.get_or_insert(at);
                reader.content(header.size, MAX_NAME, "a long name of a link")?;
            }
            _ => {
                let member = reader.member(&header, &block, std::mem::take(&mut ahead), at)?;
                directory.members.push(member);
                if directory.members.len() > MAX_MEMBERS {
                    return Err(here(
                        Fault::TooMany { what: "members", limit: MAX_MEMBERS }.into(),
                    ));
                }
            }
        }
    }
    if let Some(start) = ahead.start {
        return Err(Error::new(Fault::Dangling).at(start));
    }
    directory.end = reader.at;
    Ok(directory)
}

struct Reader<'a> {
    storage: &'a Arc<dyn Storage>,
    limits: &'a Limits,
    at: u64,
    /// Memory for names and maps that is left, bytes.
    room: u64,
}

impl Reader<'_> {
    fn block(&mut self, what: &'static str) -> Result<[u8; BLOCK]> {
        let bytes = read_vec(self.storage, what, self.at, BLOCK)?;
        self.at = self.at.saturating_add(to_u64(BLOCK));
        Ok(bytes.first_chunk().copied().unwrap_or([0; BLOCK]))
    }

    /// The content behind a header, which is short.
    fn content(&mut self, size: u64, limit: u64, what: &'static str) -> Result<Vec<u8>> {
        if size > limit {
            return Err(Error::new(Fault::TooLarge { what, size, limit }).at(self.at));
        }
        let bytes = read_vec(self.storage, what, self.at, to_usize(size))?;
        self.at = self.at.saturating_add(UNIT.ceil(size));
        Ok(bytes)
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        let limit = self.limits.max_directory_size;
        let left = self.room.checked_sub(bytes);
        self.room = left.ok_or(Fault::TooLarge {
            what: "the directory of the archive",
            size: limit.saturating_sub(self.room).saturating_add(bytes),
            limit,
        })?;
        Ok(())
    }

    /// The member that `header` describes, and what came before it; passes over its content.
    fn member(
        &mut self,
        header: &Header,
        block: &[u8; BLOCK],
        ahead: Ahead,
        at: u64,
    ) -> Result<Member> {
        let here = |error: Error| error.at(at);
        let mut kind = match header.kind {
            0 | b'0' | b'7' | b'S' => MemberKind::File,
            b'5' | b'D' => MemberKind::Folder,
            b'1' | b'2' => MemberKind::Link,
            b'3' | b'4' | b'6' => MemberKind::Special,
            b'M' => {
                return Err(here(
                    Fault::Unsupported("a member that began in another volume").into(),
                ));
            }
            b'V' => MemberKind::Special,
            other => return Err(here(Fault::UnknownType(other).into())),
        };
        let name = ahead.path.or(ahead.long_name).unwrap_or_else(|| header.name.clone());
        if name.is_empty() || name.contains(&0) {
            return Err(here(Fault::BadName.into()));
        }
        if kind == MemberKind::File && header.kind == 0 && name.ends_with(b"/") {
            kind = MemberKind::Folder;
        }
        let stored = ahead.size.unwrap_or(header.size);
        let has_content = kind == MemberKind::File || header.kind == b'D';
        if !has_content && stored > 0 {
            // some readers pass over so many bytes, others take them for the next header
            return Err(here(Fault::ContentOfNone { kind: kind.noun(), size: stored }.into()));
        }
        self.spend(to_u64(name.len()))?;
        let mut sparse = None;
        let mut name = name;
        if header.kind == b'S' {
            sparse = Some(self.old_sparse(block, at)?);
        } else if ahead.sparse.says_anything() {
            if kind != MemberKind::File {
                return Err(here(Fault::Sparse("is that of no file").into()));
            }
            if let Some(real) = ahead.sparse.name.clone() {
                name = real;
            }
            sparse = Some(self.pax_sparse(&ahead.sparse, stored).map_err(here)?);
        }
        // a map in front of the content takes up some of it
        let map_length = sparse.as_ref().map_or(0, |(_, _, length)| *length);
        let data = self.at.saturating_add(map_length);
        let length = stored.saturating_sub(map_length);
        crate::storage::check_inside(self.storage, "a member of the archive", data, length)
            .map_err(|error| error.at(at))?;
        let next = UNIT.ceil(self.at.saturating_add(stored));
        self.at = next.min(self.storage.size());
        let (size, map) = match sparse {
            None => (length, None),
            Some((size, numbers, _)) => {
                let map = checked_map(&numbers, size, length).map_err(here)?;
                self.spend(to_u64(map.len()).saturating_mul(ENTRY)).map_err(here)?;
                (size, Some(map))
            }
        };
        let header = ahead.start.unwrap_or(at);
        Ok(Member { name, kind, size, header, data, stored: length, map })
    }

    /// The map of a sparse member of the old GNU kind: the size of the file, and an offset and a
    /// length in turn.
    fn old_sparse(&mut self, block: &[u8; BLOCK], at: u64) -> Result<(u64, Vec<u64>, u64)> {
        let mut numbers = Vec::new();
        let here = |error: Error| error.at(at);
        let size = number(field(block, 483..495), "the size of a sparse member").map_err(here)?;
        take_pairs(field(block, 386..482), &mut numbers).map_err(here)?;
        let mut more = block.get(482).is_some_and(|&more| more != 0);
        while more {
            let at = self.at;
            let block = self.block("the map of a sparse member")?;
            self.spend(to_u64(BLOCK)).map_err(|error| error.at(at))?;
            take_pairs(field(&block, 0..504), &mut numbers).map_err(|error| error.at(at))?;
            more = block.get(504).is_some_and(|&more| more != 0);
        }
        Ok((size, numbers, 0))
    }

    /// The same of one that an extended header describes; and how long the map in front of the
    /// content is, if it lies there.
    fn pax_sparse(&mut self, ahead: &SparseAhead, stored: u64) -> Result<(u64, Vec<u64>, u64)> {
        let size = ahead.size.ok_or(Fault::Sparse("has no size"))?;
        let (mut numbers, mut length) = (ahead.map.clone().unwrap_or_default(), 0);
        match (ahead.major, ahead.minor) {
            (None, None) | (Some(0), _) if ahead.map.is_some() => {}
            (Some(1), Some(0) | None) if ahead.map.is_none() => {
                (numbers, length) = self.map_in_front(stored)?;
            }
            _ => return Err(Fault::Unsupported("a sparse member of an unknown kind").into()),
        }
        if numbers.len() % 2 != 0 {
            return Err(Fault::Sparse("has an odd number of entries").into());
        }
        Ok((size, numbers, length))
    }

    /// The map of the kind 1.0: decimal numbers, a line each, filled up to a whole block.
    fn map_in_front(&mut self, stored: u64) -> Result<(Vec<u64>, u64)> {
        let start = self.at;
        let (mut numbers, mut wanted, mut length) = (Vec::new(), None, 0u64);
        let mut digits = Vec::new();
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if length >= stored {
                return Err(Fault::Sparse("is longer than the member").into());
            }
            let block = self.block("the map of a sparse member")?;
            length = length.saturating_add(to_u64(BLOCK));
            self.spend(to_u64(BLOCK))?;
            for &byte in &block {
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(Fault::Sparse("is no list of numbers").into());
                    }
                    continue;
                }
                let number = decimal(&digits)?;
                digits.clear();
                match wanted {
                    None => {
                        let pairs = to_usize(number);
                        // one more than could lie in the member: it ends before that
                        wanted = Some(pairs.min(to_usize(stored)).saturating_mul(2));
                    }
                    Some(_) => numbers.push(number),
                }
                if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                    break;
                }
            }
        }
        self.at = start;
        Ok((numbers, length))
    }
}

/// The runs of a sparse file that are stored, one behind the other: where each lies in the file, and
/// its length. Numbers are an offset and a length in turn.
fn checked_map(numbers: &[u64], size: u64, stored: u64) -> Result<Vec<(u64, u64)>> {
    let (mut behind, mut sum, mut map) = (0u64, 0u64, Vec::new());
    for pair in numbers.as_chunks::<2>().0 {
        let [start, length] = *pair;
        let end = start.checked_add(length).filter(|&end| end <= size);
        let end = end.ok_or(Fault::Sparse("reaches beyond the end of the file"))?;
        if start < behind {
            return Err(Fault::Sparse("has runs that overlap or go back").into());
        }
        behind = end;
        sum = sum.saturating_add(length);
        if length > 0 {
            map.push((start, length));
        }
    }
    if sum != stored {
        return Err(Fault::SparseSum { sum, stored }.into());
    }
    Ok(map)
}

/// Adds the used entries of an old sparse header.
fn take_pairs(entries: &[u8], numbers: &mut Vec<u64>) -> Result<()> {
    for entry in entries.chunks_exact(24) {
        let (start, length) = entry.split_at(12);
        if start.first().is_none_or(|&first| first == 0) {
            break;
        }
        numbers.push(number(start, "an offset of a sparse member")?);
        numbers.push(number(length, "a length of a sparse member")?);
    }
    Ok(())
}

impl Ahead {
    /// Whether a member is another one for it.
    fn says_anything(&self) -> bool {
        self.path.is_some() || self.size.is_some() || self.sparse.says_anything()
    }

    /// Takes up the records of an extended header: `LENGTH KEY=VALUE`, and a line end.
    fn take(&mut self, records: &[u8]) -> Result<()> {
        let mut rest = records;
        // what fills up the last block is not part of it
        while rest.first().is_some_and(|&first| first != 0) {
            let space = rest.iter().position(|&b| b == b' ').ok_or(Fault::Record)?;
            let length = decimal(rest.get(..space).unwrap_or_default())?;
            let (record, behind) = rest.split_at_checked(to_usize(length)).ok_or(Fault::Record)?;
            let record = record.strip_suffix(b"\n").and_then(|record| record.get(space..));
            let record = record.and_then(|record| record.get(1..)).ok_or(Fault::Record)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or(Fault::Record)?;
            let (key, value) = record.split_at(equals);
            self.take_record(key, value.get(1..).unwrap_or_default())?;
            rest = behind;
        }
        Ok(())
    }

    fn take_record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let sparse = &mut self.sparse;
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = Some(decimal(value)?),
            b"GNU.sparse.major" => sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let map = sparse.map.get_or_insert_default();
                // the offset comes first
                if map.len().is_multiple_of(2) != (key == b"GNU.sparse.offset") {
                    return Err(Fault::Sparse("has entries out of order").into());
                }
                map.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|&b| b == b',').filter(|number| !number.is_empty());
                sparse.map = Some(numbers.map(decimal).collect::<Result<_>>()?);
            }
            b"GNU.sparse.numblocks" if decimal(value)? == 0 => {
                sparse.map.get_or_insert_default();
            }
            _ => {}
        }
        Ok(())
    }
}

impl SparseAhead {
    fn says_anything(&self) -> bool {
        self.size.is_some() || self.major.is_some() || self.map.is_some() || self.name.is_some()
    }
}

/// A header, its checksum verified.
#[derive(Debug)]
struct Header {
    name: Vec<u8>,
    size: u64,
    kind: u8,
}

impl Header {
    fn parse(block: &[u8], at: u64) -> Result<Self> {
        let here = |error: Error| error.at(at);
        let stored = number(field(block, 148..156), "a checksum").map_err(here)?;
        let sums = tar_sums(block);
        if block.len() < BLOCK || !sums.contains(&i64::try_from(stored).unwrap_or(-1)) {
            return Err(here(Fault::Checksum.into()));
        }
        let text = |range: Range<usize>| {
            let bytes = field(block, range);
            bytes.split(|&b| b == 0).next().unwrap_or_default().to_vec()
        };
        let kind = block.get(156).copied().unwrap_or_default();
        let mut name = text(0..100);
        // the prefix is POSIX's; GNU has times there
        if field(block, 257..263) == b"ustar\0" {
            let prefix = text(345..500);
            if !prefix.is_empty() {
                name = [&*prefix, b"/", &*name].concat();
            }
        }
        let size = number(field(block, 124..136), "the size of a member").map_err(here)?;
        Ok(Self { name, size, kind })
    }
}

fn field(block: &[u8], range: Range<usize>) -> &[u8] {
    block.get(range).unwrap_or_default()
}

/// A number in octal digits, or in base 256 where the first bit says so.
fn number(bytes: &[u8], what: &'static str) -> Result<u64> {
    let wrong = || Error::new(Fault::Number(what));
    if let Some(first) = bytes.first().filter(|&&first| first & 0x80 != 0) {
        // 0xff starts a negative number
        let rest = bytes.get(1..).unwrap_or_default();
        let shift = |value: Option<u64>, digit: u8| {
            value?.checked_mul(256).and_then(|value| value.checked_add(digit.into()))
        };
        let head = Some(u64::from(first & 0x7f));
        let value = rest.iter().copied().fold(head, shift).filter(|_| *first == 0x80);
        // what no file can hold is no size
        return value.filter(|&value| i64::try_from(value).is_ok()).ok_or_else(wrong);
    }
    let is_padding = |&byte: &u8| byte == b' ' || byte == 0;
    let start = bytes.iter().position(|&byte| byte != b' ').ok_or_else(wrong)?;
    let digits = bytes.get(start..).unwrap_or_default();
    let length = digits.iter().position(is_padding).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(length);
    if digits.is_empty() || !rest.iter().all(is_padding) {
        return Err(wrong());
    }
    digits.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(u64::from(digit.saturating_sub(b'0'))))
            .ok_or_else(wrong),
        _ => Err(wrong()),
    })
}

/// A number in decimal digits.
fn decimal(bytes: &[u8]) -> Result<u64> {
    let text =
        std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let value = text.and_then(|text| text.parse().ok());
    value
        .filter(|&value: &u64| i64::try_from(value).is_ok())
        .ok_or_else(|| Fault::Number("a number of an extended header").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_never_negative() {
        let parse = |bytes: &[u8]| number(bytes, "x").ok();
        assert_eq!(parse(b"00000000017\0"), Some(15));
        assert_eq!(parse(b"     17 \0   "), Some(15));
        assert_eq!(parse(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(parse(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02"), Some(0x102));
        assert_eq!(parse(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX as u64));
        for bad in [
            &b"            "[..],
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
            b"00000000018\0",
            b"17x\0",
            b"1 7\0",
            b"-0000000017\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
            b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
            b"\x81\0\0\0\0\0\0\0\0\0\0\x01",
            b"",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn records_are_taken_apart_by_their_length() {
        let mut ahead = Ahead::default();
        ahead.take(b"12 path=a=b\n10 size=7\n\0\0\0").unwrap();
        assert_eq!((ahead.path.as_deref(), ahead.size), (Some(&b"a=b"[..]), Some(7)));
        for bad in [
            &b"12 path=a=b"[..],
            b"99 path=a\n",
            b"0 \n",
            b"5 ab\n",
            b"x size=1\n",
            b"11 size=-1\n",
        ] {
            assert!(Ahead::default().take(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn maps_ascend_lie_inside_and_add_up() {
        assert_eq!(checked_map(&[0, 2, 5, 3, 9, 0], 9, 5).unwrap(), [(0, 2), (5, 3)]);
        for (numbers, size, stored) in [
            (&[0, 2, 1, 3][..], 9, 5),
            (&[5, 3, 0, 2], 9, 5),
            (&[0, 2, 7, 3], 9, 5),
            (&[0, 2], 9, 5),
            (&[u64::MAX, 2], 9, 2),
        ] {
            assert!(checked_map(numbers, size, stored).is_err(), "{numbers:?}");
        }
    }
}
