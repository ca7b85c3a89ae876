//! Judging what lies in a container: each disk of an archive in its place, and what is compressed
//! while it is decoded, so that nothing is written anywhere.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "checksum")]
use crate::checksum::Hashers;
use crate::container::{Archive, Compressed, Container, Decoder};
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
    fn inner(&self) -> Self {
        let mut inner = self.clone();
        inner.declared = None;
        inner.format = None;
        #[cfg(feature = "checksum")]
        inner.algorithms.clear();
        inner
    }

    fn decode(&self, compressed: &Compressed, facts: &mut Facts) -> Result<()> {
        self.pass(compressed.reader()?, facts).map(drop)
    }

    /// Has what is decoded pass by. Gives whether all of it did.
    fn pass<R: BufRead>(&self, mut decoder: Decoder<R>, facts: &mut Facts) -> Result<bool> {
        let (mut stream, mut buf) = (self.inner().stream(), vec![0; PIECE]);
        let mut whole = true;
        let failed = loop {
            if let Some(progress) = &self.progress
                && let Err(error) = progress.check()
            {
                break Some(error);
            }
            match decoder.decode(&mut buf) {
                Ok(0) => break None,
                Ok(length) => {
                    if stream.push(buf.get(..length).unwrap_or_default()).is_refused() {
                        whole = false;
                        break None;
                    }
                }
                Err(error) => break Some(error),
            }
        };
        // where decoding failed at once, nothing is known of what is inside
        if failed.is_none() || stream.bytes() > 0 {
            let inner = stream.finish().facts;
            facts.inside.push(Inside { name: Vec::new(), facts: inner });
        }
        failed.map_or(Ok(whole), Err)
    }

    /// Judges what `reader` gives, from its start to its end, or until it is refused: an image, or a
    /// compressed file with one inside, which is decoded as it comes. Gives how many bytes were read
    /// too.
    pub fn read(self, reader: impl Read) -> Result<(Verdict, u64)> {
        let mut reader = BufReader::with_capacity(PIECE, reader);
        let mut head = Vec::new();
        let limit = to_u64(HEAD).saturating_add(1);
        by_reading(|| reader.by_ref().take(limit).read_to_end(&mut head))?;
        let whole = to_u64(head.len()) < limit;
        let tail = head.get(head.len().saturating_sub(TAIL)..).unwrap_or_default();
        let found = probe_bytes(&head, whole.then_some((tail, to_u64(head.len()))));
        let format = self.container_format(&found).filter(|&format| Compressed::is_one(format));
        match format {
            Some(format) => self.read_compressed(format, &found, Cursor::new(head).chain(reader)),
            None => self.read_image(Cursor::new(head).chain(reader)),
        }
    }

    fn read_image(self, mut reader: impl Read) -> Result<(Verdict, u64)> {
        let (progress, mut stream) = (self.progress.clone(), self.stream());
        let mut buf = vec![0; PIECE];
        loop {
            if let Some(progress) = &progress {
                progress.check()?;
            }
            let length = by_reading(|| reader.read(&mut buf))?;
            let piece = buf.get(..length).unwrap_or_default();
            if length == 0 || stream.push(piece).is_refused() {
                let bytes = stream.bytes();
                return Ok((stream.finish(), bytes));
            }
        }
    }

    fn read_compressed(
        self,
        format: Format,
        found: &Probe,
        reader: impl Read,
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
            inner: reader,
            bytes: 0,
            limit: self.policy.max_file_size.unwrap_or(u64::MAX),
            #[cfg(feature = "checksum")]
            hashers: Hashers::new(&self.algorithms)?,
        };
        let whole = {
            let input = BufReader::with_capacity(PIECE, &mut counted);
            let decoder = Decoder::new(format, input, self.limits.max_decoder_memory);
            let passed = decoder.and_then(|decoder| self.pass(decoder, &mut facts));
            match passed {
                Err(error) if is_outer(&error) => return Err(error),
                Err(error) => {
                    facts.error = Some(error);
                    false
                }
                Ok(whole) => whole,
            }
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

fn by_reading(mut read: impl FnMut() -> io::Result<usize>) -> Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|source| Error::io("read the image", source)),
        }
    }
}

/// Counts and hashes what passes, and ends where there is too much of it.
struct Counted<R> {
    inner: R,
    bytes: u64,
    limit: u64,
    #[cfg(feature = "checksum")]
    hashers: Hashers,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buf).map_err(|source| match source.kind() {
            io::ErrorKind::Interrupted => source,
            _ => Error::io("read the image", source).into(),
        })?;
        self.bytes = self.bytes.saturating_add(to_u64(length));
        #[cfg(feature = "checksum")]
        self.hashers.update(buf.get(..length).unwrap_or_default());
        if self.bytes > self.limit {
            let text = format!("more than the {} bytes that are allowed", self.limit);
            return Err(Error::other(ErrorKind::LimitExceeded, text).into());
        }
        Ok(length)
    }
}
