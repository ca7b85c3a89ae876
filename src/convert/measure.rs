//! How large an image of a disk would be.

use std::ops::Range;

use super::length;
use super::map::DiskMap;
use crate::disk::VirtualDisk;
use crate::error::Result;
use crate::num::{to_u64, to_usize};
use crate::progress::Progress;
use crate::writer::{Full, Map, Writer};

/// The sizes of a file to be, bytes.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::convert::measure;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, OpenOptions, Progress};
///
/// let storage = Arc::new(MemoryStorage::new(vec![7; 4 << 20]));
/// let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let plain = measure(&disk, &Qcow2Options::new().writer(4 << 20)?, &Progress::new())?;
/// assert!(plain.required > 4 << 20 && plain.required <= plain.full);
/// assert_eq!(plain.estimate, None);
///
/// let packed = Qcow2Options::new().compressed(true).writer(4 << 20)?;
/// let packed = measure(&disk, &packed, &Progress::new())?;
/// assert!(packed.estimate.is_some_and(|size| size < 1 << 20));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measured {
    /// With what the disk's map calls data. Exact, unless units are encoded or what is stored holds
    /// zeros that a conversion finds: then it is no more than this.
    pub required: u64,
    /// With every byte of the disk stored as it is.
    pub full: u64,
    /// What it comes to if units are encoded: an estimate from samples of the disk.
    pub estimate: Option<u64>,
}

/// The most units that are encoded to tell how small the others will be.
const SAMPLES: u64 = 256;
/// Guest bytes whose map is read between two looks at whether to go on.
const STEP: u64 = 1 << 40;

/// Tells how large the file is that `writer` lays out for `disk`. The map is read, and where units
/// are encoded some samples of data, the same ones for the same disk. `progress` counts the bytes of
/// the disk whose map is read, each time that it is, and then those of the samples.
///
/// ```
/// use diskimage::Progress;
/// use diskimage::convert::measure;
/// use diskimage::disk::EmptyDisk;
/// use diskimage::format::qcow2::Qcow2Options;
///
/// let writer = Qcow2Options::new().writer(1 << 40)?;
/// let measured = measure(&EmptyDisk(1 << 40), &writer, &Progress::new())?;
/// assert!(measured.required < 2 << 20 && measured.full > 1 << 40);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn measure(
    disk: &dyn VirtualDisk,
    writer: &dyn Writer,
    progress: &Progress,
) -> Result<Measured> {
    let unit = writer.unit();
    let map = DiskMap { disk, unit, salvage: false, everything: false };
    let map = Watched { map, size: unit.ceil(disk.size()), progress };
    let required = writer.file_size(&map)?;
    let full = writer.file_size(&Full)?;
    let Some(encoder) = writer.encoder() else {
        return Ok(Measured { required, full, estimate: None });
    };
    let end = unit.ceil(disk.size());
    let mut units = 0u64;
    map.runs(0..end, &mut |run, data| {
        units = units.saturating_add(if data { unit.index(length(&run)) } else { 0 });
    })?;
    // every so many units of data one is encoded
    let step = units.div_ceil(SAMPLES).max(1);
    let mut samples = Vec::new();
    let mut seen = 0u64;
    map.runs(0..end, &mut |run, data| {
        if data {
            let count = unit.index(length(&run));
            let mut next = seen.next_multiple_of(step);
            while next < seen.saturating_add(count) {
                let skip = unit.offset_of(next.saturating_sub(seen)).unwrap_or_default();
                samples.push(run.start.saturating_add(skip));
                next = next.saturating_add(step);
            }
            seen = seen.saturating_add(count);
        }
    })?;
    let mut bytes = vec![0; to_usize(unit.size())];
    let (mut before, mut after) = (0u64, 0u64);
    progress.start(unit.offset_of(to_u64(samples.len())).unwrap_or(u64::MAX));
    for at in samples {
        progress.check()?;
        let here = to_usize(disk.size().saturating_sub(at)).min(bytes.len());
        let (inside, beyond) = bytes.split_at_mut(here);
        disk.read_exact_at(inside, at)?;
        beyond.fill(0);
        before = before.saturating_add(unit.size());
        let mut out = Vec::new();
        if !crate::bytes::is_zero(&bytes) {
            let is_shorter = encoder.encode(&bytes, at, &mut out)?;
            let length = if is_shorter { to_u64(out.len()) } else { unit.size() };
            after = after.saturating_add(length);
        }
        progress.advance(unit.size());
    }
    let data = u128::from(unit.offset_of(units).unwrap_or(u64::MAX));
    let part = |whole: u128| whole.saturating_mul(u128::from(after)).checked_div(before.into());
    let shrunk = u64::try_from(part(data).unwrap_or(0)).unwrap_or(u64::MAX);
    let tables = u128::from(required).saturating_sub(data);
    let tables = u64::try_from(tables).unwrap_or(u64::MAX);
    Ok(Measured { required, full, estimate: Some(tables.saturating_add(shrunk)) })
}

/// How many bytes of `disk` its map calls data.
///
/// ```
/// use diskimage::Progress;
/// use diskimage::convert::data_size;
/// use diskimage::disk::EmptyDisk;
///
/// assert_eq!(data_size(&EmptyDisk(1 << 40), &Progress::new())?, 0);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn data_size(disk: &dyn VirtualDisk, progress: &Progress) -> Result<u64> {
    let mut data = 0u64;
    let mut at = 0;
    progress.start(disk.size());
    while at < disk.size() {
        progress.check()?;
        let extent = disk.extent_at(at, disk.size().saturating_sub(at))?;
        if !extent.kind.is_zero() {
            data = data.saturating_add(extent.length);
        }
        progress.advance(extent.length);
        at = extent.end();
    }
    Ok(data)
}

/// A map whose reading can be stopped.
struct Watched<'a> {
    map: DiskMap<'a>,
    size: u64,
    progress: &'a Progress,
}

impl Map for Watched<'_> {
    fn runs(&self, range: Range<u64>, tell: &mut dyn FnMut(Range<u64>, bool)) -> Result<()> {
        let mut at = range.start;
        let mut joined: Option<(Range<u64>, bool)> = None;
        if at == 0 {
            // it is read once more
            self.progress.start(self.size);
        }
        while at < range.end {
            self.progress.check()?;
            let end = at.saturating_add(STEP).min(range.end);
            self.map.runs(at..end, &mut |run, data| match &mut joined {
                Some((last, kind)) if *kind == data => last.end = run.end,
                _ => {
                    if let Some((last, kind)) = joined.replace((run, data)) {
                        tell(last, kind);
                    }
                }
            })?;
            self.progress.advance(end.saturating_sub(at));
            at = end;
        }
        if let Some((last, kind)) = joined {
            tell(last, kind);
        }
        Ok(())
    }
}
