//! Members of something larger, and encrypted volumes. Sources: `Documentation/driver-api/md/` and
//! `include/uapi/linux/raid/md_p.h` of the kernel, LVM2's `lib/format_text/layout.h`, "LUKS1 On-Disk
//! Format Specification" 1.2.3, "LUKS2 On-Disk Format Specification" 1.1.4, "ZFS On-Disk
//! Specification" chapter 1.

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::num::Pow2;

use super::super::view::{Block, View};
use super::{Kind, Superblock, label, uuid};

/// Linux software RAID: version 1.1 at the start, 1.2 at 4 KiB, 1.0 and 0.90 near the end.
pub(super) fn linux_raid(view: &View<'_>) -> Result<Option<Superblock>> {
    for (place, version) in [(0, "1.1"), (0x1000, "1.2")] {
        if let Some(found) = raid_1(view, place, version)? {
            return Ok(Some(found));
        }
    }
    let near_end = Pow2::PAGE.floor(view.length.saturating_sub(0x2000));
    if view.length >= 0x3000
        && let Some(found) = raid_1(view, near_end, "1.0")?
    {
        return Ok(Some(found));
    }
    let unit = Pow2::from_bits(16).unwrap_or(Pow2::PAGE);
    match unit.floor(view.length).checked_sub(unit.size()) {
        Some(place) => raid_0(view, place),
        None => Ok(None),
    }
}

const RAID: &[u8; 4] = b"\xfc\x4e\x2b\xa9";

fn raid_1(view: &View<'_>, place: u64, version: &str) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(place, 256, 0, RAID)? else { return Ok(None) };
    // it says where it lies, in sectors
    if block.le32(4) != 1 || Pow2::SECTOR.offset_of(block.le64(144)) != Some(place) {
        return Ok(None);
    }
    let mut found = Superblock::new(Kind::LinuxRaid, place);
    found.version = Some(version.to_owned());
    found.uuid = uuid(block.array(16));
    found.uuid_sub = uuid(block.array(168));
    found.label = label(block.part(32, 32));
    let end = block.le64(128).checked_add(block.le64(136));
    found.size = end.and_then(|end| Pow2::SECTOR.offset_of(end));
    Ok(Some(found))
}

/// Version 0.90: 32-bit numbers in the byte order of the machine that made it.
fn raid_0(view: &View<'_>, place: u64) -> Result<Option<Superblock>> {
    let Some(block) = view.block(place, 64)? else { return Ok(None) };
    let number: fn(&Block, usize) -> u32 = match (block.has(0, RAID), block.be32(0)) {
        (true, _) => Block::le32,
        (false, 0xa92b_4efc) => Block::be32,
        _ => return Ok(None),
    };
    if number(&block, 4) != 0 {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(16);
    for at in [20, 52, 56, 60] {
        bytes.extend(number(&block, at).to_be_bytes());
    }
    let mut found = Superblock::new(Kind::LinuxRaid, place);
    let numbers = [4, 8, 12].map(|at| number(&block, at).to_string());
    found.version = Some(numbers.join("."));
    found.uuid = bytes.first_chunk().and_then(|&bytes| uuid(bytes));
    Ok(Some(found))
}

/// An LVM2 physical volume: its label lies in one of the first four sectors.
pub(super) fn lvm2(view: &View<'_>) -> Result<Option<Superblock>> {
    for place in [0u64, 512, 1024, 1536] {
        let Some(block) = view.signed(place, 512, 0, b"LABELONE")? else { continue };
        if !block.has(24, b"LVM2 001") {
            continue;
        }
        let mut found = Superblock::new(Kind::Lvm2, place);
        found.version = Some("LVM2 001".to_owned());
        let at = usize::try_from(block.le32(20)).unwrap_or(usize::MAX);
        let identifier = block.part(at, 32);
        if identifier.len() == 32 && identifier.iter().all(u8::is_ascii_alphanumeric) {
            let mut text = String::with_capacity(38);
            for (index, &byte) in identifier.iter().enumerate() {
                if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
                    text.push('-');
                }
                text.push(byte.into());
            }
            found.uuid = Some(text);
            found.size = Some(block.le64(at.saturating_add(32)));
        }
        // a CRC-32 with another start, and without inversions
        let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
        hasher.update(block.part(20, 492));
        let (stored, computed) = (block.le32(16), !hasher.finalize());
        if stored != computed {
            let text =
                format!("the LVM2 label has the CRC {stored:#010x}, its bytes {computed:#010x}");
            found.odd.push(Finding::new(Code::ChecksumMismatch, text));
        }
        return Ok(Some(found));
    }
    Ok(None)
}

/// LUKS version 1 and 2.
pub(super) fn luks(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0, 512, 0, b"LUKS\xba\xbe")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Luks, 0);
    let version = block.be16(6);
    found.version = Some(version.to_string());
    if matches!(version, 1 | 2) {
        found.uuid = label(block.part(168, 40));
    }
    if version == 2 {
        found.label = label(block.part(24, 48));
    }
    Ok(Some(found))
}

/// The backing or caching device of bcache.
pub(super) fn bcache(view: &View<'_>) -> Result<Option<Superblock>> {
    const MAGIC: &[u8; 16] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    let Some(block) = view.signed(0x1000, 104, 24, MAGIC)? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Bcache, block.at);
    found.uuid = uuid(block.array(40));
    found.label = label(block.part(72, 32));
    Ok(Some(found))
}

/// A ZFS vdev: the first of its labels has name-value pairs at 16 KiB (XDR, section 1.3.2).
pub(super) fn zfs(view: &View<'_>) -> Result<Option<Superblock>> {
    // XDR, made on a little-endian or a big-endian machine; list version 0 with unique names
    let starts = [b"\x01\x01\0\0\0\0\0\0\0\0\0\x01", b"\x01\0\0\0\0\0\0\0\0\0\0\x01"];
    let Some(head) = view.block(0x4000, 12)? else { return Ok(None) };
    if !starts.iter().any(|start| head.has(0, &start[..])) {
        return Ok(None);
    }
    let Some(block) = view.block(0x4000, 4096)? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Zfs, 0x4000);
    let (mut at, mut is_pool) = (12usize, false);
    // each pair: its length, its decoded length, the name, the type, how many values, the value
    while let (length @ 24.., size) = (block.be32(at), block.be32(at.saturating_add(4))) {
        let wide = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        if size == 0 {
            break;
        }
        let name_length = wide(block.be32(at.saturating_add(8)));
        let name = block.part(at.saturating_add(12), name_length);
        let kind_at = at.saturating_add(12).saturating_add(name_length.saturating_add(3) & !3);
        let value_at = kind_at.saturating_add(8);
        match (name, block.be32(kind_at)) {
            (b"name", 9) => {
                let length = wide(block.be32(value_at));
                found.label = label(block.part(value_at.saturating_add(4), length));
            }
            (b"pool_guid", 8) => {
                is_pool = true;
                found.uuid = Some(block.be64(value_at).to_string());
            }
            (b"guid", 8) => found.uuid_sub = Some(block.be64(value_at).to_string()),
            (b"version", 8) => found.version = Some(block.be64(value_at).to_string()),
            _ => {}
        }
        at = at.saturating_add(wide(length));
    }
    Ok(is_pool.then_some(found))
}
