//! Linux and the other Unix systems.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::FileKind;
use crate::storage::{FileIdentity, Run, SharedRun};

/// Opens for reading without ever blocking on a FIFO or taking a controlling terminal.
pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens an existing file for writing, without blocking on a FIFO.
pub(crate) fn open_write(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens an existing file for reading and writing, without blocking on a FIFO.
pub(crate) fn open_read_write(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = flags.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Locks all bytes of a file against other processes, QEMU's among them, until this process closes
/// it. `false`: another process holds a lock on some of them.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    match rustix::fs::fcntl_lock(file, lock) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::AGAIN) => Ok(false),
        // this file system has no locks: nobody else can hold one either
        Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn file_kind(file: &File) -> io::Result<FileKind> {
    let metadata = file.metadata()?;
    Ok(match not_positional(metadata.file_type()) {
        Some(what) => FileKind::Other(what),
        None if metadata.is_file() => FileKind::Regular { size: metadata.len() },
        None => FileKind::Block { size: rustix::fs::seek(file, SeekFrom::End(0))? },
    })
}

/// What the file of this name is, in words, where it is neither a regular file nor a block device:
/// to be known before it is opened, which alone can wake a writer or start a device.
pub(crate) fn look(path: &Path) -> Option<&'static str> {
    not_positional(std::fs::metadata(path).ok()?.file_type())
}

fn not_positional(kind: std::fs::FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_block_device() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a character device")
    }
}

pub(crate) fn identity(file: &File) -> Option<FileIdentity> {
    let metadata = file.metadata().ok()?;
    Some(FileIdentity { device: metadata.dev(), inode: metadata.ino() })
}

pub(crate) fn allocated_size(file: &File) -> Option<u64> {
    // st_blocks counts units of 512 bytes whatever the file system's block size (POSIX sys/stat.h)
    file.metadata().ok()?.blocks().checked_mul(512)
}

pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buf, offset)
}

pub(crate) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(buf, offset)
}

/// The run of data or hole at `offset` (below `size`) of a regular file.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
))]
pub(crate) fn run_at(file: &File, offset: u64, size: u64) -> io::Result<Run> {
    let rest = size.saturating_sub(offset);
    let data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data,
        // no data from here to the end; but where the file has become shorter the read is to tell
        Err(Errno::NXIO) => {
            let hole = file.metadata()?.len() >= size;
            return Ok(Run { hole, length: rest });
        }
        // this file system does not tell
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Run { hole: false, length: rest }),
        Err(errno) => return Err(errno.into()),
    };
    if data > offset {
        return Ok(Run { hole: true, length: data.saturating_sub(offset).min(rest) });
    }
    match rustix::fs::seek(file, SeekFrom::Hole(offset)) {
        Ok(hole) if hole > offset => {
            Ok(Run { hole: false, length: hole.saturating_sub(offset).min(rest) })
        }
        // the file changed under us, or shrank: the read will tell
        Ok(_) | Err(Errno::NXIO) => Ok(Run { hole: false, length: rest }),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
)))]
pub(crate) fn run_at(_file: &File, offset: u64, size: u64) -> io::Result<Run> {
    Ok(Run { hole: false, length: size.saturating_sub(offset) })
}

/// Makes a range read as zeros without writing it, where the system can. `false`: it cannot.
#[cfg(target_os = "linux")]
pub(crate) fn zero_range(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    use rustix::fs::FallocateFlags;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, punch, offset, length) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn zero_range(_file: &File, _offset: u64, _length: u64) -> io::Result<bool> {
    Ok(false)
}

/// Lets the kernel copy a range from one file to another, by sharing its blocks where it can.
/// Gives how many bytes it did, fewer wherever something hindered it: reading and writing tells
/// what. `None`: it cannot between these files at all.
#[cfg(target_os = "linux")]
pub(crate) fn copy_range(
    from: &File,
    mut offset: u64,
    to: &File,
    mut at: u64,
    length: u64,
) -> Option<u64> {
    let mut left = length;
    while left > 0 {
        let wanted = crate::num::to_usize(left.min(1 << 30));
        match rustix::fs::copy_file_range(from, Some(&mut offset), to, Some(&mut at), wanted) {
            Ok(0) => break,
            Ok(copied) => left = left.saturating_sub(crate::num::to_u64(copied)),
            Err(Errno::INTR) => {}
            Err(_) if left < length => break,
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return None;
            }
            Err(_) => break,
        }
    }
    Some(length.saturating_sub(left))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn copy_range(_: &File, _: u64, _: &File, _: u64, _: u64) -> Option<u64> {
    None
}

/// Makes a range of a file share the blocks of another one's (`FICLONERANGE`): both offsets, and
/// the length unless it ends with `from`, are multiples of the file system's block size.
#[cfg(target_os = "linux")]
pub(crate) fn share_range(
    from: &File,
    offset: u64,
    to: &File,
    at: u64,
    length: u64,
) -> io::Result<()> {
    let Some(length) = std::num::NonZeroU64::new(length) else { return Ok(()) };
    reflink_copy::ReflinkBlockBuilder::new(from, to, length)
        .from_offset(offset)
        .to_offset(at)
        .reflink_block()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn share_range(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// The most runs that are asked for: what lies behind them is taken for not shared.
#[cfg(target_os = "linux")]
const MOST_SHARED_RUNS: usize = 1 << 18;

/// The runs of a file that it shares with others (`FIEMAP`), brought to the medium before: what was
/// written to a shared run lies elsewhere only then.
#[cfg(target_os = "linux")]
pub(crate) fn shared_runs(file: &File) -> Vec<SharedRun> {
    use fiemap::{Fiemap, FiemapExtentFlags as Flags, FiemapFlags};
    // none of these has the file's bytes in the place that is told, byte for byte
    let elsewhere = Flags::UNKNOWN
        | Flags::DELALLOC
        | Flags::ENCODED
        | Flags::DATA_ENCRYPTED
        | Flags::NOT_ALIGNED
        | Flags::DATA_INLINE
        | Flags::DATA_TAIL
        | Flags::UNWRITTEN;
    Fiemap::with_flags(file, FiemapFlags::SYNC)
        .map_while(Result::ok)
        .take(MOST_SHARED_RUNS)
        .filter(|extent| extent.fe_flags.contains(Flags::SHARED))
        .filter(|extent| !extent.fe_flags.intersects(elsewhere))
        .map(|extent| SharedRun {
            offset: extent.fe_logical,
            length: extent.fe_length,
            place: extent.fe_physical,
        })
        .collect()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn shared_runs(_file: &File) -> Vec<SharedRun> {
    Vec::new()
}

/// The file system's block size, bytes.
pub(crate) fn block_size(file: &File) -> u64 {
    file.metadata().map_or(4096, |metadata| metadata.blksize()).clamp(512, 1 << 20)
}

/// Sets room aside for the whole file, which reads as zeros. `false`: the file system cannot.
#[cfg(target_os = "linux")]
pub(crate) fn preallocate(file: &File, size: u64) -> io::Result<bool> {
    if size == 0 {
        return Ok(true);
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn preallocate(_file: &File, _size: u64) -> io::Result<bool> {
    Ok(false)
}

/// Says that a file is read from its start to its end. A hint: nothing depends on it.
#[cfg(target_os = "linux")]
pub(crate) fn expect_sequence(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
}

/// Lets the system forget what it keeps of a file in memory, as far as that is on the medium.
#[cfg(target_os = "linux")]
pub(crate) fn forget(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn expect_sequence(_file: &File) {}

#[cfg(not(target_os = "linux"))]
pub(crate) fn forget(_file: &File) {}

/// Makes reads and writes of an open file bypass the system's cache, or no longer.
#[cfg(target_os = "linux")]
pub(crate) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let wanted = if direct { flags | OFlags::DIRECT } else { flags & !OFlags::DIRECT };
    Ok(rustix::fs::fcntl_setfl(file, wanted)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn set_direct(_file: &File, _direct: bool) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Reads at most as much as fits, and less only at the file's end.
pub(crate) fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(crate::num::to_u64(done));
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => done = done.saturating_add(read),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // a direct read that starts behind a cut-off last block
            Err(error) if done > 0 && error.kind() == ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A new file in `folder` without a name, which vanishes unless [`link`] names it. `None` where
/// the file system cannot.
#[cfg(target_os = "linux")]
pub(crate) fn nameless_file(folder: &Path) -> io::Result<Option<File>> {
    use rustix::fs::Mode;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    match rustix::fs::open(folder, flags, mode) {
        Ok(fd) => Ok(Some(File::from(fd))),
        // EISDIR is how a kernel without O_TMPFILE answers
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn nameless_file(_folder: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Gives a nameless file a name that must not exist yet.
#[cfg(target_os = "linux")]
pub(crate) fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD};
    use std::os::fd::AsRawFd;
    let name = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    match rustix::fs::linkat(CWD, name, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Err(Errno::NOENT) => {
            // no /proc: linking by descriptor alone takes a privilege, but may work
            Ok(rustix::fs::linkat(file, c"", CWD, path, AtFlags::EMPTY_PATH)?)
        }
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn link(_file: &File, _path: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Makes a folder's new entries durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // some file systems do not sync folders
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Opens `name`, resolved below `folder` only: no `..` beyond it, no symbolic link, no FIFO.
#[cfg(target_os = "linux")]
pub(crate) fn open_beneath(folder: &Path, name: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, ResolveFlags, fstat, openat2};
    let root = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // look first, by a descriptor that can neither read nor block nor wake a device
    let look = match openat2(&root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOSYS | Errno::PERM) => return open_beneath_by_steps(&root, name),
        Err(errno) => return Err(errno.into()),
    };
    let seen = fstat(&look)?;
    check_regular(&seen)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = openat2(&root, name, flags, Mode::empty(), resolve)?;
    check_same(&seen, &fstat(&fd)?)?;
    Ok(File::from(fd))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn open_beneath(folder: &Path, name: &Path) -> io::Result<File> {
    use rustix::fs::Mode;
    let root = rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    open_beneath_by_steps(&root, name)
}

/// The same for kernels without `openat2`: a step a component, none through a link, no `..`.
fn open_beneath_by_steps(root: &impl AsFd, name: &Path) -> io::Result<File> {
    use rustix::fs::{AtFlags, Mode, fstat, openat, statat};
    use std::path::Component;
    let step = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // a folder is gone through, not read, where the system knows the difference
    #[cfg(target_os = "linux")]
    let through = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECTORY;
    #[cfg(not(target_os = "linux"))]
    let through = step | OFlags::DIRECTORY;
    let mut folder = openat(root, ".", through, Mode::empty())?;
    let mut steps = name.components().filter(|c| *c != Component::CurDir).peekable();
    while let Some(component) = steps.next() {
        let Component::Normal(part) = component else {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "leaves the allowed folder"));
        };
        if steps.peek().is_some() {
            folder = openat(&folder, part, through, Mode::empty())?;
            continue;
        }
        let seen = statat(&folder, part, AtFlags::SYMLINK_NOFOLLOW)?;
        check_regular(&seen)?;
        let last = openat(&folder, part, step | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        check_same(&seen, &fstat(&last)?)?;
        return Ok(File::from(last));
    }
    Err(not_regular())
}

/// Refuses what is no regular file: a link as the system would.
fn check_regular(seen: &rustix::fs::Stat) -> io::Result<()> {
    use rustix::fs::FileType;
    match FileType::from_raw_mode(seen.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => Err(Errno::LOOP.into()),
        _ => Err(not_regular()),
    }
}

/// Refuses what took the place of a file between a look and its opening.
fn check_same(seen: &rustix::fs::Stat, opened: &rustix::fs::Stat) -> io::Result<()> {
    if (opened.st_dev, opened.st_ino) != (seen.st_dev, seen.st_ino) {
        return Err(io::Error::other("the file was exchanged while it was opened"));
    }
    Ok(())
}

fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, "it is not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type OpenBeneath = fn(&Path, &Path) -> io::Result<File>;

    fn by_steps(folder: &Path, name: &Path) -> io::Result<File> {
        open_beneath_by_steps(&File::open(folder)?, name)
    }

    #[test]
    fn nothing_outside_of_the_folder_opens() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(inside.join("sub/file"), "f").unwrap();
        symlink("../secret", inside.join("link")).unwrap();
        symlink("sub", inside.join("linked-folder")).unwrap();
        for open in [open_beneath as OpenBeneath, by_steps as OpenBeneath] {
            assert!(open(&inside, Path::new("sub/file")).is_ok());
            assert!(open(&inside, Path::new("./sub/file")).is_ok());
            for name in ["../secret", "link", "linked-folder/file", "sub", ".", "/etc/passwd"] {
                assert!(open(&inside, Path::new(name)).is_err(), "{name} opened");
            }
        }
    }

    #[test]
    fn odd_names_are_names_or_errors() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &'static [u8]| Path::new(std::ffi::OsStr::from_bytes(name));
        for open in [open_beneath as OpenBeneath, by_steps as OpenBeneath] {
            for name in [&b"a\nb"[..], b"\xff\xfe", b"\x1b[2J", b"json:{}", b" ", b"-"] {
                assert!(open(dir.path(), path(name)).is_err());
                std::fs::write(dir.path().join(path(name)), "x").unwrap();
                assert!(open(dir.path(), path(name)).is_ok());
                std::fs::remove_file(dir.path().join(path(name))).unwrap();
            }
            std::fs::write(dir.path().join("base"), "x").unwrap();
            assert!(open(dir.path(), path(b"base\0.raw")).is_err());
            assert!(open(dir.path(), path(b"")).is_err());
        }
    }

    #[test]
    fn no_fifo_socket_or_device_opens_and_no_magic_link() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let secret = File::open("/proc/self/cmdline").ok();
        let number = secret.as_ref().map(|file| {
            use std::os::fd::AsRawFd;
            file.as_raw_fd().to_string()
        });
        for open in [open_beneath as OpenBeneath, by_steps as OpenBeneath] {
            for name in ["fifo", "socket"] {
                assert!(open(dir.path(), Path::new(name)).is_err(), "{name} opened");
            }
            assert!(open(Path::new("/dev"), Path::new("null")).is_err());
            if let Some(number) = &number {
                assert!(open(Path::new("/proc/self/fd"), Path::new(number)).is_err());
            }
        }
    }

    /// Somebody exchanges the file and its folder for links all the time.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_race_never_wins_what_lies_outside() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use std::io::Read;
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("inside/sub")).unwrap();
        std::fs::create_dir_all(at("outside")).unwrap();
        std::fs::write(at("inside/sub/file"), "inside").unwrap();
        std::fs::write(at("outside/file"), "secret").unwrap();
        symlink(at("outside"), at("inside/other")).unwrap();
        symlink(at("outside/file"), at("inside/sub/link")).unwrap();
        let swap = |a: &str, b: &str| renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE);
        if swap("inside/sub", "inside/other").is_err() {
            eprintln!("skipped: this file system cannot exchange two names");
            return;
        }
        let (done, mut opened) = (AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = swap("inside/sub", "inside/other");
                    let _ = swap("inside/sub/file", "inside/sub/link");
                    let _ = swap("inside/other/file", "inside/other/link");
                }
            });
            let end = std::time::Instant::now() + std::time::Duration::from_millis(600);
            while std::time::Instant::now() < end {
                for open in [open_beneath as OpenBeneath, by_steps as OpenBeneath] {
                    for name in ["sub/file", "other/file", "sub/link"] {
                        let Ok(mut file) = open(&at("inside"), Path::new(name)) else { continue };
                        let mut text = String::new();
                        file.read_to_string(&mut text).unwrap();
                        assert_eq!(text, "inside", "{name}");
                        opened += 1;
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(opened > 0, "nothing was ever opened");
    }
}
