//! On-disk constants, under the specification's names.
//!
//! ```
//! use diskimage::format::qcow2::Qcow2Options;
//! use diskimage::format::qcow2::layout::{ENTRY_COPIED, ENTRY_OFFSET, MAGIC, V3_MIN_HEADER_LENGTH};
//!
//! # let mut bytes = Vec::new();
//! # let target = diskimage::target::StreamTarget::new(&mut bytes);
//! let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
//! # diskimage::Convert::new().create(writer, &target)?;
//! # diskimage::Target::finish(Box::new(target))?;
//! // `bytes` is what it makes of an empty disk
//! // the start of an image: magic, version, and far behind them the length of the header
//! assert!(bytes.starts_with(&[MAGIC, 3].map(u32::to_be_bytes).concat()));
//! assert!(bytes[100..104] >= V3_MIN_HEADER_LENGTH.to_be_bytes()[..]);
//! // an entry for the cluster at 0x50000, to which nothing else refers
//! let entry = ENTRY_COPIED | 0x5_0000;
//! assert_eq!(entry & ENTRY_OFFSET, 0x5_0000);
//! # Ok::<(), diskimage::Error>(())
//! ```

/// The header's first four bytes.
pub const MAGIC: u32 = 0x5146_49fb;

/// Length of a version 2 header ("Header").
pub const V2_HEADER_LENGTH: u32 = 72;
/// Least length of a version 3 header, up to and with `header_length` ("Header").
pub const V3_MIN_HEADER_LENGTH: u32 = 104;

/// Least `cluster_bits`: 512-byte clusters ("Header").
pub const MIN_CLUSTER_BITS: u32 = 9;
/// Largest `cluster_bits` that QEMU opens: 2 MiB. Larger ones are legal but unknown in the wild.
pub const MAX_CLUSTER_BITS: u32 = 21;
/// Least `cluster_bits` with extended L2 entries: subclusters of 512 bytes ("Header").
pub const MIN_EXTENDED_L2_CLUSTER_BITS: u32 = 14;
/// Largest `refcount_order`: 64-bit reference counts ("Header").
pub const MAX_REFCOUNT_ORDER: u32 = 6;
/// The `refcount_order` that version 2 has always.
pub const V2_REFCOUNT_ORDER: u32 = 4;
/// Largest L1 table, bytes. The specification has no bound but notes that QEMU has this one.
pub const MAX_L1_TABLE_SIZE: u64 = 32 << 20;
/// Largest refcount table, bytes. The specification has no bound; QEMU takes 8 MiB, which counts
/// the clusters of a 2 EiB file.
pub const MAX_REFCOUNT_TABLE_SIZE: u64 = 8 << 20;
/// Longest backing file name ("Header"); QEMU holds other names to the same bound.
pub const MAX_NAME_LENGTH: u32 = 1023;

/// Incompatible feature: reference counts may be stale.
pub const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
/// Incompatible feature: any structure may be broken.
pub const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
/// Incompatible feature: guest data lie in another file.
pub const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Incompatible feature: `compression_type` is not deflate.
pub const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;
/// Incompatible feature: 16-byte L2 entries with subclusters.
pub const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// The incompatible features that this crate knows.
pub const INCOMPATIBLE_KNOWN: u64 = INCOMPATIBLE_DIRTY
    | INCOMPATIBLE_CORRUPT
    | INCOMPATIBLE_DATA_FILE
    | INCOMPATIBLE_COMPRESSION_TYPE
    | INCOMPATIBLE_EXTENDED_L2;

/// Compatible feature: reference counts are written lazily.
pub const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;

/// Autoclear feature: the bitmaps extension is consistent.
pub const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// Autoclear feature: the data file is a raw disk by itself.
pub const AUTOCLEAR_DATA_FILE_RAW: u64 = 1 << 1;

/// Header extension: end of the area.
pub const EXTENSION_END: u32 = 0;
/// Header extension: backing file format name.
pub const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Header extension: feature name table.
pub const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
/// Header extension: bitmaps.
pub const EXTENSION_BITMAPS: u32 = 0x2385_2875;
/// Header extension: full disk encryption header pointer.
pub const EXTENSION_CRYPTO: u32 = 0x0537_be77;
/// Header extension: external data file name.
pub const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Length of an entry of the feature name table.
pub const FEATURE_NAME_LENGTH: usize = 48;

/// L1 and L2 entry, bits 9-55: host cluster offset.
pub const ENTRY_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// L1 and L2 entry, bit 63: the reference count is exactly one.
pub const ENTRY_COPIED: u64 = 1 << 63;
/// L2 entry, bit 62: compressed cluster.
pub const L2_COMPRESSED: u64 = 1 << 62;
/// L2 entry of version 3 without subclusters, bit 0: reads as zeros.
pub const L2_ZERO: u64 = 1 << 0;
/// Subclusters in a cluster with extended L2 entries.
pub const SUBCLUSTERS: u32 = 32;
/// Refcount table entry, bits 9-63: refcount block offset.
pub const REFCOUNT_BLOCK_OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// The unit that a compressed cluster's length is counted in.
pub const COMPRESSED_SECTOR: u64 = 512;

/// Length of a snapshot table entry before its variable parts ("Snapshots").
pub const SNAPSHOT_FIXED_LENGTH: u64 = 40;
/// Least extra data of a snapshot in version 3: state size and disk size ("Snapshots").
pub const V3_MIN_SNAPSHOT_EXTRA: u32 = 16;
/// Most extra data of a snapshot that QEMU takes; the specification defines 24 bytes of it.
pub const MAX_SNAPSHOT_EXTRA: u32 = 1024;

/// Length of a bitmap directory entry before its variable parts ("Bitmap directory entry").
pub const BITMAP_FIXED_LENGTH: u64 = 24;
/// Bitmap flag, bit 0: not saved properly, to be considered inconsistent.
pub const BITMAP_IN_USE: u32 = 1 << 0;
/// Bitmap flag, bit 1: tracks writes from the next open on.
pub const BITMAP_AUTO: u32 = 1 << 1;
/// Bitmap flag, bit 2: extra data that is not known does not keep it from being used.
pub const BITMAP_EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
/// The only type of a bitmap: dirty tracking.
pub const BITMAP_TYPE_DIRTY: u8 = 1;
/// A bitmap table entry without a cluster: all bits are set.
pub const BITMAP_ALL_ONES: u64 = 1 << 0;
