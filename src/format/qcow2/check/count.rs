//! Counting references to host clusters within a bound of memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;

use crate::num::{to_u64, to_usize};

/// How many references an entry of a [`Counters`] can hold before the overflow takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// Two bits: enough where hardly any cluster is shared.
    Narrow,
    /// Sixteen bits: compressed clusters and snapshots share.
    Wide,
}

impl Width {
    /// The exponent of the number of bits.
    const fn bits_log(self) -> u32 {
        match self {
            Self::Narrow => 1,
            Self::Wide => 4,
        }
    }

    pub(super) const fn bits(self) -> u64 {
        1u64.wrapping_shl(self.bits_log())
    }

    /// The largest count that fits; it means that, and what the overflow adds.
    const fn max(self) -> u64 {
        1u64.wrapping_shl(1u32.wrapping_shl(self.bits_log())).wrapping_sub(1)
    }

    /// A word whose every entry is 1.
    const fn ones(self) -> u64 {
        match self {
            Self::Narrow => 0x5555_5555_5555_5555,
            Self::Wide => 0x0001_0001_0001_0001,
        }
    }

    /// The exponent of the number of entries of a word.
    const fn per_word_log(self) -> u32 {
        6u32.wrapping_sub(self.bits_log())
    }
}

/// One count for each of some host clusters. Any number of threads add to it.
#[derive(Debug)]
pub(super) struct Counters {
    width: Width,
    words: Box<[AtomicU64]>,
    overflow: Mutex<HashMap<u64, u64, RandomState>>,
    most: usize,
    full: AtomicBool,
}

impl Counters {
    /// Zeros; at most `most` entries may overflow.
    pub(super) fn new(clusters: u64, width: Width, most: usize) -> Self {
        let words = clusters.wrapping_shr(width.per_word_log()).saturating_add(1);
        Self {
            width,
            words: zeros(words),
            overflow: Mutex::default(),
            most,
            full: AtomicBool::new(false),
        }
    }

    /// Whether more entries overflowed than may: the counts mean nothing.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    fn place(&self, index: u64) -> Option<(&AtomicU64, u32)> {
        let word = self.words.get(to_usize(index.wrapping_shr(self.width.per_word_log())))?;
        let entry = index & 1u64.wrapping_shl(self.width.per_word_log()).wrapping_sub(1);
        let shift = entry.wrapping_shl(self.width.bits_log());
        Some((word, u32::try_from(shift).unwrap_or_default()))
    }

    /// `weight` references more to entry `index`.
    pub(super) fn add(&self, index: u64, weight: u64) {
        let Some((word, shift)) = self.place(index) else { return };
        let max = self.width.max();
        let mut old = word.load(Relaxed);
        let rest = loop {
            let value = old.wrapping_shr(shift) & max;
            let step = weight.min(max.saturating_sub(value));
            if step == 0 {
                break weight;
            }
            let new = old.wrapping_add(step.wrapping_shl(shift));
            match word.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                Ok(_) => break weight.saturating_sub(step),
                Err(now) => old = now,
            }
        };
        if rest > 0 && !self.is_full() {
            let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
            let count = overflow.entry(index).or_default();
            *count = count.saturating_add(rest);
            if overflow.len() > self.most {
                self.full.store(true, Relaxed);
            }
        }
    }

    /// The same for `count` entries from `first` on.
    pub(super) fn add_run(&self, first: u64, count: u64, weight: u64) {
        let log = self.width.per_word_log();
        let per_word = 1u64.wrapping_shl(log);
        let end = first.saturating_add(count);
        let mut index = first;
        while index < end {
            let is_word = index & per_word.wrapping_sub(1) == 0
                && end.saturating_sub(index) >= per_word
                && weight <= self.width.max();
            // a word of clusters that nothing has referred to yet
            if is_word && let Some(word) = self.words.get(to_usize(index.wrapping_shr(log))) {
                let new = self.width.ones().wrapping_mul(weight);
                if word.compare_exchange(0, new, Relaxed, Relaxed).is_ok() {
                    index = index.saturating_add(per_word);
                    continue;
                }
            }
            self.add(index, weight);
            index = index.saturating_add(1);
        }
    }

    /// The count of entry `index`.
    pub(super) fn get(&self, index: u64) -> u64 {
        let Some((word, shift)) = self.place(index) else { return 0 };
        let value = word.load(Relaxed).wrapping_shr(shift) & self.width.max();
        if value < self.width.max() {
            return value;
        }
        let overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        value.saturating_add(overflow.get(&index).copied().unwrap_or_default())
    }

    /// The first entry from `index` on, below `end`, that may not be zero.
    pub(super) fn next_used(&self, index: u64, end: u64) -> u64 {
        let log = self.width.per_word_log();
        let from = to_usize(index.wrapping_shr(log));
        let words = self.words.get(from..).unwrap_or_default();
        let zeros = words.iter().take_while(|word| word.load(Relaxed) == 0).count();
        if zeros == 0 {
            return index.min(end);
        }
        to_u64(from.saturating_add(zeros)).wrapping_shl(log).clamp(index, end)
    }
}

/// One bit for each of some host clusters.
#[derive(Debug)]
pub(super) struct Bits(Box<[AtomicU64]>);

impl Bits {
    pub(super) fn new(clusters: u64) -> Self {
        Self(zeros(clusters.wrapping_shr(6).saturating_add(1)))
    }

    pub(super) fn get(&self, index: u64) -> bool {
        let word = self.0.get(to_usize(index.wrapping_shr(6)));
        word.is_some_and(|word| word.load(Relaxed) & bit(index) != 0)
    }

    /// Sets a bit; gives whether it was set.
    pub(super) fn set(&self, index: u64) -> bool {
        let word = self.0.get(to_usize(index.wrapping_shr(6)));
        word.is_some_and(|word| word.fetch_or(bit(index), Relaxed) & bit(index) != 0)
    }

    /// The first entry from `first` on, below `end`, whose bit is `wanted`; `end` if none is.
    pub(super) fn find(&self, first: u64, end: u64, wanted: bool) -> u64 {
        let mut index = first;
        while index < end {
            let Some(word) = self.0.get(to_usize(index.wrapping_shr(6))) else { return end };
            let word = word.load(Relaxed);
            let hits = if wanted { word } else { !word };
            let within = u32::try_from(index & 63).unwrap_or_default();
            let hits = hits.wrapping_shr(within);
            if hits != 0 {
                return index.saturating_add(hits.trailing_zeros().into()).min(end);
            }
            index = index.saturating_add(64).saturating_sub(within.into());
        }
        end
    }
}

fn bit(index: u64) -> u64 {
    1u64.wrapping_shl(u32::try_from(index & 63).unwrap_or_default())
}

fn zeros(words: u64) -> Box<[AtomicU64]> {
    std::iter::repeat_with(AtomicU64::default).take(to_usize(words)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_agree_with_plain_ones_on_either_side_of_the_overflow() {
        for width in [Width::Narrow, Width::Wide] {
            let counters = Counters::new(1000, width, 1000);
            let mut plain = vec![0u64; 1000];
            let mut state = 7u64;
            for _ in 0..3000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                let first = (state >> 33) % 1000;
                let count = ((state >> 20) % 200).min(1000 - first);
                let weight = [1, 1, 1, 2, 70_000][(state >> 50) as usize % 5];
                counters.add_run(first, count, weight);
                plain[first as usize..(first + count) as usize]
                    .iter_mut()
                    .for_each(|c| *c += weight);
            }
            for (index, &count) in plain.iter().enumerate() {
                assert_eq!(counters.get(index as u64), count, "{width:?} {index}");
            }
            assert!(!counters.is_full());
        }
    }

    #[test]
    fn threads_lose_no_count_and_too_many_overflows_show() {
        let counters = Counters::new(64, Width::Narrow, 10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|i| counters.add(i % 8, 1)));
            }
        });
        assert!((0..8).all(|i| counters.get(i) == 500));
        counters.add_run(0, 60, 4);
        assert!(counters.is_full());
    }

    #[test]
    fn searches_find_the_next_of_its_kind() {
        let bits = Bits::new(300);
        for index in [0, 63, 64, 200] {
            assert!(!bits.set(index));
            assert!(bits.set(index) && bits.get(index));
        }
        assert_eq!(bits.find(1, 300, true), 63);
        assert_eq!(bits.find(65, 300, true), 200);
        assert_eq!(bits.find(65, 150, true), 150);
        assert_eq!(bits.find(63, 300, false), 65);
        let counters = Counters::new(300, Width::Narrow, 10);
        counters.add(100, 1);
        assert_eq!(counters.next_used(0, 300), 96);
        assert_eq!(counters.next_used(100, 300), 100);
        assert_eq!(counters.next_used(130, 300), 300);
    }
}
