//! Where the tables of chunks are kept: as resources of the type `blkx`, in a property list or in
//! the binary form of resource forks ("Inside Macintosh: More Macintosh Toolbox", 1-121).

use std::ops::Range;

use roxmltree::{Document, Node, ParsingOptions};

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::format::fault::{Fault, check_limit};
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::layout::BLKX;

/// The most elements of a property list: what bounds the memory. A table has a dozen.
const MAX_NODES: u32 = 1 << 17;

/// A resource of the type `blkx`.
#[derive(Debug)]
pub(super) struct Resource {
    /// Its name, of a partition as a rule.
    pub(super) name: String,
    /// Where it lies, as far as that can be told.
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
}

/// Calls `take` with each table of the property list.
pub(super) fn of_plist(
    storage: &dyn Storage,
    range: &Range<u64>,
    limits: &Limits,
    mut take: impl FnMut(Resource) -> Result<()>,
) -> Result<()> {
    let length = range.end.saturating_sub(range.start);
    check_limit("property list", length, limits.max_directory_size)?;
    let mut bytes = read_vec(storage, "the property list", range.start, to_usize(length))?;
    blank_doctype(&mut bytes).map_err(|error| error.at(range.start))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let at = range.start.saturating_add(to_u64(error.valid_up_to()));
        Error::new(Fault::Corrupt("the property list is not in UTF-8".to_owned())).at(at)
    })?;
    let text = text.trim_end_matches('\0');
    // no DTD: entities are how a small file becomes a large one
    let parsing = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, parsing).map_err(|error| {
        let error = crate::text::printable_str(&error.to_string());
        Error::new(Fault::Corrupt(format!("the property list is no XML: {error}"))).at(range.start)
    })?;
    let at = |node: Node<'_, '_>| range.start.saturating_add(to_u64(node.range().start));
    let root = document.root_element();
    let forks = elements(root).find(|node| node.has_tag_name("dict"));
    let tables = forks
        .and_then(|dict| entry(dict, "resource-fork"))
        .and_then(|resources| entry(resources, "blkx"))
        .filter(|tables| tables.has_tag_name("array"));
    let Some(tables) = tables else {
        let text = "the property list has no resources of the type blkx".to_owned();
        return Err(Error::new(Fault::Corrupt(text)).at(range.start));
    };
    for dict in elements(tables) {
        let data = entry(dict, "Data").filter(|data| data.has_tag_name("data"));
        // what is around a comment would be two texts
        let data = data.filter(|data| data.children().count() <= 1);
        let decoded = data.and_then(|data| base64(data.text().unwrap_or_default()));
        let Some(data) = decoded else {
            let text = "a resource of the type blkx has no data".to_owned();
            return Err(Error::new(Fault::Corrupt(text)).at(at(dict)));
        };
        let name = |key| entry(dict, key).and_then(|node| node.text()).unwrap_or_default();
        take(Resource { name: name("Name").to_owned(), offset: at(dict), data })?;
    }
    Ok(())
}

/// Property lists name a document type, which says nothing. One that declares something is refused.
fn blank_doctype(bytes: &mut [u8]) -> Result<()> {
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what);
    let Some(start) = find(bytes, b"<!DOCTYPE") else { return Ok(()) };
    let rest = bytes.get_mut(start..).unwrap_or_default();
    let Some(end) = rest.iter().position(|&byte| matches!(byte, b'>' | b'[')) else {
        return Err(Fault::Corrupt("the document type has no end".to_owned()).into());
    };
    if rest.get(end) == Some(&b'[') {
        let text = "the property list declares a document type of its own".to_owned();
        return Err(Fault::Corrupt(text).into());
    }
    rest.get_mut(..=end).unwrap_or_default().fill(b' ');
    Ok(())
}

fn elements<'a, 'b>(node: Node<'a, 'b>) -> impl Iterator<Item = Node<'a, 'b>> {
    node.children().filter(Node::is_element)
}

/// What follows the key of this name in a dictionary.
fn entry<'a, 'b>(dict: Node<'a, 'b>, name: &str) -> Option<Node<'a, 'b>> {
    let key = elements(dict)
        .find(|node| node.has_tag_name("key") && node.text().is_some_and(|text| text == name))?;
    key.next_sibling_element()
}

/// Base64 (RFC 4648), with white space in between.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len().div_euclid(4).saturating_mul(3));
    let (mut bits, mut count, mut padding) = (0u32, 0u32, 0u32);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'=' => {
                padding = padding.saturating_add(1);
                continue;
            }
            _ if padding > 0 => return None,
            b'A'..=b'Z' => byte.wrapping_sub(b'A'),
            b'a'..=b'z' => byte.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => byte.wrapping_sub(b'0').wrapping_add(52),
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count = count.saturating_add(6);
        if let Some(left) = count.checked_sub(8) {
            count = left;
            bytes.push(u8::try_from(bits.wrapping_shr(count) & 0xff).unwrap_or_default());
        }
    }
    // of what is left over, nothing may be said
    let left = bits & 1u32.wrapping_shl(count).wrapping_sub(1);
    (count < 6 && left == 0 && padding <= 2).then_some(bytes)
}

/// Calls `take` with each table of the resource fork.
pub(super) fn of_fork(
    storage: &dyn Storage,
    range: &Range<u64>,
    limits: &Limits,
    mut take: impl FnMut(Resource) -> Result<()>,
) -> Result<()> {
    let length = range.end.saturating_sub(range.start);
    check_limit("resource fork", length, limits.max_directory_size)?;
    let bytes = read_vec(storage, "the resource fork", range.start, to_usize(length))?;
    let cursor = |at: u64| {
        let rest = bytes.get(to_usize(at)..).unwrap_or_default();
        BeCursor::new(rest, range.start.saturating_add(at))
    };
    let mut header = cursor(0);
    let data = u64::from(header.u32("the offset of the resources' data")?);
    let map = u64::from(header.u32("the offset of the resource map")?);
    // the copy of the header, a handle, a file number and attributes come first
    let mut offsets = cursor(map.saturating_add(24));
    let types = map.saturating_add(offsets.u16("the offset of the resource types")?.into());
    let names = map.saturating_add(offsets.u16("the offset of the resources' names")?.into());
    let mut list = cursor(types);
    let count = list.u16("the number of resource types")?;
    // resources do not overlap: they cannot have more bytes than there are
    let mut left = length;
    // one less is stored, so that 0xffff is none
    for _ in 0..count.wrapping_add(1) {
        let kind = list.bytes(4, "a resource type")?;
        let resources = list.u16("the number of resources of a type")?;
        let from = types.saturating_add(list.u16("the offset of the resources of a type")?.into());
        if kind != BLKX {
            continue;
        }
        let mut references = cursor(from);
        for _ in 0..=resources {
            let at = references.offset();
            references.u16("a resource's number")?;
            let name = references.u16("the offset of a resource's name")?;
            let place = references.u32("the offset of a resource's data")? & 0x00ff_ffff;
            references.u32("a resource's handle")?;
            let mut body = cursor(data.saturating_add(place.into()));
            let length = body.u32("the length of a resource")?;
            let Some(rest) = left.checked_sub(length.into()) else {
                let text = "the resources overlap".to_owned();
                return Err(Error::new(Fault::Corrupt(text)).at(at));
            };
            left = rest;
            let data = body.bytes(to_usize(length.into()), "a resource");
            let data = data.map_err(|error| error.at(at))?.to_vec();
            let name = match name {
                u16::MAX => String::new(),
                offset => {
                    let mut name = cursor(names.saturating_add(offset.into()));
                    let length = name.u8("the length of a resource's name")?;
                    let bytes = name.bytes(length.into(), "a resource's name")?;
                    String::from_utf8_lossy(bytes).into_owned()
                }
            };
            take(Resource { name, offset: at, data })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_and_nonsense_is_not() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("AA==", b"\0"),
            ("AAE=", b"\0\x01"),
            (" bWlz\n\taA ==", b"mish"),
            ("+/+/", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(base64(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["A", "A===", "AA=A", "AB==", "A-==", "AAAAA"] {
            assert_eq!(base64(text), None, "{text}");
        }
    }

    #[test]
    fn a_document_type_is_passed_over_unless_it_declares_something() {
        let mut plain = b"<?xml?><!DOCTYPE plist PUBLIC \"a\" \"b\"><plist/>".to_vec();
        blank_doctype(&mut plain).unwrap();
        assert!(plain.ends_with(b"   <plist/>") && plain.starts_with(b"<?xml?> "));
        let mut own = b"<!DOCTYPE plist [<!ENTITY a \"b\">]><plist/>".to_vec();
        assert!(blank_doctype(&mut own).is_err());
    }
}
