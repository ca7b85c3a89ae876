//! Whether the partition table of a raw disk makes sense. There is nothing else to check: without a
//! table every content is right.

use crate::check::Checking;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::Format;
use crate::format::probe::{HEAD, probe_bytes};
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, read_vec};

use crate::partition::gpt::{Copy, Gpt, Header, Partition};
use crate::partition::mbr;

/// What the disk has; `None` if it has no table that is known.
pub(super) enum Table {
    Gpt(Box<Gpt>),
    Mbr {
        /// A partition that starts with the disk, as that of a hybrid ISO, may hold the others.
        iso: bool,
    },
}

/// Finds the partition table.
pub(super) fn find(storage: &dyn Storage) -> Result<Option<Table>> {
    if let Some(gpt) = Gpt::find(storage)? {
        return Ok(Some(Table::Gpt(Box::new(gpt))));
    }
    let head = read_vec(storage, "the disk", 0, to_usize(storage.size()).min(HEAD))?;
    let probe = probe_bytes(&head, None);
    let has = |format| probe.matches.iter().any(|m| m.format == format);
    Ok(has(Format::Mbr).then(|| Table::Mbr { iso: has(Format::Iso) }))
}

pub(super) fn check(storage: &dyn Storage, table: &Table, checking: &Checking) -> Result<()> {
    match table {
        Table::Gpt(gpt) => check_gpt(storage, gpt, checking),
        Table::Mbr { iso } => check_mbr(storage, *iso, checking),
    }
}

fn check_gpt(storage: &dyn Storage, gpt: &Gpt, checking: &Checking) -> Result<()> {
    for (copy, other, name) in [
        (&gpt.primary, &gpt.backup, "primary GPT header"),
        (&gpt.backup, &gpt.primary, "backup GPT header"),
    ] {
        if let Some(problem) = &copy.problem {
            let text = format!("the {name} is damaged: {}", problem.text);
            let found = Finding::new(problem.code, text).at(problem.at).in_structure(name);
            let can = other.is_valid() && copy.lba <= gpt.last_lba;
            let fix = "--repair all restores it from the other one";
            checking.corruption(if can { found.fix(fix) } else { found });
        }
    }
    check_protective(storage, checking)?;
    if let (Some(one), Some(two)) = (&gpt.primary.header, &gpt.backup.header)
        && gpt.primary.is_valid()
        && gpt.backup.is_valid()
    {
        let differing = differences(one, two);
        if !differing.is_empty() {
            let text = format!(
                "the primary and the backup GPT are both intact, but differ: {}",
                differing.join(", ")
            );
            let at = gpt.sector.offset_of(gpt.backup.lba).unwrap_or_default();
            let found = Finding::new(Code::CheckError, text).at(at);
            checking.corruption(found.in_structure("backup GPT header"));
        }
    }
    let Some(used) = gpt.used() else { return Ok(()) };
    let Some(header) = &used.header else { return Ok(()) };
    if gpt.primary.is_valid() && header.alternate_lba < gpt.last_lba {
        let text = "the disk goes on behind the backup GPT: it was made larger";
        let at = gpt.sector.offset_of(1).unwrap_or_default().saturating_add(32);
        let found = Finding::new(Code::Unusual, text).at(at);
        checking.note(found.in_structure("primary GPT header"));
    }
    check_usable(gpt, used, header, checking);
    check_partitions(storage, gpt, used, header, checking)
}

fn differences(one: &Header, two: &Header) -> Vec<&'static str> {
    [
        ("AlternateLBA", two.alternate_lba == one.my_lba),
        ("FirstUsableLBA", one.first_usable_lba == two.first_usable_lba),
        ("LastUsableLBA", one.last_usable_lba == two.last_usable_lba),
        ("DiskGUID", one.disk_guid == two.disk_guid),
        ("NumberOfPartitionEntries", one.entry_count == two.entry_count),
        ("SizeOfPartitionEntry", one.entry_size == two.entry_size),
        ("the entries", one.entries_checksum == two.entries_checksum),
    ]
    .into_iter()
    .filter_map(|(name, same)| (!same).then_some(name))
    .collect()
}

/// The partition that keeps programs that do not know GPT away (UEFI, section 5.2.3).
fn check_protective(storage: &dyn Storage, checking: &Checking) -> Result<()> {
    let bytes = read_vec(storage, "the first sector", 0, to_usize(mbr::SECTOR))?;
    let entries = mbr::entries(&bytes, 0, 0);
    let protective = entries.iter().any(|entry| entry.kind == mbr::PROTECTIVE);
    let blank = bytes.get(to_usize(mbr::AT_ENTRIES)..).is_some_and(|b| b.iter().all(|&b| b == 0));
    if !mbr::is_signed(&bytes) || !protective {
        let text = "the protective MBR is missing: programs that do not know GPT see an empty disk";
        let found = Finding::new(Code::InvalidEntry, text).at(mbr::AT_ENTRIES);
        let found = found.in_structure("protective MBR");
        let fix = "--repair all writes it, where nothing is in its place";
        checking.corruption(if blank { found.fix(fix) } else { found });
    } else if entries.len() > 1 {
        let text = "the MBR has partitions beside the protective one";
        let found = Finding::new(Code::Unusual, text).at(mbr::AT_ENTRIES);
        checking.note(found.in_structure("protective MBR"));
    }
    Ok(())
}

fn check_usable(gpt: &Gpt, used: &Copy, header: &Header, checking: &Checking) {
    let start = gpt.sector.offset_of(used.lba).unwrap_or_default();
    let (first, last) = (header.first_usable_lba, header.last_usable_lba);
    let entries = gpt.sector.count(header.entries_length());
    let entries_end = header.entries_lba.saturating_add(entries);
    let is_primary = used.lba == 1;
    let clash = header.entries_lba <= last && first < entries_end;
    let text = if first > last.saturating_add(1) || last > gpt.last_lba {
        format!("the usable LBAs are {first} to {last}, of {} on the disk", gpt.last_lba)
    } else if clash || (is_primary && header.entries_lba < 2) {
        format!(
            "the entries at LBA {} lie upon what is usable, or upon the header",
            header.entries_lba
        )
    } else {
        return;
    };
    let found = Finding::new(Code::InvalidEntry, text).at(start.saturating_add(40));
    checking.corruption(found.in_structure("GPT header"));
}

fn check_partitions(
    storage: &dyn Storage,
    gpt: &Gpt,
    used: &Copy,
    header: &Header,
    checking: &Checking,
) -> Result<()> {
    let mut partitions = used.partitions(storage, gpt.sector)?;
    let found = |code, partition: &Partition, text: &str| {
        let name = format!("GPT entry {}", partition.index);
        Finding::new(code, format!("{name} {text}")).at(partition.at).in_structure(name)
    };
    partitions.retain(|partition| {
        let (first, last) = (partition.first_lba, partition.last_lba);
        let (code, text) = if last < first {
            (Code::InvalidEntry, format!("ends at LBA {last}, before its start at LBA {first}"))
        } else if last > gpt.last_lba {
            (Code::BeyondEnd, format!("ends at LBA {last}, beyond the end of the disk"))
        } else if first < header.first_usable_lba || last > header.last_usable_lba {
            (Code::InvalidEntry, format!("has LBAs {first} to {last}, beyond what is usable"))
        } else {
            return true;
        };
        checking.corruption(found(code, partition, &text));
        // one that ends where it should not may overlap others all the same
        code == Code::BeyondEnd
    });
    let mut guids: Vec<_> = partitions.iter().map(|p| (p.guid, p.index, p.at)).collect();
    guids.sort_unstable();
    for (one, two) in guids.iter().zip(guids.iter().skip(1)) {
        if one.0 == two.0 {
            let text = format!("GPT entry {} has the identifier of entry {}", two.1, one.1);
            let note = Finding::new(Code::Unusual, text).at(two.2);
            checking.note(note.in_structure(format!("GPT entry {}", two.1)));
        }
    }
    partitions.sort_unstable_by_key(|p| (p.first_lba, p.index));
    let mut before: Option<Partition> = None;
    for partition in partitions {
        if let Some(other) = before.filter(|other| partition.first_lba <= other.last_lba) {
            let text = format!("overlaps entry {}", other.index);
            checking.corruption(found(Code::Overlap, &partition, &text));
        }
        if before.is_none_or(|other| other.last_lba < partition.last_lba) {
            before = Some(partition);
        }
    }
    Ok(())
}

fn check_mbr(storage: &dyn Storage, iso: bool, checking: &Checking) -> Result<()> {
    let bytes = read_vec(storage, "the first sector", 0, to_usize(mbr::SECTOR))?;
    let entries = mbr::entries(&bytes, 0, 0);
    if entries.iter().any(|entry| entry.kind == mbr::PROTECTIVE) {
        let text = "the MBR announces a GPT, but neither of its copies is there";
        let found = Finding::new(Code::CheckError, text).at(mbr::SECTOR);
        checking.corruption(found.in_structure("primary GPT header"));
        return Ok(());
    }
    check_entries(storage, &entries, iso, checking);
    for extended in entries.iter().filter(|entry| entry.is_extended()) {
        let mut chain = mbr::Chain::default();
        mbr::follow(storage, Pow2::SECTOR, extended, &mut chain)?;
        if let Some((why, at)) = chain.broken {
            let text = format!("the chain of the extended partition {why}");
            let found = Finding::new(Code::InvalidEntry, text).at(at);
            checking.corruption(found.in_structure("extended partition"));
        }
        check_entries(storage, &chain.logical, false, checking);
        for entry in &chain.logical {
            if entry.start < extended.start || entry.end > extended.end {
                let text = "a logical partition reaches out of the extended one";
                let found = Finding::new(Code::InvalidEntry, text).at(entry.at);
                checking.corruption(found.in_structure("extended partition"));
            }
        }
    }
    Ok(())
}

/// Holds partitions of one kind against the disk and against each other.
fn check_entries(storage: &dyn Storage, entries: &[mbr::Entry], iso: bool, checking: &Checking) {
    let mut sorted = entries.to_vec();
    sorted.sort_unstable_by_key(|entry| (entry.start, entry.at));
    let (mut end, name) = (0u64, "MBR entry");
    for entry in &sorted {
        if entry.end.saturating_mul(mbr::SECTOR) > storage.size() {
            let text =
                format!("a partition ends at sector {}, beyond the end of the disk", entry.end);
            checking
                .corruption(Finding::new(Code::BeyondEnd, text).at(entry.at).in_structure(name));
        }
        if entry.end > entry.start && entry.start < end {
            let text = format!("a partition starts at sector {}, within another one", entry.start);
            let found = |code| Finding::new(code, &text).at(entry.at).in_structure(name);
            if iso {
                checking.note(found(Code::Unusual));
            } else {
                checking.corruption(found(Code::Overlap));
            }
        }
        end = end.max(entry.end);
    }
}
