//! VDI, VirtualBox's format, version 1. There is no specification; the names of fields are those
//! of VirtualBox's `VDICore.h`, and the rules those that its reader holds images to.
//!
//! | | |
//! |---|---|
//! | read | versions 1.0 and 1.1; dynamic (normal), fixed and differencing images; blocks of 512 bytes to 1 GiB, with extra data before each; discarded blocks; parents by UUID ([`Listed`](crate::resolve::Listed) names their files), whose modification UUID must be the one noted |
//! | written | dynamic and fixed images, blocks of 1 MiB: see [`VdiOptions`] |
//! | checked | every entry of the block map against the file and the others, the header's counts |
//! | repaired | the header's number of blocks |
//! | refused | other versions; undo images; sectors of another size than 512 bytes; a parent that changed |
//!
//! ```
//! use diskimage::format::vdi::VdiOptions;
//! use diskimage::Writer;
//!
//! let writer = VdiOptions::new().seed("web-1").writer((10 << 20) + 1)?;
//! assert_eq!(writer.size(), (10 << 20) + 512); // whole sectors
//! # Ok::<(), diskimage::Error>(())
//! ```

mod check;
mod describe;
mod error;
mod header;
mod layer;
pub mod layout;
#[cfg(test)]
mod tests;
mod write;

pub use header::{Header, ImageType};
pub use layer::VdiLayer;
pub use write::{VdiOptions, VdiWriter};
