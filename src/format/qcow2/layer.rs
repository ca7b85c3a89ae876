//! The guest's view: mapping through the L1 and L2 tables, and decoding.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use byteorder::{BigEndian, ByteOrder};

use crate::bytes::AlignedBuffer;
use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::codec::{Wrapper, inflate_exact};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::{Format, LayerOptions};
use crate::layer::{
    Description, DirtyBitmap, Layer, Mapping, MappingKind, Reach, Reference, Role, Source,
};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, TableCache};

use super::bitmap::{Bitmap, read_bitmaps, read_bits};
use super::describe::describe;
use super::entry::{L1Entry, L2Entry};
use super::error::Qcow2Detail;
use super::header::{CompressionType, CryptMethod, Header};
use super::layout::{COMPRESSED_SECTOR, ENTRY_OFFSET, SUBCLUSTERS};
use super::refcount::RefcountTable;
use super::snapshot::{SnapshotEntry, find, read_snapshots};

/// A QCOW2 image, or one of its internal snapshots, as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options};
/// use diskimage::layer::MappingKind;
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().backing("base.raw", Some("raw")).writer(1 << 30)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let storage = Arc::new(MemoryStorage::new(bytes));
/// let layer = Qcow2Layer::open(storage, &LayerOptions::default())?;
/// let backing = layer.header().backing_file.as_ref().map(|(name, _)| &**name);
/// assert_eq!(backing, Some(&b"base.raw"[..]));
/// assert!(layer.bitmaps().is_empty());
/// // nothing was written to it: all is the backing file's
/// assert_eq!(layer.map(0, u64::MAX)?.kind, MappingKind::Parent { stored: None });
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct Qcow2Layer {
    storage: Arc<dyn Storage>,
    header: Header,
    snapshots: Vec<SnapshotEntry>,
    bitmaps: Vec<Bitmap>,
    /// What is broken, but not needed to read the disk. Only where that is trusted.
    faults: Vec<Finding>,
    references: Vec<Reference>,
    /// The L1 table in use: the active one or a snapshot's.
    l1: Range<u64>,
    /// The size of the disk that it maps.
    size: u64,
    trust_broken: bool,
    look_over: u64,
    cache: TableCache,
    /// The compressed cluster that was decoded last for a read of a part of it.
    decoded: Mutex<Option<(u64, Vec<u8>)>>,
}

impl Qcow2Layer {
    /// Opens `storage` as a QCOW2 image. Nothing else is opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().writer(1 << 30)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let mut options = LayerOptions::default();
    /// assert_eq!(Qcow2Layer::open(storage.clone(), &options)?.header().nb_snapshots, 0);
    /// options.snapshot = Some(b"before-update".to_vec()); // and so there is none of this name
    /// let error = Qcow2Layer::open(storage, &options).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let limits = &options.limits;
        let header = Header::read(&storage, limits, options.trust_broken)?;
        let (mut snapshots, mut bitmaps) = (Vec::new(), Vec::new());
        let mut checked = vec![("header", header.check_refcount_table(&storage))];
        if !options.disk_only {
            checked.extend([
                ("snapshot table", read_snapshots(&storage, &header, limits, &mut snapshots)),
                ("bitmap directory", read_bitmaps(&storage, &header, limits, &mut bitmaps)),
            ]);
        }
        let mut faults = Vec::new();
        for (structure, result) in checked {
            match result {
                Err(error) if options.trust_broken && !error.is_no_damage() => {
                    faults.push(fault(structure, &error));
                }
                other => other?,
            }
        }
        let references = references(&header)?;
        let (mut l1_offset, mut l1_size) = (header.l1_table_offset, header.l1_size);
        let mut size = header.size;
        if let Some(wanted) = &options.snapshot {
            let snapshot = find(&snapshots, wanted)?;
            (l1_offset, l1_size) = (snapshot.l1_table_offset, snapshot.l1_size);
            size = snapshot.description.virtual_size;
            header
                .check_l1(&storage, limits, l1_offset, l1_size, size)
                .map_err(|error| error.at(snapshot.offset))?;
        }
        let l1 = l1_offset..l1_offset.saturating_add(u64::from(l1_size).saturating_mul(8));
        let cache = TableCache::new(Arc::clone(&storage), limits.table_cache);
        let decoded = Mutex::new(None);
        let trust_broken = options.trust_broken;
        Ok(Self {
            storage,
            header,
            snapshots,
            bitmaps,
            faults,
            references,
            l1,
            size,
            trust_broken,
            look_over: options.look_over,
            cache,
            decoded,
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The persistent bitmaps.
    #[must_use]
    pub fn bitmaps(&self) -> &[Bitmap] {
        &self.bitmaps
    }

    pub(super) fn snapshots(&self) -> &[SnapshotEntry] {
        &self.snapshots
    }

    /// What is broken besides what reading needs.
    pub(super) fn faults(&self) -> &[Finding] {
        &self.faults
    }

    /// Whether describing it may look into its tables.
    pub(super) fn looks_over(&self) -> bool {
        self.look_over > 0
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Its reference counts, of which pages of up to `cache` bytes are kept.
    pub(super) fn refcounts(&self, cache: u64) -> RefcountTable {
        RefcountTable::new(Arc::clone(&self.storage), &self.header, cache)
    }

    fn cluster(&self) -> Pow2 {
        self.header.cluster
    }

    /// The L2 table for `offset`; or, where there is none, how many bytes from `offset` on have
    /// none either, as far as one page of the L1 table tells.
    fn l2_table(&self, offset: u64) -> Result<Result<u64, u64>> {
        let span = self.header.l2_span();
        let first = span.index(offset);
        let length = self.l1.end.saturating_sub(self.l1.start);
        let position = first.saturating_mul(8);
        let page =
            self.cache.page("the L1 table", self.l1.start, length, position).map_err(|error| {
                error.affecting(span.floor(offset)..span.ceil(offset.saturating_add(1)))
            })?;
        let from = to_usize(position.saturating_sub(page.start));
        let (entries, _) = page.bytes.get(from..).unwrap_or_default().as_chunks::<8>();
        let mut run: u64 = 0;
        for (index, entry) in (first..).zip(entries) {
            let at = self.l1.start.saturating_add(index.saturating_mul(8));
            match L1Entry::decode(BigEndian::read_u64(entry), self.cluster()) {
                Ok(L1Entry::Unallocated) => run = run.saturating_add(1),
                // what a later entry says is found out when it is its turn
                _ if run > 0 => break,
                Ok(L1Entry::Table(table)) => return Ok(Ok(table)),
                Err(error) => {
                    let guest = span.floor(offset)..span.ceil(offset.saturating_add(1));
                    return Err(error.at(at).affecting(guest));
                }
            }
        }
        let end = span.floor(offset).saturating_add(run.saturating_mul(span.size()));
        Ok(Err(end.saturating_sub(offset)))
    }

    /// The L2 entries from the one for `offset` on, to the end of a page: their values and file
    /// offsets, and the guest cluster they start at.
    fn with_l2_entries<T>(
        &self,
        table: u64,
        offset: u64,
        visit: impl FnOnce(L2Run<'_>) -> Result<T>,
    ) -> Result<T> {
        let (cluster, span) = (self.cluster(), self.header.l2_span());
        let entry_size = self.header.l2_entry_size();
        let index = cluster.index(span.within(offset));
        let position = entry_size.offset_of(index).unwrap_or_default();
        let page =
            self.cache.page("an L2 table", table, cluster.size(), position).map_err(|error| {
                // the page's part of the table is what cannot be read
                error.affecting(span.floor(offset)..span.ceil(offset.saturating_add(1)))
            })?;
        let from = position.saturating_sub(page.start);
        visit(L2Run {
            bytes: page.bytes.get(to_usize(from)..).unwrap_or_default(),
            file_offset: page.file_offset.saturating_add(from),
            guest: cluster.floor(offset),
            header: &self.header,
        })
    }

    /// Maps within one L2 table.
    fn map_table(&self, table: u64, offset: u64, max: u64) -> Result<Mapping> {
        self.with_l2_entries(table, offset, |run| {
            let mut entries = run.entries();
            let Some(first) = entries.next() else {
                return Err(Error::new(Qcow2Detail::BeyondEnd {
                    what: "L2 table",
                    start: table,
                    size: self.storage.size(),
                }));
            };
            let first = first?;
            let mut piece = self.piece(&first, self.cluster().within(offset))?;
            if piece.to_cluster_end && piece.length < max && first.entry.is_uniform() {
                // most entries of most tables: worth being fast
                let size = self.cluster().size();
                let clusters = run.alike(&first.entry, self.cluster().index(max));
                piece.length = piece.length.saturating_add(clusters.saturating_mul(size));
                entries = run.skip(clusters).entries();
                entries.next();
            }
            // join what follows while it is of the same kind, cluster by cluster
            while piece.length < max && piece.to_cluster_end {
                let Some(Ok(next)) = entries.next() else { break };
                let Ok(more) = self.piece(&next, 0) else { break };
                if !piece.kind.continues_with(piece.length, &more.kind) {
                    break;
                }
                piece.length = piece.length.saturating_add(more.length);
                piece.to_cluster_end = more.to_cluster_end;
            }
            Ok(Mapping { length: piece.length.min(max), kind: piece.kind })
        })
    }

    /// What one cluster is from its byte `within` on, to its end or a subcluster's.
    fn piece(&self, entry: &PlacedEntry, within: u64) -> Result<Piece> {
        let cluster = self.cluster();
        let rest = cluster.size().saturating_sub(within);
        let whole = |kind| Ok(Piece { length: rest, kind, to_cluster_end: true });
        let place = |host: u64| (self.source(), host.saturating_add(within));
        match entry.entry {
            L2Entry::Unallocated => whole(MappingKind::Parent { stored: None }),
            L2Entry::Zero(host) => {
                whole(MappingKind::Zero { allocated: true, stored: host.map(place) })
            }
            L2Entry::Standard(host) => {
                let (source, offset) = place(host);
                whole(MappingKind::Stored { source, offset })
            }
            L2Entry::Compressed { offset, .. } => {
                let size = self.storage.size();
                if offset >= size {
                    let what = "compressed cluster";
                    let detail = Qcow2Detail::BeyondEnd { what, start: offset, size };
                    let guest = entry.guest..entry.guest.saturating_add(cluster.size());
                    return Err(Error::new(detail).at(entry.file_offset).affecting(guest));
                }
                whole(MappingKind::Encoded)
            }
            L2Entry::Subclusters { host, states } => {
                let unit = cluster.size().wrapping_shr(SUBCLUSTERS.trailing_zeros());
                let index = within.checked_div(unit).unwrap_or_default();
                let index = u32::try_from(index).unwrap_or_default();
                let behind = index.saturating_add(states.run(index));
                let length = u64::from(behind).saturating_mul(unit).saturating_sub(within);
                let kind = match states.state(index) {
                    (_, true) => MappingKind::Zero { allocated: true, stored: host.map(place) },
                    (true, false) => {
                        let (source, offset) = place(host.unwrap_or_default());
                        MappingKind::Stored { source, offset }
                    }
                    (false, false) => MappingKind::Parent { stored: host.map(place) },
                };
                Ok(Piece { length, kind, to_cluster_end: behind == SUBCLUSTERS })
            }
        }
    }

    fn source(&self) -> Source {
        let data_file = self.references.iter().position(|r| r.role == Role::DataFile);
        data_file.map_or(Source::Own, Source::Reference)
    }

    /// Decodes the whole compressed cluster that starts at the guest's `offset`.
    fn decode_cluster(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let guest = offset..offset.saturating_add(self.cluster().size());
        let (start, length, at) = match self.l2_table(offset)? {
            Ok(table) => self.with_l2_entries(table, offset, |run| match run.entries().next() {
                Some(Ok(PlacedEntry {
                    entry: L2Entry::Compressed { offset, length },
                    file_offset,
                    ..
                })) => Ok((offset, length, file_offset)),
                Some(Err(error)) => Err(error),
                _ => Err(not_encoded()),
            })?,
            Err(_) => return Err(not_encoded()),
        };
        // the last sector may reach beyond the end of the file
        let length = length.min(self.storage.size().saturating_sub(start));
        thread_local! {
            static INPUT: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
        }
        INPUT
            .with_borrow_mut(|input| {
                let input = input.get(to_usize(length));
                let read = self.storage.read_exact_at(input, start);
                read.map_err(|error| error.affecting(guest.clone()))?;
                let decoded = match self.header.compression_type {
                    CompressionType::Zlib => {
                        inflate_exact(input, buf, Wrapper::Raw).map_err(Error::new)
                    }
                    #[cfg(feature = "zstd")]
                    CompressionType::Zstd => {
                        crate::codec::zstd_exact(input, buf).map_err(Error::new)
                    }
                    #[cfg(not(feature = "zstd"))]
                    CompressionType::Zstd => Err(Qcow2Detail::NoZstd.into()),
                    CompressionType::Unknown(other) => {
                        Err(Qcow2Detail::CompressionType(other).into())
                    }
                };
                decoded.map_err(|error| error.at(start).affecting(guest.clone()))
            })
            .map_err(|error: Error| error.at(at))
    }
}

impl Layer for Qcow2Layer {
    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.cluster().size())
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn check_readable(&self) -> Result<()> {
        match self.header.crypt_method {
            CryptMethod::None => {}
            CryptMethod::Aes => {
                return Err(Error::new(Qcow2Detail::Encrypted("AES, crypt_method 1")).at(32));
            }
            CryptMethod::Luks => {
                return Err(Error::new(Qcow2Detail::Encrypted("LUKS, crypt_method 2")).at(32));
            }
        }
        if self.header.is_marked_corrupt() && !self.trust_broken {
            return Err(Error::new(Qcow2Detail::MarkedCorrupt).at(72));
        }
        Ok(())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        self.check_readable()?;
        let max = max.min(self.size.saturating_sub(offset));
        match self.l2_table(offset)? {
            Ok(table) => self.map_table(table, offset, max),
            Err(length) => {
                Ok(Mapping { length: length.min(max), kind: MappingKind::Parent { stored: None } })
            }
        }
    }

    fn reach(&self, offset: u64) -> Result<Reach> {
        let table = match self.l2_table(offset)? {
            Ok(table) => table,
            Err(length) => return Ok(Reach { length, end: 0, encoded: false }),
        };
        self.with_l2_entries(table, offset, |run| {
            let start = self.cluster().floor(offset);
            let mut reach = Reach { length: 0, end: 0, encoded: false };
            for placed in run.entries() {
                let PlacedEntry { entry, guest, .. } = placed?;
                if guest >= self.size {
                    break;
                }
                let needed = self.cluster().size().min(self.size.saturating_sub(guest));
                let end = match entry {
                    L2Entry::Compressed { offset, length } => {
                        reach.encoded = true;
                        // how much of the last sector is used only decoding tells
                        offset
                            .saturating_add(length)
                            .saturating_sub(COMPRESSED_SECTOR.saturating_sub(1))
                    }
                    _ if self.header.has_data_file() => 0,
                    L2Entry::Standard(host) => host.saturating_add(needed),
                    L2Entry::Subclusters { host: Some(host), states } => {
                        let used = SUBCLUSTERS.saturating_sub(states.allocated.leading_zeros());
                        let each = self.cluster().size().wrapping_shr(5);
                        let stored = each.saturating_mul(used.into()).min(needed);
                        if stored > 0 { host.saturating_add(stored) } else { 0 }
                    }
                    _ => 0,
                };
                reach.end = reach.end.max(end);
                let next = guest.saturating_add(self.cluster().size()).min(self.size);
                reach.length = next.saturating_sub(start);
            }
            reach.length = reach.length.saturating_sub(offset.saturating_sub(start)).max(1);
            Ok(reach)
        })
    }

    fn tables_at(&self) -> Option<u64> {
        Some(self.l1.start)
    }

    fn page_span(&self) -> Option<u64> {
        let entries = self.header.l2_entry_size().index(TableCache::PAGE);
        let page = self.cluster().offset_of(entries).unwrap_or(u64::MAX);
        Some(page.min(self.header.l2_span().size()))
    }

    fn read_encoded(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_readable()?;
        let cluster = self.cluster();
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let within = to_usize(cluster.within(at));
            let length = to_usize(cluster.rest(at)).min(rest.len());
            let (part, behind) = rest.split_at_mut(length);
            if length == to_usize(cluster.size()) {
                self.decode_cluster(at, part)?;
            } else {
                let start = cluster.floor(at);
                let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
                if decoded.as_ref().is_none_or(|(cached, _)| *cached != start) {
                    let mut bytes = decoded.take().map(|(_, bytes)| bytes).unwrap_or_default();
                    bytes.resize(to_usize(cluster.size()), 0);
                    self.decode_cluster(start, &mut bytes)?;
                    *decoded = Some((start, bytes));
                }
                let bytes = decoded.as_ref().and_then(|(_, bytes)| bytes.get(within..));
                if let Some(bytes) = bytes.and_then(|bytes| bytes.get(..length)) {
                    part.copy_from_slice(bytes);
                }
            }
            at = at.saturating_add(to_u64(length));
            rest = behind;
        }
        Ok(())
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        super::check::check(self, checking)
    }

    fn repair(
        &self,
        scope: RepairScope,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<Repaired> {
        super::check::repair(self, scope, checking, patch)
    }

    fn dirty_bitmaps(&self, max: u64) -> Result<Vec<DirtyBitmap>> {
        read_bits(self, max)
    }

    fn describe(&self) -> Result<Description> {
        Ok(describe(self))
    }
}

/// What was let pass, as a finding.
fn fault(structure: &'static str, error: &Error) -> Finding {
    let detail = error.detail();
    let code = match detail.downcast_ref() {
        Some(Qcow2Detail::BeyondEnd { .. }) => Code::BeyondEnd,
        Some(Qcow2Detail::Misplaced { offset: 1.., .. }) => Code::Misaligned,
        Some(_) => Code::InvalidEntry,
        None => Code::Truncated,
    };
    let finding = Finding::new(code, detail.to_string()).in_structure(structure);
    finding.at(error.offset().unwrap_or_default())
}

/// What the image needs from other files.
fn references(header: &Header) -> Result<Vec<Reference>> {
    let mut references = Vec::new();
    if header.has_data_file() {
        let Some((name, offset)) = &header.extensions.data_file else {
            let detail = Qcow2Detail::BadName("data file name", "missing");
            return Err(Error::new(detail).at(72));
        };
        let (names, format) = (vec![name.clone()], Some(b"raw".to_vec()));
        references.push(Reference { role: Role::DataFile, names, format, offset: *offset });
    }
    if let Some((name, offset)) = &header.backing_file {
        let format = header.extensions.backing_format.as_ref().map(|(format, _)| format.clone());
        let names = vec![name.clone()];
        references.push(Reference { role: Role::Parent, names, format, offset: *offset });
    }
    Ok(references)
}

#[cold]
fn not_encoded() -> Error {
    Error::other(crate::ErrorKind::InvalidInput, "the cluster is not compressed")
}

/// L2 entries that lie one after the other in a page.
#[derive(Clone, Copy)]
struct L2Run<'a> {
    bytes: &'a [u8],
    file_offset: u64,
    guest: u64,
    header: &'a Header,
}

/// An L2 entry, where it lies, and the guest cluster it speaks of.
struct PlacedEntry {
    entry: L2Entry,
    file_offset: u64,
    guest: u64,
}

impl<'a> L2Run<'a> {
    fn entries(self) -> impl Iterator<Item = Result<PlacedEntry>> + 'a {
        let Self { bytes, file_offset, guest, header } = self;
        let entry_size = header.l2_entry_size();
        bytes.chunks_exact(to_usize(entry_size.size())).zip(0u64..).map(move |(entry, index)| {
            let (value, bitmap) = entry.split_at(8);
            let value = BigEndian::read_u64(value);
            let bitmap = (!bitmap.is_empty()).then(|| BigEndian::read_u64(bitmap));
            let file_offset = file_offset.saturating_add(index.saturating_mul(entry_size.size()));
            let guest = guest.saturating_add(index.saturating_mul(header.cluster.size()));
            let behind = guest.saturating_add(header.cluster.size());
            let entry = L2Entry::decode(value, bitmap, header, guest)
                .map_err(|error| error.at(file_offset).affecting(guest..behind))?;
            Ok(PlacedEntry { entry, file_offset, guest })
        })
    }

    /// The run without its first `count` entries.
    fn skip(self, count: u64) -> Self {
        let bytes = self.header.l2_entry_size().size().saturating_mul(count);
        Self {
            bytes: self.bytes.get(to_usize(bytes)..).unwrap_or_default(),
            file_offset: self.file_offset.saturating_add(bytes),
            guest: self.guest.saturating_add(self.header.cluster.size().saturating_mul(count)),
            header: self.header,
        }
    }

    /// How many entries after the first, which is a uniform one, go on as it does: the same bits,
    /// and the next cluster if there is one. What is valid in the first is valid in them. Looks
    /// at `limit` entries.
    fn alike(self, first: &L2Entry, limit: u64) -> u64 {
        let limit = to_usize(limit);
        let step = if first.host().is_some() { self.header.cluster.size() } else { 0 };
        let count = if self.header.l2_entry_size().size() == 8 {
            let (entries, _) = self.bytes.as_chunks::<8>();
            let mut values = entries.iter().map(|entry| BigEndian::read_u64(entry));
            let mut last = values.next().unwrap_or_default();
            let alike = |value: &u64| follows(&mut last, *value, step);
            values.take(limit).take_while(alike).count()
        } else {
            let (entries, _) = self.bytes.as_chunks::<16>();
            let halves = |entry| u128_halves(BigEndian::read_u128(entry));
            let mut values = entries.iter().map(|entry| halves(entry));
            let (mut last, states) = values.next().unwrap_or_default();
            let alike = |next: &(u64, u64)| next.1 == states && follows(&mut last, next.0, step);
            values.take(limit).take_while(alike).count()
        };
        to_u64(count)
    }
}

/// Whether `value` is `last` with an offset `step` bytes further, and nothing else changed.
fn follows(last: &mut u64, value: u64, step: u64) -> bool {
    let same = value == last.wrapping_add(step) && (value ^ *last) & !ENTRY_OFFSET == 0;
    *last = value;
    same
}

/// The upper and the lower half.
fn u128_halves(value: u128) -> (u64, u64) {
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
    (half(value.wrapping_shr(64)), half(value))
}

/// A mapping that may go on in the next cluster.
struct Piece {
    length: u64,
    kind: MappingKind,
    to_cluster_end: bool,
}
