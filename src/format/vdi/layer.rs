//! The guest's view: mapping through the block map.

use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, Result};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Identity, Layer, Mapping, MappingKind, Reference, Role, Source};
use crate::num::to_usize;
use crate::storage::{Storage, TableCache};
use crate::text::uuid;

use super::check;
use super::describe::describe;
use super::error::VdiDetail;
use super::header::{Header, ImageType};
use super::layout::*;

/// A VDI image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vdi::VdiLayer;
/// use diskimage::format::vdi::VdiOptions;
/// use diskimage::layer::{Identity, MappingKind};
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vdi");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VdiOptions::new().writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// let layer = VdiLayer::open(storage, &LayerOptions::default())?;
/// assert_eq!((layer.size(), layer.header().blocks_allocated), (8 << 20, 0));
/// assert_eq!(layer.identity(), Some(Identity::Uuid(layer.header().uuid)));
/// // blocks that are not in the file, and no parent that has them
/// let kind = MappingKind::Zero { allocated: true, stored: None };
/// assert_eq!(layer.map(0, u64::MAX)?.kind, kind);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct VdiLayer {
    storage: Arc<dyn Storage>,
    header: Header,
    references: Vec<Reference>,
    trust_broken: bool,
    cache: TableCache,
}

impl VdiLayer {
    /// Opens `storage` as a VDI image. Nothing else is opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vdi::{VdiLayer, VdiOptions};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vdi");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VdiOptions::new().writer(8 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let mut bytes = std::fs::read(&path)?;
    /// bytes[0x44] = 2; // a minor version that is not known
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let error = VdiLayer::open(storage, &LayerOptions::default()).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(0x44)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage, &options.limits)?;
        // an image that names a parent has one, whatever it calls itself
        let parent = header.parent_uuid.map(|parent| Reference {
            role: Role::Parent,
            names: vec![uuid(&parent).into_bytes()],
            format: None,
            offset: AT_LINKAGE,
        });
        let references = Vec::from_iter(parent);
        let cache = TableCache::new(Arc::clone(&storage), options.limits.table_cache);
        Ok(Self { storage, header, references, trust_broken: options.trust_broken, cache })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn file(&self) -> &dyn Storage {
        &self.storage
    }

    pub(super) fn file_size(&self) -> u64 {
        self.storage.size()
    }

    /// What a block map entry means, for a block from its start on.
    fn kind(&self, entry: u32) -> Result<MappingKind> {
        Ok(match entry {
            BLOCK_FREE if !self.references.is_empty() => MappingKind::Parent { stored: None },
            BLOCK_FREE | BLOCK_ZERO => MappingKind::Zero { allocated: true, stored: None },
            number => {
                let blocks = self.header.blocks;
                if number >= blocks {
                    return Err(VdiDetail::EntryTooLarge { entry, blocks }.into());
                }
                let offset = self.header.block_data(number);
                MappingKind::Stored { source: Source::Own, offset }
            }
        })
    }
}

impl Layer for VdiLayer {
    fn format(&self) -> Format {
        Format::Vdi
    }

    fn size(&self) -> u64 {
        self.header.size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.block.size())
    }

    fn stores_long_runs(&self) -> bool {
        self.header.image_type == ImageType::Fixed
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity::Uuid(self.header.uuid))
    }

    fn modification(&self) -> Option<Identity> {
        Some(Identity::Uuid(self.header.modification_uuid))
    }

    fn check_parent(&self, parent: &dyn Layer) -> Result<()> {
        let Some(wanted) = self.header.parent_uuid.filter(|_| !self.trust_broken) else {
            return Ok(());
        };
        let text = |identity| match identity {
            Some(Identity::Uuid(bytes)) => uuid(&bytes),
            _ => "none".to_owned(),
        };
        if !parent.identities().contains(&Identity::Uuid(wanted)) {
            let found = parent.identity();
            let detail = VdiDetail::WrongParent { wanted: uuid(&wanted), found: text(found) };
            return Err(Error::new(detail).at(AT_LINKAGE));
        }
        let found = parent.modification();
        if let Some(wanted) = self.header.parent_modification_uuid
            && found.is_some_and(|found| found != Identity::Uuid(wanted))
        {
            let detail = VdiDetail::ChangedParent { wanted: uuid(&wanted), found: text(found) };
            return Err(Error::new(detail).at(AT_PARENT_MODIFY));
        }
        Ok(())
    }

    fn tables_at(&self) -> Option<u64> {
        Some(self.header.map().start)
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let (header, block) = (&self.header, self.header.block);
        let max = max.min(header.size.saturating_sub(offset));
        let (start, within) = (block.floor(offset), block.within(offset));
        let guest = start..start.saturating_add(block.size()).min(header.size);
        let map = header.map();
        let position = block.index(offset).saturating_mul(4);
        let page = self
            .cache
            .page("the block map", map.start, map.end.saturating_sub(map.start), position)
            .map_err(|error| error.affecting(guest.clone()))?;
        let from = position.saturating_sub(page.start);
        let (entries, _) = page.bytes.get(to_usize(from)..).unwrap_or_default().as_chunks::<4>();
        let mut entries = entries.iter().map(|entry| LittleEndian::read_u32(entry));
        let at = page.file_offset.saturating_add(from);
        let first = self.kind(entries.next().unwrap_or(BLOCK_FREE));
        let first = first.map_err(|error| error.at(at).affecting(guest))?;
        let rest = entries.map(|entry| self.kind(entry));
        Ok(Mapping::joined(first, block.size(), within, max, rest))
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        check::check(self, checking)
    }

    fn repair(
        &self,
        scope: RepairScope,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<Repaired> {
        check::repair(self, scope, checking, patch)
    }

    fn describe(&self) -> Result<Description> {
        Ok(describe(self))
    }
}
