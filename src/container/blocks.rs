//! Compressed files whose parts can be decoded on their own: xz files of several blocks, whose index
//! tells their sizes (The .xz File Format 1.1.0, sections 2 to 4), and Zstandard files of several
//! frames that tell theirs (RFC 8878, section 3.1.1).

use std::io::{BufRead, Cursor, Read};
use std::sync::Arc;

use super::decoder::{Codec, Decoder, StorageReader};
use super::error::Fault;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

/// More parts than this are not worth the memory for their places.
const MAX_PARTS: usize = 1 << 16;
/// What a decoder takes beside its window.
const OVERHEAD: u64 = 1 << 20;

/// A part of a compressed file, and of what it decodes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it lies in the file.
    at: u64,
    length: u64,
    /// Where its bytes lie in the decoded file.
    pub(super) start: u64,
    pub(super) size: u64,
    /// What decoding it takes in memory.
    pub(super) memory: u64,
    /// What makes a whole file of it: what comes before, and behind.
    around: Option<Box<([u8; 12], Vec<u8>)>>,
}

/// The parts, where there are at least two and all of them tell their sizes. What is wrong with the
/// file is for the decoder to say, which reads it from the start.
pub(super) fn parts(storage: &Arc<dyn Storage>, codec: Codec, limit: u64) -> Option<Vec<Part>> {
    let found = match codec {
        Codec::Xz => xz(storage, limit),
        Codec::Zstd => zstd(storage),
        Codec::Gzip | Codec::Bzip2 => return None,
    };
    let mut parts = found?;
    let mut start = 0u64;
    for part in &mut parts {
        part.start = start;
        start = start.checked_add(part.size)?;
    }
    (parts.len() > 1).then_some(parts)
}

impl Part {
    /// Decodes it in pieces: `write` gets where each lies in the decoded file.
    pub(super) fn decode(
        &self,
        storage: &Arc<dyn Storage>,
        format: Format,
        memory: u64,
        buf: &mut [u8],
        write: &dyn Fn(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let end = self.at.saturating_add(self.length);
        let reader = StorageReader::new(Arc::clone(storage), self.at, end);
        let reader: Box<dyn BufRead + Send> = match &self.around {
            None => Box::new(reader),
            Some(around) => {
                let (before, behind) = &**around;
                Box::new(Cursor::new(*before).chain(reader).chain(Cursor::new(behind.clone())))
            }
        };
        let mut decoder = Decoder::new(format, reader, memory)?;
        let (mut at, end) = (self.start, self.start.saturating_add(self.size));
        loop {
            let length = decoder.fill(buf).map_err(|error| error.at(self.at))?;
            if length == 0 {
                break;
            }
            let behind = at.saturating_add(to_u64(length));
            if behind > end {
                return Err(self.other_size());
            }
            write(at, buf.get(..length).unwrap_or_default())?;
            at = behind;
        }
        if at == end { Ok(()) } else { Err(self.other_size()) }
    }

    #[cold]
    fn other_size(&self) -> Error {
        let text = format!("a part of the file does not decode to {} bytes as it says", self.size);
        Error::new(Fault::Corrupt(text)).at(self.at)
    }
}

const HEADER: u64 = 12;
const MAGIC: &[u8] = b"\xfd7zXZ\0";

/// The blocks of all streams, by their indexes, which are read from the end of the file.
fn xz(storage: &Arc<dyn Storage>, limit: u64) -> Option<Vec<Part>> {
    let unit = Pow2::from_bits(2)?;
    let (mut end, mut all) = (storage.size(), Vec::new());
    while end > 0 {
        let footer = read_vec(storage, "", end.checked_sub(HEADER)?, to_usize(HEADER)).ok()?;
        if footer.ends_with(&[0; 4]) {
            // padding between streams
            end = end.checked_sub(4)?;
            continue;
        }
        let (crc, rest) = footer.split_at_checked(4)?;
        let sized = rest.get(..6)?;
        if rest.get(6..)? != b"YZ" || crc != crc32fast::hash(sized).to_le_bytes() {
            return None;
        }
        let backward = u32::from_le_bytes(*sized.first_chunk()?);
        let flags = sized.get(4..)?;
        let length = u64::from(backward).checked_add(1)?.checked_mul(4)?;
        let index_at = end.checked_sub(HEADER)?.checked_sub(length)?;
        if length > limit {
            return None;
        }
        let index = read_vec(storage, "", index_at, to_usize(length)).ok()?;
        let records = records(&index)?;
        let padded = |sum: u64, &(unpadded, _): &(u64, u64)| sum.checked_add(unit.ceil(unpadded));
        let blocks = records.iter().try_fold(0u64, padded)?;
        let first = index_at.checked_sub(blocks)?;
        let start = first.checked_sub(HEADER)?;
        let header: [u8; 12] = *read_vec(storage, "", start, 12).ok()?.first_chunk()?;
        let is_header = header.starts_with(MAGIC)
            && header.get(6..8)? == flags
            && header.get(8..)? == crc32fast::hash(flags).to_le_bytes();
        if !is_header || all.len().checked_add(records.len())? > MAX_PARTS {
            return None;
        }
        // streams come last first, and so do their blocks here
        let mut at = index_at;
        for &(unpadded, size) in records.iter().rev() {
            at = at.checked_sub(unit.ceil(unpadded))?;
            let memory = dictionary(storage, at)?.checked_add(OVERHEAD)?;
            let around = Some(Box::new((header, end_of_stream(unpadded, size, flags)?)));
            all.push(Part { at, length: unit.ceil(unpadded), start: 0, size, memory, around });
        }
        end = start;
    }
    all.reverse();
    Some(all)
}

/// The records of an index: the size of each block without its padding, and what it decodes to.
fn records(index: &[u8]) -> Option<Vec<(u64, u64)>> {
    let (body, crc) = index.split_at_checked(index.len().checked_sub(4)?)?;
    if crc != crc32fast::hash(body).to_le_bytes() || body.first() != Some(&0) {
        return None;
    }
    let mut rest = body.get(1..)?;
    let count = to_usize(multibyte(&mut rest)?);
    let mut records = Vec::new();
    for _ in 0..count.min(body.len()) {
        records.push((multibyte(&mut rest)?, multibyte(&mut rest)?));
    }
    let is_padding = rest.len() < 4 && rest.iter().all(|&byte| byte == 0);
    (is_padding && records.len() == count).then_some(records)
}

/// A number in groups of seven bits (section 1.2).
fn multibyte(rest: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0u64, 0u32);
    loop {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return (byte != 0 || shift == 0).then_some(value);
        }
        shift = shift.checked_add(7).filter(|&shift| shift < 63)?;
    }
}

fn push_multibyte(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.extend(u8::try_from(value & 0x7f).map(|low| low | 0x80));
        value = value.wrapping_shr(7);
    }
    out.extend(u8::try_from(value));
}

/// An index of one block, and the footer.
fn end_of_stream(unpadded: u64, size: u64, flags: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0, 1];
    push_multibyte(&mut out, unpadded);
    push_multibyte(&mut out, size);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(crc32fast::hash(&out).to_le_bytes());
    let backward = u32::try_from(out.len().checked_div(4)?.checked_sub(1)?).ok()?;
    let sized = [&backward.to_le_bytes()[..], flags].concat();
    out.extend(crc32fast::hash(&sized).to_le_bytes());
    out.extend(sized);
    out.extend(b"YZ");
    Some(out)
}

/// The size of the dictionary that a block needs, from its header (section 3.1 and 5.3.1).
fn dictionary(storage: &Arc<dyn Storage>, at: u64) -> Option<u64> {
    let length = read_vec(storage, "", at, 1).ok()?;
    let length = to_u64(usize::from(*length.first()?)).checked_add(1)?.checked_mul(4)?;
    let header = read_vec(storage, "", at, to_usize(length)).ok()?;
    let flags = *header.get(1)?;
    let mut rest = header.get(2..)?;
    for bit in [0x40, 0x80] {
        if flags & bit != 0 {
            multibyte(&mut rest)?;
        }
    }
    for _ in 0..=(flags & 3) {
        let id = multibyte(&mut rest)?;
        let length = to_usize(multibyte(&mut rest)?);
        let (properties, behind) = rest.split_at_checked(length)?;
        rest = behind;
        if id == 0x21 {
            let bits = u32::from(*properties.first()?);
            return match bits {
                0..=39 => {
                    u64::from(2 | (bits & 1)).checked_shl(bits.wrapping_shr(1).checked_add(11)?)
                }
                40 => Some(u64::from(u32::MAX)),
                _ => None,
            };
        }
    }
    None
}

const ZSTD: u32 = 0xfd2f_b528;

/// Headers that lie close together are read at once: a file may be made of nothing but them.
struct Headers<'a> {
    storage: &'a Arc<dyn Storage>,
    at: u64,
    bytes: Vec<u8>,
}

impl Headers<'_> {
    fn get(&mut self, at: u64, length: usize) -> Option<&[u8]> {
        let skip = at.checked_sub(self.at).map(to_usize);
        let there = skip.and_then(|skip| Some(skip..skip.checked_add(length)?));
        let range = match there.filter(|range| range.end <= self.bytes.len()) {
            Some(range) => range,
            None => {
                let left = to_usize(self.storage.size().checked_sub(at)?);
                self.bytes = read_vec(self.storage, "", at, left.min(4 << 10)).ok()?;
                self.at = at;
                0..length
            }
        };
        self.bytes.get(range)
    }
}

/// The frames, by their headers and those of the blocks in them.
fn zstd(storage: &Arc<dyn Storage>) -> Option<Vec<Part>> {
    let (size, mut at, mut all) = (storage.size(), 0u64, Vec::new());
    let mut headers = Headers { storage, at: 0, bytes: Vec::new() };
    while at < size {
        let head = headers.get(at, to_usize(size.checked_sub(at)?.min(18)))?;
        let magic = u32::from_le_bytes(*head.first_chunk()?);
        if magic & 0xffff_fff0 == 0x184d_2a50 {
            // a frame to pass over
            let length = u32::from_le_bytes(*head.get(4..)?.first_chunk()?);
            at = at.checked_add(8)?.checked_add(length.into())?;
            continue;
        }
        if magic != ZSTD || all.len() >= MAX_PARTS {
            return None;
        }
        let (header, content, window) = frame_header(head.get(4..)?)?;
        let descriptor = *head.get(4)?;
        let mut end = at.checked_add(4)?.checked_add(header)?;
        loop {
            let [a, b, c] = *headers.get(end, 3)?.first_chunk()?;
            let word = u32::from_le_bytes([a, b, c, 0]);
            let length = if word.wrapping_shr(1) & 3 == 1 { 1 } else { word.wrapping_shr(3) };
            end = end.checked_add(3)?.checked_add(length.into())?;
            if word & 1 != 0 {
                break;
            }
            // nothing is gained where one frame is most of the file
            if end > size || (all.is_empty() && end > size.wrapping_shr(1).saturating_add(1 << 20))
            {
                return None;
            }
        }
        // the checksum of the content
        end = end.checked_add(u64::from(descriptor & 4))?;
        if end > size {
            return None;
        }
        let (length, memory) = (
            end.checked_sub(at)?,
            // its decoder is bounded by a power of two
            window.checked_next_power_of_two()?.checked_add(OVERHEAD)?,
        );
        all.push(Part { at, length, start: 0, size: content, memory, around: None });
        at = end;
    }
    (at == size).then_some(all)
}

/// The length of a frame's header, the size of its content, and of its window.
fn frame_header(bytes: &[u8]) -> Option<(u64, u64, u64)> {
    let descriptor = *bytes.first()?;
    let single = descriptor & 0x20 != 0;
    let dictionary: usize = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied()?;
    let at = 1usize.checked_add(usize::from(!single))?.checked_add(dictionary)?;
    let field = bytes.get(at..)?;
    let (length, content) = match (descriptor.wrapping_shr(6), single) {
        // it does not tell
        (0, false) => return None,
        (0, true) => (1, u64::from(*field.first()?)),
        (1, _) => (2, u64::from(u16::from_le_bytes(*field.first_chunk()?)).checked_add(256)?),
        (2, _) => (4, u32::from_le_bytes(*field.first_chunk()?).into()),
        _ => (8, u64::from_le_bytes(*field.first_chunk()?)),
    };
    let window = match single {
        true => content,
        false => {
            let byte = *bytes.get(1)?;
            let base = 1u64.checked_shl(u32::from(byte.wrapping_shr(3)).checked_add(10)?)?;
            base.checked_add(base.wrapping_shr(3).checked_mul(u64::from(byte & 7))?)?
        }
    };
    Some((to_u64(at).checked_add(length)?, content, window))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// A file of one stream with a block that is not compressed: what the decoder's crate writes
    /// only with a feature that nothing else here needs.
    pub(in super::super) fn xz(data: &[u8]) -> Vec<u8> {
        stream(&[data])
    }

    /// The same with a block for each of these.
    pub(in super::super) fn stream(blocks: &[&[u8]]) -> Vec<u8> {
        let flags = [0, 1];
        let mut out = MAGIC.to_vec();
        out.extend(flags);
        out.extend(crc32fast::hash(&flags).to_le_bytes());
        let mut index = vec![0];
        push_multibyte(&mut index, blocks.len() as u64);
        for data in blocks {
            let start = out.len();
            // a dictionary of 8 MiB
            let header = [2, 0, 0x21, 1, 22, 0, 0, 0];
            out.extend(header);
            out.extend(crc32fast::hash(&header).to_le_bytes());
            for (number, chunk) in data.chunks(1 << 16).enumerate() {
                out.push(if number == 0 { 1 } else { 2 });
                out.extend(((chunk.len() - 1) as u16).to_be_bytes());
                out.extend(chunk);
            }
            out.push(0);
            let unpadded = out.len() - start + 4;
            out.resize(start + (out.len() - start).next_multiple_of(4), 0);
            out.extend(crc32fast::hash(data).to_le_bytes());
            push_multibyte(&mut index, unpadded as u64);
            push_multibyte(&mut index, data.len() as u64);
        }
        index.resize(index.len().next_multiple_of(4), 0);
        index.extend(crc32fast::hash(&index).to_le_bytes());
        out.extend(&index);
        let sized = [&(index.len() as u32 / 4 - 1).to_le_bytes()[..], &flags].concat();
        out.extend(crc32fast::hash(&sized).to_le_bytes());
        out.extend(sized);
        out.extend(b"YZ");
        out
    }

    fn found(bytes: &[u8], codec: Codec) -> Option<Vec<Part>> {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes.to_vec()));
        parts(&storage, codec, 1 << 20)
    }

    #[test]
    fn blocks_of_all_streams_are_found_and_no_others() {
        let (a, b, c) = (vec![1; 70_000], vec![2; 10], vec![3; 5000]);
        let mut file = stream(&[&a, &b]);
        file.extend([0; 8]);
        file.extend(stream(&[&c]));
        let parts = found(&file, Codec::Xz).unwrap();
        let sizes: Vec<_> = parts.iter().map(|part| (part.start, part.size)).collect();
        assert_eq!(sizes, [(0, 70_000), (70_000, 10), (70_010, 5000)]);
        assert_eq!(parts[0].memory, (8 << 20) + OVERHEAD);
        assert!(found(&stream(&[&a]), Codec::Xz).is_none(), "one block is no several");
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            if let Some(got) = found(&bad, Codec::Xz) {
                // what is in the blocks is for their decoder to check
                let inside = got.iter().any(|p| (p.at..p.at + p.length).contains(&(at as u64)));
                assert!(inside, "byte {at}");
            }
        }
    }

    #[test]
    fn numbers_of_seven_bits_come_back() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::MAX >> 1] {
            let mut out = Vec::new();
            push_multibyte(&mut out, value);
            assert_eq!(multibyte(&mut &out[..]), Some(value));
        }
        assert_eq!(multibyte(&mut &[0x80, 0][..]), None, "a group of zeros too many");
        assert_eq!(multibyte(&mut &[0xff; 12][..]), None);
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn frames_that_tell_their_sizes_are_found() {
        let frame = |data: &[u8]| zstd::bulk::compress(data, 1).unwrap();
        let big: Vec<u8> = (0..400_000u32).map(|i| (i.wrapping_mul(i) >> 11) as u8).collect();
        let mut file = frame(&big);
        file.extend([0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        file.extend(frame(&[]));
        file.extend(frame(&big[..300]));
        let parts = found(&file, Codec::Zstd).unwrap();
        let sizes: Vec<_> = parts.iter().map(|part| (part.start, part.size)).collect();
        assert_eq!(sizes, [(0, 400_000), (400_000, 0), (400_000, 300)]);
        assert!(found(&file[..file.len() - 1], Codec::Zstd).is_none());
        // a stream does not tell how long it is
        let streamed = zstd::stream::encode_all(&big[..], 1).unwrap();
        assert!(found(&[&streamed[..], &streamed].concat(), Codec::Zstd).is_none());
    }
}
