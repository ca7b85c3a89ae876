//! A part of another storage.

use super::{Access, DATA, FileIdentity, Run, Storage, beyond_end};
use crate::error::{Error, Result};
use crate::num::to_u64;

/// A range of another storage, seen as a file of its own: a member of an archive, a payload
/// behind a header.
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::{MemoryStorage, WindowStorage};
///
/// let window = WindowStorage::new(MemoryStorage::new(vec![0, 1, 2, 3]), 1, 2)?;
/// let mut bytes = [0; 2];
/// window.read_exact_at(&mut bytes, 0)?;
/// assert_eq!(bytes, [1, 2]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct WindowStorage<S> {
    inner: S,
    start: u64,
    size: u64,
}

impl<S: Storage> WindowStorage<S> {
    /// The `size` bytes of `inner` from `start` on. An error if `inner` does not hold them.
    ///
    /// ```
    /// use diskimage::ErrorKind;
    /// use diskimage::storage::{MemoryStorage, WindowStorage};
    ///
    /// // a header that says where its payload lies
    /// let file = MemoryStorage::new(vec![0; 4096]);
    /// let error = WindowStorage::new(file, 512, 1 << 40).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(512)));
    /// assert!(error.is_cut_off()); // the file ends before
    /// ```
    pub fn new(inner: S, start: u64, size: u64) -> Result<Self, Error> {
        super::check_inside(&inner, DATA, start, size)?;
        Ok(Self { inner, start, size })
    }
}

impl<S: Storage> Storage for WindowStorage<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match offset.checked_add(to_u64(buf.len())) {
            Some(end) if end <= self.size => {
                self.inner.read_exact_at(buf, self.start.saturating_add(offset))
            }
            _ => Err(beyond_end(DATA, self.size, to_u64(buf.len()), offset)),
        }
    }

    fn check_available(&self, offset: u64, length: u64) -> Result<()> {
        self.inner.check_available(self.start.saturating_add(offset), length)
    }

    fn expect(&self, offset: u64, length: u64) {
        self.inner.expect(self.start.saturating_add(offset), length);
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        let max = max.min(self.size.saturating_sub(offset));
        self.inner.run_at(self.start.saturating_add(offset), max)
    }

    fn advise(&self, access: Access) -> Result<()> {
        self.inner.advise(access)
    }

    fn path(&self) -> Option<&std::path::Path> {
        self.inner.path()
    }

    fn lies_in(&self) -> Vec<FileIdentity> {
        self.inner.lies_in()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn reads_stay_inside_the_window() {
        let whole = MemoryStorage::new((0..100).collect());
        let window = WindowStorage::new(whole, 10, 20).unwrap();
        let mut buf = [0; 5];
        window.read_exact_at(&mut buf, 15).unwrap();
        assert_eq!(buf, [25, 26, 27, 28, 29]);
        assert!(window.read_exact_at(&mut buf, 16).is_err());
        assert!(window.read_exact_at(&mut buf, u64::MAX).is_err());
        assert!(WindowStorage::new(MemoryStorage::default(), 0, 1).is_err());
    }
}
