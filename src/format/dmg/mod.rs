//! Apple disk images (UDIF, `.dmg`): chunks of sectors, each stored as it is or compressed, and tables
//! of them as resources at the end of the file.
//!
//! | | |
//! |---|---|
//! | read | chunks of up to 8 MiB: raw, zero, ignored, ADC, zlib, LZFSE, and with the features `bzip2` and `xz` bzip2 and LZMA; tables in a property list or in a resource fork; the trailer at the end or the start |
//! | checked | all sectors are decoded, and every CRC-32 compared: of tables, of the data fork, the master checksum |
//! | refused | images in several files; encrypted ones; unknown types of chunks |
//!
//! There is no specification by Apple: names and places are those of public descriptions of UDIF
//! (`UDIFResourceFile`, `BLKXTable`, `BLKXRun`); resource forks are in "Inside Macintosh: More Macintosh Toolbox".
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! # // a table of two chunks, one by zlib and one of zeros, in a property list, and the trailer
//! # let mut stream = Vec::new();
//! # let zlib = diskimage::codec::Deflate::new(6, diskimage::codec::Wrapper::Zlib)?;
//! # zlib.encode(&[7; 4096], 4096, &mut stream)?;
//! # let length = stream.len() as u64;
//! # let mut table = b"mish\0\0\0\x01".to_vec();
//! # table.extend([0u64, 16, 0].map(u64::to_be_bytes).concat());
//! # table.resize(200, 0);
//! # table.extend(3u32.to_be_bytes());
//! # let [first, second, end] = [[0, 8, 0, length], [8, 8, 0, 0], [16, 0, 0, 0]];
//! # for (kind, run) in [(0x8000_0005u32, first), (0, second), (!0, end)] {
//! #     table.extend([kind, 0].map(u32::to_be_bytes).concat());
//! #     table.extend(run.map(u64::to_be_bytes).concat());
//! # }
//! # let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
//! # let six = |c: &[u8]| {
//! #     [c[0] >> 2, (c[0] & 3) << 4 | c[1] >> 4, (c[1] & 15) << 2 | c[2] >> 6, c[2] & 63]
//! # };
//! # let base64 = table.chunks(3).flat_map(six).map(|n| char::from(digits[usize::from(n)]));
//! # let base64: String = base64.collect();
//! # let plist = format!(
//! #     "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>\
//! #      <key>Name</key><string>whole disk</string><key>Data</key><data>{base64}</data>\
//! #      </dict></array></dict></dict></plist>"
//! # );
//! # let mut trailer = vec![0; 512];
//! # let mut put = |at: usize, field: &[u8]| trailer[at..at + field.len()].copy_from_slice(field);
//! # put(0, b"koly\0\0\0\x04\0\0\x02\0\0\0\0\x01");
//! # put(24, &[0, length].map(u64::to_be_bytes).concat());
//! # put(216, &[length, plist.len() as u64].map(u64::to_be_bytes).concat());
//! # put(488, b"\0\0\0\x01");
//! # put(492, &16u64.to_be_bytes());
//! # let image = [stream, plist.into_bytes(), trailer].concat();
//! // a disk of 16 sectors: the first half is compressed, the other one is zeros
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("Install.dmg"))?;
//! let mut bytes = [0; 4];
//! disk.read_exact_at(&mut bytes, 4094)?;
//! assert_eq!((bytes, disk.size()), ([7, 7, 0, 0], 16 * 512));
//! # Ok::<(), diskimage::Error>(())
//! ```

mod blocks;
mod check;
mod describe;
mod header;
mod layer;
pub mod layout;
mod resources;

pub use blocks::{Blocks, Chunk, Kind, Table};
pub use header::{Checksum, Header};
pub use layer::DmgLayer;
