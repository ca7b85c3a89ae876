//! Optical discs. Sources: ECMA-119 (ISO 9660) sections 8 and 9, the "Joliet Specification", the
//! "El Torito Bootable CD-ROM Format Specification" 1.0, ECMA-167 and OSTA's UDF 2.60.

use crate::error::Result;
use crate::num::to_u64;
use crate::text::printable;

use super::super::view::{Block, View};
use super::{Kind, Superblock, label, wide_be, wide_label};

/// The size of a logical sector.
const SECTOR: u64 = 2048;
/// Where the volume descriptors start.
const DESCRIPTORS: u64 = 16;
/// How many of them are looked at.
const MOST: u64 = 32;

/// The volume descriptors of an ISO 9660 file system.
struct Descriptors {
    primary: Block,
    joliet: Option<Block>,
    /// The sector of El Torito's boot catalog.
    catalog: Option<u32>,
}

fn descriptors(view: &View<'_>) -> Result<Option<Descriptors>> {
    let (mut primary, mut joliet, mut catalog) = (None, None, None);
    for number in DESCRIPTORS..DESCRIPTORS.saturating_add(MOST) {
        let at = number.saturating_mul(SECTOR);
        let Some(block) = view.signed(at, 1024, 1, b"CD001")? else { break };
        match block.u8(0) {
            0 if block.has(7, b"EL TORITO SPECIFICATION") => catalog = Some(block.le32(0x47)),
            1 if primary.is_none() => primary = Some(block),
            // UCS-2 of one of three levels
            2 if [b"%/@", b"%/C", b"%/E"].iter().any(|escape| block.has(88, &escape[..])) => {
                joliet = Some(block);
            }
            255 => break,
            _ => {}
        }
    }
    Ok(primary.map(|primary| Descriptors { primary, joliet, catalog }))
}

/// ISO 9660.
pub(super) fn iso9660(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(Descriptors { primary, joliet, .. }) = descriptors(view)? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Iso9660, primary.at);
    let unit = u64::from(primary.le16(128));
    found.size = u64::from(primary.le32(80)).checked_mul(unit);
    found.block_size = Some(unit);
    // the time of the last change, else that of the making
    found.uuid = date(primary.part(830, 16)).or_else(|| date(primary.part(813, 16)));
    found.label = label(primary.part(40, 32));
    if let Some(joliet) = joliet {
        found.version = Some("Joliet Extension".to_owned());
        found.label = joliet_label(joliet.part(40, 32), primary.part(40, 32)).or(found.label);
    }
    Ok(Some(found))
}

/// Sixteen digits as `2026-01-31-12-00-00-00`; `None` if there is no date.
fn date(digits: &[u8]) -> Option<String> {
    if digits.iter().all(|&digit| matches!(digit, b'0' | 0)) {
        return None;
    }
    let mut text = String::with_capacity(22);
    for (index, digit) in digits.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10 | 12 | 14) {
            text.push('-');
        }
        text.push_str(&printable(&[*digit]));
    }
    Some(text)
}

/// A label in Joliet's 16 characters, or longer where those are the start of the other's 32.
fn joliet_label(wide: &[u8], plain: &[u8]) -> Option<String> {
    let short: Vec<u16> = wide_be(wide).collect();
    // what has no place in the plain one is an underscore there
    let is_start = short.iter().zip(plain).all(|(&unit, &byte)| {
        let upper = |byte: u8| u16::from(byte.to_ascii_uppercase());
        byte == b'_' || u8::try_from(unit).is_ok_and(|unit| upper(unit) == upper(byte))
    });
    let rest = plain.get(short.len()..).unwrap_or_default();
    let rest: &[u8] = if is_start { rest } else { &[] };
    wide_label(short.into_iter().chain(rest.iter().map(|&byte| byte.into())))
}

/// What El Torito's boot catalog starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct ElTorito {
    /// A boot image for a BIOS.
    pub(in super::super) bios: bool,
    /// A boot image for UEFI.
    pub(in super::super) efi: bool,
}

/// Reads the boot catalog (El Torito, section 2).
pub(super) fn el_torito(view: &View<'_>) -> Result<Option<ElTorito>> {
    let Some(Descriptors { catalog: Some(sector), .. }) = descriptors(view)? else {
        return Ok(None);
    };
    let Some(block) = view.block(u64::from(sector).saturating_mul(SECTOR), 2048)? else {
        return Ok(None);
    };
    let mut found = ElTorito::default();
    // the validation entry: its words sum up to zero
    let sum = (0..16usize).map(|word| block.le16(word.saturating_mul(2)));
    let is_valid = block.u8(0) == 1 && block.has(30, b"\x55\xaa");
    if !is_valid || sum.fold(0u16, u16::wrapping_add) != 0 {
        return Ok(Some(found));
    }
    let mut platform = block.u8(1);
    for entry in block.bytes.chunks_exact(32).skip(1) {
        match entry.first() {
            // a section, the last one or not, says whom the entries behind it are for
            Some(0x90 | 0x91) => platform = entry.get(1).copied().unwrap_or_default(),
            Some(0x88) if platform == 0xef => found.efi = true,
            Some(0x88) if platform == 0 => found.bios = true,
            _ => {}
        }
    }
    Ok(Some(found))
}

/// UDF: an NSR descriptor in the volume recognition sequence (ECMA-167 part 2, section 9), and the
/// volume descriptors that the anchor names (part 3, section 8.4).
pub(super) fn udf(view: &View<'_>) -> Result<Option<Superblock>> {
    let mut found = None;
    for number in DESCRIPTORS..DESCRIPTORS.saturating_add(MOST) {
        let at = number.saturating_mul(SECTOR);
        let Some(block) = view.block(at, 6)? else { break };
        match block.part(1, 5) {
            b"NSR02" | b"NSR03" => found = Some(Superblock::new(Kind::Udf, at)),
            b"BEA01" | b"CD001" | b"BOOT2" | b"CDW02" => {}
            // larger sectors leave gaps, but not at the start
            _ if number > DESCRIPTORS && block.has(0, &[0; 6]) => {}
            _ => break,
        }
        if found.is_some() {
            break;
        }
    }
    let Some(mut found) = found else { return Ok(None) };
    for sector in [512u64, 1024, 2048, 4096] {
        let Some(anchor) = view.block(sector.saturating_mul(256), 32)? else { continue };
        if anchor.le16(0) != 2 || anchor.le32(12) != 256 {
            continue;
        }
        let count = u64::from(anchor.le32(16)).checked_div(sector).unwrap_or_default();
        for index in 0..count.min(MOST) {
            let place = u64::from(anchor.le32(20)).saturating_add(index).saturating_mul(sector);
            let Some(block) = view.block(place, 512)? else { break };
            match block.le16(0) {
                1 => found.uuid = udf_identifier(block.part(72, 128)),
                6 => {
                    found.label =
                        d_string(block.part(84, 128)).and_then(|text| label(text.as_bytes()));
                    found.block_size = Some(block.le32(212).into());
                    let revision = block.le16(240);
                    found.version =
                        Some(format!("{:x}.{:02x}", revision.wrapping_shr(8), revision & 0xff));
                }
                8 => break,
                _ => {}
            }
        }
        break;
    }
    Ok(Some(found))
}

/// A string of a fixed length, the last byte of which says how many are in use (UDF 2.1.3); the first
/// says how wide its characters are.
fn d_string(field: &[u8]) -> Option<String> {
    let (&used, rest) = field.split_last()?;
    let (&width, text) = rest.split_first()?;
    let text = text.get(..usize::from(used).checked_sub(1)?)?;
    match width {
        8 | 254 => Some(text.iter().map(|&byte| char::from(byte)).collect()),
        16 | 255 => Some(
            char::decode_utf16(wide_be(text))
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect(),
        ),
        _ => None,
    }
}

/// The identifier that is made of a volume set's name: its first 16 characters where those are digits
/// in hexadecimal, as UDF 2.2.2.5 asks for; else, as blkid does, digits of the bytes.
fn udf_identifier(field: &[u8]) -> Option<String> {
    let text = d_string(field)?;
    let bytes: [u8; 16] = {
        let mut bytes = [0; 16];
        let length = text.len().min(16);
        bytes.get_mut(..length)?.copy_from_slice(text.as_bytes().get(..length)?);
        bytes
    };
    if text.len() < 8 {
        return None;
    }
    let digits = to_u64(bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count());
    let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let plain = |part: &[u8]| String::from_utf8_lossy(part).to_ascii_lowercase();
    let (eight, rest) = bytes.split_at(8);
    Some(match digits {
        16 => plain(&bytes),
        8.. => format!("{}{}", plain(eight), hex(rest.get(..4)?)),
        _ => hex(eight),
    })
}
