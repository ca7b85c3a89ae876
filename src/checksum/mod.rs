//! Checksums of what a guest sees: the same value whatever format the disk is in.
//!
//! ```
//! # use diskimage::format::qcow2::Qcow2Options;
//! # use diskimage::target::FileTarget;
//! # use diskimage::{Convert, Target};
//! use diskimage::OpenOptions;
//! use diskimage::checksum::{Algorithm, Checksum};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("image.qcow2");
//! # let target = FileTarget::create(&path, 0)?;
//! # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
//! # Box::new(target).finish()?;
//! let disk = OpenOptions::new().open(&path)?; // 1 MiB to which nothing was written
//! let digests = Checksum::new().algorithm(Algorithm::Sha256).run(&disk)?;
//! // what sha256sum says of the raw disk
//! let wanted = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58";
//! assert_eq!(digests[0].to_string(), wanted);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use crate::container::Compressed;
use crate::convert::{Convert, Output, Report};
use crate::disk::VirtualDisk;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::num::Pow2;
use crate::progress::Progress;
use crate::target::{Capabilities, Target};
use crate::writer::Writer;

mod blkhash;
mod hashers;
mod lanes;
mod manifest;

pub(crate) use hashers::Hashers;
use lanes::Lanes;
pub use manifest::{Block, Manifest};

/// A way to compute a checksum.
///
/// ```
/// use diskimage::checksum::Algorithm;
///
/// assert_eq!("sha256".parse::<Algorithm>()?, Algorithm::Sha256);
/// assert_eq!(Algorithm::Blake3.digest_length(), 32);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4), as `sha256sum`.
    Sha256,
    /// SHA-512 (FIPS 180-4), as `sha512sum`.
    Sha512,
    /// SHA-1 (FIPS 180-4), as `sha1sum`. Broken against malice.
    Sha1,
    /// MD5 (RFC 1321), as `md5sum`. Broken against malice.
    Md5,
    /// BLAKE3, as `b3sum`. The only one of the strong ones that uses all processors.
    Blake3,
    /// CRC-32 with the polynomial of gzip and IEEE 802.3, as four bytes in big-endian order. Guards
    /// against accidents only. Runs of zeros take no time.
    Crc32,
    /// The block hash of `blksum` (the project nirs/blkhash), made of SHA-256: the digests of all
    /// blocks of 64 KiB, one after the other, and then the size in bytes as 64 bits in
    /// little-endian order, are hashed once more. The disk is taken for a whole number of sectors
    /// of 512 bytes, zeros added. Uses all processors, and runs of zeros take next to no time.
    Blkhash,
}

impl Algorithm {
    /// All of them, the default first.
    pub const ALL: &[Self] = &[
        Self::Sha256,
        Self::Sha512,
        Self::Sha1,
        Self::Md5,
        Self::Blake3,
        Self::Crc32,
        Self::Blkhash,
    ];

    /// Its name: `sha256`.
    ///
    /// ```
    /// use diskimage::checksum::Algorithm;
    ///
    /// // what a program can offer, and what it has to make room for
    /// let choices: Vec<_> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
    /// assert_eq!(choices[..3], ["sha256", "sha512", "sha1"]);
    /// let longest = Algorithm::ALL.iter().map(|algorithm| algorithm.digest_length()).max();
    /// assert_eq!(longest, Some(64));
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::Blake3 => "blake3",
            Self::Crc32 => "crc32",
            Self::Blkhash => "blkhash",
        }
    }

    /// The length of its digests, bytes.
    #[must_use]
    pub const fn digest_length(self) -> usize {
        match self {
            Self::Sha512 => 64,
            Self::Sha256 | Self::Blake3 | Self::Blkhash => 32,
            Self::Sha1 => 20,
            Self::Md5 => 16,
            Self::Crc32 => 4,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    /// By name, in either case.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name));
        found
            .copied()
            .ok_or_else(|| ChecksumDetail::Unknown(crate::text::printable_str(name)).into())
    }
}

/// A checksum. Its `Display` is the hexadecimal form that the usual tools print.
///
/// ```
/// use diskimage::checksum::{Algorithm, Checksum};
/// use diskimage::disk::EmptyDisk;
///
/// let digests = Checksum::new().algorithm(Algorithm::Crc32).run(&EmptyDisk(512))?;
/// assert_eq!(digests[0].algorithm, Algorithm::Crc32);
/// assert_eq!(digests[0].to_string(), "b2aa7578");
/// assert_eq!(digests[0].bytes, [0xb2, 0xaa, 0x75, 0x78]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// Its bytes, as many as the [algorithm](Algorithm::digest_length) has.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, thiserror::Error)]
enum ChecksumDetail {
    #[error("there is no checksum '{0}'")]
    Unknown(String),
    #[error("blocks of {0} bytes: it must be a power of two from 512 to {max}", max = MAX_BLOCK)]
    BlockSize(u64),
    #[error("a block hash is no hash of single blocks")]
    BlocksOfBlocks,
    #[error("a block hash is one of disks, not of the bytes of a file")]
    BlocksOfFile,
    #[error("the manifest contradicts itself: {0}")]
    Manifest(&'static str),
}

impl Detail for ChecksumDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Manifest(_) => ErrorKind::Corrupt,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Unknown(_) => {
                let names: Vec<_> = Algorithm::ALL.iter().map(|a| a.name()).collect();
                format!("choose among {}", names.join(", ")).into()
            }
            Self::BlockSize(_) => "choose such a size, 1M for example".into(),
            Self::BlocksOfBlocks | Self::BlocksOfFile => {
                "choose another algorithm, sha256 for example".into()
            }
            Self::Manifest(_) => "make it anew".into(),
        })
    }
}

/// The largest block of a block hash or a manifest, bytes.
const MAX_BLOCK: u64 = 4 << 20;

/// How to compute checksums: a builder. The default is SHA-256 by every processor.
///
/// Several algorithms see the disk in one pass. The result never depends on the format, on what is
/// stored and what is a hole, or on the number of threads. What cannot be read is an error.
///
/// ```
/// use diskimage::checksum::{Algorithm, Checksum};
/// use diskimage::disk::EmptyDisk;
///
/// // a TiB of zeros, by the block hash: no time
/// let digests = Checksum::new().algorithm(Algorithm::Blkhash).run(&EmptyDisk(1 << 40))?;
/// assert_eq!(digests[0].to_string().len(), 64);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Checksum {
    algorithms: Vec<Algorithm>,
    blkhash_block: u64,
    convert: Convert,
}

impl Default for Checksum {
    fn default() -> Self {
        Self { algorithms: Vec::new(), blkhash_block: 64 << 10, convert: Convert::new() }
    }
}

impl Checksum {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an algorithm. Without any it is SHA-256.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithms.push(algorithm);
        self
    }

    /// The block of [`Algorithm::Blkhash`], which changes its value: a power of two from 512 bytes
    /// to 4 MiB. Default: 64 KiB, as `blksum`.
    ///
    /// ```
    /// use diskimage::checksum::{Algorithm, Checksum};
    /// use diskimage::disk::EmptyDisk;
    ///
    /// let job = Checksum::new().algorithm(Algorithm::Blkhash);
    /// let (disk, larger) = (EmptyDisk(1 << 30), job.clone().blkhash_block(1 << 20));
    /// assert_ne!(job.run(&disk)?, larger.run(&disk)?);
    /// assert!(job.blkhash_block(1000).run(&disk).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn blkhash_block(mut self, bytes: u64) -> Self {
        self.blkhash_block = bytes;
        self
    }

    /// The number of threads, as [`Convert::threads`].
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use std::sync::Arc;
    ///
    /// use diskimage::Progress;
    /// use diskimage::checksum::Checksum;
    /// use diskimage::disk::EmptyDisk;
    ///
    /// let (disk, progress) = (EmptyDisk(4 << 20), Arc::new(Progress::new()));
    /// let job = Checksum::new().threads(NonZeroUsize::MIN).max_memory(8 << 20);
    /// let digests = job.progress(Arc::clone(&progress)).run(&disk)?;
    /// assert_eq!(digests, Checksum::new().run(&disk)?); // by every processor
    /// assert_eq!(progress.done(), 4 << 20);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.convert = self.convert.threads(threads);
        self
    }

    /// Bound on the memory of buffers, bytes, as [`Convert::max_memory`].
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.convert = self.convert.max_memory(bytes);
        self
    }

    /// Where to report progress, and who may cancel.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.convert = self.convert.progress(progress);
        self
    }

    /// The checksums of all of `disk`, in the order in which the algorithms were added.
    ///
    /// ```
    /// use diskimage::checksum::{Algorithm, Checksum};
    /// use diskimage::disk::EmptyDisk;
    ///
    /// let job = Checksum::new().algorithm(Algorithm::Md5).algorithm(Algorithm::Sha1);
    /// let digests = job.run(&EmptyDisk(0))?; // in one pass
    /// assert_eq!(digests[0].to_string(), "d41d8cd98f00b204e9800998ecf8427e");
    /// assert_eq!(digests[1].to_string(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn run(&self, disk: &dyn VirtualDisk) -> Result<Vec<Digest>> {
        Ok(self.convert(&self.convert, disk, &Nowhere)?.1)
    }

    /// Converts `disk` as `convert` says, and computes the checksums of what is written in the same
    /// pass: nothing is read twice. The options of this builder other than algorithms are not used.
    ///
    /// ```
    /// use diskimage::checksum::Checksum;
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Target};
    ///
    /// let mut raw = Vec::new();
    /// let target = StreamTarget::new(&mut raw);
    /// let (report, digests) = Checksum::new().convert(&Convert::new(), &EmptyDisk(4096), &target)?;
    /// Box::new(target).finish()?;
    /// assert_eq!((report.size, raw.len()), (4096, 4096));
    /// assert_eq!(digests, Checksum::new().run(&EmptyDisk(4096))?); // without a second pass
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn convert(
        &self,
        convert: &Convert,
        disk: &dyn VirtualDisk,
        target: &dyn Target,
    ) -> Result<(Report, Vec<Digest>)> {
        self.convert_to(convert, disk, Output::Raw, target)
    }

    /// The same for an image of another format, as [`Convert::image`]: the checksums are those of
    /// the disk inside.
    ///
    /// ```
    /// use diskimage::checksum::Checksum;
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Target};
    ///
    /// let mut image = Vec::new();
    /// let target = StreamTarget::new(&mut image);
    /// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
    /// let job = Checksum::new();
    /// let (_, digests) = job.image(&Convert::new(), &EmptyDisk(1 << 20), writer, None, &target)?;
    /// Box::new(target).finish()?;
    /// assert!(image.starts_with(b"QFI\xfb"));
    /// assert_eq!(digests, job.run(&EmptyDisk(1 << 20))?); // of the disk, whatever the format
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn image(
        &self,
        convert: &Convert,
        disk: &dyn VirtualDisk,
        writer: Box<dyn Writer>,
        backing: Option<&dyn VirtualDisk>,
        target: &dyn Target,
    ) -> Result<(Report, Vec<Digest>)> {
        self.convert_to(convert, disk, Output::Image { writer, backing }, target)
    }

    fn convert_to(
        &self,
        convert: &Convert,
        disk: &dyn VirtualDisk,
        output: Output<'_>,
        target: &dyn Target,
    ) -> Result<(Report, Vec<Digest>)> {
        let algorithms = match &*self.algorithms {
            [] => &[Algorithm::Sha256],
            some => some,
        };
        let lanes = Lanes::new(algorithms, disk.size(), block_of(self.blkhash_block)?);
        let report = convert.run_observed(disk, output, target, Some(&lanes))?;
        Ok((report, lanes.finish()?))
    }

    /// The checksums of the raw disk inside a compressed file, and its size: it is hashed as it is
    /// decoded. `None` where its end shows that it is no raw disk, as
    /// [`Convert::run_compressed`] says.
    ///
    /// ```
    /// # use std::io::Write;
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::Format;
    /// use diskimage::checksum::Checksum;
    /// use diskimage::container::Compressed;
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    /// # gzip.write_all(&[0; 4096])?;
    /// # let storage = Arc::new(MemoryStorage::new(gzip.finish()?));
    /// let compressed = Compressed::new(storage, Path::new("disk.raw.gz"), Format::Gzip, 1 << 20);
    /// let same = Checksum::new().run(&EmptyDisk(4096))?; // as of the disk inside
    /// assert_eq!(Checksum::new().run_compressed(&compressed)?, Some((same, 4096)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_compressed(&self, disk: &Compressed) -> Result<Option<(Vec<Digest>, u64)>> {
        let converted = self.convert_compressed(&self.convert, disk, &Nowhere)?;
        Ok(converted.map(|(report, digests)| (digests, report.size)))
    }

    /// Converts the raw disk inside a compressed file as `convert` says, and computes the checksums
    /// of what is written in the same pass. An error for [`Algorithm::Blkhash`].
    ///
    /// ```
    /// # use std::io::Write;
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::checksum::{Algorithm, Checksum};
    /// use diskimage::container::Compressed;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Format, Target};
    ///
    /// # let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    /// # gzip.write_all(b"123456789")?;
    /// # let storage = Arc::new(MemoryStorage::new(gzip.finish()?));
    /// let compressed = Compressed::new(storage, Path::new("disk.raw.gz"), Format::Gzip, 1 << 20);
    /// let mut raw = Vec::new();
    /// let target = StreamTarget::new(&mut raw);
    /// let job = Checksum::new().algorithm(Algorithm::Crc32);
    /// let done = job.convert_compressed(&Convert::new(), &compressed, &target)?;
    /// let (report, digests) = done.expect("a raw disk is inside");
    /// Box::new(target).finish()?;
    /// assert_eq!((report.size, &*raw), (9, &b"123456789"[..]));
    /// assert_eq!(digests[0].to_string(), "cbf43926");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn convert_compressed(
        &self,
        convert: &Convert,
        disk: &Compressed,
        target: &dyn Target,
    ) -> Result<Option<(Report, Vec<Digest>)>> {
        let algorithms = match &*self.algorithms {
            [] => &[Algorithm::Sha256],
            some => some,
        };
        let mut hashers = Hashers::new(algorithms)?;
        let see = Mutex::new(|bytes: &[u8]| hashers.update(bytes));
        let report = convert.run_compressed_seen(disk, target, Some(&see))?;
        Ok(report.map(|report| (report, hashers.finish())))
    }

    /// The digests of every block of `block_size` bytes of `disk`, told in ascending order: what a
    /// [`Manifest`] is made of. The last block may be shorter. The algorithm is the first one that
    /// was added.
    ///
    /// ```
    /// use diskimage::checksum::{Algorithm, Block, Checksum};
    /// use diskimage::disk::EmptyDisk;
    ///
    /// let mut zeros = 0;
    /// Checksum::new().algorithm(Algorithm::Blake3).blocks(&EmptyDisk(1 << 40), 4096, |block| {
    ///     match block {
    ///         Block::Digest(digest) => println!("{digest:02x?}"),
    ///         Block::Zeros(blocks) => zeros += blocks,
    ///     }
    ///     Ok(())
    /// })?;
    /// assert_eq!(zeros, (1 << 40) / 4096);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn blocks(
        &self,
        disk: &dyn VirtualDisk,
        block_size: u64,
        mut tell: impl FnMut(Block<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let algorithm = self.algorithms.first().copied().unwrap_or(Algorithm::Sha256);
        if algorithm == Algorithm::Blkhash {
            return Err(ChecksumDetail::BlocksOfBlocks.into());
        }
        let lanes = Lanes::of_blocks(algorithm, block_of(block_size)?, &mut tell);
        self.convert.run_observed(disk, Output::Raw, &Nowhere, Some(&lanes))?;
        lanes.finish().map(drop)
    }
}

fn block_of(bytes: u64) -> Result<Pow2> {
    let block = Pow2::from_size(bytes).filter(|_| (512..=MAX_BLOCK).contains(&bytes));
    block.ok_or_else(|| ChecksumDetail::BlockSize(bytes).into())
}

/// A target for what is only looked at.
#[derive(Debug)]
struct Nowhere;

impl Target for Nowhere {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: true }
    }

    fn write_at(&self, _buf: &[u8], _offset: u64) -> Result<()> {
        Ok(())
    }

    fn write_zeros(&self, _offset: u64, _length: u64) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
