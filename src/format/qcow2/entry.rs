//! Entries of the L1 and L2 tables ("Cluster mapping").

use crate::error::Result;
use crate::num::Pow2;

use super::error::Qcow2Detail;
use super::header::Header;
use super::layout::*;

/// What an L1 entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L1Entry {
    /// No L2 table: all clusters are unallocated.
    Unallocated,
    /// The L2 table lies at this offset.
    Table(u64),
}

impl L1Entry {
    /// Decodes an entry ("L1 table entry").
    pub fn decode(value: u64, cluster: Pow2) -> Result<Self> {
        let offset = value & ENTRY_OFFSET;
        if value & !(ENTRY_OFFSET | ENTRY_COPIED) != 0 {
            return Err(Qcow2Detail::ReservedBits { what: "L1 entry", value }.into());
        }
        if offset == 0 {
            return Ok(Self::Unallocated);
        }
        if !cluster.is_aligned(offset) {
            let rule = "at a multiple of the cluster size";
            return Err(Qcow2Detail::Misplaced { what: "L2 table", offset, rule }.into());
        }
        Ok(Self::Table(offset))
    }
}

/// What an L2 entry says of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Entry {
    /// Nothing was written.
    Unallocated,
    /// Reads as zeros; the host cluster may be set aside.
    Zero(Option<u64>),
    /// The host cluster's offset.
    Standard(u64),
    /// Where the compressed data start, and how many bytes at most they take up.
    Compressed {
        /// Offset in the image file, not aligned.
        offset: u64,
        /// Up to the end of the last 512-byte sector.
        length: u64,
    },
    /// Has subclusters with states of their own.
    Subclusters {
        /// The host cluster's offset, if there is one.
        host: Option<u64>,
        /// Their states.
        states: Subclusters,
    },
}

/// The second half of an extended L2 entry ("Extended L2 Entries").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subclusters {
    /// Bit n: subcluster n has data in the host cluster.
    pub allocated: u32,
    /// Bit n: subcluster n reads as zeros.
    pub zero: u32,
}

impl L2Entry {
    /// Decodes an entry; `bitmap` is its second half where entries are extended. `guest` is the
    /// offset of the guest cluster, which an external data file must repeat.
    pub fn decode(value: u64, bitmap: Option<u64>, header: &Header, guest: u64) -> Result<Self> {
        if value & L2_COMPRESSED != 0 {
            return Self::decode_compressed(value, header);
        }
        let mut reserved = !(ENTRY_OFFSET | ENTRY_COPIED | L2_ZERO);
        if bitmap.is_some() {
            reserved |= L2_ZERO;
        }
        if value & reserved != 0 {
            return Err(Qcow2Detail::ReservedBits { what: "L2 entry", value }.into());
        }
        let offset = value & ENTRY_OFFSET;
        if !header.cluster.is_aligned(offset) {
            let rule = "at a multiple of the cluster size";
            return Err(Qcow2Detail::Misplaced { what: "data cluster", offset, rule }.into());
        }
        let copied = value & ENTRY_COPIED != 0;
        let host = match offset {
            // offset 0 is a cluster only in an external data file, and only with this flag
            0 if header.has_data_file() && copied => Some(0),
            0 if copied => {
                let rule = "other than 0, since the entry has the flag COPIED";
                return Err(Qcow2Detail::Misplaced { what: "data cluster", offset, rule }.into());
            }
            0 => None,
            offset => Some(offset),
        };
        if header.has_data_file() && host.is_some_and(|host| host != guest) {
            let rule = "at the guest's offset, since it is in an external data file";
            return Err(Qcow2Detail::Misplaced { what: "data cluster", offset, rule }.into());
        }
        match bitmap {
            Some(bitmap) => Self::decode_subclusters(host, Subclusters::decode(bitmap)),
            None if value & L2_ZERO != 0 && header.version < 3 => {
                Err(Qcow2Detail::ZeroFlagInVersion2(value).into())
            }
            None if value & L2_ZERO != 0 => Ok(Self::Zero(host)),
            None => Ok(host.map_or(Self::Unallocated, Self::Standard)),
        }
    }

    /// The host cluster, if there is one of its own.
    #[must_use]
    pub fn host(&self) -> Option<u64> {
        match *self {
            Self::Standard(host) => Some(host),
            Self::Zero(host) | Self::Subclusters { host, .. } => host,
            Self::Unallocated | Self::Compressed { .. } => None,
        }
    }

    /// Whether it says the same of each byte of its cluster, and the entries that follow it can
    /// be held against it by their bits. (Each compressed one is to be checked by itself.)
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        match self {
            Self::Compressed { .. } => false,
            Self::Subclusters { states, .. } => states.run(0) == SUBCLUSTERS,
            _ => true,
        }
    }

    fn decode_compressed(value: u64, header: &Header) -> Result<Self> {
        if header.has_data_file() {
            return Err(Qcow2Detail::CompressedInDataFile.into());
        }
        // bit 63 is to be 0 here; it speaks of the reference count only, so reading goes on
        // bits 0 to x-1 are the offset, x to 61 the number of additional sectors, where
        // x = 62 - (cluster_bits - 8)
        let x = 70u32.saturating_sub(header.cluster.bits());
        let descriptor = value & !(L2_COMPRESSED | ENTRY_COPIED);
        let offset = descriptor & 1u64.wrapping_shl(x).wrapping_sub(1);
        let additional = descriptor.wrapping_shr(x);
        let first = COMPRESSED_SECTOR.saturating_sub(offset & COMPRESSED_SECTOR.wrapping_sub(1));
        let length = additional.saturating_mul(COMPRESSED_SECTOR).saturating_add(first);
        Ok(Self::Compressed { offset, length })
    }

    fn decode_subclusters(host: Option<u64>, states: Subclusters) -> Result<Self> {
        let both = (states.allocated & states.zero).count_ones();
        if both != 0 {
            return Err(Qcow2Detail::BothSubclusterBits(both).into());
        }
        if host.is_none() && states.allocated != 0 {
            return Err(Qcow2Detail::SubclustersWithoutCluster.into());
        }
        Ok(Self::Subclusters { host, states })
    }
}

impl Subclusters {
    /// Splits the bitmap: the low half says allocated, the high half zero.
    #[must_use]
    pub fn decode(bitmap: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
        Self { allocated: half(bitmap), zero: half(bitmap.wrapping_shr(32)) }
    }

    /// Whether subcluster `index` is allocated, and whether it is zero.
    #[must_use]
    pub fn state(self, index: u32) -> (bool, bool) {
        let bit = |bits: u32| bits.wrapping_shr(index) & 1 != 0;
        (bit(self.allocated), bit(self.zero))
    }

    /// How many subclusters from `index` on have the same state.
    #[must_use]
    pub fn run(self, index: u32) -> u32 {
        let (allocated, zero) = self.state(index);
        let flip = |bits: u32, set: bool| if set { !bits } else { bits };
        let other = flip(self.allocated, allocated) | flip(self.zero, zero);
        let rest = SUBCLUSTERS.saturating_sub(index);
        other.wrapping_shr(index).trailing_zeros().clamp(1, rest.max(1))
    }
}
