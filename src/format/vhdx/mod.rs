//! VHDX. Section numbers refer to [MS-VHDX].

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
pub mod write;

pub use bat::{BatEntry, BlockState};
pub use guid::Guid;
pub use header::{Header, Headers};
pub use layer::VhdxLayer;
pub use locator::ParentLocator;
pub use log::LogState;
pub use metadata::Metadata;
pub use region::{Region, RegionTable};
pub use write::{VhdxOptions, VhdxWriter};
