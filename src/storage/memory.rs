//! A file held in memory.

use super::{DATA, Storage, beyond_end};
use crate::error::Result;
use crate::num::{to_u64, to_usize};

/// Bytes in memory: for tests, fuzzing and small uploads.
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::MemoryStorage;
///
/// let storage = MemoryStorage::from(b"an image".to_vec());
/// assert_eq!((storage.size(), storage.as_bytes()), (8, &b"an image"[..]));
/// ```
#[derive(Clone, Default)]
pub struct MemoryStorage(Vec<u8>);

impl MemoryStorage {
    /// A storage over `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    ///
    /// ```
    /// use diskimage::Storage;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let storage = MemoryStorage::new(vec![1, 2, 3, 4]);
    /// let mut bytes = [0; 2];
    /// storage.read_exact_at(&mut bytes, 1)?;
    /// assert_eq!(bytes, storage.as_bytes()[1..3]);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryStorage({} bytes)", self.0.len())
    }
}

impl From<Vec<u8>> for MemoryStorage {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Storage for MemoryStorage {
    fn size(&self) -> u64 {
        to_u64(self.0.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let from = self.0.get(to_usize(offset)..).and_then(|rest| rest.get(..buf.len()));
        match from {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(beyond_end(DATA, self.size(), to_u64(buf.len()), offset)),
        }
    }
}
