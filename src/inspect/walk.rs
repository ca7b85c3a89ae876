//! A walk through the tables of an image: how far its file must reach, and whether its entries
//! make sense. It takes tables in any order, so that it can follow a file that passes by.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::layer::Layer;
use crate::progress::Progress;

use super::passing::Passing;

/// How many pages of tables are looked at: those of 2 TiB of a QCOW2 with the usual clusters.
const MAX_PAGES: u64 = 1 << 12;
/// How many pages of tables are waited for at once, at most.
const MAX_WAITING: usize = 2048;

/// What a walk has found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Where the file must reach for all that its tables speak of.
    pub(super) end: u64,
    /// Whether a table lies beyond the end of the file.
    pub(super) cut_off: bool,
    /// Whether anything is stored compressed.
    pub(super) encoded: bool,
    /// The first entry that makes no sense, and the guest offset it is for.
    pub(super) fault: Option<(u64, Finding)>,
    /// The guest offset from which on nothing was looked at, there being too much.
    pub(super) stopped_at: Option<u64>,
    /// How many pages of tables were not seen, and where in the file the first of them is.
    pub(super) unseen: u64,
    pub(super) first_unseen: Option<u64>,
}

/// A walk at work.
#[derive(Debug, Default)]
pub(super) struct Walk<'p> {
    walked: Walked,
    pages: u64,
    /// Where the guest's bytes go on that nothing was said of yet.
    next: u64,
    /// Ranges of guest bytes by the range of the file that they wait for.
    waiting: BTreeMap<u64, Waiting>,
    /// Who sees how far it is.
    progress: Option<&'p Progress>,
}

#[derive(Debug)]
struct Waiting {
    file: Range<u64>,
    guest: Range<u64>,
}

/// How a look at a piece of the disk ended.
enum Look {
    /// Up to this guest offset, which may lie behind the piece.
    Done(u64),
    /// From this guest offset on, this range of the file is needed.
    Needs(u64, Range<u64>),
}

impl<'p> Walk<'p> {
    /// Walks through all tables of `layer`, which lies in a file that is all there.
    pub(super) fn whole(layer: &dyn Layer, progress: Option<&'p Progress>) -> Result<Walked> {
        let mut walk = Self { progress, ..Self::default() };
        let size = layer.size();
        if let Some(progress) = progress {
            progress.start(size);
        }
        walk.look(layer, 0..size, true, Err)?;
        Ok(walk.walked)
    }

    /// Looks at `guest`, page by page, of which the first `counts` if it did not before. `unread`
    /// tells what an error of the medium means.
    fn look(
        &mut self,
        layer: &dyn Layer,
        guest: Range<u64>,
        mut counts: bool,
        unread: impl Fn(Error) -> Result<Option<Range<u64>>>,
    ) -> Result<Look> {
        let mut at = guest.start;
        while at < guest.end {
            if self.pages >= MAX_PAGES {
                let stopped = self.walked.stopped_at.get_or_insert(at);
                *stopped = at.min(*stopped);
                break;
            }
            self.pages = self.pages.saturating_add(u64::from(counts));
            counts = true;
            let from = at;
            match layer.reach(at) {
                Ok(reach) => {
                    self.walked.end = self.walked.end.max(reach.end);
                    self.walked.encoded |= reach.encoded;
                    at = at.saturating_add(reach.length.max(1));
                }
                Err(error) if error.kind() == ErrorKind::Io => match unread(error)? {
                    Some(range) => return Ok(Look::Needs(at, range)),
                    None => at = behind_page(layer, at),
                },
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    self.note(at, &error);
                    at = behind_page(layer, at);
                }
            }
            if let Some(progress) = self.progress {
                progress.advance(at.min(guest.end).saturating_sub(from));
            }
        }
        Ok(Look::Done(at))
    }

    fn note(&mut self, guest: u64, error: &Error) {
        let at = error.offset().unwrap_or_default();
        if error.is_cut_off() {
            self.walked.cut_off = true;
            return;
        }
        if self.walked.fault.as_ref().is_none_or(|(first, _)| guest < *first) {
            let found = Finding::new(Code::CheckError, error.detail().to_string()).at(at);
            self.walked.fault = Some((guest, found));
        }
    }

    /// Goes on as far as what has passed allows, and has what is needed next kept.
    pub(super) fn advance(&mut self, layer: &dyn Layer, passing: &Passing) {
        let size = layer.size();
        while self.next < size && self.waiting.len() < MAX_WAITING {
            let behind = behind_page(layer, self.next).min(size);
            let guest = self.next..behind;
            match self.look_passing(layer, passing, guest.clone(), true) {
                Look::Needs(at, file) if self.waiting.contains_key(&file.start) => {
                    // a page of the table above: all that follows needs it too
                    self.pages = self.pages.saturating_sub(1);
                    self.next = at;
                    return;
                }
                Look::Needs(at, file) => {
                    self.wait(passing, file, at..guest.end);
                    self.next = guest.end;
                }
                Look::Done(at) => self.next = at.max(guest.end),
            }
            if self.walked.stopped_at.is_some() {
                self.next = size;
            }
        }
    }

    /// Looks at what was waited for and has come.
    pub(super) fn came(&mut self, layer: &dyn Layer, passing: &Passing, file: &Range<u64>) {
        let Some(waiting) = self.waiting.remove(&file.start) else { return };
        let guest = waiting.guest.clone();
        // a page that tells of more than one page below it leads to other tables
        let leads = match self.look_passing(layer, passing, guest.clone(), false) {
            Look::Needs(at, next) => {
                self.wait(passing, next, at..guest.end);
                true
            }
            Look::Done(at) => at > guest.end,
        };
        self.advance(layer, passing);
        if leads {
            // it is asked for again with each of those
            passing.keep(file, true);
        } else {
            passing.forget(file.start);
        }
    }

    /// Whether the range is waited for.
    pub(super) fn waits_for(&self, file: &Range<u64>) -> bool {
        self.waiting.get(&file.start).is_some_and(|waiting| waiting.file.end <= file.end)
    }

    fn look_passing(
        &mut self,
        layer: &dyn Layer,
        passing: &Passing,
        guest: Range<u64>,
        counts: bool,
    ) -> Look {
        let end = guest.end;
        let unread = |_| Ok(passing.missed().ranges.into_iter().next());
        let looked = self.look(layer, guest, counts, unread);
        passing.missed();
        looked.unwrap_or(Look::Done(end))
    }

    fn wait(&mut self, passing: &Passing, file: Range<u64>, guest: Range<u64>) {
        if passing.keep(&file, false) {
            self.waiting.insert(file.start, Waiting { file, guest });
        } else {
            self.lose(&file);
        }
    }

    /// What was waited for is not to be had.
    pub(super) fn lose(&mut self, file: &Range<u64>) {
        self.waiting.remove(&file.start);
        self.walked.unseen = self.walked.unseen.saturating_add(1);
        self.walked.first_unseen.get_or_insert(file.start);
    }

    /// The file has ended, with this size: what was still waited for is beyond it.
    pub(super) fn end(mut self, layer: &dyn Layer, size: u64) -> Walked {
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            if waiting.file.end > size {
                self.walked.cut_off = true;
            } else {
                self.lose(&waiting.file);
            }
        }
        if self.next < layer.size() && !self.walked.cut_off && self.walked.unseen == 0 {
            self.walked.unseen = 1;
        }
        if self.walked.encoded && layer.page_span().is_none() {
            // where compressed data end, such a format tells only of a file that has an end
            self.walked.unseen = self.walked.unseen.max(1);
        }
        self.walked
    }
}

impl Walked {
    /// What it means for a file of `size` bytes.
    pub(super) fn findings(&self, size: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some((_, fault)) = &self.fault {
            findings.push(fault.clone());
        }
        if self.end > size || self.cut_off {
            let text = format!("the file ends at {size:#x}, its tables speak of more");
            findings.push(Finding::new(Code::Truncated, text).at(size));
        }
        if let Some(guest) = self.stopped_at {
            let text = format!("the tables were looked at up to guest offset {guest:#x} only");
            findings.push(Finding::new(Code::NotChecked, text));
        }
        findings
    }
}

/// The guest offset behind what one page of tables maps.
fn behind_page(layer: &dyn Layer, at: u64) -> u64 {
    let span = layer.page_span().unwrap_or(u64::MAX).max(1);
    let start = at.checked_div(span).unwrap_or_default().saturating_mul(span);
    start.saturating_add(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::to_u64;

    #[test]
    fn the_bounds_are_small() {
        let each = to_u64(size_of::<Waiting>() + size_of::<u64>());
        assert!(each * to_u64(MAX_WAITING) < 128 << 10);
    }
}
