//! A reader over bytes of a file that cannot panic and knows where in the file it is.

use std::borrow::Cow;
use std::marker::PhantomData;

use byteorder::ByteOrder;

use crate::error::{Detail, ErrorKind, Result};
use crate::num::{to_u64, to_usize};

/// A cursor over big-endian structures.
///
/// ```
/// use diskimage::bytes::BeCursor;
///
/// let mut header = BeCursor::new(b"QFI\xfb\0\0\0\x03", 0);
/// assert_eq!(header.u32("the magic")?, 0x5146_49fb);
/// assert_eq!(header.u32("the version")?, 3);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub type BeCursor<'a> = Cursor<'a, BigEndian>;
/// A cursor over little-endian structures.
///
/// ```
/// use diskimage::bytes::LeCursor;
///
/// let mut header = LeCursor::new(b"KDMV\x03\0\0\0", 0);
/// assert_eq!(header.bytes(4, "the magic")?, b"KDMV");
/// assert_eq!(header.u32("the version")?, 3);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub type LeCursor<'a> = Cursor<'a, LittleEndian>;

/// The most significant byte of a number comes first: of QCOW2 and VHD.
///
/// ```
/// use diskimage::bytes::{BigEndian, Cursor};
///
/// let mut cursor = Cursor::<BigEndian>::new(&[0x12, 0x34], 0);
/// assert_eq!(cursor.u16("a number")?, 0x1234);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub enum BigEndian {}
/// The least significant byte of a number comes first: of VMDK, VHDX and VDI.
///
/// ```
/// use diskimage::bytes::{Cursor, LittleEndian};
///
/// let mut cursor = Cursor::<LittleEndian>::new(&[0x12, 0x34], 0);
/// assert_eq!(cursor.u16("a number")?, 0x3412);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub enum LittleEndian {}

/// What both orders can do. There are no others, and no type of a dependency shows in the interface.
mod order {
    pub trait Order {
        fn u16(bytes: &[u8]) -> u16;
        fn u32(bytes: &[u8]) -> u32;
        fn u64(bytes: &[u8]) -> u64;
    }
}

macro_rules! order {
    ($($order:ident),+) => {$(
        impl order::Order for $order {
            fn u16(bytes: &[u8]) -> u16 {
                byteorder::$order::read_u16(bytes)
            }
            fn u32(bytes: &[u8]) -> u32 {
                byteorder::$order::read_u32(bytes)
            }
            fn u64(bytes: &[u8]) -> u64 {
                byteorder::$order::read_u64(bytes)
            }
        }
    )+};
}

order!(BigEndian, LittleEndian);

/// Reads numbers and byte strings one after the other. Every error carries the absolute file
/// offset of the field that is missing.
///
/// ```
/// use diskimage::bytes::BeCursor;
///
/// let mut cursor = BeCursor::new(&[0, 0, 0, 3, 9], 0x100);
/// assert_eq!(cursor.u32("the version")?, 3);
/// // errors say what was wanted, and where in the file
/// assert_eq!(cursor.u32("the size").unwrap_err().offset(), Some(0x104));
/// assert_eq!((cursor.offset(), cursor.rest()), (0x104, &[9][..]));
///
/// // names are padded to eight bytes, and the padding of the last one may be missing
/// let mut names = BeCursor::new(b"ab\0\0\0\0\0\0cd", 0x200);
/// assert_eq!(names.bytes(2, "a name")?, b"ab");
/// names.pad_to(8, 0x200);
/// assert_eq!((names.u8("a name")?, names.u8("a name")?), (b'c', b'd'));
/// names.pad_to(8, 0x200);
/// assert!(names.u64("a number").is_err());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cursor<'a, E> {
    rest: &'a [u8],
    offset: u64,
    order: PhantomData<E>,
}

#[derive(Debug, thiserror::Error)]
#[error("{what} is cut off: {wanted} bytes are needed, {left} are left")]
struct CutOff {
    what: &'static str,
    wanted: usize,
    left: usize,
}

impl Detail for CutOff {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("the file is truncated or damaged; fetch it again".into())
    }
}

impl<'a, E: order::Order> Cursor<'a, E> {
    /// A cursor over `bytes`, which lie at `offset` in their file.
    ///
    /// ```
    /// use diskimage::bytes::{Cursor, LittleEndian};
    ///
    /// let cursor: Cursor<'_, LittleEndian> = Cursor::new(&[1, 2, 3], 0x4000);
    /// assert_eq!((cursor.offset(), cursor.rest()), (0x4000, &[1, 2, 3][..]));
    /// ```
    #[must_use]
    pub fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset, order: PhantomData }
    }

    /// The absolute file offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `length` bytes; `what` names the field in the error.
    pub fn bytes(&mut self, length: usize, what: &'static str) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(length) else {
            let error = crate::Error::new(CutOff { what, wanted: length, left: self.rest.len() });
            return Err(error.at(self.offset));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(to_u64(length));
        Ok(head)
    }

    /// Passes over bytes up to the next multiple of `align`, counted from the cursor's `start`;
    /// stops at the end if they are missing, since trailing padding may be left out.
    pub fn pad_to(&mut self, align: u64, start: u64) {
        let done = self.offset.saturating_sub(start);
        let missing = done.next_multiple_of(align.max(1)).saturating_sub(done);
        let step = to_usize(missing).min(self.rest.len());
        self.rest = self.rest.get(step..).unwrap_or_default();
        self.offset = self.offset.saturating_add(to_u64(step));
    }

    /// The next byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(self.bytes(1, what)?.first().copied().unwrap_or_default())
    }

    /// The next 16-bit number.
    pub fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.bytes(2, what).map(E::u16)
    }

    /// The next 32-bit number.
    pub fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.bytes(4, what).map(E::u32)
    }

    /// The next 64-bit number.
    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.bytes(8, what).map(E::u64)
    }
}

/// Memory that starts at a multiple of 4 KiB: reads and writes past the system's cache demand it, and
/// the kernel copies to such memory four times as fast as to what is out of step with cache lines.
#[derive(Debug, Default)]
pub(crate) struct AlignedBuffer(Vec<u8>);

impl AlignedBuffer {
    /// What the memory starts at a multiple of.
    const UNIT: usize = 4096;

    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// `length` bytes of it, with whatever was in them.
    pub(crate) fn get(&mut self, length: usize) -> &mut [u8] {
        let room = length.saturating_add(Self::UNIT);
        if self.0.len() < room {
            // nothing in it is worth keeping, and fresh zeros cost nothing before they are used
            self.0 = vec![0; room];
        }
        let skip = self.0.as_ptr().align_offset(Self::UNIT);
        let end = skip.saturating_add(length);
        self.0.get_mut(skip..end).unwrap_or_default()
    }
}

/// Whether all bytes are zero, found at the speed of memory.
///
/// ```
/// use diskimage::bytes::is_zero;
///
/// let mut cluster = vec![0; 65_536];
/// assert!(is_zero(&cluster) && is_zero(&[]));
/// cluster[65_535] = 1;
/// assert!(!is_zero(&cluster));
/// ```
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // most data shows itself in the first bytes
    let (head, rest) = bytes.split_at(bytes.len().min(16));
    if head.iter().any(|&byte| byte != 0) {
        return false;
    }
    // 128 bytes at a time without a branch inside, which compilers turn into vector code
    let (chunks, tail) = rest.as_chunks::<128>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && tail.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_byte_order() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let mut be = BeCursor::new(&bytes, 0);
        assert_eq!(be.u8("a").unwrap(), 1);
        assert_eq!(be.u64("b").unwrap(), 0x0203_0405_0607_0809);
        let mut le = LeCursor::new(&bytes, 0);
        assert_eq!(le.u16("a").unwrap(), 0x0201);
        assert_eq!(le.u32("b").unwrap(), 0x0605_0403);
    }

    #[test]
    fn an_error_names_the_absolute_offset() {
        let mut cursor = BeCursor::new(&[0; 6], 0x1000);
        cursor.u32("first").unwrap();
        let error = cursor.u32("second").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.offset(), Some(0x1004));
        assert!(error.to_string().contains("second is cut off"));
        assert_eq!(cursor.rest().len(), 2, "a failed read takes nothing");
    }

    #[test]
    fn padding_counts_from_the_start_and_may_be_missing() {
        let mut cursor = BeCursor::new(&[0; 10], 104);
        cursor.bytes(3, "x").unwrap();
        cursor.pad_to(8, 104);
        assert_eq!(cursor.offset(), 112);
        cursor.bytes(1, "x").unwrap();
        cursor.pad_to(8, 104);
        assert_eq!(cursor.offset(), 114);
    }
}
