//! VMDK: hosted sparse, stream-optimized, flat, COWD and seSparse extents with their descriptors.
//! Section names refer to VMware's "Virtual Disk Format 5.0" technical note.

mod check;
mod cowd;
mod describe;
mod descriptor;
mod error;
mod header;
mod layer;
pub mod layout;
mod line;
mod map;
mod marker;
mod names;
mod part;
mod repair;
mod sesparse;
mod sparse;
mod tables;
#[cfg(test)]
mod tests;
pub mod write;

pub use cowd::CowdHeader;
pub use descriptor::Descriptor;
pub use header::{Newlines, SparseHeader};
pub use layer::VmdkLayer;
pub use line::{Access, ExtentLine, ExtentType};
pub use marker::{GrainHeader, Marker};
pub use sesparse::SeSparseHeader;
pub use write::{Subformat, VmdkOptions};
