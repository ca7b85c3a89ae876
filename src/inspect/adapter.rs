//! Readers and writers that judge what passes through them.

use std::fmt;
use std::io::{self, Read, Write};

use super::{Stream, Verdict};

/// Reads from another reader, and judges what passes. Once it is refused, reading fails with an
/// error of kind [`PermissionDenied`](io::ErrorKind::PermissionDenied) that is a [`Refused`].
///
/// With the feature `tokio` it does the same for `tokio::io::AsyncRead`.
///
/// ```
/// use std::io::Read;
///
/// use diskimage::Format;
/// use diskimage::inspect::{Inspect, Policy};
///
/// # let image = {
/// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
/// #     let mut image = Vec::new();
/// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
/// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
/// #     Box::new(target).finish()?;
/// #     image
/// # };
/// let judge = Inspect::new(Policy::strict()).declared(Format::Qcow2).stream();
/// let mut upload = judge.reader(&image[..]); // any `Read`: a file, the body of a request
/// let mut stored = Vec::new();
/// upload.read_to_end(&mut stored)?;
/// let (rest, verdict) = upload.finish();
/// assert!(rest.is_empty() && stored == image);
/// assert!(verdict.is_allowed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    pub(super) inner: R,
    pub(super) stream: Stream,
}

/// Writes to another writer, and judges what passes. A piece that refuses it is not written: that
/// and all further writing fails with an error of kind
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) that is a [`Refused`].
///
/// With the feature `tokio` it does the same for `tokio::io::AsyncWrite`, but there a piece is judged
/// once the other writer has taken it.
///
/// ```
/// use std::io::{ErrorKind, Write};
///
/// use diskimage::Format;
/// use diskimage::inspect::{Inspect, Policy};
///
/// let upload = [&b"QFI\xfb\0\0\0\x03"[..], &[0; 80 << 10]].concat(); // a QCOW2 comes
/// let judge = Inspect::new(Policy::strict()).declared(Format::Vmdk).stream();
/// let mut store = judge.writer(Vec::new()); // any `Write`: a file, an object store
/// let error = store.write_all(&upload).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::PermissionDenied);
/// let (stored, verdict) = store.finish();
/// assert!(stored.is_empty()); // the piece that refuses it is not written
/// assert_eq!(verdict.reasons[0].rule, "declared-mismatch");
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    pub(super) inner: W,
    pub(super) stream: Stream,
}

/// Why nothing more passes: the reasons for refusing the image.
///
/// ```
/// use diskimage::Format;
/// use diskimage::inspect::{Inspect, Policy, Refused};
///
/// let upload = [&b"QFI\xfb\0\0\0\x03"[..], &[0; 80 << 10]].concat(); // a QCOW2 comes
/// let judge = Inspect::new(Policy::strict()).declared(Format::Raw).stream();
/// let error = std::io::copy(&mut judge.reader(&upload[..]), &mut std::io::sink()).unwrap_err();
/// let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>());
/// let Refused(reasons) = refused.expect("no error of the medium");
/// assert_eq!(reasons[0].rule, "declared-mismatch");
/// assert!(error.to_string().starts_with("the image is refused: It is qcow2"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub Vec<super::Reason>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the image is refused:")?;
        self.0.iter().try_for_each(|reason| write!(f, " {}", reason.sentence))
    }
}

impl std::error::Error for Refused {}

pub(super) fn refused(stream: &Stream) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Refused(stream.reasons().to_vec()))
}

impl Stream {
    /// A reader that judges what is read from `inner`.
    pub fn reader<R>(self, inner: R) -> Reader<R> {
        Reader { inner, stream: self }
    }

    /// A writer that judges what is written to `inner`.
    pub fn writer<W>(self, inner: W) -> Writer<W> {
        Writer { inner, stream: self }
    }
}

impl<R> Reader<R> {
    /// The reader, and the verdict: that of the bytes that were read until now.
    pub fn finish(self) -> (R, Verdict) {
        (self.inner, self.stream.finish())
    }
}

impl<W> Writer<W> {
    /// The writer, and the verdict: that of the bytes that were written until now.
    pub fn finish(self) -> (W, Verdict) {
        (self.inner, self.stream.finish())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stream.status().is_refused() {
            return Err(refused(&self.stream));
        }
        let length = self.inner.read(buf)?;
        if self.stream.push(buf.get(..length).unwrap_or_default()).is_refused() {
            return Err(refused(&self.stream));
        }
        Ok(length)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // what the writer below does not take now comes again, and must not be judged twice
        self.write_all(buf)?;
        Ok(buf.len())
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        if self.stream.push(buf).is_refused() {
            return Err(refused(&self.stream));
        }
        self.inner.write_all(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
