//! A bundle: the files that a descriptor names, as one disk.

use std::sync::Arc;

use crate::check::Checking;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::format::fault::Fault;
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Reference, Role, Source, Value};
use crate::num::Pow2;
use crate::storage::Storage;

use super::descriptor::{Descriptor, StorageData};
use super::expandable::Expandable;

/// The files of a bundle as a layer. Each part of the disk has an image for each snapshot; what
/// one does not have is its parent's.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::parallels::BundleLayer;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{ErrorKind, Layer};
///
/// # let text = "<?xml version='1.0'?><Parallels_disk_image Version='1.0'>
/// #     <Disk_Parameters><Disk_size>8</Disk_size></Disk_Parameters>
/// #     <StorageData><Storage><Start>0</Start><End>8</End><Blocksize>8</Blocksize>
/// #     <Image><GUID>{01}</GUID><Type>Plain</Type><File>disk.hds</File></Image>
/// #     </Storage></StorageData></Parallels_disk_image>";
/// # let descriptor = Arc::new(MemoryStorage::new(text.into()));
/// // `descriptor` holds a DiskDescriptor.xml
/// let mut layer = BundleLayer::open(descriptor, &LayerOptions::default())?;
/// assert_eq!(layer.descriptor().disk_size, 8);
/// // nothing is read before somebody hands over the file that it names
/// let refused = layer.map(0, 4096).unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::Denied);
/// layer.attach(0, Arc::new(MemoryStorage::new(vec![7; 4096])))?;
/// let kind = MappingKind::Stored { source: Source::Reference(0), offset: 0 };
/// assert_eq!(layer.map(0, 4096)?.kind, kind);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct BundleLayer {
    descriptor: Descriptor,
    references: Vec<Reference>,
    /// For each reference the opened image.
    images: Vec<Option<Opened>>,
    options: LayerOptions,
}

#[derive(Debug)]
enum Opened {
    Plain,
    Expandable(Box<Expandable>),
}

impl BundleLayer {
    /// Opens `storage` as a descriptor. The files that it names are not opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::parallels::BundleLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let text = "<Parallels_disk_image Version='1.0'>
    ///     <Disk_Parameters><Disk_size>16</Disk_size></Disk_Parameters>
    ///     <StorageData><Storage><Start>0</Start><End>8</End><Blocksize>8</Blocksize>
    ///     <Image><GUID>{01}</GUID><Type>Plain</Type><File>disk.hds</File></Image>
    ///     </Storage></StorageData></Parallels_disk_image>";
    /// // half of the disk is in no part
    /// let storage = Arc::new(MemoryStorage::new(text.into()));
    /// let error = BundleLayer::open(storage, &LayerOptions::default()).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Corrupt);
    /// println!("{error}");
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let descriptor = Descriptor::read(&storage, options)?;
        let mut references = Vec::new();
        for (part, guid) in pairs(&descriptor) {
            let Some(image) = part.image(guid) else { continue };
            let format = if image.is_plain { "raw" } else { "parallels" };
            references.push(Reference {
                role: Role::Extent,
                names: vec![image.file.clone().into_bytes()],
                format: Some(format.into()),
                offset: image.offset,
            });
        }
        let images = references.iter().map(|_| None).collect();
        let mut options = options.clone();
        // the images share what there is for tables
        let count = u64::try_from(references.len()).unwrap_or(u64::MAX).max(1);
        let share = options.limits.table_cache.checked_div(count).unwrap_or_default();
        options.limits.table_cache = share.max(128 << 10);
        Ok(Self { descriptor, references, images, options })
    }

    /// What the descriptor says.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn bytes(sectors: u64) -> u64 {
        Pow2::SECTOR.offset_of(sectors).unwrap_or(u64::MAX)
    }

    /// The bytes of a part from `offset` of it on.
    fn map_part(&self, first: usize, offset: u64, max: u64) -> Result<Mapping> {
        let mut found =
            Mapping { length: max, kind: MappingKind::Zero { allocated: false, stored: None } };
        for depth in 0..self.descriptor.chain.len() {
            let index = first.saturating_add(depth);
            let source = Source::Reference(index);
            match self.images.get(index).and_then(Option::as_ref) {
                Some(Opened::Plain) => found.kind = MappingKind::Stored { source, offset },
                Some(Opened::Expandable(image)) => {
                    // its tables lie in a file of their own
                    let path = image.storage.path();
                    let blame = |error: Error| match path {
                        Some(path) => error.in_file(path),
                        None => error,
                    };
                    found = image.map(offset, found.length).map_err(blame)?;
                }
                None => {
                    let reference = self.references.get(index).map(Reference::denied);
                    let unknown = || Error::other(ErrorKind::Denied, "needs another file");
                    return Err(reference.unwrap_or_else(unknown));
                }
            }
            if let MappingKind::Stored { offset, .. } = found.kind {
                found.kind = MappingKind::Stored { source, offset };
                break;
            }
        }
        Ok(found)
    }
}

/// Each part with each GUID of the chain: the order of the references.
fn pairs(descriptor: &Descriptor) -> impl Iterator<Item = (&StorageData, &str)> {
    let chain = || descriptor.chain.iter().map(String::as_str);
    descriptor.storages.iter().flat_map(move |part| chain().map(move |guid| (part, guid)))
}

impl Layer for BundleLayer {
    fn format(&self) -> Format {
        Format::Parallels
    }

    fn size(&self) -> u64 {
        Self::bytes(self.descriptor.disk_size)
    }

    fn cluster_size(&self) -> Option<u64> {
        let size = self.descriptor.storages.first().map(|part| Self::bytes(part.block_size))?;
        Some(size).filter(|size| size.is_power_of_two())
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn attach(&mut self, index: usize, storage: Arc<dyn Storage>) -> Result<()> {
        let Some((part, guid)) = pairs(&self.descriptor).nth(index) else { return Ok(()) };
        let Some(described) = part.image(guid) else { return Ok(()) };
        let length = Self::bytes(part.end.saturating_sub(part.start));
        let corrupt = |text: String| Err(Error::new(Fault::Corrupt(text)).at(0));
        let (size, image) = if described.is_plain {
            (storage.size(), Opened::Plain)
        } else {
            let image = Expandable::open(storage, &self.options)?;
            let cluster = image.header.cluster();
            if cluster != Self::bytes(part.block_size) {
                return corrupt(format!(
                    "has clusters of {cluster} bytes, and {} sectors says the descriptor",
                    part.block_size
                ));
            }
            (image.header.size(), Opened::Expandable(Box::new(image)))
        };
        if size < length {
            return corrupt(format!(
                "holds {size} bytes of a part of the disk that is {length} bytes long"
            ));
        }
        if let Some(slot) = self.images.get_mut(index) {
            *slot = Some(image);
        }
        Ok(())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let sector = Pow2::SECTOR.index(offset);
        let parts = &self.descriptor.storages;
        let index = parts.partition_point(|part| part.end <= sector);
        let Some(part) = parts.get(index) else {
            return Err(Error::other(ErrorKind::InvalidInput, "lies behind the end of the disk"));
        };
        let first = index.saturating_mul(self.descriptor.chain.len());
        let max = max.min(Self::bytes(part.end).saturating_sub(offset));
        self.map_part(first, offset.saturating_sub(Self::bytes(part.start)), max)
            .map_err(|error| error.affecting(offset..offset.saturating_add(max)))
    }

    fn describe(&self) -> Result<Description> {
        let part = |part: &StorageData| {
            let images = part.images.iter().map(|image| {
                Value::Map(vec![
                    ("guid", image.guid.clone().into()),
                    ("type", if image.is_plain { "plain" } else { "expandable" }.into()),
                    ("file", image.file.clone().into()),
                ])
            });
            Value::Map(vec![
                ("start", Self::bytes(part.start).into()),
                ("end", Self::bytes(part.end).into()),
                ("block-size", Self::bytes(part.block_size).into()),
                ("images", Value::List(images.collect())),
            ])
        };
        let shots = self.descriptor.shots.iter().map(|shot| {
            Value::Map(vec![
                ("guid", shot.guid.clone().into()),
                ("parent", shot.parent.clone().unwrap_or_default().into()),
            ])
        });
        let parts = self.descriptor.storages.iter().map(part);
        let chain = self.descriptor.chain.iter().map(|guid| Value::Text(guid.clone()));
        let details = vec![
            ("storages", Value::List(parts.collect())),
            ("snapshots", Value::List(shots.collect())),
            ("chain", Value::List(chain.collect())),
        ];
        let mut findings =
            vec![Finding::new(Code::Ploop, "is the descriptor of a Parallels bundle")];
        if let Some(first) = self.references.first() {
            let (count, name) = (self.references.len(), first.printable_name());
            let text =
                format!("{count} part(s) of the disk lie in other files, '{name}' the first");
            findings.push(Finding::new(Code::ExternalExtents, text).at(first.offset));
        }
        Ok(Description { details, findings, ..Description::default() })
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        if let Some(first) = self.references.first() {
            let (count, name) = (self.references.len(), first.printable_name());
            let text = format!(
                "{count} images are other files, '{name}' the first: they were not checked"
            );
            let note = Finding::new(Code::NotChecked, text).at(first.offset);
            checking
                .note(note.in_structure("descriptor").fix("check each of them by its own name"));
        }
        Ok(())
    }
}
