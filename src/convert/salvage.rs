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
    pub(super) fn read(
        &self,
        kind: ExtentKind,
        part: &mut [u8],
        at: u64,
        error: Error,
    ) -> Result<()> {
        if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Denied) {
            return Err(error);
        }
        if kind == ExtentKind::Encoded {
            self.read_clusters(part, at);
        } else {
            self.bisect(part, at);
        }
        Ok(())
    }

    /// A compressed cluster is whole or lost.
    fn read_clusters(&self, part: &mut [u8], at: u64) {
        let (mut rest, mut at) = (part, at);
        while !rest.is_empty() {
            let end = cluster_around(self.job.disk, at).end;
            let step = to_usize(end.saturating_sub(at)).min(rest.len());
            let (cluster, behind) = rest.split_at_mut(step);
            if self.job.disk.read_exact_at(cluster, at).is_err() {
                self.lose(cluster, at);
            }
            at = at.saturating_add(to_u64(step));
            rest = behind;
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
