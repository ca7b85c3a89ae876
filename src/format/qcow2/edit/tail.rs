//! The cluster that the disk ends in: behind the end it must read as zeros.

use byteorder::{BigEndian, ByteOrder};

use crate::bytes::is_zero;
use crate::disk::VirtualDisk;
use crate::error::{Error, Result};
use crate::layer::{Layer, MappingKind};
use crate::num::{to_u64, to_usize};

use super::super::Qcow2Layer;
use super::super::entry::L2Entry;
use super::super::layout::*;
use super::EditDetail;
use super::tables::read;

/// The cluster that a disk of `end` bytes ends in.
#[derive(Clone, Copy)]
pub(super) struct Tail<'a> {
    pub(super) layer: &'a Qcow2Layer,
    pub(super) backing: Option<&'a dyn VirtualDisk>,
    pub(super) end: u64,
    /// Whether bytes of a backing file would show behind the end.
    pub(super) shows: bool,
}

/// What is to be done about the bytes behind the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mend {
    /// They are zeros.
    Nothing,
    /// Zeros are written over them, which nothing else uses: at this offset, so many.
    Over(u64, u64),
    /// The cluster gets a new place.
    Anew,
}

impl Tail<'_> {
    fn within(&self) -> u64 {
        self.layer.header().cluster.within(self.end)
    }

    /// What has to be done, as the cluster's L2 entry says.
    pub(super) fn mend(&self, entry: &[u8]) -> Result<Mend> {
        let (header, within) = (self.layer.header(), self.within());
        let cluster = header.cluster.size();
        let start = header.cluster.floor(self.end);
        let value = entry.get(..8).map(BigEndian::read_u64).unwrap_or_default();
        let bitmap = entry.get(8..16).map(BigEndian::read_u64);
        let shows = if self.shows { Mend::Anew } else { Mend::Nothing };
        match L2Entry::decode(value, bitmap, header, start)? {
            L2Entry::Unallocated => Ok(shows),
            L2Entry::Zero(_) => Ok(Mend::Nothing),
            L2Entry::Standard(host) => {
                let (at, length) = (host.saturating_add(within), cluster.saturating_sub(within));
                Ok(match (self.is_zero(at, length)?, value & ENTRY_COPIED != 0) {
                    (true, _) => Mend::Nothing,
                    (false, true) => Mend::Over(at, length),
                    (false, false) => Mend::Anew,
                })
            }
            L2Entry::Compressed { .. } => {
                let mut bytes = vec![0; to_usize(cluster)];
                self.layer.read_encoded(&mut bytes, start)?;
                let behind = bytes.get(to_usize(within)..).unwrap_or_default();
                Ok(if is_zero(behind) { Mend::Nothing } else { Mend::Anew })
            }
            L2Entry::Subclusters { host, states } => {
                let unit = cluster.wrapping_shr(SUBCLUSTERS.trailing_zeros()).max(1);
                for index in 0..SUBCLUSTERS {
                    let from = unit.saturating_mul(index.into()).max(within);
                    let to = unit.saturating_mul(u64::from(index).saturating_add(1));
                    let (allocated, zero) = states.state(index);
                    if to <= from || zero {
                        continue;
                    }
                    let is_mended = match (allocated, host) {
                        (true, Some(host)) => {
                            self.is_zero(host.saturating_add(from), to.saturating_sub(from))?
                        }
                        _ => !self.shows,
                    };
                    if !is_mended {
                        return Ok(Mend::Anew);
                    }
                }
                Ok(Mend::Nothing)
            }
        }
    }

    /// Whether bytes of the file are zeros; behind its end they are.
    fn is_zero(&self, at: u64, length: u64) -> Result<bool> {
        let there = self.layer.storage().size().saturating_sub(at).min(length);
        Ok(is_zero(&read(self.layer, "a data cluster", at, there)?))
    }

    /// The cluster as it is to be: what the guest sees up to the end, then zeros.
    pub(super) fn content(&self) -> Result<Vec<u8>> {
        let cluster = self.layer.header().cluster;
        let mut bytes = vec![0; to_usize(cluster.size())];
        let seen = bytes.get_mut(..to_usize(self.within())).unwrap_or_default();
        let mut rest = seen;
        let mut at = cluster.floor(self.end);
        while !rest.is_empty() {
            let found = self.layer.map(at, to_u64(rest.len()))?;
            let (part, behind) = rest.split_at_mut(to_usize(found.length).min(rest.len()));
            match found.kind {
                MappingKind::Zero { .. } => {}
                MappingKind::Stored { offset, .. } => {
                    self.layer.storage().read_exact_at(part, offset)?;
                }
                MappingKind::Encoded => self.layer.read_encoded(part, at)?,
                MappingKind::Parent { .. } => self.read_backing(part, at)?,
            }
            at = at.saturating_add(found.length);
            rest = behind;
        }
        Ok(bytes)
    }

    fn read_backing(&self, part: &mut [u8], at: u64) -> Result<()> {
        let Some(backing) = self.backing else {
            return match self.layer.header().backing_file {
                Some(_) => Err(Error::new(EditDetail::BackingMissing)),
                None => Ok(()),
            };
        };
        let there = to_usize(backing.size().saturating_sub(at)).min(part.len());
        backing.read_exact_at(part.get_mut(..there).unwrap_or_default(), at)
    }
}
