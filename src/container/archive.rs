//! An archive: its directory, and its members as storages of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::Format;
use crate::format::probe::{Probe, probe};
use crate::layer::Description;
use crate::limits::Limits;
use crate::num::to_u64;
use crate::storage::{MemoryStorage, PieceStorage, Storage, WindowStorage};
use crate::text::printable;

use super::error::{Fault, list};
use super::{Container, MAX_DISKS, Ovf, os_string, tar};

/// In an archive of more files than this none is looked at to find out which of them is a disk.
const MAX_LOOKED_AT: usize = 64;

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
    pub(super) map: Option<Vec<(u64, u64)>>,
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
    pub(super) storage: Arc<dyn Storage>,
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) members: Vec<Member>,
    pub(super) findings: Vec<Finding>,
    /// The description, where it is an OVA; or why there is none.
    pub(super) ovf: Option<Result<Ovf>>,
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
