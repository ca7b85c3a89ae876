//! What lies in a compressed archive: read while it is decoded, from its start to its end, so that
//! nothing of it is kept.

use super::compressed::Compressed;
use super::{Forward, Limits, Member, TarReader};
use crate::error::{Error, Result};

/// The directory of a compressed tar archive.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::container::Compressed;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Limits};
///
/// # let packed = {
/// #     use diskimage::{Convert, Target, container::GceOptions, disk::EmptyDisk};
/// #     let mut packed = Vec::new();
/// #     let target = diskimage::target::StreamTarget::new(&mut packed);
/// #     let writer = Box::new(GceOptions::new().writer(1 << 30)?);
/// #     Convert::new().image(&EmptyDisk(1 << 30), writer, None, &target)?;
/// #     Box::new(target).finish()?;
/// #     packed
/// # };
/// let storage = Arc::new(MemoryStorage::new(packed)); // as Compute Engine takes it
/// let compressed = Compressed::new(storage, Path::new("disk.tar.gz"), Format::Gzip, 1 << 20);
/// let listing = compressed.list(&Limits::default())?;
/// assert_eq!(listing.magic, b"ustar  \0"); // GNU's old format
/// let [disk] = &listing.members[..] else { panic!("one file is in it") };
/// assert_eq!((&disk.name[..], disk.size), (&b"disk.raw"[..], 1 << 30));
/// # Ok::<(), diskimage::Error>(())
/// ```
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
