//! What lies in a compressed archive: read while it is decoded, from its start to its end, so that
//! nothing of it is kept.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::compressed::Compressed;
use super::decoder::{Decoder, StorageReader};
use super::{Limits, Member, tar};
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_u64;
use crate::storage::Storage;

/// The directory of a compressed tar archive.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listing {
    /// All members, in their order.
    pub members: Vec<Member>,
    /// `magic` and `version` of the first header: `ustar`, two blanks and a NUL are GNU's old format,
    /// `ustar`, a NUL and `00` those of POSIX.
    pub magic: Vec<u8>,
}

impl Compressed {
    /// The members of the tar archive inside. All of it is decoded, so that what is damaged anywhere
    /// is an error.
    pub fn list(&self, limits: &Limits) -> Result<Listing> {
        let here = |error: Error| error.in_file(self.path());
        let state = State { decoder: self.reader()?, at: 0, first: Vec::new() };
        let passing = Arc::new(Passing(Mutex::new(state)));
        let storage: Arc<dyn Storage> = Arc::<Passing>::clone(&passing);
        let directory = tar::read(&storage, limits).map_err(here)?;
        drop(storage);
        let mut state = passing.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.skip_to(u64::MAX).map_err(here)?;
        let magic = state.first.get(257..265).unwrap_or_default().to_vec();
        Ok(Listing { members: directory.members, magic })
    }
}

/// A storage that is read in ascending order only, and whose end nobody knows.
struct Passing(Mutex<State>);

struct State {
    decoder: Decoder<StorageReader>,
    /// Where it stands.
    at: u64,
    /// The first block that was read.
    first: Vec<u8>,
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing").finish_non_exhaustive()
    }
}

impl State {
    /// Decodes up to `offset`, or to the end.
    fn skip_to(&mut self, offset: u64) -> Result<()> {
        let mut scratch = vec![0; 64 << 10];
        while self.at < offset {
            let left = crate::num::to_usize(offset.saturating_sub(self.at)).min(scratch.len());
            let length = self.decoder.decode(scratch.get_mut(..left).unwrap_or_default())?;
            if length == 0 {
                break;
            }
            self.at = self.at.saturating_add(to_u64(length));
        }
        Ok(())
    }
}

impl Storage for Passing {
    fn size(&self) -> u64 {
        u64::MAX
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < state.at {
            let message = "what was decoded is not kept, and cannot be read again";
            return Err(Error::other(ErrorKind::Unsupported, message).at(offset));
        }
        state.skip_to(offset)?;
        let filled = state.decoder.fill(buf)?;
        state.at = state.at.saturating_add(to_u64(filled));
        if filled < buf.len() {
            return Err(Error::other(ErrorKind::Corrupt, "the archive is cut off").at(offset));
        }
        if state.first.is_empty() {
            state.first = buf.to_vec();
        }
        Ok(())
    }
}
