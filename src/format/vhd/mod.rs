//! VHD, the older format of Virtual PC and Hyper-V. Section names refer to Microsoft's "Virtual
//! Hard Disk Image Format Specification", version 1.0 of 11 October 2006.

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
pub mod write;

pub use footer::{CopyState, DiskType, Footer, FooterCopies, FooterPlace, Geometry};
pub use header::DynamicHeader;
pub use layer::VhdLayer;
pub use locator::ParentLocator;
pub use write::{VhdOptions, VhdWriter};
