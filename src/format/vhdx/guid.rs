//! GUIDs: three little-endian numbers and eight bytes.

use std::fmt;

use crate::bytes::LeCursor;
use crate::error::Result;

/// A GUID, kept in the byte order of its text form.
///
/// ```
/// use diskimage::format::vhdx::Guid;
///
/// // the region of the block allocation table (2.2.3.2), as it lies in a file
/// let stored = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
/// let guid = Guid::from_stored(stored);
/// assert_eq!(guid.to_string(), "2dc27766-f623-4200-9d64-115e9bfd4a08");
/// assert_eq!(guid, Guid::of(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08));
/// assert!(!guid.is_nil() && Guid::default().is_nil());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Guid([u8; 16]);

impl Guid {
    /// The GUID whose text form has these numbers, the last one split by a dash.
    ///
    /// ```
    /// use diskimage::format::vhdx::Guid;
    ///
    /// const PARENT_LOCATOR: Guid = Guid::of(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);
    /// assert_eq!(PARENT_LOCATOR.to_string(), "a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
    /// ```
    #[must_use]
    pub const fn of(first: u32, second: u16, third: u16, last: u64) -> Self {
        let [a, b, c, d] = first.to_be_bytes();
        let [e, f] = second.to_be_bytes();
        let [g, h] = third.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = last.to_be_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// From the 16 bytes that Windows stores.
    ///
    /// ```
    /// use diskimage::format::vhdx::Guid;
    ///
    /// let stored = *b"\x03\x02\x01\x00\x05\x04\x07\x06\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
    /// let guid = Guid::from_stored(stored);
    /// assert_eq!(guid.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    /// ```
    #[must_use]
    pub const fn from_stored(bytes: [u8; 16]) -> Self {
        let [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p] = bytes;
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// From 16 bytes in the order of the text form.
    ///
    /// ```
    /// use diskimage::format::vhdx::Guid;
    ///
    /// let guid = Guid::from_text_order(*b"0123456789abcdef");
    /// assert_eq!(guid.to_string(), "30313233-3435-3637-3839-616263646566");
    /// assert_eq!(guid.as_bytes(), b"0123456789abcdef");
    /// ```
    #[must_use]
    pub const fn from_text_order(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The next 16 bytes of a structure; `what` names the field in the error.
    pub(super) fn read(cursor: &mut LeCursor<'_>, what: &'static str) -> Result<Self> {
        let bytes = cursor.bytes(16, what)?;
        Ok(bytes.first_chunk().map(|&stored| Self::from_stored(stored)).unwrap_or_default())
    }

    /// From the text form, with or without braces; `None` if it is none.
    ///
    /// ```
    /// use diskimage::format::vhdx::Guid;
    /// use diskimage::format::vhdx::layout::REGION_METADATA;
    ///
    /// let braced = "{8B7CA206-4790-4B9A-B8FE-575F050F886E}";
    /// assert_eq!(Guid::parse(braced), Some(REGION_METADATA));
    /// assert_eq!(Guid::parse("8b7ca206"), None);
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        let mut nibbles = Vec::with_capacity(32);
        for (index, c) in inner.chars().enumerate() {
            match (index, c) {
                (8 | 13 | 18 | 23, '-') => {}
                (8 | 13 | 18 | 23, _) => return None,
                _ => nibbles.push(u8::try_from(c.to_digit(16)?).ok()?),
            }
        }
        let (pairs, []) = nibbles.as_chunks::<2>() else { return None };
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high.wrapping_shl(4) | low).collect();
        bytes.try_into().ok().map(Self)
    }

    /// The bytes in the order of the text form.
    ///
    /// ```
    /// use diskimage::format::vhdx::Guid;
    ///
    /// let guid = Guid::of(0x0001_0203, 0x0405, 0x0607, 0x0809_0a0b_0c0d_0e0f);
    /// assert_eq!(guid.as_bytes()[..4], [0, 1, 2, 3]);
    /// ```
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether all bytes are zero: no identifier.
    ///
    /// ```
    /// use diskimage::format::vhdx::Guid;
    ///
    /// assert!(Guid::from_stored([0; 16]).is_nil());
    /// ```
    #[must_use]
    pub fn is_nil(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_stored_form_are_the_same_guid() {
        let text = "2dc27766-f623-4200-9d64-115e9bfd4a08";
        let stored = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
        let guid = Guid::from_stored(stored);
        assert_eq!(guid.to_string(), text);
        assert_eq!(guid, super::super::layout::REGION_BAT);
        assert_eq!(Guid::parse(text), Some(guid));
        assert_eq!(Guid::parse(&format!("{{{}}}", text.to_uppercase())), Some(guid));
    }

    #[test]
    fn what_is_no_guid_is_none() {
        for text in [
            "",
            "{}",
            "2dc27766",
            "2dc27766-f623-4200-9d64-115e9bfd4a0",
            "2dc27766-f623-4200-9d64-115e9bfd4a080",
            "2dc27766f623-4200-9d64-115e9bfd4a08-",
            "2dc27766-f623-4200-9d64-115e9bfd4a0x",
            "{2dc27766-f623-4200-9d64-115e9bfd4a08",
            "2dc27766-f623-4200-9d64-115e9bfd4aé8",
        ] {
            assert_eq!(Guid::parse(text), None, "{text}");
        }
    }
}
