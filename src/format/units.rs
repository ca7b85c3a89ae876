//! Reading guest bytes that are stored encoded in units of one size: clusters, blocks.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::bytes::AlignedBuffer;
use crate::codec::{CodecError, Wrapper, inflate_exact};
use crate::error::{Error, Result};
use crate::num::{to_u64, to_usize};
use crate::storage::Storage;

/// Splits reads into units, and keeps the one that was decoded last for a read of a part of it.
#[derive(Debug)]
pub(super) struct Units {
    size: u64,
    last: Mutex<Option<(u64, Vec<u8>)>>,
}

impl Units {
    /// Units of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        Self { size, last: Mutex::default() }
    }

    /// Fills `buf` from the guest's `offset` on. `decode` fills its buffer with the whole unit of
    /// that number.
    pub(super) fn read(
        &self,
        buf: &mut [u8],
        offset: u64,
        decode: impl Fn(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let index = at.checked_div(self.size).unwrap_or_default();
            let within = at.saturating_sub(index.saturating_mul(self.size));
            let length = to_usize(self.size.saturating_sub(within)).min(rest.len()).max(1);
            let (part, behind) = rest.split_at_mut(length);
            if to_u64(length) == self.size {
                decode(index, part)?;
            } else {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.as_ref().is_none_or(|(cached, _)| *cached != index) {
                    let mut bytes = last.take().map(|(_, bytes)| bytes).unwrap_or_default();
                    bytes.resize(to_usize(self.size), 0);
                    decode(index, &mut bytes)?;
                    *last = Some((index, bytes));
                }
                let bytes = last.as_ref().and_then(|(_, bytes)| bytes.get(to_usize(within)..));
                if let Some(bytes) = bytes.and_then(|bytes| bytes.get(..length)) {
                    part.copy_from_slice(bytes);
                }
            }
            at = at.saturating_add(to_u64(length));
            rest = behind;
        }
        Ok(())
    }
}

/// Decodes a deflate stream that takes up these `bytes` of the file, for this range of the disk.
/// The caller has bounded their number.
pub(super) fn inflate(
    storage: &dyn Storage,
    bytes: Range<u64>,
    wrapper: Wrapper,
    unit: &mut [u8],
    guest: Range<u64>,
) -> Result<()> {
    decode(storage, bytes, unit, guest, |input, output| inflate_exact(input, output, wrapper))
}

/// The same for any codec.
pub(super) fn decode(
    storage: &dyn Storage,
    bytes: Range<u64>,
    unit: &mut [u8],
    guest: Range<u64>,
    codec: impl FnOnce(&[u8], &mut [u8]) -> std::result::Result<(), CodecError>,
) -> Result<()> {
    thread_local! {
        static INPUT: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
    }
    INPUT.with_borrow_mut(|input| {
        let input = input.get(to_usize(bytes.end.saturating_sub(bytes.start)));
        let read = storage.read_exact_at(input, bytes.start);
        read.map_err(|error| error.affecting(guest.clone()))?;
        let decoded = codec(input, unit).map_err(Error::new);
        decoded.map_err(|error| error.at(bytes.start).affecting(guest))
    })
}
