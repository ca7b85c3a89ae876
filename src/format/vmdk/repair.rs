//! What can be mended: a grain directory, from the other one.

use std::ops::Range;

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::refuse_rest;
use crate::num::{to_u64, to_usize};

use super::layer::VmdkLayer;
use super::layout::SECTOR;
use super::part::Part;
use super::sparse::{Directory, Grain, Sparse, overlaps};
use super::tables::{Item, directory_value, read_table, table_length, walk};

/// What is to become of an entry of a damaged directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Keep,
    /// The value to write.
    Put(u64),
    /// Both directories say something that makes sense, and not the same.
    Differs,
}

/// Restores the directory that is damaged entry by entry, and where both are, each by the other.
/// An entry is right as soon as it is written, and until all are, the other directory is in use as
/// before.
pub(super) fn repair(
    layer: &VmdkLayer,
    scope: RepairScope,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    if let Some((detail, at)) = layer.damage() {
        let text = format!("there is no other copy of what is damaged: {detail}");
        repaired.refused.push(Finding::new(Code::CheckError, text).at(at));
    }
    if scope == RepairScope::Leaks {
        return Ok(repaired);
    }
    let own = layer.parts().iter().filter(|part| part.reference.is_none());
    for sparse in own.filter_map(Part::sparse) {
        let Some(other) = sparse.redundant() else { continue };
        repair_directory(sparse, other, checking, patch, &mut repaired)?;
    }
    refuse_rest(layer, checking, &mut repaired)?;
    Ok(repaired)
}

/// Mends the directory at `damaged` by the one that is in use.
fn repair_directory(
    sparse: &Sparse,
    damaged: u64,
    checking: &Checking,
    patch: &mut dyn Patch,
    repaired: &mut Repaired,
) -> Result<()> {
    let length = sparse.directory_length();
    let place = damaged..damaged.saturating_add(length);
    let primary = sparse.damaged().is_some();
    let name = if primary { "grain directory" } else { "redundant grain directory" };
    if !may_be_written(sparse, &place) {
        let text = format!("the {name} has no place in the file that it could be written to");
        repaired.refused.push(Finding::new(Code::RedundantCopyDamaged, text).at(damaged));
        return Ok(());
    }
    let tables = tables_behind(sparse, place.end, checking)?;
    let (entry, count) = (sparse.entry_size(), sparse.directory_entries());
    let used = sparse.directory_place();
    let (mut put, mut back, mut differing) = (Vec::new(), Vec::new(), 0u64);
    for index in 0..count {
        let Some(value) = directory_value(sparse, used, index)? else { break };
        match restored(sparse, damaged, &tables, index, value)? {
            Entry::Keep => back.extend(restored_there(sparse, damaged, index, value)?),
            Entry::Put(value) => {
                let old = directory_value(sparse, damaged, index)?.unwrap_or_default();
                put.push((index, value, sparse.decode_directory(old, index).is_err()));
            }
            Entry::Differs => differing = differing.saturating_add(1),
        }
    }
    if differing > 0 {
        let text = format!(
            "the grain directories lead to {differing} tables that differ: which ones are right \
             cannot be told"
        );
        repaired.refused.push(Finding::new(Code::RedundantCopyDamaged, text).at(damaged));
        // then what the one that is in use says of other entries proves nothing either
        return Ok(());
    }
    if !back.is_empty() && !may_be_written(sparse, &(used..used.saturating_add(length))) {
        let text = "the grain directory has no place in the file that it could be written to";
        repaired.refused.push(Finding::new(Code::RedundantCopyDamaged, text).at(used));
        return Ok(());
    }
    // an entry that cannot be keeps the directory out of use until what is missing in it is there
    put.sort_by_key(|&(_, _, broken)| broken);
    let put: Vec<_> = put.into_iter().map(|(index, value, _)| (index, value)).collect();
    for (directory, name, entries) in [(damaged, name, put), (used, "grain directory", back)] {
        let what = format!("restore the {name} from the other one");
        for (index, value) in &entries {
            let at = directory.saturating_add(index.saturating_mul(entry));
            let bytes = value.to_le_bytes();
            patch.write(at, bytes.get(..to_usize(entry)).unwrap_or_default(), &what)?;
        }
        if !entries.is_empty() {
            patch.barrier()?;
            let fixed = if primary { 1 } else { to_u64(entries.len()) };
            repaired.corruptions_fixed = repaired.corruptions_fixed.saturating_add(fixed);
        }
    }
    Ok(())
}

/// What entry number `index` of the directory that is in use should be, where it says `value`: what
/// the other one says, if that makes sense and this does not. Each may be damaged somewhere else.
fn restored_there(
    sparse: &Sparse,
    other: u64,
    index: u64,
    value: u64,
) -> Result<Option<(u64, u64)>> {
    if sparse.decode_directory(value, index).is_ok() {
        return Ok(None);
    }
    let wanted = directory_value(sparse, other, index)?;
    let wanted = wanted.filter(|&wanted| sparse.decode_directory(wanted, index).is_ok());
    Ok(wanted.map(|wanted| (index, wanted)))
}

/// Whether a directory may lie there: in the file, and on nothing else.
fn may_be_written(sparse: &Sparse, place: &Range<u64>) -> bool {
    let size = sparse.storage().size();
    let structures = sparse.reserved().iter().filter(|other| *other != place);
    place.start >= SECTOR
        && place.end <= size
        && !{ structures }.any(|other| overlaps(other, place))
}

/// Where the tables of a directory that ends at `end` lie if they follow it at once, as all
/// writers put them: so many bytes for each. `None` if that room is, or may be, taken by others.
fn tables_behind(sparse: &Sparse, end: u64, checking: &Checking) -> Result<Option<(u64, u64)>> {
    let sectors = |bytes: u64| bytes.div_ceil(SECTOR).saturating_mul(SECTOR);
    let (first, each) = (sectors(end), sectors(table_length(sparse, 0)));
    let room = first..first.saturating_add(each.saturating_mul(sparse.directory_entries()));
    let mut free = room.end <= sparse.storage().size()
        && !sparse.reserved().iter().any(|other| overlaps(other, &room));
    walk(sparse, sparse.directory_place(), checking, u64::MAX, |item| {
        let other = match item {
            Item::Table { index, place, .. } => {
                place..place.saturating_add(table_length(sparse, index))
            }
            Item::Grain { value, .. } => match sparse.decode_grain(value) {
                Ok(Grain::At(start)) => start..start.saturating_add(sparse.grain().size()),
                _ => return Ok(()),
            },
            Item::Directory { .. } => return Ok(()),
        };
        free &= !overlaps(&other, &room);
        Ok(())
    })?;
    Ok(free.then_some((first, each)))
}

/// What entry number `index` of the damaged directory should be, where the other one says `value`.
fn restored(
    sparse: &Sparse,
    damaged: u64,
    tables: &Option<(u64, u64)>,
    index: u64,
    value: u64,
) -> Result<Entry> {
    let Ok(wanted) = sparse.decode_directory(value, index) else { return Ok(Entry::Keep) };
    let old = directory_value(sparse, damaged, index)?.unwrap_or_default();
    let found = sparse.decode_directory(old, index);
    let Directory::Table(place) = wanted else {
        return Ok(match found {
            Ok(found) if found == wanted => Entry::Keep,
            Ok(_) => Entry::Differs,
            Err(_) => Entry::Put(value),
        });
    };
    let bytes = read_table(sparse, index, place)?;
    match found {
        Ok(Directory::Table(other)) if other == place => return Ok(Entry::Keep),
        Ok(Directory::Table(other)) => {
            let same = read_table(sparse, index, other)? == bytes;
            return Ok(if same { Entry::Keep } else { Entry::Differs });
        }
        Ok(Directory::Zero) => return Ok(Entry::Differs),
        // a table that is missing in one of them was lost there
        Ok(Directory::None) | Err(_) => {}
    }
    // its own table, where that is where it should be and says the same; or else the other one's
    if let Some((first, each)) = tables {
        let own = first.saturating_add(each.saturating_mul(index));
        let own_value = own.checked_div(SECTOR).unwrap_or_default();
        if sparse.decode_directory(own_value, index).ok() == Some(Directory::Table(own))
            && read_table(sparse, index, own)? == bytes
        {
            return Ok(Entry::Put(own_value));
        }
    }
    Ok(Entry::Put(value))
}
