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
