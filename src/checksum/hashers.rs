//! Checksums of bytes that come one after the other, and of which nobody knows how many.

use std::fmt;

use sha2::digest::DynDigest;

use super::lanes::hasher;
use super::{Algorithm, ChecksumDetail, Digest};
use crate::error::Result;

/// Some algorithms at work on the same bytes.
#[derive(Default)]
pub(crate) struct Hashers(Vec<(Algorithm, Kind)>);

enum Kind {
    Serial(Box<dyn DynDigest + Send>),
    Crc32(crc32fast::Hasher),
    Blake3(Box<blake3::Hasher>),
}

impl Hashers {
    pub(crate) fn new(algorithms: &[Algorithm]) -> Result<Self> {
        let kind = |algorithm: &Algorithm| {
            let kind = match algorithm {
                Algorithm::Blkhash => return Err(ChecksumDetail::BlocksOfFile.into()),
                Algorithm::Crc32 => Kind::Crc32(crc32fast::Hasher::new()),
                Algorithm::Blake3 => Kind::Blake3(Box::default()),
                &serial => Kind::Serial(hasher(serial)),
            };
            Ok((*algorithm, kind))
        };
        algorithms.iter().map(kind).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for (_, kind) in &mut self.0 {
            match kind {
                Kind::Serial(hasher) => hasher.update(bytes),
                Kind::Crc32(hasher) => hasher.update(bytes),
                Kind::Blake3(hasher) => {
                    hasher.update(bytes);
                }
            }
        }
    }

    pub(crate) fn finish(self) -> Vec<Digest> {
        let digest = |(algorithm, kind)| {
            let bytes = match kind {
                Kind::Serial(hasher) => hasher.finalize().into_vec(),
                Kind::Crc32(hasher) => hasher.finalize().to_be_bytes().to_vec(),
                Kind::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
            };
            Digest { algorithm, bytes }
        };
        self.0.into_iter().map(digest).collect()
    }
}

impl fmt::Debug for Hashers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(algorithm, _)| algorithm)).finish()
    }
}
