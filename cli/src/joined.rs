//! Several disks, one after the other, as one: what qemu-img makes of several sources, and a
//! conversion for it.

use diskimage::disk::GrownDisk;
use diskimage::{Chain, Extent, ExtentKind, Location, Result, Storage, StorageId, VirtualDisk};

/// Disks in a row. Each begins at a multiple of 512 bytes, as there.
pub(crate) struct Joined<'a> {
    parts: Vec<Part<'a>>,
    size: u64,
}

/// A disk, and what lies before it: bytes, and files that extents speak of.
struct Part<'a> {
    disk: GrownDisk<'a>,
    start: u64,
    first_storage: usize,
}

impl<'a> Joined<'a> {
    pub(crate) fn new(disks: &'a [Chain]) -> Self {
        Self::of(disks.iter().map(|disk| -> &dyn VirtualDisk { disk }))
    }

    pub(crate) fn of(disks: impl IntoIterator<Item = &'a dyn VirtualDisk>) -> Self {
        let (mut parts, mut size, mut first_storage) = (Vec::new(), 0u64, 0);
        for disk in disks {
            let grown = GrownDisk::new(disk, disk.size().next_multiple_of(512));
            let start = size;
            size = size.saturating_add(grown.size());
            parts.push(Part { disk: grown, start, first_storage });
            first_storage += disk.storage_count();
        }
        Self { parts, size }
    }

    /// The disk at `offset`, which lies below the size.
    fn at(&self, offset: u64) -> Option<&Part<'a>> {
        let behind = self.parts.partition_point(|part| part.start <= offset);
        // disks without a byte start where the next one does
        self.parts[..behind].last()
    }
}

impl VirtualDisk for Joined<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> u64 {
        let sizes = self.parts.iter().map(|part| part.disk.cluster_size());
        sizes.max().unwrap_or(512)
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
        let Some(part) = self.at(offset).filter(|_| offset < self.size) else {
            return diskimage::disk::EmptyDisk(self.size).extent_at(offset, max);
        };
        let mut extent = part.disk.extent_at(offset - part.start, max)?;
        let moved = |location: Location| Location {
            storage: StorageId(location.storage.0 + part.first_storage),
            ..location
        };
        extent.start += part.start;
        extent.kind = match extent.kind {
            ExtentKind::Stored(location) => ExtentKind::Stored(moved(location)),
            ExtentKind::Hole(location) => ExtentKind::Hole(moved(location)),
            ExtentKind::Encoded => ExtentKind::Encoded,
            ExtentKind::Zero { allocated, stored } => {
                ExtentKind::Zero { allocated, stored: stored.map(moved) }
            }
        };
        Ok(extent)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let Some(part) = self.at(at).filter(|_| at < self.size) else {
                // beyond the end: the error is that of any disk
                return diskimage::disk::EmptyDisk(self.size).read_exact_at(rest, at);
            };
            let own = part.start + part.disk.size() - at;
            let length = usize::try_from(own).map_or(rest.len(), |own| own.min(rest.len()));
            let (here, behind) = rest.split_at_mut(length);
            part.disk.read_exact_at(here, at - part.start)?;
            at += here.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    fn storage(&self, id: StorageId) -> Option<&dyn Storage> {
        let behind = self.parts.partition_point(|part| part.first_storage <= id.0);
        let part = self.parts[..behind].last()?;
        part.disk.storage(StorageId(id.0 - part.first_storage))
    }

    fn storage_count(&self) -> usize {
        self.parts.last().map_or(0, |part| part.first_storage + part.disk.storage_count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_disk_by_the_law_of_extents() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = [1000usize, 0, 70_000, 4096];
        let mut content = Vec::new();
        let mut disks = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            let path = dir.path().join(index.to_string());
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8 + index as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            content.extend(bytes);
            content.resize(content.len().next_multiple_of(512), 0);
            let options = diskimage::OpenOptions::new().format(diskimage::Format::Raw);
            disks.push(options.open(&path).unwrap());
        }
        let joined = Joined::new(&disks);
        diskimage::conformance::check(&joined, Some(&content)).unwrap();
        assert_eq!(joined.storage_count(), 4);
        let path = joined.storage(StorageId(3)).unwrap().path().unwrap();
        assert_eq!(path, dir.path().join("3"));
    }
}
