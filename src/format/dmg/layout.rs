//! What lies where in a file. There is no specification by Apple; names and places are those of the
//! public descriptions of UDIF (`UDIFResourceFile`, `BLKXTable`, `BLKXRun`). All numbers are
//! big-endian.
//!
//! ```
//! use diskimage::format::dmg::layout::{KOLY, KOLY_SIZE, KOLY_VERSION};
//!
//! // the trailer: signature, version, its own length
//! let mut trailer = KOLY.to_vec();
//! trailer.extend([KOLY_VERSION, KOLY_SIZE as u32].map(u32::to_be_bytes).concat());
//! assert_eq!(trailer, b"koly\0\0\0\x04\0\0\x02\0");
//! ```

/// The trailer's signature, `UDIFSignature`.
pub const KOLY: &[u8; 4] = b"koly";
/// The version of the trailer that is read.
pub const KOLY_VERSION: u32 = 4;
/// The length of the trailer: the last bytes of a file, or its first ones.
pub const KOLY_SIZE: u64 = 512;
/// The signature of a table of chunks, `UDIFBlocksSignature`.
pub const MISH: &[u8; 4] = b"mish";
/// The version of the table that is read.
pub const MISH_VERSION: u32 = 1;
/// Where the chunks start in their table.
pub const MISH_SIZE: usize = 204;
/// The length of an entry of the table, `BLKXRun`.
pub const RUN_SIZE: usize = 40;
/// The type of resources that hold tables of chunks.
pub const BLKX: &[u8; 4] = b"blkx";
/// A checksum that is a CRC-32, `UDIFChecksum.type`; of its 32 words the first one counts.
pub const CRC32: u32 = 2;

/// `entryType`: zeros.
pub const ZERO: u32 = 0;
/// Bytes as they are.
pub const RAW: u32 = 1;
/// What the maker of the image did not care for: it reads as zeros.
pub const IGNORE: u32 = 2;
/// A comment: no sectors.
pub const COMMENT: u32 = 0x7fff_fffe;
/// The end of the table.
pub const TERMINATOR: u32 = 0xffff_ffff;
/// Compressed by ADC.
pub const ADC: u32 = 0x8000_0004;
/// By zlib.
pub const ZLIB: u32 = 0x8000_0005;
/// By bzip2.
pub const BZIP2: u32 = 0x8000_0006;
/// By LZFSE.
pub const LZFSE: u32 = 0x8000_0007;
/// By LZMA: an xz stream.
pub const LZMA: u32 = 0x8000_0008;

/// The largest compressed chunk that is read, bytes decoded: each thread holds one. Those of Apple's
/// programs are of 1 MiB at most.
pub const MAX_CHUNK: u64 = 8 << 20;
