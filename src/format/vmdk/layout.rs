//! On-disk constants, under the names of the technical note where it has them. All numbers on
//! disk are little-endian; places and sizes are counted in sectors of 512 bytes.
//!
//! ```
//! use diskimage::format::vmdk::layout::{FLAG_COMPRESSED, SECTOR, SPARSE_MAGIC, sectors};
//! use diskimage::format::vmdk::{Subformat, VmdkOptions};
//!
//! # let mut bytes = Vec::new();
//! # let target = diskimage::target::StreamTarget::new(&mut bytes);
//! let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 30)?;
//! # diskimage::Convert::new().create(writer, &target)?;
//! # diskimage::Target::finish(Box::new(target))?;
//! // `bytes` is what it makes of an empty disk
//! let number = |at: usize| bytes[at..at + 4].iter().rev().fold(0, |n, &b| n << 8 | u32::from(b));
//! assert_eq!(number(0), SPARSE_MAGIC);
//! assert!(number(8) & FLAG_COMPRESSED != 0);
//! assert_eq!(sectors(number(12).into()), Some(1 << 30)); // capacity
//! assert_eq!(bytes.len() as u64 % SECTOR, 0);
//! # Ok::<(), diskimage::Error>(())
//! ```

/// Length of a sector in bytes.
pub const SECTOR: u64 = 512;

/// Bytes of `sectors` sectors; `None` beyond 64 bits.
///
/// ```
/// use diskimage::format::vmdk::layout::sectors;
///
/// assert_eq!(sectors(128), Some(64 << 10));
/// assert_eq!(sectors(1 << 60), None);
/// ```
#[must_use]
pub const fn sectors(sectors: u64) -> Option<u64> {
    sectors.checked_mul(SECTOR)
}

/// `SPARSE_MAGICNUMBER`, the bytes `KDMV` ("Hosted Sparse Extents").
pub const SPARSE_MAGIC: u32 = 0x564d_444b;
/// Length of a `SparseExtentHeader`, and of a marker.
pub const HEADER_LENGTH: usize = 512;
/// Versions of hosted sparse extents: 2 has zeroed grains, 3 large extents and change tracking.
pub const SPARSE_VERSIONS: std::ops::RangeInclusive<u32> = 1..=3;

/// Flag bit 0: the four characters that show whether line ends were changed are there.
pub const FLAG_NEWLINE_TEST: u32 = 1 << 0;
/// Flag bit 1: there is a redundant grain directory with grain tables of its own.
pub const FLAG_REDUNDANT: u32 = 1 << 1;
/// Flag bit 2: a grain table entry of 1 means a grain of zeros.
pub const FLAG_ZEROED_GRAIN: u32 = 1 << 2;
/// Flag bit 16: grains are compressed.
pub const FLAG_COMPRESSED: u32 = 1 << 16;
/// Flag bit 17: there are markers, and each grain has a header that names it.
pub const FLAG_MARKERS: u32 = 1 << 17;
/// The flags that this crate knows.
pub const FLAGS_KNOWN: u32 =
    FLAG_NEWLINE_TEST | FLAG_REDUNDANT | FLAG_ZEROED_GRAIN | FLAG_COMPRESSED | FLAG_MARKERS;

/// `singleEndLineChar`, `nonEndLineChar`, `doubleEndLineChar1` and `doubleEndLineChar2`.
pub const NEWLINE_TEST: [u8; 4] = *b"\n \r\n";
/// Where in the header they are.
pub const NEWLINE_TEST_OFFSET: u64 = 73;
/// `GD_AT_END`: the header does not know where the grain directory lies, the footer does.
pub const GD_AT_END: u64 = u64::MAX;
/// `COMPRESSION_NONE`.
pub const COMPRESSION_NONE: u16 = 0;
/// `COMPRESSION_DEFLATE`: deflate in a zlib wrapper (RFC 1950).
pub const COMPRESSION_DEFLATE: u16 = 1;

/// Most entries of a grain table. The note has 512 always; QEMU takes fewer, too.
pub const MAX_GTES_PER_GT: u32 = 512;
/// Largest grain, sectors: 1 GiB, which is QEMU's bound. The note has none; 64 KiB is the rule.
pub const MAX_GRAIN: u64 = 0x20_0000;
/// Largest compressed grain, sectors: 8 MiB. Such a grain is decoded in memory as a whole.
pub const MAX_COMPRESSED_GRAIN: u64 = 0x4000;
/// Grain table entry (and, by extension, grain directory entry) of a grain of zeros.
pub const ZEROED_GRAIN: u64 = 1;

/// Most bytes of a descriptor. The note has no bound; its example area is 20 sectors, and 1 MiB
/// holds the extent lines of a 64 TiB disk in 2 GiB pieces.
pub const MAX_DESCRIPTOR: u64 = 1 << 20;
/// `CID_NOPARENT`.
pub const CID_NO_PARENT: u32 = 0xffff_ffff;
/// Descriptor versions that are known.
pub const DESCRIPTOR_VERSIONS: std::ops::RangeInclusive<u32> = 1..=4;

/// `MARKER_EOS`: the end of the stream ("Stream-Optimized Compressed Sparse Extents").
pub const MARKER_EOS: u32 = 0;
/// `MARKER_GT`: a grain table follows.
pub const MARKER_GT: u32 = 1;
/// `MARKER_GD`: the grain directory follows.
pub const MARKER_GD: u32 = 2;
/// `MARKER_FOOTER`: the footer follows.
pub const MARKER_FOOTER: u32 = 3;
/// Length of the header before a compressed grain: the LBA and the size.
pub const GRAIN_HEADER_LENGTH: usize = 12;
/// From the end of a stream back to its footer marker: marker, footer, end-of-stream marker.
pub const FOOTER_AREA: u64 = 3 * SECTOR;

/// `COWDISK_MAGIC`, the bytes `COWD` ("ESX Server Sparse Extents").
pub const COWD_MAGIC: u32 = 0x4457_4f43;
/// The only version of it.
pub const COWD_VERSION: u32 = 1;
/// Length of a `COWDisk_Header`.
pub const COWD_HEADER_LENGTH: usize = 2048;
/// Entries of each of its grain tables.
pub const COWD_GTES_PER_GT: u64 = 4096;

/// Magic of the constant header of an seSparse extent. The note does not describe them; what is
/// here was observed on images of ESXi 6.5 and later.
pub const SESPARSE_MAGIC: u64 = 0x0000_0000_cafe_babe;
/// Its version: 2.1.
pub const SESPARSE_VERSION: u64 = 0x0000_0002_0000_0001;
/// Magic of the volatile header.
pub const SESPARSE_VOLATILE_MAGIC: u64 = 0x0000_0000_cafe_cafe;
/// Length of the fields of the constant header.
pub const SESPARSE_HEADER_LENGTH: usize = 512;
/// The only grain size seen, sectors.
pub const SESPARSE_GRAIN: u64 = 8;
/// The only size of a grain table seen, sectors: 4096 entries.
pub const SESPARSE_GRAIN_TABLE: u64 = 64;
/// Grain directory entry: bits 60-63 are 1 where there is a table, its number in the low half.
pub const SESPARSE_GDE_TABLE: u64 = 0x1000_0000_0000_0000;
/// Grain directory entry: the bits that tell an entry with a table.
pub const SESPARSE_GDE_TYPE: u64 = 0xffff_ffff_0000_0000;
/// Grain table entry: the bits that hold its type.
pub const SESPARSE_GTE_TYPE: u64 = 0xf000_0000_0000_0000;
/// Grain table entry type: nothing was written.
pub const SESPARSE_GTE_UNALLOCATED: u64 = 0;
/// Grain table entry type: unmapped by the guest, reads as zeros.
pub const SESPARSE_GTE_UNMAPPED: u64 = 0x1000_0000_0000_0000;
/// Grain table entry type: zeros.
pub const SESPARSE_GTE_ZERO: u64 = 0x2000_0000_0000_0000;
/// Grain table entry type: the grain's number is in the other bits, its low twelve bits above the
/// others.
pub const SESPARSE_GTE_ALLOCATED: u64 = 0x3000_0000_0000_0000;
