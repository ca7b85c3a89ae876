//! The way from a file into what is named inside of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Fault;
use super::{Archive, Container, MAX_DEPTH, Member, Spill};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::probe::probe;
use crate::limits::Limits;
use crate::progress::Progress;
use crate::resolve::{Resolved, Siblings};
use crate::storage::Storage;

/// What a name stands for.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) path: PathBuf,
    /// Where it lies, if that is an archive.
    pub(crate) place: Option<Place>,
}

/// A place in an archive.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    archive: Arc<Archive>,
    member: Vec<u8>,
}

/// How to go.
#[derive(Debug)]
pub(crate) struct Way<'a> {
    /// What the named file is said to be, if anything.
    pub(crate) format: Option<Format>,
    pub(crate) limits: &'a Limits,
    /// Where to decode to.
    pub(crate) spill: Option<&'a Spill>,
    /// Who watches that.
    pub(crate) progress: Option<&'a Progress>,
    /// Whether to go on into the disk of a container that is named as a whole.
    pub(crate) to_disk: bool,
}

impl Way<'_> {
    /// Goes from the file `storage`, called `path`, to the `member` in it, if one is named.
    pub(crate) fn find(
        &self,
        storage: Arc<dyn Storage>,
        path: &Path,
        member: Option<Vec<u8>>,
    ) -> Result<Found> {
        let mut found = Found { storage, path: path.to_owned(), place: None };
        let (mut name, mut said) = (member, self.format);
        let mut depth = 0usize;
        loop {
            let format = if name.is_some() { None } else { said.take() };
            let goes_on = name.is_some() || self.to_disk;
            if !goes_on || format.is_some_and(|format| !Container::is_one(format)) {
                return Ok(found);
            }
            let Some(container) = self.container(&found, format)? else {
                return match name {
                    None => Ok(found),
                    Some(_) => Err(Error::new(Fault::NoArchive).in_file(&found.path)),
                };
            };
            if depth >= MAX_DEPTH {
                return Err(Error::new(Fault::TooDeep(MAX_DEPTH)).in_file(path));
            }
            depth = depth.saturating_add(1);
            match container {
                Container::Archive(archive) => {
                    let (member, behind) = match &name {
                        Some(name) => archive.look_up(name)?,
                        None => (archive.only_disk()?, None),
                    };
                    let storage = archive.open(member)?;
                    let (path, member) = (archive.name_of(member), member.name.clone());
                    let place = Some(Place { archive: Arc::new(archive), member });
                    found = Found { storage, path, place };
                    name = behind;
                }
                Container::Compressed(compressed) => {
                    let none = || Error::new(Fault::NoSpill).in_file(&found.path);
                    let spill = self.spill.ok_or_else(none)?;
                    if let Some(progress) = self.progress {
                        progress.start_reading(compressed.storage().size());
                    }
                    found.storage = spill.take(&compressed, &found.path)?;
                    if let Some(progress) = self.progress {
                        progress.start_reading(0);
                    }
                }
                // opening it as an image says that its content is not read
                Container::Vma(_) => return Ok(found),
            }
        }
    }

    fn container(&self, found: &Found, format: Option<Format>) -> Result<Option<Container>> {
        let Found { storage, path, .. } = found;
        match format {
            Some(format) => Container::open_as(format, storage, path, self.limits),
            None => {
                let probe = probe(storage).map_err(|error| error.in_file(path))?;
                // its devices are of no use here
                if probe.images().next().is_some() {
                    return Ok(None);
                }
                Container::open(storage, path, &probe, self.limits)
            }
        }
    }
}

impl Archive {
    /// The member of a name, and what is named inside of that.
    fn look_up(&self, name: &[u8]) -> Result<(&Member, Option<Vec<u8>>)> {
        let error = match self.find(name) {
            Ok(member) => return Ok((member, None)),
            Err(error) => error,
        };
        let hashes = name.iter().enumerate().rev().filter(|(_, byte)| **byte == b'#');
        for (at, _) in hashes {
            let (outer, inner) = name.split_at(at);
            if let Ok(member) = self.find(outer) {
                return Ok((member, Some(inner.get(1..).unwrap_or_default().to_vec())));
            }
        }
        Err(error)
    }
}

impl Place {
    /// The place of another member of the archive, by what that is called; `None` if it is none.
    pub(crate) fn of_sibling(self, path: &Path) -> Option<Self> {
        let same = |member: &&Member| self.archive.name_of(member) == path;
        let member = self.archive.members().iter().find(same)?.name.clone();
        Some(Self { member, ..self })
    }
}

impl Siblings for Place {
    fn find(&self, name: &[u8]) -> Option<Result<Resolved>> {
        let name = beside(&self.member, name)?;
        // the name of no member, or of several, is an error of the image that says it
        let there = self.archive.members().iter().any(|member| member.plain_name() == name);
        there.then(|| {
            let member = self.archive.find(&name)?;
            let storage = self.archive.open(member)?;
            Ok(Resolved { storage, path: self.archive.name_of(member) })
        })
    }
}

/// What `name`, which the member `from` holds, is called in the archive: a name of its own folder or
/// below. `None` if it leads elsewhere.
fn beside(from: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let from = super::plain(from);
    let folder = from.iter().rposition(|&byte| byte == b'/').and_then(|at| from.get(..=at));
    let parts = name.split(|&byte| byte == b'/').filter(|part| *part != b".");
    let parts: Vec<_> = parts.collect();
    let plain = !name.is_empty() && parts.iter().all(|part| !part.is_empty() && *part != b"..");
    plain.then(|| [folder.unwrap_or_default(), &parts.join(&b'/')].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_inside_stays_in_the_folder_of_who_says_it() {
        for (from, name, wanted) in [
            (&b"a.vmdk"[..], &b"a-flat.vmdk"[..], Some(&b"a-flat.vmdk"[..])),
            (b"./dir/a.vmdk", b"./b.vmdk", Some(b"dir/b.vmdk")),
            (b"dir/a", b"sub/./b", Some(b"dir/sub/b")),
            (b"dir/a", b"../b", None),
            (b"dir/a", b"sub/../b", None),
            (b"a", b"/etc/passwd", None),
            (b"a", b"", None),
            (b"a", b"b//c", None),
        ] {
            assert_eq!(beside(from, name).as_deref(), wanted, "{from:?} {name:?}");
        }
    }
}
