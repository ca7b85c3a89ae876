//! The guest's view of a disk and its extents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, Result};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Identity, Layer, Mapping, Reach, Reference, Role};
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::describe::describe;
use super::descriptor::Descriptor;
use super::error::VmdkDetail;
use super::header::{Footer, Newlines, SparseHeader, read_footer};
use super::layout::*;
use super::line::{ExtentLine, ExtentType};
use super::names::{candidates, uuid_text};
use super::part::{Content, Part, fit};
use super::sparse::Sparse;
use super::{check, repair};

/// A VMDK: its descriptor, and the extents that it names.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vmdk::VmdkLayer;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
/// use diskimage::layer::MappingKind;
/// use diskimage::storage::MemoryStorage;
///
/// # let storage = std::sync::Arc::new(diskimage::storage::MemoryStorage::new(vec![7; 1 << 20]));
/// # let raw = diskimage::OpenOptions::new().format(diskimage::Format::Raw);
/// # let disk = raw.open_storage(storage, "raw".as_ref())?;
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
/// # diskimage::Convert::new().image(&disk, writer, None, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of a disk of sevens
/// let layer = VmdkLayer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
/// assert!(layer.header().is_some_and(|header| header.compressed()));
/// let create_type = layer.descriptor().map(|descriptor| &*descriptor.create_type);
/// assert_eq!(create_type, Some("streamOptimized"));
/// assert_eq!(layer.map(0, 512)?.kind, MappingKind::Encoded);
/// let mut bytes = [0; 4];
/// layer.read_encoded(&mut bytes, 1000)?;
/// assert_eq!(bytes, [7; 4]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct VmdkLayer {
    storage: Arc<dyn Storage>,
    /// The image's own header, where it is a hosted sparse extent.
    header: Option<SparseHeader>,
    footer: Option<Footer>,
    descriptor: Option<Descriptor>,
    parts: Vec<Part>,
    references: Vec<Reference>,
    size: u64,
    /// Why nothing can be read of an image that can be described, and where in the file.
    damage: Option<(VmdkDetail, u64)>,
    options: LayerOptions,
    /// The compressed grain that was decoded last for a read of a part of it: the number of its
    /// extent, its offset in it, its bytes.
    decoded: Mutex<Option<(usize, u64, Vec<u8>)>>,
}

impl VmdkLayer {
    /// Opens `storage`: a descriptor, or a sparse extent with a descriptor inside. Nothing else is
    /// opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vmdk::VmdkLayer;
    /// use diskimage::layer::{MappingKind, Role, Source};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Layer};
    ///
    /// let text = "# Disk DescriptorFile\nversion=1\nCID=5f3a9c01\nparentCID=ffffffff\n\
    ///     createType=\"monolithicFlat\"\nRW 8 FLAT \"disk-flat.vmdk\" 0\n";
    /// let storage = Arc::new(MemoryStorage::new(text.into()));
    /// let mut layer = VmdkLayer::open(storage, &LayerOptions::default())?;
    /// // the extent is another file, which somebody has to hand over
    /// let extent = &layer.references()[0];
    /// assert_eq!((extent.role, &*extent.printable_name()), (Role::Extent, "disk-flat.vmdk"));
    /// assert_eq!(layer.map(0, 512).unwrap_err().kind(), ErrorKind::Denied);
    /// layer.attach(0, Arc::new(MemoryStorage::new(vec![7; 4096])))?;
    /// let kind = MappingKind::Stored { source: Source::Reference(0), offset: 0 };
    /// assert_eq!(layer.map(0, 512)?.kind, kind);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let magic = read_vec(&storage, "the magic", 0, to_usize(storage.size().min(8)))?;
        match magic.as_slice() {
            [b'K', b'D', b'M', b'V', ..] => Self::open_hosted(storage, options),
            [b'C', b'O', b'W', b'D', ..] | [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0] => {
                Self::open_bare(storage, None, options)
            }
            _ => {
                let text = read_text(&storage)?;
                let descriptor = Descriptor::parse(&text, 0, options.trust_broken)?;
                Self::of_descriptor(storage, descriptor, options)
            }
        }
    }

    fn new(storage: Arc<dyn Storage>, options: &LayerOptions) -> Self {
        Self {
            storage,
            header: None,
            footer: None,
            descriptor: None,
            parts: Vec::new(),
            references: Vec::new(),
            size: 0,
            damage: None,
            options: options.clone(),
            decoded: Mutex::new(None),
        }
    }

    /// An extent that is read without a descriptor: on request only, since its parent and the
    /// other parts of the disk are not known.
    fn open_bare(
        storage: Arc<dyn Storage>,
        header: Option<SparseHeader>,
        options: &LayerOptions,
    ) -> Result<Self> {
        if !options.trust_broken {
            return Err(Error::new(VmdkDetail::BareExtent).at(0));
        }
        let cache = options.limits.table_cache;
        let sparse = Sparse::open(Arc::clone(&storage), 0, cache, options)?;
        let mut layer = Self::new(storage, options);
        layer.header = header;
        layer.size = sparse.capacity();
        let content = Content::Sparse(Some(Box::new(sparse)));
        let length = layer.size;
        layer.parts.push(Part { start: 0, length, line: None, reference: None, content });
        Ok(layer)
    }

    /// A hosted sparse extent, which has its descriptor inside.
    fn open_hosted(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = SparseHeader::read(&storage)?;
        if let Newlines::Mangled(found) = header.newlines
            && !options.trust_broken
        {
            return Self::open_mangled(storage, header, found, options);
        }
        let grain = header.validate(options.trust_broken)?;
        let Some(descriptor) = read_embedded(&storage, &header, options)? else {
            return Self::open_bare(storage, Some(header), options);
        };
        let own = ["monolithicsparse", "streamoptimized"];
        let own = own.contains(&&*descriptor.create_type.to_ascii_lowercase());
        if header.capacity == 0 && !own {
            // an empty extent that only carries the descriptor of others
            let mut layer = Self::of_descriptor(storage, descriptor, options)?;
            layer.header = Some(header);
            return Ok(layer);
        }
        let embedded = |what| {
            let at = header.descriptor_offset.saturating_mul(SECTOR);
            Err(Error::new(VmdkDetail::Embedded(what)).at(at))
        };
        if !own {
            return embedded("is of a disk type that has none");
        }
        let line = match descriptor.extents.as_slice() {
            [line] if line.kind == ExtentType::Sparse => line,
            [] => return embedded("names no extent"),
            [_] => return embedded("names an extent that is not this sparse one"),
            _ => return embedded("names more than one extent"),
        };
        let mut layer = Self::new(Arc::clone(&storage), options);
        // whatever name the line has, it means this file
        let mut part = Part::new(line.clone(), 0, None)?;
        let mut directory = Some(header.gd_offset);
        if header.gd_offset == GD_AT_END {
            directory = layer.take_footer(&header)?;
        }
        if let Some(directory) = directory {
            let (cache, header) = (options.limits.table_cache, header.clone());
            let mut sparse = Sparse::hosted(storage, header, grain, directory, 0, cache, options)?;
            part.length = fit(line.sectors, &mut sparse, options)?;
            part.content = Content::Sparse(Some(Box::new(sparse)));
        }
        layer.size = part.length;
        layer.parts.push(part);
        layer.header = Some(header);
        layer.take_descriptor(descriptor);
        Ok(layer)
    }

    /// Takes the footer, if it is good; else the image can be described, but not be read. Gives
    /// the grain directory's place.
    fn take_footer(&mut self, header: &SparseHeader) -> Result<Option<u64>> {
        match read_footer(&self.storage, header)? {
            Ok(footer) => Ok(Some(self.footer.insert(footer).header.gd_offset)),
            Err(damage) => {
                self.damage = Some(damage);
                Ok(None)
            }
        }
    }

    /// A file whose line ends were changed: all that is behind the header has moved, so nothing
    /// of it is believed.
    fn open_mangled(
        storage: Arc<dyn Storage>,
        header: SparseHeader,
        found: [u8; 4],
        options: &LayerOptions,
    ) -> Result<Self> {
        let size = sectors(header.capacity).filter(|&size| size > 0);
        let detail = SparseHeader::mangled(found);
        let Some(size) = size else { return Err(Error::new(detail).at(NEWLINE_TEST_OFFSET)) };
        let mut layer = Self::new(storage, options);
        layer.size = size;
        layer.header = Some(header);
        layer.damage = Some((detail, NEWLINE_TEST_OFFSET));
        Ok(layer)
    }

    /// A disk whose extents are other files.
    fn of_descriptor(
        storage: Arc<dyn Storage>,
        descriptor: Descriptor,
        options: &LayerOptions,
    ) -> Result<Self> {
        check_type(&descriptor)?;
        let mut layer = Self::new(storage, options);
        let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
        for line in &descriptor.extents {
            let reference = (line.kind != ExtentType::Zero).then(|| {
                *known.entry(line.name.clone()).or_insert_with(|| {
                    let names = candidates(&line.name, descriptor.encoding());
                    let (role, offset) = (Role::Extent, line.at);
                    layer.references.push(Reference { role, names, format: None, offset });
                    layer.references.len().saturating_sub(1)
                })
            });
            layer.push(line, reference)?;
        }
        if layer.parts.is_empty() {
            return Err(Error::new(VmdkDetail::NoExtents).at(descriptor.at("createtype")));
        }
        layer.take_descriptor(descriptor);
        Ok(layer)
    }

    /// Adds the part behind the others.
    fn push(&mut self, line: &ExtentLine, reference: Option<usize>) -> Result<()> {
        if reference.is_some() && line.name.is_empty() {
            return Err(Error::new(VmdkDetail::NoName).at(line.at));
        }
        let part = Part::new(line.clone(), self.size, reference)?;
        let end = self.size.checked_add(part.length);
        let overflow = || Error::new(VmdkDetail::SizeOverflow).at(line.at);
        self.size = end.ok_or_else(overflow)?;
        self.parts.push(part);
        Ok(())
    }

    /// Takes the descriptor, and the reference to the parent from it.
    fn take_descriptor(&mut self, descriptor: Descriptor) {
        let uuid = descriptor.parent_uuid();
        let cid = descriptor.parent_cid.filter(|&cid| cid != CID_NO_PARENT);
        let (mut names, mut offset) = descriptor.parent_hint().unwrap_or_default();
        let mut format = None;
        if !names.is_empty() || cid.is_some() {
            // content identifiers are VMDK's own
            format = cid.map(|_| b"vmdk".to_vec());
        }
        if let Some(uuid) = uuid {
            offset = if names.is_empty() { descriptor.at("ddb.uuid.parent") } else { offset };
            names.push(uuid_text(&uuid).into_bytes());
        }
        if let Some(cid) = cid.filter(|_| names.is_empty()) {
            // a child without a name for its parent is a child nevertheless
            offset = descriptor.at("parentcid");
            names.push(format!("CID={cid:08x}").into_bytes());
        }
        if !names.is_empty() {
            self.references.push(Reference { role: Role::Parent, names, format, offset });
        }
        self.descriptor = Some(descriptor);
    }

    /// The header, where the image itself is a hosted sparse extent.
    #[must_use]
    pub fn header(&self) -> Option<&SparseHeader> {
        self.header.as_ref()
    }

    /// The descriptor.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.descriptor.as_ref()
    }

    pub(super) fn footer(&self) -> Option<&Footer> {
        self.footer.as_ref()
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn damage(&self) -> Option<(&VmdkDetail, u64)> {
        self.damage.as_ref().map(|(detail, at)| (detail, *at))
    }

    /// How many bytes of tables describing it may look over.
    pub(super) fn look_over(&self) -> u64 {
        self.options.look_over
    }

    pub(super) fn own_storage(&self) -> &dyn Storage {
        &self.storage
    }

    /// Refuses to give out data that would be wrong.
    fn check_readable(&self) -> Result<()> {
        if let Some((detail, at)) = &self.damage {
            return Err(Error::new(detail.clone()).at(*at).affecting(0..self.size));
        }
        match self.descriptor.as_ref().and_then(Descriptor::encryption) {
            Some(why) => Err(Error::new(VmdkDetail::Encrypted(why)).affecting(0..self.size)),
            None => Ok(()),
        }
    }

    /// The part that `offset` lies in, and its number.
    fn part(&self, offset: u64) -> Result<(usize, &Part)> {
        let index = self.parts.partition_point(|part| part.end() <= offset);
        let part = self.parts.get(index).map(|part| (index, part));
        part.ok_or_else(|| {
            Error::other(crate::ErrorKind::InvalidInput, "the offset is beyond the disk")
        })
    }

    /// Copies bytes of a grain of which only a part is wanted.
    fn read_within(&self, index: usize, sparse: &Sparse, at: u64, buf: &mut [u8]) -> Result<()> {
        let grain = sparse.grain();
        let start = grain.floor(at);
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*decoded, Some((i, s, _)) if (*i, *s) == (index, start)) {
            let mut bytes = decoded.take().map(|(_, _, bytes)| bytes).unwrap_or_default();
            bytes.clear();
            bytes.resize(to_usize(grain.size()), 0);
            sparse.read_grain(start, &mut bytes)?;
            *decoded = Some((index, start, bytes));
        }
        let bytes = decoded.as_ref().and_then(|(_, _, b)| b.get(to_usize(grain.within(at))..));
        if let Some(bytes) = bytes.and_then(|bytes| bytes.get(..buf.len())) {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }
}

impl Layer for VmdkLayer {
    fn format(&self) -> Format {
        Format::Vmdk
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> Option<u64> {
        let mut grains = self.parts.iter().map(|part| part.sparse().map(|s| s.grain().size()));
        let first = grains.next()??;
        grains.all(|grain| grain == Some(first)).then_some(first)
    }

    fn stores_long_runs(&self) -> bool {
        self.parts.iter().any(Part::is_flat)
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn attach(&mut self, index: usize, storage: Arc<dyn Storage>) -> Result<()> {
        let sparse = self.parts.iter().filter(|part| matches!(part.content, Content::Sparse(_)));
        let count = to_u64(sparse.count()).max(1);
        let cache = self.options.limits.table_cache.checked_div(count).unwrap_or_default();
        for part in self.parts.iter_mut().filter(|part| part.reference == Some(index)) {
            part.attach(&storage, cache, &self.options)?;
        }
        Ok(())
    }

    fn identities(&self) -> Vec<Identity> {
        let Some(descriptor) = &self.descriptor else { return Vec::new() };
        let cid = descriptor.cid.map(Identity::ContentId);
        let uuid = descriptor.image_uuid().map(Identity::Uuid);
        cid.into_iter().chain(uuid).collect()
    }

    fn check_parent(&self, parent: &dyn Layer) -> Result<()> {
        let Some(descriptor) = &self.descriptor else { return Ok(()) };
        if self.options.trust_broken {
            return Ok(());
        }
        let identities = parent.identities();
        let fail = |detail, key| Err(Error::new(detail).at(descriptor.at(key)));
        let cid = descriptor.parent_cid.filter(|&cid| cid != CID_NO_PARENT);
        let uuid = descriptor.parent_uuid();
        if cid.is_none() && uuid.is_none() {
            return fail(VmdkDetail::ParentContradiction, "parentfilenamehint");
        }
        if let Some(wanted) = cid {
            let found = identities.iter().find_map(|identity| match identity {
                Identity::ContentId(found) => Some(*found),
                _ => None,
            });
            match found {
                Some(found) if found == wanted => {}
                Some(found) => {
                    return fail(VmdkDetail::ParentChanged { found, wanted }, "parentcid");
                }
                None => return fail(VmdkDetail::ParentWithoutId { wanted }, "parentcid"),
            }
        }
        for identity in &identities {
            if let (Identity::Uuid(found), Some(wanted)) = (identity, uuid)
                && *found != wanted
            {
                let (found, wanted) = (uuid_text(found), uuid_text(&wanted));
                return fail(VmdkDetail::ParentUuid { found, wanted }, "ddb.uuid.parent");
            }
        }
        Ok(())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        self.check_readable()?;
        let (_, part) = self.part(offset)?;
        part.map(offset, max, &self.references)
    }

    fn reach(&self, offset: u64) -> Result<Reach> {
        let (_, part) = self.part(offset)?;
        match part.sparse().filter(|_| part.reference.is_none()) {
            Some(sparse) => {
                let within = offset.saturating_sub(part.start);
                let reach = sparse.reach(within)?;
                Ok(Reach { length: reach.length.min(part.length.saturating_sub(within)), ..reach })
            }
            None => Ok(Reach { length: part.end().saturating_sub(offset), end: 0, encoded: false }),
        }
    }

    fn check_readable(&self) -> Result<()> {
        Self::check_readable(self)
    }

    fn tables_at(&self) -> Option<u64> {
        self.parts.first().and_then(Part::sparse).map(Sparse::directory_place)
    }

    fn page_span(&self) -> Option<u64> {
        self.parts.first().and_then(Part::sparse).map(Sparse::page_span)
    }

    fn read_encoded(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_readable()?;
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (index, part) = self.part(at)?;
            part.check_access()?;
            let Some(sparse) = part.sparse() else {
                let message = "nothing is encoded in this extent";
                return Err(Error::other(crate::ErrorKind::InvalidInput, message));
            };
            let within = at.saturating_sub(part.start);
            let length = sparse.grain().rest(within).min(part.end().saturating_sub(at));
            let length = to_usize(length).min(rest.len());
            let (piece, behind) = rest.split_at_mut(length);
            let read = if to_u64(length) == sparse.grain().size() {
                sparse.read_grain(within, piece)
            } else {
                self.read_within(index, sparse, within, piece)
            };
            read.map_err(|error| part.blamed(error))?;
            at = at.saturating_add(to_u64(length));
            rest = behind;
        }
        Ok(())
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
        Ok(describe(self))
    }
}

/// Reads the text of a file that is a descriptor: up to NUL bytes that fill it up.
fn read_text(storage: &dyn Storage) -> Result<Vec<u8>> {
    let size = storage.size();
    let mut text = read_vec(storage, "the descriptor", 0, to_usize(size.min(MAX_DESCRIPTOR)))?;
    let word: &[u8] = b"createtype";
    if !text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word)) {
        let start = format!("\"{}\"", text.get(..8).unwrap_or(&text).escape_ascii());
        return Err(Error::new(VmdkDetail::NotVmdk(start)).at(0));
    }
    if size > MAX_DESCRIPTOR {
        let (what, limit) = ("descriptor", MAX_DESCRIPTOR);
        return Err(Error::new(VmdkDetail::TooLarge { what, size, limit }).at(0));
    }
    if let Some(end) = text.iter().position(|&byte| byte == 0) {
        let (kept, behind) = text.split_at_checked(end).unwrap_or_default();
        let more = behind.iter().position(|&byte| byte != 0).unwrap_or(behind.len());
        let last =
            behind.iter().rposition(|&byte| byte != 0).map_or(more, |at| at.saturating_add(1));
        // who writes a shorter content identifier over a longer one, as qemu-img does, leaves the
        // end of the old text behind that of the new one
        if !kept.ends_with(behind.get(more..last).unwrap_or_default()) {
            let at = to_u64(end.saturating_add(more));
            return Err(Error::new(VmdkDetail::TrailingData).at(at));
        }
        text.truncate(end);
    }
    Ok(text)
}

/// Reads the descriptor inside of an extent: up to the first NUL byte. `None` if it is empty.
fn read_embedded(
    storage: &dyn Storage,
    header: &SparseHeader,
    options: &LayerOptions,
) -> Result<Option<Descriptor>> {
    let Some(area) = header.descriptor_area(storage.size())? else { return Ok(None) };
    let length = to_usize(area.end.saturating_sub(area.start));
    let text = read_vec(storage, "the descriptor", area.start, length)?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    Descriptor::parse(text, area.start, options.trust_broken).map(Some)
}

/// Disk types whose extents are other files, and are read.
const READ: &[&str] = &[
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "2GbMaxExtentSparse",
    "2GbMaxExtentFlat",
    "streamOptimized",
    "vmfs",
    "vmfsThin",
    "vmfsPreallocated",
    "vmfsEagerZeroedThick",
    "vmfsSparse",
    "seSparse",
];

/// Refuses the types that stand for devices (`fullDevice`, `partitionedDevice`, `vmfsRaw`,
/// `vmfsRDM` and their like), `custom`, and what is not known.
fn check_type(descriptor: &Descriptor) -> Result<()> {
    let name = &descriptor.create_type;
    if READ.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let detail = VmdkDetail::CreateType(name.clone());
    Err(Error::new(detail).at(descriptor.at("createtype")))
}
