//! VHDX. Section numbers refer to [MS-VHDX].
//!
//! | | |
//! |---|---|
//! | read | fixed, dynamic and differencing disks of up to 64 TiB; sectors of 512 and 4096 bytes; both headers and region tables, whichever copy is valid; all block states; parent locators and linkage, partially present blocks; a pending log is replayed in memory |
//! | written | all three, blocks of 1 to 256 MiB: see [`VhdxOptions`] |
//! | checked | headers and region tables in both copies, the log, every entry of the BAT against the file and the others, sector bitmaps |
//! | repaired | header and region table from their other copy; the log is written to its places |
//! | refused | other versions than 1; regions and metadata items that are required and not known; a log without a valid sequence; both copies of a structure damaged |
//!
//! Checksums are CRC-32C. Where it stands in [MS-VHDX]: headers in 2.2.2 ([`Headers`]), the region table in
//! 2.2.3 ([`RegionTable`]), the log in 2.3 ([`LogState`]), the BAT in 2.5 ([`BatEntry`], [`BlockState`]), metadata
//! in 2.6 ([`Metadata`]), the parent locator in 2.6.2.6 ([`ParentLocator`]).
//!
//! [MS-VHDX]: https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx/
//!
//! ```
//! use diskimage::format::vhdx::VhdxOptions;
//! use diskimage::Writer;
//!
//! let writer = VhdxOptions::new().block_size(1 << 20).logical_sector_size(4096).writer(1 << 30)?;
//! assert_eq!(writer.size(), 1 << 30);
//! assert!(VhdxOptions::new().writer(65 << 40).is_err()); // more than 64 TiB
//! # Ok::<(), diskimage::Error>(())
//! ```

mod bat;
mod check;
mod describe;
mod error;
mod guid;
mod header;
mod layer;
pub mod layout;
mod locator;
mod log;
mod metadata;
mod overlay;
mod region;
mod repair;
mod scan;
#[cfg(test)]
mod testing;
mod write;

pub use bat::{BatEntry, BlockState};
pub use guid::Guid;
pub use header::{Header, Headers};
pub use layer::VhdxLayer;
pub use locator::ParentLocator;
pub use log::LogState;
pub use metadata::Metadata;
pub use region::{Region, RegionTable};
pub use write::{VhdxOptions, VhdxWriter};
