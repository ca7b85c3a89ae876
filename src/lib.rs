//! Reads, judges, repairs, writes and converts virtual-disk images: QCOW2, VMDK, VHD, VHDX, VDI, raw
//! disks and their relatives.
//!
//! Images come from strangers. So the crate makes four promises, in this order: **never silently
//! wrong; safe on a stranger's file; as fast as the hardware; easy to embed.** What an image names is
//! not opened unless a [`Resolver`] allows it, what it claims is held against the length of its file
//! and the [`Limits`], and damage is an [`Error`] with its place, never zeros.
//!
//! # The way of the data
//!
//! ```text
//!  bytes at rest     what a format says    the disk a guest sees     what people want
//!  ─────────────     ──────────────────    ─────────────────────     ────────────────
//!  Storage ──probe──▶ Layer ──Resolver──▶ Chain: VirtualDisk ──extents──▶ Convert ──▶ Target
//!                       │                                                  Checksum, Compare
//!                       │                                                  contents, extents
//!                       └──▶ Image: describe · check · repair              (Writer: other formats)
//!                            Inspect, Lint: a verdict    (one file, which never opens another)
//! ```
//!
//! A [`Storage`] is the bytes of one file, by position. A [`Layer`] is what a format makes of them, and
//! a [`Chain`] is an image with its parents: a [`VirtualDisk`], the disk that a guest sees. All jobs take
//! any of these. Reading goes by `&self`, from any number of threads.
//!
//! # Where to start
//!
//! | to do | start at | read |
//! |---|---|---|
//! | read a disk, convert it | [`OpenOptions`], [`Convert`] | [guide::read], [guide::convert] |
//! | judge an upload | [`Inspect`], [`inspect::Policy`] | [guide::probe] |
//! | know what is data and what is zeros | [`VirtualDiskExt::extents`] | [guide::extents] |
//! | write QCOW2, VMDK, VHD, VHDX, VDI | the options of the format, [`Convert::image`] | [guide::write] |
//! | hash or compare content | [`checksum`], [`Compare`] | [guide::hash] |
//! | check and repair an image | [`OpenOptions::open_image`], [`Checking`] | [guide::check] |
//! | see partitions and file systems | [`contents::look`] | |
//! | know what a cloud would refuse | [`platform::Lint`] | |
//! | read from an object store | [`Storage`] | [guide::storage] |
//! | use it from async code | [`inspect::Stream`] | [guide::asynchronous] |
//! | bound what an image may cost | [`Limits`], [`Progress`] | [guide::untrusted] |
//! | add a format | [`Layer`], [`Writer`] | [guide::format] |
//! | know what of a format is read | [`Format`] | [guide::formats] |
//!
//! # An example
//!
//! ```
//! use diskimage::format::qcow2::Qcow2Options;
//! use diskimage::target::FileTarget;
//! use diskimage::{Convert, Format, OpenOptions, Target, VirtualDisk, VirtualDiskExt};
//!
//! # let folder = tempfile::tempdir()?;
//! # let [raw, qcow2] = ["disk.raw", "disk.qcow2"].map(|name| folder.path().join(name));
//! # let mut bytes = vec![0; 4 << 20];
//! # bytes[1 << 20..2 << 20].fill(7);
//! # std::fs::write(&raw, bytes)?;
//! // a raw disk has no signature, so one has to say that it is one
//! let disk = OpenOptions::new().format(Format::Raw).open(&raw)?;
//!
//! // write it as another format: all processors, bounded memory
//! let writer = Qcow2Options::new().writer(disk.size())?;
//! let target = FileTarget::create(&qcow2, 0)?;
//! Convert::new().image(&disk, Box::new(writer), None, &target)?;
//! Box::new(target).finish()?; // only now the file has a name
//!
//! // read it again: what is zeros is known without reading
//! let disk = OpenOptions::new().open(&qcow2)?;
//! for extent in disk.extents(0..disk.size()) {
//!     let extent = extent?;
//!     println!("{:#x}+{:#x} {:?}", extent.start, extent.length, extent.kind);
//! }
//! let mut sector = [0; 512];
//! disk.read_exact_at(&mut sector, 1 << 20)?;
//! assert_eq!(sector, [7; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/` of the repository has longer programs: an upload judged, a conversion with progress, a
//! disk in an object store, and others.
//!
//! # Features
//!
//! All are additive. Without any the crate is Rust only, with about a dozen small dependencies.
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `zstd` | yes | QCOW2 clusters and files compressed by Zstandard (builds the C library) |
//! | `bzip2` | yes | chunks of DMG and files compressed by bzip2 |
//! | `xz` | yes | chunks of DMG compressed by LZMA, and xz files |
//! | `luks` | yes | what LUKS version 2 says of itself in JSON, and its checksum |
//! | `checksum` | no | [`checksum`]: SHA-2, SHA-1, MD5, BLAKE3, CRC-32, block hashes; OVAs (builds C and assembly) |
//! | `libdeflate` | no | the fastest deflate, both ways (builds a C library) |
//! | `zlib-rs` | no | faster deflate than the default, in Rust with some `unsafe` |
//! | `tokio` | no | judging readers and writers for tokio's traits |
//! | `mmap` | no | a memory map as a [`Storage`], behind an `unsafe` constructor |
//!
//! # Errors
//!
//! An [`Error`] has a [kind](ErrorKind) that says who is to blame (the file, the environment, the
//! caller, a limit), the file, the offset in it, the guest's bytes that cannot be read for it, and often
//! an advice. A service tells its user about [`ErrorKind::Corrupt`], and retries [`ErrorKind::Io`].
//!
//! The minimal supported version of Rust is 1.89; raising it is a minor release.

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
// for the benchmarks of this crate: no part of its interface, and may change with any version
#[doc(hidden)]
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
#[cfg(any(doc, doctest))]
pub mod guide;
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
///
/// ```
/// // for the output of --version
/// let built_in = diskimage::FEATURES.iter().filter(|(_, yes)| *yes).map(|(name, _)| *name);
/// println!("features: {}", built_in.collect::<Vec<_>>().join(", "));
/// assert!(diskimage::FEATURES.iter().any(|(name, _)| *name == "zstd")); // built in or not
/// ```
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
