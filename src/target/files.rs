//! An image of several files, which appear together.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::file::FileTarget;
use super::{Capabilities, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::num::{to_u64, to_usize};
use crate::writer::ImageFile;

/// Writes an image that consists of several new files, the one that is named for it and others
/// beside it, whose offsets are those that its [`Writer`](crate::Writer) says; of one file, too, where
/// the writer names no other:
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::{Format, OpenOptions};
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
/// use diskimage::target::FilesTarget;
/// use diskimage::{Convert, Target, VirtualDisk};
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let options = VmdkOptions::new().subformat(Subformat::MonolithicFlat).name("image.vmdk");
/// let writer = options.writer(disk.size())?;
/// let target = FilesTarget::create(folder.join("image.vmdk"), writer.files())?;
/// Convert::new().image(&disk, writer, None, &target)?;
/// Box::new(target).finish()?; // only now the files have names
/// assert_eq!(std::fs::read(folder.join("image-flat.vmdk"))?, vec![7; 1 << 20]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Until they are [finished](Target::finish) the files have no name, or temporary ones. Then the others
/// get theirs first, and the one that names them last: who stops in between leaves whole files without
/// the one that stands for the image, and what was there before. An older file of the image's name is
/// replaced; where one of the others exists, which may belong to another image, it is an error.
#[derive(Debug)]
pub struct FilesTarget {
    main: FileTarget,
    durable: bool,
    /// The offsets of the others, and they.
    ranges: Vec<Range<u64>>,
    others: Vec<FileTarget>,
}

/// Why one of many files cannot be made where others could.
const TOO_MANY: &str =
    "the system may allow fewer open files: raise that (ulimit -n), or choose another subformat";

impl FilesTarget {
    /// New files: one that is to appear at `path`, which is a regular file if there is one, and
    /// `files` beside it.
    pub fn create(path: impl AsRef<Path>, files: &[ImageFile]) -> Result<Self> {
        let path = path.as_ref();
        let found = std::fs::symlink_metadata(path);
        if !files.is_empty() && found.is_ok_and(|found| !found.is_file()) {
            let message = "is no regular file, which the first of several must be";
            let error = Error::other(ErrorKind::InvalidInput, message).in_file(path);
            return Err(error.advise("name a file, or write an image of one file"));
        }
        let main = FileTarget::create(path, 0)?;
        let (mut ranges, mut others) = (Vec::new(), Vec::new());
        for file in files {
            let name = Some(OsStr::new(&file.name));
            if Path::new(&file.name).file_name() != name || path.file_name() == name {
                let message =
                    "the name of one of the image's files is a path, or that of the image";
                return Err(
                    Error::other(ErrorKind::InvalidInput, message).in_file(Path::new(&file.name))
                );
            }
            let size = file.range.end.saturating_sub(file.range.start);
            let path = path.with_file_name(&file.name);
            let created = FileTarget::create_new(path, if file.whole { size } else { 0 });
            others.push(created.map_err(|error| match (error.kind(), others.len()) {
                (ErrorKind::Io, 1..) => error.advise(TOO_MANY),
                _ => error,
            })?);
            ranges.push(file.range.clone());
        }
        Ok(Self { main, durable: true, ranges, others })
    }

    /// The file that is named for the image.
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::FilesTarget;
    /// use diskimage::writer::ImageFile;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vmdk");
    /// let extent = ImageFile { name: "disk-flat.vmdk".into(), range: 1 << 20..2 << 20, whole: true };
    /// let target = FilesTarget::create(&path, &[extent])?.durable(false).forget(true);
    /// target.write_at(b"# Disk DescriptorFile\n", 0)?;
    /// target.write_at(b"boot", 1 << 20)?; // the first bytes of the extent
    /// assert_eq!(target.main().identity(), None); // a new file, which replaces none
    /// assert_eq!(target.files(), [1 << 20..2 << 20]);
    /// Box::new(target).finish()?;
    /// assert_eq!(std::fs::read(path.with_file_name("disk-flat.vmdk"))?[..4], *b"boot");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn main(&self) -> &FileTarget {
        &self.main
    }

    /// As [`FileTarget::forget`].
    #[must_use]
    pub fn forget(mut self, yes: bool) -> Self {
        self.main = self.main.forget(yes);
        self.others = self.others.into_iter().map(|file| file.forget(yes)).collect();
        self
    }

    /// As [`FileTarget::durable`].
    #[must_use]
    pub fn durable(mut self, yes: bool) -> Self {
        self.durable = yes;
        self.main = self.main.durable(yes);
        self.others = self.others.into_iter().map(|file| file.durable(yes)).collect();
        self
    }

    /// As [`FileTarget::direct`].
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::FilesTarget;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.qcow2");
    /// let target = match FilesTarget::create(&path, &[])?.direct() {
    ///     Ok(target) => target,
    ///     // a system or a file system without that
    ///     Err(_) => FilesTarget::create(&path, &[])?,
    /// };
    /// target.write_at(&[7; 8192], 0)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(std::fs::read(&path)?, [7; 8192]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn direct(mut self) -> Result<Self> {
        self.main = self.main.direct()?;
        self.others = self.others.into_iter().map(FileTarget::direct).collect::<Result<_>>()?;
        Ok(self)
    }

    /// The files that offsets from `offset` on lie in, for `length` bytes: each with the offset in it,
    /// and which of the bytes.
    fn parts(
        &self,
        offset: u64,
        length: u64,
        mut take: impl FnMut(&FileTarget, u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset.saturating_add(done);
            let behind = self.ranges.partition_point(|range| range.start <= at);
            let (file, range) = match behind.checked_sub(1) {
                None => (Some(&self.main), 0..self.ranges.first().map_or(u64::MAX, |r| r.start)),
                Some(number) => {
                    (self.others.get(number), self.ranges.get(number).cloned().unwrap_or_default())
                }
            };
            let end = range.end.min(offset.saturating_add(length));
            let Some(file) = file.filter(|_| at < end) else {
                let message = format!("the image has no file with the offset {at:#x}");
                return Err(Error::other(ErrorKind::InvalidInput, message));
            };
            let next = end.saturating_sub(offset);
            take(file, at.saturating_sub(range.start), done..next)?;
            done = next;
        }
        Ok(())
    }
}

impl Target for FilesTarget {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.main.capabilities();
        for file in &self.others {
            capabilities.fresh_zeros &= file.capabilities().fresh_zeros;
        }
        capabilities
    }

    fn files(&self) -> &[Range<u64>] {
        &self.ranges
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.parts(offset, to_u64(buf.len()), |file, at, part| {
            let part = to_usize(part.start)..to_usize(part.end);
            file.write_at(buf.get(part).unwrap_or_default(), at)
        })
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        self.parts(offset, length, |file, at, part| {
            file.write_zeros(at, part.end.saturating_sub(part.start))
        })
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        // what takes long comes before the first name
        for file in self.others.iter().chain([&self.main]) {
            file.settle()?;
        }
        let mut named = Named(Vec::new());
        for file in &mut self.others {
            named.0.extend(file.name()?);
        }
        if let Some(last) = named.0.last().filter(|_| self.durable) {
            // the system may crash now, too
            self.main.sync_folder(last)?;
        }
        let name = self.main.name()?;
        named.0.clear();
        match name {
            Some(name) if self.durable => self.main.sync_folder(&name),
            _ => Ok(()),
        }
    }
}

/// Names that are removed again unless all goes well.
struct Named(Vec<PathBuf>);

impl Drop for Named {
    fn drop(&mut self) {
        for name in &self.0 {
            // nothing can be done about a failure here; the file is whole, and no image
            let _ = std::fs::remove_file(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn file(name: &str, range: Range<u64>, whole: bool) -> ImageFile {
        ImageFile { name: name.into(), range, whole }
    }

    #[test]
    fn each_file_gets_its_part_and_all_appear_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "old").unwrap();
        let files = [file("b", 100..110, true), file("c", 110..200, false)];
        let target = FilesTarget::create(&path, &files).unwrap().durable(false);
        assert_eq!(target.files(), [100..110, 110..200]);
        target.write_at(b"0123456789abc", 100).unwrap();
        target.write_at(b"main", 3).unwrap();
        target.write_zeros(95, 10).unwrap();
        assert!(target.write_at(b"xx", 199).is_err(), "behind the last file");
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        Box::new(target).finish().unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("a")[..7], *b"\0\0\0main");
        assert_eq!(read("b"), b"\0\0\0\0\x0056789");
        assert!(read("c").starts_with(b"abc"));
        assert_eq!(names(dir.path()), ["a", "b", "c"]);
    }

    #[test]
    fn files_of_another_image_are_kept_and_nothing_new_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let files = [file("b", 100..110, true), file("c", 110..200, false)];
        let target = FilesTarget::create(&path, &files).unwrap().durable(false);
        // one that comes while it is written
        std::fs::write(dir.path().join("c"), "other").unwrap();
        let error = Box::new(target).finish().unwrap_err();
        assert!(error.to_string().contains("another image"), "{error}");
        assert_eq!(names(dir.path()), ["c"]);
        assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"other");
        let error = FilesTarget::create(&path, &files).unwrap_err();
        assert!(error.to_string().contains("another image"), "{error}");
        for name in ["a", "../b", "x/b", "..", ""] {
            let error = FilesTarget::create(&path, &[file(name, 100..110, true)]).unwrap_err();
            assert!(error.to_string().contains("is a path"), "{name}: {error}");
        }
        let folder = FilesTarget::create(dir.path(), &files).unwrap_err();
        assert!(folder.to_string().contains("is no regular file"), "{folder}");
        assert_eq!(names(dir.path()), ["c"]);
    }
}
