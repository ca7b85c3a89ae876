//! What lies where, under the specification's names.
//!
//! ```
//! use diskimage::format::vhd::VhdOptions;
//! use diskimage::format::vhd::layout::{FOOTER_CHECKSUM, FOOTER_COOKIE, FOOTER_SIZE, TYPE_FIXED};
//!
//! # let mut bytes = Vec::new();
//! # let target = diskimage::target::StreamTarget::new(&mut bytes);
//! let writer = Box::new(VhdOptions::new().fixed(true).writer(1 << 20)?);
//! # diskimage::Convert::new().create(writer, &target)?;
//! # diskimage::Target::finish(Box::new(target))?;
//! // `bytes` is what it makes of an empty disk
//! let footer = &bytes[bytes.len() - FOOTER_SIZE as usize..];
//! assert!(footer.starts_with(FOOTER_COOKIE));
//! assert_eq!(footer[60..64], TYPE_FIXED.to_be_bytes());
//! // the complement of the sum of all bytes but its own
//! let sum: u32 = footer.iter().map(|&byte| u32::from(byte)).sum();
//! let stored = &footer[FOOTER_CHECKSUM..][..4];
//! let own: u32 = stored.iter().map(|&byte| u32::from(byte)).sum();
//! assert_eq!(stored, (!(sum - own)).to_be_bytes());
//! # Ok::<(), diskimage::Error>(())
//! ```

/// A sector: what block allocation table entries count and a bit of a sector bitmap stands for.
pub const SECTOR_SIZE: u64 = 512;

/// The footer's cookie ("Hard Disk Footer Format").
pub const FOOTER_COOKIE: &[u8; 8] = b"conectix";
/// The length of the footer.
pub const FOOTER_SIZE: u64 = 512;
/// The length of the footer that versions before Virtual PC 2004 wrote; the missing byte is one
/// of the reserved ones.
pub const OLD_FOOTER_SIZE: u64 = 511;
/// Where in the footer its checksum lies.
pub const FOOTER_CHECKSUM: usize = 64;
/// The bit of Features that calls the disk temporary.
pub const FEATURE_TEMPORARY: u32 = 1;
/// The major version of footer and dynamic header; another one is incompatible.
pub const VERSION_MAJOR: u32 = 1;

/// Disk Type of a fixed disk.
pub const TYPE_FIXED: u32 = 2;
/// Disk Type of a dynamic disk.
pub const TYPE_DYNAMIC: u32 = 3;
/// Disk Type of a differencing disk.
pub const TYPE_DIFFERENCING: u32 = 4;

/// Time stamps count from the beginning of 2000: that, in seconds since 1970 began.
pub const EPOCH: u64 = 946_684_800;

/// The largest geometry, in sectors. It stands for "larger than cylinders, heads and sectors can
/// say" ("CHS Calculation").
pub const MAX_GEOMETRY: u64 = 65_535 * 16 * 255;
/// The creators whose disks are as large as the geometry says: Virtual PC, and QEMU where it was
/// not told otherwise. The sizes of all others are the Current Size.
pub const GEOMETRY_CREATORS: [&[u8; 4]; 2] = [b"vpc ", b"qemu"];

/// The dynamic header's cookie ("Dynamic Disk Header Format").
pub const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
/// The length of the dynamic header.
pub const HEADER_SIZE: u64 = 1024;
/// Where in the dynamic header its checksum lies.
pub const HEADER_CHECKSUM: usize = 36;
/// Where in it the parent's identifier lies.
pub const HEADER_PARENT_UNIQUE_ID: u64 = 40;
/// Where in it the parent's name lies.
pub const HEADER_PARENT_NAME: u64 = 64;
/// The length of the parent's name.
pub const PARENT_NAME_SIZE: usize = 512;
/// Where in it the parent locator entries lie.
pub const HEADER_LOCATORS: u64 = 576;
/// The number of parent locator entries.
pub const LOCATORS: usize = 8;
/// The length of a parent locator entry.
pub const LOCATOR_SIZE: usize = 24;
/// The longest parent locator that is read. The specification has no bound; Windows paths have
/// at most 32,767 UTF-16 units.
pub const MAX_LOCATOR_LENGTH: u32 = 64 << 10;

/// The smallest block: one sector.
pub const MIN_BLOCK_SIZE: u32 = 512;
/// The largest block that is read. The specification has no bound and says that 512 KiB and 2 MiB
/// are what was tested; beyond 1 GiB hardly anything but a damaged field is left.
pub const MAX_BLOCK_SIZE: u32 = 1 << 30;
/// The block allocation table entry of a block that is not in the file.
pub const BAT_UNUSED: u32 = 0xffff_ffff;

/// Platform code of a path relative to the image, UTF-16 (little-endian in all that was seen).
pub const PLATFORM_W2RU: &[u8; 4] = b"W2ru";
/// Platform code of an absolute Windows path, UTF-16.
pub const PLATFORM_W2KU: &[u8; 4] = b"W2ku";
/// Platform code of a relative path in 8-bit characters, deprecated.
pub const PLATFORM_WI2R: &[u8; 4] = b"Wi2r";
/// Platform code of an absolute path in 8-bit characters, deprecated.
pub const PLATFORM_WI2K: &[u8; 4] = b"Wi2k";
/// Platform code of a file URL in UTF-8 (RFC 2396).
pub const PLATFORM_MACX: &[u8; 4] = b"MacX";
/// Platform code of a Mac OS alias: not a name that means anything elsewhere.
pub const PLATFORM_MAC: &[u8; 4] = b"Mac ";

/// The bit of Features that is always set.
pub const FEATURES_RESERVED: u32 = 2;
/// File Format Version, Header Version: 1.0.
pub const VERSION_1_0: u32 = 0x0001_0000;
/// Creator Host OS: Windows.
pub const HOST_WINDOWS: &[u8; 4] = b"Wi2k";
