//! LZFSE and LZVN, Apple's codecs. The encoding is that of the reference implementation that Apple
//! published (lzfse 1.0), whose names of fields are used here. A stream is a row of blocks, each
//! with a magic: stored, LZVN, or LZFSE (matches and literals coded by finite states), and one
//! that ends it.

use super::lzvn::lzvn;
use super::{CodecError, Output};
use crate::num::to_usize;

const CODEC: &str = "LZFSE";

const END: &[u8] = b"bvx$";
const STORED: &[u8] = b"bvx-";
const LZVN: &[u8] = b"bvxn";
const LZFSE_V2: &[u8] = b"bvx2";

/// `LZFSE_MATCHES_PER_BLOCK` and `LZFSE_LITERALS_PER_BLOCK`.
const MOST_MATCHES: u64 = 10_000;
const MOST_LITERALS: u64 = 4 * MOST_MATCHES;

const L_STATES: u16 = 64;
const M_STATES: u16 = 64;
const D_STATES: u16 = 256;
const LITERAL_STATES: u16 = 1024;

/// `l_extra_bits`, `m_extra_bits`: those of symbols below 16 are 0. Those of distances grow by one
/// with every four symbols.
const L_EXTRA_BITS: [u8; 4] = [2, 3, 5, 8];
const M_EXTRA_BITS: [u8; 4] = [3, 5, 8, 11];
const D_SYMBOLS: usize = 64;

#[cold]
fn damaged(why: &str) -> CodecError {
    CodecError::Damaged { codec: CODEC, why: why.to_owned() }
}

/// Decodes `input`, which must fill `output` and end there.
pub fn lzfse_exact(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    let mut out = Output::new(CODEC, output);
    let mut source = Source(input);
    loop {
        let magic = source.bytes(4)?;
        if magic == END {
            return if out.is_full() { Ok(()) } else { Err(out.ends_early()) };
        }
        let raw = to_usize(source.number(4)?);
        let end = out.position().saturating_add(raw);
        match magic {
            STORED => out.literals(source.bytes(raw)?)?,
            LZVN => {
                let length = to_usize(source.number(4)?);
                lzvn(source.bytes(length)?, &mut out)?;
            }
            LZFSE_V2 => block(&mut source, &mut out)?,
            _ => return Err(damaged("a block has an unknown magic")),
        }
        if out.position() != end {
            return Err(damaged("a block has another length than it says"));
        }
    }
}

/// What is left of the input.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let split = self.0.split_at_checked(length);
        let (head, rest) = split.ok_or_else(|| damaged("it is cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    /// A little-endian number of so many bytes, at most eight.
    fn number(&mut self, length: usize) -> Result<u64, CodecError> {
        let bytes = self.bytes(length)?.iter().rev();
        Ok(bytes.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

/// Bits `from..from + count` of a packed field.
fn field(packed: u64, from: u32, count: u32) -> u64 {
    packed.wrapping_shr(from) & mask(count)
}

fn mask(count: u32) -> u64 {
    1u64.checked_shl(count).map_or(u64::MAX, |bit| bit.wrapping_sub(1))
}

fn state(packed: u64, from: u32) -> u16 {
    u16::try_from(field(packed, from, 10)).unwrap_or(u16::MAX)
}

/// A block of version 2, behind its magic and `n_raw_bytes`.
fn block(source: &mut Source<'_>, out: &mut Output<'_>) -> Result<(), CodecError> {
    let [first, second, third] = [source.number(8)?, source.number(8)?, source.number(8)?];
    let (literal_count, match_count) = (field(first, 0, 20), field(first, 40, 20));
    let (literal_bytes, lmd_bytes) = (field(first, 20, 20), field(second, 40, 20));
    // magic, n_raw_bytes and the packed fields come before the frequencies
    let header_size = field(third, 0, 32).checked_sub(32);
    let header_size = header_size.ok_or_else(|| damaged("a block's header is too short"))?;
    if literal_count > MOST_LITERALS || match_count > MOST_MATCHES || literal_count & 3 != 0 {
        return Err(damaged("a block has too many literals or matches"));
    }
    let mut frequencies = Frequencies::new(source.bytes(to_usize(header_size))?);
    let l_table = values(&frequencies.take::<20>()?, L_STATES, &lengths(L_EXTRA_BITS))?;
    let m_table = values(&frequencies.take::<20>()?, M_STATES, &lengths(M_EXTRA_BITS))?;
    let d_table = values(&frequencies.take::<D_SYMBOLS>()?, D_STATES, &distances())?;
    let literal_table = symbols(&frequencies.take::<256>()?)?;

    let mut bits = Bits::new(source.bytes(to_usize(literal_bytes))?, field(first, 60, 3))?;
    let mut states = [0, 10, 20, 30].map(|from| state(second, from));
    let mut literals = Vec::with_capacity(to_usize(literal_count));
    while literals.len() < to_usize(literal_count) {
        bits.refill();
        for state in &mut states {
            literals.push(literal_table.get(usize::from(*state)).map_or(0, |e| e.symbol));
            *state = next_state(&literal_table, *state, &mut bits)?;
        }
    }
    bits.check()?;

    let mut bits = Bits::new(source.bytes(to_usize(lmd_bytes))?, field(second, 60, 3))?;
    let [mut l_state, mut m_state, mut d_state] = [32, 42, 52].map(|from| state(third, from));
    let (mut rest, mut distance) = (&*literals, 0);
    for _ in 0..match_count {
        bits.refill();
        let length = value(&l_table, &mut l_state, &mut bits)?;
        let matched = value(&m_table, &mut m_state, &mut bits)?;
        let new = value(&d_table, &mut d_state, &mut bits)?;
        distance = if new == 0 { distance } else { new };
        let split = rest.split_at_checked(length);
        let (head, behind) = split.ok_or_else(|| damaged("a block has too few literals"))?;
        out.literals(head)?;
        rest = behind;
        if matched > 0 {
            out.copy(distance, matched)?;
        }
    }
    bits.check()
}

/// The frequencies of symbols, in a code of some bits each.
struct Frequencies<'a> {
    bytes: std::slice::Iter<'a, u8>,
    bits: u32,
    count: u32,
    is_short: bool,
    /// Of a block without matches they may be left out.
    is_left_out: bool,
}

impl<'a> Frequencies<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let is_left_out = bytes.is_empty();
        Self { bytes: bytes.iter(), bits: 0, count: 0, is_short: false, is_left_out }
    }

    fn take<const N: usize>(&mut self) -> Result<[u16; N], CodecError> {
        let mut taken = [0; N];
        if self.is_left_out {
            return Ok(taken);
        }
        taken.iter_mut().for_each(|frequency| *frequency = self.next());
        if self.is_short { Err(damaged("the frequencies are cut off")) } else { Ok(taken) }
    }

    fn next(&mut self) -> u16 {
        while self.count <= 24 {
            let Some(&byte) = self.bytes.next() else { break };
            self.bits |= u32::from(byte).wrapping_shl(self.count);
            self.count = self.count.saturating_add(8);
        }
        let bits = self.bits;
        // the code is read from the lowest bit on
        let (length, value) = match bits & 0b1111 {
            code if code & 0b11 == 0b00 => (2, 0),
            code if code & 0b11 == 0b10 => (2, 1),
            code if code & 0b111 == 0b001 => (3, 2),
            code if code & 0b111 == 0b101 => (3, 3),
            0b0011 | 0b1011 => (5, (bits >> 3 & 0b11).saturating_add(4)),
            0b0111 => (8, (bits >> 4 & 0xf).saturating_add(8)),
            _ => (14, (bits >> 4 & 0x3ff).saturating_add(24)),
        };
        match self.count.checked_sub(length) {
            Some(left) => self.count = left,
            None => self.is_short = true,
        }
        self.bits = bits.wrapping_shr(length);
        u16::try_from(value).unwrap_or_default()
    }
}

/// What a number stands for: its lowest value, and how many bits are added to that.
#[derive(Clone, Copy, Default)]
struct Range {
    base: u32,
    extra: u8,
}

/// The numbers whose symbols have these extra bits.
fn ranges<const N: usize>(extra: [u8; N]) -> [Range; N] {
    let mut next = 0u32;
    extra.map(|extra| {
        let base = next;
        next = next.saturating_add(1u32.wrapping_shl(extra.into()));
        Range { base, extra }
    })
}

fn lengths(last: [u8; 4]) -> [Range; 20] {
    let mut extra = [0; 20];
    extra.iter_mut().skip(16).zip(last).for_each(|(extra, last)| *extra = last);
    ranges(extra)
}

fn distances() -> [Range; D_SYMBOLS] {
    let mut extra = [0; D_SYMBOLS];
    extra.iter_mut().zip(0u8..).for_each(|(extra, symbol)| *extra = symbol >> 2);
    ranges(extra)
}

/// A state of a decoder: what it stands for, and how the next one is found.
#[derive(Clone, Copy, Default)]
struct State {
    symbol: u8,
    /// How many bits are added to `delta`.
    bits: u8,
    delta: u16,
}

/// The states of symbols with these frequencies (`fse_init_decoder_table`).
fn table(frequencies: &[u16], states: u16) -> Result<Vec<State>, CodecError> {
    let wrong = || damaged("the frequencies do not fit the states");
    let mut table = Vec::with_capacity(states.into());
    for (symbol, &frequency) in (0u8..=u8::MAX).zip(frequencies).filter(|(_, f)| **f != 0) {
        if usize::from(frequency).saturating_add(table.len()) > states.into() {
            return Err(wrong());
        }
        // states <= frequency << bits < 2 * states
        let bits = frequency.leading_zeros().saturating_sub(states.leading_zeros());
        let long = states.wrapping_mul(2).wrapping_shr(bits).wrapping_sub(frequency);
        for index in 0..frequency {
            let (bits, delta) = match index.checked_sub(long) {
                None => {
                    (bits, frequency.wrapping_add(index).wrapping_shl(bits).wrapping_sub(states))
                }
                Some(over) => {
                    let bits = bits.saturating_sub(1);
                    (bits, over.wrapping_shl(bits))
                }
            };
            table.push(State { symbol, bits: u8::try_from(bits).unwrap_or_default(), delta });
        }
    }
    Ok(table)
}

fn symbols(frequencies: &[u16; 256]) -> Result<Vec<State>, CodecError> {
    table(frequencies, LITERAL_STATES)
}

/// A state of a decoder of numbers.
#[derive(Clone, Copy, Default)]
struct Number {
    state: State,
    range: Range,
}

fn values(frequencies: &[u16], states: u16, of: &[Range]) -> Result<Vec<Number>, CodecError> {
    let range = |state: &State| of.get(usize::from(state.symbol)).copied().unwrap_or_default();
    let table = table(frequencies, states)?;
    Ok(table.iter().map(|&state| Number { state, range: range(&state) }).collect())
}

#[inline]
fn next_state(table: &[State], state: u16, bits: &mut Bits<'_>) -> Result<u16, CodecError> {
    let entry = table.get(usize::from(state)).ok_or_else(|| damaged("a state has no entry"))?;
    let low = u16::try_from(bits.pull(entry.bits.into())).unwrap_or_default();
    Ok(entry.delta.wrapping_add(low))
}

#[inline]
fn value(table: &[Number], state: &mut u16, bits: &mut Bits<'_>) -> Result<usize, CodecError> {
    let entry = table.get(usize::from(*state)).ok_or_else(|| damaged("a state has no entry"))?;
    let extra = u32::from(entry.range.extra);
    let pulled = bits.pull(u32::from(entry.state.bits).saturating_add(extra));
    let low = u16::try_from(pulled.wrapping_shr(extra)).unwrap_or_default();
    *state = entry.state.delta.wrapping_add(low);
    let added = pulled & mask(extra);
    Ok(to_usize(u64::from(entry.range.base).saturating_add(added)))
}

/// Bits that are read from the last one to the first.
struct Bits<'a> {
    rest: &'a [u8],
    accumulator: u64,
    count: u32,
    /// How many bits were made up behind the first one.
    missing: u32,
}

impl<'a> Bits<'a> {
    /// `used` is how many bits of the last byte are part of it, but for one: `literal_bits` + 7.
    fn new(bytes: &'a [u8], used: u64) -> Result<Self, CodecError> {
        let mut bits = Self { rest: bytes, accumulator: 0, count: 0, missing: 0 };
        bits.refill();
        if bits.pull(7u32.saturating_sub(u32::try_from(used).unwrap_or(7))) != 0 {
            return Err(damaged("bits are set behind its end"));
        }
        Ok(bits)
    }

    /// Sees to it that 56 bits are there.
    #[inline]
    fn refill(&mut self) {
        while self.count <= 56 {
            let byte = match self.rest.split_last() {
                Some((&last, rest)) => {
                    self.rest = rest;
                    last
                }
                None => {
                    self.missing = self.missing.saturating_add(8);
                    0
                }
            };
            self.accumulator = self.accumulator << 8 | u64::from(byte);
            self.count = self.count.saturating_add(8);
        }
    }

    #[inline]
    fn pull(&mut self, count: u32) -> u64 {
        self.count = self.count.saturating_sub(count);
        let pulled = self.accumulator.wrapping_shr(self.count) & mask(count);
        self.accumulator &= mask(self.count);
        pulled
    }

    /// Whether no more was read than there is.
    fn check(&self) -> Result<(), CodecError> {
        if self.count < self.missing { Err(damaged("its bits are cut off")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(data: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        lzfse_rust::encode_bytes(data, &mut stream).unwrap();
        stream
    }

    fn decoded(stream: &[u8], length: usize) -> Result<Vec<u8>, CodecError> {
        let mut out = vec![0; length];
        lzfse_exact(stream, &mut out).map(|()| out)
    }

    /// Text that repeats itself, noise, runs: so that all kinds of blocks come up.
    fn sample(seed: u32, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as usize
        };
        let mut data: Vec<u8> = Vec::new();
        while data.len() < length {
            let (kind, count) = (next() % 4, 1 + next() % 3000);
            match kind {
                0 => data.extend((0..count).map(|_| next() as u8)),
                1 => data.extend(std::iter::repeat_n(next() as u8, count)),
                2 => data.extend((0..count).map(|_| b'a' + (next() % 7) as u8)),
                _ => {
                    let from = next() % (data.len() + 1);
                    let again = data[from..(from + count).min(data.len())].to_vec();
                    data.extend(again);
                }
            }
        }
        data.truncate(length);
        data
    }

    #[test]
    fn what_another_encoder_writes_is_decoded() {
        let mut magics = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let length = [0, 1, 7, 100, 3000, 5000, 70_000, 300_000][seed as usize % 8];
            let data = sample(seed, length);
            let stream = encoded(&data);
            magics.extend(stream.windows(4).filter(|w| w.starts_with(b"bvx")).map(<[u8]>::to_vec));
            assert!(decoded(&stream, length).unwrap() == data, "seed {seed}");
            assert!(decoded(&stream, length + 1).is_err(), "a byte is missing");
            if length > 0 {
                assert!(decoded(&stream, length - 1).is_err(), "a byte too many");
            }
        }
        assert!(magics.len() >= 4, "{magics:?}");
    }

    #[test]
    fn every_cut_is_an_error() {
        for (seed, length) in [(1, 900), (2, 6000), (4, 60_000)] {
            let stream = encoded(&sample(seed, length));
            for cut in (0..stream.len()).step_by(1 + stream.len() / 200) {
                assert!(decoded(&stream[..cut], length).is_err(), "cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn damage_gives_what_another_decoder_gives_or_an_error(
            seed in 0u32..50,
            changes in proptest::collection::vec((0usize..1 << 20, 0u8..=255), 1..4),
        ) {
            let data = sample(seed, 9000);
            let mut stream = encoded(&data);
            let length = stream.len();
            for (at, value) in changes {
                stream[at % length] = value;
            }
            if let Ok(ours) = decoded(&stream, data.len()) {
                let mut theirs = Vec::new();
                if lzfse_rust::decode_bytes(&stream, &mut theirs).is_ok() {
                    prop_assert!(ours == theirs);
                }
            }
        }
    }
}
