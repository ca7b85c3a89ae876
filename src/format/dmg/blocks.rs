//! The tables of chunks: which bytes of the file are which sectors of the disk.

use std::ops::Range;

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::format::LayerOptions;
use crate::format::fault::{Fault, check_limit};
use crate::num::{Pow2, to_u64};
use crate::storage::Storage;

use super::header::{Checksum, Header};
use super::layout::{
    ADC, BZIP2, COMMENT, IGNORE, LZFSE, LZMA, MISH, MISH_SIZE, MISH_VERSION, RAW, RUN_SIZE,
    TERMINATOR, ZERO, ZLIB,
};
use super::resources::{Resource, of_fork, of_plist};

/// How a chunk is stored.
///
/// ```
/// use diskimage::format::dmg::Kind;
///
/// let why = |kind: Kind| kind.unsupported();
/// for kind in [Kind::Raw, Kind::Zlib, Kind::Ignore, Kind::Unknown(0x8000_0009)] {
///     match kind.codec() {
///         Some(codec) => println!("compressed by {codec}"),
///         None if kind.is_zero() => println!("zeros"),
///         None if kind.is_encoded() => println!("{}", why(kind).unwrap_or_default()),
///         None => println!("as it is"),
///     }
/// }
/// assert_eq!(Kind::Zlib.codec(), Some("zlib"));
/// assert_eq!(why(Kind::Zlib), None);
/// assert!(why(Kind::Unknown(0x8000_0009)).is_some());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Zeros.
    Zero,
    /// Nothing that matters: zeros.
    Ignore,
    /// As it is.
    Raw,
    /// Compressed by ADC.
    Adc,
    /// By zlib.
    Zlib,
    /// By bzip2.
    Bzip2,
    /// By LZFSE.
    Lzfse,
    /// By LZMA, in an xz stream.
    Lzma,
    /// In a way that is not known, by the number of its type.
    Unknown(u32),
}

impl Kind {
    fn of(entry_type: u32) -> Self {
        match entry_type {
            ZERO => Self::Zero,
            RAW => Self::Raw,
            IGNORE => Self::Ignore,
            ADC => Self::Adc,
            ZLIB => Self::Zlib,
            BZIP2 => Self::Bzip2,
            LZFSE => Self::Lzfse,
            LZMA => Self::Lzma,
            other => Self::Unknown(other),
        }
    }

    /// Whether it reads as zeros.
    ///
    /// ```
    /// use diskimage::format::dmg::Kind;
    ///
    /// assert!(Kind::Zero.is_zero() && Kind::Ignore.is_zero());
    /// assert!(!Kind::Raw.is_zero());
    /// ```
    #[must_use]
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Zero | Self::Ignore)
    }

    /// Whether its bytes have to be decoded.
    ///
    /// ```
    /// use diskimage::format::dmg::Kind;
    ///
    /// assert!(Kind::Lzfse.is_encoded() && Kind::Unknown(9).is_encoded());
    /// assert!(!Kind::Raw.is_encoded() && !Kind::Ignore.is_encoded());
    /// ```
    #[must_use]
    pub fn is_encoded(self) -> bool {
        !self.is_zero() && self != Self::Raw
    }

    /// The codec, for people.
    ///
    /// ```
    /// use diskimage::format::dmg::Kind;
    ///
    /// assert_eq!(Kind::Adc.codec(), Some("adc"));
    /// assert_eq!((Kind::Raw.codec(), Kind::Unknown(9).codec()), (None, None));
    /// ```
    #[must_use]
    pub fn codec(self) -> Option<&'static str> {
        Some(match self {
            Self::Adc => "adc",
            Self::Zlib => "zlib",
            Self::Bzip2 => "bzip2",
            Self::Lzfse => "lzfse",
            Self::Lzma => "lzma",
            _ => return None,
        })
    }

    /// Why it cannot be decoded, if so.
    ///
    /// ```
    /// use diskimage::format::dmg::Kind;
    ///
    /// assert_eq!(Kind::Zlib.unsupported(), None);
    /// // two codecs are features of this crate
    /// assert_eq!(Kind::Lzma.unsupported().is_none(), cfg!(feature = "xz"));
    /// let why = Kind::Unknown(0x8000_0009).unsupported().unwrap_or_default();
    /// assert!(why.contains("0x80000009"));
    /// ```
    #[must_use]
    pub fn unsupported(self) -> Option<String> {
        match self {
            Self::Unknown(number) => {
                Some(format!("holds chunks of the type {number:#x}, which is not known"))
            }
            Self::Bzip2 if !cfg!(feature = "bzip2") => {
                Some("holds chunks compressed by bzip2; this build leaves that out".to_owned())
            }
            Self::Lzma if !cfg!(feature = "xz") => {
                Some("holds chunks compressed by LZMA; this build leaves that out".to_owned())
            }
            _ => None,
        }
    }
}

/// A run of sectors, `BLKXRun`.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::dmg::{DmgLayer, Kind};
/// use diskimage::storage::MemoryStorage;
///
/// # // a table of two chunks, one by zlib and one of zeros, in a property list, and the trailer
/// # let mut stream = Vec::new();
/// # let zlib = diskimage::codec::Deflate::new(6, diskimage::codec::Wrapper::Zlib)?;
/// # zlib.encode(&[7; 4096], 4096, &mut stream)?;
/// # let length = stream.len() as u64;
/// # let mut table = b"mish\0\0\0\x01".to_vec();
/// # table.extend([0u64, 16, 0].map(u64::to_be_bytes).concat());
/// # table.resize(200, 0);
/// # table.extend(3u32.to_be_bytes());
/// # let [first, second, end] = [[0, 8, 0, length], [8, 8, 0, 0], [16, 0, 0, 0]];
/// # for (kind, run) in [(0x8000_0005u32, first), (0, second), (!0, end)] {
/// #     table.extend([kind, 0].map(u32::to_be_bytes).concat());
/// #     table.extend(run.map(u64::to_be_bytes).concat());
/// # }
/// # let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// # let six = |c: &[u8]| {
/// #     [c[0] >> 2, (c[0] & 3) << 4 | c[1] >> 4, (c[1] & 15) << 2 | c[2] >> 6, c[2] & 63]
/// # };
/// # let base64 = table.chunks(3).flat_map(six).map(|n| char::from(digits[usize::from(n)]));
/// # let base64: String = base64.collect();
/// # let plist = format!(
/// #     "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>\
/// #      <key>Name</key><string>whole disk</string><key>Data</key><data>{base64}</data>\
/// #      </dict></array></dict></dict></plist>"
/// # );
/// # let mut trailer = vec![0; 512];
/// # let mut put = |at: usize, field: &[u8]| trailer[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"koly\0\0\0\x04\0\0\x02\0\0\0\0\x01");
/// # put(24, &[0, length].map(u64::to_be_bytes).concat());
/// # put(216, &[length, plist.len() as u64].map(u64::to_be_bytes).concat());
/// # put(488, b"\0\0\0\x01");
/// # put(492, &16u64.to_be_bytes());
/// # let image = [stream, plist.into_bytes(), trailer].concat();
/// // `image` has 8 sectors by zlib, and 8 of zeros
/// let layer = DmgLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// let [first, second] = &layer.blocks().chunks[..] else { panic!("two chunks") };
/// assert_eq!((first.kind, first.guest()), (Kind::Zlib, 0..4096));
/// assert!(first.length < 4096); // in the file
/// assert_eq!((second.kind, second.guest()), (Kind::Zero, 4096..8192));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chunk {
    /// The first sector of the disk.
    pub start: u64,
    /// How many sectors.
    pub sectors: u64,
    /// How they are stored.
    pub kind: Kind,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// And how many of them.
    pub length: u64,
}

impl Chunk {
    /// The bytes of the disk that it holds.
    #[must_use]
    pub fn guest(&self) -> Range<u64> {
        let start = Pow2::SECTOR.offset_of(self.start).unwrap_or(u64::MAX);
        start..start.saturating_add(Pow2::SECTOR.offset_of(self.sectors).unwrap_or(u64::MAX))
    }
}

/// A table of chunks, `BLKXTable`: of a partition as a rule.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::dmg::{Checksum, DmgLayer};
/// use diskimage::storage::MemoryStorage;
///
/// # // a table of two chunks, one by zlib and one of zeros, in a property list, and the trailer
/// # let mut stream = Vec::new();
/// # let zlib = diskimage::codec::Deflate::new(6, diskimage::codec::Wrapper::Zlib)?;
/// # zlib.encode(&[7; 4096], 4096, &mut stream)?;
/// # let length = stream.len() as u64;
/// # let mut table = b"mish\0\0\0\x01".to_vec();
/// # table.extend([0u64, 16, 0].map(u64::to_be_bytes).concat());
/// # table.resize(200, 0);
/// # table.extend(3u32.to_be_bytes());
/// # let [first, second, end] = [[0, 8, 0, length], [8, 8, 0, 0], [16, 0, 0, 0]];
/// # for (kind, run) in [(0x8000_0005u32, first), (0, second), (!0, end)] {
/// #     table.extend([kind, 0].map(u32::to_be_bytes).concat());
/// #     table.extend(run.map(u64::to_be_bytes).concat());
/// # }
/// # let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// # let six = |c: &[u8]| {
/// #     [c[0] >> 2, (c[0] & 3) << 4 | c[1] >> 4, (c[1] & 15) << 2 | c[2] >> 6, c[2] & 63]
/// # };
/// # let base64 = table.chunks(3).flat_map(six).map(|n| char::from(digits[usize::from(n)]));
/// # let base64: String = base64.collect();
/// # let plist = format!(
/// #     "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>\
/// #      <key>Name</key><string>whole disk</string><key>Data</key><data>{base64}</data>\
/// #      </dict></array></dict></dict></plist>"
/// # );
/// # let mut trailer = vec![0; 512];
/// # let mut put = |at: usize, field: &[u8]| trailer[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"koly\0\0\0\x04\0\0\x02\0\0\0\0\x01");
/// # put(24, &[0, length].map(u64::to_be_bytes).concat());
/// # put(216, &[length, plist.len() as u64].map(u64::to_be_bytes).concat());
/// # put(488, b"\0\0\0\x01");
/// # put(492, &16u64.to_be_bytes());
/// # let image = [stream, plist.into_bytes(), trailer].concat();
/// // `image` has 8 sectors by zlib, and 8 of zeros
/// let layer = DmgLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// for table in &layer.blocks().tables {
///     let chunks = &layer.blocks().chunks[table.chunks.clone()];
///     println!("{}: {} sectors in {} chunks", table.name, table.sectors, chunks.len());
/// }
/// let first = &layer.blocks().tables[0];
/// assert_eq!((&*first.name, first.start, first.sectors), ("whole disk", 0, 16));
/// assert_eq!(first.checksum, Checksum::None);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its first sector.
    pub start: u64,
    /// How many it has.
    pub sectors: u64,
    /// The checksum of its sectors, but for those that are ignored.
    pub checksum: Checksum,
    /// Which of all chunks are its own.
    pub chunks: Range<usize>,
    /// Where it lies, as far as that can be told.
    pub offset: u64,
}

/// All tables.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::dmg::{Blocks, Header};
/// use diskimage::storage::MemoryStorage;
///
/// # // a table of two chunks, one by zlib and one of zeros, in a property list, and the trailer
/// # let mut stream = Vec::new();
/// # let zlib = diskimage::codec::Deflate::new(6, diskimage::codec::Wrapper::Zlib)?;
/// # zlib.encode(&[7; 4096], 4096, &mut stream)?;
/// # let length = stream.len() as u64;
/// # let mut table = b"mish\0\0\0\x01".to_vec();
/// # table.extend([0u64, 16, 0].map(u64::to_be_bytes).concat());
/// # table.resize(200, 0);
/// # table.extend(3u32.to_be_bytes());
/// # let [first, second, end] = [[0, 8, 0, length], [8, 8, 0, 0], [16, 0, 0, 0]];
/// # for (kind, run) in [(0x8000_0005u32, first), (0, second), (!0, end)] {
/// #     table.extend([kind, 0].map(u32::to_be_bytes).concat());
/// #     table.extend(run.map(u64::to_be_bytes).concat());
/// # }
/// # let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// # let six = |c: &[u8]| {
/// #     [c[0] >> 2, (c[0] & 3) << 4 | c[1] >> 4, (c[1] & 15) << 2 | c[2] >> 6, c[2] & 63]
/// # };
/// # let base64 = table.chunks(3).flat_map(six).map(|n| char::from(digits[usize::from(n)]));
/// # let base64: String = base64.collect();
/// # let plist = format!(
/// #     "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>\
/// #      <key>Name</key><string>whole disk</string><key>Data</key><data>{base64}</data>\
/// #      </dict></array></dict></dict></plist>"
/// # );
/// # let mut trailer = vec![0; 512];
/// # let mut put = |at: usize, field: &[u8]| trailer[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"koly\0\0\0\x04\0\0\x02\0\0\0\0\x01");
/// # put(24, &[0, length].map(u64::to_be_bytes).concat());
/// # put(216, &[length, plist.len() as u64].map(u64::to_be_bytes).concat());
/// # put(488, b"\0\0\0\x01");
/// # put(492, &16u64.to_be_bytes());
/// # let image = [stream, plist.into_bytes(), trailer].concat();
/// // `image` has 8 sectors by zlib, and 8 of zeros
/// let storage = MemoryStorage::new(image);
/// let header = Header::read(&storage)?;
/// let blocks = Blocks::read(&storage, &header, &LayerOptions::default())?;
/// assert_eq!((blocks.tables.len(), blocks.chunks.len()), (1, 2));
/// let stored: u64 = blocks.chunks.iter().map(|chunk| chunk.length).sum();
/// assert_eq!(stored, header.data_fork.end);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocks {
    /// In the order in which the image has them, which the master checksum goes by.
    pub tables: Vec<Table>,
    /// In the order of the disk. They do not overlap, and each has a sector at least.
    pub chunks: Vec<Chunk>,
}

#[cold]
fn corrupt<T>(text: String, at: u64) -> Result<T> {
    Err(Error::new(Fault::Corrupt(text)).at(at))
}

impl Blocks {
    /// Reads and validates them: from the property list or the resource fork, which must say the
    /// same where there are both.
    pub fn read(storage: &dyn Storage, header: &Header, options: &LayerOptions) -> Result<Self> {
        let limits = &options.limits;
        let plist = (!header.plist.is_empty()).then(|| {
            let mut blocks = Self::default();
            of_plist(storage, &header.plist, limits, |r| blocks.add(r, header, options))
                .map(|()| blocks)
        });
        let fork = (!header.resources.is_empty()).then(|| {
            let mut blocks = Self::default();
            of_fork(storage, &header.resources, limits, |r| blocks.add(r, header, options))
                .map(|()| blocks)
        });
        let mut blocks = match (plist.transpose()?, fork.transpose()?) {
            (Some(plist), Some(fork)) if plist.chunks != fork.chunks && !options.trust_broken => {
                let text = "the property list and the resource fork have different chunks";
                return corrupt(text.to_owned(), header.offset);
            }
            (Some(found), _) | (None, Some(found)) => found,
            (None, None) => {
                let text = "has neither a property list nor a resource fork";
                return corrupt(text.to_owned(), header.offset);
            }
        };
        blocks.put_in_order()?;
        Ok(blocks)
    }

    /// Adds what a resource holds.
    fn add(&mut self, resource: Resource, header: &Header, options: &LayerOptions) -> Result<()> {
        let Resource { name, offset: at, data } = resource;
        let mut cursor = BeCursor::new(&data, at);
        let told = |error: Error| error.at(at);
        if cursor.bytes(4, "a table of chunks").map_err(told)? != MISH {
            return corrupt("a table of chunks has no signature".to_owned(), at);
        }
        let version = cursor.u32("a table's version").map_err(told)?;
        if version != MISH_VERSION {
            let text = format!("has a table of chunks of version {version}; version 1 is read");
            return Err(Error::new(Fault::Unsupported(text)).at(at));
        }
        let start = cursor.u64("a table's first sector").map_err(told)?;
        let sectors = cursor.u64("a table's number of sectors").map_err(told)?;
        let data_offset = cursor.u64("a table's DataOffset").map_err(told)?;
        cursor.bytes(32, "a table of chunks").map_err(told)?;
        let checksum = Checksum::read(&mut cursor).map_err(told)?;
        let count = cursor.u32("a table's number of chunks").map_err(told)?;
        let end = start.checked_add(sectors).filter(|&end| end <= header.sector_count);
        let Some(end) = end else {
            let text = format!(
                "a table has {sectors} sectors from {start} on, the disk has {}",
                header.sector_count
            );
            return corrupt(text, at);
        };
        let runs = data.get(MISH_SIZE..).unwrap_or_default();
        let length = u64::from(count).saturating_mul(to_u64(RUN_SIZE));
        if length > to_u64(runs.len()) {
            let text = format!("a table of {count} chunks has only {} bytes", data.len());
            return corrupt(text, at);
        }
        let before = self.chunks.len();
        let base = header.data_fork.start.checked_add(data_offset);
        let (mut next, mut ended) = (start, false);
        for run in runs.chunks_exact(RUN_SIZE).take(crate::num::to_usize(count.into())) {
            let mut cursor = BeCursor::new(run, at);
            let entry_type = cursor.u32("a chunk's type")?;
            cursor.u32("a chunk's comment")?;
            let [first, length] = [cursor.u64("a chunk")?, cursor.u64("a chunk")?];
            let [offset, bytes] = [cursor.u64("a chunk")?, cursor.u64("a chunk")?];
            if entry_type == TERMINATOR {
                ended = true;
                break;
            }
            if entry_type == COMMENT || length == 0 {
                continue;
            }
            let first = start.checked_add(first).filter(|&first| first >= next);
            let behind = first.and_then(|first| first.checked_add(length));
            let Some((first, behind)) = first.zip(behind).filter(|(_, behind)| *behind <= end)
            else {
                let text = "a chunk overlaps the one before it, or leaves its table";
                return corrupt(text.to_owned(), at);
            };
            next = behind;
            let kind = Kind::of(entry_type);
            let place = match kind.is_zero() {
                true => Some((0, 0)),
                false => base.and_then(|base| base.checked_add(offset)).map(|at| (at, bytes)),
            };
            let Some((offset, length_in_file)) = place else {
                return corrupt("a chunk lies beyond 64 bits".to_owned(), at);
            };
            self.chunks.push(Chunk {
                start: first,
                sectors: length,
                kind,
                offset,
                length: length_in_file,
            });
        }
        if !ended && !options.trust_broken {
            return corrupt("a table of chunks has no terminator".to_owned(), at);
        }
        let held = to_u64(self.chunks.len()).saturating_mul(to_u64(size_of::<Chunk>()));
        check_limit("list of chunks", held, options.limits.max_directory_size)
            .map_err(|error| error.at(at))?;
        let chunks = before..self.chunks.len();
        self.tables.push(Table { name, start, sectors, checksum, chunks, offset: at });
        Ok(())
    }

    /// Puts the chunks in the order of the disk: tables may come in any.
    fn put_in_order(&mut self) -> Result<()> {
        let mut order: Vec<usize> = (0..self.tables.len()).collect();
        let start = |index: &usize| self.tables.get(*index).map_or(0, |table| table.start);
        if !order.is_sorted_by_key(start) {
            order.sort_by_key(start);
            let mut chunks = Vec::with_capacity(self.chunks.len());
            for &index in &order {
                let Some(table) = self.tables.get_mut(index) else { continue };
                let from = chunks.len();
                let own = self.chunks.get(table.chunks.clone()).unwrap_or_default();
                chunks.extend_from_slice(own);
                table.chunks = from..chunks.len();
            }
            self.chunks = chunks;
        }
        let mut end = 0;
        for table in order.iter().filter_map(|&index| self.tables.get(index)) {
            if table.sectors > 0 && table.start < end {
                let text = format!("two tables have the sector {}", table.start);
                return corrupt(text, table.offset);
            }
            end = end.max(table.start.saturating_add(table.sectors));
        }
        Ok(())
    }

    /// The number of the chunk that holds this byte of the disk; or else how many bytes from there
    /// on nothing is said of, and none of the disk if there is no end.
    pub(super) fn find(&self, offset: u64) -> std::result::Result<usize, Option<u64>> {
        let next = self.chunks.partition_point(|chunk| chunk.guest().end <= offset);
        match self.chunks.get(next).map(|chunk| chunk.guest().start) {
            Some(start) if start <= offset => Ok(next),
            Some(start) => Err(Some(start.saturating_sub(offset))),
            None => Err(None),
        }
    }

    /// The sectors that no chunk holds, and where the first of them are.
    pub(super) fn gaps(&self, header: &Header) -> Option<(u64, u64)> {
        let held = self.chunks.iter().fold(0u64, |sum, chunk| sum.saturating_add(chunk.sectors));
        let missing = header.sector_count.saturating_sub(held);
        let mut next = 0;
        for chunk in &self.chunks {
            if chunk.start > next {
                break;
            }
            next = chunk.start.saturating_add(chunk.sectors);
        }
        (missing > 0).then_some((missing, next))
    }
}
