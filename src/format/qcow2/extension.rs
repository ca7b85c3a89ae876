//! Header extensions ("Header extensions").

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::num::{to_u64, to_usize};
use crate::text::printable;

use super::error::Qcow2Detail;
use super::layout::*;

/// The header extensions of an image.
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::qcow2::Header;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().backing("base.raw", Some("raw")).writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
/// let extensions = &header.extensions;
/// assert!(extensions.backing_format.as_ref().is_some_and(|(format, _)| format == b"raw"));
/// assert!(extensions.data_file.is_none() && extensions.bitmaps.is_none());
/// assert!(extensions.unknown.is_empty());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extensions {
    /// The backing file's format, in the image's word, and where it is written.
    pub backing_format: Option<(Vec<u8>, u64)>,
    /// The external data file's name, and where it is written.
    pub data_file: Option<(Vec<u8>, u64)>,
    /// Names of features.
    pub feature_names: Vec<FeatureName>,
    /// Number of bitmaps, size and offset of their directory.
    pub bitmaps: Option<BitmapsExtension>,
    /// Offset and length of the LUKS header.
    pub crypto: Option<(u64, u64)>,
    /// Extensions of other types: type and data.
    pub unknown: Vec<(u32, Vec<u8>)>,
}

/// The bitmaps extension ("Bitmaps extension").
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::qcow2::Header;
/// use diskimage::storage::FileStorage;
/// use diskimage::{format::qcow2::Qcow2Options, layer::DirtyBitmap};
///
/// # let nightly = DirtyBitmap {
/// #     name: b"nightly".to_vec(),
/// #     granularity: 64 << 10,
/// #     auto: true,
/// #     is_consistent: true,
/// #     bits: vec![0b101, 0],
/// # };
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.qcow2");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = Qcow2Options::new().bitmaps(vec![nightly]).writer(1 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let header = Header::read(&FileStorage::open(&path)?, &Limits::default(), false)?;
/// if let Some(bitmaps) = header.extensions.bitmaps {
///     println!("{} bitmaps, listed at {:#x}", bitmaps.nb_bitmaps, bitmaps.directory_offset);
/// }
/// # assert_eq!(header.extensions.bitmaps.map(|bitmaps| bitmaps.nb_bitmaps), Some(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BitmapsExtension {
    /// Number of bitmaps.
    pub nb_bitmaps: u32,
    /// Size of the bitmap directory in bytes.
    pub directory_size: u64,
    /// Offset of the bitmap directory.
    pub directory_offset: u64,
    /// Where the extension's data lie.
    pub offset: u64,
}

/// An entry of the feature name table ("Feature name table").
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::qcow2::Header;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::text::printable;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().extended_l2(true).writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
/// // what the image calls the incompatible feature of bit 4
/// let names = &header.extensions.feature_names;
/// let name = names.iter().find(|f| (f.kind, f.bit) == (0, 4));
/// let name = name.map(|feature| printable(&feature.name));
/// assert_eq!(name.as_deref(), Some("extended L2 entries"));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    pub kind: u8,
    /// The bit in that bitmask.
    pub bit: u8,
    /// The name, as bytes.
    pub name: Vec<u8>,
}

impl Extensions {
    /// Parses the extension area, which lies at `start` in the file. The area ends with an end
    /// mark or with its bytes.
    pub(super) fn parse(area: &[u8], start: u64) -> Result<Self> {
        let mut extensions = Self::default();
        let mut seen = Vec::new();
        let mut cursor = BeCursor::new(area, start);
        while cursor.rest().len() >= 8 {
            let at = cursor.offset();
            let kind = cursor.u32("a header extension")?;
            let length = cursor.u32("a header extension")?;
            if kind == EXTENSION_END {
                break;
            }
            let known = matches!(
                kind,
                EXTENSION_BACKING_FORMAT
                    | EXTENSION_DATA_FILE
                    | EXTENSION_FEATURE_NAMES
                    | EXTENSION_BITMAPS
                    | EXTENSION_CRYPTO
            );
            if known && seen.contains(&kind) {
                return Err(Error::new(Qcow2Detail::DuplicateExtension(kind)).at(at));
            }
            seen.push(kind);
            let offset = cursor.offset();
            let data = cursor.bytes(to_usize(length.into()), "a header extension")?;
            extensions.add(kind, data, offset).map_err(|error| error.at(at))?;
            cursor.pad_to(8, start);
        }
        Ok(extensions)
    }

    /// Whether the end mark of the area that starts with `bytes` is among them.
    pub(super) fn end_within(bytes: &[u8]) -> bool {
        let mut cursor = BeCursor::new(bytes, 0);
        let mut next = || {
            let kind = cursor.u32("").ok()?;
            let length = cursor.u32("").ok()?;
            if kind != EXTENSION_END {
                cursor.bytes(to_usize(length.into()), "").ok()?;
                cursor.pad_to(8, 0);
            }
            Some(kind)
        };
        std::iter::from_fn(&mut next).any(|kind| kind == EXTENSION_END)
    }

    /// The bytes of the area that starts with `area`, without the extension of type `left_out` and
    /// without the end mark; and how long the area is with that.
    pub(super) fn without(area: &[u8], left_out: u32) -> Result<(Vec<u8>, usize)> {
        let mut kept = Vec::new();
        let mut cursor = BeCursor::new(area, 0);
        while cursor.rest().len() >= 8 {
            let from = to_usize(cursor.offset());
            let kind = cursor.u32("a header extension")?;
            let length = cursor.u32("a header extension")?;
            if kind == EXTENSION_END {
                break;
            }
            cursor.bytes(to_usize(length.into()), "a header extension")?;
            cursor.pad_to(8, 0);
            if kind != left_out {
                let bytes = area.get(from..to_usize(cursor.offset())).unwrap_or_default();
                kept.extend(bytes);
                kept.resize(kept.len().next_multiple_of(8), 0);
            }
        }
        Ok((kept, to_usize(cursor.offset())))
    }

    fn add(&mut self, kind: u32, data: &[u8], offset: u64) -> Result<()> {
        let wrong = |rule| Qcow2Detail::ExtensionLength { kind, length: to_u64(data.len()), rule };
        match kind {
            EXTENSION_BACKING_FORMAT => {
                self.backing_format = Some((name(data, "backing file format")?, offset));
            }
            EXTENSION_DATA_FILE => {
                self.data_file = Some((name(data, "data file name")?, offset));
            }
            EXTENSION_FEATURE_NAMES => {
                let entries = data.chunks_exact(FEATURE_NAME_LENGTH);
                self.feature_names.extend(entries.filter_map(|entry| {
                    let (&kind, rest) = entry.split_first()?;
                    let (&bit, text) = rest.split_first()?;
                    let text = text.split(|&byte| byte == 0).next()?;
                    Some(FeatureName { kind, bit, name: text.to_owned() })
                }));
            }
            EXTENSION_BITMAPS => {
                let mut cursor = BeCursor::new(data, offset);
                if data.len() < 24 {
                    return Err(wrong("24").into());
                }
                let nb_bitmaps = cursor.u32("the bitmaps extension")?;
                cursor.u32("the bitmaps extension")?;
                let directory_size = cursor.u64("the bitmaps extension")?;
                let directory_offset = cursor.u64("the bitmaps extension")?;
                self.bitmaps =
                    Some(BitmapsExtension { nb_bitmaps, directory_size, directory_offset, offset });
            }
            EXTENSION_CRYPTO => {
                if data.len() < 16 {
                    return Err(wrong("16").into());
                }
                let mut cursor = BeCursor::new(data, offset);
                let start = cursor.u64("the crypto extension")?;
                self.crypto = Some((start, cursor.u64("the crypto extension")?));
            }
            _ => self.unknown.push((kind, data.to_owned())),
        }
        Ok(())
    }

    /// The names of the features of this `kind` whose bits are set in `mask`, for messages.
    pub(super) fn feature_names(&self, kind: u8, mask: u64) -> String {
        let name_of = |bit: u8| {
            let entry = self.feature_names.iter().find(|f| f.kind == kind && f.bit == bit);
            match entry {
                Some(entry) => format!("'{}' (bit {bit})", printable(&entry.name)),
                None => format!("bit {bit}"),
            }
        };
        let set = (0u8..64).filter(|&bit| mask.wrapping_shr(bit.into()) & 1 != 0);
        set.map(name_of).collect::<Vec<_>>().join(", ")
    }
}

/// A string extension: any bytes but NUL, and not empty.
fn name(data: &[u8], what: &'static str) -> Result<Vec<u8>> {
    let why = if data.is_empty() {
        "announced, but empty"
    } else if data.contains(&0) {
        "cut by a NUL byte"
    } else if to_u64(data.len()) > MAX_NAME_LENGTH.into() {
        "longer than 1023 bytes"
    } else {
        return Ok(data.to_owned());
    };
    Err(Qcow2Detail::BadName(what, why).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn all_types_are_kept() {
        let mut feature = vec![0, 7];
        feature.extend(b"quantum clusters");
        feature.resize(48, 0);
        let mut area = extension(EXTENSION_BACKING_FORMAT, b"raw");
        area.extend(extension(0xdead_beef, &[1, 2, 3]));
        area.extend(extension(EXTENSION_FEATURE_NAMES, &feature));
        area.extend(extension(EXTENSION_END, &[]));
        area.extend([0xff; 40]);
        let got = Extensions::parse(&area, 104).unwrap();
        assert_eq!(got.backing_format, Some((b"raw".to_vec(), 112)));
        assert_eq!(got.unknown, [(0xdead_beef, vec![1, 2, 3])]);
        assert_eq!(got.feature_names(0, 0x180), "'quantum clusters' (bit 7), bit 8");
    }

    #[test]
    fn lengths_beyond_the_area_duplicates_and_bad_names_are_corrupt() {
        let mut long = extension(0xdead_beef, &[0; 8]);
        long[7] = 9;
        let mut twice = extension(EXTENSION_DATA_FILE, b"a");
        twice.extend(extension(EXTENSION_DATA_FILE, b"b"));
        let cases = [
            long,
            twice,
            extension(EXTENSION_DATA_FILE, b""),
            extension(EXTENSION_DATA_FILE, b"a\0b"),
            extension(EXTENSION_BACKING_FORMAT, &[b'x'; 1024]),
            extension(EXTENSION_BITMAPS, &[0; 23]),
            extension(EXTENSION_CRYPTO, &[0; 1]),
        ];
        for area in cases {
            let error = Extensions::parse(&area, 104).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.offset().unwrap() >= 104);
        }
    }
}
