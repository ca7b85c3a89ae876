//! The file as it is after its log was replayed, without the file being written.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::num::{to_u64, to_usize};
use crate::storage::{DATA, FileIdentity, Run, Storage, beyond_end};

use super::layout::LOG_SECTOR;

/// A storage with some of its bytes replaced: by zeros, or by sectors that lie elsewhere in it.
/// It may be longer than the storage below; the rest reads as zeros.
#[derive(Debug)]
pub(super) struct LogOverlay {
    base: Arc<dyn Storage>,
    size: u64,
    /// What is replaced, by start: in order, without overlaps.
    runs: BTreeMap<u64, Patch>,
}

/// A run of replaced bytes.
#[derive(Debug, Clone, Copy)]
struct Patch {
    end: u64,
    content: Content,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Zeros,
    Sector(Sector),
}

/// A sector of the log that replaces one of the file. Its ends are kept in the descriptor, since
/// the log has marks of its own there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sector {
    /// Where in the file the log has it.
    pub(super) at: u64,
    pub(super) leading: [u8; 8],
    pub(super) trailing: [u8; 4],
}

impl LogOverlay {
    /// Nothing replaced yet; `size` is at least that of `base`.
    pub(super) fn new(base: Arc<dyn Storage>, size: u64) -> Self {
        Self { size: size.max(base.size()), base, runs: BTreeMap::new() }
    }

    /// Makes the file at least `size` bytes long.
    pub(super) fn grow(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// How many separate runs are replaced.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// What is replaced, in order, and whether by zeros.
    pub(super) fn replaced(&self) -> impl Iterator<Item = (std::ops::Range<u64>, bool)> + '_ {
        self.runs
            .iter()
            .map(|(&start, patch)| (start..patch.end, matches!(patch.content, Content::Zeros)))
    }

    /// Replaces `length` bytes by zeros: a multiple of the log's sectors, at one of them.
    pub(super) fn put_zeros(&mut self, start: u64, length: u64) {
        let end = start.saturating_add(length);
        self.put(start, Patch { end, content: Content::Zeros });
    }

    /// Replaces one sector.
    pub(super) fn put_sector(&mut self, start: u64, sector: Sector) {
        let end = start.saturating_add(LOG_SECTOR);
        self.put(start, Patch { end, content: Content::Sector(sector) });
    }

    /// The later one holds. Sectors are never cut, since all starts and ends are multiples of one.
    fn put(&mut self, start: u64, patch: Patch) {
        if start >= patch.end {
            return;
        }
        let mut rest = None;
        if let Some((_, before)) = self.runs.range_mut(..start).next_back()
            && before.end > start
        {
            if before.end > patch.end {
                rest = Some(*before);
            }
            before.end = start;
        }
        while let Some((&inner, &old)) = self.runs.range(start..patch.end).next() {
            if old.end > patch.end {
                rest = Some(old);
            }
            self.runs.remove(&inner);
        }
        if let Some(rest) = rest {
            self.runs.insert(patch.end, rest);
        }
        self.runs.insert(start, patch);
    }

    /// What is replaced at `offset`, or else where the next replaced run starts.
    fn patch_at(&self, offset: u64) -> std::result::Result<(u64, Patch), u64> {
        if let Some((&start, &patch)) = self.runs.range(..=offset).next_back()
            && patch.end > offset
        {
            return Ok((start, patch));
        }
        Err(self.runs.range(offset..).next().map_or(u64::MAX, |(&start, _)| start))
    }
}

impl Storage for LogOverlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let wanted = to_u64(buf.len());
        if offset.checked_add(wanted).is_none_or(|end| end > self.size) {
            return Err(beyond_end(DATA, self.size, wanted, offset));
        }
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let patch = self.patch_at(at);
            let end = patch.map_or_else(|next| next, |(_, patch)| patch.end);
            let length = to_usize(end.saturating_sub(at)).min(rest.len());
            let (part, behind) = rest.split_at_mut(length);
            match patch {
                Ok((_, Patch { content: Content::Zeros, .. })) => part.fill(0),
                Ok((start, Patch { content: Content::Sector(sector), .. })) => {
                    let mut bytes = [0; 4096];
                    self.base.read_exact_at(&mut bytes, sector.at)?;
                    let [first @ .., _, _, _, _] = &mut bytes;
                    if let Some(leading) = first.first_chunk_mut() {
                        *leading = sector.leading;
                    }
                    if let Some(trailing) = bytes.last_chunk_mut() {
                        *trailing = sector.trailing;
                    }
                    let within = to_usize(at.saturating_sub(start));
                    let bytes = bytes.get(within..).and_then(|bytes| bytes.get(..length));
                    part.copy_from_slice(bytes.unwrap_or_default());
                }
                Err(_) => {
                    let there = to_usize(self.base.size().saturating_sub(at)).min(length);
                    let (part, beyond) = part.split_at_mut(there);
                    if !part.is_empty() {
                        self.base.read_exact_at(part, at)?;
                    }
                    beyond.fill(0);
                }
            }
            at = at.saturating_add(to_u64(length));
            rest = behind;
        }
        Ok(())
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        let max = max.min(self.size.saturating_sub(offset));
        match self.patch_at(offset) {
            Ok((_, patch)) => {
                let hole = matches!(patch.content, Content::Zeros);
                Ok(Run { hole, length: max.min(patch.end.saturating_sub(offset)) })
            }
            Err(next) => {
                let max = max.min(next.saturating_sub(offset));
                if offset >= self.base.size() {
                    return Ok(Run { hole: true, length: max });
                }
                self.base.run_at(offset, max.min(self.base.size().saturating_sub(offset)))
            }
        }
    }

    fn allocated_size(&self) -> Option<u64> {
        self.base.allocated_size()
    }

    fn path(&self) -> Option<&std::path::Path> {
        self.base.path()
    }

    fn lies_in(&self) -> Vec<FileIdentity> {
        self.base.lies_in()
    }

    fn identity(&self) -> Option<FileIdentity> {
        self.base.identity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;
    use proptest::prelude::*;

    const SECTOR: usize = 4096;
    /// Sectors of the file below, and of the file as replayed.
    const BASE: usize = 12;
    const GROWN: usize = 16;

    #[derive(Debug, Clone)]
    enum Write {
        Zeros(usize, usize),
        Sector(usize, usize, u8),
    }

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        let zeros = (0..GROWN, 1..GROWN)
            .prop_map(|(start, length)| Write::Zeros(start, length.min(GROWN - start)));
        let sector = (0..GROWN, 0..BASE, any::<u8>())
            .prop_map(|(to, from, byte)| Write::Sector(to, from, byte));
        proptest::collection::vec(prop_oneof![zeros, sector], 0..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn reads_as_a_file_that_was_written(
            writes in writes(),
            cut in 0..SECTOR,
            reads in proptest::collection::vec((0..GROWN * SECTOR, 0..3 * SECTOR), 20),
        ) {
            let base: Vec<u8> = (0..BASE * SECTOR - cut).map(|i| (i / 7 + i / SECTOR) as u8).collect();
            let mut model = base.clone();
            model.resize(GROWN * SECTOR, 0);
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(base.clone()));
            let mut overlay = LogOverlay::new(storage, to_u64(GROWN * SECTOR));
            for write in &writes {
                match *write {
                    Write::Zeros(start, length) => {
                        model[start * SECTOR..(start + length) * SECTOR].fill(0);
                        overlay.put_zeros(to_u64(start * SECTOR), to_u64(length * SECTOR));
                    }
                    Write::Sector(to, from, byte) => {
                        // the last sector of a cut file is not whole, so it is not read from
                        let from = from.min(BASE - 2) * SECTOR;
                        let mut bytes = base[from..from + SECTOR].to_vec();
                        bytes[..8].fill(byte);
                        bytes[SECTOR - 4..].fill(!byte);
                        model[to * SECTOR..(to + 1) * SECTOR].copy_from_slice(&bytes);
                        let (leading, trailing) = ([byte; 8], [!byte; 4]);
                        let sector = Sector { at: to_u64(from), leading, trailing };
                        overlay.put_sector(to_u64(to * SECTOR), sector);
                    }
                }
            }
            let mut whole = vec![0xa5; GROWN * SECTOR];
            overlay.read_exact_at(&mut whole, 0).unwrap();
            prop_assert!(whole == model, "the whole differs");
            for (offset, length) in reads {
                let length = length.min(GROWN * SECTOR - offset);
                let mut bytes = vec![0xa5; length];
                overlay.read_exact_at(&mut bytes, to_u64(offset)).unwrap();
                prop_assert!(bytes == model[offset..offset + length], "{offset}+{length} differs");
            }
            let mut at = 0;
            while at < GROWN * SECTOR {
                let run = overlay.run_at(to_u64(at), u64::MAX).unwrap();
                let length = to_usize(run.length);
                prop_assert!(length > 0 && at + length <= GROWN * SECTOR);
                if run.hole {
                    prop_assert!(model[at..at + length].iter().all(|&b| b == 0));
                }
                at += length;
            }
        }
    }

    #[test]
    fn nothing_lies_beyond_the_end() {
        let overlay = LogOverlay::new(Arc::new(MemoryStorage::new(vec![1; 10])), 4);
        assert_eq!(overlay.size(), 10, "replaying never shortens the file");
        overlay.read_exact_at(&mut [0; 10], 0).unwrap();
        for (length, offset) in [(11, 0), (1, 10), (1, u64::MAX)] {
            assert!(overlay.read_exact_at(&mut vec![0; length], offset).is_err());
        }
    }
}
