//! Where clusters and L2 tables go.

use std::ops::Range;
use std::sync::Arc;

use super::share::{self, Shared};
use super::space::{Cursor, Space};
use super::{Fields, Qcow2Options, Shape, WriteDetail, bitmaps};
use crate::error::Result;
use crate::format::qcow2::layout::*;
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Encoder, Forward, ImageFile, Map, Plan, Run, RunKind, Writer};

/// Lays out a QCOW2 image; see [`Qcow2Options::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::writer::{Forward, Full};
///
/// let writer = Qcow2Options::new().writer(1 << 30)?;
/// assert_eq!((writer.size(), writer.unit().size()), (1 << 30, 64 << 10));
/// // it goes into a pipe if the map of the disk decides what is stored
/// assert_eq!(writer.forward(), Forward::ByMap);
/// assert!(writer.file_size(&Full)? > 1 << 30); // with its tables
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct Qcow2Writer {
    options: Qcow2Options,
    shape: Shape,
    size: u64,
    encoder: Option<Arc<dyn Encoder>>,
    space: Space,
    l1: Vec<u64>,
    l1_table_offset: u64,
    table: Option<Table>,
    shared: Option<Shared>,
    /// The external data file, if there is to be one.
    files: Vec<ImageFile>,
    /// Where the bitmaps are, once they are written.
    bitmaps: bitmaps::Directory,
    /// All is known beforehand: tables are written before what they map.
    is_known: bool,
}

/// The L2 table that is being filled.
#[derive(Debug)]
struct Table {
    /// Its number in the L1 table.
    number: u64,
    offset: u64,
    entries: Entries,
}

/// The L2 entries of one table, as they lie in the file.
#[derive(Debug)]
struct Entries {
    shape: Shape,
    bytes: Vec<u8>,
}

/// What the map alone decides.
struct Layout {
    l1: Vec<u64>,
    l1_table_offset: u64,
    refcount_table: (u64, u64),
    /// How many clusters the file has.
    clusters: u64,
}

impl Qcow2Writer {
    pub(super) fn new(options: &Qcow2Options, size: u64) -> Result<Self> {
        let shape = options.check()?;
        let encoder = options.encoder(shape.cluster)?;
        let most = MAX_L1_TABLE_SIZE.wrapping_shr(3).saturating_mul(shape.span().size());
        if size > most {
            let cluster = shape.cluster.size();
            return Err(WriteDetail::TooLarge { size, cluster, most }.into());
        }
        let size = Pow2::SECTOR.ceil(size);
        bitmaps::check(&options.bitmaps, size)?;
        let space = Space::new(shape.cluster, shape.refcount_order, None);
        let entries = shape.span().count(size);
        let writer = Self {
            options: options.clone(),
            shape,
            size,
            encoder,
            space,
            l1: vec![0; to_usize(entries)],
            l1_table_offset: 0,
            table: None,
            shared: options.dedupe.then(Shared::default),
            files: options.data_file.iter().map(|(name, _)| data_file(name, size)).collect(),
            bitmaps: bitmaps::Directory::default(),
            is_known: false,
        };
        // names that do not fit are told before anything is written
        writer.header((0, 0))?;
        Ok(writer)
    }

    fn l1_clusters(&self) -> u64 {
        let entries = self.shape.span().count(self.size);
        self.shape.cluster.count(entries.saturating_mul(8))
    }

    fn header(&self, refcount_table: (u64, u64)) -> Result<Vec<u8>> {
        let l1_size = u32::try_from(self.l1.len()).unwrap_or_default();
        let l1_table_offset = self.l1_table_offset;
        let (size, bitmaps) = (self.size, self.bitmaps);
        let fields = Fields { size, l1_size, l1_table_offset, refcount_table, bitmaps };
        self.options.header(&self.shape, &fields)
    }

    fn l1_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let clusters = self.shape.cluster.offset_of(self.l1_clusters());
        bytes.resize(to_usize(clusters.unwrap_or_default()), 0);
        bytes
    }

    /// Where all lies if `map` decides what is stored.
    fn layout(&self, map: &dyn Map) -> Result<Layout> {
        let cluster = self.shape.cluster;
        let offset = |number: u64| cluster.offset_of(number).unwrap_or(u64::MAX);
        let mut cursor = Cursor::new(cluster, self.shape.refcount_order);
        let l1_table_offset = offset(cursor.contiguous(self.l1_clusters(), |_| {}));
        let mut l1 = vec![0; self.l1.len()];
        let end = cluster.ceil(self.size);
        // the cluster that the last run ended in may go on with the next
        let mut last = None;
        let mut place = |guest: Range<u64>| {
            let mut at = guest.start;
            while at < guest.end {
                let span = self.shape.span();
                let behind = at.saturating_add(span.rest(at)).min(guest.end);
                if let Some(entry) = l1.get_mut(to_usize(span.index(at)))
                    && *entry == 0
                {
                    let (table, _) = cursor.run(1, |_| {});
                    *entry = offset(table) | ENTRY_COPIED;
                }
                let first = cluster.index(at);
                let first = if last == Some(first) { first.saturating_add(1) } else { first };
                let mut left = cluster.count(behind).saturating_sub(first);
                while left > 0 && self.files.is_empty() {
                    let (_, count) = cursor.run(left, |_| {});
                    left = left.saturating_sub(count);
                }
                last = Some(cluster.index(behind.saturating_sub(1)));
                at = behind;
            }
        };
        let allocate = self.shape.allocate;
        map.runs(0..end, &mut |guest, data| {
            if data || allocate {
                place(guest);
            }
        })?;
        if !self.options.bitmaps.is_empty() {
            cursor.contiguous(bitmaps::clusters(&self.options.bitmaps, cluster), |_| {});
        }
        let (start, count) = cursor.table(cluster, |_| {});
        let refcount_table = (offset(start), count);
        Ok(Layout { l1, l1_table_offset, refcount_table, clusters: cursor.next })
    }

    /// Goes on to the L2 table number `number`.
    fn open_table(&mut self, number: u64, map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        if self.table.as_ref().is_some_and(|table| table.number == number) {
            return Ok(());
        }
        self.close_table(plan);
        let (offset, _) = self.space.run(1, plan);
        if let Some(entry) = self.l1.get_mut(to_usize(number)) {
            *entry = offset | ENTRY_COPIED;
        }
        if let Some(map) = map {
            // it goes before what it maps
            let span = self.shape.span();
            let start = span.offset_of(number).unwrap_or(u64::MAX);
            let end = start.saturating_add(span.size()).min(self.shape.cluster.ceil(self.size));
            let mut entries = Entries::new(self.shape);
            let mut ahead = Ahead { cursor: self.space.cursor, cluster: self.shape.cluster };
            map.runs(start..end, &mut |guest, data| {
                let kind = if data { Stored::Data } else { Stored::Absent };
                if data || self.shape.allocate {
                    entries.set(guest, kind, &mut ahead);
                }
            })?;
            plan.bytes(offset, entries.bytes);
        }
        self.table = Some(Table { number, offset, entries: Entries::new(self.shape) });
        Ok(())
    }

    fn close_table(&mut self, plan: &mut Plan) {
        if let Some(table) = self.table.take()
            && !self.is_known
        {
            plan.bytes(table.offset, table.entries.bytes);
        }
    }

    fn place_run(&mut self, run: &Run, map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        let kind = match run.kind {
            RunKind::Absent if !self.shape.allocate => return Ok(()),
            RunKind::Absent => Stored::Absent,
            RunKind::Zero => Stored::Zero,
            RunKind::Plain(_) | RunKind::Packed(_) => Stored::Data,
        };
        let span = self.shape.span();
        let mut at = run.guest.start;
        while at < run.guest.end {
            let behind = at.saturating_add(span.rest(at)).min(run.guest.end);
            self.open_table(span.index(at), map, plan)?;
            let Some(table) = &mut self.table else { return Ok(()) };
            if let (Some(shared), Some(digest)) = (&mut self.shared, &run.digest) {
                let space = &mut self.space;
                let refer = |stored: &share::Stored| space.refer(stored.host, stored.length);
                if let Some(entry) = shared.find(digest, refer) {
                    table.entries.put(table.entries.place(at), entry);
                    return Ok(());
                }
            }
            if let RunKind::Packed(range) = &run.kind {
                let length = to_u64(range.len());
                let host = self.space.pack(length, plan);
                table.entries.set_packed(at, host, length)?;
                plan.packed(host, range.clone());
                self.remember(run, (host, length));
                return Ok(());
            }
            let from = match run.kind {
                RunKind::Plain(from) => Some(from),
                _ => None,
            };
            let start = run.guest.start;
            let outside = (!self.files.is_empty()).then_some(self.size);
            let mut room = Here { space: &mut self.space, plan, from, start, outside };
            table.entries.set(at..behind, kind, &mut room);
            if run.digest.is_some() {
                let host = table.entries.get(table.entries.place(at)) & ENTRY_OFFSET;
                self.remember(run, (host, self.shape.cluster.size()));
            }
            at = behind;
        }
        Ok(())
    }

    /// Remembers what the run, which is one cluster, has become.
    fn remember(&mut self, run: &Run, (host, length): (u64, u64)) {
        let (Some(shared), Some(digest), Some(table)) = (&mut self.shared, run.digest, &self.table)
        else {
            return;
        };
        if !shared.has_room() {
            return;
        }
        let entry = table.entries.get(table.entries.place(run.guest.start));
        let first = (entry & ENTRY_COPIED != 0).then_some(run.guest.start);
        let entry = entry & !ENTRY_COPIED;
        shared.remember(digest, share::Stored { entry, host, length, first });
        self.space.keep(host, length);
    }

    /// Mends the entries of what was referred to again after they were written.
    fn mend_entries(&mut self, plan: &mut Plan) {
        let Some(shared) = &mut self.shared else { return };
        let places = Entries { shape: self.shape, bytes: Vec::new() };
        for (guest, entry) in shared.take_twice() {
            let span = self.shape.span();
            let table = self.l1.get(to_usize(span.index(guest))).copied().unwrap_or_default();
            let place = to_u64(places.place(guest));
            let offset = (table & ENTRY_OFFSET).saturating_add(place);
            plan.bytes(offset, entry.to_be_bytes().to_vec());
        }
    }
}

impl Writer for Qcow2Writer {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        if self.shape.extended_l2 && self.encoder.is_none() {
            self.shape.subcluster()
        } else {
            self.shape.cluster
        }
    }

    fn encoder(&self) -> Option<Arc<dyn Encoder>> {
        self.encoder.clone()
    }

    fn forward(&self) -> Forward {
        let by_map = self.encoder.is_none()
            && self.shared.is_none()
            && self.files.is_empty()
            && self.options.bitmaps.is_empty();
        if by_map { Forward::ByMap } else { Forward::Never }
    }

    fn files(&self) -> &[ImageFile] {
        &self.files
    }

    fn wants_digests(&self) -> bool {
        self.shared.is_some()
    }

    fn has_parent(&self) -> bool {
        self.options.backing.is_some()
    }

    fn longest_run(&self) -> u64 {
        // a table is written for each span
        if self.shape.allocate { self.shape.span().size() } else { u64::MAX }
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let clusters = self.layout(map)?.clusters;
        let data = if self.files.is_empty() { 0 } else { self.size };
        let tables = self.shape.cluster.offset_of(clusters).unwrap_or(u64::MAX);
        Ok(tables.saturating_add(data))
    }

    fn begin(&mut self, map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        let Some(map) = map else {
            self.l1_table_offset = self.space.contiguous(self.l1_clusters(), plan);
            return Ok(());
        };
        let layout = self.layout(map)?;
        let Shape { cluster, refcount_order, .. } = self.shape;
        self.is_known = true;
        self.l1 = layout.l1;
        self.l1_table_offset = layout.l1_table_offset;
        self.space = Space::new(cluster, refcount_order, Some(layout.clusters));
        plan.bytes(0, self.header(layout.refcount_table)?);
        let offset = self.space.contiguous(self.l1_clusters(), plan);
        plan.bytes(offset, self.l1_bytes());
        Ok(())
    }

    fn place(&mut self, runs: &[Run], map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        runs.iter().try_for_each(|run| self.place_run(run, map, plan))
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        self.close_table(plan);
        self.mend_entries(plan);
        self.bitmaps = bitmaps::write(&self.options.bitmaps, &mut self.space, plan);
        let refcount_table = self.space.finish(plan);
        if !self.is_known {
            plan.bytes(self.l1_table_offset, self.l1_bytes());
            // the header last: without it, it is no image
            plan.bytes(0, self.header(refcount_table)?);
        }
        Ok(())
    }
}

/// Where the offsets of the external data file begin: no file of metadata is as long.
const OUTSIDE: u64 = 1 << 62;

/// Each guest byte of it has its own offset, so that it can be a raw disk.
fn data_file(name: &str, size: u64) -> ImageFile {
    let range = OUTSIDE..OUTSIDE.saturating_add(size);
    ImageFile { name: name.to_owned(), range, whole: true }
}

/// What a run is to an L2 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Data,
    Zero,
    /// Set aside only.
    Absent,
}

/// Where clusters are taken from.
trait Room {
    /// Takes up to `wanted` clusters in a row, for the guest bytes from `guest` on: the offset of the
    /// first, and how many.
    fn take(&mut self, wanted: u64, guest: u64) -> (u64, u64);

    /// The guest bytes from `guest` on are stored at `host`.
    fn stored(&mut self, host: u64, guest: u64, length: u64);
}

/// Clusters of the file, and what is written to them.
struct Here<'a> {
    space: &'a mut Space,
    plan: &'a mut Plan,
    /// Where in what was read the run begins; zeros without it.
    from: Option<usize>,
    /// Its first guest byte.
    start: u64,
    /// The size of the disk, where its data are in a file of their own.
    outside: Option<u64>,
}

impl Room for Here<'_> {
    fn take(&mut self, wanted: u64, guest: u64) -> (u64, u64) {
        match self.outside {
            Some(_) => (self.space.cluster.floor(guest), wanted),
            None => self.space.run(wanted, self.plan),
        }
    }

    fn stored(&mut self, host: u64, guest: u64, length: u64) {
        let (host, length) = match self.outside {
            // that file ends where the disk does
            Some(size) => (OUTSIDE.saturating_add(host), length.min(size.saturating_sub(guest))),
            None => (host, length),
        };
        match self.from {
            Some(from) => {
                let skip = to_usize(guest.saturating_sub(self.start));
                self.plan.plain(host, from.saturating_add(skip), length);
            }
            None => self.plan.zeros(host, length),
        }
    }
}

/// Clusters that will be taken.
struct Ahead {
    cursor: Cursor,
    cluster: Pow2,
}

impl Room for Ahead {
    fn take(&mut self, wanted: u64, _guest: u64) -> (u64, u64) {
        let (first, count) = self.cursor.run(wanted, |_| {});
        (self.cluster.offset_of(first).unwrap_or(u64::MAX), count)
    }

    fn stored(&mut self, _host: u64, _guest: u64, _length: u64) {}
}

impl Entries {
    fn new(shape: Shape) -> Self {
        Self { shape, bytes: vec![0; to_usize(shape.cluster.size())] }
    }

    /// The place of the entry of the cluster that holds `guest`.
    fn place(&self, guest: u64) -> usize {
        let index = self.shape.cluster.index(self.shape.span().within(guest));
        to_usize(self.shape.entry.offset_of(index).unwrap_or_default())
    }

    fn put(&mut self, at: usize, value: u64) {
        let entry = self.bytes.get_mut(at..at.saturating_add(8));
        entry.into_iter().for_each(|entry| entry.copy_from_slice(&value.to_be_bytes()));
    }

    fn get(&self, at: usize) -> u64 {
        let entry = self.bytes.get(at..at.saturating_add(8));
        let entry = entry.and_then(|entry| <[u8; 8]>::try_from(entry).ok());
        entry.map_or(0, u64::from_be_bytes)
    }

    /// A compressed cluster ("Compressed Clusters Descriptor").
    fn set_packed(&mut self, guest: u64, host: u64, length: u64) -> Result<()> {
        let x = 70u32.saturating_sub(self.shape.cluster.bits());
        let last = host.saturating_add(length).saturating_sub(1);
        if last.wrapping_shr(x) != 0 {
            return Err(WriteDetail::PackedTooFar.into());
        }
        let sector = |at: u64| at.wrapping_shr(COMPRESSED_SECTOR.trailing_zeros());
        let additional = sector(last).saturating_sub(sector(host));
        self.put(self.place(guest), L2_COMPRESSED | additional.wrapping_shl(x) | host);
        Ok(())
    }

    /// Sets the entries of a run within the span.
    fn set(&mut self, guest: Range<u64>, kind: Stored, room: &mut impl Room) {
        if self.shape.extended_l2 {
            return self.set_subclusters(guest, kind, room);
        }
        let cluster = self.shape.cluster;
        let mut at = guest.start;
        while at < guest.end {
            if kind == Stored::Zero && self.shape.version > 2 {
                self.put(self.place(at), L2_ZERO);
                at = at.saturating_add(cluster.size());
                continue;
            }
            let (host, count) = room.take(cluster.count(guest.end.saturating_sub(at)), at);
            let length = cluster.offset_of(count).unwrap_or_default();
            room.stored(host, at, length);
            for index in 0..count {
                let skip = cluster.offset_of(index).unwrap_or_default();
                let place = self.place(at.saturating_add(skip));
                self.put(place, host.saturating_add(skip) | ENTRY_COPIED);
            }
            at = at.saturating_add(length);
        }
    }

    /// The same where entries have subclusters ("Extended L2 Entries").
    fn set_subclusters(&mut self, guest: Range<u64>, kind: Stored, room: &mut impl Room) {
        let (cluster, sub) = (self.shape.cluster, self.shape.subcluster());
        let mut at = guest.start;
        while at < guest.end {
            let behind = at.saturating_add(cluster.rest(at)).min(guest.end);
            let place = self.place(at);
            let mut host = self.get(place) & ENTRY_OFFSET;
            if host == 0 && kind != Stored::Zero {
                host = room.take(1, at).0;
                self.put(place, host | ENTRY_COPIED);
            }
            let first = sub.index(cluster.within(at));
            let bits = (first..first.saturating_add(sub.count(behind.saturating_sub(at))))
                .fold(0u64, |bits, index| {
                    bits | 1u64.wrapping_shl(u32::try_from(index).unwrap_or_default())
                });
            // the low half says allocated, the high half zero
            let bits = match kind {
                Stored::Data => bits,
                Stored::Zero => bits.wrapping_shl(SUBCLUSTERS),
                Stored::Absent => 0,
            };
            let bitmap = place.saturating_add(8);
            self.put(bitmap, self.get(bitmap) | bits);
            if kind != Stored::Zero {
                let within = cluster.within(at);
                room.stored(host.saturating_add(within), at, behind.saturating_sub(at));
            }
            at = behind;
        }
    }
}
