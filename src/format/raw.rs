//! Raw disks: the file is the disk, and its holes are zeros that need no reading.

use std::sync::Arc;

use crate::error::Result;
use crate::format::Format;
use crate::layer::{Description, Layer, Mapping, MappingKind, Source};
use crate::storage::Storage;

/// A raw disk. Its size is the file's, to the byte.
#[derive(Debug)]
pub struct RawLayer {
    storage: Arc<dyn Storage>,
}

impl RawLayer {
    /// The bytes of `storage` as a disk.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
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

    fn check(&self, _checking: &crate::check::Checking) -> Result<()> {
        Err(crate::layer::not_checked(self.format()))
    }

    fn describe(&self) -> Result<Description> {
        Ok(Description::default())
    }
}
