//! Raw disks: MBR, and the GPT with its two copies.

use super::{Fields, le, put};

const SIGNATURE: &[u8] = b"EFI PART";

/// Where headers are, with the length of a sector.
fn headers(image: &[u8]) -> Vec<(usize, u64)> {
    let mut found = Vec::new();
    for sector in [512usize, 4096] {
        for at in [sector, image.len().saturating_sub(sector)] {
            if image.get(at..).is_some_and(|i| i.starts_with(SIGNATURE)) {
                found.push((at, sector as u64));
            }
        }
    }
    found
}

fn entries(image: &[u8], at: usize, sector: u64) -> (u64, u64, u64) {
    let at = at as u64;
    let start = le(image, at + 72, 8).saturating_mul(sector);
    (start, le(image, at + 80, 4).min(1 << 16), le(image, at + 84, 4).min(1 << 16))
}

pub(super) fn fields(image: &[u8], fields: &mut Fields) {
    for entry in 0..4 {
        fields.header(446 + 16 * entry, false, &[1, 1, 2, 1, 1, 2, 4, 4]);
    }
    fields.header(510, false, &[2]);
    for (at, sector) in headers(image) {
        fields.header(at + 8, false, &[4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 4, 4, 4]);
        let (start, count, size) = entries(image, at, sector);
        for offset in [0, 16, 32, 40, 48] {
            fields.strided(start.saturating_add(offset), 8, count.min(128), size as usize, false);
        }
    }
}

pub(super) fn fix(image: &mut [u8]) {
    for (at, sector) in headers(image) {
        let (start, count, size) = entries(image, at, sector);
        let bytes = usize::try_from(start).ok().and_then(|s| image.get(s..));
        if let Some(bytes) = bytes.and_then(|b| b.get(..(count * size) as usize)) {
            let sum = crc32fast::hash(bytes);
            put(image, at + 88, &sum.to_le_bytes());
        }
        let length = le(image, at as u64 + 12, 4) as usize;
        put(image, at + 16, &[0; 4]);
        if let Some(header) = image.get(at..).and_then(|i| i.get(..length)) {
            let sum = crc32fast::hash(header);
            put(image, at + 16, &sum.to_le_bytes());
        }
    }
}
