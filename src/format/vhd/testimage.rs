//! Images for tests, byte by byte.

use super::layout::*;

/// An image to be: its fields, and its blocks with their sector bitmaps.
#[derive(Clone)]
pub(super) struct Builder {
    pub(super) kind: u32,
    pub(super) size: u64,
    pub(super) block: u64,
    pub(super) creator: [u8; 4],
    pub(super) geometry: [u8; 4],
    pub(super) blocks: Vec<Option<(Vec<u8>, Vec<u8>)>>,
    /// Entries that the table has beyond those of `blocks`.
    pub(super) more_entries: u32,
    pub(super) uuid: [u8; 16],
    pub(super) parent: [u8; 16],
    pub(super) parent_name: String,
    pub(super) locators: Vec<([u8; 4], Vec<u8>)>,
    pub(super) saved: u8,
}

/// Where the blocks begin.
pub(super) const DATA: u64 = 0x4000;
/// Where the table lies.
pub(super) const TABLE: u64 = 0x600;

impl Builder {
    pub(super) fn new(kind: u32, size: u64, block: u64) -> Self {
        Self {
            kind,
            size,
            block,
            creator: *b"test",
            geometry: [0xff, 0xff, 16, 255],
            blocks: Vec::new(),
            more_entries: 0,
            uuid: [7; 16],
            parent: [9; 16],
            parent_name: String::new(),
            locators: Vec::new(),
            saved: 0,
        }
    }

    /// Four blocks of eight sectors: present, absent, present, absent; the disk ends in the last.
    pub(super) fn small(kind: u32) -> Self {
        let mut builder = Self::new(kind, 4 * 4096 - 512, 4096);
        let bytes = |seed: u8| (0..4096).map(|i| (i / 512) as u8 + seed).collect::<Vec<u8>>();
        builder.blocks =
            vec![Some((vec![0xff], bytes(1))), None, Some((vec![0b1010_0111], bytes(0x41))), None];
        builder
    }

    pub(super) fn footer(&self) -> Vec<u8> {
        let mut footer = FOOTER_COOKIE.to_vec();
        footer.extend(2u32.to_be_bytes());
        footer.extend(0x1_0000u32.to_be_bytes());
        footer.extend(if self.kind == TYPE_FIXED { u64::MAX } else { 512 }.to_be_bytes());
        footer.extend(1000u32.to_be_bytes());
        footer.extend(self.creator);
        footer.extend(0x5_0003u32.to_be_bytes());
        footer.extend(b"Wi2k");
        footer.extend(self.size.to_be_bytes());
        footer.extend(self.size.to_be_bytes());
        footer.extend(self.geometry);
        footer.extend(self.kind.to_be_bytes());
        footer.extend([0; 4]);
        footer.extend(self.uuid);
        footer.push(self.saved);
        footer.resize(512, 0);
        seal(&mut footer, 64);
        footer
    }

    fn header(&self, locators: &[u64]) -> Vec<u8> {
        let mut header = HEADER_COOKIE.to_vec();
        header.extend(u64::MAX.to_be_bytes());
        header.extend(TABLE.to_be_bytes());
        header.extend(0x1_0000u32.to_be_bytes());
        header.extend((self.blocks.len() as u32 + self.more_entries).to_be_bytes());
        header.extend((self.block as u32).to_be_bytes());
        header.extend([0; 4]);
        header.extend(self.parent);
        header.extend([0; 8]);
        header.extend(self.parent_name.encode_utf16().flat_map(u16::to_be_bytes));
        header.resize(576, 0);
        for ((code, bytes), offset) in self.locators.iter().zip(locators) {
            header.extend(code);
            header.extend(512u32.to_be_bytes());
            header.extend((bytes.len() as u32).to_be_bytes());
            header.extend([0; 4]);
            header.extend(offset.to_be_bytes());
        }
        header.resize(1024, 0);
        seal(&mut header, 36);
        header
    }

    /// The image; fixed ones hold `blocks` one after the other.
    pub(super) fn build(&self) -> Vec<u8> {
        if self.kind == TYPE_FIXED {
            let mut file: Vec<u8> = self
                .blocks
                .iter()
                .flat_map(|block| block.clone().map_or(vec![0; self.block as usize], |(_, b)| b))
                .collect();
            file.resize(self.size as usize, 0);
            file.extend(self.footer());
            return file;
        }
        // locators lie between table and blocks
        let offsets: Vec<u64> = (0..self.locators.len() as u64).map(|i| 0x2000 + i * 512).collect();
        let mut file = self.footer();
        file.extend(self.header(&offsets));
        let mut blocks = Vec::new();
        for block in &self.blocks {
            let at = DATA + blocks.len() as u64;
            let entry = block.as_ref().map_or(BAT_UNUSED, |_| (at / 512) as u32);
            file.extend(entry.to_be_bytes());
            if let Some((bitmap, data)) = block {
                let mut bitmap = bitmap.clone();
                bitmap.resize(bitmap.len().next_multiple_of(512), 0);
                blocks.extend(bitmap);
                blocks.extend(data);
            }
        }
        file.extend((0..self.more_entries).flat_map(|_| BAT_UNUSED.to_be_bytes()));
        file.resize(DATA as usize, 0);
        for ((_, bytes), offset) in self.locators.iter().zip(offsets) {
            let at = offset as usize;
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        file.extend(blocks);
        file.extend(self.footer());
        file
    }

    /// What a guest sees, over `parent`.
    pub(super) fn content(&self, parent: &[u8]) -> Vec<u8> {
        let mut bytes = parent.to_vec();
        bytes.resize(self.size as usize, 0);
        for (index, block) in self.blocks.iter().enumerate() {
            let Some((bitmap, data)) = block else { continue };
            for (sector, from) in data.chunks(512).enumerate() {
                let set = bitmap[sector / 8] & (0x80 >> (sector % 8)) != 0;
                let at = index * self.block as usize + sector * 512;
                if (set || self.kind != TYPE_DIFFERENCING) && at < bytes.len() {
                    let length = from.len().min(bytes.len() - at);
                    bytes[at..at + length].copy_from_slice(&from[..length]);
                }
            }
        }
        bytes
    }
}

/// Puts the right checksum at `field`.
pub(super) fn seal(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
    bytes[field..field + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Changes a field of the dynamic header and seals it again.
pub(super) fn patch(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[512 + at..512 + at + bytes.len()].copy_from_slice(bytes);
    seal(&mut file[512..1536], 36);
}

/// Changes a field of both footers and seals them again.
pub(super) fn patch_footers(file: &mut [u8], at: usize, bytes: &[u8]) {
    for start in [0, file.len() - 512] {
        file[start + at..start + at + bytes.len()].copy_from_slice(bytes);
        seal(&mut file[start..start + 512], 64);
    }
}
