//! What the checks of the formats share: tables that are read whole, and the places of a file that
//! are taken.

use std::ops::Range;

use crate::check::{Checking, Repaired};
use crate::error::Result;
use crate::finding::{Code, Finding, Severity};
use crate::layer::Layer;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, check_inside, read_or_hole};

/// How much of a table is read at once: a whole number of entries of any format.
const PIECE: u64 = 256 << 10;

/// Calls `visit` with the bytes of a table, piece by piece, and the place in the file of each.
pub(super) fn pieces(
    storage: &dyn Storage,
    what: &'static str,
    table: Range<u64>,
    checking: &Checking,
    mut visit: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    check_inside(storage, what, table.start, table.end.saturating_sub(table.start))?;
    let length = PIECE.min(table.end.saturating_sub(table.start));
    let mut buffer = vec![0; to_usize(length)];
    let mut at = table.start;
    while at < table.end {
        checking.watcher().check()?;
        let length = PIECE.min(table.end.saturating_sub(at));
        let piece = buffer.get_mut(..to_usize(length)).unwrap_or_default();
        read_or_hole(storage, piece, at)?;
        visit(piece, at)?;
        checking.watcher().advance(length);
        at = at.saturating_add(length);
    }
    Ok(())
}

/// How many contradictions of one sort are counted before a table is given up.
const MOST_COUNTED: u64 = 4 << 20;

/// Says that a table was given up.
pub(super) fn note_enough(checking: &Checking, what: &'static str, at: u64) {
    let text = format!("so much of the {what} contradicts itself that the rest was not looked at");
    checking.note(Finding::new(Code::Unreadable, text).at(at).in_structure(what));
}

/// Corruptions of one sort that are met in the order of the file. There may be as many as a table
/// has entries, so what finds no room in the report is not even put in words.
pub(super) struct Sort<'a> {
    checking: &'a Checking,
    count: u64,
}

impl<'a> Sort<'a> {
    pub(super) fn new(checking: &'a Checking) -> Self {
        Self { checking, count: 0 }
    }

    /// Tells of one more.
    pub(super) fn corruption(&mut self, finding: impl FnOnce() -> Finding) {
        if self.count < self.most_told() {
            self.checking.corruption(finding());
        }
        self.count = self.count.saturating_add(1);
    }

    fn most_told(&self) -> u64 {
        to_u64(self.checking.most_findings())
    }

    /// Whether there are so many that more of them say nothing new.
    pub(super) fn is_enough(&self) -> bool {
        self.count >= MOST_COUNTED
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

impl Drop for Sort<'_> {
    /// Those that are not told are counted at once: there may be hundreds of millions.
    fn drop(&mut self) {
        let rest = self.count.saturating_sub(self.most_told());
        if rest > 0 {
            self.checking.more_corruptions(rest);
        }
    }
}

/// Says that bytes of the file belong to nothing, if there are any.
pub(super) fn note_unused(checking: &Checking, bytes: u64) {
    if bytes > 0 {
        let text = format!("{bytes} bytes of the file belong to nothing");
        checking.note(Finding::new(Code::UnusedSpace, text));
    }
}

/// Adds to `repaired` what a check finds and no repair is offered for.
pub(super) fn refuse_rest(
    layer: &dyn Layer,
    like: &Checking,
    repaired: &mut Repaired,
) -> Result<()> {
    let checking = Checking::new().max_memory(like.memory()).max_findings(100);
    layer.check(&checking)?;
    let known: Vec<_> = repaired.refused.iter().map(|refused| refused.code).collect();
    for mut found in checking.into_report().findings {
        let wrong = found.code.severity() >= Severity::Warning && found.code != Code::Dirty;
        if wrong && found.fix.is_none() && !known.contains(&found.code) {
            found.message.push_str(": nothing in the image proves what would be right");
            repaired.refused.push(found);
        }
    }
    Ok(())
}

/// How many units a page of [`Places`] speaks of, as a power of two.
const PAGE_BITS: u32 = 15;
/// How many bytes such a page takes.
const PAGE_BYTES: u64 = 4 << 10;
/// How often the tables are gone through at most. A file would have to be larger than any file
/// system holds to need more, or its tables are made to.
const MOST_ROUNDS: u32 = 64;
/// How many things that reach from one window into the next are remembered as told.
const MOST_CROSSING: usize = 1024;

type Page = [u64; 512];

/// Which units of a file are taken: a bitmap, of which pages exist where something is. It covers
/// one window of the file at a time, as large as the memory allows, so that the tables have to be
/// gone through once for each window:
///
/// ```text
/// loop { for each entry { if places.take(..) { tell } }; if !places.turn() { break } }
/// ```
pub(super) struct Places {
    unit: Pow2,
    /// Where the first unit starts.
    phase: u64,
    /// The window's first unit.
    low: u64,
    most_pages: usize,
    pages: Vec<Option<Box<Page>>>,
    /// The first unit behind the window that anything takes.
    next: u64,
    rounds: u32,
    /// What reaches into the next window and was told in this one; and the same of the last turn.
    crossing: Vec<u64>,
    crossed: Vec<u64>,
    /// How many units are taken, of all windows.
    taken: u64,
}

impl Places {
    /// Nothing is taken. What is going to be starts at multiples of `unit` behind `phase`.
    pub(super) fn new(unit: Pow2, phase: u64, memory: u64) -> Self {
        let most_pages = to_usize(memory.div_euclid(PAGE_BYTES)).clamp(16, 1 << 13);
        Self {
            unit,
            phase,
            low: 0,
            most_pages,
            pages: Vec::new(),
            next: u64::MAX,
            rounds: 0,
            crossing: Vec::new(),
            crossed: Vec::new(),
            taken: 0,
        }
    }

    /// Takes `length` bytes from `start` on, up to where something has taken them before; gives
    /// whether that is so. Each unit is taken once, so that the work is bounded by the file.
    pub(super) fn take(&mut self, start: u64, length: u64) -> bool {
        let from = start.saturating_sub(self.phase);
        let (first, end) = (self.unit.index(from), self.unit.count(from.saturating_add(length)));
        let high = self.low.saturating_add(to_u64(self.most_pages).wrapping_shl(PAGE_BITS));
        if end > high {
            self.next = self.next.min(first.max(high));
        }
        let mut at = first.max(self.low);
        let end_here = end.min(high);
        while at < end_here {
            let within = at.saturating_sub(self.low);
            let Some(word) = self.word(within) else { break };
            let bit = u32::try_from(within & 63).unwrap_or_default();
            let count = u64::from(64u32.saturating_sub(bit)).min(end_here.saturating_sub(at));
            let ones =
                u64::MAX.wrapping_shr(64u32.saturating_sub(u32::try_from(count).unwrap_or(64)));
            let mask = ones.wrapping_shl(bit);
            let met = *word & mask;
            if met != 0 {
                let free = met.trailing_zeros().saturating_sub(bit);
                let before = mask & 1u64.wrapping_shl(met.trailing_zeros()).wrapping_sub(1);
                *word |= before;
                self.taken = self.taken.saturating_add(free.into());
                let told = first < self.low && self.crossed.contains(&first);
                if end > high && self.crossing.len() < MOST_CROSSING {
                    self.crossing.push(first);
                }
                return !told;
            }
            *word |= mask;
            self.taken = self.taken.saturating_add(count);
            at = at.saturating_add(count);
        }
        false
    }

    /// The word that holds the unit number `within` of the window.
    fn word(&mut self, within: u64) -> Option<&mut u64> {
        let page = to_usize(within.wrapping_shr(PAGE_BITS));
        if self.pages.len() <= page {
            self.pages.resize_with(page.saturating_add(1), || None);
        }
        let page = self.pages.get_mut(page)?.get_or_insert_with(|| Box::new([0; 512]));
        page.get_mut(to_usize(within.wrapping_shr(6) & 511))
    }

    /// Turns to the next window; `false` if nothing lies behind this one, or that was often enough.
    pub(super) fn turn(&mut self) -> bool {
        if self.next == u64::MAX || self.is_cut() {
            return false;
        }
        self.rounds = self.rounds.saturating_add(1);
        if self.is_cut() {
            return false;
        }
        self.low = std::mem::replace(&mut self.next, u64::MAX);
        self.pages.clear();
        self.crossed = std::mem::take(&mut self.crossing);
        true
    }

    /// How many bytes are taken.
    pub(super) fn taken(&self) -> u64 {
        self.unit.offset_of(self.taken).unwrap_or(u64::MAX)
    }

    /// Whether the rounds did not suffice.
    fn is_cut(&self) -> bool {
        self.rounds >= MOST_ROUNDS
    }

    /// Says so where the rest of the file was not looked at.
    pub(super) fn tell_rest(&self, checking: &Checking) {
        if self.is_cut() {
            let at = self.unit.offset_of(self.next).unwrap_or(u64::MAX);
            let text =
                "what lies here and behind is scattered too far to be held against each other";
            checking.unreadable(Finding::new(Code::Unreadable, text).at(at));
        }
    }
}

/// Finds the largest unit that a number of places are multiples of, but for a common start.
#[derive(Default)]
pub(super) struct Grid {
    first: Option<u64>,
    bits: u64,
}

impl Grid {
    /// The largest unit, as a power of two.
    const MOST: u32 = 30;

    pub(super) fn add(&mut self, start: u64, length: u64) {
        let first = *self.first.get_or_insert(start);
        self.bits |= (start ^ first) | length;
    }

    /// The unit, and where the first one starts.
    pub(super) fn unit(&self) -> (Pow2, u64) {
        let bits = self.bits.trailing_zeros().min(Self::MOST);
        let unit = Pow2::from_bits(bits).unwrap_or(Pow2::PAGE);
        (unit, unit.within(self.first.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn overlaps_are_found_whatever_the_window(
            ranges in proptest::collection::vec((0u64..4_000_000, 1u64..200_000), 1..40),
            far in 0u64..3,
        ) {
            // sixteen pages are the least: half a million units
            let ranges: Vec<_> = ranges
                .into_iter()
                .enumerate()
                .map(|(i, (s, l))| (s + far * (i as u64 % 3) * 10_000_000, l))
                .collect();
            let mut told = vec![0; ranges.len()];
            let mut places = Places::new(Pow2::from_bits(0).unwrap(), 0, 0);
            loop {
                for (index, (start, length)) in ranges.iter().enumerate() {
                    told[index] += u32::from(places.take(*start, *length));
                }
                if !places.turn() { break }
            }
            let meets = |a: &(u64, u64), b: &(u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
            let any = (0..ranges.len()).any(|i| (0..i).any(|j| meets(&ranges[i], &ranges[j])));
            prop_assert_eq!(told.iter().any(|&count| count > 0), any);
            if !any {
                prop_assert_eq!(places.taken(), ranges.iter().map(|range| range.1).sum::<u64>());
            }
            for (index, &count) in told.iter().enumerate() {
                let real = (0..index).any(|other| meets(&ranges[index], &ranges[other]));
                // a thing may reach over a window's end and be met there by what came before it
                prop_assert!(count == 0 || (0..ranges.len()).any(|o| o != index && meets(&ranges[index], &ranges[o])), "{real}");
            }
        }
    }

    #[test]
    fn a_grid_has_the_largest_unit_that_fits() {
        let mut grid = Grid::default();
        for start in [0x10200, 0x30200, 0x20200] {
            grid.add(start, 0x10000);
        }
        assert_eq!(grid.unit(), (Pow2::from_bits(16).unwrap(), 0x200));
        grid.add(0x30400, 0x10000);
        assert_eq!(grid.unit(), (Pow2::from_bits(9).unwrap(), 0));
    }

    #[test]
    fn tables_that_lead_everywhere_end_all_the_same() {
        let mut places = Places::new(Pow2::from_bits(0).unwrap(), 0, 0);
        let mut rounds = 0;
        loop {
            for step in 0..1000u64 {
                assert!(!places.take(step << 40, 1));
            }
            rounds += 1;
            if !places.turn() {
                break;
            }
        }
        assert_eq!(rounds, MOST_ROUNDS);
        let checking = Checking::new();
        places.tell_rest(&checking);
        assert_eq!(checking.into_report().check_errors, 1);
    }
}
