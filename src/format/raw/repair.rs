//! What can be mended: a copy of the GPT, from the other one, and the protective MBR where nothing
//! is in its place. The table is the guest's own data: these sectors change, and no others.

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::refuse_rest;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::RawLayer;
use super::check::{Table, find};
use crate::partition::gpt::{
    AT_ALTERNATE_LBA, AT_CHECKSUM, AT_ENTRIES_LBA, AT_MY_LBA, Copy, Gpt, checksum,
};
use crate::partition::mbr;

pub(super) fn repair(
    layer: &RawLayer,
    scope: RepairScope,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<Option<Repaired>> {
    let storage = layer.file();
    let Some(table) = find(storage)? else { return Ok(None) };
    let mut repaired = Repaired::default();
    if let Table::Gpt(gpt) = table
        && scope == RepairScope::All
    {
        repair_gpt(storage, &gpt, patch, &mut repaired)?;
    }
    refuse_rest(layer, checking, &mut repaired)?;
    Ok(Some(repaired))
}

fn repair_gpt(
    storage: &dyn Storage,
    gpt: &Gpt,
    patch: &mut dyn Patch,
    repaired: &mut Repaired,
) -> Result<()> {
    let restored = match (gpt.primary.is_valid(), gpt.backup.is_valid()) {
        (false, true) => Some(restore(storage, gpt, &gpt.backup, &gpt.primary, patch)?),
        (true, false) => Some(restore(storage, gpt, &gpt.primary, &gpt.backup, patch)?),
        _ => None,
    };
    match restored {
        Some(Ok(())) => repaired.corruptions_fixed = 1,
        Some(Err(why)) => {
            let found = Finding::new(Code::CheckError, why).at(gpt.sector.size());
            repaired.refused.push(found.in_structure("GPT header"));
        }
        None => {}
    }
    let valid = gpt.primary.is_valid() || matches!(restored, Some(Ok(())));
    if valid && write_protective(storage, gpt, patch)? {
        repaired.corruptions_fixed = repaired.corruptions_fixed.saturating_add(1);
    }
    Ok(())
}

/// Writes the `damaged` copy anew from the `good` one: the entries first, so that the copy becomes
/// valid with the last write, which is one sector. An error says why that cannot be done.
fn restore(
    storage: &dyn Storage,
    gpt: &Gpt,
    good: &Copy,
    damaged: &Copy,
    patch: &mut dyn Patch,
) -> Result<Result<(), &'static str>> {
    let sector = gpt.sector;
    let Some(header) = &good.header else { return Ok(Err("no copy can be read")) };
    let is_primary = damaged.lba == 1;
    let (entries, _) = good.entries(storage, sector)?;
    let sectors = sector.count(to_u64(entries.len()));
    if damaged.lba > gpt.last_lba {
        return Ok(Err("the disk is cut off before the backup GPT"));
    }
    if good.lba == damaged.lba {
        return Ok(Err("both copies should lie at the same place"));
    }
    // what is not usable by partitions belongs to the tables
    let (first, last) = (header.first_usable_lba, header.last_usable_lba);
    let place = if is_primary { 2 } else { damaged.lba.saturating_sub(sectors) };
    let free = if is_primary {
        place.saturating_add(sectors) <= first && good.lba > last
    } else {
        place > last && damaged.lba > last
    };
    if !free || first > last.saturating_add(1) {
        return Ok(Err("there is no room for its entries beside what partitions may use"));
    }
    let offset = |lba: u64| sector.offset_of(lba).unwrap_or(u64::MAX);
    let name = if is_primary { "primary" } else { "backup" };
    let length = to_usize(sector.offset_of(sectors).unwrap_or_default());
    let mut padded = entries;
    padded.resize(length, 0);
    if read_vec(storage, "the GPT entries", offset(place), length)? != padded {
        patch.write(offset(place), &padded, &format!("restore the entries of the {name} GPT"))?;
        patch.barrier()?;
    }
    let mut bytes = header.bytes.clone();
    put(&mut bytes, AT_MY_LBA, &damaged.lba.to_le_bytes());
    put(&mut bytes, AT_ALTERNATE_LBA, &good.lba.to_le_bytes());
    put(&mut bytes, AT_ENTRIES_LBA, &place.to_le_bytes());
    let sum = checksum(&bytes);
    put(&mut bytes, AT_CHECKSUM, &sum.to_le_bytes());
    bytes.resize(to_usize(sector.size()), 0);
    patch.write(offset(damaged.lba), &bytes, &format!("restore the {name} GPT header"))?;
    patch.barrier()?;
    Ok(Ok(()))
}

/// Writes the protective MBR, if there is none and its place is blank. Boot code before it stays.
fn write_protective(storage: &dyn Storage, gpt: &Gpt, patch: &mut dyn Patch) -> Result<bool> {
    let length = to_usize(mbr::SECTOR.saturating_sub(mbr::AT_ENTRIES));
    let bytes = read_vec(storage, "the first sector", mbr::AT_ENTRIES, length)?;
    if bytes.iter().any(|&byte| byte != 0) {
        return Ok(false);
    }
    // UEFI, table 5.4: from LBA 1 to the end, in cylinders as far as those go
    let sectors = u32::try_from(gpt.last_lba).unwrap_or(u32::MAX);
    let mut table = vec![0; length];
    put(&mut table, 0, &[0, 0, 2, 0, mbr::PROTECTIVE, 0xff, 0xff, 0xff]);
    put(&mut table, 8, &1u32.to_le_bytes());
    put(&mut table, 12, &sectors.to_le_bytes());
    put(&mut table, length.saturating_sub(2), &mbr::SIGNATURE);
    patch.write(mbr::AT_ENTRIES, &table, "write the protective MBR")?;
    patch.barrier()?;
    Ok(true)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let slot = bytes.get_mut(at..at.saturating_add(value.len()));
    slot.unwrap_or_default().copy_from_slice(value);
}
