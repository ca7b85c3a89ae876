//! Extents: what a guest-visible range of a disk consists of.

/// Which of a disk's container files (see [`VirtualDisk::storage`](crate::VirtualDisk::storage)).
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, OpenOptions, StorageId, VirtualDisk};
///
/// let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
/// let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let sizes: Vec<_> = (0..disk.storage_count())
///     .filter_map(|number| disk.storage(StorageId(number))) // one that was not opened is none
///     .map(|file| file.size())
///     .collect();
/// assert_eq!(sizes, [4096]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(pub usize);

/// Where bytes lie: an offset in one of a disk's container files.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::{Format, Location, OpenOptions, VirtualDisk};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
/// # let raw = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk.raw"))?;
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # Convert::new().image(&raw, Box::new(Qcow2Options::new().writer(1 << 20)?), None, &target)?;
/// # Box::new(target).finish()?;
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// // a QCOW2 that holds a byte 7 everywhere
/// let disk = OpenOptions::new().open_storage(storage, Path::new("disk.qcow2"))?;
/// let extent = disk.extent_at(0x8000, 1)?;
/// let Some(Location { storage, offset }) = extent.kind.location() else { panic!("is stored") };
/// assert_eq!(offset % disk.cluster_size(), 0x8000); // clusters lie in step
/// let mut byte = [0];
/// disk.storage(storage).expect("was opened").read_exact_at(&mut byte, offset)?;
/// assert_eq!(byte, [7]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The file.
    pub storage: StorageId,
    /// The byte offset in it.
    pub offset: u64,
}

/// What the bytes of an extent are.
///
/// ```
/// use diskimage::{ExtentKind, Location, StorageId};
///
/// fn word(kind: &ExtentKind) -> &'static str {
///     match kind {
///         ExtentKind::Stored(_) => "data",
///         ExtentKind::Encoded => "compressed data",
///         ExtentKind::Hole(_) => "a hole of the file",
///         ExtentKind::Zero { allocated: true, .. } => "zeros",
///         ExtentKind::Zero { allocated: false, .. } => "never written",
///     }
/// }
///
/// let kind = ExtentKind::Hole(Location { storage: StorageId(0), offset: 4096 });
/// assert_eq!((word(&kind), kind.is_zero()), ("a hole of the file", true));
/// // 512 bytes further
/// let place = kind.advanced(512).location();
/// assert_eq!(place, Some(Location { storage: StorageId(0), offset: 4608 }));
/// assert_eq!(ExtentKind::Encoded.location(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Stored as they are, contiguously, from this location on.
    Stored(Location),
    /// Stored as they are from this location on, where the file has a hole: zeros.
    Hole(Location),
    /// Stored compressed; only a read tells the bytes.
    Encoded,
    /// Zeros, says an image; or nothing was ever written.
    Zero {
        /// Whether an image of the chain says so itself; otherwise nothing was ever written.
        allocated: bool,
        /// Where room for the bytes is set aside, if it is.
        stored: Option<Location>,
    },
}

impl ExtentKind {
    /// Whether the bytes are known to be zeros without reading them.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Zero { .. } | Self::Hole(_))
    }

    /// Where the bytes lie, or would lie.
    #[must_use]
    pub fn location(&self) -> Option<Location> {
        match *self {
            Self::Stored(location) | Self::Hole(location) => Some(location),
            Self::Encoded => None,
            Self::Zero { stored, .. } => stored,
        }
    }

    /// The kind of what lies `skip` bytes further in the same extent.
    ///
    /// An extent that is cut in two:
    ///
    /// ```
    /// use diskimage::{Extent, ExtentKind, Location, StorageId};
    ///
    /// let kind = ExtentKind::Stored(Location { storage: StorageId(0), offset: 0x5_0000 });
    /// let whole = Extent { start: 0, length: 8192, depth: 0, kind };
    /// let head = Extent { length: 512, ..whole };
    /// let tail = Extent { start: 512, length: 8192 - 512, kind: kind.advanced(512), ..whole };
    /// assert!(head.continues_with(&tail));
    /// assert_eq!(tail.kind.location().map(|place| place.offset), Some(0x5_0200));
    /// ```
    #[must_use]
    pub fn advanced(self, skip: u64) -> Self {
        let further =
            |l: Location| Location { storage: l.storage, offset: l.offset.saturating_add(skip) };
        match self {
            Self::Stored(location) => Self::Stored(further(location)),
            Self::Hole(location) => Self::Hole(further(location)),
            Self::Encoded => Self::Encoded,
            Self::Zero { allocated, stored } => {
                Self::Zero { allocated, stored: stored.map(further) }
            }
        }
    }
}

/// A run of guest bytes of one kind. Lengths and offsets are bytes.
///
/// ```
/// use diskimage::{Extent, ExtentKind, Location, StorageId};
///
/// let at = |offset| ExtentKind::Stored(Location { storage: StorageId(0), offset });
/// let first = Extent { start: 0, length: 512, depth: 0, kind: at(4096) };
/// let next = Extent { start: 512, length: 512, depth: 0, kind: at(4608) };
/// assert!(first.continues_with(&next));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first guest byte.
    pub start: u64,
    /// How many bytes; at least one.
    pub length: u64,
    /// How far down the chain the answer was found: 0 is the image that was opened.
    pub depth: u32,
    /// What the bytes are.
    pub kind: ExtentKind,
}

impl Extent {
    /// The first byte behind it.
    ///
    /// ```
    /// use diskimage::VirtualDisk;
    /// use diskimage::disk::EmptyDisk;
    ///
    /// let disk = EmptyDisk(10_000);
    /// let extent = disk.extent_at(4096, 1000)?;
    /// assert_eq!((extent.start, extent.end()), (4096, 5096)); // where to ask next
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// Whether `next` continues this extent, so that both are one.
    ///
    /// ```
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::{Extent, Result, VirtualDiskExt};
    ///
    /// /// The extents of a disk, as few as there can be.
    /// fn joined(extents: impl Iterator<Item = Result<Extent>>) -> Result<Vec<Extent>> {
    ///     let mut joined: Vec<Extent> = Vec::new();
    ///     for extent in extents {
    ///         let extent = extent?;
    ///         match joined.last_mut() {
    ///             Some(last) if last.continues_with(&extent) => last.length += extent.length,
    ///             _ => joined.push(extent),
    ///         }
    ///     }
    ///     Ok(joined)
    /// }
    ///
    /// let disk = EmptyDisk(8192);
    /// let halves = disk.extents(0..4096).chain(disk.extents(4096..8192));
    /// assert_eq!(joined(halves)?, joined(disk.extents(0..8192))?);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn continues_with(&self, next: &Self) -> bool {
        self.end() == next.start
            && self.depth == next.depth
            && self.kind.advanced(self.length) == next.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_only_when_their_bytes_do() {
        let at = |offset| ExtentKind::Stored(Location { storage: StorageId(0), offset });
        let first = Extent { start: 0, length: 10, depth: 0, kind: at(100) };
        assert!(first.continues_with(&Extent { start: 10, length: 1, depth: 0, kind: at(110) }));
        assert!(!first.continues_with(&Extent { start: 10, length: 1, depth: 0, kind: at(111) }));
        assert!(!first.continues_with(&Extent { start: 10, length: 1, depth: 1, kind: at(110) }));
        assert!(!first.continues_with(&Extent { start: 11, length: 1, depth: 0, kind: at(110) }));
    }
}
