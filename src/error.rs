//! The one error type, classified by who is to blame.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
///
/// ```
/// use diskimage::{OpenOptions, Result, VirtualDisk};
///
/// fn size_of(image: &str) -> Result<u64> {
///     Ok(OpenOptions::new().open(image)?.size())
/// }
///
/// assert!(size_of("/no/such/image").is_err());
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is to blame for an [`Error`], so that a service can tell its user's file from its own disk.
///
/// ```
/// use diskimage::{ErrorKind, OpenOptions};
///
/// let error = OpenOptions::new().open("/no/such/image").unwrap_err();
/// match error.kind() {
///     ErrorKind::Io => println!("our own machine: {:?}", error.io_error()),
///     ErrorKind::Corrupt | ErrorKind::Unsupported => println!("the image: {error}"),
///     kind if kind.is_stop() => println!("stopped"),
///     _ => println!("{error}"),
/// }
/// assert_eq!(error.kind(), ErrorKind::Io);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The environment: the operating system failed a call.
    Io,
    /// The file: it contradicts its format's specification, or ends too early.
    Corrupt,
    /// This crate: the file may be fine, but uses what is not implemented.
    Unsupported,
    /// A bound of [`Limits`](crate::Limits) was met.
    LimitExceeded,
    /// The file asks for another file, and the [`Resolver`](crate::Resolver) said no.
    Denied,
    /// The caller: an argument that makes no sense for this file.
    InvalidInput,
    /// The caller asked to stop.
    Cancelled,
    /// The time that the caller allowed is over: nothing is known of the file.
    TimedOut,
}

impl ErrorKind {
    /// Whether the caller is what ended it, now or by a time set before: no word about the file.
    ///
    /// ```
    /// use diskimage::{ErrorKind, Progress};
    ///
    /// let progress = Progress::new();
    /// progress.cancel();
    /// let error = progress.check().unwrap_err();
    /// assert!(error.kind().is_stop()); // not to be shown as a fault of the image
    /// assert!(!ErrorKind::Corrupt.is_stop());
    /// ```
    #[must_use]
    pub fn is_stop(self) -> bool {
        matches!(self, Self::Cancelled | Self::TimedOut)
    }
}

/// What went wrong, in a module's own words. Each module has one such enum (derived by `thiserror`).
///
/// ```
/// use std::borrow::Cow;
///
/// use diskimage::error::Detail;
/// use diskimage::{Error, ErrorKind};
///
/// #[derive(Debug, thiserror::Error)]
/// enum HeaderDetail {
///     #[error("the version is {0}, which is not known")]
///     Version(u32),
///     #[error("the header is cut off")]
///     CutOff,
/// }
///
/// impl Detail for HeaderDetail {
///     fn kind(&self) -> ErrorKind {
///         match self {
///             Self::Version(_) => ErrorKind::Unsupported,
///             Self::CutOff => ErrorKind::Corrupt,
///         }
///     }
///
///     fn is_cut_off(&self) -> bool {
///         matches!(self, Self::CutOff)
///     }
///
///     fn advice(&self) -> Option<Cow<'static, str>> {
///         matches!(self, Self::Version(_)).then(|| "convert it by what made it".into())
///     }
/// }
///
/// let error = Error::new(HeaderDetail::Version(9)).at(4);
/// assert_eq!(error.kind(), ErrorKind::Unsupported);
/// assert_eq!(error.to_string(), "the version is 9, which is not known (at offset 0x4)");
/// assert_eq!(error.advice(), Some("convert it by what made it"));
/// assert!(Error::from(HeaderDetail::CutOff).is_cut_off()); // as `?` does
/// ```
pub trait Detail: StdError + Send + Sync + 'static {
    /// Who is to blame.
    fn kind(&self) -> ErrorKind;
    /// Whether it says that the file ends before something that it needs.
    fn is_cut_off(&self) -> bool {
        false
    }
    /// What the user could do about it, as a clause: `"name the format with -f"`.
    fn advice(&self) -> Option<Cow<'static, str>> {
        None
    }
}

/// An error: what is wrong, in which file, at which offset, and what to do.
///
/// The size of a pointer, so that results stay small on hot paths.
///
/// ```
/// use std::path::Path;
///
/// use diskimage::{Error, ErrorKind};
///
/// let error = Error::other(ErrorKind::Corrupt, "the table is cut off")
///     .at(0x1000)
///     .in_file(Path::new("disk.img"))
///     .advise("fetch it again");
/// assert_eq!(error.kind(), ErrorKind::Corrupt);
/// assert_eq!(error.to_string(), "the table is cut off (at offset 0x1000)");
/// assert_eq!(error.file(), Some(Path::new("disk.img")));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    detail: Box<dyn StdError + Send + Sync>,
    advice: Option<Cow<'static, str>>,
    cut_off: bool,
    file: Option<PathBuf>,
    offset: Option<u64>,
    guest_range: Option<Range<u64>>,
}

impl Error {
    /// An error from a module's own detail.
    #[cold]
    #[must_use]
    pub fn new<D: Detail>(detail: D) -> Self {
        let (kind, advice, cut_off) = (detail.kind(), detail.advice(), detail.is_cut_off());
        let mut error = Self::from_parts(kind, Box::new(detail), advice);
        error.0.cut_off = cut_off;
        error
    }

    /// An operating-system error with the operation that failed.
    ///
    /// ```
    /// use diskimage::{Error, ErrorKind};
    ///
    /// let gone = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    /// let error = Error::io("get a range", gone).at(0x1000);
    /// assert_eq!(error.kind(), ErrorKind::Io); // no word about the image: it may be tried again
    /// assert_eq!(error.io_error().map(|e| e.kind()), Some(std::io::ErrorKind::ConnectionReset));
    /// // on the way out through an interface of the standard library the kind stays
    /// let error = std::io::Error::from(error);
    /// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    /// ```
    #[cold]
    #[must_use]
    pub fn io(operation: &'static str, source: std::io::Error) -> Self {
        Self::new(IoDetail { operation, source })
    }

    /// An error of the given kind whose message is all there is to say: for implementors of this
    /// crate's traits outside of it.
    #[cold]
    #[must_use]
    pub fn other(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::from_parts(kind, message.into().into(), None)
    }

    fn from_parts(
        kind: ErrorKind,
        detail: Box<dyn StdError + Send + Sync>,
        advice: Option<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            detail,
            advice,
            cut_off: false,
            file: None,
            offset: None,
            guest_range: None,
        }))
    }

    /// Adds the byte offset in the file, unless one is already known.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use diskimage::{Error, ErrorKind};
    ///
    /// // what is nearest to the fault knows best
    /// let error = Error::other(ErrorKind::Corrupt, "the entry leads nowhere").at(0x30008);
    /// let error = error.at(0x30000).in_file(Path::new("base.qcow2")).in_file(Path::new("new.qcow2"));
    /// assert_eq!(error.offset(), Some(0x30008));
    /// assert_eq!(error.file(), Some(Path::new("base.qcow2")));
    /// ```
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Adds the file, unless one is already known.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        if self.0.file.is_none() {
            self.0.file = Some(file.to_owned());
        }
        self
    }

    /// Adds the guest bytes that cannot be read because of it, unless already known.
    ///
    /// ```
    /// use diskimage::{Error, ErrorKind};
    ///
    /// let error = Error::other(ErrorKind::Corrupt, "a cluster does not decode")
    ///     .at(0x5_0000)
    ///     .affecting(0x1_0000..0x2_0000);
    /// // by which a guest's file can be found that is lost
    /// assert_eq!(error.guest_range(), Some(0x1_0000..0x2_0000));
    /// assert_eq!(error.offset(), Some(0x5_0000));
    /// assert_eq!(error.advice(), None);
    /// ```
    #[must_use]
    pub fn affecting(mut self, guest: Range<u64>) -> Self {
        self.0.guest_range.get_or_insert(guest);
        self
    }

    /// Replaces the advice.
    ///
    /// What an error advises is to say at the command. Users of a service have another:
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Error, ErrorKind, OpenOptions};
    ///
    /// let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
    /// let opened = OpenOptions::new().open_storage(storage, Path::new("upload"));
    /// let error = opened.map_err(|error| match error.kind() {
    ///     ErrorKind::InvalidInput => error.advise("choose RAW as the format of the upload"),
    ///     _ => error,
    /// });
    /// let advice = error.as_ref().err().and_then(Error::advice);
    /// assert_eq!(advice, Some("choose RAW as the format of the upload"));
    /// ```
    #[must_use]
    pub fn advise(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Who is to blame.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether it says nothing about the file: the system failed a read, or the caller stopped it.
    pub(crate) fn is_no_damage(&self) -> bool {
        self.kind() == ErrorKind::Io || self.kind().is_stop()
    }

    /// Whether it says that the file ends before something that it needs.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Format, Target};
    /// use diskimage::{ErrorKind, OpenOptions};
    ///
    /// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
    /// # let raw = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().image(&raw, Box::new(Qcow2Options::new().writer(1 << 20)?), None, &target)?;
    /// # Box::new(target).finish()?;
    /// # let path = Path::new("cloud.qcow2");
    /// bytes.truncate(bytes.len() / 2); // a download that was broken off
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let error = OpenOptions::new().open_storage(storage, path).unwrap_err();
    /// assert_eq!((error.kind(), error.is_cut_off()), (ErrorKind::Corrupt, true));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.0.cut_off
    }

    /// What is wrong, without place and advice.
    pub(crate) fn detail(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0.detail
    }

    /// The container file that is at fault, where known.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The byte offset in that file, where known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The guest bytes that cannot be read because of it, where known.
    #[must_use]
    pub fn guest_range(&self) -> Option<Range<u64>> {
        self.0.guest_range.clone()
    }

    /// What the user could do, where there is something.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// The system's error behind it, if the environment is to blame.
    ///
    /// ```
    /// use diskimage::{Error, ErrorKind};
    ///
    /// fn is_worth_another_try(error: &Error) -> bool {
    ///     use std::io::ErrorKind::{ConnectionReset, TimedOut};
    ///     error.io_error().is_some_and(|source| matches!(source.kind(), ConnectionReset | TimedOut))
    /// }
    ///
    /// let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    /// assert!(is_worth_another_try(&Error::io("read", source)));
    /// assert!(!is_worth_another_try(&Error::other(ErrorKind::Corrupt, "the table is cut off")));
    /// ```
    #[must_use]
    pub fn io_error(&self) -> Option<&std::io::Error> {
        self.0.detail.downcast_ref::<IoDetail>().map(|d| &d.source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.detail)?;
        if let Some(offset) = self.0.offset {
            write!(f, " (at offset {offset:#x})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("detail", &self.0.detail)
            .field("file", &self.0.file)
            .field("offset", &self.0.offset)
            .field("guest_range", &self.0.guest_range)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.detail.source()
    }
}

impl<D: Detail> From<D> for Error {
    fn from(detail: D) -> Self {
        Self::new(detail)
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Io => error.io_error().map_or(std::io::ErrorKind::Other, |e| e.kind()),
            ErrorKind::Corrupt => std::io::ErrorKind::InvalidData,
            ErrorKind::Denied => std::io::ErrorKind::PermissionDenied,
            ErrorKind::InvalidInput => std::io::ErrorKind::InvalidInput,
            ErrorKind::Unsupported => std::io::ErrorKind::Unsupported,
            ErrorKind::LimitExceeded => std::io::ErrorKind::Other,
            ErrorKind::Cancelled => std::io::ErrorKind::Interrupted,
            ErrorKind::TimedOut => std::io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {source}")]
struct IoDetail {
    operation: &'static str,
    source: std::io::Error,
}

impl Detail for IoDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Io
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_is_kept_from_the_place_nearest_to_the_fault() {
        let error = Error::other(ErrorKind::Corrupt, "bad table")
            .at(0x200)
            .at(0x400)
            .in_file(Path::new("a"))
            .in_file(Path::new("b"));
        assert_eq!(error.offset(), Some(0x200));
        assert_eq!(error.file(), Some(Path::new("a")));
        assert_eq!(error.to_string(), "bad table (at offset 0x200)");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidData);
    }
}
