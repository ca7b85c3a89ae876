//! The parent locator (2.6.2.6).

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::layer::{Reference, Role};
use crate::num::to_usize;

use super::error::VhdxDetail;
use super::guid::Guid;
use super::layout::*;

/// Which image the parent is, and where it was last seen.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhdx::{VhdxLayer, VhdxOptions};
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("base.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let open = |path| VhdxLayer::open(Arc::new(FileStorage::open(path)?), &LayerOptions::default());
/// let parent = open(&path)?;
/// # let child = folder.path().join("child.vhdx");
/// # let target = diskimage::target::FileTarget::create(&child, 0)?.durable(false);
/// let writer = VhdxOptions::new().parent("base.vhdx", &parent)?.writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // and `child` is what this one makes
/// let child = open(&child)?;
/// if let Some(locator) = &child.metadata().parent_locator {
///     assert!(locator.means(parent.headers().current.data_write_guid));
///     assert_eq!(locator.get("relative_path"), Some(&br".\base.vhdx"[..]));
/// }
/// # assert!(child.metadata().parent_locator.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentLocator {
    /// Where it lies in the file.
    pub offset: u64,
    /// The parent's `DataWriteGuid`.
    pub linkage: Guid,
    /// Another one that the parent may have, if there is one.
    pub linkage2: Option<Guid>,
    /// All keys and values, as they are listed, in UTF-8 (surrogates without partner in the same
    /// way, as WTF-8).
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl ParentLocator {
    /// Parses the item's `bytes`, which lie at `offset` in the file.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let what = "the parent locator";
        let bad = |why, at| Err(Error::new(VhdxDetail::BadLocator(why)).at(at));
        let mut cursor = LeCursor::new(bytes, offset);
        let kind = Guid::read(&mut cursor, what)?;
        if kind != PARENT_LOCATOR_TYPE {
            return Err(Error::new(VhdxDetail::LocatorType(kind)).at(offset));
        }
        cursor.u16(what)?;
        let count = cursor.u16(what)?;
        let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let string = |start: u32, length: u16| {
            let bytes = bytes.get(to_usize(start.into())..)?.get(..usize::from(length))?;
            let (units, rest) = bytes.as_chunks::<2>();
            rest.is_empty().then(|| utf8(units.iter().map(|&unit| u16::from_le_bytes(unit))))
        };
        let mut total: u64 = 0;
        for _ in 0..count {
            let at = cursor.offset();
            let key_offset = cursor.u32(what)?;
            let value_offset = cursor.u32(what)?;
            let (key_length, value_length) = (cursor.u16(what)?, cursor.u16(what)?);
            // many entries may speak of the same bytes
            total = total.saturating_add(u64::from(key_length)).saturating_add(value_length.into());
            if total > MAX_METADATA_ITEM {
                return bad("has more than 1 MiB of keys and values", at);
            }
            let (Some(key), Some(value)) =
                (string(key_offset, key_length), string(value_offset, value_length))
            else {
                return bad("has a key or value that is no UTF-16 string inside of it", at);
            };
            if key.is_empty() {
                return bad("has a key without a name", at);
            }
            if key.contains(&0) || value.contains(&0) {
                return bad("has a key or value that is cut by a NUL", at);
            }
            entries.push((key, value));
        }
        let mut keys: Vec<_> = entries.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        if keys.iter().zip(keys.iter().skip(1)).any(|(key, next)| key == next) {
            return bad("has a key twice", offset);
        }
        let guid = |key: &str| {
            let value = value_of(&entries, key)?;
            Guid::parse(std::str::from_utf8(value).ok()?)
        };
        let Some(linkage) = guid(KEY_PARENT_LINKAGE) else {
            return bad("does not say which image the parent is (no valid parent_linkage)", offset);
        };
        let linkage2 = guid(KEY_PARENT_LINKAGE2).filter(|guid| !guid.is_nil());
        let locator = Self { offset, linkage, linkage2, entries };
        if locator.names().next().is_none() {
            return bad("has no name of the parent", offset);
        }
        Ok(locator)
    }

    /// The value of a key.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhdx::layout::KEYS_OF_PATHS;
    /// use diskimage::format::vhdx::{VhdxLayer, VhdxOptions};
    /// use diskimage::storage::FileStorage;
    ///
    /// let defaults = LayerOptions::default();
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("base.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdxOptions::new().writer(1 << 30)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let parent = VhdxLayer::open(Arc::new(FileStorage::open(&path)?), &defaults)?;
    /// # let child = folder.path().join("child.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&child, 0)?.durable(false);
    /// let writer = VhdxOptions::new().parent("base.vhdx", &parent)?.writer(1 << 30)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // and `child` is what this one makes
    /// let storage = Arc::new(FileStorage::open(&child)?);
    /// let layer = VhdxLayer::open(storage, &LayerOptions::default())?;
    /// let locator = layer.metadata().parent_locator.as_ref();
    /// // the names of the parent, in the order in which they are to be tried
    /// let names = locator.map(|locator| KEYS_OF_PATHS.map(|key| locator.get(key)));
    /// assert_eq!(names, Some([Some(&br".\base.vhdx"[..]), None, None]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        value_of(&self.entries, key)
    }

    /// Whether an image of this `DataWriteGuid` is the parent that is meant.
    #[must_use]
    pub fn means(&self, data_write_guid: Guid) -> bool {
        self.linkage == data_write_guid || self.linkage2 == Some(data_write_guid)
    }

    /// The names of the parent in the order in which they are to be tried, with `/` between folders.
    fn names(&self) -> impl Iterator<Item = Vec<u8>> {
        let values = KEYS_OF_PATHS.iter().filter_map(|key| self.get(key));
        let slashes = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
        values.filter(|name| !name.is_empty()).map(move |name| name.iter().map(slashes).collect())
    }

    /// The parent as a reference. It is a VHDX: the locator's type says so.
    pub(super) fn reference(&self) -> Reference {
        let format = Some(b"vhdx".to_vec());
        Reference { role: Role::Parent, names: self.names().collect(), format, offset: self.offset }
    }
}

fn value_of<'a>(entries: &'a [(Vec<u8>, Vec<u8>)], key: &str) -> Option<&'a [u8]> {
    let entry = entries.iter().find(|(name, _)| name == key.as_bytes());
    entry.map(|(_, value)| &**value)
}

/// UTF-16 as UTF-8, surrogates without partner as the three bytes that their number would have:
/// so that two names never become one, as they would with a replacement character.
fn utf8(units: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(error) => {
                let [high, low] = error.unpaired_surrogate().to_be_bytes();
                let middle = (high & 0x0f).wrapping_shl(2) | low.wrapping_shr(6);
                bytes.extend([0xe0 | high.wrapping_shr(4), 0x80 | middle, 0x80 | (low & 0x3f)]);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::testing::{locator, utf16};
    use super::*;
    use crate::ErrorKind;

    const LINKAGE: (&str, &str) = (KEY_PARENT_LINKAGE, "{00000001-0002-0003-0405-060708090A0B}");

    fn parse(entries: &[(&str, &str)]) -> Result<ParentLocator> {
        ParentLocator::parse(&locator(entries), 0x20_0000)
    }

    #[test]
    fn names_come_in_the_order_of_the_specification_with_slashes() {
        let entries = [
            LINKAGE,
            ("absolute_win32_path", r"C:\disks\é.vhdx"),
            ("volume_path", r"\\?\Volume{1}\disks\é.vhdx"),
            ("relative_path", r"..\é𝄞.vhdx"),
            (KEY_PARENT_LINKAGE2, "{00000000-0000-0000-0000-000000000000}"),
            ("something_else", "x"),
        ];
        let locator = parse(&entries).unwrap();
        let reference = locator.reference();
        let names: Vec<_> =
            reference.names.iter().map(|n| std::str::from_utf8(n).unwrap()).collect();
        assert_eq!(names, ["../é𝄞.vhdx", "//?/Volume{1}/disks/é.vhdx", "C:/disks/é.vhdx"]);
        assert_eq!(reference.format.as_deref(), Some(&b"vhdx"[..]));
        assert_eq!((reference.role, reference.offset), (Role::Parent, 0x20_0000));
        assert!(locator.means(Guid::of(1, 2, 3, 0x0405_0607_0809_0a0b)));
        assert!(!locator.means(Guid::default()), "a zero second linkage means nothing");
        assert_eq!(locator.get("something_else"), Some(&b"x"[..]));
    }

    #[test]
    fn a_second_linkage_counts_too() {
        let second = (KEY_PARENT_LINKAGE2, "00000009-0000-0000-0000-000000000000");
        let locator = parse(&[LINKAGE, second, ("relative_path", "p")]).unwrap();
        assert!(locator.means(Guid::of(1, 2, 3, 0x0405_0607_0809_0a0b)));
        assert!(locator.means(Guid::of(9, 0, 0, 0)));
        assert!(!locator.means(Guid::of(8, 0, 0, 0)));
    }

    #[test]
    fn surrogates_without_partner_stay_distinct() {
        let units = [0xd800, u16::from(b'a'), 0xdfff, 0xd834, 0xdd1e];
        let name = utf8(units.into_iter());
        assert_eq!(name, [b"\xed\xa0\x80a\xed\xbf\xbf".as_slice(), "𝄞".as_bytes()].concat());
        assert!(!crate::text::printable(&name).contains('\u{fffd}'));
    }

    #[test]
    fn what_contradicts_itself_is_corrupt() {
        let path = ("relative_path", "p");
        let cases = [
            (parse(&[path]), "which image"),
            (parse(&[("parent_linkage", "{1}"), path]), "which image"),
            (parse(&[LINKAGE]), "no name"),
            (parse(&[LINKAGE, ("relative_path", "")]), "no name"),
            (parse(&[LINKAGE, path, path]), "twice"),
            (parse(&[LINKAGE, path, ("", "x")]), "without a name"),
            (parse(&[LINKAGE, ("relative_path", "p\0")]), "NUL"),
            (parse(&[LINKAGE, path, ("x\0y", "")]), "NUL"),
        ];
        for (got, text) in cases {
            let error = got.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(text), "{error}");
        }
        let good = locator(&[LINKAGE, path]);
        for (at, byte) in [(18, 3), (19, 0xff), (20, 0xff), (24, 0xff), (28, 0xff), (28, 1)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let error = ParentLocator::parse(&bytes, 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
        }
        for length in 0..good.len() {
            assert!(ParentLocator::parse(&good[..length], 0).is_err(), "cut at {length}");
        }
        let mut other = good;
        other[0] ^= 1;
        let error = ParentLocator::parse(&other, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(utf16("a"), [b'a', 0]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million characters take Miri half an hour")]
    fn entries_that_all_speak_of_the_same_60_kib_are_refused() {
        let good = locator(&[LINKAGE, ("relative_path", "p")]);
        let mut many = good[..20].to_vec();
        many[18..20].copy_from_slice(&60_000u16.to_le_bytes());
        many.extend([0, 0, 12, 0, 0, 0, 12, 0, 0x60, 0xea, 0x60, 0xea].repeat(60_000));
        many.resize(1 << 20, b'x');
        let error = ParentLocator::parse(&many, 0).unwrap_err();
        assert!(error.to_string().contains("more than 1 MiB"), "{error}");
    }
}
