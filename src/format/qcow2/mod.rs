//! QCOW2, versions 2 and 3. Section names refer to QEMU's `docs/interop/qcow2.rst`.
//!
//! | | |
//! |---|---|
//! | read | versions 2 and 3; clusters of 512 bytes to 2 MiB; counts of 1 to 64 bits; sizes to the byte; extended L2 entries; deflate and, with the feature `zstd`, Zstandard; backing files of any format; external data files; internal snapshots as disks |
//! | named | bitmaps, the feature name table, unknown header extensions, the machine state of a snapshot (its size) |
//! | written | all of that but snapshots: see [`Qcow2Options`] |
//! | checked | every reference to a host cluster against the stored counts and the flag COPIED; L1 and L2 entries, the refcount table and its blocks, snapshots, bitmaps, overlaps |
//! | repaired | counts, flags, marks; a refcount table that is lost is written anew |
//! | changed in place | the size of the disk ([`Resize`]), snapshots ([`SnapshotChange`]), the backing file that is named ([`rewrite_backing`]) |
//! | refused | encryption (AES, LUKS); unknown incompatible features; images marked as corrupt ([`trust_broken`](crate::OpenOptions::trust_broken) reads the last two) |
//!
//! What is broken and not needed to read (counts, snapshots, bitmaps) does not stop an ordinary opening.
//! Deflate streams may use the whole window of 32 KiB, as the specification allows; what is written does.
//!
//! Where it stands in the specification: "Header" ([`Header`]), "Header extensions", "Feature name table",
//! "Bitmaps extension" and "External data file name string" ([`Extensions`]), "Host cluster management"
//! ([`RefcountTable`]), "Cluster mapping", "Standard Cluster Descriptor", "Compressed Clusters Descriptor" and
//! "Extended L2 Entries" ([`L1Entry`], [`L2Entry`], [`Subclusters`]), "Snapshots", "Bitmaps" ([`Bitmap`]).
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::qcow2::{CompressionType, Qcow2Layer, Qcow2Options};
//! use diskimage::format::LayerOptions;
//! use diskimage::storage::MemoryStorage;
//! use diskimage::target::StreamTarget;
//! use diskimage::{Convert, Format, Layer, OpenOptions, Target, VirtualDisk};
//!
//! let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
//! let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("raw"))?;
//! let mut bytes = Vec::new();
//! let target = StreamTarget::new(&mut bytes);
//! let writer = Qcow2Options::new().cluster_size(4096).writer(disk.size())?;
//! Convert::new().image(&disk, Box::new(writer), None, &target)?;
//! Box::new(target).finish()?;
//!
//! // the one file by itself, with what its header says
//! let layer = Qcow2Layer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
//! assert_eq!(layer.size(), 1 << 20);
//! assert_eq!(layer.cluster_size(), Some(4096));
//! assert_eq!(layer.header().version, 3);
//! assert_eq!(layer.header().compression_type, CompressionType::Zlib);
//! # Ok::<(), diskimage::Error>(())
//! ```

mod bitmap;
mod check;
mod describe;
mod edit;
mod entry;
mod error;
mod extension;
mod header;
mod layer;
pub mod layout;
mod refcount;
mod snapshot;
pub mod write;

pub use bitmap::{Bitmap, BitmapFlags};
pub use edit::{Resize, SnapshotChange};
pub use entry::{L1Entry, L2Entry, Subclusters};
pub use extension::{BitmapsExtension, Extensions, FeatureName};
pub use header::{CompressionType, CryptMethod, Header};
pub use layer::Qcow2Layer;
pub use refcount::RefcountTable;
pub use write::{Qcow2Options, Qcow2Writer, rewrite_backing};
