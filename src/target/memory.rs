//! A target in memory, for small images and for tests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Capabilities, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::num::{to_u64, to_usize};

/// Takes writes anywhere into memory of bounded size. Its clones are the same target, so that one
/// can be given away and another asked for the bytes in the end.
///
/// ```
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::target::MemoryTarget;
/// use diskimage::{Convert, OpenOptions, Target, VirtualDisk};
/// use std::path::Path;
/// use std::sync::Arc;
///
/// let target = MemoryTarget::new(16 << 20);
/// Convert::new().create(Box::new(VhdxOptions::new().writer(1 << 40)?), &target)?;
/// assert_eq!(target.take(), None); // no image yet
/// Box::new(target.clone()).finish()?;
///
/// let bytes = target.take().unwrap_or_default();
/// let storage = Arc::new(MemoryStorage::new(bytes));
/// let disk = OpenOptions::new().open_storage(storage, Path::new("disk.vhdx"))?;
/// assert_eq!(disk.size(), 1 << 40);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryTarget {
    state: Arc<Mutex<State>>,
    limit: u64,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    is_finished: bool,
}

impl MemoryTarget {
    /// A target that takes at most `limit` bytes: what would go behind that is an error.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { state: Arc::default(), limit }
    }

    /// The bytes, which the target has no more; none before it is [finished](Target::finish), since
    /// a part is no image.
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::MemoryTarget;
    ///
    /// let target = MemoryTarget::new(8);
    /// target.write_at(b"last", 4)?;
    /// assert!(target.write_at(b"more", 8).is_err());
    /// Box::new(target.clone()).finish()?;
    /// assert_eq!(target.take(), Some(b"\0\0\0\0last".to_vec()));
    /// assert_eq!(target.take(), None);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        std::mem::take(&mut state.is_finished).then(|| std::mem::take(&mut state.bytes))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes from `offset` on, so many, made where they are not there yet.
    fn at<T>(&self, offset: u64, length: u64, write: impl FnOnce(&mut [u8]) -> T) -> Result<T> {
        let end = offset.checked_add(length).filter(|&end| end <= self.limit);
        let Some(end) = end.map(to_usize) else {
            let message = format!("the target grows beyond {} bytes of memory", self.limit);
            let error = Error::other(ErrorKind::LimitExceeded, message);
            return Err(error.at(offset).advise("write to a file instead"));
        };
        let mut state = self.state();
        let missing = end.saturating_sub(state.bytes.len());
        if missing > 0 {
            state.bytes.try_reserve(missing).map_err(|_| {
                let message = format!("there is no memory for {end} bytes");
                Error::other(ErrorKind::LimitExceeded, message).at(offset)
            })?;
            state.bytes.resize(end, 0);
        }
        Ok(write(state.bytes.get_mut(to_usize(offset)..end).unwrap_or_default()))
    }
}

impl std::fmt::Debug for MemoryTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryTarget({} of {} bytes)", self.state().bytes.len(), self.limit)
    }
}

impl Target for MemoryTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: true }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.at(offset, to_u64(buf.len()), |bytes| bytes.copy_from_slice(buf))
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        self.at(offset, length, |bytes| bytes.fill(0))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.state().is_finished = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_twice_is_what_was_written_last() {
        let target = MemoryTarget::new(100);
        target.write_at(&[1; 50], 10).unwrap();
        target.write_zeros(20, 10).unwrap();
        target.write_at(&[2; 5], 25).unwrap();
        assert_eq!(target.take(), None);
        Box::new(target.clone()).finish().unwrap();
        let bytes = target.take().unwrap();
        let runs: Vec<_> = bytes.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        assert_eq!(runs, [(0, 10), (1, 10), (0, 5), (2, 5), (1, 30)]);
    }

    #[test]
    fn nothing_is_taken_beyond_the_bound_and_nothing_wraps() {
        let target = MemoryTarget::new(100);
        for (offset, length) in [(100, 1), (0, 101), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
            let error = target.write_zeros(offset, length).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        }
        assert!(target.write_at(&[1], 100).is_err());
        target.write_at(&[1; 100], 0).unwrap();
        let vast = MemoryTarget::new(u64::MAX);
        let error = vast.write_zeros(0, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "no memory for so much");
    }
}
