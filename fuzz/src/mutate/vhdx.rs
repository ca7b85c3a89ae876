//! VHDX: headers, region tables, metadata, block allocation table, log.

use super::{Fields, le, put};

const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGION_TABLES: [usize; 2] = [192 << 10, 256 << 10];
/// The first bytes of the identifiers of the two regions, as they are stored.
const BAT: &[u8] = &[0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6];
const METADATA: &[u8] = &[0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47];

/// Place and length of a region by the first table that names it.
fn region(image: &[u8], wanted: &[u8]) -> Option<(u64, u64)> {
    for table in REGION_TABLES {
        for entry in 0..8 {
            let at = table + 16 + 32 * entry;
            if image.get(at..).is_some_and(|i| i.starts_with(wanted)) {
                return Some((le(image, at as u64 + 16, 8), le(image, at as u64 + 24, 4)));
            }
        }
    }
    None
}

/// Place and length of the log by either header.
fn log(image: &[u8]) -> (u64, u64) {
    let of = |header: usize| (le(image, header as u64 + 72, 8), le(image, header as u64 + 68, 4));
    let first = of(HEADERS[0]);
    if first.0 != 0 { first } else { of(HEADERS[1]) }
}

/// The log's entries: where a sector starts with their signature.
fn log_entries(image: &[u8]) -> Vec<u64> {
    let (start, length) = log(image);
    let end = start.saturating_add(length.min(1 << 20)).min(image.len() as u64);
    let starts = (start..end).step_by(4096);
    { starts }.filter(|&at| image[at as usize..].starts_with(b"loge")).take(32).collect()
}

pub(super) fn fields(image: &[u8], fields: &mut Fields) {
    for header in HEADERS {
        // SequenceNumber, three GUIDs by halves, LogVersion to LogOffset
        fields.header(header + 8, false, &[8, 8, 8, 8, 8, 8, 8, 2, 2, 4, 8]);
    }
    for table in REGION_TABLES {
        fields.header(table + 8, false, &[4]);
        for entry in 0..3 {
            fields.header(table + 16 + 32 * entry, false, &[8, 8, 8, 4, 4]);
        }
    }
    if let Some((start, length)) = region(image, BAT) {
        // a few blocks, and about where the first sector bitmap's entry is
        fields.table(start, 8, (length / 8).min(24), false);
        fields.table(start, 8, (length / 8).min(8192), false);
    }
    if let Some((start, _)) = region(image, METADATA) {
        metadata(image, start, fields);
    }
    for entry in log_entries(image) {
        fields.header(entry as usize + 8, false, &[4, 4, 8, 4, 4, 8, 8, 8, 8]);
        for descriptor in 0..le(image, entry + 24, 4).min(6) {
            let at = entry + 64 + 32 * descriptor;
            fields.header(at as usize, false, &[4, 4, 8, 8, 8]);
        }
    }
}

fn metadata(image: &[u8], start: u64, fields: &mut Fields) {
    if start >= image.len() as u64 {
        return;
    }
    fields.header(start as usize + 8, false, &[2, 2]);
    for entry in 0..le(image, start + 10, 2).min(12) {
        let at = start + 32 * (entry + 1);
        fields.header(at as usize, false, &[8, 8, 4, 4, 4, 4]);
        let item = start.saturating_add(le(image, at + 16, 4));
        let length = le(image, at + 20, 4);
        match length {
            4 | 8 | 16 => drop(fields.header(item as usize, false, &vec![4; length as usize / 4])),
            // a parent locator: its header, its entries, its text
            _ => {
                fields.header(item as usize, false, &[8, 8, 2, 2]);
                for pair in 0..le(image, item.saturating_add(18), 2).min(6) {
                    let at = item.saturating_add(20 + 12 * pair);
                    fields.header(at as usize, false, &[4, 4, 2, 2]);
                }
                fields.table(item.saturating_add(20), 2, (length / 2).min(256), false);
            }
        }
    }
}

pub(super) fn fix(image: &mut [u8]) {
    for header in HEADERS {
        seal(image, header, 4096);
    }
    for table in REGION_TABLES {
        seal(image, table, 65_536);
    }
    let (start, length) = log(image);
    for entry in log_entries(image) {
        let bytes = le(image, entry + 8, 4);
        if entry + bytes <= start.saturating_add(length) {
            seal(image, entry as usize, bytes as usize);
        }
    }
}

/// CRC-32C with the checksum's own bytes as zeros.
fn seal(image: &mut [u8], at: usize, length: usize) {
    let Some(bytes) = image.get_mut(at..).and_then(|i| i.get_mut(..length)) else { return };
    // what is missing altogether stays so
    if bytes.iter().take(4).all(|&b| b == 0) {
        return;
    }
    put(bytes, 4, &[0; 4]);
    let sum = crc32c::crc32c(bytes);
    put(bytes, 4, &sum.to_le_bytes());
}
