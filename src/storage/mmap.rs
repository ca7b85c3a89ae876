//! A file mapped into memory.

use std::fs::File;

use super::{DATA, Storage, beyond_end};
use crate::error::{Error, Result};
use crate::num::{to_u64, to_usize};

/// A read-only memory map of a file. Positional reads are nearly as fast and cannot crash:
/// prefer [`FileStorage`](super::FileStorage).
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::MmapStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("file");
/// # std::fs::write(&path, "bytes")?;
/// let file = std::fs::File::open(&path)?;
/// // SAFETY: the file is this program's own, and nobody else knows it
/// let storage = unsafe { MmapStorage::map(&file)? };
/// assert_eq!(storage.size(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MmapStorage {
    map: memmap2::Mmap,
}

impl MmapStorage {
    /// Maps the whole of `file`.
    ///
    /// # Safety
    ///
    /// Nobody, in this process or another, may change or shorten the file while the map lives.
    /// A file that shrinks makes the next read beyond its new end kill the process by SIGBUS; one
    /// that changes breaks Rust's promise that bytes behind a shared reference stay the same. So
    /// never map a stranger's upload that its sender can still write to, nor a file on a network
    /// file system.
    #[expect(unsafe_code, reason = "the one memory map of this crate")]
    pub unsafe fn map(file: &File) -> Result<Self> {
        // SAFETY: the caller promises that the file does not change while it is mapped.
        let map = unsafe { memmap2::Mmap::map(file) };
        Ok(Self { map: map.map_err(|source| Error::io("map the file", source))? })
    }
}

impl Storage for MmapStorage {
    fn size(&self) -> u64 {
        to_u64(self.map.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.map.get(to_usize(offset)..).and_then(|rest| rest.get(..buf.len())) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(beyond_end(DATA, self.size(), to_u64(buf.len()), offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reads_like_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        // SAFETY: nobody else knows this file.
        #[expect(unsafe_code, reason = "tests the unsafe constructor")]
        let storage = unsafe { MmapStorage::map(&file) }.unwrap();
        let mut buf = [0; 4];
        storage.read_exact_at(&mut buf, 6).unwrap();
        assert_eq!(&buf, b"6789");
        assert!(storage.read_exact_at(&mut buf, 7).is_err());
    }
}
