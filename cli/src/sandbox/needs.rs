//! What each command needs, as its arguments say.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use diskimage::container::split_name;
use diskimage::split::parts as parts_of;

use super::Needs;
use crate::args::{CheckArgs, Command, ConvertArgs, Joined, OpenArgs};
use crate::checksum::listed_files;
use crate::image::beside;
use crate::picture::Picture;

impl Needs {
    /// Changes a file in place, and reads what it may name.
    pub(super) fn changing(open: &OpenArgs, file: &Path) -> Self {
        opening(open, [file]).writing(file)
    }
}

impl Command {
    /// What the command needs of the file system.
    pub(crate) fn needs(&self) -> Needs {
        let needs = self.needs_of_files();
        if self.may_spill() { needs.spilling() } else { needs }
    }

    fn needs_of_files(&self) -> Needs {
        match self {
            Self::Probe(args) => Needs::reading(args.files.iter().cloned()),
            Self::Info(args) => {
                let files = std::iter::once(&args.file).chain(&args.more);
                opening(&args.open, files.map(PathBuf::as_path))
            }
            Self::Inspect(args) => {
                let policy = crate::policy::file_of(&args.policy).map(Path::to_owned);
                let files = std::iter::once(&args.file).chain(&args.more);
                let files = files.map(|file| split_name(file).0);
                Needs::reading(files.chain(policy))
            }
            Self::Explain(args) => opening(&args.open, args.files.iter().map(PathBuf::as_path)),
            Self::Lint(args) => Needs::reading(args.files.iter().map(|file| split_name(file).0)),
            Self::Map(args) => {
                let needs = opening(&args.open, [&*args.file]);
                match &args.picture {
                    Some(Some(Picture::File(path))) => writing_to(needs, path),
                    _ => needs,
                }
            }
            Self::Check(args) => checking(args),
            Self::Convert(args) => converting(args),
            // asked again with the command that its arguments make
            Self::QemuImg(_) => Needs::default(),
            Self::Create(args) => {
                let backing = args
                    .backing
                    .iter()
                    .filter(|_| !args.unopened)
                    .map(|name| beside(&args.file, name));
                let backing: Vec<_> = backing.collect();
                let open = args.open.open_args();
                writing_to(opening(&open, backing.iter().map(PathBuf::as_path)), &args.file)
            }
            Self::Measure(args) => opening(&args.open, args.file.iter().map(PathBuf::as_path)),
            Self::Checksum(args) if args.check => {
                let listed: Vec<_> =
                    args.files.iter().flat_map(|list| listed_files(list)).collect();
                let files = args.files.iter().chain(&listed);
                opening(&args.open, files.map(PathBuf::as_path))
            }
            Self::Completions(_) | Self::Man(_) => Needs::default(),
            Self::Checksum(args) => opening(&args.open, args.files.iter().map(PathBuf::as_path)),
            Self::Compare(args) => {
                let others = args.second.iter().chain(&args.manifest);
                opening(&args.open, [&args.first].into_iter().chain(others).map(PathBuf::as_path))
            }
        }
    }

    /// Whether the command gives up what it does not need without being asked to.
    pub(crate) fn is_sandboxed(&self) -> bool {
        match self {
            Self::Inspect(args) => !args.no_sandbox,
            Self::Explain(args) => !args.no_sandbox,
            _ => false,
        }
    }

    /// Whether the command reads images at all.
    pub(crate) fn reads_images(&self) -> bool {
        !matches!(self, Self::Completions(_) | Self::Man(_))
    }

    /// Whether the command may decode what is compressed into a temporary file.
    pub(crate) fn may_spill(&self) -> bool {
        !matches!(
            self,
            Self::Probe(_) | Self::Inspect(_) | Self::Lint(_) | Self::Explain(_) | Self::QemuImg(_)
        )
    }

    /// The file that is named in messages about all of it.
    pub(crate) fn main_file(&self) -> &Path {
        match self {
            Self::Probe(args) => args.files.first().map_or(Path::new(""), PathBuf::as_path),
            Self::Info(args) => &args.file,
            Self::Inspect(args) => &args.file,
            Self::Lint(args) => args.files.first().map_or(Path::new(""), PathBuf::as_path),
            Self::Explain(args) => args.files.first().map_or(Path::new(""), PathBuf::as_path),
            Self::Map(args) => &args.file,
            Self::Check(args) => &args.file,
            Self::Convert(args) => &args.source,
            Self::Create(args) => &args.file,
            Self::Measure(args) => args.file.as_deref().unwrap_or(Path::new("")),
            Self::Checksum(args) => args.files.first().map_or(Path::new(""), PathBuf::as_path),
            Self::Compare(args) => &args.first,
            Self::Completions(_) | Self::Man(_) | Self::QemuImg(_) => Path::new(""),
        }
    }

    /// Settles how many threads run: what the system allows is read from files that the sandbox
    /// does not.
    pub(crate) fn settle_threads(&mut self) {
        let threads = match self {
            Self::Probe(_) | Self::Info(_) | Self::Inspect(_) | Self::Map(_) => return,
            Self::Lint(_) | Self::QemuImg(_) => return,
            Self::Create(_) | Self::Measure(_) => return,
            Self::Completions(_) | Self::Man(_) => return,
            Self::Check(args) => &mut args.threads,
            Self::Explain(args) => &mut args.threads,
            Self::Convert(args) => &mut args.work.threads,
            Self::Checksum(args) => &mut args.work.threads,
            Self::Compare(args) => &mut args.work.threads,
        };
        if threads.is_none() {
            let most = NonZeroUsize::MIN.saturating_add(15);
            *threads = std::thread::available_parallelism().ok().map(|found| found.min(most));
        }
    }
}

/// Images and the files that they may name, as far as that is allowed.
fn opening<'a>(open: &OpenArgs, images: impl IntoIterator<Item = &'a Path>) -> Needs {
    // of what lies in a container, the file
    let images: Vec<_> = images.into_iter().map(|image| split_name(image).0).collect();
    let parts = images.iter().filter(|_| open.join == Some(Joined::Yes));
    let parts: Vec<_> = parts.flat_map(|first| parts_of(first).unwrap_or_default()).collect();
    let listed = open.resolve.iter().map(|(_, file)| file.clone());
    let needs = Needs::reading(images.iter().cloned().chain(parts).chain(listed));
    match &open.allow_external {
        None => needs,
        Some(Some(folder)) => needs.beneath(folder),
        Some(None) => images.iter().fold(needs, |needs, image| needs.beneath(folder_of(image))),
    }
}

fn checking(args: &CheckArgs) -> Needs {
    let files = || std::iter::once(&args.file).chain(&args.more);
    let needs = Needs::reading(files().map(|file| split_name(file).0));
    let repairs = args.repair.is_some() && !args.dry_run;
    files().filter(|_| repairs).fold(needs, |needs, file| needs.writing(file))
}

/// A new file takes the place of an old one; a device, or with `-n` a file, is written as it is.
fn converting(args: &ConvertArgs) -> Needs {
    let backing = args.backing.as_ref().map(|name| beside(&args.target, name));
    let more = args.more_sources.iter().map(PathBuf::as_path);
    let images = [&*args.source].into_iter().chain(more).chain(backing.as_deref());
    let needs = opening(&args.open, images);
    if args.target.as_os_str() == "-" {
        // what cannot be written forward goes through a file there
        return needs.creating_in(std::env::temp_dir());
    }
    if args.no_create {
        let target = args.target.canonicalize().unwrap_or_else(|_| args.target.clone());
        return needs.writing(target);
    }
    writing_to(needs, &args.target)
}

/// A new file takes the place of an old one; a device is written as it is.
fn writing_to(needs: Needs, target: &Path) -> Needs {
    // a link is followed, so that the file behind it is replaced and not the link
    let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    let is_special = std::fs::metadata(&target).is_ok_and(|found| !found.is_file());
    if is_special {
        return needs.writing(target);
    }
    needs.creating_in(folder_of(&target))
}

fn folder_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}
