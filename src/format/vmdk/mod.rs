//! VMDK: hosted sparse, stream-optimized, flat, COWD and seSparse extents with their descriptors.
//! Section names refer to VMware's "Virtual Disk Format 5.0" technical note.
//!
//! | | |
//! |---|---|
//! | read | monolithicSparse (versions 1 to 3, redundant grain directory, zeroed grains); streamOptimized with markers, footer and end-of-stream, and without as QEMU writes it; monolithicFlat, twoGbMaxExtentFlat, vmfs, vmfsThin; twoGbMaxExtentSparse, vmfsSparse (COWD), seSparse; delta links, whose parent is known by parentCID or by VirtualBox's UUID; every extent line: RW, RDONLY, FLAT, ZERO, VMFS |
//! | written | monolithicSparse, streamOptimized, monolithicFlat, twoGbMaxExtentFlat, twoGbMaxExtentSparse, and deltas of the sparse ones: see [`VmdkOptions`] |
//! | checked | the descriptor; header and footer; of each sparse extent in the image's own file every entry of directories and tables against the file and the others, compressed grains by their markers |
//! | repaired | a grain directory, from the redundant one |
//! | refused | a pending seSparse journal; NOACCESS extents; vmfsRaw, vmfsRDM, fullDevice, partitionedDevice and custom (named); encryption; files whose line ends a transfer changed; grains above 1 GiB, compressed ones above 8 MiB |
//!
//! Extents that lie in other files are opened by a [`Resolver`](crate::Resolver) only, beginning with the
//! descriptor's folder. A descriptor has at most 1 MiB, and may be in any encoding that it names.
//!
//! Where it stands in the specification: "The Descriptor File" with "The Extent Description" and "The Disk
//! Database" ([`Descriptor`], [`ExtentLine`]), "Hosted Sparse Extents" ([`SparseHeader`]), "ESX Server Sparse
//! Extents" ([`CowdHeader`]), "Stream-Optimized Compressed Sparse Extents" ([`GrainHeader`], [`Marker`]), "Delta
//! Links". seSparse ([`SeSparseHeader`]) is not in it; its layout is that of other readers' descriptions.
//!
//! ```
//! use diskimage::format::vmdk::{Subformat, VmdkOptions};
//! use diskimage::Writer;
//!
//! let options = VmdkOptions::new().subformat(Subformat::TwoGbMaxExtentFlat).name("disk.vmdk");
//! let writer = options.writer(5 << 30)?;
//! let names: Vec<_> = writer.files().iter().map(|file| &*file.name).collect();
//! assert_eq!(names, ["disk-f001.vmdk", "disk-f002.vmdk", "disk-f003.vmdk"]);
//! # Ok::<(), diskimage::Error>(())
//! ```

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
