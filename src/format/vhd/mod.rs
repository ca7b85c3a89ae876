//! VHD, the older format of Virtual PC and Hyper-V. Section names refer to Microsoft's "Virtual
//! Hard Disk Image Format Specification", version 1.0 of 11 October 2006.
//!
//! | | |
//! |---|---|
//! | read | fixed, dynamic and differencing disks; either copy of the footer suffices, also the one of 511 bytes that old programs wrote; blocks of up to 1 GiB; parent locators, UUID checked, sector bitmaps |
//! | written | all three, of up to 2040 GiB, with the size to the sector or as a geometry tells it: see [`VhdOptions`] |
//! | checked | both copies of the footer, checksums, the dynamic header, parent locators, every entry of the block allocation table against the file and the others, sector bitmaps |
//! | repaired | the copy of the footer that is missing or damaged |
//! | refused | other versions than 1; other disk types; a fixed disk that is cut off |
//!
//! The size of the disk is that of the geometry for the creators `vpc ` and `qemu`, and the field Current Size
//! for all others ([`Footer::size`]).
//!
//! Where it stands in the specification: "Hard Disk Footer Format" with "CHS Calculation" and "Checksum
//! Calculation" ([`Footer`], [`Geometry`]), "Dynamic Disk Header Format" ([`DynamicHeader`]), "Block Allocation
//! Table and Data Blocks", "Implementing a Differencing Hard Disk" ([`ParentLocator`]).
//!
//! ```
//! use diskimage::format::vhd::VhdOptions;
//! use diskimage::Writer;
//!
//! // Azure wants whole MiB and a fixed disk: the footer is the only thing beside the disk
//! let writer = VhdOptions::new().fixed(true).seed("web-1").writer(8 << 20)?;
//! assert_eq!(writer.size(), 8 << 20);
//! assert_eq!(writer.file_size(&diskimage::writer::Full)?, (8 << 20) + 512);
//! # Ok::<(), diskimage::Error>(())
//! ```

mod check;
mod describe;
mod error;
mod footer;
mod header;
mod layer;
pub mod layout;
mod locator;
mod repair;
#[cfg(test)]
mod testimage;
#[cfg(test)]
mod tests;
mod write;

pub use footer::{CopyState, DiskType, Footer, FooterCopies, FooterPlace, Geometry};
pub use header::DynamicHeader;
pub use layer::VhdLayer;
pub use locator::ParentLocator;
pub use write::{VhdOptions, VhdWriter};
