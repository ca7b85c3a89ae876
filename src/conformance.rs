//! Laws as tests: that of extents, which any [`VirtualDisk`] can be put to, and that of verdicts.

use std::path::Path;
use std::sync::Arc;

use crate::bytes::is_zero;
use crate::disk::{VirtualDisk, VirtualDiskExt};
use crate::extent::Extent;
use crate::inspect::{Inspect, Part, Verdict};
use crate::num::{to_u64, to_usize};
use crate::storage::Storage;

/// Lengths and offsets around these are tried.
const EDGES: &[u64] = &[1, 511, 512, 513, 4096, 65_535, 65_536, 65_537];

/// Holds a disk against the law written at [`VirtualDisk`], and against its `content` where that
/// is known. The error is a sentence that says which rule is broken, and where.
///
/// Meant for tests; reads everything a few times over, so disks should be small.
///
/// ```
/// use diskimage::conformance;
/// use diskimage::disk::EmptyDisk;
///
/// assert_eq!(conformance::check(&EmptyDisk(8192), Some(&[0; 8192])), Ok(()));
/// assert!(conformance::check(&EmptyDisk(8192), Some(&[7; 8192])).is_err());
/// ```
pub fn check(disk: &dyn VirtualDisk, content: Option<&[u8]>) -> Result<(), String> {
    let size = disk.size();
    if !disk.cluster_size().is_power_of_two() {
        return Err(format!("the cluster size {} is no power of two", disk.cluster_size()));
    }
    if let Some(content) = content
        && to_u64(content.len()) != size
    {
        return Err(format!("the size is {size}, the content has {} bytes", content.len()));
    }
    let mut at = 0;
    while at < size {
        let extent = disk.extent_at(at, size).map_err(|e| format!("at {at}: {e}"))?;
        check_extent(disk, at, &extent)?;
        at = extent.end();
    }
    if disk.extent_at(size, 1).is_ok() || disk.extent_at(u64::MAX, u64::MAX).is_ok() {
        return Err("an extent beyond the end was answered".into());
    }
    if disk.read_exact_at(&mut [0], size).is_ok() {
        return Err("a byte beyond the end was read".into());
    }
    let tiled: u64 =
        disk.extents(0..u64::MAX).flatten().map(|e| e.length).fold(0, u64::saturating_add);
    if tiled != size {
        return Err(format!("the extents make up {tiled} of {size} bytes"));
    }
    content.map_or(Ok(()), |content| check_content(disk, content))
}

/// Holds the verdict of a file against that of the same as a [`Stream`](crate::inspect::Stream) that
/// is pushed in pieces of `piece` bytes: they are equal in all but what the stream says it did not
/// see, which is the answer; and what is refused before the end is refused by the file too, and for
/// these reasons if that can be read. The error is a sentence that says what differs.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::inspect::{Inspect, Policy};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Storage, conformance};
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Target};
/// # let mut image = Vec::new();
/// # let target = StreamTarget::new(&mut image);
/// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
///
/// // a QCOW2 whose tables lie before its data, so that nothing passes by unseen
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(image));
/// let unseen = conformance::check_verdicts(&Inspect::new(Policy::strict()), &storage, 1000);
/// assert_eq!(unseen, Ok(Vec::new()));
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn check_verdicts(
    inspect: &Inspect,
    storage: &Arc<dyn Storage>,
    piece: usize,
) -> Result<Vec<Part>, String> {
    let file = inspect.storage(Arc::clone(storage), Path::new("-")).map_err(|e| e.to_string())?;
    let mut stream = inspect.clone().stream();
    let (mut at, mut bytes) = (0, vec![0; piece.max(1)]);
    while at < storage.size() {
        let length = to_usize(storage.size().saturating_sub(at)).min(bytes.len());
        let bytes = bytes.get_mut(..length).unwrap_or_default();
        storage.read_exact_at(bytes, at).map_err(|e| e.to_string())?;
        at = at.saturating_add(to_u64(length));
        if stream.push(bytes).is_refused() {
            break;
        }
    }
    let stream = stream.finish();
    if stream.early {
        let same = |reason: &crate::inspect::Reason| {
            file.reasons.iter().any(|other| other.rule == reason.rule)
        };
        // how a file that is cut off goes on is not told by what is there
        let readable = file.facts.error.is_none();
        return match stream.reasons.iter().find(|reason| !same(reason)) {
            Some(reason) if readable || file.is_allowed() => {
                Err(format!("refused early for {reason:?}, which the file is not"))
            }
            _ => Ok(Vec::new()),
        };
    }
    let unseen: Vec<_> = stream.facts.unseen.iter().map(|unseen| unseen.part).collect();
    if unseen.is_empty() && stream.is_allowed() && !file.is_allowed() {
        return Err(format!("passes, and the file does not: {:?}", file.reasons));
    }
    let (file, stream) = (essence(&file), essence(&stream));
    match file.iter().zip(&stream).find(|(file, stream)| file != stream) {
        Some((file, stream)) if unseen.is_empty() => {
            Err(format!("the file gives {file}, the stream {stream}"))
        }
        _ => Ok(unseen),
    }
}

/// What is equal between the verdicts of a file and of the same as a stream.
fn essence(verdict: &Verdict) -> [String; 8] {
    let facts = &verdict.facts;
    let error = facts.error.as_ref().map(|error| (error.kind(), error.offset(), error.to_string()));
    [
        format!("{:?} {:?} {:?}", facts.format, facts.subformat, facts.virtual_size),
        format!("{:?}", facts.matches),
        format!("{:?} {} {}", facts.references, facts.snapshots, facts.encrypted),
        format!("compressed {} truncated {}", facts.compressed, facts.truncated),
        format!("{:?}", facts.findings),
        format!("{error:?}"),
        format!("{:?}", facts.start),
        format!("{:?}", verdict.reasons),
    ]
}

fn check_extent(disk: &dyn VirtualDisk, at: u64, extent: &Extent) -> Result<(), String> {
    let size = disk.size();
    let wrong = |what: &str| Err(format!("at {at}: {what}: {extent:?}"));
    if extent.start != at || extent.length == 0 || extent.end() > size {
        return wrong("the extent does not start there, is empty, or ends beyond the disk");
    }
    if disk.extent_at(at, size).as_ref().ok() != Some(extent) {
        return wrong("the same query got another answer");
    }
    // what it is does not depend on where the question starts, nor on how far it looks
    let last = extent.length.saturating_sub(1);
    for skip in [0, 1, extent.length >> 1, last] {
        let skip = skip.min(last);
        for max in [1, 512, u64::MAX] {
            let inner = disk.extent_at(at.saturating_add(skip), max);
            let inner = inner.map_err(|e| format!("at {at}+{skip}: {e}"))?;
            if inner.length > max || inner.length == 0 {
                return wrong("an answer is longer than asked for, or empty");
            }
            if inner.depth != extent.depth || inner.kind != extent.kind.advanced(skip) {
                return Err(format!("at {at}+{skip}: {inner:?} contradicts {extent:?}"));
            }
        }
    }
    if extent.kind.is_zero() {
        let mut bytes = vec![1; to_usize(extent.length.min(1 << 20))];
        disk.read_exact_at(&mut bytes, at).map_err(|e| format!("at {at}: {e}"))?;
        if !is_zero(&bytes) {
            return wrong("an extent of zeros does not read as zeros");
        }
    }
    Ok(())
}

fn check_content(disk: &dyn VirtualDisk, content: &[u8]) -> Result<(), String> {
    let mut offsets: Vec<u64> = vec![0];
    let size = to_u64(content.len());
    for extent in disk.extents(0..size).flatten() {
        offsets.extend([
            extent.start,
            extent.start.saturating_sub(1),
            extent.end().saturating_sub(1),
        ]);
    }
    // a disk of many small extents is sampled
    let step = offsets.len().div_ceil(200).max(1);
    let lengths = EDGES.iter().copied().chain([size]);
    for length in lengths {
        for &offset in offsets.iter().step_by(step) {
            let length = length.min(size.saturating_sub(offset));
            if length == size && offset != 0 {
                continue;
            }
            let mut bytes = vec![0xa5; to_usize(length)];
            let read = disk.read_exact_at(&mut bytes, offset);
            read.map_err(|e| format!("read of {length} bytes at {offset}: {e}"))?;
            let wanted = content.get(to_usize(offset)..).and_then(|c| c.get(..to_usize(length)));
            if wanted != Some(&bytes[..]) {
                return Err(format!("a read of {length} bytes at {offset} got other bytes"));
            }
        }
    }
    Ok(())
}
