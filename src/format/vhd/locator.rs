//! The names of a differencing disk's parent ("Implementing a Differencing Hard Disk").

use crate::bytes::BeCursor;
use crate::error::Result;
use crate::layer::{Reference, Role};
use crate::num::to_usize;
use crate::storage::{Storage, read_vec};
use crate::text::uuid;

use super::header::DynamicHeader;
use super::layout::*;

/// One way to find the parent.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhd::layout::PLATFORM_W2RU;
/// use diskimage::format::vhd::{VhdLayer, VhdOptions};
/// use diskimage::storage::FileStorage;
///
/// let options = LayerOptions::default();
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("base.vhd");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdOptions::new().writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let parent = VhdLayer::open(Arc::new(FileStorage::open(&path)?), &options)?;
/// # let child = folder.path().join("child.vhd");
/// # let target = diskimage::target::FileTarget::create(&child, 0)?.durable(false);
/// let writer = VhdOptions::new().parent("base.vhd", &parent)?.writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // and `child` is what this one makes
/// let storage = Arc::new(FileStorage::open(&child)?);
/// let layer = VhdLayer::open(storage, &LayerOptions::default())?;
/// let [locator] = &layer.header().map_or(&[][..], |header| &header.locators) else {
///     panic!("one locator")
/// };
/// assert_eq!(&locator.platform_code, PLATFORM_W2RU); // a relative path of Windows
/// assert_eq!(locator.name.as_deref(), Some("./base.vhd"));
/// assert_eq!(locator.place.end - locator.place.start, 2 * 10); // in UTF-16
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentLocator {
    /// The platform code, four characters.
    pub platform_code: [u8; 4],
    /// Where in the file its entry lies.
    pub offset: u64,
    /// Where the locator itself lies, bytes.
    pub place: std::ops::Range<u64>,
    /// The name as a path with `/`, in UTF-8. None where the locator is not text (a Mac OS alias)
    /// or damaged.
    pub name: Option<String>,
    /// What is wrong with it, if something is.
    pub problem: Option<&'static str>,
}

/// Reads the locator that `entry`, which lies at `offset` in the file, speaks of. What is damaged
/// is said in the locator, since others may do.
pub(super) fn read_locator(
    storage: &dyn Storage,
    entry: &[u8],
    offset: u64,
) -> Result<Option<ParentLocator>> {
    let mut cursor = BeCursor::new(entry, offset);
    let code = cursor.bytes(4, "a parent locator entry")?;
    let platform_code = code.first_chunk::<4>().copied().unwrap_or_default();
    cursor.u32("the parent locator field Platform Data Space")?;
    let length = cursor.u32("the parent locator field Platform Data Length")?;
    cursor.u32("the parent locator field Reserved")?;
    let start = cursor.u64("the parent locator field Platform Data Offset")?;
    if platform_code == [0; 4] {
        return Ok(None);
    }
    let place = start..start.saturating_add(length.into());
    let inside = start.checked_add(length.into()).is_some_and(|end| end <= storage.size());
    let decoded = if !inside {
        Err("it reaches beyond the end of the file")
    } else if length > MAX_LOCATOR_LENGTH {
        Err("it is longer than 64 KiB")
    } else {
        let bytes = read_vec(storage, "a parent locator", start, to_usize(length.into()))?;
        decode(&platform_code, &bytes)
    };
    let (name, problem) = match decoded {
        Ok(name) => (name, None),
        Err(problem) => (None, Some(problem)),
    };
    Ok(Some(ParentLocator { platform_code, offset, place, name, problem }))
}

/// The bytes of a locator as a name; `None` if its kind is no name.
fn decode(code: &[u8; 4], bytes: &[u8]) -> Result<Option<String>, &'static str> {
    let text = match code {
        PLATFORM_W2RU | PLATFORM_W2KU => {
            let (units, odd) = bytes.as_chunks::<2>();
            if !odd.is_empty() {
                return Err("it has half a UTF-16 unit");
            }
            windows_path(&utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)))?)
        }
        PLATFORM_WI2R | PLATFORM_WI2K => {
            windows_path(str::from_utf8(trim(bytes)).map_err(|_| "it is no ASCII text")?)
        }
        PLATFORM_MACX => url_path(trim(bytes)).ok_or("it is no file URL")?,
        _ => return Ok(None),
    };
    match text {
        text if text.is_empty() => Err("it is empty"),
        text if text.contains('\0') => Err("it is cut by a NUL character"),
        text => Ok(Some(text)),
    }
}

/// Parent Unicode Name: UTF-16 in the byte order of the header, padded by zeros.
pub(super) fn parent_name(bytes: &[u8]) -> Option<String> {
    let (units, _) = bytes.as_chunks::<2>();
    let name = utf16(units.iter().map(|unit| u16::from_be_bytes(*unit))).ok()?;
    (!name.is_empty() && !name.contains('\0')).then_some(name)
}

fn utf16(units: impl Iterator<Item = u16>) -> Result<String, &'static str> {
    let text: Result<String, _> = char::decode_utf16(units).collect();
    let text = text.map_err(|_| "it is no UTF-16 text")?;
    Ok(text.trim_end_matches('\0').to_owned())
}

fn trim(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last.saturating_add(1));
    bytes.get(..end).unwrap_or_default()
}

/// With `/`. A drive letter stays part of the name: it means nothing here, and leaving it out
/// would make another name of it.
pub(super) fn windows_path(path: &str) -> String {
    path.replace('\\', "/")
}

/// The path of a file URL on this host, percent-decoded (RFC 2396 sections 2.4.1 and 3).
fn url_path(url: &[u8]) -> Option<String> {
    let rest = url.strip_prefix(b"file:")?;
    let path = match rest.strip_prefix(b"//") {
        Some(rest) => rest.get(rest.iter().position(|&b| b == b'/')?..)?,
        None => rest,
    };
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        if byte == b'%' {
            let digits = [*bytes.next()?, *bytes.next()?];
            let valid = digits.iter().all(u8::is_ascii_hexdigit);
            let text = str::from_utf8(&digits).ok().filter(|_| valid)?;
            decoded.push(u8::from_str_radix(text, 16).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

/// The parent, by every name the image has for it: relative ones first, since they hold when the
/// files are moved together. Where there is no name, the identifier is one, for a resolver that
/// goes by it.
pub(super) fn parent_reference(header: &DynamicHeader) -> Reference {
    let order = [PLATFORM_W2RU, PLATFORM_WI2R, PLATFORM_W2KU, PLATFORM_MACX, PLATFORM_WI2K];
    let mut names: Vec<(String, u64)> = Vec::new();
    for code in order {
        let locators = header.locators.iter().filter(|locator| locator.platform_code == *code);
        names.extend(locators.filter_map(|l| Some((l.name.clone()?, l.offset))));
    }
    if let Some(name) = &header.parent_name {
        names.push((windows_path(name), header.offset.saturating_add(HEADER_PARENT_NAME)));
    }
    if names.is_empty() {
        let at = header.offset.saturating_add(HEADER_PARENT_UNIQUE_ID);
        names.push((uuid(&header.parent_unique_id), at));
    }
    let offset = names.first().map_or(header.offset, |(_, offset)| *offset);
    let mut unique: Vec<Vec<u8>> = Vec::new();
    for (name, _) in names {
        if !unique.contains(name.as_bytes().to_vec().as_ref()) {
            unique.push(name.into_bytes());
        }
    }
    // a parent is a VHD of any type, never another format
    Reference { role: Role::Parent, names: unique, format: Some(b"vpc".to_vec()), offset }
}
