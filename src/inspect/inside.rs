//! Judging what lies in a container: each disk of an archive in its place, and what is compressed
//! while it is decoded, so that nothing is written anywhere.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "checksum")]
use crate::checksum::Hashers;
use crate::container::{Archive, Compressed, Container, Decoder, Forward};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::format::probe::{HEAD, Probe, TAIL, probe, probe_bytes};
use crate::num::to_u64;
use crate::storage::Storage;

use super::facts::{Facts, is_outer};
use super::{Inspect, Verdict};

/// How much is decoded at once.
const PIECE: usize = 64 << 10;

/// Something that lies in a container.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::Format;
/// use diskimage::inspect::{Inspect, Policy};
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
/// # let storage = Arc::new(MemoryStorage::new(packed));
/// let verdict = Inspect::new(Policy::permissive()).storage(storage, Path::new("a.qcow2.gz"))?;
/// assert_eq!(verdict.facts.format, Some(Format::Gzip));
/// let inside = &verdict.facts.inside[0];
/// assert!(inside.name.is_empty()); // of a member of an archive it is the name
/// assert_eq!(inside.facts.format, Some(Format::Qcow2));
/// assert_eq!(inside.facts.virtual_size, Some(1 << 30));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Inside {
    /// Its name there, as bytes; of what is compressed, none.
    pub name: Vec<u8>,
    /// What it is.
    pub facts: Facts,
}

impl Inspect {
    /// The container that a file is, unless it is said to be something else.
    pub(super) fn container_format(&self, probe: &Probe) -> Option<Format> {
        match self.format {
            Some(format) => Some(format).filter(|&format| Container::is_one(format)),
            None => Container::format_of(probe).filter(|&format| Container::is_one(format)),
        }
    }

    /// The facts of a container with those of what lies in it; `None` if the file is none.
    pub(super) fn look_into(
        &self,
        storage: &Arc<dyn Storage>,
        path: &Path,
        probe: &Probe,
    ) -> Result<Option<Facts>> {
        let Some(format) = self.container_format(probe) else { return Ok(None) };
        let mut facts = Facts::new(probe, storage.size());
        facts.format = Some(format);
        let looked = match Container::open_as(format, storage, path, &self.limits) {
            Ok(Some(Container::Archive(archive))) => self.look_into_archive(&archive, &mut facts),
            Ok(Some(Container::Compressed(compressed))) => self.decode(&compressed, &mut facts),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match looked {
            Err(error) if is_outer(&error) => return Err(error),
            Err(error) => facts.error = Some(error),
            Ok(()) => {}
        }
        Ok(Some(facts))
    }

    fn look_into_archive(&self, archive: &Archive, facts: &mut Facts) -> Result<()> {
        let options = self.inner().options(self.limits.clone());
        let (_, findings) = crate::inside::disks(archive, &options)?;
        let told = archive.describe().findings.into_iter().chain(findings);
        // what signatures tell was said
        let told = told.filter(|new| facts.findings.iter().all(|old| old.code != new.code));
        let told: Vec<_> = told.collect();
        facts.findings.extend(told);
        let disks = archive.disks()?;
        if disks.is_empty() {
            return archive.only_disk().map(drop);
        }
        for member in disks {
            let (storage, path) = (archive.open(member)?, archive.name_of(member));
            let found = probe(&storage).map_err(|error| error.in_file(&path))?;
            let inner = match Container::format_of(&found).filter(|&f| Compressed::is_one(f)) {
                None => Facts::of_file(&options, storage, &path, found)?,
                Some(format) => {
                    let memory = self.limits.max_decoder_memory;
                    let mut inner = Facts::new(&found, member.size);
                    inner.format = Some(format);
                    let compressed = Compressed::new(storage, &path, format, memory);
                    match self.decode(&compressed, &mut inner) {
                        Err(error) if is_outer(&error) => return Err(error),
                        Err(error) => inner.error = Some(error),
                        Ok(()) => {}
                    }
                    inner
                }
            };
            facts.inside.push(Inside { name: member.name.clone(), facts: inner });
        }
        Ok(())
    }

    /// What judges something inside.
    pub(super) fn inner(&self) -> Self {
        let mut inner = self.clone();
        inner.declared = None;
        inner.format = None;
        #[cfg(feature = "checksum")]
        inner.algorithms.clear();
        inner
    }

    fn decode(&self, compressed: &Compressed, facts: &mut Facts) -> Result<()> {
        if let Some(progress) = &self.progress {
            progress.start_reading(compressed.storage().size());
        }
        self.pass(compressed.reader()?, compressed.path(), facts).map(drop)
    }

    /// Has what is decoded of the file `path` pass by. Gives whether all of it did.
    fn pass<R: BufRead>(
        &self,
        mut decoder: Decoder<R>,
        path: &Path,
        facts: &mut Facts,
    ) -> Result<bool> {
        let mut forward = Forward::new(|buf| {
            self.progress.as_ref().map_or(Ok(()), |progress| progress.check())?;
            decoder.decode(buf)
        });
        let inner = self.inner();
        let found = probe_next(&mut forward)?;
        let is_archive = |format: &Format| matches!(format, Format::Tar | Format::Ova);
        let (inner, passed) = match inner.container_format(&found).filter(is_archive) {
            Some(format) => {
                let mut archive = Facts::new(&found, 0);
                archive.format = Some(format);
                let passed = inner.pass_archive(&mut forward, path, &mut archive);
                archive.file_size = forward.position();
                match passed {
                    // it is the archive that is wrong, and not what it is compressed in
                    Err(error) if !is_outer(&error) && !forward.has_failed() => {
                        archive.error = Some(error);
                        (archive, forward.drain().map(|()| true))
                    }
                    passed => (archive, passed),
                }
            }
            None => {
                let mut stream = inner.stream();
                let passed = loop {
                    match forward.take(u64::MAX) {
                        Ok([]) => break Ok(true),
                        Ok(piece) if stream.push(piece).is_refused() => break Ok(false),
                        Ok(_) => {}
                        Err(error) => break Err(error),
                    }
                };
                (stream.finish().facts, passed)
            }
        };
        facts.inside.push(Inside { name: Vec::new(), facts: inner });
        passed
    }

    /// Judges what `reader` gives, from its start to its end, or until it is refused: an image, or an
    /// archive or a compressed file of such, which is decoded as it comes. Gives how many bytes were
    /// read too.
    ///
    /// ```
    /// use diskimage::inspect::{Inspect, Policy};
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
    /// let mut policy = Policy::permissive();
    /// policy.max_virtual_size = Some(1 << 20);
    /// let (verdict, bytes) = Inspect::new(policy).read(&packed[..])?; // any `Read`
    /// assert_eq!(bytes, packed.len() as u64);
    /// assert_eq!(verdict.reasons[0].rule, "virtual-size"); // that of the image inside
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(self, reader: impl Read) -> Result<(Verdict, u64)> {
        let mut reader = reader;
        let progress = self.progress.clone();
        if let Some(progress) = &progress {
            // nobody knows how much there is
            progress.start(0);
        }
        let mut source = Forward::new(|buf| {
            progress.as_ref().map_or(Ok(()), |progress| progress.check())?;
            let length = by_reading(|| reader.read(buf))?;
            if let Some(progress) = &progress {
                progress.advance(to_u64(length));
            }
            Ok(length)
        });
        let found = probe_next(&mut source)?;
        if let Some(format) = self.container_format(&found) {
            return self.read_container(format, &found, source);
        }
        let mut stream = self.stream();
        loop {
            let piece = source.take(u64::MAX)?;
            if piece.is_empty() || stream.push(piece).is_refused() {
                let bytes = stream.bytes();
                return Ok((stream.finish(), bytes));
            }
        }
    }

    fn read_container<F: FnMut(&mut [u8]) -> Result<usize>>(
        self,
        format: Format,
        found: &Probe,
        source: Forward<F>,
    ) -> Result<(Verdict, u64)> {
        let mut facts = Facts::new(found, 0);
        facts.format = Some(format);
        // what is around it may refuse it before anything is decoded
        let outer = self.policy.judge(&facts, self.declared);
        if !outer.is_empty() {
            let mut verdict = self.verdict(facts);
            verdict.early = true;
            return Ok((verdict, 0));
        }
        let mut counted = Counted {
            source,
            bytes: 0,
            limit: self.policy.max_file_size.unwrap_or(u64::MAX),
            #[cfg(feature = "checksum")]
            hashers: Hashers::new(&self.algorithms)?,
        };
        let path = Path::new(super::stream::NAME);
        let passed = if Compressed::is_one(format) {
            let input = BufReader::with_capacity(PIECE, &mut counted);
            let decoder = Decoder::new(format, input, self.limits.max_decoder_memory);
            decoder.and_then(|decoder| self.pass(decoder, path, &mut facts))
        } else {
            let mut forward = Forward::new(|buf| counted.next(buf));
            let passed = self.pass_archive(&mut forward, path, &mut facts);
            match passed {
                // all of it is read, and counted
                Err(error) if !forward.has_failed() => forward.drain().and(Err(error)),
                passed => passed,
            }
        };
        let whole = match passed {
            Err(error) if is_outer(&error) => return Err(error),
            Err(error) => {
                facts.error = Some(error);
                false
            }
            Ok(whole) => whole,
        };
        facts.file_size = counted.bytes;
        let bytes = counted.bytes;
        let mut verdict = self.verdict(facts);
        verdict.early = !whole;
        #[cfg(feature = "checksum")]
        if whole {
            verdict.digests = counted.hashers.finish();
        }
        Ok((verdict, bytes))
    }
}

/// What the bytes are that come next, as far as they tell.
fn probe_next<F: FnMut(&mut [u8]) -> Result<usize>>(source: &mut Forward<F>) -> Result<Probe> {
    let limit = HEAD.saturating_add(1);
    let head = source.peek(limit)?;
    let whole = head.len() < limit;
    let tail = head.get(head.len().saturating_sub(TAIL)..).unwrap_or_default();
    Ok(probe_bytes(head, whole.then_some((tail, to_u64(head.len())))))
}

fn by_reading(mut read: impl FnMut() -> io::Result<usize>) -> Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|source| Error::io("read the image", source)),
        }
    }
}

/// Counts and hashes what passes, and ends where there is too much of it.
struct Counted<F> {
    source: Forward<F>,
    bytes: u64,
    limit: u64,
    #[cfg(feature = "checksum")]
    hashers: Hashers,
}

impl<F: FnMut(&mut [u8]) -> Result<usize>> Counted<F> {
    fn next(&mut self, buf: &mut [u8]) -> Result<usize> {
        let piece = self.source.take(to_u64(buf.len()))?;
        let length = piece.len();
        let (taken, _) = buf.split_at_mut(length);
        taken.copy_from_slice(piece);
        self.bytes = self.bytes.saturating_add(to_u64(length));
        #[cfg(feature = "checksum")]
        self.hashers.update(taken);
        if self.bytes > self.limit {
            let text = format!("more than the {} bytes that are allowed", self.limit);
            return Err(Error::other(ErrorKind::LimitExceeded, text));
        }
        Ok(length)
    }
}

impl<F: FnMut(&mut [u8]) -> Result<usize>> Read for Counted<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.next(buf)?)
    }
}
