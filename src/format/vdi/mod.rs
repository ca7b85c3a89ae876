//! VDI, VirtualBox's format, version 1. There is no specification; the names of fields are those
//! of VirtualBox's `VDICore.h`, and the rules those that its reader holds images to.

mod check;
mod describe;
mod error;
mod header;
mod layer;
pub mod layout;
#[cfg(test)]
mod tests;
pub mod write;

pub use header::{Header, ImageType};
pub use layer::VdiLayer;
pub use write::{VdiOptions, VdiWriter};
