//! VMDK: hosted sparse, COWD and seSparse extents, descriptors and markers.

use super::{Fields, le};

const SECTOR: u64 = 512;

pub(super) fn fields(image: &[u8], fields: &mut Fields) {
    if image.starts_with(b"KDMV") {
        hosted(image, 0, fields);
        markers(image, fields);
        // the footer of a stream
        let footer = (image.len() as u64).saturating_sub(2 * SECTOR);
        if le(image, footer, 4) == 0x564d_444b {
            hosted(image, footer, fields);
        }
    } else if image.starts_with(b"COWD") {
        fields.header(4, false, &[4, 4, 4, 4, 4, 4, 4]);
        fields.header(1648, false, &[4]);
        let directory = le(image, 20, 4) * SECTOR;
        directory_and_tables(image, (directory, le(image, 24, 4), 4096), fields);
    } else if le(image, 0, 8) == 0xcafe_babe {
        se_sparse(image, fields);
    } else {
        // a descriptor may grow a bit: what lies behind is zeros
        fields.texts.push(0..image.len());
    }
}

fn hosted(image: &[u8], at: u64, fields: &mut Fields) {
    // version to overHead, uncleanShutdown, the newline test, compressAlgorithm
    fields.header(at as usize + 4, false, &[4, 4, 8, 8, 8, 8, 4, 8, 8, 8, 1, 1, 1, 1, 1, 2]);
    let number = |offset: u64, width| le(image, at + offset, width);
    let (descriptor, length) = (number(28, 8), number(36, 8));
    if descriptor != 0 && descriptor < 1 << 20 {
        let start = descriptor * SECTOR;
        let end = start.saturating_add(length.min(2048) * SECTOR).min(image.len() as u64);
        if start < end {
            fields.texts.push(start as usize..end as usize);
        }
    }
    let entries = number(44, 4).min(1 << 12);
    let grains = number(12, 8).checked_div(number(20, 8)).unwrap_or(0);
    let tables = grains.div_ceil(entries.max(1)).min(128);
    for directory in [number(48, 8), number(56, 8)] {
        if directory < 1 << 40 {
            directory_and_tables(image, (directory * SECTOR, tables, entries), fields);
        }
    }
}

fn directory_and_tables(
    image: &[u8],
    (start, count, entries): (u64, u64, u64),
    fields: &mut Fields,
) {
    fields.table(start, 4, count.min(128), false);
    for index in 0..count.min(4) {
        let table = le(image, start.saturating_add(4 * index), 4);
        if table != 0 {
            fields.table(table * SECTOR, 4, entries, false);
        }
    }
}

/// Markers and grain headers, walked from the start of the data.
fn markers(image: &[u8], fields: &mut Fields) {
    let flags = le(image, 8, 4);
    if flags & 1 << 17 == 0 {
        return;
    }
    let mut at = le(image, 64, 8).min(1 << 40) * SECTOR;
    for _ in 0..256 {
        if at >= image.len() as u64 {
            break;
        }
        fields.header(at as usize, false, &[8, 4, 4]);
        let (value, size) = (le(image, at, 8), le(image, at + 8, 4));
        let length = match size {
            0 => SECTOR + value.min(1 << 20) * SECTOR,
            size => 12 + size,
        };
        at = (at + length).next_multiple_of(SECTOR);
    }
}

fn se_sparse(image: &[u8], fields: &mut Fields) {
    let number = |index: u64| le(image, 8 * index, 8);
    fields.header(8, false, &[8; 22]);
    let place = |index: u64| number(index).min(1 << 40) * SECTOR;
    // volatile header, grain directory, grain tables
    fields.header(place(11) as usize, false, &[8; 6]);
    let (directory, tables) = (place(17), place(19));
    fields.table(directory, 8, 64, false);
    fields.table(tables, 8, 8192, false);
}
