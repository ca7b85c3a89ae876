//! The descriptor: the text that says what a disk is made of ("The Descriptor File").

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::num::to_u64;
use crate::text::printable;

use super::error::VmdkDetail;
use super::layout::*;
use super::line::{ExtentLine, number};
use super::names::{candidates, decode, parse_uuid};

/// What a descriptor says.
///
/// ```
/// use diskimage::format::vmdk::{Descriptor, ExtentType};
///
/// let text = br#"# Disk DescriptorFile
/// version=1
/// encoding="UTF-8"
/// CID=5f3a9c01
/// parentCID=ffffffff
/// createType="monolithicFlat"
/// RW 2097152 FLAT "disk-flat.vmdk" 0
/// ddb.adapterType = "lsilogic"
/// ddb.uuid.image = "30313233-3435-3637-3839-616263646566"
/// "#;
/// let descriptor = Descriptor::parse(text, 0, false)?;
/// assert_eq!((&*descriptor.create_type, descriptor.cid), ("monolithicFlat", Some(0x5f3a_9c01)));
/// assert_eq!(descriptor.extents[0].kind, ExtentType::Flat);
/// assert_eq!(descriptor.text("ddb.adaptertype").as_deref(), Some("lsilogic"));
/// assert_eq!(descriptor.encoding(), Some(&b"UTF-8"[..]));
/// assert_eq!(descriptor.image_uuid(), Some(*b"0123456789abcdef"));
/// assert_eq!(descriptor.parent_uuid(), None);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Descriptor {
    /// The disk type, as written.
    pub create_type: String,
    /// The content identifier, where there is one.
    pub cid: Option<u32>,
    /// The content identifier of the parent; [`CID_NO_PARENT`] and `None` mean no parent.
    pub parent_cid: Option<u32>,
    /// The extents in the order of the disk.
    pub extents: Vec<ExtentLine>,
    /// Keys that appear twice with different values, where that changes nothing that is read.
    pub repeated: Vec<String>,
    /// By key in lower case.
    values: HashMap<String, Value>,
}

#[derive(Debug, Clone)]
struct Value {
    value: Vec<u8>,
    /// The number of the line, counted from 1, and where it lies in the image file.
    line: usize,
    at: u64,
}

/// How many of the keys that appear twice are named.
const MAX_REPEATED: usize = 8;

/// Keys that decide what is read: a second, different value is an error.
const DECISIVE: &[&str] = &[
    "version",
    "encoding",
    "cid",
    "parentcid",
    "createtype",
    "parentfilenamehint",
    "ddb.uuid.image",
    "ddb.uuid.parent",
];

impl Descriptor {
    /// Parses the `text`, which lies at `at` in the image file. With `trust_broken`, versions that
    /// are not known pass.
    ///
    /// ```
    /// use diskimage::ErrorKind;
    /// use diskimage::format::vmdk::Descriptor;
    ///
    /// let text = b"# Disk DescriptorFile\nversion=1\ncreateType=\"custom\"\nRW 8 ZEROES\n";
    /// // errors name the place in the file where the text lies
    /// let error = Descriptor::parse(text, 512, false).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(512 + 52)));
    /// println!("{error}");
    /// ```
    pub fn parse(text: &[u8], at: u64, trust_broken: bool) -> Result<Self> {
        let mut descriptor = Self::default();
        let marked = text.starts_with(b"\xef\xbb\xbf");
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut position = if marked { at.saturating_add(3) } else { at };
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            descriptor.take_line(line, index.saturating_add(1), position)?;
            position = position.saturating_add(to_u64(line.len())).saturating_add(1);
        }
        descriptor.finish(at, trust_broken)?;
        Ok(descriptor)
    }

    fn take_line(&mut self, whole: &[u8], number: usize, at: u64) -> Result<()> {
        let line = whole.trim_ascii();
        let bad = |why| {
            let text = printable(line.get(..80).unwrap_or(line));
            Err(Error::new(VmdkDetail::Line { line: number, why, text }).at(at))
        };
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        match ExtentLine::parse(line, at) {
            Some(Ok(extent)) => {
                self.extents.push(extent);
                return Ok(());
            }
            Some(Err(why)) => return bad(why),
            None => {}
        }
        let mut sides = line.splitn(2, |&byte| byte == b'=');
        let key = sides.next().unwrap_or_default().trim_ascii();
        let is_key = |byte: &u8| byte.is_ascii_graphic() && *byte != b'"';
        let Some(value) = sides.next().filter(|_| !key.is_empty() && key.iter().all(is_key)) else {
            return bad("it is neither a comment, an extent, nor a key with a value");
        };
        let Some(value) = unquoted(value.trim_ascii()) else {
            return bad("the value has no closing quote");
        };
        let key = String::from_utf8_lossy(key).to_ascii_lowercase();
        match self.find(&key) {
            None => {
                self.values.insert(key, Value { value: value.to_owned(), line: number, at });
            }
            Some(first) if first.value == value => {}
            Some(_) if DECISIVE.contains(&&*key) => {
                return Err(Error::new(VmdkDetail::Contradiction(printable(key.as_bytes()))).at(at));
            }
            Some(_) if self.repeated.contains(&key) || self.repeated.len() >= MAX_REPEATED => {}
            Some(_) => self.repeated.push(key),
        }
        Ok(())
    }

    /// Takes the values that have a form of their own.
    fn finish(&mut self, at: u64, trust_broken: bool) -> Result<()> {
        let Some(create_type) = self.find("createtype") else {
            return Err(Error::new(VmdkDetail::NoCreateType).at(at));
        };
        self.create_type = printable(&create_type.value);
        self.cid = self.content_id("cid")?;
        self.parent_cid = self.content_id("parentcid")?;
        if let Some(version) = self.find("version") {
            let known = number(&version.value)
                .is_some_and(|n| u32::try_from(n).is_ok_and(|n| DESCRIPTOR_VERSIONS.contains(&n)));
            if !known && !trust_broken {
                let value = number(&version.value).unwrap_or_default();
                let detail = VmdkDetail::Version { what: "descriptor", version: value };
                return Err(Error::new(detail).at(version.at));
            }
        }
        self.uuid("ddb.uuid.image")?;
        self.uuid("ddb.uuid.parent")?;
        Ok(())
    }

    fn find(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    fn content_id(&self, key: &str) -> Result<Option<u32>> {
        let Some(found) = self.find(key) else { return Ok(None) };
        let id = std::str::from_utf8(&found.value).ok().filter(|text| {
            (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        match id.and_then(|text| u32::from_str_radix(text, 16).ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(found.bad(key, "it is no number of up to eight hexadecimal digits")),
        }
    }

    /// A UUID that is not all zeros; VirtualBox writes zeros for none.
    fn uuid(&self, key: &str) -> Result<Option<[u8; 16]>> {
        let Some(found) = self.find(key).filter(|found| !found.value.is_empty()) else {
            return Ok(None);
        };
        match parse_uuid(&found.value) {
            Some(uuid) => Ok(Some(uuid).filter(|uuid| uuid != &[0; 16])),
            None => Err(found.bad(key, "it is no UUID")),
        }
    }

    /// The value of `key` (in lower case) as text, decoded as far as that goes.
    ///
    /// ```
    /// use diskimage::format::vmdk::Descriptor;
    ///
    /// let text = b"createType=\"custom\"\nddb.toolsVersion = \"2147483647\"\n";
    /// let descriptor = Descriptor::parse(text, 0, false)?;
    /// assert_eq!(descriptor.text("ddb.toolsversion").as_deref(), Some("2147483647"));
    /// assert_eq!(descriptor.text("ddb.adaptertype"), None);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        let value = &self.find(key)?.value;
        let decoded = decode(value, self.encoding());
        Some(decoded.unwrap_or_else(|| String::from_utf8_lossy(value).into_owned()))
    }

    /// The encoding that it declares for its values.
    ///
    /// ```
    /// use diskimage::format::vmdk::Descriptor;
    ///
    /// let text = b"encoding=\"windows-1252\"\ncreateType=\"custom\"\nddb.comment = \"caf\xe9\"\n";
    /// let descriptor = Descriptor::parse(text, 0, false)?;
    /// assert_eq!(descriptor.encoding(), Some(&b"windows-1252"[..]));
    /// assert_eq!(descriptor.text("ddb.comment").as_deref(), Some("caf\u{e9}"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn encoding(&self) -> Option<&[u8]> {
        self.find("encoding").map(|found| &*found.value)
    }

    /// The parent's names, the likeliest first, and the file offset of the line that has them.
    pub(super) fn parent_hint(&self) -> Option<(Vec<Vec<u8>>, u64)> {
        let hint = self.find("parentfilenamehint").filter(|hint| !hint.value.is_empty())?;
        Some((candidates(&hint.value, self.encoding()), hint.at))
    }

    /// The disk's own UUID, which VirtualBox gives it.
    ///
    /// ```
    /// use diskimage::format::vmdk::Descriptor;
    /// use diskimage::text::uuid;
    ///
    /// let text = b"createType=\"custom\"\n\
    ///     ddb.uuid.image=\"30313233-3435-3637-3839-616263646566\"\n";
    /// let id = Descriptor::parse(text, 0, false)?.image_uuid();
    /// let text = id.as_ref().map(uuid);
    /// assert_eq!(text.as_deref(), Some("30313233-3435-3637-3839-616263646566"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn image_uuid(&self) -> Option<[u8; 16]> {
        self.uuid("ddb.uuid.image").ok().flatten()
    }

    /// The UUID of the disk's parent, by which VirtualBox links it.
    ///
    /// ```
    /// use diskimage::format::vmdk::Descriptor;
    ///
    /// // zeros are VirtualBox's word for none
    /// let text = b"createType=\"custom\"\n\
    ///     ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n";
    /// assert_eq!(Descriptor::parse(text, 0, false)?.parent_uuid(), None);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn parent_uuid(&self) -> Option<[u8; 16]> {
        self.uuid("ddb.uuid.parent").ok().flatten()
    }

    /// The file offset of the line that has `key` (in lower case).
    pub(super) fn at(&self, key: &str) -> u64 {
        self.find(key).map_or(0, |found| found.at)
    }

    /// Why the disk must be taken for encrypted, if it must.
    pub(super) fn encryption(&self) -> Option<&'static str> {
        let filters = self.find("ddb.iofilters").map(|found| found.value.to_ascii_lowercase());
        let filters = filters.unwrap_or_default();
        if filters.windows(13).any(|part| part == b"vmwarevmcrypt") {
            return Some("the I/O filter vmwarevmcrypt");
        }
        let keys = |(key, found): (&String, &Value)| {
            let key = key.strip_prefix("ddb.").unwrap_or(key);
            key.starts_with("encryption") && !found.value.is_empty()
        };
        self.values.iter().any(keys).then_some("the descriptor has encryption keys")
    }
}

impl Value {
    #[cold]
    fn bad(&self, key: &str, why: &'static str) -> Error {
        let value = printable(self.value.get(..80).unwrap_or(&self.value));
        let text = format!("{key}={value}");
        Error::new(VmdkDetail::Line { line: self.line, why, text }).at(self.at)
    }
}

/// `value` without the quotes around it; `None` if one is missing.
fn unquoted(value: &[u8]) -> Option<&[u8]> {
    match value.strip_prefix(b"\"") {
        None => Some(value),
        Some(rest) => rest.strip_suffix(b"\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Descriptor> {
        Descriptor::parse(text.as_bytes(), 512, false)
    }

    #[test]
    fn keys_comments_blanks_and_line_ends_may_vary() {
        let text = "\u{feff}# Disk DescriptorFile\r\nVERSION = 1\r\n\r\ncid=0000beef\r\n\
            parentCID=FFFFFFFF\r\n  CreateType = \"monolithicFlat\"  \r\n#RW 1 ZERO\r\n\
            rw 8 Flat \"a.vmdk\" 0\r\nNOACCESS 8 ZERO\r\nddb.comment = \"a = \"b\"\"\r\n";
        let descriptor = parse(text).unwrap();
        assert_eq!(descriptor.create_type, "monolithicFlat");
        assert_eq!((descriptor.cid, descriptor.parent_cid), (Some(0xbeef), Some(CID_NO_PARENT)));
        assert_eq!(descriptor.extents.len(), 2);
        let at = text.find("rw 8").unwrap() as u64 + 512;
        assert_eq!(descriptor.extents[0].at, at);
        assert_eq!(descriptor.text("ddb.comment").unwrap(), "a = \"b\"");
        assert!(descriptor.repeated.is_empty());
        assert_eq!(descriptor.parent_hint(), None);
    }

    #[test]
    fn what_contradicts_itself_or_makes_no_sense_is_an_error() {
        let base = "createType=\"vmfs\"\nCID=1\nversion=1\n";
        parse(base).unwrap();
        for (more, kind) in [
            ("CID=2", ErrorKind::Corrupt),
            ("createtype=\"monolithicFlat\"", ErrorKind::Corrupt),
            ("parentCID=xyz", ErrorKind::Corrupt),
            ("parentCID=123456789", ErrorKind::Corrupt),
            ("parentCID=", ErrorKind::Corrupt),
            ("ddb.uuid.parent=\"1234\"", ErrorKind::Corrupt),
            ("ddb.x=\"1", ErrorKind::Corrupt),
            ("some words", ErrorKind::Corrupt),
            ("XX 2048 FLAT \"a=b\" 0", ErrorKind::Corrupt),
            ("=1", ErrorKind::Corrupt),
            ("RW 1 FLAT a", ErrorKind::Corrupt),
        ] {
            let error = parse(&format!("{base}{more}\n")).expect_err(more);
            assert_eq!(error.kind(), kind, "{more}: {error}");
            assert_eq!(error.offset(), Some(512 + base.len() as u64), "{more}: {error}");
        }
        assert!(parse("CID=1\n").is_err(), "no createType");
        let error = parse("createType=\"vmfs\"\nversion=9").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(Descriptor::parse(b"createType=\"vmfs\"\nversion=9", 0, true).is_ok());
    }

    #[test]
    fn the_same_twice_is_no_contradiction_and_what_is_not_read_may_be_one() {
        let text = "createType=\"vmfs\"\nCID=1\ncid=1\nddb.a=\"1\"\nddb.a=\"2\"\n";
        let descriptor = parse(text).unwrap();
        assert_eq!(descriptor.repeated, ["ddb.a"]);
        assert_eq!(descriptor.text("ddb.a").unwrap(), "1");
    }

    #[test]
    fn uuids_of_zeros_are_none_and_encryption_is_seen() {
        let none =
            "createType=\"vmfs\"\nddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n";
        assert_eq!(parse(none).unwrap().parent_uuid(), None);
        let some = none.replace("0\"", "1\"");
        assert_eq!(parse(&some).unwrap().parent_uuid().unwrap()[15], 1);
        assert_eq!(parse(none).unwrap().encryption(), None);
        for line in ["ddb.iofilters=\"vmwarevmcrypt\"", "encryptionKeys=\"vmware:key\""] {
            assert!(parse(&format!("{none}{line}\n")).unwrap().encryption().is_some(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Descriptor::parse(&text, 0, false);
        }

        #[test]
        fn extents_are_never_dropped(lines in proptest::collection::vec(0u64..1 << 40, 1..40)) {
            let mut text = "createType=\"vmfs\"\n".to_owned();
            for count in &lines {
                text += &format!("RW {count} ZERO\n");
            }
            let parsed = parse(&text).unwrap();
            prop_assert!(parsed.extents.iter().map(|extent| extent.sectors).eq(lines));
        }
    }
}
