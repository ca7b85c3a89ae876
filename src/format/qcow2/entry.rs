//! Entries of the L1 and L2 tables ("Cluster mapping").

use crate::error::Result;
use crate::num::Pow2;

use super::error::Qcow2Detail;
use super::header::Header;
use super::layout::*;

/// What an L1 entry says.
///
/// ```
/// use diskimage::format::qcow2::L1Entry;
/// use diskimage::num::Pow2;
///
/// let cluster = Pow2::from_size(64 << 10).unwrap_or(Pow2::PAGE);
/// assert_eq!(L1Entry::decode(0, cluster)?, L1Entry::Unallocated);
/// let entry = 1 << 63 | 0x5_0000; // COPIED, and where the L2 table lies
/// assert_eq!(L1Entry::decode(entry, cluster)?, L1Entry::Table(0x5_0000));
/// assert!(L1Entry::decode(0x5_0200, cluster).is_err()); // at no multiple of a cluster
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L1Entry {
    /// No L2 table: all clusters are unallocated.
    Unallocated,
    /// The L2 table lies at this offset.
    Table(u64),
}

impl L1Entry {
    /// Decodes an entry ("L1 table entry").
    ///
    /// ```
    /// use diskimage::format::qcow2::L1Entry;
    /// use diskimage::num::Pow2;
    ///
    /// let entry = 1 << 63 | 0x5_0000;
    /// assert_eq!(L1Entry::decode(entry, Pow2::PAGE)?, L1Entry::Table(0x5_0000));
    /// let reserved = L1Entry::decode(entry | 1, Pow2::PAGE).unwrap_err();
    /// assert_eq!(reserved.kind(), diskimage::ErrorKind::Corrupt);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
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
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::format::qcow2::{Header, L2Entry};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
/// let decode = |entry| L2Entry::decode(entry, None, &header, 0);
/// assert_eq!(decode(0)?, L2Entry::Unallocated);
/// assert_eq!(decode(1)?, L2Entry::Zero(None));
/// assert_eq!(decode(1 << 63 | 0x5_0000)?, L2Entry::Standard(0x5_0000));
/// // compressed: from 0x50100 on, up to the end of one more sector
/// let entry = 1 << 62 | 1 << 54 | 0x5_0100;
/// assert_eq!(decode(entry)?, L2Entry::Compressed { offset: 0x5_0100, length: 256 + 512 });
/// # Ok::<(), diskimage::Error>(())
/// ```
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
///
/// ```
/// use diskimage::format::qcow2::Subclusters;
///
/// // of 32 subclusters the first has data, the second reads as zeros
/// let states = Subclusters::decode(0b10 << 32 | 0b01);
/// assert_eq!(states.state(0), (true, false)); // allocated, zero
/// assert_eq!(states.state(1), (false, true));
/// assert_eq!((states.state(2), states.run(2)), ((false, false), 30)); // and all others alike
/// ```
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
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::format::qcow2::{Header, L2Entry, Subclusters};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().extended_l2(true).writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// // an extended entry: a cluster of whose 32 parts the first is written
    /// let states = Subclusters::decode(0b01);
    /// let entry = L2Entry::decode(1 << 63 | 0x5_0000, Some(0b01), &header, 0)?;
    /// assert_eq!(entry, L2Entry::Subclusters { host: Some(0x5_0000), states });
    /// // written, and no cluster that it could be in
    /// assert!(L2Entry::decode(0, Some(0b01), &header, 0).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
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
    ///
    /// ```
    /// use diskimage::format::qcow2::L2Entry;
    ///
    /// assert_eq!(L2Entry::Standard(0x5_0000).host(), Some(0x5_0000));
    /// assert_eq!(L2Entry::Zero(Some(0x6_0000)).host(), Some(0x6_0000)); // set aside
    /// assert_eq!(L2Entry::Compressed { offset: 0x5_0100, length: 768 }.host(), None);
    /// ```
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
    ///
    /// ```
    /// use diskimage::format::qcow2::{L2Entry, Subclusters};
    ///
    /// let entry = |bitmap| L2Entry::Subclusters {
    ///     host: Some(0x5_0000),
    ///     states: Subclusters::decode(bitmap),
    /// };
    /// assert!(entry(0xffff_ffff).is_uniform()); // each has data
    /// assert!(!entry(0b01).is_uniform());
    /// assert!(L2Entry::Unallocated.is_uniform());
    /// ```
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
    ///
    /// ```
    /// use diskimage::format::qcow2::Subclusters;
    ///
    /// let states = Subclusters::decode(0x8000_0000_0000_00ff);
    /// assert_eq!((states.allocated, states.zero), (0xff, 1 << 31));
    /// ```
    #[must_use]
    pub fn decode(bitmap: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
        Self { allocated: half(bitmap), zero: half(bitmap.wrapping_shr(32)) }
    }

    /// Whether subcluster `index` is allocated, and whether it is zero.
    ///
    /// ```
    /// use diskimage::format::qcow2::Subclusters;
    ///
    /// let states = Subclusters { allocated: 0b01, zero: 0b10 };
    /// let words = (0..3).map(|index| match states.state(index) {
    ///     (true, _) => "data",
    ///     (_, true) => "zeros",
    ///     _ => "the backing file's",
    /// });
    /// assert_eq!(words.collect::<Vec<_>>(), ["data", "zeros", "the backing file's"]);
    /// ```
    #[must_use]
    pub fn state(self, index: u32) -> (bool, bool) {
        let bit = |bits: u32| bits.wrapping_shr(index) & 1 != 0;
        (bit(self.allocated), bit(self.zero))
    }

    /// How many subclusters from `index` on have the same state.
    ///
    /// ```
    /// use diskimage::format::qcow2::Subclusters;
    ///
    /// let states = Subclusters { allocated: 0x0000_ffff, zero: 0 };
    /// assert_eq!((states.run(0), states.run(10), states.run(16)), (16, 6, 16));
    /// ```
    #[must_use]
    pub fn run(self, index: u32) -> u32 {
        let (allocated, zero) = self.state(index);
        let flip = |bits: u32, set: bool| if set { !bits } else { bits };
        let other = flip(self.allocated, allocated) | flip(self.zero, zero);
        let rest = SUBCLUSTERS.saturating_sub(index);
        other.wrapping_shr(index).trailing_zeros().clamp(1, rest.max(1))
    }
}
