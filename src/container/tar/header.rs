//! The headers of members, and the numbers in them.

use std::ops::Range;

use super::BLOCK;
use crate::container::error::Fault;
use crate::error::{Error, Result};
use crate::format::probe::tar_sums;

/// A header, its checksum verified.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    pub(super) kind: u8,
}

impl Header {
    pub(super) fn parse(block: &[u8], at: u64) -> Result<Self> {
        let here = |error: Error| error.at(at);
        let stored = number(field(block, 148..156), "a checksum").map_err(here)?;
        let sums = tar_sums(block);
        if block.len() < BLOCK || !sums.contains(&i64::try_from(stored).unwrap_or(-1)) {
            return Err(here(Fault::Checksum.into()));
        }
        let text = |range: Range<usize>| {
            let bytes = field(block, range);
            bytes.split(|&b| b == 0).next().unwrap_or_default().to_vec()
        };
        let kind = block.get(156).copied().unwrap_or_default();
        let mut name = text(0..100);
        // the prefix is POSIX's; GNU has times there
        if field(block, 257..263) == b"ustar\0" {
            let prefix = text(345..500);
            if !prefix.is_empty() {
                name = [&*prefix, b"/", &*name].concat();
            }
        }
        let size = number(field(block, 124..136), "the size of a member").map_err(here)?;
        Ok(Self { name, size, kind })
    }
}

pub(super) fn field(block: &[u8], range: Range<usize>) -> &[u8] {
    block.get(range).unwrap_or_default()
}

/// A number in octal digits, or in base 256 where the first bit says so.
pub(super) fn number(bytes: &[u8], what: &'static str) -> Result<u64> {
    let wrong = || Error::new(Fault::Number(what));
    if let Some(first) = bytes.first().filter(|&&first| first & 0x80 != 0) {
        // 0xff starts a negative number
        let rest = bytes.get(1..).unwrap_or_default();
        let shift = |value: Option<u64>, digit: u8| {
            value?.checked_mul(256).and_then(|value| value.checked_add(digit.into()))
        };
        let head = Some(u64::from(first & 0x7f));
        let value = rest.iter().copied().fold(head, shift).filter(|_| *first == 0x80);
        // what no file can hold is no size
        return value.filter(|&value| i64::try_from(value).is_ok()).ok_or_else(wrong);
    }
    let is_padding = |&byte: &u8| byte == b' ' || byte == 0;
    let start = bytes.iter().position(|&byte| byte != b' ').ok_or_else(wrong)?;
    let digits = bytes.get(start..).unwrap_or_default();
    let length = digits.iter().position(is_padding).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(length);
    if digits.is_empty() || !rest.iter().all(is_padding) {
        return Err(wrong());
    }
    digits.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(u64::from(digit.saturating_sub(b'0'))))
            .ok_or_else(wrong),
        _ => Err(wrong()),
    })
}

/// A number in decimal digits.
pub(super) fn decimal(bytes: &[u8]) -> Result<u64> {
    let text =
        std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let value = text.and_then(|text| text.parse().ok());
    value
        .filter(|&value: &u64| i64::try_from(value).is_ok())
        .ok_or_else(|| Fault::Number("a number of an extended header").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_never_negative() {
        let parse = |bytes: &[u8]| number(bytes, "x").ok();
        assert_eq!(parse(b"00000000017\0"), Some(15));
        assert_eq!(parse(b"     17 \0   "), Some(15));
        assert_eq!(parse(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(parse(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02"), Some(0x102));
        assert_eq!(parse(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX as u64));
        for bad in [
            &b"            "[..],
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
            b"00000000018\0",
            b"17x\0",
            b"1 7\0",
            b"-0000000017\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
            b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
            b"\x81\0\0\0\0\0\0\0\0\0\0\x01",
            b"",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
