//! `qemu-img resize`: the files of raw disks are made longer or shorter, QCOW2 images are changed in
//! place.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use diskimage::format::probe::probe;
use diskimage::storage::FileStorage;
use diskimage::target::FilePatch;
use diskimage::{Error, ErrorKind, Format, Result};

use super::getopt::Given;
use super::{Failure, Session, failed, source};
use crate::args::Room;
use crate::report;
use crate::size::parse_size;

/// By how much zeros are written at once.
const STEP: usize = 1 << 20;

/// The size that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    To(u64),
    More(u64),
    Less(u64),
}

impl Change {
    fn parse(text: &str) -> std::result::Result<Self, Failure> {
        let (number, make): (_, fn(u64) -> Self) = match text.split_at_checked(1) {
            Some(("+", rest)) => (rest, Self::More),
            Some(("-", rest)) => (rest, Self::Less),
            _ => (text, Self::To),
        };
        let wrong = |why| Failure::new(format!("Invalid image size specified: '{text}': {why}"));
        parse_size(number).map(make).map_err(wrong)
    }

    /// The size, of a disk that has `size` bytes.
    fn of(self, size: u64) -> std::result::Result<u64, Failure> {
        let new = match self {
            Self::To(size) => Some(size),
            Self::More(more) => size.checked_add(more),
            Self::Less(less) => size.checked_sub(less),
        };
        new.filter(|&new| new > 0).ok_or_else(|| Failure::new("New image size must be positive"))
    }
}

pub(super) fn run(session: &Session, given: &Given) -> std::result::Result<u8, Failure> {
    let [name, size] = &*given.operands else {
        return Err(Failure::usage("resize", "Expecting image file name and size"));
    };
    let change = Change::parse(&size.to_string_lossy())?;
    let room = match given.text("preallocation").as_deref() {
        None | Some("off") => Room::Off,
        Some("falloc") => Room::Falloc,
        Some("full") => Room::Full,
        Some("metadata") => {
            return Err(Failure::new("Unsupported preallocation mode: metadata"));
        }
        Some(other) => return Err(Failure::new(format!("Invalid preallocation mode '{other}'"))),
    };
    let image = source::existing(given, name, "format", "image-opts")?;
    let unknown = image.unknown();
    let open = source::open_args(given, image.format)?;
    let path = &*image.path;
    session.begin_change(&open, path, unknown)?;
    let format = match image.format.map_or_else(|| detect(path), Ok) {
        Ok(format) => format,
        Err(error) => return Ok(failed(&error, path)),
    };
    let task = Task { path, change, shrink: given.has("shrink"), room };
    let done = match format {
        Format::Raw => raw(session, &task)?,
        Format::Qcow2 => super::in_place::resize(session, &task, &open)?,
        other => {
            return Err(Failure::new(format!(
                "diskimage does not resize a {} in place: convert it with 'diskimage convert', or \
                 use QEMU's own qemu-img",
                other.name()
            )));
        }
    };
    if let Err(error) = done {
        return Ok(failed(&error, path));
    }
    if given.has("quiet") {
        return Ok(report::OK);
    }
    Ok(report::printed(writeln!(io::stdout(), "Image resized.")))
}

/// What is to be done to which file.
pub(super) struct Task<'a> {
    pub(super) path: &'a Path,
    change: Change,
    pub(super) shrink: bool,
    pub(super) room: Room,
}

impl Task<'_> {
    /// The new size of a disk that has `old` bytes, if what is asked for makes sense.
    pub(super) fn size(&self, old: u64) -> std::result::Result<u64, Failure> {
        let new = self.change.of(old)?;
        if new < old && !self.shrink {
            report::message("Use the --shrink option to perform a shrink operation.");
            return Err(Failure::new(
                "warning: Shrinking an image will delete all data beyond the shrunken image's end. \
                 Before performing such an operation, make sure there is no important data there.",
            ));
        }
        if new <= old && self.room != Room::Off {
            return Err(Failure::new("Preallocation can only be used for growing images"));
        }
        Ok(new)
    }
}

fn raw(session: &Session, task: &Task<'_>) -> std::result::Result<Result<()>, Failure> {
    let path = task.path;
    // held until the end, so that nobody else writes
    let locked = FilePatch::open(path, None, session.bounds.progress());
    let (patch, old) = match locked.and_then(|patch| Ok((patch, length(path)?))) {
        Ok(locked) => locked,
        Err(error) => return Ok(Err(error)),
    };
    let new = task.size(old)?;
    Ok(resize(path, (old, new), task.room).and_then(|()| patch.finish()))
}

/// What the file is, where nobody says so: to make an unknown one longer or shorter could damage it.
pub(super) fn detect(path: &Path) -> Result<Format> {
    let found = probe(&FileStorage::open(path)?).map_err(|error| error.in_file(path))?;
    if let Some(image) = found.images().next() {
        return Ok(image.format);
    }
    if found.is_raw_disk() {
        return Ok(Format::Raw);
    }
    Err(Error::other(ErrorKind::InvalidInput, "is a file of no known format")
        .in_file(path)
        .advise("if it is a raw disk, say so with -f raw"))
}

fn length(path: &Path) -> Result<u64> {
    let found = std::fs::metadata(path);
    let found = found.map_err(|source| Error::io("examine the file", source).in_file(path))?;
    if !found.is_file() {
        let message = "is no regular file, which alone can be made longer or shorter";
        return Err(Error::other(ErrorKind::InvalidInput, message).in_file(path));
    }
    Ok(found.len())
}

fn resize(path: &Path, (old, new): (u64, u64), room: Room) -> Result<()> {
    let here = |what, source| Error::io(what, source).in_file(path);
    let mut file = File::options().write(true).open(path);
    let file = file.as_mut().map_err(|_| Error::other(ErrorKind::Io, "cannot be opened again"))?;
    let done = match room {
        Room::Off => file.set_len(new).map_err(|source| here("set the size", source)),
        Room::Falloc => set_aside(file, old, new).map_err(|source| here("set room aside", source)),
        Room::Full => fill(file, old, new).map_err(|source| here("write", source)),
    };
    if done.is_err() && new > old {
        // the file is as it was; if that fails too, the error that is told counts
        let _ = file.set_len(old);
    }
    done
}

#[cfg(target_os = "linux")]
fn set_aside(file: &mut File, old: u64, new: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(&*file, FallocateFlags::empty(), old, new - old) {
        // where the file system has no such thing, zeros take the room
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(file, old, new),
        other => other.map_err(Into::into),
    }
}

#[cfg(not(target_os = "linux"))]
fn set_aside(file: &mut File, old: u64, new: u64) -> io::Result<()> {
    fill(file, old, new)
}

/// Writes zeros from `old` to `new`.
fn fill(file: &mut File, old: u64, new: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(old))?;
    let zeros = vec![0; STEP];
    let mut left = new - old;
    while left > 0 {
        let length = usize::try_from(left).map_or(STEP, |left| left.min(STEP));
        file.write_all(&zeros[..length])?;
        left -= length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_by_how_much() {
        let of = |text: &str, size| {
            Change::parse(text).and_then(|change| change.of(size)).map_err(|failure| failure.text)
        };
        assert_eq!(of("4k", 1), Ok(4096));
        assert_eq!(of("+1k", 1), Ok(1025));
        assert_eq!(of("-1k", 1025), Ok(1));
        for (text, size, word) in [
            ("-1k", 1024, "must be positive"),
            ("0", 1, "must be positive"),
            ("+1", u64::MAX, "must be positive"),
            ("x", 1, "Invalid image size"),
            ("", 1, "Invalid image size"),
            ("+-1", 1, "Invalid image size"),
        ] {
            assert!(of(text, size).unwrap_err().contains(word), "{text}");
        }
    }
}
