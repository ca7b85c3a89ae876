//! Manifests: the digests of all blocks of a disk, so that a difference has a place.

use std::fmt::Debug;
use std::ops::Range;

use super::lanes::{Lane, hasher, length};
use super::{Algorithm, Checksum, ChecksumDetail, block_of};
use crate::bytes::is_zero;
use crate::disk::VirtualDisk;
use crate::error::Result;
use crate::num::{Pow2, to_usize};
use crate::parallel::Turn;

/// What a manifest says of the next block, or blocks.
///
/// As text, a line for each block or run of zeros:
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::checksum::{Algorithm, Block, Checksum};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, OpenOptions};
///
/// # let storage = Arc::new(MemoryStorage::new([[0; 4096], [7; 4096]].concat()));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let mut lines = Vec::new();
/// Checksum::new().algorithm(Algorithm::Crc32).blocks(&disk, 4096, |block| {
///     lines.push(match block {
///         Block::Digest(digest) => digest.iter().map(|byte| format!("{byte:02x}")).collect(),
///         Block::Zeros(blocks) => format!("zeros {blocks}"),
///     });
///     Ok(())
/// })?;
/// assert_eq!(lines[0], "zeros 1");
/// assert_eq!(lines[1].len(), 8);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block<'a> {
    /// The digest of a block that is not all zeros.
    Digest(&'a [u8]),
    /// So many blocks of zeros.
    Zeros(u64),
}

/// The digests of all blocks of a disk.
///
/// ```
/// use diskimage::checksum::{Algorithm, Block, Checksum, Manifest};
/// use diskimage::disk::EmptyDisk;
///
/// let mut manifest = Manifest::new(Algorithm::Sha256, 4096, 1 << 20)?;
/// manifest.push(Block::Zeros(256))?;
/// assert!(manifest.verify(&Checksum::new(), &EmptyDisk(1 << 20))?.is_empty());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    algorithm: Algorithm,
    block: Pow2,
    size: u64,
    /// Runs of blocks: zeros, or as many digests as follow one another.
    runs: Vec<Run>,
    digests: Vec<u8>,
    blocks: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    zeros: bool,
    blocks: u64,
}

impl Manifest {
    /// A manifest of a disk of `size` bytes, without any block yet.
    pub fn new(algorithm: Algorithm, block_size: u64, size: u64) -> Result<Self> {
        if algorithm == Algorithm::Blkhash {
            return Err(ChecksumDetail::BlocksOfBlocks.into());
        }
        let block = block_of(block_size)?;
        Ok(Self { algorithm, block, size, runs: Vec::new(), digests: Vec::new(), blocks: 0 })
    }

    /// Adds what comes next. An error if the disk has no such block, or the digest is of another
    /// length.
    pub fn push(&mut self, block: Block<'_>) -> Result<()> {
        let blocks = match block {
            Block::Zeros(blocks) => blocks,
            Block::Digest(digest) if digest.len() == self.algorithm.digest_length() => {
                self.digests.extend_from_slice(digest);
                1
            }
            Block::Digest(_) => {
                return Err(ChecksumDetail::Manifest("a digest is of the wrong length").into());
            }
        };
        self.blocks = self.blocks.saturating_add(blocks);
        if self.blocks > self.block.count(self.size) {
            return Err(ChecksumDetail::Manifest("it has more blocks than the disk").into());
        }
        let zeros = matches!(block, Block::Zeros(_));
        match self.runs.last_mut() {
            Some(run) if run.zeros == zeros => run.blocks = run.blocks.saturating_add(blocks),
            _ => self.runs.push(Run { zeros, blocks }),
        }
        Ok(())
    }

    /// Refuses a manifest that ends before the disk does.
    ///
    /// ```
    /// use diskimage::checksum::{Algorithm, Block, Manifest};
    ///
    /// // as it is read from somewhere, block by block
    /// let mut manifest = Manifest::new(Algorithm::Crc32, 4096, 10_000)?;
    /// assert_eq!((manifest.algorithm(), manifest.size()), (Algorithm::Crc32, 10_000));
    /// manifest.push(Block::Digest(&[0xb2, 0xaa, 0x75, 0x78]))?;
    /// assert!(manifest.push(Block::Digest(&[0xb2, 0xaa])).is_err()); // too short
    /// assert!(manifest.check_whole().is_err()); // the disk has three blocks
    /// manifest.push(Block::Zeros(2))?;
    /// manifest.check_whole()?;
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn check_whole(&self) -> Result<()> {
        if self.blocks < self.block.count(self.size) {
            return Err(ChecksumDetail::Manifest("it has fewer blocks than the disk").into());
        }
        Ok(())
    }

    /// Compares a disk with it, block by block: the guest ranges that differ, ascending and apart
    /// from each other. Where sizes differ, what only one of them has is a difference. The options
    /// are those of `checksum`, but for the algorithm.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::checksum::{Algorithm, Checksum, Manifest};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Format, OpenOptions, VirtualDisk};
    ///
    /// let open = |bytes: Vec<u8>| {
    ///     let options = OpenOptions::new().format(Format::Raw);
    ///     options.open_storage(Arc::new(MemoryStorage::new(bytes)), Path::new("disk"))
    /// };
    /// let before = open(vec![7; 1 << 20])?;
    /// let job = Checksum::new().algorithm(Algorithm::Blake3);
    /// let mut manifest = Manifest::new(Algorithm::Blake3, 4096, before.size())?;
    /// job.blocks(&before, 4096, |block| manifest.push(block))?;
    ///
    /// let mut bytes = vec![7; 1 << 20];
    /// bytes[10_000] = 8;
    /// assert_eq!(manifest.verify(&job, &open(bytes)?)?, [8192..12_288]);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn verify(&self, checksum: &Checksum, disk: &dyn VirtualDisk) -> Result<Vec<Range<u64>>> {
        self.check_whole()?;
        let mut differing: Vec<Range<u64>> = Vec::new();
        let end = self.size.max(disk.size());
        let mut at = 0_u64;
        let mut differ = |first: u64, blocks: u64| {
            let offset = |block: u64| self.block.offset_of(block).unwrap_or(u64::MAX).min(end);
            let range = offset(first)..offset(first.saturating_add(blocks));
            match differing.last_mut() {
                _ if range.is_empty() => {}
                Some(last) if last.end == range.start => last.end = range.end,
                _ => differing.push(range),
            }
        };
        let mut wanted = Cursor { manifest: self, run: 0, used: 0, digest: 0 };
        let mut checksum = checksum.clone();
        checksum.algorithms = vec![self.algorithm];
        // the last block of a disk of another size is another block
        let common = if self.size == disk.size() {
            self.block.count(end)
        } else {
            self.block.index(self.size.min(disk.size()))
        };
        checksum.blocks(disk, self.block.size(), |block| {
            let mut left = match block {
                Block::Digest(_) => 1,
                Block::Zeros(blocks) => blocks,
            };
            while left > 0 && at < common {
                let (theirs, run) = wanted.next(left.min(common.saturating_sub(at)));
                let same = match (block, theirs) {
                    (Block::Digest(ours), Some(theirs)) => ours == theirs,
                    (Block::Zeros(_), None) => true,
                    _ => false,
                };
                if !same {
                    differ(at, run);
                }
                at = at.saturating_add(run);
                left = left.saturating_sub(run);
            }
            Ok(())
        })?;
        differ(common, self.block.count(end).saturating_sub(common));
        Ok(differing)
    }

    /// How it was computed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The size of the disk, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Goes through the blocks of a manifest.
struct Cursor<'a> {
    manifest: &'a Manifest,
    run: usize,
    /// Blocks of that run that are behind.
    used: u64,
    /// Where the next digest begins.
    digest: usize,
}

impl<'a> Cursor<'a> {
    /// The next block's digest; or no digest and how many blocks of zeros, at most `max`.
    fn next(&mut self, max: u64) -> (Option<&'a [u8]>, u64) {
        let Some(run) = self.manifest.runs.get(self.run) else { return (Some(&[]), max) };
        let left = run.blocks.saturating_sub(self.used);
        if left == 0 {
            self.run = self.run.saturating_add(1);
            self.used = 0;
            return self.next(max);
        }
        let blocks = if run.zeros { left.min(max) } else { 1 };
        self.used = self.used.saturating_add(blocks);
        if run.zeros {
            return (None, blocks);
        }
        let start = self.digest;
        self.digest = start.saturating_add(self.manifest.algorithm.digest_length());
        (Some(self.manifest.digests.get(start..self.digest).unwrap_or_default()), 1)
    }
}

/// The lane that tells the digests of single blocks.
pub(super) struct Blocks<'a> {
    algorithm: Algorithm,
    block: Pow2,
    turn: Turn<Told<'a>>,
}

/// What was told, and what is put off until the end of a run of zeros.
struct Told<'a> {
    tell: &'a mut (dyn FnMut(Block<'_>) -> Result<()> + Send),
    zeros: u64,
}

impl Told<'_> {
    fn flush(&mut self) -> Result<()> {
        match std::mem::take(&mut self.zeros) {
            0 => Ok(()),
            zeros => (self.tell)(Block::Zeros(zeros)),
        }
    }
}

impl Debug for Blocks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl<'a> Blocks<'a> {
    pub(super) fn new(
        algorithm: Algorithm,
        block: Pow2,
        tell: &'a mut (dyn FnMut(Block<'_>) -> Result<()> + Send),
    ) -> Self {
        Self { algorithm, block, turn: Turn::new(Told { tell, zeros: 0 }) }
    }

    /// The digest of a block; none of zeros.
    fn digest(&self, block: &[u8]) -> Option<Vec<u8>> {
        (!is_zero(block)).then(|| match self.algorithm {
            Algorithm::Blake3 => blake3::hash(block).as_bytes().to_vec(),
            Algorithm::Crc32 => crc32fast::hash(block).to_be_bytes().to_vec(),
            serial => {
                let mut hasher = hasher(serial);
                hasher.update(block);
                hasher.finalize().into_vec()
            }
        })
    }
}

impl Lane for Blocks<'_> {
    fn longest_zeros(&self) -> u64 {
        u64::MAX
    }

    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()> {
        let blocks = bytes.unwrap_or_default().chunks(to_usize(self.block.size()));
        let digests: Vec<_> = blocks.map(|block| self.digest(block)).collect();
        let all_zeros = self.block.count(length(range));
        self.turn.take(range, |told| {
            if bytes.is_none() {
                told.zeros = told.zeros.saturating_add(all_zeros);
            }
            for digest in &digests {
                match digest {
                    None => told.zeros = told.zeros.saturating_add(1),
                    Some(digest) => {
                        told.flush()?;
                        (told.tell)(Block::Digest(digest))?;
                    }
                }
            }
            Ok(())
        })
    }

    fn stop(&self) {
        self.turn.stop();
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        self.turn.into_inner().flush()?;
        Ok(Vec::new())
    }
}
