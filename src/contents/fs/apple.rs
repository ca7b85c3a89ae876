//! File systems of Apple. Sources: Technical Note TN1150 "HFS Plus Volume Format", "Inside Macintosh:
//! Files" chapter 2 for the wrapper, "Apple File System Reference" for the container's superblock.

use md5::{Digest, Md5};

use crate::error::Result;
use crate::num::{to_u64, to_usize};

use super::super::view::{Block, View};
use super::{Kind, Superblock, label, uuid, wide_be, wide_label};

/// HFS+ (and HFSX), on its own or in the wrapper of an HFS volume; or HFS itself.
pub(super) fn hfs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.block(0x400, 512)? else { return Ok(None) };
    if !block.has(0, b"BD") {
        return hfs_plus(view, &block);
    }
    if block.has(0x7c, b"H+") || block.has(0x7c, b"HX") {
        let allocation = u64::from(block.be16(0x7e)).saturating_mul(block.be32(0x14).into());
        let skip = u64::from(block.be16(0x1c)).saturating_mul(512).saturating_add(allocation);
        let start = view.start.saturating_add(skip);
        let inner = View { start, length: view.length.saturating_sub(skip), ..*view };
        let Some(block) = inner.block(0x400, 512)? else { return Ok(None) };
        let mut found = hfs_plus(&inner, &block)?;
        if let Some(found) = &mut found {
            found.offset = found.offset.saturating_add(skip);
        }
        return Ok(found);
    }
    // a short magic: the size of its blocks must make sense
    let unit = block.be32(0x14);
    if unit == 0 || !unit.is_multiple_of(512) {
        return Ok(None);
    }
    let mut found = Superblock::new(Kind::Hfs, block.at);
    found.uuid = identifier(block.array(0x74));
    let length = usize::from(block.u8(0x24)).min(27);
    found.label = label(block.part(0x25, length));
    found.size = Some(u64::from(block.be16(0x12)).saturating_mul(unit.into()));
    found.block_size = Some(unit.into());
    Ok(Some(found))
}

fn hfs_plus(view: &View<'_>, block: &Block) -> Result<Option<Superblock>> {
    if !block.has(0, b"H+\0\x04") && !block.has(0, b"HX\0\x05") {
        return Ok(None);
    }
    let mut found = Superblock::new(Kind::HfsPlus, block.at);
    let unit = block.be32(40);
    found.uuid = identifier(block.array(0x68));
    found.size = Some(u64::from(block.be32(44)).saturating_mul(unit.into()));
    found.block_size = Some(unit.into());
    found.label = root_name(view, block, unit.into())?;
    Ok(Some(found))
}

/// The UUID that is made of a volume's eight bytes: their MD5 behind a fixed start, as version 3.
fn identifier(bytes: [u8; 8]) -> Option<String> {
    const START: [u8; 16] = [
        0xb3, 0xe2, 0x0f, 0x39, 0xf2, 0x92, 0x11, 0xd6, 0x97, 0xa4, 0, 0x30, 0x65, 0x43, 0xec, 0xac,
    ];
    if bytes == [0; 8] {
        return None;
    }
    let mut hash: [u8; 16] = Md5::new().chain_update(START).chain_update(bytes).finalize().into();
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut hash;
    *version = *version & 0x0f | 0x30;
    *variant = *variant & 0x3f | 0x80;
    uuid(hash)
}

/// The name of the root folder: the first record of the catalog (TN1150, "Catalog File").
fn root_name(view: &View<'_>, block: &Block, unit: u64) -> Result<Option<String>> {
    // the extents of the catalog that the header names
    let extents: Vec<_> = (0..8usize)
        .map(|index| {
            let at = index.saturating_mul(8).saturating_add(0x120);
            (u64::from(block.be32(at)), u64::from(block.be32(at.saturating_add(4))))
        })
        .collect();
    let place = |mut offset: u64| {
        extents.iter().find_map(|&(start, count)| {
            let length = count.saturating_mul(unit);
            if offset < length {
                return start.checked_mul(unit)?.checked_add(offset);
            }
            offset = offset.saturating_sub(length);
            None
        })
    };
    let Some(start) = place(0) else { return Ok(None) };
    let Some(head) = view.block(start, 34)? else { return Ok(None) };
    let (node_size, leaf) = (head.be16(32), head.be32(24));
    if head.u8(8) != 1 || !(512..=32768).contains(&node_size) {
        return Ok(None);
    }
    let Some(leaf) = place(u64::from(leaf).saturating_mul(node_size.into())) else {
        return Ok(None);
    };
    // a node descriptor of 14 bytes; then the key: length, parent (1 is that of the root), name
    let length = to_usize(to_u64(22 + 510).min(node_size.into()));
    let Some(node) = view.block(leaf, length)? else { return Ok(None) };
    if node.u8(8) != 0xff || node.be32(16) != 1 {
        return Ok(None);
    }
    let length = usize::from(node.be16(20)).min(255).saturating_mul(2);
    Ok(wide_label(wide_be(node.part(22, length))))
}

/// APFS: a container's superblock (type 1, number 1).
pub(super) fn apfs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0, 512, 32, b"NXSB")? else { return Ok(None) };
    if block.le64(8) != 1 || block.le16(24) != 1 {
        return Ok(None);
    }
    let mut found = Superblock::new(Kind::Apfs, 0);
    let unit = u64::from(block.le32(36));
    found.uuid = uuid(block.array(72));
    found.size = block.le64(40).checked_mul(unit);
    found.block_size = Some(unit);
    Ok(Some(found))
}
