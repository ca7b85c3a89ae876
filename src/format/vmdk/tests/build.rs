//! Images made by hand.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::super::VmdkLayer;
use super::super::header::tests::{put32, put64};
use super::super::layout::*;
use crate::chain::{Chain, ChainImage};
use crate::error::Result;
use crate::format::LayerOptions;
use crate::layer::Layer;
use crate::storage::{MemoryStorage, Storage};

/// What a grain of a [`Hosted`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    None,
    Zero,
    Data(u8),
}

/// A recipe for a hosted sparse extent.
#[derive(Debug, Clone)]
pub(super) struct Hosted {
    pub(super) grain: u64,
    pub(super) per_table: u32,
    pub(super) cells: Vec<Cell>,
    /// Sectors that the last grain is short of.
    pub(super) short: u64,
    pub(super) compressed: bool,
    pub(super) markers: bool,
    pub(super) redundant: bool,
    pub(super) footer: bool,
    pub(super) descriptor: Option<String>,
}

impl Default for Hosted {
    fn default() -> Self {
        Self {
            grain: 8,
            per_table: 4,
            cells: vec![Cell::Data(1), Cell::None, Cell::Zero, Cell::Data(2), Cell::Data(3)],
            short: 0,
            compressed: false,
            markers: true,
            redundant: true,
            footer: false,
            descriptor: None,
        }
    }
}

/// A built extent and where its structures lie, bytes.
#[derive(Debug, Clone)]
pub(super) struct Built {
    pub(super) bytes: Vec<u8>,
    pub(super) directory: usize,
    pub(super) tables: Vec<usize>,
    pub(super) redundant_directory: usize,
    pub(super) redundant_tables: Vec<usize>,
    /// By grain.
    pub(super) grains: Vec<Option<usize>>,
}

pub(super) fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An embedded descriptor of one sparse extent.
pub(super) fn embedded(sectors: u64) -> String {
    descriptor("monolithicSparse", &format!("RW {sectors} SPARSE \"whatever.vmdk\""))
}

pub(super) fn descriptor(create_type: &str, extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=00000007\nparentCID=ffffffff\n\
         createType=\"{create_type}\"\n\n# Extent description\n{extents}\n\n\
         #DDB\nddb.adapterType = \"ide\"\n"
    )
}

impl Hosted {
    pub(super) fn sectors(&self) -> u64 {
        self.cells.len() as u64 * self.grain - self.short
    }

    /// The bytes of grain `index`: told apart by place as well as by number.
    pub(super) fn grain_bytes(&self, index: usize) -> Vec<u8> {
        let length = self.grain as usize * 512;
        match self.cells[index] {
            Cell::Data(seed) => {
                (0..length).map(|i| (i / 7 + index * 31) as u8 ^ seed.wrapping_mul(37)).collect()
            }
            _ => vec![0; length],
        }
    }

    /// The disk inside.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut content: Vec<u8> =
            (0..self.cells.len()).flat_map(|index| self.grain_bytes(index)).collect();
        content.truncate(self.sectors() as usize * 512);
        content
    }

    pub(super) fn build(&self) -> Built {
        let mut flags = FLAG_NEWLINE_TEST;
        if self.redundant {
            flags |= FLAG_REDUNDANT;
        }
        if self.cells.contains(&Cell::Zero) {
            flags |= FLAG_ZEROED_GRAIN;
        }
        if self.compressed {
            flags |= FLAG_COMPRESSED | if self.markers { FLAG_MARKERS } else { 0 };
        }
        let tables = self.cells.len().div_ceil(self.per_table as usize);
        let mut bytes = vec![0u8; 512];
        let text = self.descriptor.clone().unwrap_or_else(|| embedded(self.sectors()));
        bytes.extend(text.as_bytes());
        bytes.resize(512 + 4 * 512, 0);
        let reserve = |bytes: &mut Vec<u8>, length: usize| {
            let at = bytes.len();
            bytes.resize((at + length).next_multiple_of(512), 0);
            at
        };
        let tables_at = |bytes: &mut Vec<u8>| {
            let directory = reserve(bytes, tables * 4);
            let places: Vec<usize> =
                (0..tables).map(|_| reserve(bytes, self.per_table as usize * 4)).collect();
            (directory, places)
        };
        let (redundant_directory, redundant_tables) =
            if self.redundant { tables_at(&mut bytes) } else { (0, Vec::new()) };
        let early = (!self.footer).then(|| tables_at(&mut bytes));
        bytes.resize(bytes.len().next_multiple_of(self.grain as usize * 512), 0);
        let overhead = bytes.len() as u64 / 512;
        let mut grains = Vec::new();
        for (index, cell) in self.cells.iter().enumerate() {
            let at = bytes.len();
            grains.push(matches!(cell, Cell::Data(_)).then_some(at));
            if !matches!(cell, Cell::Data(_)) {
                continue;
            }
            let data = self.grain_bytes(index);
            if self.compressed {
                let data = zlib(&data);
                if self.markers {
                    bytes.extend((index as u64 * self.grain).to_le_bytes());
                    bytes.extend((data.len() as u32).to_le_bytes());
                }
                bytes.extend(data);
                bytes.resize(bytes.len().next_multiple_of(512), 0);
            } else {
                bytes.extend(data);
            }
        }
        let (directory, places) = early.unwrap_or_else(|| tables_at(&mut bytes));
        for (directory, tables) in [(directory, &places), (redundant_directory, &redundant_tables)]
        {
            for (number, &table) in tables.iter().enumerate() {
                let first = number * self.per_table as usize;
                let cells = self.cells.iter().zip(&grains).skip(first);
                let mut used = false;
                for (slot, (cell, place)) in cells.take(self.per_table as usize).enumerate() {
                    let value = match cell {
                        Cell::None => 0,
                        Cell::Zero => 1,
                        Cell::Data(_) => place.unwrap() as u32 / 512,
                    };
                    used |= value != 0;
                    put32(&mut bytes, table + slot * 4, value);
                }
                let value = if used { table as u32 / 512 } else { 0 };
                put32(&mut bytes, directory + number * 4, value);
            }
        }
        let mut header = vec![0; 512];
        header[..4].copy_from_slice(b"KDMV");
        put32(&mut header, 4, if self.compressed { 3 } else { 2 });
        put32(&mut header, 8, flags);
        put64(&mut header, 12, self.sectors());
        put64(&mut header, 20, self.grain);
        put64(&mut header, 28, 1);
        put64(&mut header, 36, 4);
        put32(&mut header, 44, self.per_table);
        put64(&mut header, 48, redundant_directory as u64 / 512);
        put64(&mut header, 56, directory as u64 / 512);
        put64(&mut header, 64, overhead);
        header[73..77].copy_from_slice(b"\n \r\n");
        header[77] = self.compressed.into();
        if self.footer {
            let marker = bytes.len();
            bytes.resize(marker + 512, 0);
            put64(&mut bytes, marker, 1);
            put32(&mut bytes, marker + 12, MARKER_FOOTER);
            bytes.extend(&header);
            bytes.extend([0; 512]);
            put64(&mut header, 56, GD_AT_END);
        }
        bytes[..512].copy_from_slice(&header);
        Built { bytes, directory, tables: places, redundant_directory, redundant_tables, grains }
    }
}

impl Built {
    pub(super) fn put32(&mut self, at: usize, value: u32) {
        put32(&mut self.bytes, at, value);
    }

    pub(super) fn put64(&mut self, at: usize, value: u64) {
        put64(&mut self.bytes, at, value);
    }

    pub(super) fn open(&self) -> Result<Chain> {
        chain(self.bytes.clone(), &[])
    }
}

pub(super) fn memory(bytes: Vec<u8>) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(bytes))
}

pub(super) fn layer(bytes: impl Into<Vec<u8>>) -> Result<VmdkLayer> {
    VmdkLayer::open(memory(bytes.into()), &LayerOptions::default())
}

pub(super) fn trusting() -> LayerOptions {
    LayerOptions { trust_broken: true, ..LayerOptions::default() }
}

/// A disk of one image and the files behind its references, in order.
pub(super) fn chain(bytes: impl Into<Vec<u8>>, files: &[Vec<u8>]) -> Result<Chain> {
    let storage = memory(bytes.into());
    let layer = VmdkLayer::open(Arc::clone(&storage), &LayerOptions::default())?;
    let mut image = ChainImage::new(PathBuf::from("test.vmdk"), Box::new(layer), storage);
    for (index, file) in files.iter().enumerate() {
        image.attach(index, memory(file.clone()))?;
    }
    Ok(Chain::new(image, Vec::new()))
}

pub(super) fn codes(layer: &dyn Layer) -> Vec<crate::Code> {
    layer.describe().unwrap().findings.iter().map(|finding| finding.code).collect()
}
