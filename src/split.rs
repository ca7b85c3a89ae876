//! Disks that were split into several files: `x.000, x.001, …` or `x.001, x.002, …`, and `xaa, xab, …`
//! as split(1) names them. Parts are opened together only when that is asked for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::error::{Detail, Error, ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::num::to_u64;
use crate::text::printable;

/// What to do with a file that, by its name and those beside it, is a part of a split disk.
///
/// ```
/// use diskimage::split::Join;
/// use diskimage::{Format, OpenOptions, VirtualDisk};
///
/// # let folder = tempfile::tempdir()?;
/// # let [first, second] = ["disk.001", "disk.002"].map(|name| folder.path().join(name));
/// # std::fs::write(&first, [1; 4096])?;
/// # std::fs::write(&second, [2; 4096])?;
/// // disk.001, beside which disk.002 lies
/// let options = OpenOptions::new().format(Format::Raw);
/// assert!(options.open(&first).is_err());
/// assert_eq!(options.clone().join(Join::Alone).open(&first)?.size(), 4096);
/// let disk = options.join(Join::Parts).open(&first)?;
/// assert_eq!(disk.size(), 8192);
/// let mut byte = [0];
/// disk.read_exact_at(&mut byte, 4096)?;
/// assert_eq!(byte, [2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Join {
    /// Not to read it as a disk, since it is not all of one.
    #[default]
    Refuse,
    /// To read it and all that follow as one disk.
    Parts,
    /// To read it as a disk of its own.
    Alone,
}

/// More parts are in no set.
const MAX_PARTS: u64 = 1 << 12;

#[derive(Debug, thiserror::Error)]
enum SplitDetail {
    #[error("looks like a part of a split disk, since '{0}' lies beside it")]
    Part(String),
    #[error("is not the first part of a split disk: that is '{0}'")]
    NotFirst(String),
    #[error("is called like no part of a split disk (x.001, x.000, x.aa or xaa)")]
    NoPart,
    #[error("the parts {0} are missing")]
    Missing(String),
    #[error("has more than {0} parts")]
    TooMany(u64),
}

impl Detail for SplitDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooMany(_) => ErrorKind::LimitExceeded,
            Self::Missing(_) => ErrorKind::Corrupt,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Part(_) => {
                "name the first one with --join to read all as one disk, or say --join=no".into()
            }
            Self::NotFirst(_) => "name that one".into(),
            Self::NoPart => "name the first part, or leave --join out".into(),
            Self::Missing(_) => "put them there".into(),
            Self::TooMany(_) => "join them with another program".into(),
        })
    }
}

/// A name that ends in a number, in digits or letters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbered {
    folder: PathBuf,
    stem: String,
    width: u32,
    base: u8,
    number: u64,
}

impl Numbered {
    /// Takes a name apart: digits behind a dot, or two or three letters at its end.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let digits = name.rsplit_once('.').map(|(_, digits)| digits).filter(|digits| {
            (2..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        if let Some(digits) = digits {
            let stem = name.strip_suffix(digits)?.to_owned();
            let width = u32::try_from(digits.len()).ok()?;
            return Some(Self { folder, stem, width, base: 10, number: digits.parse().ok()? });
        }
        let letters = match name.rsplit_once('.') {
            Some((_, end)) if matches!(end.len(), 2 | 3) => end,
            // split's own names: xaa
            _ => name.get(name.len().checked_sub(2)?..)?,
        };
        // a set starts with aa, and few get further than az: `raw` and `img` are no numbers
        let is_letters =
            letters.starts_with('a') && letters.bytes().all(|byte| byte.is_ascii_lowercase());
        let stem = name.strip_suffix(letters).filter(|stem| is_letters && !stem.is_empty())?;
        let number = letters.bytes().fold(0u64, |number, byte| {
            number.saturating_mul(26).saturating_add(u64::from(byte.saturating_sub(b'a')))
        });
        let width = u32::try_from(letters.len()).ok()?;
        Some(Self { folder, stem: stem.to_owned(), width, base: 26, number })
    }

    /// The name of another part.
    fn path(&self, number: u64) -> Option<PathBuf> {
        let base = u64::from(self.base);
        if number >= base.checked_pow(self.width)? {
            return None;
        }
        let zero = if self.base == 10 { b'0' } else { b'a' };
        let digit = |place: u32| {
            let value = number.checked_div(base.checked_pow(place)?)?.checked_rem(base)?;
            Some(char::from(zero.checked_add(u8::try_from(value).ok()?)?))
        };
        let digits: String = (0..self.width).rev().map(digit).collect::<Option<_>>()?;
        Some(self.folder.join(format!("{}{digits}", self.stem)))
    }

    fn existing(&self, number: u64) -> Option<PathBuf> {
        self.path(number).filter(|path| path.symlink_metadata().is_ok())
    }

    /// The first part there is: number 0, or 1 where the name has digits.
    fn first(&self) -> Option<u64> {
        let starts: &[u64] = if self.base == 10 { &[0, 1] } else { &[0] };
        starts.iter().copied().find(|&number| self.existing(number).is_some())
    }
}

/// The file beside `path` that makes it look like a part of a split disk. Names are looked at, and no
/// file is opened.
fn neighbour(path: &Path) -> Option<PathBuf> {
    let name = Numbered::of(path)?;
    name.first()?;
    let before = name.number.checked_sub(1).and_then(|number| name.existing(number));
    before.or_else(|| name.existing(name.number.checked_add(1)?))
}

fn shown(path: &Path) -> String {
    printable(path.file_name().unwrap_or(path.as_os_str()).as_encoded_bytes())
}

/// An error where `path` is a part of a split disk.
pub(crate) fn check_alone(path: &Path) -> Result<()> {
    match neighbour(path) {
        Some(other) => Err(Error::new(SplitDetail::Part(shown(&other))).in_file(path)),
        None => Ok(()),
    }
}

/// The same as a finding.
pub(crate) fn finding(path: &Path) -> Option<Finding> {
    let other = neighbour(path)?;
    let text =
        format!("looks like a part of a split disk, since '{}' lies beside it", shown(&other));
    Some(Finding::new(Code::SplitPart, text).fix("read all parts as one disk with --join"))
}

/// All parts of the split disk whose first one is `path`, in their order. One that is missing is an
/// error that names it. The files are not opened.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let [one, two] = ["disk.001", "disk.002"].map(|name| folder.path().join(name));
/// # std::fs::write(&one, "a")?;
/// # std::fs::write(&two, "b")?;
/// assert_eq!(diskimage::split::parts(&one)?, [one, two]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    let here = |detail: SplitDetail| Error::new(detail).in_file(path);
    let name = Numbered::of(path).ok_or_else(|| here(SplitDetail::NoPart))?;
    let first = name.first().ok_or_else(|| here(SplitDetail::NoPart))?;
    if first != name.number {
        let first = name.path(first).unwrap_or_default();
        return Err(here(SplitDetail::NotFirst(shown(&first))));
    }
    let mut parts = Vec::new();
    let mut next = first;
    while let Some(part) = name.existing(next) {
        parts.push(part);
        next = next.saturating_add(1);
        if to_u64(parts.len()) > MAX_PARTS {
            return Err(here(SplitDetail::TooMany(MAX_PARTS)));
        }
    }
    // what lies behind a gap shows that there is one
    let folder = if name.folder.as_os_str().is_empty() { Path::new(".") } else { &*name.folder };
    let entries = std::fs::read_dir(folder)
        .map_err(|source| Error::io("list the folder of the parts", source).in_file(folder))?;
    let others = entries.flatten().filter_map(|entry| Numbered::of(Path::new(&entry.file_name())));
    let same = |other: &Numbered| {
        (&other.stem, other.width, other.base) == (&name.stem, name.width, name.base)
    };
    let last = others.filter(same).map(|other| other.number).max().unwrap_or_default();
    if last >= next {
        let missing = (next..last).filter(|&number| name.existing(number).is_none());
        let missing = missing.filter_map(|number| name.path(number));
        let missing: Vec<_> = missing.take(8).map(|path| format!("'{}'", shown(&path))).collect();
        return Err(here(SplitDetail::Missing(missing.join(", "))));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| shown(path)).collect()
    }

    #[test]
    fn names_of_parts_are_counted_on() {
        let next = |name: &str| {
            let name = Numbered::of(Path::new(name))?;
            Some(shown(&name.path(name.number + 1)?))
        };
        for (name, wanted) in [
            ("x.001", Some("x.002")),
            ("x.099", Some("x.100")),
            ("x.img.00", Some("x.img.01")),
            ("x.aa", Some("x.ab")),
            ("xaz", Some("xba")),
            ("x.raw", None),
            ("x.aaz", Some("x.aba")),
            ("x.999", None),
            ("x.zz", None),
            ("x.img", None),
            ("x.1", None),
            ("x.0000001", None),
            ("x.AA", None),
            ("aa", None),
        ] {
            assert_eq!(next(name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn parts_are_found_in_order_and_gaps_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["d.001", "d.002", "d.003", "e.000", "e.001", "f.img", "g.001", "g.003"] {
            std::fs::write(path(name), name).unwrap();
        }
        assert_eq!(names(&parts(&path("d.001")).unwrap()), ["d.001", "d.002", "d.003"]);
        assert_eq!(names(&parts(&path("e.000")).unwrap()), ["e.000", "e.001"]);
        let message = |name: &str| parts(&path(name)).unwrap_err().to_string();
        assert!(message("d.002").contains("'d.001'"));
        assert!(message("e.001").contains("'e.000'"));
        assert!(message("g.001").contains("'g.002'"), "{}", message("g.001"));
        assert!(parts(&path("f.img")).is_err());
        assert!(check_alone(&path("d.002")).is_err() && check_alone(&path("d.003")).is_err());
        assert!(check_alone(&path("f.img")).is_ok());
        std::fs::remove_file(path("d.002")).unwrap();
        assert!(check_alone(&path("d.001")).is_ok(), "nothing lies beside it");
    }
}
