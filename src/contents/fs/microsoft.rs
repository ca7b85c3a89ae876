//! File systems of Windows. Sources: Microsoft's "FAT32 File System Specification" 1.03 (2000) and
//! "exFAT file system specification", ECMA-107; the documentation of the Linux-NTFS project for NTFS;
//! libyal's "BitLocker Drive Encryption (BDE) format" and "Resilient File System (ReFS)".

use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};

use super::super::view::{Block, View};
use super::{Kind, Superblock, label, serial, wide_label, wide_le};

/// How much of a root directory is read for the label.
const MOST_ENTRIES: u64 = 16 << 10;

/// The fields of a boot sector that FAT's kinds share, where they make sense (section "Boot Sector
/// and BPB").
struct Fat {
    sector: Pow2,
    cluster: u64,
    /// Bytes: where the first FAT lies, the root directory of FAT12 and FAT16 (its length is zero
    /// in FAT32), and the first cluster.
    fat: u64,
    root: u64,
    root_length: u64,
    data: u64,
    clusters: u64,
    sectors: u64,
}

impl Fat {
    fn parse(block: &Block) -> Option<Self> {
        let jump = matches!(block.u8(0), 0xeb | 0xe9);
        let signed = block.has(510, b"\x55\xaa");
        let named = block.has(54, b"FAT12   ")
            || block.has(54, b"FAT16   ")
            || block.has(54, b"FAT     ")
            || block.has(82, b"FAT32   ");
        let other =
            [b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"].iter().any(|name| block.has(3, &name[..]));
        // the words are decoration (so the specification), but one of the marks must be there
        if other || !(named || (signed && jump)) {
            return None;
        }
        let sector =
            Pow2::from_size(block.le16(11).into()).filter(|s| (9..=12).contains(&s.bits()))?;
        let cluster = Pow2::from_size(block.u8(13).into())?.size().saturating_mul(sector.size());
        let (reserved, fats, media) =
            (u64::from(block.le16(14)), u64::from(block.u8(16)), block.u8(21));
        if reserved == 0 || fats == 0 || !(media >= 0xf8 || media == 0xf0) {
            return None;
        }
        let sectors = match block.le16(19) {
            0 => block.le32(32),
            few => few.into(),
        };
        let fat_sectors = match block.le16(22) {
            0 => block.le32(36),
            few => few.into(),
        };
        let sectors = u64::from(sectors);
        let root_length = u64::from(block.le16(17)).saturating_mul(32);
        let fat = reserved.saturating_mul(sector.size());
        let fats_length = fats.saturating_mul(fat_sectors.into()).saturating_mul(sector.size());
        let root = fat.saturating_add(fats_length);
        let data = root.saturating_add(sector.ceil(root_length));
        let room = sectors.saturating_mul(sector.size()).checked_sub(data)?;
        let clusters = room.checked_div(cluster)?;
        if fat_sectors == 0 || clusters == 0 {
            return None;
        }
        Some(Self { sector, cluster, fat, root, root_length, data, clusters, sectors })
    }

    /// Bytes of a root directory that is a chain of clusters, as far as they are read.
    fn chain(&self, view: &View<'_>, mut cluster: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while to_u64(bytes.len()) < MOST_ENTRIES
            && u64::from(cluster) < self.clusters.saturating_add(2)
        {
            let Some(index) = u64::from(cluster).checked_sub(2) else { break };
            let at = self.data.saturating_add(index.saturating_mul(self.cluster));
            let Some(block) = view.block(at, to_usize(self.cluster.min(MOST_ENTRIES)))? else {
                break;
            };
            let ended = block.bytes.chunks_exact(32).any(|entry| entry.first() == Some(&0));
            bytes.extend(block.bytes);
            if ended {
                break;
            }
            let entry = self.fat.saturating_add(u64::from(cluster).saturating_mul(4));
            let Some(next) = view.block(entry, 4)? else { break };
            cluster = next.le32(0) & 0x0fff_ffff;
        }
        Ok(bytes)
    }
}

/// The volume label's entry in a root directory.
fn fat_label(entries: &[u8]) -> Option<String> {
    const LABEL: u8 = 0x08;
    const FOLDER: u8 = 0x10;
    for entry in entries.chunks_exact(32) {
        let (&first, &attributes) = (entry.first()?, entry.get(11)?);
        let cluster = [entry.get(20..22)?, entry.get(26..28)?].concat();
        if first == 0 {
            break;
        }
        let is_long_name = attributes & 0x3f == 0x0f;
        if first == 0xe5 || is_long_name || cluster.iter().any(|&byte| byte != 0) {
            continue;
        }
        if attributes & (LABEL | FOLDER) == LABEL {
            let mut name: [u8; 11] = *entry.first_chunk()?;
            // stands for the mark of what is deleted
            if first == 0x05 {
                *name.first_mut()? = 0xe5;
            }
            return label(&name);
        }
    }
    None
}

/// FAT12, FAT16 and FAT32; the number of clusters tells them apart (section "FAT Type Determination").
pub(super) fn fat(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.block(0, 512)? else { return Ok(None) };
    let Some(fat) = Fat::parse(&block) else { return Ok(None) };
    let mut found = Superblock::new(Kind::Vfat, 0);
    let is_32 = block.le16(22) == 0;
    let version = match (is_32, fat.clusters) {
        (true, _) => "FAT32",
        (false, ..0xff5) => "FAT12",
        (false, _) => "FAT16",
    };
    found.version = Some(version.to_owned());
    found.size = Some(fat.sectors.saturating_mul(fat.sector.size()));
    found.block_size = Some(fat.sector.size());
    let at: usize = if is_32 { 64 } else { 36 };
    // the mark of an extended boot sector; 0x28 has no label
    let mark = block.u8(at.saturating_add(2));
    if matches!(mark, 0x28 | 0x29) {
        found.uuid = Some(serial(block.le32(at.saturating_add(3))));
    }
    let entries = if is_32 {
        fat.chain(view, block.le32(44))?
    } else {
        let length = to_usize(fat.root_length.min(MOST_ENTRIES));
        view.block(fat.root, length)?.map(|block| block.bytes).unwrap_or_default()
    };
    found.label = fat_label(&entries).or_else(|| {
        let name = block.part(at.saturating_add(7), 11);
        (mark == 0x29 && name != b"NO NAME    ").then(|| label(name)).flatten()
    });
    Ok(Some(found))
}

/// NTFS.
pub(super) fn ntfs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0, 512, 3, b"NTFS    ")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Ntfs, 0);
    let sector = u64::from(block.le16(11));
    // larger clusters are a negative power of two
    let per_cluster = match block.u8(13) {
        few @ ..=0x80 => u64::from(few),
        many => 1u64.checked_shl(0u32.wrapping_sub(many.into()) & 0xff).unwrap_or_default(),
    };
    let cluster = sector.saturating_mul(per_cluster);
    found.uuid = Some(format!("{:016X}", block.le64(0x48)));
    found.block_size = Some(cluster);
    // one more sector than it counts: the copy of this one
    found.size = block.le64(0x28).checked_add(1).and_then(|sectors| sectors.checked_mul(sector));
    let record = match block.u8(0x40) {
        few @ ..=0x7f => u64::from(few).saturating_mul(cluster),
        many => 1u64.checked_shl(0u32.wrapping_sub(many.into()) & 0xff).unwrap_or_default(),
    };
    if (512..=4096).contains(&record) && record.is_power_of_two() {
        // the file $Volume has the number 3
        let at = block
            .le64(0x30)
            .checked_mul(cluster)
            .and_then(|at| at.checked_add(record.saturating_mul(3)));
        let file = at.map_or(Ok(None), |at| view.signed(at, to_usize(record), 0, b"FILE"))?;
        found.label = file.and_then(volume_name);
    }
    Ok(Some(found))
}

/// The attribute $VOLUME_NAME of a file record.
fn volume_name(mut record: Block) -> Option<String> {
    // the ends of its sectors hold a number instead, and lie in the update sequence
    let sequence = usize::from(record.le16(4));
    for index in 1..usize::from(record.le16(6)).min(9) {
        let kept = record.array::<2>(sequence.saturating_add(index.saturating_mul(2)));
        let end = index.saturating_mul(512).saturating_sub(2);
        if let Some(place) = record.bytes.get_mut(end..end.saturating_add(2)) {
            place.copy_from_slice(&kept);
        }
    }
    let mut at = usize::from(record.le16(0x14));
    loop {
        let (kind, length) = (record.le32(at), to_usize(record.le32(at.saturating_add(4)).into()));
        if kind == 0 || kind == u32::MAX || length < 24 {
            return None;
        }
        if kind == 0x60 && record.u8(at.saturating_add(8)) == 0 {
            let size = to_usize(record.le32(at.saturating_add(0x10)).into());
            let value = at.saturating_add(record.le16(at.saturating_add(0x14)).into());
            return wide_label(wide_le(record.part(value, size)));
        }
        at = at.saturating_add(length);
    }
}

/// exFAT (section 3.1, the main boot sector; 7.3, the volume label's entry).
pub(super) fn exfat(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0, 512, 3, b"EXFAT   ")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Exfat, 0);
    found.version = Some(format!("{}.{}", block.u8(105), block.u8(104)));
    found.uuid = Some(serial(block.le32(100)));
    let (Some(sector), Some(per_cluster)) =
        (Pow2::from_bits(block.u8(108).into()), Pow2::from_bits(block.u8(109).into()))
    else {
        return Ok(Some(found));
    };
    found.size = sector.offset_of(block.le64(72));
    found.block_size = Some(sector.size());
    let cluster = sector.offset_of(per_cluster.size()).unwrap_or(u64::MAX);
    let heap = sector.offset_of(block.le32(88).into()).unwrap_or(u64::MAX);
    let fat = sector.offset_of(block.le32(80).into()).unwrap_or(u64::MAX);
    let mut number = block.le32(96);
    let mut read = 0u64;
    while read < MOST_ENTRIES && (2..0xffff_fff7).contains(&number) {
        let index = u64::from(number).saturating_sub(2);
        let at = heap.saturating_add(index.saturating_mul(cluster));
        let Some(entries) = view.block(at, to_usize(cluster.min(MOST_ENTRIES)))? else { break };
        for entry in entries.bytes.chunks_exact(32) {
            match entry.first() {
                Some(0) | None => return Ok(Some(found)),
                Some(0x83) => {
                    let length = entry.get(1).copied().unwrap_or_default().min(11);
                    let units = wide_le(entry.get(2..24).unwrap_or_default());
                    found.label = wide_label(units.take(length.into()));
                    return Ok(Some(found));
                }
                Some(_) => {}
            }
        }
        read = read.saturating_add(cluster.max(1));
        let entry = fat.saturating_add(u64::from(number).saturating_mul(4));
        let Some(next) = view.block(entry, 4)? else { break };
        number = next.le32(0);
    }
    Ok(Some(found))
}

/// A volume that BitLocker encrypted: of Windows Vista, of Windows 7 and later, "To Go".
pub(super) fn bitlocker(view: &View<'_>) -> Result<Option<Superblock>> {
    const GUID: &[u8; 16] = b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";
    let Some(block) = view.block(0, 512)? else { return Ok(None) };
    // where the first of three copies of the metadata lies; Vista has it elsewhere
    let copy = if block.has(3, b"-FVE-FS-") {
        block.le64(176)
    } else if block.has(3, b"MSWIN4.1") && block.has(424, GUID) {
        block.le64(440)
    } else {
        return Ok(None);
    };
    let mut found = Superblock::new(Kind::BitLocker, 0);
    if !block.has(0, b"\xeb\x52\x90")
        && copy != 0
        && let Some(metadata) = view.signed(copy, 12, 0, b"-FVE-FS-")?
    {
        found.version = Some(metadata.le16(10).to_string());
    }
    Ok(Some(found))
}

/// ReFS.
pub(super) fn refs(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.signed(0, 512, 3, b"ReFS\0\0\0\0")? else { return Ok(None) };
    let mut found = Superblock::new(Kind::Refs, 0);
    found.version = Some(format!("{}.{}", block.u8(40), block.u8(41)));
    found.uuid = Some(format!("{:016X}", block.le64(56)));
    let sector = u64::from(block.le32(32));
    found.size = block.le64(24).checked_mul(sector);
    found.block_size = u64::from(block.le32(36)).checked_mul(sector);
    Ok(Some(found))
}
