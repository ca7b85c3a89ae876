//! What lies in a compressed archive: read while it is decoded, from its start to its end, so that
//! nothing of it is kept.

use super::compressed::Compressed;
use super::{Forward, Limits, Member, TarReader};
use crate::error::{Error, Result};

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

/// Where `magic` and `version` end in a header; they have eight bytes.
const MAGIC_END: usize = 265;

impl Compressed {
    /// The members of the tar archive inside. All of it is decoded, so that what is damaged anywhere
    /// is an error.
    pub fn list(&self, limits: &Limits) -> Result<Listing> {
        self.pass(limits).map_err(|error: Error| error.in_file(self.path()))
    }

    fn pass(&self, limits: &Limits) -> Result<Listing> {
        let mut decoder = self.reader()?;
        let mut forward = Forward::new(|buf| decoder.decode(buf));
        let magic = forward.peek(MAGIC_END)?.get(MAGIC_END.saturating_sub(8)..);
        let magic = magic.unwrap_or_default().to_vec();
        let mut members = Vec::new();
        let mut reader = TarReader::new(&mut forward, limits);
        while let Some(member) = reader.next()? {
            members.push(member);
        }
        forward.drain()?;
        Ok(Listing { members, magic })
    }
}
