//! Reads, judges and converts virtual-disk images.
//!
//! An image is opened into a [`VirtualDisk`]: the disk a guest sees, whatever files it is made
//! of. Its [extents](VirtualDiskExt::extents) tell data from zeros without reading them.
//!
//! ```no_run
//! use diskimage::{OpenOptions, VirtualDisk, VirtualDiskExt};
//!
//! # fn main() -> diskimage::Result<()> {
//! let disk = OpenOptions::new().open("image.qcow2")?;
//! for extent in disk.extents(0..disk.size()) {
//!     let extent = extent?;
//!     println!("{:#x}+{:#x} {:?}", extent.start, extent.length, extent.kind);
//! }
//! let mut sector = [0; 512];
//! disk.read_exact_at(&mut sector, 0)?;
//! # Ok(())
//! # }
//! ```
//!
//! Images come from strangers, so nothing outside of the named file is opened unless a
//! [`Resolver`] allows it, what a file claims is held against its length and the [`Limits`], and
//! damage is an [`Error`], never zeros.

#![warn(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic
)]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, clippy::as_conversions, reason = "tests may be plain")
)]

pub mod bytes;
pub mod chain;
pub mod check;
#[cfg(feature = "checksum")]
pub mod checksum;
pub mod codec;
pub mod compare;
pub mod conformance;
pub mod container;
pub mod contents;
pub mod convert;
mod crc;
pub mod disk;
pub mod error;
pub mod extent;
pub mod finding;
pub mod format;
pub mod inside;
pub mod inspect;
pub mod layer;
pub mod limits;
pub mod num;
pub mod open;
mod parallel;
mod partition;
pub mod platform;
pub mod progress;
pub mod resolve;
pub mod seed;
pub mod split;
pub mod storage;
mod sys;
pub mod target;
pub mod text;
pub mod writer;

pub use chain::Chain;
pub use check::{CheckReport, Checking, RepairScope};
#[cfg(feature = "checksum")]
pub use checksum::Checksum;
pub use compare::Compare;
pub use contents::Contents;
pub use convert::Convert;
pub use disk::{VirtualDisk, VirtualDiskExt};
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, ExtentKind, Location, StorageId};
pub use finding::{Code, Finding, Severity};
pub use format::Format;
pub use inspect::Inspect;
pub use layer::Layer;
pub use limits::Limits;
pub use open::{Image, OpenOptions};
pub use platform::Platform;
pub use progress::Progress;
pub use resolve::{Beneath, DenyAll, Resolver};
pub use storage::Storage;
pub use target::Target;
pub use writer::Writer;

/// The features of this crate, and whether this build has them.
pub const FEATURES: &[(&str, bool)] = &[
    ("bzip2", cfg!(feature = "bzip2")),
    ("checksum", cfg!(feature = "checksum")),
    ("libdeflate", cfg!(feature = "libdeflate")),
    ("luks", cfg!(feature = "luks")),
    ("mmap", cfg!(feature = "mmap")),
    ("tokio", cfg!(feature = "tokio")),
    ("xz", cfg!(feature = "xz")),
    ("zlib-rs", cfg!(feature = "zlib-rs")),
    ("zstd", cfg!(feature = "zstd")),
];
