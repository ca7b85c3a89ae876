//! Raw disks: the file is the disk, and its holes are zeros that need no reading.
//!
//! | | |
//! |---|---|
//! | read | regular files and block devices, to the byte; holes are asked of the file system and not read |
//! | written | by [`Convert::run`](crate::Convert::run), with holes where the disk has zeros |
//! | checked | the GPT in both copies, or the MBR: checksums, order, overlaps, what lies beyond the disk. Without a partition table there is nothing to check |
//! | repaired | a GPT from its other copy, and a protective MBR where its place is blank |
//! | refused | nothing; but a raw disk has no signature, so it is one only if somebody says so |
//!
//! The sources for partition tables are those of the UEFI specification 2.10, sections 5.2 and 5.3.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{Format, OpenOptions, VirtualDisk};
//!
//! let storage = Arc::new(MemoryStorage::new(vec![7; 1000]));
//! assert!(OpenOptions::new().open_storage(storage.clone(), Path::new("disk.img")).is_err());
//! let raw = OpenOptions::new().format(Format::Raw);
//! let disk = raw.open_storage(storage, Path::new("disk.img"))?;
//! assert_eq!(disk.size(), 1000); // to the byte
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::sync::Arc;

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::layer::{Description, Layer, Mapping, MappingKind, Source};
use crate::storage::Storage;

mod check;
mod repair;

/// A raw disk. Its size is the file's, to the byte.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::raw::RawLayer;
/// use diskimage::layer::{Mapping, MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// let layer = RawLayer::new(Arc::new(MemoryStorage::new(vec![7; 1000])));
/// let kind = MappingKind::Stored { source: Source::Own, offset: 600 };
/// assert_eq!(layer.map(600, u64::MAX)?, Mapping { length: 400, kind });
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct RawLayer {
    storage: Arc<dyn Storage>,
}

impl RawLayer {
    /// The bytes of `storage` as a disk.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::raw::RawLayer;
    /// use diskimage::storage::{MemoryStorage, WindowStorage};
    ///
    /// // any bytes will do, such as a part of another file
    /// let file = MemoryStorage::new(vec![7; 8192]);
    /// let layer = RawLayer::new(Arc::new(WindowStorage::new(file, 4096, 1000)?));
    /// assert_eq!((layer.size(), layer.cluster_size()), (1000, None));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    fn file(&self) -> &dyn Storage {
        &self.storage
    }
}

impl Layer for RawLayer {
    fn format(&self) -> Format {
        Format::Raw
    }

    fn size(&self) -> u64 {
        self.storage.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        None
    }

    fn stores_long_runs(&self) -> bool {
        true
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let length = max.min(self.size().saturating_sub(offset));
        Ok(Mapping { length, kind: MappingKind::Stored { source: Source::Own, offset } })
    }

    /// A partition table, GPT or MBR, is held against the disk. Without one there is nothing that
    /// could be wrong.
    fn check(&self, checking: &Checking) -> Result<()> {
        match check::find(&self.storage)? {
            Some(table) => check::check(&self.storage, &table, checking),
            None => Err(no_table()),
        }
    }

    fn repair(
        &self,
        scope: RepairScope,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<Repaired> {
        let repaired = repair::repair(self, scope, checking, patch)?;
        repaired.ok_or_else(no_table)
    }

    fn describe(&self) -> Result<Description> {
        Ok(Description::default())
    }
}

/// The answer where nothing could be wrong.
#[cold]
fn no_table() -> Error {
    let message = "has no partition table, GPT or MBR, and a raw disk has nothing else to check";
    Error::other(ErrorKind::Unsupported, message)
}
