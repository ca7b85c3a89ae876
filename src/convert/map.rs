//! What the map of a disk tells a writer beforehand.

use std::ops::Range;

use super::Job;
use crate::disk::VirtualDisk;
use crate::error::Result;
use crate::num::Pow2;
use crate::writer::Map;

/// What a disk's extents tell beforehand.
pub(super) struct DiskMap<'a> {
    pub(super) disk: &'a dyn VirtualDisk,
    pub(super) unit: Pow2,
    /// What cannot be told is read in its turn, and is lost then.
    pub(super) salvage: bool,
    /// Zeros are stored too.
    pub(super) everything: bool,
}

impl<'a> DiskMap<'a> {
    pub(super) fn new(job: &Job<'a>, unit: Pow2) -> Self {
        let everything = job.sparse.is_none();
        Self { disk: job.disk, unit, salvage: job.salvage, everything }
    }
}

impl Map for DiskMap<'_> {
    fn runs(&self, range: Range<u64>, tell: &mut dyn FnMut(Range<u64>, bool)) -> Result<()> {
        if self.everything {
            tell(range, true);
            return Ok(());
        }
        let size = self.disk.size();
        let end = range.end.min(size);
        let (mut at, mut told, mut behind) = (range.start, range.start, range.start);
        // behind: the end of the units that hold data; told: the end of what was told
        let mut data_from = None;
        while at < end {
            let extent = match self.disk.extent_at(at, end.saturating_sub(at)) {
                Ok(extent) => (extent.end(), !extent.kind.is_zero()),
                Err(error) if self.salvage && !error.kind().is_stop() => {
                    (self.unit.floor(at).saturating_add(self.unit.size()).min(end), true)
                }
                Err(error) => return Err(error),
            };
            if extent.1 {
                let from = self.unit.floor(at).max(range.start);
                if data_from.is_none() || from > behind {
                    if let Some(from) = data_from.replace(from) {
                        tell(from..behind, true);
                        told = behind;
                    }
                    if from > told {
                        tell(told..from, false);
                    }
                }
                behind = self.unit.ceil(extent.0);
            }
            at = extent.0;
        }
        if let Some(from) = data_from {
            tell(from..behind, true);
            told = behind;
        }
        if range.end > told {
            tell(told..range.end, false);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::extent::{Extent, ExtentKind, StorageId};

    /// Extents of these lengths, data and zeros by turns.
    struct Striped(Vec<u64>);

    impl VirtualDisk for Striped {
        fn size(&self) -> u64 {
            self.0.iter().sum()
        }
        fn cluster_size(&self) -> u64 {
            512
        }
        fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
            let mut end = 0;
            for (number, length) in self.0.iter().enumerate() {
                end += length;
                if offset < end {
                    let kind = if number % 2 == 0 {
                        ExtentKind::Encoded
                    } else {
                        ExtentKind::Zero { allocated: false, stored: None }
                    };
                    return Ok(Extent {
                        start: offset,
                        length: (end - offset).min(max),
                        depth: 0,
                        kind,
                    });
                }
            }
            Err(Error::other(ErrorKind::InvalidInput, "beyond the end"))
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            Ok(())
        }
        fn storage(&self, _: StorageId) -> Option<&dyn crate::storage::Storage> {
            None
        }
    }

    proptest::proptest! {
        #[test]
        fn a_unit_is_data_if_any_byte_of_it_may_be(
            lengths in proptest::collection::vec(1u64..40, 1..20),
            from in 0u64..10,
            to in 10u64..40,
        ) {
            let disk = Striped(lengths);
            let unit = Pow2::from_bits(3).unwrap();
            let size = disk.size();
            let all = 0..unit.ceil(size);
            let range = (from * 8).min(all.end)..(to * 8).min(all.end);
            let map = DiskMap { disk: &disk, unit, salvage: false, everything: false };
            let mut at = range.start;
            let mut last = None;
            map.runs(range.clone(), &mut |run, data| {
                assert_eq!(run.start, at);
                assert!(run.end > run.start && run.end % 8 == 0);
                assert_ne!(last.replace(data), Some(data), "runs are joined");
                for start in (run.start..run.end).step_by(8) {
                    let any = (start..(start + 8).min(size))
                        .any(|byte| !disk.extent_at(byte, 1).unwrap().kind.is_zero());
                    assert_eq!(any, data, "unit at {start}");
                }
                at = run.end;
            }).unwrap();
            assert_eq!(at, range.end);
        }
    }
}
