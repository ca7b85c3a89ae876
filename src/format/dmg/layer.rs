//! A DMG as a layer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::check::Checking;
use crate::codec::{self, CodecError, Wrapper};
use crate::error::{Error, Result};
use crate::format::fault::Fault;
use crate::format::units::decode;
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Source};
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, check_inside};

use super::blocks::{Blocks, Chunk, Kind};
use super::check::check;
use super::describe::describe;
use super::header::Header;
use super::layout::MAX_CHUNK;

/// A DMG as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::dmg::DmgLayer;
/// use diskimage::layer::MappingKind;
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
/// let layer = DmgLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// assert_eq!(layer.header().sector_count, 16);
/// assert_eq!(layer.blocks().tables[0].name, "whole disk");
/// assert_eq!(layer.map(0, u64::MAX)?.kind, MappingKind::Encoded);
/// let mut bytes = [0; 3];
/// layer.read_encoded(&mut bytes, 512)?;
/// assert_eq!(bytes, [7; 3]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct DmgLayer {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) header: Header,
    pub(super) blocks: Blocks,
    decoded: Decoded,
}

/// Chunks that were decoded for a part of them.
#[derive(Debug)]
struct Decoded {
    /// The last ones used are at the end.
    chunks: Mutex<Vec<(usize, Arc<[u8]>)>>,
    most: u64,
}

impl Decoded {
    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Arc<[u8]>)>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, index: usize) -> Option<Arc<[u8]>> {
        let mut chunks = self.lock();
        let place = chunks.iter().position(|(held, _)| *held == index)?;
        let found = chunks.remove(place);
        let bytes = Arc::clone(&found.1);
        chunks.push(found);
        Some(bytes)
    }

    /// Keeps a chunk, in place of older ones that there is no room for.
    fn keep(&self, index: usize, bytes: Arc<[u8]>) {
        let mut chunks = self.lock();
        chunks.retain(|(held, _)| *held != index);
        chunks.push((index, bytes));
        let held = |chunks: &[(usize, Arc<[u8]>)]| {
            chunks.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(to_u64(bytes.len())))
        };
        while chunks.len() > 1 && held(&chunks) > self.most {
            chunks.remove(0);
        }
    }
}

impl DmgLayer {
    /// Opens `storage` as a DMG.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::dmg::DmgLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let mut image = b"encrcdsa".to_vec(); // what an encrypted one begins with
    /// image.resize(4096, 0);
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let error = DmgLayer::open(storage, &LayerOptions::default()).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Unsupported);
    /// println!("{error}");
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage)?;
        let blocks = Blocks::read(&storage, &header, options)?;
        let decoded = Decoded { chunks: Mutex::default(), most: options.limits.table_cache };
        Ok(Self { storage, header, blocks, decoded })
    }

    /// The trailer.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The tables of chunks.
    #[must_use]
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Whether a chunk can be where it is said to be.
    pub(super) fn check_chunk(&self, chunk: &Chunk) -> Result<()> {
        if chunk.kind.is_zero() {
            return Ok(());
        }
        let (guest, fork) = (chunk.guest(), &self.header.data_fork);
        let size = guest.end.saturating_sub(guest.start);
        let bad = |value, rule| {
            let entry = Fault::Entry { what: "the length of a chunk", value, rule };
            Error::new(entry).at(chunk.offset).affecting(guest.clone())
        };
        if let Some(text) = chunk.kind.unsupported() {
            return Err(Error::new(Fault::Unsupported(text)).at(chunk.offset).affecting(guest));
        }
        if chunk.kind.is_encoded() {
            if size > MAX_CHUNK {
                let text = format!("has chunks of {size} bytes; up to 8 MiB are read");
                let error = Error::new(Fault::Unsupported(text));
                return Err(error.at(chunk.offset).affecting(guest));
            }
            // what does not shrink grows by a little
            if chunk.length > size.saturating_add(size >> 3).saturating_add(64 << 10) {
                return Err(bad(chunk.length, "not much more than what it holds"));
            }
        } else if chunk.length < size {
            return Err(bad(chunk.length, "at least that of its sectors"));
        }
        let end = chunk.offset.checked_add(chunk.length);
        // some writers leave the length of the data fork out
        if !fork.is_empty() && end.is_none_or(|end| end > fork.end || chunk.offset < fork.start) {
            let entry = Fault::Entry {
                what: "the end of a chunk",
                value: end.unwrap_or(u64::MAX),
                rule: "in the data fork",
            };
            return Err(Error::new(entry).at(chunk.offset).affecting(guest));
        }
        check_inside(&self.storage, "a chunk", chunk.offset, chunk.length)
            .map_err(|error| error.affecting(guest))
    }

    /// Decodes a chunk into a buffer of its size.
    pub(super) fn decode(&self, chunk: &Chunk, unit: &mut [u8]) -> Result<()> {
        self.check_chunk(chunk)?;
        let bytes = chunk.offset..chunk.offset.saturating_add(chunk.length);
        let codec = |input: &[u8], output: &mut [u8]| -> std::result::Result<(), CodecError> {
            match chunk.kind {
                Kind::Adc => codec::adc_exact(input, output),
                Kind::Lzfse => codec::lzfse_exact(input, output),
                #[cfg(feature = "bzip2")]
                Kind::Bzip2 => codec::bzip2_exact(input, output),
                #[cfg(feature = "xz")]
                Kind::Lzma => codec::xz_exact(input, output),
                _ => codec::inflate_exact(input, output, Wrapper::Zlib),
            }
        };
        decode(&self.storage, bytes, unit, chunk.guest(), codec)
    }

    /// What a chunk is, from its byte `within` on.
    fn kind(&self, chunk: &Chunk, within: u64) -> Result<MappingKind> {
        self.check_chunk(chunk)?;
        Ok(match chunk.kind {
            Kind::Zero => MappingKind::Zero { allocated: true, stored: None },
            Kind::Ignore => MappingKind::Zero { allocated: false, stored: None },
            Kind::Raw => MappingKind::Stored {
                source: Source::Own,
                offset: chunk.offset.saturating_add(within),
            },
            _ => MappingKind::Encoded,
        })
    }

    /// The error for a part of the disk that no chunk holds.
    #[cold]
    fn gap(&self, offset: u64, length: u64) -> Error {
        let text = "no chunk holds this part of the disk".to_owned();
        let guest = offset..offset.saturating_add(length);
        Error::new(Fault::Corrupt(text)).at(self.header.offset).affecting(guest)
    }
}

impl Layer for DmgLayer {
    fn format(&self) -> Format {
        Format::Dmg
    }

    fn size(&self) -> u64 {
        self.header.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        None
    }

    fn check_readable(&self) -> Result<()> {
        let unsupported = |chunk: &Chunk| chunk.kind.unsupported().map(|text| (text, chunk.offset));
        match self.blocks.chunks.iter().find_map(unsupported) {
            Some((text, at)) => Err(Error::new(Fault::Unsupported(text)).at(at)),
            None => Ok(()),
        }
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let rest = self.size().saturating_sub(offset);
        let mut index =
            self.blocks.find(offset).map_err(|gap| self.gap(offset, gap.unwrap_or(rest)))?;
        let chunks = &self.blocks.chunks;
        let Some(first) = chunks.get(index) else { return Err(self.gap(offset, rest)) };
        let within = offset.saturating_sub(first.guest().start);
        let kind = self.kind(first, within)?;
        let mut end = first.guest().end;
        // what follows, as far as it is of the same kind: what is wrong with it shows when it is
        // its turn
        while end.saturating_sub(offset) < max {
            index = index.saturating_add(1);
            let next = chunks.get(index).filter(|next| next.guest().start == end);
            let Some(next) = next else { break };
            let Ok(next_kind) = self.kind(next, 0) else { break };
            if !kind.continues_with(end.saturating_sub(offset), &next_kind) {
                break;
            }
            end = next.guest().end;
        }
        Ok(Mapping { length: end.saturating_sub(offset).min(max), kind })
    }

    fn read_encoded(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let index = self.blocks.find(at).ok();
            let Some((index, chunk)) = index.and_then(|i| Some((i, self.blocks.chunks.get(i)?)))
            else {
                return Err(self.gap(at, to_u64(rest.len())));
            };
            let guest = chunk.guest();
            let within = to_usize(at.saturating_sub(guest.start));
            let length = to_usize(guest.end.saturating_sub(at)).min(rest.len());
            let (part, behind) = rest.split_at_mut(length);
            if to_u64(length) == guest.end.saturating_sub(guest.start) {
                self.decode(chunk, part)?;
            } else {
                let bytes = match self.decoded.get(index) {
                    Some(bytes) => bytes,
                    None => {
                        self.check_chunk(chunk)?;
                        let size = to_usize(guest.end.saturating_sub(guest.start));
                        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, size).collect();
                        if let Some(bytes) = Arc::get_mut(&mut bytes) {
                            self.decode(chunk, bytes)?;
                        }
                        self.decoded.keep(index, Arc::clone(&bytes));
                        bytes
                    }
                };
                let bytes = bytes.get(within..).and_then(|bytes| bytes.get(..length));
                if let Some(bytes) = bytes {
                    part.copy_from_slice(bytes);
                }
            }
            at = at.saturating_add(to_u64(length));
            rest = behind;
        }
        Ok(())
    }

    fn describe(&self) -> Result<Description> {
        Ok(describe(self))
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        check(self, checking)
    }
}
