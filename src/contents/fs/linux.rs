//! File systems of Linux. Sources: the kernel's documentation (`Documentation/filesystems/ext4/`,
//! `f2fs.rst`, `erofs.rst`), "XFS Algorithms & Data Structures" chapter 13, the Btrfs wiki's
//! "On-disk format", the SquashFS format description by its makers, mkswap(8) and the kernel's
//! `include/linux/swap.h`, "bcachefs: Principles of Operation".

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::num::to_usize;

use super::super::view::{Block, View};
use super::{Kind, Superblock, label, uuid, wide_label, wide_le};

/// What a checksum that is wrong is told as.
fn checksum(superblock: &mut Superblock, stored: u32, computed: u32) {
    if stored != computed {
        let text = format!(
            "the superblock of {} has the CRC-32C {stored:#010x}, its bytes have {computed:#010x}",
            superblock.kind.description()
        );
        superblock.odd.push(Finding::new(Code::ChecksumMismatch, text));
    }
}

/// `1 << bits`, for exponents that make sense as a size of blocks.
fn pow2(bits: u32) -> Option<u64> {
    (bits < 32).then(|| 1u64.wrapping_shl(bits))
}

/// ext2, ext3, ext4 and their journals (ext4 documentation, "The Super Block"). They are one format;
/// what tells them apart is which features are in use, as blkid has it.
pub(super) fn ext(view: &View<'_>) -> Result<Option<Superblock>> {
    const JOURNAL: u32 = 0x4; // compatible
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    const LONG: u32 = 0x80;
    const METADATA_CHECKSUM: u32 = 0x400; // read-only compatible
    let Some(block) = view.signed(0x400, 1024, 0x38, b"\x53\xef")? else { return Ok(None) };
    // the magic is short, so the rest must make sense
    let Some(unit) = pow2(block.le32(0x18).saturating_add(10)) else { return Ok(None) };
    if unit > 64 << 10 {
        return Ok(None);
    }
    let (compatible, incompatible, read_only) =
        (block.le32(0x5c), block.le32(0x60), block.le32(0x64));
    let is_newer = incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0;
    let kind = if incompatible & JOURNAL_DEVICE != 0 {
        Kind::Jbd
    } else if is_newer && block.le32(0x160) & 0x4 != 0 {
        Kind::Ext4dev
    } else if is_newer {
        Kind::Ext4
    } else if compatible & JOURNAL != 0 {
        Kind::Ext3
    } else {
        Kind::Ext2
    };
    let mut found = Superblock::new(kind, block.at);
    found.version = Some(format!("{}.{}", block.le32(0x4c), block.le16(0x3e)));
    found.uuid = uuid(block.array(0x68));
    found.label = label(block.part(0x78, 16));
    let high = if incompatible & LONG != 0 { block.le32(0x150) } else { 0 };
    let blocks = u64::from(high).wrapping_shl(32) | u64::from(block.le32(0x4));
    found.size = blocks.checked_mul(unit);
    found.block_size = Some(unit);
    if read_only & METADATA_CHECKSUM != 0 {
        // without the last inversion
        let computed = !crc32c::crc32c(block.part(0, 0x3fc));
        checksum(&mut found, block.le32(0x3fc), computed);
    }
    Ok(Some(found))
}

/// XFS (section 13.1, the superblock; version 5 has a checksum).
pub(super) fn xfs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0, 512, 0, b"XFSB")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Xfs, block.at);
    let (unit, sector) = (u64::from(block.be32(4)), block.be16(102));
    found.uuid = uuid(block.array(32));
    found.label = label(block.part(108, 12));
    found.size = block.be64(8).checked_mul(unit);
    found.block_size = Some(unit);
    if block.be16(100) & 0xf == 5
        && (512..=0x8000).contains(&sector)
        && let Some(sector) = view.block(0, sector.into())?
    {
        let mut bytes = sector.bytes.clone();
        bytes.get_mut(224..228).unwrap_or_default().fill(0);
        checksum(&mut found, sector.le32(224), crc32c::crc32c(&bytes));
    }
    Ok(Some(found))
}

/// Btrfs, its first superblock at 64 KiB.
pub(super) fn btrfs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0x10000, 4096, 0x40, b"_BHRfS_M")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Btrfs, block.at);
    found.uuid = uuid(block.array(0x20));
    // of the device that this is
    found.uuid_sub = uuid(block.array(0x10b));
    found.label = label(block.part(0x12b, 256));
    // of all devices if there are several; then what this one has
    found.size = Some(if block.le64(0x88) > 1 { block.le64(0xd1) } else { block.le64(0x70) });
    found.block_size = Some(block.le32(0x90).into());
    if block.le16(0xc4) == 0 {
        let computed = crc32c::crc32c(block.part(0x20, 4096 - 0x20));
        checksum(&mut found, block.le32(0), computed);
    }
    Ok(Some(found))
}

/// F2FS.
pub(super) fn f2fs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0x400, 1148, 0, b"\x10\x20\xf5\xf2")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::F2fs, block.at);
    found.version = Some(format!("{}.{}", block.le16(4), block.le16(6)));
    found.uuid = uuid(block.array(108));
    found.label = wide_label(wide_le(block.part(124, 1024)));
    found.block_size = pow2(block.le32(16));
    found.size = found.block_size.and_then(|unit| block.le64(36).checked_mul(unit));
    Ok(Some(found))
}

/// bcachefs, at 4 KiB.
pub(super) fn bcachefs(view: &View<'_>) -> Result<Option<Superblock>> {
    const MAGIC: &[u8; 16] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
    let Some(block) = view.signed(0x1000, 752, 24, MAGIC)? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Bcachefs, block.at);
    found.uuid = uuid(block.array(56));
    found.label = label(block.part(72, 32));
    found.block_size = Some(u64::from(block.le16(120)).saturating_mul(512));
    Ok(Some(found))
}

/// Swap space; its signature ends the first page, of whichever size the machine has them.
pub(super) fn swap(view: &View<'_>) -> Result<Option<Superblock>> {
    for page in [0x1000u64, 0x2000, 0x4000, 0x8000, 0x10000] {
        let at = page.saturating_sub(10);
        let Some(end) = view.block(at, 10)? else { return Ok(None) };
        let known = SIGNATURES.iter().find(|(magic, ..)| end.bytes.starts_with(magic));
        let Some(&(_, kind, version)) = known else { continue };
        let mut found = Superblock::new(kind, at);
        found.version = Some(version.to_owned());
        if version != "0"
            && let Some(block) = view.block(0x400, 44)?
        {
            swap_header(&block, page, &mut found);
        }
        return Ok(Some(found));
    }
    Ok(None)
}

/// The signatures, and what stands in their place while a suspended system lies in the swap space,
/// with the version that blkid gives it.
const SIGNATURES: &[(&[u8], Kind, &str)] = &[
    (b"SWAPSPACE2", Kind::Swap, "1"),
    (b"SWAP-SPACE", Kind::Swap, "0"),
    (b"S1SUSPEND\0", Kind::Swsuspend, "s1suspend"),
    (b"S2SUSPEND\0", Kind::Swsuspend, "s2suspend"),
    (b"ULSUSPEND\0", Kind::Swsuspend, "ulsuspend"),
    (b"LINHIB0001", Kind::Swsuspend, "linhib0001"),
    (b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c", Kind::Swsuspend, "tuxonice"),
];

/// The header of version 1: numbers in the byte order of the machine that made it.
fn swap_header(block: &Block, page: u64, found: &mut Superblock) {
    let last = match (block.le32(0), block.be32(0)) {
        (1, _) => block.le32(4),
        (_, 1) => block.be32(4),
        _ => return,
    };
    found.uuid = uuid(block.array(12));
    found.label = label(block.part(28, 16));
    found.size = Some(u64::from(last).saturating_add(1).saturating_mul(page));
    found.block_size = Some(page);
}

/// SquashFS of version 4 (and before it, in either byte order).
pub(super) fn squashfs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.block(0, 96)? else { return Ok(None) };
    let (little, big) = (block.has(0, b"hsqs"), block.has(0, b"sqsh"));
    if !little && !big {
        return Ok(None);
    }
    let mut found = Superblock::new(Kind::Squashfs, block.at);
    let number = |at| if little { block.le16(at) } else { block.be16(at) };
    found.version = Some(format!("{}.{}", number(28), number(30)));
    if little && number(28) == 4 {
        found.block_size = Some(block.le32(12).into());
        found.size = Some(block.le64(40));
    }
    Ok(Some(found))
}

/// EROFS.
pub(super) fn erofs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0x400, 128, 0, b"\xe2\xe1\xf5\xe0")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Erofs, block.at);
    found.uuid = uuid(block.array(48));
    found.label = label(block.part(64, 16));
    found.block_size = pow2(block.u8(12).into());
    found.size = found.block_size.map(|unit| u64::from(block.le32(36)).saturating_mul(unit));
    // over the rest of the first block, its own field as zeros, without the last inversion
    if block.le32(8) & 1 != 0
        && let Some(unit) = found.block_size.filter(|unit| (1024..=0x10000).contains(unit))
        && let Some(whole) = view.block(0x400, to_usize(unit.saturating_sub(0x400).max(128)))?
    {
        let mut bytes = whole.bytes;
        bytes.get_mut(4..8).unwrap_or_default().fill(0);
        checksum(&mut found, block.le32(4), !crc32c::crc32c(&bytes));
    }
    Ok(Some(found))
}
