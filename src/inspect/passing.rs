//! The bytes of a file that passes by, as a storage: what was asked for in time is kept, and the
//! rest is gone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Detail, Error, ErrorKind, Result};
use crate::format::probe::HEAD;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, TableCache, beyond_end};

use super::blocks::Blocks;

/// How many of the last bytes are kept: footers, and what turns out to be wanted a moment late.
const RECENT: usize = 32 << 10;
/// How much is kept because a format asked for it, at most; blocks of zeros do not count.
const KEPT: u64 = 160 << 10;
/// The longest range that is kept.
const LONGEST: u64 = 256 << 10;
/// How much of a table is kept that is going to be asked for, at most.
const EXPECTED: u64 = 1 << 20;
/// Of the bytes behind the head so many are kept, until there are too many that are not zeros:
/// tables often lie there before the one that leads to them.
const EARLY: u64 = 1 << 20;
const EARLY_KEPT: u64 = 96 << 10;
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
    /// What follows the head.
    early: Kept,
    /// The last bytes that have passed.
    recent: Vec<u8>,
    /// What was asked for, by where it starts.
    kept: BTreeMap<u64, Kept>,
    /// How many bytes these take up.
    held: u64,
    /// What was asked for and not to be had since [`Passing::missed`] was called last.
    missed: Vec<Range<u64>>,
    /// What was read since then that is there only because it has just passed.
    fleeting: Vec<Range<u64>>,
    /// Whether the end of the file was asked for since then.
    asked_end: bool,
    /// Whether what is gone reads as zeros.
    lenient: bool,
}

/// A range that is kept, as far as it has passed.
#[derive(Debug, Default)]
struct Kept {
    end: u64,
    bytes: Blocks,
    /// Whether it is needed until the end.
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
    /// What it could read, but only because it has just passed.
    pub(super) fleeting: Vec<Range<u64>>,
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
        let early = Kept { end: HEAD_END.saturating_add(EARLY), ..Kept::default() };
        Self(Mutex::new(State { early, ..State::default() }))
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
        let ends = state.kept.iter().filter(|(start, kept)| kept.is_open(**start));
        let next = ends.map(|(_, kept)| kept.end).min();
        next.map(|end| end.saturating_sub(state.position))
    }

    /// Lets `bytes` pass.
    pub(super) fn pass(&self, bytes: &[u8]) -> Passed {
        self.state().pass(bytes)
    }

    /// Lets as many of `length` zeros pass as lie before what is waited for, without a look at each.
    /// Gives how many did.
    pub(super) fn pass_zeros(&self, length: u64) -> u64 {
        self.state().pass_zeros(length)
    }

    /// The file has ended.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
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
            state.drop_kept(start);
        }
    }

    /// What could not be read since this was asked last.
    pub(super) fn missed(&self) -> Missed {
        let mut state = self.state();
        let ranges = std::mem::take(&mut state.missed);
        let fleeting = std::mem::take(&mut state.fleeting);
        Missed { ranges, fleeting, asked_end: std::mem::take(&mut state.asked_end) }
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

/// Where the head ends.
const HEAD_END: u64 = 68 << 10;
const _: () = assert!(HEAD == 68 << 10, "is the same");

impl Kept {
    /// Whether more of it is to come.
    fn is_open(&self, start: u64) -> bool {
        start.saturating_add(self.bytes.length()) < self.end
    }

    /// Takes what it wants of `bytes`, which lie at `at` of the file; it itself starts at `start`.
    fn take(&mut self, start: u64, at: u64, bytes: &[u8]) {
        let next = start.saturating_add(self.bytes.length());
        let behind = self.end.saturating_sub(at).min(to_u64(bytes.len()));
        let Some(from) = next.checked_sub(at) else { return };
        self.bytes.extend(bytes.get(to_usize(from)..to_usize(behind)).unwrap_or_default());
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
        if end > HEAD_END && self.early.bytes.held() <= EARLY_KEPT {
            self.early.take(HEAD_END, start, bytes);
        }
        let mut passed = Passed::default();
        for (&from, kept) in self.kept.range_mut(..end) {
            if !kept.is_open(from) {
                continue;
            }
            let before = kept.bytes.held();
            kept.take(from, start, bytes);
            self.held = self.held.saturating_add(kept.bytes.held().saturating_sub(before));
            let range = from..kept.end;
            if self.held > KEPT {
                self.held = self.held.saturating_sub(kept.bytes.held());
                kept.bytes = Blocks::default();
                passed.lost.push(range);
            } else if kept.end <= end {
                passed.there.push(range);
            }
        }
        for range in &passed.lost {
            self.kept.remove(&range.start);
        }
        let last = bytes.get(bytes.len().saturating_sub(RECENT)..).unwrap_or_default();
        // twice as many are held at times, so that they are not moved with every byte
        let over = self.recent.len().saturating_add(last.len()).saturating_sub(RECENT);
        if last.len() < bytes.len() {
            self.recent.clear();
        } else if over > RECENT {
            self.recent.drain(..over.min(self.recent.len()));
        }
        self.recent.extend_from_slice(last);
        self.position = end;
        passed
    }

    fn pass_zeros(&mut self, length: u64) -> u64 {
        if self.position < self.early.end {
            return 0;
        }
        let open = self.kept.iter().filter(|(start, kept)| kept.is_open(**start));
        let wanted = open.map(|(start, kept)| start.saturating_add(kept.bytes.length())).min();
        let before = wanted.map_or(u64::MAX, |wanted| wanted.saturating_sub(self.position));
        let passed = length.min(before);
        if passed < to_u64(RECENT) {
            return 0;
        }
        self.recent.clear();
        self.recent.resize(RECENT, 0);
        self.position = self.position.saturating_add(passed);
        passed
    }

    fn drop_kept(&mut self, start: u64) {
        if let Some(kept) = self.kept.remove(&start) {
            self.held = self.held.saturating_sub(kept.bytes.held());
        }
    }

    fn keep(&mut self, range: &Range<u64>, lasting: bool) -> bool {
        let length = range.end.saturating_sub(range.start);
        if let Some(kept) = self.kept.get_mut(&range.start)
            && kept.end >= range.end
        {
            kept.lasting |= lasting;
            return true;
        }
        let passed = self.position.min(range.end).saturating_sub(range.start);
        if passed == length && lasting && self.has_lasting(range) {
            return true;
        }
        if length > LONGEST || !self.has(range.start, passed) {
            return false;
        }
        let mut kept = Kept { end: range.end, bytes: Blocks::default(), lasting };
        let mut at = range.start;
        while at < range.start.saturating_add(passed) {
            let left = to_usize(range.start.saturating_add(passed).saturating_sub(at));
            let Some(found) = self.bytes_at(at) else { return false };
            let piece = found.get(..left).unwrap_or(found);
            kept.bytes.extend(piece);
            at = at.saturating_add(to_u64(piece.len()));
        }
        if let Some(shorter) = self.kept.get(&range.start) {
            kept.lasting |= shorter.lasting;
        }
        self.drop_kept(range.start);
        self.held = self.held.saturating_add(kept.bytes.held());
        if self.held > KEPT {
            self.held = self.held.saturating_sub(kept.bytes.held());
            return false;
        }
        self.kept.insert(range.start, kept);
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
        let dense = [(0, &*self.head), (start, &*self.recent)];
        let dense = dense.into_iter().find_map(|(start, bytes)| {
            let from = to_usize(offset.checked_sub(start)?);
            bytes.get(from..).filter(|bytes| !bytes.is_empty())
        });
        let kept = || {
            let early = std::iter::once((&HEAD_END, &self.early));
            let mut all = self.kept.range(..=offset).rev().chain(early);
            all.find_map(|(start, kept)| kept.bytes.at(offset.checked_sub(*start)?))
        };
        dense.or_else(kept)
    }

    /// Whether all of the range is kept until the end anyway.
    fn has_lasting(&self, range: &Range<u64>) -> bool {
        let mut kept = self.kept.range(..=range.start).rev().filter(|(_, kept)| kept.lasting);
        let held = |start: u64, kept: &Kept| start.saturating_add(kept.bytes.length()) >= range.end;
        range.end <= HEAD_END
            || kept.any(|(start, kept)| held(*start, kept))
            || (range.start >= HEAD_END && held(HEAD_END, &self.early))
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
            let end = offset.saturating_add(length);
            let recent = state.position.saturating_sub(to_u64(state.recent.len()));
            if end > recent.max(HEAD_END) && !state.ended {
                state.fleeting.push(offset..end);
            }
            return Ok(());
        }
        let gone = state.gone(offset, length);
        if state.lenient {
            buf.fill(0);
            return Ok(());
        }
        Err(gone)
    }

    fn expect(&self, offset: u64, length: u64) {
        let mut state = self.state();
        let behind = offset.saturating_add(length.min(EXPECTED));
        let mut at = offset;
        while !state.ended && at < behind {
            let next = at.saturating_add(TableCache::PAGE).min(behind);
            state.keep(&(at..next), true);
            at = next;
        }
    }

    fn check_available(&self, offset: u64, length: u64) -> Result<()> {
        let mut state = self.state();
        if state.is_tail(offset) || state.has(offset, length) {
            return Ok(());
        }
        // so much is never kept, and no room is made for it
        if state.lenient && length <= LONGEST {
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
        passing.pass(&numbers(0..2_000_000));
        let mut buf = [0; 100];
        let (soon, late) = (2_001_000, 2_200_000);
        assert!(passing.read_exact_at(&mut buf, soon).is_err());
        let missed = passing.missed();
        assert_eq!((missed.ranges.len(), &missed.ranges[0]), (1, &(soon..soon + 100)));
        assert!(passing.keep(&missed.ranges[0], true));
        assert_eq!(passing.until_next(), Some(1100));
        let there: Vec<_> = numbers(2_000_000..2_300_000)
            .chunks(7)
            .flat_map(|piece| passing.pass(piece).there)
            .collect();
        assert_eq!((there.len(), &there[0]), (1, &(soon..soon + 100)));
        passing.read_exact_at(&mut buf, soon).unwrap();
        assert_eq!(buf[..], numbers(2_001_000..2_001_100));
        // the end is held anyway
        passing.read_exact_at(&mut buf, 2_299_900).unwrap();
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
    fn there_is_a_bound_to_what_is_kept_and_zeros_are_free() {
        let passing = Passing::new();
        passing.pass(&numbers(0..2 << 20));
        let range = |start: u64, length| (start << 20)..(start << 20) + length;
        assert!(!passing.keep(&range(3, LONGEST + 1), true));
        // two that overlap, and have no room together
        let (first, second) = (range(3, KEPT), ((3 << 20) + 512)..(3 << 20) + KEPT);
        assert!(passing.keep(&first, false) && passing.keep(&second, false));
        let zeros = range(5, LONGEST);
        assert!(passing.keep(&zeros, false));
        let passed = passing.pass(&numbers(0..2 << 20));
        assert_eq!((passed.there, passed.lost), (vec![first.clone()], vec![second]));
        assert_eq!(passing.pass(&vec![0; 2 << 20]).there, [zeros]);
        passing.forget(first.start);
        let third = range(6, KEPT);
        assert!(passing.keep(&third, false));
        assert_eq!(passing.pass(&numbers(0..2 << 20)).there, [third]);
    }

    #[test]
    fn a_range_that_has_begun_to_pass_can_still_be_kept() {
        let passing = Passing::new();
        passing.pass(&numbers(0..2_000_000));
        assert!(passing.keep(&(1_990_000..2_010_000), true));
        passing.pass(&numbers(2_000_000..3_000_000));
        let mut buf = vec![0; 20_000];
        passing.read_exact_at(&mut buf, 1_990_000).unwrap();
        assert_eq!(buf, numbers(1_990_000..2_010_000));
    }
}
