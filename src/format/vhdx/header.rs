//! The file type identifier and the two headers (2.2.1, 2.2.2).

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::storage::{Storage, read_vec};

use super::error::VhdxDetail;
use super::guid::Guid;
use super::layout::*;

/// A header.
///
/// ```
/// use diskimage::format::vhdx::Headers;
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let header = Headers::read(&FileStorage::open(&path)?)?.current;
/// assert_eq!((header.version, header.log_version), (1, 0));
/// assert_eq!((header.log_offset, header.log_length), (1 << 20, 1 << 20));
/// assert!(header.log_guid.is_nil()); // nothing waits to be replayed
/// println!("children know it by {}", header.data_write_guid);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Where it lies.
    pub offset: u64,
    /// Of two valid headers the one with the greater number counts.
    pub sequence_number: u64,
    /// Changes whenever the file is opened for writing.
    pub file_write_guid: Guid,
    /// Changes whenever what the guest sees changes: what children know their parent by.
    pub data_write_guid: Guid,
    /// What marks the valid entries of the log; nil if there is nothing to replay.
    pub log_guid: Guid,
    /// The version of the log's structure.
    pub log_version: u16,
    /// The version of the format.
    pub version: u16,
    /// Length of the log in bytes.
    pub log_length: u64,
    /// Offset of the log.
    pub log_offset: u64,
}

/// The header that counts, and what else the start of the file says.
///
/// ```
/// use diskimage::format::vhdx::Headers;
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::storage::MemoryStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let mut bytes = std::fs::read(&path)?;
/// let headers = Headers::read(&MemoryStorage::new(bytes.clone()))?;
/// assert_eq!((&*headers.creator, headers.damaged), ("diskimage", None));
///
/// // without its current header the file has the other one
/// let current = headers.current.offset;
/// bytes[current as usize + 100] ^= 1;
/// let headers = Headers::read(&MemoryStorage::new(bytes))?;
/// assert_eq!(headers.damaged, Some(current));
/// assert_ne!(headers.current.offset, current);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Headers {
    /// The current header.
    pub current: Header,
    /// The offset of the other one, if that is damaged.
    pub damaged: Option<u64>,
    /// The program that made the file, where it says so; may hold anything.
    pub creator: String,
}

impl Headers {
    /// Reads and validates the identifier and the headers at the start of `storage`.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let size = storage.size();
        let magic = read_vec(storage, "the file identifier", 0, FILE_IDENTIFIER_SIGNATURE.len())?;
        if magic != FILE_IDENTIFIER_SIGNATURE {
            return Err(Error::new(VhdxDetail::NotVhdx).at(0));
        }
        if size < HEADER_SECTION_LENGTH {
            let detail = VhdxDetail::BeyondEnd { what: "header section", start: 0, size };
            return Err(Error::new(detail).at(size));
        }
        let creator = read_vec(storage, "the file identifier", CREATOR_OFFSET, CREATOR_LENGTH)?;
        let [first, second] = HEADER_OFFSETS;
        let copies = read_copies(storage, HEADER_SIGNATURE, HEADER_OFFSETS, HEADER_LENGTH)?;
        let (current, damaged) = match copies {
            (None, None) => return Err(Error::new(VhdxDetail::NoCopy("header")).at(first)),
            (Some(one), None) => (Header::parse(&one, first)?, Some(second)),
            (None, Some(two)) => (Header::parse(&two, second)?, Some(first)),
            (Some(one), Some(two)) => {
                let same = one == two;
                let (one, two) = (Header::parse(&one, first)?, Header::parse(&two, second)?);
                let number = one.sequence_number;
                // by the specification neither of them is current then; but there are programs
                // that write the same header twice, which leaves no doubt
                if number == two.sequence_number && !same {
                    return Err(Error::new(VhdxDetail::HeadersContradict(number)).at(first));
                }
                (if number >= two.sequence_number { one } else { two }, None)
            }
        };
        current.validate(size)?;
        Ok(Self { current, damaged, creator: creator_text(&creator) })
    }
}

impl Header {
    fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let mut cursor = LeCursor::new(bytes, offset);
        cursor.u32("the header field Signature")?;
        cursor.u32("the header field Checksum")?;
        Ok(Self {
            offset,
            sequence_number: cursor.u64("the header field SequenceNumber")?,
            file_write_guid: Guid::read(&mut cursor, "the header field FileWriteGuid")?,
            data_write_guid: Guid::read(&mut cursor, "the header field DataWriteGuid")?,
            log_guid: Guid::read(&mut cursor, "the header field LogGuid")?,
            log_version: cursor.u16("the header field LogVersion")?,
            version: cursor.u16("the header field Version")?,
            log_length: cursor.u32("the header field LogLength")?.into(),
            log_offset: cursor.u64("the header field LogOffset")?,
        })
    }

    /// Holds the fields against the specification and the file's `size`.
    fn validate(&self, size: u64) -> Result<()> {
        let at = |field: u64| self.offset.saturating_add(field);
        if self.version != VERSION {
            return Err(Error::new(VhdxDetail::Version(self.version)).at(at(66)));
        }
        // a log that is not to be replayed may be of any version
        if self.log_version != LOG_VERSION && !self.log_guid.is_nil() {
            return Err(Error::new(VhdxDetail::LogVersion(self.log_version)).at(at(64)));
        }
        if !self.log_length.is_multiple_of(MIB) {
            let (field, value) = ("header field LogLength", self.log_length);
            let detail = VhdxDetail::Field { field, value, rule: "a multiple of 1 MiB" };
            return Err(Error::new(detail).at(at(68)));
        }
        if self.log_length == 0 && self.log_guid.is_nil() {
            return Ok(());
        }
        check_placement("log", self.log_offset, self.log_length, size)
            .map_err(|error| error.at(at(72)))
    }
}

/// Refuses a structure that does not lie at a whole MiB behind the header section and in the file.
pub(super) fn check_placement(
    what: &'static str,
    offset: u64,
    length: u64,
    size: u64,
) -> Result<()> {
    if !offset.is_multiple_of(MIB) || offset < HEADER_SECTION_LENGTH {
        let rule = "at a multiple of 1 MiB, behind the header section";
        return Err(VhdxDetail::Misplaced { what, offset, rule }.into());
    }
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(VhdxDetail::BeyondEnd { what, start: offset, size }.into()),
    }
}

/// The bytes of both copies of a structure.
type Copies = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Reads both copies of a structure; `None` for a copy whose signature or checksum is wrong.
pub(super) fn read_copies(
    storage: &dyn Storage,
    signature: &'static [u8],
    offsets: [u64; 2],
    length: usize,
) -> Result<Copies> {
    let read = |offset| -> Result<Option<Vec<u8>>> {
        let bytes = read_vec(storage, "the header section", offset, length)?;
        Ok(Some(bytes).filter(|bytes| bytes.starts_with(signature) && is_intact(&[bytes])))
    };
    let [first, second] = offsets;
    Ok((read(first)?, read(second)?))
}

/// Whether the CRC-32C at byte 4 of the first of these pieces is that of all their bytes, itself
/// taken for zero.
pub(super) fn is_intact(pieces: &[&[u8]]) -> bool {
    let Some((head, rest)) = pieces.split_first() else { return false };
    let (Some(start), Some(&stored), Some(behind)) =
        (head.get(..4), head.get(4..).and_then(|bytes| bytes.first_chunk()), head.get(8..))
    else {
        return false;
    };
    let sum = crc32c::crc32c_append(crc32c::crc32c(start), &[0; 4]);
    let sum = crc32c::crc32c_append(sum, behind);
    let sum = rest.iter().fold(sum, |sum, piece| crc32c::crc32c_append(sum, piece));
    sum == u32::from_le_bytes(stored)
}

/// UTF-16 up to the first NUL.
fn creator_text(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    let units: Vec<u16> =
        units.iter().map(|&unit| u16::from_le_bytes(unit)).take_while(|&unit| unit != 0).collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Builder;
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    fn read(bytes: &[u8]) -> Result<Headers> {
        Headers::read(&MemoryStorage::new(bytes.to_vec()))
    }

    #[test]
    fn the_greater_sequence_number_counts_and_a_damaged_copy_does_not() {
        let image = Builder::new(1 << 20, 4 << 20).build();
        let mut bytes = image.bytes.clone();
        let headers = read(&bytes).unwrap();
        assert_eq!((headers.current.sequence_number, headers.damaged), (11, None));
        assert_eq!(headers.creator, "diskimage tests");
        for (broken, used, other) in [(1, 10, HEADER_OFFSETS[1]), (0, 11, HEADER_OFFSETS[0])] {
            for at in [0, 4, 8, 4095] {
                let mut bytes = bytes.clone();
                bytes[HEADER_OFFSETS[broken] as usize + at] ^= 1;
                let headers = read(&bytes).unwrap();
                assert_eq!(headers.current.sequence_number, used);
                assert_eq!(headers.damaged, Some(other));
            }
        }
        bytes[HEADER_OFFSETS[0] as usize + 8] ^= 1;
        bytes[HEADER_OFFSETS[1] as usize + 8] ^= 1;
        let error = read(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("both copies of the header"), "{error}");
    }

    #[test]
    fn the_same_sequence_number_twice_is_fine_only_in_the_same_header() {
        let mut image = Builder::new(1 << 20, 4 << 20).build();
        image.header(0, |header| header[8] = 11);
        assert_eq!(read(&image.bytes).unwrap().current.offset, HEADER_OFFSETS[0]);
        image.header(1, |header| header[100] = 1);
        let error = read(&image.bytes).unwrap_err();
        assert!(error.to_string().contains("but differ"), "{error}");
        image.header(0, |header| header[8..16].fill(0xff));
        assert_eq!(read(&image.bytes).unwrap().current.sequence_number, u64::MAX);
    }

    #[test]
    fn versions_and_the_logs_place_are_held_against_the_specification() {
        let with = |change: &dyn Fn(&mut [u8])| {
            let mut image = Builder::new(1 << 20, 4 << 20).build();
            image.header(1, change);
            read(&image.bytes)
        };
        let unsupported = |header: &mut [u8]| {
            header[48] = 1;
            header[64] = 1;
        };
        type Change<'a> = &'a dyn Fn(&mut [u8]);
        let cases: [(Change<'_>, ErrorKind, &str); 7] = [
            (&|h| h[66] = 2, ErrorKind::Unsupported, "version 2"),
            (&unsupported, ErrorKind::Unsupported, "version 1; version 0"),
            (&|h| h[68] = 1, ErrorKind::Corrupt, "LogLength"),
            (&|h| h[72] = 1, ErrorKind::Corrupt, "multiple of 1 MiB"),
            (&|h| h[72..80].fill(0), ErrorKind::Corrupt, "behind the header section"),
            (&|h| h[75] = 1, ErrorKind::Corrupt, "beyond the end"),
            (
                &|h| h[72..80].copy_from_slice(&[0, 0, 0xf0, 255, 255, 255, 255, 255]),
                { ErrorKind::Corrupt },
                "beyond the end",
            ),
        ];
        for (change, kind, text) in cases {
            let error = with(change).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.offset().unwrap() > HEADER_OFFSETS[1]);
        }
        with(&|h| h[64] = 1).expect("a log that is not replayed may be of any version");
        with(&|h| h[68..80].fill(0)).expect("there may be no log at all");
    }

    #[test]
    fn what_is_no_vhdx_or_too_short_is_refused() {
        let mut bytes = Builder::new(1 << 20, 4 << 20).build().bytes;
        for length in [0, 7, 8, 65_536, 200_000, (1 << 20) - 1] {
            let error = read(&bytes[..length]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
        }
        bytes[0] = b'V';
        assert_eq!(read(&bytes).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
