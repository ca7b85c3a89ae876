//! The block hash of `blksum`, the project nirs/blkhash.

use std::ops::Range;

use sha2::digest::Output;
use sha2::{Digest, Sha256};

use super::Algorithm;
use super::lanes::{Lane, length};
use crate::bytes::is_zero;
use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};
use crate::parallel::Turn;
use crate::target::stream::zeros;

/// The block hash of `blksum`; see [`Algorithm::Blkhash`].
#[derive(Debug)]
pub(super) struct Blkhash {
    size: u64,
    block: Pow2,
    /// Digests of blocks of zeros, many at once.
    of_zeros: Vec<u8>,
    turn: Turn<Sha256>,
}

/// How many digests of zeros are hashed at once.
const AT_ONCE: usize = 1024;

impl Blkhash {
    pub(super) fn new(size: u64, block: Pow2) -> Self {
        let mut of_zeros = Sha256::new();
        zeros(block.size()).for_each(|piece| of_zeros.update(piece));
        let of_zeros = of_zeros.finalize().repeat(AT_ONCE);
        Self { size, block, of_zeros, turn: Turn::new(Sha256::new()) }
    }

    /// The digest of one block; the last one is made of whole sectors.
    fn digest<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>, length: u64) -> Output<Sha256> {
        let mut hasher = Sha256::new();
        pieces.for_each(|piece| hasher.update(piece));
        zeros(Pow2::SECTOR.ceil(length).saturating_sub(length))
            .for_each(|piece| hasher.update(piece));
        hasher.finalize()
    }

    fn see_zeros(&self, range: &Range<u64>) -> Result<()> {
        let mut blocks = self.block.index(length(range));
        let rest = self.block.within(length(range));
        let last = (rest > 0).then(|| self.digest(zeros(rest), rest));
        self.turn.take(range, |outer| {
            while blocks > 0 {
                let now = blocks.min(to_u64(AT_ONCE));
                let digests = to_usize(now).saturating_mul(Algorithm::Blkhash.digest_length());
                outer.update(self.of_zeros.get(..digests).unwrap_or_default());
                blocks = blocks.saturating_sub(now);
            }
            if let Some(last) = last {
                outer.update(last);
            }
            Ok(())
        })
    }
}

impl Lane for Blkhash {
    /// A million blocks, some ten milliseconds.
    fn longest_zeros(&self) -> u64 {
        self.block.size().saturating_mul(1 << 20)
    }

    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()> {
        let Some(bytes) = bytes else { return self.see_zeros(range) };
        let mut digests = Vec::new();
        for block in bytes.chunks(to_usize(self.block.size())) {
            if to_u64(block.len()) == self.block.size() && is_zero(block) {
                let one = self.of_zeros.get(..Algorithm::Blkhash.digest_length());
                digests.extend_from_slice(one.unwrap_or_default());
            } else {
                digests.extend(self.digest(std::iter::once(block), to_u64(block.len())));
            }
        }
        self.turn.take(range, |outer| {
            outer.update(&digests);
            Ok(())
        })
    }

    fn stop(&self) {
        self.turn.stop();
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        let mut outer = self.turn.into_inner();
        outer.update(Pow2::SECTOR.ceil(self.size).to_le_bytes());
        Ok(outer.finalize().to_vec())
    }
}
