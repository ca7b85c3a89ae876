//! Resolver: the only way an image makes another file be opened.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Debug;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Detail, Error, ErrorKind, Result};
use crate::layer::{Reference, Role};
use crate::storage::{FileStorage, Storage};
use crate::sys;
use crate::text::printable;

/// Decides whether, and as which file, a name inside an image is opened.
///
/// A name is bytes that a stranger wrote. There are no pseudo-protocols: `json:…`, `nbd://…` and
/// the like are plain (and hardly ever existing) file names.
///
/// One that looks images up in a table of its own:
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::layer::{Reference, Role};
/// use diskimage::resolve::Resolved;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Error, ErrorKind, Resolver, Result};
///
/// #[derive(Debug)]
/// struct Table;
///
/// impl Resolver for Table {
///     fn resolve(&self, from: &Path, reference: &Reference) -> Result<Resolved> {
///         if reference.names.iter().any(|name| name == b"base.qcow2") {
///             let storage = Arc::new(MemoryStorage::new(Vec::new()));
///             return Ok(Resolved { storage, path: "table/base.qcow2".into() });
///         }
///         let text = format!("has no '{}' in its table", reference.printable_name());
///         Err(Error::other(ErrorKind::Denied, text).in_file(from))
///     }
/// }
///
/// // what opening an image with `OpenOptions::new().resolver(Table)` asks it
/// let names = vec![b"base.qcow2".to_vec()];
/// let mut backing = Reference { role: Role::Parent, names, format: None, offset: 8 };
/// let resolved = Table.resolve(Path::new("new.qcow2"), &backing)?;
/// assert_eq!(resolved.path, Path::new("table/base.qcow2"));
/// backing.names = vec![b"/etc/shadow".to_vec()];
/// let error = Table.resolve(Path::new("new.qcow2"), &backing).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Denied);
/// # Ok::<(), Error>(())
/// ```
pub trait Resolver: Send + Sync + Debug {
    /// Opens the file that `reference` in the image `from` means, or says why not.
    fn resolve(&self, from: &Path, reference: &Reference) -> Result<Resolved>;

    /// The same for an image that is a member of an archive. What it names are other members of the
    /// same archive, and no file outside: the default allows none.
    fn resolve_within(
        &self,
        from: &Path,
        reference: &Reference,
        siblings: &dyn Siblings,
    ) -> Result<Resolved> {
        let _ = siblings;
        Err(reference.denied().in_file(from))
    }
}

/// The other members of the archive in which an image lies.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::layer::{Reference, Role};
/// use diskimage::resolve::{Resolved, Siblings};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Beneath, DenyAll, Resolver, Result};
///
/// /// An archive of `child.qcow2` and `base.qcow2`.
/// struct Members;
///
/// impl Siblings for Members {
///     fn find(&self, name: &[u8]) -> Option<Result<Resolved>> {
///         let storage = Arc::new(MemoryStorage::new(Vec::new()));
///         let path = "images.tar#base.qcow2".into();
///         (name == b"base.qcow2").then_some(Ok(Resolved { storage, path }))
///     }
/// }
///
/// let child = Path::new("images.tar#child.qcow2");
/// let names = vec![b"base.qcow2".to_vec()];
/// let backing = Reference { role: Role::Parent, names, format: None, offset: 8 };
/// let found = Beneath::new(".")?.resolve_within(child, &backing, &Members)?;
/// assert_eq!(found.path, Path::new("images.tar#base.qcow2"));
/// assert!(DenyAll.resolve_within(child, &backing, &Members).is_err());
/// # Ok::<(), diskimage::Error>(())
/// ```
pub trait Siblings {
    /// The member that the image means by `name`: one of its own folder or below. `None` if there is
    /// none of that name.
    fn find(&self, name: &[u8]) -> Option<Result<Resolved>>;
}

/// A file that a [`Resolver`] opened.
///
/// ```
/// use std::path::Path;
///
/// use diskimage::layer::{Reference, Role};
/// use diskimage::{Beneath, Resolver, Storage};
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::write(folder.join("base.raw"), "bytes")?;
/// let names = vec![b"base.raw".to_vec()];
/// let backing = Reference { role: Role::Parent, names, format: None, offset: 8 };
/// let resolved = Beneath::new(folder)?.resolve(&folder.join("child.qcow2"), &backing)?;
/// assert_eq!(resolved.path, folder.join("base.raw"));
/// assert_eq!(resolved.storage.size(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Its bytes.
    pub storage: Arc<dyn Storage>,
    /// Its name: for messages, and what relative names inside of it start from.
    pub path: PathBuf,
}

/// Why a reference is not followed.
#[derive(Debug, thiserror::Error)]
enum ResolveDetail {
    #[error("needs the {} '{name}', and other files are not opened unless allowed", role.noun())]
    Denied { role: Role, name: String },
    #[error("needs the {} '{name}', which lies outside of the allowed folder '{folder}'", role.noun())]
    Outside { role: Role, name: String, folder: String },
    #[error("needs the {} '{name}', which is not among the listed files", role.noun())]
    NotListed { role: Role, name: String },
    #[error("needs the {} '{name}', which is no member of the same archive", role.noun())]
    NoMember { role: Role, name: String },
    #[error("needs the {} '{name}', which cannot be opened: {source}", role.noun())]
    Open { role: Role, name: String, source: std::io::Error },
}

impl Detail for ResolveDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { source, .. } if source.kind() != std::io::ErrorKind::PermissionDenied => {
                ErrorKind::Io
            }
            _ => ErrorKind::Denied,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Denied { name, .. } if is_uuid(name) => {
                "if you trust the image, say which file that is with --resolve UUID=FILE".into()
            }
            Self::Denied { .. } => {
                "if you trust the image, allow files of its own folder with --allow-external".into()
            }
            Self::Outside { .. } => {
                "if you trust the image, allow the folder with --allow-external=DIR".into()
            }
            Self::NotListed { .. } => "add it to the list".into(),
            Self::NoMember { .. } => {
                "unpack the archive, and put the file there; no file outside of it is opened".into()
            }
            Self::Open { name, .. } if is_uuid(name) => {
                "say which file that is with --resolve UUID=FILE".into()
            }
            Self::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "put the file there".into()
            }
            Self::Open { .. } => "put a regular file there that can be read".into(),
        })
    }
}

/// Whether a name is the text of a UUID, as that of a parent that is known by nothing else.
fn is_uuid(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

impl Reference {
    /// The error of a reference that nobody resolved.
    pub(crate) fn denied(&self) -> Error {
        Error::new(ResolveDetail::Denied { role: self.role, name: self.printable_name() })
            .at(self.offset)
    }

    fn failed(&self, name: &[u8], source: std::io::Error) -> Error {
        let error = match source.raw_os_error() {
            // EXDEV is how openat2 says that the name leaves the folder, ELOOP that it is a link
            #[cfg(unix)]
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it is a symbolic link")
            }
            _ => source,
        };
        Error::new(ResolveDetail::Open { role: self.role, name: printable(name), source: error })
            .at(self.offset)
    }
}

/// Opens nothing: the default.
///
/// ```
/// use std::path::Path;
///
/// use diskimage::layer::{Reference, Role};
/// use diskimage::{DenyAll, ErrorKind, Resolver};
///
/// let names = vec![b"/etc/passwd".to_vec()];
/// let backing = Reference { role: Role::Parent, names, format: None, offset: 0x2000 };
/// let error = DenyAll.resolve(Path::new("upload.qcow2"), &backing).unwrap_err();
/// assert_eq!((error.kind(), error.offset()), (ErrorKind::Denied, Some(0x2000)));
/// assert!(error.to_string().contains("the backing file '/etc/passwd'"));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

impl Resolver for DenyAll {
    fn resolve(&self, from: &Path, reference: &Reference) -> Result<Resolved> {
        Err(reference.denied().in_file(from))
    }
}

/// Opens regular files below one folder: never through a symbolic link, never a FIFO, device or
/// socket. Relative names start from the folder of the image that names them, and absolute ones
/// count if they lead into the folder.
///
/// ```
/// use diskimage::{Beneath, OpenOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let options = OpenOptions::new().resolver(Beneath::new(folder)?);
/// assert!(Beneath::new(folder.join("missing")).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Beneath {
    folder: PathBuf,
    canonical: PathBuf,
}

impl Beneath {
    /// Allows `folder`, which must exist.
    ///
    /// ```
    /// use diskimage::layer::{Reference, Role};
    /// use diskimage::{Beneath, ErrorKind, Resolver};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path().join("images");
    /// # std::fs::create_dir(&folder)?;
    /// let beneath = Beneath::new(&folder)?;
    /// let asks_for = |name: &str| {
    ///     let names = vec![name.as_bytes().to_vec()];
    ///     let reference = Reference { role: Role::Parent, names, format: None, offset: 8 };
    ///     beneath.resolve(&folder.join("new.qcow2"), &reference)
    /// };
    /// for name in ["../secret.raw", "/etc/passwd"] {
    ///     assert_eq!(asks_for(name).unwrap_err().kind(), ErrorKind::Denied);
    /// }
    /// assert_eq!(asks_for("base.raw").unwrap_err().kind(), ErrorKind::Io); // allowed, and not there
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self> {
        let mut folder = folder.into();
        if folder.as_os_str().is_empty() {
            folder.push(".");
        }
        match folder.canonicalize() {
            Ok(canonical) => Ok(Self { folder, canonical }),
            Err(source) => Err(Error::io("find the allowed folder", source).in_file(&folder)),
        }
    }

    /// `name` as a path below the folder without any `..`; `None` if it leads out of it.
    /// Resolving by text is exact here because links are not followed.
    fn inside(&self, from: &Path, name: &Path) -> Option<PathBuf> {
        let absolute = if name.is_absolute() {
            name.to_owned()
        } else {
            let parent = from.parent().filter(|p| !p.as_os_str().is_empty());
            parent.unwrap_or(Path::new(".")).canonicalize().ok()?.join(name)
        };
        let mut clean = PathBuf::new();
        for component in absolute.components() {
            match component {
                Component::CurDir => {}
                Component::ParentDir => {
                    clean.pop();
                }
                other => clean.push(other),
            }
        }
        let inside =
            clean.strip_prefix(&self.canonical).or_else(|_| clean.strip_prefix(&self.folder));
        inside.ok().filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned)
    }

    /// The name of a file inside the folder: as the image `from` was named, so that people find it
    /// again, unless a step up makes that unclear.
    fn shown(&self, from: &Path, name: &[u8], inside: PathBuf) -> PathBuf {
        let plain = |path: &PathBuf| path.components().all(|c| c != Component::ParentDir);
        match path_of(name).filter(plain) {
            Some(name) => from.parent().unwrap_or(Path::new("")).join(name),
            None => self.canonical.join(inside),
        }
    }
}

impl Resolver for Beneath {
    fn resolve(&self, from: &Path, reference: &Reference) -> Result<Resolved> {
        let mut first_error = None;
        for name in &reference.names {
            let attempt = match path_of(name).and_then(|path| self.inside(from, &path)) {
                None => Err(Error::new(ResolveDetail::Outside {
                    role: reference.role,
                    name: printable(name),
                    folder: printable(self.folder.as_os_str().as_encoded_bytes()),
                })
                .at(reference.offset)),
                Some(path) => sys::open_beneath(&self.canonical, &path)
                    .map_err(|source| reference.failed(name, source))
                    .and_then(|file| opened(file, self.shown(from, name, path))),
            };
            match attempt {
                Ok(resolved) => return Ok(resolved),
                Err(error) => first_error.get_or_insert(error),
            };
        }
        Err(first_error.unwrap_or_else(|| reference.denied()).in_file(from))
    }

    /// The folder does not matter: the archive was named.
    fn resolve_within(
        &self,
        from: &Path,
        reference: &Reference,
        siblings: &dyn Siblings,
    ) -> Result<Resolved> {
        let found = reference.names.iter().find_map(|name| siblings.find(name));
        let missing = || {
            let (role, name) = (reference.role, reference.printable_name());
            Err(Error::new(ResolveDetail::NoMember { role, name }).at(reference.offset))
        };
        found.unwrap_or_else(missing).map_err(|error| error.in_file(from))
    }
}

/// Opens the files of a list: what each name, taken byte for byte, stands for. Formats that know
/// their parent by UUID only name it by the text of that UUID.
///
/// ```
/// # use std::path::Path;
/// # use diskimage::layer::{Reference, Role};
/// use diskimage::resolve::Listed;
/// use diskimage::{Beneath, Resolver};
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::write(folder.join("base-2024.vhd"), "bytes")?;
/// let listed = Listed::new()
///     .with("base.vhd", folder.join("base-2024.vhd"))
///     .with("615c2712-4826-4a53-8133-45a24ee420ba", folder.join("parent.vdi"))
///     .or_else(Beneath::new(folder)?);
/// # let names = vec![b"base.vhd".to_vec()];
/// # let backing = Reference { role: Role::Parent, names, format: None, offset: 8 };
/// // what an image calls base.vhd
/// let resolved = listed.resolve(Path::new("new.vhd"), &backing)?;
/// assert_eq!(resolved.path, folder.join("base-2024.vhd"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Listed {
    files: HashMap<Vec<u8>, PathBuf>,
    otherwise: Option<Arc<dyn Resolver>>,
}

impl Listed {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: the name that images use, and the file to open for it.
    #[must_use]
    pub fn with(mut self, name: impl Into<Vec<u8>>, file: impl Into<PathBuf>) -> Self {
        self.files.insert(name.into(), file.into());
        self
    }

    /// Asks another resolver about names that are not listed.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use diskimage::layer::{Reference, Role};
    /// use diskimage::resolve::Listed;
    /// use diskimage::{Beneath, Resolver};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// # std::fs::write(folder.join("base.raw"), "bytes")?;
    /// let names = vec![b"base.raw".to_vec()];
    /// let backing = Reference { role: Role::Parent, names, format: None, offset: 8 };
    /// let (child, listed) = (folder.join("new.qcow2"), Listed::new());
    /// assert!(listed.resolve(&child, &backing).is_err()); // nothing is listed
    /// assert!(listed.or_else(Beneath::new(folder)?).resolve(&child, &backing).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn or_else(mut self, resolver: impl Resolver + 'static) -> Self {
        self.otherwise = Some(Arc::new(resolver));
        self
    }
}

impl Listed {
    fn look_up(
        &self,
        from: &Path,
        reference: &Reference,
        ask: impl FnOnce(&dyn Resolver) -> Result<Resolved>,
    ) -> Result<Resolved> {
        let listed = reference.names.iter().find_map(|name| self.files.get(name));
        match (listed, &self.otherwise) {
            (None, Some(otherwise)) => ask(&**otherwise),
            (Some(path), _) => {
                let storage = Arc::new(FileStorage::open(path)?);
                Ok(Resolved { storage, path: path.clone() })
            }
            (None, None) => {
                let name = reference.printable_name();
                Err(Error::new(ResolveDetail::NotListed { role: reference.role, name })
                    .at(reference.offset)
                    .in_file(from))
            }
        }
    }
}

impl Resolver for Listed {
    fn resolve(&self, from: &Path, reference: &Reference) -> Result<Resolved> {
        self.look_up(from, reference, |other| other.resolve(from, reference))
    }

    fn resolve_within(
        &self,
        from: &Path,
        reference: &Reference,
        siblings: &dyn Siblings,
    ) -> Result<Resolved> {
        self.look_up(from, reference, |other| other.resolve_within(from, reference, siblings))
    }
}

fn opened(file: std::fs::File, path: PathBuf) -> Result<Resolved> {
    let storage = Arc::new(FileStorage::from_file(file, &path)?);
    Ok(Resolved { storage, path })
}

/// The bytes of a name as a path of this system.
#[cfg(unix)]
fn path_of(name: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

#[cfg(not(unix))]
fn path_of(name: &[u8]) -> Option<PathBuf> {
    std::str::from_utf8(name).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str) -> Reference {
        let names = vec![name.as_bytes().to_vec()];
        Reference { role: Role::Parent, names, format: None, offset: 8 }
    }

    #[test]
    fn the_default_opens_nothing_and_says_how_to_allow() {
        let error = DenyAll.resolve(Path::new("child"), &reference("base")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.file(), Some(Path::new("child")));
        assert!(error.to_string().contains("'base'"), "{error}");
        assert!(error.advice().unwrap().contains("--allow-external"));
    }

    #[test]
    fn names_start_from_the_child_and_stay_beneath_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("images");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("base"), "b").unwrap();
        std::fs::write(root.join("sub/inner"), "i").unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        let beneath = Beneath::new(&root).unwrap();
        let child = root.join("sub/child");
        let absolute = root.join("base");
        for good in ["inner", "./inner", "../base", "../sub/../base", absolute.to_str().unwrap()] {
            beneath.resolve(&child, &reference(good)).unwrap();
        }
        for bad in ["../../secret", "..", "../..", "/etc/passwd", "", "json:{}", "nbd://x", "none"]
        {
            assert!(beneath.resolve(&child, &reference(bad)).is_err(), "{bad}");
        }
        let found = |name| beneath.resolve(&child, &reference(name)).unwrap().path;
        assert_eq!(found("./inner"), root.join("sub/./inner"));
        assert_eq!(found("../base"), root.canonicalize().unwrap().join("base"));
        let error = beneath.resolve(&child, &reference("../../secret")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }

    #[test]
    fn a_list_maps_names_byte_for_byte() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let listed = Listed::new().with("base", file.path());
        assert!(listed.resolve(Path::new("x"), &reference("base")).is_ok());
        let error = listed.resolve(Path::new("x"), &reference("./base")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}
