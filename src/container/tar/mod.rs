//! The directory of a tar archive: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax
//! Extended Header", and the GNU extensions of "Basic Tar Format" in the manual of GNU tar: long
//! names, numbers in base 256, sparse members of the old kind and of pax 0.0, 0.1 and 1.0.
//!
//! An archive that two readers would understand differently is refused rather than read.

use super::error::Fault;
use super::{Limits, Member, MemberKind};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

mod header;

use header::{Header, decimal, field, number};

/// Headers and contents are whole numbers of these.
pub(super) const BLOCK: usize = 512;
const UNIT: Pow2 = Pow2::SECTOR;

/// More members than this are in no archive of disks.
pub(super) const MAX_MEMBERS: usize = 1 << 16;
/// The longest name that is believed.
const MAX_NAME: u64 = 64 << 10;
/// The longest extended header that is believed, unless a sparse map lies in it.
const MAX_EXTENDED: u64 = 1 << 20;

/// What content is called in messages.
pub(crate) const MEMBER: &str = "a member of the archive";

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

/// Where an archive comes from: a file, or what passes by once. Nothing is asked for that lies
/// before what was asked for.
pub(crate) trait Source {
    /// So many bytes at `at`.
    fn bytes(&mut self, what: &'static str, at: u64, length: usize) -> Result<Vec<u8>>;

    /// Where it ends, unless that is behind `at`.
    fn end_at(&mut self, at: u64) -> Result<Option<u64>>;

    /// Refuses a range that it does not hold, where that can be known before the range is read.
    fn check_inside(&mut self, what: &'static str, at: u64, length: u64) -> Result<()>;
}

impl Source for &dyn Storage {
    fn bytes(&mut self, what: &'static str, at: u64, length: usize) -> Result<Vec<u8>> {
        read_vec(*self, what, at, length)
    }

    fn end_at(&mut self, at: u64) -> Result<Option<u64>> {
        let size = self.size();
        Ok((at >= size).then_some(size))
    }

    fn check_inside(&mut self, what: &'static str, at: u64, length: u64) -> Result<()> {
        crate::storage::check_inside(*self, what, at, length)
    }
}

/// Reads all headers. Nothing of the members' content is read, but for the map of sparse ones.
pub(super) fn read(mut storage: &dyn Storage, limits: &Limits) -> Result<Directory> {
    let size = storage.size();
    let mut reader = Reader::new(&mut storage, limits);
    let mut directory = Directory::default();
    while let Some(member) = reader.next()? {
        directory.members.push(member);
    }
    directory.end = reader.at.min(size);
    directory.findings = reader.findings;
    Ok(directory)
}

/// Reads headers, one member after the other.
pub(crate) struct Reader<'a, S> {
    /// Where they come from. Between two members their content may be taken from it.
    pub(crate) source: &'a mut S,
    /// What is odd about them.
    pub(crate) findings: Vec<Finding>,
    limits: &'a Limits,
    at: u64,
    /// Memory for names and maps that is left, bytes.
    room: u64,
    /// How many members there were.
    count: usize,
}

impl<'a, S: Source> Reader<'a, S> {
    pub(crate) fn new(source: &'a mut S, limits: &'a Limits) -> Self {
        let room = limits.max_directory_size;
        Self { source, findings: Vec::new(), limits, at: 0, room, count: 0 }
    }

    /// The next member; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let mut ahead = Ahead::default();
        loop {
            let at = self.at;
            if let Some(end) = self.source.end_at(at)? {
                let text = "the archive ends without the blocks of zeros that mark its end";
                self.findings.push(Finding::new(Code::Truncated, text).at(end));
                break;
            }
            let block = self.block("a header of the archive")?;
            if crate::bytes::is_zero(&block) {
                let lone = self.source.end_at(self.at)?.is_none()
                    && !crate::bytes::is_zero(&self.block("the end of the archive")?);
                if lone {
                    let text = "a single block of zeros ends the archive, and more follows: \
                                readers will disagree about what is in it";
                    self.findings.push(Finding::new(Code::Ambiguous, text).at(at));
                }
                break;
            }
            let header = Header::parse(&block, at)?;
            let here = |error: Error| error.at(at);
            match header.kind {
                b'x' | b'X' => {
                    let records = self.content(header.size, self.room, "an extended header")?;
                    ahead.start.get_or_insert(at);
                    ahead.take(&records).map_err(here)?;
                    self.spend(to_u64(records.len())).map_err(here)?;
                }
                b'g' => {
                    let records = self.content(header.size, MAX_EXTENDED, "a global header")?;
                    let mut global = Ahead::default();
                    global.take(&records).map_err(here)?;
                    if global.says_anything() {
                        return Err(here(Fault::GlobalHeader.into()));
                    }
                }
                b'L' => {
                    let mut name = self.content(header.size, MAX_NAME, "a long name")?;
                    ahead.start.get_or_insert(at);
                    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
                    ahead.long_name = Some(name);
                }
                b'K' => {
                    ahead.start.get_or_insert(at);
                    self.content(header.size, MAX_NAME, "a long name of a link")?;
                }
                _ => {
                    let member = self.member(&header, &block, ahead, at)?;
                    self.count = self.count.saturating_add(1);
                    if self.count > MAX_MEMBERS {
                        let fault = Fault::TooMany { what: "members", limit: MAX_MEMBERS };
                        return Err(here(fault.into()));
                    }
                    return Ok(Some(member));
                }
            }
        }
        match ahead.start {
            Some(start) => Err(Error::new(Fault::Dangling).at(start)),
            None => Ok(None),
        }
    }

    fn block(&mut self, what: &'static str) -> Result<[u8; BLOCK]> {
        let bytes = self.source.bytes(what, self.at, BLOCK)?;
        self.at = self.at.saturating_add(to_u64(BLOCK));
        Ok(bytes.first_chunk().copied().unwrap_or([0; BLOCK]))
    }

    /// The content behind a header, which is short.
    fn content(&mut self, size: u64, limit: u64, what: &'static str) -> Result<Vec<u8>> {
        if size > limit {
            return Err(Error::new(Fault::TooLarge { what, size, limit }).at(self.at));
        }
        let bytes = self.source.bytes(what, self.at, to_usize(size))?;
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
        self.source.check_inside(MEMBER, data, length).map_err(here)?;
        self.at = UNIT.ceil(self.at.saturating_add(stored));
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

#[cfg(test)]
mod tests {
    use super::*;

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
