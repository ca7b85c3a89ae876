//! Readers and writers that judge what passes through them.

use std::fmt;
use std::io::{self, Read, Write};

use super::{Stream, Verdict};

/// Reads from another reader, and judges what passes. Once it is refused, reading fails with an
/// error of kind [`PermissionDenied`](io::ErrorKind::PermissionDenied) that is a [`Refused`].
///
/// With the feature `tokio` it does the same for `tokio::io::AsyncRead`.
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
#[derive(Debug)]
pub struct Writer<W> {
    pub(super) inner: W,
    pub(super) stream: Stream,
}

/// Why nothing more passes: the reasons for refusing the image.
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
