//! Arithmetic on offsets that come from strangers: nothing here wraps or panics.

/// A power-of-two size such as a cluster or a block, kept as its exponent.
///
/// ```
/// use diskimage::num::Pow2;
///
/// let cluster = Pow2::from_size(65_536).expect("a power of two");
/// assert_eq!((cluster.bits(), cluster.size()), (16, 65_536));
/// assert_eq!(Some(cluster), Pow2::from_bits(16));
/// assert_eq!(Pow2::from_size(1000), None);
///
/// // where byte 70,000 is: in the second cluster, with so many bytes before and behind it
/// assert_eq!((cluster.index(70_000), cluster.within(70_000), cluster.rest(70_000)), (1, 4464, 61_072));
/// assert_eq!((cluster.floor(70_000), cluster.ceil(70_000)), (65_536, 131_072));
/// assert!(!cluster.is_aligned(70_000));
///
/// // two clusters hold it; and no number of clusters leads beyond what an offset can be
/// assert_eq!(cluster.count(70_000), 2);
/// assert_eq!((cluster.offset_of(2), cluster.offset_of(u64::MAX)), (Some(131_072), None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pow2(u32);

impl Pow2 {
    /// 512 bytes.
    pub const SECTOR: Self = Self(9);
    /// 4 KiB.
    pub const PAGE: Self = Self(12);

    /// `1 << bits`; `None` if that is no 63-bit number.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits < 63 { Some(Self(bits)) } else { None }
    }

    /// The size itself, if it is a power of two below 2^63.
    #[must_use]
    pub const fn from_size(size: u64) -> Option<Self> {
        if size.is_power_of_two() { Self::from_bits(size.trailing_zeros()) } else { None }
    }

    /// The exponent.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The size in units of one.
    #[must_use]
    pub const fn size(self) -> u64 {
        1u64.wrapping_shl(self.0)
    }

    /// Which unit `offset` lies in.
    #[must_use]
    pub const fn index(self, offset: u64) -> u64 {
        offset.wrapping_shr(self.0)
    }

    /// Where inside its unit `offset` lies.
    #[must_use]
    pub const fn within(self, offset: u64) -> u64 {
        offset & self.mask()
    }

    /// The start of the unit that `offset` lies in.
    #[must_use]
    pub const fn floor(self, offset: u64) -> u64 {
        offset & !self.mask()
    }

    /// `offset` rounded up to a whole unit; saturates at the largest whole unit.
    #[must_use]
    pub const fn ceil(self, offset: u64) -> u64 {
        self.floor(offset.saturating_add(self.mask()))
    }

    /// How many units hold `length` bytes.
    #[must_use]
    pub const fn count(self, length: u64) -> u64 {
        let whole = self.index(length);
        if self.within(length) == 0 { whole } else { whole.wrapping_add(1) }
    }

    /// The offset of the unit number `index`; `None` beyond 64 bits.
    #[must_use]
    pub const fn offset_of(self, index: u64) -> Option<u64> {
        index.checked_mul(self.size())
    }

    /// Whether `offset` is a whole number of units.
    #[must_use]
    pub const fn is_aligned(self, offset: u64) -> bool {
        self.within(offset) == 0
    }

    /// From `offset` to the end of its unit.
    #[must_use]
    pub const fn rest(self, offset: u64) -> u64 {
        self.size().wrapping_sub(self.within(offset))
    }

    const fn mask(self) -> u64 {
        self.size().wrapping_sub(1)
    }
}

/// `value` as a `usize`, at most `usize::MAX`. For lengths already bounded by a buffer.
///
/// ```
/// use diskimage::num::to_usize;
///
/// let buffer = [0u8; 512];
/// let claimed: u64 = 1 << 40;
/// assert_eq!(buffer.get(..to_usize(claimed)), None); // never a panic, nor a number that wrapped
/// ```
#[must_use]
pub fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// `value` as a `u64`: every `usize` this crate runs on fits.
///
/// ```
/// use diskimage::num::to_u64;
///
/// let sector = [0u8; 512];
/// assert_eq!(to_u64(sector.len()), 512);
/// ```
#[must_use]
pub fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_plain_arithmetic(bits in 0u32..40, offset in 0u64..1 << 50) {
            let unit = Pow2::from_bits(bits).unwrap();
            let size = 1u64 << bits;
            prop_assert_eq!(unit.size(), size);
            prop_assert_eq!(unit.index(offset), offset / size);
            prop_assert_eq!(unit.within(offset), offset % size);
            prop_assert_eq!(unit.floor(offset), offset / size * size);
            prop_assert_eq!(unit.ceil(offset), offset.div_ceil(size) * size);
            prop_assert_eq!(unit.count(offset), offset.div_ceil(size));
            prop_assert_eq!(unit.rest(offset), size - offset % size);
            prop_assert_eq!(unit.is_aligned(offset), offset % size == 0);
            prop_assert_eq!(unit.offset_of(offset), offset.checked_mul(size));
            prop_assert_eq!(Pow2::from_size(size), Some(unit));
        }
    }

    #[test]
    fn the_ends_of_the_range_do_not_wrap() {
        let unit = Pow2::from_bits(16).unwrap();
        assert_eq!(unit.ceil(u64::MAX), unit.floor(u64::MAX));
        assert_eq!(unit.count(u64::MAX), 1 << 48);
        assert_eq!(Pow2::from_bits(63), None);
        assert_eq!(Pow2::from_size(0), None);
        assert_eq!(Pow2::from_size(3), None);
    }
}
