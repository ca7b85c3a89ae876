//! A pipe or any other stream.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::{Capabilities, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::num::{to_u64, to_usize};

/// Writes the disk to a stream, zeros and all, from its first byte to its last.
///
/// ```
/// use diskimage::Target;
/// use diskimage::target::StreamTarget;
///
/// let mut out = Vec::new();
/// let target = StreamTarget::new(&mut out);
/// target.write_at(b"disk", 0)?;
/// target.write_zeros(4, 4)?;
/// assert!(target.write_at(b"back", 0).is_err()); // a stream does not go back
/// Box::new(target).finish()?;
/// assert_eq!(out, b"disk\0\0\0\0");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamTarget<W> {
    state: Mutex<State<W>>,
}

#[derive(Debug)]
struct State<W> {
    writer: W,
    position: u64,
}

impl<W: Write + Send> StreamTarget<W> {
    /// A target over `writer`.
    pub fn new(writer: W) -> Self {
        Self { state: Mutex::new(State { writer, position: 0 }) }
    }

    fn write(
        &self,
        offset: u64,
        length: u64,
        pieces: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != state.position {
            let position = state.position;
            let message = format!("a stream stands at {position}, not at {offset}");
            return Err(Error::other(ErrorKind::InvalidInput, message));
        }
        for piece in pieces {
            let written = state.writer.write_all(piece.as_ref());
            written.map_err(|source| Error::io("write", source).at(offset))?;
        }
        state.position = offset.saturating_add(length);
        Ok(())
    }
}

impl<W: Write + Send> Target for StreamTarget<W> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: true, fresh_zeros: false }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write(offset, to_u64(buf.len()), std::iter::once(buf))
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        self.write(offset, length, zeros(length))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let position = state.position;
        state.writer.flush().map_err(|source| Error::io("write", source).at(position))
    }
}

/// Pieces of zeros that make up `length` bytes.
pub(crate) fn zeros(length: u64) -> impl Iterator<Item = &'static [u8]> {
    const ZEROS: &[u8] = &[0; 64 << 10];
    let mut left = length;
    std::iter::from_fn(move || {
        let piece = ZEROS.get(..to_usize(left).min(ZEROS.len())).filter(|p| !p.is_empty())?;
        left = left.saturating_sub(to_u64(piece.len()));
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_byte_can_be_written() {
        let target = StreamTarget::new(Vec::new());
        target.write_at(b"abc", 0).unwrap();
        target.write_zeros(3, 100_000).unwrap();
        assert!(target.write_at(b"x", 3).is_err());
        target.write_at(b"z", 100_003).unwrap();
        let bytes = target.state.into_inner().unwrap().writer;
        assert_eq!(bytes.len(), 100_004);
        assert!(bytes.starts_with(b"abc\0") && bytes.ends_with(b"\0z"));
    }
}
