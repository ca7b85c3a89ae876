//! Containers: archives and compressed files around images. What lies in an archive is read in
//! place, as a [`Storage`] by position; what is compressed is read from its start on, or decoded
//! into a bounded temporary file ([`Spill`]). No name in a container is a path of the system.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::probe::{Probe, probe};
use crate::format::{Class, Format};
use crate::layer::{Description, Value};
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{MemoryStorage, PieceStorage, Storage, WindowStorage, read_vec};
use crate::text::printable;

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

use error::{Fault, list};

/// How many containers may lie in one another: a member of an archive that is compressed, say.
pub const MAX_DEPTH: usize = 3;
/// More disks than this are in no virtual machine.
const MAX_DISKS: usize = 256;
/// In an archive of more files than this none is looked at to find out which of them is a disk.
const MAX_LOOKED_AT: usize = 64;

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

/// What is told of a file inside.
///
/// ```
/// use std::io::Read;
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::container::{Archive, Decoder, MemberKind};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Limits, Storage};
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
/// // what Compute Engine takes: a disk of 1 GiB, of which nothing is stored but a header
/// let mut tar = Vec::new();
/// Decoder::new(Format::Gzip, &packed[..], 1 << 20)?.read_to_end(&mut tar)?;
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
/// let archive = Archive::read(&storage, Path::new("disk.tar"), Format::Tar, &Limits::default())?;
/// let member = archive.find(b"disk.raw")?;
/// assert_eq!((member.kind, member.size, member.stored), (MemberKind::File, 1 << 30, 0));
/// assert_eq!((member.header, member.data), (0, 512));
/// assert!(member.is_sparse() && member.is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The name, as bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// The size of the file, bytes.
    pub size: u64,
    /// Where its first header lies in the archive.
    pub header: u64,
    /// Where its content lies.
    pub data: u64,
    /// How many bytes of it are stored: fewer than its size if it is sparse.
    pub stored: u64,
    /// The runs that are stored, one behind the other: where each lies in the file, and its length.
    map: Option<Vec<(u64, u64)>>,
}

impl Member {
    /// Whether it has holes that take up no room in the archive.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.map.is_some()
    }

    /// The runs that are stored, one behind the other: where each lies in the file, and its length.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        let whole = self.map.is_none().then_some((0, self.size));
        self.map.iter().flatten().copied().chain(whole)
    }

    /// The name without `./` in front.
    pub(crate) fn plain_name(&self) -> &[u8] {
        plain(&self.name)
    }

    /// Whether it is a file that holds something.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == MemberKind::File && self.size > 0
    }
}

/// A name without `./` in front.
pub(crate) fn plain(mut name: &[u8]) -> &[u8] {
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    name
}

/// What a member of an archive is.
///
/// ```
/// use diskimage::container::MemberKind;
///
/// let kinds = [MemberKind::File, MemberKind::Folder, MemberKind::Link, MemberKind::Special];
/// let words = kinds.map(MemberKind::noun);
/// assert_eq!(words, ["a file", "a folder", "a link", "a device or the like"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberKind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A link, of either kind.
    Link,
    /// A device, a FIFO, or the name of the archive.
    Special,
}

impl MemberKind {
    /// In words.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Link => "a link",
            Self::Special => "a device or the like",
        }
    }
}

/// A tar archive, or an OVA.
///
/// ```
/// use diskimage::container::Container;
/// use diskimage::{OpenOptions, VirtualDisk};
///
/// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
/// #     let mut header = [0; 512];
/// #     header[..name.len()].copy_from_slice(name.as_bytes());
/// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
/// #     header[148..156].fill(b' ');
/// #     header[156] = b'0';
/// #     header[257..265].copy_from_slice(b"ustar\x0000");
/// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
/// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
/// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
/// #     [&header[..], content, &padding].concat()
/// # }
/// # let image = {
/// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
/// #     let mut image = Vec::new();
/// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
/// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
/// #     Box::new(target).finish()?;
/// #     image
/// # };
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("backup.tar");
/// # std::fs::write(&path, [member("disk.qcow2", &image), vec![0; 1024]].concat())?;
/// let Some(Container::Archive(archive)) = OpenOptions::new().open_container(&path)? else {
///     panic!("it is one");
/// };
/// for member in archive.disks()? {
///     let name = archive.name_of(member); // backup.tar#disk.qcow2
///     let disk = OpenOptions::new().open(&name)?;
///     assert_eq!((&member.name[..], disk.size()), (&b"disk.qcow2"[..], 1 << 30));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Archive {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    format: Format,
    members: Vec<Member>,
    findings: Vec<Finding>,
    /// The description, where it is an OVA; or why there is none.
    ovf: Option<Result<Ovf>>,
}

impl Archive {
    /// Reads the directory of `storage`; `path` is its name.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::container::Archive;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Format, Limits, Storage};
    ///
    /// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
    /// #     let mut header = [0; 512];
    /// #     header[..name.len()].copy_from_slice(name.as_bytes());
    /// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    /// #     header[148..156].fill(b' ');
    /// #     header[156] = b'0';
    /// #     header[257..265].copy_from_slice(b"ustar\x0000");
    /// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    /// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    /// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    /// #     [&header[..], content, &padding].concat()
    /// # }
    /// let tar = [member("./notes", b"the first"), member("disk.raw", &[7; 700])].concat();
    /// # let tar = [tar, vec![0; 1024]].concat();
    /// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
    /// let archive = Archive::read(&storage, Path::new("a.tar"), Format::Tar, &Limits::default())?;
    /// let places: Vec<_> = archive.members().iter().map(|m| (m.header, m.data, m.size)).collect();
    /// assert_eq!(places, [(0, 512, 9), (1024, 1536, 700)]);
    /// assert_eq!((archive.path(), archive.format()), (Path::new("a.tar"), Format::Tar));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn read(
        storage: &Arc<dyn Storage>,
        path: &Path,
        format: Format,
        limits: &Limits,
    ) -> Result<Self> {
        let directory = tar::read(&**storage, limits).map_err(|error| error.in_file(path))?;
        Self::of(Arc::clone(storage), path, format, directory.members, directory.findings)
    }

    /// An archive that has passed by, of which these `members` were met: the `texts` of some of them
    /// were kept, each with where it lay, and `findings` are what was odd on the way.
    pub(crate) fn of_passed(
        path: &Path,
        format: Format,
        members: Vec<Member>,
        texts: Vec<(u64, Vec<u8>)>,
        findings: Vec<Finding>,
    ) -> Result<Self> {
        let end = |member: &Member| member.data.saturating_add(member.stored);
        let size = members.iter().map(end).max().unwrap_or_default();
        let mut kept = PieceStorage::new(size, path.to_owned());
        for (at, text) in texts {
            let piece = (at, to_u64(text.len()), 0);
            kept = kept.with_pieces(Arc::new(MemoryStorage::new(text)), std::iter::once(piece));
        }
        Self::of(Arc::new(kept), path, format, members, findings)
    }

    fn of(
        storage: Arc<dyn Storage>,
        path: &Path,
        format: Format,
        members: Vec<Member>,
        findings: Vec<Finding>,
    ) -> Result<Self> {
        let path = path.to_owned();
        let mut archive = Self { storage, path, format, members, findings, ovf: None };
        archive.find_duplicates();
        if format == Format::Ova {
            archive.ovf = Some(archive.read_ovf());
            if let Some(Err(error)) = &archive.ovf
                && error.is_no_damage()
            {
                return Err(archive
                    .ovf
                    .take()
                    .and_then(Result::err)
                    .unwrap_or_else(|| Fault::NoArchive.into()));
            }
        }
        Ok(archive)
    }

    fn find_duplicates(&mut self) {
        let mut names: Vec<_> = self.members.iter().map(|m| (m.plain_name(), m.header)).collect();
        names.sort_unstable();
        let twice = names.windows(2).filter_map(|pair| match pair {
            [(a, _), (b, at)] if a == b => Some((*b, *at)),
            _ => None,
        });
        // one is enough to tell
        let finding = twice.map(|(name, at)| {
            let text = format!("two members are called '{}'", printable(name));
            Finding::new(Code::DuplicateMember, text).at(at)
        });
        self.findings.extend(finding.take(16).collect::<Vec<_>>());
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tar, or OVA.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// All members, in their order.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The description of the virtual machine, where it is an OVA that has one.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::container::Archive;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Code, Format, Limits, Storage};
    ///
    /// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
    /// #     let mut header = [0; 512];
    /// #     header[..name.len()].copy_from_slice(name.as_bytes());
    /// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    /// #     header[148..156].fill(b' ');
    /// #     header[156] = b'0';
    /// #     header[257..265].copy_from_slice(b"ustar\x0000");
    /// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    /// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    /// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    /// #     [&header[..], content, &padding].concat()
    /// # }
    /// let text = r#"<Envelope><References><File id="f" href="web.vmdk"/></References>
    ///     <VirtualSystem id="web"/></Envelope>"#;
    /// let tar = [member("web.ovf", text.as_bytes()), vec![0; 1024]].concat();
    /// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
    /// let archive = Archive::read(&storage, "web.ova".as_ref(), Format::Ova, &Limits::default())?;
    /// let ovf = archive.ovf().expect("a description");
    /// assert_eq!(ovf.system.as_deref(), Some("web"));
    /// let codes: Vec<_> = archive.describe().findings.iter().map(|found| found.code).collect();
    /// assert_eq!(codes, [Code::Ova, Code::MissingMember]); // there is no web.vmdk
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn ovf(&self) -> Option<&Ovf> {
        self.ovf.as_ref()?.as_ref().ok()
    }

    /// The member of this name.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::container::Archive;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::{Format, Limits, Storage};
    /// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
    /// #     let mut header = [0; 512];
    /// #     header[..name.len()].copy_from_slice(name.as_bytes());
    /// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    /// #     header[148..156].fill(b' ');
    /// #     header[156] = b'0';
    /// #     header[257..265].copy_from_slice(b"ustar\x0000");
    /// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    /// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    /// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    /// #     [&header[..], content, &padding].concat()
    /// # }
    /// let tar = [member("./disk", b"one"), member("twice", b"a"), member("twice", b"b")].concat();
    /// # let tar = [tar, vec![0; 1024]].concat();
    /// # let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
    /// # let archive = Archive::read(&storage, "a.tar".as_ref(), Format::Tar, &Limits::default())?;
    /// assert_eq!(archive.find(b"disk")?.size, 3);
    /// // what readers would disagree about is not chosen
    /// let error = archive.find(b"twice").unwrap_err();
    /// assert!(error.to_string().contains("more than one member"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn find(&self, name: &[u8]) -> Result<&Member> {
        let wanted = plain(name);
        let mut found = self.members.iter().filter(|member| member.plain_name() == wanted);
        let here = |error: Error| error.in_file(&self.path);
        match (found.next(), found.next()) {
            (Some(only), None) if only.kind == MemberKind::File => Ok(only),
            (Some(only), None) => {
                let fault = Fault::NoFile { name: printable(name), kind: only.kind.noun() };
                Err(here(Error::new(fault).at(only.header)))
            }
            (Some(_), Some(second)) => {
                Err(here(Error::new(Fault::Duplicate(printable(name))).at(second.header)))
            }
            (None, _) if self.is_chunked(name) => Err(here(Fault::Chunked(printable(name)).into())),
            (None, _) => {
                Err(here(Fault::NoMember { name: printable(name), has: self.names() }.into()))
            }
        }
    }

    /// The names of the files, for messages.
    fn names(&self) -> String {
        list(self.members.iter().filter(|m| m.kind == MemberKind::File).map(|m| &*m.name))
    }

    /// The content of a member of this archive.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::container::Archive;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::{Format, Limits, Storage};
    /// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
    /// #     let mut header = [0; 512];
    /// #     header[..name.len()].copy_from_slice(name.as_bytes());
    /// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    /// #     header[148..156].fill(b' ');
    /// #     header[156] = b'0';
    /// #     header[257..265].copy_from_slice(b"ustar\x0000");
    /// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    /// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    /// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    /// #     [&header[..], content, &padding].concat()
    /// # }
    /// # let tar = [member("notes", b"the first"), vec![0; 1024]].concat();
    /// # let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
    /// # let archive = Archive::read(&storage, "a.tar".as_ref(), Format::Tar, &Limits::default())?;
    /// let content = archive.open(archive.find(b"notes")?)?;
    /// let mut bytes = [0; 5];
    /// content.read_exact_at(&mut bytes, 4)?;
    /// assert_eq!((content.size(), &bytes), (9, b"first"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(&self, member: &Member) -> Result<Arc<dyn Storage>> {
        let whole = Arc::clone(&self.storage);
        let window = WindowStorage::new(whole, member.data, member.stored);
        let window: Arc<dyn Storage> = Arc::new(window.map_err(|error| error.in_file(&self.path))?);
        let content = PieceStorage::new(member.size, self.name_of(member));
        let mut at = 0u64;
        let pieces = member.runs().map(|(start, length)| {
            let piece = (start, length, at);
            at = at.saturating_add(length);
            piece
        });
        Ok(Arc::new(content.with_pieces(window, pieces)))
    }

    /// What a member is called on the command line: `FILE#MEMBER`.
    #[must_use]
    pub fn name_of(&self, member: &Member) -> PathBuf {
        join(&self.path, &member.name)
    }

    /// The members that hold a disk: those that the description names, or else those that are one
    /// by their content, as far as a look at the start of each tells.
    pub fn disks(&self) -> Result<Vec<&Member>> {
        if let Some(named) = self.named_disks()? {
            return Ok(named);
        }
        let mut disks = Vec::new();
        for member in self.files_to_look_at()? {
            let found = probe(&self.open(member)?).map_err(|error| error.in_file(&self.path))?;
            if Self::is_disk(&found) {
                disks.push(member);
            }
        }
        Ok(disks)
    }

    /// The members that the description says hold a disk, if there is one that names any.
    pub(crate) fn named_disks(&self) -> Result<Option<Vec<&Member>>> {
        if let Some(ovf) = self.ovf().filter(|ovf| !ovf.disks.is_empty()) {
            if ovf.disks.len() > MAX_DISKS {
                let fault = Fault::TooMany { what: "disks", limit: MAX_DISKS };
                return Err(Error::new(fault).in_file(&self.path));
            }
            let files = ovf.disks.iter().filter_map(|disk| ovf.file_of(disk));
            // two disks may be one file
            let mut names = Vec::new();
            for file in files {
                if !names.contains(&&*file.href) {
                    names.push(&*file.href);
                }
            }
            return names
                .iter()
                .map(|name| self.find(name.as_bytes()))
                .collect::<Result<_>>()
                .map(Some);
        }
        Ok(None)
    }

    /// The files that may be disks, where no description names them.
    pub(crate) fn files_to_look_at(&self) -> Result<Vec<&Member>> {
        let files: Vec<_> = self.members.iter().filter(|member| member.is_file()).collect();
        if files.len() > MAX_LOOKED_AT {
            return Err(
                Error::new(Fault::Several(format!("{} files", files.len()))).in_file(&self.path)
            );
        }
        Ok(files)
    }

    /// Whether what was found is a disk, or a container in which one may be.
    pub(crate) fn is_disk(found: &Probe) -> bool {
        found.images().next().is_some()
            || found.is_raw_disk()
            || Container::format_of(found).is_some()
    }

    /// The one member that holds a disk. An error that lists them where there are several.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::container::Archive;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::{Format, Limits, Storage};
    /// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
    /// #     let mut header = [0; 512];
    /// #     header[..name.len()].copy_from_slice(name.as_bytes());
    /// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    /// #     header[148..156].fill(b' ');
    /// #     header[156] = b'0';
    /// #     header[257..265].copy_from_slice(b"ustar\x0000");
    /// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    /// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    /// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    /// #     [&header[..], content, &padding].concat()
    /// # }
    /// let tar = [member("notes", b"text"), member("disk.qcow2", b"QFI\xfb\0\0\0\x03")].concat();
    /// # let tar = [tar, vec![0; 1024]].concat();
    /// # let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
    /// # let archive = Archive::read(&storage, "a.tar".as_ref(), Format::Tar, &Limits::default())?;
    /// let disk = archive.only_disk()?;
    /// assert_eq!(archive.name_of(disk), Path::new("a.tar#disk.qcow2"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn only_disk(&self) -> Result<&Member> {
        let disks = self.disks()?;
        let here = |fault: Fault| Error::new(fault).in_file(&self.path);
        match disks.as_slice() {
            [only] => Ok(only),
            [] => Err(self.no_disk()),
            _ => {
                let names = list(disks.iter().map(|member| &*member.name));
                Err(here(Fault::Several(format!("several disks ({names})"))))
            }
        }
    }

    /// That there is no disk in it, with what there is.
    pub(crate) fn no_disk(&self) -> Error {
        Error::new(Fault::NoDisk(self.names())).in_file(&self.path)
    }

    /// What the archive says of itself, as far as headers and a description tell.
    #[must_use]
    pub fn describe(&self) -> Description {
        let mut description =
            Description { findings: self.findings.clone(), ..Description::default() };
        if self.format == Format::Ova {
            self.describe_ova(&mut description);
        }
        description
    }
}

/// `FILE#MEMBER`.
fn join(path: &Path, member: &[u8]) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("#");
    name.push(os_string(member));
    name.into()
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
