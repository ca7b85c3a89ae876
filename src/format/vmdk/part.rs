//! The parts of a disk: what each extent line stands for.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::LayerOptions;
use crate::layer::{Mapping, MappingKind, Reference, Source};
use crate::storage::Storage;
use crate::text::printable;

use super::error::VmdkDetail;
use super::layout::*;
use super::line::{Access, ExtentLine, ExtentType};
use super::sparse::Sparse;

/// A part of the disk.
#[derive(Debug)]
pub(super) struct Part {
    /// Where it starts in the disk, bytes.
    pub(super) start: u64,
    /// How long it is, bytes.
    pub(super) length: u64,
    /// The line that describes it; `None` for an extent that is read without a descriptor.
    pub(super) line: Option<ExtentLine>,
    /// The file it lies in: the number of its reference, or `None` for the image's own.
    pub(super) reference: Option<usize>,
    /// What is in that file.
    pub(super) content: Content,
}

/// What is in a part's file.
#[derive(Debug)]
pub(super) enum Content {
    /// Zeros, and no file.
    Zero,
    /// Plain bytes from an offset on; the file, once it is there.
    Flat { offset: u64, storage: Option<Arc<dyn Storage>> },
    /// Grains and tables; they, once the file is there. Boxed, being large.
    Sparse(Option<Box<Sparse>>),
}

impl Part {
    /// The part that `line` describes, which starts at `start`.
    pub(super) fn new(line: ExtentLine, start: u64, reference: Option<usize>) -> Result<Self> {
        let content = match line.kind {
            ExtentType::Zero => Content::Zero,
            ExtentType::Flat | ExtentType::Vmfs => {
                Content::Flat { offset: line.offset.saturating_mul(SECTOR), storage: None }
            }
            ExtentType::Sparse | ExtentType::VmfsSparse | ExtentType::SeSparse => {
                if line.offset != 0 {
                    let (what, field) = ("extent line", "offset");
                    let (value, rule) = (line.offset, "0 for a sparse extent");
                    let detail = VmdkDetail::Field { what, field, value, rule };
                    return Err(Error::new(detail).at(line.at));
                }
                Content::Sparse(None)
            }
            ExtentType::VmfsRdm | ExtentType::VmfsRaw => {
                let (name, kind) = (printable(&line.name), line.kind.name());
                return Err(Error::new(VmdkDetail::ExtentType { name, kind }).at(line.at));
            }
        };
        let length = line.sectors.saturating_mul(SECTOR);
        Ok(Self { start, length, line: Some(line), reference, content })
    }

    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    pub(super) fn sparse(&self) -> Option<&Sparse> {
        match &self.content {
            Content::Sparse(sparse) => sparse.as_deref(),
            _ => None,
        }
    }

    /// Takes the file; what it says of itself must agree with the line. `cache` bounds the memory
    /// for its tables.
    pub(super) fn attach(
        &mut self,
        storage: &Arc<dyn Storage>,
        cache: u64,
        options: &LayerOptions,
    ) -> Result<()> {
        match &mut self.content {
            Content::Zero => {}
            Content::Flat { storage: slot, .. } => *slot = Some(Arc::clone(storage)),
            Content::Sparse(slot) => {
                let mut sparse = Sparse::open(Arc::clone(storage), self.start, cache, options)?;
                let line = self.length.checked_div(SECTOR).unwrap_or_default();
                self.length = fit(line, &mut sparse, options)?;
                *slot = Some(Box::new(sparse));
            }
        }
        Ok(())
    }

    /// What the bytes from `offset` of the disk on are.
    pub(super) fn map(&self, offset: u64, max: u64, references: &[Reference]) -> Result<Mapping> {
        let max = max.min(self.end().saturating_sub(offset));
        let within = offset.saturating_sub(self.start);
        self.check_access().map_err(|error| error.affecting(self.start..self.end()))?;
        let reference = || self.reference.and_then(|index| references.get(index));
        let missing = || match reference() {
            Some(reference) => reference.denied(),
            None => VmdkDetail::BareExtent.into(),
        };
        let source = self.reference.map_or(Source::Own, Source::Reference);
        match &self.content {
            Content::Zero => {
                let kind = MappingKind::Zero { allocated: true, stored: None };
                Ok(Mapping { length: max, kind })
            }
            Content::Sparse(sparse) => {
                let sparse = sparse.as_ref().ok_or_else(missing)?;
                sparse.map(source, within, max).map_err(|error| self.blamed(error))
            }
            Content::Flat { offset, storage } => {
                let storage = storage.as_ref().ok_or_else(missing)?;
                let offset = offset.saturating_add(within);
                let left = storage.size().saturating_sub(offset);
                let stored = MappingKind::Stored { source, offset };
                if left == 0 {
                    // the reader finds that the file is too short
                    return Ok(Mapping { length: max, kind: stored });
                }
                Ok(Mapping { length: max.min(left), kind: stored })
            }
        }
    }

    /// An error about the part's tables or grains, which lie in a file of their own.
    pub(super) fn blamed(&self, error: Error) -> Error {
        match self.sparse().and_then(|sparse| sparse.storage().path()) {
            Some(path) if self.reference.is_some() => error.in_file(path),
            _ => error,
        }
    }

    /// Whether it is a part of a plain file.
    pub(super) fn is_flat(&self) -> bool {
        matches!(self.content, Content::Flat { .. })
    }

    /// Refuses an extent that must not be read.
    pub(super) fn check_access(&self) -> Result<()> {
        match &self.line {
            Some(line) if line.access == Access::None => {
                Err(Error::new(VmdkDetail::NoAccess(printable(&line.name))).at(line.at))
            }
            _ => Ok(()),
        }
    }
}

/// Gives a sparse extent the length that its line says, `line` sectors. Its header's capacity is
/// the same, or that rounded up to whole grains, which some writers do.
pub(super) fn fit(line: u64, sparse: &mut Sparse, options: &LayerOptions) -> Result<u64> {
    let capacity = sparse.capacity();
    let mut wanted = line.saturating_mul(SECTOR);
    let rounded = wanted < capacity && sparse.grain().ceil(wanted) == capacity;
    if wanted != capacity && !rounded {
        if !options.trust_broken {
            let capacity = capacity.checked_div(SECTOR).unwrap_or_default();
            return Err(Error::new(VmdkDetail::SizeMismatch { line, capacity }).at(12));
        }
        wanted = wanted.min(capacity);
    }
    sparse.capacity = wanted;
    Ok(wanted)
}
