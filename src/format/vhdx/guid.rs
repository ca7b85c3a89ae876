//! GUIDs: three little-endian numbers and eight bytes.

use std::fmt;

use crate::bytes::LeCursor;
use crate::error::Result;

/// A GUID, kept in the byte order of its text form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Guid([u8; 16]);

impl Guid {
    /// The GUID whose text form has these numbers, the last one split by a dash.
    #[must_use]
    pub const fn of(first: u32, second: u16, third: u16, last: u64) -> Self {
        let [a, b, c, d] = first.to_be_bytes();
        let [e, f] = second.to_be_bytes();
        let [g, h] = third.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = last.to_be_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// From the 16 bytes that Windows stores.
    #[must_use]
    pub const fn from_stored(bytes: [u8; 16]) -> Self {
        let [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p] = bytes;
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// From 16 bytes in the order of the text form.
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
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether all bytes are zero: no identifier.
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
