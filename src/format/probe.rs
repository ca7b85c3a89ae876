//! Probing: what a file is, by its bytes. All that fits is reported, with the evidence.
//!
//! ```
//! use diskimage::Format;
//! use diskimage::format::probe::probe;
//! use diskimage::storage::MemoryStorage;
//!
//! // a partition table in the open is a raw disk
//! let mut disk = vec![0; 1 << 20];
//! disk[510..512].copy_from_slice(b"\x55\xaa");
//! disk[512..520].copy_from_slice(b"EFI PART");
//! let found = probe(&MemoryStorage::new(disk))?;
//! assert!(found.is_raw_disk());
//! assert_eq!(found.read_formats().next(), None); // no image, so it takes somebody to say so
//! assert!(found.contents().any(|content| content.format == Format::Gpt));
//! # Ok::<(), diskimage::Error>(())
//! ```
// long: a quarter of it is documentation

use std::borrow::Cow;

use byteorder::{BigEndian, ByteOrder, LittleEndian};

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::{Class, Format};
use crate::num::{to_u64, to_usize};
use crate::storage::Storage;

/// How many bytes from the start of a file tell what it is: the superblock of Btrfs, at 64 KiB,
/// lies furthest in.
///
/// ```
/// use diskimage::Format;
/// use diskimage::format::probe::{HEAD, probe_bytes};
///
/// let mut start = vec![0; HEAD];
/// start[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
/// assert_eq!(probe_bytes(&start, None).matches[0].format, Format::Btrfs);
/// // with less of the file that is not seen
/// assert!(probe_bytes(&start[..4096], None).matches.is_empty());
/// ```
pub const HEAD: usize = 68 << 10;
/// How many bytes from its end do: footers of VHD and DMG.
///
/// ```
/// use diskimage::Format;
/// use diskimage::format::probe::{TAIL, probe_bytes};
/// use diskimage::format::vhd::VhdOptions;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(VhdOptions::new().fixed(true).writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// // a fixed VHD has nothing but a footer, and without it is any raw disk
/// let tail = &bytes[bytes.len() - TAIL..];
/// let found = probe_bytes(&bytes[..512], Some((tail, bytes.len() as u64)));
/// assert_eq!((found.matches[0].format, found.matches[0].offset), (Format::Vhd, 1 << 20));
/// assert!(probe_bytes(&bytes[..512], None).matches.is_empty());
/// # Ok::<(), diskimage::Error>(())
/// ```
pub const TAIL: usize = 512;

/// Descriptors of VMDK are some hundred bytes long; a file from this size on holds more.
const LONG_DESCRIPTOR: u64 = 64 << 10;

/// What a file was found to be.
///
/// ```
/// use diskimage::Format;
/// use diskimage::format::probe::probe;
/// use diskimage::storage::MemoryStorage;
///
/// let found = probe(&MemoryStorage::new(b"vhdxfile".repeat(8 << 10)))?;
/// assert_eq!(found.images().next().map(|one| one.format), Some(Format::Vhdx));
/// assert!(!found.is_raw_disk());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Probe {
    /// Every format that fits, images first. Empty if none does.
    pub matches: Vec<Match>,
    /// The size of the file, where it is known.
    pub size: Option<u64>,
}

/// One format that fits.
///
/// ```
/// use diskimage::format::probe::probe_bytes;
///
/// let found = probe_bytes(b"QFI\xfb\0\0\0\x03", None);
/// let one = &found.matches[0];
/// println!("{}: {} at {:#x}", one.format, one.evidence, one.offset);
/// assert_eq!(one.evidence, r#"magic "QFI\xfb", version 3"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Match {
    /// The format.
    pub format: Format,
    /// Where the deciding bytes lie in the file.
    pub offset: u64,
    /// What they are, in words: `magic "QFI\xfb", version 3`.
    pub evidence: Cow<'static, str>,
}

impl Probe {
    /// The matches that are disk images or files that wrap one, apart from plain disk content.
    ///
    /// ```
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// // a QCOW2 header with the signature of a VDI behind it: which one is it?
    /// let mut upload = b"QFI\xfb\0\0\0\x03".to_vec();
    /// upload.resize(0x40, 0);
    /// upload.extend(b"\x7f\x10\xda\xbe");
    /// let found = probe_bytes(&upload, None);
    /// let names: Vec<_> = found.images().map(|one| one.format.name()).collect();
    /// assert_eq!(names, ["qcow2", "vdi"]);
    /// ```
    pub fn images(&self) -> impl Iterator<Item = &Match> {
        self.matches.iter().filter(|m| m.format.class() == Class::Image || self.is_split(m))
    }

    /// The formats that fit and are read, or described at least; a partition table counts as a raw
    /// disk.
    ///
    /// ```
    /// use diskimage::Format;
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// let vdi = [&[0; 0x40][..], b"\x7f\x10\xda\xbe"].concat();
    /// assert_eq!(probe_bytes(&vdi, None).read_formats().next(), Some(Format::Vdi));
    /// // known, but not read
    /// assert_eq!(probe_bytes(b"EVF\x09\x0d\x0a\xff\x00", None).read_formats().next(), None);
    /// ```
    pub fn read_formats(&self) -> impl Iterator<Item = Format> {
        let as_read = |m: &Match| match m.format.class() {
            Class::Content => Format::Raw,
            _ => m.format,
        };
        self.images().map(as_read).filter(|format| format.is_described())
    }

    /// Partition tables and file systems that lie in the open.
    ///
    /// ```
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// let mut disk = vec![0; 0x9000];
    /// disk[510..512].copy_from_slice(b"\x55\xaa");
    /// disk[0x8001..0x8006].copy_from_slice(b"CD001");
    /// let found = probe_bytes(&disk, None);
    /// let names: Vec<_> = found.contents().map(|one| one.format.name()).collect();
    /// assert_eq!(names, ["boot-sector", "iso"]);
    /// ```
    pub fn contents(&self) -> impl Iterator<Item = &Match> {
        self.matches.iter().filter(|m| m.format.class() == Class::Content)
    }

    /// Whether it looks like the plain content of a disk, and like nothing else.
    ///
    /// ```
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// let mut disk = vec![0; 4096];
    /// disk[510..512].copy_from_slice(b"\x55\xaa");
    /// assert!(probe_bytes(&disk, None).is_raw_disk());
    /// disk[..4].copy_from_slice(b"VMA\0"); // the header of an archive above it
    /// assert!(!probe_bytes(&disk, None).is_raw_disk());
    /// assert!(!probe_bytes(b"nothing of note", None).is_raw_disk());
    /// ```
    #[must_use]
    pub fn is_raw_disk(&self) -> bool {
        self.images().next().is_none()
            && self.contents().any(|m| !matches!(m.format, Format::LinuxKernel | Format::Cpio))
            && self.matches.iter().all(|m| m.format.class() != Class::Wrapper)
    }

    /// A partition table beside the header of an image contradicts it as another image would.
    fn is_split(&self, m: &Match) -> bool {
        matches!(m.format, Format::Gpt | Format::Mbr)
            && self.matches.iter().any(|other| {
                other.format.class() == Class::Image && other.offset < 0x200 && m.offset < 0x1000
            })
    }

    /// Whether an archive or a compressed file could be the plain content of a disk as well. The mark
    /// of a boot sector is so short that it is met in compressed data.
    ///
    /// ```
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// let mut upload = vec![0; 0x9000];
    /// upload[..3].copy_from_slice(b"\x1f\x8b\x08"); // of gzip
    /// assert!(!probe_bytes(&upload, None).is_disguised());
    /// upload[0x8001..0x8006].copy_from_slice(b"CD001"); // and an ISO 9660 file system
    /// assert!(probe_bytes(&upload, None).is_disguised());
    /// ```
    #[must_use]
    pub fn is_disguised(&self) -> bool {
        self.matches.iter().any(|m| m.format.class() == Class::Wrapper)
            && self.contents().any(|m| m.format != Format::BootSector)
    }

    /// What is odd about the outcome.
    ///
    /// ```
    /// use diskimage::Code;
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// let codes = |bytes: &[u8]| -> Vec<Code> {
    ///     probe_bytes(bytes, None).findings().iter().map(|finding| finding.code).collect()
    /// };
    /// assert_eq!(codes(b"nothing of note"), [Code::FormatGuessed]);
    /// let both = [&b"QFI\xfb\0\0\0\x03"[..], &[0; 0x38], b"\x7f\x10\xda\xbe"].concat();
    /// assert_eq!(codes(&both), [Code::Polyglot]);
    /// ```
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let names =
            |what: &[&Match]| what.iter().map(|m| m.format.name()).collect::<Vec<_>>().join(", ");
        let mut findings = Vec::new();
        let images: Vec<_> = self.images().collect();
        if images.len() > 1 {
            let text = format!("more than one format fits: {}", names(&images));
            findings.push(Finding::new(Code::Polyglot, text));
        }
        let text = |m: &&Match| m.format == Format::Vmdk && m.evidence.starts_with("text");
        if let (Some(descriptor), Some(size)) = (self.matches.iter().find(text), self.size)
            && size >= LONG_DESCRIPTOR
        {
            let text = format!(
                "a descriptor in a file of {size} bytes: it could be a raw disk whose guest wrote it"
            );
            findings.push(Finding::new(Code::Ambiguous, text).at(descriptor.offset));
        }
        let has = |format| self.matches.iter().any(|m| m.format == format);
        if has(Format::Iso) && (has(Format::Gpt) || has(Format::Mbr)) {
            let text = "an ISO 9660 file system and a partition table share the file";
            findings.push(Finding::new(Code::HybridIso, text));
        }
        if has(Format::Ova) {
            findings.push(Finding::new(Code::Ova, "an OVA archive: the disks are inside"));
        }
        if self.matches.is_empty() {
            let text = "no known signature was found; it could be a raw disk";
            findings.push(Finding::new(Code::FormatGuessed, text));
        }
        findings
    }
}

/// Tells what `storage` holds, reading at most [`HEAD`] + [`TAIL`] bytes.
///
/// ```
/// use diskimage::Format;
/// use diskimage::format::probe::probe;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let found = probe(&MemoryStorage::new(bytes))?;
/// assert_eq!(found.read_formats().collect::<Vec<_>>(), [Format::Qcow2]);
/// assert!(found.findings().is_empty());
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn probe(storage: &dyn Storage) -> Result<Probe> {
    let size = storage.size();
    let mut head = vec![0; HEAD.min(to_usize(size))];
    storage.read_exact_at(&mut head, 0)?;
    let mut tail = vec![0; TAIL.min(to_usize(size))];
    let start = size.saturating_sub(to_u64(tail.len()));
    storage.read_exact_at(&mut tail, start)?;
    Ok(probe_bytes(&head, Some((&tail, size))))
}

/// The same for bytes that arrive one after the other: the `head` of a file, at best [`HEAD`]
/// bytes, and its `tail` (at best the last [`TAIL`] bytes, with the size of the whole file) where
/// that is known. Without the tail, what has only a footer is not seen.
///
/// ```
/// use diskimage::format::probe::probe_bytes;
///
/// assert_eq!(probe_bytes(b"QFI\xfb\0\0\0\x03", None).matches.len(), 1);
/// assert!(probe_bytes(b"nothing that is known", None).matches.is_empty());
/// ```
#[must_use]
pub fn probe_bytes(head: &[u8], tail: Option<(&[u8], u64)>) -> Probe {
    let mut matches: Vec<Match> = Vec::new();
    let mut add = |format, offset: usize, evidence: Cow<'static, str>| {
        if matches.iter().all(|m: &Match| m.format != format) {
            matches.push(Match { format, offset: to_u64(offset), evidence });
        }
    };
    for &(format, offset, magic) in MAGICS {
        if has(head, offset, magic) {
            add(format, offset, format!("magic \"{}\"", magic.escape_ascii()).into());
        }
    }
    for recognise in RECOGNISERS {
        if let Some((format, offset, evidence)) = recognise(head) {
            add(format, offset, evidence);
        }
    }
    if let Some((tail, size)) = tail {
        let start = to_usize(size).saturating_sub(tail.len());
        for recognise in [vhd_footer, koly_trailer] {
            if let Some((format, at, evidence)) = recognise(tail) {
                add(format, start.saturating_add(at), evidence);
            }
        }
    }
    // what describes a disk comes first: a DMG may begin with the mark of a compressed file
    matches.sort_by_key(|m| {
        let class = match m.format.class() {
            Class::Image => 0,
            Class::Wrapper => 1,
            Class::Content => 2,
        };
        (class, m.offset)
    });
    Probe { matches, size: tail.map(|(_, size)| size) }
}

/// Formats that a fixed byte string at a fixed offset tells.
const MAGICS: &[(Format, usize, &[u8])] = &[
    (Format::Qed, 0, b"QED\0"),
    (Format::Vmdk, 0, b"KDMV"),
    (Format::Vmdk, 0, b"COWD"),
    // the seSparse constant header, 0x00000000cafebabe little-endian
    (Format::Vmdk, 0, b"\xbe\xba\xfe\xca\0\0\0\0"),
    (Format::Vhd, 0, b"conectix"),
    (Format::Vhdx, 0, b"vhdxfile"),
    (Format::Vdi, 0x40, b"\x7f\x10\xda\xbe"),
    (Format::Parallels, 0, b"WithoutFreeSpace"),
    (Format::Parallels, 0, b"WithouFreSpacExt"),
    // as a rule it is at the end
    (Format::Dmg, 0, b"koly\0\0\0\x04\0\0\x02\0"),
    (Format::EncryptedDmg, 0, b"encrcdsa"),
    (Format::SparseImage, 0, b"sprs"),
    (Format::Asif, 0, b"shdw"),
    (Format::AndroidSparse, 0, b"\x3a\xff\x26\xed"),
    (Format::Cloop, 0, b"#!/bin/sh\n#V2.0 Format\n"),
    (Format::Bochs, 0, b"Bochs Virtual HD Image"),
    (Format::Ewf, 0, b"EVF\x09\x0d\x0a\xff\x00"),
    (Format::Ewf, 0, b"EVF2\x0d\x0a\x81\x00"),
    (Format::Vma, 0, b"VMA\0"),
    (Format::Zip, 0, b"PK\x03\x04"),
    (Format::SevenZip, 0, b"7z\xbc\xaf\x27\x1c"),
    (Format::Gzip, 0, b"\x1f\x8b\x08"),
    (Format::Xz, 0, b"\xfd7zXZ\0"),
    (Format::Iso, 0x8001, b"CD001"),
    (Format::Xfs, 0, b"XFSB"),
    (Format::Btrfs, 0x10040, b"_BHRfS_M"),
    (Format::Ntfs, 3, b"NTFS    "),
    (Format::Exfat, 3, b"EXFAT   "),
    (Format::Fat, 54, b"FAT12   "),
    (Format::Fat, 54, b"FAT16   "),
    (Format::Fat, 82, b"FAT32   "),
    (Format::HfsPlus, 1024, b"H+\0\x04"),
    (Format::HfsPlus, 1024, b"HX\0\x05"),
    (Format::Apfs, 32, b"NXSB"),
    (Format::Lvm2, 0, b"LABELONE"),
    (Format::Lvm2, 512, b"LABELONE"),
    (Format::Lvm2, 1024, b"LABELONE"),
    (Format::Lvm2, 1536, b"LABELONE"),
    (Format::LinuxRaid, 0, b"\xfc\x4e\x2b\xa9"),
    (Format::LinuxRaid, 4096, b"\xfc\x4e\x2b\xa9"),
    (Format::Swap, 4086, b"SWAPSPACE2"),
    (Format::Swap, 4086, b"SWAP-SPACE"),
    (Format::Squashfs, 0, b"hsqs"),
    (Format::Erofs, 1024, b"\xe2\xe1\xf5\xe0"),
    (Format::LinuxKernel, 0x202, b"HdrS"),
    (Format::Cpio, 0, b"070701"),
    (Format::Cpio, 0, b"070702"),
];

type Found = Option<(Format, usize, Cow<'static, str>)>;

/// Formats that take more than one look.
const RECOGNISERS: &[fn(&[u8]) -> Found] = &[
    qcow,
    luks,
    vmdk_descriptor,
    parallels_bundle,
    ovf,
    bzip2,
    frames,
    tar,
    gpt,
    udf,
    ext,
    boot_record,
];

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
}

fn byte(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or_default()
}

fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.get(..2).map(LittleEndian::read_u16)
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.get(..4).map(LittleEndian::read_u32)
}

/// QCOW of any version: the version tells version 1 from QCOW2.
fn qcow(head: &[u8]) -> Found {
    if !has(head, 0, b"QFI\xfb") {
        return None;
    }
    match head.get(4..8).map(BigEndian::read_u32) {
        Some(1) => Some((Format::Qcow, 0, r#"magic "QFI\xfb", version 1"#.into())),
        Some(version) => {
            Some((Format::Qcow2, 0, format!(r#"magic "QFI\xfb", version {version}"#).into()))
        }
        None => Some((Format::Qcow2, 0, r#"magic "QFI\xfb", cut off"#.into())),
    }
}

/// A LUKS header of any version (LUKS1 and LUKS2 on-disk format specifications, "phdr layout").
fn luks(head: &[u8]) -> Found {
    let version = head.get(6..8).map(BigEndian::read_u16)?;
    has(head, 0, b"LUKS\xba\xbe").then(|| {
        let evidence = format!(r#"magic "LUKS\xba\xbe", version {version}"#);
        (Format::Luks, 0, evidence.into())
    })
}

/// A VMDK descriptor: the comment that names it, or the version as the first line that is neither
/// blank nor a comment, which QEMU goes by.
fn vmdk_descriptor(head: &[u8]) -> Found {
    let lines = head.get(..0x1000).unwrap_or(head).split(|b| matches!(b, b'\n' | b'\r'));
    for line in lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        let Some(comment) = line.strip_prefix(b"#") else {
            let version = line.get(..7).is_some_and(|key| key.eq_ignore_ascii_case(b"version"));
            let value = line.get(7..).unwrap_or_default().trim_ascii_start();
            let is_one = version && value.starts_with(b"=") && !line.contains(&0);
            return is_one.then_some((Format::Vmdk, 0, "text \"version=\"".into()));
        };
        let name = comment.trim_ascii().get(..19).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"Disk DescriptorFile") {
            return Some((Format::Vmdk, 0, "text \"# Disk DescriptorFile\"".into()));
        }
    }
    None
}

/// The XML beside the files of a Parallels disk.
fn parallels_bundle(head: &[u8]) -> Found {
    let start = head.get(..1024).unwrap_or(head);
    let tag: &[u8] = b"<Parallels_disk_image";
    let at = start.windows(tag.len()).position(|window| window == tag)?;
    Some((Format::Parallels, at, "XML element Parallels_disk_image".into()))
}

/// The description that stands beside the disks of a virtual machine (DSP0243, section 7.1); in an OVA
/// it is a member.
fn ovf(head: &[u8]) -> Found {
    let start = head.get(..4096).unwrap_or(head);
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    if !text.starts_with(b"<") {
        return None;
    }
    let find = |what: &[u8]| start.windows(what.len()).position(|window| window == what);
    let at = find(b"http://schemas.dmtf.org/ovf/envelope/")?;
    find(b"Envelope").map(|_| (Format::Ovf, at, "XML name of DMTF's OVF".into()))
}

fn bzip2(head: &[u8]) -> Found {
    let level = byte(head, 3).is_ascii_digit();
    (has(head, 0, b"BZh") && level && has(head, 4, b"1AY&SY")).then_some((
        Format::Bzip2,
        0,
        "magic \"BZh\" and a block".into(),
    ))
}

/// Zstandard and LZ4, whose files may begin with frames to pass over: those of `pzstd` do
/// (RFC 8878, section 3.1.2; LZ4 Frame Format, "Skippable Frames").
fn frames(head: &[u8]) -> Found {
    let mut at = 0usize;
    loop {
        let magic = le32(head, at)?;
        let (format, bytes) = match magic {
            0xfd2f_b528 => (Format::ZstdFile, r"(\xb5/\xfd"),
            0x184d_2204 => (Format::Lz4, r#"\x04"M\x18"#),
            0x184d_2a50..=0x184d_2a5f => {
                let length = to_usize(le32(head, at.checked_add(4)?)?.into());
                at = at.checked_add(8)?.checked_add(length)?;
                continue;
            }
            _ => return None,
        };
        let behind = if at == 0 { "" } else { ", behind frames to pass over" };
        return Some((format, at, format!("magic \"{bytes}\"{behind}").into()));
    }
}

/// A tar archive; an OVA is one whose first member is the OVF description (DSP0243 section 6).
fn tar(head: &[u8]) -> Found {
    if !has(head, 257, b"ustar") {
        let old = "header of a member with a valid checksum";
        return is_old_tar(head.get(..512)?).then_some((Format::Tar, 148, old.into()));
    }
    let name = head.get(..100)?.split(|&b| b == 0).next()?;
    if name.to_ascii_lowercase().ends_with(b".ovf") {
        return Some((Format::Ova, 257, "tar archive that starts with an OVF description".into()));
    }
    Some((Format::Tar, 257, "magic \"ustar\"".into()))
}

/// The sum of a tar header's bytes, its own field taken for blanks: as POSIX has it, and as some old
/// programs added them up, as signed numbers.
pub(crate) fn tar_sums(header: &[u8]) -> [i64; 2] {
    let sum = |value: fn(u8) -> i64| {
        (0..).zip(header).fold(0i64, |sum, (index, &byte)| {
            let byte = if (148..156).contains(&index) { b' ' } else { byte };
            sum.saturating_add(value(byte))
        })
    };
    [sum(i64::from), sum(|byte| i64::from(byte.cast_signed()))]
}

/// A header of before POSIX.1-1988, which has no magic: its numbers are octal, and its checksum is
/// right.
fn is_old_tar(header: &[u8]) -> bool {
    let is_octal = |field: Option<&[u8]>| {
        let digits = field.unwrap_or_default().trim_ascii();
        let digits = digits.split(|&b| matches!(b, 0 | b' ')).next().unwrap_or_default();
        !digits.is_empty() && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
    };
    let numbers = [100..108, 108..116, 116..124, 124..136, 136..148, 148..156];
    if byte(header, 0) == 0 || !numbers.into_iter().all(|field| is_octal(header.get(field))) {
        return false;
    }
    let sum = header.get(148..156).unwrap_or_default().trim_ascii();
    let digits = sum.iter().take_while(|digit| digit.is_ascii_digit());
    let stored = digits.fold(0i64, |sum, &digit| {
        sum.saturating_mul(8).saturating_add(i64::from(digit.saturating_sub(b'0')))
    });
    tar_sums(header).contains(&stored)
}

/// A GPT header behind a first sector of 512 or 4096 bytes (UEFI specification, section 5.3.2).
fn gpt(head: &[u8]) -> Found {
    [512usize, 4096].into_iter().find_map(|at| {
        let header = head.get(at..)?;
        if !header.starts_with(b"EFI PART") {
            return None;
        }
        let evidence = match le32(header, 16) == gpt_checksum(header) {
            true => "GPT header with a valid CRC-32",
            false => "GPT header with a wrong CRC-32",
        };
        Some((Format::Gpt, at, evidence.into()))
    })
}

/// The CRC-32 of a GPT header, computed with its own field as zeros.
fn gpt_checksum(header: &[u8]) -> Option<u32> {
    let length = to_usize(le32(header, 12)?.into());
    let mut header = header.get(..length).filter(|h| (92..=512).contains(&h.len()))?.to_owned();
    header.get_mut(16..20)?.fill(0);
    Some(crc32fast::hash(&header))
}

/// UDF: an NSR descriptor in the volume recognition sequence (ECMA-167 part 2, section 9).
fn udf(head: &[u8]) -> Found {
    (0..16).find_map(|sector: usize| {
        let at = sector.checked_mul(2048)?.checked_add(0x8001)?;
        (has(head, at, b"NSR02") || has(head, at, b"NSR03")).then_some((
            Format::Udf,
            at,
            "volume descriptor NSR".into(),
        ))
    })
}

/// ext2/3/4: the magic is short, so the block size must make sense too.
fn ext(head: &[u8]) -> Found {
    (le16(head, 0x438) == Some(0xef53) && le32(head, 0x418)? <= 6).then_some((
        Format::Ext,
        0x438,
        "superblock magic 0xef53".into(),
    ))
}

/// The first sector: a partition table where its four entries make sense, else a boot sector.
fn boot_record(head: &[u8]) -> Found {
    if !has(head, 510, b"\x55\xaa") {
        return None;
    }
    // file systems with a boot sector of their own have a BIOS parameter block there instead
    let file_system = has(head, 3, b"NTFS    ")
        || has(head, 3, b"EXFAT   ")
        || has(head, 54, b"FAT")
        || has(head, 82, b"FAT32");
    let mut used: usize = 0;
    for entry in head.get(446..510)?.chunks_exact(16) {
        let (status, kind) = (byte(entry, 0), byte(entry, 4));
        let sectors = le32(entry, 12)?;
        // one may start with the disk: so do those of hybrid ISOs
        if status & 0x7f != 0 || (kind != 0 && sectors == 0) {
            used = 0;
            break;
        }
        used = used.saturating_add(usize::from(kind != 0));
    }
    if used > 0 && !file_system {
        let text = format!("signature 0x55aa and {used} partition entries");
        return Some((Format::Mbr, 510, text.into()));
    }
    Some((Format::BootSector, 510, "signature 0x55aa".into()))
}

/// The footer of a VHD in the last 512 bytes, or in the last 511 as Virtual PC before 2004 wrote
/// it; only with a valid checksum, since any data can end a file.
fn vhd_footer(tail: &[u8]) -> Found {
    [512usize, 511].into_iter().find_map(|length| {
        let at = tail.len().checked_sub(length)?;
        let footer = tail.get(at..)?;
        if !footer.starts_with(b"conectix") {
            return None;
        }
        let stored = footer.get(64..68).map(BigEndian::read_u32)?;
        let rest = footer.get(..64)?.iter().chain(footer.get(68..)?);
        let sum = rest.fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()));
        (stored == !sum).then_some((Format::Vhd, at, "footer with cookie \"conectix\"".into()))
    })
}

/// The trailer of a UDIF image, or that of the first encrypted kind.
fn koly_trailer(tail: &[u8]) -> Found {
    let at = tail.len().checked_sub(512)?;
    if has(tail, at, b"koly\0\0\0\x04\0\0\x02\0") {
        return Some((Format::Dmg, at, "trailer \"koly\"".into()));
    }
    let at = tail.len().checked_sub(8)?;
    has(tail, at, b"cdsaencr").then_some((Format::EncryptedDmg, at, "trailer \"cdsaencr\"".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(head: &[u8]) -> Vec<&'static str> {
        let probe =
            probe_bytes(head, Some((&head[head.len().saturating_sub(TAIL)..], head.len() as u64)));
        probe.matches.iter().map(|m| m.format.name()).collect()
    }

    #[test]
    fn every_magic_is_found_at_its_place() {
        for &(format, offset, magic) in MAGICS {
            let mut head = vec![0; HEAD];
            head[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(names(&head), [format.name()]);
            head.truncate(offset + magic.len() - 1);
            assert!(names(&head).is_empty(), "{format} found in a cut-off head");
        }
    }

    #[test]
    fn a_description_of_a_machine_is_told_by_its_schema() {
        let text = "<?xml version='1.0'?>\n<ovf:Envelope xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'>";
        assert_eq!(names(text.as_bytes()), ["ovf"]);
        assert_eq!(names(format!("\u{feff}{text}").as_bytes()), ["ovf"]);
        assert!(names(format!("see: {text}").as_bytes()).is_empty());
        assert!(names(b"<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'>").is_empty());
    }

    #[test]
    fn frames_to_pass_over_do_not_hide_what_follows() {
        let skipped = |nibble: u8, length: u32| {
            let mut frame = vec![0x50 | nibble, 0x2a, 0x4d, 0x18];
            frame.extend(length.to_le_bytes());
            frame.resize(8 + length as usize, b'x');
            frame
        };
        let zstd = b"\x28\xb5\x2f\xfd".to_vec();
        let pzstd = [skipped(0, 4), zstd.clone()].concat();
        assert_eq!(names(&pzstd), ["zstd"]);
        let [found] = &probe_bytes(&pzstd, None).matches[..] else { panic!() };
        assert_eq!(found.offset, 12, "{found:?}");
        assert_eq!(names(&[skipped(15, 0), skipped(3, 100), zstd.clone()].concat()), ["zstd"]);
        assert_eq!(names(&[skipped(1, 9), b"\x04\x22\x4d\x18".to_vec()].concat()), ["lz4"]);
        // what they are is not known before what they precede
        assert!(names(&skipped(0, 4)).is_empty());
        assert!(names(&[skipped(0, 4), b"else".to_vec()].concat()).is_empty());
        let mut endless = skipped(0, 4);
        endless[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(names(&[endless, zstd].concat()).is_empty());
    }

    #[test]
    fn a_descriptor_may_be_padded_and_start_late() {
        for text in [
            "# Disk DescriptorFile\nversion=1\n",
            "#disk descriptorfile\r\n",
            "\n\n  # Disk DescriptorFile \n\0\0\0\0",
        ] {
            assert_eq!(names(text.as_bytes()), ["vmdk"], "{text:?}");
        }
        // readers that skip all comments, or go by the version, take these for one too
        assert_eq!(names(b"version=1\n# Disk DescriptorFile\n"), ["vmdk"]);
        assert_eq!(names(b"#\n\n# made by hand\nversion = 3\n"), ["vmdk"]);
        assert!(names(b"# made by hand\ncomment\n# Disk DescriptorFile\n").is_empty());
    }

    #[test]
    fn all_matches_are_reported_and_a_polyglot_is_a_finding() {
        let mut file = vec![0u8; 4096];
        file[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        let footer = file.len() - 512;
        file[footer..footer + 8].copy_from_slice(b"conectix");
        let sum: u32 = b"conectix".iter().map(|&b| u32::from(b)).sum();
        assert_eq!(names(&file), ["qcow2"], "a footer without its checksum is just data");
        file[footer + 64..footer + 68].copy_from_slice(&(!sum).to_be_bytes());
        assert_eq!(names(&file), ["qcow2", "vpc"]);
        let probe = probe_bytes(&file, Some((&file[footer..], 4096)));
        assert_eq!(probe.findings()[0].code, Code::Polyglot);
    }

    #[test]
    fn a_partition_table_makes_a_raw_disk_and_a_text_none() {
        let mut disk = vec![0u8; 1024];
        disk[510..512].copy_from_slice(b"\x55\xaa");
        disk[446 + 4] = 0x83;
        disk[446 + 8] = 1;
        disk[446 + 12] = 1;
        assert_eq!(names(&disk), ["mbr"]);
        assert!(probe_bytes(&disk, None).is_raw_disk());
        assert!(!probe_bytes(b"just some text", None).is_raw_disk());
        disk[..21].copy_from_slice(b"# Disk DescriptorFile");
        let probe = probe_bytes(&disk, None);
        assert_eq!(probe.images().count(), 2, "text over a partition table is both");
    }
}
