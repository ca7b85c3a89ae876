//! Reading past damage, and keeping an exact list of what was lost.

use std::ops::Range;

use super::{Job, as_length, cluster_around, length};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::ExtentKind;
use crate::num::{to_u64, to_usize};

/// The smallest piece of stored data that is tried on its own: a disk sector.
const SECTOR: usize = 512;

pub(super) struct Salvage<'a> {
    pub(super) job: &'a Job<'a>,
}

impl Salvage<'_> {
    /// Reads as much of a piece as can be read after a read of all of it failed; what cannot be
    /// read becomes zeros and is listed.
    pub(super) fn read(&self, part: &mut [u8], at: u64, error: Error) -> Result<()> {
        if is_final(&error) {
            return Err(error);
        }
        let (mut rest, mut at) = (part, at);
        while !rest.is_empty() {
            let left = as_length(rest);
            let (end, kind) = match self.job.disk.extent_at(at, left) {
                Ok(extent) => (extent.end(), Some(extent.kind)),
                Err(error) => (self.unmapped(at, at.saturating_add(left), error)?.end, None),
            };
            let (part, behind) = rest.split_at_mut(to_usize(end.saturating_sub(at).min(left)));
            match kind {
                None | Some(ExtentKind::Zero { .. } | ExtentKind::Hole(_)) => part.fill(0),
                Some(ExtentKind::Encoded) => self.read_clusters(part, at),
                Some(ExtentKind::Stored(_)) => self.bisect(part, at),
            }
            at = end;
            rest = behind;
        }
        Ok(())
    }

    /// What is lost, up to `end`, because the map at `at` cannot be read.
    pub(super) fn unmapped(&self, at: u64, end: u64, error: Error) -> Result<Range<u64>> {
        if is_final(&error) {
            return Err(error);
        }
        let around = error.guest_range().filter(|range| range.contains(&at));
        let around = around.unwrap_or_else(|| cluster_around(self.job.disk, at));
        let lost = at..around.end.min(end).max(at.saturating_add(1));
        self.job.lost(lost.clone());
        Ok(lost)
    }

    /// A compressed cluster is whole or lost. Which one is lost the error tells: in a parent the
    /// clusters may be of another size than the disk's.
    fn read_clusters(&self, part: &mut [u8], at: u64) {
        let (mut rest, mut at) = (part, at);
        while !rest.is_empty() {
            let Err(error) = self.job.disk.read_exact_at(rest, at) else { return };
            let behind = at.saturating_add(as_length(rest));
            let around = error.guest_range().filter(|lost| lost.start < behind && lost.end > at);
            let around = around.unwrap_or_else(|| cluster_around(self.job.disk, at));
            let start = around.start.clamp(at, behind);
            let end = around.end.clamp(start, behind);
            let (before, damaged) = rest.split_at_mut(to_usize(start.saturating_sub(at)));
            let (damaged, after) = damaged.split_at_mut(to_usize(end.saturating_sub(start)));
            // what lies before it is whole, but may not have been filled in
            self.read_clusters(before, at);
            self.lose(damaged, start);
            at = end;
            rest = after;
        }
    }

    /// Halves a range until what cannot be read is known to the sector.
    fn bisect(&self, part: &mut [u8], at: u64) {
        if self.job.disk.read_exact_at(part, at).is_ok() {
            return;
        }
        if part.len() <= SECTOR {
            return self.lose(part, at);
        }
        let middle = (part.len() >> 1).next_multiple_of(SECTOR);
        let (first, second) = part.split_at_mut(middle.min(part.len()));
        let behind = at.saturating_add(to_u64(first.len()));
        self.bisect(first, at);
        if !second.is_empty() {
            self.bisect(second, behind);
        }
    }

    fn lose(&self, part: &mut [u8], at: u64) {
        part.fill(0);
        self.job.lost(at..at.saturating_add(as_length(part)));
    }
}

/// Errors that are not about damage.
fn is_final(error: &Error) -> bool {
    error.kind().is_stop() || error.kind() == ErrorKind::Denied
}

/// Sorts ranges and joins neighbours.
pub(super) fn join(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| length(range) > 0);
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined() {
        assert_eq!(join(vec![5..7, 0..2, 2..3, 9..9, 6..8]), [0..3, 5..8]);
    }
}
