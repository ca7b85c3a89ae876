//! What lies where, under the names of VirtualBox's `VDICore.h`. All numbers are little-endian.
//!
//! ```
//! use diskimage::format::vdi::VdiOptions;
//! use diskimage::format::vdi::layout::{AT_BLOCK_SIZE, AT_DISK_SIZE, SIGNATURE};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.vdi");
//! # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
//! let writer = VdiOptions::new().writer(8 << 20)?;
//! # diskimage::Convert::new().create(Box::new(writer), &target)?;
//! # diskimage::Target::finish(Box::new(target))?;
//! // `path` is the file that it makes of an empty disk
//! let bytes = std::fs::read(&path)?;
//! assert_eq!(bytes[0x40..0x44], SIGNATURE.to_le_bytes());
//! let at = |offset: u64, length: usize| &bytes[offset as usize..][..length];
//! assert_eq!(at(AT_DISK_SIZE, 8), (8u64 << 20).to_le_bytes());
//! assert_eq!(at(AT_BLOCK_SIZE, 4), (1u32 << 20).to_le_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// The length of `szFileInfo`, a text that names the maker and tells nothing.
pub const FILE_INFO_SIZE: usize = 64;
/// `u32Signature`, at offset 0x40: what a VDI is known by.
pub const SIGNATURE: u32 = 0xbeda_107f;
/// The length of the pre-header: text, signature, version.
pub const PREHEADER_SIZE: u64 = 72;
/// The version whose header is read, major: 1. Version 0 of 2006 had other fields.
pub const VERSION_MAJOR: u32 = 1;
/// The largest minor version that is known.
pub const VERSION_MINOR: u32 = 1;
/// The least `cbHeader`: a header without the second geometry.
pub const HEADER1_SIZE: u32 = 0x180;
/// `cbHeader` with it, as all but the oldest images have.
pub const HEADER1PLUS_SIZE: u32 = 0x190;
/// The length of `szComment`.
pub const COMMENT_SIZE: usize = 256;

/// `u32Type` of an image that grows.
pub const TYPE_NORMAL: u32 = 1;
/// `u32Type` of an image that has all blocks from the start.
pub const TYPE_FIXED: u32 = 2;
/// `u32Type` of an undo image, which no released program wrote.
pub const TYPE_UNDO: u32 = 3;
/// `u32Type` of an image of what differs from another one.
pub const TYPE_DIFF: u32 = 4;
/// `fFlags`: new blocks are filled with zeros.
pub const FLAG_ZERO_EXPAND: u32 = 1;

/// `cbSector`: always this.
pub const SECTOR_SIZE: u32 = 512;
/// The smallest block: one sector.
pub const MIN_BLOCK_SIZE: u32 = 512;
/// The largest block that is read. There is no bound; all known images have 1 MiB, and beyond
/// 1 GiB hardly anything but a damaged field is left.
pub const MAX_BLOCK_SIZE: u32 = 1 << 30;

/// The block map's entry for a block that is not in the file: the parent's, or zeros.
pub const BLOCK_FREE: u32 = 0xffff_ffff;
/// The block map's entry for a block of zeros that is not in the file.
pub const BLOCK_ZERO: u32 = 0xffff_fffe;

/// Where `cbHeader` lies.
pub const AT_HEADER_SIZE: u64 = 0x48;
/// Where `u32Type` lies.
pub const AT_TYPE: u64 = 0x4c;
/// Where `offBlocks` lies.
pub const AT_BLOCKS: u64 = 0x154;
/// Where `offData` lies.
pub const AT_DATA: u64 = 0x158;
/// Where `cbSector` lies.
pub const AT_SECTOR_SIZE: u64 = 0x168;
/// Where `cbDisk` lies.
pub const AT_DISK_SIZE: u64 = 0x170;
/// Where `cbBlock` lies.
pub const AT_BLOCK_SIZE: u64 = 0x178;
/// Where `cBlocks` lies.
pub const AT_BLOCK_COUNT: u64 = 0x180;
/// Where `cBlocksAllocated` lies.
pub const AT_BLOCKS_ALLOCATED: u64 = 0x184;
/// Where `uuidLinkage` lies.
pub const AT_LINKAGE: u64 = 0x1a8;
/// Where `uuidParentModify` lies.
pub const AT_PARENT_MODIFY: u64 = 0x1b8;
/// The length of the part that every header has.
pub const HEADER_END: u64 = 0x1c8;
