//! Parallels: expandable images by QEMU's `docs/interop/parallels.rst`, and the descriptor of a bundle
//! (`DiskDescriptor.xml`) by its `prl-xml.rst`. All numbers are little-endian.
//!
//! | | |
//! |---|---|
//! | read | expandable images of both magics, clusters of up to 1 GiB; bundles by their descriptor: expandable and plain files, disks split in parts, chains of snapshots |
//! | named | dirty and empty images; dirty bitmaps of the format extension |
//! | checked | expandable images: every BAT entry against the file and the others. A bundle's files are checked by their own names |
//! | refused | other versions; in bundles padding, encryption, sectors of another size than 512 bytes, parts that do not tile the disk |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::parallels::{CLOSED, MAGIC_EXT};
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! // a disk of two clusters of 8 sectors, of which the second is in the file
//! let mut image = vec![0; 2 * 4096];
//! let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
//! put(0, MAGIC_EXT);
//! put(16, &[2u32, 16, 1, 8, 2].map(u32::to_le_bytes).concat()); // version to nb_bat_entries
//! put(36, &16u64.to_le_bytes()); // nb_sectors
//! put(44, &[CLOSED, 8].map(u32::to_le_bytes).concat()); // in_use, data_off
//! put(64, &[0u32, 1].map(u32::to_le_bytes).concat()); // the BAT, in clusters
//! put(4096, b"guest");
//!
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("harddisk.hds"))?;
//! let mut bytes = [0; 5];
//! disk.read_exact_at(&mut bytes, 4096)?;
//! assert_eq!(&bytes, b"guest");
//! assert!(disk.extent_at(0, u64::MAX)?.kind.is_zero());
//! # Ok::<(), diskimage::Error>(())
//! ```

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
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::{LayerOptions, parallels};
/// use diskimage::layer::Role;
/// use diskimage::storage::MemoryStorage;
///
/// let text = "<?xml version='1.0'?><Parallels_disk_image Version='1.0'>
///     <Disk_Parameters><Disk_size>2048</Disk_size></Disk_Parameters>
///     <StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>2048</Blocksize>
///     <Image><GUID>{01}</GUID><Type>Plain</Type><File>disk.hds</File></Image>
///     </Storage></StorageData></Parallels_disk_image>";
/// let storage = Arc::new(MemoryStorage::new(text.into()));
/// let layer = parallels::open(storage, &LayerOptions::default())?;
/// assert_eq!(layer.size(), 1 << 20);
/// let file = &layer.references()[0]; // named, not opened
/// assert_eq!((file.role, &*file.printable_name()), (Role::Extent, "disk.hds"));
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Box<dyn Layer>> {
    let length = to_usize(storage.size().min(64));
    let start = read_vec(&storage, "the header", 0, length)?;
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
    if start.trim_ascii_start().starts_with(b"<") {
        return Ok(Box::new(BundleLayer::open(storage, options)?));
    }
    Ok(Box::new(ParallelsLayer::open(storage, options)?))
}
