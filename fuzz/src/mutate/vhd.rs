//! VHD: footer and its copy, dynamic header, parent locators, block allocation table.

use super::{Fields, be, put};

const COOKIE: &[u8] = b"conectix";

/// Where the footers are: at the start, and at the end in either length.
fn footers(image: &[u8]) -> impl Iterator<Item = usize> + use<'_> {
    let end = image.len();
    [0, end.saturating_sub(512), end.saturating_sub(511)]
        .into_iter()
        .filter(|&at| image.get(at..).is_some_and(|i| i.starts_with(COOKIE)))
}

/// Where the dynamic headers are that the footers name.
fn headers(image: &[u8]) -> Vec<usize> {
    let named = footers(image).map(|at| be(image, at as u64 + 16, 8));
    let mut headers: Vec<usize> =
        named.filter(|&at| at < image.len() as u64).map(|at| at as usize).collect();
    headers.dedup();
    headers
}

pub(super) fn fields(image: &[u8], fields: &mut Fields) {
    let all: Vec<usize> = footers(image).collect();
    for at in all {
        // Features to Unique Id, then Saved State
        fields.header(at + 8, true, &[4, 4, 8, 4, 4, 4, 4, 8, 8, 2, 1, 1, 4, 4, 8, 8, 1]);
    }
    for at in headers(image) {
        fields.header(at + 8, true, &[8, 8, 4, 4, 4, 4, 8, 8, 4]);
        fields.table(at as u64 + 64, 2, 32, true);
        for locator in 0..8 {
            fields.header(at + 576 + 24 * locator, true, &[4, 4, 4, 4, 8]);
            let (length, place) = (
                be(image, (at + 584 + 24 * locator) as u64, 4),
                be(image, (at + 592 + 24 * locator) as u64, 8),
            );
            fields.table(place, 2, (length / 2).min(64), false);
        }
        let table = be(image, at as u64 + 16, 8);
        let count = be(image, at as u64 + 28, 4);
        fields.table(table, 4, count.min(4096), true);
        // sector bitmaps
        for index in 0..count.min(4) {
            let block = be(image, table.saturating_add(4 * index), 4);
            if block != 0xffff_ffff {
                fields.table(block * 512, 1, 512, true);
            }
        }
    }
}

pub(super) fn fix(image: &mut [u8]) {
    for at in headers(image) {
        seal(image, at, 1024, 36);
    }
    let all: Vec<usize> = footers(image).collect();
    for at in all {
        let length = (image.len() - at).min(512);
        seal(image, at, length, 64);
    }
}

/// The one's complement of the sum of all bytes, those of the checksum left out.
fn seal(image: &mut [u8], at: usize, length: usize, checksum: usize) {
    let Some(bytes) = image.get_mut(at..at + length) else { return };
    put(bytes, checksum, &[0; 4]);
    let sum = bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()));
    put(bytes, checksum, &(!sum).to_be_bytes());
}
