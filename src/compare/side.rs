//! One of the two disks, as it goes on with zeros beyond its end.

use crate::disk::VirtualDisk;
use crate::error::Result;
use crate::extent::{Extent, ExtentKind, Location, StorageId};
use crate::num::to_usize;
use crate::storage::{FileIdentity, SharedRun};

pub(super) struct Disk<'a> {
    disk: &'a dyn VirtualDisk,
    size: u64,
    /// The files of the operating system that stored bytes lie in, by number. One that is seen in
    /// another way than it is on the medium is none.
    files: Vec<Option<FileIdentity>>,
    /// What of each file lies in the same place of its medium as some other file's bytes.
    shared: Vec<Vec<SharedRun>>,
}

/// What is read of a run that both share on the medium, before the rest of it is believed.
const SAMPLE: u64 = 4096;

impl<'a> Disk<'a> {
    pub(super) fn new(disk: &'a dyn VirtualDisk) -> Self {
        let file = |number| {
            let storage = disk.storage(StorageId(number))?;
            storage.as_file().and_then(|_| storage.identity())
        };
        let files = (0..disk.storage_count()).map(file).collect();
        Self { disk, size: disk.size(), files, shared: Vec::new() }
    }

    /// Finds out what shares its place on the medium, if files of `other` lie on the same device.
    pub(super) fn find_shared(&mut self, other: &Disk<'_>) {
        let runs = |(number, file): (usize, &Option<FileIdentity>)| {
            let device = file.map(|file| file.device)?;
            let theirs = other.files.iter().flatten().filter(|theirs| theirs.device == device);
            let another = { theirs }.any(|theirs| Some(*theirs) != *file);
            let storage = self.disk.storage(StorageId(number)).filter(|_| another)?;
            Some(storage.shared_runs())
        };
        let found = self.files.iter().enumerate().map(|file| runs(file).unwrap_or_default());
        self.shared = found.collect();
    }

    /// Where a stored byte lies on the medium, if that may be another file's place too: the device,
    /// the place, and for how many bytes on.
    fn place(&self, at: Location) -> Option<(u64, u64, u64)> {
        let device = self.files.get(at.storage.0).copied().flatten()?.device;
        let runs = self.shared.get(at.storage.0)?;
        let behind = runs.partition_point(|run| run.offset <= at.offset);
        let run = runs.get(behind.checked_sub(1)?)?;
        let within = at.offset.saturating_sub(run.offset);
        let left = run.length.checked_sub(within).filter(|&left| left > 0)?;
        Some((device, run.place.saturating_add(within), left))
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

    /// For how many bytes from the start of both extents on the same bytes of the same file are here
    /// and there, or the same place of the medium.
    pub(super) fn shares(&self, mine: &Extent, other: &Disk<'_>, theirs: &Extent) -> u64 {
        let all = mine.length.min(theirs.length);
        match (mine.kind, theirs.kind) {
            (ExtentKind::Stored(here), ExtentKind::Stored(there)) => {
                let file = |disk: &Disk<'_>, id: StorageId| disk.files.get(id.0).copied().flatten();
                let own = file(self, here.storage);
                if own.is_some() && own == file(other, there.storage) {
                    return if here.offset == there.offset { all } else { 0 };
                }
                let Some((device, place, left)) = self.place(here) else { return 0 };
                let same = other.place(there).filter(|there| (there.0, there.1) == (device, place));
                let length = same.map_or(0, |there| all.min(left).min(there.2));
                if self.is_same_sample(other, mine.start, length) { length } else { 0 }
            }
            (ExtentKind::Encoded, ExtentKind::Encoded) => {
                let here = self.disk.encoded_in(mine.depth);
                let same = here.is_some() && here == other.disk.encoded_in(theirs.depth);
                if same { all } else { 0 }
            }
            _ => 0,
        }
    }

    /// Whether the first bytes of what lies in one place are the same: a file system that counts
    /// places on two media in one device would be found out.
    fn is_same_sample(&self, other: &Disk<'_>, at: u64, length: u64) -> bool {
        let mut samples = [[0; 4096]; 2];
        let length = to_usize(length.min(SAMPLE));
        let [mine, theirs] = samples.each_mut().map(|s| s.get_mut(..length).unwrap_or_default());
        length > 0
            && self.read(mine, at).is_ok()
            && other.read(theirs, at).is_ok()
            && mine == theirs
    }
}

/// What a map says of bytes, as far as it does not depend on the format: whether an image holds
/// them, whether they are zeros, whether they are compressed, and whether they have a place.
pub(super) fn status(kind: &ExtentKind) -> (bool, bool, bool, bool) {
    let present = !matches!(kind, ExtentKind::Zero { allocated: false, .. });
    let encoded = matches!(kind, ExtentKind::Encoded);
    (present, kind.is_zero(), encoded, kind.location().is_some())
}
