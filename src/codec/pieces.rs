//! Deflate (RFC 1951) in pieces of one stream, encoded by any thread and put one behind the other.

use std::fmt;

use super::encode::{Idle, bad_level};
use crate::error::{Error, ErrorKind, Result};

/// Encodes pieces of one stream: each begins and ends at a whole byte and refers to nothing before it.
pub struct DeflatePieces {
    level: i32,
    #[cfg(feature = "libdeflate")]
    whole: super::Deflate,
    idle: Idle<flate2::Compress>,
}

impl fmt::Debug for DeflatePieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeflatePieces").field("level", &self.level).finish_non_exhaustive()
    }
}

impl DeflatePieces {
    /// The level where none is asked for.
    pub const DEFAULT_LEVEL: i32 = super::Deflate::DEFAULT_LEVEL;
    /// The highest level.
    pub const MAX_LEVEL: i32 = super::Deflate::MAX_LEVEL;
    /// What ends the stream: a last block without data.
    pub const END: [u8; 2] = [3, 0];

    /// An encoder of this level, from 1 to [`MAX_LEVEL`](Self::MAX_LEVEL).
    pub fn new(level: i32) -> Result<Self> {
        if !(1..=Self::MAX_LEVEL).contains(&level) {
            return Err(bad_level("deflate", level, 1, Self::MAX_LEVEL));
        }
        Ok(Self {
            level,
            #[cfg(feature = "libdeflate")]
            whole: super::Deflate::new(level, super::Wrapper::Raw)?,
            idle: Idle::new(),
        })
    }

    /// Appends the encoded form of `input`, which is not empty, to `out`.
    pub fn encode(&self, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        // stored blocks are what the worst comes to
        let bound = input.len().saturating_add(input.len() >> 8).saturating_add(64);
        #[cfg(feature = "libdeflate")]
        {
            let before = out.len();
            if self.whole.encode(input, bound, out)? {
                let piece = out.get(before..).unwrap_or_default();
                if let Some(last) = blocks::last(piece) {
                    blocks::open(out, before, last);
                    return Ok(());
                }
            }
            // nothing that it writes comes here
            out.truncate(before);
        }
        self.flush(input, bound, out)
    }

    /// The same by an encoder that flushes to a whole byte.
    fn flush(&self, input: &[u8], bound: usize, out: &mut Vec<u8>) -> Result<()> {
        use flate2::{Compress, Compression, FlushCompress};
        let level = Compression::new(u32::try_from(self.level.min(9)).unwrap_or(6));
        out.reserve(bound);
        let make = || Compress::new(level, false);
        self.idle.with(make, |encoder| {
            encoder.reset();
            loop {
                let taken = crate::num::to_usize(encoder.total_in());
                let rest = input.get(taken..).unwrap_or_default();
                let failed = |error: flate2::CompressError| {
                    Error::other(ErrorKind::Io, format!("cannot compress: {error}"))
                };
                encoder.compress_vec(rest, out, FlushCompress::Sync).map_err(failed)?;
                let whole = crate::num::to_usize(encoder.total_in()) == input.len();
                // what did not fit comes with the next call
                if whole && out.len() < out.capacity() {
                    return Ok(());
                }
                out.reserve(bound);
            }
        })
    }
}

/// Where blocks lie in a whole stream, so that it can become a piece of a longer one: libdeflate, which
/// is several times faster than encoders that can flush, writes whole streams only.
#[cfg(feature = "libdeflate")]
mod blocks {
    /// The last block of a stream: the bit that says it is the last, and the bit behind the stream.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Last {
        flag: usize,
        end: usize,
    }

    /// Makes the last block one of many, and goes on to a whole byte by an empty stored block (3.2.4),
    /// as flushing does. The stream begins at the byte `start` of `out`.
    pub(super) fn open(out: &mut Vec<u8>, start: usize, last: Last) {
        let byte = start.saturating_add(last.flag >> 3);
        if let Some(byte) = out.get_mut(byte) {
            *byte &= !(1u8 << (last.flag & 7));
        }
        // three bits of zeros are the header of that block
        let whole = last.end.saturating_add(3).div_ceil(8);
        out.resize(start.saturating_add(whole), 0);
        out.extend([0, 0, 0xff, 0xff]);
    }

    /// The last block of a stream without anything behind it.
    pub(super) fn last(stream: &[u8]) -> Option<Last> {
        let mut bits = Bits { bytes: stream, at: 0 };
        let (mut literals, mut distances) = (Codes::new(), Codes::new());
        loop {
            let flag = bits.at;
            let is_last = bits.take(1)? == 1;
            match bits.take(2)? {
                0 => bits.skip_stored()?,
                1 => {
                    let mut lengths = [8u8; 288];
                    lengths.get_mut(144..256)?.fill(9);
                    lengths.get_mut(256..280)?.fill(7);
                    literals.build(&lengths)?;
                    distances.build(&[5; 30])?;
                    skip_symbols(&mut bits, &literals, &distances)?;
                }
                2 => {
                    read_codes(&mut bits, &mut literals, &mut distances)?;
                    skip_symbols(&mut bits, &literals, &distances)?;
                }
                _ => return None,
            }
            if is_last {
                let end = bits.at;
                return (end.div_ceil(8) == stream.len()).then_some(Last { flag, end });
            }
        }
    }

    struct Bits<'a> {
        bytes: &'a [u8],
        /// The next bit.
        at: usize,
    }

    impl Bits<'_> {
        /// The next 32 bits at least, the first one lowest; zeros behind the end.
        fn peek(&self) -> u64 {
            let from = self.at >> 3;
            let word = match self.bytes.get(from..).and_then(<[u8]>::first_chunk::<8>) {
                Some(word) => u64::from_le_bytes(*word),
                None => {
                    let mut word = [0; 8];
                    let rest = self.bytes.get(from..).unwrap_or_default();
                    word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                    u64::from_le_bytes(word)
                }
            };
            word >> (self.at & 7)
        }

        fn skip(&mut self, count: usize) -> Option<()> {
            self.at = self.at.checked_add(count)?;
            (self.at <= self.bytes.len().checked_mul(8)?).then_some(())
        }

        fn take(&mut self, count: u32) -> Option<usize> {
            let value = self.peek() & (1u64 << count).wrapping_sub(1);
            self.skip(usize::try_from(count).ok()?)?;
            usize::try_from(value).ok()
        }

        /// A block that is stored as it is.
        fn skip_stored(&mut self) -> Option<()> {
            self.at = self.at.checked_next_multiple_of(8)?;
            let length = self.take(16)?;
            self.take(16)?;
            self.skip(length.checked_mul(8)?)
        }
    }

    /// Bits that one look tells the symbol by; longer codes are rare.
    const FAST: u32 = 10;

    /// A canonical Huffman code (3.2.2).
    struct Codes {
        /// By the next bits: the symbol and, in the lowest four bits, its length; 0 if it is longer.
        fast: Vec<u16>,
        /// How many codes there are of each length.
        count: [u16; 16],
        /// The symbols by length.
        symbols: Vec<u16>,
    }

    impl Codes {
        fn new() -> Self {
            Self { fast: vec![0; 1 << FAST], count: [0; 16], symbols: Vec::new() }
        }

        fn build(&mut self, lengths: &[u8]) -> Option<()> {
            self.count = [0; 16];
            self.fast.fill(0);
            for &length in lengths {
                let count = self.count.get_mut(usize::from(length))?;
                *count = count.checked_add(1)?;
            }
            self.count[0] = 0;
            let (mut code, mut first) = (0u32, [0u32; 16]);
            let mut place = [0usize; 16];
            let mut before = 0usize;
            for length in 1..16usize {
                code = code.checked_add(u32::from(*self.count.get(length.checked_sub(1)?)?))? << 1;
                *first.get_mut(length)? = code;
                *place.get_mut(length)? = before;
                before = before.checked_add(usize::from(*self.count.get(length)?))?;
            }
            self.symbols.clear();
            self.symbols.resize(before, 0);
            for (symbol, &length) in (0u16..).zip(lengths) {
                if length == 0 {
                    continue;
                }
                let of_length = usize::from(length);
                *self.symbols.get_mut(*place.get(of_length)?)? = symbol;
                *place.get_mut(of_length)? = place.get(of_length)?.checked_add(1)?;
                let code = *first.get(of_length)?;
                *first.get_mut(of_length)? = code.checked_add(1)?;
                let length = u32::from(length);
                if length <= FAST {
                    // codes lie in the stream with their highest bit first
                    let start = code.reverse_bits() >> 32u32.checked_sub(length)?;
                    let entry = (symbol << 4) | u16::from(u8::try_from(length).ok()?);
                    let step = 1usize << length;
                    for at in (usize::try_from(start).ok()?..1 << FAST).step_by(step) {
                        *self.fast.get_mut(at)? = entry;
                    }
                }
            }
            Some(())
        }

        fn symbol(&self, bits: &mut Bits<'_>) -> Option<u16> {
            let next = bits.peek();
            let entry = *self.fast.get(usize::try_from(next & ((1 << FAST) - 1)).ok()?)?;
            if entry != 0 {
                bits.skip(usize::from(entry & 15))?;
                return Some(entry >> 4);
            }
            let (mut code, mut first, mut index) = (0usize, 0usize, 0usize);
            for length in 1..16usize {
                code |= usize::try_from((next >> length.checked_sub(1)?) & 1).ok()?;
                let count = usize::from(*self.count.get(length)?);
                if let Some(offset) = code.checked_sub(first).filter(|offset| *offset < count) {
                    bits.skip(length)?;
                    return self.symbols.get(index.checked_add(offset)?).copied();
                }
                index = index.checked_add(count)?;
                first = first.checked_add(count)? << 1;
                code <<= 1;
            }
            None
        }
    }

    /// The codes of a block that brings its own (3.2.7).
    fn read_codes(bits: &mut Bits<'_>, literals: &mut Codes, distances: &mut Codes) -> Option<()> {
        const ORDER: [usize; 19] =
            [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let (hlit, hdist) = (bits.take(5)?.checked_add(257)?, bits.take(5)?.checked_add(1)?);
        let hclen = bits.take(4)?.checked_add(4)?;
        let mut lengths = [0u8; 19];
        for &place in ORDER.get(..hclen)? {
            *lengths.get_mut(place)? = u8::try_from(bits.take(3)?).ok()?;
        }
        literals.build(&lengths)?;
        let all = hlit.checked_add(hdist)?;
        let mut lengths: Vec<u8> = Vec::with_capacity(all);
        while lengths.len() < all {
            let (value, count) = match literals.symbol(bits)? {
                length @ 0..=15 => (u8::try_from(length).ok()?, 1),
                16 => (*lengths.last()?, bits.take(2)?.checked_add(3)?),
                17 => (0, bits.take(3)?.checked_add(3)?),
                _ => (0, bits.take(7)?.checked_add(11)?),
            };
            lengths.resize(lengths.len().checked_add(count)?, value);
        }
        literals.build(lengths.get(..hlit)?)?;
        distances.build(lengths.get(hlit..all)?)
    }

    /// Passes over what a block holds, up to its end.
    fn skip_symbols(bits: &mut Bits<'_>, literals: &Codes, distances: &Codes) -> Option<()> {
        loop {
            let more = match literals.symbol(bits)? {
                0..=255 => continue,
                256 => return Some(()),
                // lengths (3.2.5): four codes for each number of extra bits
                257..=264 | 285 => 0,
                length @ 265..=284 => (length.checked_sub(261)?) >> 2,
                _ => return None,
            };
            bits.skip(usize::from(more))?;
            let more = match distances.symbol(bits)? {
                0..=3 => 0,
                distance @ 4..=29 => (distance.checked_sub(2)?) >> 1,
                _ => return None,
            };
            bits.skip(usize::from(more))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Wrapper, inflate_exact};

    /// Bytes of several kinds: text that repeats, runs, noise, and what is in between.
    fn samples() -> Vec<Vec<u8>> {
        let mut state = 1u32;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let text = b"the quick brown fox jumps over the lazy dog; ".repeat(3000);
        let random: Vec<u8> = (0..200_000).map(|_| noise()).collect();
        let few: Vec<u8> = (0..200_000).map(|_| noise() & 0x1f).collect();
        let skewed: Vec<u8> = (0..200_000).map(|_| noise() & noise() & noise()).collect();
        let mixed = [&text[..50_000], &random[..70_000], &[0; 90_000], &skewed[..]].concat();
        vec![vec![7], vec![0; 262_144], text, random, few, skewed, mixed]
    }

    #[test]
    fn pieces_make_one_stream_in_any_order_of_encoding() {
        let samples = samples();
        let data = samples.concat();
        for level in 1..=DeflatePieces::MAX_LEVEL {
            let encoder = DeflatePieces::new(level).unwrap();
            for by_flushing in [false, true] {
                let piece = |part: &[u8]| {
                    let mut out = vec![9; 3];
                    match by_flushing {
                        true => encoder.flush(part, 64, &mut out).unwrap(),
                        false => encoder.encode(part, &mut out).unwrap(),
                    }
                    out.split_off(3)
                };
                // any thread encodes any of them: here, from the end
                let mut pieces: Vec<_> = samples.iter().rev().map(|part| piece(part)).collect();
                pieces.reverse();
                assert_eq!(piece(&samples[2]), pieces[2], "an encoder remembers nothing");
                let stream = [pieces.concat(), DeflatePieces::END.to_vec()].concat();
                let mut back = vec![0; data.len()];
                inflate_exact(&stream, &mut back, Wrapper::Raw).unwrap();
                assert!(back == data, "level {level}");
                // each stands alone, too
                for (part, piece) in samples.iter().zip(&pieces) {
                    let mut back = vec![0; part.len()];
                    inflate_exact(piece, &mut back, Wrapper::Raw).unwrap();
                    assert!(&back == part, "level {level}");
                }
            }
        }
        assert!(DeflatePieces::new(0).is_err());
        assert!(DeflatePieces::new(DeflatePieces::MAX_LEVEL + 1).is_err());
    }

    #[cfg(feature = "libdeflate")]
    #[test]
    fn the_last_block_of_a_stream_is_found_and_nothing_else_is_taken_for_one() {
        for level in 1..=12 {
            for part in samples() {
                let encoder = crate::codec::Deflate::new(level, Wrapper::Raw).unwrap();
                let mut stream = Vec::new();
                assert!(encoder.encode(&part, part.len() + 2000, &mut stream).unwrap());
                assert!(blocks::last(&stream).is_some(), "level {level}, {} bytes", part.len());
                let cut = &stream[..stream.len() - 1];
                assert_eq!(blocks::last(cut), None, "a stream that is cut off");
                assert_eq!(blocks::last(&[&stream[..], &[0]].concat()), None, "more behind it");
            }
        }
        assert_eq!(blocks::last(&[]), None);
        assert_eq!(blocks::last(&[7]), None);
    }
}
