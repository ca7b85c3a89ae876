//! The bytes of a file that passes by, as a storage: what was asked for in time is kept, and the
//! rest is gone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Detail, Error, ErrorKind, Result};
use crate::format::probe::HEAD;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, beyond_end};

/// How many of the last bytes are kept: footers, and what turns out to be wanted a moment late.
const RECENT: usize = 32 << 10;
/// How many bytes are kept because a format asked for them, at most.
const KEPT: u64 = 224 << 10;
/// How long a file is taken for that has not ended: far beyond all that is believed to be in one.
const ENDLESS: u64 = 1 << 62;
/// Structures at the end of a file lie no further from it than this.
const TAIL: u64 = 1 << 20;

/// A file that passes by. It has no end until it is [told](Self::end).
#[derive(Debug)]
pub(super) struct Passing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes that have passed.
    position: u64,
    ended: bool,
    head: Vec<u8>,
    /// The last bytes that have passed.
    recent: Vec<u8>,
    /// What was asked for, by where it starts.
    kept: BTreeMap<u64, Kept>,
    /// The same, of which not all has passed.
    wanted: BTreeMap<u64, Wanted>,
    /// What was asked for and not to be had since [`Passing::missed`] was called last.
    missed: Vec<Range<u64>>,
    /// Whether the end of the file was asked for since then.
    asked_end: bool,
    /// Whether what is gone reads as zeros.
    lenient: bool,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    /// Whether it is needed until the end.
    lasting: bool,
}

#[derive(Debug)]
struct Wanted {
    end: u64,
    /// Has room for all of it once the first byte is there.
    bytes: Vec<u8>,
    lasting: bool,
}

/// What became of ranges that were waited for.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// They are there now.
    pub(super) there: Vec<Range<u64>>,
    /// There was no room to keep them.
    pub(super) lost: Vec<Range<u64>>,
}

/// What a run over the storage could not read.
#[derive(Debug, Default)]
pub(super) struct Missed {
    pub(super) ranges: Vec<Range<u64>>,
    /// Whether it asked for the end of a file that has not ended, and got zeros.
    pub(super) asked_end: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{length} bytes have passed by before it was known that they matter, or are yet to come")]
struct Gone {
    length: u64,
}

impl Detail for Gone {
    // like a failing medium: no format must take it for a fault of the file
    fn kind(&self) -> ErrorKind {
        ErrorKind::Io
    }
}

impl Passing {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn position(&self) -> u64 {
        self.state().position
    }

    /// How many bytes may pass before something that is waited for is there; `None` if nothing is.
    pub(super) fn until_next(&self) -> Option<u64> {
        let state = self.state();
        let next = state.wanted.values().map(|wanted| wanted.end).min();
        next.map(|end| end.saturating_sub(state.position))
    }

    /// Lets `bytes` pass.
    pub(super) fn pass(&self, bytes: &[u8]) -> Passed {
        self.state().pass(bytes)
    }

    /// The file has ended.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.wanted.clear();
    }

    /// From now on what is gone reads as zeros.
    pub(super) fn fill_with_zeros(&self, yes: bool) {
        self.state().lenient = yes;
    }

    /// Keeps `range` when it passes: until the end, or until it is forgotten. False if it has
    /// passed already, or is too long.
    pub(super) fn keep(&self, range: &Range<u64>, lasting: bool) -> bool {
        self.state().keep(range, lasting)
    }

    /// Forgets what was kept from `start` on, unless it is needed until the end.
    pub(super) fn forget(&self, start: u64) {
        let mut state = self.state();
        if state.kept.get(&start).is_some_and(|kept| !kept.lasting) {
            state.kept.remove(&start);
        }
    }

    /// What could not be read since this was asked last.
    pub(super) fn missed(&self) -> Missed {
        let mut state = self.state();
        let ranges = std::mem::take(&mut state.missed);
        Missed { ranges, asked_end: std::mem::take(&mut state.asked_end) }
    }

    /// The first bytes of the file, as far as they tell what it is.
    pub(super) fn with_head<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.state().head)
    }

    /// The last bytes of the file so far.
    pub(super) fn tail(&self, length: usize) -> Vec<u8> {
        let state = self.state();
        let start = state.recent.len().saturating_sub(length);
        state.recent.get(start..).unwrap_or_default().to_vec()
    }
}

impl State {
    fn size(&self) -> u64 {
        if self.ended { self.position } else { ENDLESS }
    }

    fn pass(&mut self, bytes: &[u8]) -> Passed {
        let start = self.position;
        let end = start.saturating_add(to_u64(bytes.len()));
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(bytes.get(..room).unwrap_or_default());
        let mut passed = Passed::default();
        let mut held = self.held();
        for (&from, wanted) in self.wanted.range_mut(..end) {
            if wanted.bytes.is_empty() {
                let length = wanted.end.saturating_sub(from);
                held = held.saturating_add(length);
                if held > KEPT {
                    held = held.saturating_sub(length);
                    passed.lost.push(from..wanted.end);
                    continue;
                }
                wanted.bytes.reserve_exact(to_usize(length));
            }
            let next = from.saturating_add(to_u64(wanted.bytes.len()));
            let range = next.saturating_sub(start)..wanted.end.min(end).saturating_sub(start);
            let part = bytes.get(to_usize(range.start)..to_usize(range.end));
            wanted.bytes.extend_from_slice(part.unwrap_or_default());
            if wanted.end <= end {
                passed.there.push(from..wanted.end);
            }
        }
        for range in &passed.lost {
            self.wanted.remove(&range.start);
        }
        for range in &passed.there {
            if let Some(Wanted { bytes, lasting, .. }) = self.wanted.remove(&range.start) {
                self.kept.insert(range.start, Kept { bytes, lasting });
            }
        }
        let last = bytes.get(bytes.len().saturating_sub(RECENT)..).unwrap_or_default();
        let over = self.recent.len().saturating_add(last.len()).saturating_sub(RECENT);
        self.recent.drain(..over.min(self.recent.len()));
        self.recent.extend_from_slice(last);
        self.position = end;
        passed
    }

    /// How many bytes take up room because they were asked for.
    fn held(&self) -> u64 {
        let kept = self.kept.values().map(|kept| kept.bytes.len());
        let begun = self.wanted.values().map(|wanted| wanted.bytes.capacity());
        to_u64(kept.chain(begun).fold(0, usize::saturating_add))
    }

    fn keep(&mut self, range: &Range<u64>, lasting: bool) -> bool {
        let length = range.end.saturating_sub(range.start);
        if let Some(kept) = self.kept.get_mut(&range.start)
            && to_u64(kept.bytes.len()) >= length
        {
            kept.lasting |= lasting;
            return true;
        }
        if length > KEPT {
            return false;
        }
        let passed = self.position.min(range.end).saturating_sub(range.start);
        if let Some(wanted) = self.wanted.get_mut(&range.start) {
            wanted.lasting |= lasting;
            if wanted.end >= range.end {
                return true;
            }
            if passed == 0 {
                wanted.end = range.end;
                return true;
            }
        }
        if passed == 0 {
            let wanted = Wanted { end: range.end, bytes: Vec::new(), lasting };
            self.wanted.insert(range.start, wanted);
            return true;
        }
        if self.held().saturating_add(length) > KEPT || !self.has(range.start, passed) {
            return false;
        }
        let mut bytes = Vec::with_capacity(to_usize(length));
        bytes.resize(to_usize(passed), 0);
        self.read(&mut bytes, range.start);
        if passed == length {
            self.kept.insert(range.start, Kept { bytes, lasting });
        } else {
            self.wanted.insert(range.start, Wanted { end: range.end, bytes, lasting });
        }
        true
    }

    /// Fills `buf`; gives the offset of the first byte that is not there.
    fn read(&self, buf: &mut [u8], offset: u64) -> Option<u64> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let Some(found) = self.bytes_at(at) else { return Some(at) };
            let length = found.len().min(rest.len());
            let (part, behind) = rest.split_at_mut(length);
            part.copy_from_slice(found.get(..length).unwrap_or_default());
            at = at.saturating_add(to_u64(length));
            rest = behind;
        }
        None
    }

    /// The bytes from `offset` on, as far as one place has them.
    fn bytes_at(&self, offset: u64) -> Option<&[u8]> {
        let start = self.position.saturating_sub(to_u64(self.recent.len()));
        let kept = self.kept.range(..=offset).rev().map(|(start, kept)| (*start, &*kept.bytes));
        let ends = [(0, &*self.head), (start, &*self.recent)];
        ends.into_iter().chain(kept).find_map(|(start, bytes)| {
            let from = to_usize(offset.checked_sub(start)?);
            bytes.get(from..).filter(|bytes| !bytes.is_empty())
        })
    }

    /// Whether all of the range is there.
    fn has(&self, offset: u64, length: u64) -> bool {
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let Some(found) = self.bytes_at(at) else { return false };
            at = at.saturating_add(to_u64(found.len()));
        }
        true
    }

    fn is_tail(&self, offset: u64) -> bool {
        !self.ended && offset >= ENDLESS.saturating_sub(TAIL)
    }

    #[cold]
    fn gone(&mut self, offset: u64, length: u64) -> Error {
        self.missed.push(offset..offset.saturating_add(length));
        Error::new(Gone { length }).at(offset)
    }
}

impl Storage for Passing {
    fn size(&self) -> u64 {
        self.state().size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut state = self.state();
        let length = to_u64(buf.len());
        if offset.checked_add(length).is_none_or(|end| end > state.size()) {
            return Err(beyond_end(crate::storage::DATA, state.size(), length, offset));
        }
        if state.is_tail(offset) {
            state.asked_end = true;
            buf.fill(0);
            return Ok(());
        }
        if state.read(buf, offset).is_none() {
            return Ok(());
        }
        let gone = state.gone(offset, length);
        if state.lenient {
            buf.fill(0);
            return Ok(());
        }
        Err(gone)
    }

    fn check_available(&self, offset: u64, length: u64) -> Result<()> {
        let mut state = self.state();
        if state.is_tail(offset) || state.has(offset, length) {
            return Ok(());
        }
        // so much is never kept, and no room is made for it
        if state.lenient && length <= KEPT {
            return Ok(());
        }
        Err(state.gone(offset, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(range: Range<usize>) -> Vec<u8> {
        range.map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    #[test]
    fn what_is_asked_for_in_time_is_kept_and_the_rest_is_gone() {
        let passing = Passing::new();
        passing.pass(&numbers(0..HEAD));
        let mut buf = [0; 100];
        let (soon, late) = (to_u64(HEAD) + 1000, to_u64(HEAD) + 200_000);
        assert!(passing.read_exact_at(&mut buf, soon).is_err());
        let missed = passing.missed();
        assert_eq!(missed.ranges, [soon..soon + 100]);
        assert!(passing.keep(&missed.ranges[0], true));
        assert_eq!(passing.until_next(), Some(1100));
        let there: Vec<_> = numbers(HEAD..HEAD + 300_000)
            .chunks(7)
            .flat_map(|piece| passing.pass(piece).there)
            .collect();
        assert_eq!(there, [soon..soon + 100]);
        passing.read_exact_at(&mut buf, soon).unwrap();
        assert_eq!(buf[..], numbers(HEAD + 1000..HEAD + 1100));
        // the end is held anyway
        passing.read_exact_at(&mut buf, to_u64(HEAD) + 299_900).unwrap();
        assert!(!passing.keep(&(late..late + 4), true), "it has passed");
        assert!(passing.read_exact_at(&mut buf, late).is_err());
        passing.fill_with_zeros(true);
        passing.read_exact_at(&mut buf, late).unwrap();
        assert_eq!(buf, [0; 100]);
        assert_eq!(passing.missed().ranges.len(), 2);
    }

    #[test]
    fn a_file_has_no_end_until_it_is_told() {
        let passing = Passing::new();
        passing.pass(b"abc");
        let mut buf = [1; 2];
        passing.read_exact_at(&mut buf, passing.size() - 512).unwrap();
        assert_eq!(buf, [0; 2]);
        assert!(passing.missed().asked_end);
        passing.end();
        assert_eq!(passing.size(), 3);
        passing.read_exact_at(&mut buf, 1).unwrap();
        assert_eq!(buf, *b"bc");
        assert!(passing.read_exact_at(&mut buf, 2).is_err());
    }

    #[test]
    fn there_is_a_bound_to_what_is_kept() {
        let passing = Passing::new();
        assert!(!passing.keep(&(1 << 20..(1 << 20) + KEPT + 1), true));
        // two that overlap, and have no room together
        let first = 1 << 20..(1 << 20) + KEPT;
        let second = (1 << 20) + 512..(1 << 20) + KEPT;
        assert!(passing.keep(&first, false) && passing.keep(&second, false));
        let zeros = vec![0; 2 << 20];
        let passed = passing.pass(&zeros);
        assert_eq!((passed.there, passed.lost), (vec![first.clone()], vec![second]));
        let third = 4 << 20..(4 << 20) + 1;
        assert!(passing.keep(&third, false));
        passing.forget(first.start);
        passing.pass(&zeros);
        assert_eq!(passing.pass(&zeros).there, [third]);
    }

    #[test]
    fn a_range_that_has_begun_to_pass_can_still_be_kept() {
        let passing = Passing::new();
        passing.pass(&numbers(0..200_000));
        assert!(passing.keep(&(190_000..210_000), true));
        passing.pass(&numbers(200_000..220_000));
        let mut buf = vec![0; 20_000];
        passing.read_exact_at(&mut buf, 190_000).unwrap();
        assert_eq!(buf, numbers(190_000..210_000));
    }
}
