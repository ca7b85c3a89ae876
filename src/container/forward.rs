//! Bytes that pass by once: what a decoder gives, or a pipe.

use super::tar::Source;
use crate::error::{Error, Result};
use crate::num::{to_u64, to_usize};
use crate::storage::beyond_end;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// What `more` gives, from its start to its end: at least a byte each time, unless there are no more.
#[derive(Debug)]
pub(crate) struct Forward<F> {
    more: F,
    buffer: Vec<u8>,
    /// What was read and not taken yet lies from here.
    taken: usize,
    /// To here.
    filled: usize,
    /// How many bytes were taken.
    at: u64,
    ended: bool,
    /// Why there is no more. What came before is given first.
    failed: Option<Error>,
    has_failed: bool,
}

impl<F: FnMut(&mut [u8]) -> Result<usize>> Forward<F> {
    pub(crate) fn new(more: F) -> Self {
        Self {
            more,
            buffer: Vec::new(),
            taken: 0,
            filled: 0,
            at: 0,
            ended: false,
            failed: None,
            has_failed: false,
        }
    }

    /// The next bytes, which stay there: as many as `length`, or all that are left.
    pub(crate) fn peek(&mut self, length: usize) -> Result<&[u8]> {
        while !self.ended && self.left() < length {
            self.buffer.copy_within(self.taken..self.filled, 0);
            self.filled = self.left();
            self.taken = 0;
            let room = self.filled.saturating_add(PIECE);
            if self.buffer.len() < room {
                self.buffer.resize(room, 0);
            }
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let read = (self.more)(room).unwrap_or_else(|error| {
                self.failed = Some(error);
                self.has_failed = true;
                0
            });
            self.filled = self.filled.saturating_add(read);
            self.ended = read == 0;
        }
        let rest = self.buffer.get(self.taken..self.filled).unwrap_or_default();
        match self.failed.take_if(|_| rest.is_empty()) {
            Some(error) => Err(error),
            None => Ok(rest.get(..length).unwrap_or(rest)),
        }
    }

    fn left(&self) -> usize {
        self.filled.saturating_sub(self.taken)
    }

    /// Whether what gives the bytes failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// How many bytes were taken.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Takes the next bytes, at most `most`, and none at the end only.
    pub(crate) fn take(&mut self, most: u64) -> Result<&[u8]> {
        let there = self.peek(1)?.len();
        let length = if there == 0 { 0 } else { self.left().min(to_usize(most)) };
        let start = self.taken;
        self.taken = start.saturating_add(length);
        self.at = self.at.saturating_add(to_u64(length));
        Ok(self.buffer.get(start..self.taken).unwrap_or_default())
    }

    /// Has the bytes of a range pass by, which is called `what` and does not lie before what was
    /// taken. An error if it does not hold all of them.
    pub(crate) fn pass(
        &mut self,
        what: &'static str,
        start: u64,
        length: u64,
        mut see: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.skip_to(start)?;
        let mut left = length;
        while left > 0 {
            let piece = self.take(left)?;
            if piece.is_empty() {
                return Err(beyond_end(what, self.at, length, start));
            }
            left = left.saturating_sub(to_u64(piece.len()));
            see(piece)?;
        }
        Ok(())
    }

    /// Takes all that lies before `to`, or that is left.
    fn skip_to(&mut self, to: u64) -> Result<()> {
        while self.at < to && !self.take(to.saturating_sub(self.at))?.is_empty() {}
        Ok(())
    }

    /// Takes all that is left.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.skip_to(u64::MAX)
    }
}

impl<F: FnMut(&mut [u8]) -> Result<usize>> Source for Forward<F> {
    fn bytes(&mut self, what: &'static str, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.pass(what, at, to_u64(length), |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn end_at(&mut self, at: u64) -> Result<Option<u64>> {
        self.skip_to(at)?;
        Ok(self.peek(1)?.is_empty().then_some(self.at))
    }

    fn check_inside(&mut self, _: &'static str, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(bytes: &[u8], step: usize) -> Forward<impl FnMut(&mut [u8]) -> Result<usize>> {
        let mut rest = bytes;
        Forward::new(move |buf| {
            let length = step.min(buf.len()).min(rest.len());
            let (piece, behind) = rest.split_at(length);
            buf[..length].copy_from_slice(piece);
            rest = behind;
            Ok(length)
        })
    }

    #[test]
    fn what_came_before_a_failure_is_given_first() {
        let mut calls = 0;
        let mut source = Forward::new(|buf| {
            calls += 1;
            if calls > 2 {
                return Err(Error::other(crate::ErrorKind::Corrupt, "damaged"));
            }
            buf[..10].fill(calls);
            Ok(10)
        });
        assert_eq!(source.peek(100).unwrap().len(), 20);
        assert!(source.has_failed());
        assert_eq!(source.take(15).unwrap().len(), 15);
        assert!(source.bytes("x", 15, 6).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn every_byte_passes_once_and_in_order() {
        let all: Vec<u8> = (0..200_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
        for step in [1000, 4096, 1 << 20] {
            let mut source = forward(&all, step);
            assert_eq!(source.peek(70_000).unwrap(), &all[..70_000]);
            assert_eq!(source.bytes("x", 5, 10).unwrap(), &all[5..15]);
            assert_eq!(source.end_at(20).unwrap(), None);
            let mut seen = Vec::new();
            source
                .pass("x", 100, 150_000, |piece| {
                    seen.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            assert!(seen == all[100..150_100], "{step}");
            assert_eq!(source.position(), 150_100);
            let cut = source.bytes("x", 199_990, 11).unwrap_err();
            assert_eq!(cut.offset(), Some(199_990), "{cut}");
            assert_eq!(source.end_at(300_000).unwrap(), Some(200_000));
            source.drain().unwrap();
            assert!(source.take(1).unwrap().is_empty());
        }
    }
}
