//! The adapters for tokio's traits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::adapter::{Reader, Writer, refused};

impl<R: AsyncRead + Unpin> AsyncRead for Reader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, stream } = &mut *self;
        if stream.status().is_refused() {
            return Poll::Ready(Err(refused(stream)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(inner).poll_read(context, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if stream.push(new).is_refused() {
            // an error comes without bytes
            buf.set_filled(before);
            return Poll::Ready(Err(refused(stream)));
        }
        Poll::Ready(Ok(()))
    }
}

/// What the writer below does not take is not judged yet: it comes again. So the last piece of an
/// image that is refused may have been passed on.
impl<W: AsyncWrite + Unpin> AsyncWrite for Writer<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, stream } = &mut *self;
        if stream.status().is_refused() {
            return Poll::Ready(Err(refused(stream)));
        }
        let length = ready!(Pin::new(inner).poll_write(context, buf))?;
        let taken = buf.get(..length).unwrap_or_default();
        Poll::Ready(if stream.push(taken).is_refused() { Err(refused(stream)) } else { Ok(length) })
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
