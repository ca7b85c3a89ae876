//! The algorithms at work, side by side. What can be computed of a segment alone is computed out of
//! turn, by all threads at once; only what needs all that went before is done in turn.

use std::fmt::Debug;
use std::ops::Range;

use blake3::hazmat::{self, HasherExt, Mode};
use sha2::digest::DynDigest;

use super::blkhash::Blkhash;
use super::manifest::{Block, Blocks};
use super::{Algorithm, Digest};
use crate::convert::{IN_TURN, Observer};
use crate::crc::crc32_of_zeros;
use crate::error::Result;
use crate::num::Pow2;
use crate::parallel::Turn;
use crate::target::stream::zeros;

/// One algorithm at work on a disk.
pub(super) trait Lane: Send + Sync + Debug {
    /// The longest run of zeros that takes hardly more time than a short one.
    fn longest_zeros(&self) -> u64 {
        0
    }

    /// See [`Observer::see`].
    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()>;

    /// See [`Observer::stop`].
    fn stop(&self);

    /// The digest, after all was seen.
    fn finish(self: Box<Self>) -> Result<Vec<u8>>;
}

/// All algorithms of one pass.
#[derive(Debug)]
pub(super) struct Lanes<'a> {
    segment: u64,
    /// With the place of each among the results.
    lanes: Vec<(usize, Box<dyn Lane + 'a>)>,
    algorithms: Vec<Algorithm>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(algorithms: &[Algorithm], size: u64, block: Pow2) -> Self {
        let segment = IN_TURN.max(block.size());
        let mut lanes: Vec<(usize, Box<dyn Lane>)> = Vec::new();
        for (place, &algorithm) in algorithms.iter().enumerate() {
            let lane: Box<dyn Lane> = match algorithm {
                Algorithm::Crc32 => Box::new(Crc32(Turn::new(crc32fast::Hasher::new()))),
                Algorithm::Blake3 => Box::new(Blake3 { size, turn: Turn::new(Tree::default()) }),
                Algorithm::Blkhash => Box::new(Blkhash::new(size, block)),
                serial => Box::new(Serial(Turn::new(hasher(serial)))),
            };
            lanes.push((place, lane));
        }
        // a thread that waits for its turn has done what needs none
        lanes.sort_by_key(|(place, _)| algorithms.get(*place).copied().is_some_and(is_serial));
        Self { segment, lanes, algorithms: algorithms.to_vec() }
    }

    pub(super) fn of_blocks(
        algorithm: Algorithm,
        block: Pow2,
        tell: &'a mut (dyn FnMut(Block<'_>) -> Result<()> + Send),
    ) -> Self {
        let lane: Box<dyn Lane> = Box::new(Blocks::new(algorithm, block, tell));
        let segment = IN_TURN.max(block.size());
        Self { segment, lanes: vec![(0, lane)], algorithms: Vec::new() }
    }

    pub(super) fn finish(self) -> Result<Vec<Digest>> {
        let mut done = Vec::new();
        for (place, lane) in self.lanes {
            done.push((place, lane.finish()?));
        }
        done.sort_by_key(|(place, _)| *place);
        let digests = self.algorithms.into_iter().zip(done);
        Ok(digests.map(|(algorithm, (_, bytes))| Digest { algorithm, bytes }).collect())
    }
}

impl Observer for Lanes<'_> {
    fn segment(&self) -> u64 {
        self.segment
    }

    fn longest_zeros(&self) -> u64 {
        self.lanes.iter().map(|(_, lane)| lane.longest_zeros()).min().unwrap_or_default()
    }

    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()> {
        self.lanes.iter().try_for_each(|(_, lane)| lane.see(range, bytes))
    }

    fn stop(&self) {
        self.lanes.iter().for_each(|(_, lane)| lane.stop());
    }
}

/// Whether every byte needs all that went before.
fn is_serial(algorithm: Algorithm) -> bool {
    !matches!(algorithm, Algorithm::Crc32 | Algorithm::Blake3 | Algorithm::Blkhash)
}

pub(super) fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// A hasher of bytes that come one after the other.
pub(super) fn hasher(algorithm: Algorithm) -> Box<dyn DynDigest + Send> {
    match algorithm {
        Algorithm::Sha512 => Box::new(sha2::Sha512::default()),
        Algorithm::Sha1 => Box::new(sha1::Sha1::default()),
        Algorithm::Md5 => Box::new(md5::Md5::default()),
        _ => Box::new(sha2::Sha256::default()),
    }
}

/// The algorithms that know no shortcut.
struct Serial(Turn<Box<dyn DynDigest + Send>>);

impl Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serial")
    }
}

impl Lane for Serial {
    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()> {
        self.0.take(range, |hasher| {
            match bytes {
                Some(bytes) => hasher.update(bytes),
                None => zeros(length(range)).for_each(|piece| hasher.update(piece)),
            }
            Ok(())
        })
    }

    fn stop(&self) {
        self.0.stop();
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0.into_inner().finalize().into_vec())
    }
}

/// CRC-32, where checksums of neighbours combine to that of both.
#[derive(Debug)]
struct Crc32(Turn<crc32fast::Hasher>);

impl Lane for Crc32 {
    fn longest_zeros(&self) -> u64 {
        u64::MAX
    }

    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()> {
        let part = match bytes {
            Some(bytes) => {
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(bytes);
                hasher
            }
            None => crc32_of_zeros(length(range)),
        };
        self.0.take(range, |hasher| {
            hasher.combine(&part);
            Ok(())
        })
    }

    fn stop(&self) {
        self.0.stop();
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0.into_inner().finalize().to_be_bytes().to_vec())
    }
}

/// BLAKE3, a tree whose leaves know their offsets: segments are whole subtrees, since all but the
/// last have one length, a power of two. Zeros elsewhere hash otherwise, and so have to be hashed.
#[derive(Debug)]
struct Blake3 {
    size: u64,
    turn: Turn<Tree>,
}

/// The values of subtrees that wait for their right neighbours.
#[derive(Debug, Default)]
struct Tree {
    segments: u64,
    stack: Vec<hazmat::ChainingValue>,
}

impl Tree {
    fn merge(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }
}

impl Lane for Blake3 {
    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(range.start);
        match bytes {
            Some(bytes) => {
                hasher.update(bytes);
            }
            None => zeros(length(range)).for_each(|piece| {
                hasher.update(piece);
            }),
        }
        let only = length(range) == self.size;
        let value = if only { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() };
        self.turn.take(range, |tree| {
            tree.stack.push(value);
            tree.segments = tree.segments.saturating_add(1);
            // the last one is left to the end, since the root is merged otherwise
            if range.end < self.size {
                (0..tree.segments.trailing_zeros()).for_each(|_| tree.merge());
            }
            Ok(())
        })
    }

    fn stop(&self) {
        self.turn.stop();
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        let mut tree = self.turn.into_inner();
        while tree.stack.len() > 2 {
            tree.merge();
        }
        let hash = match *tree.stack {
            [left, right] => hazmat::merge_subtrees_root(&left, &right, Mode::Hash),
            [only] => only.into(),
            _ => blake3::hash(&[]),
        };
        Ok(hash.as_bytes().to_vec())
    }
}
