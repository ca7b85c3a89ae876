//! On-disk constants, under the specification's names. All numbers are little-endian.
//!
//! ```
//! use diskimage::format::vhdx::VhdxOptions;
//! use diskimage::format::vhdx::layout::*;
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.vhdx");
//! # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
//! let writer = VhdxOptions::new().writer(1 << 30)?;
//! # diskimage::Convert::new().create(Box::new(writer), &target)?;
//! # diskimage::Target::finish(Box::new(target))?;
//! // `path` is the file that it makes of an empty disk
//! let bytes = std::fs::read(&path)?;
//! assert!(bytes.starts_with(FILE_IDENTIFIER_SIGNATURE));
//! for offset in HEADER_OFFSETS {
//!     assert!(bytes[offset as usize..].starts_with(HEADER_SIGNATURE));
//! }
//! // an entry of the block allocation table
//! let entry = 5 * MIB | PAYLOAD_FULLY_PRESENT;
//! assert_eq!((entry & BAT_STATE, entry & BAT_FILE_OFFSET), (6, 5 << 20));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::guid::Guid;

/// Least unit of placement of everything but the header section's parts ("1 MB").
pub const MIB: u64 = 1 << 20;

/// Length of the header section (2.2): identifier, two headers, two region tables, reserved room.
/// Nothing else lies in it, so no file is shorter.
pub const HEADER_SECTION_LENGTH: u64 = MIB;

/// Signature of the file type identifier (2.2.1).
pub const FILE_IDENTIFIER_SIGNATURE: &[u8] = b"vhdxfile";
/// Where the identifier's creator lies: 256 UTF-16 code units.
pub const CREATOR_OFFSET: u64 = 8;
/// Length of the creator, bytes.
pub const CREATOR_LENGTH: usize = 512;

/// Signature of a header (2.2.2).
pub const HEADER_SIGNATURE: &[u8] = b"head";
/// Where the two headers lie.
pub const HEADER_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
/// Length of a header: what its checksum covers.
pub const HEADER_LENGTH: usize = 4 << 10;
/// The one format version.
pub const VERSION: u16 = 1;
/// The one version of the log.
pub const LOG_VERSION: u16 = 0;

/// Signature of a region table (2.2.3).
pub const REGION_TABLE_SIGNATURE: &[u8] = b"regi";
/// Where the two region tables lie.
pub const REGION_TABLE_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
/// Length of a region table: what its checksum covers.
pub const REGION_TABLE_LENGTH: usize = 64 << 10;
/// Most entries of a region or metadata table: what fits behind the table's header.
pub const MAX_TABLE_ENTRIES: u32 = 2047;
/// Region table entry, bit 0 of the flags: whoever does not know the region must not go on.
pub const REGION_REQUIRED: u32 = 1 << 0;
/// The region of the block allocation table.
pub const REGION_BAT: Guid = Guid::of(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
/// The region of the metadata.
pub const REGION_METADATA: Guid = Guid::of(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);

/// Signature of a log entry (2.3.1.1).
pub const LOG_ENTRY_SIGNATURE: &[u8] = b"loge";
/// Signature of a zero descriptor (2.3.1.2).
pub const ZERO_DESCRIPTOR_SIGNATURE: &[u8] = b"zero";
/// Signature of a data descriptor (2.3.1.3).
pub const DATA_DESCRIPTOR_SIGNATURE: &[u8] = b"desc";
/// Signature of a data sector (2.3.1.4).
pub const DATA_SECTOR_SIGNATURE: &[u8] = b"data";
/// The unit of the log: entries, descriptors' areas and what they write are whole numbers of it.
pub const LOG_SECTOR: u64 = 4 << 10;
/// Length of a log entry's header, behind which the descriptors begin.
pub const LOG_ENTRY_HEADER_LENGTH: u64 = 64;
/// Length of a descriptor.
pub const LOG_DESCRIPTOR_LENGTH: u64 = 32;
/// Most separate runs of bytes that a log may replace in memory: not in the specification. A log
/// of 1 MiB, the usual length, holds at most 32,766 descriptors.
pub const MAX_LOG_RUNS: usize = 1 << 18;

/// Signature of the metadata table (2.6.1.1).
pub const METADATA_SIGNATURE: &[u8] = b"metadata";
/// Length of the metadata table, behind which the items lie.
pub const METADATA_TABLE_LENGTH: u64 = 64 << 10;
/// Most metadata items of users (2.6.1.2).
pub const MAX_USER_ITEMS: usize = 1024;
/// Largest metadata item (2.6.1.2).
pub const MAX_METADATA_ITEM: u64 = MIB;
/// Metadata entry, bit 0 of the flags: the item is a user's, whatever its identifier.
pub const METADATA_IS_USER: u32 = 1 << 0;
/// Metadata entry, bit 2 of the flags: whoever does not know the item must not go on.
pub const METADATA_IS_REQUIRED: u32 = 1 << 2;
/// Metadata item: file parameters (2.6.2.1).
pub const ITEM_FILE_PARAMETERS: Guid = Guid::of(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
/// Metadata item: virtual disk size (2.6.2.2).
pub const ITEM_VIRTUAL_DISK_SIZE: Guid =
    Guid::of(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
/// Metadata item: virtual disk identifier, SCSI page 83 (2.6.2.3).
pub const ITEM_VIRTUAL_DISK_ID: Guid = Guid::of(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
/// Metadata item: logical sector size (2.6.2.4).
pub const ITEM_LOGICAL_SECTOR_SIZE: Guid =
    Guid::of(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
/// Metadata item: physical sector size (2.6.2.5).
pub const ITEM_PHYSICAL_SECTOR_SIZE: Guid =
    Guid::of(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);
/// Metadata item: parent locator (2.6.2.6).
pub const ITEM_PARENT_LOCATOR: Guid = Guid::of(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);

/// File parameters, bit 0: blocks are never freed, as in a fixed image.
pub const FILE_PARAMETERS_LEAVE_BLOCKS_ALLOCATED: u32 = 1 << 0;
/// File parameters, bit 1: the image is a differencing one.
pub const FILE_PARAMETERS_HAS_PARENT: u32 = 1 << 1;
/// Least block size (2.6.2.1).
pub const MIN_BLOCK_SIZE: u32 = 1 << 20;
/// Largest block size (2.6.2.1).
pub const MAX_BLOCK_SIZE: u32 = 256 << 20;
/// Largest virtual disk (2.6.2.2): 64 TiB.
pub const MAX_VIRTUAL_DISK_SIZE: u64 = 64 << 40;

/// The one type of parent locator: the parent is a VHDX (2.6.2.6.1).
pub const PARENT_LOCATOR_TYPE: Guid = Guid::of(0xb04a_efb7, 0xd19e, 0x4a81, 0xb789_25b8_e944_5913);
/// Length of the parent locator's header.
pub const PARENT_LOCATOR_HEADER_LENGTH: u64 = 20;
/// Length of a parent locator's entry.
pub const PARENT_LOCATOR_ENTRY_LENGTH: u64 = 12;
/// Parent locator key: the parent's `DataWriteGuid`.
pub const KEY_PARENT_LINKAGE: &str = "parent_linkage";
/// Parent locator key: another one that fits as well, or zero.
pub const KEY_PARENT_LINKAGE2: &str = "parent_linkage2";
/// Parent locator keys of the parent's names, in the order in which they are to be tried.
pub const KEYS_OF_PATHS: [&str; 3] = ["relative_path", "volume_path", "absolute_win32_path"];

/// Length of an entry of the block allocation table.
pub const BAT_ENTRY_LENGTH: u64 = 8;
/// BAT entry, bits 0-2: the state (2.5.1).
pub const BAT_STATE: u64 = 0x7;
/// BAT entry, bits 3-19: reserved.
pub const BAT_RESERVED: u64 = 0x000f_fff8;
/// BAT entry, bits 20-63: the file offset, whose unit is 1 MiB.
pub const BAT_FILE_OFFSET: u64 = !0x000f_ffff;
/// Length of a sector bitmap block.
pub const SECTOR_BITMAP_LENGTH: u64 = MIB;
/// How many sectors a sector bitmap block speaks of, as a power of two.
pub const SECTOR_BITMAP_BITS: u32 = 23;
/// State of a sector bitmap block that is in the file (2.5.1.2); any other means that it is not.
pub const BITMAP_PRESENT: u64 = 6;
/// State of a payload block all of which is in the file (2.5.1.1).
pub const PAYLOAD_FULLY_PRESENT: u64 = 6;
/// State of a payload block of zeros, whatever the parent has.
pub const PAYLOAD_ZERO: u64 = 2;
/// State of a payload block of which the sector bitmap tells what is in the file.
pub const PAYLOAD_PARTIALLY_PRESENT: u64 = 7;
/// Metadata entry, bit 1 of the flags: the item speaks of the disk, not of the file.
pub const METADATA_IS_VIRTUAL_DISK: u32 = 1 << 1;
