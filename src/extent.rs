//! Extents: what a guest-visible range of a disk consists of.

/// Which of a disk's container files (see [`VirtualDisk::storage`](crate::VirtualDisk::storage)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(pub usize);

/// Where bytes lie: an offset in one of a disk's container files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The file.
    pub storage: StorageId,
    /// The byte offset in it.
    pub offset: u64,
}

/// What the bytes of an extent are.
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
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// Whether `next` continues this extent, so that both are one.
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
