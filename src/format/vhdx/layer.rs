//! The guest's view: mapping through the block allocation table and sector bitmaps.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, Result};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Identity, Layer, Mapping, MappingKind, Reach, Reference, Source};
use crate::num::Pow2;
use crate::storage::Storage;

use super::bat::{Bat, BatEntry, BlockState};
use super::describe::describe;
use super::error::VhdxDetail;
use super::guid::Guid;
use super::header::Headers;
use super::layout::SECTOR_BITMAP_LENGTH;
use super::log::{LogState, replay};
use super::metadata::Metadata;
use super::overlay::LogOverlay;
use super::region::RegionTable;
use super::{check, repair};

/// A VHDX image as a layer. If it has a log of pending writes, the layer is the image with these
/// applied; the file is not written.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::format::vhdx::{LogState, VhdxLayer};
/// use diskimage::layer::Identity;
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// let layer = VhdxLayer::open(storage, &LayerOptions::default())?;
/// assert_eq!((layer.size(), layer.metadata().block.size()), (1 << 30, 32 << 20));
/// assert_eq!((layer.log(), layer.regions().bat.offset), (LogState::Empty, 3 << 20));
/// let guid = layer.headers().current.data_write_guid;
/// assert_eq!(layer.identity(), Some(Identity::Uuid(*guid.as_bytes())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct VhdxLayer {
    headers: Headers,
    log: LogState,
    /// The file, and the same with its log replayed.
    base: Arc<dyn Storage>,
    overlay: Option<Arc<LogOverlay>>,
    metadata: Metadata,
    references: Vec<Reference>,
    bat: Bat,
    max_table_size: u64,
    look_over: u64,
}

impl VhdxLayer {
    /// Opens `storage` as a VHDX image. Nothing else is opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhdx::{VhdxLayer, VhdxOptions};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Code, Layer};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdxOptions::new().writer(1 << 30)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let mut bytes = std::fs::read(&path)?;
    /// bytes[(192 << 10) + 40] ^= 1; // one of the two region tables
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let layer = VhdxLayer::open(storage, &LayerOptions::default())?;
    /// assert_eq!(layer.regions().damaged, Some(192 << 10));
    /// let findings = layer.describe()?.findings;
    /// assert!(findings.iter().any(|finding| finding.code == Code::RedundantCopyDamaged));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let (limits, trust_broken) = (&options.limits, options.trust_broken);
        let headers = Headers::read(&storage)?;
        let (log, overlay) = replay(&storage, &headers.current, limits, trust_broken)?;
        // all but the headers is as the log has it
        let replayed = with_log(&storage, overlay.as_ref());
        let regions = RegionTable::read(&replayed, &headers.current, trust_broken)?;
        // the table may lie in front of what tells how much of it counts
        replayed.expect(regions.bat.offset, regions.bat.length);
        let metadata = Metadata::read(&replayed, &regions.metadata, trust_broken)?;
        let bat = Bat::new(Arc::clone(&replayed), regions, &metadata, limits.table_cache)?;
        let layer = Self {
            references: metadata.parent_locator.iter().map(|l| l.reference()).collect(),
            headers,
            log,
            base: Arc::clone(&storage),
            overlay,
            metadata,
            bat,
            max_table_size: limits.max_table_size,
            look_over: options.look_over,
        };
        layer.check_growth(storage.size())?;
        Ok(layer)
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The region table.
    #[must_use]
    pub fn regions(&self) -> &RegionTable {
        self.bat.regions()
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Whether describing it may look into its table.
    pub(super) fn looks_over(&self) -> bool {
        self.look_over > 0
    }

    /// What became of the log.
    #[must_use]
    pub fn log(&self) -> LogState {
        self.log
    }

    /// The file as it is on the medium.
    pub(super) fn base(&self) -> &dyn Storage {
        &self.base
    }

    /// The file with its log replayed, if it has one.
    pub(super) fn overlay(&self) -> Option<&LogOverlay> {
        self.overlay.as_deref()
    }

    /// The file as all but the headers is read: with its log replayed, if it has one.
    pub(super) fn file(&self) -> Arc<dyn Storage> {
        with_log(&self.base, self.overlay.as_ref())
    }

    pub(super) fn bat(&self) -> &Bat {
        &self.bat
    }

    pub(super) fn max_table_size(&self) -> u64 {
        self.max_table_size
    }

    fn block(&self) -> Pow2 {
        self.metadata.block
    }

    /// Refuses a log that makes the file longer than all the disk could take: what lies beyond
    /// the real end reads as zeros.
    fn check_growth(&self, real_size: u64) -> Result<()> {
        let LogState::Replayed { file_size: last, .. } = self.log else { return Ok(()) };
        let blocks = self.bat.blocks().saturating_mul(self.block().size());
        let bitmaps = self.bat.bitmaps().saturating_mul(SECTOR_BITMAP_LENGTH);
        let room = blocks.saturating_add(bitmaps).saturating_add(self.regions().end());
        if last > real_size.saturating_add(room) {
            let offset = self.headers.current.log_offset;
            return Err(Error::new(VhdxDetail::LogFileGrown { last }).at(offset));
        }
        Ok(())
    }

    /// What a payload block is from its byte `within` on, to its end or that of a run of sectors.
    fn piece(&self, block: u64, entry: BatEntry, within: u64) -> Result<(u64, MappingKind)> {
        let rest = self.block().size().saturating_sub(within);
        let place = entry.offset.saturating_add(within);
        let stored = MappingKind::Stored { source: Source::Own, offset: place };
        Ok(match entry.state {
            BlockState::NotPresent if !self.references.is_empty() => {
                (rest, MappingKind::Parent { stored: None })
            }
            BlockState::NotPresent
            | BlockState::Undefined
            | BlockState::Zero
            | BlockState::Unmapped => (rest, MappingKind::Zero { allocated: true, stored: None }),
            BlockState::FullyPresent => (rest, stored),
            BlockState::PartiallyPresent => match self.bat.sector_run(block, within)? {
                (true, length) => (length, stored),
                (false, length) => {
                    (length, MappingKind::Parent { stored: Some((Source::Own, place)) })
                }
            },
        })
    }
}

fn with_log(base: &Arc<dyn Storage>, overlay: Option<&Arc<LogOverlay>>) -> Arc<dyn Storage> {
    match overlay {
        Some(overlay) => Arc::<LogOverlay>::clone(overlay),
        None => Arc::clone(base),
    }
}

impl Layer for VhdxLayer {
    fn format(&self) -> Format {
        Format::Vhdx
    }

    fn size(&self) -> u64 {
        self.metadata.virtual_disk_size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.block().size())
    }

    fn sector_size(&self) -> Option<u64> {
        Some(self.metadata.logical_sector.size())
    }

    fn stores_long_runs(&self) -> bool {
        self.metadata.leave_blocks_allocated
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn storage(&self) -> Option<Arc<dyn Storage>> {
        self.overlay.is_some().then(|| self.file())
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity::Uuid(*self.headers.current.data_write_guid.as_bytes()))
    }

    fn disk_id(&self) -> Option<[u8; 16]> {
        Some(*self.metadata.virtual_disk_id.as_bytes())
    }

    fn check_parent(&self, parent: &dyn Layer) -> Result<()> {
        let Some(locator) = &self.metadata.parent_locator else { return Ok(()) };
        let found = match parent.identity() {
            Some(Identity::Uuid(bytes)) => {
                let found = Guid::from_text_order(bytes);
                if locator.means(found) {
                    return Ok(());
                }
                found.to_string()
            }
            _ => "none".to_owned(),
        };
        let wanted = locator.linkage.to_string();
        Err(Error::new(VhdxDetail::WrongParent { wanted, found }).at(locator.offset))
    }

    fn tables_at(&self) -> Option<u64> {
        Some(self.regions().bat.offset)
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let block = self.block();
        let max = max.min(self.size().saturating_sub(offset));
        let first = block.index(offset);
        let mut found: Option<Result<Mapping>> = None;
        let visited = self.bat.visit(first, |index, entry, _| {
            let within = if index == first { block.within(offset) } else { 0 };
            let piece = entry.and_then(|entry| self.piece(index, entry, within));
            let (length, kind) = match (piece, &mut found) {
                (Ok(piece), _) => piece,
                // what a later entry says is found out when it is its turn
                (Err(_), Some(_)) => return ControlFlow::Break(()),
                (Err(error), None) => {
                    found = Some(Err(error));
                    return ControlFlow::Break(());
                }
            };
            match &mut found {
                Some(Ok(run)) if run.kind.continues_with(run.length, &kind) => {
                    run.length = run.length.saturating_add(length);
                }
                None => found = Some(Ok(Mapping { length, kind })),
                Some(_) => return ControlFlow::Break(()),
            }
            let whole = within.saturating_add(length) == block.size();
            let enough = matches!(&found, Some(Ok(run)) if run.length >= max);
            if whole && !enough { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        visited.map_err(|error| error.affecting(self.bat.guest(first)))?;
        match found {
            Some(found) => found.map(|run| Mapping { length: run.length.min(max), ..run }),
            // no block at all: an offset beyond the size, which nobody asks for
            None => Ok(Mapping { length: max, kind: MappingKind::Parent { stored: None } }),
        }
    }

    fn reach(&self, offset: u64) -> Result<Reach> {
        let first = self.block().index(offset);
        let written = self.bat.skip_unwritten(first)?;
        if written > first {
            let behind = self.block().offset_of(written).unwrap_or(u64::MAX).min(self.size());
            let length = behind.saturating_sub(offset).max(1);
            return Ok(Reach { length, end: 0, encoded: false });
        }
        Ok(self.map(offset, u64::MAX)?.reach())
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
        repair::repair(self, scope, checking, patch)
    }

    fn describe(&self) -> Result<Description> {
        describe(self)
    }
}

#[cfg(test)]
mod tests;
