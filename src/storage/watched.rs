//! A storage that stops when it is asked to.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{Access, FileIdentity, Run, SharedRun, Storage};
use crate::error::Result;
use crate::num::to_u64;
use crate::progress::Progress;

/// Another storage whose reads fail once its [`Progress`] says stop. All that takes long reads, so
/// that this ends every loop over a file, also those that know of no progress.
#[derive(Debug)]
pub(crate) struct WatchedStorage {
    inner: Arc<dyn Storage>,
    progress: Arc<Progress>,
}

impl WatchedStorage {
    pub(crate) fn new(inner: Arc<dyn Storage>, progress: Arc<Progress>) -> Self {
        Self { inner, progress }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Storage for WatchedStorage {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.progress.check()?;
        self.inner.read_exact_at(buf, offset)?;
        self.progress.read(to_u64(buf.len()));
        Ok(())
    }

    fn check_available(&self, offset: u64, length: u64) -> Result<()> {
        self.progress.check()?;
        self.inner.check_available(offset, length)
    }

    fn expect(&self, offset: u64, length: u64) {
        self.inner.expect(offset, length);
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        self.progress.check()?;
        self.inner.run_at(offset, max)
    }

    fn allocated_size(&self) -> Option<u64> {
        self.inner.allocated_size()
    }

    fn as_file(&self) -> Option<&File> {
        self.inner.as_file()
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn advise(&self, access: Access) -> Result<()> {
        self.inner.advise(access)
    }

    fn shared_runs(&self) -> Vec<SharedRun> {
        self.inner.shared_runs()
    }

    fn identity(&self) -> Option<FileIdentity> {
        self.inner.identity()
    }

    fn lies_in(&self) -> Vec<FileIdentity> {
        self.inner.lies_in()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    #[test]
    fn what_is_read_counts_until_somebody_else_counts() {
        let progress = Arc::new(Progress::new());
        let bytes = Arc::new(MemoryStorage::new(vec![7; 10]));
        let storage = WatchedStorage::new(bytes, Arc::clone(&progress));
        let read = |length: usize| {
            storage.read_exact_at(&mut vec![0; length], 0).unwrap_or_default();
            (progress.done(), progress.total())
        };
        assert_eq!(read(4), (4, 0));
        // what cannot be read does not
        assert_eq!(read(11), (4, 0));
        progress.start(100);
        assert_eq!(read(4), (0, 100));
        progress.start_reading(10);
        assert_eq!((read(4), read(6)), ((4, 10), (10, 10)));
    }

    #[test]
    fn it_reads_until_it_is_asked_to_stop_or_its_time_is_over() {
        let bytes: Arc<dyn Storage> = Arc::new(MemoryStorage::new(vec![7; 10]));
        let progress = Arc::new(Progress::new());
        let storage = WatchedStorage::new(Arc::clone(&bytes), Arc::clone(&progress));
        storage.read_exact_at(&mut [0; 10], 0).unwrap();
        progress.cancel();
        let kind = storage.read_exact_at(&mut [0; 10], 0).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Cancelled);
        let late = Progress::until(Instant::now() + Duration::from_secs(3600));
        WatchedStorage::new(Arc::clone(&bytes), Arc::new(late)).run_at(0, 1).unwrap();
        let over = WatchedStorage::new(bytes, Arc::new(Progress::until(Instant::now())));
        assert_eq!(over.run_at(0, 1).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
