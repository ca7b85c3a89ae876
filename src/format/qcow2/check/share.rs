//! Counting once more all that an L1 table leads to, so that another table can lead to it too.

use crate::check::{Checking, Patch};
use crate::error::Result;

use super::super::Qcow2Layer;
use super::repair::{Flags, Goal, Mender};
use super::stored::Stored;
use super::survey::{L1Table, Survey};
use super::{Exposure, LOOKUP_CACHE, Told};

/// Raises the count of everything that the L1 table at `offset` leads to by one, and then takes the
/// flag COPIED off it. Gives `false`, with nothing written, where a count has no room for that. The
/// image is whole, and stopped in between it is but for flags and leaks.
pub(in super::super) fn share(
    layer: &Qcow2Layer,
    (offset, entries): (u64, u64),
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<bool> {
    let silent = checking.scratch();
    let told = Told::new(&silent);
    let mut survey = Survey::new(layer, &told);
    // the table as it is going to be used is the first one, whose flags are written
    survey.l1_tables.iter_mut().for_each(|table| table.active = false);
    survey.l1_tables.insert(0, L1Table { offset, entries, active: true, uses: 1 });
    let stored = Stored::new(&survey, layer.refcounts(LOOKUP_CACHE));
    let exposure = Exposure { survey: &survey, stored: &stored, checking, refcounts: true };
    let mut fits = true;
    exposure.each_window(None, |picture, _| {
        let end = picture.window.end;
        let mut at = picture.next_used(picture.window.start, end);
        while at < end {
            fits &= picture.count(at) <= stored.largest();
            at = picture.next_used(at.saturating_add(1), end);
        }
        Ok(())
    })?;
    if !fits {
        return Ok(false);
    }
    let mut mender = Mender::new(exposure, patch);
    mender.raise()?;
    mender.flags(Flags::Clear, Goal::Right)?;
    mender.barrier()?;
    Ok(true)
}
