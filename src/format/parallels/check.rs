//! Whether an expandable image is whole: its BAT held against the file and against itself.

use byteorder::{ByteOrder, LittleEndian};

use crate::check::Checking;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::{Grid, Places, Sort, pieces};
use crate::num::Pow2;

use super::expandable::{AT_DATA_OFF, AT_EXT_OFF, AT_FLAGS, Expandable, Header};

/// What the BAT says, summed up.
#[derive(Default)]
struct Summary {
    allocated: u64,
    fragmented: u64,
    previous: Option<u64>,
    /// Where the last cluster ends that lies in the file.
    end: u64,
}

pub(super) fn check(image: &Expandable, checking: &Checking) -> Result<()> {
    let (header, file) = (&image.header, image.storage.size());
    check_header(header, checking);
    let cluster = header.cluster();
    let mut grid = Grid::default();
    grid.add(header.data_start(), cluster);
    let (mut invalid, mut beyond) = (Sort::new(checking), Sort::new(checking));
    let mut misaligned = Sort::new(checking);
    let mut found = Summary { end: header.data_start().min(file), ..Summary::default() };
    let bat = header.bat();
    checking.watcher().start(bat.end.saturating_sub(bat.start).saturating_mul(2));
    each(image, checking, |index, entry, at| {
        let name = || format!("BAT entry {index}");
        let place = match header.place(entry) {
            Ok(None) => {
                // qemu-img counts only neighbours of the disk that are none in the file
                found.previous = None;
                return;
            }
            Ok(Some(place)) => place,
            Err(error) => {
                let text = error.to_string();
                invalid.corruption(|| told(Code::InvalidEntry, name(), &text, at));
                return;
            }
        };
        // an entry behind the disk's end is in use all the same, but is no cluster of it
        if index.saturating_mul(header.tracks.into()) < header.sectors {
            found.allocated = found.allocated.saturating_add(1);
            let follows =
                found.previous.is_none_or(|before| before.saturating_add(cluster) == place);
            found.fragmented = found.fragmented.saturating_add(u64::from(!follows));
            found.previous = Some(place);
        }
        let end = place.saturating_add(cluster);
        if end > file {
            let text =
                format!("leads to a cluster that ends at {end:#x}, beyond the end of the file");
            beyond.corruption(|| told(Code::BeyondEnd, name(), &text, at));
        } else {
            grid.add(place, cluster);
            found.end = found.end.max(end);
        }
        let from = place.saturating_sub(header.data_start());
        if from.checked_rem(cluster) != Some(0) {
            let text = "leads between the places where clusters lie";
            misaligned.corruption(|| told(Code::Misaligned, name(), text, at));
        }
    })?;
    let taken = check_places(image, checking, &grid)?;
    let wrong = [&invalid, &beyond, &misaligned].iter().any(|sort| sort.count() > 0);
    let lost = file.saturating_sub(header.data_start()).saturating_sub(taken);
    let lost = lost.checked_div(cluster).unwrap_or_default();
    // what an extension takes up is not known
    if lost > 0 && !wrong && header.ext_off == 0 {
        let text = format!("{lost} clusters of the file are in no entry of the BAT");
        checking.leak(lost, Finding::new(Code::LeakedCluster, text));
    }
    let mut report = checking.report();
    report.total_clusters = Some(u64::from(header.bat_entries));
    report.allocated_clusters = Some(found.allocated);
    report.fragmented_clusters = Some(found.fragmented);
    report.compressed_clusters = Some(0);
    report.image_end_offset = Some(found.end);
    Ok(())
}

/// Finds clusters that are in use twice; gives how many bytes of the file are in use.
fn check_places(image: &Expandable, checking: &Checking, grid: &Grid) -> Result<u64> {
    let (header, cluster, file) = (&image.header, image.header.cluster(), image.storage.size());
    let (unit, phase) = grid.unit();
    let mut places = Places::new(unit, phase, checking.memory());
    let mut shared = Sort::new(checking);
    loop {
        if header.ext_off != 0
            && let Some(start) = Pow2::SECTOR.offset_of(header.ext_off)
            && start.checked_add(cluster).is_some_and(|end| end <= file)
        {
            places.take(start, cluster);
        }
        each(image, checking, |index, entry, at| {
            let Ok(Some(place)) = header.place(entry) else { return };
            if place.saturating_add(cluster) <= file && places.take(place, cluster) {
                let name = format!("BAT entry {index}");
                shared.corruption(|| told(Code::Overlap, name, "leads to a cluster in use", at));
            }
        })?;
        if !places.turn() {
            break;
        }
    }
    places.tell_rest(checking);
    Ok(places.taken())
}

/// Calls `visit` with each entry of the BAT: its number, its value, and where it lies.
fn each(
    image: &Expandable,
    checking: &Checking,
    mut visit: impl FnMut(u64, u32, u64),
) -> Result<()> {
    let mut index: u64 = 0;
    pieces(&image.storage, "the BAT", image.header.bat(), checking, |bytes, at| {
        for (entry, at) in bytes.as_chunks::<4>().0.iter().zip((at..).step_by(4)) {
            visit(index, LittleEndian::read_u32(entry), at);
            index = index.saturating_add(1);
        }
        Ok(())
    })
}

fn check_header(header: &Header, checking: &Checking) {
    let said = Pow2::SECTOR.offset_of(header.data_off.into()).unwrap_or(u64::MAX);
    let behind = header.bat().end;
    let aligned = !header.is_ext || said.checked_rem(header.cluster()) == Some(0);
    let wrong = if said == 0 && !header.is_ext {
        None
    } else if said < behind {
        Some("lies inside of the header and the BAT")
    } else if !aligned {
        Some("is no multiple of the cluster size")
    } else {
        None
    };
    if let Some(text) = wrong {
        let text = format!("the header field data_off is {:#x}, which {text}", header.data_off);
        let finding = Finding::new(Code::InvalidEntry, text).at(AT_DATA_OFF);
        checking.corruption(finding.in_structure("header field data_off"));
    }
    if header.flags & !super::expandable::EMPTY_IMAGE != 0 {
        let text =
            format!("the header field flags is {:#x}, of which bit 0 is known", header.flags);
        checking.note(Finding::new(Code::Unusual, text).at(AT_FLAGS));
    }
    if header.ext_off != 0 {
        let text = "a format extension is in the file: what it takes up is not known";
        checking.note(Finding::new(Code::Unusual, text).at(AT_EXT_OFF));
    }
}

fn told(code: Code, name: String, text: &str, at: u64) -> Finding {
    Finding::new(code, format!("{name} {text}")).at(at).in_structure(name)
}
