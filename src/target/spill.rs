//! A stream behind a temporary file, for what cannot be written in the order of its bytes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::place::{TemporaryName, named_file};
use super::{Capabilities, Target};
use crate::bytes::AlignedBuffer;
use crate::error::{Error, ErrorKind, Result};
use crate::num::{to_u64, to_usize};
use crate::sys;

/// Takes writes anywhere into a nameless temporary file of bounded size, and passes the whole of it
/// on to a stream in the end.
///
/// ```
/// use diskimage::Target;
/// use diskimage::target::SpillTarget;
///
/// let mut out = Vec::new();
/// let target = SpillTarget::new(&mut out, &std::env::temp_dir(), 1 << 30)?;
/// target.write_at(b"last", 4)?;
/// target.write_at(b"at 0", 0)?;
/// Box::new(target).finish()?;
/// assert_eq!(out, b"at 0last");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct SpillTarget<W> {
    file: File,
    folder: PathBuf,
    /// Removed when all is done, where the file system cannot make nameless files.
    _name: Option<TemporaryName>,
    limit: u64,
    end: AtomicU64,
    writer: Mutex<W>,
}

/// How much is passed on at a time.
const PIECE: usize = 128 << 10;

impl<W: Write + Send> SpillTarget<W> {
    /// A target over `writer` whose temporary file lies in `folder` and takes up at most `limit`
    /// bytes: what would go behind that is an error.
    ///
    /// For a format that is not written forward:
    ///
    /// ```
    /// use diskimage::format::vdi::VdiOptions;
    /// use diskimage::target::SpillTarget;
    /// use diskimage::{Convert, Target};
    ///
    /// let mut out = Vec::new(); // a socket, a pipe
    /// let target = SpillTarget::new(&mut out, &std::env::temp_dir(), 1 << 30)?;
    /// Convert::new().create(Box::new(VdiOptions::new().writer(1 << 20)?), &target)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(out[64..68], 0xbeda_107f_u32.to_le_bytes()); // the signature of a VDI
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn new(writer: W, folder: &Path, limit: u64) -> Result<Self> {
        let here = |error: Error| error.in_file(folder);
        let nameless = sys::nameless_file(folder)
            .map_err(|source| here(Error::io("create a temporary file", source)))?;
        let (file, name) = match nameless {
            Some(file) => (file, None),
            None => {
                let (file, name) = named_file(folder.join("diskimage-spill")).map_err(here)?;
                (file, Some(name))
            }
        };
        let (end, writer) = (AtomicU64::new(0), Mutex::new(writer));
        Ok(Self { file, folder: folder.to_owned(), _name: name, limit, end, writer })
    }

    fn grow(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.saturating_add(length);
        if end > self.limit {
            let message = format!("the temporary file grows beyond {} bytes", self.limit);
            let error = Error::other(ErrorKind::LimitExceeded, message);
            return Err(error.in_file(&self.folder).advise("write to a file instead"));
        }
        self.end.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }
}

impl<W: Write + Send> Target for SpillTarget<W> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: true }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.grow(offset, to_u64(buf.len()))?;
        sys::write_all_at(&self.file, buf, offset)
            .map_err(|source| Error::io("write", source).at(offset).in_file(&self.folder))
    }

    /// Writes nothing: it is written to once at most.
    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        self.grow(offset, length)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let end = self.end.into_inner();
        let mut writer = self.writer.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let extended = self.file.set_len(end);
        extended.map_err(|source| Error::io("set the size", source).in_file(&self.folder))?;
        let mut buffer = AlignedBuffer::new();
        let mut at = 0u64;
        while at < end {
            let part = buffer.get(to_usize(end.saturating_sub(at)).min(PIECE));
            sys::read_exact_at(&self.file, part, at)
                .map_err(|source| Error::io("read", source).at(at).in_file(&self.folder))?;
            writer.write_all(part).map_err(|source| Error::io("write", source).at(at))?;
            at = at.saturating_add(to_u64(part.len()));
        }
        writer.flush().map_err(|source| Error::io("write", source).at(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_any_order_goes_out_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let target = SpillTarget::new(File::create(&path).unwrap(), dir.path(), 10_000).unwrap();
        target.write_at(b"end", 9_997).unwrap();
        target.write_at(b"start", 0).unwrap();
        assert!(target.write_at(b"xx", 9_999).is_err(), "the bound holds");
        Box::new(target).finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            bytes.len() == 10_000 && bytes.starts_with(b"start\0") && bytes.ends_with(b"\0end")
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
