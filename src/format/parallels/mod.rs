//! Parallels: expandable images by QEMU's `docs/interop/parallels.rst`, and the descriptor of a bundle
//! (`DiskDescriptor.xml`) by its `prl-xml.rst`. All numbers are little-endian.
//!
//! | | |
//! |---|---|
//! | read | expandable images of both magics, clusters of up to 1 GiB; bundles by their descriptor: expandable and plain files, disks split in parts, chains of snapshots |
//! | named | dirty and empty images; dirty bitmaps of the format extension |
//! | checked | expandable images: every BAT entry against the file and the others. A bundle's files are checked by their own names |
//! | refused | other versions; in bundles padding, encryption, sectors of another size than 512 bytes, parts that do not tile the disk |

use std::sync::Arc;

use crate::error::Result;
use crate::format::LayerOptions;
use crate::layer::Layer;
use crate::num::to_usize;
use crate::storage::{Storage, read_vec};

mod bundle;
mod check;
mod descriptor;
mod expandable;
mod extension;
mod layer;

pub use bundle::BundleLayer;
pub use descriptor::{Descriptor, Image, Shot, StorageData};
pub use expandable::{CLOSED, EMPTY_IMAGE, Header, IN_USE, MAGIC, MAGIC_EXT};
pub use layer::ParallelsLayer;

/// Opens `storage` as what its first bytes say: an image, or the descriptor of a bundle. Nothing
/// else is opened.
pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Box<dyn Layer>> {
    let length = to_usize(storage.size().min(64));
    let start = read_vec(&storage, "the header", 0, length)?;
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
    if start.trim_ascii_start().starts_with(b"<") {
        return Ok(Box::new(BundleLayer::open(storage, options)?));
    }
    Ok(Box::new(ParallelsLayer::open(storage, options)?))
}
