//! One of the two disks, as it goes on with zeros beyond its end.

use crate::disk::VirtualDisk;
use crate::error::Result;
use crate::extent::{Extent, ExtentKind, StorageId};
use crate::num::to_usize;
use crate::storage::FileIdentity;

pub(super) struct Disk<'a> {
    disk: &'a dyn VirtualDisk,
    size: u64,
    /// The files of the operating system that stored bytes lie in, by number. One that is seen in
    /// another way than it is on the medium is none.
    files: Vec<Option<FileIdentity>>,
}

impl<'a> Disk<'a> {
    pub(super) fn new(disk: &'a dyn VirtualDisk) -> Self {
        let file = |number| {
            let storage = disk.storage(StorageId(number))?;
            storage.as_file().and_then(|_| storage.identity())
        };
        let files = (0..disk.storage_count()).map(file).collect();
        Self { disk, size: disk.size(), files }
    }

    /// The extent at `at`, at most up to `end`.
    pub(super) fn extent_at(&self, at: u64, end: u64) -> Result<Extent> {
        let end_here = end.min(self.size);
        if at < end_here {
            return self.disk.extent_at(at, end_here.saturating_sub(at));
        }
        let kind = ExtentKind::Zero { allocated: false, stored: None };
        Ok(Extent { start: at, length: end.saturating_sub(at), depth: 0, kind })
    }

    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        let here = to_usize(self.size.saturating_sub(at)).min(buf.len());
        let (inside, beyond) = buf.split_at_mut(here);
        beyond.fill(0);
        if inside.is_empty() { Ok(()) } else { self.disk.read_exact_at(inside, at) }
    }

    /// Whether the same bytes of the same file are here and there.
    pub(super) fn shares(&self, mine: &Extent, other: &Disk<'_>, theirs: &Extent) -> bool {
        match (mine.kind, theirs.kind) {
            (ExtentKind::Stored(mine), ExtentKind::Stored(theirs)) => {
                let file = |disk: &Disk<'_>, id: StorageId| disk.files.get(id.0).copied().flatten();
                let here = file(self, mine.storage);
                mine.offset == theirs.offset
                    && here.is_some()
                    && here == file(other, theirs.storage)
            }
            (ExtentKind::Encoded, ExtentKind::Encoded) => {
                let here = self.disk.encoded_in(mine.depth);
                here.is_some() && here == other.disk.encoded_in(theirs.depth)
            }
            _ => false,
        }
    }
}

/// What a map says of bytes, as far as it does not depend on the format: whether an image holds
/// them, whether they are zeros, whether they are compressed, and whether they have a place.
pub(super) fn status(kind: &ExtentKind) -> (bool, bool, bool, bool) {
    let present = !matches!(kind, ExtentKind::Zero { allocated: false, .. });
    let encoded = matches!(kind, ExtentKind::Encoded);
    (present, kind.is_zero(), encoded, kind.location().is_some())
}
