//! Compressed files, decoded from the first byte to the last: gzip (RFC 1952), xz (The .xz File
//! Format 1.1.0), Zstandard (RFC 8878), bzip2. What several streams behind one another hold is read
//! as one, as the programs of these names do; anything else behind them is an error, and so are an
//! early end and a wrong checksum.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use flate2::bufread::GzDecoder;

use super::error::Fault;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::num::{to_u64, to_usize};
use crate::storage::Storage;

/// How much is read of the compressed file at once.
const INPUT: usize = 128 << 10;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Codec {
    pub(super) fn of(format: Format) -> Option<Self> {
        match format {
            Format::Gzip => Some(Self::Gzip),
            Format::Xz => Some(Self::Xz),
            Format::ZstdFile => Some(Self::Zstd),
            Format::Bzip2 => Some(Self::Bzip2),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// Decodes what another reader reads. Its end is the end of a whole file: all before it was verified
/// by the checksums that the format has.
///
/// ```
/// use diskimage::container::Decoder;
/// use diskimage::{ErrorKind, Format};
///
/// # let image = b"disk".repeat(1000);
/// # let packed = {
/// #     use std::io::Write;
/// #     let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
/// #     gzip.write_all(&image)?;
/// #     gzip.finish()?
/// # };
/// let mut decoder = Decoder::new(Format::Gzip, &packed[..], 1 << 20)?;
/// let (mut start, mut rest) = ([0; 6], vec![0; 8192]);
/// assert_eq!(decoder.fill(&mut start)?, 6); // all that fits, or is left
/// assert_eq!(&start, b"diskdi");
/// assert!(decoder.decode(&mut rest)? > 0); // as much as comes at once
///
/// let mut cut_off = Decoder::new(Format::Gzip, &packed[..packed.len() - 1], 1 << 20)?;
/// assert_eq!(cut_off.fill(&mut rest).unwrap_err().kind(), ErrorKind::Corrupt);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Decoder<R: BufRead> {
    codec: Codec,
    memory: u64,
    inner: Inner<R>,
}

enum Inner<R: BufRead> {
    Gzip(Box<GzDecoder<R>>),
    #[cfg(feature = "bzip2")]
    Bzip2(Box<bzip2::bufread::BzDecoder<R>>),
    #[cfg(feature = "xz")]
    Xz(Box<lzma_rust2::XzReader<R>>),
    #[cfg(feature = "zstd")]
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
    /// At the end, or where it failed.
    Done,
}

impl<R: BufRead> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl<R: BufRead> Decoder<R> {
    /// Decodes a file of this format, which is one of gzip, xz, zstd and bzip2. What a decoder takes
    /// in memory is bounded by `memory`; meeting it is an error.
    pub fn new(format: Format, inner: R, memory: u64) -> Result<Self> {
        let codec = Codec::of(format).ok_or(Fault::Unsupported("what is not compressed"))?;
        Ok(Self { codec, memory, inner: Inner::start(codec, inner, memory)? })
    }

    /// Decodes the next bytes into `buf`, at least one unless all are decoded: then it is zero.
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            let read = match &mut self.inner {
                Inner::Gzip(decoder) => decoder.read(buf),
                #[cfg(feature = "bzip2")]
                Inner::Bzip2(decoder) => decoder.read(buf),
                #[cfg(feature = "xz")]
                Inner::Xz(decoder) => decoder.read(buf),
                #[cfg(feature = "zstd")]
                Inner::Zstd(decoder) => decoder.read(buf),
                Inner::Done => return Ok(0),
            };
            match read {
                Ok(0) if buf.is_empty() => return Ok(0),
                Ok(0) => {
                    if !self.next_stream()? {
                        return Ok(0);
                    }
                }
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.inner = Inner::Done;
                    return Err(self.error(error));
                }
            }
        }
    }

    /// Decodes as many bytes as `buf` holds, or all that are left.
    pub fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut filled = 0usize;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.decode(rest)? {
                0 => break,
                length => filled = filled.saturating_add(length),
            }
        }
        Ok(filled)
    }

    /// Goes on with the stream behind the one that has ended, if there is one.
    fn next_stream(&mut self) -> Result<bool> {
        let ended = std::mem::replace(&mut self.inner, Inner::Done);
        let mut rest = match ended {
            Inner::Gzip(decoder) => decoder.into_inner(),
            #[cfg(feature = "bzip2")]
            Inner::Bzip2(decoder) => decoder.into_inner(),
            // those of the others see to that
            _ => return Ok(false),
        };
        let mut behind = || loop {
            match rest.fill_buf() {
                Ok(bytes) => {
                    // gzip passes over zeros, which fill up the last block of a tape
                    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
                    let zeros = if self.codec == Codec::Gzip { zeros } else { 0 };
                    let first = bytes.get(zeros).copied();
                    rest.consume(zeros);
                    if zeros == 0 || first.is_some() {
                        return Ok((first, zeros > 0));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let (first, padded) = behind().map_err(|error| self.error(error))?;
        let magic = if self.codec == Codec::Gzip { 0x1f } else { b'B' };
        match first {
            None => Ok(false),
            Some(first) if first == magic && !padded => {
                self.inner = Inner::start(self.codec, rest, self.memory)?;
                Ok(true)
            }
            Some(_) => Err(Fault::Trailing(self.codec.name()).into()),
        }
    }

    /// What an error of a decoder means.
    fn error(&self, error: io::Error) -> Error {
        let codec = self.codec.name();
        let why = crate::text::printable_str(&error.to_string());
        if error.raw_os_error().is_some() {
            return Error::io("read", error);
        }
        let kind = error.kind();
        if let Some(inner) = error.into_inner() {
            match inner.downcast::<Error>() {
                Ok(own) => return *own,
                Err(other) => drop(other),
            }
        }
        let limit = self.memory;
        match kind {
            io::ErrorKind::UnexpectedEof => Fault::CutOff(codec).into(),
            io::ErrorKind::OutOfMemory => Fault::Memory { codec, limit }.into(),
            _ if why.contains("too much memory") => Fault::Memory { codec, limit }.into(),
            _ => Fault::Damaged { codec, why }.into(),
        }
    }
}

impl<R: BufRead> Inner<R> {
    fn start(codec: Codec, inner: R, memory: u64) -> Result<Self> {
        #[cfg(not(any(feature = "xz", feature = "zstd")))]
        let _ = memory;
        match codec {
            Codec::Gzip => Ok(Self::Gzip(Box::new(GzDecoder::new(inner)))),
            #[cfg(feature = "bzip2")]
            Codec::Bzip2 => Ok(Self::Bzip2(Box::new(bzip2::bufread::BzDecoder::new(inner)))),
            #[cfg(feature = "xz")]
            Codec::Xz => {
                let limit = u32::try_from(memory >> 10).unwrap_or(u32::MAX);
                Ok(Self::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(inner, true, limit))))
            }
            #[cfg(feature = "zstd")]
            Codec::Zstd => {
                // 2^31 is the largest window that its library knows
                let log = memory.checked_ilog2().unwrap_or_default().clamp(10, 31);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(inner)
                    .map_err(|source| Error::io("start the decoder of zstd", source))?;
                decoder
                    .window_log_max(log)
                    .map_err(|source| Error::io("bound the decoder of zstd", source))?;
                Ok(Self::Zstd(Box::new(decoder)))
            }
            #[cfg(not(all(feature = "bzip2", feature = "xz", feature = "zstd")))]
            _ => Err(Fault::NotBuilt(codec.name()).into()),
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.decode(buf)?)
    }
}

/// A range of a storage, read from its start to its end.
///
/// ```
/// use std::io::Read;
/// use std::sync::Arc;
///
/// use diskimage::container::StorageReader;
/// use diskimage::storage::MemoryStorage;
///
/// let storage = Arc::new(MemoryStorage::new(b"0123456789".to_vec()));
/// let mut text = String::new();
/// StorageReader::new(storage, 3, 7).read_to_string(&mut text)?;
/// assert_eq!(text, "3456");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct StorageReader {
    storage: Arc<dyn Storage>,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    taken: usize,
}

impl StorageReader {
    /// Reads the bytes from `start` to `end`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, start: u64, end: u64) -> Self {
        Self { storage, at: start, end, buffer: Vec::new(), taken: 0 }
    }
}

impl BufRead for StorageReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken >= self.buffer.len() && self.at < self.end {
            let length = to_usize(self.end.saturating_sub(self.at)).min(INPUT);
            self.taken = 0;
            self.buffer.resize(length, 0);
            if let Err(error) = self.storage.read_exact_at(&mut self.buffer, self.at) {
                self.buffer.clear();
                return Err(error.into());
            }
            self.at = self.at.saturating_add(to_u64(length));
        }
        Ok(self.buffer.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.taken = self.taken.saturating_add(amount).min(self.buffer.len());
    }
}

impl Read for StorageReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let filled = self.fill_buf()?;
        let length = filled.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), filled.get(..length)) {
            to.copy_from_slice(from);
        }
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::{Fault as Failing, FaultStorage, MemoryStorage};

    fn sample() -> Vec<u8> {
        (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 9) as u8 & 0x3f).collect()
    }

    /// The sample in each of the formats.
    fn packed() -> Vec<(Format, Vec<u8>)> {
        let data = sample();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&data).unwrap();
        let mut all = vec![(Format::Gzip, gzip.finish().unwrap())];
        #[cfg(feature = "bzip2")]
        {
            let level = bzip2::Compression::fast();
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), level);
            out.write_all(&data).unwrap();
            all.push((Format::Bzip2, out.finish().unwrap()));
        }
        #[cfg(feature = "zstd")]
        {
            let mut out = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            out.include_checksum(true).unwrap();
            out.write_all(&data).unwrap();
            all.push((Format::ZstdFile, out.finish().unwrap()));
        }
        #[cfg(feature = "xz")]
        all.push((Format::Xz, super::super::blocks::tests::xz(&data)));
        all
    }

    fn decode(format: Format, bytes: Vec<u8>) -> Result<Vec<u8>> {
        decode_from(format, Arc::new(MemoryStorage::new(bytes)))
    }

    fn decode_from(format: Format, storage: Arc<dyn Storage>) -> Result<Vec<u8>> {
        let end = storage.size();
        let mut decoder = Decoder::new(format, StorageReader::new(storage, 0, end), 64 << 20)?;
        let (mut all, mut buf) = (Vec::new(), vec![0; 10_000]);
        loop {
            match decoder.decode(&mut buf)? {
                0 => return Ok(all),
                length => all.extend(&buf[..length]),
            }
        }
    }

    #[test]
    fn streams_are_read_whole_also_several() {
        for (format, stream) in packed() {
            assert_eq!(decode(format, stream.clone()).unwrap(), sample(), "{format}");
            let twice = [&stream[..], &stream].concat();
            assert_eq!(decode(format, twice).unwrap(), [sample(), sample()].concat(), "{format}");
        }
    }

    #[test]
    fn garbage_behind_is_an_error_and_padding_is_not_everywhere() {
        for (format, stream) in packed() {
            for garbage in [&b"x"[..], b"garbage that follows", &[0, 0, 0, 0, 1]] {
                let bad = [&stream[..], garbage].concat();
                assert_eq!(decode(format, bad).unwrap_err().kind(), ErrorKind::Corrupt, "{format}");
            }
            let padded = [&stream[..], &[0; 512]].concat();
            let takes = matches!(format, Format::Gzip | Format::Xz);
            assert_eq!(decode(format, padded).is_ok(), takes, "{format}");
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        for (format, stream) in packed() {
            let length = stream.len();
            for cut in (0..40).chain((40..length).step_by(997)).chain(length - 40..length) {
                let got = decode(format, stream[..cut].to_vec());
                // a file of no bytes holds no stream
                assert!(got.is_err() || cut == 0 && got.unwrap().is_empty(), "{format}: {cut}");
            }
        }
    }

    #[test]
    fn a_changed_byte_never_changes_what_is_read() {
        for (format, stream) in packed() {
            for at in (0..stream.len()).step_by(stream.len() / 150 + 1) {
                let mut bad = stream.clone();
                bad[at] ^= 0x10;
                // some bytes mean nothing: a time, a name of a system
                assert!(
                    decode(format, bad).is_ok_and(|got| got == sample()) || {
                        let mut bad = stream.clone();
                        bad[at] ^= 0x10;
                        decode(format, bad).is_err()
                    },
                    "{format}: byte {at}"
                );
            }
        }
    }

    #[test]
    fn an_error_of_the_medium_stays_one() {
        for (format, stream) in packed() {
            let storage = FaultStorage::new(MemoryStorage::new(stream), Failing::NthRead(0));
            let error = decode_from(format, Arc::new(storage)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{format}: {error}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        for (format, stream) in packed() {
            if format != Format::Xz {
                continue;
            }
            let end = to_u64(stream.len());
            let reader = StorageReader::new(Arc::new(MemoryStorage::new(stream)), 0, end);
            let mut decoder = Decoder::new(format, reader, 1 << 20).unwrap();
            let error = decoder.decode(&mut [0; 100]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
        }
    }
}
