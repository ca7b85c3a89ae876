//! Compressed loop images, version 2: blocks that are zlib streams, and a table of their offsets.
//! There is no specification; the layout is that of cloop's `compressed_loop.h`. All numbers are
//! big-endian.
//!
//! | | |
//! |---|---|
//! | read | version 2, zlib blocks of up to 4 MiB |
//! | checked | nothing beyond what reading checks: each stream has its Adler-32 |
//! | refused | other versions, larger blocks |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::codec::{Deflate, Wrapper};
//! use diskimage::format::cloop::{HEADROOM, MAGIC, TABLE};
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! // one block of 512 bytes
//! let mut stream = Vec::new();
//! Deflate::new(6, Wrapper::Zlib)?.encode(&[7; 512], 512, &mut stream)?;
//! let mut image = MAGIC.to_vec();
//! image.resize(HEADROOM as usize, 0);
//! image.extend([512u32, 1].map(u32::to_be_bytes).concat()); // block_size, num_blocks
//! let start = TABLE + 2 * 8; // where the block starts, and where it ends
//! image.extend([start, start + stream.len() as u64].map(u64::to_be_bytes).concat());
//! image.extend(stream);
//!
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("live.cloop"))?;
//! let mut sector = [0; 512];
//! disk.read_exact_at(&mut sector, 0)?;
//! assert_eq!(sector, [7; 512]);
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::ops::Range;
use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use crate::bytes::BeCursor;
use crate::check::Checking;
use crate::codec::Wrapper;
use crate::error::{Error, Result};
use crate::format::fault::{Fault, check_limit, field, nothing_to_check};
use crate::format::units::{Units, inflate};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind};
use crate::num::to_usize;
use crate::storage::{Storage, TableCache, check_inside, read_vec};

/// What a file begins with: a shell script that names the version.
pub const MAGIC: &[u8] = b"#!/bin/sh\n#V2.0 Format\n";
/// Where the numbers start: behind the script.
pub const HEADROOM: u64 = 128;
/// Where the table of offsets starts.
pub const TABLE: u64 = 136;
/// The largest block that is read: each thread holds one. cloop's own program warns from 256 KiB on.
pub const MAX_BLOCK_SIZE: u32 = 4 << 20;

/// The header.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::cloop::{HEADROOM, Header, MAGIC, MAX_BLOCK_SIZE};
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = MAGIC.to_vec();
/// bytes.resize(HEADROOM as usize, 0);
/// bytes.extend([65_536u32, 3].map(u32::to_be_bytes).concat());
/// bytes.extend([0; 4 * 8]); // the table: an offset for each block, and the end
/// let header = Header::read(&MemoryStorage::new(bytes.clone()), &LayerOptions::default())?;
/// assert_eq!((header.block_size, header.num_blocks), (65_536, 3));
///
/// bytes[128..132].copy_from_slice(&(2 * MAX_BLOCK_SIZE).to_be_bytes());
/// let error = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default()).unwrap_err();
/// assert_eq!((error.kind(), error.offset()), (diskimage::ErrorKind::Unsupported, Some(HEADROOM)));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// `block_size`, bytes.
    pub block_size: u32,
    /// `num_blocks`.
    pub num_blocks: u32,
}

impl Header {
    /// Reads and validates it.
    ///
    /// ```
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::cloop::{HEADROOM, Header, MAGIC, TABLE};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let mut bytes = MAGIC.to_vec();
    /// bytes.resize(HEADROOM as usize, 0);
    /// bytes.extend([65_536u32, 1 << 20].map(u32::to_be_bytes).concat()); // and no table behind
    /// let error = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default()).unwrap_err();
    /// assert!(error.is_cut_off());
    /// assert_eq!(error.offset(), Some(TABLE));
    /// ```
    pub fn read(storage: &dyn Storage, options: &LayerOptions) -> Result<Self> {
        let bytes = read_vec(storage, "the header", 0, to_usize(TABLE))?;
        if !bytes.starts_with(MAGIC) {
            return Err(Error::new(Fault::NotThis("cloop version 2")).at(0));
        }
        let numbers = bytes.get(to_usize(HEADROOM)..).unwrap_or_default();
        let mut cursor = BeCursor::new(numbers, HEADROOM);
        let block_size = cursor.u32("the header field block_size")?;
        let num_blocks = cursor.u32("the header field num_blocks")?;
        if block_size == 0 || !block_size.is_multiple_of(512) {
            let rule = "a multiple of 512 above 0";
            return field("block_size", block_size, rule, HEADROOM);
        }
        if block_size > MAX_BLOCK_SIZE {
            let text =
                format!("has blocks of {block_size} bytes (block_size); up to 4 MiB are read");
            return Err(Error::new(Fault::Unsupported(text)).at(HEADROOM));
        }
        let header = Self { block_size, num_blocks };
        let table = header.table();
        let length = table.end.saturating_sub(table.start);
        check_limit("table of offsets", length, options.limits.max_table_size)
            .and_then(|()| check_inside(storage, "the table of offsets", table.start, length))
            .map_err(|error| error.at(HEADROOM))?;
        Ok(header)
    }

    /// The table: where each block starts, and where the last one ends.
    fn table(&self) -> Range<u64> {
        TABLE..TABLE.saturating_add(u64::from(self.num_blocks).saturating_add(1).saturating_mul(8))
    }

    fn size(&self) -> u64 {
        u64::from(self.block_size).saturating_mul(self.num_blocks.into())
    }

    /// The longest stream that a block is read from: what does not shrink grows by a little.
    fn longest(&self) -> u64 {
        let size = u64::from(self.block_size);
        size.saturating_add(size >> 3).saturating_add(4096)
    }
}

/// A compressed loop image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::cloop::CloopLayer;
/// use diskimage::layer::MappingKind;
/// use diskimage::storage::MemoryStorage;
///
/// # use diskimage::codec::{Deflate, Wrapper};
/// # let mut stream = Vec::new();
/// # Deflate::new(6, Wrapper::Zlib)?.encode(&[7; 512], 512, &mut stream)?;
/// # let mut image = b"#!/bin/sh\n#V2.0 Format\n".to_vec();
/// # image.resize(128, 0);
/// # image.extend([512u32, 1].map(u32::to_be_bytes).concat());
/// # image.extend([152, 152 + stream.len() as u64].map(u64::to_be_bytes).concat());
/// # image.extend(stream);
/// let layer = CloopLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// assert_eq!(layer.header().num_blocks, 1);
/// // a block is decoded as a whole, whatever part of it is wanted
/// assert_eq!(layer.map(100, 10)?.kind, MappingKind::Encoded);
/// let mut bytes = [0; 10];
/// layer.read_encoded(&mut bytes, 100)?;
/// assert_eq!(bytes, [7; 10]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct CloopLayer {
    storage: Arc<dyn Storage>,
    header: Header,
    cache: TableCache,
    units: Units,
}

impl CloopLayer {
    /// Opens `storage` as a compressed loop image.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::cloop::CloopLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = b"#!/bin/sh\n#V2.0 Format\n".to_vec();
    /// # image.resize(128, 0);
    /// # image.extend([65_536u32, 1000].map(u32::to_be_bytes).concat());
    /// # image.resize(1 << 20, 0);
    /// // a thousand blocks, and a caller who does not want to read a table of 8 KiB
    /// let mut options = LayerOptions::default();
    /// options.limits.max_table_size = 4096;
    /// let error = CloopLayer::open(Arc::new(MemoryStorage::new(image)), &options).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage, options)?;
        let cache = TableCache::new(Arc::clone(&storage), options.limits.table_cache);
        let units = Units::new(header.block_size.into());
        Ok(Self { storage, header, cache, units })
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::cloop::CloopLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = b"#!/bin/sh\n#V2.0 Format\n".to_vec();
    /// # image.resize(128, 0);
    /// # image.extend([65_536u32, 2].map(u32::to_be_bytes).concat());
    /// # image.extend([0; 24]);
    /// // `image` was made by hand
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let layer = CloopLayer::open(storage, &LayerOptions::default())?;
    /// let header = layer.header();
    /// assert_eq!(layer.size(), u64::from(header.block_size) * u64::from(header.num_blocks));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes of the disk that a block holds.
    fn guest(&self, block: u64) -> Range<u64> {
        let size = u64::from(self.header.block_size);
        let start = block.saturating_mul(size);
        start..start.saturating_add(size)
    }

    /// Where the block of this number starts, or ends the one before it.
    fn offset(&self, block: u64) -> Result<u64> {
        let (table, position) = (self.header.table(), block.saturating_mul(8));
        let length = table.end.saturating_sub(table.start);
        let page = self.cache.page("the table of offsets", table.start, length, position)?;
        let from = to_usize(position.saturating_sub(page.start));
        let entry = page.bytes.get(from..).and_then(|rest| rest.first_chunk::<8>());
        Ok(BigEndian::read_u64(entry.unwrap_or(&[0; 8])))
    }

    /// The bytes of the file that a block is stored in.
    fn block(&self, block: u64) -> Result<Range<u64>> {
        let found = || {
            let (start, end) = (self.offset(block)?, self.offset(block.saturating_add(1))?);
            let bad = |value, rule| {
                let what = "an offset of a block";
                Err(Fault::Entry { what, value, rule }.into())
            };
            if start < self.header.table().end {
                return bad(start, "behind the table of offsets");
            }
            if end <= start {
                return bad(end, "above the one before it");
            }
            let length = end.saturating_sub(start);
            if length > self.header.longest() {
                return bad(end, "not much more than a block above the one before it");
            }
            check_inside(&self.storage, "a block", start, length)?;
            Ok(start..end)
        };
        let at = TABLE.saturating_add(block.saturating_mul(8));
        found().map_err(|error: Error| error.at(at).affecting(self.guest(block)))
    }

    fn decode(&self, block: u64, unit: &mut [u8]) -> Result<()> {
        inflate(&self.storage, self.block(block)?, Wrapper::Zlib, unit, self.guest(block))
    }
}

impl Layer for CloopLayer {
    fn format(&self) -> Format {
        Format::Cloop
    }

    fn size(&self) -> u64 {
        self.header.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(u64::from(self.header.block_size)).filter(|size| size.is_power_of_two())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.size().saturating_sub(offset));
        let mut block = offset.checked_div(self.header.block_size.into()).unwrap_or_default();
        self.block(block)?;
        // what follows, as far as its place is not wrong: that is found out when it is its turn
        let mut length = self.guest(block).end.saturating_sub(offset);
        while length < max && block & 0xfff != 0xfff {
            block = block.saturating_add(1);
            if self.block(block).is_err() {
                break;
            }
            length = length.saturating_add(self.header.block_size.into());
        }
        Ok(Mapping { length: length.min(max), kind: MappingKind::Encoded })
    }

    fn read_encoded(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.units.read(buf, offset, |block, unit| self.decode(block, unit))
    }

    fn describe(&self) -> Result<Description> {
        let details = vec![
            ("block-size", self.header.block_size.into()),
            ("blocks", self.header.num_blocks.into()),
        ];
        Ok(Description { details, ..Description::default() })
    }

    fn check(&self, _checking: &Checking) -> Result<()> {
        Err(nothing_to_check(Format::Cloop))
    }
}
