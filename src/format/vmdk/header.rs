//! The header of a hosted sparse extent, and the footer that repeats it ("Hosted Sparse Extent
//! Header").

use std::ops::Range;

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::VmdkDetail;
use super::layout::*;
use super::marker::Marker;

const WHAT: &str = "header";

/// A `SparseExtentHeader`. [`parse`](Self::parse) takes the fields as they are,
/// [`validate`](Self::validate) tells whether they make sense.
///
/// ```
/// use diskimage::format::vmdk::{Descriptor, SparseHeader};
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 30)?;
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let header = SparseHeader::read(&MemoryStorage::new(bytes.clone()))?;
/// assert_eq!((header.version, header.capacity * 512), (3, 1 << 30));
/// assert_eq!(header.validate(false)?.size(), 64 << 10); // of a grain
/// assert!(header.compressed() && header.has_markers());
/// assert!(!header.has_zeroed_grains() && !header.has_redundant_directory());
///
/// let area = header.descriptor_area(bytes.len() as u64)?.unwrap_or_default();
/// assert_eq!(area, 512..21 * 512);
/// let text = bytes[area.start as usize..area.end as usize].split(|&byte| byte == 0).next();
/// let descriptor = Descriptor::parse(text.unwrap_or_default(), area.start, false)?;
/// assert_eq!(descriptor.create_type, "streamOptimized");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SparseHeader {
    /// 1, 2 or 3.
    pub version: u32,
    /// See the flags in [`layout`](super::layout).
    pub flags: u32,
    /// The size of the extent, sectors.
    pub capacity: u64,
    /// The size of a grain, sectors.
    pub grain_size: u64,
    /// Where the embedded descriptor lies, sectors; 0 if there is none.
    pub descriptor_offset: u64,
    /// The room for it, sectors.
    pub descriptor_size: u64,
    /// Entries of a grain table.
    pub num_gtes_per_gt: u32,
    /// Where the redundant grain directory lies, sectors.
    pub rgd_offset: u64,
    /// Where the grain directory lies, sectors, or [`GD_AT_END`].
    pub gd_offset: u64,
    /// Sectors that metadata take up at the front.
    pub overhead: u64,
    /// Whether the extent was not closed properly.
    pub unclean_shutdown: bool,
    /// Whether a transfer in text mode left its mark.
    pub newlines: Newlines,
    /// How grains are compressed.
    pub compress_algorithm: u16,
}

/// What the four characters say that a transfer in text mode changes.
///
/// ```
/// use diskimage::format::vmdk::{Newlines, SparseHeader};
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// assert_eq!(SparseHeader::parse(&bytes[..512], 0)?.newlines, Newlines::Intact);
/// // as a transfer in text mode leaves it
/// bytes[73..77].copy_from_slice(b"\r\n \n");
/// let header = SparseHeader::parse(&bytes[..512], 0)?;
/// assert_eq!(header.newlines, Newlines::Mangled(*b"\r\n \n"));
/// assert_eq!(header.validate(false).unwrap_err().offset(), Some(73));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Newlines {
    /// The header does not have the test.
    Untested,
    /// They are as they should be.
    Intact,
    /// They were changed to these.
    Mangled([u8; 4]),
}

impl SparseHeader {
    /// Reads the header at the start of `storage`.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        Self::parse(&read_vec(storage, "the header", 0, HEADER_LENGTH)?, 0)
    }

    /// Parses a header from the `bytes` that lie at `at` in the file. Only the magic is judged.
    ///
    /// ```
    /// use diskimage::format::vmdk::SparseHeader;
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// // the footer of a stream is the header once more, with the place of the grain directory
    /// let at = bytes.len() - 1024;
    /// let footer = SparseHeader::parse(&bytes[at..], at as u64)?;
    /// let header = SparseHeader::parse(&bytes, 0)?;
    /// assert_eq!((header.gd_offset, footer.capacity), (u64::MAX, header.capacity));
    /// assert!(footer.gd_offset < at as u64 / 512);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let mut cursor = LeCursor::new(bytes, at);
        let magic = cursor.u32("the header")?;
        if magic != SPARSE_MAGIC {
            return Err(Error::new(VmdkDetail::NotSparse(format!("{magic:#010x}"))).at(at));
        }
        let version = cursor.u32("the header field version")?;
        let flags = cursor.u32("the header field flags")?;
        let capacity = cursor.u64("the header field capacity")?;
        let grain_size = cursor.u64("the header field grainSize")?;
        let descriptor_offset = cursor.u64("the header field descriptorOffset")?;
        let descriptor_size = cursor.u64("the header field descriptorSize")?;
        let num_gtes_per_gt = cursor.u32("the header field numGTEsPerGT")?;
        let rgd_offset = cursor.u64("the header field rgdOffset")?;
        let gd_offset = cursor.u64("the header field gdOffset")?;
        let overhead = cursor.u64("the header field overHead")?;
        let unclean_shutdown = cursor.u8("the header field uncleanShutdown")? != 0;
        let (test, _) = cursor.bytes(4, "the header's newline test")?.as_chunks::<4>();
        let test = test.first().copied().unwrap_or_default();
        let newlines = match flags & FLAG_NEWLINE_TEST {
            0 => Newlines::Untested,
            _ if test == NEWLINE_TEST => Newlines::Intact,
            _ => Newlines::Mangled(test),
        };
        let compress_algorithm = cursor.u16("the header field compressAlgorithm")?;
        Ok(Self {
            version,
            flags,
            capacity,
            grain_size,
            descriptor_offset,
            descriptor_size,
            num_gtes_per_gt,
            rgd_offset,
            gd_offset,
            overhead,
            unclean_shutdown,
            newlines,
            compress_algorithm,
        })
    }

    /// Holds the fields against the specification and each other. With `trust_broken`, unknown
    /// flags and versions and a failed newline test pass. Gives the grain size in bytes.
    ///
    /// ```
    /// use diskimage::ErrorKind;
    /// use diskimage::format::vmdk::SparseHeader;
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// assert_eq!(SparseHeader::parse(&bytes, 0)?.validate(false)?.size(), 64 << 10);
    /// bytes[11] = 0x80; // a flag that nobody knows
    /// let header = SparseHeader::parse(&bytes, 0)?;
    /// let error = header.validate(false).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(8)));
    /// assert!(header.validate(true).is_ok());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn validate(&self, trust_broken: bool) -> Result<Pow2> {
        let field = |field, value, rule, at| {
            Err(Error::new(VmdkDetail::Field { what: WHAT, field, value, rule }).at(at))
        };
        if let Newlines::Mangled(found) = self.newlines
            && !trust_broken
        {
            return Err(Error::new(Self::mangled(found)).at(NEWLINE_TEST_OFFSET));
        }
        if !SPARSE_VERSIONS.contains(&self.version) && !trust_broken {
            let detail = VmdkDetail::Version { what: WHAT, version: self.version.into() };
            return Err(Error::new(detail).at(4));
        }
        let unknown = self.flags & !FLAGS_KNOWN;
        if unknown != 0 && !trust_broken {
            return Err(Error::new(VmdkDetail::UnknownFlags(unknown)).at(8));
        }
        let limit = if self.compressed() { MAX_COMPRESSED_GRAIN } else { MAX_GRAIN };
        if self.grain_size > limit && self.grain_size <= MAX_GRAIN {
            let (what, size) = ("compressed grain", self.grain_size.saturating_mul(SECTOR));
            let limit = limit.saturating_mul(SECTOR);
            return Err(Error::new(VmdkDetail::TooLarge { what, size, limit }).at(20));
        }
        let grain = sectors(self.grain_size).and_then(Pow2::from_size);
        let Some(grain) = grain.filter(|_| self.grain_size <= limit) else {
            let rule = "a power of two of at most 0x200000 sectors";
            return field("grainSize", self.grain_size, rule, 20);
        };
        if !(1..=MAX_GTES_PER_GT).contains(&self.num_gtes_per_gt) {
            return field("numGTEsPerGT", self.num_gtes_per_gt.into(), "from 1 to 512", 44);
        }
        // the end of the last grain must be a number, too
        let end = sectors(self.capacity).filter(|&bytes| grain.ceil(bytes) >= bytes);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return field("capacity", self.capacity, "below 2^54 sectors", 12);
        }
        match (self.flags & FLAG_COMPRESSED != 0, self.compress_algorithm) {
            (false, COMPRESSION_NONE) | (true, COMPRESSION_DEFLATE) => Ok(grain),
            (false, algorithm) | (true, algorithm @ COMPRESSION_NONE) => {
                Err(Error::new(VmdkDetail::CompressionContradiction(algorithm)).at(77))
            }
            (true, other) => Err(Error::new(VmdkDetail::Compression(other)).at(77)),
        }
    }

    /// The error of a failed newline test.
    pub(super) fn mangled(found: [u8; 4]) -> VmdkDetail {
        VmdkDetail::NewlineMangled(format!("\"{}\"", found.escape_ascii()))
    }

    /// Whether grains are compressed.
    ///
    /// ```
    /// use diskimage::format::vmdk::SparseHeader;
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = SparseHeader::parse(&bytes, 0)?;
    /// assert!(header.compressed());
    /// assert_eq!(header.compress_algorithm, 1); // deflate
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }

    /// Whether each compressed grain has a header that names it, and there are markers.
    ///
    /// ```
    /// use diskimage::format::vmdk::{Marker, SparseHeader};
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = SparseHeader::parse(&bytes, 0)?;
    /// assert!(header.has_markers());
    /// let at = header.overhead as usize * 512; // the first of them
    /// assert_eq!(Marker::parse(&bytes[at..], at as u64)?, Marker::GrainDirectory(1));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn has_markers(&self) -> bool {
        self.flags & FLAG_MARKERS != 0
    }

    /// Whether a grain table entry of 1 means a grain of zeros.
    ///
    /// ```
    /// use diskimage::format::vmdk::SparseHeader;
    /// use diskimage::format::vmdk::layout::FLAG_ZEROED_GRAIN;
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// assert!(!SparseHeader::parse(&bytes, 0)?.has_zeroed_grains());
    /// bytes[8] |= FLAG_ZEROED_GRAIN as u8;
    /// assert!(SparseHeader::parse(&bytes, 0)?.has_zeroed_grains());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn has_zeroed_grains(&self) -> bool {
        self.flags & FLAG_ZEROED_GRAIN != 0
    }

    /// Whether there is a redundant grain directory.
    ///
    /// ```
    /// use diskimage::format::vmdk::{SparseHeader, VmdkOptions};
    /// use diskimage::storage::FileStorage;
    ///
    /// # use diskimage::{Convert, Target, target::FileTarget};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vmdk");
    /// # let target = FileTarget::create(&path, 0)?.durable(false);
    /// # Convert::new().create(VmdkOptions::new().writer(1 << 30)?, &target)?;
    /// # Box::new(target).finish()?;
    /// let header = SparseHeader::read(&FileStorage::open(&path)?)?; // monolithicSparse
    /// assert!(header.has_redundant_directory());
    /// assert!(header.rgd_offset < header.gd_offset);
    /// assert!(!header.compressed() && !header.has_markers());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn has_redundant_directory(&self) -> bool {
        self.flags & FLAG_REDUNDANT != 0 && self.rgd_offset != 0 && self.rgd_offset != GD_AT_END
    }

    /// The bytes of the file that are set aside for the descriptor, held against the file's size
    /// and [`MAX_DESCRIPTOR`]. `None` if there are none.
    ///
    /// ```
    /// use diskimage::format::vmdk::SparseHeader;
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = SparseHeader::parse(&bytes, 0)?;
    /// assert_eq!(header.descriptor_area(bytes.len() as u64)?, Some(512..21 * 512));
    /// assert!(header.descriptor_area(4096).is_err()); // of a file that was cut off
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn descriptor_area(&self, file_size: u64) -> Result<Option<Range<u64>>> {
        if self.descriptor_offset == 0 || self.descriptor_size == 0 {
            return Ok(None);
        }
        let what = "descriptor";
        let size = self.descriptor_size.saturating_mul(SECTOR);
        if size > MAX_DESCRIPTOR {
            let limit = MAX_DESCRIPTOR;
            return Err(Error::new(VmdkDetail::TooLarge { what, size, limit }).at(36));
        }
        let start = self.descriptor_offset.saturating_mul(SECTOR);
        match start.checked_add(size) {
            Some(end) if end <= file_size => Ok(Some(start..end)),
            _ => Err(Error::new(VmdkDetail::BeyondEnd { what, start, size: file_size }).at(28)),
        }
    }
}

/// The footer of a stream, where the header says that it has the grain directory's place.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    /// Where it lies.
    pub(super) offset: u64,
    /// Its fields, which are the header's but for the grain directory's place.
    pub(super) header: SparseHeader,
    /// Fields that differ from the header without saying anything about the data.
    pub(super) differences: Vec<&'static str>,
}

/// Reads and judges the footer of a stream that is `storage` as a whole. The inner error is about
/// the footer, with the offset it is about; the outer one about reading.
pub(super) fn read_footer(
    storage: &dyn Storage,
    header: &SparseHeader,
) -> Result<Result<Footer, (VmdkDetail, u64)>> {
    // a stream is whole sectors; what is beyond the last one does not belong to it
    let end = storage.size().saturating_sub(storage.size().checked_rem(SECTOR).unwrap_or(0));
    let Some(start) = end.checked_sub(FOOTER_AREA).filter(|&start| start >= SECTOR) else {
        return Ok(Err((VmdkDetail::Footer("the file ends before it"), end)));
    };
    let bytes = read_vec(storage, "the footer", start, to_usize(FOOTER_AREA))?;
    Ok(judge_footer(&bytes, start, header))
}

/// Judges the last three sectors of a stream, which lie at `start`: marker, footer and end.
fn judge_footer(
    bytes: &[u8],
    start: u64,
    header: &SparseHeader,
) -> Result<Footer, (VmdkDetail, u64)> {
    let bad = |why, at| Err((VmdkDetail::Footer(why), at));
    let (marker, rest) = bytes.split_at_checked(HEADER_LENGTH).unwrap_or_default();
    let (footer, eos) = rest.split_at_checked(HEADER_LENGTH).unwrap_or_default();
    let offset = start.saturating_add(SECTOR);
    if !matches!(Marker::parse(marker, start), Ok(Marker::Footer(_))) {
        return bad("there is no footer marker where the file ends", start);
    }
    let Ok(footer) = SparseHeader::parse(footer, offset) else {
        return bad("its magic is wrong", offset);
    };
    let eos_offset = offset.saturating_add(SECTOR);
    if !matches!(Marker::parse(eos, eos_offset), Ok(Marker::EndOfStream)) {
        return bad("the end-of-stream marker is missing behind it", eos_offset);
    }
    if footer.gd_offset == GD_AT_END || footer.gd_offset == 0 {
        return bad("it does not say where the grain directory lies", offset.saturating_add(56));
    }
    let decisive = [
        ("version", footer.version == header.version),
        ("flags", footer.flags == header.flags),
        ("capacity", footer.capacity == header.capacity),
        ("grainSize", footer.grain_size == header.grain_size),
        ("numGTEsPerGT", footer.num_gtes_per_gt == header.num_gtes_per_gt),
        ("compressAlgorithm", footer.compress_algorithm == header.compress_algorithm),
    ];
    if let Some((field, _)) = decisive.iter().find(|(_, same)| !same) {
        return Err((VmdkDetail::FooterMismatch(field), offset));
    }
    let other = [
        ("descriptorOffset", footer.descriptor_offset == header.descriptor_offset),
        ("descriptorSize", footer.descriptor_size == header.descriptor_size),
        ("overHead", footer.overhead == header.overhead),
        ("the newline test", footer.newlines == header.newlines),
    ];
    let differences = other.iter().filter(|(_, same)| !same).map(|(field, _)| *field).collect();
    Ok(Footer { offset, header: footer, differences })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ErrorKind;

    /// A valid header of a stream-optimized extent of 256 sectors; tests change its bytes.
    pub(in super::super) fn header() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..4].copy_from_slice(b"KDMV");
        put32(&mut bytes, 4, 3);
        put32(&mut bytes, 8, 0x3_0001);
        put64(&mut bytes, 12, 256);
        put64(&mut bytes, 20, 128);
        put64(&mut bytes, 28, 1);
        put64(&mut bytes, 36, 20);
        put32(&mut bytes, 44, 512);
        put64(&mut bytes, 56, GD_AT_END);
        put64(&mut bytes, 64, 128);
        bytes[73..77].copy_from_slice(&NEWLINE_TEST);
        bytes[77] = 1;
        bytes
    }

    pub(in super::super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(in super::super) fn put64(bytes: &mut [u8], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn each_field_is_held_against_its_rule() {
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = header();
            change(&mut bytes);
            SparseHeader::parse(&bytes, 0).and_then(|header| header.validate(false))
        };
        assert_eq!(changed(&|_| ()).unwrap().size(), 65_536);
        type Change = Box<dyn Fn(&mut Vec<u8>)>;
        let cases: Vec<(Change, ErrorKind, u64)> = vec![
            (Box::new(|b| put32(b, 4, 0)), ErrorKind::Unsupported, 4),
            (Box::new(|b| put32(b, 4, 4)), ErrorKind::Unsupported, 4),
            (Box::new(|b| put32(b, 8, 0x3_0009)), ErrorKind::Unsupported, 8),
            (Box::new(|b| put64(b, 12, 1 << 54)), ErrorKind::Corrupt, 12),
            (Box::new(|b| put64(b, 20, 0)), ErrorKind::Corrupt, 20),
            (Box::new(|b| put64(b, 20, 100)), ErrorKind::Corrupt, 20),
            (Box::new(|b| put64(b, 20, 0x8000)), ErrorKind::LimitExceeded, 20),
            (Box::new(|b| put64(b, 20, 1 << 55)), ErrorKind::Corrupt, 20),
            (Box::new(|b| put32(b, 44, 0)), ErrorKind::Corrupt, 44),
            (Box::new(|b| put32(b, 44, 513)), ErrorKind::Corrupt, 44),
            (Box::new(|b| b[75] = b'\n'), ErrorKind::Corrupt, 73),
            (Box::new(|b| b[77] = 0), ErrorKind::Corrupt, 77),
            (Box::new(|b| b[77] = 2), ErrorKind::Unsupported, 77),
            (Box::new(|b| put32(b, 8, 1)), ErrorKind::Corrupt, 77),
        ];
        for (index, (change, kind, offset)) in cases.into_iter().enumerate() {
            let error = changed(&*change).expect_err(&index.to_string());
            assert_eq!((error.kind(), error.offset()), (kind, Some(offset)), "{index}: {error}");
        }
        assert!(SparseHeader::parse(b"COWD", 0).is_err());
        assert!(SparseHeader::parse(&header()[..78], 0).is_err());
        // without the flag there is no newline test
        assert!(changed(&|b| (put32(b, 8, 0x3_0000), b[75] = 0).1).is_ok());
    }

    #[test]
    fn the_descriptor_is_bounded() {
        let area = |offset, size, file| {
            let mut bytes = header();
            put64(&mut bytes, 28, offset);
            put64(&mut bytes, 36, size);
            SparseHeader::parse(&bytes, 0).unwrap().descriptor_area(file)
        };
        assert_eq!(area(1, 20, 10_752).unwrap(), Some(512..10_752));
        assert_eq!(area(0, 20, 10_752).unwrap(), None);
        assert_eq!(area(1, 20, 10_751).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(area(u64::MAX, 1, u64::MAX).unwrap_err().kind(), ErrorKind::Corrupt);
        for size in [2049, u64::MAX] {
            assert_eq!(area(1, size, u64::MAX).unwrap_err().kind(), ErrorKind::LimitExceeded);
        }
    }
}
