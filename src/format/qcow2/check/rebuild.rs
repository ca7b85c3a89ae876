//! Writing the reference counts anew, where the old ones are themselves damaged.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::check::Patch;
use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};

use super::super::layout::MAX_REFCOUNT_TABLE_SIZE;
use super::picture::Picture;
use super::{CHUNK, Exposure, Verdict};

/// What became of it.
pub(super) enum Rebuilt {
    Done,
    Refused(&'static str),
}

const OVERLAPS: &str = "things lie on each other that are not reference counts";
const TOO_LARGE: &str = "a cluster is used more often than its count has room for";
const TOO_MANY: &str = "the file is too long for that";
/// How many blocks are written at most.
const MOST_BLOCKS: usize = 256 << 10;

/// Where the new structures lie: behind all that is used, the table first.
struct Plan {
    /// The blocks by number, ascending.
    blocks: Vec<u64>,
    first: u64,
    table_clusters: u64,
}

/// Writes a new refcount table and its blocks behind all that is used or counted, and then has the
/// header name them. `exposure` shows everything but the old ones.
pub(super) fn rebuild(
    exposure: &Exposure<'_>,
    verdict: &Verdict,
    patch: &mut dyn Patch,
) -> Result<Rebuilt> {
    let (stored, header) = (exposure.stored, exposure.survey.header);
    let per_block = stored.block_entries();
    let mut blocks = BTreeSet::new();
    let (mut refused, mut highest) = (None, verdict.highest);
    exposure.each_window(None, |picture, _| {
        let end = picture.window.end;
        let mut at = picture.next_used(picture.window.start, end);
        while at < end {
            let count = picture.count(at);
            if picture.overlaps(at) {
                refused = Some(OVERLAPS);
            } else if count > stored.largest() {
                refused = refused.or(Some(TOO_LARGE));
            }
            if count > 0 {
                highest = highest.max(Some(at));
                if blocks.len() <= MOST_BLOCKS {
                    blocks.insert(per_block.index(at));
                }
            }
            at = picture.next_used(at.saturating_add(1), end);
        }
        Ok(())
    })?;
    if let Some(why) = refused {
        return Ok(Rebuilt::Refused(why));
    }
    let first = highest.map_or(1, |highest| highest.saturating_add(1));
    let Some(plan) = Plan::new(blocks, first, per_block, header.cluster) else {
        return Ok(Rebuilt::Refused(TOO_MANY));
    };
    plan.write(exposure, patch)?;
    patch.barrier()?;
    let offset = header.cluster.offset_of(plan.first).unwrap_or_default();
    let clusters = u32::try_from(plan.table_clusters).unwrap_or_default();
    let mut fields = offset.to_be_bytes().to_vec();
    fields.extend(clusters.to_be_bytes());
    patch.write(48, &fields, "have the header name the new refcount table")?;
    patch.barrier()?;
    Ok(Rebuilt::Done)
}

impl Plan {
    /// Finds out how many blocks it takes to count all that is used and themselves.
    fn new(mut blocks: BTreeSet<u64>, first: u64, per_block: Pow2, cluster: Pow2) -> Option<Self> {
        loop {
            let before = blocks.len();
            let table = blocks.last()?.saturating_add(1).saturating_mul(8);
            if table > MAX_REFCOUNT_TABLE_SIZE || before > MOST_BLOCKS {
                return None;
            }
            let table_clusters = cluster.count(table);
            let end = first.saturating_add(table_clusters).saturating_add(to_u64(before));
            blocks.extend(per_block.index(first)..=per_block.index(end.saturating_sub(1)));
            if blocks.len() == before {
                return Some(Self { blocks: blocks.into_iter().collect(), first, table_clusters });
            }
        }
    }

    /// The clusters that the new structures take up.
    fn own(&self) -> Range<u64> {
        let end = self.first.saturating_add(self.table_clusters);
        self.first..end.saturating_add(to_u64(self.blocks.len()))
    }

    /// Where the block at this place of the list lies, a cluster number.
    fn place(&self, position: usize) -> u64 {
        self.first.saturating_add(self.table_clusters).saturating_add(to_u64(position))
    }

    fn write(&self, exposure: &Exposure<'_>, patch: &mut dyn Patch) -> Result<()> {
        let cluster = exposure.survey.header.cluster;
        let size = self.table_clusters.saturating_mul(cluster.size());
        let mut table = vec![0; to_usize(size)];
        for (position, &block) in self.blocks.iter().enumerate() {
            let offset = cluster.offset_of(self.place(position)).unwrap_or_default();
            let at = to_usize(block.saturating_mul(8));
            if let Some(entry) = table.get_mut(at..at.saturating_add(8)) {
                entry.copy_from_slice(&offset.to_be_bytes());
            }
        }
        let mut at = cluster.offset_of(self.first).unwrap_or_default();
        for part in table.chunks(CHUNK) {
            patch.write(at, part, "write a new refcount table")?;
            at = at.saturating_add(to_u64(part.len()));
        }
        let mut written = vec![false; self.blocks.len()];
        exposure.each_window(None, |picture, _| {
            for (position, &block) in self.blocks.iter().enumerate() {
                let start = exposure.stored.block_clusters(block).start;
                if picture.window.contains(&start) {
                    self.write_block(exposure, Some(picture), position, patch)?;
                    if let Some(written) = written.get_mut(position) {
                        *written = true;
                    }
                }
            }
            Ok(())
        })?;
        for (position, _) in written.iter().enumerate().filter(|&(_, &written)| !written) {
            self.write_block(exposure, None, position, patch)?;
        }
        Ok(())
    }

    fn write_block(
        &self,
        exposure: &Exposure<'_>,
        picture: Option<&Picture>,
        position: usize,
        patch: &mut dyn Patch,
    ) -> Result<()> {
        let cluster = exposure.survey.header.cluster;
        let mut bytes = vec![0; to_usize(cluster.size())];
        let Some(&block) = self.blocks.get(position) else { return Ok(()) };
        let clusters = exposure.stored.block_clusters(block);
        let own = self.own();
        for (entry, number) in (0..).zip(clusters) {
            let used = picture.map_or(0, |picture| picture.count(number));
            let count = used.saturating_add(u64::from(own.contains(&number)));
            if count > 0 {
                exposure.stored.set_count(&mut bytes, entry, count);
            }
        }
        let at = cluster.offset_of(self.place(position)).unwrap_or_default();
        patch.write(at, &bytes, "write a new refcount block")
    }
}
