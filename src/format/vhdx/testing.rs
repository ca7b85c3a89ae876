//! A writer of small images for the tests: right by default, wrong where a test wants it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chain::{Chain, ChainImage};
use crate::error::Result;
use crate::format::LayerOptions;
use crate::layer::Layer;
use crate::storage::{MemoryStorage, Storage};

use super::guid::Guid;
use super::layer::VhdxLayer;
use super::layout::*;

pub(super) const LOG: u64 = 1 << 20;
pub(super) const METADATA: u64 = 2 << 20;
pub(super) const BAT: u64 = 3 << 20;
pub(super) const FIRST_BLOCK: u64 = 4 << 20;
pub(super) const LOG_GUID: Guid = Guid::of(0x1234, 5, 6, 7);

/// A metadata item.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) guid: Guid,
    pub(super) flags: u32,
    pub(super) data: Vec<u8>,
    /// Offset and length to claim instead of the real ones.
    pub(super) place: Option<(u32, u32)>,
}

/// What an image is to hold.
#[derive(Debug, Clone)]
pub(super) struct Builder {
    pub(super) items: Vec<Item>,
    pub(super) entry_count: Option<u16>,
    pub(super) metadata_signature: [u8; 8],
    pub(super) data_write_guid: Guid,
    block_size: u64,
    sector: u64,
    /// State and, where it has a place, content of payload blocks.
    blocks: BTreeMap<u64, (u64, Option<Vec<u8>>)>,
    /// Which sectors of partially present blocks are there.
    present: BTreeMap<u64, Vec<bool>>,
}

/// An image's bytes, to be damaged.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    ratio: u64,
}

pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A GUID as Windows stores it.
pub(super) fn stored(guid: Guid) -> [u8; 16] {
    *Guid::from_stored(*guid.as_bytes()).as_bytes()
}

/// A parent locator item.
pub(super) fn locator(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = stored(PARENT_LOCATOR_TYPE).to_vec();
    bytes.extend([0, 0]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    let mut strings = Vec::new();
    let start = bytes.len() + 12 * entries.len();
    for (key, value) in entries {
        let (key, value) = (utf16(key), utf16(value));
        bytes.extend(((start + strings.len()) as u32).to_le_bytes());
        bytes.extend(((start + strings.len() + key.len()) as u32).to_le_bytes());
        bytes.extend((key.len() as u16).to_le_bytes());
        bytes.extend((value.len() as u16).to_le_bytes());
        strings.extend(key);
        strings.extend(value);
    }
    bytes.extend(strings);
    bytes
}

/// Makes the checksum of a structure right.
pub(super) fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

impl Builder {
    pub(super) fn new(block_size: u32, size: u64) -> Self {
        let flags = METADATA_IS_REQUIRED;
        let item = |guid, data: Vec<u8>| Item { guid, flags, data, place: None };
        let mut parameters = block_size.to_le_bytes().to_vec();
        parameters.extend([0; 4]);
        let items = vec![
            item(ITEM_FILE_PARAMETERS, parameters),
            item(ITEM_VIRTUAL_DISK_SIZE, size.to_le_bytes().to_vec()),
            item(ITEM_VIRTUAL_DISK_ID, vec![5; 16]),
            item(ITEM_LOGICAL_SECTOR_SIZE, 512u32.to_le_bytes().to_vec()),
            item(ITEM_PHYSICAL_SECTOR_SIZE, 4096u32.to_le_bytes().to_vec()),
        ];
        Self {
            items,
            entry_count: None,
            metadata_signature: *b"metadata",
            data_write_guid: Guid::of(2, 2, 2, 2),
            block_size: block_size.into(),
            sector: 512,
            blocks: BTreeMap::new(),
            present: BTreeMap::new(),
        }
    }

    pub(super) fn item(&mut self, guid: Guid) -> &mut Item {
        self.items.iter_mut().find(|item| item.guid == guid).unwrap()
    }

    pub(super) fn logical_sector(&mut self, size: u32) {
        self.item(ITEM_LOGICAL_SECTOR_SIZE).data = size.to_le_bytes().to_vec();
        self.sector = size.into();
    }

    pub(super) fn fixed(&mut self) {
        self.item(ITEM_FILE_PARAMETERS).data[4] |= 1;
    }

    /// Makes it a differencing image.
    pub(super) fn parent(&mut self, linkage: &str, names: &[(&str, &str)]) {
        self.item(ITEM_FILE_PARAMETERS).data[4] |= 2;
        let mut entries = vec![("parent_linkage", linkage)];
        entries.extend(names);
        let data = locator(&entries);
        let flags = METADATA_IS_REQUIRED;
        self.items.push(Item { guid: ITEM_PARENT_LOCATOR, flags, data, place: None });
    }

    /// A payload block of a state without content.
    pub(super) fn state(&mut self, block: u64, state: u64) {
        self.blocks.insert(block, (state, None));
    }

    /// A payload block that is in the file.
    pub(super) fn data(&mut self, block: u64, content: Vec<u8>) {
        assert_eq!(content.len() as u64, self.block_size);
        self.blocks.insert(block, (6, Some(content)));
    }

    /// A payload block of which these sectors are in the file.
    pub(super) fn partial(&mut self, block: u64, content: Vec<u8>, present: Vec<bool>) {
        assert_eq!(present.len() as u64 * self.sector, self.block_size);
        self.data(block, content);
        self.blocks.get_mut(&block).unwrap().0 = 7;
        self.present.insert(block, present);
    }

    pub(super) fn build(&self) -> Image {
        let ratio = (self.sector << 23) / self.block_size.max(1);
        let mut bytes = vec![0; FIRST_BLOCK as usize];
        bytes[..8].copy_from_slice(FILE_IDENTIFIER_SIGNATURE);
        bytes[8..38].copy_from_slice(&utf16("diskimage tests"));
        let mut image = Image { bytes, ratio };
        for (copy, number) in [(0, 10u64), (1, 11)] {
            image.header(copy, |header| {
                header[..4].copy_from_slice(HEADER_SIGNATURE);
                header[8..16].copy_from_slice(&number.to_le_bytes());
                header[16..32].fill(1);
                header[32..48].copy_from_slice(&stored(self.data_write_guid));
                header[66] = 1;
                header[68..72].copy_from_slice(&(1u32 << 20).to_le_bytes());
                header[72..80].copy_from_slice(&LOG.to_le_bytes());
            });
            image.region_table(copy, |table| {
                table[..4].copy_from_slice(REGION_TABLE_SIGNATURE);
                table[8] = 2;
            });
        }
        image.region(0, REGION_BAT, BAT, 1 << 20, 1);
        image.region(1, REGION_METADATA, METADATA, 1 << 20, 1);
        self.put_metadata(&mut image.bytes[METADATA as usize..BAT as usize]);
        for (&block, (state, content)) in &self.blocks {
            let place = content.as_ref().map_or(0, |content| image.append(content));
            image.set_bat(block, place | state);
        }
        let mut bitmaps: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (block, present) in &self.present {
            let bitmap = bitmaps.entry(block / ratio).or_insert_with(|| vec![0; 1 << 20]);
            let first = (block % ratio) as usize * present.len();
            for (index, _) in present.iter().enumerate().filter(|(_, present)| **present) {
                bitmap[(first + index) / 8] |= 1 << ((first + index) % 8);
            }
        }
        for (chunk, bitmap) in bitmaps {
            let place = image.append(&bitmap);
            image.set_bitmap(chunk, place | 6);
        }
        image
    }

    fn put_metadata(&self, region: &mut [u8]) {
        region[..8].copy_from_slice(&self.metadata_signature);
        let count = self.entry_count.unwrap_or(self.items.len() as u16);
        region[10..12].copy_from_slice(&count.to_le_bytes());
        let mut end = 65_536;
        for (item, entry) in self.items.iter().zip(1..) {
            let empty = item.data.is_empty();
            let real = (if empty { 0 } else { end as u32 }, item.data.len() as u32);
            let (offset, length) = item.place.unwrap_or(real);
            let entry = &mut region[32 * entry..32 * (entry + 1)];
            entry[..16].copy_from_slice(&stored(item.guid));
            entry[16..20].copy_from_slice(&offset.to_le_bytes());
            entry[20..24].copy_from_slice(&length.to_le_bytes());
            entry[24..28].copy_from_slice(&item.flags.to_le_bytes());
            region[end..end + item.data.len()].copy_from_slice(&item.data);
            end += item.data.len();
        }
    }
}

impl Image {
    /// Changes one of the headers and makes its checksum right.
    pub(super) fn header(&mut self, copy: usize, change: impl FnOnce(&mut [u8])) {
        let start = HEADER_OFFSETS[copy] as usize;
        let header = &mut self.bytes[start..start + HEADER_LENGTH];
        change(header);
        seal(header);
    }

    /// Changes one of the region tables and makes its checksum right.
    pub(super) fn region_table(&mut self, copy: usize, change: impl FnOnce(&mut [u8])) {
        let start = REGION_TABLE_OFFSETS[copy] as usize;
        let table = &mut self.bytes[start..start + REGION_TABLE_LENGTH];
        change(table);
        seal(table);
    }

    /// Sets an entry of both region tables, which then count that many at least.
    pub(super) fn region(&mut self, index: usize, guid: Guid, at: u64, length: u32, flags: u32) {
        for copy in [0, 1] {
            self.region_table(copy, |table| {
                let entry = &mut table[16 + 32 * index..48 + 32 * index];
                entry[..16].copy_from_slice(&stored(guid));
                entry[16..24].copy_from_slice(&at.to_le_bytes());
                entry[24..28].copy_from_slice(&length.to_le_bytes());
                entry[28..32].copy_from_slice(&flags.to_le_bytes());
                table[8] = table[8].max(index as u8 + 1);
            });
        }
    }

    /// Adds bytes behind the last whole MiB; gives their place.
    pub(super) fn append(&mut self, content: &[u8]) -> u64 {
        let place = self.bytes.len().next_multiple_of(1 << 20);
        self.bytes.resize(place, 0);
        self.bytes.extend(content);
        place as u64
    }

    /// Where the BAT entry of a payload block lies.
    pub(super) fn bat_place(&self, block: u64) -> u64 {
        BAT + 8 * (block + block / self.ratio)
    }

    pub(super) fn set_bat(&mut self, block: u64, value: u64) {
        let at = self.bat_place(block);
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn bat(&self, block: u64) -> u64 {
        let at = self.bat_place(block) as usize;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    pub(super) fn set_bitmap(&mut self, chunk: u64, value: u64) {
        let at = BAT + 8 * (chunk * (self.ratio + 1) + self.ratio);
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Says in both headers that there is a log to replay.
    pub(super) fn mark_log(&mut self) {
        for copy in [0, 1] {
            self.header(copy, |header| header[48..64].copy_from_slice(&stored(LOG_GUID)));
        }
    }

    /// Writes a log entry at a position of the log, around its end if need be; gives the position
    /// behind it.
    pub(super) fn put_log(&mut self, position: u64, entry: &LogEntry) -> u64 {
        let bytes = entry.bytes();
        for (index, byte) in bytes.iter().enumerate() {
            self.bytes[(LOG + (position + index as u64) % (1 << 20)) as usize] = *byte;
        }
        (position + bytes.len() as u64) % (1 << 20)
    }

    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(MemoryStorage::new(self.bytes.clone()))
    }

    pub(super) fn open(&self) -> Result<VhdxLayer> {
        VhdxLayer::open(self.storage(), &LayerOptions::default())
    }

    pub(super) fn trust(&self) -> Result<VhdxLayer> {
        let options = LayerOptions { trust_broken: true, ..LayerOptions::default() };
        VhdxLayer::open(self.storage(), &options)
    }

    /// The image as a disk, upon the parents given, the nearest first.
    pub(super) fn chain(&self, parents: &[&Self]) -> Result<Chain> {
        let open = |image: &Self| -> Result<ChainImage> {
            let layer: Box<dyn Layer> = Box::new(image.open()?);
            Ok(ChainImage::new("test.vhdx".into(), layer, image.storage()))
        };
        let parents: Result<Vec<_>> = parents.iter().map(|parent| open(parent)).collect();
        Ok(Chain::new(open(self)?, parents?))
    }
}

/// An entry of the log.
#[derive(Debug, Clone)]
pub(super) struct LogEntry {
    pub(super) sequence_number: u64,
    pub(super) tail: u64,
    pub(super) guid: Guid,
    pub(super) flushed: u64,
    pub(super) last: u64,
    pub(super) writes: Vec<Write>,
}

/// What an entry writes.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Zeros { at: u64, length: u64 },
    Sector { at: u64, bytes: Vec<u8> },
}

impl LogEntry {
    /// An entry that fits a file of this length.
    pub(super) fn new(sequence_number: u64, tail: u64, size: usize, writes: Vec<Write>) -> Self {
        let size = size as u64;
        Self { sequence_number, tail, guid: LOG_GUID, flushed: size, last: size, writes }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let number = self.sequence_number.to_le_bytes();
        let mut bytes = b"loge\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend((self.tail as u32).to_le_bytes());
        bytes.extend(number);
        bytes.extend((self.writes.len() as u64).to_le_bytes());
        bytes.extend(stored(self.guid));
        bytes.extend(self.flushed.to_le_bytes());
        bytes.extend(self.last.to_le_bytes());
        let mut data: Vec<u8> = Vec::new();
        for write in &self.writes {
            match write {
                Write::Zeros { at, length } => {
                    bytes.extend(b"zero\0\0\0\0");
                    bytes.extend(length.to_le_bytes());
                    bytes.extend(at.to_le_bytes());
                }
                Write::Sector { at, bytes: sector } => {
                    bytes.extend(b"desc");
                    bytes.extend(&sector[4092..]);
                    bytes.extend(&sector[..8]);
                    bytes.extend(at.to_le_bytes());
                    data.extend(b"data");
                    data.extend(&number[4..]);
                    data.extend(&sector[8..4092]);
                    data.extend(&number[..4]);
                }
            }
            bytes.extend(number);
        }
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes.extend(data);
        let length = bytes.len() as u32;
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        seal(&mut bytes);
        bytes
    }
}
