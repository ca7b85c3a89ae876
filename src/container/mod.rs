//! Containers: archives and compressed files around images. What lies in an archive is read in
//! place, as a [`Storage`] by position; what is compressed is read from its start on, or decoded
//! into a bounded temporary file ([`Spill`]). No name in a container is a path of the system.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::probe::Probe;
use crate::format::{Class, Format};
use crate::layer::{Description, Value};
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

mod archive;
mod blocks;
mod check;
mod compressed;
mod decoder;
mod enter;
mod error;
mod forward;
mod gce;
mod listing;
mod manifest;
mod ova;
mod ovf;
mod pack;
#[cfg(feature = "checksum")]
mod package;
mod spill;
mod tar;
mod vma;

pub(crate) use archive::plain;
pub use archive::{Archive, Member, MemberKind};
pub use compressed::Compressed;
pub use decoder::{Decoder, StorageReader};
pub(crate) use enter::{Found, Place, Way};
pub(crate) use forward::Forward;
pub use gce::{GceOptions, GceWriter};
pub use listing::Listing;
pub(crate) use ova::is_text;
pub use ovf::{Ovf, OvfDisk, OvfFile};
#[cfg(feature = "checksum")]
pub use package::{OvaOptions, OvaTarget};
pub use spill::Spill;
pub(crate) use tar::{MEMBER, Reader as TarReader};
pub use vma::Vma;

use error::Fault;

/// How many containers may lie in one another: a member of an archive that is compressed, say.
pub const MAX_DEPTH: usize = 3;
/// More disks than this are in no virtual machine.
const MAX_DISKS: usize = 256;

/// A container, its directory read.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::container::Container;
/// use diskimage::format::probe::probe;
/// use diskimage::layer::Value;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Limits, Storage};
///
/// # let image = {
/// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
/// #     let mut image = Vec::new();
/// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
/// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
/// #     Box::new(target).finish()?;
/// #     image
/// # };
/// # let packed = {
/// #     use std::io::Write;
/// #     let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
/// #     gzip.write_all(&image)?;
/// #     gzip.finish()?
/// # };
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(packed)); // disk.qcow2.gz
/// let (path, found) = (Path::new("disk.qcow2.gz"), probe(&storage)?);
/// let container = Container::open(&storage, path, &found, &Limits::default())?;
/// let container = container.expect("a file that gzip made");
/// assert_eq!(container.format(), Format::Gzip);
/// assert_eq!(container.storage().size(), storage.size());
/// let inside = Value::List(vec!["qcow2".into()]);
/// assert_eq!(container.describe()?.details, [("inside", inside)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Container {
    /// A tar archive, or an OVA.
    Archive(Archive),
    /// A compressed file.
    Compressed(Compressed),
    /// A Proxmox archive, of which only the header is read.
    Vma(Vma),
}

impl Container {
    /// The container that `storage` is, if it is one that can be looked into; `path` is its name.
    pub fn open(
        storage: &Arc<dyn Storage>,
        path: &Path,
        probe: &Probe,
        limits: &Limits,
    ) -> Result<Option<Self>> {
        match Self::format_of(probe) {
            Some(format) => Self::open_as(format, storage, path, limits),
            None => Ok(None),
        }
    }

    /// The format of the container that a file is by its bytes, unless it could be anything else.
    ///
    /// ```
    /// use diskimage::Format;
    /// use diskimage::container::Container;
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// let gzip = probe_bytes(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], None);
    /// assert_eq!(Container::format_of(&gzip), Some(Format::Gzip));
    /// let qcow2 = probe_bytes(b"QFI\xfb\0\0\0\x03", None);
    /// assert_eq!(Container::format_of(&qcow2), None);
    /// ```
    #[must_use]
    pub fn format_of(probe: &Probe) -> Option<Format> {
        let mut images = probe.images();
        match (images.next(), images.next()) {
            (None, _) if !probe.is_disguised() => {
                let mut wrappers =
                    probe.matches.iter().filter(|m| m.format.class() == Class::Wrapper);
                let format = wrappers.next()?.format;
                (wrappers.next().is_none() && Self::is_one(format)).then_some(format)
            }
            (Some(only), None) if only.format == Format::Vma => Some(Format::Vma),
            _ => None,
        }
    }

    /// Whether files of this format are containers that are looked into.
    ///
    /// ```
    /// use diskimage::Format;
    /// use diskimage::container::Container;
    ///
    /// assert!([Format::Tar, Format::Ova, Format::Gzip].into_iter().all(Container::is_one));
    /// assert!(!Container::is_one(Format::Vma)); // only its header is read
    /// ```
    #[must_use]
    pub fn is_one(format: Format) -> bool {
        matches!(format, Format::Tar | Format::Ova) || Compressed::is_one(format)
    }

    /// The same for a format that is known.
    pub fn open_as(
        format: Format,
        storage: &Arc<dyn Storage>,
        path: &Path,
        limits: &Limits,
    ) -> Result<Option<Self>> {
        let opened = match format {
            Format::Tar | Format::Ova => {
                Archive::read(storage, path, format, limits).map(Self::Archive)
            }
            Format::Vma => Vma::read(storage, path, limits).map(Self::Vma),
            _ if Compressed::is_one(format) => {
                let memory = limits.max_decoder_memory;
                let storage = Arc::clone(storage);
                Ok(Self::Compressed(Compressed::new(storage, path, format, memory)))
            }
            _ => return Ok(None),
        };
        opened.map(Some).map_err(|error| error.in_file(path))
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::Archive(archive) => archive.format,
            Self::Compressed(compressed) => compressed.format(),
            Self::Vma(_) => Format::Vma,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        match self {
            Self::Archive(archive) => &*archive.storage,
            Self::Compressed(compressed) => &**compressed.storage(),
            Self::Vma(vma) => vma.storage(),
        }
    }

    /// What it says of itself and of what lies in it. Little is read: headers, the description of a
    /// virtual machine, the start of what is compressed.
    pub fn describe(&self) -> Result<Description> {
        match self {
            Self::Archive(archive) => Ok(archive.describe()),
            Self::Vma(vma) => Ok(vma.describe()),
            Self::Compressed(compressed) => {
                let inside = compressed.peek();
                // the start may be damaged, or beyond what is built in
                let mut description = Description::default();
                match inside {
                    Ok(inside) => {
                        let names = inside.matches.iter().map(|m| m.format.name());
                        let names: Vec<_> =
                            names.map(|name| Value::Text(name.to_owned())).collect();
                        description.details.push(("inside", Value::List(names)));
                        description.findings.extend(inside.findings());
                    }
                    Err(error) if error.is_no_damage() => return Err(error),
                    Err(error) => {
                        let text = format!("what is inside cannot be told: {error}");
                        description.findings.push(Finding::new(Code::Unreadable, text));
                    }
                }
                Ok(description)
            }
        }
    }
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> std::ffi::OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// A file, and what is named inside of it. A file whose own name contains `#` is that file if it
/// exists; else the longest name before a `#` counts that is a file.
///
/// ```
/// use diskimage::container::split_name;
///
/// # let folder = tempfile::tempdir()?;
/// # let [archive, named] = ["web.ova", "web.ova#disk.vmdk"].map(|name| folder.path().join(name));
/// std::fs::write(&archive, "an archive")?;
/// assert_eq!(split_name(&archive), (archive.clone(), None));
/// assert_eq!(split_name(&named), (archive, Some(b"disk.vmdk".to_vec())));
/// std::fs::write(&named, "a file of that very name")?;
/// assert_eq!(split_name(&named), (named, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn split_name(path: &Path) -> (PathBuf, Option<Vec<u8>>) {
    let exists = |path: &Path| path.symlink_metadata().is_ok();
    let bytes = path.as_os_str().as_encoded_bytes();
    if exists(path) {
        return (path.to_owned(), None);
    }
    let hashes = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'#');
    for (at, _) in hashes {
        let (file, member) = bytes.split_at(at);
        let file = PathBuf::from(os_string(file));
        if !file.as_os_str().is_empty() && exists(&file) {
            return (file, Some(member.get(1..).unwrap_or_default().to_vec()));
        }
    }
    (path.to_owned(), None)
}

/// A short text in the archive, held whole.
fn small(storage: &dyn Storage, what: &'static str, limit: u64) -> Result<Vec<u8>> {
    let size = storage.size();
    if size > limit {
        return Err(Fault::TooLarge { what, size, limit }.into());
    }
    read_vec(storage, what, 0, to_usize(size))
}

/// A number for a description.
fn count(number: usize) -> Value {
    Value::Number(to_u64(number))
}
