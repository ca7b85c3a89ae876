//! LUKS containers: described, never read. What a container holds takes a key, and its bytes are
//! never given out as those of a disk; as a file they can still be copied, in the format `raw`.
//! Sources: "LUKS1 On-Disk Format Specification" 1.2.3, "LUKS2 On-Disk Format Specification" 1.1.4.
//!
//! | | |
//! |---|---|
//! | described | versions 1 and 2: cipher, hash, key slots, payload; of version 2, with the feature `luks`, the JSON area with segments and the checksum of the header |
//! | refused | the data, as encrypted |
//! | checked | nothing |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{Code, ErrorKind, OpenOptions};
//!
//! # let mut container = vec![0; 8192];
//! # let mut put = |at: usize, field: &[u8]| container[at..][..field.len()].copy_from_slice(field);
//! # put(0, b"LUKS\xba\xbe\0\x01");
//! # put(8, b"aes");
//! # put(40, b"xts-plain64");
//! # put(104, &[8u32, 64].map(u32::to_be_bytes).concat());
//! let storage = Arc::new(MemoryStorage::new(container));
//! let image = OpenOptions::new().open_image_storage(storage.clone(), Path::new("secret"))?;
//! assert!(image.findings()?.iter().any(|finding| finding.code == Code::Luks));
//! let error = OpenOptions::new().open_storage(storage, Path::new("secret")).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Unsupported);
//! # Ok::<(), diskimage::Error>(())
//! ```

mod v1;
mod v2;

use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use crate::check::Checking;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::Format;
use crate::format::fault::{Fault, nothing_to_check};
use crate::layer::{Description, Layer, Mapping, Value};
use crate::storage::{Storage, read_vec};
use crate::text::printable;

pub use v1::{KeySlot, Luks1};
pub use v2::Luks2;

/// The magic.
pub const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";

/// A container as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::luks::{Header, LuksLayer};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut container = vec![0; 8192];
/// # let mut put = |at: usize, field: &[u8]| container[at..][..field.len()].copy_from_slice(field);
/// # put(0, b"LUKS\xba\xbe\0\x01");
/// # put(8, b"aes");
/// # put(40, b"xts-plain64");
/// # put(104, &[8u32, 64].map(u32::to_be_bytes).concat());
/// // `container` was made by hand
/// let layer = LuksLayer::open(Arc::new(MemoryStorage::new(container)))?;
/// assert!(matches!(layer.header(), Header::One(_)));
/// assert_eq!(layer.size(), 8192 - 8 * 512); // behind the header
/// assert!(layer.describe()?.encrypted);
/// assert!(layer.check_readable().is_err());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct LuksLayer {
    header: Header,
    size: u64,
}

/// The header of either version.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::luks::{Header, LuksLayer, MAGIC};
/// use diskimage::storage::MemoryStorage;
///
/// let mut container = vec![0; 4096];
/// container[..6].copy_from_slice(MAGIC);
/// container[6..8].copy_from_slice(&1u16.to_be_bytes());
/// let layer = LuksLayer::open(Arc::new(MemoryStorage::new(container)))?;
/// match layer.header() {
///     Header::One(header) => println!("{} slots", header.slots.len()),
///     Header::Two(header) => println!("label '{}'", header.label),
///     _ => println!("of a version to come"),
/// }
/// # let Header::One(header) = layer.header() else { panic!() };
/// # assert_eq!(header.slots.len(), 8);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Header {
    /// Version 1.
    One(Luks1),
    /// Version 2.
    Two(Box<Luks2>),
}

impl LuksLayer {
    /// Opens `storage` as a LUKS container.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::luks::LuksLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let open = |bytes: &[u8]| LuksLayer::open(Arc::new(MemoryStorage::new(bytes.to_vec())));
    /// let error = open(b"LUKS\xba\xbe\0\x03").unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(6))); // version 3
    /// assert_eq!(open(b"anything else").unwrap_err().kind(), ErrorKind::InvalidInput);
    /// ```
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let bytes = read_vec(&storage, "the header", 0, 8)?;
        if !bytes.starts_with(MAGIC) {
            return Err(Error::new(Fault::NotThis("LUKS")).at(0));
        }
        let version = bytes.get(6..8).map(BigEndian::read_u16).unwrap_or_default();
        let (header, payload) = match version {
            1 => {
                let header = Luks1::read(&storage)?;
                let payload = header.payload(storage.size());
                (Header::One(header), payload)
            }
            2 => {
                let header = Luks2::read(&storage)?;
                let payload = header.payload(storage.size());
                (Header::Two(Box::new(header)), payload)
            }
            other => {
                let text = format!("is a LUKS container of version {other}; 1 and 2 are known");
                return Err(Error::new(Fault::Unsupported(text)).at(6));
            }
        };
        Ok(Self { header, size: payload })
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::luks::{Header, LuksLayer};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut container = vec![0; 4096];
    /// # container[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    /// # container[8..11].copy_from_slice(b"aes");
    /// // `container` was made by hand
    /// let layer = LuksLayer::open(Arc::new(MemoryStorage::new(container)))?;
    /// if let Header::One(header) = layer.header() {
    ///     let used = header.slots.iter().filter(|slot| slot.is_active()).count();
    ///     assert_eq!((&*header.cipher_name, used), ("aes", 0)); // no key opens it any more
    /// }
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn refused(&self) -> Error {
        Error::new(Fault::Encrypted("LUKS")).at(0)
    }
}

/// Text of a fixed length that NUL bytes fill up.
fn text(bytes: &[u8]) -> String {
    printable(bytes.split(|&byte| byte == 0).next().unwrap_or_default())
}

/// The names that qemu-img has for a cipher, taken apart: `xts-plain64` and 64 bytes of key, say.
fn cipher(name: &str, mode: &str, key_bytes: u64) -> Vec<(&'static str, Value)> {
    let (mode, vector) = mode.split_once('-').unwrap_or((mode, ""));
    let (vector, hash) = vector.split_once(':').map_or((vector, None), |(v, h)| (v, Some(h)));
    // XTS takes two keys
    let bits =
        if mode == "xts" { key_bytes.saturating_mul(4) } else { key_bytes.saturating_mul(8) };
    let mut values =
        vec![("cipher-alg", format!("{name}-{bits}").into()), ("cipher-mode", mode.into())];
    if !vector.is_empty() {
        values.push(("ivgen-alg", vector.into()));
    }
    values.extend(hash.map(|hash| ("ivgen-hash-alg", hash.into())));
    values
}

impl Layer for LuksLayer {
    fn format(&self) -> Format {
        Format::Luks
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> Option<u64> {
        None
    }

    fn check_readable(&self) -> Result<()> {
        Err(self.refused())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        Err(self.refused().affecting(offset..offset.saturating_add(max)))
    }

    fn describe(&self) -> Result<Description> {
        let (version, details, mut findings) = match &self.header {
            Header::One(header) => (1, header.describe(), header.findings(self.size)),
            Header::Two(header) => (2, header.describe(), header.findings(self.size)),
        };
        let text = format!("is a LUKS container of version {version}");
        findings.insert(0, Finding::new(Code::Luks, text).at(0));
        findings.insert(0, Finding::new(Code::Encrypted, "the guest's data are encrypted").at(0));
        Ok(Description { encrypted: true, details, findings, ..Description::default() })
    }

    fn check(&self, _checking: &Checking) -> Result<()> {
        Err(nothing_to_check(Format::Luks))
    }
}
