//! QCOW2, versions 2 and 3. Section names refer to QEMU's `docs/interop/qcow2.rst`.

mod bitmap;
mod check;
mod describe;
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
pub use entry::{L1Entry, L2Entry, Subclusters};
pub use extension::{Extensions, FeatureName};
pub use header::{CompressionType, CryptMethod, Header};
pub use layer::Qcow2Layer;
pub use refcount::RefcountTable;
pub use write::{Qcow2Options, Qcow2Writer};
