//! Extent lines of a descriptor ("The Extent Description").

use super::layout::sectors;

/// How an extent may be accessed.
///
/// ```
/// use diskimage::format::vmdk::{Access, Descriptor};
///
/// let text = b"version=1\ncreateType=\"custom\"\nRDONLY 8 FLAT \"base.img\" 0\nNOACCESS 8 ZERO\n";
/// let descriptor = Descriptor::parse(text, 0, false)?;
/// let access: Vec<_> = descriptor.extents.iter().map(|line| line.access).collect();
/// assert_eq!(access, [Access::ReadOnly, Access::None]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `RW`.
    ReadWrite,
    /// `RDONLY`.
    ReadOnly,
    /// `NOACCESS`: not even read.
    None,
}

/// What an extent is.
///
/// ```
/// use diskimage::format::vmdk::ExtentType;
///
/// assert_eq!(ExtentType::VmfsSparse.name(), "VMFSSPARSE");
/// assert!(ExtentType::VmfsSparse.is_sparse() && !ExtentType::Vmfs.is_sparse());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentType {
    /// `FLAT`: plain bytes in a file.
    Flat,
    /// `SPARSE`: a hosted sparse extent.
    Sparse,
    /// `ZERO`: zeros, and no file.
    Zero,
    /// `VMFS`: plain bytes in a file of VMFS.
    Vmfs,
    /// `VMFSSPARSE`: a COWD extent.
    VmfsSparse,
    /// `VMFSRDM`: a device behind a mapping file.
    VmfsRdm,
    /// `VMFSRAW`: a device.
    VmfsRaw,
    /// `SESPARSE`: an extent that gives space back.
    SeSparse,
}

/// An extent line: one part of the disk.
///
/// ```
/// use diskimage::format::vmdk::{Descriptor, ExtentType};
///
/// let text = b"version=1\ncreateType=\"twoGbMaxExtentFlat\"\n\
///     RW 4192256 FLAT \"disk-f001.vmdk\" 0\nRW 63 FLAT \"disk-f002.vmdk\" 128\n";
/// let descriptor = Descriptor::parse(text, 0, false)?;
/// let sectors: u64 = descriptor.extents.iter().map(|line| line.sectors).sum();
/// assert_eq!(sectors, 4_192_256 + 63);
/// let last = &descriptor.extents[1];
/// assert_eq!((last.kind, last.offset), (ExtentType::Flat, 128));
/// assert_eq!(last.name, b"disk-f002.vmdk");
/// assert_eq!(last.at, 77); // where the line starts
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtentLine {
    /// How it may be accessed.
    pub access: Access,
    /// How long it is, sectors.
    pub sectors: u64,
    /// What it is.
    pub kind: ExtentType,
    /// The file's name as the bytes in the descriptor; empty for [`ExtentType::Zero`].
    pub name: Vec<u8>,
    /// Where its data start in the file, sectors.
    pub offset: u64,
    /// Where the line lies in the image file, bytes.
    pub at: u64,
}

const TYPES: &[(&str, ExtentType)] = &[
    ("FLAT", ExtentType::Flat),
    ("SPARSE", ExtentType::Sparse),
    ("ZERO", ExtentType::Zero),
    ("VMFS", ExtentType::Vmfs),
    ("VMFSSPARSE", ExtentType::VmfsSparse),
    ("VMFSRDM", ExtentType::VmfsRdm),
    ("VMFSRAW", ExtentType::VmfsRaw),
    ("SESPARSE", ExtentType::SeSparse),
];

impl ExtentType {
    /// The word for it in descriptors.
    ///
    /// ```
    /// use diskimage::format::vmdk::ExtentType;
    ///
    /// assert_eq!(ExtentType::SeSparse.name(), "SESPARSE");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| *name)
    }

    /// Whether it is a file of grains and tables.
    ///
    /// ```
    /// use diskimage::format::vmdk::ExtentType;
    ///
    /// assert!(ExtentType::Sparse.is_sparse());
    /// assert!(!ExtentType::Flat.is_sparse() && !ExtentType::Zero.is_sparse());
    /// ```
    #[must_use]
    pub fn is_sparse(self) -> bool {
        matches!(self, Self::Sparse | Self::VmfsSparse | Self::SeSparse)
    }
}

impl ExtentLine {
    /// Parses a line that lies at `at` in the image file. `None` if its first word is no access,
    /// so that it is another kind of line; an error tells what is wrong with it.
    pub(super) fn parse(line: &[u8], at: u64) -> Option<Result<Self, &'static str>> {
        let (access, rest) = word(line);
        let access = match &*access.to_ascii_uppercase() {
            b"RW" => Access::ReadWrite,
            b"RDONLY" => Access::ReadOnly,
            b"NOACCESS" => Access::None,
            _ => return None,
        };
        Some(Self::parse_rest(access, rest, at))
    }

    fn parse_rest(access: Access, rest: &[u8], at: u64) -> Result<Self, &'static str> {
        let (count, rest) = word(rest);
        let count = number(count).filter(|&count| sectors(count).is_some());
        let count = count.ok_or("its size is no number of sectors")?;
        let (kind, rest) = word(rest);
        let kind = TYPES.iter().find(|(name, _)| kind.eq_ignore_ascii_case(name.as_bytes()));
        let &(_, kind) = kind.ok_or("its type is not known")?;
        let mut line = Self { access, sectors: count, kind, name: Vec::new(), offset: 0, at };
        if kind == ExtentType::Zero {
            return if rest.is_empty() { Ok(line) } else { Err("a ZERO extent has no file") };
        }
        let name = rest.strip_prefix(b"\"").ok_or("its file name has no quotes")?;
        // the last quote ends the name: names may hold quotes, what follows cannot
        let end = name.iter().rposition(|&byte| byte == b'"');
        let (name, rest) = end
            .and_then(|end| name.split_at_checked(end))
            .ok_or("its file name has no closing quote")?;
        line.name = name.to_owned();
        let rest = rest.get(1..).unwrap_or_default().trim_ascii();
        if !rest.is_empty() {
            let offset = number(rest).filter(|&offset| {
                sectors(offset).zip(sectors(count)).is_some_and(|(o, c)| o.checked_add(c).is_some())
            });
            line.offset = offset.ok_or("its offset is no number of sectors")?;
        }
        Ok(line)
    }
}

/// The first word of `text`, and what follows it and the blanks behind it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end).unwrap_or((text, &[]));
    (word, rest.trim_ascii())
}

/// A decimal number without a sign.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ExtentLine, &'static str> {
        ExtentLine::parse(line.as_bytes(), 7).expect(line)
    }

    #[test]
    fn every_access_and_type_is_known() {
        for (word, access) in
            [("RW", Access::ReadWrite), ("rdonly", Access::ReadOnly), ("NOACCESS", Access::None)]
        {
            for &(name, kind) in TYPES {
                let file = if kind == ExtentType::Zero { "" } else { "\"a b.vmdk\"" };
                let line = parse(&format!(" {word}\t10  {name} {file} ")).unwrap();
                assert_eq!((line.access, line.kind, line.sectors), (access, kind, 10));
                assert_eq!(line.kind.name(), name);
                assert_eq!((line.offset, line.at), (0, 7));
                assert_eq!(line.name, file.trim_matches('"').as_bytes());
            }
        }
        assert_eq!(parse("RW 1 flat \"x\" 63").unwrap().offset, 63);
        assert_eq!(parse("RW 1 SPARSE \"\"").unwrap().name, b"");
        assert_eq!(parse(r#"RW 1 FLAT "json:{\"a\"}" 0"#).unwrap().name, br#"json:{\"a\"}"#);
    }

    #[test]
    fn lines_that_make_no_sense_are_errors_and_never_skipped() {
        for line in [
            "RW",
            "RW x FLAT \"a\" 0",
            "RW -1 FLAT \"a\" 0",
            "RW +1 FLAT \"a\" 0",
            "RW 36028797018963968 ZERO",
            "RW 99999999999999999999 ZERO",
            "RW 10",
            "RW 10 NOSUCH \"a\" 0",
            "RW 10 ZERO \"a\"",
            "RW 10 FLAT",
            "RW 10 FLAT a 0",
            "RW 10 FLAT \"a",
            "RW 10 FLAT \"a\" -1",
            "RW 10 FLAT \"a\" 0 0",
            "RW 10 FLAT \"a\" 36028797018963967",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in ["", "XX 10 FLAT \"a\"", "version=1", "RWX 1 ZERO"] {
            assert!(ExtentLine::parse(line.as_bytes(), 0).is_none(), "{line}");
        }
    }
}
