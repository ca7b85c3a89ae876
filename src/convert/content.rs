//! What the identifiers of an image are derived from, where it is not told: the content of the disk.

use md5::{Digest, Md5};

use crate::bytes::is_zero;
use crate::num::to_u64;

/// How much of the disk is summed up at a time, from a multiple of it on. All segments are multiples
/// of it, so that the answer does not depend on how long they are.
const CHUNK: usize = 64 << 10;

/// Two checksums of each chunk that is not all zeros, and where it lies.
pub(super) fn sums(bytes: &[u8], start: u64) -> Vec<u8> {
    let mut sums = Vec::new();
    let mut at = start;
    for chunk in bytes.chunks(CHUNK) {
        if !is_zero(chunk) {
            sums.extend(at.to_le_bytes());
            sums.extend(crc32c::crc32c(chunk).to_le_bytes());
            sums.extend(crc32fast::hash(chunk).to_le_bytes());
        }
        at = at.saturating_add(to_u64(chunk.len()));
    }
    sums
}

/// What comes of the sums of all chunks, in their order. It tells disks apart and is nothing to rely
/// on against malice.
#[derive(Debug, Clone, Default)]
pub(super) struct Content(Md5);

impl Content {
    pub(super) fn take(&mut self, sums: &[u8]) {
        self.0.update(sums);
    }

    pub(super) fn digest(&self, size: u64) -> [u8; 16] {
        self.0.clone().chain_update(size.to_le_bytes()).finalize().into()
    }
}
